"""Shards on the command line: written of a project's data or of its store, and trained on by one process."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from zhiyin.models.loading import load
from zhiyin.models.shards import read_shards
from zhiyin.pipeline.model_versions import Bundles


@pytest.fixture
def project(zhiyin: Command, log: Path) -> Path:
    zhiyin("init", "events.csv", "--items", "items.csv")
    return log.parent


def test_a_model_of_shards_is_a_model_of_the_log(zhiyin: Command, project: Path) -> None:
    said = zhiyin("data", "shards", "shards", "--shards", "3").stderr
    assert "shards holds 3 shards" in said
    done = json.loads(zhiyin("train", "itemknn", "--shards", "shards", "--output", "a", "--json").stdout)
    zhiyin("train", "itemknn", "--output", "b")
    assert done[0]["path"] == "a/itemknn"
    of_shards, of_log = load(project / "a/itemknn"), load(project / "b/itemknn")
    assert of_shards.recommend(k=3).equals(of_log.recommend(k=3))
    listed = zhiyin("recommend", "u3", "--model", "a/itemknn", "-k", "2").stdout
    assert "Film" in listed  # the catalogue beside it


def test_shards_are_replaced_on_demand_only(zhiyin: Command, project: Path) -> None:
    zhiyin("data", "shards", "x", "--shards", "2")
    assert "there is something already" in zhiyin("data", "shards", "x", "--shards", "3", code=1).stderr
    zhiyin("data", "shards", "x", "--shards", "3", "--force")
    assert (project / "x/events/shard-00002-of-00003").is_dir()
    assert not (project / "x/events/shard-00001-of-00002").exists()


def test_a_version_is_kept_and_put_in_use(zhiyin: Command, project: Path) -> None:
    zhiyin("data", "shards", "x", "--shards", "2")
    said = zhiyin("train", "popular", "--shards", "x", "--as-version").stderr
    assert "kept as version 1, which no gate has judged; put it in use: zhiyin promote 1" in said
    zhiyin("promote", "1")
    current = Bundles(project / "models" / "bundles").current
    assert current is not None
    current.verify()
    assert current.load().recommend("u1", k=2).height == 2
    assert "Film" in zhiyin("recommend", "u1", "-k", "2").stdout


def test_an_export_of_the_store_is_trained_on(zhiyin: Command, tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    from zhiyin.service.loaded_version import LoadedVersion
    from zhiyin.store.records import Event
    from zhiyin.store.store import Store

    (tmp_path / "zhiyin.toml").write_text("[weights]\nview = 1\nbuy = 4\n")
    with closing(Store(tmp_path / "store.db")) as store:
        events = [Event(f"u{n % 9}", f"i{n % 5}", 1_700_000_000_000_000 + n, ("view", "buy")[n % 2]) for n in range(60)]
        store.append(events)
    assert "the events in 2 shards" in zhiyin("store", "export", "x", "--shards", "2").stderr
    zhiyin("train", "popular", "--shards", "x", "--as-version")
    with closing(Store(tmp_path / "store.db")) as store:  # what serves it knows that it has learned the store's events
        served = LoadedVersion(Bundles(tmp_path / "models/bundles").get(1), {}, {}, store)
        assert served.learned_seq == 60
        events = store.history("u1")
        items = served.context.item_ids.encode([event.item for event in events])
        assert len(items)
        assert len(served.new_events(served.learned_user_code("u1", 0), events, items)) == 0
    model = load(tmp_path / "models/popular")
    assert model.context_.schema is not None
    assert [(rule.text, rule.weight) for rule in model.context_.schema.rules] == [("view", 1.0), ("buy", 4.0)]
    assert read_shards(tmp_path / "x").n_events == 60
    assert "shards = 0" in zhiyin("store", "export", "y", "--shards", "0", code=1).stderr
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "als", "--shards", "nowhere"), "this folder holds no shards"),
        (("train", "--shards", "x", "--budget", "5s"), "--shards fits named models"),
        (("train", "als", "--as-version"), "--as-version is of --shards"),
        (("train", "als", "popular", "--shards", "x", "--as-version"), "--as-version keeps one model"),
        (("train", "alz", "--shards", "x"), "alz"),
        (("data", "shards", "x", "--shards", "9999"), "shards"),
    ],
)
def test_mistakes_say_what_to_do(zhiyin: Command, project: Path, arguments: tuple[str, ...], message: str) -> None:
    shown = zhiyin(*arguments, code=1).stderr
    assert message in shown
    assert shown.count("Error:") == 1
