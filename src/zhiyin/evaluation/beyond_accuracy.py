"""Beyond-accuracy metrics: coverage, concentration, novelty, diversity, serendipity, popularity bias, calibration.

`lists` is int32[n, k], padded with -1 where fewer than k items remained. Metrics of one user are NaN where
they are not defined (an empty list, an empty history); `significance.bootstrap_interval` leaves NaN out, as
do these averages. `BEYOND_ACCURACY`, at the foot, names the metrics of `evaluate`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy import sparse

from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.run import Run

HEAD_MID_TAIL = ("head", "mid", "tail")


@dataclasses.dataclass(frozen=True)
class EvaluatedLists:
    """Lists of one model at one k, with what is known of their users and items.

    Parameters
    ----------
    lists: int32[n, k], padded with -1. hits: bool[n, k], whether the item is relevant.
    popular_lists: int32[n, k], what plain popularity lists for the same users.
    histories: offsets int64[n + 1] and items of what each user chose before.
    candidates: bool[n_items]. item_counts: float64[n_items], train users of each item; n_users: train users.
    item_groups: CSR [n_items, n_groups], categories or else popularity groups.
    item_vectors: CSR [n_items, n_features], categories or else who had the item.
    diversity_rows: int64[], the rows whose diversity is measured.
    """

    lists: np.ndarray
    hits: np.ndarray
    popular_lists: np.ndarray
    histories: tuple[np.ndarray, np.ndarray]
    candidates: np.ndarray
    item_counts: np.ndarray
    n_users: int
    item_groups: sparse.csr_matrix
    item_vectors: sparse.csr_matrix
    diversity_rows: np.ndarray
    run: Run


def catalogue_coverage(lists: np.ndarray, n_candidates: int) -> float:
    """Coverage = distinct items in all lists / items that could have been recommended.

    Ge, Delgado-Battenfeld & Jannach, Beyond accuracy: evaluating recommender systems by coverage and
    serendipity, RecSys 2010. Grows with the number of users: compare only on the same users.

    >>> catalogue_coverage(np.array([[0, 1], [1, -1]]), 4)
    0.5
    """
    return float(np.count_nonzero(_counts(lists, 0)) / n_candidates)


def gini(lists: np.ndarray, candidates: np.ndarray) -> float:
    """Gini = 1 / (m - 1) · Σ_j (2j - m - 1) p_j, p_j the share of the j-th least recommended item.

    Over the m items where candidates (bool[n_items]) is true, never recommended ones included: 0 when all are
    recommended equally often, 1 when only one is. Shani & Gunawardana, Evaluating recommendation systems,
    2011.
    """
    counts = np.sort(_counts(lists, len(candidates))[candidates])
    m, total = len(counts), counts.sum()
    if m < 2 or not total:
        return float("nan")
    return float(((2 * np.arange(1, m + 1) - m - 1) @ (counts / total)) / (m - 1))


def novelty(lists: np.ndarray, counts: np.ndarray, total: int, run: Run | None = None) -> np.ndarray:
    """Novelty = mean of -log2 p(i) over the list, p(i) = counts[i] / total. float64[n], bits.

    `counts` is the number of train users (or events) with each item, `total` of all of them. An item without
    any is taken to have one. Zhou et al., Solving the apparent diversity-accuracy dilemma of recommender
    systems, PNAS 2010.
    """
    bits = np.log2(total) - np.log2(np.maximum(np.asarray(counts, dtype=np.float64), 1))
    return _means(*_ragged(lists), bits, run or Run())


def intra_list_diversity(lists: np.ndarray, vectors: sparse.csr_matrix, run: Run | None = None) -> np.ndarray:
    """ILD = 1 - mean cosine of the pairs of items in the list. float64[n].

    With v the unit vectors of m items, Σ_{i<j} cos_ij = (‖Σ v_i‖² - m) / 2: a list costs the entries of its
    items and not its pairs. `vectors` is CSR [n_items, n_features]: categories, or who had the item. Items
    without any feature take no part, since nothing is known of their likeness; fewer than two that
    do give NaN. Ziegler et al., Improving recommendation lists through topic diversification, WWW 2005; as a mean:
    Zhang & Hurley, Avoiding monotony, RecSys 2008.
    """
    vectors = sparse.csr_matrix(vectors)
    norms = np.sqrt(np.asarray(vectors.multiply(vectors).sum(axis=1), dtype=np.float64).ravel())
    scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    data = vectors.data.astype(np.float32, copy=False)
    matrix = (vectors.indptr, vectors.indices, data, vectors.shape[1], scale)
    lists = np.ascontiguousarray(lists)
    out = np.empty(len(lists), dtype=np.float64)
    for_chunks(lambda a, b: _diversity(lists, *matrix, a, b, out), len(lists), run or Run())
    return out


def serendipity(lists: np.ndarray, hits: np.ndarray, expected: np.ndarray, run: Run | None = None) -> np.ndarray:
    """Serendipity@k = |{i in list: i relevant and i not in expected}| / k. float64[n].

    `hits` is bool[n, k] (see `ranking.hits_of`); `expected` is int32[n, k], the popularity list each user
    would have been shown instead, seen items left out in the same way. Ge, Delgado-Battenfeld & Jannach,
    RecSys 2010 (the primitive method being popularity); after Murakami, Mori & Orihara, Metrics for
    evaluating the serendipity of recommendation lists, 2008.
    """
    lists, hits, expected = (np.ascontiguousarray(rows) for rows in (lists, hits, expected))
    out = np.empty(len(lists), dtype=np.float64)
    for_chunks(lambda a, b: _surprises(lists, hits, expected, a, b, out), len(lists), run or Run())
    return out


def popularity_lift(
    lists: np.ndarray, offsets: np.ndarray, items: np.ndarray, popularity: np.ndarray, run: Run | None = None
) -> float:
    """PL = GAP(lists) / GAP(histories) - 1, GAP = mean over users of the mean popularity of their items.

    0: as popular as what users chose themselves; 1: twice as popular. Histories are ragged (offsets[n + 1],
    items[m]); `popularity` is [n_items], e.g. train users of each item. Users with an empty list or history
    are left out. Abdollahpouri et al., The connection between popularity bias, calibration, and fairness,
    RecSys 2020.
    """
    popularity, run = np.asarray(popularity, dtype=np.float64), run or Run()
    listed, chosen = _means(*_ragged(lists), popularity, run), _means(offsets, items, popularity, run)
    both = ~(np.isnan(listed) | np.isnan(chosen))
    if not both.any() or not chosen[both].any():
        return float("nan")
    return float(listed[both].mean() / chosen[both].mean() - 1)


def calibration(
    lists: np.ndarray,
    offsets: np.ndarray,
    items: np.ndarray,
    groups: sparse.csr_matrix,
    alpha: float = 0.01,
    run: Run | None = None,
) -> np.ndarray:
    """Miscalibration = KL(p ‖ q̃) = Σ_g p_g ln(p_g / q̃_g), q̃ = (1 - α) q + α p. float64[n].

    0 is perfectly calibrated. p and q are the shares of groups in the user's history and list; an item in
    several groups is split among them in proportion to its row of `groups` (CSR [n_items, n_groups], not
    negative), an item in none takes no part. Steck, Calibrated recommendations, RecSys 2018, eq. 2 to 5 with
    equal weights. See `popularity_groups` for groups of items without categories.
    """
    groups = sparse.csr_matrix(groups, dtype=np.float64)
    totals = np.repeat(np.asarray(groups.sum(axis=1)).ravel(), np.diff(groups.indptr))
    shares = np.divide(groups.data, totals, out=np.zeros_like(groups.data), where=totals > 0)
    matrix = (groups.indptr, groups.indices, shares, groups.shape[1])
    pair = (offsets, items, *_ragged(lists))
    out = np.empty(len(lists), dtype=np.float64)
    for_chunks(lambda a, b: _divergences(*pair, *matrix, alpha, a, b, out), len(lists), run or Run())
    return out


def popularity_groups(counts: np.ndarray) -> sparse.csr_matrix:
    """CSR [n_items, 3], a one in head, mid or tail (`HEAD_MID_TAIL`).

    The most popular items that hold the first 20 % of all events are the head, those beyond the first 80 %
    (and items without events) the tail.

    Abdollahpouri et al., User-centered evaluation of popularity bias in recommender systems, UMAP 2021.
    """
    counts = np.asarray(counts, dtype=np.float64)
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    group = np.empty(len(counts), dtype=np.int64)
    group[order] = np.digitize(before / max(counts.sum(), 1.0), [0.2, 0.8])
    group[counts <= 0] = 2
    rows = np.arange(len(counts))
    return sparse.csr_matrix((np.ones(len(counts), np.float32), (rows, group)), shape=(len(counts), 3))


def _counts(lists: np.ndarray, n_items: int) -> np.ndarray:
    """How often each item was recommended."""
    return np.bincount(lists[lists >= 0], minlength=n_items)


def _ragged(lists: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lists as offsets and items; padding stays in."""
    return np.arange(len(lists) + 1, dtype=np.int64) * lists.shape[1], np.ascontiguousarray(lists).ravel()


def _means(offsets: np.ndarray, items: np.ndarray, values: np.ndarray, run: Run) -> np.ndarray:
    """float64[n]: the mean of values[item] over each row, padding left out; NaN for a row without items."""
    out = np.empty(len(offsets) - 1, dtype=np.float64)
    for_chunks(lambda a, b: _row_means(offsets, items, values, a, b, out), len(out), run)
    return out


@kernel
def _row_means(
    offsets: np.ndarray, items: np.ndarray, values: np.ndarray, start: int, stop: int, out: np.ndarray
) -> None:
    for u in range(start, stop):
        total, n = 0.0, 0
        for at in range(offsets[u], offsets[u + 1]):
            if items[at] >= 0:
                total += values[items[at]]
                n += 1
        out[u] = total / n if n else np.nan


@kernel
def _diversity(
    lists: np.ndarray,
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
    n_features: int,
    scale: np.ndarray,
    start: int,
    stop: int,
    out: np.ndarray,
) -> None:
    """The sum of unit vectors in a dense accumulator, which the second walk measures and clears."""
    total = np.zeros(n_features, dtype=np.float64)
    for u in range(start, stop):
        n = 0
        for item in lists[u]:
            if item >= 0 and scale[item] > 0:
                n += 1
                for at in range(indptr[item], indptr[item + 1]):
                    total[indices[at]] += data[at] * scale[item]
        square = 0.0
        for item in lists[u]:
            if item >= 0:
                for at in range(indptr[item], indptr[item + 1]):
                    square += total[indices[at]] ** 2
                    total[indices[at]] = 0.0
        out[u] = 1 - (square - n) / (n * (n - 1)) if n > 1 else np.nan


@kernel
def _surprises(
    lists: np.ndarray, hits: np.ndarray, expected: np.ndarray, start: int, stop: int, out: np.ndarray
) -> None:
    k = lists.shape[1]
    for u in range(start, stop):
        n = 0
        for r in range(k):
            if hits[u, r]:
                is_item = False
                for other in expected[u]:
                    is_item = is_item or other == lists[u, r]
                n += not is_item
        out[u] = n / k


@kernel
def _divergences(
    offsets: np.ndarray,
    items: np.ndarray,
    list_offsets: np.ndarray,
    list_items: np.ndarray,
    indptr: np.ndarray,
    indices: np.ndarray,
    shares: np.ndarray,
    n_groups: int,
    alpha: float,
    start: int,
    stop: int,
    out: np.ndarray,
) -> None:
    p, q = np.zeros(n_groups), np.zeros(n_groups)
    for u in range(start, stop):
        p[:] = 0.0
        q[:] = 0.0
        for at in range(offsets[u], offsets[u + 1]):
            for entry in range(indptr[items[at]], indptr[items[at] + 1]):
                p[indices[entry]] += shares[entry]
        for at in range(list_offsets[u], list_offsets[u + 1]):
            if list_items[at] >= 0:
                for entry in range(indptr[list_items[at]], indptr[list_items[at] + 1]):
                    q[indices[entry]] += shares[entry]
        in_history, in_list = p.sum(), q.sum()
        if in_history == 0 or in_list == 0:
            out[u] = np.nan
            continue
        divergence = 0.0
        for group in range(n_groups):
            if p[group] > 0:
                wanted = p[group] / in_history
                divergence += wanted * np.log(wanted / ((1 - alpha) * q[group] / in_list + alpha * wanted))
        out[u] = divergence


def _diversity_of_sample(of: EvaluatedLists) -> np.ndarray:
    """float64[n]: `intra_list_diversity` of `diversity_rows`, NaN elsewhere."""
    diversity = np.full(len(of.lists), np.nan)
    diversity[of.diversity_rows] = intra_list_diversity(of.lists[of.diversity_rows], of.item_vectors, of.run)
    return diversity


# Metrics beyond accuracy, in the order of tables. A function gives float64[n], one value a user, or one figure of all
# lists; a new metric is named here.
BEYOND_ACCURACY: dict[str, Callable[[EvaluatedLists], np.ndarray | float]] = {
    "coverage": lambda of: catalogue_coverage(of.lists, int(of.candidates.sum())),
    "gini": lambda of: gini(of.lists, of.candidates),
    "novelty": lambda of: novelty(of.lists, of.item_counts, of.n_users, of.run),
    "diversity": _diversity_of_sample,
    "serendipity": lambda of: serendipity(of.lists, of.hits, of.popular_lists, of.run),
    "popularity_lift": lambda of: popularity_lift(of.lists, *of.histories, of.item_counts, of.run),
    "calibration": lambda of: calibration(of.lists, *of.histories, of.item_groups, run=of.run),
}
# Those that are computed at the first k alone.
FIRST_K_ONLY = frozenset({"calibration"})
