"""The Open Bandit Dataset, small version: figures that were computed independently, in every printed digit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from zhiyin.policies.off_policy import (
    ESTIMATORS,
    LoggedDecisions,
    OffPolicyResult,
    evaluate_off_policy,
    support_of,
)

Thompson = Callable[[str], np.ndarray]
DataOf = Callable[[str], Path]


def logged(real_data: DataOf, thompson: Thompson, name: str, campaign: str) -> LoggedDecisions:
    """The log of a policy ("random" or "bts"), evaluated for the other one."""
    frame = pl.read_csv(real_data(f"open-bandit/{name}_{campaign}.csv")).sort("timestamp")
    items, positions = frame["item_id"].to_numpy(), frame["position"].rank("dense").to_numpy().astype(int) - 1
    probabilities = thompson(campaign)
    target = probabilities[items, positions] if name == "random" else np.full(len(items), 1 / len(probabilities))
    return LoggedDecisions(frame["click"].to_numpy(), frame["propensity_score"].to_numpy(), target)


# Compared to one unit of the last digit that is printed, relative errors to three. By name and campaign: clicks, value
# of the log, truth (the other log's mean), IPS, SNIPS, their relative errors, mean weight, largest one, effective size.
FIGURES = {
    ("random", "all"): (
        38, 0.0038, 0.0042, 0.00455288, 0.0047758331, 0.0840190476, 0.1371031146, 0.9533164, 19.5984, 1639.50,
    ),
    ("random", "men"): (
        46, 0.0046, 0.0069, 0.00453356, 0.0046042322, 0.3429623188, 0.3327199762, 0.9846506, 10.68858, 2467.40,
    ),
    ("random", "women"): (
        46, 0.0046, 0.0046, 0.006813474, 0.0068109652, 0.48119, 0.4806446075, 1.0003683, 12.56398, 1954.27,
    ),
    ("bts", "all"): (
        42, 0.0042, 0.0038, 0.0023596395, 0.0023337139, 0.3790422324, 0.3858647650, 1.0111092, 277.78, 340.38,
    ),
    ("bts", "men"): (
        69, 0.0069, 0.0046, 0.0030086263, 0.0031894232, 0.3459507984, 0.3066471384, 0.9433136, 178.25, 655.71,
    ),
    ("bts", "women"): (
        46, 0.0046, 0.0046, 0.0074375774, 0.0023730461, 0.6168646830, 0.4841204036, 3.1341900, 21739.13, 2.08,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "campaign"), FIGURES, ids=lambda value: value)
def test_figures(real_data: DataOf, thompson: Thompson, name: str, campaign: str) -> None:
    clicks, value, truth, ips, snips, ips_error, snips_error, mean, largest, effective = FIGURES[name, campaign]
    log = logged(real_data, thompson, name, campaign)
    support = support_of(log)
    assert len(log) == 10_000
    assert log.rewards.sum() == clicks
    assert log.rewards.mean() == pytest.approx(value, abs=1e-12)
    by_ips, by_snips = (ESTIMATORS[entry].estimate(log) for entry in ("ips", "snips"))
    assert by_ips == pytest.approx(ips, abs=1.5e-10)
    assert by_snips == pytest.approx(snips, abs=1.5e-10)
    assert abs(by_ips - truth) / truth == pytest.approx(ips_error, abs=3e-10)
    assert abs(by_snips - truth) / truth == pytest.approx(snips_error, abs=3e-10)
    assert support.mean_weight == pytest.approx(mean, abs=5.1e-8)
    assert support.max_weight == pytest.approx(largest, abs=5.1e-3)
    assert support.effective_size == pytest.approx(effective, abs=5.1e-3)


def test_the_published_figures_of_all(real_data: DataOf, thompson: Thompson) -> None:
    """obp 0.5.4 prints 0.004553 for IPW, 1.198126 times the log's own value, and a relative error of 0.084019."""
    log = logged(real_data, thompson, "random", "all")
    by_ips = ESTIMATORS["ips"].estimate(log)
    assert round(by_ips, 6) == 0.004553
    assert round(by_ips / float(log.rewards.mean()), 6) == 1.198126
    assert round(abs(by_ips - 0.0042) / 0.0042, 6) == 0.084019


def test_women_logged_by_thompson_sampling_are_refused(real_data: DataOf, thompson: Thompson) -> None:
    result = evaluate_off_policy(logged(real_data, thompson, "bts", "women"))
    assert result.refusal is not None
    assert result.estimates == ()
    text = str(result.refusal)
    assert "worth 2.1 of the target policy's own" in text
    assert "weight 21,739" in text
    assert "draw 5% of the decisions by the target policy" in text


@pytest.mark.parametrize(("name", "campaign"), [("random", "men"), ("random", "women"), ("bts", "men")])
def test_the_others_are_answered_with_the_truth_inside(
    real_data: DataOf, thompson: Thompson, name: str, campaign: str
) -> None:
    result: OffPolicyResult = evaluate_off_policy(logged(real_data, thompson, name, campaign))
    truth = FIGURES[name, campaign][2]
    assert result.refusal is None
    for estimator in ("ips", "snips"):
        assert result[estimator].low < truth < result[estimator].high
