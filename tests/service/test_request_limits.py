"""What is refused: too large, too slow, too often, too much at once, too long; and what browsers may do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

import pytest

pytest.importorskip("starlette")

from zhiyin.core.errors import ConfigError
from zhiyin.core.work_limits import check
from zhiyin.service.app import create_app
from zhiyin.service.errors import RefusedError
from zhiyin.service.request_context import RequestContextMiddleware
from zhiyin.service.request_limits import MAX_BODY_BYTES, Rate, RequestLimitMiddleware, Work
from zhiyin.store.group_commit import GroupCommitWriter

from .conftest import click, client_of, eventually, listed

SHOP = "https://shop.example"


async def taken(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An application that says how many bytes it was sent."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


async def ask(
    app: Any,
    chunks: Iterable[bytes],
    headers: dict[str, str],
    method: str = "POST",
    path: str = "/v1/",
    then: Any = None,
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer to a body in chunks. then: awaited after the last one, before the end."""
    rest, said, body = list(chunks), dict[str, Any](), bytearray()

    async def receive() -> dict[str, Any]:
        if rest:
            return {"type": "http.request", "body": rest.pop(0), "more_body": bool(rest) or then is not None}
        if then is not None:
            await then()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            said.update(message)
        else:
            body.extend(message.get("body", b""))

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
             "raw_path": path.encode(), "root_path": "", "scheme": "http", "query_string": b"", "client": None,
             "server": None, "headers": [(n.lower().encode(), v.encode()) for n, v in headers.items()]}  # fmt: skip
    await app(scope, receive, send)
    return said["status"], {n.decode(): v.decode() for n, v in said["headers"]}, bytes(body)


# -- size and time of a body -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chunks", "headers", "status"),
    [
        ([b"x" * 100], {"content-length": "100"}, 200),
        ([b"x" * 40] * 3, {"transfer-encoding": "chunked"}, 413),
        ([b"x" * 40] * 2, {"transfer-encoding": "chunked"}, 200),
        ([b"x" * 101], {}, 413),
        ([], {"content-length": "101"}, 413),
        ([], {"content-length": "9" * 5_000}, 413),
        ([b"x" * 101], {"content-length": "7"}, 413),  # whatever it says
        ([b"x" * 40] * 3, {"content-length": "-1"}, 413),
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_a_body_of_so_many_bytes(chunks: list[bytes], headers: dict[str, str], status: int, method: str) -> None:
    if method == "DELETE" and not headers:
        status = 200  # HTTP knows no such body: it is never read
    found, said, body = asyncio.run(ask(RequestLimitMiddleware(taken, body=100), chunks, headers, method))
    assert found == status
    if status == 413:
        assert said["connection"] == "close"
        assert b"too large" in body
    elif method == "POST":
        assert int(body) == sum(map(len, chunks))


def test_the_limit_holds_for_the_service(service: Any) -> None:
    most, more = b" " * MAX_BODY_BYTES, b" " * (MAX_BODY_BYTES + 1)
    assert service.post("/v1/events", content=more).status_code == 413
    assert service.post("/v1/events", content=iter([more[:9], more[9:]])).status_code == 413
    assert service.post("/v1/events", content=most).status_code == 422


def test_a_body_that_does_not_come() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    app = RequestLimitMiddleware(taken, sending=0.05)
    status, _, body = asyncio.run(ask(app, [b"a"], {"content-length": "2"}, then=never))
    assert status == 408
    assert b"too slowly" in body


# -- rate --------------------------------------------------------------------------------------------------------------


def test_so_many_a_second_and_twice_as_many_at_once() -> None:
    now = [100.0]
    rate = Rate(2, lambda: now[0])
    for _ in range(4):
        rate.take("read")
    with pytest.raises(RefusedError) as found:
        rate.take("read")
    assert (found.value.status, found.value.retry) == (429, 0.5)
    rate.take("admin")  # has tokens of its own
    now[0] += 0.49
    with pytest.raises(RefusedError):
        rate.take("read")
    now[0] += 0.02
    rate.take("read")
    with pytest.raises(RefusedError):
        rate.take("read")
    now[0] += 1_000
    for _ in range(4):  # a long rest fills it, and no more
        rate.take("read")
    with pytest.raises(RefusedError):
        rate.take("read")


def test_buckets_are_held_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Visitors come and go: those that were away longest are forgotten."""
    monkeypatch.setattr("zhiyin.service.request_limits.MAX_BUCKETS", 3)
    rate = Rate(1, lambda: 0.0)
    for key in ("a", "b", "c", "a"):
        rate.take(key)
    rate.take("d")  # "b" goes, "a" came again since
    with pytest.raises(RefusedError):
        rate.take("a")
    rate.take("b")
    assert len(rate._left) == 3


def test_429_says_when_to_come_again(opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("zhiyin.service.authentication.Rate", lambda a_second: Rate(a_second, lambda: now[0]))
    client = client_of(opened(rate=1))
    said = [client.get("/v1/popular") for _ in range(3)]
    assert [one.status_code for one in said] == [200, 200, 429]
    assert said[2].headers["retry-after"] == "1"
    assert said[2].json()["remedy"] == "at most 1 a second"
    events = {"Authorization": f"Bearer {client.keys['events']}"}
    assert client.post("/v1/events", json={"events": [{"user": "a", "item": "i1"}]}, headers=events).status_code == 200
    assert client.get("/health").status_code == 200
    now[0] = 1.0
    assert client.get("/v1/popular").status_code == 200


# -- work --------------------------------------------------------------------------------------------------------------


class Held:
    """Work that goes on until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go, self.times = threading.Event(), threading.Event(), 0

    def __call__(self) -> int:
        self.times += 1
        self.begun.set()
        assert self.go.wait(10)
        return self.times


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.001)


def test_what_is_too_much_is_refused_at_once() -> None:
    async def play() -> None:
        work, held = Work(threads=1, waiting=1), Held()
        first, second = (asyncio.create_task(work.do(held)) for _ in range(2))
        await until(held.begun.is_set)
        assert work.busy == 2
        with pytest.raises(RefusedError) as found:
            await work.do(held)
        assert found.value.status == 503
        held.go.set()
        assert sorted([await first, await second]) == [1, 2]
        assert work.busy == 0
        assert await work.do(held) == 3
        work.close()

    asyncio.run(play())


def test_short_work_is_done_on_the_loop_for_as_long_as_it_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 0.001

    class Clock:
        """The processor time of a thread that does nothing but short work."""

        now = 0.0

        def thread_time(self) -> float:
            Clock.now += seconds
            return Clock.now

        def __getattr__(self, name: str) -> Any:
            return getattr(time, name)

    monkeypatch.setattr("zhiyin.service.request_limits.time", Clock())

    async def play() -> None:
        nonlocal seconds
        here, work = threading.get_ident(), Work(threads=1, on_loop=True)
        assert await work.do_short("list", threading.get_ident) == here
        seconds = 10.0  # one that was very long, such as the first, counts as a long one
        assert await work.do_short("list", threading.get_ident) == here
        seconds = 0.001
        assert await work.do_short("list", threading.get_ident) == here
        seconds = 0.02
        threads = [await work.do_short("list", threading.get_ident) for _ in range(50)]
        assert threads[-1] != here
        assert await work.do_short("other", threading.get_ident) == here
        seconds = 0.001
        threads = [await work.do_short("list", threading.get_ident) for _ in range(50)]
        assert threads[-1] == here
        with pytest.raises(ZeroDivisionError):
            await work.do_short("list", lambda: 1 / 0)
        work.close()
        threaded = Work(threads=1)
        assert await threaded.do_short("list", threading.get_ident) != here
        threaded.close()

    asyncio.run(play())


def test_plain_requests_whose_filter_is_known_are_short(opened: Callable[..., Any]) -> None:
    shop = opened(several=True)
    app = create_app([shop], Work(threads=1, on_loop=True))
    key = {"authorization": f"Bearer {shop.shown['admin']}", "content-type": "application/json"}
    threads: list[int] = []
    shop.list_service.on_list = lambda result, origin: threads.append(threading.get_ident())

    async def on_loop(path: str = "/v1/recommendations", **body: Any) -> bool:
        status, _, answer = await ask(app, [json.dumps(body).encode()], key, path=path)
        assert status == 200, answer
        return threads[-1] == threading.get_ident()

    async def play() -> None:
        assert not await on_loop(user="u3", filter="price < 30")  # the filter is evaluated, which may take a while
        assert await on_loop(user="u4", filter="price < 30", k=3)
        assert not await on_loop(user="u3", filter="price < 31")
        assert not await on_loop(user="u3", filter="price < 30", explain=True)
        assert not await on_loop(user="u3", filter="price < 30", k=101)
        assert not await on_loop("/v1/rank", user="u3", items=["i1", "i2"])
        assert await on_loop("/v1/rank", user="u3", items=["i1", "i2"])
        shop.list_service._waits = True
        assert not await on_loop("/v1/rank", user="u3", items=["i1", "i2"])

    asyncio.run(play())


def test_work_that_is_given_up_holds_its_place_until_it_ends() -> None:
    async def play() -> None:
        work, held, other = Work(threads=1, waiting=1), Held(), Held()
        first = asyncio.create_task(work.do(held))
        await until(held.begun.is_set)
        second = asyncio.create_task(work.do(other))
        await until(lambda: work.busy == 2)
        for task in (first, second):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert work.busy == 1  # the thread is not free
        held.go.set()
        await until(lambda: work.busy == 0)
        work.close()
        assert other.times == 0  # it only waited, so it was never begun

    asyncio.run(play())


def test_a_request_that_takes_too_much_work_is_refused(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zhiyin.service.request_limits.MAX_WORK_UNITS", 1e7)
    bomb = " OR ".join(f"LOWER(title) LIKE '%{n}%'" for n in range(90))
    for path, body in (
        ("/v1/recommendations", {"filter": bomb}), ("/v1/rank", {"items": ["i1"], "filter": bomb}),
        ("/v1/pages", {"widgets": [{"name": f"w{n}", "filter": f"price > {n} AND ({bomb})"} for n in range(5)]}),
    ):  # fmt: skip
        answer = service.post(path, json=body)
        assert answer.status_code == (422 if path == "/v1/rank" else 400), answer.text
    assert "too much work" in answer.json()["error"]
    assert service.get("/v1/popular", params={"filter": bomb}).status_code == 400
    assert service.put("/v1/placements/p", json={"filter": bomb}).status_code == 400
    assert listed(service, user="u3", filter="price > 3")


def test_work_of_a_request_that_is_over_is_stopped(opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread is free again long before the work would have ended by itself."""
    from starlette.testclient import TestClient

    shop, begun, ended = opened(), threading.Event(), threading.Event()

    def endless(*args: Any, **more: Any) -> Any:
        begun.set()
        try:
            while True:
                check()
        finally:
            ended.set()

    with monkeypatch.context() as patched:
        patched.setattr(shop.list_service, "create", endless)
        short = TestClient(create_app([shop], longest=0.2))
        short.headers["Authorization"] = f"Bearer {shop.shown['admin']}"
        assert short.get("/v1/popular").status_code == 503
        assert begun.is_set()
        assert ended.wait(10)
    assert short.get("/v1/popular").status_code == 200


def test_a_held_store_holds_up_no_list(opened: Callable[..., Any]) -> None:
    """Another process holds the store: whoever writes waits for it, in threads that make no lists."""
    shop = opened()
    client = client_of(shop)
    writes, made, statuses = client.app.state.authenticator.writes, listed_id(client), []
    routes = [
        ("PUT", "/v1/items/i1", {"price": 1.0}), ("PATCH", "/v1/items/i2", {"price": 2.0}),
        ("DELETE", "/v1/items/i3", None), ("PUT", "/v1/users/u1", {"age": 1}), ("DELETE", "/v1/users/u2", None),
        ("POST", "/v1/items", {"id": "i4", "columns": {"price": 3.0}}),
        ("PUT", "/v1/placements/p", {"k": 3}), ("PUT", "/v1/schema", {"items": {"colour": "text"}}),
        ("POST", "/v1/keys", {"name": "more", "scopes": ["read"]}),
        ("POST", f"/v1/impressions/{made}", {"items": ["i1"]}),
    ]  # fmt: skip

    def send(method: str, path: str, body: Any) -> None:
        statuses.append(client.request(method, path, json=body).status_code)

    with contextlib.closing(sqlite3.connect(shop.store.path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        threads = [threading.Thread(target=send, args=route) for route in routes]
        for thread in threads:
            thread.start()
        eventually(lambda: writes.busy == len(routes))
        assert [len(listed(client, user="u5", k=3)) for _ in range(5)] == [3] * 5
        assert client.get("/v1/users/u5/history").status_code == 200
        assert statuses == []
        holder.execute("ROLLBACK")
    for thread in threads:
        thread.join()
    assert len(statuses) == len(routes)
    assert all(status < 300 for status in statuses), statuses


def listed_id(client: Any) -> str:
    return client.post("/v1/recommendations", json={"k": 3}).json()["list_id"]


def test_503_where_too_much_waits(opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    shop, held = opened(), Held()
    client = client_of(shop)
    work = Work(threads=1, waiting=0)
    from starlette.testclient import TestClient

    monkeypatch.setattr(shop.store, "history", lambda user, most: held() and [])
    full = TestClient(create_app([shop], work))
    full.headers["Authorization"] = client.headers["Authorization"]
    thread = threading.Thread(target=full.get, args=("/v1/users/u1/history",))
    thread.start()
    assert held.begun.wait(10)
    answer = full.get("/v1/popular")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert full.get("/health").status_code == 200
    assert "zhiyin_requests_busy 1.0" in full.get("/metrics").text  # figures are wanted most when all are busy
    held.go.set()
    thread.join()
    assert full.get("/v1/popular").status_code == 200


def test_work_that_waits_is_dropped_with_its_client(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, held, asked = opened(), Held(), []
    monkeypatch.setattr(shop.store, "history", lambda user, most: held() and [])
    monkeypatch.setattr(shop.list_service, "create", lambda *args, **more: asked.append(args))
    app, key = create_app([shop], work := Work(threads=1)), {"authorization": f"Bearer {shop.shown['admin']}"}

    async def play() -> None:
        first = asyncio.create_task(ask(app, [b""], key, "GET", "/v1/users/u1/history"))
        await until(held.begun.is_set)
        # This client sends its request and is gone.
        status, _, _ = await ask(app, [b""], key, "GET", "/v1/popular")
        assert status == 499
        status, _, _ = await ask(app, [b'{"user": "u3"}'], key | {"content-type": "application/json"}, "POST",
                                 "/v1/recommendations")  # fmt: skip
        assert status == 499
        assert work.busy == 1
        held.go.set()
        assert (await first)[0] == 200

    asyncio.run(play())
    assert not asked
    work.close()


def test_every_request_ends(opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    shop, held = opened(), Held()
    monkeypatch.setattr(shop.store, "history", lambda user, most: held() and [])
    from starlette.testclient import TestClient

    client = TestClient(create_app([shop], longest=0.3))
    client.headers["Authorization"] = f"Bearer {shop.shown['admin']}"
    answer = client.get("/v1/users/u1/history")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "longer than 0.3 seconds" in answer.json()["error"]
    held.go.set()
    monkeypatch.setattr(shop.writer, "submit", lambda events, validated: Future())  # a commit that never comes
    answer = client.post("/v1/events", json={"events": [{"user": "a", "item": "i1"}]})
    assert answer.status_code == 503


def test_an_answer_that_has_begun_is_not_begun_again() -> None:
    async def half(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("in the middle")

    seen: list[int] = []
    status, _, body = asyncio.run(ask(RequestContextMiddleware(half, [lambda one: seen.append(one.status)]), [b""], {}))
    assert (status, body, seen) == (200, b"", [200])


# -- store -------------------------------------------------------------------------------------------------------------


def test_a_full_queue_of_events_is_a_503(opened: Callable[..., Any]) -> None:
    shop = opened()
    client = client_of(shop)
    shop.writer.close()
    answer = click(client, {"user": "a", "item": "i1"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    shop.writer = GroupCommitWriter(shop.store, waiting=3)
    answer = click(client, *[{"user": "a", "item": "i1"}] * 4)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "wait to be written" in answer.json()["error"]
    assert shop.store.count() == 0
    assert click(client, *[{"user": "a", "item": "i1"}] * 3).status_code == 200
    eventually(lambda: shop.writer.waiting == 0)
    assert shop.store.count() == 3


# -- ids and headers ---------------------------------------------------------------------------------------------------


def test_a_request_has_an_id(service: Any) -> None:
    for sane in ("a", "web-1.2_X", "f" * 64):
        assert service.get("/health", headers={"X-Request-Id": sane}).headers["x-request-id"] == sane
    made = set()
    for bad in ("", "f" * 65, "a b", 'a"', "知".encode(), service.keys["admin"]):
        made.add(service.get("/health", headers={"X-Request-Id": bad}).headers["x-request-id"])
    assert len(made) == 6
    assert all(len(one) == 32 for one in made)
    for path in ("/nowhere", "/v1/items/nothing", "/docs"):
        assert service.get(path).headers["x-request-id"]
    assert service.post("/v1/events", content=b"x" * (MAX_BODY_BYTES + 1)).headers["x-request-id"]


@pytest.mark.parametrize("path", ["/health", "/v1/popular", "/nowhere", "/v1/recommendations?k=x", "/docs", "/metrics"])
def test_headers_of_every_answer(service: Any, path: str) -> None:
    headers = service.get(path).headers
    assert headers.get_list("x-content-type-options") == ["nosniff"]
    assert headers.get_list("referrer-policy") == ["no-referrer"]
    assert headers.get_list("cache-control") == ["no-store"]
    assert not [name for name in headers if name.startswith("access-control")]


def test_pages_keep_their_own_headers(service: Any) -> None:
    headers = service.get("/try").headers
    assert headers.get_list("cache-control") == ["no-cache"]
    assert headers.get_list("x-content-type-options") == ["nosniff"]


# -- browsers ----------------------------------------------------------------------------------------------------------


def preflight(client: Any, origin: str, method: str = "POST", headers: str = "authorization,content-type") -> Any:
    return client.options("/v1/recommendations", headers={
        "Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers,
        "Authorization": "",
    })  # fmt: skip


def test_no_other_web_site_may_call(service: Any) -> None:
    for answer in (preflight(service, SHOP), service.get("/v1/popular", headers={"Origin": SHOP})):
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert preflight(service, SHOP).status_code == 405


def test_web_sites_of_the_settings_may_call(opened: Callable[..., Any]) -> None:
    client = client_of(opened(origins=[SHOP]))
    asked = preflight(client, SHOP)
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == SHOP
    assert "authorization" in asked.headers["access-control-allow-headers"].lower()
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in asked.headers
    answer = client.post("/v1/recommendations", json={"user": "u3"}, headers={"Origin": SHOP})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == SHOP
    refused = client.post("/v1/recommendations", content=b"{", headers={"Origin": SHOP})
    assert refused.status_code == 422
    assert refused.headers["access-control-allow-origin"] == SHOP
    large = client.post("/v1/events", content=b"x" * (MAX_BODY_BYTES + 1), headers={"Origin": SHOP})
    assert (large.status_code, large.headers["access-control-allow-origin"]) == (413, SHOP)
    for other in ("https://other.example", "http://shop.example", "https://shop.example.other", "null"):
        assert "access-control-allow-origin" not in preflight(client, other).headers
        plain = client.get("/v1/popular", headers={"Origin": other})
        assert "access-control-allow-origin" not in plain.headers
    assert preflight(client, SHOP, "DELETE").status_code == 400  # what changes items is not for pages


def test_nothing_is_shared_between_shops(opened: Callable[..., Any]) -> None:
    one, two = opened("one"), opened("two")
    assert client_of(one, two).get("/health").status_code == 200
    with pytest.raises(ConfigError, match="no shop"):
        create_app([])
    with pytest.raises(ConfigError, match="share a key"):
        create_app([one, one])
    keys, two.keys = two.keys, one.keys
    with pytest.raises(ConfigError, match="share a key"):
        create_app([one, two])
    two.keys, two.store = keys, one.store
    with pytest.raises(ConfigError, match="share a store"):
        create_app([one, two])
    assert listed(client_of(one), user="u3")
