"""TrainingShare: how much of the time a training runs, so that it ends and answering goes on as before.

A training has a lower priority than the service (`nice`), which alone is not enough: it also takes memory bandwidth and
caches, and a thread that becomes runnable may wait until the time slice of the training has passed. So its processes
are stopped and continued (SIGSTOP, SIGCONT) in turn. Which share of the time they run follows from how long threads of
the service wait for a core, as the kernel counts it (`/proc/PID/task/TID/schedstat`): it grows slowly while they hardly
wait, and falls quickly while they do (additive increase, multiplicative decrease), but never below MIN_SHARE, so that
each training ends. Where the kernel does not count that, the share stays at its limit.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

# Share of the time that a training runs at its start and at least; at most it is a setting.
FIRST_SHARE, MIN_SHARE = 0.5, 0.2
# Part of the time that runnable threads of the service may wait for a core.
MAX_WAITING = 0.25
# What a share grows by, and is multiplied by, at each check.
INCREASE, DECREASE = 0.05, 0.7
# Processor time of the service between two checks, waiting included, below which it counts as idle.
MIN_BUSY_SECONDS = 0.01
# Seconds of a turn, in which a training runs once and is stopped once, and between two checks of the service.
TURN_SECONDS, CHECK_SECONDS = 0.1, 1.0


class ShareController:
    """The share of the time that a training runs.

    Parameters
    ----------
    limit: the largest share, above 0 and at most 1.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self.share = min(limit, FIRST_SHARE)

    def update(self, ran: float, waited: float) -> None:
        """Take in what threads of the service did since the last time.

        Parameters
        ----------
        ran, waited: seconds that they ran, and that they were runnable and waited for a core.
        """
        busy = ran + waited
        if busy >= MIN_BUSY_SECONDS and waited > MAX_WAITING * busy:
            self.share = min(self._limit, max(MIN_SHARE, self.share * DECREASE))
        else:
            self.share = min(self._limit, self.share + INCREASE)


class RunDelays:
    """Time that threads of some processes have run, and have waited for a core.

    Parameters
    ----------
    processes: gives the ids of the processes.
    proc: the file system `proc`.
    """

    def __init__(self, processes: Callable[[], Iterable[int]], proc: Path = Path("/proc")) -> None:
        self._processes, self._proc = processes, proc
        # By process and thread: nanoseconds that it ran and waited.
        self._before = self._read()

    def since_last(self) -> tuple[float, float]:
        """Seconds that they ran and waited since the last call; of threads that have begun or ended since, nothing."""
        now, before = self._read(), self._before
        self._before = now
        deltas = [(ran - before[key][0], waited - before[key][1])
                  for key, (ran, waited) in now.items() if key in before]  # fmt: skip
        return sum(ran for ran, _ in deltas) / 1e9, sum(waited for _, waited in deltas) / 1e9

    def _read(self) -> dict[tuple[int, str], tuple[int, int]]:
        times = {}
        for process in self._processes():
            for thread in self._names(self._proc / str(process) / "task"):
                with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended, or the kernel does not count
                    fields = (self._proc / str(process) / "task" / thread / "schedstat").read_text().split()
                    times[process, thread] = int(fields[0]), int(fields[1])
        return times

    @staticmethod
    def _names(folder: Path) -> list[str]:
        try:
            return os.listdir(folder)
        except OSError:
            return []


def service_processes() -> list[int]:
    """Ids of this process and of the processes that its main thread has started, such as workers."""
    process = os.getpid()
    with contextlib.suppress(OSError, ValueError):
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        return [process, *map(int, children)]
    return [process]


class TrainingShare:
    """Stops and continues a process group until it is closed. While it does, the group must not be stopped by others.

    Parameters
    ----------
    group: id of the process group.
    controller: gives the share of the time that the group runs.
    delays: of the service.
    signal_group: called with the group and a signal.
    clock: monotonic seconds.
    wait: waits so many seconds, or until it is closed, and returns whether it is; None: by an event.
    """

    def __init__(
        self, group: int, controller: ShareController, delays: RunDelays,
        signal_group: Callable[[int, int], None] = os.killpg, clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ) -> None:  # fmt: skip
        self._group, self.controller, self._delays = group, controller, delays
        self._signal_group, self._clock = signal_group, clock
        self._closing = threading.Event()
        self._wait = wait or self._closing.wait
        self._check_at = clock() + CHECK_SECONDS
        self._thread = threading.Thread(target=self.run, name="zhiyin-retrain-share", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Let the group run from now on."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._send(signal.SIGCONT)

    def run(self) -> None:
        """Turns until it is closed, by `close` or by `wait`."""
        while not self._take_turn():
            pass

    def _take_turn(self) -> bool:
        """One turn. Returns whether it was closed in it."""
        if self._clock() >= self._check_at:
            self._check_at = self._clock() + CHECK_SECONDS
            self.controller.update(*self._delays.since_last())
        share = self.controller.share
        if self._wait(TURN_SECONDS * share):
            return True
        if share >= 1:
            return False
        self._send(signal.SIGSTOP)
        try:
            return self._wait(TURN_SECONDS * (1 - share))
        finally:
            self._send(signal.SIGCONT)

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended
            self._signal_group(self._group, number)
