"""Rotation: lists in another order at another visit, the same within one visit.

Place r (from 1, behind the fixed first places) gets the key -ln r + strength · G, with G of the Gumbel distribution:
lists are drawn with weights r^(-1/strength) without replacement (Plackett-Luce), whatever the scale of the scores.
"""

from __future__ import annotations

import numpy as np

from zhiyin.core.hashing import GOLDEN, mix
from zhiyin.core.parallel import kernel
from zhiyin.pipeline.slate import Slates


def rotated_order(
    slates: Slates, users: np.ndarray, visits: np.ndarray, strength: float, n_fixed: int, seed: int
) -> np.ndarray:
    """int64[m]: rows of the slates in the order of a visit.

    Parameters
    ----------
    users, visits: int64[n], numbers of the user and of the visit of each request.
    strength: 0: as they are; see the module.
    n_fixed: first places that stay.
    """
    owners, places = slates.owners, slates.places
    noise = np.empty(len(owners))
    _gumbel_noise(np.uint64(seed), np.asarray(users, np.int64), np.asarray(visits, np.int64), owners,
                  slates.items.astype(np.int64), noise)  # fmt: skip
    key = -np.log(np.maximum(places - n_fixed, 0) + 1.0) + strength * noise
    key = np.where(places >= n_fixed, key, np.inf)
    return np.lexsort((-key, owners))


@kernel
def _gumbel_noise(seed, users, visits, owners, items, out):
    """A draw for each (seed, user, visit, item), independent of the order of rows and of other rows."""
    for row in range(len(owners)):
        request = owners[row]
        state = mix(seed + GOLDEN)
        state = mix(state ^ (np.uint64(users[request]) + GOLDEN))
        state = mix(state ^ (np.uint64(visits[request]) + GOLDEN))
        state = mix(state ^ (np.uint64(items[row]) + GOLDEN))
        uniform = (np.float64(state >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)
        out[row] = -np.log(-np.log(uniform))
