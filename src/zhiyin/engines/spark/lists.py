"""Lists for all users on Spark: the same answers, under the same filters and rules, a range of users a task."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.run import Run
from zhiyin.data.catalogue import Catalogue
from zhiyin.engines.array_files import read_frame, write_frame
from zhiyin.engines.spark.engine import SparkEngine
from zhiyin.engines.spark.event_log import Blocks, block_name, equal_bounds
from zhiyin.engines.spark.worker_models import loaded_model
from zhiyin.models.recommender import Recommender
from zhiyin.pipeline.answers import Answers


def recommend_all(
    engine: SparkEngine,
    model: Recommender | Path,
    k: int,
    *,
    catalogue: Catalogue | None = None,
    settings: Mapping[str, Any] | None = None,
    users: pl.Series | None = None,
    options: Mapping[str, Any] | None = None,
    now: int | None = None,
    run: Run | None = None,
) -> pl.DataFrame:
    """As `Answers.ask_many`, on the workers.

    Parameters
    ----------
    model: a fitted model, or the folder of a saved one.
    catalogue: items and users that filters and rules read.
    settings: further arguments of `Answers`, such as `rules`.
    users: raw ids; None: all users of the training data.
    options: of `ask_many`, such as `filter`.
    now: microseconds UTC; None: the present.

    Returns the frame of `ask_many`.
    """
    run, folder = run or Run(), engine.new_folder("lists")
    if isinstance(model, Recommender):
        model.save(folder / "model")
    elif engine.is_local:
        (folder / "model").symlink_to(Path(model).resolve(), target_is_directory=True)
    else:  # workers see the shared folder, and perhaps not that of the model
        shutil.copytree(model, folder / "model")
    if catalogue is not None:
        catalogue.save(folder)
    if users is None:
        users = loaded_model(str(folder / "model"))._context().user_ids.values
    write_frame(folder / "users.arrow", users.alias("user").to_frame())
    n_blocks = max(1, min(len(users), engine.n_blocks(0, len(users))))
    blocks = Blocks(folder, equal_bounds(np.ones(len(users)), n_blocks))
    moment = time.time_ns() // 1000 if now is None else now
    worker_run = dataclasses.replace(run, threads=1, callbacks=(), progress=False)
    answer_settings = (dict(settings or {}), worker_run)
    task = partial(_recommend_block, str(folder), answer_settings, k, {**(options or {}), "now": moment})
    engine.run_tasks(task, blocks.tasks, run, "Recommending")
    # Read before the files go: a mapped file keeps its content where the system lets an open file be removed.
    frame = pl.concat([read_frame(folder / f"{block_name(block)}.arrow") for block in range(len(blocks))], rechunk=True)
    engine.remove(folder)
    return frame


# -- on the workers ----------------------------------------------------------------------------------------------------

_answers: dict[str, Answers] = {}  # of the last job


def _answers_of(folder: str, settings: tuple[dict[str, Any], Run]) -> Answers:
    if folder not in _answers:
        _answers.clear()
        arguments, run = settings
        catalogue = Catalogue.load(Path(folder))
        frames: dict[str, Any] = {}
        if catalogue is not None:
            frames = {"items": catalogue.items, "users": catalogue.users, "kinds": catalogue.kinds}
            frames["links"] = catalogue.learned_links
        _answers[folder] = Answers(loaded_model(f"{folder}/model"), **frames, run=run, **arguments)
    return _answers[folder]


def _recommend_block(
    folder: str, settings: tuple[dict[str, Any], Run], k: int, options: dict[str, Any], task: tuple[int, int, int]
) -> None:
    block, start, stop = task
    users = read_frame(Path(folder) / "users.arrow")["user"][start:stop]
    # Each user has the seed that it has where all of them are asked for at once.
    seeded = {**options, "seed": options.get("seed", 0) + start}
    frame = _answers_of(folder, settings).ask_many(users, k, **seeded)
    write_frame(Path(folder) / f"{block_name(block)}.arrow", frame)
