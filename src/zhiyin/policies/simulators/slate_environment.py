"""The contract of a simulated environment: n users at once, each with candidates of which a slate is shown."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.core.params import Parameterized, check_settings, param, settings_of, whole_number
from zhiyin.policies.simulators.counter_random import session_seeds

CANDIDATE_STREAM, USER_STREAM, CHOICE_STREAM, TRANSITION_STREAM, REWARD_STREAM = range(11, 16)


@dataclasses.dataclass(frozen=True, eq=False)
class Observation:
    """What a policy may see.

    Parameters
    ----------
    users: float64[n, d].
    items: float64[n, candidates, e].
    """

    users: np.ndarray
    items: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Response:
    """What came of a slate for each user.

    Parameters
    ----------
    slots: int64[n], the chosen slot, -1 for none.
    items: int64[n], the chosen candidate, -1 for none.
    rewards: float64[n].
    ended: bool[n], sessions that ended with this step.
    slot_rewards: float64[n, k], what each slot brought; the rows sum up to `rewards`.
    """

    slots: np.ndarray
    items: np.ndarray
    rewards: np.ndarray
    ended: np.ndarray
    slot_rewards: np.ndarray


@dataclasses.dataclass
class SlateEnvironment(Parameterized, abc.ABC):
    """n users with a session each. A user whose session has ended stays as it is, without reward, until `reset`.

    The same settings and slates give the same sessions; a user's sessions do not depend on the other users.
    """

    n_users: int = param(1000, "users simulated at once", at_least=1)
    n_candidates: int = param(10, "items to choose a slate from, drawn anew at each step", at_least=1)
    slate_size: int = param(3, "items shown", at_least=1)
    seed: int = param(0, "every draw descends from it", at_least=0)

    def __post_init__(self) -> None:
        for name, value in check_settings(type(self), settings_of(self)).items():
            setattr(self, name, value)
        if self.slate_size > self.n_candidates:
            raise DataError("the slate is larger than the set of candidates", remedy="slate_size <= n_candidates")
        self.active = np.zeros(self.n_users, dtype=bool)
        self.steps = np.zeros(self.n_users, dtype=np.int64)
        self._sessions = np.zeros(self.n_users, dtype=np.int64)
        self._seeds = np.zeros(self.n_users, dtype=np.uint64)
        self._allocate()
        self.reset()

    # -- what a subclass gives -----------------------------------------------------------------------------------

    @abc.abstractmethod
    def _allocate(self) -> None:
        """Make the arrays of the state."""

    @abc.abstractmethod
    def _begin(self, users: np.ndarray) -> None:
        """Draw the state of users, int64, whose sessions begin."""

    @abc.abstractmethod
    def _draw_candidates(self) -> None:
        """Draw the candidates of all users for the step that they are at."""

    @abc.abstractmethod
    def observe(self) -> Observation:
        """What a policy may see of the users and their candidates."""

    @abc.abstractmethod
    def _respond(self, slates: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Chosen slots, rewards, and where sessions end; only active users' state changes."""

    def _slot_rewards(self, slots: np.ndarray, rewards: np.ndarray) -> np.ndarray:
        """float64[n, k]: the reward of each slot of the last slates; that of the chosen one, unless several are."""
        return np.where(slots[:, None] == np.arange(self.slate_size), rewards[:, None], 0.0)

    # -- what callers use ----------------------------------------------------------------------------------------

    def reset(self, users: np.ndarray | None = None) -> None:
        """Begin new sessions of users, bool[n]; None: of all."""
        rows = np.arange(self.n_users) if users is None else np.flatnonzero(users)
        self._sessions[rows] += 1
        self._seeds[rows] = session_seeds(self.seed, rows, self._sessions[rows])
        self.steps[rows], self.active[rows] = 0, True
        self._begin(rows)
        self._draw_candidates()

    def reseed(self, seed: int) -> None:
        """Have the sessions that begin from now on descend from another seed."""
        self.seed = whole_number(seed, "seed", at_least=0, at_most=2**63 - 1)
        self._sessions[:] = 0

    def step(self, slates: np.ndarray) -> Response:
        """Show a slate to each user. slates: int64[n, k], candidates by slot; an item may stand in several slots.

        Raises DataError for slates of another shape, or of candidates that there are not.
        """
        slates = np.asarray(slates)
        if slates.shape != (self.n_users, self.slate_size) or slates.dtype.kind not in "iu":
            remedy = f"int64[{self.n_users}, {self.slate_size}]"
            raise DataError(f"slates of shape {slates.shape} and type {slates.dtype}", remedy=remedy)
        if slates.min() < 0 or slates.max() >= self.n_candidates:
            raise DataError("a slate has a candidate that there is not", remedy=f"0 to {self.n_candidates - 1}")
        slots, rewards, ended = self._respond(slates)
        slots = np.where(self.active, slots, -1)
        rewards, ended = np.where(self.active, rewards, 0.0), ended & self.active
        items = np.where(slots >= 0, slates[np.arange(self.n_users), slots], -1)
        by_slot = np.where(self.active[:, None], self._slot_rewards(slots, rewards), 0.0)
        self.active &= ~ended
        self.steps[self.active] += 1
        self._draw_candidates()
        return Response(slots, items, rewards, ended, by_slot)


def session_returns(environment: SlateEnvironment, choose: Callable[[Observation], np.ndarray]) -> np.ndarray:
    """float64[n]: total reward of a new session of each user. choose: from an observation to slates, int64[n, k]."""
    environment.reset()
    total = np.zeros(environment.n_users)
    while environment.active.any():
        total += environment.step(choose(environment.observe())).rewards
    return total


def top_slates(scores: np.ndarray, k: int) -> np.ndarray:
    """int64[n, k]: the k candidates of the highest score, the best first; of equals, the earlier. scores: [n, m]."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]
