"""Models of choice: the values of RecSim's own tests, closed forms, frequencies of choices."""

from __future__ import annotations

import numpy as np
import pytest

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.policies.simulators.choice_models import (
    Cascade,
    MultinomialLogit,
    PositionBased,
    Proportional,
    choose_slots,
    weighted_probabilities,
)

USER, ITEMS = np.array([0.8, 0.6]), np.array([[0.8, 0.6], [0.6, 0.8]])
AFFINITIES = (ITEMS @ USER)[None, :]  # 1 and .96


def test_logit():
    assert MultinomialLogit().probabilities(AFFINITIES)[0] == pytest.approx([0.510, 0.490, 0], abs=5e-4)
    expected = np.exp([1, 0.96, 1]) / np.exp([1, 0.96, 1]).sum()
    assert MultinomialLogit(no_click_mass=1).probabilities(AFFINITIES)[0] == pytest.approx(expected)
    assert expected == pytest.approx([0.338, 0.325, 0.338], abs=5e-4)


def test_logit_of_large_affinities():
    assert MultinomialLogit(-1e4).probabilities(np.array([[1e4, 1e4]]))[0] == pytest.approx([0.5, 0.5, 0])


def test_proportional():
    weights, null_weights = Proportional().weights(AFFINITIES)
    assert weights[0] == pytest.approx([1, 0.96])
    assert null_weights[0] == 0
    weights, null_weights = Proportional(min_normalizer=0.5, no_click_mass=0.5).weights(AFFINITIES)
    assert weights[0] == pytest.approx([0.5, 0.46])
    assert null_weights[0] == 0
    model = Proportional(min_normalizer=-1, no_click_mass=1)
    assert model.probabilities(np.array([[0.0, -1.0]]))[0] == pytest.approx([1 / 3, 0, 2 / 3])


def test_proportional_refuses_what_is_no_weight():
    with pytest.raises(DataError, match="below min_normalizer"):
        Proportional(min_normalizer=0).weights(np.array([[-0.1]]))
    with pytest.raises(ConfigError, match="no_click_mass"):
        Proportional(min_normalizer=0, no_click_mass=-1)


def test_cascade():
    probabilities = Cascade(attention=0.5, scaling=1, min_normalizer=0).probabilities(np.array([[0.4, 0.8]]))[0]
    assert probabilities == pytest.approx([0.2, 0.8 * 0.4, 0.8 * 0.6])
    exponential = Cascade(scaling=0.1).probabilities(AFFINITIES)[0]
    first, second = 0.1 * np.exp(1), 0.1 * np.exp(0.96)
    assert exponential == pytest.approx([first, (1 - first) * second, (1 - first) * (1 - second)])
    with pytest.raises(DataError, match="no probability"):
        Cascade(scaling=1).probabilities(AFFINITIES)
    with pytest.raises(ConfigError, match="attention"):
        Cascade(attention=2)


def test_position_based():
    base = MultinomialLogit(no_click_mass=0)
    assert (PositionBased(base, (1, 1)).probabilities(AFFINITIES) == base.probabilities(AFFINITIES)).all()
    half = PositionBased(base, (1, 0.5)).probabilities(np.zeros((1, 3)))[0]
    assert half == pytest.approx([0.4, 0.2, 0, 0.4])


def test_choices_come_with_their_probabilities():
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet([1, 2, 3])
    n = 100_000
    slots = choose_slots(np.tile(probabilities, (n, 1)), rng.random(n))
    counts = np.bincount(slots + 1, minlength=3)
    expected = n * np.roll(probabilities, 1)
    assert ((counts - expected) ** 2 / expected).sum() < 18.4  # chi-square with 2 degrees of freedom, p = 1e-4


def test_weights_of_zero_are_no_choice():
    assert weighted_probabilities(np.zeros((1, 2)), np.zeros(1)).tolist() == [[0, 0, 1]]
