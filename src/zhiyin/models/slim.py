"""SLIM: sparse linear item-to-item regression."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
from scipy import sparse

from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.models.item_to_item import keep_largest
from zhiyin.models.linear import gram, mirror
from zhiyin.models.loss_sample import sampled_users
from zhiyin.models.neighbors import TableRecommender

MAX_GRAM_ITEMS = 16_384  # largest number of items for which XᵀX is held: 1 GiB
ITEMS_PER_ROUND = 64  # number of items that may enter the active set at once
LOOSE_SHARE = 0.1


@dataclasses.dataclass
class SLIM(TableRecommender):
    """Sparse linear method (Ning & Karypis, ICDM 2011, eq. 4), and fsSLIM where `candidates` is above 0.

    With x_j the column of item j of the binary users × items matrix X, its weights are

        w_j = argmin 1/2 |x_j - X w|² + l2 / 2 |w|² + l1 |w|₁   over w >= 0 with w_jj = 0,

    and score(u) = x_u W. Coordinate descent visits the items that share users with j; all others have weight 0: as X
    has no negative entries, an item whose inner product with x_j is at most l1 has weight 0. With `candidates`, only
    that many items, those of largest cosine with j, may have a weight.

    Up to 16,384 items the gradient comes from XᵀX, 1 GiB at most, by an active-set method: items outside of the active
    set whose weight would move enter it until there are none. Above that it comes from the residual over users, without
    an items × items matrix. Both end within `tolerance` of the same weights.
    """

    l1: float = param(
        1.0, "L1 penalty; a higher value leaves fewer items with a weight", at_least=0, tune=(0.05, 20.0), log=True
    )
    l2: float = param(10.0, "L2 penalty on item weights", at_least=0, tune=(0.1, 200.0), log=True)
    candidates: int = param(
        0, "candidate items with a weight, the nearest by cosine; 0: all", at_least=0, tune=(0, 500)
    )
    sweeps: int = param(100, "largest number of passes over an item's coordinates", at_least=1, at_most=10_000)
    tolerance: float = param(1e-4, "stop when a pass changes no weight by more", at_least=1e-9, at_most=1)

    def _fit(self, data: Dataset, run: Run) -> None:
        n_items = data.n_items
        users = data.matrix("binary")
        items = users.T.tocsr()
        max_candidates = min(self.candidates or n_items, n_items)
        parts_by_start: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        shared = mirror(gram(users, run), run) if n_items <= MAX_GRAM_ITEMS else None

        def work(start: int, stop: int) -> None:
            how = self.l1, self.l2, max_candidates, self.sweeps, self.tolerance, start, stop
            if shared is not None:
                parts_by_start[start] = _regress_shared(shared, *how)
            else:
                parts_by_start[start] = _regress(items.indptr, items.indices, users.indptr, users.indices, *how)

        started = time.perf_counter()
        for_chunks(work, n_items, run, label="SLIM")
        counts, entered, weights = (
            np.concatenate(part)
            for part in zip(*(parts_by_start[start] for start in sorted(parts_by_start)), strict=True)
        )
        into = np.repeat(np.arange(n_items), counts)
        table = sparse.csr_matrix((weights, (entered, into)), shape=(n_items, n_items), dtype=np.float32)
        table.sort_indices()
        self.similarities_ = table  # type: ignore[misc]
        sample = users[sampled_users(users.indptr, run)]
        miss = (sample - sample @ table).data
        loss = float(miss @ miss) / max(1, sample.shape[0])  # squared error of a user's row
        run.report(model="SLIM", epoch=1, of=1, loss=loss, seconds=time.perf_counter() - started)


@kernel
def _regress(i_indptr, i_users, u_indptr, u_items, l1, l2, max_candidates, sweeps, tolerance, start, stop):
    """For each of the items [start, stop): number of weights int64, their items int32 and values float32."""
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
        k = min(max_candidates, reach)
        items, similarities = np.full(k, -1, dtype=np.int32), np.zeros(k, dtype=np.float32)
        if k > 0:
            keep_largest(shared, touched, reach, items, similarities)
        items = items[np.argsort(-similarities, kind="mergesort")]
        w = np.zeros(k, dtype=np.float64)
        _descend(i_indptr, i_users, l1, l2, sweeps, tolerance, items, w, residual)
        for place in range(k):
            if w[place] > 0:
                entered, weights = _with_room(entered, weights, size)
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
def _with_room(items, weights, size):
    """Two arrays, twice as long where `size` entries fill them."""
    if size < len(items):
        return items, weights
    longer_items, longer_weights = np.empty(2 * size, dtype=np.int32), np.empty(2 * size, dtype=np.float32)
    longer_items[:size], longer_weights[:size] = items[:size], weights[:size]
    return longer_items, longer_weights


@kernel
def _descend(i_indptr, i_users, l1, l2, sweeps, tolerance, items, w, residual):
    """Coordinate descent: a pass over all coordinates, then over the nonzero ones until convergence, and again."""
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


@kernel
def _regress_shared(shared, l1, l2, max_candidates, sweeps, tolerance, start, stop):
    """As `_regress`, from XᵀX."""
    n_items, gap = len(shared), 256  # the gap: see `factorization._solve`
    slope = np.empty(n_items + 2 * gap, dtype=np.float64)[gap : gap + n_items]
    priority, within = np.zeros(n_items, dtype=np.float32), np.zeros(n_items, dtype=np.bool_)
    candidates, entering = np.empty(n_items, dtype=np.int32), np.empty(n_items, dtype=np.int32)
    inside, w = np.empty(n_items, dtype=np.int32), np.zeros(n_items, dtype=np.float64)
    counts = np.zeros(stop - start, dtype=np.int64)
    entered, weights, size = np.empty(1024, dtype=np.int32), np.empty(1024, dtype=np.float32), 0
    for target in range(start, stop):
        reach = 0
        for other in range(n_items):
            if shared[target, other] > l1 and other != target:
                candidates[reach] = other
                reach += 1
        if reach > max_candidates:
            for place in range(reach):
                priority[candidates[place]] = shared[target, candidates[place]] / np.sqrt(
                    shared[candidates[place], candidates[place]]
                )
            chosen, _ = _best(priority, candidates, reach, max_candidates)
            candidates[:max_candidates], reach = chosen, max_candidates
        n, step_tolerance = 0, tolerance
        for _ in range(sweeps):
            _slopes(shared, target, inside, w, n, slope)
            n_entering, most_moved = 0, 0.0
            for place in range(reach):
                item = candidates[place]
                move = (slope[item] - l1) / (shared[item, item] + l2)
                if not within[item] and move > tolerance:
                    priority[item], entering[n_entering] = move, item
                    n_entering += 1
                    most_moved = max(most_moved, move)
            if n_entering == 0 and step_tolerance <= tolerance:
                break
            chosen, _ = _best(
                priority, entering, n_entering, reach if reach <= 2 * ITEMS_PER_ROUND else ITEMS_PER_ROUND
            )
            n_before, n = n, 0
            for place in range(n_before):  # items of weight 0 leave the active set
                within[inside[place]] = w[place] > 0
                if w[place] > 0:
                    inside[n], w[n] = inside[place], w[place]
                    n += 1
            for item in chosen:
                inside[n], w[n], within[item] = item, 0, True
                n += 1
            step_tolerance = max(tolerance, LOOSE_SHARE * most_moved)  # no more precise than the items still outside
            _descend_shared(shared, inside, n, slope, w, l1, l2, sweeps, step_tolerance)
        for place in range(n):
            within[inside[place]] = False
            if w[place] > 0:
                entered, weights = _with_room(entered, weights, size)
                entered[size], weights[size] = inside[place], w[place]
                size += 1
                counts[target - start] += 1
    return counts, entered[:size].copy(), weights[:size].copy()


@kernel
def _best(priority, items, n, k):
    """The k items of largest priority, and their priorities; `priority` is cleared."""
    best_items, values = np.full(min(k, n), -1, dtype=np.int32), np.zeros(min(k, n), dtype=np.float32)
    keep_largest(priority, items, n, best_items, values)
    return best_items, values


@kernel
def _slopes(shared, target, inside, w, n, slope):
    """slope = x_jᵀX - wᵀXᵀX, four items with weight a pass."""
    for item in range(len(slope)):
        slope[item] = shared[target, item]
    body = n // 4 * 4
    for at in range(0, body, 4):
        a, b, c, d = inside[at], inside[at + 1], inside[at + 2], inside[at + 3]
        wa, wb, wc, wd = w[at], w[at + 1], w[at + 2], w[at + 3]
        for item in range(len(slope)):
            slope[item] -= wa * shared[a, item] + wb * shared[b, item] + wc * shared[c, item] + wd * shared[d, item]
    for at in range(body, n):
        a, wa = inside[at], w[at]
        for item in range(len(slope)):
            slope[item] -= wa * shared[a, item]


@kernel
def _descend_shared(shared, inside, n, slope, w, l1, l2, sweeps, tolerance):
    """Coordinate descent over the n items inside until they rest."""
    gap = 256
    square = np.empty((n, n), dtype=np.float32)
    rest = np.empty(n + 2 * gap, dtype=np.float64)[gap : gap + n]
    for p in range(n):
        rest[p] = slope[inside[p]]
        for q in range(n):
            square[p, q] = shared[inside[p], inside[q]]
    for _ in range(sweeps):
        moved = 0.0
        for p in range(n):
            old, own = w[p], square[p, p]
            change = max(0.0, rest[p] + own * old - l1) / (own + l2) - old
            if change != 0:
                w[p] = old + change
                moved = max(moved, abs(change))
                for q in range(n):
                    rest[q] -= change * square[p, q]
        if moved <= tolerance:
            return
