"""Models of clicks on a ranked list: the position-based one and the cascade, with the constants of ULTRA.

Attractions are float64[n, k]: the probability of a click on each item of n lists where it is examined.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.policies.simulators.choice_models import cascade_probabilities, choose_slots

# Examination by rank (Joachims et al., SIGIR 2005) and clicks by grade of relevance, 0 to 4, as ULTRA has them
# (Ai et al., arXiv:2108.05073).
EXAMINATION = (0.68, 0.61, 0.48, 0.34, 0.28, 0.20, 0.11, 0.10, 0.08, 0.06)
GRADE_ATTRACTION = (0.10, 0.16, 0.28, 0.52, 1.0)


def attractions_of(grades: np.ndarray) -> np.ndarray:
    """float64: attractions of items by their grades, whole numbers from 0 to 4."""
    grades = np.asarray(grades)
    if grades.dtype.kind not in "iu" or (grades < 0).any() or (grades >= len(GRADE_ATTRACTION)).any():
        raise DataError("a grade that there is not", remedy=f"whole numbers from 0 to {len(GRADE_ATTRACTION) - 1}")
    return np.array(GRADE_ATTRACTION)[grades]


@dataclasses.dataclass(frozen=True)
class PositionBasedClicks:
    """P(click at rank r) = examination_r · attraction, each rank by itself: any number of clicks on a list.

    Parameters
    ----------
    examination: probabilities by rank; ranks behind the last are not examined.
    """

    examination: tuple[float, ...] = EXAMINATION

    def probabilities(self, attractions: np.ndarray) -> np.ndarray:
        """float64[n, k]: probability of a click on each slot."""
        k = attractions.shape[1]
        examination = np.zeros(k)
        examination[: len(self.examination)] = self.examination[:k]
        return attractions * examination

    def simulate(self, attractions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """bool[n, k]: clicks."""
        return rng.random(attractions.shape) < self.probabilities(attractions)

    def inverse_propensities(self) -> np.ndarray:
        """float64: what a click at each rank counts for, relative to the first."""
        examination = np.array(self.examination)
        return examination[0] / examination


@dataclasses.dataclass(frozen=True)
class CascadeClicks:
    """Items are examined in order up to the first click: P(click at i) = a_i ∏_{j<i} (1 - a_j)."""

    def probabilities(self, attractions: np.ndarray) -> np.ndarray:
        """float64[n, k]: probability of a click on each slot; at most one is clicked."""
        return cascade_probabilities(attractions)[:, :-1]

    def simulate(self, attractions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """bool[n, k]: clicks."""
        slots = choose_slots(cascade_probabilities(attractions), rng.random(len(attractions)))
        return slots[:, None] == np.arange(attractions.shape[1])
