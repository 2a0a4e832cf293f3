"""A start by a snapshot of the feature index knows what one without it knows, bit for bit, whatever happened since."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("starlette")
pytest.importorskip("lightgbm")

from zhiyin.data.project_config import ServiceSection
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.service import feature_index_updater
from zhiyin.service.feature_snapshot import FeatureSnapshots
from zhiyin.service.feature_snapshot_process import make_snapshot
from zhiyin.service.key_cache import Keys
from zhiyin.service.serving_state import ServingState
from zhiyin.service.tenant import Tenant
from zhiyin.store.records import Event
from zhiyin.store.store import Store

from . import ranked
from .conftest import client_of, eventually
from .ranked import DAY, TRAINED

FIRST = ranked.log(100).filter(pl.col("time").is_between(TRAINED, TRAINED + 20 * DAY, closed="left"))
LATER = ranked.log(100).filter(pl.col("time") >= TRAINED + 20 * DAY)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranked")
    ranked.trained(folder, ranked.log(100).filter(pl.col("time") < TRAINED)).promote(1)
    return folder


class Shop:
    """A folder of versions and a store, served again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bundles, self.store = folder, Bundles(folder / "bundles"), Store(folder / "store.db")
        self.snapshots = FeatureSnapshots(self.bundles, self.store, {})
        self.path = self.snapshots.path(1)
        self.shown: dict[str, str] = {}

    def add(self, events: pl.DataFrame) -> None:
        self.store.append([Event(**row) for row in events.iter_rows(named=True)])

    def make(self) -> int:
        """Make a snapshot here, as the process does that makes them."""
        self.snapshots.folder.mkdir(exist_ok=True)
        return make_snapshot(self.bundles, 1, self.store, {})

    @contextlib.contextmanager
    def serving(self) -> Iterator[Any]:
        live = ServingState(self.bundles, Store(self.folder / "store.db"))
        keys, shown = Keys.open(live.store)
        self.shown = self.shown or shown
        tenant = Tenant("ranked", live, keys, ServiceSection(budget=60_000))
        tenant.shown = self.shown  # type: ignore[attr-defined]
        try:
            client = client_of(tenant)
            eventually(lambda: knows_all(live), 60)
            yield client
        finally:
            tenant.close()

    def close(self) -> None:
        self.snapshots.close()
        self.store.close()


@pytest.fixture
def shop(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setattr("zhiyin.service.serving_state.POLL_SECONDS", 0.02)
    monkeypatch.setattr(feature_index_updater, "MANY_EVENTS", 100)
    shutil.copytree(home / "bundles", tmp_path / "bundles")
    shop = Shop(tmp_path)
    yield shop
    shop.close()


def knows_all(live: ServingState) -> bool:
    updater = live.index_updater
    assert updater is not None
    return not updater.is_behind and not updater._is_outdated and updater.index.seq == live.store.last_seq


def known(live: ServingState) -> dict[str, Any]:
    """All that an index knows of the log, items by their ids."""
    loaded = live.now.loaded
    with loaded.index.reading() as state:
        recent = state.index.recent.state()
        ends = np.cumsum(recent["counts"])
        ids, found = live.now.ids.raw(np.arange(len(ends))), {}
        for item, (end, n) in enumerate(zip(ends.tolist(), recent["counts"].tolist())):
            if n:
                pool = (recent[name] for name in ("times", "positive", "valued", "value", "kinds"))
                found[str(ids[item])] = [part[end - n : end].tobytes() for part in pool if len(part)]
        return {"items": found, "seq": state.seq, "events": state.events, "latest": state.index.latest}


def expected(shop: Shop) -> dict[str, Any]:
    """What an index knows that was made of the log alone."""
    live = ServingState(shop.bundles, shop.store, watch=False)
    try:
        assert live.snapshots is None
        return known(live)
    finally:
        live.close()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the events that were read of logs, each a page's first."""
    found: list[int] = []
    events = Store.events

    def noted(store: Store, after: int = 0, limit: int = 100_000, names: Any = ("seq",)) -> pl.DataFrame:
        page = events(store, after, limit, names)
        if tuple(names) == feature_index_updater.COLUMNS and len(page):
            found.extend(page["seq"].to_list())
        return page

    monkeypatch.setattr(Store, "events", noted)
    return found


def test_a_restart_reads_the_events_after_the_snapshot_alone(shop: Shop, reads: list[int]) -> None:
    shop.add(FIRST)
    assert shop.make() == len(FIRST)
    shop.add(LATER[:50])
    reads.clear()
    with shop.serving() as client:
        assert reads == list(range(len(FIRST) + 1, len(FIRST) + 51))
        found = known(client.live)
    assert found == expected(shop)
    assert shop.make() == 50, "the next one begins with the one before"
    shop.add(LATER[50:90])
    reads.clear()
    with shop.serving() as client:
        assert len(reads) == 40
        assert known(client.live) == expected(shop)
        # What comes now is written to memory of this process, and not to the file.
        shop.add(LATER[90:])
        eventually(lambda: knows_all(client.live), 60)
        assert known(client.live) == expected(shop)
        with shop.serving() as other:
            assert known(other.live) == known(client.live)


def test_many_events_are_read_by_a_process_of_its_own(shop: Shop, reads: list[int]) -> None:
    shop.add(FIRST)
    with shop.serving() as client:
        assert reads == []
        assert known(client.live) == (of_log := expected(shop))
        assert of_log["events"] == len(FIRST)
        assert client.get("/ready").json().get("set_aside") is None
    assert [path.suffix for path in shop.snapshots.folder.glob("*.*") if path.name != ".making"] == [".idx"]


def test_new_items_and_events_that_wait_for_theirs(shop: Shop) -> None:
    unknown = FIRST[:30].with_columns(item=pl.lit("late"))
    with shop.serving() as client:
        assert client.put("/v1/items/second", json={"price": 1.0}).status_code == 200
        assert client.put("/v1/items/first", json={"price": 1.0}).status_code == 200
    shop.add(pl.concat([FIRST, FIRST[30:60].with_columns(item=pl.lit("second")), unknown]))
    shop.make()
    with shop.serving() as client:
        assert known(client.live) == (before := expected(shop))
        assert "second" in before["items"]
        assert "late" not in before["items"]
        assert client.put("/v1/items/late", json={"price": 2.0}).status_code == 200
        eventually(lambda: "late" in known(client.live)["items"], 60)
        assert known(client.live) == expected(shop)
    shop.make()
    with shop.serving() as client:
        assert known(client.live) == expected(shop)


def test_nothing_of_a_user_who_was_forgotten(shop: Shop) -> None:
    shop.add(FIRST)
    shop.make()
    with shop.serving() as client:
        before = known(client.live)
        assert client.delete("/v1/users/u3").status_code == 200
        eventually(lambda: client.live.index_updater._forget_count == 1 and knows_all(client.live), 60)
        assert known(client.live) == (after := expected(shop)) != before
        assert after["events"] == len(FIRST.filter(pl.col("user") != "u3"))
    with shop.serving() as client:
        assert known(client.live) == after
    shop.store.forget("u4")  # while no service runs
    with shop.serving() as client:
        assert known(client.live) == expected(shop)


def test_events_that_were_deleted_for_their_age(shop: Shop) -> None:
    shop.add(FIRST)
    shop.make()
    shop.add(LATER[:20])
    assert shop.store.drop_events_before(TRAINED + DAY) > 0
    with shop.serving() as client:
        assert known(client.live) == expected(shop)


def test_a_store_that_was_restored_or_replaced(shop: Shop, tmp_path: Path) -> None:
    shop.add(FIRST[:300])
    backup = shop.store.backup(tmp_path / "backup.db")
    shop.add(FIRST[300:])
    shop.make()
    shop.store.close()
    for file in tmp_path.glob("store.db*"):
        file.unlink()
    shutil.copy(backup, tmp_path / "store.db")
    shop.add(LATER[: len(FIRST) - 300])  # the same numbers, other events
    with shop.serving() as client:
        assert known(client.live) == expected(shop)
    shop.make()
    shop.store.close()
    for file in tmp_path.glob("store.db*"):
        file.unlink()
    other = Shop(tmp_path)
    assert other.path != shop.path
    shutil.copy(shop.path, other.path)
    other.add(LATER)
    with other.serving() as client:
        assert known(client.live) == expected(other)
    other.close()


@pytest.mark.parametrize("damage", ["cut", "a byte", "another file", "empty"])
def test_a_damaged_snapshot_is_left_out(shop: Shop, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    shop.add(FIRST)
    shop.make()
    content = bytearray(shop.path.read_bytes())
    if damage == "a byte":
        content[content.index(b"\x00" * 64) // 4_096 * 4_096 + 4_100] ^= 1
    shop.path.write_bytes(
        {"cut": content[: len(content) // 2], "another file": b"x" * 10_000, "empty": b""}.get(damage, content)
    )
    with shop.serving() as client:
        assert known(client.live) == expected(shop)
    assert shop.make() == 0  # it was made again


def test_another_version_does_not_use_it(shop: Shop) -> None:
    shop.add(FIRST)
    shop.make()
    ranked.trained(shop.folder, ranked.log(100).filter(pl.col("time") < TRAINED), 2).promote(2)
    shutil.copy(shop.path, shop.snapshots.path(2))
    with shop.serving() as client:
        assert client.live.now.version == 2
        assert known(client.live) == expected(shop)
    shutil.rmtree(shop.folder / "bundles" / "0001")
    make_snapshot(shop.bundles, 2, shop.store, {})
    assert not shop.path.exists(), "that of a version that is gone goes, too"


@pytest.mark.parametrize("after", [0.0, 0.3, 1.0, 1.5, 2.0, 2.5])
def test_killed_while_it_is_made(shop: Shop, after: float) -> None:
    shop.add(FIRST)
    shop.make()
    shop.add(LATER)
    assert shop.snapshots.make(1)
    process = shop.snapshots._process
    assert process is not None
    time.sleep(after)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (shop.snapshots.folder / f".{shop.path.name}.1.abcd.draft").write_bytes(b"half")
    with shop.serving() as client:
        assert known(client.live) == expected(shop)
    shop.make()
    assert sorted(path.name for path in shop.snapshots.folder.iterdir()) == [".making", shop.path.name]


def test_one_process_at_a_time_makes_them(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    start = FeatureSnapshots._start
    monkeypatch.setattr(
        FeatureSnapshots, "_start", lambda self, version, lock: (started.append(version), start(self, version, lock))[1]
    )
    shop.add(FIRST)
    with shop.serving() as client, shop.serving() as other:
        assert known(client.live) == known(other.live) == expected(shop)
    assert started == [1]


def test_a_folder_that_cannot_be_written(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    (shop.bundles.folder / ".feature-index").write_text("no folder")
    shop.add(FIRST)
    with shop.serving() as client:
        assert known(client.live) == expected(shop)


def test_a_snapshot_is_made_when_many_events_have_come(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SNAPSHOT_EVENTS": 200, "SNAPSHOT_SECONDS": 0.0, "MANY_EVENTS": 100_000}.items():
        monkeypatch.setattr(feature_index_updater, name, value)
    shop.add(FIRST[:100])
    with shop.serving():
        assert not shop.path.exists()
        shop.add(FIRST[100:])
        eventually(shop.path.exists, 60)
    made: Callable[[], int] = shop.make
    assert made() <= len(FIRST) - 200
