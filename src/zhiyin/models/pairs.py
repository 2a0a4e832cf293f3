"""Item-to-item tables: the kernels that ItemKNN and Transitions share.

A row of the table is built at a time, in an accumulator as long as the catalogue that stays in cache; only its k
largest entries are kept. No dense items × items array ever exists.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.run import Run
from zhiyin.data.histories import Histories


def to_csr(neighbors: np.ndarray, values: np.ndarray, n_items: int) -> sparse.csr_matrix:
    """The table as CSR float32[n_items, n_items] from its k largest entries a row (-1 where a row has fewer)."""
    real = neighbors >= 0
    indptr = np.concatenate([[0], np.cumsum(real.sum(axis=1))])
    table = sparse.csr_matrix((values[real], neighbors[real], indptr), shape=(len(neighbors), n_items))
    table.sort_indices()
    return table


def score_by_table(weights: sparse.csr_matrix, table: sparse.csr_matrix, run: Run) -> np.ndarray:
    """float32[n, n_items]: weights (CSR float32[n, n_items]) times the table, dense."""
    scores = np.zeros((weights.shape[0], table.shape[1]), dtype=np.float32)

    def work(start: int, stop: int) -> None:
        _push(
            weights.indptr, weights.indices, weights.data,
            table.indptr, table.indices, table.data, start, stop, scores,
        )  # fmt: skip

    for_chunks(work, len(scores), run)
    return scores


def rows_of(table: sparse.csr_matrix, items: np.ndarray) -> np.ndarray:
    """Rows of the table as dense scores; what is not in the table is minus infinity: not similar at all."""
    dense = np.full((len(items), table.shape[1]), -np.inf, dtype=np.float32)
    picked = table[items].tocoo()
    dense[picked.row, picked.col] = picked.data
    return dense


@kernel
def _push(w_indptr, w_items, w_data, t_indptr, t_items, t_data, start, stop, scores):
    for row in range(start, stop):
        line = scores[row]
        for at in range(w_indptr[row], w_indptr[row + 1]):
            item, weight = w_items[at], w_data[at]
            for to in range(t_indptr[item], t_indptr[item + 1]):
                line[t_items[to]] += weight * t_data[to]


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


def recent(histories: Histories, last: int, decay: float) -> sparse.csr_matrix:
    """CSR float32[n, items]: the last events of each history, the newest worth 1, each older one `decay` of the next.

    Only events worth more than nothing count; a repeated item keeps its newest place. Shape[1] is one more than the
    largest item code.
    """
    owner = np.repeat(np.arange(len(histories)), histories.lengths)
    positive = histories.weights > 0
    owner, items = owner[positive], histories.items[positive]
    counts = np.bincount(owner, minlength=len(histories))
    ends = np.cumsum(counts)
    back = ends[owner] - 1 - np.arange(len(items))
    kept = back < last
    worth = np.power(np.float32(decay), back[kept]).astype(np.float32)
    width = int(items.max()) + 1 if len(items) else 1
    table = sparse.coo_matrix((worth, (owner[kept], items[kept])), shape=(len(histories), width))
    order = np.lexsort((-worth, table.col, table.row))
    row, col, data = table.row[order], table.col[order], table.data[order]
    first = np.ones(len(row), dtype=bool)
    first[1:] = (row[1:] != row[:-1]) | (col[1:] != col[:-1])
    return sparse.csr_matrix((data[first], (row[first], col[first])), shape=table.shape)
