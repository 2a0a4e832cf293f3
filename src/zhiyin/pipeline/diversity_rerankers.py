"""Re-ranking for diversity: MMR, greedy DPP, and calibration to the categories of the user's history.

Each function is a re-ranker: it selects the first k items greedily and keeps the others behind them in their order.
Scores are min-max scaled within each request first. `variety_kernels` does the work, here and within `list_plan`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from zhiyin.core.array_table import ArrayTable
from zhiyin.core.errors import ConfigError, DataError
from zhiyin.core.parallel import for_chunks
from zhiyin.core.params import list_length
from zhiyin.core.run import Run
from zhiyin.data.histories import Histories
from zhiyin.pipeline import variety_kernels
from zhiyin.pipeline.expression_values import Value
from zhiyin.pipeline.slate import Slates


def feature_table(features: np.ndarray | sparse.csr_matrix) -> ArrayTable:
    """Features of items as kernels read them: float32[n_items, d], or CSR[n_items, v], whose rows get the length 1.

    A row of zeros is similar to nothing.
    """
    table = ArrayTable(variety_kernels.N_SLOTS)
    if not sparse.issparse(features):
        table.put_int(variety_kernels.KIND, variety_kernels.DENSE)
        table.put(variety_kernels.VECTORS, np.asarray(features), np.float32)
        return table
    rows = sparse.csr_matrix(features, dtype=np.float64, copy=True)
    rows.sum_duplicates()
    sizes = np.diff(rows.indptr)
    length = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    rows.data /= np.repeat(np.maximum(length, 1e-300), sizes)
    if (sizes <= 1).all() and (rows.data == 1).all():
        codes = np.full(rows.shape[0], -1, np.int32)
        codes[sizes > 0] = rows.indices
        table.put_int(variety_kernels.KIND, variety_kernels.SINGLE)
        table.put(variety_kernels.CODES, codes, np.int32)
        return table
    return _put_sparse(table, rows)


def table_of_categories(categories: sparse.csr_matrix) -> ArrayTable:
    """CSR of `category_table` as kernels read it."""
    return _put_sparse(ArrayTable(variety_kernels.N_SLOTS), categories)


def _put_sparse(table: ArrayTable, rows: sparse.csr_matrix) -> ArrayTable:
    table.put_int(variety_kernels.KIND, variety_kernels.SPARSE)
    table.put(variety_kernels.STARTS, rows.indptr, np.int32)
    table.put(variety_kernels.COLUMNS, rows.indices, np.int32)
    table.put(variety_kernels.VALUES, rows.data, np.float64)
    table.put_int(variety_kernels.WIDTH, rows.shape[1])
    return table


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
    return _reordered(slates, variety_kernels.MMR, feature_table(features), k, balance, run)


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
    return _reordered(slates, variety_kernels.DPP, feature_table(features), k, balance, run)


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
    total = wanted.sum(axis=1, keepdims=True)
    wanted = np.divide(wanted, total, out=np.zeros_like(wanted), where=total > 0)
    table = table_of_categories(categories.tocsr())
    return _reordered(slates, variety_kernels.CALIBRATE, table, k, balance, run, wanted, smoothing)


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
    shares, table = np.zeros((len(histories), categories.shape[1])), table_of_categories(categories)
    for row in range(len(histories)):
        events = slice(histories.offsets[row], histories.offsets[row + 1])
        items, weights = histories.items[events], histories.weights[events]
        variety_kernels.category_shares_of(items, weights, table.words, shares[row])
    return shares


def _check(slates: Slates, features: Any, k: Any, balance: float) -> int:
    if not 0 <= balance <= 1:
        raise ConfigError(f"balance = {balance} is out of range", remedy="from 0 (variety alone) to 1 (score alone)")
    k = list_length(k)
    if len(slates.items) and int(slates.items.max()) >= features.shape[0]:
        raise DataError(
            f"item {int(slates.items.max())} has no row among {features.shape[0]}", remedy="give one row an item code"
        )
    return k


def _reordered(
    slates: Slates, method: int, features: ArrayTable, k: int, balance: float, run: Run | None,
    wanted: np.ndarray | None = None, smoothing: float = 0.01,
) -> Slates:  # fmt: skip
    """Slates with the chosen rows first and the others behind them in their order."""
    offsets, order = np.asarray(slates.offsets, np.int64), np.empty(len(slates.items), dtype=np.int64)
    wanted = np.zeros((len(slates), 0)) if wanted is None else wanted

    def work(start: int, stop: int) -> None:
        variety_kernels.vary_slates(start, stop, method, balance, smoothing, offsets, slates.items, slates.scores,
                                    features.words, wanted, k, order)  # fmt: skip

    for_chunks(work, len(slates), run or Run(threads=1))
    return slates.take(order)
