"""Policies in simulated environments: who learns earns more than who does not."""

from __future__ import annotations

import numpy as np
import pytest

from zhiyin.policies.simulators.film_shop_slates import FilmShopSlates
from zhiyin.policies.simulators.interest_evolution import InterestEvolution
from zhiyin.policies.simulators.long_term_satisfaction import LongTermSatisfaction
from zhiyin.policies.simulators.policy_sessions import ENVIRONMENTS, candidate_features, run_policy, true_values


def test_a_learning_policy_stands_between_random_and_who_knows_the_truth() -> None:
    means = {
        text: run_policy(FilmShopSlates(n_users=100, length=40, seed=1), text, 40, seed=1).rewards[-20:].mean()
        for text in ("random", "linucb:alpha=0.3", "myopic")
    }
    assert 1.5 * means["random"] < means["linucb:alpha=0.3"] < means["myopic"]


def test_who_knows_the_next_reward_only_loses_in_the_long_run() -> None:
    """Clickbait engages at once and spoils what follows: `myopic` always shows it."""
    means = {
        text: run_policy(LongTermSatisfaction(n_users=300, sensitivity=0.3, seed=2), text, 60).rewards.mean()
        for text in ("random", "myopic")
    }
    assert means["myopic"] < means["random"]


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_features_do_not_tell_what_is_hidden(name: str) -> None:
    """The same observation gives the same features, whatever the hidden state."""
    environment = ENVIRONMENTS[name](n_users=7, seed=4)
    observation = environment.observe()
    features = candidate_features(environment, observation)
    assert features.shape[:2] == observation.items.shape[:2] == true_values(environment).shape
    assert np.isfinite(features).all()
    again = candidate_features(ENVIRONMENTS[name](n_users=7, seed=5), observation)
    assert np.array_equal(features, again)


def test_sessions_that_end_begin_anew() -> None:
    result = run_policy(InterestEvolution(n_users=20, seed=1), "random", 150)
    assert len(result.returns) >= 20
    assert result.rewards[-10:].mean() > 0


def test_slot_rewards_sum_up_to_the_reward() -> None:
    environment = FilmShopSlates(n_users=60, seed=2)
    slates = np.tile(np.arange(10), (60, 1))
    for _ in range(3):
        response = environment.step(slates)
        assert np.array_equal(response.slot_rewards.sum(axis=1), response.rewards)
    assert (response.slot_rewards > 0).any()


def test_the_expected_reward_of_the_film_shop_is_the_mean_of_what_comes() -> None:
    environment = FilmShopSlates(n_users=4_000, n_items=60, seed=2)
    slates = np.tile(np.arange(10), (4_000, 1))
    expected = environment.values()[:, :10] * environment.examination
    rewards = environment.step(slates).slot_rewards
    error = (rewards - expected).mean(axis=0)
    assert (np.abs(error) < 4 * rewards.std(axis=0) / np.sqrt(len(rewards))).all()
