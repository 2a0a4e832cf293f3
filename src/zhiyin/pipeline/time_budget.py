"""The time of a training with a budget: a clock, stages, what is left, and each decision in one line.

Everything that is decided by time asks this clock, never another one, so that a test can slow it.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from zhiyin.core.run import Run, log
from zhiyin.pipeline.fit_costs import FitCosts


class OutOfTime(Exception):  # noqa: N818 -- no error: a fit ends where the plan says so
    """A fit has taken all of the time that it may."""


class TimeBudget:
    """Time that a training may take, counted from `started`.

    Parameters
    ----------
    seconds: the budget; infinite where nothing is to be decided by time.
    clock: seconds as they pass; None: `time.monotonic`.
    started: what the clock said at the start; None: now. Work before the budget was made counts, too.
    say: called with each decision, a sentence.
    on_stage: called with this object, the stage and what of it is being done, as each of them begins.

    `costs` holds what fits were measured to take, `decisions` what was said.
    """

    def __init__(
        self,
        seconds: float = math.inf,
        *,
        clock: Callable[[], float] | None = None,
        started: float | None = None,
        say: Callable[[str], None] = log.info,
        on_stage: Callable[[TimeBudget, str, str], None] | None = None,
    ) -> None:
        self.seconds, self.clock = float(seconds), clock or time.monotonic
        self.started = self.clock() if started is None else started
        self.say, self.on_stage = say, on_stage or _logged
        self.costs, self.decisions = FitCosts(), list[str]()
        self._stages: list[tuple[str, float]] = []

    @property
    def bounded(self) -> bool:
        """Whether there is an end at all."""
        return math.isfinite(self.seconds)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self.clock() - self.started

    @property
    def left(self) -> float:
        """Seconds that are left; negative where the budget is overrun."""
        return self.seconds - self.elapsed

    def begin(self, stage: str) -> None:
        """Begin a stage, which ends the one before."""
        self._stages.append((stage, self.elapsed))
        self.on_stage(self, stage, "")

    def work_on(self, what: str) -> None:
        """What of the stage is being done, such as the fit of a source."""
        self.on_stage(self, self._stages[-1][0] if self._stages else "", what)

    def decide(self, sentence: str) -> None:
        """Say and keep what was decided for lack of time."""
        self.decisions.append(sentence)
        self.say(sentence)

    def stages(self) -> list[dict[str, Any]]:
        """The stages so far: `stage`, `seconds`, rounded."""
        ends = [begun for _, begun in self._stages[1:]] + [self.elapsed]
        return [{"stage": stage, "seconds": round(end - begun, 2)} for (stage, begun), end in zip(self._stages, ends)]

    def limited(self, run: Run, seconds: float) -> Run:
        """A run in which a model that reports its epochs is stopped by OutOfTime after some seconds."""
        if not math.isfinite(seconds):
            return run
        end = self.clock() + seconds

        def look(values: dict[str, Any]) -> None:
            if self.clock() > end:
                raise OutOfTime

        return dataclasses.replace(run, callbacks=(*run.callbacks, look))

    @contextmanager
    def timed(self) -> Iterator[Timer]:
        """Measure the block; `seconds` is set at its end, whatever ends it."""
        timer, begun = Timer(), self.clock()
        try:
            yield timer
        finally:
            timer.seconds = self.clock() - begun


def _logged(budget: TimeBudget, stage: str, what: str) -> None:
    if not what:
        log.info("pipeline: %s", stage)


@dataclasses.dataclass
class Timer:
    """Seconds that a block took."""

    seconds: float = 0.0


def spelled(seconds: float) -> str:
    """A time for people.

    >>> spelled(0.42), spelled(95), spelled(-3), spelled(7384)
    ('0.4 s', '95 s', '0 s', '123 min')
    """
    seconds = max(0.0, seconds)
    if seconds >= 600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.1f} s" if 0 < seconds < 9.95 else f"{seconds:.0f} s"


def minutes(seconds: float) -> str:
    """Time that is left, as a clock shows it.

    >>> minutes(130.4), minutes(-2), minutes(3725)
    ('2:10', '0:00', '1:02:05')
    """
    whole = max(0, int(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
