"""What processes that work on one data set exchange: sums, arrays and errors. One process alone exchanges nothing.

Every process makes the same calls in the same order. The exchange between several is in `models/neural/distributed.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from zhiyin.core.errors import DataError, ZhiyinError

T = TypeVar("T")


class ProcessGroup:
    """Processes with numbers from 0 to world - 1; this class is one process alone."""

    rank: int = 0
    world: int = 1

    def sum(self, array: np.ndarray) -> np.ndarray:
        """The sum of the arrays of all processes, of equal shape and type; bool is summed as int64."""
        return array.astype(np.int64) if array.dtype == bool else array

    def gather(self, array: np.ndarray) -> list[np.ndarray]:
        """The arrays of all processes, of one dimension, equal type and any length, by rank."""
        return [array]

    def gather_first(self, array: np.ndarray) -> list[np.ndarray]:
        """As `gather` in the first process; the others get an empty list."""
        return [array]

    def together(self, function: Callable[[], T]) -> T:
        """The result of a function that exchanges nothing.

        Where it raises a ZhiyinError in a process, all processes raise that of the lowest rank, so that none waits for
        another; those but the first are `silent`.
        """
        result, error = None, None
        try:
            result = function()
        except ZhiyinError as raised:
            error = raised
        if self.world > 1:
            texts = self.gather(np.frombuffer(str(error or "").encode(), dtype=np.uint8))
            failed = [rank for rank, text in enumerate(texts) if len(text)]
            if failed:
                shared = error if error is not None and failed[0] == self.rank else None
                shared = shared or DataError(texts[failed[0]].tobytes().decode(errors="replace"))
                shared.silent = self.rank > 0
                raise shared from None
        if error is not None:
            raise error
        return result  # type: ignore[return-value]


ALONE = ProcessGroup()
