"""Sparse item-to-item matrices ("tables"): kernels to build them and to score by them.

A table is built row by row in a dense accumulator of n_items numbers, of which the k largest go into the table. No
dense items × items array exists.
"""

from __future__ import annotations

import functools

import numpy as np
from scipy import sparse

from zhiyin.core.bounded_heap import LOWER_CODE_FIRST, is_worse, push, replace_worst
from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.run import Run
from zhiyin.data.histories import Entries, Histories
from zhiyin.models.masked_search import Mask
from zhiyin.models.table_search import search_table
from zhiyin.models.training_context import TrainingContext


def to_csr(neighbors: np.ndarray, values: np.ndarray, n_items: int) -> sparse.csr_matrix:
    """CSR float32[n, n_items] of the table, from the k largest entries of each row; neighbors -1 for no entry."""
    real = neighbors >= 0
    indptr = np.concatenate([[0], np.cumsum(real.sum(axis=1))])
    table = sparse.csr_matrix((values[real], neighbors[real], indptr), shape=(len(neighbors), n_items))
    table.sort_indices()
    return table


def score_by_table(weights: sparse.csr_matrix | Entries, table: sparse.csr_matrix, run: Run) -> np.ndarray:
    """float32[n, n_items]: the product of weights (rows over n_items) and the table, dense."""
    scores = np.zeros((len(weights.indptr) - 1, table.shape[1]), dtype=np.float32)

    def work(start: int, stop: int) -> None:
        _push(
            weights.indptr, weights.indices, weights.data,
            table.indptr, table.indices, table.data, start, stop, scores,
        )  # fmt: skip

    for_chunks(work, len(scores), run)
    return scores


def top_by_table(
    weights: sparse.csr_matrix | Entries,
    table: sparse.csr_matrix,
    k: int,
    context: TrainingContext,
    mask: Mask,
    excluded: tuple[np.ndarray, np.ndarray],
    run: Run,
) -> tuple[np.ndarray, np.ndarray]:
    """The result of `top_k` of `score_by_table` without an array of length n_items; see `table_search`."""
    n = len(weights.indptr) - 1
    items, scores = np.empty((n, k), dtype=np.int32), np.empty((n, k), dtype=np.float32)
    rows = mask.rows if mask.is_sparse else np.zeros(0, np.int32)

    def work(start: int, stop: int) -> None:
        _top_by_table(
            weights.indptr, weights.indices, weights.data, table.indptr, table.indices, table.data, mask.bits, rows,
            mask.is_sparse, context.priority, context.best_first, *excluded, start, stop, items, scores,
        )  # fmt: skip

    for_chunks(work, n, run)
    return items, scores


def rows_of(table: sparse.csr_matrix, items: np.ndarray) -> np.ndarray:
    """Rows of the table, dense float32[n, n_items]; minus infinity for entries that are not stored."""
    dense = np.full((len(items), table.shape[1]), -np.inf, dtype=np.float32)
    picked = table[items].tocoo()
    dense[picked.row, picked.col] = picked.data
    return dense


def row_of(table: sparse.csr_matrix, item: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes int32[m] and scores float32[m] of a row of the table, without the item itself."""
    begin, end = table.indptr[item : item + 2]
    codes = table.indices[begin:end].astype(np.int32)
    others = codes != item
    return codes[others], table.data[begin:end][others]


@kernel
def _push(w_indptr, w_items, w_data, t_indptr, t_items, t_data, start, stop, scores):
    for row in range(start, stop):
        line = scores[row]
        for at in range(w_indptr[row], w_indptr[row + 1]):
            item, weight = w_items[at], w_data[at]
            for to in range(t_indptr[item], t_indptr[item + 1]):
                line[t_items[to]] += weight * t_data[to]


@kernel
def _top_by_table(
    w_indptr, w_items, w_data, t_indptr, t_items, t_data, bits, mask_rows, sparse_mask, priority, popular, offsets,
    excluded, start, stop, items, scores,
):  # fmt: skip
    for row in range(start, stop):
        begin, end = w_indptr[row], w_indptr[row + 1]
        search_table(
            w_items[begin:end], w_data[begin:end], end - begin, t_indptr, t_items, t_data, bits, mask_rows, sparse_mask,
            np.sort(excluded[offsets[row] : offsets[row + 1]]), priority, popular, items[row], scores[row],
        )  # fmt: skip


@kernel
def keep_largest(total, touched, n_touched, neighbors, values):
    """The largest positive entries of an accumulator, unordered, into neighbors and values; clears the accumulator.

    Of equal values the lower item code is kept, so that the result does not depend on the order of `touched`.

    Parameters
    ----------
    total: float32[n_items], the accumulator.
    touched: int32, of which the first n_touched are the items with an entry.
    neighbors: int32[k], filled with -1.
    values: float32[k].
    """
    k, size = len(neighbors), 0
    bar = np.float32(0)
    for place in range(n_touched):
        item = touched[place]
        value = total[item]
        total[item] = 0
        if not value > 0 or value < bar:
            continue
        if size < k:
            size = push(value, item, size, values, neighbors, LOWER_CODE_FIRST)
        elif is_worse(values[0], neighbors[0], value, item, LOWER_CODE_FIRST):
            replace_worst(values, neighbors, k, value, item, LOWER_CODE_FIRST)
        if size == k:
            bar = values[0]


def recent(histories: Histories, last: int, decay: float) -> Entries:
    """Rows of item weights: the newest event of each history has weight 1, each older one `decay` times the next.

    Only the `last` newest events of positive weight count; a repeated item has the weight of its newest event.
    """
    indptr = np.zeros(len(histories) + 1, dtype=np.int32)
    capacity = int(np.minimum(histories.lengths, last).sum())
    items, weights = np.empty(capacity, dtype=np.int32), np.empty(capacity, dtype=np.float32)
    _recent(histories.offsets, histories.items, histories.weights, powers(last, decay), indptr, items, weights)
    return Entries(indptr, items[: indptr[-1]], weights[: indptr[-1]])


@functools.lru_cache(maxsize=64)
def powers(last: int, decay: float) -> np.ndarray:
    """float32[last]: weights of the events of a history, the newest first."""
    return np.power(np.float32(decay), np.arange(last)).astype(np.float32)


@kernel
def recent_entries(items, weights, powers, out_items, out_weights):
    """A row of `recent`: of one history, into arrays as long as `powers` or the history; returns their length."""
    end, back = 0, 0
    for at in range(len(items) - 1, -1, -1):
        if back == len(powers):
            break
        if not weights[at] > 0:
            continue
        item, to = items[at], end  # insertion sort by item code
        while to > 0 and out_items[to - 1] >= item:
            to -= 1
        if to == end or out_items[to] != item:
            for moved in range(end, to, -1):
                out_items[moved], out_weights[moved] = out_items[moved - 1], out_weights[moved - 1]
            out_items[to], out_weights[to] = item, powers[back]
            end += 1
        back += 1
    return end


@kernel
def _recent(offsets, items, weights, powers, indptr, out_items, out_weights):
    for row in range(len(offsets) - 1):
        first, begin, end = indptr[row], offsets[row], offsets[row + 1]
        indptr[row + 1] = first + recent_entries(
            items[begin:end], weights[begin:end], powers, out_items[first:], out_weights[first:]
        )
