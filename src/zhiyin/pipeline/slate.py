"""Slates: ranked lists in the making, and a trace of what each re-ranking step did to them.

A re-ranker is a function from a slate to a slate that writes into the trace what it did. All of them work on many
requests at once (`Slates`); one request (`Slate`) is a batch of one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import polars as pl

from zhiyin.core.errors import DataError
from zhiyin.data.histories import Histories
from zhiyin.pipeline.list_policy import ListDecision
from zhiyin.ranking.examples import rows_of


@dataclasses.dataclass(frozen=True)
class Slate:
    """The items of one request in the order they are to be shown.

    Parameters
    ----------
    items: int32[m], distinct item codes.
    scores: float32[m], descending until a step orders items by something else.
    trace: what each step did: plain dicts with "step", and mostly "items".
    propensities: float64[m], the probability of each item in its slot given the slots before; None: all 1.
    decision: of a policy.
    forced: float64, the probabilities of a list that is given; see `choosing_stage.ChosenLists`.
    """

    items: np.ndarray
    scores: np.ndarray
    trace: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    propensities: np.ndarray | None = None
    decision: ListDecision | None = None
    forced: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.items)


class TraceOfRequests(Protocol):
    """What steps did to the slates of a batch."""

    def of(self, request: int) -> list[dict[str, Any]]: ...


@dataclasses.dataclass(frozen=True, eq=False)
class TraceEvent:
    """What one step did to the slates of a batch, as columns.

    Parameters
    ----------
    step: name of the step.
    facts: values that are the same for all requests.
    owners: int[e], the request of each entry.
    columns: values of the entries by name, arrays of length e; "items" are codes.
    """

    step: str
    facts: dict[str, Any]
    owners: np.ndarray
    columns: dict[str, np.ndarray]

    def of(self, request: int) -> dict[str, Any] | None:
        """The entries of one request; None where it has none."""
        mine = self.owners == request
        if not mine.any():
            return None
        return {
            "step": self.step,
            **self.facts,
            **{name: plain_list(part[mine]) for name, part in self.columns.items()},
        }


def plain_list(values: np.ndarray) -> list[Any]:
    return [round(value, 6) for value in values.tolist()] if values.dtype.kind == "f" else values.tolist()


@dataclasses.dataclass(frozen=True, eq=False)
class Slates:
    """The slates of n requests, m items in all.

    Parameters
    ----------
    offsets: int64[n + 1]; request r has items[offsets[r]:offsets[r + 1]].
    items: int32[m], item codes.
    scores: float32[m].
    events: what steps did, in order.
    propensities: float64[m], the probability of each item in its slot given the slots before; None: all 1. Set by the
        last step; reordering drops them.
    decision, forced: of a batch of one; see `Slate`.
    trace: what the steps after `events` did.
    """

    offsets: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    events: tuple[TraceEvent, ...] = ()
    propensities: np.ndarray | None = None
    decision: ListDecision | None = None
    forced: np.ndarray | None = None
    trace: TraceOfRequests | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, request: int) -> Slate:
        if not 0 <= request < len(self):  # so that `for slate in slates` ends
            raise IndexError(request)
        mine = slice(int(self.offsets[request]), int(self.offsets[request + 1]))
        chances = None if self.propensities is None else self.propensities[mine]
        trace = [event for part in self.events if (event := part.of(request)) is not None]
        if self.trace is not None:
            trace += self.trace.of(request)
        return Slate(self.items[mine], self.scores[mine], trace, chances, self.decision, self.forced)

    @property
    def owners(self) -> np.ndarray:
        """int64[m], the request of each item."""
        if len(self) == 1:
            return np.zeros(len(self.items), dtype=np.int64)
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @property
    def places(self) -> np.ndarray:
        """int64[m], place of each item in its slate, from 0."""
        if len(self) == 1:
            return np.arange(len(self.items))
        return np.arange(len(self.items)) - np.repeat(self.offsets[:-1], np.diff(self.offsets))

    @classmethod
    def best_first(cls, offsets: np.ndarray, items: np.ndarray, scores: np.ndarray) -> Slates:
        """Slates of candidates in any order, sorted stably by descending score.

        Raises DataError for a score that is NaN.
        """
        scores = np.asarray(scores, dtype=np.float32)
        if np.isnan(scores).any():
            raise DataError("a candidate has the score NaN", remedy="look at what the ranker was given")
        slates = cls(np.asarray(offsets, np.int64), np.asarray(items, np.int32), scores)
        return slates.sorted()

    def sorted(self) -> Slates:
        """By descending score; a stable sort."""
        if len(self) == 1:
            return self.take(np.argsort(-self.scores, kind="stable"))
        return self.take(np.lexsort((-self.scores, self.owners)))

    def take(self, order: np.ndarray, offsets: np.ndarray | None = None) -> Slates:
        """Items at the given positions, in that order; `offsets` where the slates' lengths change."""
        return Slates(self.offsets if offsets is None else offsets, self.items[order], self.scores[order], self.events)

    def keep(self, mask: np.ndarray) -> Slates:
        """Items where bool[m] is true."""
        total = np.concatenate([[0], np.cumsum(mask)])
        return Slates(total[self.offsets], self.items[mask], self.scores[mask], self.events)

    def first(self, k: int) -> Slates:
        """The first k items of each."""
        lengths = np.diff(self.offsets)
        if (lengths <= k).all():
            return self
        if len(self) == 1:
            return Slates(np.array([0, k], dtype=np.int64), self.items[:k], self.scores[:k], self.events)
        return self.keep(self.places < k)

    def with_rows(self, owners: np.ndarray, items: np.ndarray, scores: np.ndarray) -> Slates:
        """With items appended to their requests. owners: int64[f], request of each new item, ascending."""
        if not len(owners):
            return self
        sizes = np.diff(self.offsets) + np.bincount(owners, minlength=len(self))
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        order = np.argsort(np.concatenate([self.owners, owners]), kind="stable")
        return Slates(
            offsets,
            np.concatenate([self.items, np.asarray(items, np.int32)])[order],
            np.concatenate([self.scores, np.asarray(scores, np.float32)])[order],
            self.events,
        )

    def pick(self, requests: np.ndarray) -> Slates:
        """The slates of some requests, in their order, without events."""
        offsets, rows = rows_of(self.offsets, requests)
        chances = None if self.propensities is None else self.propensities[rows]
        return Slates(offsets, self.items[rows], self.scores[rows], (), chances)

    @classmethod
    def joined(cls, parts: Sequence[Slates]) -> Slates:
        """Slates of several batches as one, without events."""
        if len(parts) == 1:
            return parts[0]
        sizes = np.concatenate([np.diff(part.offsets) for part in parts])
        chances = None
        if any(part.propensities is not None for part in parts):
            chances = np.concatenate([np.ones(len(part.items)) if part.propensities is None else part.propensities
                                      for part in parts])  # fmt: skip
        return cls(
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            np.concatenate([part.items for part in parts]),
            np.concatenate([part.scores for part in parts]),
            (),
            chances,
        )

    def lowest(self) -> np.ndarray:
        """float32[n]: the lowest score of each request, 0 where it has no items."""
        low = np.zeros(len(self), np.float32)
        filled = np.flatnonzero(np.diff(self.offsets))
        if len(filled):
            low[filled] = np.minimum.reduceat(self.scores, self.offsets[filled])
        return low

    def scored(self, scores: np.ndarray) -> Slates:
        """The same items with new scores, sorted by them."""
        return Slates(self.offsets, self.items, np.asarray(scores, np.float32), self.events).sorted()

    def with_trace_event(
        self, step: str, owners: Any = None, facts: Mapping[str, Any] | None = None, **columns: Any
    ) -> Slates:
        """With an event added to the trace, unless it has no entries. owners: None: one entry for each request."""
        owners = np.arange(len(self)) if owners is None else np.asarray(owners)
        if not len(owners):
            return self
        event = TraceEvent(step, dict(facts or {}), owners, {name: np.asarray(part) for name, part in columns.items()})
        return dataclasses.replace(self, events=(*self.events, event))


@dataclasses.dataclass(frozen=True, eq=False)
class Ragged:
    """Ragged rows of numbers: row r is values[offsets[r]:offsets[r + 1]]; `paired` holds a second number for each."""

    offsets: np.ndarray
    values: np.ndarray
    paired: np.ndarray | None = None

    @classmethod
    def of(cls, lists: Iterable[Iterable[int]], paired: Iterable[Iterable[int]] | None = None) -> Ragged:
        """From one list a request."""
        parts = [np.asarray(list(part), dtype=np.int64) for part in lists]
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        empty = [np.zeros(0, np.int64)]
        paired_values = (
            None if paired is None else np.concatenate([np.array(list(part), np.int64) for part in paired] or empty)
        )
        if paired_values is not None and len(paired_values) != offsets[-1]:
            raise DataError("two lists of a request differ in length", remedy="give one number for each item")
        return cls(offsets, np.concatenate(parts or [np.zeros(0, np.int64)]).astype(np.int64), paired_values)

    @classmethod
    def empty(cls, n: int) -> Ragged:
        """n requests without numbers."""
        return cls(np.zeros(n + 1, dtype=np.int64), np.zeros(0, dtype=np.int32))

    @property
    def owners(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def take(self, requests: np.ndarray) -> Ragged:
        """The lists of some requests, in their order."""
        offsets, rows = rows_of(self.offsets, requests)
        return Ragged(offsets, self.values[rows], None if self.paired is None else self.paired[rows])

    def repeated(self, n: int) -> Ragged:
        """The one list for each of n requests."""
        if n == 1:
            return self
        paired = None if self.paired is None else np.tile(self.paired, n)
        return Ragged(np.arange(n + 1) * len(self.values), np.tile(self.values, n), paired)


def request_item_keys(items: Ragged | None, n_items: int) -> np.ndarray:
    """int64: request · n_items + item of the items of each request; empty for None."""
    return np.zeros(0, np.int64) if items is None else items.owners * n_items + items.values


@dataclasses.dataclass(frozen=True, eq=False)
class RequestBatch:
    """The inputs of n requests, besides candidates.

    Parameters
    ----------
    n: number of requests.
    now: int64[n] or one for all, microseconds UTC.
    users: int64[n], a number for each user or session, for rotation; -1: none.
    visits: int64[n], number of the user's visit; None: derived from `now`.
    histories: events of the users, for `[rules] bought`.
    shown: item codes and, paired, how often each was shown within the window of the frequency cap.
    user: columns of the users for expressions, a frame of n rows; for one request a mapping will do.
    context: context columns, likewise.
    include: item codes; where given, no other item may be listed.
    exclude: item codes that are not listed.
    pins: item codes and, paired, slots from 1.
    closed: pins obey `include` too.
    allowed: bool[n_items], items that may be shown at this moment, pinned or not; None: all.
    deficits: float64[groups], exposure deficit of each group (`exposure.deficits`), for all requests.
    seeds: uint64[n], what policies draw with.
    """

    n: int = 1
    now: Any = 0
    users: np.ndarray | None = None
    visits: np.ndarray | None = None
    histories: Histories | None = None
    shown: Ragged | None = None
    user: pl.DataFrame | Mapping[str, Any] | None = None
    context: pl.DataFrame | Mapping[str, Any] | None = None
    include: Ragged | None = None
    exclude: Ragged | None = None
    pins: Ragged | None = None
    closed: bool = False
    allowed: np.ndarray | None = None
    deficits: np.ndarray | None = None
    seeds: np.ndarray | None = None

    def take(self, requests: np.ndarray) -> RequestBatch:
        """Some of the requests, in their order."""

        def of(part: Any) -> Any:
            return part.take(requests) if isinstance(part, Ragged) else part

        now, user, context = self.now, self.user, self.context
        return dataclasses.replace(
            self,
            n=len(requests),
            now=np.asarray(now)[requests] if np.ndim(now) and self.n > 1 else now,
            users=None if self.users is None else self.users[requests],
            visits=None if self.visits is None else self.visits[requests],
            histories=None if self.histories is None else self.histories.take(requests),
            user=user[requests] if isinstance(user, pl.DataFrame) else user,
            context=context[requests] if isinstance(context, pl.DataFrame) else context,
            seeds=None if self.seeds is None else self.seeds[requests],
            **{name: of(getattr(self, name)) for name in ("shown", "include", "exclude", "pins")},
        )

    @classmethod
    def one(
        cls,
        *,
        now: int = 0,
        user_number: int = -1,
        visit: int | None = None,
        history: Histories | None = None,
        shown: Mapping[int, int] | None = None,
        user: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        include: Iterable[int] | None = None,
        exclude: Iterable[int] | None = None,
        pins: Mapping[int, int] | None = None,
        closed: bool = False,
        allowed: np.ndarray | None = None,
        deficits: np.ndarray | None = None,
        seed: int = 0,
    ) -> RequestBatch:
        """A single request. `shown`: counts by item code; `pins`: item codes by slot, from 1."""
        return cls(
            1,
            np.array([now], dtype=np.int64),
            np.array([user_number], dtype=np.int64),
            None if visit is None else np.array([visit], dtype=np.int64),
            history,
            None if not shown else Ragged.of([shown.keys()], [shown.values()]),
            user,
            context,
            None if include is None else Ragged.of([include]),
            None if not exclude else Ragged.of([exclude]),
            None if not pins else Ragged.of([pins.values()], [pins.keys()]),
            closed,
            allowed,
            deficits,
            np.array([seed % 2**64], dtype=np.uint64),
        )
