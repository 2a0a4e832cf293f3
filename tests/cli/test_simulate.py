"""`zhiyin simulate`: tables, JSON and pictures of policies on simulated users."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.cli.conftest import Command
from zhiyin.cli.line_chart import Line, line_chart_svg, write_line_chart
from zhiyin.core.errors import ConfigError

SMALL = ("--users", "30", "--steps", "12", "--seeds", "2")


def test_a_table_and_a_picture(zhiyin: Command) -> None:
    shown = zhiyin("simulate", *SMALL, "-p", "random", "-p", "linucb:alpha=0.3", "-o", "out/reward.svg")
    header, *rows = [line.split("\t") for line in shown.stdout.strip().splitlines()]
    assert header[:4] == ["policy", "reward", "low", "high"]
    assert [row[0] for row in rows] == ["random", "linucb:alpha=0.3"]
    picture = Path("out/reward.svg").read_text()
    ElementTree.fromstring(picture)  # well formed
    assert "linucb:alpha=0.3" in picture


def test_json_has_intervals_over_seeds(zhiyin: Command) -> None:
    told = zhiyin("simulate", "interest-evolution", *SMALL, "-p", "random", "-p", "myopic", "--json").stdout
    read = json.loads(told)
    assert (read["environment"], read["seeds"]) == ("interest-evolution", 2)
    for row in read["policies"]:
        assert row["reward"]["low"] < row["reward"]["mean"] < row["reward"]["high"]
    again = zhiyin("simulate", "interest-evolution", *SMALL, "-p", "random", "-p", "myopic", "--json").stdout
    assert [row["reward"] for row in json.loads(again)["policies"]] == [row["reward"] for row in read["policies"]]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("music-shop",), "there is no environment 'music-shop'"),
        (("--policy", "linxyz"), "linxyz"),
        (("-o", "picture.pdf"), "ends in .svg"),
        (("--url", "http://127.0.0.1:1", "--key", "k", "-p", "random"), "its placement has the policy"),
        (("--url", "http://127.0.0.1:1"), "no key for the service"),
    ],
)
def test_mistakes_are_told_before_anything_runs(zhiyin: Command, args: tuple[str, ...], message: str) -> None:
    assert message in zhiyin("simulate", *args, code=1).output


def test_a_service_that_is_not_there_is_told(zhiyin: Command) -> None:
    said = zhiyin("simulate", "--url", "http://127.0.0.1:1", "--key", "zy_read_x", "--users", "5", code=1).output
    assert "127.0.0.1:1" in said or "connect" in said.lower()


def test_a_chart_keeps_its_labels_apart(tmp_path: Path) -> None:
    x = np.linspace(0, 10, 5)
    lines = [Line("a <b>", x, x * 0.1), Line("c", x, x * 0.1001, x * 0.09, x * 0.11)]
    svg = line_chart_svg(lines, "Title & more", "x", "y", marks=[(5.0, "here")])
    texts = ElementTree.fromstring(svg).findall("{http://www.w3.org/2000/svg}text")
    ends = {text.text: float(text.attrib["y"]) for text in texts if text.text in ("a <b>", "c")}
    assert abs(ends["a <b>"] - ends["c"]) >= 15
    write_line_chart(tmp_path / "chart.svg", svg)
    assert (tmp_path / "chart.svg").read_text() == svg
    with pytest.raises(ConfigError, match="at least one"):
        line_chart_svg([], "", "", "")
