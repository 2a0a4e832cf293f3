"""What the service reads of streams: histories completed by the store; no request fails or waits without them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest

pytest.importorskip("starlette")

from zhiyin.service import stream_reading
from zhiyin.service.project_inspection import inspect_project
from zhiyin.service.stream_reading import StreamReader
from zhiyin.store.memory_state import DirectState
from zhiyin.store.records import Event
from zhiyin.store.store import Store

from .conftest import DAY, click, client_of, eventually, listed
from .stream_pair import patient
from .test_metrics import figures


class State:
    """A streamed state that holds the events of a store up to a mark, and more: it may be away."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.mark, self.calls = 0, 0
        self.forgotten: list[tuple[str, int]] = []
        self.error: Exception | None = None
        # Calls are not answered before it is set; None: at once.
        self.release: threading.Event | None = None
        self.is_incomplete = False

    def asked(self) -> None:
        self.calls += 1
        if self.release is not None:
            assert self.release.wait(60)
        if self.error is not None:
            raise self.error

    def version(self, job: str) -> int:
        self.asked()
        return 1

    def trending(self, n: int) -> pl.DataFrame:
        self.asked()
        return pl.DataFrame({"item": ["i7"], "log_score": [20_000.0]})

    def covisits(self, items: Any, n: int) -> pl.DataFrame:
        self.asked()
        return pl.DataFrame(schema={"item": pl.String, "other": pl.String, "log_score": pl.Float64})

    def history(self, user: str) -> tuple[list[Event], int]:
        self.asked()
        return [event for event in self.events if event.user == user], self.mark

    def forget(self, user: str, seq: int) -> None:
        self.asked()
        self.forgotten.append((user, seq))

    def close(self) -> None:
        pass

    def follow(self, store: Store) -> None:
        """Take over all events of the store."""
        self.events = [event for user in ("ann", "bob") for event in store.history(user)]
        self.mark = store.highest_seq


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_reading, "RETRY_SECONDS", 0.01)
    patient(monkeypatch)


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
def streamed(opened: Callable[..., Any], state: State) -> Any:
    """A shop that reads histories for each request, as one of several processes does."""
    return client_of(opened(state=DirectState(), several=True, streams_reader=StreamReader(lambda: state)))


def recent_items(client: Any, user: str = "ann") -> list[str]:
    return [event.item for event in client.live.state.recent(user, lambda: client.live._read_recent(user)).events]


def test_a_history_is_what_streams_hold_and_what_the_store_has_after_it(streamed: Any, state: State) -> None:
    click(streamed, {"user": "ann", "item": "i1"}, {"user": "ann", "item": "i3"}, {"user": "bob", "item": "i2"})
    assert recent_items(streamed) == ["i1", "i3"]  # of the store: streams have not come as far
    state.follow(streamed.store)
    click(streamed, {"user": "ann", "item": "i5"})
    assert recent_items(streamed) == ["i1", "i3", "i5"]
    assert "i5" not in listed(streamed, user="ann", k=40)
    assert recent_items(streamed, "bob") == ["i2"]
    # Really read of streams: an event that the store does not have any more.
    state.events.append(Event("ann", "i9", streamed.store.clock() - DAY, id="elsewhere", seq=1))
    assert recent_items(streamed) == ["i9", "i1", "i3", "i5"]


def test_an_acknowledged_event_counts_through_another_process_and_after_a_restart(
    opened: Callable[..., Any], streamed: Any, state: State
) -> None:
    click(streamed, {"user": "ann", "item": "i1"})
    state.follow(streamed.store)
    click(streamed, {"user": "ann", "item": "i3"})
    shop = opened(state=DirectState(), several=True, streams_reader=StreamReader(lambda: state))
    shop.shown = streamed.keys  # of the same store
    other = client_of(shop)
    assert recent_items(other) == ["i1", "i3"]
    click(other, {"user": "ann", "item": "i5"})
    assert recent_items(streamed) == recent_items(other) == ["i1", "i3", "i5"]


def test_who_was_forgotten_has_no_history_of_before(streamed: Any, state: State) -> None:
    click(streamed, {"user": "ann", "item": "i1"})
    state.follow(streamed.store)
    assert streamed.delete("/v1/users/ann").status_code == 200
    assert state.forgotten == [("ann", 1)]
    assert state.events  # it has not dropped them, for this test
    assert recent_items(streamed) == []
    click(streamed, {"user": "ann", "item": "i3"})
    assert recent_items(streamed) == ["i3"]
    state.mark = streamed.store.highest_seq
    assert recent_items(streamed) == ["i3"]


def test_events_that_the_store_has_deleted_for_their_age_do_not_count(opened: Callable[..., Any], state: State) -> None:
    client = client_of(opened(state=DirectState(), several=True, streams_reader=StreamReader(lambda: state, 2 * DAY)))
    now = client.store.clock()
    state.events = [Event("ann", "i1", now - 3 * DAY, id="old", seq=1), Event("ann", "i3", now - DAY, id="new", seq=2)]
    state.mark = 2
    assert recent_items(client) == ["i3"]


def test_without_streams_no_request_fails_or_asks_them_again(streamed: Any, state: State) -> None:
    click(streamed, {"user": "ann", "item": "i1"})
    state.follow(streamed.store)
    eventually(lambda: streamed.get("/v1/trending").json()["items"])
    assert "set_aside" not in streamed.get("/ready").json()
    state.error = ConnectionError("refused by secret-host")
    click(streamed, {"user": "ann", "item": "i3"})
    assert "i3" not in listed(streamed, user="ann", k=40)
    assert recent_items(streamed) == ["i1", "i3"]
    assert [row["item"] for row in streamed.get("/v1/trending").json()["items"]] == ["i7"]  # that of before
    assert streamed.get("/v1/covisits?user=ann").status_code == 200
    assert streamed.delete("/v1/users/bob").status_code == 200
    ready = streamed.get("/ready")
    assert ready.status_code == 200
    assert [issue["what"] for issue in ready.json()["set_aside"]] == ["streams"]
    assert "secret-host" not in ready.text
    assert figures(streamed)["zhiyin_streams_away",] == 1
    assert state.forgotten == []
    state.error = None
    eventually(lambda: not streamed.live.streams.away)
    eventually(lambda: [user for user, _ in state.forgotten] == ["bob"])  # who was forgotten meanwhile
    assert "set_aside" not in streamed.get("/ready").json()
    assert figures(streamed)["zhiyin_streams_away",] == 0


def test_a_state_that_lacks_results_is_a_health_issue_until_it_is_whole(
    monkeypatch: pytest.MonkeyPatch, streamed: Any, state: State
) -> None:
    monkeypatch.setattr(stream_reading, "CHECK_SECONDS", 0.01)
    assert "set_aside" not in streamed.get("/ready").json()
    streamed.live.streams._check_at = 0.0
    state.is_incomplete = True
    eventually(lambda: streamed.live.streams.health_issues() == [stream_reading.STREAMS_INCOMPLETE])
    (issue,) = streamed.get("/ready").json()["set_aside"]
    assert issue["what"] == "streams"
    assert "--fresh" in issue["mend"]
    state.is_incomplete = False
    eventually(lambda: "set_aside" not in streamed.get("/ready").json())


def test_a_state_that_does_not_follow_the_store_is_a_health_issue(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: State
) -> None:
    monkeypatch.setattr(stream_reading, "CHECK_SECONDS", 0.0)
    with closing(Store(tmp_path / "store.db")) as store:
        store.append([Event("ann", f"i{n}", 20_000 * DAY + n, id=f"e{n}") for n in range(3)])
        reader = StreamReader(lambda: state, store=store)
        now = store.clock()

        def issues(mark: int, seconds: float) -> list[Any]:
            state.mark = mark
            monkeypatch.setattr(store, "clock", lambda: now + int(seconds * 1e6))
            reader.poll()
            return reader.health_issues()

        assert issues(2, 700) == [stream_reading.STREAMS_BEHIND]
        assert issues(2, 500) == []
        assert issues(3, 700) == []
        assert issues(0, 700) == []  # it may be that no job computes histories, or that old segments were deleted
        assert issues(1, 700) == [stream_reading.STREAMS_BEHIND]
        reader.close()


def test_while_it_is_away_only_the_watching_thread_asks(monkeypatch: pytest.MonkeyPatch, state: State) -> None:
    monkeypatch.setattr(stream_reading, "RETRY_SECONDS", 1_000.0)
    reader = StreamReader(lambda: state)
    state.error = TimeoutError()
    assert reader.history("ann", 0) is None
    calls = state.calls
    for _ in range(3):
        assert reader.history("ann", 0) is reader.trending(5) is reader.covisits(["i1"], 5) is reader.mark() is None
        reader.poll()
    assert state.calls == calls
    reader._retry_at = 0.0
    reader.poll(60)
    assert state.calls == calls + 1
    assert reader.away


def test_a_state_that_does_not_answer_is_waited_for_once_and_not_for_long(
    monkeypatch: pytest.MonkeyPatch, state: State
) -> None:
    monkeypatch.setattr(stream_reading, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(stream_reading, "TIMEOUT_SECONDS", 0.05)
    reader = StreamReader(lambda: state)
    state.release = threading.Event()
    try:
        begun = time.monotonic()
        assert reader.history("ann", 0) is None
        assert time.monotonic() - begun < 50  # not until it answers
        assert reader.away
        calls = state.calls
        assert reader.history("ann", 0) is None
        assert state.calls == calls
        for _ in range(3):  # calls that hang are not heaped up
            reader.poll()
        assert reader.away
        assert state.calls <= calls + 1
    finally:
        state.release.set()
    state.release = None
    eventually(lambda: reader.poll() or not reader.away)
    assert reader.history("ann", 0) == ([], 0)


def test_reads_use_threads_that_are_there(state: State) -> None:
    threads = set()
    history = state.history

    def read(user: str) -> tuple[list[Event], int]:
        threads.add(threading.current_thread())
        return history(user)

    state.history = read  # type: ignore[method-assign]
    reader = StreamReader(lambda: state)
    for _ in range(50):
        assert reader.history("ann", 0) == ([], 0)
    assert len(threads) == 1
    reader.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_reads_that_hang_do_not_stand_in_the_way_of_later_ones(monkeypatch: pytest.MonkeyPatch, state: State) -> None:
    monkeypatch.setattr(stream_reading, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(stream_reading, "TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(stream_reading, "MAX_READS", 1)
    reader = StreamReader(lambda: state)
    hanging = state.release = threading.Event()
    try:
        assert reader.history("ann", 0) is None
        state.release = None
        eventually(lambda: reader.poll() or not reader.away)
        monkeypatch.setattr(stream_reading, "TIMEOUT_SECONDS", 60.0)
        assert reader.history("ann", 0) == ([], 0)
    finally:
        hanging.set()
        reader.close()


def test_a_state_that_cannot_be_opened_is_opened_later(state: State) -> None:
    failures = [OSError("no such host"), OSError("no such host")]

    def open_state() -> State:
        if failures:
            raise failures.pop()
        return state

    reader = StreamReader(open_state)
    assert reader.away
    assert reader.health_issues()
    assert reader.history("ann", 0) is None
    eventually(lambda: reader.poll() or not reader.away)
    assert reader.history("ann", 0) == ([], 0)
    reader.close()
    reader.poll()
    assert reader.history("ann", 0) is None


def test_metrics_say_how_far_streams_are_behind(streamed: Any, state: State) -> None:
    click(streamed, *[{"user": "ann", "item": f"i{n}"} for n in range(5)])
    shown = figures(streamed)
    assert shown["zhiyin_stream_lag_events",] == 5
    assert shown["zhiyin_stream_lag_seconds",] > 0
    state.follow(streamed.store)
    shown = figures(streamed)
    assert shown["zhiyin_stream_lag_events",] == shown["zhiyin_stream_lag_seconds",] == 0


def test_doctor_says_that_streams_are_away_and_makes_no_file(tmp_path: Path) -> None:
    Store(tmp_path / "store.db").close()
    file = tmp_path / "zhiyin.toml"
    for address, expected in (("redis://127.0.0.1:1/0", ["streams"]), ("sqlite:///streams.db", [])):
        file.write_text(f'[service]\nstore = "store.db"\nstreams = "{address}"\n')
        assert [issue.what for issue in inspect_project(file) if issue.what == "streams"] == expected
    assert not (tmp_path / "streams.db").exists()
