"""Commands learn from the files and from what the service has heard, and say so."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

pytest.importorskip("sqlalchemy")

from tests.cli.conftest import Command
from zhiyin.models.loading import load
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.store.records import Event
from zhiyin.store.store import Store

T0 = 1_600_000_000_000_000
DAY = 86_400_000_000
WORDS = "and 1,240 events of the store"


@pytest.fixture
def project(zhiyin: Command, log: Path) -> Path:
    zhiyin("init", "events.csv", "--items", "items.csv")
    return log.parent


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Heard: users who are new and like i1 after i0, one item that no file knows."""
    made = Store(tmp_path / "store.db")
    made.append(
        [Event(f"n{n}", f"i{2 * ((n + step) % 10)}", T0 + step * DAY + n) for n in range(310) for step in range(4)]
    )
    made.put("items", {"fresh": {"title": "Fresh"}, "i3": {"title": "Film 3"}})
    made.put("items", {"i3": None})
    yield made
    made.close()


@pytest.mark.parametrize(
    "command",
    [["train", "popular"], ["evaluate", "popular"], ["compare", "popular"], ["tune", "itemknn", "--trials", "1"],
     ["check"]],
)  # fmt: skip
def test_all_read_the_store_and_say_so(zhiyin: Command, project: Path, store: Store, command: list[str]) -> None:
    if command[0] == "tune":
        pytest.importorskip("optuna")
    told = zhiyin(*command).stderr
    assert WORDS in told
    if command[0] not in ("tune", "check"):
        assert "Dataset(1,480 events, 350 users, 21 items" in told


@pytest.mark.parametrize("command", [["train", "popular"], ["evaluate", "popular"], ["compare", "popular"]])
def test_unless_told_not_to(zhiyin: Command, project: Path, store: Store, command: list[str]) -> None:
    told = zhiyin(*command, "--no-store").stderr
    assert "of the store" not in told
    assert "Dataset(240 events, 40 users, 20 items" in told


def test_what_is_trained(zhiyin: Command, project: Path, store: Store) -> None:
    store.forget("u1")
    zhiyin("train", "itemknn")
    known = load(project / "models" / "itemknn")._context()
    assert known.user_ids.encode(["u0", "u1"]).tolist() == [310, -1]
    new, deleted = known.item_ids.encode(["fresh", "i3"])
    assert known.candidates[new]
    assert not known.candidates[deleted]
    titles = dict(pl.read_ipc(project / "models/catalogue/items.arrow").select("id", "title").iter_rows())
    assert titles["fresh"] == "Fresh"
    assert titles["i5"] == "Film 5"


@pytest.mark.slow
def test_a_budget_reads_it_too(zhiyin: Command, project: Path, store: Store) -> None:
    with Bundles(project / "models" / "bundles").training():
        assert "another training is running" in zhiyin("train", "--budget", "3s", code=1).stderr
    assert WORDS in zhiyin("train", "--budget", "3s", "--force").stderr
    bundle = Bundles(project / "models" / "bundles").current
    assert bundle is not None
    assert bundle.manifest["data"]["events"] == 1_480


def test_a_shop_that_begins_with_the_service(zhiyin: Command, tmp_path: Path) -> None:
    (tmp_path / "zhiyin.toml").write_text('[service]\nstore = "kept/shop.db"\n')
    assert "no event log is named" in zhiyin("train", "popular", code=1).stderr
    store = Store(tmp_path / "kept" / "shop.db")
    assert "heard nothing yet" in zhiyin("train", "popular", code=1).stderr
    store.append([Event("a", "x", T0), Event("b", "y", T0 + DAY)])
    told = zhiyin("train", "popular").stderr
    assert "2 events of the store" in told
    assert "files" not in told
    assert "no event log is named" in zhiyin("train", "popular", "--no-store", code=1).stderr
    store.close()


def test_another_store_by_the_environment(
    zhiyin: Command, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Store(tmp_path / "other.db")
    other.append([Event("a", "x", T0)])
    other.close()
    monkeypatch.setenv("ZHIYIN_STORE", str(tmp_path / "other.db"))
    assert "and 1 events of the store" in zhiyin("train", "popular").stderr


def test_without_the_extra(zhiyin: Command, project: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    # The package is imported anew below, which sets the attribute of its parent: that is put back too.
    monkeypatch.setattr(sys.modules["zhiyin"], "store", sys.modules["zhiyin.store"])
    for name in [name for name in sys.modules if name.startswith("zhiyin.store")]:
        monkeypatch.delitem(sys.modules, name)
    told = zhiyin("train", "popular", code=1).stderr
    assert "zhiyin[serve]" in told
    assert "--no-store" in told
    zhiyin("train", "popular", "--no-store")


@pytest.mark.slow
def test_nothing_heavy_without_a_store(project: Path) -> None:
    code = "import sys; from zhiyin.cli.main import app; app(['train', 'popular'], standalone_mode=False); "
    code += "print('sqlalchemy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")


@pytest.mark.slow
def test_as_a_module(project: Path) -> None:
    """`python -m zhiyin` is what the service starts."""
    words: list[Any] = [sys.executable, "-P", "-m", "zhiyin", "versions", "--json"]
    done = subprocess.run(words, cwd=project, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
