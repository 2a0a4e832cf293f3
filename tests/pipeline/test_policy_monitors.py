"""The guard does no harm, intervals hold, and noise is no drift."""

from __future__ import annotations

import json

import numpy as np
import pytest

from zhiyin.pipeline.decision_batch import figures_of
from zhiyin.pipeline.policy_guard import MIN_LISTS, SHARES, Guard
from zhiyin.pipeline.policy_monitors import Monitors, PageHinkley, Sums


def run(guard: Guard, policy_rate: float, baseline_rate: float, n_blocks: int, seed: int = 0) -> list[float]:
    """Shares after each block of 256 lists with clicks."""
    rng, shares = np.random.default_rng(seed), []
    for _ in range(n_blocks):
        is_policy = rng.random(256) < guard.share(0.1)
        rewards = (rng.random(256) < np.where(is_policy, policy_rate, baseline_rate)).astype(float)
        if guard.step >= 0:
            guard.policy.add(*figures_of(rewards[is_policy]))
            guard.baseline.add(*figures_of(rewards[~is_policy]))
        guard.judge(0.05, 0.1)
        shares.append(guard.share(0.1))
    return shares


def test_a_better_policy_gets_its_share_step_by_step() -> None:
    shares = run(Guard(), 0.5, 0.2, 300)
    assert list(dict.fromkeys(shares)) == [*SHARES, 0.9]


def test_a_worse_policy_is_stopped_and_stays_stopped() -> None:
    guard = Guard()
    shares = run(guard, 0.02, 0.3, 100)
    assert list(dict.fromkeys(shares)) == [0.05, 0.0]
    assert guard.figures(0.1)["state"] == "guard"
    assert guard.difference is not None
    assert guard.difference[1] < 0
    assert run(guard, 0.9, 0.1, 50)[-1] == 0.0


def test_a_policy_without_any_reward_is_stopped() -> None:
    assert run(Guard(), 0.0, 0.3, 60)[-1] == 0.0


def test_equal_policies_are_hardly_ever_stopped() -> None:
    stopped = sum(run(Guard(), 0.2, 0.2, 200, seed)[-1] == 0.0 for seed in range(40))
    assert stopped <= 4  # 5 %, and a margin besides


def test_few_lists_decide_nothing() -> None:
    guard = Guard()
    guard.policy.add(*figures_of(np.ones(MIN_LISTS - 1)))
    guard.baseline.add(*figures_of(np.zeros(5_000)))
    guard.judge(0.05, 0.1)
    assert (guard.step, guard.difference) == (0, None)


def test_the_guard_and_the_monitors_come_back_from_json() -> None:
    guard = Guard()
    run(guard, 0.3, 0.3, 40)
    assert Guard.from_json(json.loads(json.dumps(guard.as_json()))) == guard
    monitors = Monitors({"online": Sums(3, 1.5, 2.0, 2, 1.0)}, alarms=2)
    monitors.drift.add(0.25)
    assert Monitors.from_json(json.loads(json.dumps(monitors.as_json()))) == monitors
    with pytest.raises((TypeError, KeyError)):
        Monitors.from_json({"rewards": {}})


def test_noise_is_no_drift_and_a_moved_mean_is() -> None:
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(10):
        test = PageHinkley()
        alarms += sum(test.add(number) for number in rng.normal(0.1, 0.02, 2_000))
    assert alarms <= 1
    for shift in (0.03, -0.03):
        test = PageHinkley()
        assert not any(test.add(number) for number in rng.normal(0.1, 0.02, 200))
        assert any(test.add(number) for number in rng.normal(0.1 + shift, 0.02, 60))


def test_intervals_hold_at_every_look() -> None:
    """Of 200 logs of clicks, in at most 5 % the mean is ever outside, though each is looked at sixty times."""
    rng, misses = np.random.default_rng(1), 0
    for _ in range(200):
        sums, is_outside = Sums(), False
        for part in (rng.random((60, 100)) < 0.1).astype(float):
            sums.add(*figures_of(part))
            _, low, high = sums.interval()
            is_outside |= not low <= 0.1 <= high
        misses += is_outside
    assert misses <= 10
    assert Sums().interval() == [0.0, 0.0, 0.0]
    none = Sums()
    none.add(*figures_of(np.zeros(1_000)))
    assert none.interval()[2] > 0


def test_intervals_of_what_cannot_be_negative_begin_at_nothing() -> None:
    sums = Sums()
    sums.add(*figures_of(np.array([0.0, 0.0, 5.0])))
    assert sums.interval()[1] < 0
    assert sums.interval(nonnegative=True)[1] == 0
    sums.add(*figures_of(np.array([-1.0])))  # reported, whatever the settings say
    assert sums.interval(nonnegative=True)[1] < 0
    weights = Sums(3, 3.0, 9.0, 1, 3.0)
    figures = Monitors(weights=weights, rewards={"online": Sums(3, 5.0, 25.0, 1, 5.0)}).figures(nonnegative=True)
    assert figures["mean_importance_weight"][1] == figures["reward_rate"]["online"][1] == 0
