"""Displays of the simulated film shop: lists that were shown, by position, and the clicks and purchases that followed.

A user comes `lists` times on average, at moments spread over the period. The shop fills `length` places with released
films drawn without replacement by visibility and novelty, in an order that leans to the visible: what stands first is
better known, so that a learner that ignores positions thinks too well of it. Clicks follow the position-based model of
`FilmShop.respond`, P(click at r) = P(looked at r) · P(click | looked at), and purchases follow clicks.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl

from zhiyin.core.atomic_files import whole_file
from zhiyin.core.durations import SECOND
from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.data.column_roles import Roles
from zhiyin.data.dataset import Dataset
from zhiyin.data.event_schema import EventSchema
from zhiyin.policies.simulators.film_shop import DAY, START, FilmShop

DISPLAY_KINDS = ("impression", "click", "purchase")
# What events are worth: a display is no interest.
DISPLAY_WEIGHTS = {"click": 1.0, "purchase": 5.0}
_LISTS_AT_ONCE = 2_000


@dataclasses.dataclass
class FilmShopDisplays:
    """A log of displays of a film shop, and the truth about it. The same fields give the same log.

    >>> displays = FilmShopDisplays(FilmShop(n_users=20, n_items=60, days=10), lists=3, length=5)
    >>> displays.log().kinds, displays.events()["kind"].value_counts().height
    (['click', 'impression', 'purchase'], 3)
    """

    shop: FilmShop
    lists: float = param(60.0, "lists that a user sees, on average", at_least=1)
    length: int = param(10, "films of a list", at_least=1, at_most=100)
    seed: int = param(0, "every draw descends from it", at_least=0)

    def events(self) -> pl.DataFrame:
        """Events by time: user, item (raw ids), time (µs), kind, position (of displays), and of displays what is true.

        `truth` is P(click) at the position, `looked_at` P(click) at the first one, `bought` P(purchase | click).
        """
        rng, shop = Run(seed=self.seed).rng(12), self.shop
        n = round(self.lists * shop.n_users)
        share = shop.people.pace / shop.people.pace.sum()
        user = np.sort(rng.choice(shop.n_users, n, p=share))
        day = rng.integers(0, shop.days, n)
        second = (np.clip(rng.normal(19, 3.5, n), 6, 22) * 3600).astype(np.int64) + rng.integers(0, 600, n)
        shelf = shop._shelf()
        parts = [
            self._lists(user[at], day[at], second[at], shelf, rng)
            for at in (slice(first, first + _LISTS_AT_ONCE) for first in range(0, n, _LISTS_AT_ONCE))
        ]
        return pl.concat(parts).sort("time", maintain_order=True)

    def _lists(
        self, user: np.ndarray, day: np.ndarray, second: np.ndarray, shelf: np.ndarray, rng: np.random.Generator
    ) -> pl.DataFrame:
        """The events of some lists."""
        shop, k = self.shop, min(self.length, self.shop.n_items)
        # The largest k of weight + Gumbel noise are a draw without replacement, most visible first.
        keys = 0.7 * shelf[day] + rng.gumbel(size=(len(user), shop.n_items)).astype(np.float32)
        shown = np.argpartition(-keys, k - 1, axis=1)[:, :k]
        shown = np.take_along_axis(shown, np.argsort(-np.take_along_axis(keys, shown, axis=1), axis=1), axis=1)
        interest = shop.probability(user, shown, day)
        truth = interest * shop.examination(k)
        bought = shop.purchase_probability(user, shown, day)
        click = rng.random(truth.shape) < truth
        purchase = click & (rng.random(truth.shape) < bought)
        released = interest > 0
        time = np.broadcast_to((START + day * DAY + second * SECOND)[:, None], shown.shape)
        place = np.broadcast_to(np.arange(1, k + 1), shown.shape)
        frames = []
        for number, (kind, mask) in enumerate(zip(DISPLAY_KINDS, (released, click, purchase), strict=True)):
            at = np.nonzero(mask)
            display = number == 0
            nothing = np.full(len(at[0]), np.nan)
            frames.append(pl.DataFrame({
                "user": shop.users["id"].gather(user[at[0]]),
                "item": shop.items["id"].gather(shown[at]),
                "time": time[at] + number * 60 * SECOND + (0 if display else place[at] * SECOND),
                "kind": pl.repeat(kind, len(at[0]), eager=True),
                "position": pl.Series(place[at] * 1.0 if display else nothing).fill_nan(None).cast(pl.Int8),
                "truth": truth[at].astype(np.float64) if display else nothing,
                "looked_at": interest[at].astype(np.float64) if display else nothing,
                "bought": bought[at].astype(np.float64) if display else nothing,
            }))  # fmt: skip
        return pl.concat(frames)

    def log(self) -> Dataset:
        """The log with the catalogue and the users; the value of a display is its position."""
        frame = self.events()
        schema = EventSchema.of(DISPLAY_KINDS, DISPLAY_WEIGHTS)
        events = frame.select(
            "user", "item", "time", pl.col("kind").cast(pl.Categorical),
            pl.col("position").cast(pl.Float32).alias("value"),
            pl.Series("weight", schema.weights(frame["kind"], frame["position"])),
        )  # fmt: skip
        roles = Roles(user="user", item="item", time="time", rating="position", kind="kind")
        return Dataset.build(events, users=self.shop.users, items=self.shop.items, roles=roles, schema=schema)

    def write(self, folder: str | Path) -> Path:
        """Write events.csv (without what is true), items.csv and users.csv. Returns the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        frame = self.events().with_columns(
            pl.col("time").cast(pl.Datetime("us")).dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        items = self.shop.items.with_columns(pl.col("genres").list.join("|"))
        log = frame.select("user", "item", "time", "kind", "position")
        for name, table in (("events", log), ("items", items), ("users", self.shop.users)):
            with whole_file(folder / f"{name}.csv") as draft:
                table.write_csv(draft)
        return folder
