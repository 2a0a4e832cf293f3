"""A real cluster whose processes are killed under load: every event counts exactly once, and nothing is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.flink.stream_load import Committed, Load, need_flink, wait_until
from zhiyin.core.errors import EngineError
from zhiyin.engines.flink.jobs import JobOptions
from zhiyin.engines.flink.jobs_control import JobsControl, StartedJob
from zhiyin.engines.flink.local_cluster import LocalCluster
from zhiyin.engines.flink.rest import JobManager

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
JOBS = ("trending", "histories")


class Stream:
    """Two jobs under a load of events with late ones and segments out of order."""

    def __init__(self, folder: Path, python: Path) -> None:
        # Names with characters that URIs and YAML treat as special.
        self.folder, self.python = folder / "streams of 50% #1", python
        self.cluster = LocalCluster(folder / "a 'cluster'", python, slots=4)
        self.load, self.committed = Load(self.folder), Committed(self.folder)

    @property
    def control(self) -> JobsControl:
        options = JobOptions(self.folder, checkpoint=1.0, parallelism=2)
        return JobsControl(options, self.cluster.start(), self.python, self.cluster.daemons)

    def start(self) -> dict[str, StartedJob]:
        return {job.name: job for job in self.control.start(JOBS)}

    def alive(self) -> bool:
        state = self.cluster.state()
        return state.address is not None and bool(state.taskmanagers)

    def wait_for_new_events(self) -> None:
        """Wait until an event is committed that was written after the call."""
        seq = self.load.written
        wait_until(lambda: self._last_seq() > seq, "new events", alive=lambda: self.load.running and self.alive())

    def _last_seq(self) -> int:
        self.committed.read()
        return self.committed.last_seq

    def assert_exact(self) -> None:
        """All that was written is committed, once."""
        assert not self.load.running
        wait_until(lambda: self.committed.complete(self.load.written), "all events", alive=self.alive)
        assert self.committed.differences(self.load.written) == ""

    def kill_taskmanager(self) -> None:
        os.kill(self.cluster.state().taskmanagers[0], signal.SIGKILL)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stream]:
    stream = Stream(tmp_path_factory.mktemp("flink"), need_flink())
    try:
        yield stream
    finally:
        stream.load.pause()
        stream.cluster.stop()
    assert stream.cluster.daemons.running() == [], "processes outlived their cluster"
    assert not list(stream.cluster.folder.glob("*.pid"))


def test_a_taskmanager_killed_under_load_twice(stream: Stream) -> None:
    started = stream.start()
    assert [started[name].was_running for name in JOBS] == [False, False]
    stream.load.resume()
    for _ in range(2):
        stream.wait_for_new_events()
        stream.kill_taskmanager()
        wait_until(lambda: not stream.cluster.state().taskmanagers, "the death of the TaskManager")
        assert stream.load.running
        stream.cluster.start()
        stream.wait_for_new_events()
    stream.load.pause()
    stream.assert_exact()
    restarts = [status.restarts for status in stream.control.status(JOBS)]
    assert all(restart is not None and restart >= 2 for restart in restarts), restarts
    assert JobManager(stream.cluster.start()).state("0" * 32) is None


def test_stopped_with_savepoints_and_resumed(stream: Stream) -> None:
    first = stream.start()
    stream.load.write(4)  # windows that are open now are in the savepoint
    stopped = stream.control.stop(JOBS)
    assert all(job.was_running and job.failure is None and job.savepoint for job in stopped), stopped
    assert [status.state for status in stream.control.status(JOBS)] == ["STOPPED", "STOPPED"]
    stream.load.write(4)
    second = stream.start()
    for job in stopped:
        assert str(second[job.name].restored) in str(job.savepoint)
        assert second[job.name].job_id != first[job.name].job_id
    stream.load.write(4)
    stream.assert_exact()
    again = stream.start()
    assert [(again[name].was_running, again[name].job_id) for name in JOBS] == [
        (True, second[name].job_id) for name in JOBS
    ]
    for status in stream.control.status(JOBS):
        assert status.state == "RUNNING"
        assert status.rows_in is not None
        assert status.rows_in > 0
        assert status.rows_out is not None
        assert status.checkpoint is not None


def test_a_jobmanager_killed_under_load(stream: Stream) -> None:
    first = stream.start()
    stream.load.resume()
    stream.wait_for_new_events()
    jobmanager, (orphan,) = stream.cluster.state().jobmanager, stream.cluster.state().taskmanagers
    assert jobmanager is not None
    os.kill(jobmanager, signal.SIGKILL)
    wait_until(lambda: stream.cluster.state().jobmanager is None, "the death of the JobManager")
    assert stream.load.running
    second = stream.start()
    assert orphan not in stream.cluster.state().taskmanagers
    for name in JOBS:
        assert second[name].job_id != first[name].job_id
        assert "/chk-" in str(second[name].restored)
    stream.wait_for_new_events()
    stream.load.pause()
    stream.assert_exact()


def test_stopped_without_a_taskmanager(stream: Stream) -> None:
    stream.start()
    stream.load.write(2)
    control = stream.control
    stream.kill_taskmanager()
    wait_until(lambda: not stream.cluster.state().taskmanagers, "the death of the TaskManager")
    stopped = control.stop(JOBS)
    assert all(job.was_running for job in stopped)
    assert all(job.ended for job in JobManager(control.address).jobs())
    stream.start()
    stream.load.write(2)
    stream.assert_exact()


def test_a_job_that_fails_at_once(stream: Stream, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    (folder / "events").mkdir(parents=True)
    (folder / "events" / f"events-{1:020}-{1:020}-1.jsonl").write_text("no JSON\n")
    stream.control.stop(JOBS)
    control = JobsControl(JobOptions(folder, checkpoint=1.0, parallelism=1), stream.cluster.start(), stream.python)
    with pytest.raises(EngineError, match="sessions fails at once: ") as caught:
        control.start(["sessions"])
    assert len(caught.value.message.splitlines()) == 1
    assert all(job.ended for job in JobManager(control.address).jobs())


def test_the_end_of_all_after_a_kill(stream: Stream) -> None:
    stream.cluster.start()
    state = stream.cluster.state()
    assert state.jobmanager is not None
    os.kill(state.jobmanager, signal.SIGKILL)
    assert stream.cluster.stop() is True
    assert stream.cluster.daemons.running() == []
    assert stream.cluster.stop() is False
