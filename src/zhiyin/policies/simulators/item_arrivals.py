"""A catalogue that grows: items that can be recommended from their release on."""

from __future__ import annotations

import numpy as np

from zhiyin.core.errors import DataError


class ItemArrivals:
    """Releases of items.

    Parameters
    ----------
    releases: int64[n_items], the step from which each item is there.

    >>> arrivals = ItemArrivals(np.array([0, 0, 5]))
    >>> arrivals.available(4).tolist(), arrivals.available(5).tolist()
    ([0, 1], [0, 1, 2])
    """

    def __init__(self, releases: np.ndarray) -> None:
        self.releases = np.asarray(releases)

    @classmethod
    def spread(cls, n_items: int, share: float, length: int, rng: np.random.Generator) -> ItemArrivals:
        """Releases of a share of the items, uniform over the steps 1 to length - 1; the others are there at step 0."""
        late = rng.permutation(n_items) < round(share * n_items)
        return cls(np.where(late, rng.integers(1, max(2, length), n_items), 0))

    def available(self, step: int) -> np.ndarray:
        """int64: items that are there at a step."""
        return np.flatnonzero(self.releases <= step)

    def candidates(self, step: int, n: int, k: int, rng: np.random.Generator) -> np.ndarray:
        """int64[n, k]: for each of n decisions k different items of those that are there, uniformly drawn.

        Raises DataError where there are fewer than k.
        """
        items = self.available(step)
        if len(items) < k:
            raise DataError(f"{len(items)} items at step {step}, {k} candidates", remedy="fewer candidates")
        if k == len(items):
            return np.tile(items, (n, 1))
        return items[np.argpartition(rng.random((n, len(items))), k - 1, axis=1)[:, :k]]
