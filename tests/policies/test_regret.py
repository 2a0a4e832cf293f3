"""Regret of policies on a linear problem, inside the bands of an independent implementation (mean of 20 seeds)."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.policies import regret

# Regret after 500 rounds; benchmarks/policies.py shows the curves to 5,000.
REFERENCE = {
    "linucb:floor=1": 283.5,
    "epsilongreedy": 32.4,
    "epsilongreedy:floor=0.1": 52.8,
    "linucb:alpha=0.5": 27.3,
    "lints:scale=0.5": 47.8,
    "squarecb:scale=4": 63.6,
}


@pytest.mark.slow
@pytest.mark.parametrize("text", REFERENCE)
def test_regret_is_inside_the_band(text):
    values = np.array([regret(text, 500, seed)[-1] for seed in range(20)])
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert abs(values.mean() - REFERENCE[text]) <= 4 * np.sqrt(2) * error  # the reference has an error of this size


def test_a_discount_forgets_what_no_longer_holds():
    lost = {
        discount: np.mean([regret(f"linucb:discount={discount}", 1200, seed, 600)[-1] for seed in range(4)])
        for discount in (1.0, 0.99)
    }
    assert lost[0.99] < 0.7 * lost[1.0]
