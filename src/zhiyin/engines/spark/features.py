"""Point-in-time features on Spark: `AsOf.numbers` for ranges of requests."""

from __future__ import annotations

import functools
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zhiyin.core.run import Run
from zhiyin.data.histories import Histories
from zhiyin.engines.array_files import read_array, write_array
from zhiyin.engines.histories_files import read_histories, write_histories
from zhiyin.engines.spark.engine import SparkEngine
from zhiyin.engines.spark.event_log import Blocks, block_name, equal_bounds
from zhiyin.ranking.asof import AsOf
from zhiyin.ranking.examples import Candidates


def point_in_time_features(
    engine: SparkEngine, index: AsOf, histories: Histories, candidates: Candidates, run: Run | None = None
) -> np.ndarray:
    """As `index.numbers(histories, candidates)`, on the workers: float32[m, len(index.names)]."""
    run, folder = run or Run(), engine.new_folder("features")
    _write_index(folder, index)
    write_histories(folder, histories)
    write_array(folder / "offsets.npy", np.asarray(candidates.offsets, dtype=np.int64))
    write_array(folder / "items.npy", candidates.items)
    counts = np.diff(candidates.offsets)
    blocks = Blocks(folder, equal_bounds(counts + 1, engine.n_blocks(len(candidates.items), max(1, len(candidates)))))
    engine.run_tasks(partial(_compute_features, str(folder)), blocks.tasks, run, "Features")
    out = np.empty((len(candidates.items), len(index.names)), dtype=np.float32)
    for block, start, stop in blocks.tasks:
        out[candidates.offsets[start] : candidates.offsets[stop]] = read_array(folder / f"{block_name(block)}.npy")
    engine.remove(folder)
    return out


def _write_index(folder: Path, index: AsOf) -> None:
    values: dict[str, Any] = {}
    for name, value in index.state().items():
        if isinstance(value, np.ndarray):
            write_array(folder / f"index.{name}.npy", value)
            values[name] = None
        else:
            values[name] = value.item() if isinstance(value, np.generic) else value
    (folder / "index.json").write_text(json.dumps(values))


# -- on the workers ----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _index(folder: str) -> AsOf:
    values = json.loads((Path(folder) / "index.json").read_text())
    arrays = {name: read_array(Path(folder) / f"index.{name}.npy") for name, value in values.items() if value is None}
    return AsOf.from_state(values | arrays)


def _compute_features(folder: str, task: tuple[int, int, int]) -> None:
    block, start, stop = task
    place = Path(folder)
    offsets, items = read_array(place / "offsets.npy"), read_array(place / "items.npy")
    part = items[offsets[start] : offsets[stop]]
    nothing = np.zeros((len(part), 0), dtype=np.float32)
    candidates = Candidates(offsets[start : stop + 1] - offsets[start], part, (), nothing, nothing.astype(np.int32))
    numbers = _index(folder).numbers(read_histories(place, start, stop), candidates, Run(threads=1))
    write_array(place / f"{block_name(block)}.npy", numbers)
