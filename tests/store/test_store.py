"""SQLite and a real PostgreSQL pass the same suite; and no kill loses what was acknowledged."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from benchmarks.store import killed

from tests.conformance.store import StoreConformance, event
from tests.conftest import own_schema
from zhiyin.core.errors import ConfigError, DataError
from zhiyin.store.store import Store


class TestSQLite(StoreConformance):
    @pytest.fixture
    def address(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'shop.db'}"

    def test_nothing_of_the_forgotten_is_on_the_disk(self, store: Store, tmp_path: Path) -> None:
        store.append([event(n, user="someone-very-special") for n in range(500)])
        store.append([event(n, user="bob") for n in range(500)])
        store.put("users", {"someone-very-special": {"mail": "special@example.org"}})
        assert any(b"someone-very-special" in path.read_bytes() for path in tmp_path.iterdir())
        store.forget("someone-very-special")
        for path in tmp_path.iterdir():
            assert b"someone-very-special" not in path.read_bytes()
            assert b"special@example.org" not in path.read_bytes()

    def test_backed_up_in_use(self, store: Store, tmp_path: Path) -> None:
        store.append([event(1)])
        store.backup(tmp_path / "copy.db")
        store.append([event(2)])
        assert Store(tmp_path / "copy.db").history("alice") == [event(1)]
        with pytest.raises(DataError, match="already"):
            store.backup(tmp_path / "copy.db")

    def test_marks_of_changes_are_of_this_moment(self, store: Store, address: str) -> None:
        other = Store(address)
        for number in range(3):  # in turns, so that each has looked before
            for price, writer in enumerate((store, other), 10 * number):
                readers = (store, other)
                before = [reader.change_marks() for reader in readers]
                writer.put("items", {"a": {"price": price}})
                after = [reader.change_marks() for reader in readers]
                assert [new.items - old.items for old, new in zip(before, after)] == [1, 1]
                writer.append([event(number, user=f"{id(writer)}")])
                assert [reader.change_marks() for reader in readers] == after
        with store._fast_path.connection() as connection:  # type: ignore[union-attr]
            connection.execute("INSERT INTO items (id, version, columns, received) VALUES ('b', 1, '{}', 1)")
        assert store.change_marks().items == other.change_marks().items == after[0].items + 1
        other.close()


class TestPostgreSQL(StoreConformance):
    @pytest.fixture
    def address(self, postgres: str) -> str:
        return own_schema(postgres)


@pytest.mark.parametrize(
    "address",
    ["mysql://a@b/c", "sqlite://", "sqlite:///:memory:", "nonsense://", "postgresql://a:secret@127.0.0.1:1/b"],
)
def test_addresses_that_cannot_be(address: str) -> None:
    with pytest.raises(ConfigError) as error:
        Store(address)
    assert "secret" not in str(error.value)


def test_a_database_with_tables_of_somebody_else(tmp_path: Path, postgres: str) -> None:
    path, address = tmp_path / "shop.db", own_schema(postgres)
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE events (user_id TEXT, item_id TEXT)")
    file.close()
    import psycopg

    with psycopg.connect(address, autocommit=True) as server:
        server.execute("CREATE TABLE events (user_id TEXT, item_id TEXT)")
    for one in (path, address):
        with pytest.raises(ConfigError, match=r"has a table events already.* no column id") as error:
            Store(one)
        assert "of its own" in str(error.value.remedy)
    with sqlite3.connect(path) as file:
        assert file.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [("events",)]


@pytest.mark.slow
def test_no_kill_loses_what_was_acknowledged(tmp_path: Path) -> None:
    """A writer under load is killed at a random moment, again and again, on one file."""
    acknowledged, there = killed(str(tmp_path / "shop.db"), times=5)
    assert len(acknowledged) > 50
    assert acknowledged <= there
    assert Store(tmp_path / "shop.db").append([event(1)]) == [True]
