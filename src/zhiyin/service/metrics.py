"""Prometheus metrics of the service: requests, their times, queues, freshness of lists.

Where PROMETHEUS_MULTIPROC_DIR is set, as it is for several workers, each process writes to a file of its own in that
folder, and the process that answers a scrape adds them up.
"""

from __future__ import annotations

import glob
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from zhiyin.core.errors import MissingExtraError
from zhiyin.service.request_context import CURRENT, RequestRecord

if TYPE_CHECKING:
    from zhiyin.pipeline.request import Answer
    from zhiyin.service.list_service import ListResult, LoggedDecision
    from zhiyin.service.request_limits import Work
    from zhiyin.service.stream_reading import StreamReader
    from zhiyin.service.tenant import Tenant

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
# Newest lists that coverage is computed of, the first items of each that count, and values that one label may take.
COVERAGE_LISTS, COVERAGE_ITEMS, MAX_LABEL_VALUES = 10_000, 100, 64
# Seconds between two updates of gauges, where several processes answer.
UPDATE_SECONDS = 5.0
# Requests, or lists, that are noted and not counted yet, at most.
MAX_UNCOUNTED = 2_000
# Bounds of histograms, in seconds.
_REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_STAGE_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_EVENT_STATUSES = ("accepted", "known", "rejected")
T = TypeVar("T")
PLAIN_TEXT = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Metrics of one application. With several shops each metric has the label `shop`."""

    def __init__(self, shops: Sequence[Tenant], work: Work) -> None:
        try:
            import prometheus_client as p
        except ImportError:
            raise MissingExtraError("prometheus_client", "serve", "/metrics") from None
        self.folder = os.environ.get(FOLDER)
        if self.folder:
            os.makedirs(self.folder, exist_ok=True)
        self.work, self.several = work, len(shops) > 1
        self.registry = p.CollectorRegistry()
        self._children: dict[tuple[str, ...], Any] = {}
        self._updated = 0.0
        self._lock, self._counting = threading.Lock(), threading.RLock()
        both: dict[str, Any] = {"registry": self.registry}
        shop = ["shop"] if self.several else []
        # Requests that are noted and not counted yet: route, method, status, shop, seconds.
        self._uncounted: deque[tuple[str, str, int, str, float]] = deque()

        class BatchHistogram(p.Histogram):
            """A histogram that takes many observations at once."""

            def observe_all(self, values: Sequence[float]) -> None:
                counts = np.bincount(np.searchsorted(self._upper_bounds, values), minlength=len(self._buckets))
                self._sum.inc(float(sum(values)))
                for bucket, count in zip(self._buckets, counts.tolist()):
                    if count:
                        bucket.inc(count)

        def counter(name: str, help: str, *labels: str) -> Any:
            return p.Counter(f"zhiyin_{name}", help, [*labels, *shop], **both)

        def histogram(name: str, help: str, buckets: Iterable[float], *labels: str) -> Any:
            return BatchHistogram(f"zhiyin_{name}", help, [*labels, *shop], buckets=tuple(buckets), **both)

        def gauge(name: str, help: str, together: Any, labels: Sequence[str] = shop) -> Any:
            return p.Gauge(f"zhiyin_{name}", help, labels, multiprocess_mode=together, **both)

        self.requests = counter("requests_total", "Requests answered", "route", "method", "status")
        self.request_seconds = histogram("request_seconds", "Time to answer", _REQUEST_BUCKETS, "route")
        self.busy = gauge("requests_busy", "Requests whose work is under way or waits", "livesum", ())
        self.stages = histogram("stage_seconds", "Time of each stage of a list", _STAGE_BUCKETS, "stage")
        self.lists = counter("lists_total", "Lists made", "origin", "method")
        self.degraded = counter("degraded_total", "Lists that a stage or a source was left out of", "stage")
        self.events = counter("events_total", "Events by what became of them", "status")
        self.freshness = histogram(
            "freshness_seconds", "From an event's arrival to its counting in lists", _REQUEST_BUCKETS
        )
        self.traces = {word: counter(f"traces_{word}_total", f"Traces of lists {word}")
                       for word in ("written", "dropped", "failed")}  # fmt: skip
        self.policy_lists = counter(
            "policy_lists_total", "Lists of placements with a policy, and decisions", "policy", "mode", "reason"
        )
        self.policy_explored = counter("policy_explored_total", "Lists that differ from the greedy one", "policy")
        self.policy_loss = counter("policy_loss_total", "Reward that exploring is expected to have cost", "policy")
        self.policy_gauges = {
            name: gauge(f"policy_{name}", help, "livemax", ["policy", *labels, *shop])
            for name, help, labels in (
                ("snapshot", "Number of the snapshot that decides", ()),
                ("loss_of_day", "Reward that exploring is expected to have cost within a day", ()),
                ("guarded_share", "Share of the lists that the policy gets in mode guarded", ()),
                ("mean_importance_weight", "Of the baseline's actions; 1 where propensities are right", ()),
                ("reward_rate", "Mean reward of a list, with its interval", ("mode", "bound")),
                ("in_time_share", "Share of the rewards that came within the window", ()),
                ("drift_alarms", "How often rewards have changed", ()),
            )
        }
        self.compared = counter("feature_rows_compared_total", "Rows of served features compared with the log")
        self.masks = counter("mask_cache_total", "Filters of lists found ready or not", "result")
        self.gauges = {
            "events_waiting": gauge("events_waiting", "Events that wait for their commit", "livesum"),
            "traces_waiting": gauge("traces_waiting", "Traces that wait to be written", "livesum"),
            "version": gauge("version", "Version of the models in use", "livemin"),
            "version_age_seconds": gauge("version_age_seconds", "Since that version was made", "livemax"),
            "items_waiting": gauge("items_waiting", "Changed items that lists do not know yet", "livemax"),
            "live_users": gauge("live_users", "Users whose recent events are at hand", "livemax"),
            "live_state_away": gauge(
                "live_state_away", "Whether Redis does not answer, or only slowly, and is done without", "livemax"
            ),
            "streams_away": gauge(
                "streams_away", "Whether the state of streams does not answer and is done without", "livemax"
            ),
            "stream_lag_events": gauge(
                "stream_lag_events", "Newest events that what streams have computed does not hold yet", "livemax"
            ),
            "stream_lag_seconds": gauge(
                "stream_lag_seconds", "Since the oldest of these events arrived; 0 without one", "livemax"
            ),
            "feature_skew_max": gauge(
                "feature_skew_max", "Largest relative difference of served features to those of the log", "livemax"
            ),
            "feature_index_age_seconds": gauge(
                "feature_index_age_seconds", "Since the ranker knew of all events of the store", "livemax"
            ),
            "coverage": gauge(
                "coverage", f"Share of the items that were in the last {COVERAGE_LISTS:,} lists", "livemax"
            ),
        }
        self.shops: list[ShopMetrics] = []
        from zhiyin.service.tenant import distinct_names

        for name, tenant in zip(distinct_names([shop.name for shop in shops]), shops):
            self.shops.append(ShopMetrics(self, name, tenant))
        shops[0].live.periodic_tasks.append(lambda _: self._update_periodically())

    def done(self, request: RequestRecord) -> None:
        """Note a request; it is counted with the next `count`."""
        self._uncounted.append((request.route, request.method, request.status, request.shop, request.seconds))
        if len(self._uncounted) > MAX_UNCOUNTED:
            self.count()

    def count(self) -> None:
        """Count what was noted: requests and lists. A request pays for a note alone, and many are counted at once."""
        with self._counting:
            n_requests: Counter[tuple[str, ...]] = Counter()
            seconds: dict[tuple[str, ...], list[float]] = {}
            for route, method, status, name, took in _taken(self._uncounted):
                shop = (name,) if self.several else ()
                n_requests[route, method, str(status), *shop] += 1
                seconds.setdefault((route, *shop), []).append(took)
            self._add(self.requests, n_requests)
            for labels, values in seconds.items():
                self.child(self.request_seconds, *labels).observe_all(values)
            for one in self.shops:
                one.count()

    def _add(self, metric: Any, numbers: Mapping[tuple[str, ...], int]) -> None:
        for labels, number in numbers.items():
            self.child(metric, *labels).inc(number)

    def child(self, metric: Any, *labels: str) -> Any:
        """The child of a metric with these labels, cached."""
        key = (metric._name, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels) if labels else metric
        return child

    def update(self) -> None:
        """Count what was noted, set the gauges, and add what other parts of the service have counted."""
        self.count()
        with self._lock:
            self.busy.set(self.work.busy)
            for shop in self.shops:
                shop.update()

    def _update_periodically(self) -> None:
        self.count()
        if self.folder and time.monotonic() - self._updated >= UPDATE_SECONDS:
            self._updated = time.monotonic()
            self.update()

    def render(self, shop: str | None = None) -> bytes:
        """All metrics in the text format of Prometheus.

        Parameters
        ----------
        shop: leave out the metrics of other shops; None: all.
        """
        from prometheus_client import generate_latest

        self.update()
        collector: Any = self.registry
        if self.folder:
            from prometheus_client.multiprocess import MultiProcessCollector

            self._drop_dead_processes()
            collector = MultiProcessCollector(None, path=self.folder)
        return generate_latest(_ShopCollector(collector, shop))

    def _drop_dead_processes(self) -> None:
        """Drop the gauges of processes that have ended."""
        from prometheus_client.multiprocess import mark_process_dead

        for file in glob.glob(os.path.join(glob.escape(self.folder or ""), "gauge_live*_*.db")):
            pid = file.rpartition("_")[2].removesuffix(".db")
            if pid.isdecimal() and not _is_running(int(pid)):
                with suppress(FileNotFoundError):
                    mark_process_dead(int(pid), self.folder)


class ShopMetrics:
    """Metrics of one shop. Any number of threads may use it."""

    def __init__(self, metrics: Metrics, name: str, shop: Tenant) -> None:
        self.all, self.name, self.shop = metrics, name, shop
        self._label = (name,) if metrics.several else ()
        self._lists: deque[tuple[Any, ...]] = deque()
        self._times: Counter[Any] = Counter()
        self._texts: dict[Any, Any] = {}
        # Lists that are noted and not counted yet, with their origins.
        self._uncounted: deque[tuple[Answer, str]] = deque()
        self._methods = set[str]()
        self._last: dict[str, int] = {}
        self._filters: Any = None
        for status in _EVENT_STATUSES:  # a counter that exists before the first event has a rate
            metrics.child(metrics.events, status, *self._label)

    def on_decision(self, decision: LoggedDecision) -> None:
        """Count a decision of a policy."""
        made, info, child, label = decision.decision, decision.info, self.all.child, self._label
        child(self.all.policy_lists, info.policy, info.mode, info.reason, *label).inc()
        if made.explored:
            child(self.all.policy_explored, info.policy, *label).inc()
        if made.expected_loss > 0:
            child(self.all.policy_loss, info.policy, *label).inc(made.expected_loss)

    def on_list(self, result: ListResult, origin: str) -> None:
        """Note a list; it is counted with the next `Metrics.count`."""
        answer, current = result.answer, CURRENT.get()
        if current is not None:
            current.lists.append((time.time_ns(), answer.seconds))
        self._uncounted.append((answer, origin))
        if len(self._uncounted) > MAX_UNCOUNTED:
            self.all.count()

    def count(self) -> None:
        """Count the lists that were noted; called by `Metrics.count` alone."""
        label, seconds = self._label, dict[str, list[float]]()
        n_lists, degraded = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
        for answer, origin in _taken(self._uncounted):
            for stage, took in answer.seconds.items():
                seconds.setdefault(stage, []).append(took)
            method = answer.method
            if method not in self._methods:
                if len(self._methods) >= MAX_LABEL_VALUES:
                    method = "other"
                self._methods.add(method)
            n_lists[origin, method, *label] += 1
            degraded.update((stage, *label) for stage in (*answer.degraded, *answer.left_out))
            self._note_items(answer.items[:COVERAGE_ITEMS])
        for stage, values in seconds.items():
            self.all.child(self.all.stages, stage, *label).observe_all(values)
        self.all._add(self.all.lists, n_lists)
        self.all._add(self.all.degraded, degraded)

    def _note_items(self, listed: Sequence[Any]) -> None:
        """Add the items of a list to those that coverage is computed of."""
        # The same text object for an item in all lists.
        items = tuple(self._texts.setdefault(item, item) for item in listed)
        self._lists.append(items)
        self._times.update(items)
        if len(self._lists) > COVERAGE_LISTS:
            for item in self._lists.popleft():
                left = self._times[item] - 1
                if left:
                    self._times[item] = left
                else:
                    del self._times[item], self._texts[item]

    def on_events(self, statuses: Iterable[str], seconds: float) -> None:
        """Count events that came together.

        Parameters
        ----------
        statuses: "accepted", "known" or "rejected" of each.
        seconds: from their arrival until they count in lists.
        """
        for status, number in Counter(statuses).items():
            self.all.child(self.all.events, status, *self._label).inc(number)
        self.all.child(self.all.freshness, *self._label).observe(seconds)

    def update(self) -> None:
        """Set the gauges of the shop, and add what its parts have counted."""
        shop, live, label = self.shop, self.shop.live, self._label
        view = live.serving
        for word, counter in self.all.traces.items():
            self._count_up(self.all.child(counter, *label), word, getattr(shop.traces, word))
        self._count_up(self.all.child(self.all.compared, *label), "compared", shop.skew.rows)
        self.all.child(self.all.gauges["live_state_away"], *label).set(live.state.away)
        self._update_policies()
        if live.streams is not None:
            self._update_streams(live.streams)
        if view is None:
            return
        filters = view.answers.filters
        if filters is not self._filters:  # a view of its own counts from nothing, or goes on from the one before it
            self._filters = filters
            self._last["hits"] = min(self._last.get("hits", 0), filters.hits)
            self._last["misses"] = min(self._last.get("misses", 0), filters.misses)
        self._count_up(self.all.child(self.all.masks, "hit", *label), "hits", filters.hits)
        self._count_up(self.all.child(self.all.masks, "miss", *label), "misses", filters.misses)
        gauges = {
            "events_waiting": shop.writer.waiting,
            "traces_waiting": shop.traces.waiting,
            "version": view.version,
            "version_age_seconds": max(0.0, time.time() - view.loaded.created / 1e6),
            "items_waiting": live.waiting_items,
            "live_users": live.state.users,
            "feature_skew_max": shop.skew.maximum,
            "feature_index_age_seconds": 0.0 if live.index_updater is None else live.index_updater.age,
            "coverage": len(self._times) / max(1, int(view.visible.sum())),
        }
        for name, value in gauges.items():
            self.all.child(self.all.gauges[name], *label).set(value)

    def _update_streams(self, streams: StreamReader) -> None:
        """Set the gauges of streams; while their state is away, those of lag stay as they are."""
        gauges, label, store = self.all.gauges, self._label, self.shop.store
        mark = streams.mark()
        self.all.child(gauges["streams_away"], *label).set(streams.away)
        if mark is None:
            return
        waiting = store.events(mark, 1, ("received",))["received"].to_list()
        lag = max(0.0, (store.clock() - waiting[0]) / 1e6) if waiting else 0.0
        n_waiting = max(0, store.last_seq - mark) if waiting else 0
        self.all.child(gauges["stream_lag_events"], *label).set(n_waiting)
        self.all.child(gauges["stream_lag_seconds"], *label).set(lag)

    def _update_policies(self) -> None:
        """Set the gauges of policies: what the newest snapshots say of them."""
        policies, label = self.shop.policies, self._label

        def put(name: str, value: Any, *labels: str) -> None:
            if isinstance(value, int | float):
                self.all.child(self.all.policy_gauges[name], *labels, *label).set(value)

        for policy in [*policies.settings()][:MAX_LABEL_VALUES]:
            served = policies.at(policy)
            info = served.info
            put("snapshot", served.snapshot, policy)
            put("loss_of_day", policies.loss_of_day(policy), policy)
            put("guarded_share", (info.get("guard") or {}).get("share"), policy)
            monitors = info.get("monitors") or {}
            for name in ("mean_importance_weight", "in_time_share"):
                value = monitors.get(name)
                put(name, value[0] if isinstance(value, list | tuple) and value else value, policy)
            put("drift_alarms", (monitors.get("drift") or {}).get("alarms"), policy)
            for mode, figures in (monitors.get("reward_rate") or {}).items():
                for bound, value in zip(("mean", "low", "high"), figures):
                    put("reward_rate", value, policy, mode, bound)

    def _count_up(self, counter: Any, word: str, value: int) -> None:
        counter.inc(max(0, value - self._last.get(word, 0)))
        self._last[word] = value


def _taken(noted: deque[T]) -> Iterator[T]:
    """What is in a queue, taken out of it; others may append meanwhile."""
    for _ in range(len(noted)):
        yield noted.popleft()


class _ShopCollector:
    """Metrics of one shop, and those without the label `shop`."""

    def __init__(self, collector: Any, shop: str | None) -> None:
        self.collector, self.shop = collector, shop

    def collect(self) -> Iterable[Any]:
        for family in self.collector.collect():
            if self.shop is not None:
                family.samples = [one for one in family.samples if one.labels.get("shop") in (None, "", self.shop)]
            yield family


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
