"""ALS on Spark: blocks of rows of both sides, our half sweep in the tasks, vectors by file.

The matrix of confidences is cut into blocks of users. Its transpose, in blocks of items, is made by Spark's shuffle
once. In a half sweep each task solves the rows of its block with the vectors of the other side fixed. Rows do not hang
on each other, so the vectors are those of a single process, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Entries
from zhiyin.engines.array_files import read_array, read_matrix_parts, write_array, write_matrix
from zhiyin.engines.spark.engine import SparkEngine
from zhiyin.engines.spark.event_log import Blocks, EventLog, block_name, equal_bounds
from zhiyin.engines.spark.packed_rows import pack, schema_of, unpack
from zhiyin.models.als import ALS

if TYPE_CHECKING:
    import pyarrow as pa

_ENTRY = {"row": np.int32, "column": np.int32, "value": np.float32}


def fit_als(engine: SparkEngine, model: ALS, log: EventLog, run: Run) -> None:
    """Set what `ALS._fit` sets."""
    data = log.data
    users = log.matrices(engine, model.confidence, run, "ALS: blocks of users")
    items = transpose(engine, users, _item_bounds(engine, data), run)
    entries = np.concatenate([np.diff(read_matrix_parts(items.folder, block_name(b))[0]) for b in range(len(items))])
    x, y = model.initial_vectors(data.n_users, entries, run)
    improve = partial(_half_sweep, engine, model, run)
    model.sweep(partial(improve, users), partial(improve, items), x, y, model.epochs, run)


def transpose(engine: SparkEngine, blocks: Blocks, bounds: np.ndarray, run: Run) -> Blocks:
    """The transpose of a CSR matrix in blocks, in blocks of these bounds of its columns."""
    out = Blocks(engine.new_folder("transpose"), bounds)
    emit = partial(_emit_entries, str(blocks.folder), bounds)
    receive = partial(_receive_entries, str(out.folder), bounds)
    engine.exchange(emit, blocks.tasks, schema_of([*_ENTRY]), receive, len(out), run, "ALS: blocks of items")
    return out


def _item_bounds(engine: SparkEngine, data: Dataset) -> np.ndarray:
    events = np.bincount(data.events["item"].to_numpy(), minlength=data.n_items)
    return equal_bounds(events + 1, engine.n_blocks(data.n_events, data.n_items))


def _half_sweep(engine: SparkEngine, model: ALS, run: Run, blocks: Blocks, x: np.ndarray, y: np.ndarray) -> None:
    """Improve the rows of x in place, y fixed. yᵀy is summed here, in the order of a single process."""
    folder = engine.new_folder("vectors")
    write_array(folder / "x.npy", x)
    write_array(folder / "y.npy", y)
    write_array(folder / "gram.npy", y.T @ y)
    task = partial(_solve_block, model, str(blocks.folder), str(folder))
    engine.run_tasks(task, blocks.tasks, Run(progress=False), "ALS: a half sweep")
    for block, start, stop in blocks.tasks:
        x[start:stop] = read_array(folder / f"{block_name(block)}.npy")
    engine.remove(folder)


# -- on the workers ----------------------------------------------------------------------------------------------------


def _solve_block(model: ALS, blocks: str, folder: str, task: tuple[int, int, int]) -> None:
    block, start, stop = task
    place = Path(folder)
    rows = Entries(*read_matrix_parts(Path(blocks), block_name(block)))
    x = np.array(read_array(place / "x.npy")[start:stop])
    model.half_sweep(rows, x, read_array(place / "y.npy"), Run(threads=1), read_array(place / "gram.npy"))
    write_array(place / f"{block_name(block)}.npy", x)


def _emit_entries(folder: str, bounds: np.ndarray, task: tuple[int, int, int]) -> Iterator[pa.RecordBatch]:
    block, start, _ = task
    indptr, columns, values = read_matrix_parts(Path(folder), block_name(block))
    rows = np.repeat(np.arange(start, start + len(indptr) - 1, dtype=np.int32), np.diff(indptr))
    targets = (np.searchsorted(bounds, columns, side="right") - 1).astype(np.int32)
    yield from pack(targets, {"row": rows, "column": columns.astype(np.int32, copy=False), "value": values})


def _receive_entries(folder: str, bounds: np.ndarray, target: int, entries: pa.Table) -> None:
    """Write the block of columns bounds[target]:bounds[target + 1], their entries by ascending row."""
    from scipy import sparse

    start, stop = bounds[target], bounds[target + 1]
    rows, columns, values = unpack(entries, _ENTRY).values()
    order = np.lexsort((rows, columns))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(columns - start, minlength=stop - start))]).astype(np.int32)
    block = sparse.csr_matrix((stop - start, int(rows.max(initial=0)) + 1), dtype=np.float32)
    block.indptr, block.indices, block.data = indptr, rows[order].astype(np.int32), values[order].astype(np.float32)
    write_matrix(Path(folder), block_name(target), block)
