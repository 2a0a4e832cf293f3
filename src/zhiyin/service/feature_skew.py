"""Training-serving skew: features that served lists were ranked by, against the same features made again from the log.

For each list whose features were kept, the index is built from what the version learned and from the store's events up
to the sequence number that the list names, the request is answered once more, and both feature matrices are compared.
What serving holds in memory takes no part in it, so that a difference is a fault of serving.
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
from zhiyin.service.feature_log import DELETED, differences, hash_of_names, read_features
from zhiyin.store.live_state import MAX_EVENTS_PER_USER
from zhiyin.store.traces import Trace

if TYPE_CHECKING:
    from zhiyin.service.list_service import ListService
    from zhiyin.service.settings import Settings
    from zhiyin.service.version_view import Past, View
    from zhiyin.store.database import Store

# Features are the same up to this, relative to the larger of 1 and their size: they are kept as float32.
TOLERANCE = 1e-6
# Seconds that an event may be kept while the ranker does not know of it.
STALE = 60.0
# Beside serving: seconds between two comparisons at least, and this many times what the last one took; lists of one;
# events since the version above which only `zhiyin check --serving` compares; comparisons that the gauge looks back on.
PERIOD, REST, LISTS, MOST, KEPT = 60.0, 100.0, 5, 2_000_000, 60


@dataclasses.dataclass
class Skew:
    """What a comparison found.

    Parameters
    ----------
    lists, rows, values: that were compared. largest: difference by feature, relative to the larger of 1 and its size.
    left_out: lists that could not be compared, by reason.
    behind: seconds, the longest that an event had been kept while the ranker of a list did not know of it.
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
        """Whether the features are the same, and of no older log."""
        return self.maximum <= TOLERANCE and self.behind <= STALE

    def worst(self, most: int = 10) -> list[tuple[str, float]]:
        """The features that differ most."""
        return sorted(self.largest.items(), key=lambda one: (-one[1], one[0]))[:most]

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
    """Compare the features in traces with those made again. Lists of one state of the index should stand together."""
    found = Skew()
    for trace in traces:
        why = _compare(list_service, trace, found)
        if why:
            found.left_out[why] += 1
    return found


def compare_newest(settings: Settings, store: Store, most: int) -> Skew:
    """Compare the newest lists of a store whose features were kept, without a running service."""
    from zhiyin.pipeline.bundles import Bundles
    from zhiyin.service.list_service import ListService
    from zhiyin.service.placements import Placements
    from zhiyin.service.serving_state import ServingState
    from zhiyin.store.trace_writer import TraceWriter

    traces = store.traces_with_features(most)
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


def _compare(list_service: ListService, trace: Trace, found: Skew) -> str:
    """Add one list to what was found; why it cannot be compared, else an empty text."""
    logged = read_features(trace)
    if logged is None:
        return "no features were kept"
    view, why = list_service.view_of(trace)
    if view is None:
        return why
    state, why = list_service.index_of(trace, view)
    if state is None:
        return why
    past, why = _past(list_service, trace, view, found)
    if why:
        return why
    features = list_service.again(trace, view, state, features="all", past=past).features
    if features is None or hash_of_names(features.names) != trace.head["features"]:
        return "the features are others by now"
    gaps = differences(logged, features)
    missing = list_service.live.store.events(state.seq, 1, ("received",))
    if len(missing):
        found.behind = max(found.behind, (trace.time - int(missing["received"][0])) / 1e6)
    found.lists += 1
    found.rows += len(gaps)
    found.values += gaps.size
    for name, gap in zip(features.names, gaps.max(axis=0, initial=0.0).tolist()):
        found.largest[name] = max(gap, found.largest.get(name, 0.0))
    return ""


def _past(list_service: ListService, trace: Trace, view: View, found: Skew) -> tuple[Past | None, str]:
    """What the user of a list had done, made again from the log; and why it cannot be."""
    if "code" not in trace.head:
        return None, ""
    loaded, store, code = view.loaded, list_service.live.store, trace.head["code"]
    seqs = trace.arrays.get("past_seqs", np.zeros(0, np.int64))
    if (seqs == 0).any():
        return None, "the history had events without a number"
    events = store.events_by_seq(seqs.tolist(), ("seq", "item", "time", "kind", "value")).sort("time", "seq")
    if len(events) < len(seqs):
        return None, DELETED
    past = view.remembered(
        code,
        view.encode(events["item"]),
        events["time"].to_numpy(),
        loaded.schema.weights(events["kind"], events["value"]),
        loaded.schema.codes(events["kind"]),
        events["value"].cast(pl.Float32).fill_null(np.nan).to_numpy(),
    )
    if trace.user is not None:
        # What the user had done long before, and the history did not hold.
        known = set(seqs.tolist())
        kept = loaded.unlearned(code, store.recent_events(trace.user, MAX_EVENTS_PER_USER)[0])
        missing = sorted(event.seq for event in kept if event.seq not in known and event.seq > loaded.learned_seq)
        received = store.events_by_seq(missing[:1], ("received",))["received"]
        if len(received):
            found.behind = max(found.behind, (trace.time - int(received[0])) / 1e6)
    return past, ""


class SkewWatch:
    """Compares a few lists of this process now and then, in a thread of its own that takes a hundredth of a core."""

    def __init__(self, list_service: ListService, period: float = PERIOD) -> None:
        self._desk, self._period = list_service, period
        self._stop = threading.Event()
        self._maxima: deque[float] = deque(maxlen=KEPT)
        self.rows = 0
        self._warned: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="zhiyin-skew", daemon=True)
        self._thread.start()

    @property
    def maximum(self) -> float:
        """The largest difference of the last comparisons."""
        return max(self._maxima, default=0.0)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        rest = self._period
        while not self._stop.wait(rest):
            begun = time.perf_counter()
            try:
                self.look()
            except Exception as error:  # serving goes on
                log.warning("service: features could not be compared: %s", error)
            rest = max(self._period, REST * (time.perf_counter() - begun))

    def look(self) -> Skew | None:
        """Compare the newest lists whose features were kept; None where there are none."""
        list_service = self._desk
        view = list_service.live.serving
        index = None if view is None else view.loaded.index
        if index is None or index.events > MOST:
            return None
        ids = [list_service.features.remembered.pop() for _ in range(min(LISTS, len(list_service.features.remembered)))]
        traces = [trace for trace in map(list_service.traces.find, ids) if trace is not None]
        if not traces:
            return None
        list_service.features.remembered.clear()
        found = compare(list_service, sorted(traces, key=lambda trace: (trace.version, trace.head["index"])))
        if found.lists:
            self._maxima.append(found.maximum)
            self.rows += found.rows
        if found.left_out[DELETED] and list_service.live.index_updater is not None:
            list_service.live.index_updater.stale = True
        if found.maximum > TOLERANCE:
            name, gap = found.worst(1)[0]
            if name not in self._warned:  # once for each feature
                self._warned.add(name)
                log.warning("service: %r of served lists differs by %.3g from what the log gives: "
                            "zhiyin check --serving", name, gap)  # fmt: skip
        return found
