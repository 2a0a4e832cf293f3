"""Which jobs are submitted, from which restore point, under which id; and the commands of `zhiyin stream`."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.flink.fake_flink import FakeFlink, write_metadata
from zhiyin.core.errors import ConfigError, DataError, EngineError
from zhiyin.engines.flink.flink_python import PYTHON_VARIABLE
from zhiyin.engines.flink.jobs import JobOptions
from zhiyin.engines.flink.jobs_control import FORGETTING, JobsControl
from zhiyin.engines.flink.stream_record import StreamRecord
from zhiyin.engines.stream_loader import DELETED_FILE
from zhiyin.store.segment_export import STORE_FILE
from zhiyin.store.segment_files import Segment

NAMES = ("trending", "sessions")


@pytest.fixture
def flink(tmp_path: Path) -> Iterator[FakeFlink]:
    with FakeFlink(tmp_path / "flink").serving() as flink:
        yield flink


@pytest.fixture
def control(flink: FakeFlink, tmp_path: Path) -> JobsControl:
    return JobsControl(JobOptions(tmp_path / "streams"), flink.address, flink.python)


def ids(flink: FakeFlink) -> dict[str, str]:
    """Ids of the jobs that were submitted last, by name."""
    return {name: job for job, name in flink.names().items()}


def test_jobs_that_run_are_left(flink: FakeFlink, control: JobsControl) -> None:
    started = control.start(NAMES)
    assert [(job.name, job.was_running, job.restored) for job in started] == [
        ("trending", False, None), ("sessions", False, None),
    ]  # fmt: skip
    assert {job.name: job.job_id for job in started} == ids(flink)
    again = control.start(["histories", *NAMES])
    assert [job.was_running for job in again] == [False, True, True]
    assert [[job["name"] for job in request["jobs"]] for request in flink.requests()] == [list(NAMES), ["histories"]]


def test_what_is_submitted(flink: FakeFlink, control: JobsControl) -> None:
    control.start(["trending"])
    (request,) = flink.requests()
    assert request["address"] == flink.address
    (job,) = request["jobs"]
    settings = {**request["settings"], **job["settings"]}
    folder = control.folder
    assert settings["execution.checkpointing.dir"] == f"file://{folder}/checkpoints/trending"
    assert settings["execution.checkpointing.mode"] == "EXACTLY_ONCE"
    assert settings["execution.checkpointing.externalized-checkpoint-retention"] == "RETAIN_ON_CANCELLATION"
    assert (folder / "events").is_dir()
    assert (folder / "impressions").is_dir()


def test_a_stop_and_a_start(flink: FakeFlink, control: JobsControl) -> None:
    control.start(NAMES)
    first = ids(flink)
    (stopped, idle) = control.stop(["trending", "histories"])
    assert (stopped.was_running, stopped.failure, idle.was_running) == (True, None, False)
    assert [status.state for status in control.status(NAMES)] == ["STOPPED", "RUNNING"]
    trending, sessions = control.start(NAMES)
    assert trending.restored is not None
    assert Path(trending.restored).parent == control.folder / "savepoints" / "trending"
    assert flink.requests()[-1]["jobs"][0]["savepoint"] == trending.restored
    assert trending.job_id != first["trending"]
    assert sessions.was_running


def test_after_the_loss_of_a_cluster_the_last_checkpoint_counts(flink: FakeFlink, control: JobsControl) -> None:
    control.start(["trending"])
    lost = ids(flink)["trending"]
    control.stop(["trending"])
    control.start(["trending"])
    run = ids(flink)["trending"]
    chk = control.folder / "checkpoints" / "trending" / run / "chk-40"
    write_metadata(chk, 40)
    write_metadata(control.folder / "checkpoints" / "trending" / lost / "chk-3", 3)
    (flink.folder / "requests").unlink()  # the cluster knows no job any more
    (status,) = control.status(["trending"])
    assert (status.state, status.resume) == ("LOST", str(chk))
    (job,) = control.start(["trending"])
    assert job.restored == str(chk)
    assert not (chk.parent.parent / lost).exists()


def test_an_id_that_was_never_confirmed_is_used_again(flink: FakeFlink, control: JobsControl) -> None:
    (flink.folder / "answer").write_text(json.dumps({"job": "trending", "error": "no table"}))
    with pytest.raises(EngineError, match=r"trending is not submitted to 127.*: no table"):
        control.start(["trending"])
    recorded = StreamRecord(control.folder).jobs()["trending"]
    assert not recorded.submitted
    (flink.folder / "answer").unlink()
    (job,) = control.start(["trending"])
    assert job.job_id == recorded.job_id
    flink.states[job.job_id] = "FAILED"  # one that has run is never used again
    (again,) = control.start(["trending"])
    assert again.job_id != job.job_id


def test_a_submission_that_says_nothing(flink: FakeFlink, control: JobsControl) -> None:
    flink.python.write_text("#!/bin/sh\necho 'first' >&2\necho 'java.lang.OutOfMemoryError' >&2\nexit 3\n")
    with pytest.raises(EngineError, match=r"submits nothing: java\.lang\.OutOfMemoryError"):
        control.start(["trending"])


@pytest.mark.parametrize(("state", "restarts"), [("FAILED", False), ("RESTARTING", True)])
def test_a_job_that_fails_at_once(flink: FakeFlink, control: JobsControl, state: str, restarts: bool) -> None:
    flink.failure = "x.JobException: a\n\tat x\nCaused by: java.io.IOException: disk full\n"
    submitted = StreamRecord(control.folder)

    class States(dict[str, str]):
        def get(self, job: str, default: Any = None) -> Any:
            return dict.get(self, job, state)

    flink.states = States()
    with pytest.raises(EngineError, match="trending fails at once: IOException: disk full"):
        control.start(["trending"])
    job_id = submitted.jobs()["trending"].job_id
    assert flink.states.get(job_id) == ("CANCELED" if restarts else "FAILED")
    (status,) = control.status(["trending"])
    assert status.state == ("CANCELED" if restarts else "FAILED")


def test_a_job_for_which_there_are_no_slots(
    flink: FakeFlink, control: JobsControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zhiyin.engines.flink.jobs_control.RUN_SECONDS", 0)
    flink.task, flink.restarts = "SCHEDULED", 0
    with pytest.raises(EngineError, match="trending fails at once: its tasks wait for slots") as caught:
        control.start(["trending"])
    assert "too few free slots" in str(caught.value.remedy)
    assert "CANCELED" in flink.states.values()


def test_a_job_that_runs_elsewhere_is_not_started_twice(flink: FakeFlink, control: JobsControl, tmp_path: Path) -> None:
    control.start(["trending"])
    with FakeFlink(tmp_path / "other").serving() as other:
        second = JobsControl(control.options, other.address, other.python)
        with pytest.raises(EngineError, match="trending runs on another cluster") as caught:
            second.start(["trending"])
        assert flink.address in str(caught.value.remedy)
        assert other.requests() == []
        control.stop(["trending"])
        (job,) = second.start(["trending"])
        assert job.restored is not None


def test_a_fresh_start_forgets_all(flink: FakeFlink, control: JobsControl) -> None:
    control.start(NAMES)
    with pytest.raises(ConfigError, match="trending, sessions still run"):
        control.start(NAMES, fresh=True)
    control.stop(NAMES)
    output = control.folder / "output" / "trending"
    output.mkdir(parents=True)
    segment = control.folder / "events" / "events-1-2-2.jsonl"
    segment.touch()
    present = []
    for name, who in ((".load.lock", "a loader"), (".export.lock", "an exporter")):
        with open(control.folder / name, "w") as holder:
            fcntl.flock(holder, fcntl.LOCK_EX)
            with pytest.raises(ConfigError, match=f"{who} is at work"):
                control.start(NAMES, fresh=True)
    assert output.exists()
    started = control.start(NAMES, fresh=True, clear=lambda: present.append(output.exists()))
    assert present == [True]
    assert not output.exists()
    assert not segment.exists()
    assert segment.parent.is_dir()
    assert [job.restored for job in started] == [None, None]


@pytest.mark.parametrize("file", [DELETED_FILE, STORE_FILE])
def test_a_fresh_start_forgets_how_far_things_were(flink: FakeFlink, control: JobsControl, file: str) -> None:
    """Else the state that begins anew would be taken for one that lacks results, and segments for removed ones."""
    control.start(["trending"])
    (control.folder / file).write_text('{"trending": 500}')
    control.start(["trending"])
    assert (control.folder / file).exists()
    control.stop(["trending"])
    control.start(["trending"], fresh=True)
    assert not (control.folder / file).exists()


def test_a_fresh_start_that_is_cut_off_is_completed_by_the_next_one(flink: FakeFlink, control: JobsControl) -> None:
    control.start(["trending"])
    control.stop(["trending"])
    output = control.folder / "output" / "trending"
    output.mkdir(parents=True)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        control.start(["trending"], fresh=True, clear=interrupt)
    assert output.exists()
    calls: list[None] = []
    (job,) = control.start(["trending"], clear=lambda: calls.append(None))
    assert len(calls) == 1
    assert not output.exists()
    assert job.restored is None
    control.stop(["trending"])
    (job,) = control.start(["trending"], clear=lambda: calls.append(None))
    assert len(calls) == 1
    assert job.restored is not None


def test_an_unknown_job(control: JobsControl) -> None:
    for act in (control.start, control.status, control.stop):
        with pytest.raises(ConfigError, match="there is no job 'trend'"):
            act(["trend"])


def test_a_damaged_record_is_named(control: JobsControl) -> None:
    control.folder.mkdir()
    (control.folder / "streams.json").write_text('{"jobs"')
    with pytest.raises(DataError, match=r"streams\.json"):
        control.start(["trending"])


@pytest.mark.slow
def test_what_a_killed_start_has_begun_is_waited_for(flink: FakeFlink, control: JobsControl) -> None:
    """The submission goes on when the command is killed; a second start before its end would submit again."""
    blocked = flink.folder / "blocked"
    blocked.touch()
    code = f"""
from pathlib import Path
from zhiyin.engines.flink.jobs import JobOptions
from zhiyin.engines.flink.jobs_control import JobsControl
options = JobOptions(Path({str(control.folder)!r}))
JobsControl(options, {flink.address!r}, Path({str(flink.python)!r})).start(["trending"])
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    lock = control.folder / ".control.lock"
    wait_until((flink.folder / "received").exists, process)
    process.kill()
    process.wait()
    with open(lock, "r+") as opened, pytest.raises(BlockingIOError):
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    blocked.unlink()
    (job,) = control.start(["trending"])
    assert job.was_running
    assert len(flink.requests()) == 1


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- commands ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def stream(tmp_path: Path, flink: FakeFlink, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`stream("start")` runs a command of `zhiyin stream` on the fake cluster, and returns its result."""
    from typer.testing import CliRunner

    from zhiyin.cli.main import app

    monkeypatch.setenv(PYTHON_VARIABLE, str(flink.python))
    monkeypatch.chdir(tmp_path)

    def run(*words: str, code: int = 0, engine: str = f"flink://{flink.address}") -> Any:
        options = ["--engine", engine] if engine else []
        result = CliRunner().invoke(app, ["stream", *words, *options])
        assert "Traceback" not in result.output
        assert result.exit_code == code, result.output
        return result

    return run


def test_start_status_and_stop(stream: Callable[..., Any], flink: FakeFlink, tmp_path: Path) -> None:
    (tmp_path / "zhiyin.toml").write_text('[streams]\njobs = ["trending", "rewards"]\ncheckpoint = "2s"\n')
    started = json.loads(stream("start", "--json").stdout)
    assert [job["name"] for job in started["jobs"]] == ["trending", "rewards"]
    assert flink.requests()[0]["settings"]["execution.checkpointing.interval"] == "2000 ms"
    assert "was running" in stream("start").stdout
    (status,) = json.loads(stream("status", "--json", "--job", "rewards").stdout)["jobs"]
    assert (status["state"], status["rows_in"], status["rows_out"], status["restarts"]) == ("RUNNING", 7, 5, 3)
    assert status["checkpoint"] == {"time": 1.0, "seconds": 0.02, "bytes": 300}
    lines = stream("status").stdout.splitlines()
    assert lines[0].split("\t")[:4] == ["job", "state", "since", "rows in"]
    assert lines[1].split("\t")[:4] == ["trending", "RUNNING", "2001-09-09 01:46:40Z", "7"]
    stopped = json.loads(stream("stop", "--json").stdout)
    assert all(job["savepoint"] for job in stopped["jobs"])
    assert "STOPPED" in stream("status").stdout
    assert "did not run" in stream("stop").stdout


def test_mistakes_say_what_to_do(stream: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "jobs are trending" in stream("start", "--job", "trend", code=1).output
    assert "leave out --job" in stream("start", "--fresh", "--job", "trending", code=1).output
    assert "flink://host:8081" in stream("start", engine="spark://h:1", code=1).output
    assert "no Flink JobManager answers at 127.0.0.1:1" in stream("stop", engine="flink://127.0.0.1:1", code=1).output
    monkeypatch.delenv(PYTHON_VARIABLE)
    assert "pip install apache-flink" in stream("start", code=1).output


@pytest.mark.parametrize(
    ("lock", "marker", "words", "message"),
    [
        (".load.lock", None, ["--fresh"], "a loader is at work"),
        (".export.lock", None, ["--fresh"], "an exporter is at work"),
        (".load.lock", FORGETTING, [], "a loader is at work"),
        (None, None, ["--job", "trend"], "jobs are trending"),
    ],
)
def test_a_start_that_is_refused_starts_no_cluster(
    stream: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lock: str | None,
    marker: str | None,
    words: list[str],
    message: str,
) -> None:
    folder = tmp_path / "streams"
    folder.mkdir()
    started: list[Any] = []
    monkeypatch.setattr("zhiyin.engines.flink.local_cluster.LocalCluster.start", started.append)
    if marker is not None:
        (folder / marker).touch()
    with open(folder / (lock or "none"), "w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        assert message in stream("start", *words, engine="local", code=1).output
    assert started == []


def test_status_names_the_segment_that_is_no_json(stream: Callable[..., Any], flink: FakeFlink, tmp_path: Path) -> None:
    stream("start", "--job", "trending")
    events = tmp_path / "streams" / "events"
    first, second = (events / Segment("events", n, n, 1).name for n in (1, 2))
    first.write_text('{"user": "a"}\n')
    flink.failure = "org.x.JsonEOFException: Unexpected end-of-input at [Source: REDACTED"
    (plain,) = json.loads(stream("status", "--json", "--job", "trending").stdout)["jobs"]
    assert plain["failure"].startswith("JsonEOFException")
    second.write_text('{"user": "a')
    (named,) = json.loads(stream("status", "--json", "--job", "trending").stdout)["jobs"]
    assert named["failure"] == f"{second} is damaged: {plain['failure']}"
    flink.failure = "java.io.IOException: disk full"
    (other,) = json.loads(stream("status", "--json", "--job", "trending").stdout)["jobs"]
    assert other["failure"] == "IOException: disk full"


def test_a_local_cluster_that_does_not_run(stream: Callable[..., Any], tmp_path: Path) -> None:
    assert "NEVER STARTED" in stream("status", engine="").stdout
    assert "no local cluster runs" in stream("stop", engine="").output
    assert json.loads(stream("status", "--json", engine="local").stdout)["address"] is None
    assert not (tmp_path / "streams").exists()


@pytest.mark.slow
def test_a_start_that_is_killed_leaves_no_orphan(
    stream: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zhiyin.engines.flink.daemons import Daemons

    package = tmp_path / "pyflink"
    (package / "lib").mkdir(parents=True)
    (package / "conf").mkdir()
    (package / "conf" / "config.yaml").write_text("env:\n  java:\n    opts:\n      all: --add-opens=x\n")
    (tmp_path / "python").write_text(f"#!/bin/sh\necho {package}\n")
    (tmp_path / "jdk" / "bin").mkdir(parents=True)
    (tmp_path / "jdk" / "bin" / "java").write_text("#!/bin/sh\nexec sleep 600\n")
    for program in (tmp_path / "python", tmp_path / "jdk" / "bin" / "java"):
        program.chmod(0o755)
    monkeypatch.setenv(PYTHON_VARIABLE, str(tmp_path / "python"))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    daemons = Daemons(tmp_path / "streams" / "cluster")
    process = subprocess.Popen([sys.executable, "-m", "zhiyin", "stream", "start"])
    try:
        wait_until(lambda: daemons.running() != [], process)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.wait()
    assert [daemon.role for daemon in daemons.running()] == ["jobmanager"]
    result = stream("stop", engine="")
    assert "the local cluster is ended" in result.output
    assert daemons.running() == []


def test_a_fresh_start_clears_the_streamed_state(stream: Callable[..., Any], tmp_path: Path) -> None:
    import polars as pl

    from zhiyin.store.live_state import state_name
    from zhiyin.store.store import Store
    from zhiyin.store.stream_state import open_stream_state

    (tmp_path / "zhiyin.toml").write_text('[service]\nstreams = "sqlite:///state.db"\n[streams]\njobs = ["trending"]\n')
    store = Store(str(tmp_path / "store.db"))
    address = f"sqlite:///{tmp_path / 'state.db'}"
    state = open_stream_state(address, state_name(store.address))
    rows = pl.DataFrame({"item": ["a"], "bucket": [1], "score": [1.0], "n": [1]})
    assert state.apply("trending", "part-1", rows)
    stream("start")
    stream("stop")
    assert len(state.trending(5)) == 1
    stream("start", "--fresh")
    assert state.trending(5).is_empty()
    assert state.apply("trending", "part-1", rows)  # which files were applied is forgotten too
    state.close()
    store.close()
