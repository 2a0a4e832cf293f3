"""Exploration: now and then one slot of a list goes to an item that did not make it, with a known probability."""

from __future__ import annotations

import numpy as np

from zhiyin.pipeline.slate import Requests, Slate

# Candidates behind a list that exploration chooses from.
TAIL = 50


def explored(best: Slate, items: np.ndarray, needs: Requests, share: float, seed: int) -> tuple[Slate, np.ndarray]:
    """The list, with probability `share` one slot of it given to an item that did not make it, and the propensities.

    Slot and item are drawn evenly, from the slots that are not pinned and from the next `TAIL` candidates that qualify;
    so an item of the list stays with 1 - share / slots, and one of the tail comes with share / (slots * tail).
    """
    slots = np.arange(len(best.items))
    if needs.pins is not None:
        slots = slots[~np.isin(best.items, needs.pins.values)]
    tail = items[~np.isin(items, best.items)][:TAIL]
    propensities = np.ones(len(best.items))
    if not len(slots) or not len(tail):
        return best, propensities
    propensities[slots] = 1 - share / len(slots)
    rng = np.random.default_rng(seed)
    if rng.random() >= share:
        return best, propensities
    slot, item = slots[rng.integers(len(slots))], tail[rng.integers(len(tail))]
    shown = best.items.copy()
    shown[slot] = item
    propensities[slot] = share / (len(slots) * len(tail))
    event = {"step": "explore", "items": [int(item)], "slot": [int(slot) + 1]}
    return Slate(shown, best.scores, [*best.trace, event]), propensities
