"""The loader applies what jobs have committed, each file once: in any order, after kills, whatever is damaged."""

from __future__ import annotations

import json
import logging
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

pytest.importorskip("sqlalchemy")

from tests.conformance.stream_state import DAY, NOW, PLACEMENT, history_row, names_of
from zhiyin.core.file_locks import LockHeldError
from zhiyin.engines import stream_loader
from zhiyin.engines.stream_loader import MIN_KEEP_SECONDS, StreamLoader
from zhiyin.store.stream_definitions import SESSION_GAP
from zhiyin.store.stream_state import StreamState, StreamStateAwayError, open_stream_state

TRENDING = [
    {"item": "a", "bucket": DAY, "score": 1.5, "n": 2},
    {"item": "知音", "bucket": DAY, "score": 1.0e-3, "n": 1},
]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StreamState]:
    opened = open_stream_state(f"sqlite:///{tmp_path / 'state.db'}", "shop")
    yield opened
    opened.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "streams"


def commit(folder: Path, output: str, name: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / "output" / output / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def load(folder: Path, state: StreamState, **more: Any) -> int:
    with StreamLoader(folder, state, **more) as loader:
        return loader.run_once()


def test_committed_files_of_all_outputs_are_applied_once(folder: Path, state: StreamState) -> None:
    for name in names_of((9, 3)):
        (folder / "events").mkdir(parents=True)
        (folder / "events" / name).touch()
    commit(folder, "trending", "part-a-0", TRENDING)
    commit(folder, "trending", "part-a-1", TRENDING)
    commit(folder, "trending", ".part-a-2.inprogress", TRENDING)
    commit(folder, "trending", "_part-a-3", TRENDING)
    commit(folder, "covisits", "part-b-0", [{"a": "x", "b": "y", "bucket": DAY, "n": 3}])
    commit(folder, "histories", "2026-09-21/part-c-0", [history_row("u", 2, 5), history_row("v", 9)])
    commit(folder, "sessions", "part-d-0", [
        {"user": "u", "bucket": NOW // SESSION_GAP, "first": NOW, "last": NOW + 1, "n": 2, "seq": 2}
    ])  # fmt: skip
    commit(folder, "click_through", "part-e-0", [{"placement": PLACEMENT, "item": "a", "shown": 3, "clicked": 1}])
    commit(folder, "rewards", "part-f-0", [{"whatever": 1}])
    assert load(folder, state) == 2 + 2 + 1 + 2 + 1 + 1
    assert load(folder, state) == 0
    expected = {"a": DAY + math.log2(3.0), "知音": DAY + math.log2(2.0e-3)}
    assert dict(state.trending(5).iter_rows()) == pytest.approx(expected)
    assert state.covisits(["y"], 5)["other"].to_list() == ["x"]
    assert [event.seq for event in state.history("u")[0]] == [5, 2]
    assert state.mark == 9
    assert state.sessions("u").rows() == [(NOW, NOW + 1, 2)]
    assert state.click_through(PLACEMENT).rows() == [("a", 3, 1)]
    assert (folder / "output" / "rewards" / "part-f-0").exists()


def test_one_loader_goes_on_with_new_files(folder: Path, state: StreamState) -> None:
    with StreamLoader(folder, state) as loader:
        assert loader.run_once() == 0
        commit(folder, "trending", "part-1", TRENDING)
        assert loader.run_once() == 2
        commit(folder, "trending", "part-0", [])
        assert loader.run_once() == 0
        assert state.applied_files("trending") == {"part-0", "part-1"}


def test_one_loader_a_folder(folder: Path, state: StreamState) -> None:
    with StreamLoader(folder, state), pytest.raises(LockHeldError, match="another loader"):
        StreamLoader(folder, state)
    StreamLoader(folder, state).close()


@pytest.mark.parametrize(
    "content",
    [
        b'{"item": "a", "bucket": 20, "sc',
        b'{"item": "a", "bucket": 20, "score": 1.0, "n": 1}\n{"item": "b", "bucket": "x", "score": 1.0, "n": 1}\n',
        b'{"item": "a", "bucket": 20, "score": 1.0}\n',
        b'{"item": "a", "bucket": 20, "score": -1e999, "n": 1}\n',
        b'{"item": null, "bucket": 20, "score": 1.0, "n": 1}\n',
        b"\xff\xfe\x00",
        b"[1, 2]\n",
    ],
)
def test_a_damaged_file_is_set_aside_by_name(
    folder: Path, state: StreamState, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    path = commit(folder, "trending", "part-0", [])
    path.write_bytes(content)
    commit(folder, "trending", "part-1", TRENDING)
    with caplog.at_level(logging.WARNING):
        assert load(folder, state) == 2
        assert load(folder, state) == 0
    assert caplog.text.count(str(path)) == 1
    assert not path.exists()
    assert (path.parent / "_damaged-part-0").read_bytes() == content
    assert state.trending(9)["item"].to_list() == ["a", "知音"]


def test_large_files_are_applied_in_blocks(folder: Path, state: StreamState, monkeypatch: pytest.MonkeyPatch) -> None:
    """And go on at the block that was not applied."""
    rows = [{"placement": PLACEMENT, "item": f"i{n % 10}", "shown": 1, "clicked": 0} for n in range(1_000)]
    commit(folder, "click_through", "part-0", rows)
    monkeypatch.setattr(stream_loader, "BLOCK_BYTES", 5_000)
    apply, calls = state.apply, []

    def failing(job: str, file: str, rows: pl.DataFrame) -> bool:
        calls.append((file, len(rows)))
        if len(calls) == 4:
            raise StreamStateAwayError("it went", remedy="wait")
        return apply(job, file, rows)

    monkeypatch.setattr(state, "apply", failing)
    with StreamLoader(folder, state) as loader:
        with pytest.raises(StreamStateAwayError):
            loader.run_once()
        assert 0 < len(calls) <= 4
        assert max(n_rows for _, n_rows in calls) < 200
        loader.run_once()
    assert state.click_through(PLACEMENT)["shown"].to_list() == [100] * 10
    assert state.applied_files("click_through") == {"part-0"}
    assert load(folder, state) == 0


def test_applied_files_are_deleted_after_a_while(folder: Path, state: StreamState) -> None:
    old = commit(folder, "trending", "part-0", TRENDING)
    commit(folder, "trending", "part-1", TRENDING)
    reward = commit(folder, "rewards", "part-2", [{"list_id": "l"}])
    now = old.stat().st_mtime
    os.utime(old, (now - MIN_KEEP_SECONDS - 10,) * 2)
    os.utime(reward, (now - 4 * MIN_KEEP_SECONDS,) * 2)
    os.utime(folder / "output" / "trending" / "part-1", (now - MIN_KEEP_SECONDS + 100,) * 2)
    load(folder, state, keep=1.0, keep_log=5 * MIN_KEEP_SECONDS, clock=lambda: now)
    assert not old.exists()
    assert state.applied_files("trending") == {"part-1"}
    assert (folder / "output" / "trending" / "part-1").exists()
    assert reward.exists()
    load(folder, state, keep=1.0, keep_log=3 * MIN_KEEP_SECONDS, clock=lambda: now + 200)
    assert state.applied_files("trending") == set()
    assert not reward.exists()


def test_marks_of_files_that_were_deleted_before_a_kill_go(folder: Path, state: StreamState) -> None:
    path = commit(folder, "trending", "part-0", TRENDING)
    load(folder, state)
    path.unlink()  # and the loader was killed before it removed the mark
    load(folder, state)
    assert state.applied_files("trending") == set()


def test_segments_are_told_before_their_rows(folder: Path, state: StreamState) -> None:
    """A segment that was exported while the loader lists files is known before rows of it are applied."""
    first, second = names_of((2, 2), (4, 2))
    (folder / "events").mkdir(parents=True)
    (folder / "events" / first).touch()
    commit(folder, "histories", "part-0", [history_row("u", 1, 2)])

    class Late(StreamLoader):
        def _files(self, output: str) -> dict[str, Path]:
            files = super()._files(output)
            if output == "histories" and not (folder / "events" / second).exists():
                (folder / "events" / second).touch()
                commit(folder, "histories", "part-1", [history_row("u", 3, 4)])
                files = super()._files(output)
            return files

    with Late(folder, state) as loader:
        loader.run_once()
    assert state.mark == 4


def test_it_waits_for_a_state_that_is_away(
    folder: Path, state: StreamState, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    commit(folder, "trending", "part-0", TRENDING)
    set_segments = state.set_segments
    pauses: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0)
            if len(pauses) == 2:
                monkeypatch.setattr(state, "set_segments", set_segments)
            if len(pauses) == 3:
                self.set()
            return self.is_set()

    def away(names: Any) -> None:
        raise StreamStateAwayError("it does not answer", remedy="wait")

    monkeypatch.setattr(state, "set_segments", away)
    with StreamLoader(folder, state) as loader:
        loader.run(Stop(), every=0.5)
    assert pauses == [stream_loader.RETRY_SECONDS] * 2 + [0.5]
    assert caplog.text.count("nothing is loaded") == 1
    assert not state.trending(1).is_empty()


def emptied(state: StreamState) -> None:
    """What FLUSHALL does to a state, or a new file in the place of the old one."""
    with state._writing() as connection:  # type: ignore[attr-defined]
        for table in ("files", "trending", "covisits", "events", "sessions", "clicks", "versions", "segments", "marks"):
            connection.exec_driver_sql(f"DELETE FROM stream_{table}")


def test_a_state_that_is_emptied_while_the_loader_runs_is_loaded_again(
    folder: Path, state: StreamState, caplog: pytest.LogCaptureFixture
) -> None:
    commit(folder, "trending", "part-0", TRENDING)
    commit(folder, "covisits", "part-1", [{"a": "x", "b": "y", "bucket": DAY, "n": 3}])
    with StreamLoader(folder, state) as loader, caplog.at_level(logging.WARNING, "zhiyin"):
        assert loader.run_once() == 3
        emptied(state)
        assert loader.run_once() == 3
        assert loader.run_once() == 0
    assert len(state.trending(5)) == 2
    assert state.covisits(["x"], 5)["other"].to_list() == ["y"]
    assert [record.message for record in caplog.records] == [
        "streams: the state was emptied or put back; what is there is loaded again"
    ]
    assert not state.is_incomplete  # all files were there


def test_a_state_that_is_put_back_to_an_earlier_moment_gets_what_it_lacks(tmp_path: Path, folder: Path) -> None:
    address, now = f"sqlite:///{tmp_path / 'state.db'}", 1_800_000_000.0
    commit(folder, "trending", "part-0", TRENDING)
    os.utime(folder / "output" / "trending" / "part-0", (now, now))
    first = open_stream_state(address, "shop")
    loader = StreamLoader(folder, first, clock=lambda: now)
    assert loader.run_once() == 2
    now += MIN_KEEP_SECONDS / 2
    backup = open_stream_state(f"sqlite:///{tmp_path / 'backup.db'}", "shop")
    with first._reading() as connection:  # type: ignore[attr-defined]
        backup.close()
        (tmp_path / "backup.db").unlink()
        connection.exec_driver_sql(f"VACUUM INTO '{tmp_path / 'backup.db'}'")
    commit(folder, "trending", "part-1", TRENDING)
    os.utime(folder / "output" / "trending" / "part-1", (now, now))
    assert loader.run_once() == 2
    now += MIN_KEEP_SECONDS / 2 + 100.0
    assert loader.run_once() == 0
    assert [path.name for path in (folder / "output" / "trending").iterdir()] == ["part-1"]  # the backup has the other
    loader.close()
    backup = open_stream_state(f"sqlite:///{tmp_path / 'backup.db'}", "shop")
    assert load(folder, backup, clock=lambda: now) == 2
    assert backup.trending(5).equals(first.trending(5))
    assert not backup.is_incomplete
    empty = open_stream_state(f"sqlite:///{tmp_path / 'empty.db'}", "shop")
    assert load(folder, empty, clock=lambda: now) == 2
    assert empty.is_incomplete
    for state in (first, backup, empty):
        state.close()


@pytest.mark.parametrize("is_running", [True, False])
def test_a_state_that_is_emptied_after_files_were_deleted_says_that_it_lacks_them(
    folder: Path, state: StreamState, caplog: pytest.LogCaptureFixture, is_running: bool
) -> None:
    now = 1_800_000_000.0
    for n in range(2):
        commit(folder, "trending", f"part-{n}", TRENDING)
    os.utime(folder / "output" / "trending" / "part-0", (now - 2 * MIN_KEEP_SECONDS,) * 2)
    os.utime(folder / "output" / "trending" / "part-1", (now, now))
    loader = StreamLoader(folder, state, clock=lambda: now)
    assert loader.run_once() == 4
    assert not (folder / "output" / "trending" / "part-0").exists()
    emptied(state)
    with caplog.at_level(logging.WARNING, "zhiyin"):
        if not is_running:
            loader.close()
            loader = StreamLoader(folder, state, clock=lambda: now)
        assert loader.run_once() == 2
        assert loader.run_once() == 0
    assert state.is_incomplete
    assert len([record for record in caplog.records if "--fresh" in record.message]) == 1
    loader.close()
    state.clear()
    assert not state.is_incomplete
