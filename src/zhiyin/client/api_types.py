"""Types of what requests and responses hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal, TypeVar

from zhiyin.core.uid import fresh_id

Columns = Mapping[str, Any]
Timestamp = int | datetime
Diversity = Literal["none", "mmr", "dpp", "calibrate"]
Language = Literal["en", "zh"]


@dataclasses.dataclass(frozen=True)
class Event:
    """An interaction of a user with an item. The id is drawn here, so that an event sent twice is stored once.

    Parameters
    ----------
    time: microseconds UTC, or a datetime with its time zone; None for the time of arrival.
    value: a rating, a price.
    list_id: of the list that the item was shown in.
    text: a review, at most 10,000 characters; it becomes the value, where there is none, and is not kept.
    """

    user: str
    item: str
    kind: str = "event"
    time: Timestamp | None = None
    value: float | None = None
    id: str = dataclasses.field(default_factory=fresh_id)
    list_id: str | None = None
    text: str | None = None


@dataclasses.dataclass(frozen=True)
class EventResult:
    """The result of one event. status: "accepted", "known" (stored before), or "rejected", with its reason."""

    id: str
    status: str
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class EventsResult:
    """The results of events, in the order sent. rejected: how many were not stored."""

    events: list[EventResult]
    rejected: int


@dataclasses.dataclass(frozen=True)
class Item:
    """An item of a list.

    Parameters
    ----------
    score: None for an item that could not be scored.
    columns: those named by `fields`.
    sentence, reason, sources: the explanation, with `explain=True`.
    """

    item: str
    score: float | None = None
    columns: dict[str, Any] = dataclasses.field(default_factory=dict)
    sentence: str = ""
    reason: Any = None
    sources: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class PredictedRating:
    """A predicted rating. low, high: where 90 % of ratings lie, None where not measured; known: the item is known."""

    item: str
    rating: float
    low: float | None = None
    high: float | None = None
    known: bool = True


@dataclasses.dataclass(frozen=True)
class RatingPredictions:
    """Predicted ratings in the order asked; iterating gives them.

    Parameters
    ----------
    version: of the model. known: whether anything is known of the user.
    range: lowest and highest rating that was learned.
    """

    ratings: list[PredictedRating]
    version: int
    known: bool
    range: tuple[float, float]

    def __iter__(self) -> Iterator[PredictedRating]:
        return iter(self.ratings)


@dataclasses.dataclass(frozen=True)
class Recommendations:
    """A list, best first; iterating gives its items.

    Parameters
    ----------
    list_id: names the list in events and impressions; "" for lists that are not stored.
    version: of the model.
    next: token of the next page, which `client.more(this)` asks for; None at the end.
    degraded: stages left out for lack of time.
    decision: {"policy", "mode", "snapshot", "explored", "reason"} where the placement has a policy; None otherwise.
    experiments: arm of each experiment that the list is made by.
    removed: items that rules removed, with `explain=True`.
    request, path: the request as it was sent, and its path.
    """

    items: list[Item]
    list_id: str = ""
    version: int = 0
    next: str | None = None
    method: str = ""
    placement: str | None = None
    degraded: list[str] = dataclasses.field(default_factory=list)
    decision: dict[str, Any] | None = None
    experiments: dict[str, str] = dataclasses.field(default_factory=dict)
    removed: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    milliseconds: float | None = None
    request: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    path: str = dataclasses.field(default="/v1/recommendations", repr=False)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@dataclasses.dataclass(frozen=True)
class DecidedSlot:
    """A slot and the action chosen for it.

    Parameters
    ----------
    action: None where no action was left.
    propensity: the probability by which it was chosen, given the slots before.
    ranking: (action, probability), the most probable first.
    """

    id: str
    action: str | None
    propensity: float | None = None
    ranking: list[tuple[str, float]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Decision:
    """A choice of a policy.

    Parameters
    ----------
    event_id: names the decision in `reward` and `activate`, and in events as their list_id.
    snapshot: number of the learned state that decided; 0: nothing was learned.
    explored: whether another action was chosen than the one believed best.
    reason: why the policy did not decide as its settings say; "": it did.
    """

    event_id: str
    policy: str
    snapshot: int
    mode: str
    slots: list[DecidedSlot]
    explored: bool = False
    reason: str = ""
    deferred: bool = False

    @property
    def action(self) -> str | None:
        """The action of the first slot."""
        return self.slots[0].action


@dataclasses.dataclass(frozen=True)
class RewardResult:
    """status: "accepted", or "known" (sent before). late: it came after the window, and is not learned from."""

    event_id: str
    status: str
    late: bool


@dataclasses.dataclass(frozen=True)
class ActivationResult:
    """status: "activated", or "known" (it was before). late: it came after the window: the decision was dropped."""

    event_id: str
    status: str
    late: bool


T = TypeVar("T")


class Page(list[T]):
    """A list, best first. next: token of the next page, given as `page`; None at the end."""

    def __init__(self, rows: Iterable[T] = (), next: str | None = None) -> None:
        super().__init__(rows)
        self.next = next


@dataclasses.dataclass(frozen=True)
class CatalogEntry:
    """An item or a user with its columns; version: counts its writes."""

    id: str
    columns: dict[str, Any]
    version: int


@dataclasses.dataclass(frozen=True)
class WriteResult:
    """The result of many writes. rejected: {"line": from 1 over all rows sent, "reason"} each."""

    accepted: int
    rejected: list[dict[str, Any]]
