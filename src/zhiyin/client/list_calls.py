"""Calls for recommendations and other lists, impressions, histories, and the traces of lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from zhiyin.api import endpoints
from zhiyin.api.endpoint import Endpoint
from zhiyin.client.api_call import Call, as_object, endpoint_call, known_fields, present_fields, query_params
from zhiyin.client.api_types import Columns, Diversity, Event, Item, Language, Page, Recommendations, Timestamp
from zhiyin.client.event_calls import microseconds
from zhiyin.core.errors import ConfigError


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
    user_columns: Columns | None = None,
    explain: bool | None = None,
    language: Language | None = None,
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
    user_columns: columns of the user for this request, over those that are kept, such as {"country": "NZ"}.
    fields: columns wanted of each item.
    page: `next` of the previous list.
    now: the time to answer for; needs an admin key.
    """
    request = present_fields(
        user=user, session=session, history=history, placement=placement, k=k, filter=filter, boosts=boosts,
        include=include, exclude=exclude, exclude_seen=exclude_seen, diversity=diversity, balance=balance,
        context=context, user_columns=user_columns, explain=explain, language=language, fields=fields, page=page,
        pins=None if pins is None else {str(slot): item for slot, item in pins.items()},
        now=microseconds(now) if isinstance(now, datetime) else now,
    )  # fmt: skip
    return endpoint_call(endpoints.RECOMMEND, read=_read_list(request), body=request)


def more(recommendations: Recommendations) -> Call[Recommendations]:
    """The next page of a list, from the route that gave it; of a widget, by `pages` with that widget alone.

    Raises ConfigError at the end of the list, where `recommendations.next` is None.
    """
    if recommendations.next is None:
        raise ConfigError("this list has no next page", remedy="ask while its `next` is not None")
    if recommendations.path == endpoints.PAGES.path:
        widget = recommendations.request["widgets"][0] | {"page": recommendations.next}
        return _only_widget(page_call(recommendations.request | {"widgets": [widget]}))
    request = recommendations.request | {"page": recommendations.next}
    if recommendations.path == endpoints.RECOMMEND.path:
        return endpoint_call(endpoints.RECOMMEND, read=_read_list(request), body=request)
    return Call("GET", recommendations.path, _read_list(request, recommendations.path), request)


def rank(
    items: Sequence[str],
    *,
    user: str | None = None,
    session: str | None = None,
    history: Sequence[str] | None = None,
    context: Columns | None = None,
    user_columns: Columns | None = None,
    placement: str | None = None,
    explain: bool | None = None,
    language: Language | None = None,
    fields: Sequence[str] | None = None,
) -> Call[Recommendations]:
    """The given items in the best order; those that the version does not know come last, without a score."""
    request = present_fields(
        user=user, session=session, history=history, items=list(items), context=context, user_columns=user_columns,
        placement=placement, explain=explain, language=language, fields=fields,
    )  # fmt: skip
    return endpoint_call(endpoints.RANK, read=_read_list(request), body=request)


def similar(
    item: str,
    *,
    k: int | None = None,
    filter: str | None = None,
    fields: Sequence[str] | None = None,
    page: str | None = None,
) -> Call[Recommendations]:
    """Items similar to an item."""
    return _list_call(endpoints.SIMILAR, item, k=k, filter=filter, fields=fields, page=page)


def similar_users(user: str, *, k: int | None = None, page: str | None = None) -> Call[Page[tuple[str, float]]]:
    """Users of similar taste, with their scores. page: `next` of the previous result."""

    def read(body: Any) -> Page[tuple[str, float]]:
        return Page([(row["user"], float(row["score"])) for row in body["users"]], body.get("next"))

    return endpoint_call(endpoints.SIMILAR_USERS, user, read=read, query={"k": k, "page": page})


def popular(
    *,
    k: int | None = None,
    filter: str | None = None,
    fields: Sequence[str] | None = None,
    page: str | None = None,
) -> Call[Recommendations]:
    """The most popular items."""
    return _list_call(endpoints.POPULAR, k=k, filter=filter, fields=fields, page=page)


def trending(
    *,
    k: int | None = None,
    filter: str | None = None,
    fields: Sequence[str] | None = None,
    page: str | None = None,
) -> Call[Recommendations]:
    """Items of growing popularity."""
    return _list_call(endpoints.TRENDING, k=k, filter=filter, fields=fields, page=page)


def covisits(
    item: str | None = None,
    *,
    user: str | None = None,
    session: str | None = None,
    k: int | None = None,
    filter: str | None = None,
    fields: Sequence[str] | None = None,
    page: str | None = None,
) -> Call[Recommendations]:
    """Items that others visit on the same day as an item; without it, as the last items of a user or a session."""
    return _list_call(
        endpoints.COVISITS, item=item, user=user, session=session, k=k, filter=filter, fields=fields, page=page
    )


def pages(
    widgets: Sequence[Columns],
    *,
    user: str | None = None,
    session: str | None = None,
    history: Sequence[str] | None = None,
    context: Columns | None = None,
    user_columns: Columns | None = None,
    fields: Sequence[str] | None = None,
    explain: bool | None = None,
    language: Language | None = None,
) -> Call[dict[str, Recommendations]]:
    """Several lists for one page, by name; no item is on it twice.

    widgets: {"name", "placement", "k", "filter", "similar_to", "kind"} each; only the name is needed. kind:
        "recommendations", "popular", "trending" or "covisits".
    """
    request = present_fields(
        user=user, session=session, history=history, context=context, user_columns=user_columns, fields=fields,
        explain=explain, language=language, widgets=list(widgets),
    )  # fmt: skip
    return page_call(request)


def page_call(request: dict[str, Any]) -> Call[dict[str, Recommendations]]:
    """The call of `pages` for a request body."""
    path = endpoints.PAGES.path
    requests = {widget["name"]: request | {"widgets": [widget]} for widget in request["widgets"]}

    def read(body: Any) -> dict[str, Recommendations]:
        return {widget["name"]: _read_list(requests[widget["name"]], path)(widget) for widget in body["widgets"]}

    return endpoint_call(endpoints.PAGES, read=read, body=request)


def _only_widget(call: Call[dict[str, Recommendations]]) -> Call[Recommendations]:
    """The only widget of a page."""
    return dataclasses.replace(call, read=lambda body: next(iter(call.read(body).values())))  # type: ignore[arg-type, return-value]


def impressions(list_id: str, items: Sequence[str]) -> Call[dict[str, Any]]:
    """Record which items of a list were really shown, in order: {"list_id", "kept", "inserted", "dropped"}."""
    return endpoint_call(endpoints.IMPRESSIONS, list_id, read=as_object, body={"items": list(items)})


def history(user: str, *, most: int | None = None) -> Call[list[Event]]:
    """Events of a user, oldest first."""

    def read(body: Any) -> list[Event]:
        return [Event(**known_fields(Event, row) | {"user": body["user"]}) for row in body["events"]]

    return endpoint_call(endpoints.HISTORY, user, read=read, query={"most": most})


def get_list(list_id: str) -> Call[dict[str, Any]]:
    """The trace of a list: request, items with their sources, impressions, events. Needs an admin key."""
    return endpoint_call(endpoints.GET_LIST, list_id, read=as_object)


def replay(list_id: str, *, explain: bool | None = None) -> Call[dict[str, Any]]:
    """Compute a list again: {"same": bool, "items", "reason"}. Needs an admin key.

    explain: with the reason of each item, and the items that rules removed.
    """
    return endpoint_call(endpoints.REPLAY, list_id, read=as_object, query={"explain": explain})


def _list_call(endpoint: Endpoint, *ids: str, **query: Any) -> Call[Recommendations]:
    """The call of a list that is asked for by a query."""
    params = query_params(**query)
    return endpoint_call(endpoint, *ids, read=_read_list(params, endpoint.address(*ids)), query=params)


def _read_list(request: dict[str, Any], path: str = endpoints.RECOMMEND.path) -> Callable[[Any], Recommendations]:
    def read(body: Any) -> Recommendations:
        rows = [Item(**known_fields(Item, row)) for row in body["items"]]
        fields = {"items": rows, "request": request, "path": path}
        return Recommendations(**known_fields(Recommendations, body) | fields)

    return read
