"""Item-to-item tables: the kernels that ItemKNN and Transitions share.

A row of the table is built at a time, in an accumulator as long as the catalogue that stays in cache; only its k
largest entries are kept. No dense items × items array ever exists.
"""

from __future__ import annotations

import functools

import numpy as np
from scipy import sparse

from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.run import Run
from zhiyin.data.histories import Entries, Histories
from zhiyin.models.masked_search import Mask
from zhiyin.models.topk import finish, push
from zhiyin.models.training_context import TrainingContext


def to_csr(neighbors: np.ndarray, values: np.ndarray, n_items: int) -> sparse.csr_matrix:
    """The table as CSR float32[n_items, n_items] from its k largest entries a row (-1 where a row has fewer)."""
    real = neighbors >= 0
    indptr = np.concatenate([[0], np.cumsum(real.sum(axis=1))])
    table = sparse.csr_matrix((values[real], neighbors[real], indptr), shape=(len(neighbors), n_items))
    table.sort_indices()
    return table


def score_by_table(weights: sparse.csr_matrix | Entries, table: sparse.csr_matrix, run: Run) -> np.ndarray:
    """float32[n, n_items]: weights (rows float32[n, n_items]) times the table, dense."""
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
) -> tuple[np.ndarray, np.ndarray]:
    """As `top_k` of `score_by_table`, for few rows: of items that the weights do not lead to, which have a score of 0,
    only as many are looked at as the answer lacks."""
    n = len(weights.indptr) - 1
    items, scores = np.full((n, k), -1, dtype=np.int32), np.full((n, k), -np.inf, dtype=np.float32)
    _reached(
        weights.indptr, weights.indices, weights.data, table.indptr, table.indices, table.data,
        context.priority, context.in_order(mask), mask.bits, *excluded, items, scores,
    )  # fmt: skip
    return items, scores


def rows_of(table: sparse.csr_matrix, items: np.ndarray) -> np.ndarray:
    """Rows of the table as dense scores; what is not in the table is minus infinity: not similar at all."""
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
def _reached(w_indptr, w_items, w_data, t_indptr, t_items, t_data, priority, best_first, allowed, offsets, seen,
             items, scores):  # fmt: skip
    """Sums are kept by hash: a request reaches some thousands of items, whatever the size of the catalogue."""
    for row in range(len(w_indptr) - 1):
        reach = offsets[row + 1] - offsets[row]
        for at in range(w_indptr[row], w_indptr[row + 1]):
            reach += t_indptr[w_items[at] + 1] - t_indptr[w_items[at]]
        size = 64
        while size < 2 * reach:
            size *= 2
        keys, total = np.full(size, -1, dtype=np.int32), np.empty(size, dtype=np.float32)
        for at in range(offsets[row], offsets[row + 1]):
            slot = _slot(keys, seen[at])
            keys[slot], total[slot] = seen[at], -np.inf
        for at in range(w_indptr[row], w_indptr[row + 1]):
            item, weight = w_items[at], w_data[at]
            for to in range(t_indptr[item], t_indptr[item + 1]):
                other = t_items[to]
                if not allowed[other]:
                    continue
                slot = _slot(keys, other)
                if keys[slot] < 0:
                    keys[slot], total[slot] = other, weight * t_data[to]
                else:
                    total[slot] += weight * t_data[to]
        heap_item, heap_score, heap_size = items[row], scores[row], 0
        for slot in range(size):
            if keys[slot] >= 0 and total[slot] > 0:
                heap_size = push(total[slot], keys[slot], heap_size, heap_score, heap_item, priority)
        finish(heap_score, heap_item, heap_size, priority)
        for item in best_first:
            if heap_size == items.shape[1]:
                break
            if allowed[item]:
                slot = _slot(keys, item)
                if keys[slot] < 0 or total[slot] == 0:
                    heap_item[heap_size], heap_score[heap_size] = item, 0
                    heap_size += 1


@kernel
def _slot(keys, item):
    """Where an item stands in an open hash, or is to stand."""
    last = len(keys) - 1
    slot = (np.uint32(item) * np.uint32(2654435769) >> np.uint32(8)) & last
    while keys[slot] >= 0 and keys[slot] != item:
        slot = (slot + 1) & last
    return slot


@kernel
def keep_largest(total, touched, n_touched, neighbors, values):
    """Keep the largest entries of an accumulator and clear it: a heap whose root is the smallest kept.

    Equal values: the lower item code is kept, so that the result does not depend on the order of the rows.
    """
    k, size = len(neighbors), 0
    for place in range(n_touched):
        item = touched[place]
        value = total[item]
        total[item] = 0
        if not value > 0:
            continue
        if size < k:
            at = size
            size += 1
            while at > 0:
                up = (at - 1) >> 1
                if values[up] > value or (values[up] == value and neighbors[up] < item):
                    values[at], neighbors[at] = values[up], neighbors[up]
                    at = up
                else:
                    break
            values[at], neighbors[at] = value, item
        elif value > values[0] or (value == values[0] and item < neighbors[0]):
            at = 0
            while True:
                child = 2 * at + 1
                if child >= k:
                    break
                other = child + 1
                if other < k and (
                    values[other] < values[child]
                    or (values[other] == values[child] and neighbors[other] > neighbors[child])
                ):
                    child = other
                if values[child] < value or (values[child] == value and neighbors[child] > item):
                    values[at], neighbors[at] = values[child], neighbors[child]
                    at = child
                else:
                    break
            values[at], neighbors[at] = value, item


def recent(histories: Histories, last: int, decay: float) -> Entries:
    """Rows of items: the last events of each history, the newest worth 1, each older one `decay` of the next.

    Only events worth more than nothing count; a repeated item keeps its newest place.
    """
    indptr = np.zeros(len(histories) + 1, dtype=np.int32)
    room = int(np.minimum(histories.lengths, last).sum())
    items, weights = np.empty(room, dtype=np.int32), np.empty(room, dtype=np.float32)
    _recent(histories.offsets, histories.items, histories.weights, _powers(last, decay), indptr, items, weights)
    return Entries(indptr, items[: indptr[-1]], weights[: indptr[-1]])


@functools.lru_cache(maxsize=64)
def _powers(last: int, decay: float) -> np.ndarray:
    return np.power(np.float32(decay), np.arange(last)).astype(np.float32)


@kernel
def _recent(offsets, items, weights, powers, indptr, out_items, out_worth):
    end = 0
    for row in range(len(offsets) - 1):
        first, back = end, 0
        for at in range(offsets[row + 1] - 1, offsets[row] - 1, -1):
            if back == len(powers):
                break
            if not weights[at] > 0:
                continue
            item, to = items[at], end  # into its place among those that are there already
            while to > first and out_items[to - 1] >= item:
                to -= 1
            if to == end or out_items[to] != item:
                for moved in range(end, to, -1):
                    out_items[moved], out_worth[moved] = out_items[moved - 1], out_worth[moved - 1]
                out_items[to], out_worth[to] = item, powers[back]
                end += 1
            back += 1
        indptr[row + 1] = end
