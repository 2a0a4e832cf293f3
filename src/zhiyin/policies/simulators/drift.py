"""Drift: what features of items mean changes while users go on, as tastes and fashions do."""

from __future__ import annotations

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.policies.simulators.slate_environment import Observation


class FeatureDrift:
    """Observations whose columns of item features are permuted anew at given steps.

    To a policy that learns from these features, each change is a new problem of the same difficulty: what it learned of
    a feature now holds of another one. The users are not touched.

    Parameters
    ----------
    changes: steps of the changes, ascending.
    permutations: int64[len(changes), d], columns of the features from each change on.

    >>> drift = FeatureDrift([100], np.array([[1, 0]]))
    >>> items = np.array([[[.3, .7]]])
    >>> drift(Observation(np.zeros((1, 0)), items), step=99).items.tolist()
    [[[0.3, 0.7]]]
    >>> drift(Observation(np.zeros((1, 0)), items), step=100).items.tolist()
    [[[0.7, 0.3]]]
    """

    def __init__(self, changes: list[int], permutations: np.ndarray) -> None:
        permutations = np.asarray(permutations)
        valid = permutations.ndim == 2 and len(permutations) == len(changes) and sorted(changes) == list(changes)
        if not valid or (np.sort(permutations, axis=1) != np.arange(permutations.shape[1])).any():
            raise DataError("changes and permutations do not fit", remedy="ascending steps, a permutation for each")
        self.changes, self.permutations = np.asarray(changes), permutations

    @classmethod
    def random(cls, changes: list[int], n_features: int, rng: np.random.Generator) -> FeatureDrift:
        """A random permutation at each change."""
        return cls(changes, np.array([rng.permutation(n_features) for _ in changes]).reshape(-1, n_features))

    def __call__(self, observation: Observation, step: int) -> Observation:
        period = int(np.searchsorted(self.changes, step, side="right"))
        if period == 0:
            return observation
        return Observation(observation.users, observation.items[:, :, self.permutations[period - 1]])
