"""Support, refusals, and what is not accepted as a log."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.policies.off_policy import (
    LoggedDecisions,
    evaluate_off_policy,
    mass_on_unlogged_actions,
    refusal,
    support_of,
    tune_limit,
)
from zhiyin.policies.off_policy.estimators import ESTIMATORS
from zhiyin.policies.off_policy.slope import choose_candidate


def uniform_log(n: int = 5000, seed: int = 0, **columns: Any) -> LoggedDecisions:
    rng = np.random.default_rng(seed)
    return LoggedDecisions((rng.random(n) < 0.1).astype(float), np.full(n, 0.1), rng.choice([0.05, 0.15], n), **columns)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"propensities": [0.5, 0.0]}, "row 2 of propensities is outside 0 to 1: 0.0"),
        ({"propensities": [0.5, -0.1]}, "row 2 of propensities"),
        ({"propensities": [1.2, 0.5]}, "row 1 of propensities is outside 0 to 1: 1.2"),
        ({"propensities": [0.5, float("nan")]}, "row 2 of propensities is not finite"),
        ({"rewards": [float("nan"), 1.0]}, "row 1 of rewards is not finite"),
        ({"rewards": [1.0, float("inf")]}, "row 2 of rewards is not finite"),
        ({"target_probabilities": [0.1, 1.5]}, "row 2 of target_probabilities is outside 0 to 1"),
        ({"target_probabilities": [-0.1, 0.5]}, "row 1 of target_probabilities"),
        ({"pass_probabilities": [0.0, 0.5]}, "row 1 of pass_probabilities"),
        ({"rewards": [1.0]}, "2 values of propensities for 1 rewards"),
        ({"rewards": [[1.0, 0.0]]}, "rewards has 2 dimensions"),
        ({"predicted_chosen": [0.1, 0.2]}, "come together"),
        ({"groups": [0, -1]}, "row 2 has the negative group -1"),
        ({"unlogged_target_mass": [0.0, 2.0]}, "row 2 of unlogged_target_mass"),
    ],
)
def test_what_is_no_log(columns: dict[str, Any], message: str) -> None:
    given = {"rewards": [1.0, 0.0], "propensities": [0.5, 0.5], "target_probabilities": [0.5, 0.5]} | columns
    with pytest.raises(DataError, match=message) as caught:
        LoggedDecisions(**given)
    assert caught.value.remedy


def test_support_of_a_good_log() -> None:
    log = uniform_log(unlogged_target_mass=np.full(5000, 0.002))
    support = support_of(log)
    weights = log.importance_weights
    assert support.n_rows == support.n_observations == support.n_decisions == 5000
    assert support.n_positive == log.rewards.sum()
    assert support.mean_weight == pytest.approx(weights.mean())
    assert support.mean_weight_error == pytest.approx(weights.std(ddof=1) / np.sqrt(5000))
    assert support.effective_size == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert support.max_weight == pytest.approx(1.5)
    assert support.max_weight_share == pytest.approx(1.5 / weights.sum())
    assert support.unlogged_mass == pytest.approx(0.002)
    assert support.mean_reward == pytest.approx(log.rewards.mean())
    assert refusal(support) is None


def test_groups_are_the_observations() -> None:
    """Rows that repeat within a group are worth no more than the group."""
    one = uniform_log(1000)
    rows = np.repeat(np.arange(1000), 5)
    five = LoggedDecisions(one.rewards[rows], one.propensities[rows], one.target_probabilities[rows], groups=rows)
    support, single = support_of(five), support_of(one)
    assert support.n_rows == 5000
    assert support.n_observations == 1000
    assert support.effective_size == pytest.approx(single.effective_size)
    assert support.mean_weight_error == pytest.approx(single.mean_weight_error)
    # In batches, with groups that begin in one and end in the next.
    batches = [five.rows(0, 1234), five.rows(1234, 1236), five.rows(1236, 5000)]
    for method in ("clopper_pearson", "gamma", "empirical_bernstein", "normal", "anytime"):
        grouped, alone = (evaluate_off_policy(log, ["ips", "snips"], interval=method) for log in (batches, one))
        for name in ("ips", "snips"):
            assert grouped[name].standard_error == pytest.approx(alone[name].standard_error)
            assert (grouped[name].low, grouped[name].high) == pytest.approx(
                (alone[name].low, alone[name].high), rel=1e-6
            )


@pytest.mark.parametrize(
    ("log", "reason", "remedy"),
    [
        (
            LoggedDecisions([1.0] * 50, [0.5] * 50, [0.5] * 50),
            r"50 observations are worth 50\.0",
            "about 20,000 decisions",
        ),
        (LoggedDecisions([1.0] * 500, [0.5] * 500, [0.0] * 500), "never chooses an action that was logged", "draw 5%"),
        (
            LoggedDecisions(np.ones(2000), np.append(np.full(1999, 0.5), 1e-3), np.append(np.full(1999, 0.5), 1.0)),
            "one observation, of weight 1,000, holds 33% of all weight",
            "draw 5%",
        ),
        (
            uniform_log(unlogged_target_mass=np.full(5000, 0.2)),
            "spends 20.0% of its choices on actions",
            "every eligible",
        ),
        (
            LoggedDecisions(np.ones(2000), np.full(2000, 0.5), np.tile([0.5, 0.3], 1000)),
            r"the mean importance weight is 0\.800 ± 0\.004 and must be 1",
            "unrounded and never computed again",
        ),
    ],
)
def test_refusals_say_why_and_what_to_log(log: LoggedDecisions, reason: str, remedy: str) -> None:
    result = evaluate_off_policy(log, ["ips"])
    assert result.refusal is not None
    assert any(re.search(reason, text) for text in result.refusal.reasons)
    assert any(remedy in text for text in result.refusal.remedies)
    assert result.estimates == ()
    assert result.table().height == 0
    with pytest.raises(ConfigError, match="cannot answer"):
        result["ips"]
    assert "Refused: " in result._repr_html_()
    assert "The log cannot answer" in str(result)
    anyway = evaluate_off_policy(log, ["ips"], refuse=False)
    assert anyway.refusal == result.refusal
    assert anyway["ips"].low <= anyway["ips"].value <= anyway["ips"].high


def test_what_the_remedy_promises_holds() -> None:
    """5 % of the decisions by the target: no weight above 20, and an effective sample of 1,000."""
    rng = np.random.default_rng(0)
    n, n_actions = 20_000, 1000
    logging, target = np.full(n_actions, 1 / n_actions), np.zeros(n_actions)
    target[7] = 1.0
    mixture = 0.95 * logging + 0.05 * target
    actions = rng.choice(n_actions, n, p=mixture)
    support = support_of(LoggedDecisions(rng.random(n) < 0.1, mixture[actions], target[actions]))
    assert support.max_weight <= 20
    assert support.effective_size >= 1000
    assert refusal(support) is None


def test_mass_on_unlogged_actions() -> None:
    target = np.array([[0.5, 0.3, 0.2], [0.0, 0.0, 1.0]])
    assert mass_on_unlogged_actions(target, np.array([0.5, 0.5, 0.0])).tolist() == [0.2, 1.0]
    assert mass_on_unlogged_actions(target, np.array([[True, False, True], [True, True, True]])).tolist() == [0.3, 0.0]
    assert mass_on_unlogged_actions(np.array([0.9, 0.1]), np.array([[0.0, 1.0], [1.0, 1.0]])).tolist() == [0.9, 0.0]


def test_slope_takes_the_narrowest_that_all_before_allow() -> None:
    assert choose_candidate(np.array([1.0, 1.1, 1.2]), np.array([0.5, 0.3, 0.1])) == 2
    assert choose_candidate(np.array([1.0, 1.1, 5.0]), np.array([0.5, 0.3, 0.1])) == 1
    assert choose_candidate(np.array([5.0, 1.1, 1.0]), np.array([0.1, 0.3, 0.5])) == 1
    assert choose_candidate(np.array([1.0]), np.array([0.5])) == 0


def test_slope_clips_where_it_helps_and_not_where_it_hurts() -> None:
    rng = np.random.default_rng(1)
    n = 20_000
    p = rng.uniform(0.002, 0.1, n)
    t = p * rng.gamma(0.3, 1 / 0.3, n)
    t = np.minimum(t, 1)
    unrelated = LoggedDecisions((rng.random(n) < 0.3).astype(float), p, t)
    related = LoggedDecisions((t / p > 5).astype(float), p, t)
    limits = ESTIMATORS["clipped_ips"].limits
    assert tune_limit(related, ESTIMATORS["clipped_ips"]) >= 10
    assert tune_limit(unrelated, ESTIMATORS["clipped_ips"]) < tune_limit(related, ESTIMATORS["clipped_ips"])
    doubled = LoggedDecisions(related.rewards, related.propensities, related.target_probabilities, np.full(n, 0.5))
    assert tune_limit(doubled, ESTIMATORS["clipped_ips"], limits) == tune_limit(related, ESTIMATORS["clipped_ips"])


def test_results_show_themselves() -> None:
    log = uniform_log(predicted_chosen=np.full(5000, 0.1), predicted_target=np.full(5000, 0.1))
    result = evaluate_off_policy(log)
    assert list(result.table()["estimator"]) == list(ESTIMATORS)
    assert result.table().filter(~result.table()["covers_bias"])["estimator"].to_list()[:1] == ["clipped_ips"]
    html = result._repr_html_()
    assert "<td>SNIPS</td>" in html
    assert "effective sample size" in html
    back = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert back["estimates"][0]["estimator"] == "ips"
    assert back["refusal"] is None
    with pytest.raises(ConfigError, match="no estimate by 'mips'"):
        result["mips"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"estimators": ["dm"]}, "needs a reward model"),
        ({"estimators": "ips"}, "list of names"),
        ({"confidence": 95}, "not between 0 and 1"),
        ({"limits": {"ips": 3}}, "ips has no limit"),
        ({"limits": {"clipped_ips": -1}}, "negative"),
        ({"reward_range": (1, 0)}, "is empty"),
        ({"reward_range": (0, 0.5)}, "outside 0 to 0.5"),
    ],
)
def test_what_is_not_asked_for(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        evaluate_off_policy(uniform_log(), **arguments)


def test_logs_that_cannot_be_read() -> None:
    log = uniform_log()
    with pytest.raises(ConfigError, match="read only once"):
        evaluate_off_policy(iter([log]))
    with pytest.raises(DataError, match="no decisions"):
        evaluate_off_policy([])
    predicted = log.with_predictions(log.rewards, log.rewards)
    with pytest.raises(DataError, match="some batches have predictions"):
        evaluate_off_policy([log, predicted])
    assert (
        "range from 0 to 5"
        in evaluate_off_policy(
            LoggedDecisions(log.rewards * 5, log.propensities, log.target_probabilities), ["ips"]
        ).warnings[0]
    )
