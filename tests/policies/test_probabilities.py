"""Probabilities in closed form, and propensities against the estimates that others make of them."""

from __future__ import annotations

import numpy as np
import pytest

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.policies.action_sets import ActionSets, Outcomes, action_keys, decision_seeds
from zhiyin.policies.beta_bernoulli import BetaBernoulli
from zhiyin.policies.epsilon_greedy import EpsilonGreedy
from zhiyin.policies.registry import parse
from zhiyin.policies.softmax import Softmax
from zhiyin.policies.square_cb import SquareCB

SCORES = [0.1, 0.9, 0.4, 0.9]


def of(policy, scores=SCORES):
    return policy.probabilities(ActionSets.single(range(len(scores)), scores=scores))


def test_square_cb_is_inverse_gap_weighting():
    policy = SquareCB(scale=10, exponent=0)
    first, third = 1 / (4 + 10 * 0.8), 1 / (4 + 10 * 0.5)
    best = (1 - first - third) / 2
    assert of(policy) == pytest.approx([first, best, third, best], abs=1e-15)


def test_gamma_grows_with_outcomes_and_actions():
    policy = SquareCB(scale=3)
    assert policy.gamma(np.array([4])) == 0
    policy.update(Outcomes(np.zeros(25, int), np.zeros(25)))
    assert policy.gamma(np.array([4])) == pytest.approx(30)
    assert SquareCB(scale=3, by_actions=False).gamma(np.array([4])) == 0
    assert of(SquareCB()) == pytest.approx([0.25] * 4)  # before the first outcome: uniform


def test_greedy_shares_ties_and_softmax_is_boltzmann():
    assert of(EpsilonGreedy(floor=0.2)) == pytest.approx([0.05, 0.45, 0.05, 0.45])
    weights = np.exp(np.array(SCORES) / 0.5)
    assert of(Softmax(temperature=0.5)) == pytest.approx(weights / weights.sum(), abs=1e-15)
    assert of(Softmax(temperature=1e-9)) == pytest.approx([0, 0.5, 0, 0.5])
    assert np.isfinite(of(Softmax(temperature=1e-9), [-1e300, 1e300])).all()


def test_slates_are_plackett_luce():
    """Every order of three actions is drawn as often as the product of its conditional probabilities says."""
    n = 60_000
    scores = np.log([0.5, 0.3, 0.2])
    sets = ActionSets(np.arange(n + 1) * 3, np.tile(np.arange(3), n), scores=np.tile(scores, n))
    slates = Softmax().choose_slates(sets, 3, decision_seeds(map(str, range(n))))
    orders = slates.rows % 3
    for order, expected in (((0, 1, 2), 0.5 * 0.6), ((0, 2, 1), 0.5 * 0.4), ((2, 1, 0), 0.2 * 0.375)):
        same = (orders == order).all(axis=1)
        assert abs(same.mean() - expected) <= 4.5 * np.sqrt(expected * (1 - expected) / n)
        assert slates.prefix_propensities[same, 2] == pytest.approx(expected, abs=1e-12)


def test_small_weights_behind_a_large_one_keep_their_digits():
    scores = np.array([0.0, -40.0, -41.0])
    slates = Softmax().choose_slates(ActionSets.single(range(3), scores=scores), 3, np.array([1], np.uint64))
    assert slates.rows[0, 0] == 0
    second = slates.rows[0, 1]
    expected = 1 / (1 + np.exp(scores[3 - second] - scores[second]))
    assert slates.propensities[0, 1] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("draws", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_propensities_of_two_stage_sampling_are_unbiased(draws):
    """Importance weighting with the logged propensities gives the value of another policy; with propensities that are
    estimated by other draws it does not (Thompson sampling, 10 actions; the value of choosing uniformly)."""
    n, rates = 40_000, np.linspace(0.05, 0.5, 10)
    policy = BetaBernoulli(draws=draws, floor=0.02)  # so that every action has support
    rng = np.random.default_rng(2)
    actions = rng.integers(0, 10, 150)
    policy.update(Outcomes(actions, (rng.random(150) < rates[actions]).astype(float)))
    sets = ActionSets(np.arange(n + 1) * 10, np.tile(np.arange(10), n))
    choices = policy.choose(sets, decision_seeds(map(str, range(n))))
    chosen = choices.rows % 10
    separate = policy.probabilities(sets, decision_seeds(map(str, range(n)), "others")).reshape(n, 10)
    weighted = rates[chosen] / 10 / choices.propensities
    assert abs(weighted.mean() - rates.mean()) <= 4.5 * weighted.std() / np.sqrt(n)
    biased = rates[chosen] / 10 / separate[np.arange(n), chosen]
    assert biased.mean() - rates.mean() > 20 * biased.std() / np.sqrt(n)


def test_rates_are_those_of_the_beta_distribution():
    policy = BetaBernoulli(alpha=0.5, beta=2, draws=40_000)
    policy.update(Outcomes([7] * 30 + [8] * 4, [1.0] * 9 + [0.0] * 21 + [0.5] * 4))
    parameters = policy.parameters(np.array([7, 8, 9]))
    assert parameters.tolist() == [[9.5, 23], [2.5, 4], [0.5, 2]]
    log_odds = policy._sample(ActionSets.single([7, 8, 9]), np.array([3], np.uint64), 0, 1)
    rates = 1 / (1 + np.exp(-log_odds))
    alpha, beta = parameters.T
    mean, variance = alpha / (alpha + beta), alpha * beta / (alpha + beta) ** 2 / (alpha + beta + 1)
    assert np.abs(rates.mean(axis=0) - mean).max() <= 4.5 * np.sqrt(variance.max() / 40_000)
    assert rates.var(axis=0) == pytest.approx(variance, rel=0.05)


def test_discounted_counts_fade_with_every_outcome():
    policy = BetaBernoulli(discount=0.5)
    policy.update(Outcomes([1, 2, 2, 1], [1.0, 1.0, 0.0, 0.0]))
    assert policy.parameters(np.array([1, 2])).tolist() == [[1 + 0.125, 1 + 1], [1 + 0.25, 1 + 0.5]]


def test_errors_name_what_is_wrong():
    with pytest.raises(DataError, match=r"reward 2 of row 1 is not from 0 to 1"):
        BetaBernoulli().update(Outcomes([1, 2], [1.0, 2.0]))
    with pytest.raises(DataError, match="scores of row 1 is no finite number"):
        ActionSets.single([1, 2], scores=[0.1, np.nan])
    with pytest.raises(DataError, match="features of 1 rows for 2 actions"):
        ActionSets.single([1, 2], features=[[1.0]])
    with pytest.raises(DataError, match="1 seeds for 2 decisions"):
        Softmax().choose(ActionSets(np.array([0, 1, 2]), np.arange(2), scores=np.zeros(2)), np.zeros(1, np.uint64))
    with pytest.raises(ConfigError, match="floor"):
        EpsilonGreedy(floor=1.5)
    with pytest.raises(ConfigError, match="LinUCB"):
        parse("linucbb")


def test_keys_and_seeds_are_the_same_everywhere():
    assert action_keys(["a", "b"]).tolist() == action_keys(["b", "a"]).tolist()[::-1]
    assert len(set(decision_seeds(["e1", "e2", "e1"], "home").tolist())) == 2
    assert decision_seeds(["e1"], "home") != decision_seeds(["e1"], "cart")
