"""Daemons are found by their environment and ended to the last one; a cluster that cannot start says why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zhiyin.core.errors import EngineError
from zhiyin.engines.flink.daemons import Daemons
from zhiyin.engines.flink.flink_python import PYTHON_VARIABLE, flink_home, flink_python, java
from zhiyin.engines.flink.local_cluster import LocalCluster
from zhiyin.engines.flink.rest import JobManager

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the system has no /proc")
# Prints when it runs; ignores SIGTERM.
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
STUBBORN += "print('up', flush=True); time.sleep(600)"
PARENT = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
PARENT += "print('up', flush=True); time.sleep(600)"


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    daemons = Daemons(tmp_path / "cluster")
    yield daemons
    daemons.end(seconds=0)
    assert not daemons.running()


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def start(daemons: Daemons, code: str, role: str = "taskmanager") -> int:
    """Start a daemon of Python code and wait until it is up."""
    name = f"{role}-1"
    process = daemons.start(role, name, [sys.executable, "-c", code], os.environ)
    wait_for(lambda: "up" in (daemons.folder / "log" / f"{name}.out").read_text())
    return process.pid


def test_found_by_role_also_by_another_program(daemons: Daemons) -> None:
    pid = start(daemons, "import time; print('up', flush=True); time.sleep(600)", "jobmanager")
    again = Daemons(daemons.folder)
    assert [(daemon.pid, daemon.role) for daemon in again.running("jobmanager")] == [(pid, "jobmanager")]
    assert again.running("taskmanager") == []
    assert Daemons(daemons.folder.parent / "other").running() == []


def test_a_session_of_its_own_and_a_pid_file(daemons: Daemons) -> None:
    pid = start(daemons, "import time; print('up', flush=True); time.sleep(600)")
    assert os.getsid(pid) == pid
    assert int((daemons.folder / "taskmanager-1.pid").read_text()) == pid


def test_one_that_ignores_sigterm_is_ended(daemons: Daemons) -> None:
    start(daemons, STUBBORN)
    daemons.end(seconds=0.1)
    assert daemons.running() == []
    assert not list(daemons.folder.glob("*.pid"))


def test_what_a_killed_daemon_has_started_is_ended(daemons: Daemons) -> None:
    pid = start(daemons, PARENT)
    wait_for(lambda: len(daemons.running()) == 2)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: pid not in [daemon.pid for daemon in daemons.running()])
    assert len(daemons.running()) == 1
    daemons.end()
    assert daemons.running() == []


def test_the_death_of_who_starts_loses_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    code = f"""
import os, signal, sys
from pathlib import Path
from zhiyin.engines.flink.daemons import Daemons
Daemons(Path({str(folder)!r})).start("jobmanager", "jobmanager", ["sleep", "600"], os.environ)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    (folder / "jobmanager.pid").unlink()
    daemons = Daemons(folder)
    assert [daemon.role for daemon in daemons.running()] == ["jobmanager"]
    daemons.end()
    assert daemons.running() == []


def test_a_folder_without_daemons(tmp_path: Path) -> None:
    assert Daemons(tmp_path).running() == []
    assert LocalCluster(tmp_path / "cluster", Path(sys.executable)).stop() is False
    assert not (tmp_path / "cluster").exists()


# -- what is missing ---------------------------------------------------------------------------------------------------


def test_no_flink_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    with pytest.raises(EngineError, match="no Python of Flink at") as caught:
        flink_python(".flink/bin/python", tmp_path)
    assert "pip install apache-flink" in str(caught.value.remedy)
    with pytest.raises(EngineError, match="no Python of Flink"):  # a folder is no program
        flink_python(".", tmp_path)


def test_an_environment_without_flink(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, sys.executable)
    with pytest.raises(EngineError, match="has no package apache-flink"):
        flink_home(flink_python("elsewhere", tmp_path))


def test_no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(EngineError, match="needs Java 17") as caught:
        java()
    assert "openjdk-17" in str(caught.value.remedy)
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="no java on the path"):
        java()


@pytest.fixture
def fake_flink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python that names a package of Flink, and a `java` that fails."""
    package = tmp_path / "pyflink"
    (package / "lib").mkdir(parents=True)
    (package / "conf").mkdir()
    (package / "conf" / "config.yaml").write_text("env:\n  java:\n    opts:\n      all: --add-opens=x\n")
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho {package}\n")
    python.chmod(0o755)
    (tmp_path / "jdk" / "bin").mkdir(parents=True)
    java_program = tmp_path / "jdk" / "bin" / "java"
    java_program.write_text("#!/bin/sh\necho 'Error: could not create the Java Virtual Machine.'\nexit 1\n")
    java_program.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    return python


def test_a_jobmanager_that_ends_at_once(fake_flink: Path, tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path / "cluster", fake_flink)
    with pytest.raises(EngineError, match="ends at once: Error: could not create the Java Virtual Machine") as caught:
        cluster.start()
    assert str(tmp_path / "cluster" / "log") in str(caught.value.remedy)
    assert cluster.daemons.running() == []


def test_ctrl_c_while_it_starts(fake_flink: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jdk" / "bin" / "java").write_text("#!/bin/sh\nexec sleep 600\n")
    cluster = LocalCluster(tmp_path / "cluster", fake_flink)

    def interrupt(*_: object) -> None:
        assert len(cluster.daemons.running()) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(JobManager, "overview", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cluster.start()
    monkeypatch.undo()
    assert cluster.daemons.running() == []
