"""Live state in memory, without any, and in a real Redis that comes and goes."""

from __future__ import annotations

import logging
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conformance.state import NOW, Clock, Shop, StateConformance, event
from zhiyin.core.errors import ConfigError
from zhiyin.store.frequency_counts import Showings
from zhiyin.store.live_state import GRACE_SECONDS, TTL_SECONDS, LiveState, Recent
from zhiyin.store.memory_state import DirectState, MemoryState

Make = Callable[[Callable[[], float]], LiveState]


class TestMemory(StateConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls) -> Make:
        return lambda clock: MemoryState(clock=clock)

    def test_who_was_asked_for_longest_ago_goes_first(self, shop: Shop) -> None:
        state = MemoryState(users=2)
        for name in ("a", "b", "a", "c", "a", "b"):
            state.recent(name, shop.load(name))
        assert (state.users, shop.asked) == (2, 4)

    def test_events_are_bounded_too(self, shop: Shop) -> None:
        state, names = MemoryState(events=100), [f"u{n}" for n in range(20)]
        for name in names:
            shop.log += [event(n, user=name) for n in range(10)]
        for name in names:
            assert state.recent(name, shop.load(name)) == shop.now(name)
        assert (state.users, state._recent.currsize) == (10, 100)
        state.add_events([event(n, user="u19") for n in range(10, 60)])
        assert (state.users, state._recent.currsize) == (5, 100)  # room is made of those who were asked for longest ago
        state.forget("u18", NOW)
        assert (state.users, state._recent.currsize) == (4, 90)

    def test_what_was_loaded_long_ago_is_loaded_anew(self, state: LiveState, shop: Shop, clock: Clock) -> None:
        state.recent("alice", shop.load("alice"))
        shop.log.append(event(1))  # by another program
        clock.seconds += TTL_SECONDS - 1
        assert state.recent("alice", shop.load("alice")).events == ()
        clock.seconds += 1
        assert state.recent("alice", shop.load("alice")).events == (event(1),)

    def test_one_forgotten_who_comes_again_is_held_after_the_grace(
        self, state: LiveState, shop: Shop, clock: Clock
    ) -> None:
        state.forget("alice", NOW)
        state.record_showings("alice", ["x"])
        assert state.showing_counts("alice") == {}
        clock.seconds += GRACE_SECONDS
        state.record_showings("alice", ["x"])
        assert state.showing_counts("alice") == {"x": 1}
        for _ in range(3):
            state.recent("alice", shop.load("alice"))
        assert shop.asked == 1

    def test_showings_of_all_users_are_bounded(self, clock: Clock) -> None:
        held = Showings(users=10, clock=clock, showings=100)
        for n in range(12):
            held.add(f"u{n}", [f"i{k}" for k in range(20)])
        assert [len(held.counts(f"u{n}")) for n in range(12)] == [0] * 7 + [20] * 5
        held.drop("u11")
        held.add("u1", ["a"] * 40)
        assert held._by_user.currsize == sum(sum(held.counts(f"u{n}").values()) for n in range(12)) <= 100
        clock.seconds += 50
        held.add("u1", ["b"], window=10)
        assert held.counts("u1") == {"b": 1}
        held.clear()
        assert held._by_user.currsize == 0

    def test_nothing_is_left_of_loads(self, state: MemoryState, shop: Shop) -> None:
        state.recent("alice", shop.load("alice"))
        assert state._loads == {}


class TestDirect(StateConformance):
    holds = False

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls) -> Make:
        return lambda clock: DirectState(clock=clock)


class Server:
    """A Redis of its own on a socket in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "redis.sock"
        self.url = f"unix://{self.path}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        import redis

        self.process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", str(self.path), "--dir", str(self.folder), "--save", "",
             *options],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        until = time.monotonic() + 20
        with redis.Redis.from_url(self.url) as link:
            while True:
                try:
                    link.ping()
                    return
                except redis.RedisError:
                    assert time.monotonic() < until, "Redis does not start"
                    time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("redis")
    if not shutil.which("redis-server"):
        pytest.skip("Redis is not installed: no redis-server on the path")
    made = Server(tmp_path_factory.mktemp("redis"))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


def until(there: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not there():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.slow
class TestRedis(StateConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, server: Server) -> Make:
        from zhiyin.store.redis_state import RedisState

        return lambda clock: RedisState(server.url, name=uuid.uuid4().hex, clock=clock)


def pair(server: Server, name: str) -> tuple[LiveState, LiveState]:
    from zhiyin.store.redis_state import RedisState

    return RedisState(server.url, name), RedisState(server.url, name)


@pytest.mark.slow
def test_one_process_hears_the_other(server: Server, name: str) -> None:
    here, there = pair(server, name)
    shop = Shop()
    here.recent("alice", shop.load("alice"))
    shop.log.append(event(1))
    there.add_events([event(1)])
    there.record_showings("alice", ["x"])
    assert here.recent("alice", shop.load("alice")).events == (event(1),)
    assert here.showing_counts("alice") == {"x": 1}
    assert (shop.asked, here.users, there.users) == (1, 1, 1)
    there.forget("alice", NOW)
    shop.forget("alice", NOW)
    assert here.recent("alice", shop.load("alice")) == Recent((), NOW)
    assert here.showing_counts("alice") == {}


@pytest.mark.slow
def test_one_process_loads_while_the_other_hears(server: Server, name: str) -> None:
    here, there = pair(server, name)
    shop = Shop()

    def load() -> Recent:
        found = shop.now("alice")
        shop.log.append(event(1))
        there.add_events([event(1)])
        return found

    here.recent("alice", load)
    assert here.recent("alice", shop.load("alice")).events == (event(1),)


@pytest.mark.slow
def test_tenants_are_apart_and_keys_tell_no_names(server: Server, name: str) -> None:
    import redis

    from zhiyin.store.redis_state import RedisState

    one, other = RedisState(server.url, name), RedisState(server.url, f"{name}2")
    for state in (one, other):
        state.recent("alice@example.org", lambda: Recent((event(1, user="alice@example.org"),)))
        state.record_showings("alice@example.org", ["x"])
    other.forget("alice@example.org", NOW)
    assert one.showing_counts("alice@example.org") == {"x": 1}
    assert (one.users, other.users) == (1, 0)
    with redis.Redis.from_url(server.url, decode_responses=True) as link:
        keys = list(link.scan_iter(f"zy:{name}:*"))
        assert keys
        assert not any("alice" in key for key in link.scan_iter("*"))
        passing = [key for key in keys if not key.endswith((":epoch", ":users"))]
        assert passing
        assert all(link.ttl(key) > 0 for key in passing)


@pytest.mark.slow
def test_a_list_that_grew_long_is_loaded_anew(server: Server, name: str) -> None:
    import redis

    from zhiyin.store.redis_state import MAX_APPENDED_EVENTS, RedisState

    state, shop = RedisState(server.url, name), Shop()
    shop.log += [event(n) for n in range(500)]
    state.recent("alice", shop.load("alice"))
    with redis.Redis.from_url(server.url) as link:
        key = next(link.scan_iter(f"zy:{name}:recent:*", count=100_000))
        sizes = []
        for n in range(500, 510 + MAX_APPENDED_EVENTS):
            shop.log.append(event(n))
            state.add_events([event(n)])
            sizes.append(link.llen(key))
        assert sizes == [*range(3, 3 + MAX_APPENDED_EVENTS), *[0] * 10]
    assert state.users == 0
    assert state.recent("alice", shop.load("alice")) == shop.now("alice")
    assert (shop.asked, state.users) == (2, 1)


@pytest.mark.slow
def test_a_slow_redis_is_asked_no_more_until_it_is_quick(
    server: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One slow answer is an accident; a mean of them is slower than the store."""
    from zhiyin.store.redis_state import RedisState

    now, slow = [100.0], [True]
    state = RedisState(server.url, name)
    plain = state._redis.ping

    def ping() -> object:
        now[0] += 0.2 * slow[0]
        return plain()

    monkeypatch.setattr(state._redis, "ping", ping)
    module = sys.modules[RedisState.__module__]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))

    def answer(seconds: float) -> None:
        now[0] += seconds

    state._do(lambda: answer(0.24))
    for _ in range(20):
        state._do(lambda: answer(0.001))
    assert not state.away
    for _ in range(4):
        state._do(lambda: answer(0.2))
    assert state.away
    assert state.recent("alice", lambda: Recent((), 7)).forgotten == 7  # the store is asked
    time.sleep(0.3)  # it answers meanwhile, slowly
    assert state.away
    slow[0] = False
    until(lambda: not state.away)
    state.close()


@pytest.mark.slow
def test_a_process_that_starts_trusts_nothing_from_before(server: Server, name: str) -> None:
    from zhiyin.store.redis_state import RedisState

    shop = Shop()
    RedisState(server.url, name).recent("alice", shop.load("alice"))
    shop.log.append(event(1))  # committed by a process that died before it could tell
    assert RedisState(server.url, name).recent("alice", shop.load("alice")).events == (event(1),)


@pytest.mark.slow
def test_a_load_from_before_a_new_epoch_does_not_fill(server: Server, name: str) -> None:
    from zhiyin.store.redis_state import RedisState

    here, shop = RedisState(server.url, name), Shop()

    def load() -> Recent:
        found = shop.now("alice")
        shop.log.append(event(1))
        RedisState(server.url, name).close()
        return found

    here.recent("alice", load)
    assert here.recent("alice", shop.load("alice")).events == (event(1),)


@pytest.mark.parametrize("address", ["nonsense://", "localhost:6379", "redis://a:b@[", "redis://h/0?socket_timeout=x"])
def test_addresses_that_cannot_be(address: str) -> None:
    pytest.importorskip("redis")
    from zhiyin.store.redis_state import RedisState

    with pytest.raises(ConfigError, match="address"):
        RedisState(address)


@pytest.mark.slow
def test_names_and_times_that_cannot_be(server: Server) -> None:
    from zhiyin.store.redis_state import RedisState

    for wrong in ("", "a:b", "a b", "x" * 65, "ü"):
        with pytest.raises(ConfigError, match="name"):
            RedisState(server.url, wrong)
    with pytest.raises(ConfigError, match="ttl"):
        RedisState(server.url, ttl=0.1)


@pytest.mark.slow
class TestAway:
    """Redis dies, hangs, and comes back."""

    @pytest.fixture
    def own(self, tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[Server]:
        made = Server(tmp_path_factory.mktemp("redis-away"))
        made.start()
        yield made
        made.stop()

    def test_the_store_is_asked_and_it_is_said_once(self, own: Server, caplog: pytest.LogCaptureFixture) -> None:
        from zhiyin.store.redis_state import RedisState

        state, shop = RedisState(own.url), Shop()
        state.recent("alice", shop.load("alice"))
        own.stop()
        with caplog.at_level(logging.INFO):
            for n in range(20):
                shop.log.append(event(n))
                state.add_events([event(n)])
                assert state.recent("alice", shop.load("alice")) == shop.now("alice")
            state.record_showings("alice", ["x"])
            assert state.showing_counts("alice") == {"x": 1}
            assert (state.users, state.away) == (0, True)
            assert [r.message for r in caplog.records if "does not answer" in r.message] == [caplog.records[0].message]
            own.start()
            until(lambda: not state.away)
        asked = shop.asked
        for _ in range(3):
            assert state.recent("alice", shop.load("alice")) == shop.now("alice")
        assert shop.asked == asked + 1
        state.close()

    def test_what_was_missed_is_not_served_stale(self, own: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        """The process of `here` is cut off, Redis and `there` are not."""
        import redis

        here, there = pair(own, "shop")
        shop = Shop()
        for name in ("alice", "bob"):
            there.recent(name, shop.load(name))
        cut = threading.Event()

        def ping() -> bool:
            if cut.is_set():
                raise redis.ConnectionError("cut off")
            return True

        def append(*_: object) -> None:
            raise redis.TimeoutError("cut off")

        cut.set()
        monkeypatch.setattr(here._redis, "ping", ping)
        with monkeypatch.context() as patch:
            patch.setattr(here, "_append_script", append)
            shop.log.append(event(1))
            here.add_events([event(1)])
        shop.log.append(event(1, user="bob"))
        here.add_events([event(1, user="bob")])
        for name in ("alice", "bob"):
            assert here.recent(name, shop.load(name)).events == (event(1, user=name),)
        cut.clear()
        until(lambda: not here.away)
        for state in (there, here):
            for name in ("alice", "bob"):
                assert state.recent(name, shop.load(name)).events == (event(1, user=name),)
        for state in (there, here):
            state.close()

    def test_restarted_from_an_old_snapshot(self, own: Server) -> None:
        """The connections lie idle meanwhile, so no process ever sees a failure."""
        import redis

        from zhiyin.store.redis_state import RedisState

        state, shop = RedisState(own.url), Shop()
        state.recent("alice", shop.load("alice"))
        with redis.Redis.from_url(own.url) as link:
            link.save()
        shop.log.append(event(1))
        state.add_events([event(1)])
        assert state.recent("alice", shop.load("alice")).events == (event(1),)
        own.stop()
        own.start()
        with redis.Redis.from_url(own.url) as link:
            assert list(link.scan_iter("zy:default:recent:*")), "the snapshot was not loaded"
        for _ in range(2):
            assert state.recent("alice", shop.load("alice")).events == (event(1),)
        until(lambda: not state.away)
        assert state.recent("alice", shop.load("alice")).events == (event(1),)
        state.close()

    def test_forgotten_while_away(self, own: Server) -> None:
        import redis

        from zhiyin.store.redis_state import RedisState

        state, shop = RedisState(own.url), Shop()
        shop.log.append(event(1))
        state.recent("alice", shop.load("alice"))
        state.record_showings("alice", ["x"])
        with redis.Redis.from_url(own.url) as link:
            link.save()
        own.stop()
        shop.forget("alice", NOW)
        state.forget("alice", NOW)
        assert state.recent("alice", shop.load("alice")) == Recent((), NOW)
        own.start()
        until(lambda: not state.away)
        assert state.showing_counts("alice") == {}
        with redis.Redis.from_url(own.url) as link:
            assert list(link.scan_iter("zy:default:recent:*")) == []
            assert list(link.scan_iter("zy:default:shown:*")) == []
        state.close()

    def test_one_that_hangs_costs_one_request(self, tmp_path: Path) -> None:
        pytest.importorskip("redis")
        from zhiyin.store.redis_state import TIMEOUT_SECONDS, RedisState

        with socket.socket(socket.AF_UNIX) as deaf:  # takes connections, never answers
            deaf.bind(str(tmp_path / "s"))
            deaf.listen(100)
            began = time.monotonic()
            state, shop = RedisState(f"unix://{tmp_path / 's'}"), Shop()
            assert state.away
            for _ in range(200):
                state.recent("alice", shop.load("alice"))
                state.add_events([event(1)])
            assert time.monotonic() - began < 5 * TIMEOUT_SECONDS
            assert shop.asked == 200
            state.close()

    def test_a_start_without_redis(self, tmp_path: Path, server: Server) -> None:
        from zhiyin.store.redis_state import RedisState

        late = Server(tmp_path)
        state, shop = RedisState(late.url), Shop()
        assert state.recent("alice", shop.load("alice")) == Recent()
        late.start()
        try:
            until(lambda: not state.away)
            for _ in range(3):
                state.recent("alice", shop.load("alice"))
            assert shop.asked == 2
        finally:
            state.close()
            late.stop()

    def test_a_password_that_is_refused(self, tmp_path: Path, server: Server) -> None:
        import redis

        from zhiyin.store.redis_state import RedisState

        locked = Server(tmp_path)
        locked.start()
        try:
            with redis.Redis.from_url(locked.url) as link:
                link.config_set("requirepass", "right")
            RedisState(f"unix://:right@{locked.path}").close()
            for wrong in (f"unix://:wrong@{locked.path}", locked.url):
                with pytest.raises(ConfigError, match="password") as caught:
                    RedisState(wrong)
                assert "wrong" not in str(caught.value)
        finally:
            locked.stop()
