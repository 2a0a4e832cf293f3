"""Re-ranking for diversity: MMR, greedy DPP, and calibration to the categories of the user's history.

Each function is a re-ranker: it selects the first k items greedily, keeps the others behind them in their order, and
adds the items that moved up to the trace. Scores are min-max scaled within each request first.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy import sparse

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.params import list_length
from zhiyin.core.run import Run
from zhiyin.data.histories import Histories
from zhiyin.pipeline.expression_values import Value
from zhiyin.pipeline.slate import Slates

# A DPP stops where what an item adds is lost in rounding: everything left is a mixture of what was chosen.
FLAT = 1e-10


@dataclasses.dataclass(frozen=True, eq=False)
class UnitRows:
    """A sparse table with rows of length 1, made once for many lists: CSR float64[n_items, v]."""

    table: sparse.csr_matrix

    @property
    def shape(self) -> tuple[int, int]:
        return self.table.shape

    @classmethod
    def of(cls, table: Any) -> UnitRows:
        if isinstance(table, cls):
            return table
        table = sparse.csr_matrix(table, dtype=np.float64, copy=True)
        table.sum_duplicates()
        sizes = np.diff(table.indptr)
        length = np.sqrt(np.asarray(table.multiply(table).sum(axis=1)).ravel())
        table.data /= np.repeat(np.maximum(length, 1e-300), sizes)
        return cls(table)


# Beyond it, exp(balance / (1 - balance)) of a DPP is beyond float64.
_SCORE_ALONE = 1 - 1 / 650


def mmr(
    slates: Slates, features: np.ndarray | sparse.csr_matrix, k: int, *, balance: float = 0.7, run: Run | None = None
) -> Slates:
    """Maximal marginal relevance: balance · score − (1 − balance) · cosine with the nearest item chosen so far.

    Carbonell & Goldstein, The use of MMR, diversity-based reranking for reordering documents and producing summaries,
    SIGIR 1998, equation 1.

    Parameters
    ----------
    features: float32[n_items, d] or CSR[n_items, f], one row an item code; a row of zeros is similar to nothing.
    balance: from 0 (diversity alone) to 1 (score alone).
    """
    k = _check(slates, features, k, balance)
    chosen = _places(slates, k)
    relevance = relative(slates)
    rows = _feature_rows(features)

    def work(start: int, stop: int) -> None:
        _mmr(start, stop, slates.offsets, slates.items, relevance, *rows, balance, chosen)

    for_chunks(work, len(slates), run or Run(threads=1))
    return _reordered(slates, chosen, "mmr", {"balance": balance})


def dpp(
    slates: Slates, features: np.ndarray | sparse.csr_matrix, k: int, *, balance: float = 0.7, run: Run | None = None
) -> Slates:
    """Greedy MAP inference of a determinantal point process: items of high score whose vectors span a large volume.

    Chen, Zhang & Zhou, Fast greedy MAP inference for determinantal point process to improve recommendation diversity,
    NeurIPS 2018, algorithm 1 (incremental Cholesky, O(k² m)). The kernel is q_i S_ij q_j with S = (1 + cosine) / 2, so
    that opposite items count as different, and q_i = exp(balance / (2 (1 − balance)) · score_i), their equation 20.

    Parameters
    ----------
    features: as in `mmr`.
    balance: from 0 (diversity alone) to 1 (score alone; near 1 the score decides, before the q_i²
        overflow float64).
    """
    k = _check(slates, features, k, balance)
    chosen = _places(slates, k)
    if balance > _SCORE_ALONE:
        _choose_by_score(slates, chosen)
        return _reordered(slates, chosen, "dpp", {"balance": balance})
    quality = np.exp(balance / (2 * (1 - balance)) * relative(slates))
    rows = _feature_rows(features)

    def work(start: int, stop: int) -> None:
        _dpp(start, stop, slates.offsets, slates.items, quality, *rows, chosen)

    for_chunks(work, len(slates), run or Run(threads=1))
    return _reordered(slates, chosen, "dpp", {"balance": balance})


def calibrate(
    slates: Slates,
    categories: sparse.csr_matrix,
    wanted: np.ndarray,
    k: int,
    *,
    balance: float = 0.5,
    smoothing: float = 0.01,
    run: Run | None = None,
) -> Slates:
    """Lists spread over categories as `wanted` says: greedy on balance · Σ score − (1 − balance) · KL(wanted, list).

    Steck, Calibrated recommendations, RecSys 2018, equations 3 to 7: the list's distribution is the mean of its items'
    own, mixed with `smoothing` of what is wanted so that KL is finite.

    Parameters
    ----------
    categories: CSR[n_items, c] of `category_table`: each row sums to 1, or is empty.
    wanted: float[n, c], such as of `category_shares`; a row of zeros leaves its list as it is.
    balance: from 0 (calibration alone) to 1 (score alone).
    """
    k = _check(slates, categories, k, balance)
    wanted = np.ascontiguousarray(np.atleast_2d(wanted), dtype=np.float64)
    if wanted.shape != (len(slates), categories.shape[1]):
        raise DataError(
            f"wanted has the shape {wanted.shape}, not {(len(slates), categories.shape[1])}",
            remedy="one row a request and one column a category",
        )
    if not 0 < smoothing < 1:
        raise ConfigError(f"smoothing = {smoothing} is out of range", remedy="between 0 and 1, such as 0.01")
    table = categories.tocsr()
    total = wanted.sum(axis=1, keepdims=True)
    wanted = np.divide(wanted, total, out=np.zeros_like(wanted), where=total > 0)
    chosen = _places(slates, k)
    relevance = relative(slates)

    def work(start: int, stop: int) -> None:
        _calibrate(start, stop, slates.offsets, slates.items, relevance, table.indptr, table.indices,
                   table.data.astype(np.float64, copy=False), wanted, balance, smoothing, chosen)  # fmt: skip

    for_chunks(work, len(slates), run or Run(threads=1))
    return _reordered(slates, chosen, "calibrate", {"balance": balance})


def category_table(column: Value, n_items: int) -> sparse.csr_matrix:
    """CSR float64[n_items, c] of a column of texts (`Filters.column`): each item's categories, equal parts of 1.

    NULL gives an empty row. Category c is `column.dictionary[c]`.
    """
    if column.dictionary is None:
        raise ConfigError("categories are texts", remedy="name a column of texts, such as genres")
    if len(column) != n_items:
        return sparse.csr_matrix((n_items, len(column.dictionary)))
    offsets = np.arange(n_items + 1) if column.offsets is None else column.offsets
    owner = np.repeat(np.arange(n_items), np.diff(offsets))
    has_category = np.ones(len(owner), bool) if column.valid is None else column.valid[owner]
    shape = (n_items, len(column.dictionary))
    table = sparse.csr_matrix(
        (np.ones(has_category.sum()), (owner[has_category], column.data[has_category])), shape=shape
    )
    table.sum_duplicates()
    table.data[:] = 1
    sizes = np.diff(table.indptr)
    table.data /= np.repeat(np.maximum(sizes, 1), sizes)
    return table


def category_shares(histories: Histories, categories: sparse.csr_matrix) -> np.ndarray:
    """float64[n, c]: how each history is spread over categories, weighted by the weights of its events (Steck, eq. 2).

    Each row sums to 1, or to 0 without an event in a category.
    """
    shares = (histories.matrix(categories.shape[0], "weight").astype(np.float64) @ categories).toarray()
    total = shares.sum(axis=1, keepdims=True)
    return np.divide(shares, total, out=np.zeros_like(shares), where=total > 0)


def relative(slates: Slates) -> np.ndarray:
    """float64[m]: scores min-max scaled within each request; all 1 where they are equal."""
    relevance = slates.scores.astype(np.float64)
    _relative(slates.offsets, relevance)
    return relevance


def _check(slates: Slates, features: Any, k: Any, balance: float) -> int:
    if not 0 <= balance <= 1:
        raise ConfigError(f"balance = {balance} is out of range", remedy="from 0 (variety alone) to 1 (score alone)")
    k = list_length(k)
    if len(slates.items) and int(slates.items.max()) >= features.shape[0]:
        raise DataError(
            f"item {int(slates.items.max())} has no row among {features.shape[0]}", remedy="give one row an item code"
        )
    return k


def _feature_rows(features: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    """Dense vectors, or index pointers, indices, data and width of a sparse table; the other of the two is empty."""
    if isinstance(features, UnitRows) or sparse.issparse(features):
        table = UnitRows.of(features).table
        return np.zeros((table.shape[0], 0), np.float32), table.indptr, table.indices, table.data, table.shape[1]
    vectors = np.ascontiguousarray(features, dtype=np.float32)
    return vectors, np.zeros(1, np.int32), np.zeros(0, np.int32), np.zeros(0), 0


def _places(slates: Slates, k: int) -> np.ndarray:
    """int64[n, k] of rows to be chosen, -1 where none."""
    longest = int(np.diff(slates.offsets).max(initial=0))
    return np.full((len(slates), min(k, longest)), -1, dtype=np.int64)


def _choose_by_score(slates: Slates, chosen: np.ndarray) -> None:
    """Fill `chosen` with each request's rows of the highest scores; of equal ones those that stand first."""
    owners = np.repeat(np.arange(len(slates)), np.diff(slates.offsets))
    order = np.lexsort((-slates.scores.astype(np.float64), owners))
    places = np.arange(len(order)) - slates.offsets[owners[order]]
    within = places < chosen.shape[1]
    chosen[owners[order][within], places[within]] = order[within]


def _reordered(slates: Slates, chosen: np.ndarray, step: str, facts: dict[str, Any]) -> Slates:
    """Slates with the chosen rows first and the others behind them in their order."""
    order = np.empty(len(slates.items), dtype=np.int64)
    _in_order(slates.offsets, chosen, order)
    after, places = slates.take(order), slates.places
    came = order - (np.repeat(slates.offsets[:-1], np.diff(slates.offsets)) if len(slates) > 1 else 0)
    moved = np.flatnonzero(came > places)  # only who moved up; the others made room
    return after.with_trace_event(step, slates.owners[moved], facts, items=after.items[moved], place=places[moved] + 1,
                      came_from=came[moved] + 1)  # fmt: skip


@kernel
def _in_order(offsets, chosen, order):
    """Rows of each request: the chosen ones, then the others in their order."""
    for request in range(len(offsets) - 1):
        first, end = offsets[request], offsets[request + 1]
        placed, to = np.zeros(end - first, dtype=np.bool_), first
        for place in range(chosen.shape[1]):
            row = chosen[request, place]
            if row >= 0:
                order[to], placed[row - first] = row, True
                to += 1
        for row in range(first, end):
            if not placed[row - first]:
                order[to] = row
                to += 1


@kernel
def _relative(offsets, relevance):
    for request in range(len(offsets) - 1):
        low, high = np.inf, -np.inf
        for row in range(offsets[request], offsets[request + 1]):
            low, high = min(low, relevance[row]), max(high, relevance[row])
        span = high - low
        for row in range(offsets[request], offsets[request + 1]):
            relevance[row] = (relevance[row] - low) / span if span > 0 else 1.0


@kernel
def _gathered(items, vectors):
    """float32[m, d]: the candidates' vectors scaled to length 1; zero vectors stay zero."""
    m, d = len(items), vectors.shape[1]
    out = np.empty((m, d), dtype=np.float32)
    for row in range(m):
        length = np.float32(0)
        for j in range(d):
            length += vectors[items[row], j] * vectors[items[row], j]
        by = np.float32(1) / np.sqrt(length) if length > 0 else np.float32(0)
        for j in range(d):
            out[row, j] = vectors[items[row], j] * by
    return out


@kernel
def _dense_cosines(unit, row, out):
    """Cosines of all candidates with one of them."""
    d = unit.shape[1]
    for other in range(len(out)):
        total = np.float32(0)
        for j in range(d):
            total += unit[other, j] * unit[row, j]
        out[other] = total


@kernel
def _sparse_cosines(items, row, indptr, indices, data, spread, out):
    """The same for sparse rows: one is spread out into `spread`, zeros[f], and the others are read against it."""
    for at in range(indptr[items[row]], indptr[items[row] + 1]):
        spread[indices[at]] = data[at]
    for other in range(len(out)):
        total = 0.0
        for at in range(indptr[items[other]], indptr[items[other] + 1]):
            total += spread[indices[at]] * data[at]
        out[other] = total
    for at in range(indptr[items[row]], indptr[items[row] + 1]):
        spread[indices[at]] = 0.0


@kernel
def _best_mmr(relevance, nearest, placed, any_placed, balance):
    best, at = -np.inf, -1
    for row in range(len(relevance)):
        if placed[row]:
            continue
        value = balance * relevance[row] - ((1 - balance) * nearest[row] if any_placed else 0.0)
        if value > best:
            best, at = value, row
    return at


@kernel
def _mmr(start, stop, offsets, items, relevance, vectors, indptr, indices, data, width, balance, chosen):
    spread = np.zeros(width)
    for request in range(start, stop):
        first, end = offsets[request], offsets[request + 1]
        unit = _gathered(items[first:end], vectors)
        nearest, cosine = np.full(end - first, -np.inf), np.empty(end - first)
        placed = np.zeros(end - first, dtype=np.bool_)
        for place in range(min(chosen.shape[1], end - first)):
            at = _best_mmr(relevance[first:end], nearest, placed, place > 0, balance)
            placed[at] = True
            chosen[request, place] = first + at
            if width:
                _sparse_cosines(items[first:end], at, indptr, indices, data, spread, cosine)
            else:
                _dense_cosines(unit, at, cosine)
            for row in range(end - first):
                nearest[row] = max(nearest[row], cosine[row])


@kernel
def _grow(at, place, quality, cosine, factor, left):
    """One step of the incremental Cholesky: the volume that is left to each item after the chosen one."""
    root = np.sqrt(left[at])
    for row in range(len(left)):
        alike = 1.0 if row == at else 0.5 + 0.5 * cosine[row]
        total = quality[at] * quality[row] * alike
        for step in range(place):
            total -= factor[at, step] * factor[row, step]
        factor[row, place] = total / root
    for row in range(len(left)):
        left[row] -= factor[row, place] * factor[row, place]


@kernel
def _largest(left, placed):
    best, at = -np.inf, -1
    for row in range(len(left)):
        if not placed[row] and left[row] > best:
            best, at = left[row], row
    return at


@kernel
def _dpp(start, stop, offsets, items, quality_of_rows, vectors, indptr, indices, data, width, chosen):
    spread = np.zeros(width)
    for request in range(start, stop):
        first, end = offsets[request], offsets[request + 1]
        m = end - first
        unit, quality = _gathered(items[first:end], vectors), quality_of_rows[first:end]
        left, cosine = quality * quality, np.empty(m)
        factor, placed = np.zeros((m, chosen.shape[1])), np.zeros(m, dtype=np.bool_)
        for place in range(min(chosen.shape[1], m)):
            at = _largest(left, placed)
            if left[at] < FLAT:
                break
            placed[at] = True
            chosen[request, place] = first + at
            if width:
                _sparse_cosines(items[first:end], at, indptr, indices, data, spread, cosine)
            else:
                _dense_cosines(unit, at, cosine)
            _grow(at, place, quality, cosine, factor, left)


@kernel
def _calibrate(start, stop, offsets, items, relevance, indptr, indices, data, wanted, balance, smoothing, chosen):
    """KL(p, q) = Σ p ln(p / q), q the smoothed mean of the items' categories.

    An added item rescales all sums alike, whichever it is: that part is computed once for each place, and a candidate
    changes the terms of its own categories only.
    """
    n_categories = wanted.shape[1]
    for request in range(start, stop):
        first, end = offsets[request], offsets[request + 1]
        p = wanted[request]
        if p.sum() == 0:
            continue
        sums, count = np.zeros(n_categories), 0  # of the items chosen that have categories
        placed = np.zeros(end - first, dtype=np.bool_)
        entropy = 0.0
        for c in range(n_categories):
            if p[c] > 0:
                entropy += p[c] * np.log(p[c])
        for place in range(min(chosen.shape[1], end - first)):
            share = (1 - smoothing) / (count + 1)
            grown, still = 0.0, 0.0
            for c in range(n_categories):
                if p[c] > 0:
                    grown += p[c] * np.log(share * sums[c] + smoothing * p[c])
                    old = (1 - smoothing) / count * sums[c] if count > 0 else 0.0
                    still += p[c] * np.log(old + smoothing * p[c])
            best, at = -np.inf, -1
            for row in range(end - first):
                if placed[row]:
                    continue
                item = items[first + row]
                fit = still
                if indptr[item] < indptr[item + 1]:
                    fit = grown
                    for entry in range(indptr[item], indptr[item + 1]):
                        c = indices[entry]
                        if p[c] > 0:
                            fit += p[c] * (np.log(share * (sums[c] + data[entry]) + smoothing * p[c])
                                           - np.log(share * sums[c] + smoothing * p[c]))  # fmt: skip
                value = balance * relevance[first + row] - (1 - balance) * (entropy - fit)
                if value > best:
                    best, at = value, row
            placed[at] = True
            chosen[request, place] = first + at
            item = items[first + at]
            if indptr[item] < indptr[item + 1]:
                count += 1
                for entry in range(indptr[item], indptr[item + 1]):
                    sums[indices[entry]] += data[entry]
