"""Two shops behind one door: a key of one opens nothing of the other, whatever it asks for."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("starlette")

from zhiyin.service.app import create_app
from zhiyin.service.key_cache import SCOPES

from .conftest import DAY, NOW, eventually

# What only the other shop knows: its user, item, event, placement and title all hold this word.
MARK = "othershop"
USER, ITEM, PLACE = f"{MARK}-user", f"{MARK}-item", f"{MARK}-place"


class Door:
    """One application for both shops; `ours` and `theirs` ask it with admin keys."""

    def __init__(self, one: Any, two: Any) -> None:
        from starlette.testclient import TestClient

        self.one, self.two = one, two
        self.client = TestClient(create_app([one, two]))

    def ask(self, shop: Any, method: str, path: str, scope: str = "admin", **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {shop.shown[scope]}"} | more.pop("headers", {})
        return self.client.request(method, path, headers=headers, **more)

    def ours(self, method: str, path: str, **more: Any) -> Any:
        return self.ask(self.one, method, path, **more)

    def theirs(self, method: str, path: str, **more: Any) -> Any:
        answer = self.ask(self.two, method, path, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def door(opened: Callable[..., Any]) -> Any:
    """The other shop has an item, a user with columns and events, a placement, and a list that was shown."""
    door = Door(opened("one"), opened("two"))
    door.theirs("PUT", f"/v1/items/{ITEM}", json={"title": f"{MARK} rocket", "price": 1.0, "genre": "odd"})
    door.theirs("PUT", f"/v1/users/{USER}", json={"city": MARK})
    door.theirs("PUT", f"/v1/placements/{PLACE}", json={"k": 3})
    events = [{"user": USER, "item": f"i{i}", "id": f"{MARK}-{i}", "time": NOW + DAY + i} for i in (1, 3, 5)]
    door.theirs("POST", "/v1/events", json={"events": [*events, {"user": "u3", "item": ITEM, "id": f"{MARK}-9"}]})
    eventually(lambda: door.two.live.waiting_items == 0)
    made = door.theirs("POST", "/v1/recommendations", json={"user": USER, "placement": PLACE, "pins": {"1": ITEM}})
    assert made["items"][0]["item"] == ITEM
    door.list_id = made["list_id"]
    door.theirs("POST", f"/v1/impressions/{door.list_id}", json={"items": [ITEM]})
    return door


def test_no_route_tells_of_the_other_shop(door: Any) -> None:
    """All routes of the description, with the other's names in every place."""
    bodies: dict[str, Any] = {
        "/v1/events": {"events": [{"user": "mine", "item": "i1"}]},
        "/v1/impressions/{list_id}": {"items": [ITEM]},
        "/v1/recommendations": {"user": USER, "explain": True, "fields": ["title", "city"], "k": 40},
        "/v1/rank": {"user": USER, "items": ["i1", "i2"], "fields": ["title"]},
        "/v1/pages": {"user": USER, "widgets": [
            {"name": "a", "k": 40}, {"name": "b", "kind": "trending"}, {"name": "d", "kind": "covisits"},
            {"name": "c", "similar_to": "i1"}]},
        "/v1/placements/{name}/rollback": {"version": 1},
        "/v1/keys": {"name": "another", "scopes": ["read"]},
        "/v1/tokens": {"session": "session-1"},
        "/v1/decisions": {"policy": PLACE, "user": USER, "candidates": {"k": 3}},
        "/v1/decisions/{event_id}/reward": {"value": 1.0},
        "/v1/whatif": {"placement": PLACE},
        "/v1/predict": {"user": USER, "items": [ITEM]},
        "/v1/ads": {"user": USER},
    }  # fmt: skip
    before = (door.two.store.count(), door.two.store.last_change("items"), door.two.store.last_change("users"))
    gone, asked = [], 0
    for path, operations in door.client.get("/openapi.json").json()["paths"].items():
        for method in operations:
            if method in ("put", "patch", "delete") or (path in ("/v1/items", "/v1/users") and method == "post"):
                continue  # below: they write
            named = ("placements", "policies", "experiments")
            name = PLACE if any(part in path for part in named) else USER if "users" in path else ITEM
            where = path.replace("{list_id}", door.list_id).replace("{key}", name).replace("{name}", name)
            where = where.replace("{event_id}", door.list_id)
            said = {"user": USER, "search": MARK, "k": "40", "explain": "true", "fields": "title"}
            known = {one["name"] for one in operations[method].get("parameters", ()) if one["in"] == "query"}
            query = "?" + "&".join(f"{one}={said[one]}" for one in sorted(known & set(said)))
            answer = door.ours(method, where + query, json=bodies.get(path, {}) if method == "post" else None)
            asked += 1
            unfit = 409 if path in ("/v1/predict", "/v1/ads") else 200  # the version was trained for neither
            assert answer.status_code in (200, 404, 400, unfit), (method, path, answer.text)
            # What we sent ourselves comes back; nothing else of theirs does.
            told = answer.text.replace(where.split("/")[3] if "{" in path else "\0", "").replace(f'"user":"{USER}"', "")
            sent = bodies.get(path, {})
            told = told.replace(PLACE, "") if PLACE in (sent.get("policy"), sent.get("placement")) else told
            assert MARK not in told, (method, path)
            assert door.list_id not in told
            if answer.status_code == 404:
                gone.append((method, path))
    assert asked > 20
    for path in ("/v1/items/{key}", "/v1/users/{key}", "/v1/lists/{list_id}", "/v1/placements/{name}",
                 "/v1/placements/{name}/versions", "/v1/users/{key}/similar"):  # fmt: skip
        assert ("get", path) in gone
    for path in ("/v1/lists/{list_id}/replay", "/v1/impressions/{list_id}", "/v1/placements/{name}/rollback"):
        assert ("post", path) in gone
    assert (door.two.store.count(), door.two.store.last_change("items"), door.two.store.last_change("users")) == before
    assert len(door.two.store.impressions(door.list_id)) == 1


def test_what_is_written_stays_in_its_own_shop(door: Any) -> None:
    kept = door.theirs("GET", f"/v1/items/{ITEM}"), door.theirs("GET", f"/v1/users/{USER}/history")
    lines = f'{{"id": "{ITEM}", "columns": {{"title": "ours"}}}}'
    for path, more in [
        (f"/v1/items/{ITEM}", {"json": {"title": "ours", "hidden": True}}),
        (f"/v1/users/{USER}", {"json": {"city": "ours"}}),
        (f"/v1/placements/{PLACE}", {"json": {"k": 1}}),
    ]:
        assert door.ours("PUT", path, **more).status_code == 200
    assert door.ours("POST", "/v1/items", content=lines).status_code == 200
    assert door.ours("DELETE", f"/v1/items/{ITEM}").status_code == 200
    assert door.ours("DELETE", f"/v1/placements/{PLACE}").status_code == 200
    # An event of an id that the other shop has is new here, and may be thrown in with its user: theirs stay theirs.
    event = {"user": USER, "item": "i7", "id": f"{MARK}-1"}
    answer = door.ours("POST", "/v1/events", json={"events": [event]}).json()
    assert answer["events"][0]["status"] == "accepted"
    assert door.ours("DELETE", f"/v1/users/{USER}").json()["proof"]["events removed"] == 1
    assert (door.theirs("GET", f"/v1/items/{ITEM}"), door.theirs("GET", f"/v1/users/{USER}/history")) == kept
    assert door.theirs("GET", f"/v1/users/{USER}")["columns"] == {"city": MARK}
    assert door.theirs("GET", f"/v1/placements/{PLACE}")["settings"] == {"k": 3}
    assert door.theirs("GET", f"/v1/lists/{door.list_id}")["user"] == USER
    assert door.theirs("POST", f"/v1/lists/{door.list_id}/replay")["same"]


def test_lists_of_the_same_user_are_of_the_own_shop(door: Any) -> None:
    said = {"user": "shared", "k": 8}
    for item in ("i0", "i2", "i4"):
        door.theirs("POST", "/v1/events", json={"events": [{"user": "shared", "item": item}]})
    stranger = door.ours("POST", "/v1/recommendations", json={"k": 8}).json()["items"]
    assert door.ours("POST", "/v1/recommendations", json=said).json()["items"] == stranger
    assert door.theirs("POST", "/v1/recommendations", json=said)["items"] != stranger
    assert door.ours("GET", "/v1/trending").json()["items"] == []


def test_a_token_of_the_other_shop_is_only_items(door: Any) -> None:
    token = door.theirs("POST", "/v1/recommendations", json={"user": USER, "k": 5})["next"]
    answer = door.ours("POST", "/v1/recommendations", json={"user": "u3", "k": 5, "page": token})
    assert answer.status_code == 200
    assert MARK not in answer.text


def test_figures_of_the_own_shop_only(door: Any) -> None:
    door.ours("POST", "/v1/recommendations", json={"user": "u3"})
    told = door.ours("GET", "/metrics").text
    assert set(re.findall(r'shop="([^"]*)"', told)) <= {"one", ""}
    assert 'zhiyin_events_total{shop="one",status="accepted"} 0.0' in told
    assert 'zhiyin_events_total{shop="two",status="accepted"} 4.0' in door.ask(door.two, "GET", "/metrics").text
    assert door.ours("GET", "/ready").json() == {"status": "ok", "shops": 2}


def test_scopes_hold_in_both_shops(door: Any) -> None:
    may = {"read": {"GET"}, "events": {"POST"}, "page": set(), "admin": {"GET", "POST", "PUT"}}
    event = {"events": [{"user": "a", "item": "i1"}]}
    calls = [("GET", "/v1/popular", None), ("POST", "/v1/events", event), ("PUT", "/v1/items/i9", {"price": 1.0})]
    for shop in (door.one, door.two):
        for scope in SCOPES:
            for method, path, body in calls:
                answer = door.ask(shop, method, path, scope, json=body)
                assert answer.status_code == (200 if method in may[scope] else 403)


def test_all_shops_are_asked_for_every_key(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that a refusal takes must not tell which shop a key is of."""
    asked: list[str] = []
    for shop in (door.one, door.two):
        plain = shop.keys.find
        monkeypatch.setattr(
            shop.keys, "find", lambda key, plain=plain, name=shop.name: asked.append(name) or plain(key)
        )
    for key in (door.one.shown["admin"], door.two.shown["read"], "nonsense"):
        asked.clear()
        door.client.get("/v1/popular", headers={"Authorization": f"Bearer {key}"})
        assert asked == ["one", "two"]


def test_shops_of_one_name(opened: Callable[..., Any]) -> None:
    """Two folders may be called the same; their figures are kept apart."""
    door = Door(opened("one"), opened("two"))
    door.two.name = "one"
    door = Door(door.one, door.two)
    told = door.ask(door.two, "GET", "/metrics").text
    assert 'shop="one-2"' in told
    assert 'shop="one"' not in told
