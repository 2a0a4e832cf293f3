"""What a decision has earned: windows, aggregation, duplicates, order, impressions, lateness."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pipeline.decision_logs import SECOND, START, Clock, decided_trace
from zhiyin.api.requests import PolicySettings
from zhiyin.pipeline.reward_joiner import GRACE, RewardJoiner, RewardSettings
from zhiyin.store.records import Event
from zhiyin.store.store import Store
from zhiyin.store.tables import LISTS

WINDOW = 600 * SECOND
SETTINGS = RewardSettings({"click": (1.0, None), "purchase": (5.0, None), "watch": (2.0, 30.0)}, WINDOW)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    opened = Store(tmp_path / "shop.db", clock=clock)
    yield opened
    opened.close()


def happen(
    store: Store, list_id: str, item: str, kind: str = "click", *, id: str = "", user: str = "alice", **more: Any
) -> bool:
    values = {"time": store.clock()} | more
    return store.append([Event(user, item, kind=kind, list_id=list_id, id=id, **values)])[0]


def closed(store: Store, clock: Clock, settings: RewardSettings = SETTINGS) -> dict[str, Any]:
    """Rewards by list after all windows have ended."""
    clock.now = max(clock.now, START + settings.window + GRACE + SECOND)
    RewardJoiner(store, "home", settings).step()
    return {one.trace.list_id: one.rewards for one in store.closed_decisions("home")}


def with_(**changes: Any) -> RewardSettings:
    return dataclasses.replace(SETTINGS, **changes)


def test_events_are_rewards_of_the_slot_that_shows_their_item(store: Store, clock: Clock) -> None:
    store.append_traces([decided_trace("l1", START), decided_trace("l2", START, slots=[2, 0])])
    happen(store, "l1", "b")
    happen(store, "l1", "b", "purchase")
    happen(store, "l1", "z")  # is not in the list
    happen(store, "l1", "a", "view")  # brings nothing
    happen(store, "l2", "a")
    happen(store, "l2", "b")  # its slot was not decided
    store.append([Event("alice", "c", START, "click")])  # of no list
    assert closed(store, clock) == {"l1": [0.0, 6.0, 0.0], "l2": [0.0, 1.0]}
    assert [one.n_events for one in store.closed_decisions("home")] == [2, 1]


def test_nothing_is_closed_before_its_window_and_grace(store: Store, clock: Clock) -> None:
    store.append_traces([decided_trace("l1", START)])
    joiner = RewardJoiner(store, "home", SETTINGS)
    clock.now = START + WINDOW + GRACE - 1
    assert joiner.step() == 0
    clock.now += 1
    assert joiner.step() == 1
    assert joiner.step() == 0


def test_dwell_counts_from_its_threshold_on(store: Store, clock: Clock) -> None:
    store.append_traces([decided_trace("l1", START)])
    for item, value in (("a", 29.9), ("b", 30.0), ("c", None)):
        happen(store, "l1", item, "watch", value=value)
    assert closed(store, clock) == {"l1": [0.0, 2.0, 0.0]}


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [("sum", 6.0), ("first", 2.0), ("last", 3.0), ("max", 3.0), ("min", 1.0), ("mean", 2.0), ("median", 2.0)],
)
def test_several_rewards_of_a_slot_are_aggregated_in_the_order_of_their_times(
    store: Store, clock: Clock, aggregation: Any, expected: float
) -> None:
    store.append_traces([decided_trace("l1", START)])
    clock.now = START + 100
    for value, time in ((3.0, 90), (2.0, 10), (1.0, 50)):  # arrive out of order
        store.append_reported_reward("l1", "1", value, f"r{value}", START + time)
    assert closed(store, clock, with_(aggregation=aggregation)) == {"l1": [0.0, expected, 0.0]}


@pytest.mark.parametrize("aggregation", ["max", "min", "sum", "mean", "median", "first", "last"])
def test_rewards_that_are_all_negative_stay_so(store: Store, clock: Clock, aggregation: Any) -> None:
    store.append_traces([decided_trace("l1", START)])
    for number in (1, 2):
        store.append_reported_reward("l1", "0", -2.0, f"r{number}", START)
    result = closed(store, clock, with_(aggregation=aggregation, default_reward=0.5))
    assert result == {"l1": [-4.0 if aggregation == "sum" else -2.0, 0.5, 0.5]}


def test_a_retry_is_no_second_reward(store: Store, clock: Clock) -> None:
    store.append_traces([decided_trace("l1", START)])
    assert [happen(store, "l1", "a", id="e1") for _ in range(2)] == [True, False]
    for _ in range(2):
        store.append_reported_reward("l1", "1", 2.0, "r1", START)
    assert closed(store, clock) == {"l1": [1.0, 2.0, 0.0]}


def test_rewards_may_come_before_the_trace(store: Store, clock: Clock) -> None:
    happen(store, "l1", "a")
    store.append_reported_reward("l1", "2", 2.0, "r1", START)
    store.append_traces([decided_trace("l1", START)])
    assert closed(store, clock) == {"l1": [1.0, 0.0, 2.0]}


def test_rewards_after_the_window_are_counted_and_not_learned(store: Store, clock: Clock) -> None:
    store.append_traces([decided_trace("l1", START), decided_trace("l2", START)])
    happen(store, "l1", "a")
    clock.now = START + WINDOW
    happen(store, "l1", "b", time=START)  # just within
    clock.now = START + WINDOW + 1
    happen(store, "l1", "c", time=START)  # received late, whatever it says of itself
    clock.now = START + WINDOW + GRACE
    joiner = RewardJoiner(store, "home", SETTINGS)
    assert joiner.step() == 2
    assert store.closed_decisions("home")[0].rewards == [1.0, 1.0, 0.0]
    assert store.window_counts("home") == (2, 1)
    happen(store, "l1", "c", "purchase")
    happen(store, "l2", "zz")  # not in the list
    store.append_reported_reward("l2", "0", 1.0, "r", START)
    for _ in range(2):
        joiner.step()
    assert store.window_counts("home") == (2, 3)
    happen(store, "l2", "a")
    RewardJoiner(store, "home", SETTINGS).step()  # started again
    assert store.window_counts("home") == (2, 4)
    assert [one.rewards for one in store.closed_decisions("home")] == [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


def test_a_late_reward_between_two_joiners_is_counted(store: Store, clock: Clock) -> None:
    store.append_traces([decided_trace("l1", START), decided_trace("l2", START + 50 * SECOND)])
    joiner = RewardJoiner(store, "home", SETTINGS)
    clock.now = START + WINDOW + GRACE
    joiner.step()
    happen(store, "l1", "a")  # arrives, and the joiner ends before it looks again; another closes l2
    clock.now += 50 * SECOND
    RewardJoiner(store, "home", SETTINGS).step()
    assert store.window_counts("home") == (0, 1)


def test_only_slots_that_were_shown_are_learned(store: Store, clock: Clock) -> None:
    store.append_traces([decided_trace("l1", START), decided_trace("l2", START), decided_trace("l3", START)])
    store.append_impression("l1", START + 1, ["a"])
    store.append_impression("l1", START + 2, ["b"])
    store.append_impression("l2", START + 1, ["a"])
    happen(store, "l2", "c")  # was clicked, so it was shown
    assert closed(store, clock, with_(default_reward=-0.1)) == {
        "l1": [-0.1, -0.1, None], "l2": [-0.1, None, 1.0], "l3": [-0.1, -0.1, -0.1],
    }  # fmt: skip


def test_events_of_others_are_no_rewards_of_a_list_that_names_somebody(store: Store, clock: Clock) -> None:
    owners = {"l1": "alice", "l2": "session", "l3": None}
    store.append_traces([decided_trace(list_id, START, user=owner) for list_id, owner in owners.items()])
    for list_id in owners:
        happen(store, list_id, "a")
        happen(store, list_id, "b", "purchase", user="bob")
        happen(store, list_id, "c", user="session")
    clock.now = START + WINDOW + GRACE
    joiner = RewardJoiner(store, "home", SETTINGS)
    joiner.step()
    rewards = {one.trace.list_id: one.rewards for one in store.closed_decisions("home")}
    assert rewards == {"l1": [1.0, 0.0, 0.0], "l2": [0.0, 0.0, 1.0], "l3": [1.0, 5.0, 1.0]}
    assert joiner.foreign_events == 4
    happen(store, "l1", "b", "purchase", user="bob")  # late, and of another
    joiner.step()
    assert store.window_counts("home") == (5, 0)


def test_forgetting_a_user_takes_back_what_they_earned_for_lists_that_name_nobody(store: Store, clock: Clock) -> None:
    store.append_traces([decided_trace(f"l{n}", START, user=None) for n in range(4)])
    happen(store, "l0", "a", user="bob")
    happen(store, "l0", "b", user="carol")
    happen(store, "l1", "a", "view", user="bob")  # brings nothing
    happen(store, "l2", "a", user="carol")
    clock.now = START + WINDOW + 1
    happen(store, "l3", "a", user="bob")  # late
    closed(store, clock)
    store.drop_events_before(clock.now)  # the log of events may be shorter than that of lists
    proof = store.forget("bob")
    assert (proof["decisions removed"], proof["decisions found"], proof["decision_users found"]) == (1, 0, 0)
    assert closed(store, clock) == {"l1": [0.0, 0.0, 0.0], "l2": [1.0, 0.0, 0.0], "l3": [0.0, 0.0, 0.0]}
    assert store.forget("carol")["decisions removed"] == 1
    assert list(closed(store, clock)) == ["l1", "l3"]


def test_whoever_is_forgotten_while_a_decision_is_closed_earns_nothing(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append_traces([decided_trace("l1", START, user=None)])
    happen(store, "l1", "a", user="bob")
    happen(store, "l1", "b", user="carol")
    shown_items_of = store.shown_items_of

    def forget_bob(list_ids: Any) -> Any:  # the rewards were read, and the decision is not closed yet
        if store.forget_count() == 0:
            store.forget("bob")
        return shown_items_of(list_ids)

    monkeypatch.setattr(store, "shown_items_of", forget_bob)
    assert closed(store, clock) == {"l1": [0.0, 1.0, 0.0]}


def test_lists_without_a_required_impression_are_dropped(store: Store, clock: Clock) -> None:
    store.append_traces([decided_trace("l1", START), decided_trace("l2", START)])
    store.append_impression("l1", START + 1, ["a", "b", "c"])
    happen(store, "l1", "a")
    happen(store, "l2", "a")
    assert closed(store, clock, with_(impressions="required")) == {"l1": [1.0, 0.0, 0.0], "l2": None}


def test_deferred_decisions_count_when_they_are_activated(store: Store, clock: Clock) -> None:
    deferred = {"decision_event": {"slots": ["hero"], "deferred": True}}
    store.append_traces([decided_trace(f"l{n}", START, ["x"], head=deferred) for n in (1, 2)])
    store.append_impression("l1", START + 1, ["x"])
    for n in (1, 2):
        store.append_reported_reward(f"l{n}", "0", 1.0, "r", START)
    assert closed(store, clock) == {"l1": [1.0], "l2": None}


def test_a_trace_that_comes_long_after_its_window_is_still_closed(store: Store, clock: Clock) -> None:
    store.append_traces([decided_trace("l2", START)])
    happen(store, "l1", "a")
    joiner = RewardJoiner(store, "home", SETTINGS)
    clock.now = START + WINDOW + GRACE
    joiner.step()
    store.append_traces([decided_trace("l1", START - SECOND)])
    assert joiner.step() == 1
    assert joiner.late_traces == 1
    assert store.closed_of_lists(["l1"])["l1"].rewards == [1.0, 0.0, 0.0]


def test_a_damaged_trace_holds_up_no_other(store: Store, clock: Clock) -> None:
    store.append_traces([decided_trace("l1", START), decided_trace("l2", START + 1)])
    with store.writing() as connection:
        connection.execute(LISTS.update().where(LISTS.c.list_id == "l1").values(arrays=b"damaged"))
    assert closed(store, clock) == {"l1": None, "l2": [0.0, 0.0, 0.0]}


def test_a_window_too_short_sees_a_part_of_the_rewards(store: Store, clock: Clock) -> None:
    """With delays Exp(τ) and a window W, rewards have the mean q (1 - exp(-W/τ)), and F(W) tells that share."""
    rng, n, q, tau = np.random.default_rng(0), 2_500, 0.4, 300.0
    window = 240 * SECOND
    store.append_traces([decided_trace(f"l{number}", START, ["a"], user=None) for number in range(n)])
    clicked = np.flatnonzero(rng.random(n) < q)
    delays = np.sort(rng.exponential(tau, len(clicked)))
    joiner = RewardJoiner(store, "home", with_(window=window))
    for part in np.array_split(np.arange(len(clicked)), 40):
        clock.now = START + int(delays[part].mean() * SECOND)
        store.append([Event("u", "a", START, "click", list_id=f"l{clicked[i]}") for i in part])
        joiner.step()
    clock.now += WINDOW
    joiner.step()
    rewards = [one.rewards[0] for one in store.closed_decisions("home", limit=n) if one.rewards is not None]
    assert len(rewards) == n
    share = 1 - np.exp(-window / SECOND / tau)
    assert abs(np.mean(rewards) - q * share) < 4 * np.sqrt(q * share / n) + 0.005  # clicks come in forty groups
    in_time, late = store.window_counts("home", newest=n)
    assert in_time + late == len(clicked)
    assert abs(in_time / len(clicked) - share) < 4 * np.sqrt(share * (1 - share) / len(clicked)) + 0.01


def test_settings_are_those_of_the_placement() -> None:
    policy = PolicySettings.model_validate(
        {
            "kind": "lin_ts", "window": "1m", "aggregation": "max", "impressions": "required", "default_reward": -1,
            "rewards": {"click": 1, "watch": {"reward": 2.5, "value_at_least": 30}},
        }
    )  # fmt: skip
    expected = RewardSettings({"click": (1.0, None), "watch": (2.5, 30.0)}, 60 * SECOND, "max", -1.0, "required")
    assert RewardSettings.of(policy) == expected
