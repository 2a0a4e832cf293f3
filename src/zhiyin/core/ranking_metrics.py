"""Accuracy of ranked lists. One value a user, so that intervals and paired tests can be made of them.

All take `hits: bool[n, K]` (hits[u, r]: the item at rank r + 1 is relevant), `relevant: int[n]` (|R|, the
number of relevant items of each user, at least 1) and `k` <= K. A list shorter than k is a list whose last
places are misses.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.params import whole_number
from zhiyin.core.run import Run


def recall(hits: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """Recall@k = hits in the first k / |R|. float64[n]. Over |R| and not min(k, |R|), whatever k.

    >>> recall(np.array([[True, False, True]]), np.array([4]), k=3).tolist()
    [0.5]
    """
    return _first(hits, k).sum(axis=1) / relevant


def precision(hits: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """Precision@k = hits in the first k / k. float64[n]. `relevant` is not used."""
    first = _first(hits, k)
    return first.sum(axis=1) / first.shape[1]


def hit_rate(hits: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """HitRate@k = 1 if any of the first k is relevant, else 0; also called Success@k. float64[n]."""
    return np.where(_first(hits, k).any(axis=1), 1.0, 0.0)


def ndcg(hits: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """NDCG@k = Σ_{r<=k} hit_r / log2(r + 1), over the same sum of an ideal list. float64[n].

    Binary gain; the ideal list begins with min(k, |R|) hits. Järvelin & Kekäläinen, Cumulated gain-based
    evaluation of IR techniques, TOIS 2002.
    """
    first = _first(hits, k)
    k = first.shape[1]
    discount = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discount)
    return first @ discount / ideal[np.minimum(relevant, k) - 1]


def ap(hits: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """AP@k = 1 / min(k, |R|) · Σ_{r<=k} hit_r · Precision@r; its mean over users is MAP@k. float64[n].

    Over min(k, |R|), so that a perfect list scores 1 at every k. trec_eval's map_cut divides by |R|: the same
    whenever |R| <= k, larger here otherwise.
    """
    first = _first(hits, k)
    k = first.shape[1]
    precisions = np.cumsum(first, axis=1) / np.arange(1, k + 1)
    return (precisions * first).sum(axis=1) / np.minimum(relevant, k)


def rr(hits: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """RR@k = 1 / rank of the first hit, 0 if the first k hold none; its mean is MRR@k. float64[n]."""
    first = _first(hits, k)
    return np.where(first.any(axis=1), 1 / (1 + first.argmax(axis=1)), 0.0)


def hits_of(
    lists: np.ndarray, truth_offsets: np.ndarray, truth_items: np.ndarray, run: Run | None = None
) -> np.ndarray:
    """bool[n, K]: whether lists[u, r] is among truth_items[truth_offsets[u]:truth_offsets[u + 1]].

    `lists` is int32[n, K], padded with -1, no item twice in a row; truth items are sorted within each user.
    """
    lists = np.ascontiguousarray(lists)
    hits = np.zeros(lists.shape, dtype=np.bool_)
    for_chunks(lambda a, b: _hits(lists, truth_offsets, truth_items, a, b, hits), len(lists), run or Run())
    return hits


@kernel
def _hits(lists: np.ndarray, offsets: np.ndarray, truth: np.ndarray, start: int, stop: int, hits: np.ndarray) -> None:
    """Binary search of each listed item in its user's sorted truth."""
    for u in range(start, stop):
        begin, end = offsets[u], offsets[u + 1]
        for r in range(lists.shape[1]):
            item = lists[u, r]
            low, high = begin, end
            while low < high:
                middle = (low + high) // 2
                if truth[middle] < item:
                    low = middle + 1
                else:
                    high = middle
            hits[u, r] = item >= 0 and low < end and truth[low] == item


def _first(hits: np.ndarray, k: int) -> np.ndarray:
    """The first k columns."""
    return hits[:, : whole_number(k, "k", at_most=hits.shape[1])]


# Ranking metrics by the name that tables and settings show; a new one is named here.
RANKING: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "recall": recall,
    "precision": precision,
    "hit_rate": hit_rate,
    "ndcg": ndcg,
    "map": ap,
    "mrr": rr,
}
