"""Shares of posterior draws, slot after slot, without looking through all draws again."""

from __future__ import annotations

import numpy as np
import pytest

from zhiyin.policies.thompson_shares import shares_of_draws, shares_of_fewer


@pytest.mark.parametrize("seed", range(20))
def test_shares_among_ever_fewer_actions_are_those_of_all_draws(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Few different values: most draws have ties.
    values = rng.integers(0, 3 + 40 * (seed % 2), (int(rng.integers(1, 60)), 14)).astype(np.float64)
    first, last = 2, 13
    taken, best_rows = np.zeros(14, dtype=bool), np.full(len(values), -1, dtype=np.int64)
    known, expected = np.zeros(14), np.zeros(14)
    for row in rng.permutation(np.arange(first, last))[:-1]:
        shares_of_draws(values, first, last, taken, expected)
        shares_of_fewer(values, first, last, taken, best_rows, known)
        assert known.tobytes() == expected.tobytes()
        taken[row] = True
