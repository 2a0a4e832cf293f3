"""Bodies of requests are decoded by their types: what is answered to right and wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("starlette")

from .conftest import client_of

JSON = {"Content-Type": "application/json"}
LINES = {"Content-Type": "application/x-ndjson"}
LISTS, RANK, EVENTS = "/v1/recommendations", "/v1/rank", "/v1/events"
ONE_EVENT = '{"events": [{"user": "q", "item": "i1"}]}'
ACCEPTED: list[tuple[str, str, dict[str, str]]] = [
    (LISTS, '{"user": "u1", "k": 5, "filter": "price < 60", "explain": true}', JSON),
    (LISTS, "{}", {"Content-Type": "application/json; charset=utf-8"}),
    (RANK, '{"user": "u1", "items": ["i3", "nowhere", "i1", "i3"]}', JSON),
    (EVENTS, ONE_EVENT, JSON),
    (EVENTS, ONE_EVENT, {"Content-Type": "text/plain"}),
    (EVENTS, '{"user": "q", "item": "i1", "id": "e2"}\n\nnonsense\n', LINES),
]
# A path, a body, headers; the status, and the beginning of the error.
REFUSED: list[tuple[str, str | bytes, dict[str, str], int, str]] = [
    (LISTS, '{"history": ["i1", "i2"], "k": "4"}', JSON, 422, "k: is no whole number"),
    (LISTS, "{}", {"Content-Type": "text/plain"}, 422, "the body is not said to be JSON"),
    (LISTS, "{}", {}, 422, "the body is not said to be JSON"),
    (LISTS, "", {}, 422, "the body is not said to be JSON"),
    (LISTS, "", JSON, 422, "Field required"),
    (LISTS, "{", JSON, 422, "the body is no JSON"),
    (LISTS, "[]", JSON, 422, "the body is no JSON object"),
    (LISTS, '{"k": 0}', JSON, 422, "k: it should be greater than or equal to 1"),
    (LISTS, '{"k": 5, "kk": 1}', JSON, 422, "kk: there is no such key"),
    (LISTS, '{"balance": NaN}', JSON, 422, "balance: it should be a finite number"),
    (LISTS, b'{"user": "\xff"}', JSON, 422, "the body is no JSON"),
    (LISTS, '{"user": "\\ud800"}', JSON, 422, "user: it should be a valid string"),
    (LISTS, '{"filter": "price <"}', JSON, 400, "expression, character 7: this cannot be read"),
    (LISTS, '{"placement": "nowhere"}', JSON, 404, "there is no placement 'nowhere'"),
    (LISTS, "{}", JSON | {"Authorization": "Bearer zy_wrong"}, 401, "this key is not known"),
    (LISTS, "{}", JSON | {"Authorization": "Basic abc"}, 401, "a key is needed"),
    (LISTS, "{}", JSON | {"Authorization": ""}, 401, "a key is needed"),
    (RANK, '{"items": []}', JSON, 422, "items: List should have at least 1 item after validation, not 0"),
    (RANK, '{"items": ["i1"], "boosts": []}', JSON, 422, "boosts: there is no such key"),
    (EVENTS, '{"events": []}', JSON, 422, "events: a list of 1 to 1,000"),
    (EVENTS, "{", JSON, 422, "this is no JSON"),
]
# A method, an address; the status and the error.
REFUSED_ADDRESSES: list[tuple[str, str, str]] = [
    ("GET", "/v1/popular?kk=1", "there is no parameter 'kk'"),
    ("GET", "/v1/keys?k=1", "there is no parameter 'k'"),
    ("GET", "/v1/popular?k=x", "query.k: it should be a valid integer, unable to parse string as an integer"),
    ("GET", "/v1/popular?k=5&k=0", "query.k: it should be greater than or equal to 1"),
    ("GET", "/v1/recommendations?explain=maybe",
     "query.explain: it should be a valid boolean, unable to interpret input"),
    ("GET", "/v1/items/%00", "path.key: id = '\\x00' is not right; a text of 1 to 256 characters"),
    ("GET", f"/v1/items/{'a' * 257}?k=1", "there is no parameter 'k'"),
]  # fmt: skip


def test_bodies_that_are_accepted(service: Any) -> None:
    for path, body, headers in ACCEPTED:
        response = service.post(path, content=body, headers=headers)
        assert response.status_code == 200, (path, body, response.text)


def test_bodies_that_are_refused(service: Any) -> None:
    for path, body, headers, status, error in REFUSED:
        response = service.post(path, content=body, headers=headers)
        assert response.status_code == status, (path, body, response.text)
        assert response.json()["error"].startswith(error), (path, body, response.text)


def test_addresses_that_are_refused(service: Any) -> None:
    for method, address, error in REFUSED_ADDRESSES:
        response = service.request(method, address)
        assert (response.status_code, response.json()["error"]) == (422, error), address


def test_the_scope_is_checked_before_the_body(opened: Callable[..., Any]) -> None:
    service = client_of(opened())
    key = service.post("/v1/keys", json={"name": "reader", "scopes": ["read"]}).json()["key"]
    for path in ("/v1/keys", EVENTS, "/v1/items"):
        response = service.post(path, content="{", headers=JSON | {"Authorization": f"Bearer {key}"})
        assert response.status_code == 403, path
