"""Calls for recommendations and other lists, impressions, histories, and the traces of lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from zhiyin.client.api_call import Call, as_json, as_object, known_fields, present_fields, query_params, resource_path
from zhiyin.client.api_types import Columns, Diversity, Event, Item, Page, Recommendations, Timestamp
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
    now: Timestamp | None = None,
) -> Call[Recommendations]:
    """The best items for a user, a session, a visitor with a history (items, oldest first), or a stranger.

    Parameters
    ----------
    filter: such as "price < 50 and genre = 'Drama'".
    boosts: {"when", "multiply", "add"} each.
    pins: {slot from 1: item}.
    balance: weight of the score against variety, 0 to 1.
    fields: columns wanted of each item.
    page: `next` of the previous list.
    now: the time to answer for; needs an admin key.
    """
    request = present_fields(
        user=user, session=session, history=history, placement=placement, k=k, filter=filter, boosts=boosts,
        include=include, exclude=exclude, exclude_seen=exclude_seen, diversity=diversity, balance=balance,
        context=context, explain=explain, language=language, fields=fields, page=page,
        pins=None if pins is None else {str(slot): item for slot, item in pins.items()},
        now=microseconds(now) if isinstance(now, datetime) else now,
    )  # fmt: skip
    return Call("POST", RECOMMENDATIONS, _read_list(request), body=as_json(request))


def more(recommendations: Recommendations) -> Call[Recommendations]:
    """The next page of a list, from the route that gave it; of a widget, by `pages` with that widget alone.

    Raises ConfigError at the end of the list, where `recommendations.next` is None.
    """
    if recommendations.next is None:
        raise ConfigError("this list has no next page", remedy="ask while its `next` is not None")
    if recommendations.path == PAGES:
        widget = recommendations.request["widgets"][0] | {"page": recommendations.next}
        return _only_widget(page_call(recommendations.request | {"widgets": [widget]}))
    request = recommendations.request | {"page": recommendations.next}
    if recommendations.path == RECOMMENDATIONS:
        return Call("POST", recommendations.path, _read_list(request), body=as_json(request))
    return Call("GET", recommendations.path, _read_list(request, recommendations.path), request)


def rank(
    items: Sequence[str],
    *,
    user: str | None = None,
    session: str | None = None,
    history: Sequence[str] | None = None,
    context: Columns | None = None,
) -> Call[Recommendations]:
    """The given items in the best order; those that the version does not know come last, without a score."""
    request = present_fields(user=user, session=session, history=history, items=list(items), context=context)
    return Call("POST", "/v1/rank", _read_list(request), body=as_json(request))


def similar(
    item: str, *, k: int | None = None, filter: str | None = None, fields: Sequence[str] | None = None
) -> Call[Recommendations]:
    """Items similar to an item."""
    params = query_params(k=k, filter=filter, fields=None if fields is None else list(fields))
    path = resource_path("items", item, "similar")
    return Call("GET", path, _read_list(params, path), params)


def similar_users(user: str, *, k: int | None = None, page: str | None = None) -> Call[Page[tuple[str, float]]]:
    """Users of similar taste, with their scores. page: `next` of the previous result."""

    def read(body: Any) -> Page[tuple[str, float]]:
        return Page([(row["user"], float(row["score"])) for row in body["users"]], body.get("next"))

    return Call("GET", resource_path("users", user, "similar"), read, query_params(k=k, page=page))


def popular(
    *, k: int | None = None, filter: str | None = None, fields: Sequence[str] | None = None
) -> Call[Recommendations]:
    """The most popular items."""
    params = query_params(k=k, filter=filter, fields=None if fields is None else list(fields))
    return Call("GET", "/v1/popular", _read_list(params, "/v1/popular"), params)


def trending(
    *, k: int | None = None, filter: str | None = None, fields: Sequence[str] | None = None
) -> Call[Recommendations]:
    """Items of growing popularity."""
    params = query_params(k=k, filter=filter, fields=None if fields is None else list(fields))
    return Call("GET", "/v1/trending", _read_list(params, "/v1/trending"), params)


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
    request = present_fields(
        user=user, session=session, history=history, context=context, fields=fields, widgets=list(widgets)
    )
    return page_call(request)


def page_call(request: dict[str, Any]) -> Call[dict[str, Recommendations]]:
    """The call of `pages` for a request body."""
    requests = {widget["name"]: request | {"widgets": [widget]} for widget in request["widgets"]}

    def read(body: Any) -> dict[str, Recommendations]:
        return {widget["name"]: _read_list(requests[widget["name"]], PAGES)(widget) for widget in body["widgets"]}

    return Call("POST", PAGES, read, body=as_json(request))


def _only_widget(call: Call[dict[str, Recommendations]]) -> Call[Recommendations]:
    """The only widget of a page."""
    return dataclasses.replace(call, read=lambda body: next(iter(call.read(body).values())))  # type: ignore[arg-type, return-value]


def impressions(list_id: str, items: Sequence[str]) -> Call[dict[str, Any]]:
    """Record which items of a list were really shown, in order: {"list_id", "kept", "inserted", "dropped"}."""
    return Call("POST", resource_path("impressions", list_id), as_object, body=as_json({"items": list(items)}))


def history(user: str, *, most: int | None = None) -> Call[list[Event]]:
    """Events of a user, oldest first."""

    def read(body: Any) -> list[Event]:
        return [Event(**known_fields(Event, row) | {"user": body["user"]}) for row in body["events"]]

    return Call("GET", resource_path("users", user, "history"), read, query_params(most=most))


def get_list(list_id: str) -> Call[dict[str, Any]]:
    """The trace of a list: request, items with their sources, impressions, events. Needs an admin key."""
    return Call("GET", resource_path("lists", list_id), as_object)


def replay(list_id: str) -> Call[dict[str, Any]]:
    """Compute a list again: {"same": bool, "items", "reason"}. Needs an admin key."""
    return Call("POST", resource_path("lists", list_id, "replay"), as_object)


def _read_list(request: dict[str, Any], path: str = RECOMMENDATIONS) -> Callable[[Any], Recommendations]:
    def read(body: Any) -> Recommendations:
        rows = [Item(**known_fields(Item, row)) for row in body["items"]]
        fields = {"items": rows, "request": request, "path": path}
        return Recommendations(**known_fields(Recommendations, body) | fields)

    return read
