"""The simulated market of ads."""

from __future__ import annotations

import numpy as np
import pytest

from zhiyin.policies.simulators.ad_market import AD_POLICIES, AdMarket


@pytest.fixture(scope="module")
def market() -> AdMarket:
    return AdMarket(n_users=300, n_campaigns=12, n_requests=8_000, steps=96, demand=0.6, seed=3)


@pytest.mark.parametrize("policy", AD_POLICIES)
def test_no_budget_is_overspent(market: AdMarket, policy: str) -> None:
    for second_price in (False, True):
        day = market.run(policy, second_price)  # type: ignore[arg-type]
        assert (day.spend <= day.budgets).all()
        assert day.spend.sum() == day.by_step.sum()
        assert day.spend.sum() > 0
        assert day.unpaid < day.clicks <= day.displays


def test_the_same_seed_gives_the_same_day(market: AdMarket) -> None:
    again = AdMarket(n_users=300, n_campaigns=12, n_requests=8_000, steps=96, demand=0.6, seed=3)
    assert (again.run("expected_value").spend == market.run("expected_value").spend).all()


def test_expected_value_earns_more_than_bids_alone_and_a_second_price_no_more(market: AdMarket) -> None:
    revenue = {policy: market.run(policy).revenue for policy in AD_POLICIES}
    assert revenue["expected_value"] > revenue["bid"] > revenue["random"]
    assert revenue["ctr"] > revenue["random"]
    assert market.run("unpaced", second_price=True).revenue <= revenue["unpaced"]


def test_pacing_follows_the_traffic() -> None:
    """Budgets that could be spent ten times over: unpaced they are gone in the morning."""
    market = AdMarket(n_users=300, n_campaigns=12, n_requests=20_000, steps=96, demand=0.1, seed=1)
    paced, unpaced = market.run("expected_value").by_step, market.run("unpaced").by_step
    hours = np.arange(96) / 4
    wanted = np.cumsum(market.curve.mass(hours, hours + 0.25))
    assert np.abs(np.cumsum(paced) / paced.sum() - wanted).max() < 0.2
    assert np.abs(np.cumsum(unpaced) / unpaced.sum() - wanted).max() > 0.5
