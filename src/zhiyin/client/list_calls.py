"""Lists from the service, and what is known of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from zhiyin.client.api_call import Call, as_it_is, as_json, fields_of, params_of, path_of, said_of
from zhiyin.client.api_types import Columns, Diversity, Event, Item, Moment, Page, Recommendations
from zhiyin.client.event_calls import microseconds
from zhiyin.core.errors import ConfigError

RECOMMENDATIONS, PAGES = "/v1/recommendations", "/v1/pages"


def recommend(
    *,
    user: str | None = None,
    session: str | None = None,
    history: Sequence[str] | None = None,
    placement: str | None = None,
    k: int | None = None,
    filter: str | None = None,
    boosts: Sequence[Columns] | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    pins: Mapping[int, str] | None = None,
    exclude_seen: bool | None = None,
    diversity: Diversity | None = None,
    balance: float | None = None,
    context: Columns | None = None,
    explain: bool | None = None,
    language: Literal["en", "zh"] | None = None,
    fields: Sequence[str] | None = None,
    page: str | None = None,
    now: Moment | None = None,
) -> Call[Recommendations]:
    """The best items for a user, a session, a visitor with a history (items, oldest first), or a stranger.

    filter: "price < 50 and genre = 'Drama'". boosts: {"when", "multiply", "add"} each. pins: {slot from 1: item}.
    balance: 0 variety alone, 1 score alone. fields: columns wanted of each item. now: needs an admin key.
    """
    ask = said_of(user=user, session=session, history=history, placement=placement, k=k, filter=filter, boosts=boosts,
                include=include, exclude=exclude, exclude_seen=exclude_seen, diversity=diversity, balance=balance,
                context=context, explain=explain, language=language, fields=fields, page=page,
                pins=None if pins is None else {str(slot): item for slot, item in pins.items()},
                now=microseconds(now) if isinstance(now, datetime) else now)  # fmt: skip
    return Call("POST", RECOMMENDATIONS, _lists(ask), body=as_json(ask))


def more(found: Recommendations) -> Call[Recommendations]:
    """The items that follow a list, asked of the route that gave it; of a widget, by `pages` with that widget alone.

    Raises ConfigError at its end: look at `found.next`.
    """
    if found.next is None:
        raise ConfigError("this list has no next page", remedy="ask while found.next is not None")
    if found.path == PAGES:
        widget = found.ask["widgets"][0] | {"page": found.next}
        return _first_of(pages_of(found.ask | {"widgets": [widget]}))
    ask = found.ask | {"page": found.next}
    if found.path == RECOMMENDATIONS:
        return Call("POST", found.path, _lists(ask), body=as_json(ask))
    return Call("GET", found.path, _lists(ask, found.path), ask)


def rank(
    items: Sequence[str],
    *,
    user: str | None = None,
    session: str | None = None,
    history: Sequence[str] | None = None,
    context: Columns | None = None,
) -> Call[Recommendations]:
    """The given items in the best order; those that the version does not know come last, without a score."""
    ask = said_of(user=user, session=session, history=history, items=list(items), context=context)
    return Call("POST", "/v1/rank", _lists(ask), body=as_json(ask))


def similar(
    item: str, *, k: int | None = None, filter: str | None = None, fields: Sequence[str] | None = None
) -> Call[Recommendations]:
    """What goes with an item."""
    asked = params_of(k=k, filter=filter, fields=None if fields is None else list(fields))
    path = path_of("items", item, "similar")
    return Call("GET", path, _lists(asked, path), asked)


def similar_users(user: str, *, k: int | None = None, page: str | None = None) -> Call[Page[tuple[str, float]]]:
    """Users of like taste, with their scores. page: `next` of the users before."""

    def read(said: Any) -> Page[tuple[str, float]]:
        return Page([(row["user"], float(row["score"])) for row in said["users"]], said.get("next"))

    return Call("GET", path_of("users", user, "similar"), read, params_of(k=k, page=page))


def popular(
    *, k: int | None = None, filter: str | None = None, fields: Sequence[str] | None = None
) -> Call[Recommendations]:
    """What many take."""
    asked = params_of(k=k, filter=filter, fields=None if fields is None else list(fields))
    return Call("GET", "/v1/popular", _lists(asked, "/v1/popular"), asked)


def trending(
    *, k: int | None = None, filter: str | None = None, fields: Sequence[str] | None = None
) -> Call[Recommendations]:
    """What more and more take."""
    asked = params_of(k=k, filter=filter, fields=None if fields is None else list(fields))
    return Call("GET", "/v1/trending", _lists(asked, "/v1/trending"), asked)


def pages(
    widgets: Sequence[Columns],
    *,
    user: str | None = None,
    session: str | None = None,
    history: Sequence[str] | None = None,
    context: Columns | None = None,
    fields: Sequence[str] | None = None,
) -> Call[dict[str, Recommendations]]:
    """Several lists for one page, by name; no item is on it twice.

    widgets: {"name", "placement", "k", "filter", "similar_to", "kind"} each; only the name is needed.
    """
    ask = said_of(user=user, session=session, history=history, context=context, fields=fields, widgets=list(widgets))
    return pages_of(ask)


def pages_of(ask: dict[str, Any]) -> Call[dict[str, Recommendations]]:
    """As `pages`, of a body."""
    asked = {widget["name"]: ask | {"widgets": [widget]} for widget in ask["widgets"]}

    def read(said: Any) -> dict[str, Recommendations]:
        return {widget["name"]: _lists(asked[widget["name"]], PAGES)(widget) for widget in said["widgets"]}

    return Call("POST", PAGES, read, body=as_json(ask))


def _first_of(call: Call[dict[str, Recommendations]]) -> Call[Recommendations]:
    """The only widget of a page."""
    return dataclasses.replace(call, read=lambda said: next(iter(call.read(said).values())))  # type: ignore[arg-type, return-value]


def impressions(list_id: str, items: Sequence[str]) -> Call[dict[str, Any]]:
    """Tell what was really shown of a list, in order: {"list_id", "kept", "inserted", "dropped"}."""
    return Call("POST", path_of("impressions", list_id), as_it_is, body=as_json({"items": list(items)}))


def history(user: str, *, most: int | None = None) -> Call[list[Event]]:
    """Events of a user, oldest first."""

    def read(said: Any) -> list[Event]:
        return [Event(**fields_of(Event, row) | {"user": said["user"]}) for row in said["events"]]

    return Call("GET", path_of("users", user, "history"), read, params_of(most=most))


def list_(list_id: str) -> Call[dict[str, Any]]:
    """A list as it was kept: request, items with their sources, impressions, events. Needs an admin key."""
    return Call("GET", path_of("lists", list_id), as_it_is)


def replay(list_id: str) -> Call[dict[str, Any]]:
    """Make a list again: {"same": bool, "items", "reason"}. Needs an admin key."""
    return Call("POST", path_of("lists", list_id, "replay"), as_it_is)


def _lists(ask: dict[str, Any], path: str = RECOMMENDATIONS) -> Callable[[Any], Recommendations]:
    def read(said: Any) -> Recommendations:
        rows = [Item(**fields_of(Item, row)) for row in said["items"]]
        return Recommendations(**fields_of(Recommendations, said) | {"items": rows, "ask": ask, "path": path})

    return read
