"""Models of ratings within a time budget: which are tried, with how many steps, and how long their fits take.

A fit is planned by what a few steps of the model have taken on the same data a moment ago, so that a slow or busy
machine gets fewer steps and not a later answer.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.core.params import params_of, settings_of
from zhiyin.core.registry import specification
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.models.ratings.rating_model import RatingModel
from zhiyin.models.registry import parse

# Steps that a fit is timed by, and the share of its usual steps that a model needs to be worth a fit.
PROBE_STEPS, FEWEST_STEPS = 2, 0.25
# Events that kernels are loaded with before anything is timed.
_WARM_EVENTS = 300
# Hyperparameters that are a number of steps.
_STEPS = ("epochs", "sweeps")


@dataclasses.dataclass(frozen=True)
class RatingSource:
    """A model of ratings to try: its specification, and why it suits the data."""

    specification: str
    reason: str


def suitable_rating_models(data: Dataset) -> list[RatingSource]:
    """Models to try, those that bring most for their time first; where time is short the last are left out first."""
    columns = [name for frame in (data.users, data.items) for name in frame.columns if name != "id"]
    described = f"and columns: {', '.join(columns)[:60]}" if columns else "and which items were rated"
    sources = [
        RatingSource("useritembias", "the baseline: biases of users and items"),
        RatingSource("biasedmf", "factors, in the least time"),
        RatingSource("bayesianfm", f"factors without a penalty to tune, {described}"),
        RatingSource("svdpp", "which items were rated says something, too"),
    ]
    if data.has_times:
        sources.append(RatingSource("timesvdpp", "the log has times: ratings of one day are alike"))
    return sources


class Clock:
    """The time of a training: what has passed, and what is left of the budget beside what is kept for later."""

    def __init__(self, seconds: float, started: float | None = None) -> None:
        self.seconds, self.started = seconds, time.monotonic() if started is None else started
        # Seconds that are kept for what has to come, such as fits on all events.
        self.reserved = 0.0

    @property
    def passed(self) -> float:
        return time.monotonic() - self.started

    @property
    def left(self) -> float:
        return self.seconds - self.passed - self.reserved


class OutOfTimeError(Exception):
    """A fit has taken longer than it may."""


def steps_of(model: RatingModel) -> str | None:
    """The hyperparameter that is the number of steps of a fit; None where it has none."""
    return next((name for name in _STEPS if name in params_of(type(model))), None)


def with_steps(model: RatingModel, steps: int) -> RatingModel:
    """An unfitted copy with so many steps; of a sampler a third of fewer sweeps than 120 are its burn-in."""
    name = steps_of(model)
    if name is None:
        return dataclasses.replace(model)
    changes: dict[str, Any] = {name: steps}
    if name == "sweeps":
        changes["burn"] = min(settings_of(model)["burn"], steps // 3)
    return dataclasses.replace(model, **changes)


def load_kernels(model: RatingModel, data: Dataset, run: Run) -> None:
    """Have the compiled code of a model at hand, so that it is no part of what a fit takes."""
    few = data.subset(np.arange(data.n_events) < _WARM_EVENTS)
    tiny = with_steps(model, PROBE_STEPS).fit(few, _quiet(run))
    tiny.pair_scores(few.histories, np.zeros(1, np.int64), np.zeros(1, np.int32), None, run)


def fit_timed(model: RatingModel, data: Dataset, run: Run, deadline: float | None = None) -> float:
    """Fit a model; returns the seconds it took. Raises OutOfTimeError at the first step after `deadline`."""
    started = time.monotonic()

    def look_at_clock(news: dict[str, Any]) -> None:
        if deadline is not None and time.monotonic() > deadline:
            raise OutOfTimeError

    model.fit(data, dataclasses.replace(run, progress=False, callbacks=(*run.callbacks, look_at_clock)))
    return time.monotonic() - started


def affordable_steps(model: RatingModel, data: Dataset, seconds: float, run: Run) -> int | None:
    """How many steps of a model fit into so many seconds: at most its own, None where fewer than `FEWEST_STEPS` do.

    A model without steps is thought to take as long as it takes.
    """
    name = steps_of(model)
    if name is None:
        return 0
    usual, moments = settings_of(model)[name], list[float]()
    started = time.monotonic()
    run = dataclasses.replace(_quiet(run), callbacks=(lambda news: moments.append(time.monotonic()),))
    with_steps(model, PROBE_STEPS).fit(data, run)
    whole = time.monotonic() - started
    # From the end of the first step to the end of the last: the first may wait for memory.
    each = (moments[-1] - moments[0]) / max(1, len(moments) - 1)
    steps = int(min(usual, (seconds - max(0.0, whole - PROBE_STEPS * each)) / max(each, 1e-9)))
    return steps if steps >= max(PROBE_STEPS, FEWEST_STEPS * usual) else None


def parsed(text: str) -> RatingModel:
    """The unfitted model of a specification."""
    model = parse(text)
    if not isinstance(model, RatingModel):
        raise DataError(f"{text} predicts no ratings", remedy="name a model of ratings")
    return model


def name_of(model: RatingModel) -> str:
    """Its specification, by which fits of equal models are one."""
    return specification(model)


def _quiet(run: Run) -> Run:
    return dataclasses.replace(run, progress=False, callbacks=())
