"""The learner of one policy: reads closed decisions in their order, updates what the policy knows, writes snapshots.

A snapshot and the mark of the last decision that it has learned are one row of the store, so each decision is learned
exactly once, whenever the process ends. The state is a function of the log alone, not of the batches in which it was
read: learning the whole log again gives the same state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.core.params import settings_of
from zhiyin.core.run import log
from zhiyin.pipeline.decision_batch import Context, DecisionBatch
from zhiyin.pipeline.item_statistics import ItemStatistics
from zhiyin.pipeline.policy_guard import Guard
from zhiyin.pipeline.policy_kinds import ONE_SLOT, make_policy
from zhiyin.pipeline.policy_monitors import BLOCK, Monitors, Sums
from zhiyin.pipeline.policy_snapshot import for_version, restored_policy, snapshot_arrays
from zhiyin.policies.action_sets import Outcomes
from zhiyin.policies.beta_bernoulli import BetaBernoulli
from zhiyin.policies.linear_policy import LinearPolicy
from zhiyin.policies.policy import Policy
from zhiyin.store.store import Store

# Decisions of one batch, bytes of their arrays, and batches of one step at most.
BATCH, BATCH_BYTES, BATCHES_PER_STEP = 2_000, 64 << 20, 5
# Lists that another version made within this time of the switch are stragglers of it; later ones are a switch back.
STRAGGLERS = 60_000_000
# Share of what was learned that is forgotten when rewards drift.
FORGET_SHARE = 0.8
# The name of an array.
_ERROR_MODEL = "learner/error_model"


@dataclasses.dataclass(frozen=True)
class LearnerSettings:
    """What is learned.

    Parameters
    ----------
    kind, settings: of the policy, as `make_policy` takes them.
    margin, control: of mode guarded.
    nonnegative: whether no reward can be below 0.
    """

    kind: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    margin: float = 0.05
    control: float = 0.1
    nonnegative: bool = False


@dataclasses.dataclass(eq=False)
class Learned:
    """What was learned from the decisions up to some point of the log.

    Parameters
    ----------
    policy: None for ONE_SLOT.
    statistics: of the items shown.
    context: of the features; None before the first. previous: the one before. switched: when the context changed,
        microseconds UTC.
    n_decisions, n_outcomes: that were learned. n_skipped: decisions whose features did not fit.
    error_model: weights by which rewards are predicted for the drift test; None before the first block has ended.
    """

    policy: Policy | None
    statistics: ItemStatistics = dataclasses.field(default_factory=ItemStatistics)
    monitors: Monitors = dataclasses.field(default_factory=Monitors)
    guard: Guard = dataclasses.field(default_factory=Guard)
    context: Context | None = None
    previous: Context | None = None
    switched: int = 0
    n_decisions: int = 0
    n_outcomes: int = 0
    n_skipped: int = 0
    error_model: np.ndarray | None = None

    # -- learning ------------------------------------------------------------------------------------------------------

    def learn(self, batch: DecisionBatch, settings: LearnerSettings) -> None:
        """Learn from decisions in their order."""
        for start, stop in batch.runs():
            fits, own_vectors = self._enter(batch.contexts[start], int(batch.times[start]))
            while start < stop:
                end = min(stop, start + BLOCK - self.monitors.n_in_block)
                self._learn_part(batch, start, end, fits, own_vectors)
                self.monitors.n_in_block += end - start
                if self.monitors.n_in_block == BLOCK:
                    self._end_block(int(batch.times[end - 1]), settings)
                start = end

    def _enter(self, context: Context, time: int) -> tuple[bool, bool]:
        """Prepare for lists of a context: whether their features fit, and whether those of the version do."""
        present = self.context
        if present is None or present.same(context):
            self.context = context
            return True, True
        if self.previous is not None and self.previous.same(context) and time < self.switched + STRAGGLERS:
            return context.layout == present.layout, False
        if isinstance(self.policy, LinearPolicy):
            if context.layout == present.layout:
                self.policy = for_version(self.policy, context.version_free)
            else:
                self.policy = type(self.policy)(**settings_of(self.policy))
            self.error_model = None
        self.previous, self.context, self.switched = present, context, time
        return True, True

    def _learn_part(self, batch: DecisionBatch, start: int, stop: int, fits: bool, own_vectors: bool) -> None:
        part = batch.part(start, stop)
        self.statistics.update(part.keys, part.slots, part.rewards)
        features = part.joined_features()
        if features is not None and not own_vectors and self.context is not None and self.context.version_free >= 0:
            features[:, self.context.version_free :] = 0.0
        if isinstance(self.policy, LinearPolicy) and not (fits and self._has_width_of(features)):
            self.n_skipped += stop - start
        elif self.policy is not None:
            self._count_errors(features, part.rewards)
            rewards = np.clip(part.rewards, 0.0, 1.0) if isinstance(self.policy, BetaBernoulli) else part.rewards
            self.policy.update(Outcomes(part.keys, rewards, features))
        self.n_decisions += stop - start
        self.n_outcomes += len(part.rewards)
        for mode, figures in part.figures_by_mode().items():
            self.monitors.rewards.setdefault(mode, Sums()).add(*figures)
        self.monitors.weights.add(*part.weight_figures())
        if self.guard.step >= 0:
            of_policy, of_baseline = part.guarded_figures(self.guard.since)
            self.guard.policy.add(*of_policy)
            self.guard.baseline.add(*of_baseline)

    def _has_width_of(self, features: np.ndarray | None) -> bool:
        """Whether features can be learned by the posterior as it is."""
        posterior = self.policy.posterior if isinstance(self.policy, LinearPolicy) else None
        return features is not None and (posterior is None or posterior.n_features == features.shape[1])

    def _count_errors(self, features: np.ndarray | None, rewards: np.ndarray) -> None:
        """Add the errors of predictions that do not know these outcomes; without features, the rewards themselves."""
        if not isinstance(self.policy, LinearPolicy):
            errors = rewards
        elif self.error_model is not None and features is not None and len(self.error_model) == features.shape[1]:
            errors = rewards - features @ self.error_model
        else:
            return
        self.monitors.errors += float(errors.sum())
        self.monitors.n_errors += len(errors)

    def _end_block(self, time: int, settings: LearnerSettings) -> None:
        if self.monitors.end_block(time) and self.policy is not None:
            self.policy.forget(FORGET_SHARE)
        if isinstance(self.policy, LinearPolicy) and self.policy.posterior is not None:
            self.error_model = self.policy.posterior.mean.copy()
        self.guard.judge(settings.margin, settings.control)

    # -- at rest -------------------------------------------------------------------------------------------------------

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learned, by name."""
        arrays = snapshot_arrays(self.policy, self.statistics)
        return arrays if self.error_model is None else arrays | {_ERROR_MODEL: self.error_model}

    def info(self, settings: LearnerSettings) -> dict[str, Any]:
        """What stands beside the arrays."""
        context = self.context or Context()
        return {
            **identity_of(settings), "layout": context.layout, "vectors": context.vectors,
            "version_free": context.version_free, "n_decisions": self.n_decisions, "n_outcomes": self.n_outcomes,
            "n_skipped": self.n_skipped, "n_updates": 0 if self.policy is None else self.policy.n_updates,
            "guard": self.guard.figures(settings.control), "monitors": self.monitors.figures(settings.nonnegative),
            "learner": {
                "context": None if self.context is None else dataclasses.asdict(self.context),
                "previous": None if self.previous is None else dataclasses.asdict(self.previous),
                "switched": self.switched, "monitors": self.monitors.as_json(), "guard": self.guard.as_json(),
            },
        }  # fmt: skip

    @classmethod
    def restored(cls, settings: LearnerSettings, arrays: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> Learned:
        """Of what `arrays` and `info` gave. Raises DataError where they do not fit."""
        arrays = {name: array.copy() for name, array in arrays.items()}
        policy, statistics = restored_policy(settings.kind, settings.settings, arrays, info)
        try:
            inner = info["learner"]
            context, previous = (None if inner[name] is None else Context(**inner[name])
                                 for name in ("context", "previous"))  # fmt: skip
            return cls(
                policy, statistics, Monitors.from_json(inner["monitors"]), Guard.from_json(inner["guard"]), context,
                previous,
                int(inner["switched"]), int(info["n_decisions"]), int(info["n_outcomes"]), int(info["n_skipped"]),
                arrays.get(_ERROR_MODEL),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            remedy = "learn it again from the log of decisions"
            raise DataError(f"what the policy has learned is damaged ({error!r})", remedy=remedy) from None


def identity_of(settings: LearnerSettings) -> dict[str, Any]:
    """The policy that a state is of: the name of its class, or ONE_SLOT, and all its hyperparameters."""
    policy = make_policy(settings.kind, settings.settings)
    if policy is None:
        return {"kind": ONE_SLOT, "settings": {}}
    return {"kind": type(policy).__name__, "settings": dict(settings_of(policy))}


class PolicyLearner:
    """Learns one policy of a store and writes its snapshots. One object at a time may work for a store.

    Parameters
    ----------
    name: of the policy, which is its placement.
    """

    def __init__(self, store: Store, name: str, settings: LearnerSettings) -> None:
        self.store, self.name, self.settings = store, name, settings
        # What was learned up to the decision `_mark`; None: it must be read from the store.
        self._learned: Learned | None = None
        self._mark = 0
        # The newest state in the store, and how often users were forgotten, when learning began.
        self._number = self._forget_count = 0
        # The newest state has learned of a user who was forgotten: all is learned anew, up to its mark at least, before
        # another state takes its place. How many decisions were read since.
        self._is_outdated, self._target, self._n_read = False, 0, 0
        # Bytes of the arrays of the last snapshot that was written.
        self.snapshot_bytes = 0

    def step(
        self, frozen: bool = False, guarded_since: int = 0, figures: Callable[[], Mapping[str, Any]] = dict
    ) -> bool:
        """Learn from decisions that were closed since, at most BATCHES_PER_STEP batches, and write a snapshot.

        Returns whether anything was learned.

        Parameters
        ----------
        frozen: learn nothing; only what was learned of a user who was forgotten is learned anew without them.
        guarded_since: microseconds UTC; mode guarded began then, lists of before do not count for its guard.
        figures: called for further monitors, which are written with the snapshot.
        """
        try:
            return self._step(frozen, guarded_since, figures)
        except BaseException:
            self._learned = None  # it may have learned a part of a batch
            raise

    def _step(self, frozen: bool, guarded_since: int, figures: Callable[[], Mapping[str, Any]]) -> bool:
        learned = self._synchronise()
        if frozen and not self._is_outdated:
            return False
        if guarded_since > learned.guard.since:
            learned.guard = Guard(since=guarded_since)
        is_done, n_before = False, self._n_read
        for _ in range(BATCHES_PER_STEP):
            closed = self.store.closed_decisions(self.name, self._mark, BATCH, BATCH_BYTES)
            if frozen:
                closed = [one for one in closed if one.seq <= self._target]
            if not closed:
                is_done = True
                break
            learned.learn(DecisionBatch.of(closed), self.settings)
            self._mark = closed[-1].seq
            self._n_read += len(closed)
        if self._is_outdated and not is_done and self._mark < self._target:
            return True
        if self._n_read == n_before and not self._is_outdated:
            return False
        self._write(learned, figures())
        return True

    def _synchronise(self) -> Learned:
        """What was learned until now: that in memory, else the newest state of the store, else nothing."""
        forget_count = self.store.forget_count()  # first: who is forgotten after this makes `_write` fail
        number, mark, outdated = self.store.newest_policy_state_head(self.name)
        is_newest = self._learned is not None and number == self._number
        # Whoever was forgotten while all is learned anew may have had no part in it.
        if is_newest and (forget_count == self._forget_count or (self._is_outdated and self._has_all_decisions())):
            assert self._learned is not None
            self._forget_count = forget_count
            return self._learned
        self._number, self._forget_count, self._is_outdated, self._n_read = number, forget_count, outdated, 0
        restored = None if outdated else self._restored(number)
        self._mark, self._target = (0 if restored is None else mark), (mark if outdated else 0)
        self._learned = restored or Learned(make_policy(self.settings.kind, self.settings.settings))
        return self._learned

    def _has_all_decisions(self) -> bool:
        """Whether all decisions that were learned anew are still in the log."""
        return self.store.closed_decision_count(self.name, self._mark) == self._n_read

    def _restored(self, number: int) -> Learned | None:
        """The state with this number; None where it cannot go on: another policy's, damaged, or none."""
        if not number:
            return None
        try:
            state = self.store.policy_state(self.name, number)
            if state is None:
                return None
            identity = identity_of(self.settings)
            if any(state.info.get(name) != value for name, value in identity.items()):
                log.info("policies: %s is another policy now; it learns again from its log", self.name)
                return None
            return Learned.restored(self.settings, state.arrays, state.info)
        except DataError as error:
            log.warning("policies: %s: %s; it learns again from its log", self.name, error.message)
            return None

    def _write(self, learned: Learned, figures: Mapping[str, Any]) -> None:
        info = learned.info(self.settings)
        info["monitors"] |= figures
        arrays = learned.arrays()
        self.snapshot_bytes = sum(array.nbytes for array in arrays.values())
        number = self.store.put_policy_state(
            self.name, self._mark, arrays, info, base=self._number, forget_count=self._forget_count
        )  # fmt: skip
        if number:
            self._number, self._is_outdated = number, False
        else:  # another learner wrote, or a user was forgotten: what is in memory may not be used
            self._learned = None
