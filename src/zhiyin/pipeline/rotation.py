"""Rotation: lists in another order at another visit, the same within one visit.

Place r (from 1, behind the fixed first places) gets the key -ln r + strength · G, with G of the Gumbel distribution:
lists are drawn with weights r^(-1/strength) without replacement (Plackett-Luce), whatever the scale of the scores.
"""

from __future__ import annotations

import numpy as np

from zhiyin.core.hashing import GOLDEN, mix
from zhiyin.core.parallel import kernel
from zhiyin.pipeline.score_order import reorder


@kernel
def _gumbel_noise(seed, user, visit, item):
    """A draw of the Gumbel distribution for (seed, user, visit, item)."""
    state = mix(seed + GOLDEN)
    state = mix(state ^ (np.uint64(user) + GOLDEN))
    state = mix(state ^ (np.uint64(visit) + GOLDEN))
    state = mix(state ^ (np.uint64(item) + GOLDEN))
    uniform = (np.float64(state >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)
    return -np.log(-np.log(uniform))


@kernel
def rotate(seed, user, visit, strength, n_fixed, items, scores, came_from):
    """Another order at another visit, see `rotation`; int32[m] the rows that the items come from."""
    size = len(items)
    keys = np.empty(size)
    for row in range(size):
        keys[row] = -np.inf
        if row >= n_fixed:
            keys[row] = np.log(row - n_fixed + 1.0) - strength * _gumbel_noise(seed, user, visit, np.int64(items[row]))
    order = np.argsort(keys, kind="mergesort")
    reorder(order, items, scores)
    for row in range(size):
        came_from[row] = order[row]
