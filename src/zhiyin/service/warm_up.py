"""Warm-up of a version: compiles kernels and reads files before the first request needs them."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numba.core import event

from zhiyin.core.errors import ZhiyinError
from zhiyin.core.run import Run, log
from zhiyin.pipeline.action_features import ActionFeatures
from zhiyin.pipeline.item_statistics import ItemStatistics
from zhiyin.pipeline.list_features import ListFeatures
from zhiyin.pipeline.list_policy import ListPolicy
from zhiyin.pipeline.rating_predictions import predict_ratings
from zhiyin.pipeline.request import DIVERSITY_METHODS, Request
from zhiyin.pipeline.slot_decision import decide_slots
from zhiyin.policies.action_sets import action_keys
from zhiyin.policies.ad_auction import run_auctions
from zhiyin.policies.registry import make as make_policy
from zhiyin.ranking.live_index import NO_EVENTS, IndexState
from zhiyin.service.interleaved_lists import interleave
from zhiyin.service.kernel_compilation import COMPILING, NOTICE_SECONDS
from zhiyin.service.user_history import UserHistory
from zhiyin.store.records import Event

if TYPE_CHECKING:
    from zhiyin.service.version_view import View

# Sequence number of an event that no store has reached.
_NEWEST_SEQ = 2**62
# Kinds of models whose kernels this process has compiled.
_warm_models: set[str] = set()


def warm_up(view: View) -> None:
    """Make lists of a stranger and of a known user, and similar items.

    The lists are made with new events and without, by every diversity method, with filters and reasons.

    Kernels are compiled once a process, for all versions with the same models. Where no compiled code is on disk, as at
    the first start after an installation, that takes a minute or more, which is logged.
    """
    notice = _CompilationNotice(view.version)
    timer = threading.Timer(NOTICE_SECONDS, notice.allow)
    timer.daemon = True
    timer.start()
    try:
        with event.install_listener("numba:compile", notice):
            _warm_up(view)
    finally:
        timer.cancel()


def compile_all(view: View) -> None:
    """As `warm_up`, in a process that compiles for others."""
    _warm_up(view)


class _CompilationNotice(event.Listener):
    """Logs once that functions are compiled, and not read from the disk, where that goes on when it is allowed."""

    def __init__(self, version: int) -> None:
        self.version = version
        self._lock, self._allowed, self._compiles, self._logged = threading.Lock(), False, False, False

    def allow(self) -> None:
        self._log_where_both("_allowed")

    def on_start(self, event: event.Event) -> None:
        self._log_where_both("_compiles")

    def on_end(self, event: event.Event) -> None:
        pass

    def _log_where_both(self, name: str) -> None:
        with self._lock:
            setattr(self, name, True)
            if self._logged or not (self._allowed and self._compiles):
                return
            self._logged = True
        log.info(COMPILING, self.version)


def _warm_up(view: View) -> None:
    model = view.loaded.model
    kind = f"{type(model).__name__} {getattr(model, 'sources', '')} {getattr(model, 'ranker', '')}"
    is_first = kind not in _warm_models
    requests = [Request(k=10, explain=True)]
    if is_first:
        _warm_models.add(kind)
        filter = _sample_filter(view)
        requests = [Request(k=10, diversity=method, filter=filter, explain=True) for method in DIVERSITY_METHODS]
        requests += _arranged_requests(view) + _policy_requests(view)
    if columns := _sample_columns(view):
        requests.append(Request(k=10, explain=True, user_columns=columns))
    histories = _sample_histories(view)
    with contextlib.nullcontext() if view.loaded.index is None else view.loaded.index.reading() as state:
        for past in histories:
            for request in requests:
                with contextlib.suppress(ZhiyinError):
                    request = dataclasses.replace(request, history=past.history)
                    view.answers.ask(request, view.visible, None if state is None else state.index)
        if is_first and state is not None and state.index.has_times:
            _append_to_copy(state, view.loaded.trained_until)
        item = view.ids.raw(np.zeros(1, dtype=np.int64))[0]
        with contextlib.suppress(ZhiyinError):
            view.answers.similar(item, requests[0], view.visible)
    if is_first:
        _predict_ratings(view, histories)
        view.search("a", 1)
        _decide_own_actions()
        _run_auction()
        _interleave(view, requests[0])
        with contextlib.suppress(ZhiyinError):
            view.answers.model.similar_users(k=2, histories=histories[-1].history, run=Run(threads=1))


def _run_auction() -> None:
    """An auction of two ads, as requests for ads run it."""
    whole = np.arange(2, dtype=np.int64)
    run_auctions(np.array([0, 2]), np.full(2, 0.5), whole + 1, whole, whole.astype(np.int32), whole, slots=1)


def _predict_ratings(view: View, histories: list[UserHistory]) -> None:
    """Ratings of a known and an unknown item, where the version predicts any."""
    model = view.loaded.model.rating_model
    if model is None:
        return
    pair, now = np.zeros(2, dtype=np.int64), view.loaded.clock()
    for past in histories:
        predict_ratings(model, past.history, pair, np.array([0, -1], dtype=np.int32), now, Run(threads=1))


def _interleave(view: View, request: Request) -> None:
    """A list that is mixed of two."""
    with contextlib.suppress(ZhiyinError):
        request = dataclasses.replace(request, k=3)
        answer = view.answers.ask(request, view.visible)
        interleave(view.answers, request, answer, answer, view.visible)


def _decide_own_actions() -> None:
    """A decision among actions of a caller's own, by one way to learn."""
    features = ActionFeatures(("a", "b"), ({}, {}), {})
    policy = ListPolicy(make_policy("LinTS"))
    decide_slots(
        policy, action_keys(("a", "b")), np.ones((1, 2), dtype=bool), np.zeros(1, np.int16), features.of_slot, ""
    )


def _append_to_copy(state: IndexState, trained_until: int) -> None:
    """Add two events, the later one first, to a copy of the feature index that nobody reads."""
    events = pl.DataFrame({"item": [0, 0], "time": [trained_until + 2, trained_until + 1]})
    events = pl.concat([NO_EVENTS, events.cast({"item": pl.Int32})], how="diagonal")
    events = events.with_columns(weight=pl.lit(1.0, pl.Float32))
    state.index.with_events(events).append(events)


def _arranged_requests(view: View) -> list[Request]:
    """The first items as `/v1/rank` requests them, one of them pinned, and a list that explores."""
    items = [str(item) for item in view.ids.raw(np.arange(min(3, len(view.loaded.items)), dtype=np.int64))]
    return [Request(k=len(items), include=items, closed=True, explain=True), Request(k=10, pins={1: items[0]}),
            Request(k=10, explore=1.0)]  # fmt: skip


def _policy_requests(view: View) -> list[Request]:
    """Lists that policies choose, one of each way to learn; all modes."""
    layout = ListFeatures.of(view.answers)
    policies = [
        ListPolicy(make_policy("LinTS"), features=layout, statistics=ItemStatistics()),
        ListPolicy(make_policy("LinUCB"), features=layout, mode="shadow"),
        ListPolicy(make_policy("BetaBernoulli"), mode="apprentice"),
        ListPolicy(make_policy("SquareCB")),
    ]
    return [Request(k=10, policy=policy) for policy in policies]


def _sample_histories(view: View) -> list[UserHistory]:
    """Histories of a stranger and of a known user, with an event of this moment and without."""
    active = np.flatnonzero(np.diff(view.context.histories.offsets))
    users = [None] if not len(active) else [None, str(view.context.user_ids.values[int(active[0])])]
    item, now = str(view.ids.raw(np.zeros(1, dtype=np.int64))[0]), view.loaded.clock()
    event = Event("", item, now, next(iter(view.loaded.kinds), "event"), seq=_NEWEST_SEQ)
    return [view.user_history(user, events) for user in users for events in ((), (event,))]


def _sample_columns(view: View) -> dict[str, Any]:
    """Columns of a user that models have learned from; {} where they have of none."""
    features = view.context.histories.features
    return {} if features is None or not len(features) else features.row(0, named=True)


def _sample_filter(view: View) -> str:
    """A condition on a numeric and a text column, where items have such columns, that excludes hardly anything."""
    kinds = view.answers.filters.columns.kinds["item"]
    names = {kind: name for name, kind in kinds.items() if kind in ("number", "text") and name.isidentifier()}
    tests = {"number": ">= -1e300", "text": "LIKE '%'"}
    return " AND ".join(f'("{name}" {tests[kind]} OR "{name}" IS NULL)' for kind, name in names.items())
