"""The job that learns: closes windows of rewards and updates the policies of a store, in a thread of its own.

Every process that serves a store may run it. One of them learns at a time (`store/learner_lock.py`); when that one
ends, however it ends, another goes on within seconds from the last snapshot.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zhiyin.core.durations import microseconds
from zhiyin.core.run import log
from zhiyin.service.placements import Placements
from zhiyin.store.learner_lock import LearnerLock
from zhiyin.store.store import Store
from zhiyin.store.tables import POLICIES

if TYPE_CHECKING:
    from zhiyin.api.requests import PolicySettings

# Seconds between two looks for what is due; before a job that does not learn tries to take over.
POLL_SECONDS, TAKE_OVER_SECONDS = 0.25, 1.0
# Bytes of snapshots of one policy that are written a second: large ones, of many items, are written less often.
SNAPSHOT_BYTES_PER_SECOND = 4 << 20


class PolicyLearningJob:
    """Learns the policies of all placements of a store, also of those that are written later.

    Parameters
    ----------
    store: its address, opened by the job; or an open store, which stays open.
    run: work in a thread until `close`; False: only `step` works.
    """

    def __init__(self, store: str | Store, *, run: bool = True) -> None:
        self._address = store if isinstance(store, str) else None
        self._store = store if isinstance(store, Store) else None
        self._lock: LearnerLock | None = None
        self._placements: Placements | None = None
        self._seq = -1
        self._policies: dict[str, _LearnedPolicy] = {}
        self._stop = threading.Event()
        self._is_failing = False
        self._thread = threading.Thread(target=self._work, name="zhiyin-policies", daemon=True)
        if run:
            self._thread.start()

    def close(self) -> None:
        """Stop, and let another job learn."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(10.0)
        if not self._thread.is_alive():
            self._release()

    def step(self) -> bool:
        """Close what is due by the store's clock and learn from it, of all policies; returns whether anything changed.

        Does nothing where another process learns.
        """
        return self._run_due(every=True)

    def _work(self) -> None:
        while not self._stop.wait(POLL_SECONDS if self._policies else TAKE_OVER_SECONDS):
            try:
                self._run_due()
                self._is_failing = False
            except Exception as error:  # serving goes on; the next run may succeed
                if not self._is_failing:
                    log.warning("policies: rewards are not learned: %s", error)
                self._is_failing = True
        self._release()

    def _run_due(self, every: bool = False) -> bool:
        if self._store is None:
            assert self._address is not None
            self._store = Store(self._address)
        if not self._read_placements(self._store):
            if self._lock is not None:
                self._lock.release()
            return False
        self._lock = self._lock or LearnerLock(self._store)
        if not self._lock.acquire():
            for policy in self._policies.values():
                policy.reset()  # what another has learned meanwhile is read from the store
            return False
        changed = False
        for policy in list(self._policies.values()):
            if self._stop.is_set():
                break
            if every or policy.is_due:
                changed |= policy.step(self._store)
        return changed

    def _read_placements(self, store: Store) -> bool:
        """Take in changes of the placements; returns whether one of them has a policy."""
        if self._placements is None:
            self._placements = Placements(store, None, None)
        else:
            self._placements.refresh()
        if self._placements.seq != self._seq:
            self._seq = self._placements.seq
            settings = {
                entry["name"]: self._placements.get(entry["name"])[1].policy for entry in self._placements.all()
            }
            before, self._policies = self._policies, {}
            for name, policy in settings.items():
                if policy is not None:
                    old = before.get(name)
                    self._policies[name] = old if old and old.settings == policy else _LearnedPolicy(name, policy)
        return bool(self._policies)

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
        if self._address is not None and self._store is not None:
            self._store.close()


class _LearnedPolicy:
    """The joiner and the learner of one policy."""

    def __init__(self, name: str, settings: PolicySettings) -> None:
        self.name, self.settings = name, settings
        self._every = microseconds(settings.update) / 1e6
        self._next = 0.0
        self._joiner: Any = None
        self._learner: Any = None
        self._is_failing = False

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._next

    def reset(self) -> None:
        """Read the state of the store anew at the next step."""
        self._joiner = self._learner = None

    def step(self, store: Store) -> bool:
        """Close what is due and learn from it; an error is logged, and the next step tries again."""
        begun = time.monotonic()
        try:
            changed = self._step(store)
            self._is_failing = False
            return changed
        except Exception as error:  # other policies go on
            if not self._is_failing:
                log.warning("policies: %s does not learn: %s", self.name, error)
            self._is_failing = True
            self.reset()
            return False
        finally:
            ended = time.monotonic()
            size = 0 if self._learner is None else self._learner.snapshot_bytes
            # At most half of the time is its own.
            self._next = max(begun + self._every, ended + (ended - begun), begun + size / SNAPSHOT_BYTES_PER_SECOND)

    def _step(self, store: Store) -> bool:
        if self._learner is None:
            # Here, since a service without policies needs none of it.
            from zhiyin.pipeline.policy_learner import LearnerSettings, PolicyLearner
            from zhiyin.pipeline.reward_joiner import RewardJoiner, RewardSettings

            settings = self.settings
            worth = [one if isinstance(one, int | float) else one.reward for one in settings.rewards.values()]
            nonnegative = min(worth, default=0.0) >= 0 and settings.default_reward >= 0
            learned = LearnerSettings(
                settings.kind, settings.settings, settings.margin, settings.control, nonnegative
            )  # fmt: skip
            self._joiner = RewardJoiner(store, self.name, RewardSettings.of(settings))
            self._learner = PolicyLearner(store, self.name, learned)
        n_closed = self._joiner.step()
        controls = store.get(POLICIES, self.name)
        is_frozen = controls is not None and controls[0].get("frozen") is True
        changed = self._learner.step(is_frozen, guarded_since(store, self.name), lambda: self._figures(store))
        return bool(n_closed) or changed

    def _figures(self, store: Store) -> Mapping[str, Any]:
        in_time, late = store.window_counts(self.name)
        return {
            "in_time_share": in_time / (in_time + late) if in_time + late else 1.0,
            "open_decisions": store.open_decision_count(self.name), "late_traces": self._joiner.late_traces,
            "foreign_events": self._joiner.foreign_events,
        }  # fmt: skip


def guarded_since(store: Store, name: str) -> int:
    """When people last promoted a policy to mode guarded, microseconds UTC; 0: never, its settings may say so."""
    for _, columns, received in store.versions(POLICIES, name):
        if columns is not None and columns.get("mode") == "guarded" and columns.get("by") == "promote":
            return received
    return 0
