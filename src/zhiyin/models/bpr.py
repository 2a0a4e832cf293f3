"""BPR: matrix factorisation by Bayesian personalised ranking."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, ClassVar

import numpy as np
from scipy import sparse

from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.params import param
from zhiyin.core.prng import randbelow, uniform01
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models.recommender import VectorRecommender

# Number of parts of users and items, where there are enough of them: the largest number of parallel threads.
MAX_PARTS = 16
_ITEMS_A_BLOCK = 256  # smallest number of items in a part, as negatives come from the positive's part
_TRIES = 8  # draws of a negative before a pair is skipped
_KEY = np.uint64(0x9E3779B97F4A7C15)  # where the draws of every history begin
_KINDS = {"uniform": 0, "popular": 1, "adaptive": 2}


@dataclasses.dataclass
class BPR(VectorRecommender):
    """Matrix factorisation by Bayesian personalised ranking (Rendle et al., UAI 2009).

    Minimises the sum over users u, items i they took and items j they did not of
    -ln σ(s_ui - s_uj) + reg/2 (|x_u|² + |y_i|² + b_i² + |y_j|² + b_j²), s_ui = x_u·y_i + b_i, by stochastic gradient
    descent (BPR-Opt and figure 4). Each epoch goes once through all pairs (u, i), with one draw of j each; steps shrink
    evenly to nothing:

    - "uniform": every item alike;
    - "popular": in proportion to (number of users)^power;
    - "adaptive": a factor f in proportion to |x_uf| times the spread of f over the items, then the item at rank r of
      the items ordered by f (from the other end where x_uf < 0), r geometric with a mean of `rank_share` of the items
      (Rendle & Freudenthaler, WSDM 2014, section 5).

    Threads never meet: users and items are cut into parts and each epoch works through the parts as a Latin square
    (Gemulla et al., KDD 2011), so that the same seed gives the same vectors whatever the threads. Items are dealt
    afresh each epoch, and the negative is drawn from the part of the positive.

    A history is folded in by the same descent on a vector of its own, item vectors fixed, from zero; the draws depend
    on nothing but the history. The last number of a vector stands for the item's bias.

    | difference from the papers | why |
    |---|---|
    | pairs in shuffled order, not drawn with replacement | every pair counts in every epoch |
    | the step shrinks | with a steady one the noise of the draws stays in the vectors |
    | the negative comes from the positive's part of the items | threads need no locks, and memory stays near |
    | orderings of the adaptive draw are made once a part and epoch | as good, and no slower than the other draws |
    | users are folded in at prediction, not looked up | one path for known users and strangers |
    """

    factors: int = param(64, "length of the vectors", at_least=1, at_most=4096, tune=(16, 256), log=True)
    learning_rate: float = param(
        0.05, "learning rate of the first epoch", at_least=1e-6, at_most=10.0, tune=(0.005, 0.3), log=True
    )
    reg: float = param(0.01, "L2 penalty on the vectors of each step", at_least=0, tune=(1e-4, 0.1), log=True)
    epochs: int = param(50, "passes over the pairs", at_least=1, tune=(10, 200), log=True)
    negatives: str = param(
        "uniform",
        "sampling of the negatives",
        choices=tuple(_KINDS),
        tune=("uniform", "popular", "adaptive"),
    )
    power: float = param(
        0.75, "popular: exponent of an item's number of users", at_least=0, at_most=2, tune=(0.25, 1.0)
    )
    rank_share: float = param(
        0.1,
        "adaptive: mean rank of the drawn negatives, as a share of the items",
        at_least=1e-6,
        at_most=1.0,
        tune=(0.005, 0.5),
        log=True,
    )
    fold_epochs: int = param(50, "passes over a history that is folded in", at_least=1, at_most=1000)

    bias_: ClassVar[np.ndarray]
    counts_: ClassVar[np.ndarray]

    def _fit(self, data: Dataset, run: Run) -> None:
        rows = data.matrix("binary")
        rows.sort_indices()
        counts = np.bincount(rows.indices, minlength=data.n_items).astype(np.float32)
        rng = run.rng(13)
        scale = 0.1 / np.sqrt(self.factors)
        x = (rng.standard_normal((data.n_users, self.factors)) * scale).astype(np.float32)
        y = (rng.standard_normal((data.n_items, self.factors)) * scale).astype(np.float32)
        bias = np.zeros(data.n_items, dtype=np.float32)
        plan = Plan.of(rows, _KINDS[self.negatives], _shares(counts, self.power), self.rank_share)
        started = time.perf_counter()
        with run.bar("BPR", self.epochs) as advance:
            for epoch in range(self.epochs):
                rate = self.learning_rate * (1 - epoch / self.epochs)
                loss = plan.epoch(x, y, bias, rate, self.reg, rng, run)
                advance(1, f"loss {loss:.4f}")
                seconds = time.perf_counter() - started
                run.report(model="BPR", epoch=epoch + 1, of=self.epochs, loss=loss, learning_rate=rate, seconds=seconds)
        self.item_vectors_ = np.concatenate([y, bias[:, None]], axis=1)  # type: ignore[misc]
        self.counts_ = counts  # type: ignore[misc]

    def encode(self, histories: Histories, run: Run | None = None) -> np.ndarray:
        """Vectors of histories, float32[n, factors + 1], the last number 1: see the class."""
        run = run or Run()
        rows = histories.matrix(len(self.item_vectors_), "binary")
        rows.sort_indices()
        y, bias = self._cached_for_items("parts", lambda: _parts_of(self.item_vectors_))
        every, kind = np.arange(len(y), dtype=np.int32), _KINDS[self.negatives]
        total, order, spread = self._cached_for_items(
            "draws", lambda: _draws(kind, every, _shares(self.counts_, self.power), y)
        )
        x = np.zeros((len(rows.indptr) - 1, self.factors + 1), dtype=np.float32)
        x[:, -1] = 1
        rate, reg, mean_rank = np.float32(self.learning_rate), np.float32(self.reg), self.rank_share * len(y)

        def work(start: int, stop: int) -> None:
            _fold(rows.indptr, rows.indices, x, y, bias, rate, reg, self.fold_epochs, kind, every, total, order, spread,
                  mean_rank, _KEY, start, stop)  # fmt: skip

        for_chunks(work, len(x), run, chunk=max(1, min(2048, len(x) // (8 * run.n_threads))))
        return x


@dataclasses.dataclass
class Plan:
    """The order of an epoch: fixed parts of users, and the sampling of negatives.

    rows: CSR[n_users, n_items] with sorted items; users: int64[parts + 1], where each part of the users begins, about
    as many pairs in each; kind: of `_KINDS`; shares: float64[n_items], how often an item is drawn where kind is
    "popular"; rank_share: as in `BPR`.
    """

    rows: sparse.csr_matrix
    users: np.ndarray
    kind: int
    shares: np.ndarray
    rank_share: float

    @classmethod
    def of(cls, rows: sparse.csr_matrix, kind: int, shares: np.ndarray, rank_share: float) -> Plan:
        n_users, n_items = rows.shape
        parts = int(max(1, min(MAX_PARTS, n_items // _ITEMS_A_BLOCK, n_users // _ITEMS_A_BLOCK)))
        goals = np.arange(1, parts) * (rows.nnz / parts)
        cuts = np.searchsorted(rows.indptr, goals)
        users = np.concatenate([[0], cuts, [n_users]]).astype(np.int64)
        return cls(rows, users, kind, shares, rank_share)

    def epoch(
        self,
        x: np.ndarray,
        y: np.ndarray,
        bias: np.ndarray,
        rate: float,
        reg: float,
        rng: np.random.Generator,
        run: Run,
    ) -> float:
        """One pass over all pairs: x, y and bias change in place. Returns the mean of -ln σ, of one pair in eight."""
        parts, n_items, rows = len(self.users) - 1, len(y), self.rows
        seeds = rng.integers(1, 2**63, (parts, parts), dtype=np.uint64)
        members = rng.permutation(n_items).astype(np.int32)
        edges = (np.arange(parts + 1) * n_items) // parts
        part_of = np.empty(n_items, dtype=np.uint8)
        part_of[members] = np.repeat(np.arange(parts), np.diff(edges))
        users, items = np.empty(rows.nnz, dtype=np.int32), np.empty(rows.nnz, dtype=np.int32)
        begins = np.empty((parts, parts + 1), dtype=np.int64)
        losses = np.zeros((parts, parts, 2))

        def deal(start: int, stop: int) -> None:
            for part in range(start, stop):
                _deal(rows.indptr, rows.indices, part_of, self.users[part], self.users[part + 1], begins[part], users,
                      items)  # fmt: skip

        for_chunks(deal, parts, run, chunk=1)
        draws: list[Any] = [None] * parts

        def order(start: int, stop: int) -> None:
            for part in range(start, stop):
                mine = members[edges[part] : edges[part + 1]]
                draws[part] = _draws(self.kind, mine, self.shares, y)

        for_chunks(order, parts, run, chunk=1)
        for turn in range(parts):

            def work(start: int, stop: int, turn: int = turn) -> None:
                for part in range(start, stop):
                    other = (part + turn) % parts
                    mine, pairs = members[edges[other] : edges[other + 1]], slice(*begins[part, other : other + 2])
                    _descend(users[pairs], items[pairs], x, y, bias, np.float32(rate), np.float32(reg), self.kind, mine,
                             *draws[other], self.rank_share * len(mine), seeds[part, other],
                             losses[part, other])  # fmt: skip

            for_chunks(work, parts, run, chunk=1)
        loss, steps = losses.sum(axis=(0, 1))
        return float(loss / max(1.0, steps))


def _shares(counts: np.ndarray, power: float) -> np.ndarray:
    """float64[n_items]: count^power; items without users get a small count."""
    return np.maximum(counts.astype(np.float64), 1e-9) ** power


def _parts_of(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.ascontiguousarray(vectors[:, :-1]), np.ascontiguousarray(vectors[:, -1])


def _draws(kind: int, members: np.ndarray, shares: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """What `_draw` needs: float64[n], shares of the members summed up; int32[factors, n], places in `members` by each
    factor, the highest first; float32[factors], how far each spreads. Empty where this kind does not need it."""
    total, order, spread = np.zeros(0), np.zeros((0, 0), dtype=np.int32), np.zeros(0, dtype=np.float32)
    if kind == _KINDS["popular"]:
        total = np.cumsum(shares[members])
    if kind == _KINDS["adaptive"]:
        near = np.ascontiguousarray(y[members].T)
        order, spread = np.argsort(-near, axis=1, kind="stable").astype(np.int32), near.std(axis=1)
    return total, order, spread


@kernel
def _deal(indptr, columns, part_of, first, last, begins, users, items):
    """Write the pairs of the users first..last sorted by the part of their item; `begins` says where each starts."""
    parts = len(begins) - 1
    for part in range(parts + 1):
        begins[part] = 0
    for at in range(indptr[first], indptr[last]):
        begins[part_of[columns[at]] + 1] += 1
    begins[0] = indptr[first]
    for part in range(parts):
        begins[part + 1] += begins[part]
    to = begins[:parts].copy()
    for user in range(first, last):
        for at in range(indptr[user], indptr[user + 1]):
            part = part_of[columns[at]]
            users[to[part]] = user
            items[to[part]] = columns[at]
            to[part] += 1


@kernel
def _draw(state, kind, x, row, f, members, total, order, spread, mean_rank):
    """A negative for x[row]: an item out of `members`."""
    n = len(members)
    if kind == 0:
        return members[randbelow(state, n)]
    if kind == 1:
        goal, low, high = uniform01(state) * total[n - 1], 0, n - 1
        while low < high:
            middle = (low + high) // 2
            if total[middle] > goal:
                high = middle
            else:
                low = middle + 1
        return members[low]
    whole = np.float32(0)
    for j in range(f):
        whole += abs(x[row, j]) * spread[j]
    goal, at = uniform01(state) * whole, 0
    while at < f - 1:
        goal -= abs(x[row, at]) * spread[at]
        if goal < 0:
            break
        at += 1
    rank = np.int64(-np.log(1.0 - uniform01(state)) * mean_rank)
    if rank >= n:  # past the end: anywhere
        rank = randbelow(state, n)
    return members[order[at, rank] if x[row, at] >= 0 else order[at, n - 1 - rank]]


@kernel
def _negative(state, kind, x, row, f, members, total, order, spread, mean_rank, columns, first, last):
    """A drawn item that is not among the sorted columns[first:last], or -1 where chance found none."""
    for _ in range(_TRIES):
        item = _draw(state, kind, x, row, f, members, total, order, spread, mean_rank)
        low, high = first, last
        while low < high:
            middle = (low + high) // 2
            if columns[middle] < item:
                low = middle + 1
            else:
                high = middle
        if low == last or columns[low] != item:
            return np.int64(item)
    return np.int64(-1)


@kernel
def _descend(users, items, x, y, bias, rate, reg, kind, members, total, order, spread, mean_rank, seed, loss):
    """A gradient step for every pair, in random order. The pairs are sorted by user and item, and contain all items of
    these users among `members`. `loss` gets the sum of -ln σ over one pair in eight and their number."""
    f, n = x.shape[1], len(users)
    if n == 0:
        return
    one, decay = np.float32(1), np.float32(1) - rate * reg
    state = np.empty(1, dtype=np.uint64)
    state[0] = seed
    # Items of each user among the members, contiguous, so that the look-up of a drawn item is local.
    first = np.int64(users[0])
    begins = np.zeros(users[n - 1] - first + 2, dtype=np.int64)
    for at in range(n):
        begins[users[at] - first + 1] += 1
    for at in range(1, len(begins)):
        begins[at] += begins[at - 1]
    sampled = items.copy()
    for at in range(n - 1, 0, -1):
        to = randbelow(state, at + 1)
        users[at], users[to] = users[to], users[at]
        items[at], items[to] = items[to], items[at]
    for at in range(n):
        u, i = np.int64(users[at]), np.int64(items[at])
        own, end = begins[u - first], begins[u - first + 1]
        j = _negative(state, kind, x, u, f, members, total, order, spread, mean_rank, sampled, own, end)
        if j < 0:
            continue
        v, yes, no = x[u], y[i], y[j]
        d = bias[i] - bias[j]
        for k in range(f):
            d += v[k] * (yes[k] - no[k])
        z = one / (one + np.exp(d))
        if at % 8 == 0:
            loss[0] += max(-d, np.float32(0)) + np.log1p(np.exp(-abs(d)))
            loss[1] += 1
        step = rate * z
        for k in range(f):
            a, b, c = v[k], yes[k], no[k]
            v[k] = decay * a + step * (b - c)
            yes[k] = decay * b + step * a
            no[k] = decay * c - step * a
        bias[i] = decay * bias[i] + step
        bias[j] = decay * bias[j] - step


@kernel
def _fold(
    indptr, columns, x, y, bias, rate, reg, epochs, kind, members, total, order, spread, mean_rank, key, start, stop
):
    """x[start:stop] by descent, items fixed; the step falls evenly to nothing."""
    f = y.shape[1]
    one = np.float32(1)
    state = np.empty(1, dtype=np.uint64)
    for row in range(start, stop):
        state[0] = key
        first, last = indptr[row], indptr[row + 1]
        for epoch in range(epochs):
            step = rate * np.float32(1.0 - epoch / epochs)
            for at in range(first, last):
                i = columns[at]
                j = _negative(state, kind, x, row, f, members, total, order, spread, mean_rank, columns, first, last)
                if j < 0:
                    continue
                d = bias[i] - bias[j]
                for k in range(f):
                    d += x[row, k] * (y[i, k] - y[j, k])
                z = one / (one + np.exp(d))
                for k in range(f):
                    x[row, k] += step * (z * (y[i, k] - y[j, k]) - reg * x[row, k])
