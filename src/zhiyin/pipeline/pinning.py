"""Pins: items that a slot is reserved for, by the rules or by a request."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from zhiyin.core.parallel import kernel
from zhiyin.pipeline.slate import RequestBatch


@dataclasses.dataclass(frozen=True, eq=False)
class Pins:
    """Pinned items of n requests.

    Parameters
    ----------
    offsets: int64[n + 1]; those of request r are items[offsets[r]:offsets[r + 1]].
    items: int32[p]. slots: int64[p], from 0; of one request all items and all slots differ.
    dropped_owners, dropped_items: int64, requests and items of pins that may not be shown.
    """

    offsets: np.ndarray
    items: np.ndarray
    slots: np.ndarray
    dropped_owners: np.ndarray
    dropped_items: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """int64[n]."""
        return np.diff(self.offsets)


def resolve_pins(
    requests: RequestBatch,
    k: int,
    *,
    rule_pins: tuple[np.ndarray, np.ndarray],
    n_items: int,
    may_be_pinned: Callable[[RequestBatch, np.ndarray, np.ndarray], np.ndarray],
) -> Pins | None:
    """The pins that apply to lists of k items; None without any. A request's pin of a slot replaces that of the rules.

    Parameters
    ----------
    rule_pins: items and slots (from 0) of the rules, int64[p] each.
    n_items: of the catalogue.
    may_be_pinned: bool[m] of (requests, request of each item, items): those that are False are dropped.
    """
    rule_items, rule_slots = rule_pins
    if not len(rule_items) and requests.pins is None:
        return None
    owner = np.repeat(np.arange(requests.n), len(rule_items))
    item, slot = np.tile(rule_items, requests.n), np.tile(rule_slots, requests.n)
    if requests.pins is not None and requests.pins.paired is not None:
        owner = np.concatenate([requests.pins.owners, owner])
        item = np.concatenate([requests.pins.values, item])
        slot = np.concatenate([requests.pins.paired - 1, slot])
    if not len(item):
        return None
    in_range = (item >= 0) & (item < n_items) & (slot >= 0) & (slot < k)
    owner, item, slot = owner[in_range], item[in_range], slot[in_range]
    # One item a slot and one slot an item; pins of the request come first and win.
    for unique_by_item in (False, True):
        key = item if unique_by_item else slot
        first = np.sort(np.unique(owner * 2**31 + key, return_index=True)[1])
        owner, item, slot = owner[first], item[first], slot[first]
    allowed = may_be_pinned(requests, owner, item)
    dropped_owners, dropped_items = owner[~allowed], item[~allowed]
    owner, item, slot = owner[allowed], item[allowed], slot[allowed]
    order = np.argsort(owner, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=requests.n))]).astype(np.int64)
    return Pins(offsets, item[order].astype(np.int32), slot[order].astype(np.int64), dropped_owners, dropped_items)


@kernel
def insert_pins(pin_items, pin_slots, items, scores, size, pins):
    """Append the pinned items that a slate lacks, at its lowest score; int64 `pins`: the slot of each row or -1.
    Returns the new size."""
    low = np.float32(0)
    for row in range(size):
        low = scores[row] if row == 0 else min(low, scores[row])
    for pin in range(len(pin_items)):
        row = 0
        while row < size and items[row] != pin_items[pin]:
            row += 1
        if row == size:
            items[row], scores[row] = pin_items[pin], low
            pins[row] = -1
            size += 1
        pins[row] = pin_slots[pin]
    return size
