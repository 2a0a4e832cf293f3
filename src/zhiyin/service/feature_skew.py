"""Training-serving skew: features that served lists were ranked by, compared with those computed from the log.

For each list whose features were stored, the index is built from what the version learned and from the store's events
up to the sequence number that the list names, the request is answered again, and both feature matrices are compared.
What serving holds in memory takes no part, so that a difference is a fault of serving.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from zhiyin.core.run import log
from zhiyin.service.feature_log import EVENTS_DELETED, differences, hash_of_names, read_features
from zhiyin.service.list_service import ListService
from zhiyin.service.user_history import UserHistory
from zhiyin.service.version_view import View
from zhiyin.store.live_state import MAX_EVENTS_PER_USER
from zhiyin.store.traces import Trace

if TYPE_CHECKING:
    from zhiyin.service.settings import Settings
    from zhiyin.store.store import Store

# Largest difference at which features are the same, relative to the larger of 1 and their size: they are float32.
TOLERANCE = 1e-6
# Seconds that an event may be stored while the ranker does not know of it.
MAX_DELAY_SECONDS = 60.0
# Beside serving: seconds between two comparisons at least, and as a multiple of the time of the last one.
PERIOD_SECONDS, PAUSE_FACTOR = 60.0, 100.0
# Lists of one comparison; events since the version above which only `zhiyin check --serving` compares; comparisons
# whose largest difference is reported.
MAX_LISTS, MAX_EVENTS, MAX_COMPARISONS = 5, 2_000_000, 60


@dataclasses.dataclass
class Skew:
    """The result of a comparison.

    Parameters
    ----------
    lists, rows, values: how many were compared.
    largest: by feature the largest difference, relative to the larger of 1 and its size.
    left_out: number of lists that could not be compared, by reason.
    behind: seconds; the longest that an event was stored while the ranker of a list did not know of it.
    """

    lists: int = 0
    rows: int = 0
    values: int = 0
    largest: dict[str, float] = dataclasses.field(default_factory=dict)
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)
    behind: float = 0.0

    @property
    def maximum(self) -> float:
        """The largest difference; 0 where nothing was compared."""
        return max(self.largest.values(), default=0.0)

    @property
    def within(self) -> bool:
        """Whether the features are the same, and the ranker knew of recent events."""
        return self.maximum <= TOLERANCE and self.behind <= MAX_DELAY_SECONDS

    def worst(self, n: int = 10) -> list[tuple[str, float]]:
        """The features that differ most."""
        return sorted(self.largest.items(), key=lambda pair: (-pair[1], pair[0]))[:n]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; a difference that is infinite, where one side is unknown, is null."""
        worst = [{"feature": name, "difference": gap if np.isfinite(gap) else None} for name, gap in self.worst()]
        return {
            "lists": self.lists, "rows": self.rows, "values": self.values,
            "largest": self.maximum if np.isfinite(self.maximum) else None,
            "tolerance": TOLERANCE, "behind_seconds": round(self.behind, 1), "within": self.within,
            "features": worst, "left_out": dict(self.left_out),
        }  # fmt: skip


def compare(list_service: ListService, traces: Iterable[Trace]) -> Skew:
    """Compare the features in traces with those computed from the log.

    Traces of one state of the index should follow each other: the index is then built once.
    """
    skew = Skew()
    for trace in traces:
        reason = _compare(list_service, trace, skew)
        if reason:
            skew.left_out[reason] += 1
    return skew


def compare_newest(settings: Settings, store: Store, n_lists: int) -> Skew:
    """Compare the newest lists of a store whose features were stored, without a running service."""
    from zhiyin.pipeline.model_versions import Bundles
    from zhiyin.service.placements import Placements
    from zhiyin.service.serving_state import ServingState
    from zhiyin.store.trace_writer import TraceWriter

    traces = store.traces_with_features(n_lists)
    if not traces:
        return Skew()
    bundles = Bundles(settings.file.parent / settings.config.train.output / "bundles")
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(contextlib.closing(ServingState(
            bundles, store, settings.answer_settings, settings.config.weights, types=settings.config.schema.types
        )))  # fmt: skip
        writer = stack.enter_context(contextlib.closing(TraceWriter(store)))
        list_service = ListService(live, Placements(store, settings.file, live.now.answers), writer)
        return compare(list_service, sorted(traces, key=lambda trace: (trace.version, trace.head["index"])))


def _compare(list_service: ListService, trace: Trace, skew: Skew) -> str:
    """Add one list to the result. Returns the reason why it cannot be compared, or an empty text."""
    replays = list_service.replays
    logged = read_features(trace)
    if logged is None:
        return "no features were kept"
    view, reason = replays.view_of(trace)
    if view is None:
        return reason
    index, reason = replays.index_of(trace, view)
    if index is None:
        return reason
    history, reason = _history_from_log(list_service, trace, view, skew)
    if reason:
        return reason
    features = replays.answer(trace, view, index, features="all", history=history).features
    if features is None or hash_of_names(features.names) != trace.head["features"]:
        return "the features are others by now"
    gaps = differences(logged, features)
    unknown_events = list_service.live.store.events(index.seq, 1, ("received",))
    if len(unknown_events):
        skew.behind = max(skew.behind, (trace.time - int(unknown_events["received"][0])) / 1e6)
    skew.lists += 1
    skew.rows += len(gaps)
    skew.values += gaps.size
    for name, gap in zip(features.names, gaps.max(axis=0, initial=0.0).tolist()):
        skew.largest[name] = max(gap, skew.largest.get(name, 0.0))
    return ""


def _history_from_log(
    list_service: ListService, trace: Trace, view: View, skew: Skew
) -> tuple[UserHistory | None, str]:
    """The history of a list's user, read from the log; and the reason where it cannot be."""
    if "code" not in trace.head:
        return None, ""
    loaded, store, code = view.loaded, list_service.live.store, trace.head["code"]
    seqs = trace.arrays.get("past_seqs", np.zeros(0, np.int64))
    if (seqs == 0).any():
        return None, "the history had events without a number"
    events = store.events_by_seq(seqs.tolist(), ("seq", "item", "time", "kind", "value")).sort("time", "seq")
    if len(events) < len(seqs):
        return None, EVENTS_DELETED
    history = view.history_with_events(
        code,
        view.encode(events["item"]),
        events["time"].to_numpy(),
        loaded.schema.weights(events["kind"], events["value"]),
        loaded.schema.codes(events["kind"]),
        events["value"].cast(pl.Float32).fill_null(np.nan).to_numpy(),
    )
    if trace.user is not None:
        # Events that the store held before the list, and the history did not.
        in_history = set(seqs.tolist())
        new, _ = view.new_events(code, store.recent_events(trace.user, MAX_EVENTS_PER_USER)[0])
        missing = sorted(event.seq for event in new if event.seq not in in_history and event.seq > loaded.learned_seq)
        received = store.events_by_seq(missing[:1], ("received",))["received"]
        if len(received):
            skew.behind = max(skew.behind, (trace.time - int(received[0])) / 1e6)
    return history, ""


class SkewMonitor:
    """Compares a few lists of this process now and then, in a thread of its own that takes a hundredth of a core."""

    def __init__(self, list_service: ListService, period_seconds: float = PERIOD_SECONDS) -> None:
        self._list_service, self._period = list_service, period_seconds
        self._stop = threading.Event()
        self._maxima: deque[float] = deque(maxlen=MAX_COMPARISONS)
        self.rows = 0
        self._logged: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="zhiyin-skew", daemon=True)
        self._thread.start()

    @property
    def maximum(self) -> float:
        """The largest difference of the last comparisons."""
        return max(self._maxima, default=0.0)

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        pause = self._period
        while not self._stop.wait(pause):
            begun = time.perf_counter()
            try:
                self.compare_recent()
            except Exception as error:  # serving goes on
                log.warning("service: features could not be compared: %s", error)
            pause = max(self._period, PAUSE_FACTOR * (time.perf_counter() - begun))

    def compare_recent(self) -> Skew | None:
        """Compare the newest lists whose features were stored; None where there are none."""
        service = self._list_service
        view = service.live.serving
        index = None if view is None else view.loaded.index
        if index is None or index.events > MAX_EVENTS:
            return None
        recent = service.features.recent
        ids = [recent.pop() for _ in range(min(MAX_LISTS, len(recent)))]
        found = [trace for trace in map(service.traces.find, ids) if trace is not None]
        traces = [trace for trace in found if read_features(trace) is not None]  # beyond the quota they are not kept
        if not traces:
            return None
        recent.clear()
        skew = compare(service, sorted(traces, key=lambda trace: (trace.version, trace.head["index"])))
        if skew.lists:
            self._maxima.append(skew.maximum)
            self.rows += skew.rows
        if skew.left_out[EVENTS_DELETED] and service.live.index_updater is not None:
            service.live.index_updater.stale = True
        if skew.maximum > TOLERANCE:
            name, gap = skew.worst(1)[0]
            if name not in self._logged:  # once for each feature
                self._logged.add(name)
                log.warning("service: %r of served lists differs by %.3g from what the log gives: "
                            "zhiyin check --serving", name, gap)  # fmt: skip
        return skew
