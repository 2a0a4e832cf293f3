"""EventLog: a data set whose events lie in blocks of users in the shared folder, where tasks read them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from scipy import sparse

from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.engines.array_files import read_frame, read_matrix_parts, write_frame, write_matrix
from zhiyin.engines.spark.engine import SparkEngine

# What makes a matrix, histories × items, of the histories of a block: module-level, or a partial of such a function.
MakeMatrix = Callable[[Histories, int], sparse.csr_matrix]


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Ranges of rows, one file or more each, in the shared folder.

    Parameters
    ----------
    folder: of the files; those of block b are named by `block_name(b)`.
    bounds: int64[b + 1]; block b has the rows bounds[b]:bounds[b + 1].
    """

    folder: Path
    bounds: np.ndarray

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def tasks(self) -> list[tuple[int, int, int]]:
        """(block, first row, row after the last) of each block."""
        return [(at, *bounds) for at, bounds in enumerate(zip(self.bounds[:-1].tolist(), self.bounds[1:].tolist()))]


@dataclasses.dataclass(frozen=True)
class EventLog:
    """A data set, and the same events in blocks by user code.

    Parameters
    ----------
    data: ids, items, users and events; what the driver needs of the log.
    blocks: Arrow files with the columns of the events, sorted by (user, time), a range of users each.
    """

    data: Dataset
    blocks: Blocks

    @classmethod
    def publish(cls, engine: SparkEngine, data: Dataset) -> EventLog:
        """Write the events of a data set into the shared folder."""
        offsets = data.histories.offsets
        bounds = equal_bounds(np.diff(offsets), engine.n_blocks(data.n_events, data.n_users))
        blocks = Blocks(engine.new_folder("events"), bounds)
        columns = pl.col("kind").to_physical(), pl.col("value").fill_null(np.nan)
        for block, start, stop in blocks.tasks:
            events = data.events[int(offsets[start]) : int(offsets[stop])]
            write_frame(blocks.folder / f"{block_name(block)}.arrow", events.with_columns(*columns))
        return cls(data, blocks)

    def matrices(self, engine: SparkEngine, make: MakeMatrix, run: Run, label: str) -> Blocks:
        """CSR matrices, users × items, of the histories of each block."""
        out = Blocks(engine.new_folder("matrix"), self.blocks.bounds)
        folders, now = (str(self.blocks.folder), str(out.folder)), self.data.window[1]
        task = partial(_make_matrix, make, *folders, self.data.n_items, now)
        engine.run_tasks(task, out.tasks, run, label)
        return out

    def matrix(self, engine: SparkEngine, how: str, run: Run, label: str) -> sparse.csr_matrix:
        """`Dataset.matrix`, made on the workers."""
        return joined_matrix(self.matrix_blocks(engine, how, run, label), (self.data.n_users, self.data.n_items))

    def matrix_blocks(self, engine: SparkEngine, how: str, run: Run, label: str) -> Blocks:
        """`Dataset.matrix` in blocks of users, made on the workers."""
        return self.matrices(engine, partial(_matrix, how), run, label)


def block_name(block: int) -> str:
    return f"{block:06d}"


def equal_bounds(work: np.ndarray, n_blocks: int) -> np.ndarray:
    """int64[n_blocks + 1]: bounds of ranges of rows of about equal work, at least one row each.

    Parameters
    ----------
    work: float64[n] or int64[n], of each row; n_blocks is at most n, or 1.
    """
    total = np.concatenate([[0.0], np.cumsum(np.asarray(work, dtype=np.float64) + 1e-9)])
    inner = np.searchsorted(total, total[-1] * np.arange(1, n_blocks) / n_blocks)
    bounds = np.concatenate([[0], inner, [len(work)]]).astype(np.int64)
    # A row that is heavier than a block leaves no rows to its neighbours: each block gets at least one.
    steps = np.arange(n_blocks + 1)
    bounds = np.maximum.accumulate(bounds - steps) + steps
    return np.minimum(bounds, len(work) - n_blocks + steps) if n_blocks <= len(work) else bounds


def joined_matrix(blocks: Blocks, shape: tuple[int, int]) -> sparse.csr_matrix:
    """The matrix of all blocks."""
    parts = [read_matrix_parts(blocks.folder, block_name(block)) for block in range(len(blocks))]
    counts = np.concatenate([np.diff(indptr) for indptr, _, _ in parts])
    indptr = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    matrix = sparse.csr_matrix(
        (np.concatenate([part[2] for part in parts]), np.concatenate([part[1] for part in parts]), indptr), shape=shape
    )
    if len(matrix.data) < 2**31:  # the index types of `Histories.matrix`
        matrix.indptr, matrix.indices = matrix.indptr.astype(np.int32), matrix.indices.astype(np.int32)
    return matrix


# -- on the workers ----------------------------------------------------------------------------------------------------


def read_histories(folder: Path, block: int, start: int, stop: int, now: int) -> Histories:
    """The histories of the users start..stop of a block."""
    events = read_frame(folder / f"{block_name(block)}.arrow")
    counts = np.bincount(events["user"].to_numpy() - start, minlength=stop - start)
    return Histories(
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        events["item"].to_numpy(),
        events["weight"].to_numpy(),
        events["time"].to_numpy(),
        events["kind"].to_numpy(),
        events["value"].to_numpy(),
        np.full(stop - start, now, dtype=np.int64),
        np.arange(start, stop, dtype=np.int32),
    )


def _matrix(how: str, histories: Histories, n_items: int) -> sparse.csr_matrix:
    return histories.matrix(n_items, how)


def _make_matrix(make: MakeMatrix, events: str, out: str, n_items: int, now: int, task: tuple[int, int, int]) -> None:
    block, start, stop = task
    histories = read_histories(Path(events), block, start, stop, now)
    # One history alone is summed in another way than many: an empty one beside it makes it many.
    alone = len(histories) == 1
    matrix = make(histories.take(np.array([0, -1])) if alone else histories, n_items)
    write_matrix(Path(out), block_name(block), matrix[:1] if alone else matrix)
