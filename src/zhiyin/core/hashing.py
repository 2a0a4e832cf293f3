"""A counter-based random number: the same 64 bits for the same key, whoever asks and in whatever order."""

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
