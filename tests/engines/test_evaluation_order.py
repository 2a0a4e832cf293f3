"""Evaluations on workers have their metrics in the order of a single process, so that reports are equal as texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zhiyin.core.run import Run
from zhiyin.data.splits import split
from zhiyin.engines.spark.evaluation import evaluate_on_workers, write_window
from zhiyin.evaluation.model_evaluation import Window, evaluate_window
from zhiyin.models.popularity import Popular
from zhiyin.testing.recommender import shop


class _Engine:
    """Tasks in this process, whose results travel as JSON."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def new_folder(self, what: str) -> Path:
        folder = self.folder / what
        folder.mkdir()
        return folder

    def remove(self, folder: Path) -> None:
        pass

    def n_blocks(self, n_events: int, n_rows: int) -> int:
        return 3

    def run_tasks(self, function: Callable[[Any], Any], tasks: Sequence[Any], run: Run, label: str) -> list[Any]:
        return [json.loads(json.dumps(function(task))) for task in tasks]


def test_metrics_are_in_the_order_of_a_single_process(tmp_path: Path) -> None:
    window, run, engine = Window.of(split(shop(seed=3))), Run(progress=False), _Engine(tmp_path)
    model = Popular().fit(window.train)
    wanted = evaluate_window(model, window, [5, 10], run, auc=True)
    result = evaluate_on_workers(engine, model, window, write_window(engine, window), [5, 10], run, auc=True)  # type: ignore[arg-type]
    assert list(result.per_user) == list(wanted.per_user)
    assert list(wanted.per_user) != sorted(wanted.per_user)
    assert all((result.per_user[name] == wanted.per_user[name]).all() for name in wanted.per_user)
    assert (result.lists == wanted.lists).all()
