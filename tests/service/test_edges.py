"""Requests at the ends of what is allowed, and what anybody may ask for as often as they like."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("fastapi")

from zhiyin.service import described

from .conftest import click, listed


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


@pytest.mark.parametrize("value", [2**53 + 1, 2**63, 2**64 - 1, 10**400, -(2**70), 1e300, "1", True, [1]])
def test_values_that_no_database_takes(service: Any, value: Any) -> None:
    """Refused for themselves, and the events beside them are kept."""
    answer = click(service, {"user": "a", "item": "i1", "value": value}, {"user": "a", "item": "i2", "value": 3})
    assert answer.status_code == 200, answer.text
    assert [one["status"] for one in answer.json()["events"]] == ["rejected", "accepted"]
    assert "value" in answer.json()["events"][0]["reason"]


def test_no_address_leads_elsewhere(service: Any) -> None:
    for path in ("/v1/popular/", "/health/", "/docs/", "/try/"):
        answer = service.get(path, headers={"Host": "evil.example"}, follow_redirects=False)
        assert answer.status_code == 404, path
        assert "evil" not in str(answer.headers) + answer.text


def test_the_description_is_made_once(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = {path: service.get(path) for path in ("/docs", "/openapi.json")}
    monkeypatch.setattr(described, "page_of", None)
    monkeypatch.setattr(json, "dumps", None)
    for path, answer in first.items():
        again = service.get(path)
        assert (again.status_code, again.content) == (200, answer.content)


def test_behind_a_proxy_the_description_names_the_path(service: Any) -> None:
    from fastapi.testclient import TestClient

    below = TestClient(service.app, root_path="/shop")
    assert below.get("/openapi.json").json()["servers"] == [{"url": "/shop"}]
    assert "servers" not in service.get("/openapi.json").json()
    assert below.get("/health").json() == {"status": "ok"}
