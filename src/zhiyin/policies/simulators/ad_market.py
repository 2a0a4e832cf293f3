"""A simulated market of ads: users of `FilmShop` see films that campaigns pay for, and click with known probability.

A day of n requests comes along a curve with its peak in the evening. A request is of a user; every film of a campaign
with budget left takes part. The probability of a click is the shop's truth; policies see an estimate whose log odds are
off by a normal error of their own for each user and film, drawn once:

    logit p̂ = logit p + σ ε

A click is charged the price to the campaign, unless that is more than is left of its budget; then it is free. Policies
order ads by p̂ × bid, by p̂, by bid, or at random; pacing scales the first along the day, campaign by campaign. Budgets
are by chance relative to bids, and in sum `demand` times what p × bid would bring were there none.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Literal

import numpy as np
from scipy.special import expit, logit

from zhiyin.core.parallel import compiled
from zhiyin.core.params import check_settings, param, settings_of
from zhiyin.policies.ad_auction import AuctionResult, run_auctions
from zhiyin.policies.ad_pacing import PacingController, TrafficCurve, scores_and_parts, spend_target
from zhiyin.policies.simulators.film_shop import FilmShop

AdPolicy = Literal["expected_value", "unpaced", "ctr", "bid", "random"]
AD_POLICIES: tuple[AdPolicy, ...] = ("expected_value", "unpaced", "ctr", "bid", "random")
_MICROS = 1_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class AdDay:
    """What a day brought.

    Parameters
    ----------
    spend, budgets: int64[campaigns], micros.
    clicks, unpaid: clicks, and those that no budget could bear. displays: ads shown.
    by_step: int64[steps], micros spent in each step of the day.
    """

    spend: np.ndarray
    budgets: np.ndarray
    clicks: int
    unpaid: int
    displays: int
    by_step: np.ndarray

    @property
    def revenue(self) -> float:
        """In units of money."""
        return float(self.spend.sum()) / _MICROS

    @property
    def budget_spent(self) -> float:
        """Share of all budgets."""
        return float(self.spend.sum() / self.budgets.sum())


@dataclasses.dataclass
class AdMarket:
    """The same fields, the same day for each policy: requests, clicks' draws and estimates are common to all.

    >>> market = AdMarket(n_users=100, n_campaigns=5, n_requests=500)
    >>> day = market.run("expected_value")
    >>> bool((day.spend <= day.budgets).all())
    True
    """

    n_users: int = param(2_000, "users", at_least=1)
    n_campaigns: int = param(40, "campaigns", at_least=1)
    ads_per_campaign: int = param(3, "films that each campaign pays for", at_least=1)
    n_requests: int = param(40_000, "requests of the day", at_least=1)
    slots: int = param(2, "ads of a request", at_least=1, at_most=50)
    steps: int = param(288, "intervals of the day, between which pacing is updated", at_least=1)
    error: float = param(0.5, "standard deviation of the error of the estimates' log odds", at_least=0)
    demand: float = param(0.5, "all budgets, relative to the value of all clicks without budgets", at_least=0.01)
    bid_spread: float = param(0.7, "standard deviation of the logarithm of bids", at_least=0)
    seed: int = param(0, "every draw descends from it", at_least=0)

    def __post_init__(self) -> None:
        check_settings(AdMarket, settings_of(self))

    @cached_property
    def probability(self) -> np.ndarray:
        """float64[users, ads]: of a click."""
        shop = FilmShop(n_users=self.n_users, n_items=self.n_ads, days=30, seed=self.seed, arrivals=0.0)
        items = np.tile(np.arange(self.n_ads), (self.n_users, 1))
        return np.asarray(shop.probability(np.arange(self.n_users), items, day=15), np.float64)

    @cached_property
    def estimate(self) -> np.ndarray:
        """float64[users, ads]: of the same, as policies see it."""
        noise = self._rng(1).normal(size=self.probability.shape)
        return expit(logit(np.clip(self.probability, 1e-9, 1 - 1e-9)) + self.error * noise)

    @property
    def n_ads(self) -> int:
        return self.n_campaigns * self.ads_per_campaign

    @cached_property
    def campaigns(self) -> np.ndarray:
        """int32[ads]: whose each ad is."""
        return np.repeat(np.arange(self.n_campaigns, dtype=np.int32), self.ads_per_campaign)

    @cached_property
    def bids(self) -> np.ndarray:
        """int64[ads], micros for a click: each campaign has one."""
        bids = 0.2 * np.exp(self.bid_spread * self._rng(2).normal(size=self.n_campaigns))
        return np.repeat((bids * _MICROS).astype(np.int64), self.ads_per_campaign)

    @cached_property
    def curve(self) -> TrafficCurve:
        """Of the requests: few at night, most in the evening."""
        hours = np.arange(24)
        evening, noon = (np.cos((hours - peak) * 2 * np.pi / 24 * n) for peak, n in ((20, 1), (12, 2)))
        return TrafficCurve.of_counts(1.1 + evening + 0.4 * noon)

    @cached_property
    def requests(self) -> tuple[np.ndarray, np.ndarray]:
        """int32[n], users; int64[steps + 1], where the requests of each step begin."""
        rng = self._rng(3)
        hours = np.arange(self.steps + 1) * 24 / self.steps
        share = self.curve.mass(hours[:-1], hours[1:])
        counts = rng.multinomial(self.n_requests, share / share.sum())
        activity = np.exp(rng.normal(0, 0.8, self.n_users))
        users = rng.choice(self.n_users, self.n_requests, p=activity / activity.sum()).astype(np.int32)
        return users, np.concatenate([[0], np.cumsum(counts)])

    @cached_property
    def budgets(self) -> np.ndarray:
        """int64[campaigns], micros of the day."""
        wanted = self.bids[:: self.ads_per_campaign] * np.exp(self._rng(4).normal(0, 0.5, self.n_campaigns))
        users, _ = self.requests
        part = users[: min(len(users), 4_000)]
        result = self._auction(part, self.probability, self.bids, second_price=False)
        rows, ads = np.nonzero(result.ads >= 0)[0], result.ads[result.ads >= 0]
        value = (self.probability[part[rows], ads] * self.bids[ads]).sum() * len(users) / len(part)
        return np.maximum((wanted / wanted.sum() * value * self.demand).astype(np.int64), 1)

    def run(self, policy: AdPolicy, second_price: bool = False) -> AdDay:
        """A day under a policy. "unpaced" is "expected_value" whose budgets are spent as they come.

        second_price: of policies that order by p̂ × bid; the others, whose order has no such price, charge the bid.
        """
        users, bounds = self.requests
        spend, by_step = np.zeros(self.n_campaigns, np.int64), np.zeros(self.steps, np.int64)
        draws = self._rng(5).random((len(users), self.slots))  # the same luck in the same slot for every policy
        order = self._rng(6)
        pacing, expected = PacingController(self.n_campaigns), np.zeros(self.n_campaigns)
        totals, length = np.zeros(3, np.int64), 24 / self.steps
        for step in range(self.steps):
            part = users[bounds[step] : bounds[step + 1]]
            has_budget = (self.budgets - spend)[self.campaigns] >= self.bids
            bids, scores = self.bids, self.estimate
            if policy == "expected_value":
                factors, parts = scores_and_parts(pacing.multipliers)
                scores = self.estimate * factors[self.campaigns]
                takes_part = order.random((len(part), self.n_campaigns)) < parts
                bids = self.bids * takes_part[:, self.campaigns]
            elif policy == "ctr":
                bids = np.full(self.n_ads, _MICROS)
            elif policy == "bid":
                scores = np.full_like(self.estimate, 0.01)
            elif policy == "random":
                bids, scores = np.full(self.n_ads, _MICROS), order.random((self.n_users, self.n_ads))
            result = self._auction(part, scores, np.where(has_budget, bids, 0), second_price)
            ads = result.ads
            has_price = policy in ("expected_value", "unpaced")
            prices = result.prices if has_price else np.where(ads >= 0, self.bids[ads], 0)
            true, guessed = self.probability[part[:, None], ads], self.estimate[part[:, None], ads]
            clicked = (ads >= 0) & (draws[bounds[step] : bounds[step + 1]] < true)
            before = int(spend.sum())
            totals += _charge_clicks(ads, prices, clicked, self.campaigns, self.budgets, spend)
            by_step[step] = int(spend.sum()) - before
            shown = ads >= 0
            foreseen = np.bincount(self.campaigns[ads[shown]], (guessed * prices)[shown], self.n_campaigns)
            expected += foreseen
            # As many of the expected clicks as came, with some that came as expected.
            prior = 0.05 * self.budgets
            cost = foreseen * (spend + prior) / (expected + prior)
            end = np.full(self.n_campaigns, 24.0)
            pacing.update(spend_target(self.budgets, spend - cost, self.curve, step * length, length, end), cost)
        return AdDay(spend, self.budgets, int(totals[0]), int(totals[1]), int(totals[2]), by_step)

    def _auction(self, users: np.ndarray, scores: np.ndarray, bids: np.ndarray, second_price: bool) -> AuctionResult:
        """Auctions of requests of these users among all ads.

        scores: float64[users, ads].
        """
        n, m = len(users), self.n_ads
        of_requests = np.broadcast_to(bids, (n, m)).ravel()
        result = run_auctions(
            np.arange(n + 1) * m, scores[users].ravel(), of_requests, np.zeros(n * m, np.int64),
            np.tile(self.campaigns, n), np.tile(np.arange(m), n), slots=self.slots, second_price=second_price,
        )  # fmt: skip
        return AuctionResult(np.where(result.ads >= 0, result.ads % m, -1), result.prices)

    def _rng(self, stream: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, 77, stream))


@compiled
def _charge_clicks(ads, prices, clicked, campaigns, budgets, spend):
    """Charge clicks in their order as far as budgets bear it. Returns clicks, unpaid clicks and displays."""
    totals = np.zeros(3, np.int64)
    for row in range(ads.shape[0]):
        for slot in range(ads.shape[1]):
            ad = ads[row, slot]
            if ad < 0:
                continue
            totals[2] += 1
            if not clicked[row, slot]:
                continue
            totals[0] += 1
            campaign = campaigns[ad]
            if spend[campaign] + prices[row, slot] <= budgets[campaign]:
                spend[campaign] += prices[row, slot]
            else:
                totals[1] += 1
    return totals
