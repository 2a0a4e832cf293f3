"""Estimators: identities, and unbiasedness by enumeration."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.policies.off_policy import ESTIMATORS, LoggedDecisions, estimator_named, evaluate_off_policy


@st.composite
def logs(draw: st.DrawFn) -> LoggedDecisions:
    """Logs with predictions, and sometimes sub-sampled."""
    n, seed = draw(st.integers(2, 60)), draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    return LoggedDecisions(
        rewards=rng.choice([0.0, 1.0, 2.5, -1.0], n),
        propensities=rng.uniform(0.01, 1, n),
        target_probabilities=rng.choice([0.0, 0.3, 1.0], n) * rng.uniform(0, 0.99, n) + 1e-3,
        predicted_chosen=rng.normal(0, 1, n),
        predicted_target=rng.normal(0, 1, n),
        pass_probabilities=rng.uniform(0.1, 1, n) if draw(st.booleans()) else None,
    )


@pytest.mark.parametrize("name", ["ips", "snips", "clipped_ips", "dr", "sndr", "switch_dr", "dros"])
def test_the_logging_policy_itself_is_worth_its_mean_reward(name: str) -> None:
    rng = np.random.default_rng(0)
    p, predicted = rng.uniform(0.1, 0.9, 500), np.full(500, 0.3)
    log = LoggedDecisions(rng.random(500), p, p, predicted_chosen=predicted, predicted_target=predicted)
    assert ESTIMATORS[name].estimate(log) == pytest.approx(log.rewards.mean(), rel=1e-12)


def test_one_decision() -> None:
    log = LoggedDecisions([1.0], [0.3], [0.6])
    assert ESTIMATORS["ips"].estimate(log) == pytest.approx(2.0, rel=1e-15)
    assert ESTIMATORS["snips"].estimate(log) == 1.0


@given(logs(), st.floats(-3, 3))
def test_identities(log: LoggedDecisions, shift: float) -> None:
    def value(name: str, of: LoggedDecisions = log, limit: float = math.inf) -> float:
        return ESTIMATORS[name].estimate(of, limit)

    close = {"rel": 1e-9, "abs": 1e-9}
    moved = dataclasses.replace(log, rewards=log.rewards + shift)
    assert value("snips", moved) == pytest.approx(value("snips") + shift, **close)
    count = 1 / log.pass_probabilities if log.pass_probabilities is not None else np.ones(len(log))
    mean_weight = float(count @ log.importance_weights / count.sum())
    assert value("ips", moved) == pytest.approx(value("ips") + shift * mean_weight, **close)
    zeros = np.zeros(len(log))
    assert value("dr", log.with_predictions(zeros, zeros)) == pytest.approx(value("ips"), **close)
    assert value("sndr", log.with_predictions(zeros, zeros)) == pytest.approx(value("snips"), **close)
    assert value("switch_dr") == value("dr")
    assert value("switch_dr", limit=0) == pytest.approx(value("dm"), **close)
    assert value("dros") == value("dr")
    assert value("dros", limit=0) == pytest.approx(value("dm"), **close)
    assert value("dros", limit=1e-12) == pytest.approx(value("dm"), abs=1e-6)
    assert value("clipped_ips") == value("ips")


@given(logs(), st.sampled_from(list(ESTIMATORS)), st.sampled_from([0.0, 0.5, 3.0, math.inf]))
def test_the_streamed_estimate_is_the_mean_of_the_contributions(log: LoggedDecisions, name: str, limit: float) -> None:
    estimator = ESTIMATORS[name]
    limits: dict[str, Any] = {name: limit} if estimator.limits else {}
    result = evaluate_off_policy([log.rows(0, 1), log.rows(1, len(log))], [name], limits=limits, refuse=False)
    estimate = result[name]
    assert estimate.value == pytest.approx(estimator.estimate(log, limit), rel=1e-9, abs=1e-9)
    assert estimate.low <= estimate.value <= estimate.high
    if log.pass_probabilities is None and not estimator.self_normalised:
        error = estimator.contributions(log, limit).std(ddof=1) / math.sqrt(len(log))
        assert estimate.standard_error == pytest.approx(error, rel=1e-6, abs=1e-9)


def test_unbiased_with_the_stated_variance(problem: Any) -> None:
    """20,000 logs of 500 decisions: the mean is the value, the variance what enumeration says."""
    n, replications = 500, 20_000
    counts = np.random.default_rng(7).multinomial(n, problem.probabilities, replications)
    rough = np.clip(problem.q + np.random.default_rng(1).normal(0, 0.1, problem.q.shape), 0, 1)
    variances = {}
    for name, cells in (("ips", problem.cells), ("dr", problem.with_model(rough))):
        contributions = ESTIMATORS[name].contributions(cells)
        expected = float(problem.probabilities @ contributions)
        variances[name] = float(problem.probabilities @ (contributions - problem.value) ** 2)
        assert expected == pytest.approx(problem.value, rel=1e-12)
        estimates = counts @ contributions / n
        assert abs(estimates.mean() - problem.value) < 4 * math.sqrt(variances[name] / n / replications)
        assert estimates.var() / (variances[name] / n) == pytest.approx(1, abs=0.03)
    assert variances["dr"] < variances["ips"]


def test_exact_predictions_never_add_variance_and_a_biased_model_no_bias(problem: Any) -> None:
    exact = ESTIMATORS["dr"].contributions(problem.with_model(problem.q))
    plain = ESTIMATORS["ips"].contributions(problem.cells)
    p = problem.probabilities
    assert p @ exact == pytest.approx(problem.value, rel=1e-12)
    assert p @ (exact - problem.value) ** 2 <= p @ (plain - problem.value) ** 2
    wrong = problem.with_model(problem.q[::-1] + 0.5)
    assert p @ ESTIMATORS["dr"].contributions(wrong) == pytest.approx(problem.value, rel=1e-12)
    assert abs(p @ ESTIMATORS["dm"].contributions(wrong) - problem.value) > 0.1
    assert p @ ESTIMATORS["dm"].contributions(problem.with_model(problem.q)) == pytest.approx(problem.value, rel=1e-12)


def test_the_bias_of_snips_falls_with_the_number_of_decisions() -> None:
    """Exactly: over every sample of n decisions of one context, two actions and Bernoulli rewards."""
    logging, target, q = np.array([0.3, 0.7]), np.array([0.8, 0.2]), np.array([0.9, 0.2])
    p = (logging[:, None] * np.stack([q, 1 - q], axis=1)).ravel()

    def bias(n: int) -> float:
        expected = 0.0
        for counts in itertools.product(range(n + 1), repeat=4):
            if sum(counts) == n:
                rows = np.repeat(np.arange(4), counts)
                log = LoggedDecisions(np.array([1.0, 0, 1, 0])[rows], logging[rows // 2], target[rows // 2])
                chance = math.factorial(n) * np.prod(
                    [pi**c / math.factorial(c) for pi, c in zip(p, counts, strict=True)]
                )
                expected += chance * ESTIMATORS["snips"].estimate(log)
        return abs(expected - float(target @ q))

    few, more, many = bias(2), bias(4), bias(8)
    assert few > 1.4 * more > 1.4 * 1.4 * many > 0


def test_a_sub_sampled_log_answers_as_the_whole_one() -> None:
    """Clicks are kept, one of ten of the others: rows count 1 / pass_probability."""
    rng = np.random.default_rng(3)
    n = 200_000
    p, t = rng.uniform(0.2, 1, n), rng.uniform(0, 0.6, n)
    rewards = (rng.random(n) < 0.05).astype(float)
    passes = np.where(rewards > 0, 1.0, 0.1)
    selected = rng.random(n) < passes
    whole = evaluate_off_policy(LoggedDecisions(rewards, p, t), ["ips", "snips"], refuse=False)
    part = evaluate_off_policy(
        LoggedDecisions(rewards[selected], p[selected], t[selected], pass_probabilities=passes[selected]),
        ["ips", "snips"],
        refuse=False,
    )
    assert selected.sum() < 0.2 * n
    for name in ("ips", "snips"):
        assert part[name].value == pytest.approx(whole[name].value, rel=0.03)
        assert part[name].standard_error == pytest.approx(whole[name].standard_error, rel=0.2)
    assert part.support.n_decisions == pytest.approx(n, rel=0.02)
    assert part.support.mean_reward == pytest.approx(rewards.mean(), rel=0.02)


def test_names() -> None:
    assert estimator_named("Switch-DR") is ESTIMATORS["switch_dr"]
    with pytest.raises(ConfigError, match="did you mean 'snips'"):
        estimator_named("snip")
    with pytest.raises(DataError, match="needs a reward model"):
        ESTIMATORS["dr"].estimate(LoggedDecisions([1.0], [0.5], [0.5]))
