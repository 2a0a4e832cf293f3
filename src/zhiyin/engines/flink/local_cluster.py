"""A standalone session cluster of the installed package on 127.0.0.1, for trying streams out.

    cluster = LocalCluster(Path("streams/cluster"), flink_python(".flink/bin/python", Path(".")))
    address = cluster.start()        # starts what is missing: a JobManager, TaskManagers
    cluster.stop()                   # nothing is left

Nobody watches the daemons: one that died is started again by the next `start`. In production systemd or Kubernetes
supervise Flink.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from zhiyin.core.atomic_files import write_json
from zhiyin.core.errors import EngineError
from zhiyin.core.run import log
from zhiyin.engines.flink.cluster_config import (
    HOST,
    free_ports,
    java_options,
    jobmanager_memory,
    taskmanager_memory,
    write_config,
)
from zhiyin.engines.flink.daemons import Daemons
from zhiyin.engines.flink.flink_python import flink_home, java
from zhiyin.engines.flink.rest import JobManager
from zhiyin.store.segment_files import folder_errors, make_streams_folder

START_SECONDS = 180
# Times that a JobManager is started on other ports, where another program has taken one meanwhile.
ATTEMPTS = 3
_JOBMANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASKMANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"


@dataclass(frozen=True)
class ClusterState:
    """What runs. address: "host:port" of the JobManager, None where none answers. taskmanagers: their processes."""

    address: str | None
    jobmanager: int | None
    taskmanagers: list[int]


class LocalCluster:
    """A JobManager and TaskManagers of this machine.

    Parameters
    ----------
    folder: configuration, logs, pid files and temporary files of the cluster; made where it is missing.
    python: of Flink's environment.
    taskmanagers: processes of about 1.5 GB.
    slots: of all TaskManagers together; a job takes as many as its parallelism.
    """

    def __init__(self, folder: Path, python: Path, taskmanagers: int = 1, slots: int = 10) -> None:
        self.folder, self.python, self.taskmanagers = folder.absolute(), python, taskmanagers
        self.slots = -(-slots // taskmanagers)
        self.daemons = Daemons(self.folder)

    def start(self) -> str:
        """Start what does not run, wait until it does, and return the address of the JobManager.

        Raises EngineError with the first error of the log where a process ends while it starts, or does not start
        within START_SECONDS. What this call has started is ended then, also on Ctrl-C.
        """
        with self._locked():
            address = self._address()
            if address is None or not self.daemons.running("jobmanager"):
                # TaskManagers of a JobManager that is gone know its port only.
                self.daemons.end()
                address = self._start_jobmanager()
            else:
                self._wait_for_jobmanager(address)
            self._start_taskmanagers(address)
            return address

    def state(self) -> ClusterState:
        """What runs now."""
        jobmanagers = self.daemons.running("jobmanager")
        taskmanagers = sorted(daemon.pid for daemon in self.daemons.running("taskmanager"))
        address = self._address() if jobmanagers else None
        return ClusterState(address, jobmanagers[0].pid if jobmanagers else None, taskmanagers)

    def stop(self) -> bool:
        """End all processes, jobs with them. Returns whether any ran."""
        if not (self.folder / "token").is_file():
            return False
        with self._locked():
            running = bool(self.daemons.running())
            self.daemons.end()
            shutil.rmtree(self.folder / "tmp", ignore_errors=True)
            (self.folder / "address.json").unlink(missing_ok=True)
            return running

    # -- parts ---------------------------------------------------------------------------------------------------------

    @cached_property
    def _home(self) -> Path:
        return flink_home(self.python)

    def _address(self) -> str | None:
        try:
            return str(json.loads((self.folder / "address.json").read_bytes())["address"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _start_jobmanager(self) -> str:
        home = self._home
        for attempt in range(1, ATTEMPTS + 1):
            rpc_port, rest_port = free_ports(2)
            write_config(self.folder, home, rpc_port, rest_port, self.slots)
            (self.folder / "tmp").mkdir(exist_ok=True)
            address = f"{HOST}:{rest_port}"
            write_json(self.folder / "address.json", {"address": address, "flink": str(home)})
            process = self._start_jvm("jobmanager", "jobmanager", jobmanager_memory(), _JOBMANAGER, [])
            try:
                self._wait_for_jobmanager(address, process)
                log.info("a JobManager is started: http://%s", address)
                return address
            except BaseException as error:
                self.daemons.end()
                _reap(process)
                in_use = "already in use" in str(error) or "bind" in str(error)
                if not (isinstance(error, EngineError) and in_use and attempt < ATTEMPTS):
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _wait_for_jobmanager(self, address: str, process: subprocess.Popen[bytes] | None = None) -> None:
        """Wait until the JobManager answers. process: where this program has started it."""
        jobmanager = JobManager(address, timeout=5)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                jobmanager.overview()
                return
            except EngineError as error:
                if process.poll() is not None if process else not self.daemons.running("jobmanager"):
                    raise self._ended("JobManager", "jobmanager") from None
                if time.monotonic() > deadline:
                    raise EngineError(
                        f"the JobManager does not answer within {START_SECONDS} s: {error.message}",
                        remedy=f"see {self.folder / 'log'}, or end it: zhiyin stream stop",
                    ) from None
            time.sleep(0.1)

    def _start_taskmanagers(self, address: str) -> None:
        """Start as many TaskManagers as are missing, and wait until all are registered."""
        missing = self.taskmanagers - len(self.daemons.running("taskmanager"))
        started: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for _ in range(missing):
                name = f"taskmanager-{secrets.token_hex(4)}"
                started[name] = self._start_jvm("taskmanager", name, taskmanager_memory(), _TASKMANAGER,
                                                ["-D", f"taskmanager.resource-id={name}"])  # fmt: skip
            if missing > 0:
                log.info("%d TaskManager%s started", missing, "" if missing == 1 else "s")
            self._wait_for_taskmanagers(address, started)
        except BaseException:
            for process in started.values():
                process.kill()
                _reap(process)
            raise

    def _wait_for_taskmanagers(self, address: str, started: dict[str, subprocess.Popen[bytes]]) -> None:
        jobmanager = JobManager(address, timeout=5)
        deadline = time.monotonic() + START_SECONDS
        while True:
            # One that has just registered reports its slots a moment later.
            registered = {found["id"] for found in jobmanager.taskmanagers() if found["slotsNumber"] > 0}
            # Dead ones are registered until they are missed, so that a number alone proves nothing.
            if started.keys() <= registered and len(registered) >= self.taskmanagers:
                return
            for name, process in started.items():
                if process.poll() is not None:
                    raise self._ended("TaskManager", name)
            if time.monotonic() > deadline:
                raise EngineError(
                    f"the TaskManager is not registered within {START_SECONDS} s", remedy=f"see {self.folder / 'log'}"
                )
            time.sleep(0.1)

    def _start_jvm(
        self, role: str, name: str, memory: list[str], main: str, arguments: list[str]
    ) -> subprocess.Popen[bytes]:
        """Start a daemon of Flink. One process, not the package's shell scripts with three JVMs before it."""
        home, conf = self._home, self.folder / "conf"
        jars = sorted((home / "lib").glob("*.jar"), key=lambda jar: (jar.name.startswith("flink-dist"), jar.name))
        logs = [f"-Dlog.file={self.folder / 'log' / name}.log",
                f"-Dlog4j.configurationFile={conf / 'log4j.properties'}"]  # fmt: skip
        command = [java(), "-XX:+IgnoreUnrecognizedVMOptions", *memory, *java_options(home), *logs, "-cp",
                   os.pathsep.join(map(str, jars)), main, "--configDir", str(conf), *arguments]  # fmt: skip
        environment = {
            **{key: value for key, value in os.environ.items() if key not in ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS")},
            "FLINK_CONF_DIR": str(conf), "FLINK_LIB_DIR": str(home / "lib"), "FLINK_OPT_DIR": str(home / "opt"),
            "FLINK_PLUGINS_DIR": str(home / "plugins"), "MAX_LOG_FILE_NUMBER": "3",
        }  # fmt: skip
        return self.daemons.start(role, name, command, environment)

    def _ended(self, what: str, name: str) -> EngineError:
        """The error of a process that ended while it started: the last cause that its log has."""
        cause = last_error(self.folder / "log", name) or "it left no message"
        return EngineError(f"the {what} of Flink ends at once: {cause}", remedy=f"see {self.folder / 'log'}")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One start or stop of a folder at a time; the system drops the lock of a process however it ends."""
        make_streams_folder(self.folder)
        with folder_errors(self.folder):
            descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Wait for a child that was killed, so that it is no zombie of this program."""
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        log.warning("process %d does not end", process.pid)


def last_error(folder: Path, name: str) -> str | None:
    """The last cause or error in the log or output of a daemon, one line; None where there is none."""
    for file in (folder / f"{name}.log", folder / f"{name}.out"):
        if not file.is_file():
            continue
        lines = file.read_text(errors="replace").splitlines()[-400:]
        causes = [line.partition("Caused by: ")[2] for line in lines if line.startswith("Caused by: ")]
        errors = [line for line in lines if re.search(r" ERROR |^Error|Exception|^Unrecognized", line)]
        for texts in (causes, errors):
            if texts:
                return texts[-1].strip()[:300]
    return None
