"""What goes in and comes out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal, TypeVar

from zhiyin.core.uid import fresh_id

Columns = Mapping[str, Any]
Moment = int | datetime
Diversity = Literal["none", "mmr", "dpp", "calibrate"]


@dataclasses.dataclass(frozen=True)
class Event:
    """What a user did with an item. The id is made here, so that an event sent twice is kept once.

    time: microseconds UTC, or a datetime with its zone; None for the moment of arrival. value: a rating, a price.
    list_id: of the list that the item was shown in.
    """

    user: str
    item: str
    kind: str = "event"
    time: Moment | None = None
    value: float | None = None
    id: str = dataclasses.field(default_factory=fresh_id)
    list_id: str | None = None


@dataclasses.dataclass(frozen=True)
class Fate:
    """What became of an event: "accepted", "known" (kept before), or "rejected" with its reason."""

    id: str
    status: str
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Kept:
    """What became of events, in the order sent; `rejected` of them were not kept."""

    events: list[Fate]
    rejected: int


@dataclasses.dataclass(frozen=True)
class Item:
    """A row of a list. score: None for one that could not be scored. columns: those asked for with `fields`.

    sentence, reason, sources: why it is there, with `explain=True`.
    """

    item: str
    score: float | None = None
    columns: dict[str, Any] = dataclasses.field(default_factory=dict)
    sentence: str = ""
    reason: Any = None
    sources: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Recommendations:
    """A list, best first; iterating gives its items.

    list_id: names the list in events and impressions; "" for lists that are not kept. version: of the model.
    next: for `client.more(this)`; None at the end. degraded: stages left out for lack of time.
    removed: what rules took out, with `explain=True`. ask, path: the request as it was sent, and where to.
    """

    items: list[Item]
    list_id: str = ""
    version: int = 0
    next: str | None = None
    method: str = ""
    placement: str | None = None
    degraded: list[str] = dataclasses.field(default_factory=list)
    removed: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    milliseconds: float | None = None
    ask: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    path: str = dataclasses.field(default="/v1/recommendations", repr=False)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


T = TypeVar("T")


class Page(list[T]):
    """A list, best first. next: what is given as `page` for those that follow; None at the end."""

    def __init__(self, rows: Iterable[T] = (), next: str | None = None) -> None:
        super().__init__(rows)
        self.next = next


@dataclasses.dataclass(frozen=True)
class Thing:
    """An item or a user with its columns; version: how often it was written."""

    id: str
    columns: dict[str, Any]
    version: int


@dataclasses.dataclass(frozen=True)
class Written:
    """What became of many items or users: `rejected` holds {"line": from 1 over all that was sent, "reason"}."""

    accepted: int
    rejected: list[dict[str, Any]]
