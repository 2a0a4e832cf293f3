"""Backfill: popular items are added to lists with too few candidates, or too few members of a group."""

from __future__ import annotations

import numpy as np

from zhiyin.models.topk import first_k
from zhiyin.pipeline.slate import Ragged, Slates


def popular_items(
    slates: Slates, excluded: Ragged, popular_order: np.ndarray, allowed: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The most popular items that the slates of n requests do not contain yet.

    Parameters
    ----------
    excluded: item codes that each request must not get.
    popular_order: int32, items in the order in which they are taken.
    allowed: bool[n_items].
    wanted: int64[n], items for each request.

    Returns
    -------
    owners int64 and items int32, by request, the most popular first; fewer than wanted where no more are allowed.
    """
    most = int(wanted.max(initial=0))
    if most == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int32)
    unavailable = _items_of_both(excluded, slates)
    short = np.flatnonzero(wanted > 0)
    if len(short) < len(wanted):
        unavailable = unavailable.take(short)
    scores = np.zeros(len(allowed), np.float32)
    items, _ = first_k(
        popular_order, scores, most, allowed, (unavailable.offsets, np.asarray(unavailable.values, np.int32))
    )
    filled = (items >= 0) & (np.arange(most) < wanted[short][:, None])
    return short[np.nonzero(filled)[0]], items[filled]


def append_below(slates: Slates, owners: np.ndarray, items: np.ndarray) -> Slates:
    """The slates with items appended, at lower scores. owners: int64[f], ascending; items: int32[f]."""
    scores = _scores_below(slates.lowest(), owners, len(slates))
    return slates.with_rows(owners, items, scores).sorted()


def _items_of_both(excluded: Ragged, slates: Slates) -> Ragged:
    """The excluded items and the items of the slate, of each request."""
    if len(slates) == 1:
        values = np.concatenate([excluded.values, slates.items])
        return Ragged(np.array([0, len(values)], dtype=np.int64), values)
    order = np.argsort(np.concatenate([excluded.owners, slates.owners]), kind="stable")
    return Ragged(excluded.offsets + slates.offsets, np.concatenate([excluded.values, slates.items])[order])


def _scores_below(low: np.ndarray, owners: np.ndarray, n: int) -> np.ndarray:
    """float32[f]: scores below the lowest of each request, float[n], and falling."""
    sizes = np.bincount(owners, minlength=n)
    place = np.arange(len(owners)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    fall = ((place + 1) / (sizes[owners] + 1)).astype(np.float32)
    floor = low[owners].astype(np.float32)
    return floor - fall * np.maximum(1.0, np.abs(floor)).astype(np.float32)
