"""Simulated visitors of a film shop that a running service makes the lists for: they ask, look, click and buy by HTTP.

A visit is a list of the service, looked at from the top by a position-based model: P(click at r) = examination_r ·
P(click | looked at). What was clicked may be bought, some time later. Clicks and purchases are sent as events with the
`list_id`, so that a placement with a policy learns from them. What a list is worth is known exactly,

    value = Σ_r examination_r · P(click on item r) · (1 + purchase_reward · P(bought | clicked)),

and regret is that of the best list of the items that the service may show. Visits meet the same users, moments and
luck whatever is shown, so two services are compared in pairs.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from zhiyin.core.params import check_settings, param, settings_of
from zhiyin.core.run import Run
from zhiyin.policies.simulators.delayed_rewards import DelayedRewards
from zhiyin.policies.simulators.opened_film_shop import OpenedFilmShop, SimulatedClock

if TYPE_CHECKING:
    from zhiyin.client import AsyncClient
    from zhiyin.client.api_types import Recommendations

CLICK, PURCHASE = "view", "purchase"
_VISIT_STREAM, _LUCK_STREAM, _DELAY_STREAM = 21, 22, 23
# Moments between two rounds of visits at which purchases are sent, where the clock is simulated.
STEPS_BETWEEN_ROUNDS = 4
# Impressions of a new item that count as having been discovered.
DISCOVERED = 10


@dataclasses.dataclass
class VisitSettings:
    """How many visits there are, and how they go."""

    visits: int = param(4000, "lists in all", at_least=1)
    concurrent: int = param(40, "users who visit at the same time", at_least=1)
    k: int = param(10, "items of a list", at_least=1, at_most=1000)
    purchase_reward: float = param(5.0, "what a purchase is worth, in clicks", at_least=0)
    purchase_delay: float = param(
        0.2, "mean seconds from a click to its purchase, by the clock of the service", at_least=0
    )
    exclude_seen: bool = param(True, "lists leave out what the user has seen")
    impressions: bool = param(False, "send what was really shown")
    seed: int = param(0, "every draw of the visitors descends from it", at_least=0)

    def __post_init__(self) -> None:
        for name, value in check_settings(type(self), settings_of(self)).items():
            setattr(self, name, value)


@dataclasses.dataclass(frozen=True, eq=False)
class VisitLog:
    """What came of n visits, in their order.

    Parameters
    ----------
    days: float64[n], simulated days.
    users: int64[n].
    items: int64[n, k], codes shown; -1 behind the end of a short list.
    values, best_values: float64[n], expected reward of the list, and of the best list that could have been shown.
    clicks, purchases: int64[n], that were drawn.
    explored: bool[n], lists that differ from what the policy believes best, as the service says.
    reasons: why a list was made as it was, as the service says; "" where it says nothing.
    list_ids: of the service.
    arrived: int64[m], codes of films that arrived while the visits went on.
    arrived_at, discovered_at: float64[m], number of visits before the arrival, and up to the tenth impression; inf
        where there were fewer.
    seconds: float64[n], from sending the request of a list to its response.
    """

    days: np.ndarray
    users: np.ndarray
    items: np.ndarray
    values: np.ndarray
    best_values: np.ndarray
    clicks: np.ndarray
    purchases: np.ndarray
    explored: np.ndarray
    reasons: list[str]
    list_ids: list[str]
    arrived: np.ndarray
    arrived_at: np.ndarray
    discovered_at: np.ndarray
    seconds: np.ndarray
    purchase_reward: float

    def __len__(self) -> int:
        return len(self.days)

    @property
    def rewards(self) -> np.ndarray:
        """float64[n]: clicks, and purchases at their worth."""
        return self.clicks + self.purchase_reward * self.purchases

    @property
    def regret(self) -> np.ndarray:
        """float64[n]: best_values - values, not summed up."""
        return self.best_values - self.values

    def visits_to_discovery(self) -> np.ndarray:
        """float64[m]: visits from the arrival of a film to its tenth impression; of one without, those that were left.

        So the mean is a restricted one: no larger than the truth.
        """
        return np.minimum(self.discovered_at, len(self)) - self.arrived_at


class ShopVisitors:
    """Visits of a film shop, made through one client.

    Parameters
    ----------
    placement: whose lists are asked for; None: those without one.
    clock: of the service, which lives the simulated days: set before each round, and delays of purchases are by it;
        None: the service lives as we do, and the days pass as fast as visits do.
    on_round: called after each round with the number of visits so far.
    """

    def __init__(
        self,
        opened: OpenedFilmShop,
        settings: VisitSettings | None = None,
        placement: str | None = None,
        clock: SimulatedClock | None = None,
        on_round: Callable[[int], None] | None = None,
    ) -> None:
        self.opened, self.settings, self.placement = opened, settings or VisitSettings(), placement
        self.clock, self.on_round = clock, on_round
        self._seconds = time.monotonic if clock is None else clock.seconds
        shop = opened.shop
        self._item_ids, self._user_ids = shop.items["id"].to_list(), shop.users["id"].to_list()
        self._item_codes = {name: code for code, name in enumerate(self._item_ids)}
        self._seen = opened.seen()
        self._there = shop.films.released < opened.opening
        self._impressions = np.zeros(shop.n_items, dtype=np.int64)
        self._delayed = DelayedRewards(self.settings.purchase_delay, self._rng(_DELAY_STREAM))
        self._bought: list[dict[str, str]] = []
        # Rounds so far, and the day of the last one.
        self._round, self._day = 0, float(opened.opening - 1)

    async def run(
        self, client: AsyncClient, run: Run | None = None, *, visits: int | None = None, until: float | None = None
    ) -> VisitLog:
        """Make visits. Raises ApiError for what the service refuses.

        Parameters
        ----------
        visits: None: as the settings say.
        until: day of the last ones; None: the last of the shop's period. The next call goes on from there.
        """
        opened, n_visits = self.opened, visits or self.settings.visits
        first = max(float(opened.opening), self._day)
        n_rounds = -(-n_visits // self.settings.concurrent)
        days = np.linspace(first, opened.shop.days - 1 if until is None else until, n_rounds)
        arrived = opened.arrivals(self._day, days[-1])
        arrived_at, discovered_at = np.full(len(arrived), np.inf), np.full(len(arrived), np.inf)
        parts: list[_Round] = []
        done = 0
        with (run or Run()).bar("Visiting", n_visits) as advance:
            for day in days.tolist():
                await self._pass_time(client, day)
                new = opened.arrivals(self._day, day)
                if len(new):
                    await client.put_items(opened.item_rows(new, None if self.clock is None else day))
                    self._there[new] = True
                    arrived_at[np.isin(arrived, new)] = done
                self._day = day
                parts.append(await self._visit(client, day, min(self.settings.concurrent, n_visits - done)))
                done += len(parts[-1].users)
                reached = (self._impressions[arrived] >= DISCOVERED) & np.isinf(discovered_at)
                discovered_at[reached] = done
                advance(len(parts[-1].users))
                if self.on_round is not None:
                    self.on_round(done)
        await self._send_purchases(client, until=np.inf)
        return self._log(parts, arrived, arrived_at, discovered_at)

    # -- one round ---------------------------------------------------------------------------------------------------

    async def _visit(self, client: AsyncClient, day: float, n: int) -> _Round:
        """Visits of n users at the same time."""
        number = self._round
        self._round += 1
        users = self._visitors(number, day, n)
        answers = await asyncio.gather(*(self._ask(client, user) for user in users.tolist()))
        lists = [answer for answer, _ in answers]
        items = self._codes(lists)
        expected, chance = self._expected_rewards(users, day)
        values, best = self._values(users, items, expected)
        clicks = self._clicks(number, users, items, chance)
        bought = self._purchases(number, users, items, clicks, day)
        if self.settings.impressions:
            await asyncio.gather(*(client.impressions(one.list_id, [row.item for row in one]) for one in lists))
        await self._send_clicks(client, users, items, clicks, lists)
        self._keep_purchases(users, items, bought, lists)
        np.add.at(self._impressions, items[items >= 0], 1)
        rows, slots = np.nonzero(clicks)
        self._seen[users[rows], items[rows, slots]] = True
        seconds = np.array([taken for _, taken in answers])
        return _Round(day, users, items, values, best, clicks.sum(axis=1), bought.sum(axis=1), lists, seconds)

    async def _ask(self, client: AsyncClient, user: int) -> tuple[Recommendations, float]:
        begun = time.perf_counter()
        answer = await client.recommend(
            user=self._user_ids[user], placement=self.placement, k=self.settings.k,
            exclude_seen=self.settings.exclude_seen,
        )  # fmt: skip
        return answer, time.perf_counter() - begun

    def _visitors(self, number: int, day: float, n: int) -> np.ndarray:
        """int64[n]: different users who have joined, the busy ones more often; the same for every service."""
        people = self.opened.shop.people
        joined = np.flatnonzero(people.joined <= day)
        pace = people.pace[joined]
        size = min(n, len(joined))
        return self._rng(_VISIT_STREAM, number).choice(joined, size=size, replace=False, p=pace / pace.sum())

    def _codes(self, lists: list[Recommendations]) -> np.ndarray:
        """int64[n, k]: codes of the items shown; -1 behind the end of a list, and for items that are not the shop's."""
        items = np.full((len(lists), self.settings.k), -1, dtype=np.int64)
        for row, one in enumerate(lists):
            codes = [self._item_codes.get(str(entry.item), -1) for entry in one]
            items[row, : len(codes)] = codes[: self.settings.k]
        return items

    def _expected_rewards(self, users: np.ndarray, day: float) -> tuple[np.ndarray, np.ndarray]:
        """Expected reward and probability of a click of each item where it is looked at: float64[n, n_items] both."""
        shop = self.opened.shop
        every = np.broadcast_to(np.arange(shop.n_items), (len(users), shop.n_items))
        chance = shop.probability(users, every, day).astype(np.float64)
        buys = shop.purchase_probability(users, every, day)
        return chance * (1.0 + self.settings.purchase_reward * buys), chance

    def _values(self, users: np.ndarray, items: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Expected rewards of the lists shown, and of the best lists: float64[n] both."""
        k = self.settings.k
        examination = self.opened.shop.examination(k).astype(np.float64)
        shown = np.where(items >= 0, np.take_along_axis(expected, np.maximum(items, 0), axis=1), 0.0)
        allowed = np.broadcast_to(self._there, expected.shape)
        if self.settings.exclude_seen:
            allowed = allowed & ~self._seen[users]
        possible = np.where(allowed, expected, 0.0)
        best = -np.sort(-possible, axis=1)[:, :k]
        return shown @ examination, best @ examination[: best.shape[1]]

    def _clicks(self, number: int, users: np.ndarray, items: np.ndarray, chance: np.ndarray) -> np.ndarray:
        """bool[n, k]. A visit has a number in [0, 1) for each item, so that an item meets the same luck in any list."""
        luck = self._rng(_LUCK_STREAM, number, 0).random(chance.shape)
        examination = self.opened.shop.examination(self.settings.k)
        at = np.maximum(items, 0)
        hits = np.take_along_axis(luck, at, axis=1) < examination * np.take_along_axis(chance, at, axis=1)
        return hits & (items >= 0)

    def _purchases(
        self, number: int, users: np.ndarray, items: np.ndarray, clicks: np.ndarray, day: float
    ) -> np.ndarray:
        """bool[n, k]: which of the clicked items are bought."""
        at = np.maximum(items, 0)
        luck = self._rng(_LUCK_STREAM, number, 1).random((len(users), self.opened.shop.n_items))
        return clicks & (np.take_along_axis(luck, at, axis=1) < self.opened.shop.purchase_probability(users, at, day))

    # -- what is sent ------------------------------------------------------------------------------------------------

    def _event(self, user: int, item: int, kind: str, list_id: str) -> dict[str, str]:
        event = {"user": self._user_ids[user], "item": self._item_ids[item], "kind": kind}
        return event | ({"list_id": list_id} if list_id else {})

    async def _send_clicks(
        self,
        client: AsyncClient,
        users: np.ndarray,
        items: np.ndarray,
        clicks: np.ndarray,
        lists: list[Recommendations],
    ) -> None:
        rows, slots = np.nonzero(clicks)
        codes = items[rows, slots].tolist()
        events = [self._event(user, item, CLICK, lists[row].list_id)
                  for row, user, item in zip(rows.tolist(), users[rows].tolist(), codes)]  # fmt: skip
        if events:
            await client.events(events)

    def _keep_purchases(
        self, users: np.ndarray, items: np.ndarray, bought: np.ndarray, lists: list[Recommendations]
    ) -> None:
        """Keep purchases back until their delay has passed."""
        rows, slots = np.nonzero(bought)
        first = len(self._bought)
        self._bought += [self._event(user, item, PURCHASE, lists[row].list_id) for row, user, item in
                         zip(rows.tolist(), users[rows].tolist(), items[rows, slots].tolist())]  # fmt: skip
        self._delayed.submit(first + np.arange(len(rows)), np.ones(len(rows)), self._seconds())

    async def _pass_time(self, client: AsyncClient, day: float) -> None:
        """Send the purchases that are due by the day, at about their times where the clock is simulated."""
        if self.clock is None:
            await self._send_purchases(client, until=self._seconds())
            return
        for moment in np.linspace(self._day, day, STEPS_BETWEEN_ROUNDS + 1)[1:].tolist():
            self.clock.set_day(max(moment, self.opened.opening))
            await self._send_purchases(client, until=self._seconds())

    async def _send_purchases(self, client: AsyncClient, until: float) -> None:
        due = self._delayed.arrivals(until).decisions.tolist()
        if due:
            await client.events([self._bought[number] for number in due])

    # -- what came of it ---------------------------------------------------------------------------------------------

    def _rng(self, *stream: int) -> np.random.Generator:
        return Run(seed=self.settings.seed).rng(*stream)

    def _log(
        self, parts: list[_Round], arrived: np.ndarray, arrived_at: np.ndarray, discovered_at: np.ndarray
    ) -> VisitLog:
        lists = [one for part in parts for one in part.lists]
        decisions = [getattr(one, "decision", None) or {} for one in lists]
        return VisitLog(
            days=np.concatenate([np.full(len(part.users), part.day) for part in parts]),
            users=np.concatenate([part.users for part in parts]),
            items=np.concatenate([part.items for part in parts]),
            values=np.concatenate([part.values for part in parts]),
            best_values=np.concatenate([part.best_values for part in parts]),
            clicks=np.concatenate([part.clicks for part in parts]),
            purchases=np.concatenate([part.purchases for part in parts]),
            explored=np.array([bool(decision.get("explored")) for decision in decisions]),
            reasons=[str(decision.get("reason") or "") for decision in decisions],
            list_ids=[one.list_id for one in lists],
            arrived=arrived,
            arrived_at=arrived_at,
            discovered_at=discovered_at,
            seconds=np.concatenate([part.seconds for part in parts]),
            purchase_reward=self.settings.purchase_reward,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Round:
    """Visits at the same time; see VisitLog."""

    day: float
    users: np.ndarray
    items: np.ndarray
    values: np.ndarray
    best_values: np.ndarray
    clicks: np.ndarray
    purchases: np.ndarray
    lists: list[Recommendations]
    seconds: np.ndarray
