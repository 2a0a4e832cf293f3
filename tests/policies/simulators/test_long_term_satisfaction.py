"""Long-term satisfaction against RecSim: returns of three policies by sensitivity, and the closed form."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from zhiyin.policies.simulators.long_term_satisfaction import (
    LongTermSatisfaction,
    mean_log_engagement,
    steady_exposure,
    tie_sensitivity,
)
from zhiyin.policies.simulators.slate_environment import session_returns, top_slates

N = 1000
# Returns in the original environment: at random, always the most clickbait, always the least.
REFERENCE = {0.01: (919, 1100, 747), 0.0669: (920, 903, 880), 0.1: (922, 805, 966), 0.3: (945, 425, 1585)}


@pytest.mark.parametrize("sensitivity", REFERENCE)
def test_returns_are_those_of_recsim(sensitivity):
    environment, rng = LongTermSatisfaction(n_users=N, sensitivity=sensitivity), np.random.default_rng(3)
    policies = (
        lambda observation: rng.integers(0, 50, (N, 1)),
        lambda observation: top_slates(observation.items[:, :, 0], 1),
        lambda observation: top_slates(-observation.items[:, :, 0], 1),
    )
    for choose, expected in zip(policies, REFERENCE[sensitivity]):
        returns = session_returns(environment, choose)
        assert abs(returns.mean() - expected) <= 4 * returns.std() / np.sqrt(N)


def test_exposure_settles_at_the_closed_form():
    environment = LongTermSatisfaction(n_users=2000, n_candidates=3, length=100)
    for _ in range(40):
        environment.clickbait[:] = 0.8
        environment.step(np.zeros((2000, 1), dtype=int))
    deviation = 0.05 / np.sqrt(1 - 0.7**2)
    assert environment.exposure.mean() == pytest.approx(steady_exposure(0.8), abs=4 * deviation / np.sqrt(2000))
    assert environment.exposure.std() == pytest.approx(deviation, rel=0.1)
    assert steady_exposure(0.8) == pytest.approx(-2.0)


def test_engagement_has_the_mean_of_the_closed_form():
    environment = LongTermSatisfaction(n_users=20_000, n_candidates=1, sensitivity=0.3, max_engagement=1e9)
    environment.exposure[:], environment.clickbait[:] = 1.5, 0.25
    rewards = environment.step(np.zeros((20_000, 1), dtype=int)).rewards
    expected = (5 * 0.25 + 4 * 0.75) / (1 + np.exp(-0.3 * 1.5))
    assert np.log(rewards).mean() == pytest.approx(expected, abs=4 / np.sqrt(20_000))
    assert np.log(rewards).std() == pytest.approx(1, rel=0.03)


def test_always_and_never_tie_where_the_closed_form_says():
    s = tie_sensitivity()
    assert s == pytest.approx(0.0669, abs=5e-5)
    always, never = (mean_log_engagement(c, steady_exposure(c), s) for c in (1.0, 0.0))
    assert always == pytest.approx(never)
    more = s + 0.01
    assert mean_log_engagement(1.0, steady_exposure(1.0), more) < mean_log_engagement(0.0, steady_exposure(0.0), more)


def test_sessions_have_their_length_and_observations_the_last_item():
    environment = LongTermSatisfaction(n_users=5, length=3)
    assert (environment.observe().users == 0).all()
    clickbait = environment.clickbait[:, 7].copy()
    response = environment.step(np.full((5, 1), 7))
    assert (environment.observe().users == np.column_stack([clickbait, response.rewards])).all()
    assert not environment.step(np.zeros((5, 1), dtype=int)).ended.any()
    assert environment.step(np.zeros((5, 1), dtype=int)).ended.all()
    environment.reset()
    assert (environment.observe().users == 0).all()


def test_a_session_without_sensitivity_returns_what_the_integral_says():
    clickbait = (np.arange(2000) + 0.5) / 2000
    mean, limit = (4 + clickbait) / 2, np.log(100)  # satisfaction is ½
    expected = 60 * (np.exp(mean + 0.5) * norm.cdf(limit - mean - 1) + 100 * norm.sf(limit - mean)).mean()
    environment = LongTermSatisfaction(n_users=5000, n_candidates=1, sensitivity=0, seed=2)
    returns = session_returns(environment, lambda observation: np.zeros((5000, 1), dtype=int))
    assert abs(returns.mean() - expected) <= 4 * returns.std() / np.sqrt(5000)
