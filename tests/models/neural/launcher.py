"""Real processes of torchrun on this machine, ended with the test, and their weights beside those of one process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np


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


def assert_same_weights(one: Path, two: Path, kind: str) -> None:
    """Two processes have equal weights, and those of one process to 1e-5. Folders hold KIND.RANK.npz."""
    wanted, first, second = (np.load(f) for f in (one / f"{kind}.0.npz", two / f"{kind}.0.npz", two / f"{kind}.1.npz"))
    for name in wanted.files:
        np.testing.assert_array_equal(second[name], first[name], err_msg=name)
        actual, expected = first[name].copy(), wanted[name].copy()
        if name.endswith("qkv.bias"):  # attention does not depend on the keys' bias: Adam makes steps out of rounding
            actual[8:16] = expected[8:16] = 0
        np.testing.assert_allclose(actual, expected, atol=1e-5, err_msg=name)
