"""Evaluation on Spark: lists and the metrics of each user in the tasks, means and intervals at the driver."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zhiyin.core.run import Run
from zhiyin.engines.array_files import read_array, write_array
from zhiyin.engines.histories_files import read_histories, write_histories
from zhiyin.engines.spark.engine import SparkEngine
from zhiyin.engines.spark.event_log import Blocks, block_name, equal_bounds
from zhiyin.engines.spark.worker_models import loaded_model
from zhiyin.evaluation.model_evaluation import Window, WindowResult, evaluate_window, joined_results
from zhiyin.models.recommender import Recommender


def write_window(engine: SparkEngine, window: Window) -> Path:
    """Write a window into the shared folder, for all models that are evaluated on it."""
    folder = engine.new_folder("window")
    write_histories(folder, window.histories)
    for name in ("users", "offsets", "items"):
        write_array(folder / f"{name}.npy", getattr(window, name))
    write_array(folder / "candidates.npy", window.train.candidates)
    return folder


def evaluate_on_workers(
    engine: SparkEngine,
    model: Recommender,
    window: Window,
    window_folder: Path,
    ks: Sequence[int],
    run: Run,
    *,
    auc: bool = False,
    label: str = "",
) -> WindowResult:
    """As `evaluate_window`. window_folder: where `write_window` wrote the window. Seconds are those of all tasks."""
    folder = engine.new_folder("evaluation")
    model.save(folder / "model")
    bounds = equal_bounds(window.histories.lengths + 1, engine.n_blocks(len(window.histories.items), len(window)))
    blocks = Blocks(folder, bounds)
    worker_run = dataclasses.replace(run, threads=1, callbacks=(), progress=False)
    settings = (list(ks), worker_run, auc, window.exclude_seen)
    task = partial(_evaluate_block, str(folder), str(window_folder), settings)
    done = engine.run_tasks(task, blocks.tasks, run, label)
    result = joined_results([_read_result(folder, block, *answer) for block, answer in enumerate(done)])
    engine.remove(folder)
    return result


def _read_result(folder: Path, block: int, seconds: float, metrics: Sequence[str]) -> WindowResult:
    """metrics: names, in the order in which they were computed."""

    def read(name: str) -> np.ndarray:
        return read_array(folder / f"{block_name(block)}.{name}.npy")

    return WindowResult(read("lists"), read("hits"), {name: read(name) for name in metrics}, seconds)


# -- on the workers ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Candidates:
    """What `evaluate_window` reads of the training part."""

    candidates: np.ndarray


def _evaluate_block(
    folder: str, users: str, settings: tuple[Any, ...], task: tuple[int, int, int]
) -> tuple[float, list[str]]:
    """Seconds, and the names of the metrics of each user."""
    block, start, stop = task
    ks, run, auc, exclude_seen = settings
    place, window = Path(folder), Path(users)
    offsets, items = read_array(window / "offsets.npy"), read_array(window / "items.npy")
    part = Window(
        _Candidates(read_array(window / "candidates.npy")),  # type: ignore[arg-type]
        read_array(window / "users.npy")[start:stop],
        read_histories(window, start, stop),
        offsets[start : stop + 1] - offsets[start],
        items[offsets[start] : offsets[stop]],
        exclude_seen,
        0,
        0,
        0,
    )
    result = evaluate_window(loaded_model(str(place / "model")), part, ks, run, auc=auc)
    arrays = {"lists": result.lists, "hits": result.hits, **result.per_user}
    for name, array in arrays.items():
        write_array(place / f"{block_name(block)}.{name}.npy", array)
    return result.seconds, list(result.per_user)
