"""Comparisons of arms: against SciPy, under no difference, with looks in between."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from zhiyin.core.errors import DataError
from zhiyin.policies.experiments.arm_statistics import Sample
from zhiyin.policies.experiments.comparisons import always_valid, cuped, ratio, sample_ratio_p_value, welch
from zhiyin.policies.experiments.group_sequential import crossing_probability, obrien_fleming, pocock

RNG = np.random.default_rng(0)


def test_welch_is_that_of_scipy():
    a, b = RNG.normal(1, 2, 40), RNG.normal(1.5, 1, 25)
    expected = stats.ttest_ind(b, a, equal_var=False)
    interval = expected.confidence_interval(0.9)
    difference = welch(Sample.of(a), Sample.of(b), level=0.9)
    assert difference.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert (difference.low, difference.high) == pytest.approx(tuple(interval), rel=1e-9)
    assert difference.lift == pytest.approx((b.mean() - a.mean()) / a.mean())


def test_samples_add_up():
    y, x = RNG.normal(size=50), RNG.normal(size=50)
    whole, parts = Sample.of(y, x), Sample.of(y[:20], x[:20]) + Sample.of(y[20:], x[20:])
    assert dataclasses.astuple(parts) == pytest.approx(dataclasses.astuple(whole))
    assert whole.variance == pytest.approx(y.var(ddof=1))
    assert whole.covariance == pytest.approx(np.cov(y, x)[0, 1])


def null_arms(n: int, experiments: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Impressions, clicks and earlier clicks of users, with rates of their own: [experiments, 2, n]."""
    rng = np.random.default_rng(1)
    shape = (experiments, 2, n)
    impressions = 1 + rng.poisson(5, shape)
    rate = rng.beta(2, 20, shape)
    return impressions, rng.binomial(impressions, rate), rng.binomial(20, rate)


@pytest.mark.parametrize("test", [welch, ratio, cuped])
def test_without_a_difference_p_values_are_uniform(test):
    impressions, clicks, before = null_arms(400, 1000)
    second = {welch: clicks, ratio: impressions, cuped: before}[test]
    p_values = [test(*(Sample.of(y, x) for y, x in zip(*arms))).p_value for arms in zip(clicks, second)]
    assert stats.kstest(p_values, "uniform").pvalue > 0.001


def test_users_are_the_unit_of_a_ratio():
    """Impressions of a user are alike, so a test over impressions is wrong; the delta method is not."""
    rng = np.random.default_rng(2)
    impressions = rng.integers(1, 60, (500, 2, 200))
    clicks = rng.binomial(impressions, rng.beta(0.5, 2, impressions.shape))
    wrong, right = [], []
    for (a, b), (m, n) in zip(clicks, impressions):
        right.append(ratio(Sample.of(a, m), Sample.of(b, n)).p_value < 0.05)
        wrong.append(stats.chi2_contingency([[a.sum(), m.sum()], [b.sum(), n.sum()]]).pvalue < 0.05)
    assert np.mean(right) < 0.08
    assert np.mean(wrong) > 0.3


@pytest.mark.parametrize("correlation", [0.3, 0.5, 0.7, 0.9])
def test_cuped_takes_the_share_that_the_past_explains(correlation):
    rng = np.random.default_rng(3)
    before = rng.normal(size=(2, 40_000))
    now = correlation * before + np.sqrt(1 - correlation**2) * rng.normal(size=before.shape)
    arms = [Sample.of(y, x) for y, x in zip(now, before)]
    variance = (cuped(*arms).standard_error / welch(*arms).standard_error) ** 2
    assert variance == pytest.approx(1 - correlation**2, abs=0.015)


def test_looking_a_hundred_times_keeps_the_error_of_always_valid_intervals():
    rng = np.random.default_rng(4)
    experiments, looks, step = 1000, 100, 10
    y = rng.normal(size=(experiments, 2, looks * step))
    counts = np.arange(1, looks + 1) * step
    sums, squares = y.cumsum(axis=2)[..., step - 1 :: step], (y**2).cumsum(axis=2)[..., step - 1 :: step]
    means, variances = sums / counts, (squares - sums**2 / counts) / (counts - 1)
    z = (means[:, 1] - means[:, 0]) / np.sqrt(variances.sum(axis=1) / counts)
    naive_alarms = (np.abs(z) > 1.96).any(axis=1).sum()
    false_alarms = np.zeros(experiments, dtype=bool)
    for experiment, look in zip(*np.nonzero(np.abs(z) > 1.96)):  # elsewhere the wider interval holds 0, too
        arms = [
            Sample(int(counts[look]), float(sums[experiment, arm, look]), float(squares[experiment, arm, look]))
            for arm in (0, 1)
        ]
        valid = always_valid(welch(*arms), *arms, planned_units=2 * looks * step)
        assert (valid.p_value < 0.05) == (valid.low > 0 or valid.high < 0)
        false_alarms[experiment] |= valid.p_value < 0.05
    assert naive_alarms / experiments >= 0.3
    assert false_alarms.mean() <= 0.05


def test_an_always_valid_interval_is_about_half_as_wide_again():
    arms = [Sample.of(RNG.normal(size=10_000)) for _ in range(2)]
    fixed = welch(*arms)
    valid = always_valid(fixed, *arms, planned_units=20_000)
    assert 1.5 < (valid.high - valid.low) / (fixed.high - fixed.low) < 1.7


def test_bounds_of_planned_looks_are_those_of_the_books():
    assert pocock(5) == pytest.approx(np.full(5, 2.413), abs=1e-3)
    assert obrien_fleming(5) == pytest.approx(2.040 * np.sqrt(5 / np.arange(1, 6)), abs=3e-3)
    assert crossing_probability(np.full(5, 1.96)) == pytest.approx(0.142, abs=1e-3)
    assert pocock(1) == pytest.approx([1.95996], abs=1e-4)


def test_a_broken_assignment_is_seen():
    assert sample_ratio_p_value([5000, 5300], [1, 1]) < 0.01
    assert sample_ratio_p_value([5000, 2500], [2, 1]) == pytest.approx(1)
    rng = np.random.default_rng(5)
    alarms = [sample_ratio_p_value([n, 1000 - n], [1, 1]) < 0.05 for n in rng.binomial(1000, 0.5, 4000)]
    assert abs(np.mean(alarms) - 0.05) < 0.02


def test_errors():
    with pytest.raises(DataError, match="fewer than two units"):
        welch(Sample.of([1.0]), Sample.of([1.0, 2.0]))
    with pytest.raises(DataError, match="denominators of an arm sum to 0"):
        ratio(Sample.of([1.0, 0], [0, 0]), Sample.of([1.0, 2.0], [1, 1]))
    with pytest.raises(DataError, match="finite numbers"):
        Sample.of([1.0, np.nan])
    same = welch(Sample.of([1.0, 1.0]), Sample.of([1.0, 1.0]))
    assert (same.p_value, same.low, same.high) == (1.0, 0.0, 0.0)
