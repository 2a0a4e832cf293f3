"""Examination by position from randomised and from ordinary clicks; rankers trained with its inverse."""

from __future__ import annotations

import numpy as np
import pytest

from zhiyin.core.errors import DataError
from zhiyin.core.run import Run
from zhiyin.data.histories import Histories
from zhiyin.policies.position_bias import (
    RegressionEM,
    examination_from_shuffled,
    examination_from_swaps,
    inverse_propensity_weights,
)
from zhiyin.ranking.examples import Examples
from zhiyin.ranking.registry import parse

# Examination by position and chance of a click by grade, as in ULTRA (Tran et al. 2021).
EXAMINATION = np.array([0.68, 0.61, 0.48, 0.34, 0.28, 0.20, 0.11, 0.10, 0.08, 0.06])
GRADES = np.array([0.1, 0.16, 0.28, 0.52, 1.0])
RELATIVE = EXAMINATION / EXAMINATION[0]


def test_inverse_propensities_are_those_of_ultra():
    expected = [1, 1.1148, 1.4167, 2, 2.4286, 3.4, 6.1818, 6.8, 8.5, 11.3333]
    weights = inverse_propensity_weights(np.arange(10), np.ones(10), RELATIVE)
    assert weights == pytest.approx(expected, abs=1e-4)
    assert inverse_propensity_weights(np.arange(12), np.arange(12) > 5, RELATIVE, cap=7).tolist() == pytest.approx(
        [1] * 6 + [6.1818, 6.8, 7, 7, 7, 7], abs=1e-4
    )


def test_shuffled_lists_show_the_examination():
    rng = np.random.default_rng(0)
    n = 1_000_000
    positions = np.tile(np.arange(10), n // 10 * 10)
    relevance = GRADES[rng.integers(0, 5, len(positions))]
    clicks = rng.random(len(positions)) < EXAMINATION[positions] * relevance
    assert examination_from_shuffled(positions, clicks) == pytest.approx(RELATIVE, rel=0.03)


def test_swaps_show_the_examination_whatever_the_ranking():
    """Items at the first position are better, so the rates of the positions themselves mislead."""
    rng = np.random.default_rng(1)
    m = 1_000_000
    pair = rng.integers(1, 10, m)
    best, swapped = rng.random(m) < 0.5, rng.random(m) < 0.5  # whether the row is the first item; whether it was moved
    positions = np.where(best ^ swapped, 0, pair)
    clicks = rng.random(m) < EXAMINATION[positions] * np.where(best, 0.9, 0.4)
    assert examination_from_swaps(positions, pair, clicks) == pytest.approx(RELATIVE, rel=0.05)


@pytest.mark.slow
def test_regression_em_shows_the_examination_of_ordinary_clicks():
    rng = np.random.default_rng(2)
    n = 40_000
    features = rng.normal(size=(n, 10, 2))
    relevance = 1 / (1 + np.exp(-(1.5 * features[..., 0] - 0.5)))
    order = np.argsort(-(features[..., 0] + rng.normal(size=(n, 10))), axis=1)  # the best tend to be first
    shown = np.take_along_axis(features, order[..., None], axis=1)
    chance = np.take_along_axis(relevance, order, axis=1)
    clicks = rng.random((n, 10)) < EXAMINATION * chance
    positions = np.tile(np.arange(10), n)
    naive = clicks.mean(axis=0) / clicks[:, 0].mean()
    estimate = RegressionEM(rounds=60).fit(positions, clicks.ravel(), shown.reshape(-1, 2))
    assert np.abs(estimate - RELATIVE).max() < 0.06 < np.abs(naive - RELATIVE).max()


def ndcg(scores: np.ndarray, relevance: np.ndarray) -> float:
    discounts = 1 / np.log2(np.arange(scores.shape[1]) + 2)
    gained = np.take_along_axis(relevance, np.argsort(-scores, axis=1, kind="stable"), axis=1) @ discounts
    return float((gained / (-np.sort(-relevance, axis=1) @ discounts)).mean())


@pytest.mark.parametrize(("examination", "gain"), [(RELATIVE, 0.01), (np.ones(10), 0.0)])
def test_a_ranker_trained_with_inverse_propensities_is_better_where_there_is_bias(examination, gain):
    """The logging ranker sorts by a number that says nothing; with bias, plain clicks teach that it does."""
    rng = np.random.default_rng(3)
    n = 3_000

    def examples(n: int) -> tuple[Examples, np.ndarray]:
        numbers = rng.normal(size=(n, 10, 2)).astype(np.float32)
        numbers = np.take_along_axis(numbers, np.argsort(-numbers[..., 1], axis=1)[..., None], axis=1)
        relevance = 1 / (1 + np.exp(-1.2 * numbers[..., 0]))
        m = 10 * n
        part = Examples(
            np.arange(0, m + 1, 10, dtype=np.int64), np.zeros(m, np.int32), numbers.reshape(m, 2), ("good", "shown"),
            np.zeros((m, 0), np.int32), (), (), Histories.of(np.zeros(n + 1, np.int64), np.zeros(0, np.int32)), {},
        )  # fmt: skip
        return part, relevance

    log, relevance = examples(n)
    clicks = (rng.random((n, 10)) < examination * relevance).astype(np.float32).ravel()
    positions = np.tile(np.arange(10), n)
    weights = inverse_propensity_weights(positions, clicks, examination)
    fresh, truth = examples(1_000)
    reached = []
    for given in (None, weights):
        ranker = parse("trees:objective=binary,learning_rate=0.1,trees=40").fit(log, clicks, weights=given, run=Run())
        reached.append(ndcg(ranker.score(fresh).reshape(-1, 10), truth))
    assert reached[1] >= reached[0] + gain


def test_errors():
    with pytest.raises(DataError, match="position 1 was never shown"):
        examination_from_shuffled(np.array([0, 2]), np.array([1, 0]))
    with pytest.raises(DataError, match="first position was never clicked"):
        examination_from_shuffled(np.array([0, 1]), np.array([0, 1]))
    with pytest.raises(DataError, match="position 2 was not swapped"):
        examination_from_swaps(np.array([0, 1, 0]), np.array([1, 1, 2]), np.array([1, 1, 1]))
    with pytest.raises(DataError, match="clicks are not 0 or 1"):
        examination_from_shuffled(np.array([0, 1]), np.array([0, 2]))
    with pytest.raises(DataError, match="whole number from 0"):
        RegressionEM().fit(np.array([0.5]), np.array([1]), np.zeros((1, 1)))
