"""When a command began: with its process, so that a budget of time counts imports and reading, too."""

from __future__ import annotations

import os
import time

_begun: float | None = None


def count_from_start_of_process() -> None:
    """Count the time of this command from the start of the process; of commands called otherwise, from the call."""
    global _begun
    _begun = time.monotonic() - _age_of_process()


def command_begun() -> float:
    """What `time.monotonic` said when this command began; now, for one that was not started as a process."""
    return time.monotonic() if _begun is None else _begun


def _age_of_process() -> float:
    """Seconds since this process was started; 0 where the system does not tell."""
    try:
        with open("/proc/self/stat") as status:
            ticks = int(status.read().rpartition(")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
