"""Visitors of the film shop against a service that is known: what they send, and what they measure."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from zhiyin.client.api_types import Item, Recommendations
from zhiyin.policies.simulators.film_shop import DAY, START, FilmShop
from zhiyin.policies.simulators.opened_film_shop import OpenedFilmShop
from zhiyin.policies.simulators.shop_visitors import ShopVisitors, VisitSettings

OPENING = 20
MOMENT = START + 1_000 * DAY


@pytest.fixture(scope="module")
def opened() -> OpenedFilmShop:
    shop = FilmShop(n_users=40, n_items=60, days=30, seed=3, arrivals=0.4)
    return OpenedFilmShop(shop, OPENING, MOMENT)


class KnownService:
    """Answers with `lists(user) -> codes`, and keeps what it is sent."""

    def __init__(self, opened: OpenedFilmShop, lists: Any) -> None:
        self.opened, self.lists = opened, lists
        self.item_ids = opened.shop.items["id"].to_list()
        self.events_sent: list[dict[str, Any]] = []
        self.shown: dict[str, tuple[str, list[str]]] = {}
        self.arrivals: list[str] = []

    async def recommend(self, user: str, placement: str | None, k: int, exclude_seen: bool) -> Recommendations:
        items = [self.item_ids[code] for code in self.lists(int(user[1:]) - 1)][:k]
        list_id = f"list-{len(self.shown)}"
        self.shown[list_id] = (user, items)
        return Recommendations([Item(name) for name in items], list_id)

    async def put_items(self, rows: Any) -> None:
        self.arrivals += [name for name, _ in rows]

    async def events(self, rows: Any) -> None:
        self.events_sent += rows


def visit(opened: OpenedFilmShop, lists: Any, **settings: Any) -> tuple[KnownService, Any]:
    service = KnownService(opened, lists)
    options = {"visits": 120, "concurrent": 12, "k": 4, "purchase_delay": 0.0, "exclude_seen": False} | settings
    return service, asyncio.run(ShopVisitors(opened, VisitSettings(**options)).run(service))  # type: ignore[arg-type]


def test_events_name_the_list_that_showed_the_item(opened: OpenedFilmShop) -> None:
    service, log = visit(opened, lambda user: np.arange(user % 7, user % 7 + 4))
    kinds = [event["kind"] for event in service.events_sent]
    assert (kinds.count("view"), kinds.count("purchase")) == (log.clicks.sum(), log.purchases.sum())
    assert log.purchases.sum() > 0
    for event in service.events_sent:
        user, items = service.shown[event["list_id"]]
        assert event["user"] == user
        assert event["item"] in items
    clicked = {(event["list_id"], event["item"]) for event in service.events_sent if event["kind"] == "view"}
    assert {(e["list_id"], e["item"]) for e in service.events_sent if e["kind"] == "purchase"} <= clicked


def test_purchases_are_sent_at_the_end_whatever_their_delay(opened: OpenedFilmShop) -> None:
    service, log = visit(opened, lambda user: np.arange(4), purchase_delay=1e6, visits=1_200)
    assert [event["kind"] for event in service.events_sent].count("purchase") == log.purchases.sum() > 0


def test_the_value_of_a_list_is_the_mean_reward_of_its_visits(opened: OpenedFilmShop) -> None:
    _, log = visit(opened, lambda user: np.arange(4), visits=6_000)
    noise = log.rewards - log.values
    assert abs(noise.mean()) < 4 * noise.std() / np.sqrt(len(noise))
    assert (log.regret >= 0).all()


def test_whoever_shows_the_best_has_no_regret(opened: OpenedFilmShop) -> None:
    """Day after day the best list changes: tastes turn, films come, and what was clicked is left out."""
    shop = opened.shop
    state: dict[str, Any] = {}

    def best(user: int) -> np.ndarray:
        visitors = state["visitors"]
        worth, _ = visitors._expected_rewards(np.array([user]), state["day"])
        worth = np.where(visitors._there & ~visitors._seen[user], worth[0], -1.0)
        return np.argsort(-worth)[:4]

    class Watched(ShopVisitors):
        async def _visit(self, client: Any, day: float, n: int) -> Any:
            state.update(visitors=self, day=day)
            return await super()._visit(client, day, n)

    settings = VisitSettings(visits=120, concurrent=12, k=4, purchase_delay=0.0)
    service = KnownService(opened, best)
    log = asyncio.run(Watched(opened, settings).run(service))  # type: ignore[arg-type]
    assert np.abs(log.regret).max() < 1e-9
    assert log.days.min() >= OPENING
    assert log.days.max() <= shop.days - 1


def test_two_services_meet_the_same_users_and_the_same_luck(opened: OpenedFilmShop) -> None:
    _, first = visit(opened, lambda user: np.arange(4))
    _, again = visit(opened, lambda user: np.arange(4))
    _, other = visit(opened, lambda user: np.array([0, 9, 2, 8]))
    assert np.array_equal(first.users, again.users)
    assert np.array_equal(first.users, other.users)
    assert np.array_equal(first.rewards, again.rewards)
    assert not np.array_equal(first.rewards, other.rewards)


def test_a_new_film_is_discovered_with_its_tenth_impression(opened: OpenedFilmShop) -> None:
    new = opened.arrivals(OPENING - 1, opened.shop.days)
    assert len(new) >= 3
    old = opened.catalogue()[:2]
    service, log = visit(opened, lambda user: np.array([*old, new[0]]))
    assert service.arrivals == [service.item_ids[code] for code in log.arrived]
    assert list(log.arrived) == list(new)
    # Every visit of the round of its arrival shows the first film, 12 of them.
    assert log.discovered_at[0] == log.arrived_at[0] + 12
    assert np.isinf(log.discovered_at[1:]).all()
    waited = log.visits_to_discovery()
    assert waited[1:] == pytest.approx(len(log) - log.arrived_at[1:])


def test_the_shop_is_sent_with_times_moved_to_the_opening(opened: OpenedFilmShop) -> None:
    rows = list(opened.event_rows())
    assert len({row["id"] for row in rows}) == len(rows) == len(opened.events)
    assert MOMENT - 7 * DAY < max(row["time"] for row in rows) < MOMENT
    released = dict(opened.item_rows(np.arange(opened.shop.n_items)))
    latest = max(columns["released"] for columns in released.values())
    first_day = np.datetime64(MOMENT, "us").astype("datetime64[D]")
    assert latest == str(first_day)  # what arrives later is released when it is sent
    assert len(opened.catalogue()) + len(opened.arrivals(OPENING - 1, 30)) == opened.shop.n_items


def test_visits_go_on_where_the_last_ones_ended(opened: OpenedFilmShop) -> None:
    settings = VisitSettings(visits=60, concurrent=12, k=4, purchase_delay=0.0)
    visitors, service = ShopVisitors(opened, settings), KnownService(opened, lambda user: np.arange(4))

    async def both() -> tuple[Any, Any]:
        return await visitors.run(service, until=24.0), await visitors.run(service, visits=36)  # type: ignore[arg-type]

    first, second = asyncio.run(both())
    assert (first.days.min(), first.days.max()) == (OPENING, 24.0)
    assert (second.days.min(), second.days.max()) == (24.0, opened.shop.days - 1)
    assert (len(first), len(second)) == (60, 36)
    assert len(set(service.arrivals)) == len(service.arrivals) == len(first.arrived) + len(second.arrived)
    assert not np.array_equal(first.users[:12], second.users[:12])
