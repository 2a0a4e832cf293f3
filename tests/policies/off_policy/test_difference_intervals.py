"""The difference to the logging policy: its value by enumeration, and intervals that hold for rare clicks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from zhiyin.policies.off_policy import ESTIMATORS, LoggedDecisions, LoggedSlates, evaluate_off_policy, evaluate_slates
from zhiyin.policies.off_policy.estimate_intervals import INTERVALS, IntervalSettings, difference_interval_of
from zhiyin.policies.off_policy.estimate_sums import EstimateSums, terms_of

N_ROWS = 10_000


def sums_of_counts(name: str, cells: LoggedDecisions, counts: np.ndarray) -> EstimateSums:
    """The sums over a log that holds each cell so often."""
    terms = terms_of(cells, ESTIMATORS[name], np.inf, cells.importance_weights)
    sums = EstimateSums(ESTIMATORS[name], np.inf, 0.0)
    sums.add(terms[:, counts > 0])
    sums.totals, sums.gram, sums.n = terms @ counts, (terms * counts) @ terms.T, int(counts.sum())
    return sums


@pytest.mark.parametrize(
    ("method", "name", "widest"),
    [
        ("clopper_pearson", "ips", 3.6),
        ("clopper_pearson", "snips", 3.7),
        ("clopper_pearson", "dr", 4.0),
        ("gamma", "ips", 2.9),
        ("empirical_bernstein", "ips", 13.0),
        ("anytime", "ips", 20.0),
    ],
)
def test_coverage_of_rare_clicks(rare_clicks: dict[str, Any], method: str, name: str, widest: float) -> None:
    """At .34 % clicks and 10,000 impressions; the width is relative to the target's value."""
    cells = rare_clicks["cells"]
    truth = rare_clicks["truth"] - rare_clicks["logged_truth"]
    if name == "dr":
        predicted = np.full(len(cells), 0.0017)
        cells = cells.with_predictions(predicted, predicted)
    settings = IntervalSettings(method, 0.05, 0.0, 1.0, None, N_ROWS, False)
    inside, widths = 0, []
    for counts in rare_clicks["counts"][:300]:
        low, high, used = difference_interval_of(sums_of_counts(name, cells, counts), settings)
        inside += low <= truth <= high
        widths.append((high - low) / rare_clicks["truth"])
        assert used == method
    assert inside >= 0.95 * 300
    assert np.mean(widths) < widest


def test_a_normal_interval_of_rare_clicks_covers_too_little(rare_clicks: dict[str, Any]) -> None:
    """Which is why it needs 300 positive rewards of another weight than 1."""
    truth = rare_clicks["truth"] - rare_clicks["logged_truth"]
    settings = IntervalSettings("normal", 0.05, 0.0, 1.0, None, N_ROWS, True, True)
    inside = 0
    for counts in rare_clicks["counts"][:300]:
        low, high, _ = difference_interval_of(sums_of_counts("ips", rare_clicks["cells"], counts), settings)
        inside += low <= truth <= high
    assert inside < 0.93 * 300


def test_normal_intervals_need_positives_where_the_policies_differ() -> None:
    rng = np.random.default_rng(0)
    n = 20_000
    rewards = (rng.random(n) < 0.1).astype(float)
    target = np.full(n, 0.5)
    target[:500], target[500:1000] = 0.75, 0.25
    few = evaluate_off_policy(LoggedDecisions(rewards, np.full(n, 0.5), target), ["ips"], interval="normal")
    assert (few["ips"].interval, few["ips"].difference_interval) == ("normal", "clopper_pearson")
    assert few.support.n_positive > 300 > few.support.n_changed_positive > 0
    target = np.where(rng.random(n) < 0.5, 0.75, 0.25)
    many = LoggedDecisions(rewards, np.full(n, 0.5), target)
    estimate = evaluate_off_policy(many, ["ips"], interval="normal", refuse=False)["ips"]
    assert estimate.difference_interval == "normal"
    terms = (many.importance_weights - 1) * rewards
    error = terms.std(ddof=1) / np.sqrt(n)
    assert estimate.difference_error == pytest.approx(error, rel=1e-9)
    assert estimate.difference_high - estimate.difference == pytest.approx(1.959964 * error, rel=1e-6)


def test_covers_the_truth_at_every_look(rare_clicks: dict[str, Any]) -> None:
    cells, truth = rare_clicks["cells"], rare_clicks["truth"] - rare_clicks["logged_truth"]
    chances = rare_clicks["counts"].sum(axis=0) / rare_clicks["counts"].sum()
    settings = IntervalSettings("anytime", 0.05, 0.0, 1.0, float(rare_clicks["weights"].max()), N_ROWS, False)
    n_left = 0
    for parts in np.random.default_rng(3).multinomial(1000, chances, (60, 10)):
        logs = [sums_of_counts("ips", cells, counts) for counts in np.cumsum(parts, axis=0)]
        looks = [difference_interval_of(log, settings) for log in logs]
        n_left += any(not low <= truth <= high for low, high, _ in looks)
    assert n_left <= 3


@pytest.mark.parametrize("interval", INTERVALS)
def test_the_logging_policy_does_not_differ_from_itself(interval: str) -> None:
    """Exactly, whatever the rewards: every weight is 1, the value is the log's mean bit for bit."""
    rng = np.random.default_rng(4)
    rewards, propensities = rng.uniform(-1, 3, 5000), rng.uniform(0.1, 1, 5000)
    log = LoggedDecisions(rewards, propensities, propensities, pass_probabilities=rng.uniform(0.5, 1, 5000))
    result = evaluate_off_policy(log, ["ips", "snips"], interval=interval, reward_range=(-1, 3))
    for estimate in result.estimates:
        assert estimate.value == result.support.mean_reward
        assert (estimate.difference, estimate.difference_low, estimate.difference_high) == (0, 0, 0)
    p = rng.uniform(0.1, 1, (2000, 5))
    lists = LoggedSlates(rng.uniform(0, 1, (2000, 5)), p, p, p, p)
    result = evaluate_slates(lists, interval=interval)
    assert len(result.estimates) == 4
    for estimate in result.estimates:
        assert estimate.value == result.support.mean_reward
        assert (estimate.difference, estimate.difference_low, estimate.difference_high) == (0, 0, 0)


def test_the_difference_is_that_of_the_enumerated_values(problem: Any) -> None:
    """Without clipping, the difference has the expectation that two policies' values have, for every estimator."""
    counts = problem.probabilities * 1e9
    predicted = np.clip(problem.q + 0.1, 0, 1)
    cells = problem.with_model(predicted)
    logged_value = float(problem.context_probabilities @ (problem.logging * problem.q).sum(axis=1))
    for name in ("ips", "snips", "dr", "sndr"):
        sums = sums_of_counts(name, cells, counts)
        assert sums.difference == pytest.approx(problem.value - logged_value, rel=1e-9)
        settings = IntervalSettings("clopper_pearson", 0.05, 0.0, 1.0, None, N_ROWS, False)
        low, high, _ = difference_interval_of(sums, settings)
        assert low <= sums.difference <= high
        assert high - low < 0.01  # of a billion rows: the parts are put together with the right signs


@pytest.mark.parametrize("interval", ["clopper_pearson", "gamma", "empirical_bernstein", "anytime"])
def test_moving_and_stretching_rewards(interval: str) -> None:
    """Moving rewards moves no difference; stretching them stretches it."""
    rng = np.random.default_rng(2)
    p, t, r = rng.uniform(0.3, 1, 4000), rng.uniform(0.3, 0.8, 4000), (rng.random(4000) < 0.02).astype(float)
    log = LoggedDecisions(r, p, t / (t / p).mean())
    options: dict[str, Any] = {"interval": interval, "refuse": False}
    plain = evaluate_off_policy(log, ["ips"], **options)["ips"]
    moved = evaluate_off_policy(replace(log, rewards=3 * r - 1), ["ips"], reward_range=(-1, 2), **options)["ips"]
    for end in ("difference", "difference_low", "difference_high"):
        assert getattr(moved, end) == pytest.approx(3 * getattr(plain, end), rel=1e-6, abs=1e-12)
    assert plain.difference_low < plain.difference < plain.difference_high


def test_rows_in_groups_count_once(problem: Any, take_rows: Callable[..., LoggedDecisions]) -> None:
    """Each row twice, in one group, is the same log: the same difference, error and interval."""
    once = take_rows(problem.cells, problem.draw(3000, 5))
    twice = take_rows(once, np.repeat(np.arange(3000), 2))
    twice = replace(twice, groups=np.repeat(np.arange(3000), 2))
    for interval in ("clopper_pearson", "empirical_bernstein", "normal"):
        left = evaluate_off_policy(once, ["ips", "snips"], interval=interval)
        right = evaluate_off_policy(twice, ["ips", "snips"], interval=interval)
        for name in ("ips", "snips"):
            for field in ("difference", "difference_low", "difference_high", "difference_error"):
                assert getattr(right[name], field) == pytest.approx(getattr(left[name], field), rel=1e-9)


def test_lists_cover_the_difference_of_their_values() -> None:
    """Two slots drawn independently: the difference of the values is known."""
    rng = np.random.default_rng(7)
    logging, target, rates = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5]), np.array([0.02, 0.05, 0.09])
    truth, inside = 2 * (target - logging) @ rates, 0
    for _ in range(100):
        items = rng.choice(3, (3000, 2), p=logging)
        clicks = (rng.random((3000, 2)) < rates[items]).astype(float)
        p, t = logging[items], target[items]
        result = evaluate_slates(LoggedSlates(clicks, p, t, p, t))
        for estimate in result.estimates:
            assert estimate.difference_low <= estimate.difference <= estimate.difference_high
        inside += all(entry.difference_low <= truth <= entry.difference_high for entry in result.estimates)
    assert inside >= 94


def test_a_difference_is_narrower_than_two_intervals_side_by_side() -> None:
    """A target that differs from the log on a tenth of the decisions."""
    rng = np.random.default_rng(8)
    n = 20_000
    target = np.full(n, 0.5)
    target[:1000], target[1000:2000] = 1.0, 0.0
    log = LoggedDecisions((rng.random(n) < 0.05).astype(float), np.full(n, 0.5), target)
    estimate = evaluate_off_policy(log, ["ips"])["ips"]
    assert estimate.difference_high - estimate.difference_low < (estimate.high - estimate.low) / 2


def test_anytime_intervals_of_constant_predictions() -> None:
    """A model that predicts the same everywhere has no uncertainty of its own."""
    rng = np.random.default_rng(1)
    n = 2000
    log = LoggedDecisions(rng.random(n) < 0.1, np.full(n, 0.5), np.full(n, 0.5))
    log = log.with_predictions(np.full(n, 0.1), np.full(n, 0.1))
    result = evaluate_off_policy(log, ["dm"], interval="anytime")
    assert (result["dm"].low, result["dm"].high) == pytest.approx((0.1, 0.1))
    assert result["dm"].difference_low < result["dm"].difference < result["dm"].difference_high
