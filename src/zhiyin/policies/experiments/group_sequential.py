"""Bounds of z for a number of looks that is planned beforehand: Pocock's, O'Brien and Fleming's.

With them a test that is looked at k times has the error it says. The mixture intervals of `comparisons.always_valid`
need no plan of the looks, and are wider.
"""

from __future__ import annotations

import numpy as np
from scipy import integrate, optimize, stats

from zhiyin.core.errors import ConfigError

_GRID_POINTS = 801
MAX_LOOKS = 20


def pocock(looks: int, alpha: float = 0.05) -> np.ndarray:
    """float64[looks]: the same bound at each look (Pocock, Biometrika 1977)."""
    return np.full(looks, _solve(np.ones(_checked(looks)), alpha))


def obrien_fleming(looks: int, alpha: float = 0.05) -> np.ndarray:
    """float64[looks]: c √(looks / look), wide at first (O'Brien & Fleming, Biometrics 1979)."""
    shape = np.sqrt(_checked(looks) / np.arange(1, looks + 1))
    return _solve(shape, alpha) * shape


def crossing_probability(bounds: np.ndarray) -> float:
    """The chance that |z| exceeds its bound at any of equally spaced looks, where there is no difference."""
    inside = stats.norm.cdf(bounds[0]) - stats.norm.cdf(-bounds[0])
    if len(bounds) == 1:
        return float(1 - inside)
    # The density of the sum of k increments N(0, 1) that has stayed inside, look by look, on a grid.
    grid = np.linspace(-bounds[0], bounds[0], _GRID_POINTS)
    density = stats.norm.pdf(grid)
    for look in range(2, len(bounds) + 1):
        edge = bounds[look - 1] * np.sqrt(look)
        following = np.linspace(-edge, edge, _GRID_POINTS)
        kernel = stats.norm.pdf(following[:, None] - grid[None, :])
        density = integrate.simpson(kernel * density[None, :], x=grid, axis=1)
        grid = following
    return float(1 - integrate.simpson(density, x=grid))


def _solve(shape: np.ndarray, alpha: float) -> float:
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha = {alpha}", remedy="an error between 0 and 1, such as .05")
    return float(optimize.brentq(lambda c: crossing_probability(c * shape) - alpha, 0.01, 20, xtol=1e-6))


def _checked(looks: int) -> int:
    if not 1 <= looks <= MAX_LOOKS:
        raise ConfigError(f"{looks} looks", remedy=f"1 to {MAX_LOOKS}; for more, always-valid intervals")
    return looks
