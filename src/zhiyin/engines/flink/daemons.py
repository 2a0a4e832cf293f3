"""Daemons of one folder: each a session of its own, recognised by a token in its environment, ended to the last one."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zhiyin.core.atomic_files import write_whole

# In the environment of every daemon and of what it starts: "<token> <role>".
VARIABLE = "ZHIYIN_FLINK_DAEMON"
TERMINATE_SECONDS = 20


@dataclass(frozen=True)
class Daemon:
    """A running process of the folder, or one that it started. role: of the daemon, such as "jobmanager"."""

    pid: int
    role: str


class Daemons:
    """The daemons of a folder.

    A process is recognised by its environment (`/proc`), so that no kill of the program that starts daemons can lose
    one. Where the system has no `/proc` the pid files in the folder are what is known.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Children of this program, which stay zombies until they are waited for.
        self._children: list[subprocess.Popen[bytes]] = []

    @property
    def token(self) -> str:
        """A random text, made once for the folder."""
        path = self.folder / "token"
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, secrets.token_hex(16))
        return path.read_text().strip()

    def environment(self, role: str) -> dict[str, str]:
        """What a process has in its environment that is to end with the others."""
        return {VARIABLE: f"{self.token} {role}"}

    def start(
        self, role: str, name: str, command: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start a daemon whose output goes to NAME.out of the folder `log`; its pid is written to NAME.pid."""
        log = self.folder / "log"
        log.mkdir(parents=True, exist_ok=True)
        with open(log / f"{name}.out", "ab") as output:
            process = subprocess.Popen(
                list(command), env={**environment, **self.environment(role)}, cwd=self.folder,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self._children.append(process)
        write_whole(self.folder / f"{name}.pid", f"{process.pid}\n")
        return process

    def running(self, role: str | None = None) -> list[Daemon]:
        """Running processes, of one role or of all; zombies do not count."""
        if not (self.folder / "token").is_file():
            return []
        self._children = [child for child in self._children if child.poll() is None]
        processes = _of_proc(self.token) if Path("/proc/self/environ").exists() else self._of_pid_files()
        return [process for process in processes if role in (None, process.role)]

    def end(self, seconds: float = TERMINATE_SECONDS) -> None:
        """End all processes: by SIGTERM, and by SIGKILL what is left after `seconds`. Nothing is left."""
        _signal(self.running(), signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while (left := self.running()) and time.monotonic() < deadline:
            time.sleep(0.05)
        while left:  # a killed process is gone as soon as the kernel comes to it
            _signal(left, signal.SIGKILL)
            time.sleep(0.05)
            left = self.running()
        for file in self.folder.glob("*.pid"):
            file.unlink(missing_ok=True)

    def _of_pid_files(self) -> list[Daemon]:
        processes = []
        for file in self.folder.glob("*.pid"):
            with contextlib.suppress(ValueError, OSError):
                pid = int(file.read_text())
                command = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True)
                if str(self.folder) in command.stdout and not command.stdout.startswith("("):
                    processes.append(Daemon(pid, file.name.partition("-")[0].removesuffix(".pid")))
        return processes


def _of_proc(token: str) -> list[Daemon]:
    start = f"{VARIABLE}={token} ".encode()
    processes = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended meanwhile, or is another user's
            environment = Path(entry.path, "environ").read_bytes()
            position = environment.find(start)
            if position == 0 or (position > 0 and environment[position - 1] == 0):
                role = environment[position + len(start) :].partition(b"\0")[0].decode()
                processes.append(Daemon(int(entry.name), role))
    return processes


def _signal(processes: Sequence[Daemon], number: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, number)
