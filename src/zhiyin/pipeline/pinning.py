"""Pins: items that a slot is reserved for, by the rules or by a request."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zhiyin.pipeline.slate import RequestBatch, Slates


def insert_pins(
    slates: Slates,
    requests: RequestBatch,
    k: int,
    *,
    rule_pins: tuple[np.ndarray, np.ndarray],
    n_items: int,
    may_be_pinned: Callable[[RequestBatch, np.ndarray, np.ndarray], np.ndarray],
) -> tuple[Slates, np.ndarray | None]:
    """Slates that contain the pinned items, and the slot of each row: int64[m], from 0, or -1; None without pins.

    A request's pin of a slot replaces that of the rules. The trace names the pinned items that are dropped.

    Parameters
    ----------
    rule_pins: items and slots (from 0) of the rules, int64[p] each.
    n_items: of the catalogue.
    may_be_pinned: bool[m] of (requests, request of each item, items): those that are False are dropped.
    """
    rule_items, rule_slots = rule_pins
    if not len(rule_items) and requests.pins is None:
        return slates, None
    owner = np.repeat(np.arange(requests.n), len(rule_items))
    item, slot = np.tile(rule_items, requests.n), np.tile(rule_slots, requests.n)
    if requests.pins is not None and requests.pins.paired is not None:
        owner = np.concatenate([requests.pins.owners, owner])
        item = np.concatenate([requests.pins.values, item])
        slot = np.concatenate([requests.pins.paired - 1, slot])
    if not len(item):
        return slates, None
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
    keys = slates.owners * n_items + slates.items
    is_new = ~np.isin(owner * n_items + item, keys)
    if is_new.any():
        order = np.argsort(owner[is_new], kind="stable")
        new_owners = owner[is_new][order]
        slates = slates.with_rows(new_owners, item[is_new][order], slates.lowest()[new_owners])
        keys = slates.owners * n_items + slates.items
    pins = np.full(len(keys), -1, np.int64)
    order = np.argsort(keys, kind="stable")
    pins[order[np.searchsorted(keys[order], owner * n_items + item)]] = slot
    return slates.with_trace_event("pin dropped", dropped_owners, items=dropped_items), pins
