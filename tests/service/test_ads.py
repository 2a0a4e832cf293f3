"""Ads over HTTP: auctions, budgets, caps, rules, reports, restarts and two workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")

from zhiyin.pipeline.pipeline import Pipeline

from .conftest import click, client_of

Shop = Callable[..., Any]
# The probability of a click on i0, i1, ...: 0.40, 0.39, ...
PROBABILITY = {f"i{n}": 0.4 - n / 100 for n in range(40)}


@pytest.fixture
def calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions whose probabilities are those of PROBABILITY, for everybody."""

    def probabilities(self: Pipeline, histories: Any, offsets: Any, items: Any, **_: Any) -> dict[str, np.ndarray]:
        ids = self._context().item_ids.raw(np.asarray(items))
        values = np.array([PROBABILITY[str(item)] for item in ids], np.float32)
        return {"click": values, "purchase": values / 10}

    monkeypatch.setattr("zhiyin.pipeline.ad_candidates.check_probabilities", lambda model: None)
    monkeypatch.setattr("zhiyin.service.ad_service.check_probabilities", lambda model: None)
    monkeypatch.setattr(Pipeline, "probabilities", probabilities, raising=False)


@pytest.fixture
def market(calibrated: None, opened: Shop) -> Any:
    """A shop that believes its probabilities."""
    return client_of(opened(ads_settings={"exploration": 0.0}))


def put(client: Any, name: str, *items: str, bid: int = 1_000_000, **settings: Any) -> None:
    body = {"items": list(items), "bid_micros": bid, **settings}
    answer = client.put(f"/v1/campaigns/{name}", json=body)
    assert answer.status_code == 200, answer.text


def ads(client: Any, **body: Any) -> Any:
    answer = client.post("/v1/ads", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def won(client: Any, **body: Any) -> list[str]:
    return [ad["item"] for ad in ads(client, **body)["ads"]]


def report(client: Any, name: str) -> Any:
    answer = client.get(f"/v1/campaigns/{name}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_ads_are_ordered_by_probability_times_bid_at_the_second_price(market: Any) -> None:
    put(market, "a", "i0", bid=1_000_000)  # 0.40
    put(market, "b", "i10", bid=2_000_000)  # 0.30 × 2
    put(market, "c", "i20", bid=1_000_000)  # 0.20
    answer = ads(market, user="u1", slots=2)
    assert [(ad["item"], ad["campaign"]) for ad in answer["ads"]] == [("i10", "b"), ("i0", "a")]
    assert [ad["price_micros"] for ad in answer["ads"]] == pytest.approx([1_333_334, 500_000], abs=2)
    assert [ad["bid_micros"] for ad in answer["ads"]] == [2_000_000, 1_000_000]
    assert ads(market, user="u1", pricing="first")["ads"][0]["price_micros"] == 2_000_000
    assert ads(market, user="u1", slots=3, reserve_micros=900_000)["ads"][2]["price_micros"] == 900_000
    answer = ads(market, user="u1", slots=3, quality_floor=0.25)
    assert [ad["item"] for ad in answer["ads"]] == ["i10", "i0"]
    assert answer["left_out"] == {"quality": 1}
    assert ads(market, slots=3, reserve_micros=1_500_000)["left_out"] == {"reserve": 2}


def test_a_version_without_probabilities_is_refused(service: Any) -> None:
    put(service, "a", "i0")
    answer = service.post("/v1/ads", json={"user": "u1"})
    assert answer.status_code == 409
    assert "no probabilities" in answer.json()["error"]
    assert answer.json()["remedy"] == "zhiyin train --goal ctr"


def test_a_click_is_spend_of_its_campaign(market: Any) -> None:
    put(market, "a", "i0", "i2", daily_budget_micros=10_000_000, pacing="none")
    put(market, "b", "i10", bid=500_000)
    answer = ads(market, user="u1")
    price = answer["ads"][0]["price_micros"]
    assert price == pytest.approx(375_000, abs=2)
    before = report(market, "a")
    assert before["total"]["displays"] == 1
    assert before["pace"]["reserved_micros"] == answer["ads"][0]["expected_micros"]
    events = [
        {"user": "u1", "item": "i0", "kind": "click", "list_id": answer["list_id"], "id": f"e{n}"} for n in (1, 2)
    ]
    click(market, events[0], events[0], events[1])
    after = report(market, "a")
    assert (after["today"]["clicks"], after["today"]["spend_micros"], after["today"]["ctr"]) == (1, price, 1.0)
    assert after["pace"]["reserved_micros"] == 0
    assert after["ads"] == [{"item": "i0", "displays": 1, "events": 1, "expected": 0.4}]
    assert report(market, "b")["total"]["displays"] == 0


def test_a_budget_is_never_overspent(market: Any) -> None:
    """Reservations are what displays are expected to cost, so that more clicks may come than can be paid."""
    put(market, "a", "i0", bid=1_000_000, total_budget_micros=2_500_000)
    lists = []
    for n in range(40):
        answer = ads(market, user=f"u{n}", pricing="first")
        if not answer["ads"]:
            break
        lists.append(answer["list_id"])
    assert answer["left_out"] == {"budget": 1}
    assert len(lists) == 4
    click(market, *({"user": f"u{n}", "item": "i0", "kind": "click", "list_id": one} for n, one in enumerate(lists)))
    total = report(market, "a")["total"]
    assert (total["clicks"], total["paid"], total["unpaid"], total["spend_micros"]) == (4, 2, 2, 2_000_000)
    assert report(market, "a")["state"] == "spent"
    assert won(market, user="u50") == []


def test_campaigns_begin_end_and_pause(market: Any) -> None:
    now = market.store.clock()
    put(market, "later", "i0", start=now + 10**9)
    put(market, "over", "i1", end=now - 1)
    put(market, "paused", "i2", paused=True)
    put(market, "runs", "i3", start=now - 1, end=now + 10**12)
    answer = ads(market, slots=4)
    assert [ad["item"] for ad in answer["ads"]] == ["i3"]
    assert answer["left_out"] == {"inactive": 3}
    states = {one["id"]: one["state"] for one in market.get("/v1/campaigns").json()["campaigns"]}
    assert states == {"later": "scheduled", "over": "ended", "paused": "paused", "runs": "active"}
    assert market.delete("/v1/campaigns/runs").status_code == 200
    assert won(market) == []
    assert market.get("/v1/campaigns/runs").status_code == 404


def test_a_campaign_has_one_slot_of_a_request_unless_more_are_asked_for(market: Any) -> None:
    put(market, "a", "i0", "i1", "i2")
    put(market, "b", "i10")
    assert won(market, slots=3) == ["i0", "i10"]
    assert won(market, slots=3, per_campaign=2) == ["i0", "i1", "i10"]


def test_rules_of_lists_hold_for_ads(market: Any) -> None:
    put(market, "a", "i0", "i1")
    put(market, "b", "i2", "i3")
    assert won(market, slots=2, filter="price >= 1") == ["i1", "i2"]
    assert won(market, slots=2, exclude=["i0", "i2"]) == ["i1", "i3"]
    market.patch("/v1/items/i0", json={"hidden": True})
    assert won(market, slots=2) == ["i1", "i2"]
    answer = market.put("/v1/placements/side", json={"filter": "genre = 'odd'"})
    assert answer.status_code == 200, answer.text
    assert won(market, slots=2, placement="side") == ["i1", "i3"]
    assert market.post("/v1/ads", json={"filter": "cost > 1"}).status_code in (400, 422)


def test_frequency_caps_are_per_user_and_campaign(market: Any) -> None:
    put(market, "a", "i0", "i1", frequency_cap={"at_most": 2, "per": "1d"})
    put(market, "b", "i20")
    assert [won(market, user="u1")[0] for _ in range(3)] == ["i0", "i0", "i20"]
    assert won(market, user="u2") == ["i0"]
    left_out = ads(market, user="u1")["left_out"]
    assert left_out == {"frequency": 2}, left_out
    assert market.post("/v1/recommendations", json={"user": "u1"}).status_code == 200  # its marks are no items


def test_bids_of_a_request_and_of_a_column(market: Any) -> None:
    put(market, "a", "i0", "i5", bid_column="price")  # bids 0.00 and 5.00
    assert ads(market)["ads"][0]["bid_micros"] == 5_000_000
    answer = ads(market, slots=2, bids={"i0": 9_000_000, "i30": 60_000_000})
    assert [(ad["item"], ad["campaign"], ad["bid_micros"]) for ad in answer["ads"]] == [
        ("i30", None, 60_000_000), ("i0", "a", 9_000_000)]  # fmt: skip
    answer = market.post("/v1/ads", json={"bids": {"nowhere": 5}})
    assert answer.status_code == 404
    assert answer.json()["field"] == "bids"


def test_purchases_are_paid_for_by_their_value(market: Any) -> None:
    put(market, "a", "i0", bid=5_000_000, pay="purchase")  # 0.04 × 5
    put(market, "b", "i10", bid=500_000)  # 0.3 × 0.5
    answer = ads(market, user="u1")
    ad = answer["ads"][0]
    assert (ad["item"], ad["pay"]) == ("i0", "purchase")
    assert ad["price_micros"] == pytest.approx(3_750_000, abs=2)
    for kind in ("click", "purchase"):
        click(market, {"user": "u1", "item": "i0", "kind": kind, "list_id": answer["list_id"]})
    total = report(market, "a")["total"]
    assert (total["clicks"], total["purchases"], total["spend_micros"]) == (1, 1, ad["price_micros"])


def test_the_trace_holds_what_was_displayed(market: Any) -> None:
    put(market, "a", "i0")
    answer = ads(market, user="u1")
    trace = market.get(f"/v1/lists/{answer['list_id']}").json()
    assert (trace["origin"], trace["user"], [row["item"] for row in trace["items"]]) == ("ads", "u1", ["i0"])
    head = market.store.trace(answer["list_id"]).head
    assert head["auction"]["ads"][0]["campaign"] == "a"
    again = market.post(f"/v1/lists/{answer['list_id']}/replay").json()
    assert again["same"] is False
    assert "auction" in again["reason"]


def test_ads_are_tried_while_little_is_known_of_them(calibrated: None, opened: Shop) -> None:
    client = client_of(opened(ads_settings={"exploration": 2.0}))
    put(client, "a", "i0", bid=1_000_000)
    put(client, "b", "i4", bid=1_000_000)  # 0.36 against 0.40
    firsts = [won(client)[0] for _ in range(40)]
    assert 3 < firsts.count("i4") < 37


def test_spend_outlives_a_restart_and_is_shared_by_two_workers(calibrated: None, opened: Shop) -> None:
    keys = {}

    def worker() -> Any:
        """A client of one more worker over the same store."""
        tenant = opened(several=True, ads_settings={"exploration": 0.0})
        keys.update(tenant.shown)
        tenant.shown = dict(keys)
        return client_of(tenant)

    one = worker()
    put(one, "a", "i0", bid=1_000_000, total_budget_micros=2_500_000)
    two = worker()
    shown = [ads(client, user="u1", pricing="first")["list_id"] for client in (one, two)]
    for client, list_id in zip((two, one), shown):
        click(client, {"user": "u1", "item": "i0", "kind": "click", "list_id": list_id})
    for client in (one, two):
        assert report(client, "a")["total"]["spend_micros"] == 2_000_000
    assert won(one, user="u2") == []
    assert won(two, user="u2") == []
    three = worker()
    assert report(three, "a")["total"]["spend_micros"] == 2_000_000
    assert won(three, user="u2") == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"bid_micros": 5}, "items"),
        ({"items": ["i0"], "bid_micros": 0}, "bid_micros"),
        ({"items": ["i0"], "bid_micros": 0.5}, "bid_micros"),
        ({"items": ["i0"], "bid_micros": 10**16}, "bid_micros"),
        ({"items": ["i0", "i0"], "bid_micros": 5}, None),
        ({"items": ["nowhere"], "bid_micros": 5}, "items"),
        ({"items": ["i0"], "bid_micros": 5, "bid_column": "title"}, "bid_column"),
        ({"items": ["i0"], "bid_micros": 5, "daily_budget_micros": -1}, "daily_budget_micros"),
        ({"items": ["i0"], "bid_micros": 5, "start": 5, "end": 5}, "end"),
        ({"items": ["i0"], "bid_micros": 5, "frequency_cap": {"at_most": 0}}, "frequency_cap.at_most"),
        ({"items": ["i0"], "bid_micros": 5, "pacing": "fast"}, "pacing"),
        ({"items": ["i0"], "bid_micros": 5, "budget": 1}, "budget"),
    ],
)
def test_what_is_no_campaign(service: Any, body: dict[str, Any], field: str | None) -> None:
    answer = service.put("/v1/campaigns/a", json=body)
    assert answer.status_code in (404, 409, 422), answer.text
    assert answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    if field is not None:
        assert answer.json()["field"] == field
    assert service.get("/v1/campaigns").json() == {"campaigns": []}


def test_page_tokens_may_ask_but_not_set_prices(market: Any) -> None:
    put(market, "a", "i0")
    token = market.post("/v1/tokens", json={"user": "u1"}).json()["token"]
    headers = {"Authorization": f"Bearer {token}"}
    answer = market.post("/v1/ads", json={}, headers=headers)
    assert answer.status_code == 200
    assert market.store.trace(answer.json()["list_id"]).user == "u1"
    assert market.post("/v1/ads", json={"bids": {"i0": 1}}, headers=headers).status_code == 403
    assert market.post("/v1/ads", json={"user": "u2"}, headers=headers).status_code == 403
    assert market.put("/v1/campaigns/a", json={}, headers=headers).status_code == 403
