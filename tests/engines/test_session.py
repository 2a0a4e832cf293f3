"""How a session of Spark is opened, and fails to: one line with the cause, and nothing of Java's or py4j's."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyspark", reason="pyspark is not installed: pip install 'zhiyin[spark]'")

from py4j.protocol import Py4JError
from pyspark import SparkContext

from zhiyin.core.errors import ConfigError, EngineError
from zhiyin.core.run import Run
from zhiyin.engines import open_engine
from zhiyin.engines.spark import session as sessions
from zhiyin.engines.spark.engine import SparkEngine
from zhiyin.engines.spark.job_errors import cause_of_java_output
from zhiyin.engines.spark.running_job import RunningJob


@pytest.mark.parametrize(
    "url",
    ["local[0]", "local[x]", "local[]", "local[2", "local[-1]", "local[2,0]", "local://x", "locals", "spark", "spark://",
     "sc", "k8s://", "yarn[2]", "yarn://x", "foo://x", ""],
)  # fmt: skip
def test_an_address_of_no_engine_is_one_line(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is the address of no engine"):
        open_engine(url, tmp_path)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="the folder of the engine cannot be made") as raised:
        open_engine("local[2]", tmp_path / "file" / "folder")
    assert "--engine-folder" in str(raised.value)


@pytest.fixture
def java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the place of Java, which the test writes."""
    program = tmp_path / "home" / "bin" / "java"
    program.parent.mkdir(parents=True)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(SparkContext, "_active_spark_context", None)
    monkeypatch.setattr(SparkContext, "_gateway", None)
    monkeypatch.setattr(SparkContext, "_jvm", None)
    return program


def test_a_java_home_without_java_is_named(java: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"JAVA_HOME is .*home, which has no bin/java"):
        open_engine("local[2]")


def test_what_java_writes_before_it_ends_is_the_cause(java: Path, capfd: pytest.CaptureFixture[str]) -> None:
    java.write_text("#!/bin/sh\necho Invalid maximum heap size: -Xmx1x >&2\necho Error: no machine >&2\nexit 1\n")
    java.chmod(0o755)
    with pytest.raises(EngineError) as raised:
        open_engine("local[2]", options={"spark.driver.memory": "1x"})
    assert raised.value.message == "Java does not start: Invalid maximum heap size: -Xmx1x"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", ""),
        ("WARNING: Using incubator modules: x\n", ""),
        ('Exception in thread "main" java.lang.A: b\n\tat c\n', "java.lang.A: b"),
        ('Exception in thread "main" java.lang.A: b\n\tat c\nCaused by: d.E: f\n\t... 3 more\n', "E: f"),
    ],
)
def test_the_first_cause_of_what_java_wrote(text: str, cause: str) -> None:
    assert cause_of_java_output(text) == cause


class _Gateway:
    """A gateway that counts how often it is ended."""

    proc, jvm, ended = None, None, 0

    def shutdown(self) -> None:
        self.ended += 1


class _Builder:
    """The builder of a session, which does what the test says instead of starting one."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def master(self, _: str) -> _Builder:
        return self

    def appName(self, _: str) -> _Builder:  # noqa: N802
        return self

    def config(self, *_: str) -> _Builder:
        return self

    def getOrCreate(self) -> Any:  # noqa: N802
        return self.result()


@pytest.fixture
def gateway(java: Path, monkeypatch: pytest.MonkeyPatch) -> _Gateway:
    java.touch(0o755)
    gateway = _Gateway()
    monkeypatch.setattr(SparkContext, "_gateway", gateway)
    return gateway


def _open(monkeypatch: pytest.MonkeyPatch, folder: Path, result: Any) -> Any:
    monkeypatch.setattr("pyspark.sql.SparkSession.builder", _Builder(result))
    return sessions.start_session("local[2]", {}, folder)


def test_an_exception_of_java_is_read_before_its_process_is_ended(
    gateway: _Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class JavaError(Py4JError):
        def __str__(self) -> str:
            if gateway.ended:
                raise ConnectionRefusedError
            return "An error occurred while calling x.\n: a.B: no such master"

    JavaError.__module__ = "py4j.protocol"

    def fail() -> None:
        raise JavaError

    with pytest.raises(EngineError, match=r"local\[2\] cannot be opened: a.B: no such master"):
        _open(monkeypatch, tmp_path, fail)
    assert gateway.ended == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_process_of_java_ends_whatever_stops_the_opening(
    gateway: _Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(error):
        _open(monkeypatch, tmp_path, fail)
    assert gateway.ended == 1


def test_ctrl_c_asks_java_nothing_and_logs_nothing(
    gateway: _Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = signal.getsignal(signal.SIGINT)
    # As pyspark does.
    _open(monkeypatch, tmp_path, lambda: signal.signal(signal.SIGINT, lambda *_: gateway.shutdown()))
    assert signal.getsignal(signal.SIGINT) is before
    root = logging.getLogger()
    for path, kept in (("/x/py4j/java_gateway.py", False), ("/x/other/java_gateway.py", True)):
        record = root.makeRecord("root", logging.ERROR, path, 1, "KeyboardInterrupt while sending command.", (), None)
        caplog.clear()
        root.handle(record)
        assert bool(caplog.records) is kept


def test_a_session_that_is_there_is_not_ended_by_a_second(
    gateway: _Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SparkContext, "_active_spark_context", object())
    with pytest.raises(ConfigError, match="session of Spark already"):
        _open(monkeypatch, tmp_path, lambda: None)
    assert gateway.ended == 0


class _FailingSession:
    """A session whose driver answers nothing any more."""

    class sparkContext:  # noqa: N801
        defaultParallelism = 2  # noqa: N815

    def range(self, *_: int) -> None:
        raise Py4JError("no answer")


def test_a_driver_that_does_not_answer_is_one_line_with_the_job(tmp_path: Path) -> None:
    engine = SparkEngine(_FailingSession(), "local[2]", tmp_path)
    with pytest.raises(EngineError, match="counting: no answer"):
        engine.run_tasks(abs, [1], Run(progress=False), "counting")
    with pytest.raises(EngineError, match="sending: no answer"):
        engine.exchange(iter, [1], "target int", max, 1, Run(progress=False), "sending")


class _Frame:
    """The job of a frame that runs until the test ends."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def toArrow(self) -> None:  # noqa: N802
        self.ended.wait(60)


def test_a_driver_that_is_killed_during_a_job_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = _Frame()

    def fail(_: object) -> int:
        frame.ended.set()
        raise Py4JError("no answer")

    monkeypatch.setattr("zhiyin.engines.spark.running_job._ClassicJob._name", lambda _: None)
    monkeypatch.setattr("zhiyin.engines.spark.running_job._ClassicJob.completed_tasks", fail)
    engine = SparkEngine(_FailingSession(), "local[2]", tmp_path)
    with pytest.raises(EngineError, match="counting: no answer"):
        engine._results(frame, 1, 1, Run(progress=False), "counting")


def test_ctrl_c_cancels_a_job_whose_thread_has_lost_its_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, cancelled = _Frame(), []

    def interrupt(job: RunningJob) -> int:
        frame.ended.set()
        while job.is_running(60):
            pass
        raise KeyboardInterrupt

    monkeypatch.setattr("zhiyin.engines.spark.running_job._ClassicJob._name", lambda _: None)
    monkeypatch.setattr("zhiyin.engines.spark.running_job._ClassicJob._cancel", lambda job: cancelled.append(job))
    monkeypatch.setattr("zhiyin.engines.spark.running_job._ClassicJob.completed_tasks", interrupt)
    engine = SparkEngine(_FailingSession(), "local[2]", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        engine._results(frame, 1, 1, Run(progress=False), "counting")
    assert len(cancelled) == 1
