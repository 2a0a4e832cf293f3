"""Events in an SQLite store, some in the indexes on the disk and some in the tail: nobody sees a difference."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sqlalchemy")

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.conformance.store import NOW, StoreConformance, event, until
from tests.examples import examples
from zhiyin.store import event_index, event_log, event_merge, event_tail
from zhiyin.store.errors import StoreFullError
from zhiyin.store.event_tail import KEYS, LIST, USER, EventTail
from zhiyin.store.records import Event
from zhiyin.store.store import Store


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments, merges and their transactions of few events."""
    _set_small(monkeypatch)


def _set_small(patch: Any) -> None:
    patch.setattr(event_tail, "SEGMENT_EVENTS", 4)
    patch.setattr(event_tail, "MAX_SEGMENT_EVENTS", 16)
    patch.setattr(event_merge, "MIN_STEP_EVENTS", 3)
    patch.setattr(event_merge, "MAX_STEP_EVENTS", 3)
    patch.setattr(event_merge, "FIRST_STEP_EVENTS", 3)


def _read_columns(patch: Any) -> None:
    """As few events as are there are read as columns."""
    for module in (event_index, event_log, event_merge):
        patch.setattr(module, "MIN_COLUMN_ROWS", 1)
    patch.setattr(event_index, "ROWS_PER_FETCH", 3)
    patch.setattr(event_merge, "ROWS_PER_READ", 4)


def mark_of(store: Store) -> int:
    with store.reading() as link:
        value = link.exec_driver_sql("SELECT value FROM meta WHERE key = 'events_indexed'").scalar()
    return int(value or 0)


def assert_consistent(store: Store) -> None:
    """The indexes hold the events up to the mark, later ones perhaps, and none that does not exist."""
    with store.reading() as link:
        rows = {row.seq: row for row in link.exec_driver_sql("SELECT * FROM events")}
        mark = mark_of(store)
        assert len({row.id for row in rows.values()}) == len(rows)
        for table, field in (("events_of_user", "user"), ("event_ids", "id"), ("event_lists", "list_id")):
            entries = {(row[0], row[1]) for row in link.exec_driver_sql(f'SELECT "{field}", seq FROM {table}')}
            keyed = {(getattr(row, field), seq) for seq, row in rows.items() if getattr(row, field) is not None}
            assert entries <= keyed
            assert {entry for entry in keyed if entry[1] <= mark} <= entries
        for row in link.exec_driver_sql("SELECT * FROM events_of_user"):
            assert row == tuple(rows[row.seq]._mapping[name] for name in row._mapping)
        assert link.exec_driver_sql("PRAGMA integrity_check").fetchone() == ("ok",)


# -- the tail in memory ---------------------------------------------------------------------------------------------

_names = st.sampled_from("abcde")
_tail_rows = st.lists(st.tuples(st.integers(1, 3), _names, st.none() | _names), max_size=80)


@settings(max_examples=examples(60), deadline=None)
@given(rows=_tail_rows, cuts=st.lists(st.integers(0, 80), max_size=6), mark=st.integers(0, 240))
def test_a_tail_finds_what_was_added(rows: list[tuple[int, str, str | None]], cuts: list[int], mark: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _set_small(patch)
        tail, seq, added = EventTail(), 0, []
        for step, user, list_id in rows:
            seq += step
            added.append((seq, user, f"id{seq}", list_id))
        for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(added)], strict=True):
            tail.extend(added[max(0, start - 3) : end])  # some are there already
        assert len(tail) == len(added)
        tail.drop_until(mark)
        assert tail.complete_after <= mark or not added
        for key in KEYS:
            for name in {row[1 + key] for row in added if row[1 + key] is not None} | {"none"}:
                expected = [row[0] for row in added if row[1 + key] == name and row[0] > tail.complete_after]
                assert tail.seqs_of(key, name) == expected
            names = {row[1 + key] for row in added[::2] if row[1 + key] is not None}
            expected = [row[0] for row in added if row[1 + key] in names and row[0] > tail.complete_after]
            assert tail.seqs_of_any(key, sorted(names)) == expected
        assert len(tail) == sum(row[0] > tail.complete_after for row in added)


@settings(max_examples=examples(60), deadline=None)
@given(rows=_tail_rows, cuts=st.lists(st.integers(0, 80), max_size=6), marks=st.lists(st.integers(0, 240), max_size=3))
def test_columns_are_added_as_rows_are(
    rows: list[tuple[int, str, str | None]], cuts: list[int], marks: list[int]
) -> None:
    """Rows and columns in turn, with segments compacted and left to the disk between."""
    with pytest.MonkeyPatch.context() as patch:
        _set_small(patch)
        tail, seq, added = EventTail(), 0, []
        for step, user, list_id in rows:
            seq += step
            added.append((seq, user, f"id{seq}", list_id))
        left = sorted(marks, reverse=True)
        for number, (start, end) in enumerate(zip([0, *sorted(cuts)], [*sorted(cuts), len(added)], strict=True)):
            part = added[max(0, start - 3) : end]
            if number % 2 and part:
                seqs, users, ids, lists = zip(*part, strict=True)
                tail.extend_columns(np.array(seqs), users, ids, lists)
            else:
                tail.extend(part)
            while tail.compact():
                pass
            if left:
                tail.drop_until(left.pop())
        for key in KEYS:
            for name in {row[1 + key] for row in added if row[1 + key] is not None} | {"none"}:
                expected = [row[0] for row in added if row[1 + key] == name and row[0] > tail.complete_after]
                assert [seq for seq in tail.seqs_of(key, name) if seq > tail.complete_after] == expected
                found = [seq for seq in tail.seqs_of_any(key, [name, "other"]) if seq > tail.complete_after]
                assert found == expected
        assert tail.complete_after <= max(marks, default=0)


def test_many_segments_become_few(monkeypatch: pytest.MonkeyPatch) -> None:
    _set_small(monkeypatch)
    tail = EventTail()
    tail.extend([(seq, f"u{seq % 3}", f"e{seq}", None) for seq in range(1, 1_000)])
    before = len(tail._segments)
    while tail.compact():
        pass
    assert before > 60
    assert len(tail._segments) < 12
    assert tail.seqs_of(USER, "u1") == list(range(1, 1_000, 3))
    tail.drop_until(500)
    assert tail.seqs_of(USER, "u1") == [seq for seq in range(1, 1_000, 3) if seq > 500]
    assert len(tail) == 499
    assert tail.complete_after == 500


def test_two_texts_of_one_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_tail, "hash", lambda text: len(text), raising=False)
    store = Store(tmp_path / "shop.db")
    store.append([Event(user, "i", NOW + n, id=f"e{n}", list_id=f"l{n % 3}") for n, user in enumerate("abcabcabc")])
    assert store.append([Event("a", "i", NOW, id="e3"), Event("a", "i", NOW, id="x3")]) == [False, True]
    assert [one.id for one in store.history("b", 2)] == ["e4", "e7"]
    assert [one.id for one in store.history("b", 1)] == ["e7"]
    assert [one.id for one in store.events_of_list("l1")] == ["e1", "e4", "e7"]
    assert store.forget("a")["events removed"] == 4
    assert store.count() == 6
    store.close()


# -- merges ---------------------------------------------------------------------------------------------------------


class MergedStore(Store):
    """Merges after each append, up to a transaction in the middle."""

    numbers = random.Random(5)

    def append_validated(self, events: Any) -> list[int]:
        result = super().append_validated(events)
        for _ in range(self.numbers.randrange(12)):
            self._merge.step()  # type: ignore[union-attr]
        return result


class TestMerged(StoreConformance):
    """The whole suite with merges that stop anywhere."""

    @pytest.fixture
    def address(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'shop.db'}"

    @pytest.fixture
    def store(self, address: str, small_parts: None) -> Iterator[Store]:
        opened = MergedStore(address)
        yield opened
        opened.close()


class TestMergedByColumns(TestMerged):
    """The same where tails, merges and frames are read as columns."""

    @pytest.fixture
    def store(self, address: str, small_parts: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
        _read_columns(monkeypatch)
        opened = MergedStore(address)
        yield opened
        opened.close()


def test_a_merge_enters_everything_and_moves_the_mark(tmp_path: Path, small_parts: None) -> None:
    store = Store(tmp_path / "shop.db")
    assert store.merge_events() == 0
    store.append([event(n, list_id="l" if n % 2 else None) for n in range(10)])
    assert store.merge_events() == 25  # 10 by user, 10 by id, 5 by list
    assert mark_of(store) == 10
    assert store.merge_events() == 0
    assert len(store._fast_path.index.tail) == 10  # type: ignore[union-attr]
    assert store.history("alice") == [event(n, list_id="l" if n % 2 else None) for n in range(10)]
    assert len(store._fast_path.index.tail) == 0  # type: ignore[union-attr]
    assert_consistent(store)
    store.close()


def test_a_state_of_before_the_merge_is_read_whole(tmp_path: Path, small_parts: None) -> None:
    """A reader whose transaction began before the mark was moved asks a tail that has left the events to the disk."""
    store = Store(tmp_path / "shop.db")
    store.append([event(n, list_id=f"l{n % 2}") for n in range(20)])
    index = store._fast_path.index  # type: ignore[union-attr]
    with sqlite3.connect(tmp_path / "shop.db", isolation_level=None) as old:
        old.execute("BEGIN")
        old.execute("SELECT count(*) FROM events").fetchone()
        store.merge_events()
        store.append([event(20)])
        assert len(index.tail) == 1
        assert [row[2] for row in sorted(index.history(old, "alice", 3), key=lambda row: row[7])] == [
            NOW + 17, NOW + 18, NOW + 19,
        ]  # fmt: skip
        assert index.seqs(old, USER, ["alice", "bob"]) == list(range(1, 21))
        assert index.seqs(old, LIST, ["l1"]) == list(range(2, 21, 2))
        old.execute("ROLLBACK")
        assert index.seqs(old, USER, ["alice"]) == list(range(1, 22))
    old.close()
    store.close()


def test_who_is_forgotten_in_the_middle_of_a_merge_is_not_entered(tmp_path: Path, small_parts: None) -> None:
    store = Store(tmp_path / "shop.db")
    store.append([event(n, user=user, list_id="l") for n in range(10) for user in ("alice", "someone-special")])
    for _ in range(3):
        assert store._merge.step() == 3  # type: ignore[union-attr]
    proof = store.forget("someone-special")
    assert (proof["events removed"], proof["events found"]) == (10, 0)
    store.drop_events_before(NOW + 2)
    store.merge_events()
    assert [one.item for one in store.history("alice")] == [f"film {n}" for n in range(2, 10)]
    assert store.append([event(5), event(5, user="someone-special")]) == [False, True]
    assert_consistent(store)
    store.forget("someone-special")
    store.close()
    for path in tmp_path.iterdir():
        assert b"someone-special" not in path.read_bytes()


def test_much_is_merged_beside_and_who_appends_faster_takes_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_merge, "MERGE_EVENTS", 200)
    monkeypatch.setattr(event_tail, "SEGMENT_EVENTS", 100)
    store = Store(tmp_path / "shop.db")
    for start in range(0, 1_000, 50):
        store.append([event(n) for n in range(start, start + 50)])
    until(lambda: mark_of(store) > 700)  # the thread
    until(lambda: store._merge._thread is None)  # type: ignore[union-attr]
    assert_consistent(store)
    monkeypatch.setattr(event_merge.EventMerge, "_start_thread", lambda self: None)
    monkeypatch.setattr(event_merge, "MAX_TAIL_EVENTS", 300)
    before = mark_of(store)
    for start in range(1_000, 2_000, 50):
        store.append([event(n) for n in range(start, start + 50)])
    assert mark_of(store) > before
    assert store.last_seq - mark_of(store) < 600
    assert len(store.history("alice", 5_000)) == 2_000
    assert_consistent(store)
    store.close()


def test_a_larger_log_is_merged_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_merge, "MERGE_EVENTS", 10)
    monkeypatch.setattr(event_merge, "MAX_MERGE_EVENTS", 30)
    monkeypatch.setattr(event_merge.EventMerge, "_start_thread", lambda self: None)
    store = Store(tmp_path / "shop.db")
    merge, expected = store._merge, [(0, 10), (290, 15), (600, 30)]
    assert merge is not None
    for n_more, n_events in expected:
        store.append([event(n) for n in range(store.last_seq, store.last_seq + n_more)])
        while merge.step():
            pass
        store.append([event(n) for n in range(store.last_seq, store.last_seq + n_events - 1)])
        assert (merge.merge_events, merge.step(merge.merge_events)) == (n_events, 0)
        store.append([event(store.last_seq)])
        assert merge.step(merge.merge_events) > 0
        while merge.step():
            pass
    store.close()


def test_keys_are_sorted_as_sqlite_sorts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = ["b", "a", "é", "知音", "😀", "\uffee", "B", "a b", "a", "Z"]
    store, merge = Store(tmp_path / "shop.db"), {}
    store.append([
        Event(user, "i", NOW + n, id=f"{user}-{n}", list_id=f"l {user}" if n % 2 else None)
        for n, user in enumerate(users * 3)
    ])  # fmt: skip
    for minimum in (sys.maxsize, 1):
        monkeypatch.setattr(event_merge, "MIN_COLUMN_ROWS", minimum)
        plan = store._merge._new_plan(1)  # type: ignore[union-attr]
        assert plan is not None
        merge[minimum] = [list(seqs) for _, seqs in plan.entries]
        store._merge._end()  # type: ignore[union-attr]
    assert merge[1] == merge[sys.maxsize]
    assert [len(seqs) for seqs in merge[1]] == [30, 30, 15]
    store.close()


def test_of_two_processes_one_merges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_parts: None) -> None:
    first, second = Store(tmp_path / "shop.db"), Store(tmp_path / "shop.db")
    first.append([event(n) for n in range(10)])
    assert first._merge.step() == 3  # type: ignore[union-attr]
    assert second._merge.step() == 0  # type: ignore[union-attr]
    assert second.append([event(3), event(10)]) == [False, True]
    first.merge_events()
    second.merge_events()
    assert mark_of(first) == 11
    assert first.history("alice") == second.history("alice") == [event(n) for n in range(11)]
    # Far too much is merged by whoever can: another process may have been stopped.
    first.append([event(n) for n in range(11, 20)])
    assert first._merge.step() == 3  # type: ignore[union-attr]
    monkeypatch.setattr(event_merge, "MAX_TAIL_EVENTS", 1)
    second.history("alice")
    second.merge_events()
    assert mark_of(second) == 20
    first.merge_events()
    assert_consistent(first)
    first.close()
    second.close()


def test_a_merge_without_space_costs_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "shop.db")
    store.append([event(n) for n in range(2_000)])
    with store._fast_path.connection() as raw:  # type: ignore[union-attr]
        pages = raw.execute("PRAGMA page_count").fetchone()[0]
        raw.execute(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(StoreFullError):
        store.merge_events()
    monkeypatch.setattr(event_merge, "MERGE_EVENTS", 10)
    monkeypatch.setattr(event_merge, "MAX_TAIL_EVENTS", 20)
    monkeypatch.setattr(event_merge.EventMerge, "_start_thread", lambda self: None)
    assert store.append([event(2_000)]) == [True]  # there is space for it, though not for the merge
    assert len(store.history("alice", 5_000)) == 2_001
    with store._fast_path.connection() as raw:  # type: ignore[union-attr]
        raw.execute("PRAGMA max_page_count=100000")
    store.merge_events()
    assert mark_of(store) == 2_001
    assert_consistent(store)
    store.close()


def test_a_backup_in_the_middle_of_a_merge(tmp_path: Path, small_parts: None) -> None:
    store = Store(tmp_path / "shop.db")
    store.append([event(n, list_id="l") for n in range(10)])
    for _ in range(4):
        store._merge.step()  # type: ignore[union-attr]
    copy = Store(store.backup(tmp_path / "copy.db"))
    assert copy.history("alice") == store.history("alice")
    assert copy.append([event(4)]) == [False]
    copy.merge_events()
    assert copy.events_of_list("l") == store.events_of_list("l")
    assert_consistent(copy)
    copy.close()
    store.close()


# -- processes ------------------------------------------------------------------------------------------------------

CHILD = """
import os, random, signal, sys
from contextlib import contextmanager
from zhiyin.store import event_index, event_merge, event_tail
from zhiyin.store.records import Event
from zhiyin.store.store import Store

path, name, seed, steps = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
if seed > 2:  # tails and plans of merges are read as columns
    event_index.MIN_COLUMN_ROWS = event_merge.MIN_COLUMN_ROWS = 1
event_merge.MERGE_EVENTS, event_merge.MAX_TAIL_EVENTS = 60, 120
event_merge.MIN_STEP_EVENTS = event_merge.MAX_STEP_EVENTS = event_merge.FIRST_STEP_EVENTS = 17
event_tail.SEGMENT_EVENTS, event_tail.MAX_SEGMENT_EVENTS = 16, 64
store, numbers, entered = Store(path), random.Random(seed), 0
writing = store._fast_path.writing

@contextmanager
def killed_writing(durable=True):
    global entered
    entered += not durable
    is_last = not durable and entered == steps
    with writing(durable) as connection:
        yield connection
        if is_last and seed % 2:
            os.kill(os.getpid(), signal.SIGKILL)  # entered, not committed
    if is_last:
        os.kill(os.getpid(), signal.SIGKILL)  # committed, and nobody knows

if steps:
    store._fast_path.writing = killed_writing
for number in range(40):
    batch = [Event(f"u{n % 5}", "i", 1_700_000_000_000_000 + number, id=f"{name}-{number}-{n}") for n in range(7)]
    batch.append(Event("both", "i", 1_700_000_000_000_000, id=f"both-{number}"))
    fresh = store.append(batch)
    print(*(f"{event.id}={int(new)}" for event, new in zip(batch, fresh)), flush=True)
    user = f"u{numbers.randrange(5)}"
    seqs = [event.seq for event in store.history(user, 50)]
    assert len(set(seqs)) == len(seqs)
"""


def run_children(path: Path, children: list[tuple[str, int, int]]) -> list[tuple[int, dict[str, int]]]:
    """Run processes at once. Returns of each its exit status and the ids that it was told of: 1 where they were new."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), name, str(seed), str(steps)],
            stdout=subprocess.PIPE, text=True, env=os.environ,
        )
        for name, seed, steps in children
    ]  # fmt: skip
    results = []
    for process in processes:
        text, _ = process.communicate(timeout=120)
        words = text[: text.rfind("\n") + 1].split()
        results.append((process.returncode, {id: int(new) for id, new in (word.split("=") for word in words)}))
    return results


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_no_kill_in_the_middle_of_a_merge_loses_or_doubles(seed: int, tmp_path: Path) -> None:
    path, acknowledged = tmp_path / "shop.db", set[str]()
    for round, steps in enumerate((1, 9)):
        ((status, told),) = run_children(path, [(f"k{round}", seed, steps)])
        assert status == -signal.SIGKILL
        acknowledged.update(told)
    store = Store(path)
    ids = [id for part in store.event_batches() for id in part["id"]]
    assert len(ids) == len(set(ids))
    assert acknowledged <= set(ids)
    assert_consistent(store)
    for user in ("u0", "u4", "both"):
        by_scan = [(row["id"], row["seq"]) for part in store.event_batches() for row in part.iter_rows(named=True)
                   if row["user"] == user]  # fmt: skip
        assert sorted((one.id, one.seq) for one in store.history(user, 10_000)) == sorted(by_scan)
    repeated = [Event("u", "i", NOW, id=id) for id in sorted(acknowledged)]
    assert not any(store.append(repeated))
    store.merge_events()
    assert not any(store.append(repeated))
    assert_consistent(store)
    store.close()


def test_two_processes_append_merge_and_read(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    Store(path).close()
    results = run_children(path, [("a", 1, 0), ("b", 2, 0)])
    assert [status for status, _ in results] == [0, 0]
    (_, first), (_, second) = results
    assert len(first) == len(second) == 320
    assert sum(first.values()) + sum(second.values()) == 600  # of the ids that both have sent, each is new to one
    assert all(first[f"both-{n}"] + second[f"both-{n}"] == 1 for n in range(40))
    store = Store(path)
    assert store.count() == 600
    assert [one.seq for one in store.history("both")] == sorted(one.seq for one in store.history("both"))
    assert len(store.history("both")) == 40
    assert mark_of(store) > 0
    assert_consistent(store)
    store.close()


# -- against a plain model ------------------------------------------------------------------------------------------

_USERS, _LISTS = ("ann", "bob", "eve"), (None, "l1", "l2")
_events = st.lists(
    st.tuples(st.sampled_from(_USERS), st.integers(0, 30), st.integers(0, 20), st.sampled_from(_LISTS)), max_size=12
)


class EventsAgainstAModel(RuleBasedStateMachine):
    """Two stores on one file, and a list of events in memory."""

    by_columns = False

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        _set_small(self.patch)
        if self.by_columns:
            _read_columns(self.patch)
        self.model: list[Event] = []
        self.highest = 0

    @initialize()
    def open(self) -> None:
        self.path = MACHINE_FOLDER[0] / f"{next(MACHINE_NUMBERS)}.db"
        self.stores = [Store(self.path), Store(self.path)]

    @rule(which=st.integers(0, 1), rows=_events)
    def append(self, which: int, rows: list[tuple[str, int, int, str | None]]) -> None:
        events = [Event(user, "i", NOW + time, id=f"e{n}", list_id=list_id) for user, n, time, list_id in rows]
        known, expected = {one.id for one in self.model}, []
        for one in events:
            expected.append(one.id not in known)
            if one.id not in known:
                self.highest += 1
                known.add(one.id)
                self.model.append(dataclasses.replace(one, seq=self.highest))
        assert self.stores[which].append(events) == expected

    @rule(which=st.integers(0, 1), n_steps=st.integers(1, 12))
    def merge(self, which: int, n_steps: int) -> None:
        for _ in range(n_steps):
            self.stores[which]._merge.step()  # type: ignore[union-attr]

    @rule(which=st.integers(0, 1), user=st.sampled_from(_USERS), limit=st.integers(1, 12), after=st.integers(0, 60))
    def read(self, which: int, user: str, limit: int, after: int) -> None:
        store = self.stores[which]
        own = sorted((one for one in self.model if one.user == user), key=lambda one: one.seq)
        expected = sorted(own[-limit:], key=lambda one: (one.time, one.seq))
        found = store.history(user, limit)
        assert (found, [one.seq for one in found]) == (expected, [one.seq for one in expected])
        later = [one for one in own if one.seq > after][-limit:]
        recent = store.recent_events(user, limit, after)[0]
        assert [one.seq for one in recent] == [
            one.seq for one in sorted(later, key=lambda one: (one.time, one.seq))
        ]  # fmt: skip
        assert store.first_seq_of(user) == next((one.seq for one in own), 0)
        of_list = [one for one in self.model if one.list_id == "l1"]
        assert store.events_of_list("l1") == sorted(of_list, key=lambda one: one.seq)
        rewards = store.event_rewards_of(["l1", "l2"], {"event"})
        assert rewards["seq"].to_list() == [one.seq for one in self.model if one.list_id is not None]

    @rule(which=st.integers(0, 1), user=st.sampled_from(_USERS))
    def forget(self, which: int, user: str) -> None:
        proof = self.stores[which].forget(user)
        n_own = sum(one.user == user for one in self.model)
        assert (proof["events removed"], proof["events found"]) == (n_own, 0)
        self.model = [one for one in self.model if one.user != user]

    @rule(which=st.integers(0, 1), time=st.integers(0, 8))
    def drop(self, which: int, time: int) -> None:
        n_old = sum(one.time < NOW + time for one in self.model)
        assert self.stores[which].drop_events_before(NOW + time) == n_old
        self.model = [one for one in self.model if one.time >= NOW + time]

    @rule(which=st.integers(0, 1))
    def reopen(self, which: int) -> None:
        self.stores[which].close()
        self.stores[which] = Store(self.path)

    @invariant()
    def same_log(self) -> None:
        if hasattr(self, "stores"):
            frame = self.stores[0].events()
            assert list(frame.select("seq", "id").iter_rows()) == [(one.seq, one.id) for one in self.model]

    def teardown(self) -> None:
        if hasattr(self, "stores"):
            assert_consistent(self.stores[1])
            for store in self.stores:
                store.close()
        self.patch.undo()


MACHINE_FOLDER: list[Path] = []
MACHINE_NUMBERS = iter(range(10**9))


class ColumnsAgainstAModel(EventsAgainstAModel):
    by_columns = True


@pytest.mark.parametrize("machine", [EventsAgainstAModel, ColumnsAgainstAModel])
def test_against_a_model(tmp_path: Path, machine: type[RuleBasedStateMachine]) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    MACHINE_FOLDER[:] = [tmp_path]
    limits = settings(max_examples=examples(15), stateful_step_count=25, deadline=None)
    run_state_machine_as_test(machine, settings=limits)
