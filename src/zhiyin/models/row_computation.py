"""Arrays that are computed by ranges of rows, each from inputs that do not change: on threads here, or on a cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from zhiyin.core.parallel import for_chunks
from zhiyin.core.run import Run


@dataclasses.dataclass(frozen=True)
class RowComputation:
    """How the rows of some arrays are computed.

    Parameters
    ----------
    n_rows: number of rows.
    inputs: arrays that every range of rows reads.
    settings: numbers and flags.
    compute: a module-level function (inputs, settings, start, stop, outputs) that fills the rows start..stop of the
        outputs, given as arrays of stop - start rows.
    outputs: fill value, type and number of columns of each output.
    cost: float64[n_rows], the work of each row in any unit, so that ranges of equal work can be made; None: all equal.
    """

    n_rows: int
    inputs: tuple[np.ndarray, ...]
    settings: tuple[Any, ...]
    compute: Callable[[tuple[np.ndarray, ...], tuple[Any, ...], int, int, tuple[np.ndarray, ...]], None]
    outputs: tuple[tuple[Any, Any, int], ...]
    cost: np.ndarray | None = None

    def allocate(self, n: int) -> tuple[np.ndarray, ...]:
        """Outputs of n rows, filled with their fill values."""
        return allocate(self.outputs, n)

    def run(self, run: Run, chunk: int = 0, label: str = "") -> tuple[np.ndarray, ...]:
        """The outputs, computed on the threads of the run."""
        outputs = self.allocate(self.n_rows)

        def work(start: int, stop: int) -> None:
            self.compute(self.inputs, self.settings, start, stop, tuple(array[start:stop] for array in outputs))

        for_chunks(work, self.n_rows, run, chunk=chunk, label=label)
        return outputs


@dataclasses.dataclass(frozen=True)
class BlockSums:
    """How a table of neighbours is computed where no machine shall hold all pairs of user and item: rows of the Gram
    matrix of items are summed over blocks of users, which are read one after another, in the order of the users.

    Parameters
    ----------
    n_items: rows of the table, and columns of the Gram matrix.
    dtype: of its sums, of 4 bytes.
    add: a module-level function (block, start, stop, totals) that adds a block's share of the rows start..stop of the
        Gram matrix to totals[stop - start, n_items]. A block is indptr, indices and data of CSR items × users, then of
        CSR users × items; users are numbered within it.
    inputs, settings, outputs, cost: as of `RowComputation`.
    finish: a module-level function (inputs, settings, start, stop, totals, outputs) that fills the rows start..stop of
        the outputs, given as arrays of stop - start rows. `totals` is lost.
    """

    n_items: int
    dtype: Any
    add: Callable[[tuple[np.ndarray, ...], int, int, np.ndarray], None]
    inputs: tuple[np.ndarray, ...]
    settings: tuple[Any, ...]
    finish: Callable[[tuple[np.ndarray, ...], tuple[Any, ...], int, int, np.ndarray, tuple[np.ndarray, ...]], None]
    outputs: tuple[tuple[Any, Any, int], ...]
    cost: np.ndarray

    def run(self, blocks: Iterable[tuple[np.ndarray, ...]], start: int, stop: int) -> tuple[np.ndarray, ...]:
        """The rows start..stop of the outputs."""
        totals = np.zeros((stop - start, self.n_items), dtype=self.dtype)
        for block in blocks:
            self.add(block, start, stop, totals)
        outputs = allocate(self.outputs, stop - start)
        self.finish(self.inputs, self.settings, start, stop, totals, outputs)
        return outputs


def allocate(outputs: tuple[tuple[Any, Any, int], ...], n: int) -> tuple[np.ndarray, ...]:
    """Outputs of n rows, filled with their fill values."""
    return tuple(
        np.zeros((n, width), dtype=dtype) if fill == 0 else np.full((n, width), fill, dtype=dtype)
        for fill, dtype, width in outputs
    )


def table_outputs(k: int) -> tuple[tuple[Any, Any, int], ...]:
    """The outputs of a table of k neighbours a row: items int32, -1 for none, and values float32."""
    return ((-1, np.int32, k), (0, np.float32, k))
