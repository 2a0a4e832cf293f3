"""`zhiyin forget` and `zhiyin store` on a small store, as they are typed."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

pytest.importorskip("sqlalchemy")

from tests.cli.conftest import Command
from zhiyin.store.column_types import stored_types
from zhiyin.store.records import Event
from zhiyin.store.store import Store
from zhiyin.store.traces import Trace

T0 = 1_700_000_000_000_000
DAY = 86_400_000_000


@pytest.fixture
def kept(zhiyin: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose store's address comes from the environment. alice: an old and a new event; bob: one."""
    monkeypatch.setenv("SHOP_STORE", "data/shop.db")
    (tmp_path / "zhiyin.toml").write_text('[service]\nstore = "${SHOP_STORE}"\n')
    store = Store(tmp_path / "data" / "shop.db")
    now = time.time_ns() // 1000
    store.append([Event("alice", "a", now - 500 * DAY), Event("alice", "b", now - DAY), Event("bob", "a", now - DAY)])
    store.put("users", {"alice": {"age": 30}})
    store.append_traces([Trace("l1", "alice", now - DAY, 1, "home", {"k": 2})])
    store.append_impression("l1", now, ["a"])
    store.close()
    return tmp_path / "data" / "shop.db"


def test_what_is_in_it(zhiyin: Command, kept: Path) -> None:
    found = json.loads(zhiyin("store", "info", "--json").stdout)
    assert [found[name] for name in ("events", "users", "lists", "impressions", "forgotten")] == [3, 1, 1, 1, 0]
    assert found["first event"] < found["last event"]
    assert "lists\t1" in zhiyin("store", "info").stdout


def test_a_user_is_forgotten(zhiyin: Command, kept: Path) -> None:
    assert "nothing was removed" in zhiyin("forget", "alice", code=1).stderr
    shown = zhiyin("forget", "alice", "--yes")
    assert "events\t2\t0" in shown.stdout
    assert "lists\t1\t0" in shown.stdout
    assert "next training" in shown.stderr
    again = json.loads(zhiyin("forget", "alice", "--yes", "--json").stdout)
    assert set(again["proof"].values()) == {0}
    assert json.loads(zhiyin("store", "info", "--json").stdout)["events"] == 1


def test_out_and_in_again(zhiyin: Command, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zhiyin("store", "export", "out")
    assert "already" in zhiyin("store", "export", "out", code=1).stderr
    zhiyin("store", "export", "out", "--force")
    monkeypatch.setenv("SHOP_STORE", f"sqlite:///{tmp_path / 'other.db'}")
    assert "no store yet" in zhiyin("store", "info", code=1).stderr
    assert "3 new events" in zhiyin("store", "load", "out").stderr
    assert "0 new events" in zhiyin("store", "load", "out").stderr
    found = json.loads(zhiyin("store", "info", "--json").stdout)
    assert [found[name] for name in ("events", "users", "lists", "impressions")] == [3, 1, 1, 1]


def test_backed_up_and_restored(zhiyin: Command, kept: Path, tmp_path: Path) -> None:
    zhiyin("store", "backup", "copy.db")
    zhiyin("forget", "bob", "--yes")
    store = Store(kept)
    store.append([Event("carol", "z", T0 + 1)])
    assert "another process" in zhiyin("store", "restore", "copy.db", code=1).stderr
    assert store.append([Event("carol", "y", T0 + 2)]) == [True]
    store.close()
    said = zhiyin("store", "restore", "copy.db").stderr
    assert "before-restore" in said
    assert "1 users who were forgotten" in said
    store = Store(kept)
    assert [len(store.history(user)) for user in ("alice", "bob", "carol")] == [2, 0, 0]
    assert store.forgotten_at("bob") > 0
    restored = store.identity
    store.close()
    old = Store(kept.with_name("shop.db.before-restore"))
    assert len(old.history("carol")) == 2
    assert old.identity != restored  # the same numbers will be given to other events
    old.close()
    zhiyin("store", "restore", "copy.db")
    assert kept.with_name("shop.db.before-restore.2").exists()
    assert not list(kept.parent.glob("*restoring*"))


def test_a_damaged_store_is_restored(zhiyin: Command, kept: Path) -> None:
    zhiyin("store", "backup", "copy.db")
    kept.write_bytes(b"not a database" * 1000)
    zhiyin("store", "restore", "copy.db")
    assert json.loads(zhiyin("store", "info", "--json").stdout)["events"] == 3


def test_a_backup_whose_rows_do_not_fit_is_restored_by_force_alone(zhiyin: Command, kept: Path, tmp_path: Path) -> None:
    """As writes over HTTP are refused; values that can be converted are no obstacle."""
    store = Store(kept)
    store.put("items", {"a": {"price": 5}, "b": {"price": "cheap"}, "c": {"size": 2.0}, "d": {"price": "dear"}})
    store.put("items", {"d": None})
    identity = store.identity
    store.backup(tmp_path / "copy.db")
    store.close()
    with open("zhiyin.toml", "a") as settings:
        settings.write('[schema]\nitems = { price = "number", size = "int" }\n')
    refused = zhiyin("store", "restore", "copy.db", code=1).stderr
    assert "1 rows do not fit" in refused
    assert "items 'b'" in refused
    assert "--force" in refused
    with closing(Store(kept)) as store:
        assert store.identity == identity
    assert "does not fit: items 'b'" in zhiyin("store", "restore", "copy.db", "--force").stderr
    with closing(Store(kept)) as store:
        assert store.identity != identity
        assert store.get("items", "b") == ({"price": "cheap"}, 1)


def test_what_cannot_be_restored(zhiyin: Command, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("text.db").write_text("no database at all, but long enough to be looked at" * 50)
    for name, words in (("text.db", "no store"), ("none.db", "no such file"), (str(kept), "itself")):
        assert words in zhiyin("store", "restore", name, code=1).stderr
    assert json.loads(zhiyin("store", "info", "--json").stdout)["events"] == 3
    monkeypatch.setenv("SHOP_STORE", "postgresql://shop@db/shop")
    assert "pg_restore" in zhiyin("store", "restore", "text.db", code=1).stderr
    monkeypatch.delenv("SHOP_STORE")
    assert "SHOP_STORE" in zhiyin("store", "info", code=1).stderr


def test_what_is_old_is_dropped(zhiyin: Command, kept: Path) -> None:
    assert "nothing was removed" in zhiyin("store", "drop", "--before", "365d", code=1).stderr
    assert "1 events and 0 lists" in zhiyin("store", "drop", "--before", "365d", "--yes").stderr
    assert "2 events and 1 lists" in zhiyin("store", "drop", "--before", "1h", "--yes").stderr
    assert "duration" in zhiyin("store", "drop", "--before", "long", code=1).stderr


def exported_with(folder: Path, table: str, rows: dict[str, object]) -> None:
    """Items or users of an export, as an older program or another one may have written them."""
    pairs = [(key, json.dumps(row)) for key, row in rows.items()]
    frame = pl.DataFrame(pairs, schema={"id": pl.String, "columns": pl.String}, orient="row")
    frame.write_parquet(folder / f"{table}.parquet")


def test_rows_are_loaded_as_their_types_have_them_or_not_at_all(zhiyin: Command, kept: Path, tmp_path: Path) -> None:
    zhiyin("store", "export", "out")
    (tmp_path / "zhiyin.toml").write_text(
        '[service]\nstore = "other.db"\n[schema]\nitems = { price = "number", tags = "texts", size = "int" }\n'
    )
    items = {"a": {"price": 3, "tags": "new", "size": 2.0}, "b": {"price": [1, 2]}, "c": {"size": 2.5}, "d": [1],
             "e": {"colour": "red"}, "f": {"colour": ["a", "b"]}, "g": {"price": None, "tags": ["x", "y"]}}  # fmt: skip
    exported_with(tmp_path / "out", "items", items)
    exported_with(tmp_path / "out", "users", {"bob": {"age": 5}, "eve": {"age": "old"}})
    refused = zhiyin("store", "load", "out", code=1).stderr
    assert "5 rows do not fit" in refused
    assert "items 'b': column 'price' holds a number, not '[1, 2]'" in refused
    assert "--skip" in refused
    assert json.loads(zhiyin("store", "info", "--json").stdout)["events"] == 0
    said = zhiyin("store", "load", "out", "--skip").stderr
    assert [line.split(":")[1].strip() for line in said.splitlines() if line.startswith("left out")] == [
        "items 'b'", "items 'c'", "items 'd'", "items 'f'", "users 'eve'"
    ]  # fmt: skip
    assert "3 new events" in said
    store = Store(tmp_path / "other.db")
    try:
        assert store.get("items", "a") == ({"price": 3.0, "tags": ["new"], "size": 2}, 1)
        assert [store.get("items", key) for key in "bcdf"] == [None] * 4
        assert store.get("items", "e") == ({"colour": "red"}, 1)
        assert store.get("users", "bob") == ({"age": 5}, 1)
        first = stored_types(store).first
        assert (first.items["colour"], first.users["age"]) == ("text", "number")
    finally:
        store.close()
