"""Pacing of budgets."""

from __future__ import annotations

import numpy as np

from zhiyin.policies.ad_pacing import EVEN, PacingController, TrafficCurve, spend_target


def test_a_campaign_that_could_spend_ten_times_as_much_follows_its_curve() -> None:
    """The market gives 10 × the budget at full bids; after an hour the spend is within 5 % of the curve."""
    budget, spent, pacing = np.array([240.0]), np.zeros(1), PacingController(1)
    cost = np.zeros(1)
    for step in range(288):
        cost = np.minimum(2400 / 288 * pacing.multipliers, budget - spent)
        spent = spent + cost
        now = (step + 1) / 12
        pacing.update(spend_target(budget, spent - cost, EVEN, now - 1 / 12, 1 / 12, np.array([24.0])), cost)
        if now > 6:
            assert abs(spent[0] - 10 * now) < 0.08 * 240
    assert spent[0] > 0.97 * 240


def test_a_campaign_that_cannot_spend_its_budget_bids_in_full() -> None:
    pacing = PacingController(2)
    for _ in range(20):
        multipliers = pacing.update(np.array([10.0, 10.0]), np.array([2.0, 30.0]))
    assert multipliers[0] == 1.0
    assert multipliers[1] < 0.5


def test_what_is_known_of_a_campaign_is_taken_along() -> None:
    pacing = PacingController(2)
    pacing.update(np.array([1.0, 1.0]), np.array([1.0, 4.0]))
    other = pacing.taken(np.array([1, -1]))
    assert other.multipliers.tolist() == [pacing.multipliers[1], PacingController(1).multipliers[0]]


def test_the_curve_of_the_traffic() -> None:
    counts = np.zeros(24)
    counts[20] = 100
    curve = TrafficCurve.of_counts(counts)
    assert abs(float(curve.mass(24 * 7, 24 * 8)) - 1) < 1e-9
    assert curve.mass(24 * 7 + 20, 24 * 7 + 21) > 0.8
    assert abs(float(curve.mass(20.25, 20.75)) - curve.hours[20] / 2) < 1e-9
    # More than half of what is left is to be spent in the hour of the most traffic.
    assert spend_target(np.array([10.0]), np.array([4.0]), curve, 20.0, 1.0, np.array([24.0]))[0] > 5
