"""Models of choice: which item of a slate a user takes, if any, given the affinity of each item to the user.

Affinities are float64[n, k], those of n slates of k slots. A model gives float64[n, k + 1], the probability of each
slot and, last, of none of them.
"""

from __future__ import annotations

import abc
import dataclasses

import numpy as np

from zhiyin.core.errors import ConfigError, DataError


class ChoiceModel(abc.ABC):
    """At most one item of a slate is chosen."""

    @abc.abstractmethod
    def probabilities(self, affinities: np.ndarray) -> np.ndarray:
        """float64[n, k + 1]: of each slot and of no choice; rows sum to 1."""

    def choose(self, affinities: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """int64[n]: chosen slots, -1 for none, by inversion of `uniforms`, float64[n] in [0, 1)."""
        return choose_slots(self.probabilities(affinities), uniforms)


class WeightedChoiceModel(ChoiceModel):
    """P(i) = s_i / (s_0 + Σ s_j), whatever the order of the slots: the models that SlateQ optimises slates for."""

    @abc.abstractmethod
    def weights(self, affinities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights s of the items, float64[n, k], and of no choice, s_0, float64[n]; all >= 0.

        They are comparable within a row only, and each weight may be that of any candidate, shown or not.
        """

    def probabilities(self, affinities: np.ndarray) -> np.ndarray:
        weights, null_weights = self.weights(affinities)
        return weighted_probabilities(weights, null_weights)


@dataclasses.dataclass(frozen=True)
class MultinomialLogit(WeightedChoiceModel):
    """P(i) ∝ exp(affinity_i), and no choice ∝ exp(no_click_mass).

    >>> MultinomialLogit(no_click_mass=1).probabilities(np.array([[1, .96]])).round(3).tolist()
    [[0.338, 0.325, 0.338]]
    """

    no_click_mass: float = -np.inf

    def weights(self, affinities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        best = np.maximum(affinities.max(axis=1), self.no_click_mass)
        return np.exp(affinities - best[:, None]), np.exp(self.no_click_mass - best)


@dataclasses.dataclass(frozen=True)
class Proportional(WeightedChoiceModel):
    """P(i) ∝ affinity_i - min_normalizer, and no choice ∝ no_click_mass - min_normalizer.

    Raises DataError where an affinity is below `min_normalizer`.
    """

    min_normalizer: float = 0.0
    no_click_mass: float = 0.0

    def __post_init__(self) -> None:
        if self.no_click_mass < self.min_normalizer:
            raise ConfigError("no_click_mass is below min_normalizer", remedy="no_click_mass >= min_normalizer")

    def weights(self, affinities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weights = affinities - self.min_normalizer
        if (weights < 0).any():
            raise DataError(
                f"an affinity of {affinities.min():.3g} is below min_normalizer = {self.min_normalizer:.3g}",
                remedy="lower min_normalizer to the smallest affinity",
            )
        return weights, np.full(len(weights), self.no_click_mass - self.min_normalizer)


@dataclasses.dataclass(frozen=True)
class Cascade(ChoiceModel):
    """Slots are examined in order; item i is chosen with probability a_i, and otherwise the next one is examined.

    a_i = attention · scaling · f(affinity_i), where f(x) = exp(x), or x - min_normalizer where that is given.

    Raises DataError where scaling · f(affinity) is no probability.
    """

    attention: float = 1.0
    scaling: float = 1.0
    min_normalizer: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.attention <= 1 or self.scaling < 0:
            raise ConfigError("attention is no probability, or scaling is negative", remedy="0 <= attention <= 1")

    def probabilities(self, affinities: np.ndarray) -> np.ndarray:
        values = np.exp(affinities) if self.min_normalizer is None else affinities - self.min_normalizer
        values = self.scaling * values
        if not ((values >= 0) & (values <= 1)).all():
            raise DataError("a scaled affinity is no probability", remedy="another scaling or min_normalizer")
        return cascade_probabilities(self.attention * values)


@dataclasses.dataclass(frozen=True)
class PositionBased(ChoiceModel):
    """A weighted model whose items count by the examination of their slots: P(slot r) ∝ examination_r · s_r.

    Parameters
    ----------
    examination: probability that each slot is examined, from the first; those behind the last are not.
    """

    base: WeightedChoiceModel
    examination: tuple[float, ...]

    def probabilities(self, affinities: np.ndarray) -> np.ndarray:
        k = affinities.shape[1]
        examination = np.zeros(k)
        examination[: len(self.examination)] = self.examination[:k]
        weights, null_weights = self.base.weights(affinities)
        return weighted_probabilities(weights * examination, null_weights)


def weighted_probabilities(weights: np.ndarray, null_weights: np.ndarray) -> np.ndarray:
    """float64[n, k + 1]: s_i / (s_0 + Σ s_j), and s_0 / (s_0 + Σ s_j) last; where all weights are 0, no choice is sure.

    Parameters
    ----------
    weights: float64[n, k], >= 0.
    null_weights: float64[n], >= 0.
    """
    every = np.column_stack([weights, null_weights])
    total = every.sum(axis=1)
    every[total == 0, -1] = 1.0
    return every / np.where(total == 0, 1.0, total)[:, None]


def cascade_probabilities(attractions: np.ndarray) -> np.ndarray:
    """float64[n, k + 1]: P(first choice at i) = a_i ∏_{j<i} (1 - a_j), and of none last. attractions: float64[n, k]."""
    passed = np.cumprod(1.0 - attractions, axis=1)
    before = np.column_stack([np.ones(len(attractions)), passed])
    return np.column_stack([attractions * before[:, :-1], passed[:, -1:]])


def choose_slots(probabilities: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """int64[n]: slots drawn by inversion from float64[n, k + 1]; -1 where the last column, no choice, was drawn."""
    k = probabilities.shape[1] - 1
    slots = (np.cumsum(probabilities[:, :k], axis=1) <= uniforms[:, None]).sum(axis=1)
    return np.where(slots == k, -1, slots)
