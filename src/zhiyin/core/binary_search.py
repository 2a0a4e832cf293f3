"""Binary search as a compiled function that kernels call."""

from __future__ import annotations

from zhiyin.core.parallel import kernel


@kernel
def first_not_before(times, low, high, moment):
    """The first position of [low, high) in sorted times whose time is not before the moment; `high` without one."""
    while low < high:
        middle = (low + high) >> 1
        if times[middle] < moment:
            low = middle + 1
        else:
            high = middle
    return low
