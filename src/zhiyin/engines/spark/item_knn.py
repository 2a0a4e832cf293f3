"""ItemKNN on Spark: all pairs of user and item shared to each task, or, past a size, sums over blocks of users.

Past that size the driver never has the pairs, and a task has one block of users at a time: it sums a range of rows of
the items' Gram matrix over all blocks, in the order of the users, so that sums of weights are those of a single
process, too.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
from scipy import sparse

from zhiyin.core.run import Run
from zhiyin.engines.array_files import read_array, read_matrix_parts, write_array, write_matrix
from zhiyin.engines.spark.engine import SparkEngine
from zhiyin.engines.spark.event_log import Blocks, EventLog, block_name, equal_bounds, joined_matrix
from zhiyin.engines.spark.row_ranges import RANGES_PER_SLOT, compute_rows
from zhiyin.models.cooccurrence import by_code
from zhiyin.models.item_to_item import to_csr
from zhiyin.models.neighbors import ItemKNN, add_squares
from zhiyin.models.row_computation import BlockSums

MAX_SHARED_PAIRS = 200_000_000  # the driver needs about 40 bytes for each, a task maps 8 to 16
MAX_SUM_BYTES = 512 * 2**20  # of the sums of one task


def fit_item_knn(engine: SparkEngine, model: ItemKNN, events: EventLog, run: Run) -> None:
    """Set what `ItemKNN._fit` sets."""
    n_users, n_items = events.data.n_users, events.data.n_items
    users = events.matrix_blocks(engine, model.counted, run, "ItemKNN: pairs of user and item")
    n_pairs = sum(len(read_matrix_parts(users.folder, block_name(block))[1]) for block in range(len(users)))
    if n_pairs <= MAX_SHARED_PAIRS:
        rows, code = model.table_rows(joined_matrix(users, (n_users, n_items)))
        items, values = compute_rows(engine, rows, run, "ItemKNN")
    else:
        items, values, code = _table_by_blocks(engine, model, users, n_items, run)
    if code is not None:
        items, values = by_code(items, values, code)
    model.similarities_ = to_csr(items, values, n_items)  # type: ignore[misc]


def _table_by_blocks(
    engine: SparkEngine, model: ItemKNN, users: Blocks, n_items: int, run: Run
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """What `RowComputation.run` and `table_rows` return: items and values of the table, and the item of each row."""
    folder = engine.new_folder("item-knn")
    names = [block_name(block) for block in range(len(users))]
    count = partial(_write_counts, str(users.folder), str(folder), n_items)
    engine.run_tasks(count, users.tasks, run, "ItemKNN: counts of items")
    pairs, lengths = np.zeros(n_items, dtype=np.int64), np.zeros(n_items, dtype=np.float64)
    for name in names:
        pairs += read_array(folder / f"{name}.pairs.npy")
        lengths += read_array(folder / f"{name}.lengths.npy")
    write_array(folder / "lengths.npy", lengths.astype(np.float32))
    weighted, rank = model.counted != "binary", np.zeros(0, dtype=np.int32)
    square = np.zeros(n_items, dtype=np.float32)
    sums, code = model.table_sums(pairs, square)
    if code is not None:
        rank = np.argsort(code).astype(np.int32)
    write_array(folder / "rank.npy", rank)
    prepare = partial(_write_both_ways, model, str(users.folder), str(folder), n_items)
    engine.run_tasks(prepare, users.tasks, run, "ItemKNN: blocks of users")
    if weighted:  # in the order of a single process
        for name in names:
            _, indices, data = read_matrix_parts(folder, f"{name}.users")
            add_squares(indices, data, square)
    for number, array in enumerate(sums.inputs):
        write_array(folder / f"input-{number}.npy", array)
    ranges = Blocks(folder, _range_bounds(engine, sums))
    sent = dataclasses.replace(sums, inputs=(), cost=np.zeros(0))  # these are files, so that they do not travel
    task = partial(_sum_range, sent, len(sums.inputs), names, str(folder))
    engine.run_tasks(task, ranges.tasks, run, "ItemKNN")
    parts = [[read_array(_result(folder, block, part)) for block in range(len(ranges))] for part in ("items", "values")]
    engine.remove(folder)
    return np.concatenate(parts[0]), np.concatenate(parts[1]), code


def _range_bounds(engine: SparkEngine, sums: BlockSums) -> np.ndarray:
    """Bounds of ranges of rows of about equal work, whose sums take no more than MAX_SUM_BYTES."""
    most = max(1, MAX_SUM_BYTES // (4 * sums.n_items))
    bounds = equal_bounds(sums.cost, max(1, min(sums.n_items, RANGES_PER_SLOT * engine.slots)))
    return np.unique(np.concatenate([bounds, np.arange(0, sums.n_items, most)]))


# -- on the workers ----------------------------------------------------------------------------------------------------


def _write_counts(source: str, folder: str, n_items: int, task: tuple[int, int, int]) -> None:
    """For each item the pairs of a block, and the sum of their counts."""
    name = block_name(task[0])
    _, items, counts = read_matrix_parts(Path(source), name)
    write_array(Path(folder) / f"{name}.pairs.npy", np.bincount(items, minlength=n_items))
    write_array(Path(folder) / f"{name}.lengths.npy", np.bincount(items, weights=counts, minlength=n_items))


def _write_both_ways(model: ItemKNN, source: str, folder: str, n_items: int, task: tuple[int, int, int]) -> None:
    """A block users × items, weighted or with items by rank, and its transpose."""
    block, start, stop = task
    place, name = Path(folder), block_name(block)
    indptr, items, counts = read_matrix_parts(Path(source), name)
    rank = read_array(place / "rank.npy")
    if len(rank):
        users = sparse.csr_matrix((counts, rank[items], indptr), shape=(stop - start, n_items))
    else:
        counted = sparse.csr_matrix((counts, items, indptr), shape=(stop - start, n_items))
        users = model.weights(counted, read_array(place / "lengths.npy"))
    write_matrix(place, f"{name}.users", users)
    write_matrix(place, f"{name}.items", users.T.tocsr())


def _sum_range(sums: BlockSums, n_inputs: int, names: list[str], folder: str, task: tuple[int, int, int]) -> None:
    block, start, stop = task
    place = Path(folder)
    inputs = tuple(read_array(place / f"input-{number}.npy") for number in range(n_inputs))
    blocks = (
        (*read_matrix_parts(place, f"{name}.items"), *read_matrix_parts(place, f"{name}.users")) for name in names
    )
    items, values = dataclasses.replace(sums, inputs=inputs).run(blocks, start, stop)
    write_array(_result(place, block, "items"), items)
    write_array(_result(place, block, "values"), values)


def _result(folder: Path, block: int, part: str) -> Path:
    return folder / f"{block_name(block)}.table.{part}.npy"
