"""Columns read by compiled code are those that rows hold."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("sqlalchemy")

from tests.conformance.store import NOW
from zhiyin.store import event_log, sqlite_columns
from zhiyin.store.records import Event
from zhiyin.store.sqlite_columns import read_columns
from zhiyin.store.store import Store

TYPES = {"n": "integer", "x": "number", "t": "text"}
ROWS: list[tuple[Any, Any, Any]] = [
    (1, 0.1, "a"),
    (-(2**53), None, "é知音😀"),
    (None, 7, ""),
    (2**62, -1e300, None),
    (5, 0.1 + 0.2, "long " * 60),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with sqlite3.connect(tmp_path / "a.db") as link:
        link.execute("PRAGMA journal_mode=WAL")
        link.execute("CREATE TABLE a (seq INTEGER PRIMARY KEY, n INTEGER, x FLOAT, t VARCHAR(9))")
        link.executemany("INSERT INTO a (n, x, t) VALUES (?, ?, ?)", ROWS)
    link.close()
    return tmp_path / "a.db"


def columns_of(path: Path, after: int = 0, n_rows: int = 100) -> dict[str, pl.Series] | None:
    return read_columns(path, "SELECT n, x, t FROM a WHERE seq > ? ORDER BY seq", (after,), TYPES, n_rows)


@pytest.mark.parametrize("first_bytes", [0, 1, 24])
def test_values_are_those_of_the_rows(path: Path, monkeypatch: pytest.MonkeyPatch, first_bytes: int) -> None:
    """Also where the texts have no space at first."""
    monkeypatch.setattr(sqlite_columns, "BYTES_PER_TEXT", first_bytes)
    found = columns_of(path)
    assert found is not None
    assert list(zip(*(found[name].to_list() for name in TYPES), strict=True)) == ROWS
    assert [found[name].dtype for name in TYPES] == [pl.Int64, pl.Float64, pl.String]


def test_a_part_of_the_rows_and_none(path: Path) -> None:
    found, empty = columns_of(path, 1, 2), columns_of(path, 5)
    assert found is not None
    assert found["n"].to_list() == [-(2**53), None]
    assert found["t"].to_list() == ["é知音😀", ""]
    assert empty is not None
    assert [len(series) for series in empty.values()] == [0, 0, 0]
    assert [series.dtype for series in empty.values()] == [pl.Int64, pl.Float64, pl.String]


@pytest.mark.parametrize("value", [("x", 1, "a"), (1, "x", "a"), (1, 1, b"a"), (1, 1, "a\x1fb"), (1.5, 1, "a")])
def test_a_value_of_another_type_is_left_to_rows(path: Path, value: tuple[Any, ...]) -> None:
    with sqlite3.connect(path) as link:
        link.execute("INSERT INTO a (n, x, t) VALUES (?, ?, ?)", value)
    link.close()
    assert columns_of(path, 5) is None
    assert columns_of(path, 0, 5) is not None


def test_what_cannot_be_read_is_left_to_rows(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert columns_of(tmp_path / "none.db") is None
    assert not (tmp_path / "none.db").exists()
    assert read_columns(path, "SELECT nothing FROM a", (), {"nothing": "text"}, 5) is None
    (tmp_path / "text.db").write_text("no database " * 1_000)
    assert columns_of(tmp_path / "text.db") is None
    with sqlite3.connect(path) as link:
        link.execute("INSERT INTO a (t) VALUES (CAST(x'ff' AS TEXT))")  # no UTF-8
    link.close()
    assert columns_of(path, 5) is None
    monkeypatch.setattr(sqlite_columns, "_library", lambda: None)
    assert columns_of(path) is None


def test_locks_of_other_connections_are_kept(path: Path) -> None:
    """Another copy of SQLite in the process would drop them when it closes the file."""
    with sqlite3.connect(path, isolation_level=None) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM a WHERE seq = 1")
        found = columns_of(path)
        assert found is not None
        assert len(found["n"]) == len(ROWS)  # what is not committed is not seen
        with sqlite3.connect(path, timeout=0) as other, pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()
        writer.execute("COMMIT")
    writer.close()
    found = columns_of(path)
    assert found is not None
    assert len(found["n"]) == len(ROWS) - 1


def test_frames_of_events_are_the_same_by_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, store = np.random.default_rng(1), Store(tmp_path / "shop.db")
    store.append([
        Event(f"u{n % 7}", "película", NOW + n, "view", float(rng.normal()) if n % 3 else None,
              list_id=None if n % 5 else "l")
        for n in range(500)
    ])  # fmt: skip
    store.forget("u3")
    names = ("time", "seq", "list_id", "value")
    by_rows = store.events(10, 300), store.events(0, 1_000, names), list(store.event_batches(size=70))
    monkeypatch.setattr(event_log, "MIN_COLUMN_ROWS", 1)
    calls: list[Any] = []

    def counted(*given: Any) -> Any:
        calls.append(read_columns(*given))
        return calls[-1]

    monkeypatch.setattr(sqlite_columns, "read_columns", counted)
    assert store.events(10, 300).equals(by_rows[0], null_equal=True)
    assert store.events(0, 1_000, names).equals(by_rows[1], null_equal=True)
    batches = list(store.event_batches(size=70))
    assert len(batches) == len(by_rows[2])
    assert all(one.equals(other) for one, other in zip(batches, by_rows[2], strict=True))
    assert len(calls) > 5
    assert all(call is not None for call in calls)
    assert store.events(500, 300).schema == by_rows[0].schema
    store.close()
