"""The decisions that a policy is asked to make: for each, the actions it may choose among; and what came of them.

Policies work on batches. Actions of n decisions lie one after the other in flat arrays, those of decision r at
[offsets[r], offsets[r + 1]).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable

import numpy as np

from zhiyin.core.errors import DataError


@dataclasses.dataclass(frozen=True, eq=False)
class ActionSets:
    """The actions of n decisions, m in all; each action at most once in a decision.

    Parameters
    ----------
    offsets: int64[n + 1], where the actions of each decision begin and end.
    actions: int64[m], keys of the actions, the same key for the same action at any time (see `action_keys`).
    features: float64[m, d], features of user, action and context; None: policies that learn by features cannot choose.
    scores: float64[m], expected rewards by a scorer, higher is better; None: the policy's own estimates are used.
    excluded: bool[m], actions that must not be chosen; None: none. At least one action of a decision is not excluded.

    Raises
    ------
    DataError: shapes that do not fit, numbers that are not finite, a decision without an action that may be chosen.

    >>> ActionSets.single([3, 8, 9], scores=[.1, .5, .2]).n_decisions
    1
    """

    offsets: np.ndarray
    actions: np.ndarray
    features: np.ndarray | None = None
    scores: np.ndarray | None = None
    excluded: np.ndarray | None = None

    def __post_init__(self) -> None:
        as_array(self, "offsets", np.int64, 1)
        as_array(self, "actions", np.int64, 1)
        as_array(self, "features", np.float64, 2)
        as_array(self, "scores", np.float64, 1)
        as_array(self, "excluded", np.bool_, 1)
        sizes, m = np.diff(self.offsets), len(self.actions)
        if not len(self.offsets) or self.offsets[0] != 0 or self.offsets[-1] != m or (sizes < 0).any():
            raise DataError("offsets do not lead through the actions", remedy="0, then where each decision ends")
        for name in ("features", "scores", "excluded"):
            values = getattr(self, name)
            if values is not None and len(values) != m:
                raise DataError(f"{name} of {len(values)} rows for {m} actions", remedy="one row an action")
        if self.excluded is not None and m:
            eligible = np.concatenate([[0], np.cumsum(~self.excluded)])
            sizes = np.diff(eligible[self.offsets])
        if (sizes == 0).any():
            decision = int(np.argmin(sizes))
            raise DataError(f"decision {decision} has no action to choose", remedy="at least one that is not excluded")

    @classmethod
    def single(
        cls,
        actions: Iterable[int] | np.ndarray,
        features: np.ndarray | None = None,
        scores: Iterable[float] | np.ndarray | None = None,
        excluded: Iterable[bool] | np.ndarray | None = None,
    ) -> ActionSets:
        """One decision."""
        keys = np.asarray(actions, dtype=np.int64)
        return cls(np.array([0, len(keys)]), keys, features, scores, excluded)  # type: ignore[arg-type]

    @classmethod
    def unchecked(
        cls, offsets: np.ndarray, actions: np.ndarray, features: np.ndarray | None, scores: np.ndarray | None
    ) -> ActionSets:
        """Of arrays that are contiguous, of the right types and shapes, and finite: nothing is looked at."""
        sets = object.__new__(cls)
        for name, value in (("offsets", offsets), ("actions", actions), ("features", features), ("scores", scores)):
            object.__setattr__(sets, name, value)
        object.__setattr__(sets, "excluded", None)
        return sets

    @property
    def n_decisions(self) -> int:
        return len(self.offsets) - 1

    @property
    def owners(self) -> np.ndarray:
        """int64[m], the decision of each action."""
        return np.repeat(np.arange(self.n_decisions), np.diff(self.offsets))

    def eligible(self) -> tuple[ActionSets, np.ndarray | None]:
        """The actions that are not excluded, and their rows, int64; None in place of the rows where that is all."""
        if self.excluded is None or not self.excluded.any():
            return self, None
        rows = np.flatnonzero(~self.excluded)
        offsets = np.concatenate([[0], np.cumsum(~self.excluded)])[self.offsets]
        features = None if self.features is None else self.features[rows]
        scores = None if self.scores is None else self.scores[rows]
        return ActionSets(offsets, self.actions[rows], features, scores), rows

    def take(self, decisions: np.ndarray, excluded: np.ndarray | None = None) -> tuple[ActionSets, np.ndarray]:
        """Some of the decisions, and the rows of their actions, int64.

        Parameters
        ----------
        decisions: int64, each at most once.
        excluded: bool[m], in place of `self.excluded`.
        """
        sizes = np.diff(self.offsets)[decisions]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[decisions] - offsets[:-1], sizes)
        excluded = self.excluded if excluded is None else excluded
        parts = [None if part is None else part[rows] for part in (self.features, self.scores, excluded)]
        return ActionSets(offsets, self.actions[rows], *parts), rows


@dataclasses.dataclass(frozen=True, eq=False)
class Outcomes:
    """Rewards of n chosen actions, in the order in which their reward windows closed.

    Parameters
    ----------
    actions: int64[n], keys of the actions.
    rewards: float64[n].
    features: float64[n, d], as they were when the action was chosen; None for policies that learn without.

    Raises
    ------
    DataError: shapes that do not fit, numbers that are not finite.
    """

    actions: np.ndarray
    rewards: np.ndarray
    features: np.ndarray | None = None

    def __post_init__(self) -> None:
        as_array(self, "actions", np.int64, 1)
        as_array(self, "rewards", np.float64, 1)
        as_array(self, "features", np.float64, 2)
        n = len(self.actions)
        if len(self.rewards) != n or (self.features is not None and len(self.features) != n):
            raise DataError("actions, rewards and features are not of one length", remedy="one row an outcome")

    def __len__(self) -> int:
        return len(self.actions)


def as_array(owner: object, name: str, dtype: type, dimensions: int) -> None:
    """Turn a field of a frozen dataclass into a contiguous array. Raises DataError where it is none, or not finite."""
    value = getattr(owner, name)
    if value is None:
        return
    try:
        array: np.ndarray = np.ascontiguousarray(value, dtype=dtype)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{name} is no array of numbers", remedy=f"an array of {np.dtype(dtype).name}") from None
    if array.ndim != dimensions:
        raise DataError(f"{name} has {array.ndim} dimensions", remedy=f"an array of {dimensions}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        row = int(np.argmin(np.isfinite(array).reshape(len(array), -1).all(axis=1)))
        raise DataError(f"{name} of row {row} is no finite number", remedy="finite numbers only")
    object.__setattr__(owner, name, array)


def action_keys(ids: Iterable[str]) -> np.ndarray:
    """int64: keys of actions by their ids, the same in any process and version (64 bits of BLAKE2b)."""
    return hash_texts(ids, b"action").view(np.int64)


def decision_seeds(event_ids: Iterable[str], policy: str = "") -> np.ndarray:
    """uint64: the seeds of decisions by their event ids, so that a repeated request is decided as before.

    Parameters
    ----------
    policy: name of the policy; two policies do not share their draws.
    """
    return hash_texts(event_ids, policy.encode())


def hash_texts(texts: Iterable[str], key: bytes) -> np.ndarray:
    """uint64: keyed 64-bit BLAKE2b hashes of texts."""
    key = hashlib.blake2b(key, digest_size=32).digest()
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8, key=key).digest() for text in texts)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
