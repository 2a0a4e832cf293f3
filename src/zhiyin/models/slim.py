"""SLIM: each item as a sparse sum of others, found by regression."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import sparse

from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.models.neighbors import TableRecommender
from zhiyin.models.pairs import keep_largest


@dataclasses.dataclass
class SLIM(TableRecommender):
    """Sparse linear method (Ning & Karypis, ICDM 2011, eq. 4), and fsSLIM where `candidates` is above 0.

    With x_j the column of item j of the binary users × items matrix X, its weights are

        w_j = argmin 1/2 |x_j - X w|² + l2 / 2 |w|² + l1 |w|₁   over w >= 0 with w_jj = 0,

    and score(u) = x_u W. Coordinate descent walks over the items that share users with j, all others having weight 0:
    nothing in X is below 0, so an item whose inner product with x_j is at most l1 never enters. The gradient comes
    from the residual over users, so no items × items matrix exists and any catalogue fits. `candidates`: only that
    many items, those of largest cosine with j, may have weight.
    """

    l1: float = param(1.0, "L1 penalty; more for fewer items with weight", at_least=0, tune=(0.05, 20.0), log=True)
    l2: float = param(10.0, "L2 penalty; more for smaller weights", at_least=0, tune=(0.1, 200.0), log=True)
    candidates: int = param(0, "items that may have weight, by cosine; 0: all", at_least=0, tune=(0, 500))
    sweeps: int = param(100, "most passes over an item's coordinates", at_least=1, at_most=10_000)
    tolerance: float = param(1e-4, "a pass that moves no weight by more is the last", at_least=1e-9, at_most=1)

    def _fit(self, data: Dataset, run: Run) -> None:
        n_items = data.n_items
        users = data.matrix("binary")
        items = users.T.tocsr()
        most = min(self.candidates or n_items, n_items)
        found: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

        def work(start: int, stop: int) -> None:
            found[start] = _regress(
                items.indptr, items.indices, users.indptr, users.indices, self.l1, self.l2, most, self.sweeps,
                self.tolerance, start, stop,
            )  # fmt: skip

        for_chunks(work, n_items, run, label="SLIM")
        counts, entered, weights = (
            np.concatenate(part) for part in zip(*(found[start] for start in sorted(found)), strict=True)
        )
        into = np.repeat(np.arange(n_items), counts)
        table = sparse.csr_matrix((weights, (entered, into)), shape=(n_items, n_items), dtype=np.float32)
        table.sort_indices()
        self.similarities_ = table  # type: ignore[misc]


@kernel
def _regress(i_indptr, i_users, u_indptr, u_items, l1, l2, most, sweeps, tolerance, start, stop):
    """For items start..stop: how many have weight, which (int32) and what weight (float32)."""
    n_items, n_users = len(i_indptr) - 1, len(u_indptr) - 1
    shared = np.zeros(n_items, dtype=np.float32)
    touched = np.empty(n_items, dtype=np.int32)
    residual = np.zeros(n_users, dtype=np.float64)
    counts = np.zeros(stop - start, dtype=np.int64)
    entered, weights, size = np.empty(1024, dtype=np.int32), np.empty(1024, dtype=np.float32), 0
    for target in range(start, stop):
        n_touched = 0
        for at in range(i_indptr[target], i_indptr[target + 1]):
            user = i_users[at]
            residual[user] = 1
            for to in range(u_indptr[user], u_indptr[user + 1]):
                other = u_items[to]
                if shared[other] == 0:
                    touched[n_touched] = other
                    n_touched += 1
                shared[other] += 1
        shared[target] = 0
        reach = 0
        for place in range(n_touched):
            other = touched[place]
            if shared[other] > l1:
                shared[other] /= np.sqrt(np.float32(i_indptr[other + 1] - i_indptr[other]))
                touched[reach] = other
                reach += 1
            else:
                shared[other] = 0
        k = min(most, reach)
        items, alike = np.full(k, -1, dtype=np.int32), np.zeros(k, dtype=np.float32)
        if k > 0:
            keep_largest(shared, touched, reach, items, alike)
        items = items[np.argsort(-alike, kind="mergesort")]
        w = np.zeros(k, dtype=np.float64)
        _descend(i_indptr, i_users, l1, l2, sweeps, tolerance, items, w, residual)
        for place in range(k):
            if w[place] > 0:
                if size == len(entered):
                    entered = np.concatenate((entered, np.empty(size, dtype=np.int32)))
                    weights = np.concatenate((weights, np.empty(size, dtype=np.float32)))
                entered[size], weights[size] = items[place], w[place]
                size += 1
                counts[target - start] += 1
        for at in range(i_indptr[target], i_indptr[target + 1]):
            residual[i_users[at]] = 0
        for place in range(k):
            for at in range(i_indptr[items[place]], i_indptr[items[place] + 1]):
                residual[i_users[at]] = 0
    return counts, entered[:size].copy(), weights[:size].copy()


@kernel
def _descend(i_indptr, i_users, l1, l2, sweeps, tolerance, items, w, residual):
    """Coordinate descent: a pass over all coordinates, then over those with weight until they rest, and again."""
    whole = True
    for _ in range(sweeps):
        moved = 0.0
        for place in range(len(items)):
            old = w[place]
            if old == 0 and not whole:
                continue
            begin, end = i_indptr[items[place]], i_indptr[items[place] + 1]
            slope = 0.0
            for at in range(begin, end):
                slope += residual[i_users[at]]
            new = max(0.0, slope + (end - begin) * old - l1) / (end - begin + l2)
            change = new - old
            if change != 0:
                w[place] = new
                moved = max(moved, abs(change))
                for at in range(begin, end):
                    residual[i_users[at]] -= change
        if moved <= tolerance:
            if whole:
                return
            whole = True
        else:
            whole = False
