"""Events from SQLite and from a real PostgreSQL, started for the tests."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import polars as pl
import pytest
from tests.conftest import own_schema

import zhiyin as zy
from zhiyin.data.project_config import load_config, read_data
from zhiyin.data.reading import read
from zhiyin.data.sql_query import QueryLimit

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


ENDLESS = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT n AS user, n AS item FROM c"


@pytest.mark.parametrize(
    ("query", "limit", "match"),
    [
        (ENDLESS, QueryLimit(rows=150_000), "more than 150,000 rows"),
        (ENDLESS, QueryLimit(seconds=0.2), r"stopped after 0 s; \d00,000 rows had come|stopped after 0 s; 0 rows"),
        (ENDLESS + " WHERE n < 0", QueryLimit(seconds=0.2), "stopped after 0 s; 0 rows had come"),
        (f"SELECT count(*) AS user, 1 AS item FROM ({ENDLESS})", QueryLimit(seconds=0.2), "stopped after 0 s"),
    ],
)
def test_a_query_without_an_end_is_stopped(shop: Path, query: str, limit: QueryLimit, match: str) -> None:
    limit.started_at = time.monotonic()
    with pytest.raises(zy.DataError, match=match) as caught:
        read(f"sqlite:///{shop}", query=query, query_limit=limit)
    assert "under [data]" in str(caught.value.remedy)


def test_a_query_without_an_end_is_stopped_by_the_settings(shop: Path) -> None:
    (shop.parent / "zhiyin.toml").write_text(
        f'[data]\nsource = "sqlite:///shop.db"\nquery = "{ENDLESS}"\nquery_timeout = "1s"\nquery_rows = 1000\n'
    )
    with pytest.raises(zy.DataError, match="more than 1,000 rows"):
        read_data(load_config(shop.parent / "zhiyin.toml"), shop.parent)


def test_postgres_is_stopped_too(log: str) -> None:
    endless = "SELECT pg_sleep(60)::text AS user, 1 AS item"
    with pytest.raises(zy.DataError, match=r"stopped after 0 s|statement timeout"):
        read(log, query=endless, query_limit=QueryLimit(seconds=0.3))
    with pytest.raises(zy.DataError, match="more than 150,000 rows"):
        read(log, query="SELECT * FROM many", query_limit=QueryLimit(rows=150_000))


@pytest.mark.parametrize("address", ["mysql://me:secret@host/shop", "duckdb:///shop.db", "shop"])
def test_other_databases_are_named(address: str) -> None:
    with pytest.raises(zy.ConfigError, match="no database that is read") as caught:
        read(address, query="SELECT 1")
    assert "secret" not in str(caught.value)


def test_cells_of_several_types(tmp_path: Path) -> None:
    """A column of SQLite takes what it is given: whole numbers as integers and as floats, texts as bytes."""
    with sqlite3.connect(tmp_path / "s.db") as connection:
        connection.execute("CREATE TABLE e (user, item, blob)")
        rows = [(float(n) if n % 2 else n, n % 7, str(n).encode() if n % 3 else str(n)) for n in range(1, 60)]
        connection.executemany("INSERT INTO e VALUES (?, ?, ?)", rows)
    connection.close()
    assert read(f"sqlite:///{tmp_path}/s.db", query="SELECT user, item FROM e").users["id"].to_list() == [*range(1, 60)]
    ids = read(f"sqlite:///{tmp_path}/s.db", query="SELECT blob AS user, item FROM e").users["id"]
    assert sorted(ids, key=int) == [str(n) for n in range(1, 60)]
