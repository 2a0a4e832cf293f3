"""What `zhiyin serve` does for streams in the background: exports the store, and loads what jobs have computed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")

from tests.streaming_reference import write_results
from zhiyin.core.errors import ConfigError
from zhiyin.data.project_config import Config
from zhiyin.service import stream_jobs
from zhiyin.service.server import Plan, _background_jobs
from zhiyin.service.settings import read_settings
from zhiyin.service.stream_jobs import StreamJobs
from zhiyin.store.live_state import state_name
from zhiyin.store.records import Event
from zhiyin.store.segment_files import listed_segments
from zhiyin.store.store import Store
from zhiyin.store.stream_state import StreamState, open_stream_state

from .conftest import eventually


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_jobs, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(stream_jobs, "LOCK_SECONDS", 0.02)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "store.db")) as store:
        now = time.time_ns() // 1000
        store.append([Event(f"u{n % 3}", f"i{n % 5}", now - n, id=f"e{n}") for n in range(20)])
        yield store


def config(**streams: Any) -> Config:
    made = Config()
    made.service.streams = "sqlite:///streams.db"
    made.streams.every = "0.02s"
    for name, value in streams.items():
        setattr(made.streams, name, value)
    return made


def opened_state(home: Path, store: Store) -> StreamState:
    return open_stream_state(f"sqlite:///{home / 'streams.db'}", state_name(store.address))


def exported(home: Path) -> int:
    segments = listed_segments(home / "streams", "events")
    return segments[-1].last if segments else 0


def test_what_jobs_compute_of_exported_events_is_loaded(tmp_path: Path, store: Store) -> None:
    with closing(StreamJobs(config(), tmp_path, store.address)), closing(opened_state(tmp_path, store)) as state:
        eventually(lambda: exported(tmp_path) == store.highest_seq)
        write_results(tmp_path / "streams")
        eventually(lambda: state.mark == 20 and len(state.trending(10)) == 5)
        assert len(state.history("u0")[0]) == 7
        store.append([Event("u0", "i9", time.time_ns() // 1000, id="later")])
        eventually(lambda: exported(tmp_path) == 21)


def test_one_exporter_and_one_loader_a_folder_and_the_next_takes_over(tmp_path: Path, store: Store) -> None:
    first = StreamJobs(config(), tmp_path, store.address)
    try:
        eventually(lambda: exported(tmp_path) == 20)
        with closing(StreamJobs(config(), tmp_path, store.address)):
            store.append([Event("u0", "i9", time.time_ns() // 1000, id="second")])
            eventually(lambda: exported(tmp_path) == 21)
            first.close()
            store.append([Event("u0", "i9", time.time_ns() // 1000, id="third")])
            eventually(lambda: exported(tmp_path) == 22)
            write_results(tmp_path / "streams")
            with closing(opened_state(tmp_path, store)) as state:
                eventually(lambda: state.mark == 22)
                assert dict(state.trending(10).iter_rows()).keys() == {"i0", "i1", "i2", "i3", "i4", "i9"}
    finally:
        first.close()


def test_a_failure_is_logged_once_and_tried_again(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []
    is_away = True

    def open_state(address: str, name: str) -> StreamState:
        if is_away:
            tries.append(1)
            raise OSError("no database")
        return open_stream_state(address, name)

    monkeypatch.setattr(stream_jobs, "open_stream_state", open_state)
    with caplog.at_level(logging.WARNING, "zhiyin"), closing(StreamJobs(config(), tmp_path, store.address)):
        eventually(lambda: len(tries) >= 3)
        eventually(lambda: exported(tmp_path) == 20)  # which needs no state
        assert len([record for record in caplog.records if "tried again" in record.message]) == 1
        is_away = False
        write_results(tmp_path / "streams")
        with closing(opened_state(tmp_path, store)) as state:
            eventually(lambda: state.mark == 20)


def test_a_folder_that_cannot_be_made_is_logged_once_by_its_key(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "streams").write_text("a file")
    with caplog.at_level(logging.WARNING, "zhiyin"), closing(StreamJobs(config(), tmp_path, store.address)):
        eventually(lambda: len(caplog.records) >= 2)  # of the export, and of the load
        (tmp_path / "streams").unlink()
        eventually(lambda: exported(tmp_path) == 20)
    assert [record.message for record in caplog.records] == [
        "streams: [streams] folder cannot be used: a file has its name; it is tried again"
    ] * 2


def test_streams_in_the_store_are_a_health_issue_and_do_not_run(tmp_path: Path, store: Store) -> None:
    file = tmp_path / "zhiyin.toml"
    file.write_text('[service]\nstore = "store.db"\nstreams = "sqlite:///store.db"\n')
    settings = read_settings(file)
    (issue,) = settings.health_issues
    assert (issue.what, issue.reason) == (
        "[service] streams", "line 3: service.streams is the database of the store itself"
    )  # fmt: skip
    assert "sqlite:///streams.db" in issue.remedy
    with _background_jobs(Plan.of([settings])):
        assert not [thread for thread in threading.enumerate() if thread.name == "zhiyin-export"]
    with pytest.raises(ConfigError, match="database of the store itself"):  # the store of the command line
        StreamJobs(config(), tmp_path, str(tmp_path / "streams.db"))


def test_a_service_with_streams_runs_them(tmp_path: Path, store: Store) -> None:
    file = tmp_path / "zhiyin.toml"
    file.write_text('[service]\nstore = "store.db"\nstreams = "sqlite:///streams.db"\n[streams]\nevery = "0.02s"\n')
    with _background_jobs(Plan.of([read_settings(file)])):
        eventually(lambda: exported(tmp_path) == 20)
        write_results(tmp_path / "streams")
        with closing(opened_state(tmp_path, store)) as state:
            eventually(lambda: state.mark == 20)
