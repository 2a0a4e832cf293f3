"""Fitting on Spark: the models that have a job of their own, and what each job sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zhiyin.core.run import Run, log
from zhiyin.engines.spark.als import fit_als
from zhiyin.engines.spark.engine import SparkEngine
from zhiyin.engines.spark.event_log import EventLog
from zhiyin.engines.spark.item_knn import fit_item_knn
from zhiyin.engines.spark.row_ranges import compute_rows
from zhiyin.models.als import ALS
from zhiyin.models.item_to_item import to_csr
from zhiyin.models.linear import EASE, check_memory, gram_rows
from zhiyin.models.neighbors import ItemKNN
from zhiyin.models.popularity import Popular
from zhiyin.models.random import Random
from zhiyin.models.recommender import Recommender
from zhiyin.models.transitions import Transitions


def fit(engine: SparkEngine, model: Recommender, events: EventLog, run: Run) -> Any:
    """Fit a model as `Recommender.fit` does. Returns the model.

    ALS, ItemKNN, Transitions and EASE are fitted on the workers, others by this process.
    """
    job = JOBS.get(type(model))
    if job is None:
        if not isinstance(model, Popular | Random):
            log.info("%s has no job on Spark: it is fitted by this process", type(model).__name__)
        return model.fit(events.data, run)

    def learn(_: Any, run: Run) -> None:
        job(engine, model, events, run)

    return model.fit_by(learn, events.data, run)


def has_job(model: Recommender) -> bool:
    """Whether a model is fitted on the workers."""
    return type(model) in JOBS


def _fit_transitions(engine: SparkEngine, model: Transitions, events: EventLog, run: Run) -> None:
    followers, values = compute_rows(engine, model.table_rows(events.data), run, "Transitions")
    model.rules_ = to_csr(followers, values, events.data.n_items)


def _fit_ease(engine: SparkEngine, model: EASE, events: EventLog, run: Run) -> None:
    check_memory(events.data.n_items)
    users = events.matrix(engine, "binary", run, "EASE: pairs of user and item")
    (weights,) = compute_rows(engine, gram_rows(users), run, "EASE: Gram matrix")
    model.solve(weights, run)


JOBS: dict[type[Recommender], Callable[[SparkEngine, Any, EventLog, Run], None]] = {
    ALS: fit_als,
    ItemKNN: fit_item_knn,
    Transitions: _fit_transitions,
    EASE: _fit_ease,
}
