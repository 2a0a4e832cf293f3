"""DisplayLog: what was displayed, at which position, and what became of it: a click, a purchase, or nothing.

A display is an event of the kind `[train] display`, worth 0; its value is the position in the list, 1 for the first
one. The displays of a user at one moment are a request. A display was clicked if the user did something of positive
weight with the item within the window after it, and before the next display of the item; a click of an item that was
not displayed is of no display. So negatives are items that were really displayed, and not candidates drawn at random.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import polars as pl

from zhiyin.core.durations import microseconds
from zhiyin.core.errors import ConfigError, DataError
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.ranking.examples import rows_of
from zhiyin.ranking.training_requests import TrainingRequests

# Kinds of events, in lower case, that are purchases.
PURCHASES = frozenset({"purchase", "buy", "order", "transaction"})


@dataclasses.dataclass(frozen=True)
class DisplayLog:
    """The m displays of n requests, by user and then by time.

    Parameters
    ----------
    requests: users and moments; a history of a request are the user's events before it, earlier displays among them.
    offsets: int64[n + 1]; request r has displays offsets[r]:offsets[r + 1], no item twice.
    items: int32[m], item codes.
    positions: float32[m], from 1; NaN where the log does not say.
    clicks, purchases: bool[m]; what was purchased was clicked.
    """

    requests: TrainingRequests
    offsets: np.ndarray
    items: np.ndarray
    positions: np.ndarray
    clicks: np.ndarray
    purchases: np.ndarray

    def __len__(self) -> int:
        return len(self.items)

    @property
    def owners(self) -> np.ndarray:
        """int64[m]: the request of each display."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    @property
    def users(self) -> np.ndarray:
        """int32[m]: the user of each display."""
        return self.requests.users[self.owners]

    @property
    def times(self) -> np.ndarray:
        """int64[m], microseconds UTC."""
        return self.requests.now[self.owners]

    def take(self, requests: np.ndarray) -> DisplayLog:
        """The displays of some requests, in the given order."""
        offsets, rows = rows_of(self.offsets, requests)
        return DisplayLog(
            self.requests.take(requests),
            offsets,
            self.items[rows],
            self.positions[rows],
            self.clicks[rows],
            self.purchases[rows],
        )

    def clicked(self) -> DisplayLog:
        """The displays that were clicked alone; requests without any are left out."""
        counts = np.bincount(self.owners[self.clicks], minlength=len(self.requests))
        kept = np.flatnonzero(counts)
        some = self.clicks
        return DisplayLog(
            self.requests.take(kept),
            np.concatenate([[0], np.cumsum(counts[kept])]),
            self.items[some],
            self.positions[some],
            self.clicks[some],
            self.purchases[some],
        )

    def between(self, start: int, stop: int) -> DisplayLog:
        """The requests of the moments [start, stop), microseconds UTC."""
        return self.take(np.flatnonzero((self.requests.now >= start) & (self.requests.now < stop)))

    def chunks(self, size: int = 4096) -> Iterator[tuple[DisplayLog, Histories]]:
        """Consecutive parts with the histories of their requests, which are copied part by part."""
        for start, histories in self.requests.chunks(size):
            yield self.take(np.arange(start, start + len(histories))), histories


def display_log(data: Dataset, kind: str = "impression", window: str = "1d") -> DisplayLog:
    """The displays of a log with times.

    Parameters
    ----------
    kind: of the events that are displays. window: how long after a display an event is of it.

    Raises DataError where the log has no displays or no times, ConfigError where displays count as interest.
    """
    if kind not in data.kinds:
        raise DataError(
            f"the log has no displays: no event of the kind {kind!r}, kinds are {', '.join(data.kinds)}",
            remedy='log displays as events of a kind of their own, and name it: [train] display = "impression"',
        )
    if not data.has_times:
        raise DataError("the log has no times, so a click has no display before it", remedy="a column with times")
    events = data.events
    shown = events["kind"].to_physical().to_numpy() == data.kinds.index(kind)
    weight = events["weight"].to_numpy()
    if (weight[shown] > 0).any():
        raise ConfigError(
            f"events of the kind {kind!r} have a positive weight, but a display is no interest",
            remedy="name under [weights] what is interest, and not the displays: click = 1, purchase = 5",
        )
    user, time = events["user"].to_numpy(), events["time"].to_numpy()
    item = events["item"].to_numpy()
    clicks, purchases = _outcomes(data, shown, microseconds(window))
    begins = np.ones(len(user), dtype=bool)
    begins[1:] = (user[1:] != user[:-1]) | (time[1:] != time[:-1])
    moment = np.maximum.accumulate(np.where(begins, np.arange(len(user)), 0))
    rows = np.flatnonzero(shown)
    # Of an item that was displayed twice in a request, the first display.
    pair = moment[rows] * np.int64(data.n_items) + item[rows]
    rows = rows[np.sort(np.unique(pair, return_index=True)[1])]
    ends, counts = np.unique(moment[rows], return_counts=True)
    requests = TrainingRequests(data, user[ends].copy(), ends, time[ends].copy())
    values = events["value"].cast(pl.Float32).fill_null(np.nan).to_numpy()[rows]
    positions = np.where(values >= 1, values, np.nan).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return DisplayLog(requests, offsets, item[rows], positions, clicks[rows], purchases[rows])


def _outcomes(data: Dataset, shown: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """bool[n_events] twice: which displays were clicked, and which led to a purchase.

    Each event is of the newest display before it, or at the same time, of the same user and item.
    """
    events = data.events
    user, item, time = (events[name].to_numpy() for name in ("user", "item", "time"))
    positive = (events["weight"].to_numpy() > 0) & ~shown
    bought = [code for code, name in enumerate(data.kinds) if name.lower() in PURCHASES]
    purchase = positive & np.isin(events["kind"].to_physical().to_numpy(), bought)
    order = np.lexsort((~shown, time, item, user))
    rank = np.arange(len(order))
    display = np.maximum.accumulate(np.where(shown[order], rank, -1))  # the newest display before, of any pair
    newest = order[np.maximum(display, 0)]
    of_it = (display >= 0) & (user[newest] == user[order]) & (item[newest] == item[order])
    of_it &= time[order] - time[newest] <= window
    clicks, purchases = np.zeros(len(order), dtype=bool), np.zeros(len(order), dtype=bool)
    clicks[newest[of_it & positive[order]]] = True
    purchases[newest[of_it & purchase[order]]] = True
    return clicks, purchases


def without_values(data: Dataset) -> Dataset:
    """The log without the values of its events: positions are not ratings, of which features are made."""
    events = data.events.with_columns(value=pl.lit(None, dtype=pl.Float32))
    copy = data.subset(np.ones(data.n_events, dtype=bool))
    copy.events = events
    return copy
