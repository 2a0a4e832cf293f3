"""A full disk, a database that goes away and comes back, a store of format 1: nothing acknowledged is lost."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sqlalchemy")

from tests.conformance.store import NOW, event, trace, until
from tests.conftest import _as_nobody, own_schema
from zhiyin.core.errors import ConfigError, DataError, ZhiyinError
from zhiyin.store import sqlite_fast_path as links
from zhiyin.store.event_index import NEWEST_INDEXED
from zhiyin.store.group_commit import GroupCommitWriter
from zhiyin.store.records import Event
from zhiyin.store.store import Store, StoreAwayError, StoreFullError
from zhiyin.store.trace_writer import TraceWriter


def fill(store: Store, acknowledged: set[str], most: int = 5_000) -> Exception:
    """Write single events of some size until one is refused; returns why."""
    writer = GroupCommitWriter(store)
    try:
        for n in itertools.count():
            assert n < most
            one = Event("filler", "x" * 200, NOW + n, id=f"{uuid.uuid4()}")
            try:
                writer.submit([one]).result(30)
            except ZhiyinError as error:
                return error
            acknowledged.add(one.id)
    finally:
        writer.close()
    raise AssertionError


def ids(store: Store) -> set[str]:
    return {one for part in store.event_batches() for one in part["id"]}


def test_a_full_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLITE_FULL, provoked by the most pages that the file may have."""
    monkeypatch.setattr(links, "PRAGMAS", (*links.PRAGMAS, "max_page_count=100"))
    store, acknowledged = Store(tmp_path / "shop.db"), set[str]()
    assert isinstance(fill(store, acknowledged), StoreFullError)
    big = {"a": {"text": "x" * 100_000}}
    for write in (
        lambda: store.put("items", big), lambda: store.append([event(n) for n in range(2_000)]),
        lambda: store.append_traces([trace(n, arrays={"a": np.random.default_rng(n).random(99)}) for n in range(500)]),
    ):  # fmt: skip
        with pytest.raises(StoreFullError, match="full"):
            write()
    assert len(acknowledged) > 50
    assert ids(store) == acknowledged
    assert store.history("filler", 5)
    for own in list(store._fast_path.connections):
        own.connection.execute("PRAGMA max_page_count=100000")
    with store._engine.connect() as link:
        link.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("PRAGMA max_page_count=100000")
    assert store.append([event(1)]) == [True]
    assert store.put("items", big) == {"a": 1}
    assert ids(store) == acknowledged | {"alice-1"}
    store.close()


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = Path(tempfile.mkdtemp(prefix="zy-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=777", "none", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        folder.rmdir()
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


def test_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    store, acknowledged = Store(small_disk / "shop.db"), set[str]()
    with open(small_disk / "ballast", "wb") as file:
        file.write(bytes(shutil.disk_usage(small_disk).free - 240_000))
    assert isinstance(fill(store, acknowledged), StoreFullError)
    traces = TraceWriter(store)
    for n in range(1, 40):
        traces.put(trace(n, arrays={"a": np.random.default_rng(n).random(9_999)}))
    until(lambda: traces.waiting == 0)
    assert traces.failed > 0
    assert len(acknowledged) > 10
    assert ids(store) == acknowledged
    with pytest.raises(StoreFullError):
        store.backup(small_disk / "copy.db")
    assert [path.name for path in small_disk.iterdir() if "copy" in path.name] == []
    (small_disk / "ballast").unlink()
    assert store.append([event(1)]) == [True]
    traces.put(trace(99))
    traces.close()
    assert store.trace("list 99") is not None
    again = Store(store.backup(tmp_path / "copy.db"))
    assert ids(store) == ids(again) == acknowledged | {"alice-1"}
    again.close()
    store.close()


def test_a_file_held_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "PRAGMAS", (*links.PRAGMAS, "busy_timeout=50"))
    store = Store(tmp_path / "shop.db")
    writer = GroupCommitWriter(store)
    with sqlite3.connect(tmp_path / "shop.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        for write in (lambda: store.append([event(1)]), lambda: store.put("items", {"a": {}})):
            with pytest.raises(StoreAwayError, match="another process"):
                write()
        with pytest.raises(StoreAwayError):
            writer.submit([event(2)]).result(30)
        assert store.history("alice") == []
        other.execute("ROLLBACK")
    assert writer.submit([event(2)]).result(30) == [True]
    writer.close()
    store.close()


def test_a_file_that_is_no_database_any_more(tmp_path: Path) -> None:
    store = Store(tmp_path / "shop.db")
    store.append([event(n) for n in range(100)])
    store.close()
    good = (tmp_path / "shop.db").read_bytes()
    (tmp_path / "shop.db").write_bytes(b"nonsense" * (len(good) // 8))
    for read in (lambda: store.history("alice"), lambda: store.recent_events("alice"), store.count,
                 lambda: store.last_change("items"), lambda: store.append([event(1)]),
                 lambda: store.trace("a")):  # fmt: skip
        with pytest.raises(StoreAwayError) as raised:
            read()
        assert "zhiyin store restore" in str(raised.value.remedy)
    (tmp_path / "shop.db").write_bytes(good)
    assert len(store.history("alice")) == 100
    store.close()


@pytest.mark.parametrize("content", [b"no database" * 1_000, None])
def test_opening_a_damaged_file_says_how_to_bring_it_back(content: bytes | None, tmp_path: Path) -> None:
    store = Store(tmp_path / "shop.db")
    store.append([event(n) for n in range(100)])
    store.close()
    good = (tmp_path / "shop.db").read_bytes()
    (tmp_path / "shop.db").write_bytes(content or good[: len(good) // 2])
    with pytest.raises(ConfigError, match="cannot be opened") as raised:
        Store(tmp_path / "shop.db")
    assert "zhiyin store restore" in str(raised.value.remedy)


# -- PostgreSQL ---------------------------------------------------------------------------------------------------


class Cluster:
    """A PostgreSQL that can be stopped and started."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.programs = folder, programs
        self.address = f"postgresql://zhiyin@/postgres?host={folder}"
        make = [str(programs / "initdb"), "-D", str(folder / "data"), "-A", "trust", "-U", "zhiyin", "-N"]
        self.run(make)

    def run(self, command: list[str]) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "cwd": "/"}
        subprocess.run(_as_nobody(command), check=True, **quiet)  # type: ignore[call-overload]

    def control(self, *words: str) -> None:
        self.run([str(self.programs / "pg_ctl"), "-D", str(self.folder / "data"), "-w", "-t", "60", *words])

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories={self.folder}"
        self.control("-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self, how: str) -> None:
        self.control("-m", how, "stop")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("psycopg")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    beside = shutil.which("initdb")
    if not found and not beside:
        pytest.skip("PostgreSQL is not installed")
    folder = Path(tempfile.mkdtemp(prefix="zy-pg-"))
    folder.chmod(0o777)
    made = Cluster(folder, found[-1] if found else Path(beside or "").parent)
    try:
        made.start()
        yield made
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            made.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)


class Sender:
    """Sends one event after another, each until it is acknowledged, by the same id."""

    def __init__(self, writer: GroupCommitWriter) -> None:
        self.writer, self.acknowledged = writer, list[str]()
        self.refused, self.known, self.errors = 0, 0, set[type[Exception]]()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(n,), daemon=True) for n in range(4)]
        for thread in self._threads:
            thread.start()

    def _work(self, number: int) -> None:
        for n in itertools.count():
            one = Event("u", "i", NOW + n, id=f"{number}-{n}")
            while True:
                try:
                    done: Future[list[bool]] = self.writer.submit([one])
                    (new,) = done.result(60)
                    break
                except Exception as error:
                    self.refused += 1
                    self.errors.add(type(error))
                    if self._stop.wait(0.01):
                        return
            self.known += not new
            self.acknowledged.append(one.id)
            if self._stop.is_set():
                return

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(90)
            assert not thread.is_alive()


def test_a_server_that_goes_and_comes_back(cluster: Cluster) -> None:
    """Shut down, then killed, while a writer works: errors meanwhile, and all that was acknowledged is there."""
    store = Store(cluster.address)
    writer, traces = GroupCommitWriter(store), TraceWriter(store)
    sender = Sender(writer)
    for how in ("fast", "immediate"):
        before = len(sender.acknowledged)
        until(lambda before=before: len(sender.acknowledged) > before + 100)  # type: ignore[misc]
        cluster.stop(how)
        refused = sender.refused
        until(lambda refused=refused: sender.refused > refused + 5)  # type: ignore[misc]
        for call in (store.count, lambda: store.history("u"), lambda: store.recent_events("u"),
                     lambda: store.last_change("items"), lambda: store.put("items", {"a": {}}),
                     lambda: store.forget("nobody")):  # fmt: skip
            with pytest.raises(StoreAwayError):
                call()
        failed = traces.failed
        traces.put(trace(1))
        until(lambda failed=failed: traces.failed > failed)  # type: ignore[misc]
        cluster.start()
        before = len(sender.acknowledged)
        until(lambda before=before: len(sender.acknowledged) > before + 100)  # type: ignore[misc]
    sender.stop()
    writer.close()
    traces.put(trace(2))
    traces.close()
    assert sender.errors == {StoreAwayError}
    there = [one for part in store.event_batches() for one in part["id"]]
    assert len(there) == len(set(there))
    assert set(sender.acknowledged) <= set(there)
    assert len(store.history("u", 50)) == 50
    assert store.trace("list 2") is not None
    store.close()


def test_a_server_whose_disk_is_full(cluster: Cluster, small_disk: Path) -> None:
    """The tables of one database lie on a small disk."""
    import psycopg

    place = small_disk / "space"
    place.mkdir()
    place.chmod(0o777)
    shutil.chown(place, (cluster.folder / "data").stat().st_uid)
    with psycopg.connect(cluster.address, autocommit=True) as link:
        link.execute(f"CREATE TABLESPACE small LOCATION '{place}'".encode())
        link.execute("CREATE DATABASE shop")
        link.execute("ALTER DATABASE shop SET default_tablespace = 'small'")
    store, acknowledged = Store(cluster.address.replace("/postgres?", "/shop?")), set[str]()
    with open(small_disk / "ballast", "wb") as file:
        file.write(bytes(shutil.disk_usage(small_disk).free - 240_000))
    refused = fill(store, acknowledged, 20_000)
    assert isinstance(refused, StoreFullError), refused
    assert ids(store) == acknowledged
    (small_disk / "ballast").unlink()
    assert store.append([event(1)]) == [True]
    assert ids(store) == acknowledged | {"alice-1"}
    store.close()


def test_a_value_that_only_the_server_refuses(postgres: str) -> None:
    store = Store(own_schema(postgres))
    with pytest.raises(DataError, match="cannot hold"):
        store.get("items", "a\x00b")
    assert store.get("items", "a") is None
    store.close()


# -- format 1 -----------------------------------------------------------------------------------------------------

FORMAT_1 = """
CREATE TABLE events (seq INTEGER NOT NULL, id VARCHAR(256) NOT NULL, "user" VARCHAR(256) NOT NULL,
  item VARCHAR(256) NOT NULL, time BIGINT NOT NULL, kind VARCHAR(64) NOT NULL, value FLOAT, list_id VARCHAR(256),
  received BIGINT NOT NULL, PRIMARY KEY (seq), UNIQUE (id));
CREATE INDEX events_user_time ON events ("user", time);
CREATE TABLE items (seq INTEGER NOT NULL, id VARCHAR(256) NOT NULL, version INTEGER NOT NULL, columns TEXT,
  received BIGINT NOT NULL, PRIMARY KEY (seq), UNIQUE (id, version));
CREATE TABLE users (seq INTEGER NOT NULL, id VARCHAR(256) NOT NULL, version INTEGER NOT NULL, columns TEXT,
  received BIGINT NOT NULL, PRIMARY KEY (seq), UNIQUE (id, version));
CREATE TABLE meta ("key" VARCHAR(64) NOT NULL, value TEXT, PRIMARY KEY ("key"));
CREATE TABLE forgotten (hash VARCHAR(64) NOT NULL, received BIGINT, PRIMARY KEY (hash));
INSERT INTO meta VALUES ('format', '1');
INSERT INTO events VALUES (3, 'e1', 'alice', 'a', 10, 'view', 1.5, 'l1', 99), (7, 'e2', 'alice', 'b', 20, 'buy', NULL,
  NULL, 99);
INSERT INTO items VALUES (1, 'a', 1, '{"title": "A"}', 99), (2, 'a', 2, '{"title": "B"}', 99);
INSERT INTO users VALUES (5, 'alice', 1, '{"age": 3}', 99);
INSERT INTO forgotten VALUES ('abc', 7);
"""


def _as_file(tmp_path: Path) -> str:
    with sqlite3.connect(tmp_path / "old.db") as link:
        link.executescript("PRAGMA journal_mode=WAL;" + FORMAT_1)
    link.close()
    return str(tmp_path / "old.db")


def _on_server(postgres: str) -> str:
    import psycopg

    address = own_schema(postgres)
    with psycopg.connect(address, autocommit=True) as link:
        link.execute(FORMAT_1.replace("seq INTEGER", "seq BIGSERIAL").encode())
        for table in ("events", "items", "users"):
            link.execute(f"SELECT setval('{table}_seq_seq', (SELECT max(seq) FROM {table}))".encode())
    return address


@pytest.mark.parametrize("where", ["file", "server"])
def test_format_1_becomes_the_newest(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    address = _as_file(tmp_path) if where == "file" else _on_server(request.getfixturevalue("postgres"))
    opened: list[Store] = []
    threads = [threading.Thread(target=lambda: opened.append(Store(address))) for _ in range(4)]  # all at once
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    store = opened[0]
    assert store.history("alice") == [Event("alice", "a", 10, "view", 1.5, "e1", "l1"),
                                      Event("alice", "b", 20, "buy", None, "e2")]  # fmt: skip
    assert store.events()["seq"].to_list() == [3, 7]
    assert store.get("items", "a") == ({"title": "B"}, 2)
    assert [store.last_change(name) for name in ("items", "users", "placements")] == [2, 5, 0]
    assert store.forgotten_by_hash() == {"abc": 7}
    assert store.append([event(3), dataclasses.replace(event(4), id="e2")]) == [True, False]
    assert store.last_seq > 7
    assert [e.id for e in store.events_of_list("l1")] == ["e1"]
    store.put("placements", {"home": {"settings": "{}"}})
    store.append_traces([trace(1)])
    before = store.last_seq
    store.forget("alice")
    store.append([event(1, user="bob")])
    assert store.last_seq > before
    again = Store(address)
    assert again.count() == 1
    for one in (*opened, again):
        one.close()


# The table of events of formats 2 to 4, and its index of users in each.
OLD_EVENTS = """
DROP TABLE events; DROP TABLE events_of_user; DROP TABLE event_ids; DROP TABLE event_lists;
CREATE TABLE events (seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, user VARCHAR(256) NOT NULL,
  item VARCHAR(256) NOT NULL, time BIGINT NOT NULL, kind VARCHAR(64) NOT NULL, value FLOAT, id VARCHAR(256) NOT NULL,
  list_id VARCHAR(256), received BIGINT NOT NULL, UNIQUE (id));
CREATE INDEX events_list ON events (list_id) WHERE list_id IS NOT NULL;
CREATE INDEX events_time ON events (time);
DELETE FROM meta WHERE key = 'events_indexed';
"""
OLD_INDEXES = {
    "2": 'CREATE INDEX events_user_time ON events ("user", time)',
    "3": 'CREATE INDEX events_of_user ON events ("user", time, seq, item, kind, value, id, list_id)',
    "4": 'CREATE INDEX events_of_user ON events ("user", seq, time, item, kind, value, id, list_id)',
}


def old_store(path: Path, format: str, events: Sequence[Event]) -> None:
    """A store of an older format with these events; the newest one of all was deleted."""
    Store(path).close()
    with sqlite3.connect(path) as link:
        link.executescript(f"{OLD_EVENTS} {OLD_INDEXES[format]}")
        link.execute("UPDATE meta SET value = ? WHERE key = 'format'", (format,))
        link.executemany(
            "INSERT INTO events (user, item, time, kind, value, id, list_id, received) VALUES (?, ?, ?, ?, ?, ?, ?, 9)",
            [(one.user, one.item, one.time, one.kind, one.value, one.id, one.list_id) for one in events],
        )
        link.execute("INSERT INTO events (user, item, time, kind, id, received) VALUES ('x', 'x', 9, 'x', 'x', 9)")
        link.execute("DELETE FROM events WHERE id = 'x'")
        if format != "4":
            link.execute("DELETE FROM meta WHERE key = 'identity'")
    link.close()


@pytest.mark.parametrize("format", OLD_INDEXES)
def test_older_formats_become_the_newest(format: str, tmp_path: Path) -> None:
    """A user's last events are read from an index that holds all of them, and the store has a name."""
    path, there = tmp_path / "shop.db", [event(n, list_id=f"l{n % 2}") for n in range(5)]
    old_store(path, format, [*there[:3], event(1, user="bob"), *there[3:]])
    store = Store(path)
    assert store.history("alice") == there
    assert [one.seq for one in store.history("alice")] == [1, 2, 3, 5, 6]
    assert store.events_of_list("l1") == [there[1], there[3]]
    assert store.append([event(3), event(9)]) == [False, True]
    assert store.last_seq == 8  # 7 was given to the event that was deleted
    with store._fast_path.connection() as raw:
        plan = str(raw.execute(f"EXPLAIN QUERY PLAN {NEWEST_INDEXED}", ("alice", 0, 6, 5)).fetchall())
        names = {row[0] for row in raw.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
        left = raw.execute("SELECT name FROM sqlite_master WHERE name GLOB 'old_*' OR name GLOB 'new_*'").fetchall()
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert raw.execute("SELECT count(*) FROM events_of_user").fetchone() == (6,)
    assert "SEARCH events_of_user USING PRIMARY KEY" in plan
    assert "TEMP B-TREE" not in plan
    assert not names & {"events_user_time", "events_of_user", "events_list"}
    assert "events_time" in names
    assert not left
    assert len(store.identity) == 32
    assert Store(path).identity == store.identity
    assert Store(path).count() == 7
    store.close()


KILLED_UPGRADE = """
import os, signal, sys
from zhiyin.store import tables
from zhiyin.store.store import Store

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

tables.number_lists = kill  # the last step but one: everything is copied, nothing is committed
Store(sys.argv[1])
"""


def test_an_upgrade_that_was_killed_begins_anew(tmp_path: Path) -> None:
    path, there = tmp_path / "shop.db", [event(n) for n in range(3_000)]
    old_store(path, "4", there)
    killed = subprocess.run([sys.executable, "-c", KILLED_UPGRADE, str(path)], env=os.environ)
    assert killed.returncode == -9
    with sqlite3.connect(path) as link:
        assert link.execute("SELECT value FROM meta WHERE key = 'format'").fetchone() == ("4",)
        assert link.execute("SELECT count(*) FROM events").fetchone() == (3_000,)
    link.close()
    store = Store(path)
    assert store.history("alice", 5_000) == there
    assert store.append([event(7)]) == [False]
    store.close()


def test_an_older_format_that_another_process_holds_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "shop.db"
    old_store(path, "4", [event(1)])
    monkeypatch.setattr(links, "PRAGMAS", (*links.PRAGMAS, "busy_timeout=20"))
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    opened: list[Store] = []
    with caplog.at_level(logging.INFO, logger="zhiyin"):
        thread = threading.Thread(target=lambda: opened.append(Store(path)))
        thread.start()
        until(lambda: "is held by another process" in caplog.text)
        other.execute("ROLLBACK")
        thread.join(30)
    assert opened[0].history("alice") == [event(1)]
    opened[0].close()
    other.close()


def test_a_transaction_is_no_longer_than_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers of one process wait in line, but not for ever."""
    monkeypatch.setattr(links, "BUSY_TIMEOUT_SECONDS", 0.05)
    store = Store(tmp_path / "shop.db")
    release, inside = threading.Event(), threading.Event()

    def hold() -> None:
        with store.writing():
            inside.set()
            release.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(20)
    begun = time.monotonic()
    with pytest.raises(StoreAwayError, match="writers"):
        store.append([event(1)])
    assert time.monotonic() - begun < 10
    release.set()
    thread.join()
    assert store.append([event(1)]) == [True]
    store.close()


def test_a_store_closed_while_threads_read(tmp_path: Path) -> None:
    """Closing takes connections from threads only between their reads; whoever reads on opens another."""
    store = Store(tmp_path / "shop.db")
    store.append([event(n) for n in range(50)])
    stop, wrong = threading.Event(), list[Exception]()

    def read(what: Callable[[], object]) -> None:
        while not stop.is_set():
            try:
                what()
            except StoreAwayError:
                continue
            except Exception as error:
                wrong.append(error)

    reads = (lambda: store.history("alice"), lambda: store.recent_events("alice"), lambda: store.forgotten_at("alice"))
    threads = [threading.Thread(target=read, args=(what,)) for what in reads]
    for thread in threads:
        thread.start()
    for _ in range(30):
        store.close()
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(store.history("alice")) == 50
    store.close()


def test_the_log_is_written_back_beside_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that would grow for ever under writers that never rest is begun anew."""
    monkeypatch.setattr(links, "MAX_WAL_PAGES", 50)
    store = Store(tmp_path / "shop.db")
    store.append([event(n) for n in range(2_000)])
    assert store.checkpoint() > 50
    store.append([event(2_000)])
    assert store.checkpoint() < 50
    assert store.count() == 2_001
    assert sqlite3.connect(tmp_path / "shop.db").execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store.close()
