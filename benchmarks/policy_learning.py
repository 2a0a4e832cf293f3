"""Joining rewards to decisions and learning from them: how fast, and whether a kill loses or doubles anything.

python benchmarks/policy_learning.py speed --lists 1000000   # closed and learned decisions a second, on SQLite
python benchmarks/policy_learning.py kills --times 50        # a process that serves and learns is killed
python benchmarks/policy_learning.py speed --postgres postgresql://...
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from zhiyin.data.time_policy import wall_clock
from zhiyin.pipeline.decision_batch import DecisionBatch
from zhiyin.pipeline.decision_record import DecisionInfo, encode_decision
from zhiyin.pipeline.list_policy import ListDecision
from zhiyin.pipeline.policy_kinds import make_policy
from zhiyin.pipeline.policy_learner import Learned, LearnerSettings, PolicyLearner
from zhiyin.pipeline.reward_joiner import RewardJoiner, RewardSettings
from zhiyin.policies.action_sets import action_keys
from zhiyin.store.records import Event
from zhiyin.store.store import Store
from zhiyin.store.traces import Trace

SECOND = 1_000_000
NAME = "home"
# Of the lists: slots, items of the shortlist, features; share of the lists with a click.
SLOTS, SHORTLIST, FEATURES, CLICKED = 10, 50, 64, 0.3
# Of the process that is killed: window and grace in microseconds.
WINDOW, GRACE = 300_000, 100_000
LEARNER = LearnerSettings("lin_ts")


def decided(
    list_id: str, at: int, rng: np.random.Generator, items: list[str], slots: int, n_features: int, user: str | None
) -> Trace:
    """A list that a policy has decided: the first items of a random shortlist."""
    shortlist = [items[place] for place in rng.choice(len(items), min(SHORTLIST, len(items)), replace=False)]
    pmfs = rng.dirichlet(np.ones(len(shortlist)), size=slots)
    chosen = np.arange(slots, dtype=np.int16)
    propensities = pmfs[chosen, chosen]
    decision = ListDecision(
        action_keys(shortlist), np.full(len(shortlist), -1, np.int32),
        chosen, chosen, chosen, chosen, pmfs, propensities, np.cumprod(propensities),
        rng.normal(size=(slots, n_features)).astype(np.float32), True, 0.0,
    )  # fmt: skip
    part, arrays = encode_decision(decision, DecisionInfo(NAME, "LinTS", "online", layout="benchmark"))
    return Trace(list_id, user, at, 1, NAME, {"items": shortlist[:slots], **part}, arrays)


# -- speed -------------------------------------------------------------------------------------------------------------


def speed(address: str, n_lists: int) -> None:
    """Print how fast decisions are stored, closed and learned, by processor time (all threads of the process)."""
    now = [1_700_000_000 * SECOND]
    store = Store(address, clock=lambda: now[0])
    rng = np.random.default_rng(0)
    items = [f"item {number}" for number in range(10_000)]
    settings = RewardSettings({"click": (1.0, None)}, 600 * SECOND)
    begun = time.process_time()
    made, start = 0.0, now[0]
    for first in range(0, n_lists, 2_000):
        last = min(n_lists, first + 2_000)
        begun_making = time.process_time()
        traces = [decided(f"l{number}", start + number, rng, items, SLOTS, FEATURES, f"user {number % 5_000}")
                  for number in range(first, last)]  # fmt: skip
        events = [Event(trace.user or "", trace.head["items"][place], trace.time, "click", list_id=trace.list_id)
                  for trace, place in zip(traces, rng.integers(0, SLOTS, len(traces)))
                  if rng.random() < CLICKED]  # fmt: skip
        made += time.process_time() - begun_making
        store.append_traces(traces)
        store.append(events)
    stored = time.process_time() - begun - made
    now[0] = start + n_lists + settings.window + 10 * SECOND
    begun = time.process_time()
    n_closed = RewardJoiner(store, NAME, settings).step()
    joined = time.process_time() - begun
    begun, learner = time.process_time(), PolicyLearner(store, NAME, LEARNER)
    while learner.step():
        pass
    learned = time.process_time() - begun
    state = store.policy_state(NAME)
    assert state is not None
    assert n_closed == state.info["n_decisions"] == n_lists
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{store.dialect}: {n_lists:,} lists of {SLOTS} slots, {FEATURES} features, {SHORTLIST} candidates")
    for what, seconds in (("stored", stored), ("closed", joined), ("learned", learned)):
        print(f"  {what:8} {n_lists / seconds:10,.0f} decisions/s   {n_lists * SLOTS / seconds:12,.0f} slots/s")
    print(f"  both     {n_lists / (joined + learned):10,.0f} decisions/s; the process took {peak:,.0f} MB at most")
    decisions = DecisionBatch.of(store.closed_decisions(NAME, limit=2_000))
    again = Learned(make_policy(LEARNER.kind, LEARNER.settings))
    again.learn(decisions, LEARNER)  # compiled by now
    begun = time.process_time()
    for _ in range(5):
        again.learn(decisions, LEARNER)
    print(
        f"  updates  {5 * len(decisions.rewards) / (time.process_time() - begun):10,.0f} slots/s, of arrays in memory"
    )
    store.close()


# -- kills -------------------------------------------------------------------------------------------------------------

SERVES_AND_LEARNS = """
import sys, threading
from benchmarks.policy_learning import serve_and_learn
serve_and_learn(sys.argv[1], sys.argv[2])
"""


def serve_and_learn(address: str, prefix: str) -> None:
    """Store lists, events and rewards, name on stdout what is committed, and learn meanwhile; never ends."""
    import threading

    store = Store(address)
    settings = RewardSettings({"click": (1.0, None)}, WINDOW)

    def learn() -> None:
        joiner, learner = RewardJoiner(store, NAME, settings, GRACE), PolicyLearner(store, NAME, LEARNER)
        while True:
            joiner.step()
            learner.step()

    threading.Thread(target=learn, daemon=True).start()
    rng, items = np.random.default_rng(abs(hash(prefix)) % 2**32), [f"item {number}" for number in range(40)]
    shown: list[Trace] = []
    for number in range(10**9):
        traces = [
            decided(f"{prefix}-{number}-{part}", wall_clock(), rng, items, 3, 4, f"user {part}") for part in range(4)
        ]
        store.append_traces(traces)
        shown = (shown + traces)[-200:]  # the older ones' windows have ended: their rewards are late
        events, reports = [], []
        for place in rng.integers(0, len(shown), 6):
            trace, name = shown[place], f"{prefix}-{number}-{place}-{rng.integers(10**9)}"
            item = trace.head["items"][rng.integers(3)]
            events.append(Event(trace.user or "", item, wall_clock(), "click", id=f"e{name}", list_id=trace.list_id))
            reports.append((trace.list_id, str(rng.integers(3)), f"r{name}"))
        store.append([*events, *events[:1]])  # a retry
        print(*(event.id for event in events), sep="\n", flush=True)
        for list_id, slot, name in reports:
            store.append_reported_reward(list_id, slot, 0.5, name, wall_clock())
            store.append_reported_reward(list_id, slot, 0.5, name, wall_clock())  # a retry
            print(name, flush=True)


def killed(address: str, times: int, seed: int = 0) -> dict[str, int]:
    """Kill a process that serves and learns, at random moments, on one store; check what it left.

    Returns figures of what was checked. Raises AssertionError where a reward is lost or counted twice, or where the
    state is not that of the whole log.
    """
    rng, acknowledged = random.Random(seed), set[str]()
    Store(address).close()
    root = Path(__file__).resolve().parents[1]
    for kill in range(times):
        process = subprocess.Popen(
            [sys.executable, "-c", SERVES_AND_LEARNS, address, f"k{kill}"], stdout=subprocess.PIPE, text=True, cwd=root,
            env=os.environ | {"PYTHONPATH": str(root / "src")},
        )  # fmt: skip
        assert process.stdout is not None
        heard = "".join(process.stdout.readline() for _ in range(rng.randint(20, 800)))
        process.send_signal(signal.SIGKILL)
        heard += process.stdout.read()
        process.wait()
        acknowledged.update(heard[: heard.rfind("\n") + 1].split())
    store = Store(address, clock=lambda: wall_clock() + 3_600 * SECOND)
    try:
        return check(store, acknowledged)
    finally:
        store.close()


def check(store: Store, acknowledged: set[str]) -> dict[str, int]:
    """Close and learn the rest, then compare decisions, rewards and the state with the raw rows."""
    settings = RewardSettings({"click": (1.0, None)}, WINDOW)
    joiner, learner = RewardJoiner(store, NAME, settings, GRACE), PolicyLearner(store, NAME, LEARNER)
    joiner.step()
    while learner.step():
        pass
    with store.reading() as connection:
        events = connection.exec_driver_sql("SELECT id, list_id, item, received FROM events").all()
        reports = connection.exec_driver_sql("SELECT id, list_id, slot, value, received FROM reported_rewards").all()
        lists = dict(connection.exec_driver_sql("SELECT list_id, time FROM lists").all())
    assert acknowledged <= {row[0] for row in events} | {row[0] for row in reports}, "acknowledged, and not stored"
    closed = store.closed_decisions(NAME, limit=10**9)
    assert Counter(one.trace.list_id for one in closed) == Counter(list(lists)), "each list is closed once"
    earned: dict[tuple[str, int], float] = {}
    n_rewards: Counter[str] = Counter()
    places = {one.trace.list_id: {item: place for place, item in enumerate(one.trace.head["items"])} for one in closed}
    for _, list_id, item, received in events:
        if list_id in lists:
            n_rewards[list_id] += 1
            if received <= lists[list_id] + WINDOW:
                slot = list_id, places[list_id][item]
                earned[slot] = earned.get(slot, 0.0) + 1.0
    for _, list_id, position, value, received in reports:
        if list_id in lists:
            n_rewards[list_id] += 1
            if received <= lists[list_id] + WINDOW:
                slot = list_id, int(position)
                earned[slot] = earned.get(slot, 0.0) + value
    late = 0
    for one in closed:
        assert one.rewards is not None
        assert one.n_events + one.late == n_rewards[one.trace.list_id], "a reward is lost or counted twice"
        late += one.late
        expected = [earned.get((one.trace.list_id, place), 0.0) for place in range(len(one.rewards))]
        # Committed later than the grace after its window, a reward that was received within it counts as late.
        assert one.rewards == expected or (one.late and all(a <= b for a, b in zip(one.rewards, expected)))
    state = store.policy_state(NAME)
    assert state is not None
    assert state.info["n_decisions"] == len(closed), "each decision is learned once"
    whole = Learned(make_policy(LEARNER.kind, LEARNER.settings))
    whole.learn(DecisionBatch.of(closed), LEARNER)
    for name, array in whole.arrays().items():
        np.testing.assert_allclose(state.arrays[name], array, rtol=1e-8, atol=1e-8)
    total = sum(reward for one in closed for reward in one.rewards or () if reward is not None)
    np.testing.assert_allclose(state.arrays["statistics/rewards"].sum(), total)
    return {
        "acknowledged": len(acknowledged), "decisions": len(closed), "late": late,
        "rewards": sum(one.n_events for one in closed), "snapshots": state.number,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "kills"])
    parser.add_argument("--lists", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=50, help="kills")
    parser.add_argument("--postgres", help="address of a PostgreSQL whose tables may be filled, instead of SQLite")
    parser.add_argument("--folder", help="where the SQLite file lies; default a temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        address = given.postgres or f"sqlite:///{folder}/shop.db"
        if given.what == "speed":
            speed(address, given.lists)
        else:
            print(f"{given.times} kills:", killed(address, given.times))


if __name__ == "__main__":
    main()
