"""Every `next` works on the route that gave it; queries hold nothing that a route does not take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("starlette")

from zhiyin.client import Client
from zhiyin.client.api_types import Recommendations
from zhiyin.service.page_cursor import MAX_PAGED_ITEMS, decode_cursor, encode_cursor

from .conftest import click, eventually

# Routes that give lists with `next`, as GET.
ROUTES = ["/v1/recommendations?user=u3&", "/v1/popular?", "/v1/trending?", "/v1/covisits?user=u3&",
          "/v1/items/i4/similar?"]  # fmt: skip


@pytest.fixture
def busy(service: Any) -> Any:
    """A service where some items trend, and a visitor has seen them all."""
    click(service, *[{"user": f"v{n}", "item": f"i{n % 20}"} for n in range(60)],
          *[{"user": "w", "item": f"i{n}"} for n in range(20)])  # fmt: skip
    eventually(lambda: len(service.get("/v1/trending?k=30").json()["items"]) == 20)
    eventually(lambda: len(service.get("/v1/covisits?item=i4&k=30").json()["items"]) == 19)
    return service


@pytest.mark.parametrize("route", [*ROUTES, "/v1/covisits?item=i4&"])
@pytest.mark.parametrize("k", [3, 10])
def test_pages_of_every_route_never_repeat_and_end(busy: Any, route: str, k: int) -> None:
    whole = [row["item"] for row in busy.get(f"{route}k=100").json()["items"]]
    listed: list[str] = []
    answer = busy.get(f"{route}k={k}").json()
    for _ in range(100):
        listed += [row["item"] for row in answer["items"]]
        if answer["next"] is None:
            break
        answer = busy.get(f"{route}k={k}&page={answer['next']}")
        assert answer.status_code == 200, answer.text
        answer = answer.json()
    assert answer["next"] is None
    # Sources name others as soon as some are left out, so that recommendations may come in another order.
    assert sorted(listed) == sorted(whole)
    assert listed == whole or "recommendations" in route
    assert len(whole) > k


@pytest.mark.parametrize(("route", "row", "id"), [
    ("/v1/items?search=rocket&", "items", "item"), ("/v1/items?", "items", "item"),
    ("/v1/users/u3/similar?", "users", "user"),
])  # fmt: skip
def test_pages_of_search_and_of_similar_users(service: Any, route: str, row: str, id: str) -> None:
    whole = [one[id] for one in service.get(f"{route}k=1000").json()[row]]
    assert len(whole) >= 20
    for k in (1, 7, len(whole)):
        listed: list[str] = []
        page: str | None = ""
        while page is not None:
            answer = service.get(f"{route}k={k}&page={page}")
            assert answer.status_code == 200, answer.text
            listed += [one[id] for one in answer.json()[row]]
            page = answer.json()["next"]
        assert listed == whole
    token = service.get(f"{route}k=1").json()["next"]
    other = service.get(f"/v1/popular?page={token}")
    assert other.status_code == 400
    assert route.partition("?")[0] in other.json()["error"]


@pytest.mark.parametrize("giver", ROUTES)
def test_a_token_of_another_route_names_its_own(busy: Any, giver: str) -> None:
    token = busy.get(f"{giver}k=2").json()["next"]
    own = giver.partition("?")[0]
    for taker in [*ROUTES, "/v1/items/i5/similar?"]:
        answer = busy.get(f"{taker}page={token}")
        same = taker.partition("?")[0] == own
        assert answer.status_code == (200 if same else 400), (giver, taker, answer.text)
        if not same:
            assert own in answer.json()["error"]
            assert answer.json()["field"] == "page"


def test_widgets_go_on_one_by_one(busy: Any) -> None:
    widgets = [{"name": "you", "k": 4}, {"name": "top", "kind": "popular", "k": 4},
               {"name": "like", "similar_to": "i4", "k": 4}]  # fmt: skip
    first = busy.post("/v1/pages", json={"user": "u3", "widgets": widgets}).json()["widgets"]
    again = [widget | {"page": one["next"]} for widget, one in zip(widgets, first)]
    second = busy.post("/v1/pages", json={"user": "u3", "widgets": again}).json()["widgets"]
    for one, two in zip(first, second):
        assert len(two["items"]) == 4
        assert not {row["item"] for row in one["items"]} & {row["item"] for row in two["items"]}


WRONG = ["nonsense", "", encode_cursor(["a"] * (MAX_PAGED_ITEMS + 1), "/v1/popular"), encode_cursor([], "popular")]


@pytest.mark.parametrize("token", WRONG)
def test_what_is_no_token(service: Any, token: str) -> None:
    status = service.get("/v1/popular", params={"page": token}).status_code
    assert status == (200 if token == "" else 400)


def test_tokens_hold_any_id() -> None:
    items = ["a", "知", '"', "x" * 256]
    assert decode_cursor(encode_cursor(items, "/v1/items/知/similar"), "/v1/items/知/similar") == items


def test_the_client_goes_on_with_every_list(busy: Any) -> None:
    client = Client("http://testserver", busy.keys["admin"], transport=busy._transport)
    page = client.pages([{"name": "you", "k": 3}, {"name": "top", "kind": "popular", "k": 3}], user="u3")
    lists: list[Recommendations] = [
        client.recommend(user="u3", k=3, filter="price > 3"), client.popular(k=3, filter="price > 3", fields=["title"]),
        client.trending(k=3), client.similar("i4", k=3), client.covisits("i4", k=3),
        client.covisits(user="u3", k=1), *page.values(),
    ]  # fmt: skip
    for found in lists:
        seen: list[str] = []
        while True:
            assert {row.item for row in found}.isdisjoint(seen)
            seen += [row.item for row in found]
            if found.next is None:
                break
            found = client.more(found)
        assert len(seen) >= 14


@pytest.mark.parametrize("path", [
    "/v1/recommendations", "/v1/popular", "/v1/trending", "/v1/covisits", "/v1/items/i4/similar", "/v1/items",
    "/v1/items/i4", "/v1/users/u3", "/v1/users/u3/similar", "/v1/users/u3/history", "/v1/placements",
    "/v1/placements/default", "/v1/placements/default/versions", "/v1/lists/none", "/health", "/ready", "/metrics",
])  # fmt: skip
def test_queries_hold_nothing_unknown(service: Any, path: str) -> None:
    known = service.get("/openapi.json").json()["paths"]
    assert service.get(path).status_code != 422
    answer = service.get(f"{path}?bogus=1&k=3")
    assert answer.status_code == 422, answer.text
    assert answer.json()["field"] == "query.bogus"
    assert "bogus" in answer.json()["error"]
    assert any(path.startswith(one.partition("{")[0]) for one in known)


def test_every_route_that_is_described_is_looked_at(service: Any) -> None:
    """Of whatever method: a parameter that a route does not take is refused before anything is done."""
    paths = service.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        for method in operations:
            there = path.replace("{key}", "i4").replace("{name}", "default").replace("{list_id}", "none")
            answer = service.request(method, f"{there}?nonesuch=1")
            assert answer.status_code == 422, (method, path, answer.text)
            assert answer.json()["field"] == "query.nonesuch", (method, path)
    assert "did you mean 'filter'" in service.get("/v1/popular?filtr=price>3").json()["remedy"]
    assert service.get("/v1/popular?bogus=1", headers={"Authorization": ""}).status_code == 401


def test_the_short_way_looks_at_queries_too(opened: Callable[..., Any], service: Any) -> None:
    assert service.post("/v1/recommendations?k=3", json={"user": "u3"}).status_code == 422


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40), max_size=60))
def test_cursors_of_any_length_are_read_as_they_were_made(items: list[str]) -> None:
    assert decode_cursor(encode_cursor(items, "/v1/popular"), "/v1/popular") == items
