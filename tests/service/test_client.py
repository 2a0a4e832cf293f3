"""The Python client: against the real service over a real port, and against answers that go wrong on purpose."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")

import httpx

from tests.service.conftest import eventually
from tests.service.running import running
from tests.type_checks import mypy_messages
from zhiyin.client import (
    ApiError,
    AsyncClient,
    CatalogEntry,
    Client,
    Event,
    EventQueue,
    EventQueueFullError,
    Item,
    clients,
)
from zhiyin.client.api_call import retry_after_seconds
from zhiyin.client.api_methods import Methods
from zhiyin.core.errors import ConfigError, MissingExtraError, ZhiyinError
from zhiyin.service.app import create_app

URL, KEY = "http://shop.test", "zy_admin_secret"


class Service:
    """A shop that answers over a real port, and a client that may do all."""

    def __init__(self, url: str, shop: Any) -> None:
        self.url, self.keys, self.store = url, shop.shown, shop.store
        self.client = Client(url, shop.shown["admin"], timeout=10)


@pytest.fixture
def service(opened: Callable[..., Any]) -> Iterator[Service]:
    shop = opened()
    with running(create_app([shop])) as url:
        made = Service(url, shop)
        yield made
        made.client.close()


# -- against the real service ----------------------------------------------------------------------------------------


def test_a_click_changes_the_next_list(service: Service) -> None:
    zy = service.client
    before = zy.recommend(user="newcomer", k=8)
    assert zy.ready()["version"] == before.version == 1
    assert zy.health() == {"status": "ok"}
    fates = [zy.event("newcomer", item, kind="view", list_id=before.list_id) for item in ("i1", "i3", "i5")]
    assert [fate.status for fate in fates] == ["accepted"] * 3
    after = zy.recommend(user="newcomer", k=8, explain=True, language="zh", filter="price > 2")
    assert len(after) == 8
    assert [row.item for row in after] != [row.item for row in before]
    assert all(row.sentence.endswith("。") and row.reason and row.score is not None for row in after)
    told = zy.history("newcomer", most=2)
    assert [(event.user, event.item, event.kind) for event in told] == [("newcomer", i, "view") for i in ("i3", "i5")]
    assert [event.id for event in told] == [fate.id for fate in fates[1:]]
    assert [row.item for row in zy.recommend(history=("i1", "i3", "i5"), k=8, filter="price > 2")] == [
        r.item for r in after
    ]


def test_lists_of_the_real_service(service: Service) -> None:
    zy = service.client
    assert len(zy.popular(k=4, filter="price < 20")) == 4
    assert "i1" not in {row.item for row in zy.similar("i1", k=5)}
    ranked = zy.rank(["i2", "nowhere", "i1"], user="u1")
    assert ranked.items[-1] == Item("nowhere", None)
    pinned = zy.recommend(user="u1", k=3, pins={2: "i39"}, diversity="mmr", balance=0.5)
    assert pinned.items[1].item == "i39"


def test_lists_that_are_kept(service: Service) -> None:
    zy = service.client
    first = zy.recommend(user="u1", k=3, fields=["title"], explain=True)
    assert all(row.columns["title"] and row.sources for row in first)
    second = zy.more(first)
    assert len(second) == 3
    assert not {row.item for row in first} & {row.item for row in second}
    shown = [row.item for row in first][:2]
    assert zy.impressions(first.list_id, shown)["kept"] == shown
    zy.event("u1", shown[0], kind="view", list_id=first.list_id)
    kept = zy.get_list(first.list_id)
    assert [row["item"] for row in kept["items"]] == [row.item for row in first]
    assert [event["item"] for event in kept["events"]] == shown[:1]
    assert kept["impressions"][0]["items"] == shown
    assert zy.replay(first.list_id)["same"] is True


def test_pages_search_and_trends(service: Service) -> None:
    zy = service.client
    zy.events([Event(f"u{n}", "i5", kind="view") for n in range(5)])
    eventually(lambda: zy.trending(k=1).items)
    assert zy.trending(k=1, fields=["title"]).items[0].item == "i5"
    widgets = [
        {"name": "top", "k": 3},
        {"name": "like", "similar_to": "i5", "k": 3},
        {"name": "all", "kind": "popular"},
    ]
    page = zy.pages(widgets, user="u1", fields=["title"])
    assert list(page) == ["top", "like", "all"]
    items = [row.item for rows in page.values() for row in rows]
    assert len(items) == len(set(items)) > 6
    found = zy.search("rocket number4", k=5)
    assert found[0].item == "i4"
    assert found[0].columns["genre"] == "even"
    assert found.next is None
    first = zy.search("rocket", k=3)
    assert {item.item for item in first}.isdisjoint(item.item for item in zy.search("rocket", k=3, page=first.next))
    users = zy.similar_users("u1", k=4)
    assert len(users) == 4
    assert not {user for user, _ in users} & {user for user, _ in zy.similar_users("u1", k=4, page=users.next)}


def test_any_endpoint_answers_its_json_or_text_and_odd_ids_arrive(service: Service) -> None:
    from zhiyin.api import endpoints

    assert service.client.call(endpoints.POPULAR, query={"k": 2})["items"]
    assert "zhiyin_" in service.client.call(endpoints.METRICS)
    for item in (".", ".."):
        service.client.put_item(item, {"price": 3})
        assert service.client.get_item(item).id == item


def test_placements(service: Service) -> None:
    zy = service.client
    zy.put_placement("home", {"k": 4, "filter": "price < 20"})
    zy.put_placement("home", {"k": 2})
    assert len(zy.recommend(user="u1", placement="home")) == 2
    assert zy.get_placement("home")["version"] == 2
    assert len(zy.placement_versions("home")["versions"]) == 2
    zy.rollback_placement("home", 1)
    assert len(zy.recommend(user="u1", placement="home")) == 4
    assert [known["name"] for known in zy.list_placements()] == ["home"]
    zy.delete_placement("home")
    assert zy.list_placements() == []


def test_links(service: Any) -> None:
    zy = service.client
    assert zy.put_link("ann", "bob") is True
    assert zy.put_link("ann", "bob") is False
    links = [("ann", "cid", 2.0), ("bob", "ann", 1.0), ("bob", "eve", 1.0), ("ann", "dan", None)]
    assert zy.put_links(links).accepted == 4
    assert list(zy.get_links("ann").items()) == [("cid", 2.0), ("bob", 1.0)]
    assert zy.get_links("ann", direction="to") == {"bob": 1.0}
    assert [(one["user"], one["via"]) for one in zy.suggested_users("ann", k=5)] == [("eve", ["bob"])]
    assert zy.delete_link("ann", "bob") is True
    assert zy.suggested_users("ann") == []


def test_many_items_at_once(service: Service) -> None:
    written = service.client.put_items([("new1", {"price": 1.0}), ("new2", {"price": "cheap"}), ("i3", None)])
    assert written.accepted == 2
    assert [row["line"] for row in written.rejected] == [2]
    assert service.client.put_items([("new2", {"price": "cheap"})]).accepted == 0
    assert service.client.get_item("new1").columns == {"price": 1.0}
    assert service.client.put_users([("u1", {"country": "FR"})]).accepted == 1


def test_items_and_users(service: Service) -> None:
    zy, name = service.client, "名 % ?#&"
    assert zy.put_item(name, {"title": "知音", "price": 3.5}) == 1
    assert zy.patch_item(name, {"price": 4}) == 2
    assert zy.get_item(name).columns == {"title": "知音", "price": 4}
    assert zy.delete_item(name) == 3
    assert zy.put_user("u1", {"country": "FR"}) == 1
    assert zy.patch_user("u1", {"age": 7}) == 2
    assert zy.get_user("u1") == CatalogEntry("u1", {"country": "FR", "age": 7}, 2)
    zy.event("gone", "i1")
    assert zy.delete_user("gone")["events removed"] == 1
    with pytest.raises(ApiError) as error:
        zy.get_user("nobody")
    assert error.value.status == 404
    assert error.value.remedy


@pytest.mark.slow
def test_more_events_than_one_request_takes(service: Service) -> None:
    before = service.store.count()
    events = [Event("many", f"i{n % 40}", time=1_700_000_000_000_000 + n) for n in range(2_345)]
    kept = service.client.events(events)
    assert (len(kept.events), kept.rejected) == (2_345, 0)
    assert [fate.id for fate in kept.events] == [event.id for event in events]
    assert {fate.status for fate in service.client.events(iter(events)).events} == {"known"}
    assert service.store.count() == before + 2_345


def test_each_event_has_its_own_fate(service: Service) -> None:
    kept = service.client.events([{"user": "u1", "item": "i1"}, {"user": "", "item": "i1"}])
    assert [fate.status for fate in kept.events] == ["accepted", "rejected"]
    assert kept.events[1].reason
    assert kept.rejected == 1
    assert service.client.events([{"user": "", "item": "i1"}]).rejected == 1
    assert service.client.events([]).events == []
    with pytest.raises(ApiError, match="rejected"):
        service.client.event("", "i1")


def test_errors_are_in_the_words_of_the_service(service: Service) -> None:
    with pytest.raises(ApiError, match="prize") as error:
        service.client.recommend(filter="prize < 3")
    assert error.value.status == 400
    assert "price" in error.value.remedy
    reader = Client(service.url, service.keys["read"])
    with pytest.raises(ApiError) as refused:
        reader.event("u1", "i1")
    assert refused.value.status == 403
    with Client(service.url, "wrong") as stranger, pytest.raises(ApiError) as unknown:
        stranger.popular()
    assert unknown.value.status == 401
    reader.close()


def test_awaiting_gives_the_same(service: Service) -> None:
    async def ask() -> None:
        async with AsyncClient(service.url, service.keys["admin"], timeout=10) as zy:
            fates = await asyncio.gather(*(zy.event("waiter", f"i{n}") for n in (1, 3, 5)))
            assert {fate.status for fate in fates} == {"accepted"}
            assert (await zy.events([Event("waiter", "i7")] * 1_001)).events[1_000].status == "known"
            lists = await zy.recommend(user="waiter", k=5)
            assert [r.item for r in lists] == [r.item for r in service.client.recommend(user="waiter", k=5)]
            with pytest.raises(ApiError, match="prize"):
                await zy.recommend(filter="prize < 3")

    asyncio.run(ask())


def test_events_in_the_background(service: Service) -> None:
    before = service.store.count()
    with EventQueue(service.client, batch_size=10, flush_seconds=0.05) as bring:
        for n in range(25):
            bring.add("background", f"i{n}", kind="view")
        assert bring.flush(10)
        assert service.store.count() == before + 25
        bring.add("background", "i30")
        bring.add("", "i30")
    assert (bring.sent, bring.rejected, bring.dropped) == (26, 1, 0)
    assert service.store.count() == before + 26
    with pytest.raises(EventQueueFullError):
        bring.add("late", "i1")


# -- against answers that go wrong on purpose ------------------------------------------------------------------------


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that clients would make, which here take no time."""
    made: list[float] = []

    async def later(seconds: float) -> None:
        made.append(seconds)

    monkeypatch.setattr(clients.time, "sleep", made.append)
    monkeypatch.setattr(clients.asyncio, "sleep", later)
    return made


def fake(answer: Callable[[Any], Any], **more: Any) -> Client:
    return Client(URL, KEY, transport=httpx.MockTransport(answer), **more)


def busy(times: int, status: int = 503, after: str | None = "1") -> tuple[list[Any], Callable[[Any], Any]]:
    """A service that is busy so many times; the requests it saw."""
    seen: list[Any] = []

    def answer(request: Any) -> Any:
        seen.append(request)
        if len(seen) <= times:
            headers = {} if after is None else {"Retry-After": after}
            return httpx.Response(status, json={"error": "busy", "remedy": "later"}, headers=headers)
        told = [{"id": e["id"], "status": "accepted"} for e in json.loads(request.content)["events"]]
        return httpx.Response(200, json={"events": told, "rejected": 0})

    return seen, answer


@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_is_the_same_event(waits: list[float], status: int) -> None:
    seen, answer = busy(2, status)
    assert fake(answer).event("u", "i", kind="view").status == "accepted"
    assert waits == [1.0, 1.0]
    assert len({request.content for request in seen}) == 1
    assert json.loads(seen[0].content)["events"][0]["id"]
    assert seen[0].headers["Authorization"] == f"Bearer {KEY}"


def test_awaiting_retries_too(waits: list[float]) -> None:
    seen, answer = busy(2)

    async def ask() -> None:
        async with AsyncClient(URL, KEY, transport=httpx.MockTransport(answer)) as zy:
            await zy.events([{"user": "u", "item": "i"}])

    asyncio.run(ask())
    assert waits == [1.0, 1.0]
    assert len({request.content for request in seen}) == 1


def test_without_being_told_when_the_pause_grows(waits: list[float]) -> None:
    seen, answer = busy(9, after=None)
    with pytest.raises(ApiError, match="busy") as error:
        fake(answer, retries=4).event("u", "i")
    assert error.value.status == 503
    assert error.value.retryable
    assert len(seen) == 5
    assert all(0.05 * 2**n <= wait <= 0.1 * 2**n for n, wait in enumerate(waits))


def test_what_is_far_off_is_not_waited_for(waits: list[float]) -> None:
    seen, answer = busy(9, 429, after="3600")
    with pytest.raises(ApiError) as error:
        fake(answer).event("u", "i")
    assert error.value.status == 429
    assert not waits
    assert len(seen) == 1


@pytest.mark.parametrize("fault", [httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError])
def test_a_lost_connection_is_tried_again(waits: list[float], fault: Any) -> None:
    seen, answer = busy(0)
    lost: list[Any] = []

    def losing(request: Any) -> Any:
        if len(lost) < 2:
            lost.append(request)
            raise fault("gone", request=request)
        return answer(request)

    fake(losing).event("u", "i")
    assert {request.content for request in lost} == {seen[0].content}

    def dead(request: Any) -> Any:
        raise fault("gone", request=request)

    with pytest.raises(ApiError, match="did not answer") as error:
        fake(dead).popular()
    assert error.value.status == 0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 500, 507])
def test_what_will_not_change_is_asked_once(waits: list[float], status: int) -> None:
    seen, answer = busy(1, status)
    with pytest.raises(ApiError, match="busy") as error:
        fake(answer).event("u", "i")
    assert (error.value.status, error.value.remedy, len(seen)) == (status, "later", 1)
    assert error.value.retryable == (status >= 500)  # not at once, but when it is mended


def test_state_is_asked_once(waits: list[float]) -> None:
    seen, answer = busy(9)
    with pytest.raises(ApiError):
        fake(answer).ready()
    assert len(seen) == 1


@pytest.mark.parametrize("answer", [
    httpx.Response(200, text="<html>hello</html>"), httpx.Response(200, json=[1]), httpx.Response(200, json={}),
    httpx.Response(302, headers={"Location": "https://elsewhere.test"}), httpx.Response(500, text="oh"),
])  # fmt: skip
def test_an_answer_of_something_else(answer: Any) -> None:
    with pytest.raises(ApiError) as error:
        fake(lambda request: answer).recommend(user="u")
    assert error.value.status == answer.status_code


def test_the_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(request: Any) -> Any:
        raise httpx.ConnectError(f"no route with {request.headers}", request=request)

    client = fake(dead, retries=0)
    with pytest.raises(ApiError) as error:
        client.popular()
    shown = [repr(client), str(error.value), repr(error.value), repr(AsyncClient(URL, KEY)), repr(client._http.headers)]
    assert not any(KEY in text for text in shown)
    for wrong in ("", "a b", "zy\nX: y", "钥匙"):
        with pytest.raises(ConfigError, match="no key") as bad:
            Client(URL, wrong)
        assert not wrong or wrong not in str(bad.value)
    for nowhere in ("shop.test", "ftp://shop.test", "http://", "http://me:secret@shop.test"):
        with pytest.raises(ConfigError, match="no address") as bad:
            Client(nowhere, KEY)
        assert "secret" not in str(bad.value)


ROWS = {"items": [{"item": "a", "score": 1.0, "columns": {"title": "A"}, "later": 1}], "version": 3, "list_id": "L"}
SAID: list[tuple[str, tuple[Any, ...], dict[str, Any], str, str, dict[str, Any], Any]] = [
    # method, arguments; verb, path with its query; answer, value
    ("trending", (), {"k": 3, "fields": ["a", "b"]}, "GET", "/v1/trending?k=3&fields=a%2Cb", ROWS, None),
    ("covisits", ("a/b",), {"k": 3}, "GET", "/v1/covisits?item=a%2Fb&k=3", ROWS, None),
    ("covisits", (), {"user": "u", "session": "s"}, "GET", "/v1/covisits?user=u&session=s", ROWS, None),
    ("similar", ("a/b",), {"filter": "x = 1"}, "GET", "/v1/items/a%2Fb/similar?filter=x+%3D+1", ROWS, None),
    ("similar_users", ("u",), {"k": 2}, "GET", "/v1/users/u/similar?k=2",
     {"users": [{"user": "v", "score": 0.5}]}, [("v", 0.5)]),
    ("put_link", ("u/1", "v", 2.0), {}, "PUT", "/v1/users/u%2F1/links/v", {"changed": True}, True),
    ("delete_link", ("u", "v"), {}, "DELETE", "/v1/users/u/links/v", {"changed": False}, False),
    ("get_links", ("u",), {"direction": "to", "most": 2}, "GET", "/v1/users/u/links?direction=to&most=2",
     {"links": [{"user": "v", "weight": 1}]}, {"v": 1.0}),
    ("suggested_users", ("u",), {"k": 2}, "GET", "/v1/users/u/suggested?k=2",
     {"users": [{"user": "w", "score": 0.5, "common": 1, "via": ["v"]}]},
     [{"user": "w", "score": 0.5, "common": 1, "via": ["v"]}]),
    ("search", ("tea & 茶",), {"k": 2}, "GET", "/v1/items?search=tea+%26+%E8%8C%B6&k=2",
     {"items": [{"item": "t", "columns": {"title": "Tea"}}]}, [Item("t", columns={"title": "Tea"})]),
    ("get_list", ("L 1",), {}, "GET", "/v1/lists/L%201", {"list_id": "L 1"}, {"list_id": "L 1"}),
    ("replay", ("L",), {}, "POST", "/v1/lists/L/replay", {"same": True}, {"same": True}),
    ("impressions", ("L", ("a", "b")), {}, "POST", "/v1/impressions/L", {"kept": ["a"]}, {"kept": ["a"]}),
    ("list_placements", (), {}, "GET", "/v1/placements", {"placements": [{"name": "home"}]}, [{"name": "home"}]),
    ("get_placement", ("home",), {}, "GET", "/v1/placements/home", {"name": "home"}, {"name": "home"}),
    ("put_placement", ("home", {"k": 3}), {}, "PUT", "/v1/placements/home", {"version": 2}, {"version": 2}),
    ("delete_placement", ("home",), {}, "DELETE", "/v1/placements/home", {"name": "home"}, {"name": "home"}),
    ("placement_versions", ("home",), {}, "GET", "/v1/placements/home/versions", {"versions": []}, {"versions": []}),
    ("list_experiments", (), {}, "GET", "/v1/experiments", {"experiments": [{"name": "x"}]}, [{"name": "x"}]),
    ("stop_experiment", ("x", "b"), {}, "POST", "/v1/experiments/x/stop", {"version": 2}, {"version": 2}),
    ("rollback_placement", ("home", 1), {}, "POST", "/v1/placements/home/rollback", {"version": 3}, {"version": 3}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args", "kwargs", "verb", "path", "answer", "value"), SAID, ids=[s[0] for s in SAID])
def test_what_is_asked_and_read(
    name: str, args: Any, kwargs: Any, verb: str, path: str, answer: dict[str, Any], value: Any
) -> None:
    seen: list[Any] = []

    def say(request: Any) -> Any:
        seen.append(request)
        return httpx.Response(200, json=answer)

    found = getattr(fake(say), name)(*args, **kwargs)
    assert (seen[0].method, seen[0].url.raw_path.decode()) == (verb, path)
    if value is not None:
        assert found == value
    else:
        assert found.items == [Item("a", 1.0, {"title": "A"})]
        assert (found.version, found.list_id) == (3, "L")


def test_more_goes_on_where_a_list_ends() -> None:
    asked: list[dict[str, Any]] = []

    def say(request: Any) -> Any:
        asked.append(json.loads(request.content))
        return httpx.Response(200, json=ROWS | {"next": "token" if len(asked) < 2 else None})

    zy = fake(say)
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    first = zy.recommend(user="u", k=1, context={"device": "tv"}, explain=False, now=moment)
    second = zy.more(first)
    assert asked[0] == {"user": "u", "k": 1, "context": {"device": "tv"}, "explain": False, "now": 1767312000000000}
    assert asked[1] == asked[0] | {"page": "token"}
    with pytest.raises(ConfigError, match="next page"):
        zy.more(second)


def test_lists_of_a_page_by_name() -> None:
    def say(request: Any) -> Any:
        names = [widget["name"] for widget in json.loads(request.content)["widgets"]]
        return httpx.Response(200, json={"widgets": [{"name": name, **ROWS} for name in names]})

    found = fake(say).pages([{"name": "top", "k": 1}, {"name": "new", "kind": "trending"}], user="u")
    assert list(found) == ["top", "new"]
    assert found["new"].items[0].item == "a"


def test_many_items_go_in_parts_of_bounded_size() -> None:
    parts: list[bytes] = []

    def say(request: Any) -> Any:
        assert request.headers["Content-Type"] == "application/x-ndjson"
        parts.append(request.content)
        return httpx.Response(200, json={"accepted": 1, "rejected": [{"line": 2, "reason": "price is no number"}]})

    read = iter([(f"i{n}", {"title": "茶" * 10} if n else None) for n in range(2_500)])
    written = fake(say).put_items(read)
    lines = [json.loads(line) for part in parts for line in part.splitlines()]
    assert [len(part.splitlines()) for part in parts] == [1_000, 1_000, 500]
    assert lines[0] == {"id": "i0", "columns": None}
    assert [line["id"] for line in lines] == [f"i{n}" for n in range(2_500)]
    assert written.accepted == 3
    assert [row["line"] for row in written.rejected] == [2, 1_002, 2_002]
    parts.clear()
    fake(say).put_users((f"u{n}", {"about": "x" * 400_000}) for n in range(5))
    assert [len(part.splitlines()) for part in parts] == [2, 2, 1]


def test_what_cannot_be_sent_is_said_at_once() -> None:
    def never(request: Any) -> Any:
        raise AssertionError

    zy = fake(never)
    with pytest.raises(ConfigError, match="JSON"):
        zy.put_item("i", {"price": float("nan")})
    with pytest.raises(ConfigError, match="zone"):
        zy.event("u", "i", time=datetime(2026, 1, 1))
    with EventQueue(zy) as bring, pytest.raises(ConfigError):
        bring.add("u", "i", value=float("inf"))
    awaited = AsyncClient(URL, KEY, transport=httpx.MockTransport(never)).put_item("i", {"price": float("nan")})
    with pytest.raises(ConfigError, match="JSON"):  # and where it is awaited, with all else that may go wrong
        asyncio.run(awaited)


def test_a_full_queue_raises_or_drops() -> None:
    open_door, seen = threading.Event(), []

    def slow(request: Any) -> Any:
        open_door.wait(10)
        told = [{"id": e["id"], "status": "accepted"} for e in json.loads(request.content)["events"]]
        seen.extend(told)
        return httpx.Response(200, json={"events": told, "rejected": 0})

    raising, dropping = (
        EventQueue(fake(slow), max_events=3, flush_seconds=0.01),
        EventQueue(fake(slow), 3, "drop", flush_seconds=0.01),
    )
    for n in range(3):
        raising.add("u", f"i{n}")
        dropping.add("u", f"i{n}")
    with pytest.raises(EventQueueFullError, match="3 events"):
        raising.add("u", "i4")
    assert dropping.add("u", "i4")
    assert dropping.dropped == 1
    open_door.set()
    assert raising.close() == dropping.close() == 0
    assert (raising.sent, dropping.sent, len(seen)) == (3, 3, 6)


def test_events_wait_while_the_service_is_away() -> None:
    tries: list[bytes] = []

    def away(request: Any) -> Any:
        tries.append(request.content)
        if len(tries) < 4:
            raise httpx.ConnectError("away", request=request)
        told = [{"id": e["id"], "status": "accepted"} for e in json.loads(request.content)["events"]]
        return httpx.Response(200, json={"events": told, "rejected": 0})

    with EventQueue(fake(away, retries=0), flush_seconds=0.01) as bring:
        bring.add("u", "i")
        assert bring.flush(10)
    assert len(set(tries)) == 1
    assert bring.sent == 1

    def dead(request: Any) -> Any:
        raise httpx.ConnectError("away", request=request)

    lost = EventQueue(fake(dead, retries=0), flush_seconds=0.01)
    lost.add("u", "i")
    begun = time.monotonic()
    assert lost.close(timeout=0.3) == 1
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 507])
def test_events_wait_while_the_service_may_recover(status: int) -> None:
    seen, answer = busy(6, status, after="0")
    with EventQueue(fake(answer, retries=0), flush_seconds=0.01, batch_size=3) as bring:
        for n in range(7):
            bring.add("u", f"i{n}")
        assert bring.flush(10)
        assert (bring.sent, bring.rejected, bring.dropped) == (7, 0, 0)
    kept = [event["item"] for request in seen[6:] for event in json.loads(request.content)["events"]]
    assert sorted(kept) == [f"i{n}" for n in range(7)]


@pytest.mark.parametrize("status", [413, 422, 500])
def test_one_event_that_spoils_a_request_costs_itself_alone(status: int) -> None:
    kept: list[str] = []

    def answer(request: Any) -> Any:
        events = json.loads(request.content)["events"]
        if any(event["item"] == "bad" for event in events):
            return httpx.Response(status, json={"error": "no"})
        kept.extend(event["item"] for event in events)
        told = [{"id": event["id"], "status": "accepted"} for event in events]
        return httpx.Response(200, json={"events": told, "rejected": 0})

    bring = EventQueue(fake(answer, retries=0), flush_seconds=0.001)
    for n in range(20):
        bring.add("u", "bad" if n == 5 else f"i{n}")
    eventually(lambda: bring.sent == 19)
    assert sorted(kept) == sorted(f"i{n}" for n in range(20) if n != 5)
    left = 1 if status == 500 else 0  # what may be the service's own fault is tried again
    assert bring.close(timeout=0.1) == left
    assert bring.rejected == 1 - left


def test_retry_after_is_kept_to() -> None:
    soon = formatdate(time.time() + 90, usegmt=True)
    assert retry_after_seconds("7") == 7.0
    assert 85 < retry_after_seconds(soon) <= 90
    assert retry_after_seconds("soon") == retry_after_seconds("") == retry_after_seconds(formatdate(0)) == 0.0
    seen, answer = busy(1, 503, after="3600")
    bring = EventQueue(fake(answer, retries=0), flush_seconds=0.01)
    bring.add("u", "i")
    eventually(lambda: bring._retry_after == 3600.0)
    assert bring.close(timeout=0.05) in (0, 1)
    assert len(seen) <= 2


def test_the_oldest_give_way() -> None:
    def dead(request: Any) -> Any:
        raise httpx.ConnectError("away", request=request)

    bring = EventQueue(fake(dead, retries=0), max_events=10, on_full="drop", batch_size=2, flush_seconds=0.01)
    for n in range(30):
        bring.add("u", f"i{n}")
    assert bring.dropped == 20
    held = [event.item for event in (*bring._in_flight, *bring._pending)]
    assert len(held) == 10
    assert held[-1] == "i29"
    assert bring.close(timeout=0.05) == 10


def test_events_that_are_refused_do_not_come_back(caplog: pytest.LogCaptureFixture) -> None:
    seen, answer = busy(1, 403)
    with EventQueue(fake(answer), flush_seconds=0.01) as bring:
        bring.add("someone", "i")
        assert bring.flush(10)
        assert bring.rejected == 1
        bring.add("someone", "j")
    assert bring.sent == 1
    assert len(seen) == 2


def test_both_clients_offer_the_same() -> None:
    def offered(kind: type[Any]) -> dict[str, Any]:
        named = {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_")}
        return {name: inspect.signature(method) for name, method in named.items() if callable(method)}

    assert offered(Client) == offered(AsyncClient)
    assert {name for name in vars(Methods) if not name.startswith("_")} <= offered(Client).keys()
    assert list(inspect.signature(Client.event).parameters)[:3] == ["self", "user", "item"]
    assert Client.get_list.__name__ == "get_list"
    assert Client.event.__doc__


TYPED = """
import asyncio
from typing import Any
from zhiyin.client import AsyncClient, Client, EventResult, EventsResult, Recommendations

def now(zy: Client) -> None:
    reveal_type(zy.recommend)
    fate: EventResult = zy.event("u", "i", kind="view")
    kept: EventsResult = zy.events([])
    zy.recommend(usr="u")

async def later(zy: AsyncClient) -> None:
    found: Recommendations = await zy.recommend(user="u")
    asyncio.create_task(zy.popular(k=3))
    wrong: Recommendations = zy.popular()
"""


@pytest.mark.slow
def test_types_are_those_of_the_calls(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each method has the arguments of its call; one client gives the value, the other what to await."""
    rows = mypy_messages(TYPED, tmp_path, tmp_path_factory.getbasetemp() / "mypy")
    assert rows[0].startswith("7: note: Revealed type is")
    assert "user: str | None =" in rows[0]
    assert "-> zhiyin.client.api_types.Recommendations" in rows[0]
    errors = [row for row in rows if "error" in row]
    assert [row.partition(":")[0] for row in errors] == ["10", "15"]
    assert "Coroutine[Any, Any, Recommendations]" in errors[1]


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, zhiyin.client; print([m for m in ('httpx', 'numpy', 'polars', 'fastapi') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_without_httpx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(MissingExtraError, match="httpx") as error:
        Client(URL, KEY)
    assert "zhiyin[client]" in str(error.value.remedy)
    assert isinstance(error.value, ZhiyinError)
