"""Top-K off-policy REINFORCE: the simulations of the paper in closed form, its gradient by finite differences."""

from __future__ import annotations

import numpy as np
import pytest

from zhiyin.core.errors import DataError, NotFittedError
from zhiyin.core.run import Run
from zhiyin.policies.action_sets import ActionSets
from zhiyin.policies.loading import load
from zhiyin.policies.reinforce import LoggedChoices, TopKReinforce

TEN = np.arange(10)


def table_log(rewards: np.ndarray, counts: np.ndarray) -> LoggedChoices:
    """A log of one context and ten actions with a weight each; action a was chosen counts[a] times."""
    n = int(counts.sum())
    sets = ActionSets(np.arange(n + 1) * 10, np.tile(TEN, n), np.tile(np.eye(10), (n, 1)))
    chosen = np.repeat(TEN, counts)
    return LoggedChoices(sets, np.arange(n) * 10 + chosen, rewards[chosen], (counts / n)[chosen])


def at(policy: TopKReinforce, probabilities: np.ndarray) -> TopKReinforce:
    policy.weights = np.log(np.maximum(probabilities, 1e-30))
    return policy


def probabilities(policy: TopKReinforce) -> np.ndarray:
    return policy.probabilities(ActionSets.single(TEN, np.eye(10)))


def test_without_correction_it_ends_at_reward_times_behaviour():
    rewards, counts = np.arange(1.0, 11), np.array([5, 4, 4, 3, 3, 2, 1, 1, 1, 1])
    log = table_log(rewards, counts)
    expected = rewards * counts / (rewards * counts).sum()
    policy = at(TopKReinforce(weight_cap=0), expected)
    assert np.abs(policy.gradient(log)).max() <= 1e-14
    policy = TopKReinforce(weight_cap=0, epochs=600, batch_size=1000, learning_rate=0.02).fit(log)
    assert probabilities(policy) == pytest.approx(expected, abs=1e-3)


def test_with_correction_it_ends_at_the_best_action():
    log = table_log(np.arange(1.0, 11), np.array([5, 4, 4, 3, 3, 2, 1, 1, 1, 1]))
    policy = TopKReinforce(weight_cap=1e9, epochs=300, batch_size=1000, learning_rate=0.1).fit(log)
    assert probabilities(policy)[9] > 0.99


def test_top_2_ends_at_10_and_9_nineteenths():
    rewards = np.array([10.0, 9] + [1] * 8)
    log = table_log(rewards, np.full(10, 3))
    expected = np.array([10, 9] + [0] * 8) / 19
    policy = at(TopKReinforce(slate_size=2, weight_cap=1e9), expected)
    assert np.abs(policy.gradient(log)).max() <= 1e-14
    policy = TopKReinforce(slate_size=2, weight_cap=1e9, epochs=1500, batch_size=1000, learning_rate=0.05).fit(log)
    assert probabilities(policy) == pytest.approx(expected, abs=2e-3)
    standard = TopKReinforce(slate_size=1, weight_cap=1e9, epochs=1500, batch_size=1000, learning_rate=0.05).fit(log)
    assert probabilities(standard)[0] > 0.97


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_gradient_is_that_of_the_chance_to_be_shown(k):
    """Of Σ r (1 - (1 - π)^K), by finite differences: over a log that chose every action alike."""
    rng = np.random.default_rng(3)
    rewards, weights = rng.random(10), rng.normal(size=10)
    log = table_log(rewards, np.ones(10, dtype=int))
    policy = TopKReinforce(slate_size=k, weight_cap=1e9, temperature=0.7)

    def value(theta: np.ndarray) -> float:
        policy.weights = theta
        return float((rewards * (1 - (1 - probabilities(policy)) ** k)).sum())

    step = 1e-6
    expected = [(value(weights + step * e) - value(weights - step * e)) / (2 * step) for e in np.eye(10)]
    policy.weights = weights
    assert policy.gradient(log) == pytest.approx(expected, abs=1e-7)


def test_the_cap_limits_a_weight_and_the_divergence_pulls_to_the_log():
    log = table_log(np.eye(10)[0], np.array([1] + [11] * 9))  # the rewarded action: propensity .01
    uniform = np.full(10, 0.1)
    free, capped = (at(TopKReinforce(weight_cap=cap), uniform).gradient(log)[0] for cap in (1e9, 2.0))
    assert free == pytest.approx(0.01 * 10 * 0.9)
    assert capped == pytest.approx(0.01 * 2 * 0.9)
    counts = np.array([9, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    policy = TopKReinforce(logging_kl=1.0, epochs=400, batch_size=1000, learning_rate=0.05)
    assert probabilities(policy.fit(table_log(np.zeros(10), counts))) == pytest.approx(counts / 18, abs=5e-3)


def test_excluded_actions_take_no_part():
    sets = ActionSets.single(TEN, np.eye(10), excluded=TEN > 4)
    log = LoggedChoices(sets, np.array([2]), np.array([1.0]), np.array([0.2]))
    gradient = TopKReinforce().fit(log).gradient(log)
    assert (gradient[5:] == 0).all()
    assert gradient[2] > 0


def test_saved_and_loaded_and_the_same_seed(tmp_path):
    log = table_log(np.arange(10.0), np.full(10, 30))
    first, again = (TopKReinforce(epochs=2).fit(log, Run(seed=4)) for _ in range(2))
    assert (first.weights == again.weights).all()
    first.save(tmp_path / "policy")
    loaded = load(tmp_path / "policy")
    assert (probabilities(loaded) == probabilities(first)).all()


def test_errors():
    sets = ActionSets.single(TEN, np.eye(10))
    with pytest.raises(NotFittedError):
        TopKReinforce().gradient(LoggedChoices(sets, [1], [1.0], [0.5]))
    with pytest.raises(DataError, match="propensity 0 of decision 0"):
        LoggedChoices(sets, [1], [1.0], [0.0])
    with pytest.raises(DataError, match="chosen row of decision 0"):
        LoggedChoices(sets, [10], [1.0], [0.5])
    with pytest.raises(DataError, match="without features"):
        LoggedChoices(ActionSets.single(TEN), [1], [1.0], [0.5])
