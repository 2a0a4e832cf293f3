"""Top-k item-to-item similarities from co-occurrence counts, where every event counts one."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from zhiyin.core.bounded_heap import LOWER_CODE_FIRST, push
from zhiyin.core.parallel import kernel
from zhiyin.core.run import Run
from zhiyin.models.row_computation import BlockSums, RowComputation, table_outputs


def top_k_cooccurrence(
    users: sparse.csr_matrix, k: int, shrinkage: float, jaccard: bool, run: Run, label: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """The k items most similar to each item by cosine or Jaccard similarity.

    Parameters
    ----------
    users: CSR users × items of ones.
    k: number of items to return for each item.
    shrinkage: added to the denominator.
    jaccard: Jaccard similarity instead of cosine.

    Returns
    -------
    items int32[n_items, k] and similarities float32[n_items, k], unordered; -1 and 0 where fewer items share a user.
    Of equal similarities the item of lower code is returned.
    """
    rows, code = cooccurrence_rows(users, k, shrinkage, jaccard)
    neighbors, values = rows.run(run, max(1, rows.n_rows // (128 * run.n_threads)), label)
    return by_code(neighbors, values, code)


def cooccurrence_rows(
    users: sparse.csr_matrix, k: int, shrinkage: float, jaccard: bool
) -> tuple[RowComputation, np.ndarray]:
    """The computation of `top_k_cooccurrence`, and the item code of each of its rows.

    Items are counted under their popularity rank, so that the counters most often incremented are adjacent and stay in
    the first-level cache.
    """
    items = users.T.tocsr()
    square = np.diff(items.indptr)
    code = popularity_order(square)
    items = items[code]
    ranked = items.T.tocsr()
    square = square[code].astype(np.float32)
    inputs = (items.indptr, items.indices, ranked.indptr, ranked.indices, square, code)
    settings = (jaccard, float(shrinkage))
    cost = square.astype(np.float64) + 1
    return RowComputation(users.shape[1], inputs, settings, _count_rows, table_outputs(k), cost), code


def popularity_order(counts: np.ndarray) -> np.ndarray:
    """int32[n_items]: the item codes, the most popular first. counts: integers[n_items]."""
    return np.argsort(-counts, kind="stable").astype(np.int32)


def cooccurrence_sums(counts: np.ndarray, k: int, shrinkage: float, jaccard: bool) -> tuple[BlockSums, np.ndarray]:
    """`cooccurrence_rows` by blocks of users, whose items are numbered by `popularity_order`.

    Parameters
    ----------
    counts: int64[n_items], the number of users of each item.
    """
    code = popularity_order(counts)
    square = counts[code].astype(np.float32)
    settings = (jaccard, float(shrinkage))
    cost = square.astype(np.float64) + 1
    return BlockSums(
        len(counts), np.int32, _add_block, (square, code), settings, _nearest_rows, table_outputs(k), cost
    ), code


def by_code(neighbors: np.ndarray, values: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that stand in another order, by item code; code: int32[n], the item of each row."""
    order = np.empty_like(code)
    order[code] = np.arange(len(code), dtype=code.dtype)
    return neighbors[order], values[order]


def _count_rows(
    inputs: tuple[np.ndarray, ...], settings: tuple[Any, ...], start: int, stop: int, outputs: tuple[np.ndarray, ...]
) -> None:
    jaccard, shrinkage = settings
    _count_shared(*inputs, jaccard, np.float32(shrinkage), start, stop, *outputs)


@kernel
def _count_shared(
    i_indptr, i_users, u_indptr, u_items, square, code, jaccard, shrinkage, start, stop, neighbors, values
):
    n_items = len(square)
    total = np.zeros(n_items, dtype=np.int32)
    touched = np.empty(n_items, dtype=np.int32)
    root = np.sqrt(square)
    for item in range(start, stop):
        upper_bound = np.int64(0)
        for at in range(i_indptr[item], i_indptr[item + 1]):
            user = i_users[at]
            upper_bound += u_indptr[user + 1] - u_indptr[user]
        # A scan of all counters is faster than a list of the touched ones where many of them are set.
        listed = upper_bound < n_items // 4
        count = np.int64(0) if listed else n_items
        for at in range(i_indptr[item], i_indptr[item + 1]):
            user = i_users[at]
            if listed:
                for to in range(u_indptr[user], u_indptr[user + 1]):
                    other = u_items[to]
                    if total[other] == 0:
                        touched[count] = other
                        count += 1
                    total[other] += 1
            else:
                for to in range(u_indptr[user], u_indptr[user + 1]):
                    total[u_items[to]] += 1
        _nearest(
            total, touched, count, listed, item, square, root, code, jaccard, shrinkage,
            neighbors[item - start], values[item - start],
        )  # fmt: skip


@kernel
def _nearest(total, touched, count, listed, item, square, root, code, jaccard, shrinkage, heap_item, heap_value):
    """The largest similarities of an item into a heap, from the numbers of users that it shares with others, which are
    set to zero: those of the first `count` others of `touched`, or of all, unless they are listed."""
    k, size, bar = len(heap_item), 0, np.float32(0)
    total[item] = 0
    for place in range(count):
        other = np.int64(touched[place]) if listed else np.int64(place)
        if total[other] == 0:
            continue
        dot = np.float32(total[other])
        total[other] = 0
        scale = (square[item] + square[other] - dot if jaccard else root[item] * root[other]) + shrinkage
        if dot < bar * scale:  # `bar` has a margin for rounding
            continue
        size = push(dot / scale, code[other], size, heap_value, heap_item, LOWER_CODE_FIRST)
        if size == k:
            bar = heap_value[0] * np.float32(1 - 1e-6)


def _add_block(block: tuple[np.ndarray, ...], start: int, stop: int, totals: np.ndarray) -> None:
    i_indptr, i_users, _, u_indptr, u_items, _ = block
    _add_counts(i_indptr, i_users, u_indptr, u_items, start, stop, totals)


@kernel
def _add_counts(i_indptr, i_users, u_indptr, u_items, start, stop, totals):
    """Add the numbers of users of a block that the items start..stop share with each item."""
    for item in range(start, stop):
        for at in range(i_indptr[item], i_indptr[item + 1]):
            user = i_users[at]
            for to in range(u_indptr[user], u_indptr[user + 1]):
                totals[item - start, u_items[to]] += 1


def _nearest_rows(
    inputs: tuple[np.ndarray, ...],
    settings: tuple[Any, ...],
    start: int,
    stop: int,
    totals: np.ndarray,
    outputs: tuple[np.ndarray, ...],
) -> None:
    jaccard, shrinkage = settings
    _nearest_of_all(totals, *inputs, jaccard, np.float32(shrinkage), start, stop, *outputs)


@kernel
def _nearest_of_all(totals, square, code, jaccard, shrinkage, start, stop, neighbors, values):
    root = np.sqrt(square)
    for item in range(start, stop):
        _nearest(
            totals[item - start], code, len(square), False, item, square, root, code, jaccard, shrinkage,
            neighbors[item - start], values[item - start],
        )  # fmt: skip
