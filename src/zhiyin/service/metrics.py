"""Figures of the service for Prometheus: what was asked, how long it took, what waits, how fresh lists are.

Where PROMETHEUS_MULTIPROC_DIR is set, as it is for several workers, each process writes into a file of its own in that
folder, and whichever is asked adds them up.
"""

from __future__ import annotations

import glob
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from zhiyin.core.errors import MissingExtraError
from zhiyin.service.request_context import CURRENT, RequestRecord

if TYPE_CHECKING:
    from zhiyin.service.list_service import ListResult
    from zhiyin.service.request_limits import Work
    from zhiyin.service.tenant import Tenant

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
# Lists that coverage looks back on, the first items of each that count, and names that one label may take.
LISTS, ITEMS, NAMES = 10_000, 100, 64
# Seconds between two looks at what waits, where several processes answer.
LOOK = 5.0
_REQUEST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_STAGE = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_FATES = ("accepted", "known", "rejected")
PLAIN = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The figures of one application. With several shops each has the label `shop`."""

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
        self._looked = 0.0
        self._lock = threading.Lock()
        both: dict[str, Any] = {"registry": self.registry}
        shop = ["shop"] if self.several else []

        def counter(name: str, help: str, *labels: str) -> Any:
            return p.Counter(f"zhiyin_{name}", help, [*labels, *shop], **both)

        def histogram(name: str, help: str, buckets: Iterable[float], *labels: str) -> Any:
            return p.Histogram(f"zhiyin_{name}", help, [*labels, *shop], buckets=tuple(buckets), **both)

        def gauge(name: str, help: str, together: Any, labels: Sequence[str] = shop) -> Any:
            return p.Gauge(f"zhiyin_{name}", help, labels, multiprocess_mode=together, **both)

        self.requests = counter("requests_total", "Requests answered", "route", "method", "status")
        self.request_seconds = histogram("request_seconds", "Time to answer", _REQUEST, "route")
        self.busy = gauge("requests_busy", "Requests whose work is under way or waits", "livesum", ())
        self.stages = histogram("stage_seconds", "Time of each stage of a list", _STAGE, "stage")
        self.lists = counter("lists_total", "Lists made", "origin", "method")
        self.degraded = counter("degraded_total", "Lists that a stage or a source was left out of", "stage")
        self.events = counter("events_total", "Events by what became of them", "status")
        self.freshness = histogram("freshness_seconds", "From an event's arrival to its counting in lists", _REQUEST)
        self.traces = {word: counter(f"traces_{word}_total", f"Traces of lists {word}")
                       for word in ("written", "dropped", "failed")}  # fmt: skip
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
            "feature_skew_max": gauge(
                "feature_skew_max", "Largest relative difference of served features to those of the log", "livemax"
            ),
            "feature_index_age_seconds": gauge(
                "feature_index_age_seconds", "Since the ranker knew of all events of the store", "livemax"
            ),
            "coverage": gauge("coverage", f"Share of the items that were in the last {LISTS:,} lists", "livemax"),
        }
        self.shops: list[ShopMetrics] = []
        from zhiyin.service.tenant import distinct_names

        for name, tenant in zip(distinct_names([shop.name for shop in shops]), shops):
            self.shops.append(ShopMetrics(self, name, tenant))
        if self.folder:
            shops[0].live.periodic_tasks.append(lambda _: self._look_now_and_then())

    def done(self, seen: RequestRecord) -> None:
        """Count a request."""
        shop = [seen.shop] if self.several else []
        self.child(self.requests, seen.route, seen.method, str(seen.status), *shop).inc()
        self.child(self.request_seconds, seen.route, *shop).observe(seen.seconds)

    def child(self, metric: Any, *labels: str) -> Any:
        """The one of a metric with these labels, found again fast."""
        key = (metric._name, *labels)
        found = self._children.get(key)
        if found is None:
            found = self._children[key] = metric.labels(*labels) if labels else metric
        return found

    def look(self) -> None:
        """Take what others count, and what waits now."""
        with self._lock:
            self.busy.set(self.work.busy)
            for shop in self.shops:
                shop.look()

    def _look_now_and_then(self) -> None:
        if time.monotonic() - self._looked >= LOOK:
            self._looked = time.monotonic()
            self.look()

    def render(self, shop: str | None = None) -> bytes:
        """All figures as Prometheus reads them; `shop`: without those of the others."""
        from prometheus_client import generate_latest

        self.look()
        collector: Any = self.registry
        if self.folder:
            from prometheus_client.multiprocess import MultiProcessCollector

            self._sweep()
            collector = MultiProcessCollector(None, path=self.folder)
        return generate_latest(_Part(collector, shop))

    def _sweep(self) -> None:
        """What waited in a process that is gone waits no more."""
        from prometheus_client.multiprocess import mark_process_dead

        for file in glob.glob(os.path.join(glob.escape(self.folder or ""), "gauge_live*_*.db")):
            pid = file.rpartition("_")[2].removesuffix(".db")
            if pid.isdecimal() and not _lives(int(pid)):
                with suppress(FileNotFoundError):
                    mark_process_dead(int(pid), self.folder)


class ShopMetrics:
    """What one shop's work is counted by. Many threads may call it."""

    def __init__(self, all_of: Metrics, name: str, shop: Tenant) -> None:
        self.all, self.name, self.shop = all_of, name, shop
        self._label = (name,) if all_of.several else ()
        self._lists: deque[tuple[Any, ...]] = deque()
        self._times: Counter[Any] = Counter()
        self._texts: dict[Any, Any] = {}
        self._lock = threading.Lock()
        self._methods = set[str]()
        self._last: dict[str, int] = {}
        self._filters: Any = None
        for fate in _FATES:  # a counter that is there before the first event can be asked for its rate
            all_of.child(all_of.events, fate, *self._label)

    def listed(self, made: ListResult, origin: str) -> None:
        """Count a list."""
        answer, child, label = made.answer, self.all.child, self._label
        current = CURRENT.get()
        if current is not None:
            current.lists.append((time.time_ns(), answer.seconds))
        for stage, seconds in answer.seconds.items():
            child(self.all.stages, stage, *label).observe(seconds)
        method = answer.method
        if method not in self._methods:
            if len(self._methods) >= NAMES:
                method = "other"
            self._methods.add(method)
        child(self.all.lists, origin, method, *label).inc()
        for stage in (*answer.degraded, *answer.left_out):
            child(self.all.degraded, stage, *label).inc()
        with self._lock:
            # One text an item, not one an item of each list.
            items = tuple(self._texts.setdefault(item, item) for item in answer.items[:ITEMS])
            self._lists.append(items)
            self._times.update(items)
            if len(self._lists) > LISTS:
                for item in self._lists.popleft():
                    left = self._times[item] - 1
                    if left:
                        self._times[item] = left
                    else:
                        del self._times[item], self._texts[item]

    def brought(self, fates: Iterable[str], seconds: float) -> None:
        """Count events that came together. seconds: from their arrival to their counting in lists."""
        for fate, number in Counter(fates).items():
            self.all.child(self.all.events, fate, *self._label).inc(number)
        self.all.child(self.all.freshness, *self._label).observe(seconds)

    def look(self) -> None:
        shop, live, label = self.shop, self.shop.live, self._label
        view = live.serving
        for word, counter in self.all.traces.items():
            self._grown(self.all.child(counter, *label), word, getattr(shop.traces, word))
        self._grown(self.all.child(self.all.compared, *label), "compared", shop.skew.rows)
        self.all.child(self.all.gauges["live_state_away"], *label).set(live.state.away)
        if view is None:
            return
        filters = view.answers.filters
        if filters is not self._filters:  # a view of its own counts from nothing, or goes on from the one before it
            self._filters = filters
            self._last["hits"] = min(self._last.get("hits", 0), filters.hits)
            self._last["misses"] = min(self._last.get("misses", 0), filters.misses)
        self._grown(self.all.child(self.all.masks, "hit", *label), "hits", filters.hits)
        self._grown(self.all.child(self.all.masks, "miss", *label), "misses", filters.misses)
        now = {
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
        for name, value in now.items():
            self.all.child(self.all.gauges[name], *label).set(value)

    def _grown(self, counter: Any, word: str, value: int) -> None:
        counter.inc(max(0, value - self._last.get(word, 0)))
        self._last[word] = value


class _Part:
    """The figures of one shop and those that are of none."""

    def __init__(self, collector: Any, shop: str | None) -> None:
        self.collector, self.shop = collector, shop

    def collect(self) -> Iterable[Any]:
        for family in self.collector.collect():
            if self.shop is not None:
                family.samples = [one for one in family.samples if one.labels.get("shop") in (None, "", self.shop)]
            yield family


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
