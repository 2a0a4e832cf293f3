"""Logs made in memory, seeded: long-tailed activity and popularity, and tastes, so that there is something to learn."""

from __future__ import annotations

import functools

import numpy as np
from scipy import sparse

from zhiyin.core.run import Run
from zhiyin.models.topk import top_k

USERS, ITEMS, GENRES = 138_493, 26_744, 64  # ML-20M's shape


@functools.lru_cache(maxsize=1)
def log_of(users: int, items: int, draws: int, seed: int = 7) -> sparse.csr_matrix:
    """A binary CSR float32[users, items] of about `draws` events before repeats are taken out.

    Items are of Zipf's popularity, (rank + 50)^-1.1; each user likes 2 of 64 genres, where two thirds of the draws go.
    """
    rng = np.random.default_rng(seed)
    worth = 1 / (np.arange(items) + 50.0) ** 1.1
    activity = np.maximum(rng.lognormal(0, 1.0, users), 0.13)
    counts = np.minimum((activity * draws / activity.sum()).astype(np.int64), items // 4)
    user = np.repeat(np.arange(users, dtype=np.int32), counts)
    tastes = rng.integers(0, GENRES, (users, 2), dtype=np.int32)
    item = rng.choice(items, len(user), p=worth / worth.sum()).astype(np.int32)
    # Two thirds of the draws move to the nearest item of a genre the user likes.
    moved = rng.random(len(user)) < 2 / 3
    liked = tastes[user[moved], rng.integers(0, 2, int(moved.sum()))]
    item[moved] = np.minimum(item[moved] // GENRES * GENRES + liked, items - 1)
    shuffle = rng.permutation(items).astype(np.int32)
    matrix = sparse.csr_matrix((np.ones(len(user), np.float32), (user, shuffle[item])), shape=(users, items))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def hold_out(log: sparse.csr_matrix, n: int, seed: int = 3) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
    """The log without one item of each of n users; those users and those items."""
    rng = np.random.default_rng(seed)
    lengths = np.diff(log.indptr)
    users = np.sort(rng.choice(np.nonzero(lengths > 5)[0], n, replace=False))
    places = log.indptr[users] + (rng.random(n) * lengths[users]).astype(np.int64)
    kept = np.ones(log.nnz, dtype=bool)
    kept[places] = False
    owner = np.repeat(np.arange(log.shape[0]), lengths)[kept]
    train = sparse.csr_matrix((log.data[kept], (owner, log.indices[kept])), shape=log.shape)
    return train, users, log.indices[places]


def ndcg_at_10(
    x: np.ndarray, y: np.ndarray, train: sparse.csr_matrix, users: np.ndarray, held: np.ndarray, run: Run
) -> float:
    """Mean NDCG@10 of one held-out item a user, everything in train left out."""
    total, m = 0.0, len(y)
    priority, allowed = np.arange(m, dtype=np.int32), np.ones(m, dtype=bool)
    for start in range(0, len(users), 2000):
        who = users[start : start + 2000]
        seen = train[who]
        excluded = (seen.indptr.astype(np.int64), seen.indices)
        items, _ = top_k(x[who] @ y.T, 10, priority, allowed, excluded, run)
        _row, rank = np.nonzero(items == held[start : start + 2000, None])
        total += float((1 / np.log2(rank + 2)).sum())
    return total / len(users)
