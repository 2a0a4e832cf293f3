"""Limits on the work of one request: it is counted before it is done, and stopped when nobody waits for it any more.

    with metered(Meter(2e9, seconds=30)):
        spend(5 * len(column))      # about as many nanoseconds; raises where it would be too much
        check()                     # raises where time is up

Where no meter is set, nothing is counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from zhiyin.core.errors import ConfigError, ZhiyinError


class WorkError(ConfigError):
    """A request needs more work than is allowed."""


class StoppedError(ZhiyinError):
    """Work was stopped: its time was over, or nobody waited for it any more."""


class Meter:
    """Counts the work of one request; any number of threads may add to it.

    Parameters
    ----------
    units: work at most; a unit is about a nanosecond of one core.
    seconds: time at most.
    """

    def __init__(self, units: float, seconds: float) -> None:
        self.units, self.left, self._until, self._stopped = units, units, time.monotonic() + seconds, False

    def spend(self, units: float) -> None:
        self.check()
        self.left -= units
        if self.left < 0:
            raise WorkError(
                "the expressions of this request take too much work",
                remedy="fewer or shorter conditions; what every list asks for belongs into a placement",
            )

    def check(self) -> None:
        if self._stopped or time.monotonic() > self._until:
            raise StoppedError("this took too long and was stopped", remedy="ask for less at once, or come again")

    def stop(self) -> None:
        """Stop the work, since nobody waits for it: the next `check` raises."""
        self._stopped = True


_METER: ContextVar[Meter | None] = ContextVar("zhiyin-meter", default=None)


@contextmanager
def metered(meter: Meter) -> Iterator[Meter]:
    """Count the work within the block."""
    token = _METER.set(meter)
    try:
        yield meter
    finally:
        _METER.reset(token)


def spend(units: float) -> None:
    """Count work that is about to be done. Raises WorkError or StoppedError."""
    meter = _METER.get()
    if meter is not None:
        meter.spend(units)


def check() -> None:
    """Raises StoppedError where the request's time is over or nobody waits for it."""
    meter = _METER.get()
    if meter is not None:
        meter.check()
