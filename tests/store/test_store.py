"""SQLite and a real PostgreSQL pass the same suite; and no kill loses what was acknowledged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from tests.conformance.store import StoreConformance, event
from zhiyin.core.errors import ConfigError, DataError
from zhiyin.store.database import Store


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


class TestPostgreSQL(StoreConformance):
    @pytest.fixture
    def address(self, postgres: str) -> str:
        import psycopg

        name = f"shop_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return postgres.replace("/postgres?", f"/{name}?")


@pytest.mark.parametrize(
    "address",
    ["mysql://a@b/c", "sqlite://", "sqlite:///:memory:", "nonsense://", "postgresql://a:secret@127.0.0.1:1/b"],
)
def test_addresses_that_cannot_be(address: str) -> None:
    with pytest.raises(ConfigError) as error:
        Store(address)
    assert "secret" not in str(error.value)


WRITES = """
import sys
from tests.conformance.store import NOW
from zhiyin.store.database import Store
from zhiyin.store.records import Event
from zhiyin.store.writer import Writer

writer = Writer(Store(sys.argv[1]))
number = int(sys.argv[2])
waiting = []
while True:
    name = f"{number}"
    waiting.append((name, writer.submit([Event("u", "i", NOW + number, id=f"{name}-{part}") for part in range(3)])))
    number += 1
    if len(waiting) > 20:
        name, done = waiting.pop(0)
        done.result()
        print(name, flush=True)  # acknowledged
"""


def test_no_kill_loses_what_was_acknowledged(tmp_path: Path) -> None:
    """A writer under load is killed at a random moment, again and again, on one file."""
    path, acknowledged, number = tmp_path / "shop.db", set(), 0
    Store(path).close()
    root = Path(__file__).parents[2]
    for kill in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITES, str(path), str(number)], stdout=subprocess.PIPE, cwd=root, text=True,
            env=os.environ | {"PYTHONPATH": str(root)},
        )  # fmt: skip
        assert process.stdout is not None
        heard = [process.stdout.readline().strip() for _ in range(5 + 37 * kill % 61)]
        process.send_signal(signal.SIGKILL)
        heard += process.stdout.read().split("\n")
        process.wait()
        acknowledged |= {int(name) for name in heard if name.isdigit()}
        number = max(acknowledged) + 1_000  # what was not acknowledged may be there or not
    store = Store(path)
    there = {f"{row}" for part in store.parts() for row in part["id"]}
    assert len(acknowledged) > 200
    assert {f"{name}-{part}" for name in acknowledged for part in range(3)} <= there
    assert store.append([event(1)]) == [True]
