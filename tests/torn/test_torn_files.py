"""Every file that the project appends to or rewrites, cut off at every byte: whoever reads it gets the state from
before or after the write, or an error that names the file and what to do. Never another error, never a wrong state."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.core.test_atomic_files import survives

import zhiyin as zy
from zhiyin.core.atomic_files import write_json
from zhiyin.core.errors import DataError, ZhiyinError
from zhiyin.core.run import Run
from zhiyin.data.catalogue import Catalogue
from zhiyin.data.dataset import Dataset
from zhiyin.evaluation.tuning import tune
from zhiyin.models.loading import load
from zhiyin.models.popularity import Popular
from zhiyin.models.recommender import Recommender
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.testing.recommender import shop

RUN = Run(threads=1, progress=False)
DATA: Dataset = shop()
# Files up to this size are cut at every byte, larger ones at so many places beside their ends.
EVERY, SOME = 400, 8


def cuts(file: Path, every: int = EVERY) -> Iterator[int]:
    """Leave the file with each number of its first bytes in turn, and at the end as it was."""
    whole = file.read_bytes()
    n = len(whole)
    some = {0, 1, 8, n // 2, n - 2, n - 1, *np.linspace(0, n - 1, SOME, dtype=int).tolist()}
    for place in range(n) if n <= every else sorted(some & set(range(n))):
        file.write_bytes(whole[:place])
        yield place
    file.write_bytes(whole)


def answer(act: Callable[[], Any], place: Path) -> Any:
    """What `act` returns, or the text of its error, which must be one for people and name the place."""
    try:
        return act()
    except ZhiyinError as error:
        found, remedy = str(error), error.remedy
    assert remedy, found
    assert str(place) in found
    return found


# -- versions ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions, in use one after the other."""
    bundles = Bundles(tmp_path_factory.mktemp("made") / "bundles")
    for version in (1, 2, 3):
        bundles.write(
            Popular().fit(DATA, RUN), figures={"n": version}, report={"n": version}, catalogue=Catalogue.of(DATA)
        )
        bundles.promote(version, f"why {version}")
    return bundles.folder


@pytest.fixture
def bundles(made: Path, tmp_path: Path) -> Bundles:
    return Bundles(shutil.copytree(made, tmp_path / "bundles"))


@pytest.mark.slow
def test_the_log_of_promotions(bundles: Bundles) -> None:
    log = bundles.folder / "promotions.jsonl"
    whole = log.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for place in cuts(log):
        assert bundles._used()[-1] == 3, place
        if place < last and place % 4:  # of what follows some places are enough
            continue
        if place >= last:  # only the newest line is torn: all is known
            assert bundles._used() == [1, 2, 3], place
            assert bundles.rollback().version == 2
            assert bundles.current is not None
            assert bundles.current.version == 2
            assert bundles.rollback().version == 1, place
        assert answer(bundles.rollback, bundles.folder) is not None
        assert bundles.prune(3) == []
        bundles.promote(3)
        assert bundles._used()[-1] == 3
        assert bundles.promotions()[-1]["version"] == 3
        bundles.folder.joinpath("current").write_text("3\n")
    log.write_bytes(whole[: last + 9])
    (bundles.folder / "0004").mkdir()
    shutil.copy(bundles.folder / "0001" / "bundle.json", bundles.folder / "0004")
    assert bundles.prune(1) == [1]  # 2 and 3 are in use and before, 4 is the newest


def test_the_number_in_use(bundles: Bundles) -> None:
    file = bundles.folder / "current"
    for content in (b"", b"3", b"1", b"x\n", b"-1\n", b"\xff\n", b"3 4\n", b"9" * 5000 + b"\n"):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"current: .*(?s:.*)zhiyin promote"):
            bundles.current  # noqa: B018
        for act in (bundles.rollback, lambda: bundles.prune(1)):
            assert "zhiyin promote" in answer(act, file)
    assert bundles.versions() == [1, 2, 3]
    bundles.promote(2)
    assert bundles.current is not None
    assert bundles.current.version == 2


@pytest.mark.slow
@pytest.mark.parametrize("change", ["promote", "rollback"])
def test_a_process_that_ends_while_it_changes_what_is_in_use(bundles: Bundles, change: str) -> None:
    """Wherever it ends: the version is the old one or the new one, and what was in use before either is known."""

    def after(allowed: list[list[int]]) -> None:
        used = bundles._used()
        assert used in allowed, used
        assert bundles.current is not None
        assert bundles.current.version == used[-1]
        if used != allowed[0]:  # begin anew, with the line that is left
            bundles.folder.joinpath("current").write_text("3\n")
            bundles.folder.joinpath("promotions.jsonl").write_bytes(log)

    log = bundles.folder.joinpath("promotions.jsonl").read_bytes()
    if change == "promote":
        steps = survives(lambda: bundles.promote(2), lambda: after([[1, 2, 3], [1, 2, 3, 2]]))
    else:
        steps = survives(bundles.rollback, lambda: after([[1, 2, 3], [1, 2]]))
    assert steps >= 5


def test_manifests_and_reports(bundles: Bundles) -> None:
    one = bundles.get(1)
    expected = one.report()
    for name, read in (("bundle.json", lambda: bundles.get(1).version), ("report.json", one.report)):
        for place in cuts(one.folder / name):
            found = answer(read, one.folder / name)
            assert found in (1, expected) or name in str(found), (name, place)
            assert answer(lambda: bundles.promote(1), one.folder) is not None
    assert one.report() == expected
    bundles.promote(1)


def test_catalogues(bundles: Bundles) -> None:
    folder = bundles.get(1).folder
    whole = Catalogue.load(folder)
    assert whole is not None
    for file in sorted((folder / "catalogue").iterdir()):
        for place in cuts(file, every=50):
            found = answer(lambda: Catalogue.load(folder), folder)
            if isinstance(found, Catalogue):
                assert found.items.equals(whole.items), (file.name, place)
                assert found.users.equals(whole.users)
                assert found.kinds == whole.kinds


def test_a_catalogue_that_is_replaced_is_never_half_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = Catalogue.of(DATA)
    new = dataclasses.replace(old, items=old.items.with_columns(title=pl.lit("x")), kinds=("other",))
    old.save(tmp_path)
    for name in ("fsync", "rename", "replace"):
        with monkeypatch.context() as patch:

            def fail(*_: Any) -> None:
                raise OSError(28, "No space left on device")

            patch.setattr(os, name, fail)
            patch.setattr("zhiyin.core.atomic_folders._renameat2", lambda: None)
            try:
                new.save(tmp_path)
            except OSError:
                pass
            else:
                assert name == "replace"  # not a step of folders
        found = Catalogue.load(tmp_path)
        assert found is not None
        assert (found.kinds == new.kinds) == ("title" in found.items.columns)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["catalogue"]


# -- models -----------------------------------------------------------------------------------------------------------

MODELS: dict[str, Callable[[], Recommender]] = {
    "popular": Popular,
    "knn": zy.ItemKNN,
    "als": lambda: zy.ALS(factors=4, epochs=1),
    "pipeline": lambda: Pipeline(sources="popular; itemknn", ranker="trees", candidates=10, share=0.2),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "pipeline" else ()) for name in MODELS]
)
def test_models(name: str, tmp_path: Path) -> None:
    model = MODELS[name]().fit(DATA, RUN)
    model.save(tmp_path / "model")
    expected = load(tmp_path / "model").recommend(["u1", "never"], 3).rows()
    for file in sorted(path for path in (tmp_path / "model").rglob("*") if path.is_file()):
        for place in cuts(file, every=0):
            found = answer(lambda: load(tmp_path / "model").recommend(["u1", "never"], 3).rows(), tmp_path)
            assert isinstance(found, str) or found == expected, (file, place)


def test_networks(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    model = zy.SASRec(factors=4, epochs=1, max_len=5, negatives=4).fit(DATA, RUN)
    model.save(tmp_path / "model")
    expected = load(tmp_path / "model").recommend("u1", 3).rows()
    for file in sorted((tmp_path / "model").glob("*.safetensors")):
        for place in cuts(file, every=0):
            found = answer(lambda: load(tmp_path / "model").recommend("u1", 3).rows(), tmp_path)
            assert isinstance(found, str) or found == expected, (file, place)


def test_checkpoints(tmp_path: Path) -> None:
    pytest.importorskip("torch")

    def stop(news: dict[str, Any]) -> None:
        if news.get("epoch") == 2:
            raise KeyboardInterrupt

    run = dataclasses.replace(RUN, checkpoint=tmp_path, checkpoint_every="0.000001s")
    model = zy.SASRec(factors=4, epochs=3, max_len=5, negatives=4, patience=0)
    with pytest.raises(KeyboardInterrupt):
        model.fit(DATA, dataclasses.replace(run, callbacks=(stop,)))
    file = tmp_path / "training.safetensors"
    for place in cuts(file):
        found = answer(lambda: model.fit(DATA, run), file)
        assert isinstance(found, str), place
    assert model.fit(DATA, run).is_fitted


# -- tuning -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["trials.journal", pytest.param("trials.db", marks=pytest.mark.slow)])
def test_trials(name: str, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    file = tmp_path / name
    first = tune("itemknn", DATA, trials=2, storage=file, run=RUN)
    whole = file.read_bytes()
    n = len(whole)
    for place in sorted({0, 1, n // 3, n // 2, n - 40, n - 2, n - 1, n}):
        file.write_bytes(whole[:place])
        found = answer(lambda: tune("itemknn", DATA, trials=3, storage=file, run=RUN), file)
        assert isinstance(found, str) or len(found.trials) >= 3, place
        assert not isinstance(found, str) or name == "trials.db"
        again = answer(lambda: tune("itemknn", DATA, trials=3, storage=file, run=RUN), file)
        assert isinstance(again, type(found)), place
    assert found.value >= first.value


def test_a_journal_damaged_in_the_middle(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    file = tmp_path / "trials.journal"
    tune("itemknn", DATA, trials=1, storage=file, run=RUN)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:2], lines[2][:5] + b"\n", *lines[3:]]))
    assert "cannot be read" in answer(lambda: tune("itemknn", DATA, trials=1, storage=file, run=RUN), file)


# -- the service ------------------------------------------------------------------------------------------------------


def test_what_is_known_of_the_last_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("cronsim")
    from zhiyin.service.retrain import Retrainer

    (tmp_path / "zhiyin.toml").write_text("")
    trainer = Retrainer(tmp_path / "zhiyin.toml", "1y")
    trainer.close()
    file = trainer.bundles.folder / "retrain.json"
    file.parent.mkdir(parents=True)
    whole = {"started": "2026-05-01T03:00:00.000+00:00", "ended": None, "outcome": "kept", "version": 3}
    write_json(file, whole)
    for place in cuts(file):
        assert trainer._last() in ({}, whole), place
        assert trainer.status()["outcome"] in (None, "kept")
    assert trainer._last() == whole
    assert str(file) in caplog.text
    assert caplog.text.count("retrain.json") == 1  # said once, not at every look at the clock


def test_keys_of_an_earlier_version(tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    from zhiyin.service.key_cache import Keys
    from zhiyin.store.store import Store

    file = tmp_path / "keys.json"
    write_json(file, {scope: digit * 64 for scope, digit in (("read", "a"), ("events", "b"), ("admin", "c"))})
    store = Store(tmp_path / "store.db")
    for place in cuts(file):
        keys = Keys.open(store, file, first=False)[0]
        assert len(keys.all()) == 3 or [entry.what for entry in keys.health_issues()] == ["keys.json"], place
        assert file.stat().st_size == place, "a damaged file of keys was replaced"
    assert len(Keys.open(store, file, first=False)[0].all()) == 3
    store.close()


def test_exports_of_a_store(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    from zhiyin.store.records import Event
    from zhiyin.store.store import Store
    from zhiyin.store.traces import Trace

    store = Store(tmp_path / "store.db")
    store.append([Event(f"u{n}", f"i{n}", 10**15 + n, id=f"e{n}") for n in range(50)])
    store.put("items", {"i1": {"title": "One"}})
    store.append_traces([Trace("l1", "u1", 10**15, 1, "home", {"k": 1}, {"a": np.arange(3)})])
    store.append_impression("l1", 10**15, ["i1"])
    store.forget("u7")
    store.export(tmp_path / "out")
    store.backup(tmp_path / "backup.db")
    store.close()
    other = Store(tmp_path / "other.db")
    for file in sorted((tmp_path / "out").rglob("*.parquet")):
        for place in cuts(file, every=0):
            assert isinstance(answer(lambda: other.load(tmp_path / "out"), tmp_path / "out"), str), (file, place)
    other.close()
    again = Store(tmp_path / "again.db")
    assert again.load(tmp_path / "out") == 49
    again.close()


def test_stores_and_their_backups(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    from zhiyin.store.records import Event
    from zhiyin.store.restore import restore
    from zhiyin.store.store import Store

    store = Store(tmp_path / "store.db")
    store.append([Event(f"u{n}", f"i{n}", 10**15 + n, id=f"e{n}") for n in range(50)])
    store.backup(tmp_path / "backup.db")
    store.close()
    whole = (tmp_path / "backup.db").read_bytes()
    for place in (1, 99, 100, 4095, 4096, 8192, len(whole) // 2, len(whole) - 4096, len(whole) - 1):
        torn = tmp_path / "torn.db"
        torn.write_bytes(whole[:place])
        assert isinstance(answer(lambda: restore(tmp_path / "store.db", torn), torn), str), place  # noqa: B023
        with contextlib.suppress(ZhiyinError):
            opened = Store(torn)
            with contextlib.closing(opened):
                opened.history("u1")
                opened.count()
        for rest in tmp_path.glob("torn.db*"):
            rest.unlink()
    kept = Store(tmp_path / "store.db")
    assert kept.count() == 50
    kept.close()


def test_what_was_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zhiyin.data.public_datasets import checksums

    book, file = tmp_path / checksums.CHECKSUMS_FILE, tmp_path / "archive"
    file.write_text("x")
    checksums.verify(file, "https://example.org/a", None, tmp_path)
    whole = json.loads(book.read_text())
    for place in cuts(book):
        found = answer(lambda: checksums.verify(file, "https://example.org/a", None, tmp_path), book)
        assert json.loads(book.read_text()) == whole if found is None else book.stat().st_size == place
