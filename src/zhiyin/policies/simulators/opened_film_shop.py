"""A film shop on the day it opens to simulated visitors: what happened before is its log, what comes after is lived.

Days before the opening are the log that a service learns from. From the opening on, users visit, their tastes go on
turning, and films that are released join the catalogue. Times are moved so that the shop opens at a given moment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from zhiyin.core.errors import DataError
from zhiyin.policies.simulators.film_shop import DAY, START, FilmShop

if TYPE_CHECKING:
    from zhiyin.client import AsyncClient

# Types of the columns of films and users, as a service is told them.
ITEM_TYPES = {"title": "text", "description": "text", "genres": "texts", "year": "int", "price": "number",
              "released": "date"}  # fmt: skip
USER_TYPES = {"country": "text", "age_group": "text", "joined": "date"}


@dataclasses.dataclass(frozen=True, eq=False)
class OpenedFilmShop:
    """A film shop that opens on a day of its period.

    Parameters
    ----------
    shop: its `days` cover the log and the days that are lived.
    opening: day of the opening; events before it are the log. At least 1, less than `shop.days`.
    moment: microseconds UTC that the opening is moved to.

    >>> opened = OpenedFilmShop(FilmShop(n_users=50, n_items=40, days=30), opening=20, moment=START)
    >>> int(opened.events["time"].max()) < opened.moment, len(opened.arrivals(20, 30)) > 0
    (True, True)
    """

    shop: FilmShop
    opening: int
    moment: int

    def __post_init__(self) -> None:
        if not 1 <= self.opening < self.shop.days:
            raise DataError(
                f"opening = {self.opening} is no day within the period", remedy=f"1 to {self.shop.days - 1}"
            )

    @cached_property
    def events(self) -> pl.DataFrame:
        """The log before the opening, by time: user, item (codes), time (moved), kind (text), value."""
        shift = self.moment - (START + self.opening * DAY)
        before = self.shop.log().events.filter(pl.col("time").cast(pl.Int64) < START + self.opening * DAY)
        moved = before.select(
            "user", "item", pl.col("time").cast(pl.Int64) + shift, pl.col("kind").cast(pl.String), "value"
        )
        return moved.sort("time", maintain_order=True)

    def seen(self) -> np.ndarray:
        """bool[n_users, n_items]: what users had events with before the opening."""
        seen = np.zeros((self.shop.n_users, self.shop.n_items), dtype=bool)
        seen[self.events["user"].to_numpy(), self.events["item"].to_numpy()] = True
        return seen

    def arrivals(self, after: float, until: float) -> np.ndarray:
        """int64: codes of films released on a day d with after < d <= until, by day."""
        released = self.shop.films.released
        codes = np.flatnonzero((released > after) & (released <= until))
        return codes[np.argsort(released[codes], kind="stable")]

    def catalogue(self) -> np.ndarray:
        """int64: codes of the films released up to the day before the opening."""
        return np.flatnonzero(self.shop.films.released < self.opening)

    def moment_of(self, day: float) -> int:
        """Microseconds UTC of a day of the shop's period."""
        return self.moment + round((day - self.opening) * DAY)

    def item_rows(self, codes: np.ndarray, today: float | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Ids and columns of films. today: none is released after this day; None: after the day of the opening."""
        shift = self.moment // DAY - (START // DAY + self.opening)
        latest = self.moment_of(self.opening if today is None else today) // DAY
        day = pl.min_horizontal(pl.col("released").cast(pl.Int32) + shift, pl.lit(latest, pl.Int32))
        frame = self.shop.items[codes].with_columns(day.cast(pl.Date).cast(pl.String).alias("released"))
        for row in frame.iter_rows(named=True):
            yield row.pop("id"), row

    def user_rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Ids and columns of all users."""
        for row in self.shop.users.with_columns(pl.col("joined").cast(pl.String)).iter_rows(named=True):
            yield row.pop("id"), row

    def event_rows(self) -> Iterator[dict[str, Any]]:
        """The log as the service takes it; the id of an event is the same each time, so that none is stored twice."""
        users, items = self.shop.users["id"].to_list(), self.shop.items["id"].to_list()
        for number, (user, item, time, kind, value) in enumerate(self.events.iter_rows()):
            row = {"user": users[user], "item": items[item], "time": time, "kind": kind}
            yield row | {"id": f"film-shop-{self.shop.seed}-{number}"} | ({} if value is None else {"value": value})


@dataclasses.dataclass
class SimulatedClock:
    """A clock that stands still until it is set: of a store whose service lives simulated days.

    >>> opened = OpenedFilmShop(FilmShop(n_users=5, n_items=5, days=30), opening=20, moment=START)
    >>> clock = SimulatedClock(opened)
    >>> clock.set_day(20.5)
    >>> (clock() - START) / DAY, clock.seconds() - START / 1e6
    (0.5, 43200.0)
    """

    opened: OpenedFilmShop

    def __post_init__(self) -> None:
        self.now = self.opened.moment

    def __call__(self) -> int:
        """Microseconds UTC."""
        return self.now

    def seconds(self) -> float:
        return self.now / 1e6

    def set_day(self, day: float) -> None:
        """Set it to a day of the shop's period."""
        self.now = self.opened.moment_of(day)


async def send_shop(client: AsyncClient, opened: OpenedFilmShop) -> int:
    """Send catalogue, users and log of a shop to a service. Returns the number of events; needs an admin key.

    Raises ApiError for what the service refuses, DataError where it sets rows aside.
    """
    await client.put_schema(ITEM_TYPES, USER_TYPES)
    items = await client.put_items(opened.item_rows(opened.catalogue()))
    users = await client.put_users(opened.user_rows())
    events = await client.events(opened.event_rows())
    for what, rejected in (("items", items.rejected), ("users", users.rejected), ("events", events.rejected)):
        if rejected:
            raise DataError(f"the service sets {what} of the film shop aside", remedy=f"see why: {rejected}")
    return len(events.events)
