"""Segments hold each event, and each item of each list, exactly once: whoever writes, forgets, prunes or is killed."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from tests.conftest import own_schema
from zhiyin.core.errors import ConfigError, DataError
from zhiyin.core.file_locks import LockHeldError
from zhiyin.data.event_schema import EventSchema, schema_of_weights
from zhiyin.store import segment_export
from zhiyin.store.records import Event
from zhiyin.store.segment_export import SegmentExporter
from zhiyin.store.segment_files import Segment, listed_segments
from zhiyin.store.store import Store
from zhiyin.store.stream_definitions import EVENT_SEGMENT, IMPRESSION_SEGMENT
from zhiyin.store.tables import LIST_NUMBERS, LISTS
from zhiyin.store.traces import Trace

NOW = 1_700_000_000_000_000
USUAL = schema_of_weights((), {})


def event(n: int, user: str = "alice", **more: Any) -> Event:
    return Event(user, f"film {n}", NOW + n, id=f"{user}-{n}", **more)


def trace(n: int, user: str | None = "alice", items: tuple[str, ...] = ("a", "b"), time: int = NOW) -> Trace:
    return Trace(f"list {n}", user, time, 3, "home", {"request": {}, "items": list(items)})


def exported(folder: Path, kind: str = "events") -> list[dict[str, Any]]:
    """The rows of all segments, after checking what their names say."""
    rows, before = [], 0
    for segment in listed_segments(folder, kind):
        assert segment.first == before + 1
        before = segment.last
        text = (folder / kind / segment.name).read_text(encoding="utf-8")
        assert text.endswith("\n")
        of_segment = [json.loads(line) for line in text.splitlines()]
        assert len(of_segment) == segment.rows
        if kind == "events":
            numbers = [row["seq"] for row in of_segment]
            assert numbers == sorted(numbers)
            assert numbers[0] >= segment.first
            assert numbers[-1] == segment.last
        rows += of_segment
    return rows


def export(store: Store, folder: Path, schema: EventSchema = USUAL, **more: Any) -> int:
    with SegmentExporter(store, folder, lambda: schema, **more) as exporter:
        return exporter.export()


class ExportConformance:
    @pytest.fixture
    def address(self, tmp_path: Path) -> str:
        raise NotImplementedError

    @pytest.fixture
    def store(self, address: str) -> Iterator[Store]:
        opened = Store(address)
        yield opened
        opened.close()

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path / "streams"

    def test_rows_are_those_of_the_store(self, store: Store, folder: Path) -> None:
        store.append(
            [
                event(1, kind="purchase", value=0.1 + 0.2, list_id="l1"),
                event(2, user='知音 🎧 "quoted" \\ /'),
                event(3, kind="dislike", value=1e-7),
            ]
        )
        assert export(store, folder) == 3
        rows = exported(folder)
        assert [list(row) for row in rows] == [list(EVENT_SEGMENT)] * 3
        stored = store.events().to_dicts()
        assert [{name: row[name] for name in stored[0]} for row in rows] == stored
        assert [row["weight"] for row in rows] == [5.0, 1.0, -1.0]
        assert export(store, folder) == 0

    def test_numbers_beyond_a_double_stay_whole(self, store: Store, folder: Path) -> None:
        large = 2**53 + 1
        with store.writing() as connection:
            columns = 'seq, "user", item, time, kind, id, received'
            connection.exec_driver_sql(
                f"INSERT INTO events ({columns}) VALUES ({large}, 'u', 'i', {large + 2}, 'view', 'x', {large + 4})"
            )
        export(store, folder)
        (row,) = exported(folder)
        assert (row["seq"], row["time"], row["received"]) == (large, large + 2, large + 4)
        assert listed_segments(folder, "events") == [Segment("events", 1, large, 1)]

    def test_times_that_are_none_are_left_out(self, store: Store, folder: Path) -> None:
        """Stores of older formats took any time."""
        store.append([event(n) for n in range(6)])

        def age(*seqs: int) -> None:
            with store.writing() as connection:
                connection.exec_driver_sql(f"UPDATE events SET time = -5 WHERE seq IN ({', '.join(map(str, seqs))})")

        age(1, 2)
        assert export(store, folder) == 4
        store.append([event(n) for n in (6, 7)])
        age(7, 8)
        with SegmentExporter(store, folder, lambda: USUAL) as exporter:
            assert exporter.export() == 0
            store.append([event(8)])
            assert exporter.export() == 1
        assert [row["time"] - NOW for row in exported(folder)] == [2, 3, 4, 5, 8]
        assert [(one.first, one.last) for one in listed_segments(folder, "events")] == [(1, 6), (7, 9)]

    def test_weights_are_those_of_the_schema_at_the_time(self, store: Store, folder: Path) -> None:
        store.append([event(1, kind="view"), event(2, kind="rated", value=4.0)])
        schemas = [schema_of_weights((), {"value >= 4": 2.5}), USUAL]
        with SegmentExporter(store, folder, lambda: schemas[0]) as exporter:
            exporter.export()
            schemas.pop(0)
            store.append([event(3)])
            exporter.export()
        assert [row["weight"] for row in exported(folder)] == [0.0, 2.5, 1.0]

    def test_impressions_are_items_in_slots(self, store: Store, folder: Path) -> None:
        store.append_traces([trace(1), trace(2, user=None, items=("知音", "b", "c")), trace(3, items=())])
        assert export(store, folder) == 5
        rows = exported(folder, "impressions")
        assert [list(row) for row in rows] == [list(IMPRESSION_SEGMENT)] * 5
        assert rows[0] == {
            "list_id": "list 1", "placement": "home", "version": 3, "user": "alice", "time": NOW, "slot": 1,
            "item": "a", "id": "list 1:1",
        }  # fmt: skip
        assert [(row["list_id"], row["user"], row["slot"], row["item"]) for row in rows[2:]] == [
            ("list 2", None, 1, "知音"), ("list 2", None, 2, "b"), ("list 2", None, 3, "c"),
        ]  # fmt: skip
        assert export(store, folder) == 0

    def test_lists_are_whole_and_once_whatever_their_times(self, store: Store, folder: Path) -> None:
        """Lists of machines whose clocks differ, stored late, and one sent twice."""
        store.append_traces([trace(1, time=NOW + 10**9)])
        export(store, folder)
        store.append_traces([trace(2, time=NOW - 10**9), trace(1, time=NOW + 10**9)])
        store.append_traces([trace(3, time=NOW)])
        export(store, folder)
        store.append_traces([trace(4, items=())])
        assert export(store, folder) == 0
        store.append_traces([trace(5)])
        export(store, folder)
        counts = Counter((row["list_id"], row["item"]) for row in exported(folder, "impressions"))
        assert counts == Counter({(f"list {n}", item): 1 for n in (1, 2, 3, 5) for item in "ab"})

    def test_lists_of_before_have_numbers(self, address: str, folder: Path) -> None:
        store = Store(address)
        store.append_traces([trace(n, time=NOW - n) for n in range(5)])
        with store.writing() as connection:  # as a program wrote it that did not know of the numbers
            LIST_NUMBERS.drop(connection)
        store.close()
        store = Store(address)
        assert export(store, folder) == 10
        assert store.numbered_lists()["list_id"].to_list() == [f"list {n}" for n in (4, 3, 2, 1, 0)]
        store.close()

    def test_numbers_go_with_their_lists(self, store: Store) -> None:
        store.append_traces([trace(1), trace(2, user="bob"), trace(3, user="bob", time=NOW + 5)])
        assert store.forget("alice")["list_numbers removed"] == 1
        assert store.drop_lists_before(NOW + 1) == 1
        assert store.numbered_lists()["number"].to_list() == [3]
        assert store.highest_list_number == 3

    def test_a_list_that_was_loaded_has_a_number(self, store: Store, folder: Path, tmp_path: Path) -> None:
        store.append_traces([trace(n) for n in range(3)])
        copy = Store(tmp_path / "copy.db")
        copy.load(store.export(tmp_path / "export"))
        copy.load(tmp_path / "export")
        assert export(copy, folder) == 6
        copy.close()

    def test_segments_are_bounded(self, store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(segment_export, "EVENTS_PER_PAGE", 3)
        monkeypatch.setattr(segment_export, "LISTS_PER_PAGE", 4)
        store.append([event(n) for n in range(20)])
        store.append_traces([trace(n, items=tuple(f"i{k}" for k in range(n % 4))) for n in range(12)])
        export(store, folder, segment_rows=7)
        assert [segment.rows for segment in listed_segments(folder, "events")] == [7, 7, 6]
        assert len(exported(folder)) == 20
        assert all(segment.rows <= 7 for segment in listed_segments(folder, "impressions"))
        assert len(exported(folder, "impressions")) == 18

    def test_pruned_events_leave_no_gap(self, store: Store, folder: Path) -> None:
        store.append([event(n) for n in range(10)])
        store.drop_events_before(NOW + 4)
        export(store, folder)
        store.append([event(n) for n in range(10, 16)])
        store.drop_events_before(NOW + 16)  # none of these is exported any more
        assert export(store, folder) == 0
        store.append([event(20)])
        assert export(store, folder) == 1
        assert [row["time"] - NOW for row in exported(folder)] == [4, 5, 6, 7, 8, 9, 20]
        assert [(one.first, one.last) for one in listed_segments(folder, "events")] == [(1, 10), (11, 17)]

    def test_who_was_forgotten_is_not_exported(self, store: Store, folder: Path) -> None:
        store.append([event(1), event(2, user="bob")])
        store.append_traces([trace(1), trace(2, user="bob")])
        store.forget("alice")
        export(store, folder)
        assert {row["user"] for kind in ("events", "impressions") for row in exported(folder, kind)} == {"bob"}
        store.append([event(3)])
        export(store, folder)
        assert [row["user"] for row in exported(folder)] == ["bob", "alice"]

    def test_who_is_forgotten_while_a_segment_is_written_is_not_in_it(
        self, store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.append([event(1), event(2, user="bob")])
        read, forgotten = store.events, []

        def read_then_forget(*args: Any) -> Any:
            page = read(*args)
            if not forgotten:
                forgotten.append(store.forget("alice"))
            return page

        monkeypatch.setattr(store, "events", read_then_forget)
        export(store, folder)
        assert forgotten
        assert [row["user"] for row in exported(folder)] == ["bob"]

    def test_several_writers_and_an_exporter(self, store: Store, address: str, folder: Path) -> None:
        """An event that commits late has a higher number than all that an export has seen."""
        others = [Store(address) for _ in range(3)]
        running = threading.Barrier(len(others) + 1)

        def write(number: int) -> None:
            running.wait()
            for n in range(15):
                others[number].append([event(100 * n + k, user=f"u{number}") for k in range(5)])
                others[number].append_traces([trace(1_000 * number + n, user=f"u{number}")])

        with ThreadPoolExecutor(len(others)) as pool, SegmentExporter(store, folder, lambda: USUAL) as exporter:
            writing = [pool.submit(write, number) for number in range(len(others))]
            running.wait()
            while not all(one.done() for one in writing):
                exporter.export()
            exporter.export()
            for one in writing:
                one.result()
        for other in others:
            other.close()
        assert sorted(row["id"] for row in exported(folder)) == sorted(store.events()["id"])
        assert store.count() == 225
        counts = Counter(row["id"] for row in exported(folder, "impressions"))
        assert (len(counts), set(counts.values())) == (90, {1})


class TestSQLite(ExportConformance):
    @pytest.fixture
    def address(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'shop.db'}"

    def test_one_exporter_a_folder(self, store: Store, folder: Path) -> None:
        with (
            SegmentExporter(store, folder, lambda: USUAL),
            pytest.raises(LockHeldError, match="another exporter") as error,
        ):
            SegmentExporter(store, folder, lambda: USUAL)
        assert str(folder) in str(error.value)
        SegmentExporter(store, folder, lambda: USUAL).close()

    def test_a_folder_of_another_store_is_refused(self, store: Store, folder: Path, tmp_path: Path) -> None:
        store.append([event(1)])
        export(store, folder)
        other = Store(tmp_path / "other.db")
        with pytest.raises(ConfigError, match="another store"):
            SegmentExporter(other, folder, lambda: USUAL)
        other.close()
        assert export(store, folder) == 0  # the lock was given up

    def test_a_damaged_head_costs_its_own_list_only(
        self, store: Store, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        store.append_traces([trace(1), trace(2), trace(3)])
        with store.writing() as connection:
            connection.execute(LISTS.update().where(LISTS.c.list_id == "list 2").values(head='{"items": ["a"'))
        assert export(store, folder) == 4
        assert {row["list_id"] for row in exported(folder, "impressions")} == {"list 1", "list 3"}
        assert "list 2" in caplog.text

    def test_old_segments_go_once_they_are_applied(self, store: Store, folder: Path) -> None:
        for n in range(4):
            store.append([event(n)])
            export(store, folder)
        for path in (folder / "events").iterdir():
            os.utime(path, (1_000_000_000, 1_000_000_000))
        export(store, folder, keep=3_600, applied=lambda: 2)
        assert [segment.first for segment in listed_segments(folder, "events")] == [3, 4]
        export(store, folder, keep=3_600)  # the newest stays: its name says how far the export has come
        assert [segment.first for segment in listed_segments(folder, "events")] == [4]
        store.append([event(9)])
        export(store, folder, keep=3_600, applied=lambda: 0)  # a state that was emptied cannot wait for what is gone
        assert [segment.first for segment in listed_segments(folder, "events")] == [5]
        assert listed_segments(folder, "events")[-1] == Segment("events", 5, 5, 1)

    def test_segments_that_overlap_are_told(self, store: Store, folder: Path) -> None:
        store.append([event(1), event(2)])
        export(store, folder)
        (folder / "events" / Segment("events", 2, 5, 4).name).write_text("")
        with pytest.raises(DataError, match="the same rows"):
            SegmentExporter(store, folder, lambda: USUAL)

    def test_no_segment_is_missed_while_the_folder_is_read(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first reading misses one that was added meanwhile, but not the one added after it."""
        segments = [Segment("events", n, n, 1) for n in (1, 2, 3, 4)]
        readings = iter([[segments[0], segments[2]], segments])
        monkeypatch.setattr("zhiyin.store.segment_files._read_names", lambda *_: iter(next(readings)))
        assert listed_segments(folder, "events") == segments[:3]

    def test_it_waits_for_a_store_that_is_away(
        self, store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        from zhiyin.store.errors import StoreAwayError

        store.append([event(1)])
        stop, calls = threading.Event(), []

        class Pauses:
            def is_set(self) -> bool:
                return stop.is_set()

            def wait(self, seconds: float) -> None:
                calls.append(seconds)
                if len(calls) == 2:
                    monkeypatch.undo()
                if len(calls) == 3:
                    stop.set()

        def away(*_: Any) -> Any:
            raise StoreAwayError("away", remedy="wait")

        monkeypatch.setattr(store, "events", away)
        with SegmentExporter(store, folder, lambda: USUAL) as exporter:
            exporter.run(Pauses(), every=0.5)  # type: ignore[arg-type]
        assert calls == [0.5] * 3
        assert len(exported(folder)) == 1
        assert caplog.text.count("nothing is exported") == 1


class TestPostgreSQL(ExportConformance):
    @pytest.fixture
    def address(self, postgres: str) -> str:
        return own_schema(postgres)

    def test_a_commit_that_takes_long_is_not_passed_over(self, store: Store, address: str, folder: Path) -> None:
        """While a transaction has numbers and is not committed, no later one commits, so nothing is exported."""
        other = Store(address)
        with ThreadPoolExecutor(1) as pool:
            with store.writing() as connection:
                connection.exec_driver_sql(
                    'INSERT INTO events ("user", item, time, kind, id, received) '
                    f"VALUES ('u','i',{NOW},'view','late',1)"
                )
                later = pool.submit(other.append, [event(2)])
                assert export(store, folder) == 0
                assert not later.done()
            later.result(30)
        assert export(store, folder) == 2
        assert [row["id"] for row in exported(folder)] == ["late", "alice-2"]
        other.close()


# Ends itself by SIGKILL at a step of the writing of the third segment.
KILLED = """
import os, signal, sys
from pathlib import Path
from zhiyin.core import atomic_files
from zhiyin.data.event_schema import schema_of_weights
from zhiyin.store.segment_export import SegmentExporter
from zhiyin.store.store import Store

address, folder, step = sys.argv[1:]
calls = 0

def killing(name, when):
    real = getattr(os, name)
    def call(*args, **more):
        global calls
        if "segment" in str(args[0]) or "events-" in str(args[0]) or name == "fsync":
            calls += 1
            if calls == 3 and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **more)
        if calls == 3 and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(os, name, call)

killing(*step.split())
with SegmentExporter(Store(address), Path(folder), lambda: schema_of_weights((), {}), segment_rows=10) as exporter:
    exporter.export()
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", ["fsync before", "replace before", "replace after", "fsync after"])
def test_a_kill_at_any_step_loses_and_repeats_nothing(tmp_path: Path, step: str) -> None:
    address, folder = f"sqlite:///{tmp_path / 'shop.db'}", tmp_path / "streams"
    store = Store(address)
    store.append([event(n) for n in range(55)])
    ended = subprocess.run([sys.executable, "-c", KILLED, address, str(folder), step], check=False, timeout=120)
    assert ended.returncode == -signal.SIGKILL
    assert len(exported(folder)) < 55
    export(store, folder, segment_rows=10)
    assert [row["time"] - NOW for row in exported(folder)] == list(range(55))
    assert not list((folder / "events").glob(".*"))
    store.close()


@pytest.mark.parametrize("removed", [slice(None), slice(1, None)], ids=["all", "the newest"])
def test_segments_that_were_removed_are_not_written_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, removed: slice
) -> None:
    """Running jobs have read them, and would count their events twice."""
    folder = tmp_path / "streams"
    with closing(Store(tmp_path / "store.db")) as store:
        for start in (0, 5):
            store.append([event(n) for n in range(start, start + 5)])
            store.append_traces([trace(n) for n in range(start, start + 5)])
            assert export(store, folder) == 5 + 10
        for kind in ("events", "impressions"):
            for path in sorted((folder / kind).iterdir())[removed]:
                path.unlink()
        with caplog.at_level(logging.WARNING, "zhiyin"):
            assert export(store, folder) == 0
        assert [record.args for record in caplog.records] == [("events", 10), ("impressions", 10)]
        assert all("--fresh" in record.message for record in caplog.records)
        store.append([event(10)])
        assert export(store, folder) == 1
        assert listed_segments(folder, "events")[-1] == Segment("events", 11, 11, 1)
        for path in (folder / "events").iterdir():
            path.unlink()
        (folder / "store.json").unlink()  # as a fresh start does
        export(store, folder)
        assert [row["seq"] for row in exported(folder)] == list(range(1, 12))


@pytest.mark.parametrize("failing", ["zhiyin.store.segment_export.write_json", "zhiyin.core.atomic_files.sync"])
def test_what_fails_after_a_segment_is_there_has_no_row_written_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    folder = tmp_path / "streams"
    with (
        closing(Store(tmp_path / "store.db")) as store,
        SegmentExporter(store, folder, lambda: USUAL) as exporter,
    ):
        store.append([event(n) for n in range(5)])

        def fail(path: Path, *_: object) -> None:
            if path.is_dir() or path.name == "store.json":
                raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(failing, fail)
            with pytest.raises(ConfigError, match="No space"):
                exporter.export()
        store.append([event(5)])
        exporter.export()
    assert [row["seq"] for row in exported(folder)] == [1, 2, 3, 4, 5, 6]
