"""Clocks that run ahead, fall behind and are set right again: what is noticed hangs on sequences, not on times."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("starlette")

from zhiyin.data.project_config import ServiceSection
from zhiyin.service.retention import RetentionJob
from zhiyin.store.frequency_counts import Showings
from zhiyin.store.memory_state import DirectState, MemoryState
from zhiyin.store.records import Event
from zhiyin.store.store import Store

from .conftest import click, eventually

YEARS = 10 * 365 * 86_400
_TIME, _TIME_NS = time.time, time.time_ns

# The test does itself what a shop does when it looks for what has changed.
UNDISTURBED = pytest.mark.parametrize("poll_seconds", [60.0])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the clock of this process ahead by so many seconds."""

    def ahead(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: _TIME() + seconds)
        monkeypatch.setattr(time, "time_ns", lambda: _TIME_NS() + int(seconds) * 1_000_000_000)

    return ahead


def recent(service: Any, user: str) -> Any:
    """What the service holds of a user's events."""
    return service.live.state.recent_and_showings([user], service.live._read_recent)[0][0]


def test_a_forgetting_is_noticed_whatever_the_clock_said_before(service: Any, clock: Callable[[float], None]) -> None:
    clock(YEARS)
    assert service.delete("/v1/users/u9").status_code == 200
    clock(0)
    click(service, {"user": "u13", "item": "i7"})
    assert service.live.user_history(service.live.view(), "u13").history.items.size
    other = Store(service.store.address)
    other.forget("u13")  # as `zhiyin forget` does
    other.close()
    eventually(lambda: not recent(service, "u13").events)


@UNDISTURBED
def test_a_forgetting_of_our_own_costs_nobody_else_their_state(service: Any) -> None:
    click(service, {"user": "u13", "item": "i7"})
    kept = recent(service, "u13")
    service.delete("/v1/users/u9")
    before = service.live._users._forget_count
    assert before == service.store.forget_count() == 1
    service.live._drop_forgotten()
    assert recent(service, "u13") is kept


def test_who_is_forgotten_by_a_clock_that_is_behind_is_forgotten(service: Any, clock: Callable[[float], None]) -> None:
    learned = service.live.user_history(service.live.view(), "u3")
    assert learned.code >= 0
    clock(-YEARS)
    service.delete("/v1/users/u3")
    assert service.live.user_history(service.live.view(), "u3").code == -1


@UNDISTURBED
def test_trending_outlives_a_clock_that_ran_ahead(service: Any, clock: Callable[[float], None]) -> None:
    trending = service.live.event_scores.trending
    clock(YEARS)
    click(service, {"user": "a", "item": "i3"})
    trending.update(service.live.now)
    clock(0)
    click(service, *[{"user": f"v{n}", "item": "i5"} for n in range(3)])
    trending.update(service.live.now)
    worth = dict(zip(service.live.now.ids.raw(range(40)), trending.scores(service.live.now)[:40]))
    assert max(worth, key=lambda item: worth[item]) == "i5"
    assert worth["i5"] == pytest.approx(3, rel=0.01)


@pytest.mark.parametrize("state", [MemoryState, DirectState, lambda clock: Showings(100, clock)])
def test_showings_of_the_future_do_not_count(state: Any) -> None:
    now = [1e9 + YEARS]
    made = state(clock=lambda: now[0]) if isinstance(state, type) else state(lambda: now[0])
    show, counts = (
        (made.add, made.counts) if isinstance(made, Showings) else (made.record_showings, made.showing_counts)
    )
    show("alice", ["a"])
    assert counts("alice") == {"a": 1}
    now[0] = 1e9
    assert counts("alice") == {}
    show("alice", ["b"])
    assert counts("alice") == {"b": 1}


def test_a_clock_that_jumps_ahead_deletes_nothing(tmp_path: Any, clock: Callable[[float], None]) -> None:
    store = Store(tmp_path / "shop.db")
    moment = time.time_ns() // 1000
    ages = {"new": 1_000_000, "old": 5 * 86_400_000_000}
    store.append([Event("a", "i", moment - age, id=name) for name, age in ages.items()])
    tidy = RetentionJob(str(tmp_path / "shop.db"), ServiceSection(keep="2d", keep_lists="2d"))
    eventually(lambda: store.count() == 1)  # its first look
    clock(YEARS)
    tidy.run()
    assert store.count() == 1
    clock(0)
    tidy.close()
    store.close()


def test_what_was_forgotten_by_any_clock_is_forgotten_again(tmp_path: Any, clock: Callable[[float], None]) -> None:
    """A backup of a user forgotten before by a clock that ran ahead, who came back and was forgotten again since."""
    from zhiyin.store.restore import restore

    store = Store(tmp_path / "shop.db")
    clock(YEARS)
    store.forget("alice")
    clock(0)
    store.append([Event("alice", "i", time.time_ns() // 1000, id="e1")])
    store.backup(tmp_path / "backup.db")
    store.forget("alice")
    store.close()
    restore(tmp_path / "shop.db", tmp_path / "backup.db")
    restored = Store(tmp_path / "shop.db")
    assert restored.history("alice") == []
    restored.close()
