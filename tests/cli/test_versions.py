"""Budgeted training, versions, and lists with filters and reasons, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.cli.conftest import Command
from zhiyin.data.reading import read
from zhiyin.models.popularity import Popular
from zhiyin.pipeline.model_versions import Bundles


@pytest.fixture
def project(zhiyin: Command, log: Path) -> Path:
    zhiyin("init", "events.csv", "--items", "items.csv")
    return log.parent


@pytest.mark.slow
def test_train_within_a_budget_and_use_it(zhiyin: Command, project: Path) -> None:
    assert "no versions" in zhiyin("versions").output
    trained = zhiyin("train", "--budget", "8s", "--force")
    assert "unseen days: ndcg@10" in trained.output
    assert "version 1 is in use" in trained.output
    bundle = project / "models" / "bundles" / "0001"
    assert {"bundle.json", "report.json", "model", "catalogue"} <= {path.name for path in bundle.iterdir()}
    assert not list(bundle.rglob("*.pkl"))
    zhiyin("train", "--budget", "5s", "--force")
    rows = json.loads(zhiyin("versions", "--json").stdout)
    assert [row["version"] for row in rows] == [1, 2]
    different = zhiyin("diff", "1", "2").output
    assert "figures" in different or "settings" in different
    zhiyin("rollback")
    zhiyin("promote", "2")
    assert "no version" in zhiyin("promote", "7", code=1).stderr

    shown = zhiyin("recommend", "u2", "-k", "3").stdout
    assert "Film" in shown
    only = json.loads(zhiyin("recommend", "u2", "-k", "4", "--filter", "title LIKE '%1%'", "--json").stdout)
    assert only
    assert all("1" in row["title"] for row in only)


@pytest.mark.parametrize("content", ["{", '{"format": 1, "files": {}}', '{"format": 1, "files": {}, "figures": 3}'])
def test_a_damaged_version_is_listed_and_the_others_too(zhiyin: Command, tmp_path: Path, content: str) -> None:
    bundles = _two_versions(tmp_path)
    (bundles.folder / "0002" / "bundle.json").write_text(content)
    rows = json.loads(zhiyin("versions", "--json").stdout)
    assert [(row["version"], row["in use"], row["damaged"] is None) for row in rows] == [
        (1, "", True),
        (2, "yes", False),
    ]
    assert "damaged" in zhiyin("versions").stdout.splitlines()[0]
    zhiyin("rollback")
    assert "damaged" not in zhiyin("diff", "1", "1").output
    (bundles.folder / "current").write_text("")
    shown = zhiyin("versions", "--json")
    assert "zhiyin promote VERSION" in shown.stderr
    assert len(json.loads(shown.stdout)) == 2


def test_training_goes_on_without_a_version_in_use_that_is_damaged(tmp_path: Path) -> None:
    from zhiyin.pipeline.training import load_current

    messages: list[str] = []
    bundles = _two_versions(tmp_path)
    assert load_current(bundles)[0] == bundles.get(2)
    (bundles.folder / "0002" / "model" / "model.json").write_text("{")
    assert load_current(bundles, messages.append) == (None, None)
    assert "cannot be used" in messages[0]
    (bundles.folder / "current").write_text("")
    assert load_current(bundles) == (None, None)


def _two_versions(folder: Path) -> Bundles:
    """Two versions of a project, the second in use after the first."""
    (folder / "zhiyin.toml").write_text("")
    bundles = Bundles(folder / "models" / "bundles")
    data = read(pl.DataFrame({"user": ["a", "b"], "item": ["x", "y"]}))
    for _ in range(2):
        bundles.promote(bundles.write(Popular().fit(data), figures={"ndcg@10": 0.5}).version)
    return bundles


def test_reasons_pins_and_variety(zhiyin: Command, project: Path) -> None:
    zhiyin("train", "itemknn")
    said = json.loads(zhiyin("recommend", "u2", "-k", "5", "--explain", "--json", "--pin", "2=i3").stdout)[0]
    assert said["user"] == "u2"
    assert said["items"][1]["item"] == "i3"
    assert all(row["sentence"].endswith(".") for row in said["items"])
    assert {row["rule"] for row in said["removed"]} <= {"seen"}
    chinese = zhiyin("recommend", "u2", "-k", "2", "--explain", "--language", "zh").stdout
    assert "。" in chinese
    everyone = zhiyin("recommend", "--all", "-k", "3", "--filter", "title <> 'Film 3'", "--json").stdout
    assert "i3" not in {row["item"] for row in json.loads(everyone)}
    text = (project / "zhiyin.toml").read_text()
    (project / "zhiyin.toml").write_text(text.replace("[rules]", "[rules]\nfilter = \"title <> 'Film 5'\""))
    house = json.loads(zhiyin("recommend", "--all", "-k", "5", "--json").stdout)
    assert "i5" not in {row["item"] for row in house}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--filter", "titel = 'a'"], "title"),
        (["--filter", "title = "], "expression"),
        (["--pin", "x"], "slot"),
        (["--context", "device"], "device=tv"),
        (["--diversity", "mrm"], "mmr"),
        (["--variety", "mrm"], "mmr"),
    ],
)
def test_what_cannot_be_asked(zhiyin: Command, project: Path, options: list[str], words: str) -> None:
    if not (project / "models").exists():
        zhiyin("train", "popular")
    assert words in zhiyin("recommend", "u2", *options, code=1).stderr


def test_rules_that_cannot_be_name_the_file(zhiyin: Command, project: Path) -> None:
    zhiyin("train", "popular")
    text = (project / "zhiyin.toml").read_text()
    (project / "zhiyin.toml").write_text(text.replace("[rules]", '[rules]\nfiltr = "1"'))
    wrong = zhiyin("recommend", "u2", code=1).stderr
    assert "zhiyin.toml" in wrong
    assert "filter" in wrong


@pytest.mark.slow
def test_what_is_in_use_learns_anew_where_the_new_version_may_not_replace_it(
    zhiyin: Command, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    from zhiyin.pipeline import training as module

    first = zhiyin("train", "--budget", "8s").output
    assert "version 1 is in use" in first  # of a small shop, and the first
    with (project / "events.csv").open("a") as log:
        log.writelines(f"u{u},i{u % 20},{1_600_600_000 + u}\n" for u in range(40))
    real = module.decide_promotion

    def refusing(*args: Any, **named: Any) -> Any:
        verdict = real(*args, **named)
        return dataclasses.replace(verdict, passed=verdict.first)

    monkeypatch.setattr(module, "decide_promotion", refusing)
    said = zhiyin("train", "--budget", "8s", "--json")
    told = json.loads(said.stdout)
    assert (told["version"], told["promoted"], told["refitted"]) == (2, False, 3)
    assert "version 2" in said.stderr
    assert "NOT in use" in said.stderr
    assert "version 3 is in use: it is version 1, learned anew" in said.stderr
    reports = [json.loads((project / f"models/bundles/000{n}/report.json").read_text()) for n in (1, 2, 3)]
    assert reports[2]["pipeline"]["choices"] == reports[0]["pipeline"]["choices"]
    assert "version 1, learned anew, for version 2 did not pass" in reports[2]["judged"]["why"]
    windows = [json.loads((project / f"models/bundles/000{n}/bundle.json").read_text())["data"] for n in (1, 2, 3)]
    assert windows[2] == windows[1] != windows[0]


@pytest.mark.slow
def test_one_user_who_reloads_one_item_stops_neither_training_nor_evaluation(
    zhiyin: Command, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = 1_600_000_000 + 86_400 * 6
    with (project / "events.csv").open("a") as log:
        log.writelines(f"u1,i1,{start + 60 * n}\n" for n in range(300))
    said = zhiyin("train", "--budget", "5s").output
    assert "'u1' made 108 of the 108 events" in said
    assert "unseen days: the last 20% of the events could judge 0 users only" in said
    assert "version 1 is in use" in said
    assert "the test part begins earlier" in zhiyin("evaluate", "popular").output

    # Where nobody can be judged by any cut, the version is kept and says so; only by force is it used.
    from zhiyin.core.errors import DataError
    from zhiyin.pipeline import training as module

    def refusing(*args: Any) -> Any:
        raise DataError("one side of the split is empty")

    monkeypatch.setattr(module, "gate_split", refusing)
    said = zhiyin("train", "--budget", "5s").output
    assert "version 2 kept" in said
    assert "it is NOT in use: nobody could be judged" in said
    assert "version 3 is in use" in zhiyin("train", "--budget", "5s", "--force").output
    report = json.loads((project / "models/bundles/0003/report.json").read_text())
    assert report["judged"]["why"] == "not judged: one side of the split is empty"


def test_who_was_forgotten_gets_a_strangers_list_on_the_command_line_too(zhiyin: Command, project: Path) -> None:
    pytest.importorskip("sqlalchemy")
    from zhiyin.cli.project import open_project, opened_store

    with opened_store(open_project(project / "zhiyin.toml"), create=True):
        pass
    zhiyin("train", "popular", "itemknn")
    model = ("--model", "models/itemknn")
    before = json.loads(zhiyin("recommend", "u1", *model, "--json").stdout)
    stranger = json.loads(zhiyin("recommend", "nobody", *model, "--json").stdout)
    lists = [[row["item"] for row in rows] for rows in (before, stranger)]
    assert lists[0] != lists[1]
    zhiyin("forget", "u1", "--yes")
    after = zhiyin("recommend", "u1", *model, "--json")
    assert [row["item"] for row in json.loads(after.stdout)] == lists[1]
    assert "forgotten since the model was made: 1 users" in after.stderr
    everyone = {row["user"] for row in json.loads(zhiyin("recommend", "--all", *model, "--json").stdout)}
    assert "u1" not in everyone
    assert "u2" in everyone
