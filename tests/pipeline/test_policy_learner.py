"""Learning from closed decisions: exactly once, the same in any batches, without the forgotten, across versions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pipeline.decision_logs import START, Clock, decided_trace
from zhiyin.core.errors import DataError
from zhiyin.pipeline import policy_learner
from zhiyin.pipeline.decision_batch import DecisionBatch
from zhiyin.pipeline.policy_learner import (
    STRAGGLERS,
    Learned,
    LearnerSettings,
    PolicyLearner,
)
from zhiyin.pipeline.policy_monitors import BLOCK
from zhiyin.pipeline.policy_snapshot import for_version, restored_policy
from zhiyin.policies.action_sets import action_keys
from zhiyin.policies.beta_bernoulli import BetaBernoulli
from zhiyin.policies.lin_ts import LinTS
from zhiyin.policies.linear_posterior import LinearPosterior
from zhiyin.store.decisions import ClosedDecision, ClosedRow
from zhiyin.store.policy_states import PolicyState
from zhiyin.store.store import Store
from zhiyin.store.traces import Trace

LIN_TS = LearnerSettings("lin_ts", {"draws": 10})
ITEMS = [f"film {number}" for number in range(30)]
WEIGHTS = np.array([0.3, -0.2, 0.5, 0.1])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "shop.db", clock=Clock())
    yield opened
    opened.close()


def made(number: int, rng: np.random.Generator, **more: Any) -> tuple[Trace, list[float | None]]:
    """A list of two items with features, and its rewards."""
    items = [ITEMS[place] for place in rng.choice(len(ITEMS), 2, replace=False)]
    features = rng.normal(size=(2, 4)).astype(np.float32)
    rewards = features @ WEIGHTS + 0.1 * rng.normal(size=2)
    values = {"features": features, "user": f"user {number % 7}"} | more
    return decided_trace(f"list {number}", START + number, items, **values), [float(reward) for reward in rewards]


def add(store: Store, lists: list[tuple[Trace, list[float | None] | None]]) -> None:
    """Store lists and close them with their rewards."""
    store.append_traces([trace for trace, _ in lists])
    store.close_decisions([
        ClosedRow(t.list_id, t.placement, t.time, t.version, t.head["decision"]["mode"], rewards, 1, 0, t.time, 0, 0)
        for t, rewards in lists
    ])  # fmt: skip


def state_of(store: Store, name: str = "home") -> PolicyState:
    state = store.policy_state(name)
    assert state is not None
    return state


def assert_alike(one: PolicyState, other: PolicyState) -> None:
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        np.testing.assert_allclose(array, other.arrays[name], rtol=1e-8, atol=1e-8, err_msg=name)
    for name in ("n_decisions", "n_outcomes", "n_skipped", "n_updates", "layout", "vectors"):
        assert one.info[name] == other.info[name]
    assert one.info["monitors"]["reward_rate"].keys() == other.info["monitors"]["reward_rate"].keys()


def learned_at_once(store: Store, tmp_path: Path, settings: LearnerSettings = LIN_TS) -> PolicyState:
    """The state that a learner reaches which reads the whole log of a store in one go."""
    learned = Learned(policy_learner.make_policy(settings.kind, settings.settings))
    closed = store.closed_decisions("home", limit=10**6)
    learned.learn(DecisionBatch.of(closed), settings)
    return PolicyState(0, "home", closed[-1].seq, learned.arrays(), learned.info(settings), 0, False)


def test_the_state_is_that_of_the_whole_log(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small and odd batches, over the ends of blocks, by learners that are started again and again."""
    rng, number = np.random.default_rng(0), 0
    for size in (1, 5, BLOCK, 100, 3, 2 * BLOCK + 7):
        add(store, [made(number + place, rng) for place in range(size)])
        number += size
        monkeypatch.setattr(policy_learner, "BATCH", 1 + size // 3)
        learner = PolicyLearner(store, "home", LIN_TS)
        while learner.step():
            pass
    state = state_of(store)
    assert state.info["n_decisions"] == number
    assert state.mark == store.last_closed_seq("home")
    assert_alike(state, learned_at_once(store, tmp_path))
    policy, statistics = restored_policy("lin_ts", {"draws": 10}, state.arrays, state.info)
    assert isinstance(policy, LinTS)
    assert policy.posterior is not None
    np.testing.assert_allclose(policy.posterior.mean, WEIGHTS, atol=0.02)
    assert statistics.displays.sum() == 2 * number


def test_what_is_learned_twice_or_by_two_is_written_once(store: Store, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    add(store, [made(number, rng) for number in range(50)])
    first, second = PolicyLearner(store, "home", LIN_TS), PolicyLearner(store, "home", LIN_TS)
    second._synchronise()
    assert first.step()
    assert second._learned is not None
    assert not second.step()  # another has learned these
    add(store, [made(number, rng) for number in range(50, 60)])
    write = store.put_policy_state
    store.put_policy_state = lambda *a, **k: second.step() and write(*a, **k)  # type: ignore[method-assign]
    original, second.store = second.store, Store(tmp_path / "shop.db")
    first.step()  # the second writes between its reading and its writing
    del store.put_policy_state  # type: ignore[method-assign]
    second.store.close()
    second.store = original
    assert state_of(store).info["n_decisions"] == 60
    assert not first.step()
    assert_alike(state_of(store), learned_at_once(store, tmp_path))


def test_a_step_that_fails_anywhere_loses_and_repeats_nothing(store: Store, tmp_path: Path) -> None:
    rng, learner = np.random.default_rng(2), PolicyLearner(store, "home", LIN_TS)
    real = store.put_policy_state
    for round in range(12):
        add(store, [made(10 * round + place, rng) for place in range(10)])

        def put(*arguments: Any, round: int = round, **named: Any) -> int:
            if round % 3 == 0:
                raise RuntimeError("before")
            number = real(*arguments, **named)
            if round % 3 == 1:
                raise RuntimeError("after")
            return number

        store.put_policy_state = put  # type: ignore[method-assign]
        if round % 3 == 2:
            learner.step()
        else:
            with pytest.raises(RuntimeError):
                learner.step()
    assert state_of(store).info["n_decisions"] == 120
    assert_alike(state_of(store), learned_at_once(store, tmp_path))


def test_nothing_new_writes_nothing(store: Store) -> None:
    learner = PolicyLearner(store, "home", LIN_TS)
    assert not learner.step()
    assert store.newest_policy_states() == {}
    add(store, [made(1, np.random.default_rng(0))])
    assert learner.step()
    assert not learner.step()


def test_dropped_decisions_and_slots_are_not_learned(store: Store) -> None:
    rng = np.random.default_rng(3)
    lists = [made(number, rng) for number in range(3)]
    add(store, [(lists[0][0], None), (lists[1][0], [None, 1.0]), (lists[2][0], [None, None])])
    PolicyLearner(store, "home", LIN_TS).step()
    state = state_of(store)
    assert (state.info["n_decisions"], state.info["n_outcomes"]) == (1, 1)
    x = lists[1][0].arrays["decision_features"][1].astype(float)
    np.testing.assert_allclose(state.arrays["policy/response"], x)
    assert state.mark == store.last_closed_seq("home")


@pytest.mark.parametrize("during_learning", [False, True])
def test_the_next_snapshot_has_never_seen_a_forgotten_user(store: Store, tmp_path: Path, during_learning: bool) -> None:
    rng = np.random.default_rng(4)
    add(store, [made(number, rng) for number in range(2 * BLOCK)])
    learner = PolicyLearner(store, "home", LIN_TS)
    learner.step()
    before = state_of(store)
    add(store, [made(number, rng) for number in range(2 * BLOCK, 2 * BLOCK + 40)])
    if during_learning:
        real = store.put_policy_state

        def put(*arguments: Any, **named: Any) -> int:
            store.put_policy_state = real  # type: ignore[method-assign]
            store.forget("user 3")
            return real(*arguments, **named)

        store.put_policy_state = put  # type: ignore[method-assign]
        learner.step()
        assert state_of(store).number == before.number
    else:
        store.forget("user 3")
    assert state_of(store).outdated
    assert learner.step()
    after = state_of(store)
    assert after.number > before.number
    assert not after.outdated
    assert_alike(after, learned_at_once(store, tmp_path))
    fresh = Store(tmp_path / "never.db")  # a shop that never saw the user
    rng = np.random.default_rng(4)
    add(fresh, [one for one in (made(number, rng) for number in range(2 * BLOCK + 40)) if one[0].user != "user 3"])
    PolicyLearner(fresh, "home", LIN_TS).step()
    assert_alike(after, state_of(fresh))
    fresh.close()
    assert len(store.policy_state_numbers("home")) == 1  # what knew the user is gone


def test_a_long_relearning_keeps_the_old_snapshot_until_it_is_done(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_learner, "BATCH", 10)
    monkeypatch.setattr(policy_learner, "BATCHES_PER_STEP", 2)
    rng = np.random.default_rng(5)
    add(store, [made(number, rng) for number in range(70)])
    learner = PolicyLearner(store, "home", LIN_TS)
    while learner.step():
        pass
    number = state_of(store).number
    store.forget("user 1")
    assert learner.step()
    assert state_of(store).number == number
    store.forget("nobody")  # has no part in it: goes on
    learner.step()
    store.forget("user 2")  # has: begins anew
    steps = 1
    while state_of(store).outdated:
        assert learner.step()
        steps += 1
    assert steps >= 3
    while learner.step():
        pass
    assert_alike(state_of(store), learned_at_once(store, tmp_path))


def test_a_frozen_policy_learns_nothing_but_forgets(store: Store, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    add(store, [made(number, rng) for number in range(30)])
    learner = PolicyLearner(store, "home", LIN_TS)
    learner.step()
    add(store, [made(number, rng) for number in range(30, 40)])
    assert not learner.step(frozen=True)
    assert state_of(store).info["n_decisions"] == 30
    store.forget("user 1")
    assert learner.step(frozen=True)
    assert state_of(store).info["n_decisions"] == 30 - len([n for n in range(30) if n % 7 == 1])
    learner.step()
    assert_alike(state_of(store), learned_at_once(store, tmp_path))


def test_another_kind_learns_again_from_the_log(store: Store, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    add(store, [made(number, rng) for number in range(30)])
    PolicyLearner(store, "home", LIN_TS).step()
    other = LearnerSettings("lin_ts", {"reg": 3.0})
    PolicyLearner(store, "home", other).step()
    assert state_of(store).info["settings"]["reg"] == 3.0
    assert_alike(state_of(store), learned_at_once(store, tmp_path, other))
    rates = LearnerSettings("beta_bernoulli", {})
    PolicyLearner(store, "home", rates).step()
    state = state_of(store)
    policy, _ = restored_policy("beta_bernoulli", {}, state.arrays, state.info)
    assert isinstance(policy, BetaBernoulli)
    assert policy.n_updates == 60
    nothing = LearnerSettings("one_slot")
    PolicyLearner(store, "home", nothing).step()
    state = state_of(store)
    policy, statistics = restored_policy("one_slot", {}, state.arrays, state.info)
    assert policy is None
    assert statistics.displays.sum() == 60


def test_a_damaged_state_is_learned_again(store: Store, tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    add(store, [made(number, rng) for number in range(30)])
    PolicyLearner(store, "home", LIN_TS).step()
    good = state_of(store)
    store.put_policy_state("home", good.mark, {**good.arrays, "policy/precision": np.zeros((2, 2))}, good.info)
    with pytest.raises(DataError):
        restored_policy("lin_ts", {}, state_of(store).arrays, good.info)
    PolicyLearner(store, "home", LIN_TS).step()
    assert_alike(state_of(store), good)


# -- versions ----------------------------------------------------------------------------------------------------------


def of_version(number: int, rng: np.random.Generator, version: str, time: int) -> ClosedDecision:
    trace, rewards = made(number, rng, more={"version_free": 2, "vectors": version})
    trace = Trace(trace.list_id, trace.user, time, 1, "home", trace.head, trace.arrays)
    return ClosedDecision(number, "online", rewards, 1, 0, 0, trace)


def test_a_new_version_keeps_what_is_free_of_it(store: Store) -> None:
    rng, learned = np.random.default_rng(9), Learned(LinTS())
    old = [of_version(number, rng, "v1", START + number) for number in range(200)]
    learned.learn(DecisionBatch.of(old), LIN_TS)
    assert isinstance(learned.policy, LinTS)
    assert learned.policy.posterior is not None
    expected = learned.policy.posterior.marginalised(np.array([True, True, False, False]))
    new = [of_version(200, rng, "v2", START + 1_000)]
    straggler = [of_version(201, rng, "v1", START + 900)]
    back = [of_version(202, rng, "v1", START + 1_000 + STRAGGLERS)]

    def add_to(posterior: LinearPosterior, decision: ClosedDecision, n_features: int = 4) -> None:
        features = decision.trace.arrays["decision_features"].astype(float)
        features[:, n_features:] = 0.0
        posterior.update(features, np.array(decision.rewards, dtype=float))

    learned.learn(DecisionBatch.of(new), LIN_TS)
    add_to(expected, new[0])
    learned.learn(DecisionBatch.of(straggler), LIN_TS)
    add_to(expected, straggler[0], 2)
    assert (learned.context and learned.context.vectors) == "v2"
    np.testing.assert_allclose(learned.policy.posterior.precision, expected.precision, atol=1e-10)
    learned.learn(DecisionBatch.of(back), LIN_TS)
    assert (learned.context and learned.context.vectors) == "v1"
    expected = expected.marginalised(np.array([True, True, False, False]))
    add_to(expected, back[0])
    np.testing.assert_allclose(learned.policy.posterior.mean, expected.mean, atol=1e-10)
    alone = for_version(learned.policy, 2)
    assert isinstance(alone, LinTS)
    assert alone.posterior is not None
    np.testing.assert_array_equal(alone.posterior.precision[2:, 2:], np.eye(2))


def test_versions_in_any_batches_give_one_state() -> None:
    rng = np.random.default_rng(10)
    names = ["v1"] * 300 + ["v2", "v1", "v2", "v1"] * 10 + ["v2"] * 300
    log = [of_version(number, rng, name, START + number) for number, name in enumerate(names)]
    whole, parts = Learned(LinTS()), Learned(LinTS())
    whole.learn(DecisionBatch.of(log), LIN_TS)
    for start in range(0, len(log), 37):
        parts.learn(DecisionBatch.of(log[start : start + 37]), LIN_TS)
        parts = Learned.restored(LearnerSettings("lin_ts"), parts.arrays(), parts.info(LearnerSettings("lin_ts")))
    for name, array in whole.arrays().items():
        np.testing.assert_allclose(parts.arrays()[name], array, rtol=1e-8, atol=1e-8)


def test_another_layout_begins_anew() -> None:
    rng, learned = np.random.default_rng(11), Learned(LinTS())
    learned.learn(DecisionBatch.of([of_version(n, rng, "v1", START + n) for n in range(20)]), LIN_TS)
    trace = decided_trace("new", START + 100, ["x"], features=np.ones((1, 2), np.float32), layout="other")
    learned.learn(DecisionBatch.of([ClosedDecision(21, "online", [1.0], 1, 0, 0, trace)]), LIN_TS)
    assert isinstance(learned.policy, LinTS)
    assert learned.policy.posterior is not None
    np.testing.assert_array_equal(learned.policy.posterior.response, [1.0, 1.0])
    old = [of_version(22, rng, "v1", START + 99)]
    learned.learn(DecisionBatch.of(old), LIN_TS)
    assert learned.n_skipped == 1
    assert learned.statistics.displays.sum() == 43


# -- monitors ----------------------------------------------------------------------------------------------------------


def test_the_mean_importance_weight_of_the_baseline_is_one() -> None:
    rng, log = np.random.default_rng(12), []
    for number in range(4_000):
        pmf = rng.dirichlet(np.ones(4), size=1)
        chosen = rng.choice(4, p=pmf[0])
        trace = decided_trace(
            f"l{number}", START, [ITEMS[chosen]], shortlist=ITEMS[:4], pmfs=pmf, baseline=[number % 5 - 1],
            features=np.ones((1, 1), np.float32),
        )  # fmt: skip
        log.append(ClosedDecision(number, "online", [1.0], 1, 0, 0, trace))
    batch = DecisionBatch.of(log)
    n, total, squares, nonzero, largest, _ = batch.weight_figures()
    assert n == 3_200  # a baseline that is not in the shortlist could not be chosen
    assert abs(total / n - 1) < 4 * np.sqrt((squares / n - 1) / n)
    assert 0 < nonzero < n
    assert largest > 1
    np.testing.assert_array_equal(batch.keys, action_keys([trace.head["items"][0] for trace in [c.trace for c in log]]))


def test_drift_is_noticed_and_what_was_learned_counts_less() -> None:
    rng, learned = np.random.default_rng(13), Learned(LinTS())
    at_alarm: list[float] = []
    for block in range(40):
        log = []
        for number in range(BLOCK):
            trace, rewards = made(block * BLOCK + number, rng)
            shift = 0.3 if block >= 25 else 0.0
            log.append(ClosedDecision(number, "online", [r + shift for r in rewards if r is not None], 1, 0, 0, trace))
        before = learned.monitors.alarms
        n = (
            0.0
            if learned.policy is None
            else float(np.trace(learned.arrays().get("policy/precision", np.zeros((1, 1)))))
        )
        learned.learn(DecisionBatch.of(log), LIN_TS)
        if learned.monitors.alarms > before:
            assert block >= 25
            at_alarm.append(np.trace(learned.arrays()["policy/precision"]) / n)
    assert learned.monitors.alarms >= 1
    assert at_alarm[0] < 0.3


def test_lists_are_counted_by_mode() -> None:
    rng, log = np.random.default_rng(14), []
    for number, (mode, control) in enumerate([("online", False), ("guarded", False), ("guarded", True)] * 5):
        trace, _ = made(number, rng, mode=mode, control=control)
        log.append(ClosedDecision(number, mode, [1.0, 2.0], 1, 0, 0, trace))
    learned = Learned(LinTS())
    learned.learn(DecisionBatch.of(log), LIN_TS)
    figures = learned.info(LIN_TS)["monitors"]
    assert figures["lists"] == {"online": 5, "guarded": 5, "control": 5}
    mean, low, high = figures["reward_rate"]["control"]
    assert low < mean == 3.0 < high
    assert (learned.guard.policy.n, learned.guard.baseline.n) == (5, 5)


def test_learned_means_under_delays_are_those_of_closed_windows() -> None:
    """With the share 1 - exp(-W/τ) of the rewards in time, the posterior of a constant feature has that mean."""
    rng, n, q, share = np.random.default_rng(15), 3_000, 0.4, 1 - np.exp(-0.8)
    log = []
    for number in range(n):
        trace = decided_trace(f"l{number}", START, ["a"], features=np.ones((1, 1), np.float32))
        in_time = rng.random() < q and rng.exponential() < 0.8
        log.append(ClosedDecision(number, "online", [float(in_time)], 1, 0, 0, trace))
    learned = Learned(LinTS())
    learned.learn(DecisionBatch.of(log), LIN_TS)
    assert isinstance(learned.policy, LinTS)
    assert learned.policy.posterior is not None
    assert abs(learned.policy.posterior.mean[0] - q * share) < 4 * np.sqrt(q * share / n)
