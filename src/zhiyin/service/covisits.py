"""Co-visits: which items users visit on the same day (UTC), counted once a user, day and pair of items.

A pair that users visited on a later day counts more: co-visits count half after their half-life. What the service
computes itself, from the store's log, and what streams have computed give the same scores.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import cachetools
import numpy as np
import polars as pl

from zhiyin.core.errors import UnknownItemError
from zhiyin.data.histories import Histories
from zhiyin.pipeline.request import Request
from zhiyin.service.displayed_scores import displayed_scores, relative_scores
from zhiyin.service.log_follower import LogFollower
from zhiyin.service.stream_reading import StreamReader
from zhiyin.service.version_view import View
from zhiyin.store.store import Store
from zhiyin.store.stream_definitions import (
    COVISIT_HALF_LIFE,
    COVISIT_PERIOD,
    MAX_COVISIT_ITEMS,
    MAX_COVISITS,
    log_score,
    merge_log_scores,
)

# Last items of a user whose co-visits are listed, and the vote of each as a multiple of that of the next newer one.
LAST_ITEMS, VOTE_DECAY = 10, 0.8
# Seconds that a request waits at most for the first count that another one has begun.
FIRST_COUNT_SECONDS = 2.0
# Pairs that are added to a small array, which is merged into the large one when it has grown to this many or to this
# share of it: no update copies all pairs.
MIN_RECENT_PAIRS, MAX_RECENT_SHARE = 65_536, 8
# Events that are counted at once: they make at most MAX_COVISIT_ITEMS pairs each.
BATCH_EVENTS = 10_000
# Visits (user, day, item) and pairs of items that are held. Beyond them the oldest visits and the weakest pairs go.
MAX_VISITS, MAX_PAIRS = 2_000_000, 2_000_000
# Distinct items that ids are held of.
MAX_ITEMS = 8_000_000
# Items whose co-visits are cached of what streams have computed.
MAX_CACHED_ITEMS = 20_000
_SCHEMA = {"item": pl.String, "other": pl.String, "log_score": pl.Float64}
_VISITS = {"visit": pl.UInt64, "item": pl.Int64, "day": pl.Int64}


class Covisits(ABC):
    """Items that users visited on the same day as an item. Any number of threads may read them."""

    @abstractmethod
    def update(self, view: View) -> None:
        """Take in what happened since the last update. One thread calls it."""

    @abstractmethod
    def others(self, items: Sequence[str]) -> pl.DataFrame:
        """The MAX_COVISITS strongest co-visits of each item. Frame item, other, log_score, in any order."""

    def scores(self, view: View, request: Request, item: str | None = None) -> np.ndarray:
        """float32[all items]: how much items go with an item, or with the last ones of a request's history.

        With an item it is the number of its co-visits, decayed to the moment of the request. With a history each of its
        last items has one vote, times VOTE_DECAY for each newer one, which its co-visits share in proportion to the
        strongest of them. Minus infinity: no co-visit. Raises UnknownItemError for an item that is not known.

        Parameters
        ----------
        item: by id; None: the last items of the history.
        """
        if item is not None:
            if view.encode([item])[0] < 0:
                raise UnknownItemError(f"item {item!r} is not known", remedy="put it into the catalogue first")
            items = [item]
        else:
            items = last_items(view, request)
        scores = np.full(len(view.ids), -np.inf, dtype=np.float32)
        if not items:
            return scores
        others = self.others(items)
        codes = view.encode(others["other"])
        others = others.filter(pl.Series(codes >= 0))
        codes = codes[codes >= 0]
        log_scores = others["log_score"].to_numpy()
        if item is not None:
            now = view.loaded.clock() if request.now is None else request.now
            scores[codes] = displayed_scores(log_scores, now, COVISIT_HALF_LIFE)
            return scores
        votes = np.zeros(len(view.ids))
        for age, name in enumerate(items):  # in this order, so that sums are the same whoever has counted
            rows = (others["item"] == name).to_numpy()
            if rows.any():
                votes[codes[rows]] += VOTE_DECAY**age * relative_scores(log_scores[rows])
        voted = votes > 0
        scores[voted] = votes[voted]
        return scores


def last_items(view: View, request: Request) -> list[str]:
    """Ids of the last LAST_ITEMS distinct items of a request's history that were of interest, the newest first."""
    history = request.history
    if history is None:
        return []
    if not isinstance(history, Histories):
        return list(dict.fromkeys(str(item) for item in reversed(list(history))))[:LAST_ITEMS]
    items = history.items[history.weights > 0][::-1]
    first = np.sort(np.unique(items, return_index=True)[1])[:LAST_ITEMS]
    return [str(item) for item in view.ids.raw(items[first])] if len(first) else []


class EmbeddedCovisits(Covisits):
    """Co-visits of the store's log, counted from the first time that somebody asks for them.

    Whoever asks first waits until the last events are counted, which takes about a second, and others who ask meanwhile
    wait as long, but at most FIRST_COUNT_SECONDS: then they get the co-visits that have been counted by then.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._log: _CovisitLog | None = None
        # Held while events are counted.
        self._counting = threading.Lock()
        self._first_count = threading.Event()

    def update(self, view: View) -> None:
        if self._log is not None:
            with self._counting:
                self._log.follow(view.loaded.schema)

    def scores(self, view: View, request: Request, item: str | None = None) -> np.ndarray:
        self.ensure_counted(view)
        return super().scores(view, request, item)

    def ensure_counted(self, view: View) -> None:
        """Count the last events of the log, where that was never done, or wait until another thread has; see the class.
        From then on `update` counts the events that came since."""
        if self._first_count.is_set():
            return
        if not self._counting.acquire(blocking=False):
            self._first_count.wait(FIRST_COUNT_SECONDS)
            return
        try:
            if self._log is None:
                self._log = _CovisitLog(self._store)
            self._log.follow(view.loaded.schema)
            self._first_count.set()
        finally:
            self._counting.release()

    def others(self, items: Sequence[str]) -> pl.DataFrame:
        return pl.DataFrame(schema=_SCHEMA) if self._log is None else self._log.counts.others(items)


class _Pairs(NamedTuple):
    """Distinct pairs of items with their log scores.

    Parameters
    ----------
    codes: int64[m], code of an item << 32 | code of the other, sorted.
    log_scores: float64[m].
    """

    codes: np.ndarray
    log_scores: np.ndarray

    @classmethod
    def empty(cls) -> _Pairs:
        return cls(np.zeros(0, np.int64), np.zeros(0))

    def of_item(self, code: int) -> _Pairs:
        """The pairs of an item."""
        start, end = np.searchsorted(self.codes, [code << 32, (code + 1) << 32])
        return _Pairs(self.codes[start:end], self.log_scores[start:end])

    def merged_with(self, others: _Pairs) -> _Pairs:
        """The pairs of both, with the sums of both."""
        if not len(others.codes) or not len(self.codes):
            return others if not len(self.codes) else self
        at = np.searchsorted(self.codes, others.codes)
        is_held = self.codes[np.minimum(at, len(self.codes) - 1)] == others.codes
        fresh = ~is_held
        scores = self.log_scores.copy()
        scores[at[is_held]] = merge_log_scores(scores[at[is_held]], others.log_scores[is_held])
        return _Pairs(
            np.insert(self.codes, at[fresh], others.codes[fresh]),
            np.insert(scores, at[fresh], others.log_scores[fresh]),
        )


class _Counts(NamedTuple):
    """Pairs of items with their log scores. Codes number items in the order in which they came.

    Parameters
    ----------
    codes: code by id. ids: id by code.
    old, recent: pairs in both directions; the log score of a pair is that of its sums in both.
    """

    codes: dict[str, int]
    ids: list[str]
    old: _Pairs
    recent: _Pairs

    @classmethod
    def empty(cls) -> _Counts:
        return cls({}, [], _Pairs.empty(), _Pairs.empty())

    def encode(self, items: pl.Series) -> np.ndarray:
        """int64[n]: codes of items; items without one get the next ones."""
        new = sorted(set(items.to_list()) - self.codes.keys())
        self.codes.update(zip(new, range(len(self.ids), len(self.ids) + len(new))))
        self.ids.extend(new)
        return np.fromiter(map(self.codes.__getitem__, items.to_list()), np.int64, len(items))

    @property
    def n_pairs(self) -> int:
        """Number of pairs that are held, some of them twice."""
        return len(self.old.codes) + len(self.recent.codes)

    def with_pairs(self, pairs: _Pairs) -> _Counts:
        """With more pairs. Arrays that readers may have are not changed."""
        recent = self.recent.merged_with(pairs)
        if len(recent.codes) <= max(MIN_RECENT_PAIRS, len(self.old.codes) // MAX_RECENT_SHARE):
            return self._replace(recent=recent)
        return self._replace(old=self.old.merged_with(recent), recent=_Pairs.empty())

    def others(self, items: Sequence[str]) -> pl.DataFrame:
        """See `Covisits.others`."""
        known = [(item, code) for item in items if (code := self.codes.get(item)) is not None]
        parts = [pl.DataFrame(schema=_SCHEMA)]
        for item, code in known:
            pairs, log_scores = self.old.of_item(code).merged_with(self.recent.of_item(code))
            if len(pairs) > MAX_COVISITS:
                best = np.argpartition(-log_scores, MAX_COVISITS - 1)[:MAX_COVISITS]
                log_scores, pairs = log_scores[best], pairs[best]
            names = [self.ids[other] for other in (pairs & 0xFFFFFFFF).tolist()]
            parts.append(pl.DataFrame({"item": [item] * len(names), "other": names, "log_score": log_scores}, _SCHEMA))
        return pl.concat(parts)

    def pruned(self, visited: np.ndarray) -> tuple[_Counts, np.ndarray]:
        """At most MAX_PAIRS / 2 pairs, the strongest ones, among them none that is in the MAX_COVISITS strongest of
        neither of its items; and the new codes of visited items, int64[n], whose ids stay."""
        codes, log_scores = self.old.merged_with(self.recent)
        pairs = pl.DataFrame({"item": codes >> 32, "other": codes & 0xFFFFFFFF, "log_score": log_scores})
        rank = pl.col("log_score").rank("ordinal", descending=True).over("item")
        strong = pairs.filter(rank <= MAX_COVISITS)
        strong = strong.select(item=pl.min_horizontal("item", "other"), other=pl.max_horizontal("item", "other"),
                               log_score="log_score")  # fmt: skip
        strongest = strong.unique(["item", "other"]).top_k(MAX_PAIRS // 2, by="log_score")
        back = strongest.select(item="other", other="item", log_score="log_score")
        pairs = pl.concat([strongest, back]).sort("item", "other")
        used = np.union1d(pairs["item"].to_numpy(), visited)
        item, other = (np.searchsorted(used, pairs[name].to_numpy()) for name in ("item", "other"))
        ids = list(map(self.ids.__getitem__, used.tolist()))
        strongest_pairs = _Pairs((item << 32) | other, pairs["log_score"].to_numpy())
        counts = _Counts(dict(zip(ids, range(len(ids)))), ids, strongest_pairs, _Pairs.empty())
        return counts, np.searchsorted(used, visited)


class _CovisitLog(LogFollower):
    """Counts the store's log.

    The visits of a user and day are held so that a pair counts once, whenever its events arrive. Where they take too
    much memory, those of the oldest days are dropped, and later events of these days no longer count. Of a day of more
    than MAX_VISITS / 2 visits those that came last are held, and one that is repeated later may count again.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store, BATCH_EVENTS, ("user", "item"))

    def reset(self) -> None:
        self.counts = _Counts.empty()
        # Frame visit (hash of user and day), item (code), day; of a visit in the order of arrival.
        self._visits = pl.DataFrame(schema=_VISITS)
        self._first_day = 0

    def add(self, events: pl.DataFrame) -> None:
        visits = events.select("user", "item", day=pl.col("time") // COVISIT_PERIOD)
        visits = visits.filter(pl.col("day") >= self._first_day)
        if not len(visits):
            return
        codes = pl.Series("item", self.counts.encode(visits["item"]))
        visits = visits.select(visit=pl.struct("user", "day").hash(), item=codes, day="day")
        visits = visits.unique(["visit", "item"], keep="first", maintain_order=True)
        held = self._visits.join(visits.select("visit").unique(), on="visit", how="semi", maintain_order="left")
        new = visits.join(held, on=["visit", "item"], how="anti", maintain_order="left")
        both = pl.concat([held.with_columns(is_new=False), new.with_columns(is_new=True)])
        both = both.with_columns(place=pl.int_range(pl.len()).over("visit")).filter(pl.col("place") < MAX_COVISIT_ITEMS)
        new = both.filter("is_new")
        pairs = new.join(both.select("visit", other="item", other_place="place"), on="visit")
        pairs = pairs.filter(pl.col("other_place") < pl.col("place"))
        if len(pairs):
            counts = pairs.group_by("item", "other", "day").len("n")
            self.counts = self.counts.with_pairs(_directed_log_scores(counts))
        self._visits = pl.concat([self._visits, new.select(*_VISITS)])
        if max(len(self._visits) / MAX_VISITS, self.counts.n_pairs / (2 * MAX_PAIRS),
               len(self.counts.ids) / MAX_ITEMS) > 1:  # fmt: skip
            self._shrink()

    def _shrink(self) -> None:
        """Drop the oldest visits, the weakest pairs, and the ids of items that are in none of those left."""
        visits = self._visits
        if len(visits) > MAX_VISITS // 2:
            days = np.sort(visits["day"].to_numpy())
            self._first_day = min(int(days[-(MAX_VISITS // 2)]) + 1, int(days[-1]))
            visits = visits.filter(pl.col("day") >= self._first_day).tail(MAX_VISITS // 2)
        self.counts, codes = self.counts.pruned(visits["item"].to_numpy())
        self._visits = visits.with_columns(item=pl.Series(codes))


def _directed_log_scores(counts: pl.DataFrame) -> _Pairs:
    """Pairs in both directions.

    counts: frame item, other, day, n; each pair in one direction.
    """
    item, other, day, n = (counts[name].cast(pl.Int64).to_numpy() for name in ("item", "other", "day", "n"))
    pairs = np.concatenate([(item << 32) | other, (other << 32) | item])
    scores = np.tile(log_score(n, day * COVISIT_PERIOD, COVISIT_HALF_LIFE), 2)
    order = np.argsort(pairs, kind="stable")
    pairs, scores = pairs[order], scores[order]
    first = np.flatnonzero(np.diff(pairs, prepend=-1))
    return _Pairs(pairs[first], np.logaddexp2.reduceat(scores, first))


class StreamedCovisits(Covisits):
    """Co-visits as streams have computed them; while they cannot be read, those that were read before."""

    def __init__(self, reader: StreamReader) -> None:
        self._reader = reader
        self._version: int | None = None
        self._lock = threading.Lock()
        # By item: the version that its co-visits were read at, and the co-visits.
        self._cache: cachetools.LRUCache[str, tuple[int | None, pl.DataFrame]] = cachetools.LRUCache(MAX_CACHED_ITEMS)

    def update(self, view: View) -> None:
        version = self._reader.version("covisits")
        self._version = self._version if version is None else version

    def others(self, items: Sequence[str]) -> pl.DataFrame:
        version = self._version
        with self._lock:
            cached = {item: entry for item in items if (entry := self._cache.get(item)) is not None}
        missing = [item for item in items if item not in cached or cached[item][0] != version]
        found = self._reader.covisits(missing, MAX_COVISITS) if missing else None
        if found is not None:
            parts = found.partition_by("item", as_dict=True)
            fresh = {item: (version, parts.get((item,), found[:0])) for item in missing}
            cached |= fresh
            with self._lock:
                self._cache.update(fresh)
        return pl.concat([pl.DataFrame(schema=_SCHEMA), *(frame for _, frame in cached.values())])
