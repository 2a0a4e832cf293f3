"""The commands from first look to recommendations, on a log whose right answers are known."""

from __future__ import annotations

import json
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from tests.cli.conftest import Command

COMMANDS = [
    "init",
    "check",
    "data",
    "train",
    "evaluate",
    "compare",
    "tune",
    "recommend",
    "predict",
    "similar",
    "sessions",
    "versions",
    "promote",
    "rollback",
    "diff",
    "whatif",
    "serve",
    "experiment",
    "campaign",
    "key",
    "policy",
    "forget",
    "store",
    "stream",
    "export",
    "simulate",
    "demo",
    "doctor",
]


def test_help_lists_every_command(zhiyin: Command) -> None:
    shown = zhiyin("--help").stdout
    assert [line.split()[0] for line in shown.split("Commands:")[1].split("\n\n")[0].strip().splitlines()] == COMMANDS
    assert "Exit codes" in shown


GROUPS = {
    "data": ["data list", "data get"],
    "campaign": ["campaign add", "campaign list", "campaign show", "campaign pause", "campaign remove"],
    "experiment": ["experiment list", "experiment status", "experiment stop"],
    "key": ["key add", "key list", "key revoke"],
    "policy": [
        f"policy {name}" for name in ("list", "show", "promote", "rollback", "freeze", "unfreeze", "kill", "revive")
    ],
    "store": [
        "store info",
        "store export",
        "store load",
        "store backup",
        "store restore",
        "store drop",
        "store stream",
    ],
    "stream": ["stream start", "stream status", "stream stop", "stream sql", "stream load"],
}


@pytest.mark.parametrize("command", [one for name in COMMANDS for one in GROUPS.get(name, [name])])
def test_every_command_shows_examples(zhiyin: Command, command: str) -> None:
    assert f"Examples:\n    zhiyin {command}" in zhiyin(*command.split(), "--help").stdout


@pytest.mark.slow
def test_from_init_to_similar(zhiyin: Command, log: Path) -> None:
    said = zhiyin("init")
    assert "user = user_id" in said.stderr
    assert "next: zhiyin check" in said.stderr
    settings = tomllib.loads(Path("zhiyin.toml").read_text())
    assert settings["data"] == {"source": "events.csv", "items": "items.csv"}
    assert settings["columns"] == {"user": "user_id", "item": "item_id", "time": "timestamp"}
    checked = json.loads(zhiyin("check", "--json").stdout)
    assert checked["events"] == 240
    zhiyin("train", "ease", "als:factors=4", "-p", "reg=3")
    manifest = json.loads(Path("models/als/model.json").read_text())
    assert (manifest["settings"]["factors"], manifest["settings"]["reg"]) == (4, 3.0)
    lists = json.loads(zhiyin("recommend", "u0", "u1", "-k", "3", "--json").stdout)
    assert [row["rank"] for row in lists] == [1, 2, 3] * 2
    assert {int(row["item"][1:]) % 2 for row in lists[:3]} == {0}
    assert lists[0]["title"] == f"Film {lists[0]['item'][1:]}"
    near = zhiyin("similar", "i3", "-k", "2", "--model", "models/als").stdout.splitlines()
    assert near[0].split("\t") == ["item", "similar", "title", "score", "rank"]
    assert all(int(line.split("\t")[1][1:]) % 2 for line in near[1:])


@pytest.mark.slow
def test_evaluate_writes_report_and_json(zhiyin: Command, log: Path) -> None:
    zhiyin("init")
    printed = json.loads(zhiyin("evaluate", "ease", "--json", "--output", "out").stdout)
    assert printed == json.loads(Path("out/evaluation.json").read_text())
    assert {"EASE", "Random", "Popular"} <= {model["name"] for model in printed["models"]}
    assert Path("out/report.html").stat().st_size > 1e6
    assert "split: " in zhiyin("evaluate", "ease").stderr


def test_lists_for_a_visitor_and_for_all(zhiyin: Command, log: Path) -> None:
    zhiyin("init")
    zhiyin("train", "ease")
    visitor = json.loads(zhiyin("recommend", "--history", "i0,i2", "--allow", "i4,i5", "--json").stdout)
    assert [row["item"] for row in visitor] == ["i4", "i5"]
    denied = json.loads(zhiyin("recommend", "u0", "--deny", "i4,i6", "-k", "20", "--json").stdout)
    assert not {"i4", "i6"} & {row["item"] for row in denied}
    # The shown names of --allow, --deny and --variety.
    chosen = ["recommend", "--history", "i0,i2", "--json"]
    assert json.loads(zhiyin(*chosen, "--include", "i4,i5").stdout) == visitor
    assert json.loads(zhiyin("recommend", "u0", "--exclude", "i4,i6", "-k", "20", "--json").stdout) == denied
    for name in ("--diversity", "--variety"):  # such a model knows no categories
        assert "nothing to spread lists over" in zhiyin(*chosen, name, "mmr", code=1).stderr
        assert json.loads(zhiyin(*chosen, name, "none", "-k", "1").stdout)
    assert "earlier name of --include" in zhiyin(*chosen, "--allow", "i4", "--include", "i5", code=1).stderr
    options = zhiyin("recommend", "--help").stdout
    assert all(name in options for name in ("--include", "--exclude", "--diversity"))
    assert not any(name in options for name in ("--allow", "--deny", "--variety"))
    zhiyin("recommend", "--all", "-k", "2", "--output", "lists.csv")
    assert len(Path("lists.csv").read_text().splitlines()) == 81
    assert "not known" in zhiyin("recommend", "nobody").stderr


def test_a_hyperparameter_goes_from_file_to_manifest(zhiyin: Command, log: Path) -> None:
    zhiyin("init")
    text = Path("zhiyin.toml").read_text().replace("[models.EASE]", "[models.EASE]\nreg = 17.5")
    Path("zhiyin.toml").write_text(text)
    told = json.loads(zhiyin("train", "ease", "--json").stdout)
    assert told[0]["settings"] == json.loads(Path("models/ease/model.json").read_text())["settings"]
    assert told[0]["settings"]["reg"] == 17.5
    assert json.loads(zhiyin("train", "ease:reg=3", "--json").stdout)[0]["settings"]["reg"] == 3.0


def test_bad_rows_go_to_quarantine(zhiyin: Command, log: Path) -> None:
    log.write_text(log.read_text() + "u1,,1600000000\n")
    zhiyin("init")
    assert zhiyin("check").stdout.startswith("severity\t")
    assert "item is missing" in Path("quarantine.csv").read_text()
    assert "line 242" in zhiyin("check", "--strict", code=1).stderr


def test_doctor_and_data_list(zhiyin: Command) -> None:
    assert {"python", "blas", "gpu", "extra report"} <= set(json.loads(zhiyin("doctor", "--json").stdout))
    assert "movielens-100k" in zhiyin("data", "list").stdout


def test_ctrl_c_is_clean(zhiyin: Command, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("zhiyin.cli.doctor.environment_facts", interrupt)
    assert "interrupted" in zhiyin("doctor", code=130).stderr


def test_ctrl_c_during_imports_is_clean(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from zhiyin import __main__ as script

    class Interrupting:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "zhiyin.cli.main":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "zhiyin.cli.main")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 130
    assert "interrupted" in capsys.readouterr().err


def test_an_error_of_the_system_is_one_line(zhiyin: Command, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zhiyin("init")
    assert "Error: /proc/shards" in zhiyin("data", "shards", "/proc/shards", "--shards", "2", code=1).stderr

    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device (os error 28)")  # as Polars raises it

    monkeypatch.setattr("zhiyin.cli.doctor.environment_facts", full)
    assert zhiyin("doctor", code=1).stderr == "Error: No space left on device (os error 28)\n"


def test_ids_in_hints_are_quoted(zhiyin: Command, tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("user,item\n" + "".join(f"a'b c,i{n}\na'b c,i{n}\n" for n in range(9)))
    zhiyin("init")
    hint = next(line for line in zhiyin("train", "popular").stderr.splitlines() if "zhiyin recommend" in line)
    command = shlex.split(hint.partition("or ")[2])
    assert command[:3] == ["zhiyin", "recommend", "a'b c"]
