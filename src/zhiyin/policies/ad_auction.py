"""Auctions of ad slots: ads ordered by probability × bid, and what each winner pays.

For a request with candidates i, each with the probability p_i of what is paid for (a click or a purchase) and a bid b_i
for it, slots go to the highest p_i · b_i, at most `per_campaign` to one campaign and each item once. The price, per
click or purchase, is

    first price:   b_i
    second price:  max(reserve_i, ⌈p_j · b_j / p_i⌉), at most b_i

where j is the best ad of another campaign that could have had the slot and did not: the least bid with which i would
have kept it. This is the generalised second price (Edelman, Ostrovsky and Schwarz, Internet advertising and the
generalized second-price auction, American Economic Review 2007; Varian, Position auctions, IJIO 2007), which in a
single slot is truthful. It differs from the papers where a campaign has several ads: those of one campaign never raise
its own price. Money is whole micros, millionths of a unit.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from zhiyin.core.parallel import compiled

# Slots of one request at most.
MAX_AD_SLOTS = 50


@dataclasses.dataclass(frozen=True, eq=False)
class AuctionResult:
    """Who won, and what for.

    Parameters
    ----------
    ads: int32[n, slots], rows of the candidates; -1: the slot stays empty, and so do all behind it.
    prices: int64[n, slots], micros for each click or purchase; 0 where the slot is empty.
    """

    ads: np.ndarray
    prices: np.ndarray


def run_auctions(
    offsets: np.ndarray,
    probabilities: np.ndarray,
    bids: np.ndarray,
    reserves: np.ndarray,
    campaigns: np.ndarray,
    items: np.ndarray,
    *,
    slots: int,
    per_campaign: int = 1,
    second_price: bool = True,
) -> AuctionResult:
    """The auctions of n requests.

    The order of a request's candidates does not matter: of equal p · b the higher p comes first, then the smaller item,
    then the smaller campaign.

    Parameters
    ----------
    offsets: int64[n + 1], the candidates of each request.
    probabilities: float64[m], from 0 to 1; 0: takes no part.
    bids, reserves: int64[m], micros; a bid of 0, or below its reserve, takes no part.
    campaigns: int32[m], codes from 0; below 0: an ad of its own.
    items: int64[m], codes; an item gets one slot at most.
    slots: of each request. per_campaign: slots that one campaign may have of a request.

    >>> result = run_auctions(np.array([0, 3]), np.array([0.02, 0.04, 0.01]), np.array([500_000, 200_000, 600_000]),
    ...                       np.zeros(3, np.int64), np.arange(3), np.arange(3), slots=2)
    >>> result.ads.tolist(), result.prices.tolist()
    ([[0, 1]], [[400000, 150000]])
    """
    ads, prices = _auctions(
        np.ascontiguousarray(offsets, np.int64),
        np.ascontiguousarray(probabilities, np.float64),
        np.ascontiguousarray(bids, np.int64),
        np.ascontiguousarray(reserves, np.int64),
        np.ascontiguousarray(campaigns, np.int32),
        np.ascontiguousarray(items, np.int64),
        int(slots),
        int(per_campaign),
        bool(second_price),
    )
    return AuctionResult(ads, prices)


@compiled
def _auctions(offsets, probabilities, bids, reserves, campaigns, items, slots, per_campaign, second_price):
    n = len(offsets) - 1
    ads = np.full((n, slots), -1, np.int32)
    prices = np.zeros((n, slots), np.int64)
    for request in range(n):
        start, stop = offsets[request], offsets[request + 1]
        for slot in range(slots):
            winner = _best(
                start, stop, probabilities, bids, reserves, campaigns, items, ads[request], slot, per_campaign, -1
            )
            if winner < 0:
                break
            price = bids[winner]
            if second_price:
                price = max(reserves[winner], np.int64(1))
                rival = _best(
                    start, stop, probabilities, bids, reserves, campaigns, items, ads[request], slot, per_campaign,
                    winner,
                )  # fmt: skip
                if rival >= 0:
                    value = probabilities[rival] * bids[rival] / probabilities[winner]
                    price = max(price, np.int64(np.ceil(value - 1e-6)))
                price = min(price, bids[winner])
            ads[request, slot] = winner
            prices[request, slot] = price
    return ads, prices


@compiled
def _best(start, stop, probabilities, bids, reserves, campaigns, items, chosen, n_chosen, per_campaign, winner):
    """The best candidate that may have the slot behind the chosen ones; with a winner, of another campaign."""
    best = -1
    for row in range(start, stop):
        if not (probabilities[row] > 0 and bids[row] > 0 and bids[row] >= reserves[row]):
            continue
        if winner >= 0 and (row == winner or (campaigns[row] >= 0 and campaigns[row] == campaigns[winner])):
            continue
        if best >= 0 and not _is_better(row, best, probabilities, bids, campaigns, items):
            continue
        n_same, is_taken = 0, False
        for slot in range(n_chosen):
            other = chosen[slot]
            if other == row or items[other] == items[row]:
                is_taken = True
            if campaigns[row] >= 0 and campaigns[other] == campaigns[row]:
                n_same += 1
        if not is_taken and n_same < per_campaign:
            best = row
    return best


@compiled
def _is_better(row, other, probabilities, bids, campaigns, items):
    value, other_value = probabilities[row] * bids[row], probabilities[other] * bids[other]
    if value != other_value:
        return value > other_value
    if probabilities[row] != probabilities[other]:
        return probabilities[row] > probabilities[other]
    if items[row] != items[other]:
        return items[row] < items[other]
    return campaigns[row] < campaigns[other]
