"""Requests at the ends of what is allowed, and what anybody may ask for as often as they like."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("starlette")

from zhiyin.service import openapi_description

from .conftest import click, listed

JSON = {"Content-Type": "application/json"}


def test_columns_are_named_once_or_often(service: Any) -> None:
    fields = ["title", "price", "title", "nowhere", "price"]
    for path, body in (
        ("/v1/recommendations", {"user": "u3", "fields": fields}),
        ("/v1/rank", {"items": ["i1"], "fields": fields}),
        ("/v1/pages", {"widgets": [{"name": "a"}], "fields": fields}),
    ):
        answer = service.post(path, json=body)
        assert answer.status_code == 200, answer.text
        said = answer.json()
        rows = said["widgets"][0]["items"] if "widgets" in said else said["items"]
        assert set(rows[0]["columns"]) == {"title", "price"}
    for path in ("recommendations?user=u3&", "popular?", "trending?", "items/i3/similar?", "items?"):
        answer = service.get(f"/v1/{path}fields={','.join(fields)}")
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("fields", ["a" * 257, ",".join(f"c{n}" for n in range(51)), "a" * 5_001])
@pytest.mark.parametrize("path", ["recommendations", "popular", "trending", "items/i3/similar", "items"])
def test_columns_of_a_query_are_checked_as_those_of_a_body(service: Any, path: str, fields: str) -> None:
    answer = service.get(f"/v1/{path}", params={"fields": fields})
    assert answer.status_code == 422
    assert "fields" in answer.json()["error"]


def test_a_page_of_many_long_lists(service: Any) -> None:
    """Whatever its lists have shown is left out of the next, however much that is."""
    service.put("/v1/placements/long", json={"exclude": [f"x{n}" for n in range(10_000)]})
    widgets = [{"name": f"w{n}", "k": 1_000, "placement": "long"} for n in range(20)]
    answer = service.post("/v1/pages", json={"user": "u3", "widgets": widgets})
    assert answer.status_code == 200, answer.text
    shown = [row["item"] for widget in answer.json()["widgets"] for row in widget["items"]]
    assert len(shown) == len(set(shown)) > 20
    most = [f"y{n}" for n in range(10_000)]
    assert listed(service, user="u3", placement="long", exclude=most)


@pytest.mark.parametrize("value", [2**53, 2.0**53, 2**63, 2**64 - 1, 10**400, -(2**70), 1e300, "1", True, [1]])
def test_values_that_no_database_takes(service: Any, value: Any) -> None:
    """Refused for themselves, and the events beside them are kept."""
    answer = click(service, {"user": "a", "item": "i1", "value": value}, {"user": "a", "item": "i2", "value": 3})
    assert answer.status_code == 200, answer.text
    assert [one["status"] for one in answer.json()["events"]] == ["rejected", "accepted"]
    assert "value" in answer.json()["events"][0]["reason"]


@pytest.mark.parametrize("name", ["\ud800", "a\udfff", "\x00", "a" * 257, "id"])
def test_names_of_columns_that_cannot_be(service: Any, name: str) -> None:
    """Half a character, in an error that names it, is still an answer."""
    for method, path in (("PUT", "items"), ("PATCH", "items"), ("PUT", "users"), ("PATCH", "users")):
        body = json.dumps({"price": 3, name: "x"})
        for content in (body.encode(), body.encode().decode("unicode_escape").encode("utf-8", "surrogatepass")):
            answer = service.request(method, f"/v1/{path}/x", content=content, headers=JSON)
            assert answer.status_code in (400, 422), answer.text
            assert answer.json()["error"]


def test_several_methods_of_one_address_are_all_allowed(service: Any) -> None:
    for path, allowed in (
        ("items/i1", "DELETE, GET, PATCH, PUT"),
        ("recommendations", "GET, POST"),
        ("items", "GET, POST"),
    ):
        answer = service.request("OPTIONS", f"/v1/{path}")
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_both_filters_of_a_placement_and_a_request_may_be_long(service: Any) -> None:
    long = " OR ".join(f"price = {n}.5" for n in range(230))
    long = f"{long} OR price < {'9' * (3_990 - len(long) - 12)}" if len(long) < 3_900 else long[:4_000]
    assert 3_900 < len(long) <= 4_000
    assert service.put("/v1/placements/long", json={"filter": long}).status_code == 200
    assert listed(service, user="u3", placement="long", filter=long.replace("OR price <", "OR  price <")[:4_000])
    assert service.post("/v1/recommendations", json={"filter": long + " " * 200}).status_code == 422


def test_no_address_leads_elsewhere(service: Any) -> None:
    for path in ("/v1/popular/", "/health/", "/docs/", "/try/"):
        answer = service.get(path, headers={"Host": "evil.example"}, follow_redirects=False)
        assert answer.status_code == 404, path
        assert "evil" not in str(answer.headers) + answer.text


def test_the_description_is_made_once(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = {path: service.get(path) for path in ("/docs", "/openapi.json")}
    monkeypatch.setattr(openapi_description, "page_of", None)
    monkeypatch.setattr(json, "dumps", None)
    for path, answer in first.items():
        again = service.get(path)
        assert (again.status_code, again.content) == (200, answer.content)


def test_behind_a_proxy_the_description_names_the_path(service: Any) -> None:
    from starlette.testclient import TestClient

    below = TestClient(service.app, root_path="/shop")
    assert below.get("/openapi.json").json()["servers"] == [{"url": "/shop"}]
    assert "servers" not in service.get("/openapi.json").json()
    assert below.get("/health").json() == {"status": "ok"}
