"""ListService: from an HTTP request to its list and its trace.

A trace holds what `list_replay` needs to make the list again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from zhiyin.api.requests import PlacementSettings, RecommendRequest
from zhiyin.core.uid import fresh_id
from zhiyin.pipeline.decision_record import DecisionInfo
from zhiyin.pipeline.exposure import deficits
from zhiyin.pipeline.list_policy import ListDecision
from zhiyin.pipeline.request import Answer, Request
from zhiyin.pipeline.rules import Exposure
from zhiyin.service.experiment_checks import with_policy_settings
from zhiyin.service.experiments import Experiments, ListPlan
from zhiyin.service.extra_versions import ExtraVersions
from zhiyin.service.feature_log import FeatureLog
from zhiyin.service.interleaved_lists import Interleaving, interleave, without_exploration
from zhiyin.service.list_kinds import answer_request, reading_index
from zhiyin.service.list_replay import ListReplay
from zhiyin.service.list_trace import ListTrace
from zhiyin.service.page_cursor import decode_cursor, list_route, next_cursor
from zhiyin.service.placements import DEFAULT, Placements
from zhiyin.service.policy_serving import MARK, PolicyChoice, PolicyServing, unasked_decision
from zhiyin.service.request_building import build_request
from zhiyin.service.request_context import CURRENT
from zhiyin.service.serving_state import ServingState
from zhiyin.service.trace_encoding import TraceQuota
from zhiyin.service.version_view import View
from zhiyin.store.frequency_counts import DAY_SECONDS
from zhiyin.store.trace_writer import TraceWriter

# Items of a list, and of the list that a request includes, at most, where it is expected to be made in milliseconds;
# filters of requests that have been evaluated and are remembered.
MAX_SHORT_ITEMS, MAX_INCLUDED_ITEMS, MAX_KNOWN_FILTERS = 100, 300, 256
# Fields of requests that are expected to take milliseconds, beside those that `ListService.is_short` looks at.
_SHORT_FIELDS = frozenset({
    "user", "session", "k", "filter", "placement", "exclude", "include", "exclude_seen", "diversity", "balance",
    "language", "user_columns",
})  # fmt: skip
# Sums that each target of exposure has; see `pipeline.exposure`.
_SUMS_PER_TARGET = 3


@dataclasses.dataclass(frozen=True)
class LoggedDecision:
    """The decision that a list is, and by what it was made."""

    decision: ListDecision
    info: DecisionInfo


@dataclasses.dataclass(frozen=True)
class ListResult:
    """A list as it was made.

    Parameters
    ----------
    placement, placement_version: the placement that it was made for.
    next: cursor of the next page; None: there is none.
    visible: bool[items], the items that could be listed.
    plan: what the experiments say of it. interleaving: how it was mixed of two placements' lists; None: it is of one.
    decision: of the placement's policy; None: it has none for lists of this origin.
    """

    list_id: str
    view: View
    placement: str
    placement_version: int
    request: Request
    answer: Answer
    next: str | None
    visible: np.ndarray
    plan: ListPlan
    interleaving: Interleaving | None = None
    decision: LoggedDecision | None = None

    @property
    def items(self) -> list[str]:
        """Ids of the items, best first."""
        return [str(item) for item in self.answer.items]


class ListService:
    """Makes lists of one shop, and writes their traces.

    Parameters
    ----------
    budget: seconds of a list, where its placement has no budget; None: no limit.
    features: chooses lists whose features are written to their traces.
    experiments: say which arm a list is made by; None: there are none. versions: that arms are made by.
    policies: of placements; None: their settings are left out.
    """

    def __init__(
        self,
        live: ServingState,
        placements: Placements,
        traces: TraceWriter,
        budget: float | None = None,
        features: FeatureLog | None = None,
        experiments: Experiments | None = None,
        versions: ExtraVersions | None = None,
        policies: PolicyServing | None = None,
    ) -> None:
        self.live, self.placements, self.traces, self.budget = live, placements, traces, budget
        self.experiments, self.versions, self.policies = experiments, versions, policies
        self.features = features or FeatureLog()
        self.trace_quota = TraceQuota()
        self.replays = ListReplay(live, placements)
        # Whether the live state, the store or what streams have computed may be on another machine.
        self._waits = live.state.waits or live.store.path is None or live.streams is not None
        # Filters of requests that the items of these `Answers` have been filtered by.
        self._known_filters: tuple[Any, set[str]] = (None, set())
        # Seconds in which other showings of users are counted, beside those of lists.
        self.longest_cap: Callable[[], float] = lambda: 0.0
        # Called with each list and its origin.
        self.on_list: Callable[[ListResult, str], None] = lambda result, origin: None
        # Called with each decision of a policy, of a list too.
        self.on_decision: Callable[[LoggedDecision], None] = lambda decision: None

    def create(
        self,
        ask: RecommendRequest,
        origin: str = "recommendations",
        similar_to: str | None = None,
        listed: Sequence[str] = (),
        is_shown: bool = True,
    ) -> ListResult:
        """The list for a request. Raises ConfigError for a request that cannot be answered.

        Parameters
        ----------
        similar_to: the item of a list of similar ones.
        listed: items that are not to be listed.
        is_shown: False for candidates of a decision: no policy makes the list, and nothing of it is counted or stored.
        """
        view = self.live.view()
        list_id, now = fresh_id(), self.live.store.clock() if ask.now is None else ask.now
        plan = self._plan(ask, list_id, origin) if is_shown else ListPlan(ask.placement or DEFAULT)
        view = self._view_of(plan, view)
        placement = plan.placement
        placement_version, setting = self.placements.get(placement)
        setting = with_policy_settings(setting, plan.policy)
        owner, frequency = ask.user or ask.session, view.answers.rules.frequency
        history, showings = None, {}
        if owner is not None:
            window = None if frequency is None else frequency.seconds
            history, counts = self.live.history_and_showings(view, ask.user, ask.session, window)
            showings = {item: n for item, n in counts.items()
                        if frequency and n >= frequency.at_most and not item.startswith(MARK)}  # fmt: skip
        route = list_route(origin, similar_to)
        previous_pages = decode_cursor(ask.page, route) if ask.page else []
        excluded = [*previous_pages, *listed]
        targets = view.answers.rules.exposure if origin != "rank" else ()
        log_features = view.loaded.index is not None and self.features.chooses(list_id)
        fields: dict[str, Any] = {
            "closed": origin == "rank", "shown": dict(showings), "deficits": self._deficits(view, targets),
            "user_columns": self.live.request_columns(ask.user, ask.user_columns),
            "budget": (setting.budget or 0) / 1e3 or self.budget, "features": "shown" if log_features else "none",
        }  # fmt: skip
        choice = None
        if self.policies is not None and plan.interleaved is None and is_shown:
            arm_has_mode = plan.policy is not None and "mode" in plan.policy
            choice = self.policies.choose(placement, setting.policy, list_id, owner, origin, view, arm_has_mode)
        policy = None if choice is None else choice.policy
        request = build_request(ask, setting, view, now, list_id, excluded, history, policy=policy, **fields)
        interleaving = None
        visible = view.visible  # it may be replaced while the list is made
        with reading_index(view) as index:
            if plan.interleaved is None:
                answer = answer_request(view, visible, request, origin, similar_to, index, self.live.event_scores)
            else:
                second_version, second_setting = self.placements.get(plan.interleaved)
                second = build_request(ask, second_setting, view, now, list_id, excluded, history, **fields)
                request = without_exploration(request)
                both = [answer_request(view, visible, one, origin, similar_to, index, self.live.event_scores)
                        for one in (request, without_exploration(second))]  # fmt: skip
                answer, teams = interleave(view.answers, request, both[0], both[1], visible)
                interleaving = Interleaving(plan.interleaved, second_version, teams)
        self._remember_filter(ask, view)
        has_more = origin != "rank" and len(answer.items) >= request.k
        cursor = next_cursor([*previous_pages, *(str(item) for item in answer.items)], has_more, route)
        decision = None if choice is None else self._decision(choice, setting, answer, owner)
        result = ListResult(
            list_id, view, placement, placement_version, request, answer, cursor, visible, plan, interleaving, decision
        )
        if not is_shown:
            return result
        if frequency is not None and owner is not None:
            counts_explored = self.policies is not None and self.policies.counts_users
            window = max(frequency.seconds, DAY_SECONDS) if counts_explored else frequency.seconds
            self.live.state.record_showings(owner, result.items, max(window, self.longest_cap()))
        if targets:
            self._add_exposure(view, targets, answer.exposed.ravel().tolist())
        current = CURRENT.get()
        self.traces.put(
            ListTrace.of(
                result, ask, history, index, now=now, stored_at=self.live.store.clock(), origin=origin,
                similar_to=similar_to, excluded=excluded, key="" if current is None else current.key,
                quota=self.trace_quota,
            )
        )  # fmt: skip
        if answer.features is not None:
            self.features.recent.append(list_id)
        self.on_list(result, origin)
        if decision is not None:
            self.on_decision(decision)
        return result

    def is_short(self, ask: RecommendRequest) -> bool:
        """Whether a list is expected to be made in a few milliseconds without waiting for another machine: a plain
        request, whose filter the present catalogue has been filtered by before."""
        view = self.live.serving
        if view is None or self._waits or not ask.model_fields_set <= _SHORT_FIELDS:
            return False
        if ask.include is not None and len(ask.include) > MAX_INCLUDED_ITEMS:
            return False
        of_answers, filters = self._known_filters
        return (
            of_answers is view.answers
            and ask.filter in filters
            and (ask.k <= MAX_SHORT_ITEMS or ask.include is not None)
        )

    def _remember_filter(self, ask: RecommendRequest, view: View) -> None:
        """Note that the filter of a request has been evaluated for the items of a view."""
        of_answers, filters = self._known_filters
        if of_answers is not view.answers or len(filters) >= MAX_KNOWN_FILTERS:
            filters = set()
            self._known_filters = (view.answers, filters)
        filters.add(ask.filter)

    def _plan(self, ask: RecommendRequest, list_id: str, origin: str) -> ListPlan:
        """What a list is made by: what the request names, or an arm of an experiment."""
        if self.experiments is None:
            return ListPlan(ask.placement or DEFAULT)
        return self.experiments.plan(ask, list_id, origin)

    def _view_of(self, plan: ListPlan, serving: View) -> View:
        """The view that a list is made by: of the version in use, or of the one that an arm names."""
        if plan.version is None or self.versions is None:
            return serving
        return self.versions.view(plan.version) or serving

    def _decision(
        self, choice: PolicyChoice, setting: PlacementSettings, answer: Answer, owner: str | None
    ) -> LoggedDecision:
        """The decision that a list is, and what it costs of the budgets of exploration."""
        if answer.decision is None:
            reason = "budget_exceeded_time" if "policy" in answer.degraded else ""
            return LoggedDecision(unasked_decision([str(item) for item in answer.items]), choice.decided(reason))
        if self.policies is not None and setting.policy is not None:
            self.policies.count(choice, setting.policy, answer.decision, owner)
        return LoggedDecision(answer.decision, choice.decided(answer.decision.reason))

    def _add_exposure(self, view: View, targets: tuple[Exposure, ...], values: list[float]) -> list[float]:
        """Add to the sums of exposure of all lists under the present settings; returns the sums."""
        half_lives = [target.seconds for target in targets for _ in range(_SUMS_PER_TARGET)]
        return self.live.state.tally(f"exposure-{view.loaded.settings_digest}", values, half_lives)

    def _deficits(self, view: View, targets: tuple[Exposure, ...]) -> list[float] | None:
        """What the group of each target lacks of its exposure by now; None without targets."""
        if not targets:
            return None
        sums = self._add_exposure(view, targets, [0.0] * (_SUMS_PER_TARGET * len(targets)))
        return deficits(targets, np.array(sums)).round(6).tolist()
