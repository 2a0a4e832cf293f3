"""The request that a trace holds, for its list to be made again: by the version that made it, or by another one.

Codes of a trace are those of the view that its list was made by. For another version they are turned into ids and back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from zhiyin.api.requests import PlacementSettings
from zhiyin.pipeline.request import Request
from zhiyin.service.request_building import build_request
from zhiyin.service.trace_encoding import decode_request
from zhiyin.service.user_history import UserHistory
from zhiyin.service.version_view import View
from zhiyin.store.traces import Trace

# Types of the arrays of a history's tail; see `UserHistory`.
_TAIL_TYPES: Mapping[str, Any] = {
    "items": np.int32, "weights": np.float32, "times": np.int64, "kinds": np.uint8, "values": np.float32
}  # fmt: skip


def request_of_trace(
    trace: Trace,
    view: View,
    setting: PlacementSettings,
    *,
    logged: View | None = None,
    history: UserHistory | None = None,
    explain: bool = False,
    **others: Any,
) -> tuple[Request, np.ndarray]:
    """The request to a view's `Answers` for the list of a trace, and the mask of visible items, bool[items].

    Parameters
    ----------
    view: that is to make the list.
    setting: settings of the placement.
    logged: the view that made the list; None: `view` is of the same version.
    history: history of the user at that time; None: as the trace holds it.
    others: further fields of the pipeline's request.
    """
    head, made_by = trace.head, logged or view
    ask, listed = decode_request(head, trace.arrays, made_by)
    if "code" in head and history is None:
        history = _logged_history(trace, made_by)
        if made_by is not view:
            history = translated_history(history, made_by, view, None if head["anonymous"] else trace.user)
    user = None if head["anonymous"] else trace.user
    ask = ask.model_copy(update={"user": user, "explain": explain})
    request = build_request(
        ask, setting, view, head["now"], trace.list_id, listed, history, closed=head["origin"] == "rank",
        user_columns=head.get("user_columns", {}), deficits=head.get("deficits"), shown=dict(head.get("often", {})),
        skip=tuple(head.get("degraded", ())), **others,
    )  # fmt: skip
    return request, _visible_items(trace, view, made_by)


def _logged_history(trace: Trace, view: View) -> UserHistory:
    tail = {name: trace.arrays.get(f"past_{name}", np.zeros(0, kind)) for name, kind in _TAIL_TYPES.items()}
    new_items = trace.arrays.get("past_seen", np.zeros(0, np.int32))
    return view.history_with_tail(trace.head["code"], tail, new_items)


def translated_history(history: UserHistory, logged: View, view: View, user: str | None) -> UserHistory:
    """A history in the codes of another version: all that the user had done by then, learned or not.

    What the other version has learned of the user takes no part, since it may have learned what came after.

    Parameters
    ----------
    user: whose history it is; None: a session's or a visitor's.
    """
    events = history.history
    kinds = np.array(logged.loaded.schema.kinds, dtype=object)
    names = [str(kinds[kind]) if kind < len(kinds) else "" for kind in events.kinds.tolist()]
    values = [None if np.isnan(value) else value for value in events.values.astype(np.float64).tolist()]
    items = [str(item) for item in logged.ids.raw(events.items)] if len(events.items) else []
    schema = view.loaded.schema
    translated = view.history_with_events(
        -1,
        view.encode(items) if items else np.zeros(0, np.int32),
        events.times,
        schema.weights(names, values),
        schema.codes(names),
        events.values,
    )
    new_items = [str(item) for item in logged.ids.raw(history.new_items)] if len(history.new_items) else []
    codes = view.encode(new_items) if new_items else np.zeros(0, np.int32)
    code = view.loaded.learned_user_code(user, 0)
    part = dataclasses.replace(translated.history, users=np.array([code], dtype=translated.history.users.dtype))
    if code >= 0:
        part = dataclasses.replace(part, features=view.context.histories.take(np.array([code])).features)
    seen = np.concatenate([translated.new_items, codes[codes >= 0]])
    return dataclasses.replace(translated, history=part, code=code, new_items=seen.astype(np.int32))


def _visible_items(trace: Trace, view: View, logged: View) -> np.ndarray:
    """bool[items], which items could be listed when the list was made."""
    visible = np.ones(len(view.ids), dtype=bool)
    if "away" in trace.arrays:
        hidden = trace.arrays["away"]
        hidden = hidden[hidden < len(logged.ids)]
        if logged is not view:
            hidden = view.encode([str(item) for item in logged.ids.raw(hidden)]) if len(hidden) else hidden
    else:
        hidden = view.encode(sorted(view.hidden)) if view.hidden else np.zeros(0, np.int64)
    visible[hidden[hidden >= 0]] = False
    return visible
