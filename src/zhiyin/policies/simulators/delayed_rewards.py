"""Rewards that arrive later than their decisions, by exponentially distributed delays."""

from __future__ import annotations

import dataclasses

import numpy as np

from zhiyin.core.errors import ConfigError


@dataclasses.dataclass(frozen=True, eq=False)
class Arrivals:
    """Rewards that arrived, in the order of their arrival.

    Parameters
    ----------
    decisions: int64[m], keys of their decisions.
    rewards: float64[m].
    decided, arrived: float64[m], times.
    """

    decisions: np.ndarray
    rewards: np.ndarray
    decided: np.ndarray
    arrived: np.ndarray


class DelayedRewards:
    """Holds rewards back: each arrives after a delay of Exp(mean_delay), independent of action and reward.

    >>> rewards = DelayedRewards(mean_delay=10, rng=np.random.default_rng(0))
    >>> rewards.submit(np.arange(3), np.ones(3), now=0)
    >>> len(rewards.arrivals(now=1_000).rewards), len(rewards)
    (3, 0)
    """

    def __init__(self, mean_delay: float, rng: np.random.Generator) -> None:
        if not mean_delay >= 0:
            raise ConfigError(f"mean_delay = {mean_delay} is negative", remedy="a time of at least 0")
        self.mean_delay, self._rng = mean_delay, rng
        nothing = np.zeros(0)
        self._waiting = Arrivals(np.zeros(0, dtype=np.int64), nothing, nothing, nothing)

    def __len__(self) -> int:
        """Rewards that have not arrived."""
        return len(self._waiting.decisions)

    def submit(self, decisions: np.ndarray, rewards: np.ndarray, now: float) -> None:
        """Add the rewards, float64[n], of decisions, int64[n], made now."""
        arrived = now + self._rng.exponential(self.mean_delay, len(decisions)) if self.mean_delay else now
        new = Arrivals(decisions, rewards, np.full(len(decisions), now), np.broadcast_to(arrived, len(decisions)))
        fields = [field.name for field in dataclasses.fields(Arrivals)]
        self._waiting = Arrivals(*(np.concatenate([getattr(self._waiting, f), getattr(new, f)]) for f in fields))

    def arrivals(self, now: float) -> Arrivals:
        """What arrived up to now and has not been returned before."""
        waiting = self._waiting
        due = np.flatnonzero(waiting.arrived <= now)
        due = due[np.argsort(waiting.arrived[due], kind="stable")]
        rest = waiting.arrived > now
        fields = [getattr(waiting, field.name) for field in dataclasses.fields(Arrivals)]
        self._waiting = Arrivals(*(values[rest] for values in fields))
        return Arrivals(*(values[due] for values in fields))


def share_arrived(age: np.ndarray | float, mean_delay: float) -> np.ndarray:
    """F(age) = 1 - exp(-age / mean_delay): the share of rewards that have arrived this long after their decisions.

    A mean over decisions of age W is F(W) times the mean reward; weights of 1 / F correct it.
    """
    if mean_delay == 0:
        return np.ones(np.shape(age))
    return -np.expm1(-np.asarray(age, dtype=np.float64) / mean_delay)
