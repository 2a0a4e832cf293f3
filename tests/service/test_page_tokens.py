"""Page tokens: a page reads and writes for the user its token names, and nothing else, whatever it asks for."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")

import httpx

from zhiyin.client import ApiError, AsyncClient, Client, PageKey
from zhiyin.core.errors import ConfigError
from zhiyin.core.page_tokens import MAX_LIFETIME_SECONDS, key_hash, sign
from zhiyin.service.app import create_app

from .conftest import client_of, listed

A, B, S, T = "u3", "u4", "session-of-a", "session-of-b"
OTHERS = (B, T, "nobody", A.upper(), f"{A} ", f" {A}")


class Page:
    """A shop's service; `key` asks with a key, `as_a` with a token for user A and session S."""

    def __init__(self, shop: Any) -> None:
        self.client = client_of(shop)
        self.shop, self.keys, self.store = shop, shop.shown, shop.store
        self.signer = PageKey(shop.shown["page"])
        self.token = str(self.signer.token(user=A, session=S))

    def ask(self, key: Any, method: str, path: str, **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {key}"} | more.pop("headers", {})
        return self.client.request(method, path, headers=headers, **more)

    def as_a(self, method: str, path: str, **more: Any) -> Any:
        return self.ask(self.token, method, path, **more)

    def listed(self, token: Any, **body: Any) -> list[str]:
        answer = self.ask(token, "POST", "/v1/recommendations", json=body)
        assert answer.status_code == 200, answer.text
        return [row["item"] for row in answer.json()["items"]]


@pytest.fixture
def page(opened: Callable[..., Any]) -> Page:
    """B and T have done things that nobody else did."""
    made = Page(opened())
    events = [{"user": who, "item": f"i{n}", "id": f"{who}-{n}"} for who in (B, T) for n in (1, 3, 5)]
    assert made.ask(made.keys["events"], "POST", "/v1/events", json={"events": events}).json()["rejected"] == 0
    return made


# What a page may ask, and how: for the visitor of its token. {who}: an id of a user, {list}: of a list of theirs.
ALLOWED: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("post", "/v1/events"): [
        {"json": {"events": [{"user": "{who}", "item": "i1"}]}},
        {"json": {"events": [{"user": A, "item": "i1"}, {"user": "{who}", "item": "i2"}]}},
        {"json": {"events": [{"user": A, "item": "i1", "list_id": "{list}"}]}},
        {"content": json.dumps({"user": A, "item": "i1"}) + '\n{"user": "{who}", "item": "i2"}\n',
         "headers": {"Content-Type": "application/x-ndjson"}},
    ],
    ("post", "/v1/impressions/{list_id}"): [{"path": "/v1/impressions/{list}", "json": {"items": ["i1"]}}],
    ("post", "/v1/recommendations"): [{"json": body} for body in (
        {"user": "{who}"}, {"session": "{who}"}, {"user": A, "session": "{who}"}, {"user": "{who}", "session": S},
        {"user": "{who}", "exclude": ["i1"], "filter": "price < 30"}, {"user": "{who}", "page": "{next}"},
        {"user": "{who}", "explain": True, "exclude_seen": False},
    )],
    ("get", "/v1/recommendations"): [{"path": f"/v1/recommendations?{query}"} for query in (
        "user={who}", "session={who}", f"user={A}&session={{who}}", f"session={S}&user={{who}}",
        "user={who}&page={next}", f"user={A}&user={{who}}",
    )],
    ("post", "/v1/rank"): [{"json": {"items": ["i1", "i2"]} | body} for body in (
        {"user": "{who}"}, {"session": "{who}"}, {"user": A, "session": "{who}"},
    )],
    ("post", "/v1/pages"): [{"json": {"widgets": [{"name": "a"}]} | body} for body in (
        {"user": "{who}"}, {"session": "{who}"}, {"user": A, "session": "{who}"},
    )],
    ("post", "/v1/ads"): [{"json": body} for body in (
        {"user": "{who}"}, {"session": "{who}"}, {"user": A, "session": "{who}"},
    )],
    ("post", "/v1/predict"): [{"json": {"items": ["i1"]} | body} for body in (
        {"user": "{who}"}, {"session": "{who}"}, {"user": A, "session": "{who}"},
    )],
    ("post", "/v1/decisions"): [
        {"json": {"policy": "hero", "actions": [{"id": "a"}, {"id": "b"}]} | body} for body in (
            {"user": "{who}"}, {"session": "{who}"}, {"user": A, "session": "{who}"},
            {"user": "{who}", "event_id": "e"},
    )],
    ("post", "/v1/decisions/{event_id}/reward"): [
        {"path": "/v1/decisions/of-{who}/reward", "json": {"value": 1}},
        {"path": "/v1/decisions/of-{who}/reward", "json": {"slots": [{"id": "1", "value": 1}], "id": "r"}},
    ],
    ("post", "/v1/decisions/{event_id}/activate"): [{"path": "/v1/decisions/of-{who}/activate"}],
    ("get", "/v1/users/{key}/history"): [{"path": "/v1/users/{who}/history"}],
    ("get", "/v1/covisits"): [
        {"path": "/v1/covisits?user={who}"}, {"path": "/v1/covisits?session={who}"},
        {"path": "/v1/covisits?item=i1&user={who}"}, {"path": f"/v1/covisits?user={A}&session={{who}}"},
    ],
    # Of nobody: there is no place for an id of a user.
    ("get", "/v1/popular"): [], ("get", "/v1/trending"): [], ("get", "/v1/items"): [],
    ("get", "/v1/items/{key}"): [], ("get", "/v1/items/{key}/similar"): [],
    ("get", "/health"): [], ("get", "/ready"): [],
}  # fmt: skip


def filled(request: dict[str, Any], who: str, list_id: str, next: str) -> dict[str, Any]:
    text = json.dumps(request).replace("{who}", who).replace("{list}", list_id).replace("{next}", next)
    return json.loads(text)


def test_every_route_with_the_id_of_somebody_else_in_every_place(page: Page) -> None:
    """All routes of the description: those above for the own ids only, every other one not at all."""
    made = {
        who: page.ask(page.keys["read"], "POST", "/v1/recommendations", json={"user": who}).json() for who in (A, B, T)
    }
    made[S] = made[A]
    page.client.put("/v1/placements/hero", json={"policy": {"kind": "lin_ts", "actions": "own"}})
    for who in (A, *OTHERS):
        ask = {"policy": "hero", "actions": [{"id": "a"}], "user": who, "event_id": f"of-{who}", "defer": True}
        assert page.client.post("/v1/decisions", json=ask).status_code == 200
    described = page.client.get("/openapi.json").json()["paths"]
    operations = {(method, path) for path, operations in described.items() for method in operations}
    assert set(ALLOWED) <= operations
    before, refused, allowed = page.store.count(), 0, 0
    for method, path in sorted(operations):
        for request in ALLOWED.get((method, path), []):
            for who in OTHERS:
                body = filled(request, who, made.get(who, made[B])["list_id"], made[B]["next"])
                answer = page.as_a(method, body.pop("path", path), **body)
                assert answer.status_code == 403, (method, path, who, request, answer.text)
                assert set(answer.json()) == {"error", "remedy"}
                assert "another user" in answer.json()["error"]
                assert "/v1/tokens" in answer.json()["remedy"]
                assert B not in answer.text
                refused += 1
            body = filled(request, A, made[A]["list_id"], made[A]["next"])
            own = json.loads(json.dumps(body).replace(f'"session": "{A}"', f'"session": "{S}"'))
            status = page.as_a(method, own.pop("path", path), **own).status_code
            # The version was trained for neither.
            assert status == (409 if path in ("/v1/ads", "/v1/predict") else 200), (method, path, request)
            allowed += 1
        if (method, path) not in ALLOWED:
            where = path.replace("{key}", A).replace("{name}", "read").replace("{list_id}", made[A]["list_id"])
            for headers in ({}, {"Content-Type": "application/x-ndjson"}):
                answer = page.as_a(method, where, headers=headers, json={"user": A} if method != "get" else None)
                assert answer.status_code == 403, (method, path, answer.text)
                assert "page token may not" in answer.json()["error"]
                refused += 1
    assert refused > 150
    assert allowed > 15
    # Nothing of the batches that held somebody else's was kept, and nothing of B moved.
    kept = page.store.events(before)
    assert set(kept["user"]) == {A}
    assert page.store.count() == before + 6
    assert [event.item for event in page.store.history(B)] == ["i1", "i3", "i5"]
    assert not page.store.impressions(made[B]["list_id"])


def test_what_no_place_for_ids_tells_of_others(page: Page) -> None:
    """Lists of nobody are the same whoever asks, and searching finds no users."""
    for path in ("/v1/popular", "/v1/items/i1/similar", "/v1/items?search=rocket", "/v1/items/i4"):
        own, plain = (page.ask(key, "GET", path).json() for key in (page.token, page.keys["read"]))
        for said in (own, plain):
            for name in ("list_id", "milliseconds"):
                said.pop(name, None)
        assert own == plain, path
    for text in (B, T, A):
        assert page.as_a("GET", f"/v1/items?search={text}").json()["items"] == []


def test_a_list_is_of_the_visitor_without_saying_so(page: Page) -> None:
    for item in ("i1", "i3"):
        assert page.as_a("POST", "/v1/events", json={"events": [{"user": A, "item": item}]}).status_code == 200
    mine = listed(page.client, user=A, session=S)
    assert page.listed(page.token) == page.listed(page.token, user=A, session=S) == mine
    assert page.listed(page.token, history=["i1"]) == listed(page.client, history=["i1"])
    simple = page.as_a("GET", "/v1/recommendations?k=10").json()["items"]
    assert [row["item"] for row in simple] == mine
    widget = page.as_a("POST", "/v1/pages", json={"widgets": [{"name": "a"}]}).json()["widgets"][0]["items"]
    assert [row["item"] for row in widget] == mine
    trace = page.client.get(f"/v1/lists/{page.as_a('POST', '/v1/recommendations', json={}).json()['list_id']}")
    assert trace.json()["user"] == A


def test_an_anonymous_visitor(page: Page) -> None:
    made = page.ask(page.keys["page"], "POST", "/v1/tokens", json={}).json()
    assert made["user"] is None
    assert re.fullmatch(r"session-[0-9a-f]{32}", made["session"])
    before = page.listed(made["token"])
    for item in ("i1", "i3", "i5"):
        event = {"user": made["session"], "item": item, "kind": "view"}
        assert page.ask(made["token"], "POST", "/v1/events", json={"events": [event]}).status_code == 200
    after = page.listed(made["token"])
    assert after != before
    assert after == page.listed(made["token"], session=made["session"])
    # Who signs in takes along what the session did.
    signed_in = page.signer.token(user="newcomer", session=made["session"])
    assert page.listed(signed_in) == after
    assert page.ask(signed_in, "POST", "/v1/events", json={"events": [
        {"user": made["session"], "item": "i7"}, {"user": "newcomer", "item": "i9"},
    ]}).json()["rejected"] == 0  # fmt: skip


def test_ids_of_events_take_nobody_elses_place(page: Page) -> None:
    """Of one id only the first event is kept: a page must neither learn which ids there are nor take them first."""

    def bring(key: Any, user: str, id: str) -> str:
        answer = page.ask(key, "POST", "/v1/events", json={"events": [{"user": user, "item": "i9", "id": id}]}).json()
        assert answer["events"][0]["id"] == id
        return answer["events"][0]["status"]

    assert bring(page.token, A, f"{B}-1") == "accepted"  # the shop brought an event of this id
    assert bring(page.token, A, f"{B}-1") == "known"  # a retry is no second click
    assert bring(page.token, A, "order-7") == "accepted"
    assert bring(page.keys["events"], B, "order-7") == "accepted"
    assert bring(page.signer.token(user=B), B, "order-7") == "accepted"
    assert bring(page.keys["events"], B, "order-7") == "known"
    assert bring(page.token, S, "order-7") == "accepted"


def test_a_token_of_one_scope(page: Page) -> None:
    events, read = (page.signer.token(user=A, scope=[scope]) for scope in ("events", "read"))
    body = {"events": [{"user": A, "item": "i1"}]}
    assert page.ask(events, "POST", "/v1/events", json=body).status_code == 200
    assert page.ask(events, "POST", "/v1/recommendations", json={}).status_code == 403
    assert page.ask(events, "GET", f"/v1/users/{A}/history").status_code == 403
    assert page.ask(read, "POST", "/v1/recommendations", json={}).status_code == 200
    answer = page.ask(read, "POST", "/v1/events", json=body)
    assert answer.status_code == 403
    assert "events" in answer.json()["remedy"]


def test_a_page_key_itself_opens_nothing(page: Page) -> None:
    for method, path in (("GET", "/v1/popular"), ("POST", "/v1/recommendations"), ("POST", "/v1/events"),
                         ("GET", f"/v1/users/{A}/history"), ("GET", "/v1/keys"), ("GET", "/metrics")):  # fmt: skip
        answer = page.ask(page.keys["page"], method, path, json={"events": []} if method == "POST" else None)
        assert answer.status_code == 403, path
        assert "tokens" in answer.json()["remedy"]


def test_who_may_have_tokens_signed(page: Page) -> None:
    for key, status in (("page", 200), ("admin", 200), ("read", 403), ("events", 403)):
        answer = page.ask(page.keys[key], "POST", "/v1/tokens", json={"user": A})
        assert answer.status_code == status
        if status == 200:
            assert page.listed(answer.json()["token"]) == listed(page.client, user=A)
    assert page.as_a("POST", "/v1/tokens", json={"user": B}).status_code == 403
    for body in ({"user": ""}, {"user": 3}, {"scope": ["admin"]}, {"scope": []}, {"expires": "soon"}, {"k": 1}):
        assert page.ask(page.keys["page"], "POST", "/v1/tokens", json=body).status_code == 422, body
    for expires, status in (("8d", 422), ("0s", 422), ("0.5s", 422), ("999999999999d", 422), ("1.5h", 200)):
        assert page.ask(page.keys["page"], "POST", "/v1/tokens", json={"expires": expires}).status_code == status
    page.client.delete("/v1/keys/page")
    answer = page.ask(page.keys["admin"], "POST", "/v1/tokens", json={"user": A})
    assert answer.status_code == 409
    assert "zhiyin key add" in answer.json()["remedy"]


# -- tokens that are not right -----------------------------------------------------------------------------------------


def test_revoking_a_page_key_revokes_its_tokens(page: Page) -> None:
    assert page.as_a("GET", "/v1/popular").status_code == 200
    secret = page.client.post("/v1/keys", json={"name": "web-2", "scopes": ["page"]}).json()["key"]
    rotated = PageKey(secret).token(user=A)
    assert page.ask(rotated, "GET", "/v1/popular").status_code == 200
    page.client.delete("/v1/keys/page")
    answer = page.as_a("GET", "/v1/popular")
    assert answer.status_code == 401
    assert "revoked" in answer.json()["error"]
    assert page.ask(rotated, "GET", "/v1/popular").status_code == 200


def test_tokens_have_an_end(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [time.time()]
    monkeypatch.setattr(page.shop.keys, "_clock", lambda: now[0])
    assert page.as_a("GET", "/v1/popular").status_code == 200
    now[0] += 3_601
    answer = page.as_a("GET", "/v1/popular")
    assert answer.status_code == 401
    assert "expired" in answer.json()["error"]
    assert "/v1/tokens" in answer.json()["remedy"]
    now[0] -= 3_601
    page.client.post("/v1/keys", json={"name": "short", "scopes": ["page"], "expires": "1h"})
    short = page.ask(page.keys["admin"], "POST", "/v1/tokens", json={"user": A, "expires": "2h"}).json()["token"]
    assert page.ask(short, "GET", "/v1/popular").status_code == 200
    now[0] += 3_700  # the key that signed it had its time
    assert page.ask(short, "GET", "/v1/popular").status_code == 401


# When the tests were collected; they run some time later.
NOW, DAY = time.time(), 86_400.0
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"sub": A}, "never expires"),
    ({"sub": A, "exp": None}, "never expires"),
    ({"sub": A, "exp": NOW - 1}, "has expired"),
    ({"sub": A, "exp": 0}, "has expired"),
    ({"sub": A, "exp": NOW + MAX_LIFETIME_SECONDS + 3_600}, "more than 7 days"),
    ({"sub": A, "exp": 1e300}, "no moment"),
    ({"sub": A, "exp": "tomorrow"}, "no moment"),
    ({"sub": A, "exp": True}, "no moment"),
    ({"sub": A, "exp": [NOW]}, "no moment"),
    ({"sub": A, "exp": float("nan")}, "no moment"),
    ({"sub": A, "exp": NOW + 2 * DAY, "iat": NOW + DAY}, "of the future"),
    ({"sub": A, "exp": NOW + 2 * DAY, "nbf": NOW + DAY}, "of the future"),
    ({"sub": A, "exp": NOW + DAY, "nbf": "x"}, "no moment"),
    ({"exp": NOW + DAY}, "neither a user"),
    ({"sub": "", "exp": NOW + DAY}, "names no user"),
    ({"sub": 3, "exp": NOW + DAY}, "names no user"),
    ({"sub": [A], "exp": NOW + DAY}, "names no user"),
    ({"sub": "a\x00b", "exp": NOW + DAY}, "names no user"),
    ({"sub": A, "sid": "x" * 257, "exp": NOW + DAY}, "names no user"),
    ({"sub": A, "exp": NOW + DAY, "scope": ""}, "scope"),
    ({"sub": A, "exp": NOW + DAY, "scope": "admin"}, "scope"),
    ({"sub": A, "exp": NOW + DAY, "scope": "read admin"}, "scope"),
    ({"sub": A, "exp": NOW + DAY, "scope": ["read"]}, "scope"),
]


@pytest.mark.parametrize(("claims", "said"), WRONG)
def test_claims_that_are_not_right(page: Page, claims: dict[str, Any], said: str) -> None:
    """Signed by the right key: whoever wrote the shop's server made a mistake."""
    answer = page.ask(sign(claims, key_hash(page.keys["page"])), "GET", "/v1/popular")
    assert answer.status_code == 401, answer.text
    assert said in answer.json()["error"]


def test_a_clock_that_is_a_little_ahead(page: Page) -> None:
    claims = {"sub": A, "exp": time.time() + 600.5, "iat": time.time() + 30}
    assert page.ask(sign(claims, key_hash(page.keys["page"])), "GET", "/v1/popular").status_code == 200


def test_only_page_keys_sign(page: Page) -> None:
    """Whoever has a read or events key, in a page perhaps, makes no tokens by it."""
    claims = {"sub": B, "exp": time.time() + 600}
    for scope in ("read", "events", "admin"):
        answer = page.ask(sign(claims, key_hash(page.keys[scope])), "POST", "/v1/recommendations", json={})
        assert answer.status_code == 401
        with pytest.raises(ConfigError):
            PageKey(page.keys[scope])
    other = sign(claims, key_hash(page.keys["page"]))
    head = sign(claims, key_hash(page.keys["admin"])).split(".")[0]
    assert page.ask(f"{head}.{other.split('.', 1)[1]}", "GET", "/v1/popular").status_code == 401


def test_every_changed_character_is_refused(page: Page) -> None:
    token = page.token
    for at in range(len(token)):
        for changed in (
            token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :],
            token[:at] + token[at + 1 :],
        ):
            answer = page.ask(changed, "GET", "/v1/popular")
            assert answer.status_code == 401, at
    for wrong in ("..", "a.b.c", f"{token}.", f".{token}", f"{token} ", token.replace(".", ".."), token * 9):
        status = page.ask(wrong, "GET", "/v1/popular").status_code
        assert status == (200 if wrong.strip() == token else 401)


def test_a_token_of_another_shop(opened: Callable[..., Any]) -> None:
    """Two shops with keys of the same names, behind one door and apart."""
    from starlette.testclient import TestClient

    one, two = opened("one"), opened("two")
    token = str(PageKey(one.shown["page"]).token(user=A))
    events = [{"user": A, "item": f"i{n}"} for n in (1, 3, 5)]
    both = TestClient(create_app([one, two]))
    two_alone = TestClient(create_app([two]))

    def ask(client: Any, key: str, path: str, body: Any) -> Any:
        return client.post(path, json=body, headers={"Authorization": f"Bearer {key}"})

    assert ask(both, two.shown["events"], "/v1/events", {"events": events}).status_code == 200
    assert ask(two_alone, token, "/v1/recommendations", {}).status_code == 401
    stranger = ask(both, one.shown["read"], "/v1/recommendations", {"user": A}).json()["items"]
    assert ask(both, token, "/v1/recommendations", {}).json()["items"] == stranger  # of its own shop
    assert ask(both, token, "/v1/events", {"events": events[:1]}).status_code == 200
    assert len(one.store.history(A)) == 1
    assert len(two.store.history(A)) == 3
    one.keys.revoke("page")
    assert ask(both, token, "/v1/recommendations", {}).status_code == 401
    assert ask(both, str(PageKey(two.shown["page"]).token(user=A)), "/v1/recommendations", {}).status_code == 200


def test_each_visitor_has_a_rate_of_their_own(opened: Callable[..., Any]) -> None:
    page = Page(opened(rate=1))
    assert {page.as_a("GET", "/v1/popular").status_code for _ in range(5)} == {200, 429}
    assert page.ask(page.signer.token(user=B), "GET", "/v1/popular").status_code == 200
    assert page.ask(page.keys["read"], "GET", "/v1/popular").status_code == 200


# -- the client --------------------------------------------------------------------------------------------------------


def test_the_client_signs_and_has_signed(page: Page) -> None:
    transport = httpx.ASGITransport(create_app([page.shop]))

    async def ask() -> None:
        async with AsyncClient("http://shop.test", page.keys["page"], transport=transport) as server:
            made = await server.page_token(user="alice", expires="2h")
            assert (made.user, made.session) == ("alice", None)
            assert abs(made.expires - time.time() - 7_200) < 5
            assert str(made) not in repr(made)
            anonymous = await server.page_token(scope=["read"])
            with pytest.raises(ApiError) as error:
                await server.popular()
            assert error.value.status == 403
        for token in (made, anonymous, page.signer.token(user="alice")):
            async with AsyncClient("http://shop.test", str(token), transport=transport) as visitor:
                assert len(await visitor.recommend(k=3)) == 3
                with pytest.raises(ApiError, match="another user") as error:
                    await visitor.recommend(user=B)
                assert error.value.status == 403
        async with AsyncClient("http://shop.test", page.keys["admin"], transport=transport) as admin:
            new = await admin.add_key("shop", "read", expires="90d")
            assert [key["name"] for key in await admin.list_keys()] == ["admin", "events", "page", "read", "shop"]
            async with AsyncClient("http://shop.test", new["key"], transport=transport) as shop:
                assert len(await shop.popular(k=2)) == 2
                await admin.revoke_key("shop")
                with pytest.raises(ApiError, match="not known"):
                    await shop.popular()

    asyncio.run(ask())


def test_a_page_key_is_not_printed() -> None:
    key = "zy_page_" + "x" * 43
    assert key not in repr(PageKey(key))
    made = PageKey(key).token()
    assert made.session is not None
    assert str(made) not in repr(made)
    with pytest.raises(ConfigError, match="too long"):
        PageKey(key).token(user="a", expires="30d")
    Client("http://shop.test", str(made)).close()
