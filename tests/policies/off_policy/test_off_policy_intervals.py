"""Intervals: constants of other packages, coverage on rare clicks, and what an interval is when someone peeks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta

from zhiyin.core.errors import ConfigError
from zhiyin.policies.off_policy import ESTIMATORS, LoggedDecisions, evaluate_off_policy
from zhiyin.policies.off_policy.confidence_sequences import (
    gamma_exponential_bound,
    normal_log_mixture,
    normal_mixture_bound,
    normal_mixture_rho,
    one_sided_normal_bound,
    one_sided_normal_log_mixture,
)
from zhiyin.policies.off_policy.estimate_intervals import IntervalSettings, interval_of
from zhiyin.policies.off_policy.estimate_sums import EstimateSums, terms_of
from zhiyin.policies.off_policy.intervals import (
    bootstrap_interval,
    clopper_pearson,
    empirical_bernstein,
    normal_interval,
    scaled_clopper_pearson,
    weighted_poisson_interval,
)

N_ROWS = 10_000


def test_constants_of_the_confseq_package() -> None:
    rho, one_sided_rho = normal_mixture_rho(100, 0.05), normal_mixture_rho(100, 0.1)
    assert rho == pytest.approx(12.60056, abs=5e-6)
    assert normal_log_mixture(10, 100, rho) == pytest.approx(-0.6510052, abs=5e-8)
    assert normal_mixture_bound(100, rho, 0.05) == pytest.approx(30.35209, abs=5e-6)
    assert one_sided_normal_log_mixture(10, 100, one_sided_rho) == pytest.approx(-0.06502391, abs=5e-9)
    assert one_sided_normal_bound(100, one_sided_rho, 0.05) == pytest.approx(27.66071, abs=5e-6)
    assert gamma_exponential_bound(100, one_sided_rho, 2, 0.05) == pytest.approx(33.02017, abs=5e-6)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (1.7, 510.2), (34, 10_000)])
def test_clopper_pearson(successes: float, trials: float) -> None:
    low, high = clopper_pearson(successes, trials, 0.05)
    expected_low = beta.ppf(0.025, successes, trials - successes + 1) if successes else 0.0
    expected_high = beta.ppf(0.975, successes + 1, trials - successes) if successes < trials else 1.0
    assert float(low) == pytest.approx(expected_low, rel=1e-9)
    assert float(high) == pytest.approx(expected_high, rel=1e-9)


def coverage(low: np.ndarray, high: np.ndarray, truth: float) -> float:
    return float(np.mean((low <= truth) & (truth <= high)))


def test_coverage_of_rare_clicks(rare_clicks: dict[str, Any]) -> None:
    """What normal and bootstrap intervals promise (95 %) they do not hold; the others do."""
    counts, truth = rare_clicks["counts"], rare_clicks["truth"]
    contributions = ESTIMATORS["ips"].contributions(rare_clicks["cells"])
    totals, squares = counts @ contributions, counts @ contributions**2
    largest = np.where(counts > 0, rare_clicks["weights"], 0).max(axis=1)
    variance = (squares / N_ROWS - (totals / N_ROWS) ** 2) * N_ROWS / (N_ROWS - 1)
    assert float(counts[:, :240].sum(axis=1).mean()) == pytest.approx(34, abs=1)

    low, high = scaled_clopper_pearson(totals, largest, N_ROWS, 0.05)
    assert coverage(low, high, truth) >= 0.94
    assert float(np.mean(high - low)) / truth <= 3.29
    gamma_low, gamma_high = weighted_poisson_interval(totals, squares, largest, N_ROWS, 0.05)
    assert coverage(gamma_low, gamma_high, truth) >= 0.95
    assert float(np.mean(gamma_high - gamma_low)) < 0.8 * float(np.mean(high - low))
    assert coverage(*empirical_bernstein(totals / N_ROWS, variance, largest, N_ROWS, 0.05), truth) == 1
    assert coverage(*normal_interval(totals / N_ROWS, np.sqrt(variance / N_ROWS), 0.05), truth) < 0.89

    by_bootstrap = []
    for row in counts[:200]:
        clicks = np.repeat(contributions[:240], row[:240])
        rows = np.concatenate([clicks, np.zeros(N_ROWS - len(clicks))])
        by_bootstrap.append(bootstrap_interval(rows, 0.05, n_resamples=400))
    assert coverage(*np.array(by_bootstrap).T, truth) < 0.93


@pytest.mark.parametrize("name", ["snips", "dr", "sndr"])
def test_coverage_of_estimators(rare_clicks: dict[str, Any], name: str) -> None:
    """Clopper–Pearson also holds for ratios, and for a reward model that is wrong by half."""
    cells, truth = rare_clicks["cells"], rare_clicks["truth"]
    predicted = np.full(len(cells), 0.0017)
    cells = cells.with_predictions(predicted, predicted)
    terms = terms_of(cells, ESTIMATORS[name], np.inf, cells.importance_weights)
    settings = IntervalSettings("clopper_pearson", 0.05, 0.0, 1.0, None, 10_000, False)
    inside, widths = 0, []
    for counts in rare_clicks["counts"][:300]:
        sums = EstimateSums(ESTIMATORS[name], np.inf, 0.0)
        logged = counts > 0
        sums.add(terms[:, logged])
        sums.totals, sums.gram, sums.n = terms @ counts, (terms * counts) @ terms.T, N_ROWS
        low, high, _ = interval_of(sums, settings)
        inside += low <= truth <= high
        widths.append((high - low) / truth)
    assert inside >= 0.94 * 300
    assert np.mean(widths) < 3.6


def test_an_evaluation_gives_these_intervals(
    rare_clicks: dict[str, Any], take_rows: Callable[..., LoggedDecisions]
) -> None:
    counts = rare_clicks["counts"][0]
    log = take_rows(rare_clicks["cells"], np.repeat(np.arange(480), counts))
    contributions = log.importance_weights * log.rewards
    total, squares = contributions.sum(), (contributions**2).sum()
    largest = log.importance_weights.max()
    expected = {
        "clopper_pearson": scaled_clopper_pearson(total, largest, N_ROWS, 0.1),
        "gamma": weighted_poisson_interval(total, squares, largest, N_ROWS, 0.1),
        "empirical_bernstein": empirical_bernstein(total / N_ROWS, contributions.var(ddof=1), largest, N_ROWS, 0.1),
    }
    for method, (low, high) in expected.items():
        estimate = evaluate_off_policy(log, ["ips"], confidence=0.9, interval=method)["ips"]
        assert (estimate.low, estimate.high) == pytest.approx((max(float(low), 0), float(high)), rel=1e-9)
        assert estimate.interval == method


def test_normal_intervals_need_many_positives(rare_clicks: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    few = LoggedDecisions(rng.random(5000) < 0.01, np.full(5000, 0.5), np.full(5000, 0.5))
    result = evaluate_off_policy(few, ["ips"], interval="normal")
    assert result["ips"].interval == "clopper_pearson"
    assert "too few for the normal" in result.warnings[0]
    many = LoggedDecisions(rng.random(5000) < 0.1, np.full(5000, 0.5), np.full(5000, 0.5))
    result = evaluate_off_policy(many, ["ips"], interval="normal")
    assert result["ips"].interval == "normal"
    assert not result.warnings
    mean, error = many.rewards.mean(), many.rewards.std(ddof=1) / np.sqrt(5000)
    assert result["ips"].low == pytest.approx(mean - 1.959964 * error, rel=1e-6)
    with pytest.raises(ConfigError, match="no interval"):
        evaluate_off_policy(many, interval="students")


def test_rewards_in_any_range() -> None:
    """Moving and stretching rewards moves and stretches the intervals of IPS, whatever the method."""
    rng = np.random.default_rng(2)
    p, t, r = rng.uniform(0.3, 1, 4000), rng.uniform(0.3, 0.8, 4000), (rng.random(4000) < 0.2).astype(float)
    t = t / (t / p).mean()  # a mean weight of 1
    for method in ("clopper_pearson", "gamma", "empirical_bernstein", "anytime"):
        plain = evaluate_off_policy(LoggedDecisions(r, p, t), ["ips"], interval=method, refuse=False)["ips"]
        moved = evaluate_off_policy(
            LoggedDecisions(3 * r - 1, p, t), ["ips"], interval=method, reward_range=(-1, 2), refuse=False
        )["ips"]
        if method != "anytime":  # that one is about the ratio's own variance where rewards are many
            assert moved.low == pytest.approx(3 * plain.low - 1, rel=1e-6)
            assert moved.high == pytest.approx(3 * plain.high - 1, rel=1e-6)
        assert moved.low < moved.value < moved.high


def test_looking_a_hundred_times() -> None:
    """A naive test of a null effect at 100 looks alarms in a third of all cases; the boundary in less than 5 %."""
    steps = np.random.default_rng(1).standard_normal((4000, 100)) * 10  # each look: 100 observations more
    paths, looks = np.cumsum(steps, axis=1), np.arange(1, 101) * 100
    naive = np.any(np.abs(paths) > 1.959964 * np.sqrt(looks), axis=1)
    for planned in (1000, 10_000):
        rho = normal_mixture_rho(planned, 0.05)
        bound = np.array([normal_mixture_bound(float(n), rho, 0.05) for n in looks])
        alarms = np.mean(np.any(np.abs(paths) > bound, axis=1))
        assert 0.005 < alarms <= 0.05
    assert naive.mean() >= 0.3


def test_anytime_intervals_of_rare_clicks_hold_at_every_look(rare_clicks: dict[str, Any]) -> None:
    """Sums over a growing log, looked at ten times: the truth never leaves."""
    cells, truth = rare_clicks["cells"], rare_clicks["truth"]
    terms = terms_of(cells, ESTIMATORS["ips"], np.inf, cells.importance_weights)
    chances = rare_clicks["counts"].sum(axis=0) / rare_clicks["counts"].sum()
    settings = IntervalSettings("anytime", 0.05, 0.0, 1.0, float(rare_clicks["weights"].max()), 10_000, False)
    left = 0
    for parts in np.random.default_rng(3).multinomial(1000, chances, (60, 10)):
        sums = EstimateSums(ESTIMATORS["ips"], np.inf, 0.0)
        intervals = []
        for counts in np.cumsum(parts, axis=0):
            sums.add(terms[:, counts > 0])
            sums.totals, sums.gram, sums.n = terms @ counts, (terms * counts) @ terms.T, int(counts.sum())
            intervals.append(interval_of(sums, settings))
        left += any(not low <= truth <= high for low, high, _ in intervals)
    assert left <= 3
    assert 1.5 < (intervals[-1][1] - intervals[-1][0]) / truth < 26.9
