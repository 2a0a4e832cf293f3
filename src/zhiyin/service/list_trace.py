"""ListTrace: what the trace of a list is made of, taken within the request and turned into the trace by the thread that
writes traces."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zhiyin.api.requests import RecommendRequest
from zhiyin.pipeline.decision_record import encode_decision
from zhiyin.ranking.live_index import IndexState
from zhiyin.service.feature_log import write_features
from zhiyin.service.trace_encoding import TraceQuota, encode_request, strip_trace, trace_size
from zhiyin.service.user_history import UserHistory
from zhiyin.store.traces import Trace

if TYPE_CHECKING:
    from zhiyin.service.list_service import ListResult

_building = threading.Lock()


@dataclasses.dataclass(eq=False, slots=True)
class ListTrace:
    """The parts of a trace. Any number of threads may ask for it; it is made once.

    Parameters
    ----------
    result: the list.
    ask: the request.
    history: of the user or the session; None: the request named nobody.
    now: the moment of the request, microseconds UTC.
    stored_at: the moment of the trace, microseconds UTC.
    origin, similar_to: of the list.
    excluded: items that were not to be listed, since pages before hold them.
    head, arrays: parts of the trace that are there already: arrays that the maker of the list may use again are copies.
    key: name of the key that asked.
    quota: of traces that are stored in full.
    """

    result: ListResult
    ask: RecommendRequest
    history: UserHistory | None
    now: int
    stored_at: int
    origin: str
    similar_to: str | None
    excluded: Sequence[str]
    head: dict[str, Any]
    arrays: dict[str, np.ndarray]
    key: str
    quota: TraceQuota
    _trace: Trace | None = None

    @classmethod
    def of(
        cls,
        result: ListResult,
        ask: RecommendRequest,
        history: UserHistory | None,
        index: IndexState | None,
        **others: Any,
    ) -> ListTrace:
        """Of a list that was just made by a state of the feature index; others: the other parameters."""
        answer = result.answer
        head: dict[str, Any] = {}
        arrays: dict[str, np.ndarray] = {
            "scores": np.array(answer.scores, np.float32),
            "ranks": answer.ranks.astype(np.int16),
        }
        write_features(head, arrays, answer, index)
        if result.request.explore > 0 or result.request.policy is not None:
            arrays["propensities"] = answer.propensities.copy()
        if result.decision is not None:
            decision_head, decision_arrays = encode_decision(result.decision.decision, result.decision.info)
            head, arrays = head | decision_head, arrays | decision_arrays
        return cls(result, ask, history, head=head, arrays=arrays, **others)

    @property
    def list_id(self) -> str:
        return self.result.list_id

    @property
    def user(self) -> str | None:
        """The user or the session."""
        return self.ask.user or self.ask.session

    @property
    def time(self) -> int:
        return self.stored_at

    @property
    def nbytes(self) -> int:
        """Estimated bytes of the arrays."""
        history = self.history
        past = 0 if history is None else sum(part.nbytes for part in history.tail.values()) + history.new_items.nbytes
        ids = sum(map(len, self.excluded)) + sum(map(len, self.ask.exclude))
        return past + ids + sum(part.nbytes for part in self.arrays.values())

    def trace(self) -> Trace:
        """The trace itself."""
        if self._trace is None:
            with _building:
                if self._trace is None:
                    self._trace = self._build()
        return self._trace

    def _build(self) -> Trace:
        result, view, history = self.result, self.result.view, self.history
        head, arrays = encode_request(self.ask, self.excluded, view)
        head |= self._own_head() | self.head
        arrays |= self.arrays
        if history is not None:
            head["code"] = history.code
            arrays |= {f"past_{name}": part for name, part in history.tail.items() if len(part)}
            if len(history.new_items):
                arrays["past_seen"] = history.new_items
            if result.answer.features is not None:
                arrays["past_seqs"] = history.seqs
        hidden = view.hidden_codes(result.visible)
        if len(hidden) != len(view.hidden):  # items that changed since the view was made
            arrays["away"] = hidden
        if not self.quota.allow(self.key, trace_size(head, arrays)):
            head, arrays = strip_trace(head, arrays)
        return Trace(result.list_id, self.user, self.stored_at, view.version, result.placement, head, arrays)

    def _own_head(self) -> dict[str, Any]:
        """The fields that say what the list was made of, and its items; their names are those on disk."""
        result, answer, request = self.result, self.result.answer, self.result.request
        head = {
            "origin": self.origin,
            "place_version": result.placement_version,
            "seq": result.view.seq,
            "house": result.view.loaded.settings_digest,
            "now": self.now,
            "items": result.items,
            "method": answer.method,
            "sources": list(answer.sources),
            "anonymous": self.ask.user is None,
        }
        optional = {
            "like": self.similar_to,
            "degraded": answer.degraded,
            "left_out": answer.left_out,
            "user_columns": dict(request.user_columns),
            "deficits": request.deficits,
            "often": {str(item): n for item, n in request.shown.items()},
        }
        head |= {name: value for name, value in optional.items() if value}
        head |= result.plan.trace_head
        return head if result.interleaving is None else head | result.interleaving.trace_head
