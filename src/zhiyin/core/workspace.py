"""Working memory of compiled functions that is kept between calls, one per thread."""

from __future__ import annotations

import threading

import numpy as np

_OF_THREAD = threading.local()


def float32_zeros(n: int) -> np.ndarray:
    """float32[m] of zeros, m >= n, the same array at each call in a thread. Who writes into it leaves zeros behind."""
    held: np.ndarray | None = getattr(_OF_THREAD, "float32_zeros", None)
    if held is None or len(held) < n:
        held = _OF_THREAD.float32_zeros = np.zeros(max(64, n), dtype=np.float32)
    return held
