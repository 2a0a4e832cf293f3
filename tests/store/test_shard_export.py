"""A store exported in shards: what is read of it is what is read of the store, and another store can load it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest

pytest.importorskip("sqlalchemy")

import zhiyin as zy
from tests.data.thread_group import in_threads
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.shard_files import ShardManifest, shard_folder, shard_numbers
from zhiyin.data.sharded_dataset import gathered_histories, read_shards
from zhiyin.store import parquet_export, shard_export
from zhiyin.store.records import Event
from zhiyin.store.store import Store
from zhiyin.store.training_export import read_snapshot

T0 = 1_700_000_000_000_000


def filled(path: Path) -> Store:
    """90 events of 13 users, some with values; items and users with columns, one of each without events; a hidden and
    a deleted item."""
    store = Store(path)
    kinds = ("view", "buy", "dislike")
    store.append(
        [
            Event(f"u{n % 13}", f"i{n * 7 % 11}", T0 + n // 3 * 1_000_000, kinds[n % 3], n / 2 if n % 4 == 0 else None)
            for n in range(90)
        ]
    )
    store.put("items", {f"i{n}": {"price": n * 1.5, "title": f"thing {n}"} for n in range(12)})
    store.put("items", {"i4": {"price": 2, "hidden": True}, "i5": None})
    store.put("users", {"u1": {"age": 30}, "u99": {"age": 31}})
    return store


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with closing(filled(tmp_path / "a.db")) as opened:
        yield opened


def test_shards_are_read_as_the_store_is(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_export, "ROWS_PER_FILE", 17)
    types = CatalogueSchema(users={"age": "text"})
    store.export(tmp_path / "x", shards=3, types=types)
    for weights in (None, {"buy": 2, "value > 10": 0.5}):
        whole = zy.read(None, snapshot=read_snapshot(store), weights=weights, types=types)
        data = zy.read_shards(tmp_path / "x", weights=weights)
        assert data.fingerprint == whole.fingerprint
        assert data.events.equals(whole.events)
        assert data.items.equals(whole.items)
        assert data.users.equals(whole.users)
        assert data.candidates.tolist() == whole.candidates.tolist()
        assert (data.schema, data.position, data.types) == (whole.schema, whole.position, whole.types)
        assert data.stored is not None
        assert data.stored.all()
        parts = in_threads(2, lambda group, weights=weights: read_shards(tmp_path / "x", weights=weights, group=group))
        together = pl.concat([part.events for part in parts]).sort("user", maintain_order=True)
        assert together.equals(whole.events)
        assert parts[1].position == whole.position
        gathered = in_threads(3, lambda group: gathered_histories(read_shards(tmp_path / "x", group=group)))
        assert gathered[0][1] is not None
        assert gathered[0][1].tolist() == [True] * 90


def test_a_data_set_of_files_and_store_keeps_which_is_which(store: Store, tmp_path: Path) -> None:
    files = pl.DataFrame({"user": ["u1", "visitor"], "item": ["i1", "i2"], "time": [T0 + 5, T0 + 7], "kind": "view"})
    data = zy.read(files, snapshot=read_snapshot(store))
    zy.write_shards(data, tmp_path / "x", 20)  # more shards than users: some are empty
    back = zy.read_shards(tmp_path / "x")
    assert data.stored is not None
    assert back.stored is not None
    assert data.stored.sum() == 90
    assert back.stored.tolist() == data.stored.tolist()
    histories, stored = in_threads(20, lambda group: gathered_histories(read_shards(tmp_path / "x", group=group)))[0]
    assert stored is not None
    assert stored.tolist() == data.stored.tolist()
    assert histories.items.tolist() == data.histories.items.tolist()


def test_the_manifest_tells_of_the_shards_without_their_events(store: Store, tmp_path: Path) -> None:
    manifest = ShardManifest.read(store.export(tmp_path / "x", shards=3))
    users = pl.Series([f"u{n % 13}" for n in range(90)])
    numbers = pl.Series(shard_numbers(users, 3))
    for shard, known in enumerate(manifest.shards):
        mine = users.filter(numbers == shard)
        assert (known.rows, known.users) == (len(mine), mine.n_unique())
        assert sorted(pl.read_parquet(tmp_path / "x" / shard_folder(shard, 3) / "*.parquet")["user"]) == sorted(mine)
    assert manifest.kinds == ("buy", "dislike", "view")


def test_another_store_loads_it(store: Store, tmp_path: Path) -> None:
    store.export(tmp_path / "x", shards=4)
    store.export(tmp_path / "plain")
    with closing(Store(tmp_path / "b.db")) as other, closing(Store(tmp_path / "c.db")) as plain:
        assert other.load(tmp_path / "x") == plain.load(tmp_path / "plain") == 90
        assert other.load(tmp_path / "x") == 0
        for user in ("u0", "u7"):
            assert [e.id for e in other.history(user)] == [e.id for e in plain.history(user)]
        assert other.changes_since("items")[0] == plain.changes_since("items")[0]
        assert other.info()["users"] == plain.info()["users"]


def test_it_is_a_log_for_read_too(store: Store, tmp_path: Path) -> None:
    data = zy.read(store.export(tmp_path / "x", shards=3))
    whole = zy.read(None, snapshot=read_snapshot(store))
    assert data.n_events == 90
    assert data.events.select("user", "item", "time").equals(whole.events.select("user", "item", "time"))
    assert data.items["title"].to_list() == whole.items["title"].to_list()


def test_who_is_forgotten_meanwhile_is_in_no_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_catalogue = shard_export.read_catalogue

    def forget_first(opened: Store) -> Any:
        opened.forget("u3")
        return read_catalogue(opened)

    monkeypatch.setattr(shard_export, "read_catalogue", forget_first)
    folder = store.export(tmp_path / "x", shards=3)
    assert "u3" not in pl.read_parquet(folder / "events/**/*.parquet")["user"]
    assert not any(b"u3" in path.read_bytes() for path in folder.glob("shards/*"))
    whole = zy.read(None, snapshot=read_snapshot(store))
    assert zy.read_shards(folder).events["item"].to_list() == whole.events["item"].to_list()
    assert sum(shard.users for shard in ShardManifest.read(folder).shards) == 12


def test_an_empty_store_has_empty_shards(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "a.db")) as empty:
        folder = empty.export(tmp_path / "x", shards=2)
    data = zy.read_shards(folder)
    assert (data.n_events, data.n_users, data.n_items) == (0, 0, 0)


def test_a_failed_export_leaves_nothing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_export, "write_tables", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.export(tmp_path / "x", shards=2)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == []
