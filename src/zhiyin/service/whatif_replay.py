"""WhatIfReplay: asks another configuration for its probabilities of logged lists.

Each list is requested again as it was: the same request, items, events and moment, but with the rules, the placement's
settings, the policy and the version of the other configuration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from pydantic import ValidationError

from zhiyin.api.requests import PlacementSettings, PolicyMode, PolicySettings
from zhiyin.core.errors import ConfigError
from zhiyin.core.validation_errors import first_field_error
from zhiyin.data.project_config import Config, load_config, read_text, row_of
from zhiyin.pipeline.action_features import LAYOUT
from zhiyin.pipeline.answer_settings import answer_settings
from zhiyin.pipeline.decision_record import DecisionRecord, decode_decision
from zhiyin.pipeline.item_statistics import ItemStatistics
from zhiyin.pipeline.list_features import ListFeatures
from zhiyin.pipeline.list_policy import ExplorationLimits, ListDecision, ListPolicy
from zhiyin.pipeline.policy_kinds import ONE_SLOT, make_policy, policy_class_name
from zhiyin.pipeline.policy_snapshot import for_version, restored_policy
from zhiyin.pipeline.request import Answer, Request, list_policy
from zhiyin.pipeline.whatif import LoggedList, made_for
from zhiyin.pipeline.whatif_reward_model import SequentialRewardModel
from zhiyin.pipeline.whatif_support import slot_support_terms
from zhiyin.policies.policy import Policy
from zhiyin.ranking.live_index import IndexState
from zhiyin.service.decision_trace import ORIGIN as OWN_ACTIONS
from zhiyin.service.list_kinds import answer_request
from zhiyin.service.placements import Placements
from zhiyin.service.policy_serving import uses_features
from zhiyin.service.serving_state import ServingState
from zhiyin.service.trace_requests import request_of_trace
from zhiyin.service.version_view import View
from zhiyin.service.whatif_decisions import asked_again
from zhiyin.service.whatif_views import PastVersion
from zhiyin.store.decisions import ClosedDecision
from zhiyin.store.traces import Trace

# Which learned state of a policy decides: the newest one, that of each list, or one by its number.
NEWEST: Final = "newest"
LOGGED: Final = "logged"
Snapshot = Literal["newest", "logged"] | int
# The origin of lists that are made by all of the pipeline.
ORIGIN = "recommendations"
# Budgets of exploration that a policy of the same settings would have spent as well.
_SPENT = ("loss_budget_spent", "user_budget_spent")


@dataclasses.dataclass(frozen=True)
class OtherConfiguration:
    """What lists would be made by.

    Parameters
    ----------
    words: what it is called.
    options: rules, variety and context, as `Answers` takes them; None: those in use.
    placements: settings by placement; others are as they were when a list was made.
    version: of the models; None: that of each list.
    placement: whose settings make the lists; None: those of the placement that made them.
    mode: of its policy; None: as its settings say.
    snapshot: of its policy.
    """

    words: str
    options: Mapping[str, Any] | None = None
    placements: Mapping[str, PlacementSettings] = dataclasses.field(default_factory=dict)
    version: int | None = None
    placement: str | None = None
    mode: PolicyMode | None = None
    snapshot: Snapshot = NEWEST

    @classmethod
    def of_file(cls, file: Path, **others: Any) -> OtherConfiguration:
        """Of a settings file. Raises ConfigError that names it and the fault."""
        return cls.of_settings(load_config(file), file.name, file, **others)

    @classmethod
    def of_settings(cls, settings: Config, words: str, file: Path | None = None, **others: Any) -> OtherConfiguration:
        """Of parsed settings. Raises ConfigError for rules or placements that cannot be."""
        placements = {name: _placement(name, values, file) for name, values in settings.placements.items()}
        return cls(words, answer_settings(settings, file), placements, **others)


@dataclasses.dataclass(frozen=True, eq=False)
class AskedList:
    """What a configuration has in the slots of a logged list of k items.

    Parameters
    ----------
    probabilities: float64[k], of the logged items, each given those above.
    items: ids of its own list, up to k; they count in slots where nothing is drawn.
    decision: what it draws by, given the logged items above; None: nothing is drawn.
    """

    probabilities: np.ndarray
    items: list[str]
    decision: ListDecision | None


def _probabilities(items: Sequence[str], request: Request, ask: Callable[[Request], Answer]) -> AskedList:
    """Ask for the probabilities of a list. A list without a draw is asked for as it is, and compared."""
    k = min(len(items), request.k)
    if list_policy(request) is None:
        own = [str(item) for item in ask(request).items][:k]
        same = np.zeros(k)
        same[: len(own)] = [item == other for item, other in zip(own, items)]
        return AskedList(same, own, None)
    answer = ask(dataclasses.replace(request, forced=list(items)))
    probabilities, decision = answer.propensities[:k], answer.decision
    own, is_drawn = list(items[:k]), np.zeros(k, dtype=bool)
    if decision is not None and decision.mode != "shadow":
        is_drawn[decision.slots[decision.slots < k]] = True
    if (probabilities[~is_drawn] < 1).any():  # other items stand where nothing is drawn
        own = [str(item) for item in ask(request).items][:k]
    return AskedList(probabilities, own, decision)


class WhatIfReplay:
    """Probabilities of lists under another configuration. One thread may use it.

    Parameters
    ----------
    live: whose store and versions are read.
    placements: of the store.
    """

    def __init__(self, live: ServingState, placements: Placements, other: OtherConfiguration) -> None:
        self.live, self.placements, self.other = live, placements, other
        self._versions: dict[tuple[int, bool], PastVersion | None] = {}
        self._states: dict[tuple[str, int], tuple[Policy | None, ItemStatistics | None, Mapping[str, Any]] | None] = {}
        self._features: tuple[View | None, ListFeatures | None] = (None, None)
        self._priors: dict[str, tuple[PolicySettings, Policy | None]] = {}
        # As of the first list: numbers of the newest snapshots, and modes that people have set, by policy.
        self._newest: dict[str, int] | None = None
        self._modes: dict[str, Any] = {}
        self._reward_model = SequentialRewardModel()
        # Lists that say something a reader should know, by what it is.
        self.notes: dict[str, int] = {}

    def logged_list(self, decision: ClosedDecision) -> LoggedList | str:
        """A closed decision with the other configuration's probabilities; or why it cannot be used.

        Raises ConfigError where the configuration cannot make lists at all.
        """
        trace = decision.trace
        head, record = trace.head, decode_decision(trace.head, trace.arrays)
        if decision.rewards is None:
            return "they were not shown"
        if "not_kept" in head:
            return f"their requests are not kept in full ({head['not_kept']})"
        if record is None:
            return "their decision is not kept"
        if head["origin"] == OWN_ACTIONS:
            asked = self._ask_decision(trace, record)
            return asked if isinstance(asked, str) else self._with_rewards(decision, record, asked)
        if head["origin"] != ORIGIN:
            return f"they are no recommendations ({head['origin']})"
        if head.get("interleaved"):
            return "they are two lists mixed into one"
        asked = self._ask(trace, record)
        return asked if isinstance(asked, str) else self._with_rewards(decision, record, asked)

    # -- asking -------------------------------------------------------------------------------------------------------

    def _ask(self, trace: Trace, record: DecisionRecord) -> AskedList | str:
        """What the configuration has in the slots of a list; or why it cannot be asked."""
        head, number = trace.head, self.other.version or trace.version
        target = self._version(number, other=True)
        if target is None:
            return f"version {number} is gone"
        if number != trace.version and trace.time <= target.loaded.trained_until:
            return f"version {number} has learned from what came after them"
        view = target.view_at(head["seq"])
        logged = None
        if number != trace.version:
            made_by = self._version(trace.version, other=False)
            if made_by is None:
                return f"version {trace.version}, which made them, is gone"
            logged = made_by.view_at(head["seq"])
        index, reason = self._index(trace, target, view)
        if reason:
            return reason
        name = self.other.placement or trace.placement
        setting = self._setting(name, trace)
        policy, reason = self._policy(name, setting, record, trace, view)
        if reason:
            return reason
        items = list(head["items"])
        if items and (view.encode(items) < 0).any():
            self._note(f"hold an item that version {number} does not know")
        request, visible = request_of_trace(trace, view, setting, logged=logged, policy=policy)
        request = dataclasses.replace(request, skip=tuple(stage for stage in request.skip if stage != "policy"))

        def ask(request: Request) -> Answer:
            return answer_request(view, visible, request, ORIGIN, None, index, self.live.event_scores)

        asked = _probabilities(items, request, ask)
        if request.k > len(items) and request.k > self._logged_k(trace, view, logged):
            self._note("are shorter than those of the configuration: its further slots are left out of both")
        if request.k < len(items):
            self._note("are longer than those of the configuration: their further slots are left out of both")
        return asked

    def _ask_decision(self, trace: Trace, record: DecisionRecord) -> AskedList | str:
        """What the configuration's policy does with a decision among a caller's own actions; or why it is not asked."""
        name = self.other.placement or trace.placement
        chooses, reason = self._policy(name, self._setting(name, trace), record, trace, None)
        return reason or AskedList(*asked_again(trace, record, chooses))

    def _version(self, number: int, *, other: bool) -> PastVersion | None:
        """A version under the other configuration, or as it was; None where it is gone."""
        key = number, other
        if key not in self._versions:
            exists = number in self.live.bundles.versions()
            options = self.other.options if other else None
            self._versions[key] = PastVersion(self.live, number, options, strict=other) if exists else None
        return self._versions[key]

    def _index(self, trace: Trace, target: PastVersion, view: View) -> tuple[IndexState | None, str]:
        if target.loaded.index is None:
            return None, ""
        if "index" not in trace.head:
            return None, "the log does not say which events were known"
        seq, n_events = trace.head["index"]
        state = target.index_at(view, seq)
        if state is None or (target.number == trace.version and state.events != n_events):
            return None, "events that their ranker read were deleted since"
        return state, ""

    def _setting(self, name: str, trace: Trace) -> PlacementSettings:
        if name in self.other.placements:
            return self.other.placements[name]
        if name != trace.placement:
            return self.placements.get(name)[1]
        setting = self.placements.at(name, trace.head["place_version"])
        replaced = trace.head.get("policy_settings")
        if replaced and setting.policy is not None:
            setting = setting.model_copy(update={"policy": setting.policy.model_copy(update=dict(replaced))})
        return setting

    def _logged_k(self, trace: Trace, view: View, logged: View | None) -> int:
        """Items that the list was to have."""
        setting = self.placements.at(trace.placement, trace.head["place_version"])
        return request_of_trace(trace, view, setting, logged=logged)[0].k

    # -- its policy ---------------------------------------------------------------------------------------------------

    def _policy(
        self, name: str, setting: PlacementSettings, record: DecisionRecord, trace: Trace, view: View | None
    ) -> tuple[ListPolicy | None, str]:
        """The policy that would have decided a list; None: none would. And why it cannot be asked.

        view: that makes the list; None for a decision among a caller's own actions.
        """
        policy = setting.policy
        if policy is None or policy.actions != ("own" if view is None else "items"):
            return None, ""
        mode = self._mode(name, policy)
        if mode == "guarded":  # its control lists are those of the log
            mode = "shadow" if record.info.control else "online"
        limits = ExplorationLimits(
            policy.exploration.share, policy.exploration.slot_shares, policy.exploration.first_slot,
            greedy=record.info.reason in _SPENT and self._logged_policy(trace) == policy,
        )  # fmt: skip
        state = self._state(name, policy, record)
        if state is None:
            number = self._snapshot(name, record)
            return None, f"snapshot {number} of the policy is gone: only the newest ones are kept"
        learned, statistics, info = state
        features = None  # a policy without features of actions is asked without
        if learned is not None and uses_features(learned):
            features = None if view is None else self._features_of(view)
            layout = LAYOUT if features is None else features.digest
            if info and info.get("layout", "") != layout:
                return None, "the policy has learned by other features than this configuration has"
            if (
                features is not None
                and info
                and info.get("vectors", features.version_digest) != features.version_digest
            ):
                learned = for_version(learned, features.n_version_free)
        chooses = ListPolicy(
            learned, name, features, policy.shortlist, mode, limits, policy.randomisation, statistics
        )  # fmt: skip
        return chooses, ""

    def _mode(self, name: str, policy: PolicySettings) -> Any:
        if self.other.mode is not None:
            return self.other.mode
        if name in self.other.placements:
            return policy.mode
        if name not in self._modes:
            row = self.live.store.get("policies", name)
            self._modes[name] = None if row is None else row[0].get("mode")
        return self._modes[name] or policy.mode

    def _logged_policy(self, trace: Trace) -> PolicySettings | None:
        return self.placements.at(trace.placement, trace.head["place_version"]).policy

    def _state(
        self, name: str, settings: PolicySettings, record: DecisionRecord
    ) -> tuple[Policy | None, ItemStatistics | None, Mapping[str, Any]] | None:
        """The policy as learned, what is known of items, and what the learner says; None where that is gone."""
        prior = self._prior(name, settings)
        if policy_class_name(settings.kind) == ONE_SLOT or prior is None:
            return None if prior is not None else (None, None, {})
        number = self._snapshot(name, record)
        if number == 0:
            return prior, None, {}
        key = name, number
        if key not in self._states:
            state = self.live.store.policy_state(name, number)
            self._states[key] = None
            if state is not None and state.info.get("settings") == prior.get_params():
                learned, statistics = restored_policy(settings.kind, settings.settings, state.arrays, state.info)
                self._states[key] = learned, statistics, state.info
            elif state is not None and self.other.snapshot == NEWEST:  # learned under other settings
                self._states[key] = prior, None, {}
        return self._states[key]

    def _prior(self, name: str, settings: PolicySettings) -> Policy | None:
        known = self._priors.get(name)
        if known is None or known[0] != settings:
            known = self._priors[name] = settings, make_policy(settings.kind, settings.settings)
        return known[1]

    def _snapshot(self, name: str, record: DecisionRecord) -> int:
        if self.other.snapshot == LOGGED:
            return record.info.snapshot
        if self.other.snapshot == NEWEST:
            if self._newest is None:
                self._newest = self.live.store.newest_policy_states()
            return self._newest.get(name, 0)
        return int(self.other.snapshot)

    def _features_of(self, view: View) -> ListFeatures | None:
        seen, features = self._features
        if seen is not view:
            features = ListFeatures.of(view.answers)
            self._features = view, features
        return features

    # -- the log ------------------------------------------------------------------------------------------------------

    def _with_rewards(self, decision: ClosedDecision, record: DecisionRecord, asked: AskedList) -> LoggedList:
        k = len(asked.probabilities)
        items = decision.trace.head["items"][:k]
        slots = record.slots[record.slots < k].astype(np.int64)
        rewards, propensities = np.zeros(k), np.ones(k)
        values = [0.0 if value is None else value for value in decision.rewards or ()]
        rewards[slots] = np.array(values, dtype=np.float64)[: len(slots)]
        propensities[slots] = record.propensities[: len(slots)]
        predicted = self._reward_model.predictions(items, asked.items, asked.decision)
        self._reward_model.update(items, rewards)
        share = None
        if record.pmfs is not None and len(record.pmfs) and (record.greedy >= 0).all():
            share = 1 - float(np.prod(record.pmfs[np.arange(len(record)), record.greedy]))
        n_choices = 1 if record.keys is None else len(record.keys)
        unlogged, squares = slot_support_terms(items, record, asked.items, asked.decision) or (None, None)
        user = decision.trace.user
        return LoggedList(
            rewards, propensities, asked.probabilities, made_for(record.info), user, *predicted,
            share=share, n_choices=max(1, n_choices), unlogged=unlogged, squared_weights=squares,
        )  # fmt: skip

    def _note(self, words: str) -> None:
        self.notes[words] = self.notes.get(words, 0) + 1


def _placement(name: str, values: Mapping[str, Any], file: Path | None) -> PlacementSettings:
    try:
        return PlacementSettings.model_validate(values)
    except ValidationError as error:
        first = first_field_error(error, PlacementSettings)
        row = None
        if file is not None:  # of the key, or of the inline table that it stands in
            text, path = read_text(file), ["placements", name, *first.path]
            row = next((row for n in range(len(path), 1, -1) if (row := row_of(text, path[:n]))), None)
        raise ConfigError(
            f"[placements.{name}] {first}", file=file, row=row, column=first.field or None,
            remedy=first.remedy or "mend it",
        ) from None  # fmt: skip
