"""Computations by ranges of rows on Spark: inputs are files that all workers map, outputs a file a range."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zhiyin.core.run import Run
from zhiyin.engines.array_files import read_array, write_array
from zhiyin.engines.spark.engine import SparkEngine
from zhiyin.engines.spark.event_log import Blocks, block_name, equal_bounds
from zhiyin.models.row_computation import RowComputation

# Ranges a worker thread: rows are cut by their estimated work, which is rough.
RANGES_PER_SLOT = 8


def compute_rows(engine: SparkEngine, rows: RowComputation, run: Run, label: str) -> tuple[np.ndarray, ...]:
    """As `RowComputation.run`, on the workers."""
    folder = engine.new_folder("rows")
    for number, array in enumerate(rows.inputs):
        write_array(folder / f"input-{number}.npy", np.ascontiguousarray(array))
    work = np.ones(rows.n_rows) if rows.cost is None else rows.cost
    ranges = Blocks(folder, equal_bounds(work, max(1, min(rows.n_rows, RANGES_PER_SLOT * engine.slots))))
    task = partial(_compute_range, rows.compute, rows.settings, len(rows.inputs), rows.outputs, str(folder))
    engine.run_tasks(task, ranges.tasks, run, label)
    outputs = rows.allocate(rows.n_rows)
    for block, start, stop in ranges.tasks:
        for number, output in enumerate(outputs):
            output[start:stop] = read_array(folder / f"{block_name(block)}-{number}.npy")
    engine.remove(folder)
    return outputs


# -- on the workers ----------------------------------------------------------------------------------------------------


def _compute_range(
    compute: Any,
    settings: tuple[Any, ...],
    n_inputs: int,
    outputs: tuple[tuple[Any, Any, int], ...],
    folder: str,
    task: tuple[int, int, int],
) -> None:
    block, start, stop = task
    place = Path(folder)
    inputs = tuple(read_array(place / f"input-{number}.npy") for number in range(n_inputs))
    arrays = RowComputation(stop - start, inputs, settings, compute, outputs).allocate(stop - start)
    compute(inputs, settings, start, stop, arrays)
    for number, array in enumerate(arrays):
        write_array(place / f"{block_name(block)}-{number}.npy", array)
