"""SparkWork: reading, fitting and evaluating on an engine, where each data set goes into the shared folder once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.engines.spark.engine import SparkEngine
from zhiyin.engines.spark.evaluation import evaluate_on_workers, write_window
from zhiyin.engines.spark.event_log import EventLog
from zhiyin.engines.spark.fitting import fit
from zhiyin.engines.spark.reading import read_log
from zhiyin.evaluation.model_evaluation import Window, WindowResult
from zhiyin.models.recommender import Recommender


class SparkWork:
    """How `zhiyin.evaluate` (its `work`) and `train_models` (its `fit`) use an engine."""

    def __init__(self, engine: SparkEngine) -> None:
        self.engine = engine
        self._log: EventLog | None = None
        self._windows: dict[int, tuple[Window, Path]] = {}

    def read(self, run: Run | None = None, **arguments: Any) -> Dataset:
        """As `zhiyin.read`, with its arguments."""
        self._log = read_log(self.engine, run=run, **arguments)
        return self._log.data

    def fit(self, model: Recommender, train: Dataset, run: Run) -> None:
        """As `Recommender.fit`."""
        if self._log is None or self._log.data is not train:
            self._log = EventLog.publish(self.engine, train)
        fit(self.engine, model, self._log, run)

    def evaluate_window(
        self, model: Recommender, window: Window, ks: Sequence[int], run: Run, *, auc: bool = False, label: str = ""
    ) -> WindowResult:
        """As `model_evaluation.evaluate_window`."""
        if id(window) not in self._windows:
            self._windows[id(window)] = window, write_window(self.engine, window)
        folder = self._windows[id(window)][1]
        return evaluate_on_workers(self.engine, model, window, folder, ks, run, auc=auc, label=label)
