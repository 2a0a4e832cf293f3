"""Events from SQLite and from a real PostgreSQL, started for the tests."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import polars as pl
import pytest
from tests.conftest import own_schema

import zhiyin as zy
from zhiyin.data.reading import read

SECOND = 1_000_000


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE events (user_id, item_id, at TEXT, stars REAL)")
        connection.executemany(
            "INSERT INTO events VALUES (?, ?, ?, ?)",
            [
                (1, "a", "2014-05-13 16:53:20", 4),
                ("A12", "b", "2014-05-13 16:53:21", None),
                (None, "b", "2014-05-13 16:53:22", 3),
                (1, "b", "soon", 3),
                (1, "b", "2014-05-13 16:53:24", 2),
            ],
        )
    connection.close()
    return path


def test_sqlite(shop: Path) -> None:
    data = read(f"sqlite:///{shop}", query="SELECT * FROM events", columns={"time": "at"})
    assert data.users["id"].to_list() == ["1", "A12"]
    assert data.events["value"].to_list() == [4.0, 2.0, None]
    assert data.quarantine.select("line", "reason").rows() == [
        (3, "user is missing"),
        (4, "at = 'soon' is not a time"),
    ]
    assert '"at": "soon"' in data.quarantine["raw"][1]


def test_sqlite_addresses(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop.parent)
    query = "SELECT user_id, item_id FROM events WHERE user_id = 1"
    for address in ("sqlite:///shop.db", f"sqlite:///{shop}", f"sqlite:////{str(shop)[1:]}"):
        assert read(address, query=query).n_events == 3
    with pytest.raises(zy.DataError, match="no such SQLite file"):
        read("sqlite:///shops.db", query=query)


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("SELECT * FROM nothing", zy.DataError),
        ("DELETE FROM events", zy.DataError),
        (None, zy.ConfigError),
        ("SELECT user_id, item_id FROM events WHERE 1 = 0", zy.DataError),
    ],
)
def test_sqlite_refusals(shop: Path, query: str | None, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        read(f"sqlite:///{shop}", query=query)
    assert caught.value.remedy
    assert sqlite3.connect(shop).execute("SELECT count(*) FROM events").fetchone() == (5,)


@pytest.fixture(scope="session")
def log(postgres: str) -> str:
    import psycopg

    address = own_schema(postgres)
    with psycopg.connect(address) as connection:
        connection.execute(
            """
            CREATE TABLE events (
              user_id uuid, item_id numeric, at timestamptz, stars numeric(3, 1), kind text, more jsonb
            );
            INSERT INTO events VALUES
              ('00000000-0000-0000-0000-00000000000b', 7, '2014-05-13 18:53:21+02', 4.5, 'view', '{"a": 1}'),
              ('00000000-0000-0000-0000-00000000000a', 7, '2014-05-13 16:53:20+00', NULL, 'buy', NULL),
              (NULL, 8, '2014-05-13 16:53:22+00', 1, 'view', NULL),
              ('00000000-0000-0000-0000-00000000000a', 9, NULL, 1, 'view', NULL)
            """
        )
        connection.execute(
            "CREATE TABLE many AS SELECT n % 1000 AS user_id, n % 77 AS item_id, 1400000000 + n AS time "
            "FROM generate_series(1, 250000) AS n"
        )
    return address


def test_postgres(log: str) -> None:
    data = read(log, query="SELECT * FROM events", columns={"time": "at"})
    assert data.users["id"].to_list() == [f"00000000-0000-0000-0000-00000000000{end}" for end in "ab"]
    assert data.items["id"].to_list() == [7]
    assert data.events["time"].to_list() == [1_400_000_000 * SECOND, 1_400_000_001 * SECOND]
    assert data.events["value"].to_list() == [None, 4.5]
    assert data.events["kind"].to_list() == ["buy", "view"]
    assert data.quarantine.select("line", "reason").rows() == [(3, "user is missing"), (4, "time is missing")]


def test_postgres_in_batches(log: str) -> None:
    data = read(log, query="SELECT * FROM many")
    assert (data.n_events, data.n_users, data.n_items) == (250_000, 1_000, 77)
    assert data.users["id"].dtype == pl.Int64


def test_postgres_refusals(log: str) -> None:
    with pytest.raises(zy.DataError, match="nothing"):
        read(log, query="SELECT * FROM nothing")
    with pytest.raises(zy.DataError, match="no rows"):
        read(log, query="SELECT * FROM many WHERE time = 0")
    with pytest.raises(zy.DataError) as caught:
        read("postgresql://someone:secret@127.0.0.1:1/none", query="SELECT 1")
    assert "secret" not in str(caught.value)
