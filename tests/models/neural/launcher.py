"""Real processes of torchrun on this machine, ended with the test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def launch(
    command: Sequence[str], processes: int, timeout: float = 120, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `command`, a script or `-m module` and its arguments, in several processes; with what they printed."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(free_port())]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, map(str, sys.path)))}
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        environment.pop(name, None)
    begun = subprocess.Popen(
        [sys.executable, *launcher, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True, cwd=cwd,
    )  # fmt: skip
    try:
        out, err = begun.communicate(timeout=timeout)
    finally:
        if begun.poll() is None:
            os.killpg(begun.pid, signal.SIGKILL)  # the launcher and what it launched
    return subprocess.CompletedProcess(command, begun.returncode, out, err)


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
