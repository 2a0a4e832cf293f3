"""What SlateQ chooses slates from and learns from: candidates with features and weights of choice, and transitions."""

from __future__ import annotations

import dataclasses

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.policies.action_sets import as_array


@dataclasses.dataclass(frozen=True, eq=False)
class SlateStates:
    """n decisions among m candidates each.

    Parameters
    ----------
    items: float64[n, m, d], features of each candidate with its user.
    null: float64[n, e], features of a decision that ends without a choice: of the user, mostly.
    weights: float64[n, m], >= 0, weights s_i of the candidates in the user's choice (see `WeightedChoiceModel`).
    null_weights: float64[n], >= 0, weights s_0 of no choice; 0 where a user always takes something.

    Raises
    ------
    DataError: shapes that do not fit, weights below 0, numbers that are not finite.
    """

    items: np.ndarray
    null: np.ndarray
    weights: np.ndarray
    null_weights: np.ndarray

    def __post_init__(self) -> None:
        as_array(self, "items", np.float64, 3)
        as_array(self, "null", np.float64, 2)
        as_array(self, "weights", np.float64, 2)
        as_array(self, "null_weights", np.float64, 1)
        n, m, _ = self.items.shape
        if self.weights.shape != (n, m) or self.null_weights.shape != (n,) or len(self.null) != n:
            raise DataError("features and weights are not of the same candidates", remedy="[n, m, d], [n, m] and [n]")
        if (self.weights < 0).any() or (self.null_weights < 0).any():
            raise DataError("a weight of choice is below 0", remedy="weights >= 0")

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def n_candidates(self) -> int:
        return self.weights.shape[1]

    @property
    def n_features(self) -> int:
        """Of the linear model: those of items and of no choice."""
        return self.items.shape[2] + self.null.shape[1]

    def take(self, rows: np.ndarray) -> SlateStates:
        return SlateStates(self.items[rows], self.null[rows], self.weights[rows], self.null_weights[rows])

    def chosen_features(self, items: np.ndarray) -> np.ndarray:
        """float64[n, d + e]: features of the chosen candidates, int64[n], zeros for those of no choice; -1: no choice.

        (The model has weights of its own for items and for no choice.)
        """
        d, out = self.items.shape[2], np.zeros((len(self), self.n_features))
        chosen, idle = np.flatnonzero(items >= 0), np.flatnonzero(items < 0)
        out[chosen, :d] = self.items[chosen, items[chosen]]
        out[idle, d:] = self.null[idle]
        return out

    def expected_features(self, slates: np.ndarray) -> np.ndarray:
        """float64[n, d + e]: features of what users choose from slates, int64[n, k], on average over their choice."""
        probabilities = choice_probabilities(self, slates)
        shown = np.take_along_axis(self.items, slates[:, :, None], axis=1)
        of_items = np.einsum("nk,nkd->nd", probabilities[:, :-1], shown)
        return np.column_stack([of_items, probabilities[:, -1:] * self.null])


@dataclasses.dataclass(frozen=True, eq=False)
class SlateTransitions:
    """What happened after n slates.

    Parameters
    ----------
    chosen: float64[n, d + e], `SlateStates.chosen_features` of what was chosen.
    rewards: float64[n].
    after: the decisions that came next; those of ended sessions are not looked at.
    slates_after: int64[n, k], the slates shown then.
    ended: bool[n], where no decision came next.
    """

    chosen: np.ndarray
    rewards: np.ndarray
    after: SlateStates
    slates_after: np.ndarray
    ended: np.ndarray

    def __post_init__(self) -> None:
        as_array(self, "chosen", np.float64, 2)
        as_array(self, "rewards", np.float64, 1)
        as_array(self, "slates_after", np.int64, 2)
        as_array(self, "ended", np.bool_, 1)
        n = len(self.after)
        if not len(self.chosen) == len(self.rewards) == len(self.slates_after) == len(self.ended) == n:
            raise DataError("the parts of the transitions are not of one length", remedy="one row a slate")
        if self.chosen.shape[1] != self.after.n_features:
            raise DataError("features before and after are not the same", remedy="`chosen_features` of the states")

    def __len__(self) -> int:
        return len(self.rewards)


def choice_probabilities(states: SlateStates, slates: np.ndarray) -> np.ndarray:
    """float64[n, k + 1]: of each slot, s_i / (s_0 + Σ s_j), and last of no choice. slates: int64[n, k], candidates."""
    weights = np.column_stack([np.take_along_axis(states.weights, slates, axis=1), states.null_weights])
    total = weights.sum(axis=1)
    weights[total == 0, -1] = 1.0
    return weights / np.where(total == 0, 1.0, total)[:, None]
