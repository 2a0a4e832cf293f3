"""Random lists and histories that tests of metrics share."""

from __future__ import annotations

import numpy as np

N_USERS, N_ITEMS, K = 40, 60, 20


def ragged(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return offsets, np.concatenate(rows).astype(np.int32)


def random_rows(rng: np.random.Generator, low: int, high: int) -> list[np.ndarray]:
    sizes = rng.integers(low, high, N_USERS)
    return [np.sort(rng.choice(N_ITEMS, size, replace=False)) for size in sizes]


def random_lists(rng: np.random.Generator, padded: bool = True) -> np.ndarray:
    lists = np.array([rng.permutation(N_ITEMS)[:K] for _ in range(N_USERS)], dtype=np.int32)
    if padded:  # one list of each length, the empty one included
        lists[np.arange(K)[None, :] >= (np.arange(N_USERS) % (K + 1))[:, None]] = -1
    return lists
