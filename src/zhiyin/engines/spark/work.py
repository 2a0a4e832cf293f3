"""SparkWork: reading, fitting and evaluating on an engine, where each data set goes into the shared folder once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.pictures import find_pictures, split_image_column
from zhiyin.engines.spark.engine import SparkEngine
from zhiyin.engines.spark.evaluation import evaluate_on_workers, write_window
from zhiyin.engines.spark.event_log import EventLog
from zhiyin.engines.spark.fitting import JOBS, fit, has_job
from zhiyin.engines.spark.reading import read_log
from zhiyin.engines.spark.sessions import write_sessions
from zhiyin.engines.spark.shards import write_shards
from zhiyin.evaluation.model_evaluation import Window, WindowResult
from zhiyin.models.recommender import Recommender


class SparkWork:
    """How `zhiyin.evaluate` (its `work`), `train_models` (its `fit`) and runs (their `learner`) use an engine."""

    def __init__(self, engine: SparkEngine) -> None:
        self.engine = engine
        # The log that was read in parts, and the data set that was published last.
        self._log: EventLog | None = None
        self._published: EventLog | None = None
        self._windows: dict[int, tuple[Window, Path]] = {}

    def read(self, run: Run | None = None, images: Any = None, **arguments: Any) -> Dataset:
        """As `zhiyin.read`, with its arguments."""
        arguments["columns"], image = split_image_column(arguments.get("columns"))
        self._log = read_log(self.engine, run=run, **arguments)
        self._log.data.images = find_pictures(images, image, self._log.data.items)
        return self._log.data

    def write_shards(self, data: Dataset, folder: Path, n_shards: int, run: Run) -> Path:
        """As `zhiyin.write_shards`."""
        return write_shards(self.engine, self._events(data), folder, n_shards, run)

    def fit(self, model: Recommender, train: Dataset, run: Run) -> None:
        """As `Recommender.fit`."""
        fit(self.engine, model, self._events(train), run)

    def learner(self, model: Recommender) -> Callable[[Dataset, Run], None] | None:
        """See `Run.learner`: the model's job on the engine, if it has one."""
        if not has_job(model):
            return None

        def learn(data: Dataset, run: Run) -> None:
            JOBS[type(model)](self.engine, model, self._events(data), run)

        return learn

    def write_sessions(self, data: Dataset, output: str | os.PathLike[str], gap: str, run: Run) -> int:
        """See `sessions.write_sessions`."""
        return write_sessions(self.engine, self._events(data), output, gap, run)

    def _events(self, data: Dataset) -> EventLog:
        """The events of a data set in the shared folder; those of the one that was published before are removed."""
        for log in (self._log, self._published):
            if log is not None and log.data is data:
                return log
        if self._published is not None:
            self.engine.remove(self._published.blocks.folder)
        self._published = EventLog.publish(self.engine, data)
        return self._published

    def evaluate_window(
        self, model: Recommender, window: Window, ks: Sequence[int], run: Run, *, auc: bool = False, label: str = ""
    ) -> WindowResult:
        """As `model_evaluation.evaluate_window`."""
        if id(window) not in self._windows:
            self._windows[id(window)] = window, write_window(self.engine, window)
        folder = self._windows[id(window)][1]
        return evaluate_on_workers(self.engine, model, window, folder, ks, run, auc=auc, label=label)
