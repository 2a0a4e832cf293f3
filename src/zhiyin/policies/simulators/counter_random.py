"""Random numbers of simulated users by counter: a draw depends on the session and the step, and on nothing else.

So a user has the same session whatever the number of users, and two policies meet the same users and items.
"""

from __future__ import annotations

import numpy as np

from zhiyin.core.hashing import GOLDEN, mix
from zhiyin.core.parallel import kernel
from zhiyin.core.prng import uniform_of
from zhiyin.policies.normals import fill_normals
from zhiyin.policies.probabilities import stream_state


def session_seeds(seed: int, users: np.ndarray, sessions: np.ndarray) -> np.ndarray:
    """uint64[n]: seeds of the sessions, by the seed of the simulation, the user and the user's number of sessions."""
    out = np.empty(len(users), dtype=np.uint64)
    _session_seeds(np.uint64(seed), users.astype(np.uint64), sessions.astype(np.uint64), out)
    return out


def uniforms(seeds: np.ndarray, stream: int, step: np.ndarray, count: int) -> np.ndarray:
    """float64[n, count], in [0, 1).

    Parameters
    ----------
    seeds: uint64[n], of the sessions.
    stream: what is drawn; draws of two streams are independent of each other.
    step: int64[n], step of each session.
    """
    out = np.empty((len(seeds), count))
    _uniforms(seeds, np.uint64(stream), step.astype(np.uint64), out)
    return out


def normals(seeds: np.ndarray, stream: int, step: np.ndarray, count: int) -> np.ndarray:
    """float64[n, count], standard normal. Parameters as for `uniforms`."""
    out = np.empty((len(seeds), count))
    _normals(seeds, np.uint64(stream), step.astype(np.uint64), out)
    return out


@kernel
def _session_seeds(seed, users, sessions, out):
    for r in range(len(out)):
        out[r] = mix(mix(mix(seed + GOLDEN) + users[r] * GOLDEN) + sessions[r] * GOLDEN)


@kernel
def _uniforms(seeds, stream, steps, out):
    for r in range(len(out)):
        state = stream_state(mix(seeds[r] + steps[r] * GOLDEN), stream)
        for column in range(out.shape[1]):
            state += GOLDEN
            out[r, column] = uniform_of(mix(state))


@kernel
def _normals(seeds, stream, steps, out):
    for r in range(len(out)):
        fill_normals(stream_state(mix(seeds[r] + steps[r] * GOLDEN), stream), out[r])
