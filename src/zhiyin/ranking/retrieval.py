"""Candidate retrieval: the union of the top items of several recommenders, within limits of time and number."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np

from zhiyin.core.errors import ConfigError, suggest
from zhiyin.core.hashing import find, table
from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.params import list_length
from zhiyin.core.run import Run, log
from zhiyin.data.histories import Histories
from zhiyin.models.masked_search import Mask
from zhiyin.models.recommender import Recommender
from zhiyin.ranking.blend_kernels import reciprocal_rank
from zhiyin.ranking.examples import Candidates


class Budget:
    """Limits of retrieval. One object serves any number of calls, from several threads at once.

    Parameters
    ----------
    seconds: timeout of each source in one call of `retrieve`, one number for all or one by name; None for no timeout.
        With a timeout every source runs in a thread of its own. A late source is left out of the answer; its
        computation cannot be interrupted, and until it ends the source is left out of further calls as well.
    items: maximum number of candidates of a request, the first by reciprocal rank fusion; None for the whole union.
    """

    def __init__(self, seconds: float | Mapping[str, float] | None = None, items: int | None = None) -> None:
        limits = list(seconds.values()) if isinstance(seconds, Mapping) else [] if seconds is None else [seconds]
        if any(limit <= 0 for limit in limits):
            raise ConfigError(f"a budget of {min(limits)} s answers nothing", remedy="a positive time, such as 0.02")
        if items is not None and items < 1:
            raise ConfigError(f"a budget of {items} candidates answers nothing", remedy="at least 1, such as 300")
        self.seconds, self.items = seconds, items
        self._lock = threading.Lock()
        self._late: dict[str, Future] = {}

    def limit(self, source: str) -> float | None:
        """Timeout of a source in seconds."""
        return self.seconds.get(source) if isinstance(self.seconds, Mapping) else self.seconds

    def _busy(self, source: str) -> bool:
        """Whether the source is still busy with an earlier request that it was late for."""
        with self._lock:
            late = self._late.get(source)
            if late is not None and late.done():
                del self._late[source]
            return source in self._late


@dataclasses.dataclass(frozen=True)
class Retrieved(Candidates):
    """Candidates and how they were retrieved.

    Parameters
    ----------
    seconds: time that each source took.
    left_out: sources that are not in the answer, with the reason; their columns are empty.
    """

    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)


def retrieve(
    sources: Mapping[str, Recommender],
    histories: Histories,
    k: int | Mapping[str, int],
    *,
    exclude: Histories | None = None,
    allowed: np.ndarray | Mask | None = None,
    run: Run | None = None,
    budget: Budget | None = None,
) -> Retrieved:
    """The union of the best items of each source for each history, with the score and the rank by each source.

    Within a request candidates are ordered by reciprocal rank fusion, best first; ties by best rank in any source,
    then by the order of the sources.

    Parameters
    ----------
    sources: fitted recommenders by name, all with the same item codes.
    k: number of items from each source, one number for all or one by name.
    exclude, allowed: as in `Recommender.rank`.
    budget: limits of time and number; None for none.
    """
    run, budget = run or Run(), budget or Budget()
    k_of_source = {name: _requested_k(k, name) for name in sources}
    started = time.perf_counter()
    seconds: dict[str, float] = {}
    left_out: dict[str, str] = {}

    def rank_source(name: str) -> tuple[np.ndarray, np.ndarray]:
        source_started = time.perf_counter()
        ranked = sources[name].rank(histories, k_of_source[name], exclude=exclude, allowed=allowed, run=run)
        seconds[name] = time.perf_counter() - source_started
        return ranked

    if budget.seconds is None:
        lists = {name: rank_source(name) for name in sources}
    else:
        lists = _rank_within_limits(sources, rank_source, budget, started, left_out)
    for name, rows in silent_sources(sources, histories).items():
        if name in lists:
            lists[name][0][rows], lists[name][1][rows] = -1, -np.inf
    seconds_used = {name: seconds[name] for name in sources if name in lists}
    for name, why in left_out.items():
        log.warning("candidates: source %s is left out, %s", name, why)
    offsets, items, scores, ranks = _merge_lists(list(sources), lists, len(histories), budget.items, run)
    return Retrieved(offsets, items, tuple(sources), scores, ranks, seconds_used, left_out)


def silent_sources(sources: Mapping[str, Recommender], histories: Histories) -> dict[str, np.ndarray]:
    """int64, by source: the histories that it names nothing for.

    A source that does not know a user would name what is popular. Where another knows the user by their columns, that
    would be the vote of many for the same popular items, and it is not asked.
    """
    readers = [model for model in sources.values() if model.reads_user_columns]
    if not readers:
        return {}
    rows = np.flatnonzero(histories.positives == 0)
    if not len(rows):
        return {}
    few = histories if len(rows) == len(histories) else histories.take(rows)
    described = np.any([model.knows_columns(few) for model in readers], axis=0)
    if not described.any():
        return {}
    silent = {name: rows[described & ~model.knows(few)] for name, model in sources.items()}
    return {name: rows for name, rows in silent.items() if len(rows)}


def _requested_k(k: int | Mapping[str, int], name: str) -> int:
    if not isinstance(k, Mapping):
        return list_length(k)
    if name not in k:
        raise ConfigError(f"how many items is source {name!r} to name?", remedy=suggest(name, list(k) or ["none"]))
    return list_length(k[name], f"k of {name!r}")


def _rank_within_limits(
    sources: Mapping[str, Recommender],
    rank_source: Callable[[str], tuple[np.ndarray, np.ndarray]],
    budget: Budget,
    started: float,
    left_out: dict[str, str],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The lists of the sources that answer within their limits; all sources run at the same time."""
    pool = ThreadPoolExecutor(max(1, len(sources)), thread_name_prefix="zhiyin-source")
    futures: dict[str, Future] = {}
    for name in sources:
        if budget._busy(name):
            left_out[name] = "it is still at work on an earlier request"
        else:
            futures[name] = pool.submit(rank_source, name)
    pool.shutdown(wait=False)
    lists = {}
    for name in sorted(futures, key=lambda name: _limit_or_infinity(budget.limit(name))):
        limit = budget.limit(name)
        remaining = None if limit is None else max(0.0, started + limit - time.perf_counter())
        if wait([futures[name]], remaining).done:
            lists[name] = futures[name].result()
        else:
            with budget._lock:
                budget._late[name] = futures[name]
            left_out[name] = f"it took longer than {limit:g} s"
    return lists


def _limit_or_infinity(limit: float | None) -> float:
    return float("inf") if limit is None else limit


def _merge_lists(
    names: Sequence[str], lists: Mapping[str, tuple[np.ndarray, np.ndarray]], n: int, limit: int | None, run: Run
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """offsets, items, scores and ranks of the union of lists of (items int32[n, k], scores float32[n, k])."""
    widths = [lists[name][0].shape[1] if name in lists else 0 for name in names]
    begins = np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)
    list_items = np.full((n, begins[-1]), -1, dtype=np.int32)
    list_scores = np.full((n, begins[-1]), np.nan, dtype=np.float32)
    for at, name in enumerate(names):
        if name in lists:
            list_items[:, begins[at] : begins[at + 1]], list_scores[:, begins[at] : begins[at + 1]] = lists[name]
    max_items = np.int64(begins[-1] if limit is None else min(limit, begins[-1]))
    counts = np.zeros(n, dtype=np.int64)
    chunk = max(1, min(256, n // (4 * run.n_threads)))
    for_chunks(lambda start, stop: _count(list_items, start, stop, counts), n, run, chunk)
    offsets = np.concatenate([[0], np.cumsum(np.minimum(counts, max_items))]).astype(np.int64)
    items = np.empty(offsets[-1], dtype=np.int32)
    scores = np.empty((offsets[-1], len(names)), dtype=np.float32)
    ranks = np.empty((offsets[-1], len(names)), dtype=np.int32)
    for_chunks(
        lambda start, stop: merge_lists(list_items, list_scores, begins, start, stop, offsets, items, scores, ranks),
        n,
        run,
        chunk,
    )
    return offsets, items, scores, ranks


@kernel
def _count(list_items, start, stop, counts):
    """Number of distinct items in the lists of each request."""
    slots = table(list_items.shape[1])
    for row in range(start, stop):
        slots[:] = -1
        line = list_items[row]
        size = 0
        for at in range(len(line)):
            if line[at] >= 0:
                slot = find(slots, line, line[at])
                if slots[slot] < 0:
                    slots[slot] = at
                    size += 1
        counts[row] = size


@kernel
def merge_lists(list_items, list_scores, begins, start, stop, offsets, items, scores, ranks):
    """Unite the lists of the requests [start, stop); returns the number of distinct items of the last of them.

    list_items, list_scores: int32[n, w], float32[n, w]; those of source s are the columns begins[s]:begins[s + 1].
    offsets: int64[n + 1], room for the union of each request, whose best are kept where there are more.
    items, scores, ranks: `Candidates`, of m items in all.
    """
    size = 0
    width, n_sources = list_items.shape[1], len(begins) - 1
    slots = table(width)
    member = np.empty(width, dtype=np.int32)  # index of the distinct item at each place
    first = np.empty(width, dtype=np.int32)  # the best rank of each distinct item
    fused = np.empty(width, dtype=np.float64)
    place = np.empty(width, dtype=np.int32)
    for row in range(start, stop):
        slots[:] = -1
        line = list_items[row]
        size = 0
        for source in range(n_sources):
            for at in range(begins[source], begins[source + 1]):
                if line[at] < 0:
                    member[at] = -1
                    continue
                rank = np.int32(at - begins[source])
                slot = find(slots, line, line[at])
                if slots[slot] < 0:
                    slots[slot] = at
                    member[at] = size
                    first[size] = rank
                    fused[size] = 0.0
                    size += 1
                else:
                    member[at] = member[slots[slot]]
                distinct = member[at]
                first[distinct] = min(first[distinct], rank)
                fused[distinct] += reciprocal_rank(rank)
        # Best first; members are numbered source by source, so a stable sort by best rank resolves ties.
        by_rank = np.argsort(first[:size], kind="mergesort")
        order = by_rank[np.argsort(-fused[by_rank], kind="mergesort")]
        n_kept = offsets[row + 1] - offsets[row]
        for at in range(size):
            place[order[at]] = at
        for at in range(offsets[row], offsets[row] + min(n_kept, size)):
            for source in range(n_sources):
                scores[at, source], ranks[at, source] = np.nan, -1
        for source in range(n_sources):
            for at in range(begins[source], begins[source + 1]):
                if member[at] < 0 or place[member[at]] >= n_kept:
                    continue
                to = offsets[row] + place[member[at]]
                items[to] = line[at]
                if ranks[to, source] < 0:
                    ranks[to, source] = at - begins[source]
                    scores[to, source] = list_scores[row, at]
    return size
