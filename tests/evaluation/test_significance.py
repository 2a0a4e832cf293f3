"""Intervals that cover, tests that agree with SciPy, Holm by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from zhiyin.core.run import Run
from zhiyin.evaluation import significance
from zhiyin.evaluation.significance import bootstrap_interval, holm, paired_tests


def test_intervals_cover_the_true_mean_as_often_as_promised() -> None:
    rng, trials = np.random.default_rng(0), 400
    # Each column is a sample of its own, from an exponential distribution of mean 1, skewed as metrics are.
    # Columns share draws, yet whether each covers its mean depends on its own sample.
    low, high = bootstrap_interval(rng.exponential(size=(400, trials)), Run(seed=1))
    covered = ((low <= 1) & (high >= 1)).mean()
    assert 0.91 <= covered <= 0.98  # 0.95 ± 3 standard errors, less what skewness costs


def test_the_width_is_that_of_the_standard_error() -> None:
    values = np.random.default_rng(2).normal(3, 2, size=(5000, 2))
    for level, z in ((0.95, 1.96), (0.8, 1.2816)):
        low, high = bootstrap_interval(values, Run(), rounds=4000, level=level)
        np.testing.assert_allclose(high - low, 2 * z * values.std(axis=0) / np.sqrt(5000), rtol=0.06)
        np.testing.assert_allclose((high + low) / 2, values.mean(axis=0), atol=0.01)


def test_the_same_seed_gives_the_same_interval_on_any_threads_and_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(3).random((500, 3))
    first = bootstrap_interval(values, Run(seed=7, threads=1))
    monkeypatch.setattr(significance, "_BLOCK_BYTES", 8 * 500 * 7)
    np.testing.assert_allclose(bootstrap_interval(values, Run(seed=7, threads=2)), first, rtol=1e-12)
    assert not np.array_equal(bootstrap_interval(values, Run(seed=8)), first)


def test_missing_values_are_left_out() -> None:
    values = np.random.default_rng(4).random((4000, 3))
    values[:2000, 1] = np.nan
    values[:, 2] = np.nan
    low, high = bootstrap_interval(values, Run())
    assert low[1] < np.nanmean(values[:, 1]) < high[1]
    assert high[1] - low[1] > 1.25 * (high[0] - low[0])  # half the users: √2 times as wide
    assert np.isnan([low[2], high[2]]).all()


def test_intervals_of_next_to_nothing() -> None:
    assert np.isnan(bootstrap_interval(np.zeros((0, 2)), Run())).all()
    np.testing.assert_array_equal(bootstrap_interval(np.array([[0.25]]), Run()), [[0.25], [0.25]])


def test_every_user_is_drawn_equally_often() -> None:
    counts = np.zeros((2000, 50))
    significance._draw(counts, np.uint64(9), 0, 0, 2000)
    assert (counts.sum(axis=1) == 50).all()
    assert stats.chisquare(counts.sum(axis=0)).pvalue > 0.001
    # The number of times a user is drawn is binomial: variance n · 1/n · (1 - 1/n).
    assert counts.var() == pytest.approx(1 - 1 / 50, rel=0.03)


def test_draws_are_those_of_splitmix64() -> None:
    """As Steele, Lea & Flood give it, in whole numbers of Python: an interval is the same in each release."""
    wrap = 2**64 - 1

    def mix(z: int) -> int:
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & wrap
        z = (z ^ z >> 27) * 0x94D049BB133111EB & wrap
        return z ^ z >> 31

    counts, users, first = np.zeros((3, 7)), 7, 40
    significance._draw(counts, np.uint64(9), first, 0, 3)
    for row in range(3):
        state, expected = mix(9 + first + row), [0] * users
        for _ in range(users):
            state = state + 0x9E3779B97F4A7C15 & wrap
            expected[(mix(state) >> 32) * users >> 32] += 1
        assert counts[row].tolist() == expected


def test_few_users_move_the_quantiles_out_as_student_has_it() -> None:
    for level, users in ((0.95, 2), (0.8, 10)):
        tail = (1 - level) / 2
        moved = stats.norm.cdf(stats.t.ppf(tail, users - 1) * np.sqrt(users / (users - 1)))
        assert significance._tails(level, users) == pytest.approx([moved, 1 - moved])
    assert significance._tails(0.9, 1) == pytest.approx([0.05, 0.95])


def test_holm_by_hand() -> None:
    # sorted .005 .01 .03 .04, times 4 3 2 1 = .02 .03 .06 .04, running maximum .02 .03 .06 .06
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.6, 0.7])), [1, 1])
    assert holm(np.array([])).tolist() == []


def test_paired_tests_are_paired_t_tests_with_holm() -> None:
    rng = np.random.default_rng(5)
    best = rng.random(300)
    values = {"near": best + rng.normal(-0.01, 0.1, 300), "best": best, "far": rng.random(300) * 0.8}
    raw = [stats.ttest_rel(best, values[name]).pvalue for name in ("near", "far")]
    expected = dict(zip(("near", "far"), holm(np.array(raw)), strict=True))
    assert paired_tests(values, "best") == pytest.approx(expected)


def test_what_cannot_be_tested_has_p_one() -> None:
    best = np.array([0.1, 0.2, 0.7])
    assert paired_tests({"a": best, "same": best.copy(), "shifted": best - 0.1}, "a") == {
        "same": 1,
        "shifted": 1,
    }
    assert paired_tests({"a": best[:1], "b": best[1:2]}, "a") == {"b": 1}
    assert paired_tests({"a": best}, "a") == {}


def test_two_users_can_be_tested_and_differences_that_cancel_within_each_cannot() -> None:
    zeros = np.zeros(2)
    for best in (np.array([0.1, 0.4]), np.array([3e5, 3.1e5])):
        assert paired_tests({"a": best, "b": zeros}, "a")["b"] == pytest.approx(stats.ttest_1samp(best, 0).pvalue)
    within = np.array([0.5, -0.5, 0.25, -0.25])
    assert paired_tests({"a": within, "b": np.zeros(4)}, "a", np.array([0, 0, 1, 1])) == {"b": 1}
    equal = 1e6 + np.array([0.0, 1e-7, 2e-7])  # but for rounding
    assert paired_tests({"a": equal, "b": np.zeros(3)}, "a") == {"b": 1}


def test_pairs_with_a_missing_value_are_left_out() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.random(100), rng.random(100)
    holed = b.copy()
    holed[:20] = np.nan
    assert paired_tests({"a": a, "b": holed}, "a")["b"] == pytest.approx(stats.ttest_rel(a[20:], b[20:]).pvalue)


def folds_of(rng: np.random.Generator, users: int, folds: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """(values, users): a metric of users who come in some of the folds; most of its spread is between users."""
    of = rng.exponential(0.2, users) + shift
    there = rng.random((folds, users)) < 0.7
    values = np.concatenate([of[row] + rng.normal(0, 0.05, int(row.sum())) for row in there])
    return values, np.concatenate([np.flatnonzero(row) for row in there])


def test_the_same_users_in_several_folds_are_no_more_users() -> None:
    rng = np.random.default_rng(10)
    once = rng.random(300)
    values, users = np.tile(once, 3), np.tile(np.arange(300), 3)
    low, high = bootstrap_interval(once[:, None], Run())
    low3, high3 = bootstrap_interval(values[:, None], Run(), groups=users)
    assert high3 - low3 == pytest.approx(high - low, rel=1e-9)
    worse = once - rng.normal(0.02, 0.2, 300)
    p = paired_tests({"a": once, "b": worse}, "a")["b"]
    assert paired_tests({"a": values, "b": np.tile(worse, 3)}, "a", users)["b"] == pytest.approx(p, rel=1e-9)


@pytest.mark.slow
def test_intervals_over_folds_cover_with_repeated_users() -> None:
    rng, covered, naive = np.random.default_rng(11), [], []
    trials = 400
    for trial in range(trials):
        values, users = folds_of(rng, 80, 4)
        for groups, hits in ((users, covered), (None, naive)):
            low, high = bootstrap_interval(values[:, None], Run(seed=trial, threads=1), 400, groups=groups)
            hits.append(bool(low[0] <= 0.2 <= high[0]))
    assert np.mean(covered) >= 0.93
    assert np.mean(naive) < 0.85  # what counting rows promises and does not keep


def test_intervals_of_few_users_cover() -> None:
    rng = np.random.default_rng(12)
    hits = []
    for trial in range(400):
        low, high = bootstrap_interval(rng.normal(size=(10, 1)), Run(seed=trial, threads=1), 1000)
        hits.append(low[0] <= 0 <= high[0])
    assert np.mean(hits) >= 0.93


def test_p_values_of_no_difference_are_uniform_over_folds_with_repeated_users() -> None:
    rng, clustered, naive = np.random.default_rng(13), [], []
    for _ in range(600):
        a, users = folds_of(rng, 120, 4)
        other = rng.exponential(0.2, 120)  # another model, as good, better for some users and worse for others
        b = other[users] + rng.normal(0, 0.05, len(users))
        clustered.append(paired_tests({"a": a, "b": b}, "a", users)["b"])
        naive.append(paired_tests({"a": a, "b": b}, "a")["b"])
    assert stats.kstest(clustered, "uniform").pvalue > 0.01
    assert stats.kstest(naive, "uniform").pvalue < 1e-6


def test_the_standard_error_is_the_usual_one_where_users_have_a_row_each() -> None:
    values = np.random.default_rng(14).random(50)
    mean, error, users = significance.standard_error(values, np.arange(50))
    assert (mean, users) == (pytest.approx(values.mean()), 50)
    assert error == pytest.approx(stats.sem(values)) == pytest.approx(significance.standard_error(values)[1])
    assert significance.standard_error(values, np.zeros(50))[1] == np.inf
    assert significance.standard_error(np.array([1.0, 3.0, np.nan])) == (2, 1, 2)  # two users are enough
    mean, error, users = significance.standard_error(np.array([np.nan]))
    assert (np.isnan(mean), error, users) == (True, np.inf, 0)


def test_no_rounds_give_no_interval() -> None:
    assert np.isnan(bootstrap_interval(np.random.default_rng(0).random((5, 2)), Run(), rounds=0)).all()


def test_as_many_users_as_needed_give_the_power_that_was_asked_for() -> None:
    n = significance.users_needed(0.3, 0.05)
    assert n == 283  # ((1.96 + 0.8416) * 6)²
    rng = np.random.default_rng(15)
    draws = rng.normal(0.05, 0.3, (4000, n))
    low = draws.mean(axis=1) - 1.96 * draws.std(axis=1, ddof=1) / np.sqrt(n)
    assert (low > 0).mean() == pytest.approx(0.8, abs=0.03)
    assert significance.users_needed(0.3, 0.0) is None
    assert significance.users_needed(0.3, -0.1) is None
    assert significance.users_needed(0.3, float("nan")) is None
    assert significance.users_needed(0.0, 0.1) == 2
    assert significance.users_needed(0.3, 1e-10) is None  # more than anybody has
