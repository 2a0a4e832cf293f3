"""Auctions of ad slots, against a plain implementation and by what a price must be."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.policies.ad_auction import run_auctions

ads = st.tuples(
    st.integers(0, 100).map(lambda p: p / 100), st.integers(0, 50), st.integers(0, 30), st.integers(-1, 4),
    st.integers(0, 6),
)  # fmt: skip
requests = st.lists(st.lists(ads, max_size=8, unique_by=lambda ad: (ad[4], ad[3])), max_size=4)


def auction(candidates: list[list[tuple[float, int, int, int, int]]], **options: object) -> list[list[tuple[int, int]]]:
    """(row of the request, price) of each slot that is filled."""
    flat = [ad for request in candidates for ad in request]
    columns = list(zip(*flat)) if flat else [()] * 5
    offsets = np.concatenate([[0], np.cumsum([len(request) for request in candidates])])
    result = run_auctions(
        offsets,
        *(np.array(column, float) for column in columns[:1]),
        *(np.array(column, np.int64) for column in columns[1:]),
        **options,
    )  # type: ignore[arg-type]
    return [
        [(int(ad - start), int(price)) for ad, price in zip(row, prices) if ad >= 0]
        for row, prices, start in zip(result.ads, result.prices, offsets)
    ]


def plain(
    request: list[tuple[float, int, int, int, int]], slots: int, per_campaign: int, second: bool
) -> list[tuple[int, int]]:
    """The same by sorting and looking."""
    order = sorted(
        (row for row, (p, bid, reserve, _, _) in enumerate(request) if p > 0 and bid > 0 and bid >= reserve),
        key=lambda row: (-request[row][0] * request[row][1], -request[row][0], request[row][4], request[row][3]),
    )
    won: list[tuple[int, int]] = []

    def may_have(row: int) -> bool:
        chosen = [request[one] for one, _ in won]
        same = sum(other[3] == request[row][3] for other in chosen) if request[row][3] >= 0 else 0
        return all(other[4] != request[row][4] for other in chosen) and same < per_campaign

    for _ in range(slots):
        able = [row for row in order if may_have(row)]
        if not able:
            break
        winner, price = able[0], request[able[0]][1]
        if second:
            own = request[winner][3]
            rivals = [row for row in able[1:] if own < 0 or request[row][3] != own]
            least = max(request[winner][2], 1)
            value = request[rivals[0]][0] * request[rivals[0]][1] / request[winner][0] if rivals else 0
            price = min(request[winner][1], max(least, math.ceil(value - 1e-6)))
        won.append((winner, price))
    return won


@given(requests, st.integers(1, 4), st.integers(1, 2), st.booleans())
def test_as_a_plain_implementation(
    candidates: list[list[tuple[float, int, int, int, int]]], slots: int, per_campaign: int, second: bool
) -> None:
    got = auction(candidates, slots=slots, per_campaign=per_campaign, second_price=second)
    assert got == [plain(request, slots, per_campaign, second) for request in candidates]


@given(requests, st.integers(1, 4), st.booleans())
def test_a_price_is_between_reserve_and_bid(
    candidates: list[list[tuple[float, int, int, int, int]]], slots: int, second: bool
) -> None:
    for request, won in zip(candidates, auction(candidates, slots=slots, second_price=second)):
        for row, price in won:
            assert max(1, request[row][2]) <= price <= request[row][1]
        campaigns = [request[row][3] for row, _ in won if request[row][3] >= 0]
        assert len(set(campaigns)) == len(campaigns)
        assert len({request[row][4] for row, _ in won}) == len(won)


@given(requests.filter(bool), st.randoms(use_true_random=False))
def test_the_order_of_candidates_does_not_matter(
    candidates: list[list[tuple[float, int, int, int, int]]], random: object
) -> None:
    shuffled = [random.sample(request, len(request)) for request in candidates]  # type: ignore[attr-defined]
    for request, other, one, two in zip(candidates, shuffled, auction(candidates, slots=3), auction(shuffled, slots=3)):
        assert [(request[row], price) for row, price in one] == [(other[row], price) for row, price in two]


def test_the_least_bid_that_wins_is_paid() -> None:
    """In one slot: with a micro less than the price the second would have won."""
    request = [(0.02, 500, 0, 0, 0), (0.05, 150, 0, 1, 1)]
    assert auction([request], slots=1) == [[(0, 375)]]
    assert auction([[(0.02, 374, 0, 0, 0), request[1]]], slots=1)[0][0][0] == 1
    assert auction([request], slots=1, second_price=False) == [[(0, 500)]]


def test_ads_of_one_campaign_do_not_raise_its_price() -> None:
    assert auction([[(0.5, 100, 10, 0, 0), (0.5, 90, 10, 0, 1), (0.5, 40, 10, 1, 2)]], slots=1) == [[(0, 40)]]
