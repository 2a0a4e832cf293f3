"""Rewards that come late, items that come later, features that change their meaning."""

from __future__ import annotations

import numpy as np
import pytest

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.policies.simulators.delayed_rewards import DelayedRewards, share_arrived
from zhiyin.policies.simulators.drift import FeatureDrift
from zhiyin.policies.simulators.interest_evolution import InterestEvolution
from zhiyin.policies.simulators.item_arrivals import ItemArrivals


def test_a_window_sees_its_share_of_the_rewards():
    q, mean_delay, window, n = 0.3, 20.0, 30.0, 100_000
    rng = np.random.default_rng(0)
    queue = DelayedRewards(mean_delay, rng)
    queue.submit(np.arange(n), (rng.random(n) < q).astype(float), now=0.0)
    observed = queue.arrivals(window).rewards.sum() / n
    error = 4 * np.sqrt(q / n)
    assert observed == pytest.approx(q * (1 - np.exp(-window / mean_delay)), abs=error)
    assert observed / share_arrived(window, mean_delay) == pytest.approx(q, abs=2 * error)


def test_each_reward_arrives_once_and_in_order():
    rng = np.random.default_rng(1)
    queue, arrived = DelayedRewards(5.0, rng), []
    for now in range(100):
        queue.submit(np.arange(10 * now, 10 * now + 10), np.full(10, float(now)), now)
        arrivals = queue.arrivals(now)
        assert (arrivals.arrived <= now).all()
        assert (arrivals.decided == arrivals.rewards).all()
        assert (np.diff(arrivals.arrived) >= 0).all()
        arrived.append(arrivals.decisions)
    assert 0 < len(queue) < 1000
    arrived.append(queue.arrivals(np.inf).decisions)
    assert np.sort(np.concatenate(arrived)).tolist() == list(range(1000))
    assert len(queue) == 0


def test_no_delay():
    queue = DelayedRewards(0.0, np.random.default_rng(0))
    queue.submit(np.array([4]), np.array([2.0]), now=7.0)
    assert queue.arrivals(7.0).rewards.tolist() == [2.0]
    assert share_arrived(0.0, 0.0) == 1
    with pytest.raises(ConfigError, match="negative"):
        DelayedRewards(-1, np.random.default_rng(0))


def test_items_are_candidates_from_their_release_on():
    rng = np.random.default_rng(0)
    arrivals = ItemArrivals.spread(200, share=0.25, length=50, rng=rng)
    assert (arrivals.releases > 0).sum() == 50
    assert arrivals.releases.max() < 50
    for step in (0, 20, 49):
        candidates = arrivals.candidates(step, 300, 12, rng)
        assert (arrivals.releases[candidates] <= step).all()
        assert (np.diff(np.sort(candidates, axis=1), axis=1) > 0).all()
    assert np.bincount(candidates.ravel(), minlength=200).min() > 0  # all are there at last
    assert ItemArrivals(np.array([0, 9])).candidates(0, 2, 1, rng).tolist() == [[0], [0]]
    with pytest.raises(DataError, match="fewer candidates"):
        ItemArrivals(np.array([0, 9])).candidates(0, 2, 2, rng)


def test_drift_permutes_the_features_of_items():
    environment = InterestEvolution(n_users=3)
    drift = FeatureDrift.random([10, 20], 20, np.random.default_rng(0))
    plain = environment.observe()
    assert drift(plain, 9) is plain
    first, second = drift(plain, 10), drift(plain, 20)
    assert (first.items == plain.items[:, :, drift.permutations[0]]).all()
    assert (second.items == plain.items[:, :, drift.permutations[1]]).all()
    assert (second.users == plain.users).all()
    for changes, permutations in (([20, 10], [[0, 1], [1, 0]]), ([1], [[0, 0]]), ([1], [[0, 1], [1, 0]])):
        with pytest.raises(DataError):
            FeatureDrift(changes, np.array(permutations))
