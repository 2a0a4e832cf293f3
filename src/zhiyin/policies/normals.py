"""Standard normal numbers inside kernels, by the ziggurat method: one multiplication for most of them."""

from __future__ import annotations

import math

import numpy as np

from zhiyin.core.hashing import GOLDEN, mix
from zhiyin.core.parallel import kernel
from zhiyin.core.prng import uniform_of

_LAYERS = 256
_TAIL = 3.6541528853610088  # where the tail begins, with 256 layers of equal area (Doornik 2005)
_AREA = 0.00492867323399


def _ziggurat() -> tuple[np.ndarray, np.ndarray]:
    """Widths of the layers, float64[257], from the widest; and the height of the density at each."""
    widths = np.zeros(_LAYERS + 1)
    widths[0] = _AREA / math.exp(-0.5 * _TAIL * _TAIL)
    widths[1] = _TAIL
    for layer in range(2, _LAYERS):
        height = math.exp(-0.5 * widths[layer - 1] ** 2) + _AREA / widths[layer - 1]
        widths[layer] = math.sqrt(-2 * math.log(height))
    return widths, np.exp(-0.5 * widths**2)


_WIDTHS, _HEIGHTS = _ziggurat()


@kernel
def fill_normals(state, out):
    """Fill float64[n] with standard normal numbers from a state of random numbers; returns the next state."""
    for position in range(len(out)):
        while True:
            state += GOLDEN
            bits = mix(state)
            layer = np.int64(bits & np.uint64(255))
            signed = 2.0 * uniform_of(bits) - 1.0
            x = signed * _WIDTHS[layer]
            if abs(x) < _WIDTHS[layer + 1]:
                break
            state += GOLDEN
            uniform = uniform_of(mix(state))
            if layer == 0:  # Marsaglia's method for the tail
                far = -np.log(1.0 - uniform) / _TAIL
                state += GOLDEN
                near = -np.log(1.0 - uniform_of(mix(state)))
                if 2.0 * near >= far * far:
                    x = _TAIL + far if signed > 0 else -(_TAIL + far)
                    break
            elif _HEIGHTS[layer] + uniform * (_HEIGHTS[layer + 1] - _HEIGHTS[layer]) < np.exp(-0.5 * x * x):
                break
        out[position] = x
    return state
