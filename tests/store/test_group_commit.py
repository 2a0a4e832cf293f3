"""The writer over a store that does as it is told: what is committed together, who is answered what, and when."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from zhiyin.core.errors import DataError
from zhiyin.store import group_commit as module
from zhiyin.store.errors import StoreAwayError, StoreFullError
from zhiyin.store.group_commit import GroupCommitWriter, StoreBusyError, StoreClosedError
from zhiyin.store.records import Event

NOW = 1_700_000_000_000_000


class FakeStore:
    """Numbers the events it is brought; holds each commit while `gate` is closed."""

    def __init__(self) -> None:
        self.commits: list[list[str]] = []
        self.kept: list[str] = []
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()
        self.refuse: Callable[[list[str]], Exception | None] = lambda items: None
        self.write_backs = 0
        self.write_back_error: Exception | None = None
        self.loads = 0
        self.load_error: Exception | None = None
        self.now = NOW

    def clock(self) -> int:
        return self.now

    def append_validated(self, events: list[Event]) -> list[int]:
        items = [event.item for event in events]
        self.commits.append(items)
        self.entered.set()
        assert self.gate.wait(20)
        if error := self.refuse(items):
            raise error
        self.kept += items
        return list(range(len(self.kept) - len(items) + 1, len(self.kept) + 1))

    def load_tail(self) -> None:
        self.loads += 1
        if self.load_error:
            raise self.load_error

    def checkpoint(self) -> None:
        self.write_backs += 1
        if self.write_back_error:
            raise self.write_back_error

    def hold(self) -> None:
        """Hold the next commit, and know when it has begun."""
        self.entered.clear()
        self.gate.clear()


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def writer(store: FakeStore) -> Iterator[GroupCommitWriter]:
    made = GroupCommitWriter(store)  # type: ignore[arg-type]
    yield made
    store.gate.set()
    made.close()


def events(*items: str) -> list[Event]:
    return [Event("ann", item, NOW) for item in items]


def held(writer: GroupCommitWriter, store: FakeStore, *items: str) -> Future[list[int]]:
    """A request whose commit has begun and waits at the gate."""
    store.hold()
    first = writer.submit(events(*items))
    assert store.entered.wait(20)
    return first


def until(holds: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_what_arrives_during_a_commit_is_the_next_and_each_hears_of_its_own(
    writer: GroupCommitWriter, store: FakeStore
) -> None:
    first = held(writer, store, "a", "b")
    rest = [writer.submit(events(*items)) for items in ("c", "de", "", "f")]
    assert writer.waiting == 6
    store.gate.set()
    assert first.result(20) == [1, 2]
    assert [future.result(20) for future in rest] == [[3], [4, 5], [], [6]]
    assert store.commits == [["a", "b"], ["c", "d", "e", "f"]]
    until(lambda: writer.waiting == 0)


def test_a_transaction_has_at_most_a_batch_of_events(
    writer: GroupCommitWriter, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_EVENTS_PER_TRANSACTION", 4)
    first = held(writer, store, "0")
    rest = [writer.submit(events(*items)) for items in ("abc", "de", "fg", "h", "ijkl")]
    store.gate.set()
    for future in [first, *rest]:
        future.result(20)
    assert ["".join(items) for items in store.commits] == ["0", "abc", "defg", "h", "ijkl"]
    with pytest.raises(DataError, match="5 events at once"):
        writer.submit(events(*"mnopq"))
    assert writer.submit(events(*"mnop")).result(20) == [14, 15, 16, 17]


def test_no_more_waits_than_may(store: FakeStore) -> None:
    writer = GroupCommitWriter(store, waiting=3)  # type: ignore[arg-type]
    first = held(writer, store, "a", "b")
    second = writer.submit(events("c"))  # three: as many as may wait
    with pytest.raises(StoreBusyError, match="3 events wait"):
        writer.submit(events("d"))
    assert writer.waiting == 3
    store.gate.set()
    assert (first.result(20), second.result(20)) == ([1, 2], [3])
    until(lambda: writer.waiting == 0)
    assert writer.submit(events(*"efg")).result(20) == [4, 5, 6]
    writer.close()


def test_closing_writes_what_waits_and_takes_no_more(writer: GroupCommitWriter, store: FakeStore) -> None:
    first = held(writer, store, "a")
    second = writer.submit(events("b"))
    closing = threading.Thread(target=writer.close)
    closing.start()
    until(lambda: writer._closed)
    with pytest.raises(StoreClosedError):
        writer.submit(events("c"))
    store.gate.set()
    closing.join(20)
    assert not closing.is_alive()
    assert (first.result(0), second.result(0)) == ([1], [2])
    assert writer.waiting == 0
    assert not writer._thread.is_alive()
    assert not writer._checkpoint_thread.is_alive()
    writer.close()  # again: nothing
    assert store.kept == ["a", "b"]


def test_an_idle_writer_closes_at_once(store: FakeStore) -> None:
    GroupCommitWriter(store).close()  # type: ignore[arg-type]
    assert store.commits == []


def test_events_are_checked_against_the_clock_of_the_store_unless_they_were(
    writer: GroupCommitWriter, store: FakeStore
) -> None:
    later = Event("ann", "a", NOW + 10**12)
    with pytest.raises(DataError, match="time"):
        writer.submit([later])
    assert writer.submit([later], validated=True).result(20) == [1]
    store.now += 10**12
    assert writer.submit([later]).result(20) == [2]


def test_a_request_that_cannot_be_kept_fails_alone(writer: GroupCommitWriter, store: FakeStore) -> None:
    store.refuse = lambda items: ValueError("poison") if "x" in items else None
    first = held(writer, store, "0")
    rest = {items: writer.submit(events(*items)) for items in ("a", "x", "b", "cd", "e")}
    store.gate.set()
    first.result(20)
    assert isinstance(rest.pop("x").exception(20), ValueError)
    numbers = [seq for future in rest.values() for seq in future.result(20)]
    assert sorted(numbers) == [2, 3, 4, 5, 6]
    assert store.kept == ["0", "a", "b", "c", "d", "e"]
    until(lambda: writer.waiting == 0)


def test_of_two_requests_one_is_kept(writer: GroupCommitWriter, store: FakeStore) -> None:
    store.refuse = lambda items: ValueError("poison") if "x" in items else None
    first = held(writer, store, "0")
    bad, good = writer.submit(events("x")), writer.submit(events("a"))
    store.gate.set()
    first.result(20)
    assert isinstance(bad.exception(20), ValueError)
    assert good.result(20) == [2]


@pytest.mark.parametrize("error", [StoreFullError("full"), StoreAwayError("away")])
def test_where_the_database_is_the_reason_nothing_is_tried_apart(
    writer: GroupCommitWriter, store: FakeStore, error: Exception
) -> None:
    first = held(writer, store, "0")
    rest = [writer.submit(events(item)) for item in "abc"]
    store.refuse = lambda items: error if items != ["0"] else None
    store.gate.set()
    first.result(20)
    assert [future.exception(20) for future in rest] == [error] * 3
    assert store.commits == [["0"], ["a", "b", "c"]]
    store.refuse = lambda items: None
    assert writer.submit(events("d")).result(20) == [2]


def test_failures_in_a_row_are_one_line_of_the_log(
    writer: GroupCommitWriter, store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    full = StoreFullError("no space")
    with caplog.at_level(logging.WARNING):
        for failing in (True, True, False, True):
            store.refuse = lambda items, failing=failing: full if failing else None
            future = writer.submit(events("a"))
            assert (future.exception(20) is full) == failing
    lines = [record.message for record in caplog.records if "not written" in record.message]
    assert len(lines) == 2
    assert "no space" in lines[0]


def test_a_request_that_was_given_up_is_not_written(writer: GroupCommitWriter, store: FakeStore) -> None:
    first = held(writer, store, "0")
    given_up, other = writer.submit(events("a", "b")), writer.submit(events("c"))
    assert given_up.cancel()
    store.gate.set()
    first.result(20)
    assert other.result(20) == [2]
    assert store.kept == ["0", "c"]
    until(lambda: writer.waiting == 0)
    first = held(writer, store, "1")
    alone = writer.submit(events("d"))
    alone.cancel()
    store.gate.set()
    first.result(20)
    until(lambda: writer.waiting == 0)
    assert store.commits[-1] == ["1"]  # nothing of the other was left to commit


def test_the_log_is_written_back_after_so_many_events(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger=module.log.name)
    monkeypatch.setattr(module, "CHECKPOINT_EVENTS", 5)
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", 1000.0)
    writer = GroupCommitWriter(store)  # type: ignore[arg-type]
    writer.submit(events(*"ab")).result(20)
    writer.submit(events(*"cd")).result(20)
    assert not writer._checkpoint_due.is_set()
    assert store.write_backs == 0
    writer.submit(events("e")).result(20)
    until(lambda: store.write_backs == 1)
    until(lambda: not writer._checkpoint_due.is_set())  # it waits again, and does not turn in circles
    store.write_back_error = OSError("disk")
    writer.submit(events(*"fghij")).result(20)
    until(lambda: store.write_backs == 2)  # it failed, and is tried after the next ones
    until(lambda: "the log is not written back: disk" in caplog.text)
    store.write_back_error = None
    writer.submit(events(*"klmno")).result(20)
    until(lambda: store.write_backs == 3)
    writer.close()
    assert store.write_backs == 3


def test_few_events_are_written_back_when_it_is_quiet_and_none_are_not(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", 0.01)
    waits: list[float] = []
    wait = threading.Event.wait
    writer = GroupCommitWriter(store)  # type: ignore[arg-type]
    monkeypatch.setattr(
        writer._checkpoint_due, "wait", lambda seconds: waits.append(seconds) or wait(writer._checkpoint_due, seconds)
    )
    until(lambda: len(waits) > 3)
    assert store.write_backs == 0
    writer.submit(events("a")).result(20)
    until(lambda: store.write_backs)
    seen = len(waits)
    until(lambda: len(waits) > seen + 3)
    assert store.write_backs == 1  # and not again for the same event
    assert set(waits) == {0.01}
    writer.close()


def test_a_writer_that_is_closing_leaves_the_log_to_the_store(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", 1000.0)
    writer = GroupCommitWriter(store)  # type: ignore[arg-type]
    writer.submit(events("a")).result(20)
    writer.close()
    assert store.write_backs == 0


def test_the_newest_events_are_read_before_they_are_asked_for(
    store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "zhiyin")
    store.load_error = OSError("disk")
    writer = GroupCommitWriter(store)  # type: ignore[arg-type]
    until(lambda: "the newest events are not read: disk" in caplog.text)
    assert writer.submit(events("a")).result(20) == [1]
    writer.close()
    assert store.loads == 1
