"""Pacing: campaigns spend their budgets along a curve of the day instead of in its first hours.

Each interval a campaign with the budget left R(t) should spend

    r*(t) = R(t) · curve(interval) / curve(from now to the end of the period)

where the curve is flat ("even") or the traffic's own. What it was expected to spend, r, is compared with that, and a
PID controller in its velocity form moves the logarithm of a multiplier:

    e = log(r* / r) in [-3, 1],    log m += K_P (e - e') + K_I e + K_D (e - 2 e' + e''),    least ≤ m ≤ 1

m scales what a campaign's ads are ordered by, which is the dual price of its budget (Mehta, Saberi, Vazirani and
Vazirani, AdWords and generalized online matching, JACM 2007: p · b · (1 - λ), paid in full); or its bids; or the
probability that it takes part. The exponential of a controller's output as the actuator of bids, and the form of the
error, are of Zhang, Rong, Wang, Zhu and Wang, Feedback control of real-time display advertising (WSDM 2016);
multiplying probabilities of taking part is of Xu, Lee, Li, Qi and Lu, Smart pacing for effective online ad campaign
optimization (KDD 2015). Different here: the target is always made of what is left, so an error of the past, a restart
and a budget that was changed all heal themselves; the velocity form has no integral that could wind up while m is at an
end; and r is what displays are expected to cost (probability × price) times the share of such expectations that has
come true, since clicks are too rare to steer by.
"""

from __future__ import annotations

import dataclasses

import numpy as np

HOURS = 24
# The least factor of scores; a multiplier below it leaves auctions out as well.
LEAST_SCORE = 0.3
# Where a campaign begins: in the first interval nothing is known of its market, and it rises fast.
FIRST_MULTIPLIER = 0.1
_DAY_HOURS = float(HOURS)


@dataclasses.dataclass(frozen=True, eq=False)
class TrafficCurve:
    """The share of a day's traffic in each hour, UTC.

    Parameters
    ----------
    hours: float64[24], above 0, with the sum 1.
    """

    hours: np.ndarray = dataclasses.field(default_factory=lambda: np.full(HOURS, 1 / HOURS))

    @classmethod
    def of_counts(cls, counts: np.ndarray, least: float = 0.1) -> TrafficCurve:
        """Of requests by hour of the day; an hour has at least this share of the mean.

        >>> TrafficCurve.of_counts(np.zeros(24)).hours.round(4)[:2].tolist()
        [0.0417, 0.0417]
        """
        counts = np.asarray(counts, np.float64)
        if not counts.sum() > 0:
            return cls()
        counts = np.maximum(counts, least * counts.mean())
        return cls(counts / counts.sum())

    def mass(self, begin: np.ndarray | float, end: np.ndarray | float) -> np.ndarray:
        """The traffic between two times, in days of traffic.

        Parameters
        ----------
        begin, end: float64[n], hours since 1970, UTC.
        """
        return self._until(end) - self._until(begin)

    def _until(self, time: np.ndarray | float) -> np.ndarray:
        time = np.asarray(time, np.float64)
        days, hour = np.divmod(time, _DAY_HOURS)
        number = np.minimum(hour.astype(np.int64), HOURS - 1)
        before = np.concatenate([[0.0], np.cumsum(self.hours)])
        return np.asarray(days + before[number] + (hour - number) * self.hours[number])


EVEN = TrafficCurve()


def scores_and_parts(multipliers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How a campaign is held back by its scores: their factors, and the probabilities of taking part.

    Scores alone would not do where all campaigns are held back: somebody wins every slot.

    >>> [part.round(2).tolist() for part in scores_and_parts(np.array([1.0, 0.6, 0.15]))]
    [[1.0, 0.6, 0.3], [1.0, 1.0, 0.5]]
    """
    return np.maximum(multipliers, LEAST_SCORE), np.minimum(multipliers / LEAST_SCORE, 1.0)


class PacingController:
    """Multipliers of n campaigns, from 0 to 1: of bids, or of probabilities of taking part.

    Parameters
    ----------
    n: campaigns.
    proportional, integral, derivative: gains.
    least: the multiplier is never lower, so that a campaign goes on hearing of its market.

    >>> pacing = PacingController(1)
    >>> fast = [float(pacing.update(np.array([10.0]), np.array([20.0]))[0]) for _ in range(3)]
    >>> fast[0] > fast[1] > fast[2]
    True
    """

    def __init__(
        self, n: int, proportional: float = 0.3, integral: float = 0.3, derivative: float = 0.0, least: float = 0.005
    ) -> None:
        self._gains = proportional, integral, derivative
        self._least = float(np.log(least))
        self._log = np.full(n, np.log(FIRST_MULTIPLIER))
        self._last, self._second_last = np.zeros(n), np.zeros(n)

    @property
    def multipliers(self) -> np.ndarray:
        """float64[n]."""
        return np.exp(self._log)

    def update(self, target: np.ndarray, spent: np.ndarray) -> np.ndarray:
        """The multipliers after an interval in which campaigns should have spent `target` and spent `spent`.

        Where both are 0, nothing is learned.
        """
        least = 1e-9 * np.maximum(np.maximum(target, spent), 1e-12)
        error = np.clip(np.log((target + least) / (spent + least)), -3.0, 1.0)
        proportional, integral, derivative = self._gains
        self._log += (
            proportional * (error - self._last)
            + integral * error
            + derivative * (error - 2 * self._last + self._second_last)
        )
        np.clip(self._log, self._least, 0.0, out=self._log)
        self._second_last, self._last = self._last, error
        return self.multipliers

    def taken(self, rows: np.ndarray) -> PacingController:
        """A controller of other campaigns: what is known of row `rows[i]` is that of i; -1: nothing is known."""
        other = PacingController(len(rows), *self._gains, least=float(np.exp(self._least)))
        known = rows >= 0
        for name in ("_log", "_last", "_second_last"):
            getattr(other, name)[known] = getattr(self, name)[rows[known]]
        return other


def spend_target(
    budget: np.ndarray,
    spent: np.ndarray,
    curve: TrafficCurve,
    now: float,
    interval: float,
    end: np.ndarray,
) -> np.ndarray:
    """float64[n]: what campaigns should spend in an interval that begins now.

    Parameters
    ----------
    budget, spent: of the period; in the same unit.
    now, interval, end: hours since 1970, UTC; hours; when each period ends.

    >>> budget, spent, end = np.array([240.0]), np.array([120.0]), np.array([24.0])
    >>> spend_target(budget, spent, EVEN, now=12.0, interval=1.0, end=end).round(6).tolist()
    [10.0]
    """
    left = np.maximum(budget - spent, 0)
    until = np.minimum(now + interval, end)
    rest = np.maximum(curve.mass(now, np.maximum(end, now)), 1e-9)
    return np.asarray(left * np.clip(curve.mass(now, np.maximum(until, now)) / rest, 0, 1))
