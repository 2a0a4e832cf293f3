"""ListReplay: makes the list of a trace again.

A trace holds what cannot be computed again: the request, the version of the placement, the time, the user's new events.
What a policy has drawn is drawn again, by the probabilities of the trace and the same seed. Candidates, scores and
reasons are computed again.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from zhiyin.pipeline.decision_record import decode_decision
from zhiyin.pipeline.list_policy import ListPolicy
from zhiyin.pipeline.logged_policy import LoggedPolicy
from zhiyin.pipeline.request import Answer
from zhiyin.ranking.live_index import IndexState
from zhiyin.service.decision_trace import ORIGIN, redecided
from zhiyin.service.experiment_checks import with_policy_settings
from zhiyin.service.feature_index_updater import index_at
from zhiyin.service.feature_log import EVENTS_DELETED
from zhiyin.service.interleaved_lists import interleave, without_exploration
from zhiyin.service.list_kinds import answer_request
from zhiyin.service.placements import Placements
from zhiyin.service.serving_state import ServingState
from zhiyin.service.trace_requests import request_of_trace
from zhiyin.service.user_history import UserHistory
from zhiyin.service.version_view import View
from zhiyin.store.traces import Trace

# Origins of lists by what is counted of all users' events, with the reason why such a list is another one later.
_MOVING = {"trending": "what is trending has moved on", "covisits": "what is visited together has moved on"}


class ListReplay:
    """Makes lists of traces again, and holds the last view and the last index that were made for it."""

    def __init__(self, live: ServingState, placements: Placements) -> None:
        self.live, self.placements = live, placements
        self._view: tuple[tuple[int, int], View] | None = None
        self._index: tuple[tuple[int, int], IndexState | None] | None = None

    def replay(self, trace: Trace, explain: bool = False) -> tuple[bool, Answer | None, str]:
        """Make a list again. Returns whether it is the same, the list, and the reason why it is not.

        The version must still exist, the settings must be the same, and the events that its ranker read must be there.
        """
        head = trace.head
        if head["origin"] == ORIGIN:
            is_same, reason = redecided(trace)
            return is_same, Answer(head["items"], [0.0] * len(head["items"])), reason
        if head["origin"] == "ads":
            return False, None, "an auction is of its moment: budgets and bids have moved on"
        view, reason = self.view_of(trace)
        if view is None:
            return False, None, reason
        index, reason = self.index_of(trace, view)
        if reason:
            return False, None, reason
        answer = self.answer(trace, view, index, explain=explain)
        same_items = [str(item) for item in answer.items] == head["items"]
        is_same = same_items and np.allclose(answer.scores, trace.arrays["scores"], rtol=1e-5, atol=1e-6)
        reason = "" if is_same else ("items differ" if not same_items else "scores differ")
        if not is_same and head["origin"] in _MOVING:
            reason = _MOVING[head["origin"]]
        return is_same, answer, reason

    def answer(
        self,
        trace: Trace,
        view: View,
        index: IndexState | None,
        *,
        explain: bool = False,
        features: Literal["none", "shown", "all"] = "none",
        history: UserHistory | None = None,
    ) -> Answer:
        """The list of a trace, made by a view and a state of its feature index.

        Parameters
        ----------
        history: history of the user at that time; None: as the trace holds it.
        """
        head = trace.head
        setting = self.placements.at(trace.placement, head["place_version"])
        setting = with_policy_settings(setting, head.get("policy_settings"))
        request, visible = request_of_trace(
            trace, view, setting, history=history, explain=explain, features=features,
            policy=self._logged_policy(trace),
        )  # fmt: skip
        origin, like, event_scores = head["origin"], head.get("like"), self.live.event_scores
        if "interleaved" not in head:
            return answer_request(view, visible, request, origin, like, index, event_scores)
        setting = self.placements.at(head["interleaved"], head["interleaved_version"])
        second, _ = request_of_trace(trace, view, setting, history=history, explain=explain)
        both = [answer_request(view, visible, without_exploration(one), origin, like, index, event_scores)
                for one in (request, second)]  # fmt: skip
        return interleave(view.answers, request, both[0], both[1], visible)[0]

    def _logged_policy(self, trace: Trace) -> ListPolicy | None:
        """What draws the list of a decision again, by the logged probabilities; None where the baseline made it."""
        record = decode_decision(trace.head, trace.arrays)
        if record is None or record.keys is None or not len(record.keys):
            return None
        if record.info.control or record.info.mode in ("shadow", "fallback"):
            return None
        return ListPolicy(LoggedPolicy.of(record), record.info.policy, actions=record.keys)

    def index_of(self, trace: Trace, view: View) -> tuple[IndexState | None, str]:
        """The feature index that a list was ranked by, computed from the log; and the reason where it cannot be."""
        if "index" not in trace.head:
            return None, ""
        seq, n_events = trace.head["index"]
        key = (trace.version, seq)
        if self._index is None or self._index[0] != key:
            self._index = (key, index_at(self.live.store, view, seq))
        index = self._index[1]
        if index is None or index.events != n_events:
            return None, EVENTS_DELETED
        return index, ""

    def view_of(self, trace: Trace) -> tuple[View | None, str]:
        """The view that a list was made by; and the reason where it cannot be made again."""
        now, head = self.live.now, trace.head
        if "not_kept" in head:
            return None, str(head["not_kept"])
        if now.loaded.settings_digest != head["house"]:
            return None, "the rules of the house have changed since"
        if now.version == trace.version and now.seq == head["seq"]:
            return now, ""
        key = (trace.version, head["seq"])
        if self._view is not None and self._view[0] == key:
            return self._view[1], ""
        loaded = now.loaded
        if now.version != trace.version:
            if trace.version not in self.live.bundles.versions():
                return None, f"version {trace.version} is gone"
            loaded = self.live.load(self.live.bundles.get(trace.version))
        view, _ = self.live.view_of(loaded, until=head["seq"])
        view.seq = head["seq"]
        self._view = (key, view)
        return view, ""
