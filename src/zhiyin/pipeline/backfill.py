"""Filling: what is popular stands where the candidates leave a list short, or hold too few of a group."""

from __future__ import annotations

import numpy as np

from zhiyin.models.topk import first_k


def popular(
    best_first: np.ndarray, allowed: np.ndarray, wanted: np.ndarray, offsets: np.ndarray, taken: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """So many of the most popular items for each of n requests.

    Parameters
    ----------
    best_first: int32[m], items in the order they are taken in. allowed: bool[n_items]. wanted: int64[n].
    offsets, taken: int64[n + 1] and int32, items that each request has already or must not get.

    Returns
    -------
    owners int64 and items int32, by request, the most popular first; fewer than wanted where no more are allowed.
    """
    most = int(wanted.max(initial=0))
    if most == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int32)
    short = np.flatnonzero(wanted > 0)
    if len(short) < len(wanted):
        sizes = np.diff(offsets)[short]
        begins = np.concatenate([[0], np.cumsum(sizes)])
        taken = taken[np.repeat(offsets[short] - begins[:-1], sizes) + np.arange(begins[-1])]
        offsets = begins
    none = np.zeros(len(allowed), np.float32)
    found, _ = first_k(best_first, none, most, allowed, (np.asarray(offsets, np.int64), np.asarray(taken, np.int32)))
    real = (found >= 0) & (np.arange(most) < wanted[short][:, None])
    return short[np.nonzero(real)[0]], found[real]


def behind(low: np.ndarray, owners: np.ndarray, n: int) -> np.ndarray:
    """float32[f]: scores of items that fill up, below the lowest candidate and falling.

    low: float[n], the lowest score of each request's candidates. owners: int64[f], ascending.
    """
    sizes = np.bincount(owners, minlength=n)
    place = np.arange(len(owners)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    fall = ((place + 1) / (sizes[owners] + 1)).astype(np.float32)
    floor = low[owners].astype(np.float32)
    return floor - fall * np.maximum(1.0, np.abs(floor)).astype(np.float32)
