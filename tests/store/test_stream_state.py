"""The streamed state in SQLite, a real PostgreSQL and a real Redis pass the same suite."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from tests.conformance.stream_state import (
    DAY,
    Make,
    StreamStateConformance,
    history_row,
    names_of,
    rows_of,
)
from tests.conftest import own_schema
from tests.store.test_live_state import Server
from zhiyin.core.errors import ConfigError, MissingExtraError
from zhiyin.store import stream_definitions
from zhiyin.store.event_log import EventLog
from zhiyin.store.records import Event
from zhiyin.store.sql_stream_state import SqlStreamState
from zhiyin.store.stream_state import StreamState, StreamStateAwayError, forget_streamed, open_stream_state


class FailedError(Exception):
    pass


class SqlConformance(StreamStateConformance):
    def fail_next(self, state: StreamState, when: str, at_part: int) -> None:
        """The transaction fails after its mark was written, or after everything was."""
        assert isinstance(state, SqlStreamState)
        name = "_next_version" if when == "before" else "_insert" if at_part == 1 else "_execute"
        real = getattr(state, name)

        def fail(*args: Any, **more: Any) -> Any:
            real(*args, **more)
            if name == "_insert" and args[1] == "stream_files":
                return 1
            delattr(state, name)
            raise FailedError("it failed here")

        setattr(state, name, fail)


class TestSQLite(SqlConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, tmp_path_factory: pytest.TempPathFactory) -> Make:
        address = f"sqlite:///{tmp_path_factory.mktemp('state') / 'new' / 'streams.db'}"
        return lambda name: open_stream_state(address, name)

    def test_nothing_of_the_forgotten_is_on_the_disk(self, tmp_path: Path) -> None:
        state = open_stream_state(f"sqlite:///{tmp_path / 'streams.db'}", "shop")
        user = "someone-very-special"
        state.apply("histories", "part-0", rows_of("histories", [history_row(user, *range(1, 300))]))
        state.apply("sessions", "part-0", rows_of("sessions", [(user, 1, 5, 6, 2, 1)]))
        assert any(user.encode() in path.read_bytes() for path in tmp_path.iterdir())
        state.forget(user, 300)
        assert not any(user.encode() in path.read_bytes() for path in tmp_path.iterdir())
        state.close()

    def test_items_of_trending_are_bounded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("zhiyin.store.sql_stream_state.MAX_TRENDING_ITEMS", 100)
        state = open_stream_state(f"sqlite:///{tmp_path / 'streams.db'}", "shop")
        for n in range(64):
            rows = [(f"i{10 * n + k}", DAY, 1.0 + 10 * n + k, 1) for k in range(10)]
            state.apply("trending", f"part-{n}", rows_of("trending", rows))
        assert state.trending(1_000)["item"].to_list() == [f"i{n}" for n in range(639, 539, -1)]
        state.close()


class TestPostgreSQL(SqlConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, postgres: str) -> Make:
        address = own_schema(postgres)
        return lambda name: open_stream_state(address, name)


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("redis")
    if not shutil.which("redis-server"):
        pytest.skip("Redis is not installed: no redis-server on the path")
    server = Server(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.mark.slow
class TestRedis(StreamStateConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, redis_server: Server) -> Make:
        from zhiyin.store.redis_stream_state import RedisStreamState

        return lambda name: RedisStreamState(redis_server.url, name, rows_per_script=3)

    def fail_next(self, state: StreamState, when: str, at_part: int) -> None:
        """Redis, or this process, ends between two parts; or after a part, before its answer came."""
        scripts: dict[str, Any] = state._scripts  # type: ignore[attr-defined]
        calls: list[str] = []
        real = dict(scripts)

        def failing(job: str) -> Any:
            def call(**more: Any) -> Any:
                calls.append(job)
                if len(calls) == at_part and when == "before":
                    scripts.update(real)
                    raise FailedError("it failed here")
                result = real[job](**more)
                if len(calls) == at_part:
                    scripts.update(real)
                    raise FailedError("it failed here")
                return result

            return call

        scripts.update({job: failing(job) for job in scripts})

    def test_items_of_trending_are_bounded(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("zhiyin.store.redis_stream_state.MAX_TRENDING_ITEMS", 100)
        state = make(uuid.uuid4().hex)
        state.apply("trending", "part", rows_of("trending", [(f"i{n}", DAY, 1.0 + n, 1) for n in range(300)]))
        assert 100 <= len(state.trending(1_000)) <= 107
        assert state.trending(50)["item"].to_list() == [f"i{n}" for n in range(299, 249, -1)]
        state.close()

    def test_who_was_not_heard_of_for_long_is_dropped_and_known_as_such(self, redis_server: Server) -> None:
        from zhiyin.store.redis_stream_state import IDLE_SECONDS, RedisStreamState

        now = [1e9]
        state = RedisStreamState(redis_server.url, uuid.uuid4().hex, clock=lambda: now[0])
        state.set_segments(names_of((3, 3)))
        state.apply("histories", "part-0", rows_of("histories", [history_row("u", 1, 2), history_row("v", 3)]))
        state.maintain()
        assert (len(state.history("u")[0]), state.history("u")[1]) == (2, 3)
        now[0] += IDLE_SECONDS - 1
        state.apply("histories", "part-1", rows_of("histories", [history_row("v", 4)]))
        now[0] += 2
        state.maintain()
        assert state.history("u") == ([], 0)  # incomplete, and it says so
        assert (len(state.history("v")[0]), state.history("v")[1]) == (2, 3)
        state.apply("histories", "part-2", rows_of("histories", [history_row("u", 5)]))
        assert (len(state.history("u")[0]), state.history("u")[1]) == (1, 0)
        state.close()

    def test_a_server_that_went_is_told_and_used_again(self, tmp_path: Path) -> None:
        from zhiyin.store.redis_stream_state import RedisStreamState

        server = Server(tmp_path)
        server.start()
        state = RedisStreamState(server.url, "shop")
        server.stop()
        with pytest.raises(StreamStateAwayError):
            state.trending(10)
        with pytest.raises(StreamStateAwayError):
            state.apply("trending", "part-0", rows_of("trending", [("a", DAY, 1.0, 1)]))
        server.start()
        assert state.apply("trending", "part-0", rows_of("trending", [("a", DAY, 1.0, 1)]))
        state.close()
        server.stop()

    def test_a_password_that_is_refused(self, tmp_path: Path) -> None:
        server = Server(tmp_path)
        server.start()
        import redis

        with redis.Redis.from_url(server.url) as link:
            link.config_set("requirepass", "right")
        with pytest.raises(ConfigError, match="password") as error:
            open_stream_state(server.url.replace("unix://", "unix://:wr0ng@"), "shop")
        assert "wr0ng" not in str(error.value)
        open_stream_state(server.url.replace("unix://", "unix://:right@"), "shop").close()
        server.stop()

    def test_what_redis_refuses_is_said_in_its_words(self, tmp_path: Path) -> None:
        server = Server(tmp_path)
        server.start()
        with pytest.raises(StreamStateAwayError, match=r"Redis refuses it: .*DB index is out of range"):
            open_stream_state(f"{server.url}?db=99", "shop")
        server.stop()

    def test_a_flush_lowers_versions_and_drops_that_results_are_missing(self, tmp_path: Path) -> None:
        server = Server(tmp_path)
        server.start()
        import redis

        state = open_stream_state(server.url, "shop")
        state.apply("trending", "part-0", rows_of("trending", [("a", DAY, 1.0, 1)]))
        state.set_incomplete()
        assert (state.version("trending"), state.is_incomplete) == (1, True)
        with redis.Redis.from_url(server.url) as link:
            link.flushall()
        assert (state.version("trending"), state.is_incomplete) == (0, False)
        state.close()
        server.stop()


@pytest.mark.parametrize("address", ["mysql://a:secret@b/c", "sqlite://", "nonsense", "sqlite:///:memory:"])
def test_addresses_that_cannot_be(address: str) -> None:
    with pytest.raises(ConfigError) as error:
        open_stream_state(address, "shop")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("scheme", ["postgresql", "redis"])
def test_a_server_that_is_not_there(scheme: str) -> None:
    pytest.importorskip({"postgresql": "psycopg", "redis": "redis"}[scheme])
    with pytest.raises(StreamStateAwayError) as error:
        open_stream_state(f"{scheme}://a:secret@127.0.0.1:1/0", "shop")
    assert "secret" not in str(error.value)


def test_a_name_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no name"):
        open_stream_state(f"sqlite:///{tmp_path / 'streams.db'}", "it's")


def test_without_the_driver_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "zhiyin.store.redis_stream_state", raising=False)
    with pytest.raises(MissingExtraError, match="redis"):
        open_stream_state("redis://127.0.0.1:1/0", "shop")
    monkeypatch.delitem(sys.modules, "zhiyin.store.redis_stream_state", raising=False)


def test_what_a_user_did_after_being_forgotten_stays(tmp_path: Path) -> None:
    """An event may be committed between the forgetting and its arrival in the streamed state."""
    from zhiyin.store.store import Store

    store = Store(tmp_path / "shop.db")
    state = open_stream_state(f"sqlite:///{tmp_path / 'streams.db'}", "shop")
    store.append([Event("u", "a", 1_700_000_000_000_000 + n, id=str(n)) for n in range(3)])
    assert isinstance(store, EventLog)
    store.forget("u")
    store.append([Event("v", "a", 1_700_000_000_000_000, id="v"), Event("u", "a", 1_700_000_000_000_000, id="again")])
    forget_streamed(store, state, "u")
    state.apply("histories", "part-0", rows_of("histories", [history_row("u", 1, 2, 3, 5)]))
    assert [event.seq for event in state.history("u")[0]] == [5]
    store.forget("u")
    forget_streamed(store, state, "u")
    assert state.history("u")[0] == []
    assert stream_definitions.MAX_HISTORY_EVENTS == 500
    state.close()
    store.close()
