"""Hashes for kernels: a counter-based random number, the same 64 bits for the same key, and a small hash table."""

from __future__ import annotations

import numpy as np

from zhiyin.core.parallel import kernel

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@kernel
def mix(z: np.uint64) -> np.uint64:
    """The finaliser of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@kernel
def table(size):
    """An empty hash table for `size` items: at most half of it is ever used."""
    room = 8
    while room < 2 * size:
        room *= 2
    return np.full(room, -1, dtype=np.int32)


@kernel
def find(slots, items, item):
    """The slot of an item, or the free one where it belongs. `slots` hold places in `items`, -1 where free."""
    mask = len(slots) - 1
    slot = np.int64(((np.uint64(item) * GOLDEN) >> np.uint64(32)) & np.uint64(mask))
    while slots[slot] >= 0 and items[slots[slot]] != item:
        slot = (slot + 1) & mask
    return slot
