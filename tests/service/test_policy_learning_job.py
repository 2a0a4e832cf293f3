"""The job that learns: placements that come later, one learner a store, another when it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sqlalchemy")

from tests.pipeline.decision_logs import SECOND, START, Clock, decided_trace
from zhiyin.pipeline.reward_joiner import GRACE
from zhiyin.service.policy_learning_job import PolicyLearningJob, guarded_since
from zhiyin.store.records import Event
from zhiyin.store.store import Store

POLICY = '{"policy": {"kind": "lin_ts", "rewards": {"click": 1}, "window": "10s", "update": "1s"}}'
WINDOW = 10 * SECOND


def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def put_policy(store: Store, name: str = "home", settings: str = POLICY) -> None:
    store.put("placements", {name: {"settings": settings, "by": "http"}})


def show(store: Store, list_id: str, time: int, placement: str = "home") -> None:
    features = np.ones((3, 2), dtype=np.float32)
    store.append_traces([decided_trace(list_id, time, features=features, placement=placement)])
    store.append([Event("alice", "b", time, "click", list_id=list_id)])


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    opened = Store(tmp_path / "shop.db", clock=clock)
    yield opened
    opened.close()


def test_a_step_closes_and_learns_what_is_due(store: Store, clock: Clock) -> None:
    job = PolicyLearningJob(store, run=False)
    show(store, "l1", START)
    assert not job.step()  # nothing has a policy
    put_policy(store)
    put_policy(store, "plain", "{}")
    assert not job.step()
    clock.now = START + WINDOW + GRACE
    assert job.step()
    assert not job.step()
    state = store.policy_state("home")
    assert state is not None
    assert state.info["n_decisions"] == 1
    assert state.arrays["policy/response"].tolist() == [1.0, 1.0]
    monitors = state.info["monitors"]
    assert (monitors["in_time_share"], monitors["open_decisions"], monitors["late_traces"]) == (1.0, 0, 0)
    job.close()


def test_a_frozen_policy_closes_windows_and_learns_later(store: Store, clock: Clock) -> None:
    job = PolicyLearningJob(store, run=False)
    put_policy(store)
    show(store, "l1", START)
    store.put("policies", {"home": {"frozen": True, "by": "freeze"}})
    clock.now = START + WINDOW + GRACE
    assert job.step()
    assert store.decision_closed("l1")
    assert store.policy_state("home") is None
    store.put("policies", {"home": {"frozen": False, "by": "unfreeze"}})
    assert job.step()
    assert store.policy_state("home") is not None
    job.close()


def test_a_policy_that_cannot_learn_holds_up_no_other(
    store: Store, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    job = PolicyLearningJob(store, run=False)
    put_policy(store, "broken", '{"policy": {"kind": "no_such_policy", "rewards": {"click": 1}, "window": "10s"}}')
    put_policy(store)
    show(store, "l1", START)
    clock.now = START + WINDOW + GRACE
    for _ in range(2):
        job.step()
    assert store.policy_state("home") is not None
    assert sum("broken does not learn" in record.message for record in caplog.records) <= 1
    job.close()


def test_changed_settings_are_taken_in(store: Store, clock: Clock) -> None:
    job = PolicyLearningJob(store, run=False)
    put_policy(store)
    show(store, "l1", START)
    clock.now = START + WINDOW + GRACE
    job.step()
    put_policy(store, settings=POLICY.replace('"lin_ts"', '"lin_ucb"').replace('"click": 1', '"click": 3'))
    show(store, "l2", clock.now)
    clock.now += WINDOW + GRACE
    assert job.step()
    state = store.policy_state("home")
    assert state is not None
    assert state.info["kind"] == "LinUCB"
    assert state.arrays["policy/response"].tolist() == [4.0, 4.0]  # what was closed keeps its reward
    job.close()


def test_one_job_learns_and_the_next_takes_over(store: Store, clock: Clock, tmp_path: Path) -> None:
    put_policy(store)
    show(store, "l1", START)
    clock.now = START + WINDOW + GRACE
    other_store = Store(tmp_path / "shop.db", clock=clock)
    first, second = PolicyLearningJob(store, run=False), PolicyLearningJob(other_store, run=False)
    assert first.step()
    show(store, "l2", clock.now)
    clock.now += WINDOW + GRACE
    assert not second.step()
    first.close()
    assert second.step()
    state = store.policy_state("home")
    assert state is not None
    assert state.info["n_decisions"] == 2
    second.close()
    other_store.close()


@pytest.mark.slow
def test_a_thread_learns_and_another_process_takes_over_when_it_is_killed(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'shop.db'}"
    store = Store(address)
    program = (
        "import sys, time\nfrom zhiyin.service.policy_learning_job import PolicyLearningJob\n"
        "job = PolicyLearningJob(sys.argv[1])\ntime.sleep(60)\n"
    )
    learner = subprocess.Popen([sys.executable, "-c", program, address])
    try:
        put_policy(store)  # after the job was started
        show(store, "l1", store.clock() - WINDOW - GRACE)
        until(lambda: store.policy_state("home"))
        job = PolicyLearningJob(address)
        os.kill(learner.pid, signal.SIGKILL)
        learner.wait(20)
        show(store, "l2", store.clock() - WINDOW - GRACE)
        until(lambda: store.decision_closed("l2"))
        until(lambda: (state := store.policy_state("home")) is not None and state.info["n_decisions"] == 2)
        job.close()
    finally:
        learner.kill()
        learner.wait(20)
        store.close()


def test_guarded_begins_when_people_say_so(store: Store, clock: Clock) -> None:
    assert guarded_since(store, "home") == 0
    store.put("policies", {"home": {"mode": "guarded", "by": "promote"}})
    clock.now += 5
    store.put("policies", {"home": {"mode": "guarded", "by": "freeze", "frozen": True}})
    assert guarded_since(store, "home") == START
    clock.now += 5
    store.put("policies", {"home": {"mode": "guarded", "by": "promote", "frozen": True}})
    assert guarded_since(store, "home") == START + 10
