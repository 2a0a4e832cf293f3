"""Which times of events are accepted."""

from __future__ import annotations

import dataclasses
import time

from zhiyin.core.durations import SECOND, UNITS
from zhiyin.core.limits import EARLIEST

# Whole numbers are read by their size: each unit has a range of its own between EARLIEST and LATEST.
UNIT_PER_SECOND = {"seconds": 1, "milliseconds": 1_000, "microseconds": 1_000_000, "nanoseconds": 1_000_000_000}


def wall_clock() -> int:
    """Microseconds since 1970, UTC, by the clock of this machine."""
    return time.time_ns() // 1000


@dataclasses.dataclass(frozen=True)
class TimePolicy:
    """Which times of events are accepted.

    Parameters
    ----------
    earliest: microseconds UTC; what is earlier is no moment at which somebody did something.
    ahead: microseconds that a time may be ahead of the clock. One that is, is taken as the clock's: clocks of those who
        send events differ a little. One further ahead is refused: it would be the end of the log for ever.
    """

    earliest: int = EARLIEST
    ahead: int = UNITS["d"]

    def latest(self, now: int) -> int:
        """The latest time that is accepted at `now`."""
        return now + self.ahead

    def accepts(self, moment: int, now: int) -> bool:
        return self.earliest <= moment <= now + self.ahead

    def refusal(self, moment: int, now: int) -> tuple[str, str]:
        """Why a time is not accepted, and what to do."""
        for unit, per_second in UNIT_PER_SECOND.items():
            if unit != "microseconds" and self.accepts(moment * SECOND // per_second, now):
                why = "is before 1971" if moment < self.earliest else "is more than a day ahead of the clock"
                return f"time = {moment} {why}: it looks like {unit}", "send microseconds UTC"
        if moment < self.earliest:
            return f"time = {moment} is before 1971", "microseconds UTC, or leave time out for now"
        return (
            f"time = {moment} is more than a day ahead of the clock",
            "microseconds UTC; check the clock of who sends it, or leave time out for now",
        )
