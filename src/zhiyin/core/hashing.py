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
def hash_texts(data, offsets):
    """uint64[n]: a hash of each text: FNV-1a of its bytes, mixed. It never changes: files are laid out by it.

    data: uint8[m], the bytes of all texts; offsets: int64[n + 1], text r is data[offsets[r]:offsets[r + 1]].
    """
    hashes = np.empty(len(offsets) - 1, dtype=np.uint64)
    for row in range(len(hashes)):
        value = np.uint64(0xCBF29CE484222325)
        for at in range(offsets[row], offsets[row + 1]):
            value = (value ^ np.uint64(data[at])) * np.uint64(0x100000001B3)
        hashes[row] = mix(value)
    return hashes


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
