"""Policies of placements as they decide now: their newest allowed snapshots, in memory, and what a request gets.

A thread looks every `REFRESH_SECONDS` for snapshots that the learner has written; controls act on the next request.
Before the first snapshot a policy decides at its prior.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from zhiyin.api.requests import ExplorationSettings, PolicySettings
from zhiyin.core.errors import ConfigError
from zhiyin.core.run import log
from zhiyin.pipeline.answers import Answers
from zhiyin.pipeline.decision_record import DecisionInfo
from zhiyin.pipeline.item_statistics import ItemStatistics
from zhiyin.pipeline.list_features import ListFeatures
from zhiyin.pipeline.list_policy import ExplorationLimits, ListDecision, ListPolicy
from zhiyin.pipeline.policy_kinds import make_policy, policy_class_name
from zhiyin.pipeline.policy_snapshot import for_version, restored_policy
from zhiyin.policies.action_sets import action_keys, decision_seeds
from zhiyin.policies.linear_policy import LinearPolicy
from zhiyin.policies.policy import Policy
from zhiyin.service.health_issues import HealthIssue, one_line_reason
from zhiyin.service.placements import Placements
from zhiyin.service.policy_controls import Controls, PolicyControls
from zhiyin.service.serving_state import ServingState
from zhiyin.service.version_view import View
from zhiyin.store.errors import StoreAwayError
from zhiyin.store.frequency_counts import DAY_SECONDS

# Seconds between two looks for new snapshots, and after which snapshots that could not be looked for are too old.
REFRESH_SECONDS, STALE_SECONDS = 1.0, 15.0
# Half-life of the tally of losses: what was lost t days ago counts exp(-t), so a constant rate sums up to a day of it.
LOSS_HALF_LIFE_SECONDS = DAY_SECONDS * math.log(2)
# Share of the lists that the policy gets in mode guarded, before the learner has judged it.
FIRST_GUARDED_SHARE = 0.05
# Reasons for which the baseline makes the list.
FALLBACK_REASONS = frozenset({
    "killed", "stale_snapshot", "invalid_snapshot", "invalid_probabilities", "constant_scores", "budget_exceeded_time",
    "schema_changed", "guard",
})  # fmt: skip
# Policies, by placement and hyperparameters, that are in memory.
MAX_SERVED = 4_096
# Choices of a policy that are in memory: there is one for each mode and reason.
MAX_CHOICES = 64
# Lists of these origins are decided by the policy of their placement.
DECIDED_ORIGINS = frozenset({"recommendations", "similar"})
# Begins what is counted beside the items that a user was shown: no id of an item has it.
MARK = "\x1f"


@dataclasses.dataclass(frozen=True, eq=False)
class ServedPolicy:
    """A policy of a placement as it decides in this process.

    Parameters
    ----------
    settings: that it was made for.
    kind: name of its class, or ONE_SLOT.
    policy: None for ONE_SLOT.
    snapshot: number of the learned state; 0: the prior.
    allowed: number of the newest allowed snapshot when this was read: another one than `snapshot` cannot be used.
    statistics: of items, as learned; None: none yet.
    info: what the learner says of the snapshot.
    reason: code, where the snapshot is not what it should be; "".
    """

    settings: PolicySettings
    kind: str
    policy: Policy | None
    snapshot: int = 0
    allowed: int = 0
    statistics: ItemStatistics | None = None
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    reason: str = ""

    @functools.cached_property
    def limits(self) -> ExplorationLimits:
        return limits_of(self.settings.exploration)

    @functools.cached_property
    def greedy_limits(self) -> ExplorationLimits:
        return dataclasses.replace(self.limits, greedy=True)

    @functools.cached_property
    def choices(self) -> dict[tuple[Any, ...], PolicyChoice]:
        """Choices that were made before, by what they follow from: a list is asked for more often than they change."""
        return {}


@dataclasses.dataclass(frozen=True)
class Layout:
    """The layout of features; see `DecisionInfo`."""

    digest: str = ""
    version_free: int = -1
    vectors: str = ""

    @classmethod
    def of(cls, features: ListFeatures) -> Layout:
        return cls(features.digest, features.n_version_free, features.version_digest)


@dataclasses.dataclass(frozen=True, eq=False)
class PolicyChoice:
    """Who decides one list.

    Parameters
    ----------
    policy: that is asked; None: nothing is, the list is the baseline.
    info: what is logged of it; `decided` completes it.
    """

    policy: ListPolicy | None
    info: DecisionInfo

    def decided(self, reason: str) -> DecisionInfo:
        """What is logged once the list is made. reason: code of the decision itself; "": the policy could decide."""
        if not reason or self.info.reason in FALLBACK_REASONS:
            return self.info
        return dataclasses.replace(self.info, reason=reason, mode="fallback")


class PolicyServing:
    """Policies of all placements of one shop. Any number of threads may use one.

    Parameters
    ----------
    clock: seconds.
    """

    def __init__(
        self,
        live: ServingState,
        placements: Placements,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.live, self.store, self.placements = live, live.store, placements
        self.controls = PolicyControls(self.store)
        self.newest: Mapping[str, int] = {}
        # Whether explored lists of users are counted, for a day, beside the items that they were shown.
        self.counts_users = False
        # By placement and what the policy is: an arm of an experiment may be another one.
        self._served: dict[tuple[str, str], ServedPolicy] = {}
        self._features: tuple[Answers, ListFeatures, Layout] | None = None
        self._versioned: dict[str, tuple[Policy | None, str, Policy | None]] = {}
        self._issues: dict[str, HealthIssue] = {}
        self._clock, self._refreshed, self._lock, self._stop = clock, clock(), threading.Lock(), threading.Event()
        live.table_listeners["policies"] = self.controls.refresh
        self.refresh()
        self._thread = threading.Thread(target=self._follow, name="zhiyin-policies", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    # -- snapshots ----------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        while not self._stop.wait(REFRESH_SECONDS):
            try:
                self.refresh()
            except Exception as error:  # the snapshots in memory go on deciding, until they are stale
                log.warning("policies: snapshots could not be read: %s", one_line_reason(error))

    def refresh(self) -> None:
        """Read the snapshots and the controls that there are now."""
        settings = self.settings()
        self.counts_users = any(one.exploration.user_per_day is not None for one in settings.values())
        if settings:
            self.controls.refresh()
            self.newest = self.store.newest_policy_states()
            for name, setting in settings.items():
                with contextlib.suppress(ConfigError):  # of a policy that is gone; `Placements.health_issues` names it
                    self._serve(name, setting)
        self._refreshed = self._clock()

    def settings(self) -> dict[str, PolicySettings]:
        """Settings of the policies, by placement."""
        return {name: setting.policy for name, (_, setting) in self.placements.usable().items() if setting.policy}

    def at(self, name: str) -> ServedPolicy:
        """The policy of a placement as it decides now. Raises ConfigError where the placement has none."""
        setting = self.placements.get(name)[1].policy
        if setting is None:
            raise ConfigError(f"placement {name!r} has no policy", remedy=f"PUT /v1/placements/{name} with one")
        return self._current(name, setting)

    def health_issues(self) -> list[HealthIssue]:
        """Snapshots that cannot be used, and policies that have learned of lists but of no reward, and name none."""
        return [*self._issues.values(), *self._unrewarded()]

    def _unrewarded(self) -> list[HealthIssue]:
        issues = []
        for (name, _), served in list(self._served.items()):
            setting = self.settings().get(name)
            rates = (served.info.get("monitors") or {}).get("reward_rate") or {}
            if (
                setting is served.settings
                and not setting.rewards
                and rates
                and not any(rate[0] for rate in rates.values())
            ):
                reason = "rewards is empty and none was reported: it learns nothing"
                issues.append(HealthIssue(f"policy {name!r}", reason, f"PUT /v1/placements/{name} with policy.rewards"))
        return issues

    def _current(self, name: str, setting: PolicySettings) -> ServedPolicy:
        served = self._served.get((name, _what(setting)))
        if served is None or served.allowed != self._allowed(name, self.controls.get(name)):
            served = self._serve(name, setting)
        return served if served.settings is setting else dataclasses.replace(served, settings=setting)

    def _allowed(self, name: str, controls: Controls) -> int:
        """The number of the newest snapshot that may decide."""
        return self.newest.get(name, 0) if controls.snapshot is None else controls.snapshot

    def _serve(self, name: str, setting: PolicySettings) -> ServedPolicy:
        """Have the newest allowed snapshot decide from now on."""
        key, number = (name, _what(setting)), self._allowed(name, self.controls.get(name))
        self.counts_users = self.counts_users or setting.exploration.user_per_day is not None
        with self._lock:
            before = self._served.get(key)
            if before is not None and before.allowed == number:
                return before
            if len(self._served) >= MAX_SERVED:
                self._served.clear()
            served = self._served[key] = self._read(name, setting, number, before)
            return served

    def _read(self, name: str, setting: PolicySettings, number: int, before: ServedPolicy | None) -> ServedPolicy:
        kind, prior = policy_class_name(setting.kind), make_policy(setting.kind, setting.settings)
        own_settings = {} if prior is None else prior.get_params()
        empty = ServedPolicy(setting, kind, prior, allowed=number, reason="no_snapshot" if prior is not None else "")
        if number == 0:
            return empty
        try:
            # One that was deleted held what a user had done who was forgotten since.
            state = self.store.policy_state(name, number) or self.store.policy_state(name)
            if state is None or state.info.get("kind") != kind or state.info.get("settings") != own_settings:
                return empty  # learned under other settings: the learner makes one of these
            policy, statistics = restored_policy(kind, setting.settings, state.arrays, state.info)
        except StoreAwayError:
            raise
        except Exception as error:
            what = f"snapshot {number} of policy {name!r}"
            if what not in self._issues:
                log.warning("policies: %s cannot be used: %s", what, one_line_reason(error))
            self._issues[what] = HealthIssue(what, one_line_reason(error), f"zhiyin policy rollback {name}")
            good = before if before is not None and before.snapshot else empty
            return dataclasses.replace(good, allowed=number, reason="invalid_snapshot")
        for what in [key for key in self._issues if key.endswith(f"of policy {name!r}")]:
            del self._issues[what]
        return ServedPolicy(setting, kind, policy, state.number, number, statistics, state.info)

    # -- lists --------------------------------------------------------------------------------------------------------

    def choose(
        self,
        name: str,
        setting: PolicySettings | None,
        list_id: str,
        owner: str | None,
        origin: str,
        view: View,
        arm_has_mode: bool = False,
    ) -> PolicyChoice | None:
        """Who decides a list; None: its placement has no policy for lists of this origin.

        Parameters
        ----------
        name: of the placement.
        owner: the user or the session that asks.
        arm_has_mode: whether the mode of the settings is that of an arm of an experiment, which no promotion changes.
        """
        if setting is None or setting.actions != "items" or origin not in DECIDED_ORIGINS:
            return None
        if not self.live.several:  # otherwise the request has caught up already
            self.controls.refresh()
        controls = self.controls.get(name)
        if arm_has_mode:
            controls = dataclasses.replace(controls, mode=None)
        served = self._current(name, setting)
        features, layout = self._features_of(view) if uses_features(served.policy) else (None, Layout())
        return self.choice(name, served, controls, list_id, owner, layout, features)

    def choice(
        self,
        name: str,
        served: ServedPolicy,
        controls: Controls,
        list_id: str,
        owner: str | None,
        layout: Layout,
        features: ListFeatures | None = None,
    ) -> PolicyChoice:
        """Who makes one decision, for actions of any kind.

        Parameters
        ----------
        layout: of the features that the policy is shown.
        features: of the items of lists; None: the caller makes its own.
        """
        setting, mode = served.settings, controls.mode_under(served.settings.mode)
        policy, statistics, fits = served.policy, served.statistics, True
        if policy is not None and policy.n_updates and isinstance(policy, LinearPolicy):
            fits = served.info.get("layout", "") == layout.digest
            if fits and served.info.get("vectors", "") != layout.vectors:
                policy = self._for_version(served, layout)

        def logged(mode: str, reason: str, control: bool = False) -> DecisionInfo:
            return DecisionInfo(
                name, served.kind, mode, served.snapshot, reason, control, layout.digest, layout.version_free,
                layout.vectors,
            )  # fmt: skip

        def decides(
            list_mode: Literal["online", "shadow", "apprentice"],
            limits: ExplorationLimits,
            mode: str = mode,
            reason: str = served.reason,
            control: bool = False,
        ) -> PolicyChoice:
            key = (name, list_mode, mode, reason, control, limits.greedy, layout, features)
            choice = served.choices.get(key)
            if choice is None or choice.policy is None or choice.policy.policy is not policy:
                made_by = ListPolicy(
                    policy, name, features, setting.shortlist, list_mode, limits, setting.randomisation, statistics
                )  # fmt: skip
                if len(served.choices) >= MAX_CHOICES:
                    served.choices.clear()
                choice = served.choices[key] = PolicyChoice(made_by, logged(mode, reason, control))
            return choice

        limits = served.limits
        if controls.killed:
            return PolicyChoice(None, logged("fallback", "killed"))
        if self._clock() - self._refreshed > STALE_SECONDS:
            return decides("shadow", limits, mode="fallback", reason="stale_snapshot")
        if served.reason == "invalid_snapshot" and not served.snapshot:
            return decides("shadow", limits, mode="fallback")
        if not fits:
            policy, statistics = make_policy(setting.kind, setting.settings), None
            return decides("shadow", limits, mode="fallback", reason="schema_changed")
        reason = "frozen" if controls.keeps_snapshot and served.reason in ("", "no_snapshot") else served.reason
        if mode == "shadow" or mode == "apprentice":
            return decides(mode, limits, reason=reason)
        if mode == "guarded":
            share = float((served.info.get("guard") or {}).get("share", FIRST_GUARDED_SHARE))
            if share <= 0:
                return decides("shadow", limits, mode="fallback", reason="guard", control=True)
            if unit_interval_hash(list_id, name) >= share:
                return decides("shadow", limits, reason="control", control=True)
        left = self._loss_left(name, setting.exploration)
        spent = self._spent_budget(name, setting.exploration, owner, left)
        if spent:
            return decides("online", served.greedy_limits, reason=spent)
        choice = decides("online", limits, reason=reason)
        if left == math.inf or choice.policy is None:
            return choice
        limits = dataclasses.replace(limits, loss=left)
        return dataclasses.replace(choice, policy=dataclasses.replace(choice.policy, limits=limits))

    def count(self, choice: PolicyChoice, setting: PolicySettings, decision: ListDecision, owner: str | None) -> None:
        """Count what a list cost of the budgets of exploration."""
        exploration, name = setting.exploration, choice.info.policy
        if decision.expected_loss > 0 and choice.policy is not None and choice.policy.mode != "shadow":
            self.loss_of_day(name, decision.expected_loss)
            self.mean_loss(name, (decision.expected_loss, 1.0))
        if exploration.user_per_day is not None and decision.explored and owner is not None:
            self._add_explored(name, owner)

    def _add_explored(self, name: str, owner: str) -> None:
        """Count a list of a user, or a session, that a policy has explored."""
        if self.live.state.ledger is not None:
            self.live.state.ledger.add_explored(name, owner)
        else:
            self.live.state.record_showings(owner, [_explored_mark(name)], DAY_SECONDS)

    def explored_of_day(self, name: str, owner: str) -> int:
        """The number of lists of a user, or a session, that a policy has explored within a day."""
        if self.live.state.ledger is not None:
            return self.live.state.ledger.explored_of_day(name, owner)
        return self.live.state.showing_counts(owner, DAY_SECONDS).get(_explored_mark(name), 0)

    def loss_of_day(self, name: str, added: float = 0.0) -> float:
        """Add to the reward that exploring is expected to have cost within a day; returns it."""
        ledger = self.live.state.ledger
        if ledger is not None:
            if added:
                ledger.add_loss(name, added)
            return ledger.loss_of_day(name)
        return self.live.state.tally(f"policy-loss-{name}", [added], [LOSS_HALF_LIFE_SECONDS])[0]

    def mean_loss(self, name: str, added: Sequence[float] = (0.0, 0.0)) -> float:
        """Add a loss, and the number of lists that it is of; returns the mean loss of such lists, 0 without any."""
        total, n_lists = self.live.state.tally(f"policy-mean-loss-{name}", added, [LOSS_HALF_LIFE_SECONDS] * 2)
        return total / n_lists if n_lists > 0 else 0.0

    def _loss_left(self, name: str, exploration: ExplorationSettings) -> float:
        """What exploring may still cost within a day; infinite without a budget."""
        return math.inf if exploration.loss_per_day is None else exploration.loss_per_day - self.loss_of_day(name)

    def _spent_budget(self, name: str, exploration: ExplorationSettings, owner: str | None, loss_left: float) -> str:
        """The code of a budget of exploration that is spent; "" where none is.

        That of losses is spent where less is left than lists have cost on average: this list's draw does not matter.
        """
        if loss_left < math.inf and (loss_left <= 0 or loss_left < self.mean_loss(name)):
            return "loss_budget_spent"
        most = exploration.user_per_day
        if most is not None and owner is not None and self.explored_of_day(name, owner) >= most:
            return "user_budget_spent"
        return ""

    def _features_of(self, view: View) -> tuple[ListFeatures, Layout]:
        """The features of a version's items and their layout, computed once for each catalogue."""
        present = self._features
        if present is None or present[0] is not view.answers:
            features = ListFeatures.of(view.answers)
            present = self._features = (view.answers, features, Layout.of(features))
        return present[1:]

    def _for_version(self, served: ServedPolicy, layout: Layout) -> Policy | None:
        """A policy without what it has learned of the features of another version, computed once."""
        seen, vectors, policy = self._versioned.get(served.kind, (None, "", None))
        if seen is not served.policy or vectors != layout.vectors:
            assert served.policy is not None
            policy = for_version(served.policy, layout.version_free)
            self._versioned[served.kind] = (served.policy, layout.vectors, policy)
        return policy


def uses_features(policy: Policy | None) -> bool:
    """Whether a policy chooses by features of the items, rather than by what each of them brought."""
    return isinstance(policy, LinearPolicy)


def _what(setting: PolicySettings) -> str:
    """What a policy is, whatever it is used for: kind and hyperparameters, as a key."""
    return f"{setting.kind} {sorted(setting.settings.items())}" if setting.settings else setting.kind


def limits_of(exploration: ExplorationSettings) -> ExplorationLimits:
    """The limits of exploration of settings."""
    return ExplorationLimits(exploration.share, exploration.slot_shares, exploration.first_slot)


def unit_interval_hash(list_id: str, name: str) -> float:
    """A number of [0, 1) by the id of a list: which lists of a policy its baseline makes does not hang on its draws."""
    return float(decision_seeds([list_id], f"guard-{name}")[0] >> np.uint64(11)) * 2.0**-53


def _explored_mark(name: str) -> str:
    """What an explored list of a policy is counted as, among what its user was shown."""
    return f"{MARK}{name}"


def unasked_decision(items: Sequence[str]) -> Any:
    """The decision of a list that no policy was asked about: every slot is given to the baseline's item for sure."""
    return _Unasked(items)


class _Unasked:
    """See `unasked_decision`."""

    explored, expected_loss, features, target_propensities, target_pmfs = False, 0.0, None, None, None

    def __init__(self, items: Sequence[str]) -> None:
        self.keys = action_keys(items)
        self.slots = self.chosen = self.baseline = np.arange(len(items), dtype=np.int16)
        self.greedy = np.full(len(items), -1, np.int16)
        self.pmfs = np.eye(len(items))
        self.propensities = self.prefix_propensities = np.ones(len(items))
