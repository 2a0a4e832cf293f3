"""The nearest items of each item, where every event counts one."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.run import Run
from zhiyin.models.topk import push


def top_k_cooccurrence(
    users: sparse.csr_matrix, k: int, shrinkage: float, jaccard: bool, run: Run, label: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """int32[n_items, k] and float32[n_items, k]: the k items most alike by cosine or Jaccard, in no order; -1 and 0
    where fewer share a user. Of equals the item of lower code is kept.

    users: CSR of ones. Items are counted under the rank of their popularity, so that the counters that most events
    meet lie side by side and stay in the nearest cache.
    """
    n_items = users.shape[1]
    items = users.T.tocsr()
    square = np.diff(items.indptr)
    code = np.argsort(-square, kind="stable").astype(np.int32)
    items = items[code]
    ranked = items.T.tocsr()
    square = square[code].astype(np.float32)
    neighbors = np.full((n_items, k), -1, dtype=np.int32)
    values = np.zeros((n_items, k), dtype=np.float32)
    lower_first = np.arange(n_items, 0, -1, dtype=np.int32)

    def work(start: int, stop: int) -> None:
        _count_shared(
            items.indptr, items.indices, ranked.indptr, ranked.indices, square, code, lower_first, jaccard,
            np.float32(shrinkage), start, stop, neighbors, values,
        )  # fmt: skip

    for_chunks(work, n_items, run, chunk=max(1, n_items // (128 * run.n_threads)), label=label)
    return neighbors, values


@kernel
def _count_shared(
    i_indptr, i_users, u_indptr, u_items, square, code, lower_first, jaccard, shrinkage, start, stop, neighbors, values
):
    n_items, k = len(square), neighbors.shape[1]
    total = np.zeros(n_items, dtype=np.int32)
    touched = np.empty(n_items, dtype=np.int32)
    root = np.sqrt(square)
    for item in range(start, stop):
        most = np.int64(0)
        for at in range(i_indptr[item], i_indptr[item + 1]):
            user = i_users[at]
            most += u_indptr[user + 1] - u_indptr[user]
        # To look through all counters is quick where many are set; of a million items few are.
        listed = most < n_items // 4
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
        total[item] = 0
        heap_item, heap_value, size, bar = neighbors[code[item]], values[code[item]], 0, np.float32(0)
        for place in range(count):
            other = np.int64(touched[place]) if listed else np.int64(place)
            if total[other] == 0:
                continue
            dot = np.float32(total[other])
            total[other] = 0
            scale = (square[item] + square[other] - dot if jaccard else root[item] * root[other]) + shrinkage
            if dot < bar * scale:  # the bar is a little low, for rounding
                continue
            size = push(dot / scale, code[other], size, heap_value, heap_item, lower_first)
            if size == k:
                bar = heap_value[0] * np.float32(1 - 1e-6)
