"""Showings that the processes of one machine count together in a file."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.state import Clock, StateConformance
from zhiyin.store import frequency_counts_file
from zhiyin.store.frequency_counts_file import FileShowings
from zhiyin.store.live_state import LiveState
from zhiyin.store.memory_state import DirectState
from zhiyin.store.records import hash_of

Make = Callable[[Callable[[], float]], LiveState]


class TestDirectWithAFile(StateConformance):
    holds = False

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, tmp_path_factory: pytest.TempPathFactory) -> Make:
        folder = tmp_path_factory.mktemp("showings")
        return lambda clock: DirectState(FileShowings(folder / uuid.uuid4().hex, clock), clock=clock)


def two(path: Path, clock: Clock) -> tuple[FileShowings, FileShowings]:
    return FileShowings(path, clock), FileShowings(path, clock)


def test_processes_count_together(tmp_path: Path) -> None:
    clock = Clock()
    one, other = two(tmp_path / "showings", clock)
    one.add("ann", ["a", "b"])
    other.add("ann", ["a"])
    for showings in (one, other):
        assert showings.counts("ann") == {"a": 2, "b": 1}
        assert showings.counts("bob") == {}
    one.close()
    assert other.counts("ann") == {"a": 2, "b": 1}  # what one counted stays when it ends
    other.drop("ann")
    assert one.counts("ann") == {}


def test_none_of_many_showings_at_once_is_missed(tmp_path: Path) -> None:
    clock = Clock()
    showings = [FileShowings(tmp_path / "showings", clock) for _ in range(4)]
    threads = [threading.Thread(target=lambda one=one: [one.add("ann", ["a"]) for _ in range(25)]) for one in showings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert showings[0].counts("ann")["a"] + sum(one._own.counts("ann").get("a", 0) for one in showings[1:]) == 100


def test_of_those_forgotten_nothing_is_left_in_the_file(tmp_path: Path) -> None:
    path, clock = tmp_path / "showings", Clock()
    one, other = two(path, clock)
    for user in ("ann", "bob", "cid"):
        one.add(user, ["a"])
    other.drop("ann")
    other.drop_hashes({hash_of("bob"), hash_of("dan")})
    assert [one.counts(user) for user in ("ann", "bob", "cid")] == [{}, {}, {"a": 1}]
    assert not traces_of(tmp_path, "ann", "bob")
    with contextlib.closing(sqlite3.connect(path)) as link:
        assert link.execute("SELECT DISTINCT user FROM showings").fetchall() == [(hash_of("cid"),)]
    other.clear()
    assert one.counts("cid") == {}
    assert not traces_of(tmp_path, "cid")


def test_a_reader_delays_what_leaves_the_journal(tmp_path: Path) -> None:
    one = FileShowings(tmp_path / "showings", Clock())
    one.add("ann", ["a"])
    reader = sqlite3.connect(tmp_path / "showings", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM showings").fetchall()
    one.drop("ann")
    assert one.counts("ann") == {}
    assert traces_of(tmp_path, "ann") == ["ann"]
    reader.execute("COMMIT")
    reader.close()
    one.add("bob", ["a"])
    assert not traces_of(tmp_path, "ann")
    assert one.counts("bob") == {"a": 1}


def traces_of(folder: Path, *users: str) -> list[str]:
    """Users whose id or hash stands in any byte of the files."""
    held = b"".join(part.read_bytes() for part in folder.iterdir())
    return [user for user in users if hash_of(user).encode() in held or user.encode() + b"\x00" in held]


def test_the_oldest_go_where_there_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frequency_counts_file, "WRITES_PER_SWEEP", 2)
    clock = Clock()
    showings = FileShowings(tmp_path / "showings", clock, showings=10)
    for n in range(5):
        clock.seconds += 1
        showings.add(f"u{n}", ["a", "b", "c", "d"])
    assert [len(showings.counts(f"u{n}")) for n in range(5)] == [0, 0, 2, 4, 4]


def test_a_file_that_is_held_or_gone_costs_counts_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, clock = tmp_path / "showings", Clock()
    showings = FileShowings(path, clock)
    showings.add("ann", ["a"])
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            showings.add("ann", ["a"])
        assert len([record for record in caplog.records if "showings" in record.message]) == 1
    assert showings.counts("ann") == {"a": 3}  # its own are counted beside
    holder.execute("ROLLBACK")
    holder.close()
    showings.add("ann", ["b"])
    assert showings.counts("ann") == {"a": 3, "b": 1}
    showings.close()
    for part in tmp_path.iterdir():
        part.write_bytes(b"this is no database" * 100)
    showings.add("ann", ["c"])
    assert showings.counts("ann")["c"] == 1
