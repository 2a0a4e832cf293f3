"""Monitors of a policy, kept by the learner: rewards by mode, importance weights, and whether rewards drift.

All are sums over decisions, and tests at every BLOCK decisions of the log, whatever the batches in which it is read.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from zhiyin.policies.off_policy.confidence_sequences import normal_mixture_bound, normal_mixture_rho

# Decisions between two tests of drift and of the guard.
BLOCK = 256
# Confidence of the intervals, and the number of decisions at which they are narrowest.
LEVEL, PLANNED_DECISIONS = 0.95, 10_000


@dataclasses.dataclass
class Sums:
    """Sums of a number of each decision: how many, their sum, the sum of squares, how many are not 0, the largest
    distance from 0, and the smallest if it is below 0."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0
    nonzero: int = 0
    largest: float = 0.0
    smallest: float = 0.0

    def add(self, n: int, total: float, squares: float, nonzero: int, largest: float, smallest: float = 0.0) -> None:
        self.n += n
        self.total += total
        self.squares += squares
        self.nonzero += nonzero
        self.largest, self.smallest = max(self.largest, largest), min(self.smallest, smallest)

    @property
    def mean(self) -> float:
        return self.total / self.n if self.n else 0.0

    @property
    def variance(self) -> float:
        """At least that of one more decision with the largest number: what was never seen is not impossible."""
        if not self.n:
            return 0.0
        return max(self.squares / self.n - self.mean**2, (self.largest or 1.0) ** 2 / (self.n + 1))

    def interval(self, nonnegative: bool = False) -> list[float]:
        """Mean, and the ends of its interval, which holds however often somebody looks (asymptotically).

        nonnegative: the numbers cannot be below 0, so the interval is cut there, unless one was.
        """
        if not self.n:
            return [0.0, 0.0, 0.0]
        rho = normal_mixture_rho(PLANNED_DECISIONS * self.variance, 1 - LEVEL)
        half = normal_mixture_bound(self.n * self.variance, rho, 1 - LEVEL) / self.n
        low = self.mean - half
        return [self.mean, max(low, 0.0) if nonnegative and self.smallest >= 0 else low, self.mean + half]


@dataclasses.dataclass
class PageHinkley:
    """Whether a mean has moved, up or down (Page 1954; Hinkley 1971), on numbers standardised by their own spread.

    Parameters
    ----------
    n, mean, squares: of the numbers since the last alarm; squared distances from the mean (Welford).
    up, down: how far the numbers ran away from the mean, in standard deviations.
    """

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0
    up: float = 0.0
    down: float = 0.0

    # Numbers that are only observed at first; distance that is tolerated; distance at which there is an alarm.
    WARM_UP = 10
    TOLERANCE = 0.5
    THRESHOLD = 10.0

    def add(self, number: float) -> bool:
        """Take in a number; returns whether the mean has moved, and then begins anew."""
        if self.n >= self.WARM_UP:
            spread = math.sqrt(self.squares / (self.n - 1))
            if spread > 0:
                z = (number - self.mean) / spread
                self.up = max(0.0, self.up + z - self.TOLERANCE)
                self.down = max(0.0, self.down - z - self.TOLERANCE)
                if self.statistic > self.THRESHOLD:
                    self.n, self.mean, self.squares, self.up, self.down = 0, 0.0, 0.0, 0.0, 0.0
                    return True
        self.n += 1
        distance = number - self.mean
        self.mean += distance / self.n
        self.squares += distance * (number - self.mean)
        return False

    @property
    def statistic(self) -> float:
        return max(self.up, self.down)


@dataclasses.dataclass
class Monitors:
    """What the learner watches.

    Parameters
    ----------
    rewards: by mode ("control" for lists that the baseline made for comparison), of the reward of a list.
    weights: importance weights of the baseline's action, one a slot that could have had it: their expectation is 1.
    drift: on the mean error of the predicted reward, block by block. alarms: how many. last_alarm: microseconds UTC.
    errors: sum of the errors of the present block. n_errors: how many. n_in_block: its decisions.
    """

    rewards: dict[str, Sums] = dataclasses.field(default_factory=dict)
    weights: Sums = dataclasses.field(default_factory=Sums)
    drift: PageHinkley = dataclasses.field(default_factory=PageHinkley)
    alarms: int = 0
    last_alarm: int = 0
    errors: float = 0.0
    n_errors: int = 0
    n_in_block: int = 0

    def end_block(self, time: int) -> bool:
        """Judge a block of decisions; returns whether rewards have drifted. time: of its last decision."""
        moved = self.n_errors > 0 and self.drift.add(self.errors / self.n_errors)
        if moved:
            self.alarms, self.last_alarm = self.alarms + 1, time
        self.errors, self.n_errors, self.n_in_block = 0.0, 0, 0
        return moved

    def figures(self, nonnegative: bool = False) -> dict[str, Any]:
        """The monitors as people and metrics see them. nonnegative: no reward can be below 0."""
        return {
            "mean_importance_weight": self.weights.interval(nonnegative=True),
            "reward_rate": {mode: sums.interval(nonnegative) for mode, sums in sorted(self.rewards.items())},
            "lists": {mode: sums.n for mode, sums in sorted(self.rewards.items())},
            "drift": {"alarms": self.alarms, "last": self.last_alarm, "statistic": self.drift.statistic},
        }

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Monitors:
        """Of what `as_json` gave. Raises TypeError or KeyError for anything else."""
        rewards = {mode: Sums(**sums) for mode, sums in values["rewards"].items()}
        parts = {"rewards": rewards, "weights": Sums(**values["weights"]), "drift": PageHinkley(**values["drift"])}
        return cls(**{**values, **parts})
