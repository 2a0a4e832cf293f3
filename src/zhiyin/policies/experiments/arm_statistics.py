"""What an arm of an experiment has brought, as sums: enough for every test, and cheap to keep."""

from __future__ import annotations

import dataclasses

import numpy as np

from zhiyin.core.errors import DataError


@dataclasses.dataclass(frozen=True)
class Sample:
    """Sums over the n units (users) of an arm, of a metric y and a second number x of each.

    x is the denominator of a ratio (clicks by impressions), or what the unit did before the experiment (CUPED).

    Parameters
    ----------
    n: units. y, x: sums. yy, xx, xy: sums of squares and products.
    """

    n: int
    y: float
    yy: float
    x: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    @classmethod
    def of(cls, y: np.ndarray, x: np.ndarray | None = None) -> Sample:
        """Of one number a unit, float[n]. Raises DataError where they are not finite or not of one length."""
        y = np.asarray(y, dtype=np.float64)
        x = np.zeros(len(y)) if x is None else np.asarray(x, dtype=np.float64)
        if y.ndim != 1 or y.shape != x.shape or not (np.isfinite(y).all() and np.isfinite(x).all()):
            raise DataError("a sample needs finite numbers, one of each kind a unit", remedy="drop units without them")
        return cls(len(y), float(y.sum()), float(y @ y), float(x.sum()), float(x @ x), float(x @ y))

    @property
    def mean(self) -> float:
        return self.y / self.n

    @property
    def variance(self) -> float:
        """Of y, unbiased."""
        return max(self.yy - self.y**2 / self.n, 0.0) / (self.n - 1)

    @property
    def variance_x(self) -> float:
        return max(self.xx - self.x**2 / self.n, 0.0) / (self.n - 1)

    @property
    def covariance(self) -> float:
        return (self.xy - self.x * self.y / self.n) / (self.n - 1)

    def __add__(self, other: Sample) -> Sample:
        parts = zip(dataclasses.astuple(self), dataclasses.astuple(other))
        return Sample(*(one + two for one, two in parts))
