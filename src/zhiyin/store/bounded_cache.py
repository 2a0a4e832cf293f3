"""A cache with two bounds: on its entries, and on the sum of their sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from zhiyin.core.errors import MissingExtraError

try:
    import cachetools
except ImportError:
    raise MissingExtraError("cachetools", "serve", "the live state") from None

K = TypeVar("K")
V = TypeVar("V")


class BoundedCache(cachetools.LRUCache[K, V]):
    """Drops the entry that was not used for the longest time. A value larger than all may be is not held.

    Parameters
    ----------
    max_entries, max_size: entries, and the sum of their sizes, at most.
    size_of: size of a value. One that is changed in place is to be set again.
    """

    def __init__(self, max_entries: int, max_size: int, size_of: Callable[[V], int]) -> None:
        super().__init__(max_size, getsizeof=size_of)
        self.max_entries = max_entries

    def __setitem__(self, key: K, value: V) -> None:
        if self.getsizeof(value) > self.maxsize:
            self.pop(key, None)
            return
        super().__setitem__(key, value)
        while len(self) > self.max_entries:
            self.popitem()

    def peek(self, key: K) -> V | None:
        """The value of a key, which does not count as use; None where there is none."""
        return cachetools.Cache.__getitem__(self, key) if key in self else None
