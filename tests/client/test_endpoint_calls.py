"""Calls of the client agree with the table of endpoints: each endpoint has one, with all that it takes."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import pytest
from pydantic import BaseModel

from zhiyin import client
from zhiyin.api import endpoints
from zhiyin.api.endpoint import Endpoint, RawBody
from zhiyin.api.endpoints import ENDPOINTS
from zhiyin.api.requests import EventBody, ListQuery
from zhiyin.client import Call, CallSequence
from zhiyin.client.api_methods import Methods
from zhiyin.core.errors import ConfigError

# An argument for each parameter of any call, other than its default.
ARGUMENTS: dict[str, Any] = {
    "user": "u1", "session": "s1", "history": ("i1", "i2"), "placement": "home", "k": 7, "filter": "price < 5",
    "boosts": [{"when": "price < 5", "multiply": 2.0}], "include": ("i1",), "exclude": ("i2",), "pins": {2: "i3"},
    "exclude_seen": True, "diversity": "mmr", "balance": 0.5, "context": {"device": "phone"}, "explain": True,
    "user_columns": {"age": 30}, "language": "zh", "fields": ("title", "price"), "page": "token",
    "now": datetime(2024, 1, 1, tzinfo=UTC),
    "items": ("i1", "i2"), "item": "a/b", "users": {"age": "int"}, "widgets": [{"name": "top"}], "list_id": "l1",
    "most": 5, "id": "a/b", "columns": {"price": 3}, "text": "rocket", "name": "home", "settings": {"k": 3},
    "version": 2, "scope": ("events",), "expires": "1h", "kind": "view", "time": 1_700_000_000_000_000, "value": 2.5,
    "events": [{"user": "u1", "item": "i1"}], "mode": "online", "force": True, "snapshot": 3, "arm": "b",
    "reason": "too slow",
    "rules": {"filter": "price > 3"}, "as_placement": "home-b", "since": 5, "until": 9, "limit": 100, "confidence": 0.9,
    "interval": "gamma",
    "event_id": "l1", "policy": "home", "baseline": "a", "defer": True,
    "actions": ["a", {"id": "b", "features": {"price": 3}}], "candidates": {"k": 5}, "excluded": ("c",),
    "slots": ["top", {"id": "side", "baseline": "b"}],
    "other": "a/b", "weight": 2.0, "direction": "to", "links": [("u1", "u2", 2.0), ("u1", "u3", None)],
    "ratings": {"i1": 4.0},
    "bids": {"i1": 350_000}, "reserve_micros": 10, "quality_floor": 0.01, "pricing": "first", "per_campaign": 2,
}  # fmt: skip
# Arguments whose form hangs on the call.
ARGUMENTS_OF = {
    "put_items": {"items": [("i1", {"price": 3}), ("i2", None)]}, "put_users": {"users": [("u1", {"age": 3})]},
    "put_schema": {"items": {"price": "number"}}, "put_experiment": {"settings": {"arms": {"control": {}, "b": {}}}},
    "reward": {"slots": {"top": 1.0, "side": 0.0}, "name": "click"},
    "put_campaign": {"settings": {"items": ["i1"], "bid_micros": 5}}, "ads": {"slots": 3},
}  # fmt: skip
# Calls that are another form of an endpoint's call.
OTHER_FORMS = {"event": endpoints.EVENTS}
# Endpoints without a call: one asks for the same as `recommend`, the other is for Prometheus and answers no JSON.
WITHOUT_CALL = {"recommend_by_query", "metrics"}
# Fields that do not go with others of the same body.
ALONE = {"decide": {"history", "candidates", "baseline"}, "reward": {"value"}, "recommend": {"history"},
         "rank": {"history"}, "pages": {"history"}, "ads": {"history"},
         "predict": {"history", "ratings"}}  # fmt: skip
# Fields that stay empty.
CLOSED = {"predict": {"context", "user_columns"}}
NAMES = sorted({name for name in vars(Methods) if not name.startswith("_")} - {"call", "more"})


def build(name: str) -> Call[Any]:
    """A call with an argument for each of its parameters."""
    function: Callable[..., Any] = getattr(client, name)
    arguments = ARGUMENTS | ARGUMENTS_OF.get(name, {})
    result = function(**{parameter: arguments[parameter] for parameter in inspect.signature(function).parameters})
    return next(result.calls) if isinstance(result, CallSequence) else result


def test_every_endpoint_has_a_call() -> None:
    called = {build(name).endpoint for name in NAMES}
    assert set(ENDPOINTS.values()) - called == {ENDPOINTS[name] for name in WITHOUT_CALL}
    for name in NAMES:
        assert build(name).endpoint is OTHER_FORMS.get(name, ENDPOINTS.get(name)), name
        assert name in client.__all__


@pytest.mark.parametrize("name", NAMES)
def test_a_call_takes_all_that_its_endpoint_does(name: str) -> None:
    call = build(name)
    endpoint = call.endpoint
    assert endpoint is not None
    assert call.method == endpoint.method
    pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", endpoint.path)
    match = re.fullmatch(pattern, call.path)
    assert match is not None, call.path
    assert set(map(unquote, match.groups())) <= {"a/b", "u1", "l1", "home"}
    if endpoint.query is None:
        assert call.params == {}
    else:
        assert call.params.keys() == endpoint.query.model_fields.keys()
        endpoint.query.model_validate(call.params)
    check_body(call, endpoint)


def check_body(call: Call[Any], endpoint: Endpoint) -> None:
    if endpoint.body is None:
        assert call.body is None
        return
    assert call.body is not None
    if isinstance(endpoint.body, RawBody):
        assert call.content_type in endpoint.body.schemas()
        if endpoint is endpoints.EVENTS:
            (event,) = json.loads(call.body)["events"]
            EventBody.model_validate(event)
            assert event.keys() == EventBody.model_fields.keys() or event.keys() == {"id", "user", "item"}
        else:
            fields = {"user", "other", "weight"} if endpoint is endpoints.PUT_LINKS else {"id", "columns"}
            assert all(json.loads(line).keys() == fields for line in call.body.splitlines())
        return
    body = json.loads(call.body)
    if not isinstance(endpoint.body, type):
        assert body == {"price": 3}
        return
    if endpoint not in (
        endpoints.PUT_PLACEMENT,
        endpoints.PUT_EXPERIMENT,
        endpoints.PUT_CAMPAIGN,
    ):  # whose settings are one argument
        assert body.keys() == endpoint.body.model_fields.keys() - CLOSED.get(endpoint.name, set())
    fields = {field: value for field, value in body.items() if field not in ALONE.get(endpoint.name, ())}
    endpoint.body.model_validate(fields)


def test_any_endpoint_is_called_by_name_or_by_type() -> None:
    class NoteIn(BaseModel):
        text: str
        about: str | None = None

    endpoint = Endpoint(
        "note", "POST", "/v1/items/{key}/notes", scope="events", tags=(), description="", response=None,
        query=ListQuery, body=NoteIn,
    )  # fmt: skip
    by_name = client.call(endpoint, "a/b", query={"k": 3, "filter": None}, body={"text": "fine"})
    by_type = client.call(endpoint, "a/b", query=ListQuery(k=3), body=NoteIn(text="fine"))
    for call in (by_name, by_type):
        assert (call.method, call.path, call.params) == ("POST", "/v1/items/a%2Fb/notes", {"k": "3"})
        assert (call.body, call.content_type) == (b'{"text":"fine"}', "application/json")
    with pytest.raises(TypeError, match="takes 1 ids in its path, not 0"):
        client.call(endpoint)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: client.call("/health"), "'/health' is no endpoint"),  # type: ignore[arg-type]
        (lambda: client.call(endpoints.POPULAR, body={"k": 2}), "popular takes no body"),
        (lambda: client.call(endpoints.POPULAR, query=5), "query is a int"),  # type: ignore[arg-type]
        (lambda: client.call(endpoints.RANK, body=[1]), "body is a list"),  # type: ignore[arg-type]
        (lambda: client.call(endpoints.GET_ITEM, ""), "an id is empty"),
    ],
)
def test_what_an_endpoint_does_not_take_is_refused_before_it_is_sent(wrong: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        wrong()


def test_bytes_are_lines_only_where_the_endpoint_takes_lines() -> None:
    assert client.call(endpoints.PUT_ITEMS, body=b"{}").content_type == "application/x-ndjson"
    assert client.call(endpoints.RANK, body=b"{}").content_type == "application/json"
    assert client.call(endpoints.GET_ITEM, "..").path == "/v1/items/%2E%2E"
