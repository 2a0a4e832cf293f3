"""Random numbers inside kernels: a state of one number, float and whole numbers drawn from it."""

from __future__ import annotations

import numpy as np

from zhiyin.core.parallel import kernel


@kernel
def uniform_of(bits):
    """A number in [0, 1) of 64 random bits."""
    return np.float64(bits >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@kernel
def random_uint64(state):
    """The next 64 random bits (xorshift64*, Vigna 2016) from a state, uint64[1] and not 0, which moves on."""
    s = state[0]
    s ^= s >> np.uint64(12)
    s ^= s << np.uint64(25)
    s ^= s >> np.uint64(27)
    state[0] = s
    return s * np.uint64(0x2545F4914F6CDD1D)


@kernel
def randbelow(state, n):
    """A whole number in [0, n), n < 2³²."""
    return np.int64(((random_uint64(state) >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))


@kernel
def uniform01(state):
    """A number in [0, 1)."""
    return uniform_of(random_uint64(state))
