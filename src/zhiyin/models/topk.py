"""The k best items of each row of scores, with items excluded and ties broken the same way every time."""

from __future__ import annotations

import numpy as np

from zhiyin.core.bounded_heap import is_worse, push, replace_worst, sort_best_first
from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.run import Run


def top_k(
    scores: np.ndarray,
    k: int,
    priority: np.ndarray,
    allowed: np.ndarray,
    excluded: tuple[np.ndarray, np.ndarray],
    run: Run,
) -> tuple[np.ndarray, np.ndarray]:
    """Best k items of each row.

    Parameters
    ----------
    scores: float32[n, m]; used as scratch: excluded entries become minus infinity.
    priority: int32[m]; of two equal scores the item of higher priority comes first.
    allowed: bool[m]; only these items are returned.
    excluded: offsets int64[n + 1] and items int32 that each row must not get.

    Returns
    -------
    items int32[n, k] and scores float32[n, k], best first; -1 and minus infinity once nothing is left. A score of
    NaN or minus infinity is never returned.
    """
    n, m = scores.shape
    items = np.full((n, k), -1, dtype=np.int32)
    best = np.full((n, k), -np.inf, dtype=np.float32)
    if k == 0 or m == 0:
        return items, best
    every = bool(allowed.all())
    offsets, seen = excluded

    def work(start: int, stop: int) -> None:
        _top_k(scores, start, stop, priority, allowed, every, offsets, seen, items, best)

    for_chunks(work, n, run, chunk=max(1, min(64, n // (4 * run.n_threads))))
    return items, best


def first_k(
    best_first: np.ndarray,
    scores: np.ndarray,
    k: int,
    allowed: np.ndarray,
    excluded: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """`top_k` of rows that all have the same finite scores, float32[m]; `best_first` has the items in that order."""
    n = len(excluded[0]) - 1
    items = np.full((n, k), -1, dtype=np.int32)
    best = np.full((n, k), -np.inf, dtype=np.float32)
    _first_k(best_first, scores, allowed, *excluded, items, best)
    return items, best


@kernel
def _first_k(best_first, scores, allowed, offsets, seen, items, best):
    k = items.shape[1]
    for row in range(len(items)):
        out = np.sort(seen[offsets[row] : offsets[row + 1]])
        size = 0
        for at in range(len(best_first)):
            if size == k:
                break
            item = best_first[at]
            if not allowed[item]:
                continue
            place = np.searchsorted(out, item)
            if place < len(out) and out[place] == item:
                continue
            items[row, size], best[row, size] = item, scores[item]
            size += 1


@kernel
def _top_k(scores, start, stop, priority, allowed, every, offsets, seen, items, best):
    """Most items do not reach `bar`, the score of the k-th best so far."""
    k, m = items.shape[1], scores.shape[1]
    for row in range(start, stop):
        line = scores[row]
        for at in range(offsets[row], offsets[row + 1]):
            line[seen[at]] = -np.inf
        heap_item, heap_score = items[row], best[row]
        size = 0
        bar = np.float32(-np.inf)
        for item in range(m):
            score = line[item]
            if not score >= bar or score == -np.inf:
                continue
            if not every and not allowed[item]:
                continue
            if size < k:
                size = push(score, item, size, heap_score, heap_item, priority)
                if size == k:
                    bar = heap_score[0]
            elif is_worse(heap_score[0], heap_item[0], score, item, priority):  # as `push` does, without the call
                replace_worst(heap_score, heap_item, k, score, item, priority)
                bar = heap_score[0]
        sort_best_first(heap_score, heap_item, size, priority)
