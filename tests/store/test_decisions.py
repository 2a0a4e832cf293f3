"""Decisions, rewards and states of policies at rest, in SQLite and in a real PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sqlalchemy")

from tests.conformance.store import NOW, event, trace, until
from tests.conftest import own_schema
from zhiyin.core.errors import DataError
from zhiyin.store.decisions import ClosedRow
from zhiyin.store.learner_lock import LearnerLock
from zhiyin.store.policy_states import DAY, HOUR, MAX_STATES, kept_states
from zhiyin.store.restore import restore
from zhiyin.store.store import Store
from zhiyin.store.tables import DECISIONS, META, OPEN_DECISIONS, POLICY_STATES
from zhiyin.store.traces import Trace


def decided(n: int, user: str | None = "alice", placement: str = "home") -> Trace:
    head = {"items": ["a", "b"], "decision": {"policy": placement, "mode": "online"}}
    return Trace(f"list {n}", user, NOW + n, 3, placement, head, {"decision_slots": np.arange(2, dtype=np.int16)})


def closing(n: int, rewards: list[float | None] | None = None, **more: object) -> ClosedRow:
    values = {
        "list_id": f"list {n}", "placement": "home", "time": NOW + n, "version": 3, "mode": "online",
        "rewards": [1.0, 0.0] if rewards is None else rewards, "n_events": 1, "late": 0, "deadline": NOW + n + 10,
        "events_seq": 0, "rewards_seq": 0,
    } | more  # fmt: skip
    return ClosedRow(**values)  # type: ignore[arg-type]


class DecisionsConformance:
    @pytest.fixture
    def address(self, tmp_path: Path) -> str:
        raise NotImplementedError

    @pytest.fixture
    def store(self, address: str) -> Iterator[Store]:
        opened = Store(address)
        yield opened
        opened.close()

    def test_a_decided_list_is_open_until_it_is_closed(self, store: Store) -> None:
        other = trace(9, head={"request": {"context": {"decision": {"x": 1}}}})
        store.append_traces([decided(2), decided(1), decided(3, placement="cart"), other])
        assert [t.list_id for t in store.due_decisions("home", NOW + 1, 10)] == ["list 1"]
        assert [t.list_id for t in store.due_decisions("home", NOW + 9, 10)] == ["list 1", "list 2"]
        assert [t.list_id for t in store.due_decisions("home", NOW + 9, 10, max_bytes=1)] == ["list 1"]
        assert store.open_decision_count("home") == 2
        assert store.close_decisions([closing(1), closing(2, [None, -2.5])]) == 2
        assert store.close_decisions([closing(2, [7.0, 7.0]), closing(1)]) == 0
        assert (store.decision_closed("list 1"), store.decision_closed("list 3")) == (True, False)
        assert store.due_decisions("home", NOW + 9, 10) == []
        closed = store.closed_decisions("home")
        assert [(c.trace.list_id, c.rewards, c.mode) for c in closed] == [
            ("list 1", [1.0, 0.0], "online"), ("list 2", [None, -2.5], "online"),
        ]  # fmt: skip
        assert [c.trace.list_id for c in store.closed_decisions("home", max_bytes=1)] == ["list 1"]
        assert closed[0].trace.arrays["decision_slots"].tolist() == [0, 1]
        assert [c.trace.list_id for c in store.closed_decisions("home", closed[0].seq)] == ["list 2"]
        assert [store.last_closed_seq("home", skip) for skip in (0, 1, 2)] == [closed[1].seq, closed[0].seq, 0]
        assert store.append_traces([decided(1)]) == 0
        assert store.open_decision_count("home") == 0
        assert list(store.closed_of_lists(["list 2", "list 3"])) == ["list 2"]

    def test_a_list_that_is_gone_is_not_closed(self, store: Store) -> None:
        store.append_traces([decided(1), decided(2, "bob")])
        store.forget("bob")
        assert store.close_decisions([closing(1), closing(2)]) == 1

    def test_of_one_reward_id_only_the_first_counts(self, store: Store) -> None:
        assert store.append_reported_reward("list 1", "0", 0.5, "r", NOW)
        assert not store.append_reported_reward("list 1", "1", 0.7, "r", NOW)
        assert store.append_reported_reward("list 2", "0", -1.0, "r", NOW)
        frame = store.reported_rewards_of(["list 1", "list 2", "list 3"])
        assert frame.select("list_id", "slot", "value").rows() == [("list 1", "0", 0.5), ("list 2", "0", -1.0)]
        rows = [("0", 1.0, "s"), ("1", 2.0, "t"), ("1", 3.0, "r")]
        assert store.append_reported_rewards("list 1", rows, NOW, "click") == [True, True, False]
        with pytest.raises(DataError):
            store.append_reported_rewards("list 5", [("0", 1.0, "s"), ("", 1.0, "t")], NOW)
        assert len(store.reported_rewards_of(["list 5"])) == 0
        for value in (float("nan"), True, 1e300):
            with pytest.raises(DataError):
                store.append_reported_reward("list 1", "0", value, "x", NOW)
        with pytest.raises(DataError):
            store.append_reported_reward("list 1", "0", 1.0, "", NOW)

    def test_rewards_after_the_window_are_found(self, store: Store) -> None:
        store.append([event(1, list_id="list 1", kind="click")])
        store.append_traces([decided(1), decided(2)])
        seqs = store.last_reward_seqs()
        store.close_decisions([closing(n, events_seq=seqs[0], rewards_seq=seqs[1]) for n in (1, 2)])
        assert store.last_closed_seqs("home") == seqs
        assert store.last_closed_seqs("cart") is None
        store.append([event(2, list_id="list 1", kind="view"), event(3, list_id="list 2", kind="click")])
        store.append_reported_reward("list 1", "0", 1.0, "r", NOW)
        store.append_reported_reward("list 9", "0", 1.0, "r", NOW)
        until_seqs = store.last_reward_seqs()
        assert store.lists_with_later_rewards("home", seqs, until_seqs, ["click"]) == ["list 1", "list 2"]
        assert store.lists_with_later_rewards("cart", seqs, until_seqs, ["click"]) == []
        store.set_late_counts({"list 1": 1, "list 2": 3})
        assert store.window_counts("home") == (2, 4)
        assert store.window_counts("home", newest=1) == (1, 3)

    def test_forgetting_proves_that_decisions_are_gone(self, store: Store) -> None:
        store.append_traces([decided(1), decided(2, "bob"), decided(3), decided(4, placement="cart")])
        store.close_decisions([closing(1), closing(2), closing(4, placement="cart")])
        store.append_reported_reward("list 1", "0", 1.0, "r", NOW)
        store.append_reported_reward("list 2", "0", 1.0, "r", NOW)
        for name in ("home", "other"):
            store.put_policy_state(name, 1, {}, {})
        proof = store.forget("alice")
        removed = {name: n for name, n in proof.items() if n}
        assert removed == {
            "lists removed": 3, "decisions removed": 2, "open_decisions removed": 1, "reported_rewards removed": 1,
            "list_numbers removed": 3,
        }  # fmt: skip
        assert {"decisions found", "reported_rewards found", "open_decisions found"} <= set(proof)
        assert [c.trace.list_id for c in store.closed_decisions("home")] == ["list 2"]
        assert len(store.reported_rewards_of(["list 1", "list 2"])) == 1
        states = [store.policy_state(name) for name in ("home", "other")]
        assert [state is not None and state.outdated for state in states] == [True, False]

    def test_decisions_of_nobody_go_with_whose_events_are_in_their_rewards(self, store: Store, tmp_path: Path) -> None:
        store.append_traces([decided(n, None) for n in (1, 2, 3, 4)])
        store.close_decisions([closing(1, users=["alice", "bob"]), closing(2, users=["bob"]), closing(3)])
        for name in ("home", "other"):
            store.put_policy_state(name, 1, {}, {})
        store.export(tmp_path / "out")
        proof = store.forget("alice")
        assert {name: n for name, n in proof.items() if n} == {"decisions removed": 1, "decision_users removed": 2}
        assert [c.trace.list_id for c in store.closed_decisions("home")] == ["list 2", "list 3"]
        assert [t.list_id for t in store.due_decisions("home", NOW + 9, 9)] == ["list 4"]
        states = [store.policy_state(name) for name in ("home", "other")]
        assert [state is not None and state.outdated for state in states] == [True, False]
        other = Store(tmp_path / "other.db")
        try:
            other.forget("bob")
            other.load(tmp_path / "out")
            assert [c.trace.list_id for c in other.closed_decisions("home")] == ["list 3"]
            assert other.info()["decision_users"] == 0
        finally:
            other.close()
        other = Store(tmp_path / "third.db")
        try:
            other.load(tmp_path / "out")
            assert other.forget("bob")["decisions removed"] == 2
        finally:
            other.close()

    def test_nothing_is_closed_by_rewards_of_before_a_user_was_forgotten(self, store: Store) -> None:
        store.append_traces([decided(1)])
        count = store.forget_count()
        store.forget("somebody")
        assert store.close_decisions([closing(1)], forget_count=count) is None
        assert store.open_decision_count("home") == 1
        assert store.close_decisions([closing(1)], forget_count=count + 1) == 1

    def test_old_decisions_go_with_their_lists(self, store: Store) -> None:
        store.append_traces([decided(n) for n in (1, 2, 3)])
        store.close_decisions([closing(1), closing(3)])
        store.append_reported_reward("list 1", "0", 1.0, "r", NOW)
        store.append_reported_reward("never", "0", 1.0, "r", NOW)
        store.drop_lists_before(NOW + 3)
        assert [c.trace.list_id for c in store.closed_decisions("home")] == ["list 3"]
        assert store.open_decision_count("home") == 0
        assert len(store.reported_rewards_of(["list 1", "never"])) == 1
        store.drop_lists_before(store.clock() + 1)
        assert len(store.reported_rewards_of(["never"])) == 0

    def test_decisions_are_exported_and_loaded(self, store: Store, tmp_path: Path) -> None:
        store.append_traces([decided(n) for n in (1, 2, 3)])
        store.append_traces([decided(4, "bob")])
        store.append_reported_reward("list 3", "1", 2.0, "r", NOW)
        store.close_decisions([closing(3), closing(1), closing(4)])
        store.put("policies", {"home": {"mode": "online", "frozen": False, "snapshot": None, "by": "me"}})
        store.export(tmp_path / "out")
        other = Store(tmp_path / "other.db")
        try:
            other.forget("bob")
            for _ in range(2):
                other.load(tmp_path / "out")
            assert [c.trace.list_id for c in other.closed_decisions("home")] == ["list 3", "list 1"]
            assert [t.list_id for t in other.due_decisions("home", NOW + 9, 9)] == ["list 2"]
            assert other.reported_rewards_of(["list 3"])["value"].to_list() == [2.0]
            controls = other.get("policies", "home")
            assert controls is not None
            assert controls[0]["mode"] == "online"
            assert other.lists_with_later_rewards("home", (0, 0), other.last_reward_seqs(), ["click"]) == []
            counts = other.info()
            assert [counts[name] for name in ("decisions", "open_decisions", "reported_rewards")] == [2, 1, 1]
        finally:
            other.close()

    def test_states_are_numbered_and_read_back(self, store: Store) -> None:
        assert store.policy_state("home") is None
        assert store.newest_policy_states() == {}
        arrays = {"precision": np.eye(3), "keys": np.array([5], dtype=np.int64)}
        first = store.put_policy_state("home", 7, arrays, {"n": 2})
        second = store.put_policy_state("home", 9, {}, {})
        assert second > first > 0
        state = store.policy_state("home", first)
        assert state is not None
        assert (state.mark, state.info, state.arrays["keys"].tolist()) == (7, {"n": 2}, [5])
        np.testing.assert_array_equal(state.arrays["precision"], np.eye(3))
        assert store.newest_policy_states() == {"home": second}
        assert store.newest_policy_state_head("home") == (second, 9, False)
        assert store.policy_state("home", 10**6) is None

    def test_a_state_is_not_written_over_another_learners(self, store: Store) -> None:
        base = store.put_policy_state("home", 1, {}, {}, base=0)
        assert store.put_policy_state("home", 1, {}, {}, base=0) == 0
        count = store.forget_count()
        store.forget("somebody")
        assert store.put_policy_state("home", 2, {}, {}, base=base, forget_count=count) == 0
        assert store.put_policy_state("home", 2, {}, {}, base=base, forget_count=count + 1) > base

    def test_states_are_pruned_but_not_the_chosen_one(self, address: str) -> None:
        now = [NOW]
        store = Store(address, clock=lambda: now[0])
        try:
            chosen = store.put_policy_state("home", 0, {}, {})
            store.put("policies", {"home": {"snapshot": chosen}})
            for n in range(1, 40):
                now[0] += HOUR // 2
                store.put_policy_state("home", n, {}, {})
            numbers = [number for number, _ in store.policy_state_numbers("home")]
            assert chosen in numbers
            assert len(numbers) <= MAX_STATES + 1
            assert numbers[:8] == list(range(chosen + 39, chosen + 31, -1))
        finally:
            store.close()

    def test_a_store_of_before_gets_the_tables(self, store: Store, address: str) -> None:
        store.append([event(1)])
        with store.writing() as connection:
            META.drop_all(connection, [DECISIONS, OPEN_DECISIONS, POLICY_STATES])
        store.close()
        again = Store(address)
        try:
            again.append_traces([decided(1)])
            assert again.close_decisions([closing(1)]) == 1
            assert again.history("alice") == [event(1)]
        finally:
            again.close()

    def test_one_learner_at_a_time(self, store: Store, address: str) -> None:
        first, second = LearnerLock(store), LearnerLock(store)
        try:
            assert first.acquire()
            assert first.acquire()
            assert not second.acquire()
            first.release()
            assert second.acquire()
        finally:
            first.release()
            second.release()

    def test_another_learns_when_the_first_is_killed(self, store: Store, address: str) -> None:
        program = (
            "import sys, time\n"
            "from zhiyin.store.store import Store\nfrom zhiyin.store.learner_lock import LearnerLock\n"
            "lock = LearnerLock(Store(sys.argv[1]))\nprint(lock.acquire(), flush=True)\ntime.sleep(60)\n"
        )
        holder = subprocess.Popen([sys.executable, "-c", program, address], stdout=subprocess.PIPE, text=True)
        lock = LearnerLock(store)
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline().strip() == "True"
            assert not lock.acquire()
            os.kill(holder.pid, signal.SIGKILL)
            holder.wait(20)
            until(lock.acquire)
        finally:
            holder.kill()
            holder.wait(20)
            holder.stdout.close()  # type: ignore[union-attr]
            lock.release()


class TestSQLite(DecisionsConformance):
    @pytest.fixture
    def address(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'shop.db'}"

    def test_a_backup_holds_decisions(self, store: Store, tmp_path: Path) -> None:
        store.append_traces([decided(1), decided(2)])
        store.close_decisions([closing(1)])
        store.put_policy_state("home", 1, {"x": np.ones(2)}, {})
        copy = Store(store.backup(tmp_path / "copy.db"))
        try:
            assert copy.open_decision_count("home") == 1
            state = copy.policy_state("home")
            assert state is not None
            assert state.mark == 1
        finally:
            copy.close()

    def test_a_restored_backup_has_no_decisions_with_rewards_of_who_was_forgotten_since(
        self, store: Store, tmp_path: Path
    ) -> None:
        """Not even where none of their events is left to tell who they were."""
        store.append_traces([decided(1, None), decided(2, None)])
        store.close_decisions([closing(1, users=["alice"]), closing(2, users=["bob"])])
        store.backup(tmp_path / "copy.db")
        store.forget("alice")
        store.close()
        restore(tmp_path / "shop.db", tmp_path / "copy.db")
        again = Store(tmp_path / "shop.db")
        try:
            assert [c.trace.list_id for c in again.closed_decisions("home")] == ["list 2"]
        finally:
            again.close()


class TestPostgreSQL(DecisionsConformance):
    @pytest.fixture
    def address(self, postgres: str) -> str:
        return own_schema(postgres)


def test_states_kept_are_the_newest_then_hourly_then_daily() -> None:
    rows = [(n, NOW + n * HOUR // 10) for n in range(3_000, 0, -1)]
    kept = kept_states(rows)
    assert len(kept) == MAX_STATES
    assert set(range(2_993, 3_001)) <= kept
    days = sorted({(NOW + n * HOUR // 10) // DAY for n in kept})
    assert len(days) >= 5
