"""The ledger of ads: what is spent never exceeds a budget, and is counted once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhiyin.store.ad_ledger import ALL_DAYS, DAY, AdDisplay
from zhiyin.store.records import Event
from zhiyin.store.store import Store
from zhiyin.store.traces import Trace

from ..examples import examples

NOW = 20_000 * DAY
KINDS = {"click": "click", "purchase": "purchase"}


class Clock:
    def __init__(self, now: int = NOW) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Store]]:
    """Opens one store, as often as it is asked for."""
    made: list[Store] = []

    def open_store(clock: Clock) -> Store:
        made.append(Store(tmp_path / "shop.db", clock=clock))
        return made[-1]

    yield open_store
    for store in made:
        store.close()


def campaign(store: Store, name: str, daily: int | None = None, total: int | None = None) -> None:
    budgets = {"daily_budget": daily, "total_budget": total}
    store.put("campaigns", {name: {"settings": "{}", **{key: value for key, value in budgets.items() if value}}})


def shown(list_id: str, *ads: tuple[str, str, int], user: str | None = "u", now: int = NOW, pay: str = "click") -> Any:
    """A list of ads (campaign, item, price), each expected to cost a tenth of its price."""
    head = {
        "origin": "ads", "items": [item for _, item, _ in ads],
        "auction": {"ads": [{"campaign": name, "pay": pay, "price": price, "expected": price // 10}
                            for name, _, price in ads]},
    }  # fmt: skip
    trace = Trace(list_id, user, now, 1, "default", head, {"scores": np.zeros(len(ads), np.float32)})
    return trace, [AdDisplay(name, item, price // 10, 100_000) for name, item, price in ads]


def charge(store: Store) -> int:
    return store.charge_ads(KINDS, DAY, 10 * 60 * 1_000_000)


def spend(store: Store, name: str, day: int = ALL_DAYS) -> int:
    totals = store.ad_totals([day]).get((name, day))
    return 0 if totals is None else totals.spend


def click(list_id: str, item: str, id: str = "", user: str = "u", kind: str = "click") -> Event:
    return Event(user, item, NOW, kind, None, id or f"{list_id}{item}{kind}", list_id)


def test_a_click_is_charged_once(opened: Callable[..., Store]) -> None:
    store = opened(Clock())
    campaign(store, "c", daily=1_000)
    store.append_ad_lists([shown("l1", ("c", "a", 300))])
    assert store.ad_reservations(0) == {"c": 30}
    store.append([click("l1", "a", "e1"), click("l1", "a", "e1"), click("l1", "a", "e2")])
    assert charge(store) == 1
    assert charge(store) == 0
    store.append([click("l1", "a", "e3")])
    assert charge(store) == 0
    totals = store.ad_totals([NOW // DAY])["c", NOW // DAY]
    assert (totals.displays, totals.clicks, totals.paid, totals.unpaid, totals.spend) == (1, 1, 1, 0, 300)
    assert store.ad_reservations(0) == {"c": 0}
    assert store.ad_items() == {("c", "a"): (1, 100_000, 1)}


@pytest.mark.parametrize(
    "case", ["other user", "other item", "other list", "no ad", "too late", "other kind", "deleted"]
)
def test_what_is_not_charged(opened: Callable[..., Store], case: str) -> None:
    clock = Clock()
    store = opened(clock)
    campaign(store, "c", daily=1_000)
    store.append_ad_lists([shown("l1", ("c", "a", 300))])
    events = {
        "other user": click("l1", "a", user="v"), "other item": click("l1", "b"), "other list": click("l2", "a"),
        "no ad": click("l3", "a"), "other kind": click("l1", "a", kind="view"),
    }  # fmt: skip
    if case == "no ad":
        store.append_traces([Trace("l3", "u", NOW, 1, "default", {"origin": "recommendations", "items": ["a"]})])
    if case == "deleted":
        store.put("campaigns", {"c": None})
    if case == "too late":
        clock.now += DAY + 1
    store.append([events.get(case, click("l1", "a"))])
    assert charge(store) == 0
    assert spend(store, "c") == 0


def test_purchases_are_paid_where_they_are_what_is_sold(opened: Callable[..., Store]) -> None:
    store = opened(Clock())
    campaign(store, "c", total=1_000)
    store.append_ad_lists([shown("l1", ("c", "a", 600), pay="purchase")])
    store.append([click("l1", "a"), click("l1", "a", kind="purchase")])
    assert charge(store) == 2
    totals = store.ad_totals([ALL_DAYS])["c", ALL_DAYS]
    assert (totals.clicks, totals.purchases, totals.paid, totals.spend) == (1, 1, 1, 600)


def test_a_day_has_a_budget_of_its_own(opened: Callable[..., Store]) -> None:
    clock = Clock()
    store = opened(clock)
    campaign(store, "c", daily=500, total=1_200)
    for number in range(6):
        store.append_ad_lists([shown(f"l{number}", ("c", "a", 300), now=clock.now)])
    store.append([click(f"l{number}", "a") for number in range(2)])
    charge(store)
    assert spend(store, "c") == 300  # a second one would be 600
    clock.now += DAY // 2 + DAY // 2 - 1
    store.append([click("l2", "a")])
    charge(store)
    assert spend(store, "c") == 300
    clock.now += 1  # the next day, within the window
    store.append([click("l3", "a")])
    charge(store)
    assert spend(store, "c") == 600
    assert spend(store, "c", NOW // DAY + 1) == 300
    assert store.ad_totals([ALL_DAYS])["c", ALL_DAYS].unpaid == 2


def test_events_of_before_the_first_list_are_not_read(opened: Callable[..., Store]) -> None:
    store = opened(Clock())
    store.append([click("l1", "a")])
    assert charge(store) == 0
    campaign(store, "c")
    store.append_ad_lists([shown("l1", ("c", "a", 300))])
    assert charge(store) == 0


def test_who_is_forgotten_leaves_the_sums(opened: Callable[..., Store]) -> None:
    store = opened(Clock())
    campaign(store, "c", daily=1_000)
    store.append_ad_lists([shown("l1", ("c", "a", 300))])
    store.append([click("l1", "a")])
    charge(store)
    proof = store.forget("u")
    assert proof["ad_charges removed"] == 1
    assert not any(value for name, value in proof.items() if name.endswith("found"))
    assert spend(store, "c") == 300


actions = st.lists(
    st.one_of(
        st.tuples(st.just("show"), st.integers(0, 1), st.integers(1, 400), st.integers(0, 2)),
        st.tuples(st.just("click"), st.integers(0, 1), st.integers(0, 9), st.integers(0, 2)),
        st.tuples(st.just("charge"), st.integers(0, 1), st.just(0), st.just(0)),
        st.tuples(st.just("restart"), st.integers(0, 1), st.just(0), st.just(0)),
        st.tuples(st.just("wait"), st.just(0), st.integers(1, 30), st.just(0)),
        st.tuples(st.just("budget"), st.integers(0, 1), st.integers(100, 900), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=examples(60), deadline=None)
@given(actions, st.integers(100, 900), st.integers(200, 1_500))
def test_no_order_of_things_spends_more_than_a_budget(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any], daily: int, total: int
) -> None:
    """Two workers over one store: displays, clicks, charges, restarts and hours in any order.

    The sums are those of the charges, each of which is of another display, and no day and no sum is above its budget.
    """
    clock, path = Clock(), tmp_path_factory.mktemp("ledger") / "shop.db"
    workers = [Store(path, clock=clock) for _ in range(2)]
    campaign(workers[0], "c0", daily=daily)
    campaign(workers[0], "c1", total=total)
    lists: list[tuple[str, str, int]] = []
    largest_daily = daily
    try:
        for what, worker, number, slot in steps:
            store = workers[worker]
            if what == "show":
                name, id = f"c{slot % 2}", f"l{len(lists)}"
                store.append_ad_lists([shown(id, (name, "a", number), now=clock.now)])
                lists.append((id, name, number))
            elif what == "click" and lists:
                id = lists[number % len(lists)][0]
                store.append([Event("u", "a", clock.now, "click", None, f"{id}-{slot}", id)])
            elif what == "charge":
                charge(store)
            elif what == "restart":
                store.close()
                workers[worker] = Store(path, clock=clock)
            elif what == "wait":
                clock.now += number * DAY // 24
            elif what == "budget":
                campaign(store, "c0", daily=number)
                largest_daily = max(largest_daily, number)
        for store in workers:
            charge(store)
        days = range(NOW // DAY, clock.now // DAY + 1)
        sums = workers[0].ad_totals([*days, ALL_DAYS])
        assert all(sums[key].spend <= largest_daily for key in sums if key[0] == "c0" and key[1] != ALL_DAYS)
        assert spend(workers[1], "c1") <= total
        for name in ("c0", "c1"):
            of_days = sum(sums[key].spend for key in sums if key[0] == name and key[1] != ALL_DAYS)
            assert of_days == spend(workers[1], name)
            prices = {price for _, campaign_name, price in lists if campaign_name == name}
            assert spend(workers[0], name) == 0 or prices
            if (name, ALL_DAYS) in sums:
                entry = sums[name, ALL_DAYS]
                assert entry.paid + entry.unpaid == entry.clicks
                assert entry.clicks <= sum(1 for _, campaign_name, _ in lists if campaign_name == name)
    finally:
        for store in workers:
            store.close()
