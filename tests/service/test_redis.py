"""A service with Redis: how often a list asks it, and what is said and done where it does not answer."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("redis")

import redis

from zhiyin.pipeline.rules import Rules
from zhiyin.store.live_state import GRACE_SECONDS

from .conftest import click, client_of, eventually, listed
from .test_metrics import figures

pytestmark = pytest.mark.slow

SHOWN = Rules.from_dict({"frequency": {"at_most": 5, "window": "1d"}})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Any]:
    import shutil

    from ..store.test_live_state import Server

    if not shutil.which("redis-server"):
        pytest.skip("Redis is not installed: no redis-server on the path")
    made = Server(tmp_path)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def shared(opened: Callable[..., Any], server: Any) -> Callable[..., Any]:
    """A client of a shop with Redis."""
    from zhiyin.store.redis_state import RedisState

    return lambda **options: client_of(opened(options=options, several=True, state=RedisState(server.url)))


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by the thread's name with each message that is sent to a Redis and waited for."""
    sent: list[str] = []
    plain = redis.connection.AbstractConnection.send_packed_command

    def send(self: Any, *args: Any, **named: Any) -> Any:
        sent.append(threading.current_thread().name)
        return plain(self, *args, **named)

    monkeypatch.setattr(redis.connection.AbstractConnection, "send_packed_command", send)
    return sent


@pytest.mark.parametrize(
    ("rules", "body", "cold", "warm"),
    [
        ({}, {"user": "ann"}, 2, 1),
        ({}, {"user": "ann", "session": "s"}, 3, 1),
        ({}, {}, 0, 0),
        ({"rules": SHOWN}, {"user": "ann"}, 3, 2),  # and one to count what is shown
        ({"rules": SHOWN}, {"session": "s"}, 3, 2),
        ({"rules": SHOWN}, {"user": "ann", "session": "s"}, 4, 2),
    ],
)
def test_a_list_asks_redis_once(
    shared: Callable[..., Any], trips: list[str], rules: Any, body: Any, cold: int, warm: int
) -> None:
    client = shared(**rules)
    listed(client, user="somebody", k=3)  # connections and scripts are there
    click(client, {"user": "somebody", "item": "i1"})
    for wanted in (cold, warm, warm):
        trips.clear()
        listed(client, k=3, **body)
        assert len(trips) == wanted
    if "user" in body:
        trips.clear()
        click(client, {"user": "ann", "item": "i1"}, {"user": "ann", "item": "i3"}, {"user": "bob", "item": "i3"})
        assert len(trips) == 1
        trips.clear()
        assert not {"i1", "i3"} & set(listed(client, k=40, **body))
        assert len(trips) == warm


def away(client: Any) -> tuple[bool, float]:
    """What /ready and /metrics say."""
    entries = client.get("/ready").json().get("set_aside", [])
    return any(one["what"] == "Redis" for one in entries), figures(client)["zhiyin_live_state_away",]


def test_a_redis_that_is_stopped_stops_no_list_and_is_told_of(shared: Callable[..., Any], server: Any) -> None:
    client = shared(rules=SHOWN)
    before = listed(client, user="u1", k=5)
    assert away(client) == (False, 0)
    os.kill(server.process.pid, signal.SIGSTOP)  # it takes connections and never answers
    begun = time.monotonic()
    try:
        for n in range(40):
            assert listed(client, user="u1", k=5) == before or n >= 4  # caps are counted on here
            assert click(client, {"user": "u2", "item": f"i{n}"}).json()["rejected"] == 0
        took = time.monotonic() - begun
        assert "i7" not in listed(client, user="u2", k=40)
        assert away(client) == (True, 1)
        assert client.get("/ready").status_code == 200
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    assert took < 15
    eventually(lambda: away(client) == (False, 0))
    assert "i7" not in listed(client, user="u2", k=40)


def test_a_slow_redis_is_done_without(
    shared: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, trips: list[str]
) -> None:
    """Each answer comes a fifth of a second late, sooner than it is given up: after a few it is asked no more."""
    client = shared()
    listed(client, user="u1", k=5)
    slow = threading.Event()
    plain = redis.connection.AbstractConnection.read_response
    monkeypatch.setattr(
        redis.connection.AbstractConnection, "read_response",
        lambda self, *args, **named: (slow.is_set() and time.sleep(0.2), plain(self, *args, **named))[1],
    )  # fmt: skip
    slow.set()
    trips.clear()
    for n in range(30):
        listed(client, user=f"u{n}", k=5)
    assert 1 <= sum(not name.startswith("zhiyin-redis") for name in trips) <= 5
    assert away(client) == (True, 1)
    slow.clear()
    eventually(lambda: away(client) == (False, 0))


def test_of_a_forgotten_user_redis_holds_a_mark_that_passes(opened: Callable[..., Any], server: Any) -> None:
    """Keys and values of Redis, searched for the id and its hash; also after two processes asked for the user again."""
    from zhiyin.store.redis_state import RedisState

    person = "person-7741@example.org"
    who = hashlib.sha256(person.encode()).hexdigest()[:32]
    shops = [opened(options={"rules": SHOWN}, several=True, state=RedisState(server.url)) for _ in range(2)]
    shops[1].shown = shops[0].shown  # keys are told once
    one, other = map(client_of, shops)
    click(one, {"user": person, "item": "i1", "kind": "kind9953"}, {"user": "bob", "item": "i1"})
    for client in (one, other):
        for user in (person, "bob"):
            listed(client, user=user, k=5)

    def held() -> dict[str, str]:
        with redis.Redis.from_url(server.url, decode_responses=True) as link:
            read = {"string": link.get, "hash": link.hgetall, "zset": lambda key: link.zrange(key, 0, -1),
                    "list": lambda key: link.lrange(key, 0, -1)}  # fmt: skip
            return {key: str(read[link.type(key)](key)) for key in link.scan_iter("*")}

    def of_person() -> list[str]:
        return [key for key, value in held().items() if any(mark in key + value for mark in (who, person, "kind9953"))]

    assert len(of_person()) >= 3  # events, showings, the index of users
    assert one.delete(f"/v1/users/{person}").status_code == 200
    (mark,) = of_person()
    assert ":gone:" in mark
    with redis.Redis.from_url(server.url) as link:
        assert 0 < link.ttl(mark) <= GRACE_SECONDS
    assert held()[mark].isdecimal()
    for client in (one, other):
        assert client.get(f"/v1/users/{person}/history").json()["events"] == []
    assert of_person() == [mark]
    assert len([key for key in held() if "shown" in key]) == 1  # bob's stay
