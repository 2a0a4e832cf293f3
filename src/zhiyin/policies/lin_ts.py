"""Thompson sampling on a linear posterior (Agrawal & Goyal, ICML 2013), in two stages: see `thompson`."""

from __future__ import annotations

import dataclasses

import numpy as np

from zhiyin.core.parallel import kernel
from zhiyin.core.params import param
from zhiyin.policies.action_sets import ActionSets
from zhiyin.policies.linear_policy import LinearPolicy
from zhiyin.policies.normals import fill_normals
from zhiyin.policies.probabilities import POSTERIOR_STREAM, stream_state
from zhiyin.policies.thompson import ThompsonPolicy


@dataclasses.dataclass
class LinTS(ThompsonPolicy, LinearPolicy):
    """Values xᵀθ with θ ~ N(A⁻¹b, scale² A⁻¹)."""

    scale: float = param(0.5, "standard deviation of the posterior, times this", at_least=0, tune=(0.05, 2), log=True)

    def _prepare(self, sets: ActionSets) -> ActionSets:
        self._posterior_of(sets)
        return sets

    def _sample(self, sets: ActionSets, seeds: np.ndarray, start: int, stop: int) -> np.ndarray:
        (posterior, features), first, last = self._posterior_of(sets), sets.offsets[start], sets.offsets[stop]
        columns = np.ascontiguousarray(features[first:last].T, dtype=np.float32)
        values = np.empty((self.draws, last - first), dtype=np.float32)
        _sample_values(columns, sets.offsets, posterior.mean, self.scale * posterior.root, seeds, values, start, stop)
        return values


@kernel
def _sample_values(columns, offsets, mean, root, seeds, values, start, stop):
    """values[draw] = columnsᵀ(mean + rootᵀz), z ~ N(0, I). columns: float32[d, actions of these decisions]."""
    d, base = len(mean), offsets[start]
    normals, weights = np.empty(d), np.empty(d)
    for r in range(start, stop):
        first, last = offsets[r] - base, offsets[r + 1] - base
        state = stream_state(seeds[r], POSTERIOR_STREAM)
        for draw in range(len(values)):
            state = fill_normals(state, normals)
            weights[:] = mean
            for i in range(d):
                z = normals[i]
                for j in range(i + 1):
                    weights[j] += z * root[i, j]
            row_values = values[draw, first:last]
            row_values[:] = np.float32(0.0)
            for i in range(0, d - 3, 4):  # four features at once: the row is read and written a quarter as often
                a, b = np.float32(weights[i]), np.float32(weights[i + 1])
                c, e = np.float32(weights[i + 2]), np.float32(weights[i + 3])
                p, q = columns[i, first:last], columns[i + 1, first:last]
                s, t = columns[i + 2, first:last], columns[i + 3, first:last]
                for row in range(last - first):
                    row_values[row] += a * p[row] + b * q[row] + (c * s[row] + e * t[row])
            for i in range(d - d % 4, d):
                a, p = np.float32(weights[i]), columns[i, first:last]
                for row in range(last - first):
                    row_values[row] += a * p[row]
