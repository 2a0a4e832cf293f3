"""Models of clicks: ULTRA's constants, closed forms, examination recovered from randomised lists."""

from __future__ import annotations

import numpy as np
import pytest

from zhiyin.core.errors import DataError
from zhiyin.policies.simulators.click_models import EXAMINATION, CascadeClicks, PositionBasedClicks, attractions_of

INVERSE_PROPENSITIES = [1, 1.1148, 1.4167, 2, 2.4286, 3.4, 6.1818, 6.8, 8.5, 11.3333]


def test_inverse_propensities_are_those_of_ultra():
    assert PositionBasedClicks().inverse_propensities() == pytest.approx(INVERSE_PROPENSITIES, abs=5e-5)


def test_attractions_of_grades():
    assert attractions_of([0, 1, 2, 3, 4]).tolist() == [0.1, 0.16, 0.28, 0.52, 1.0]
    for grades in ([5], [-1], [0.5]):
        with pytest.raises(DataError, match="grade"):
            attractions_of(grades)


def test_examination_is_recovered_from_randomised_lists():
    rng = np.random.default_rng(2)
    clicks = np.zeros(10)
    for _ in range(10):  # 10⁶ lists of ten random items
        attractions = attractions_of(rng.integers(0, 5, (100_000, 10)))
        clicks += PositionBasedClicks().simulate(attractions, rng).sum(axis=0)
    assert clicks[0] / clicks == pytest.approx(PositionBasedClicks().inverse_propensities(), rel=0.03)


def test_ranks_behind_the_last_are_not_examined():
    probabilities = PositionBasedClicks().probabilities(np.ones((1, 12)))[0]
    assert probabilities.tolist() == [*EXAMINATION, 0, 0]


def test_cascade_probabilities_and_frequencies():
    attractions = np.array([[0.5, 0.2, 1.0, 0.7]])
    expected = [0.5, 0.5 * 0.2, 0.5 * 0.8, 0]
    assert CascadeClicks().probabilities(attractions)[0] == pytest.approx(expected)
    clicks = CascadeClicks().simulate(np.tile(attractions, (100_000, 1)), np.random.default_rng(0))
    assert (clicks.sum(axis=1) == 1).all()
    assert clicks.mean(axis=0) == pytest.approx(expected, abs=0.007)
