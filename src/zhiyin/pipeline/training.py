"""Training: named models as folders of their own, or a pipeline within a time budget as a version.

`zhiyin train` calls `train_models`, or with `--budget` `train_version`; the service retrains by that same command.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zhiyin.core.errors import DataError, ZhiyinError
from zhiyin.core.run import Run
from zhiyin.data.catalogue import Catalogue
from zhiyin.data.dataset import Dataset
from zhiyin.data.project_config.training_sections import TrainSection
from zhiyin.data.splits import Split
from zhiyin.evaluation.model_evaluation import Window, evaluate_window
from zhiyin.models.recommender import Recommender
from zhiyin.pipeline.automl import fit_within_budget
from zhiyin.pipeline.fit_costs import Afterwards
from zhiyin.pipeline.model_versions import Bundle, Bundles
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.pipeline.promotion_gate import (
    MARGIN,
    Verdict,
    decide_promotion,
    fitted_before,
    is_fitted_before,
    verdict_without_users,
)
from zhiyin.pipeline.time_budget import TimeBudget, spelled
from zhiyin.pipeline.time_windows import gate_split

# Share of the budget, and the fewest seconds, that are kept for writing a version.
SAVING_SHARE, SAVING_SECONDS = 0.02, 0.5
# Users that the gate is timed on, the fewest that it judges by, and the share of the time that it may take.
GATE_SAMPLE, MIN_GATE_USERS, GATE_SHARE = 64, 300, 0.8
# Time between two checkpoints of a network.
CHECKPOINT_EVERY = "2m"


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model that was fitted and saved.

    Parameters
    ----------
    folder: where it was saved.
    seconds: time of its fit.
    """

    model: Recommender
    folder: Path
    seconds: float


@dataclasses.dataclass(frozen=True)
class TrainedVersion:
    """A version that was built and saved.

    Parameters
    ----------
    verdict: verdict of the gate.
    promoted: whether it was put in use.
    refitted: the version that was in use, fitted again on all events and put in use; None where that was not done.
    seconds: time until the version was saved.
    """

    bundle: Bundle
    verdict: Verdict
    promoted: bool
    refitted: Bundle | None
    seconds: float


def fit_here(model: Recommender, data: Dataset, run: Run) -> None:
    """Fit a model in this process."""
    model.fit(data, run)


def train_models(
    models: Sequence[Recommender],
    data: Dataset,
    folder: Path,
    run: Run,
    on_trained: Callable[[TrainedModel], None] = lambda trained: None,
    fit: Callable[[Recommender, Dataset, Run], object] = fit_here,
) -> list[TrainedModel]:
    """Fit models on all events and save each as `folder/NAME`, the catalogue beside them.

    Networks write checkpoints to `folder/.checkpoints`: interrupted, the same call continues where it stopped.

    Parameters
    ----------
    on_trained: called after each model.
    fit: fits a model, in another place than this process.
    """
    trained: list[TrainedModel] = []
    for model in models:
        started = time.perf_counter()
        place = _unused_folder(folder / type(model).__name__.lower(), [one.folder for one in trained])
        checkpoint = folder / ".checkpoints" / place.name
        fit(model, data, dataclasses.replace(run, checkpoint=checkpoint, checkpoint_every=CHECKPOINT_EVERY))
        seconds = time.perf_counter() - started
        model.save(place)
        trained.append(TrainedModel(model, place, seconds))
        on_trained(trained[-1])
    if data.group.rank == 0:
        Catalogue.of(data).save(folder)
    return trained


def train_version(
    data: Dataset,
    bundles: Bundles,
    seconds: float | TimeBudget,
    *,
    test: str | float | None = None,
    exclude_seen: bool = True,
    margin: float = MARGIN,
    force: bool = False,
    run: Run | None = None,
    say: Callable[[str], None] = lambda message: None,
    on_pipeline: Callable[[Pipeline], None] = lambda pipeline: None,
    on_saved: Callable[[TrainedVersion], None] = lambda trained: None,
    settings: TrainSection | None = None,
) -> TrainedVersion:
    """Build a pipeline within a time budget, evaluate it by the gate, refit it on all events and save it as a version.

    It is promoted if the gate lets it pass. Otherwise the version in use is fitted again on all events, so that
    recommendations stay recent. The caller holds the lock `bundles.training()`.

    Parameters
    ----------
    seconds: time budget; one that has begun counts what was done before, such as reading.
    test: the last events that the gate evaluates on, as a duration such as "7d" or a share; see `gate_split`.
    margin: share of the metric of the version in use that may be lost.
    force: promote the version whatever the verdict is.
    say: called with messages for people.
    on_pipeline: called with the pipeline that the gate is about to evaluate.
    on_saved: called once the version is saved, before the version in use is fitted again.
    settings: the [train] section, which other goals than ranking read more of; see `training_goals`.
    """
    run, created = run or Run(), datetime.now(UTC)
    budget = seconds if isinstance(seconds, TimeBudget) else TimeBudget(seconds, say=say)
    gate_data, reason = None, ""
    try:
        gate_data = gate_split(data, test, run, exclude_seen)
        for warning in gate_data.warnings:
            say(f"unseen days: {warning}")
    except DataError as error:  # a version that nobody can judge is better than none
        reason = error.message
        say(f"unseen days: there are none to judge by: {error}")
    train_data = gate_data.train if gate_data else data
    current, current_model = load_current(bundles, say)
    after = _afterwards(data, gate_data, current_model, budget)
    pipeline = fit_within_budget(train_data, budget, exclude_seen=exclude_seen, run=run, after=after)
    on_pipeline(pipeline)
    budget.begin("judging on the unseen days")
    refit_seconds = sum(budget.costs.fit(name, data.n_events) for name in pipeline.sources_)
    needed = refit_seconds + _relearning_seconds(after, pipeline, train_data.n_events, budget)
    rival = _rival_before(current_model, gate_data, needed, budget, run)
    rivals = {f"version {current.version}": rival} if current is not None and rival is not None else {}
    decide = None
    if gate_data:
        users = _affordable_users(pipeline, gate_data, exclude_seen, 2 + len(rivals), refit_seconds, budget, run)
        decide = partial(decide_promotion, split=gate_data, margin=margin, exclude_seen=exclude_seen,
                         max_users=users, run=run)  # fmt: skip
    verdict = (
        decide(pipeline, rivals=rivals) if decide else verdict_without_users(reason, margin=margin, first=not rivals)
    )
    if current_model is not None and not rivals and gate_data:
        why = f"{verdict.why}; it could not be compared with the version in use in the time"
        verdict = dataclasses.replace(verdict, passed=False, first=False, why=why)
    say(f"unseen days: {verdict.why}")
    budget.begin("sources on the whole log, the unseen days too")
    refitted_pipeline = pipeline.refit(data, run)
    budget.begin("saving")
    refitted_pipeline.report_.update(stages=budget.stages(), decisions=budget.decisions, seconds=budget.elapsed)
    catalogue = Catalogue.of(data)
    bundle = write_version(bundles, refitted_pipeline, verdict, verdict.why, catalogue, created)
    promoted = verdict.passed or force
    if promoted:
        bundles.promote(bundle.version, verdict.why if verdict.passed else f"forced; {verdict.why}")
    trained = TrainedVersion(bundle, verdict, promoted, None, budget.elapsed)
    on_saved(trained)
    if promoted or not gate_data or not decide or not verdict.users:
        return trained
    is_stale = current_model is not None and current_model._context().fingerprint != data.fingerprint
    if current is None or not isinstance(current_model, Pipeline) or rival is None or not is_stale:
        return trained
    needed = _relearning_seconds(after, pipeline, data.n_events, budget)
    if rival is current_model:
        needed += _relearning_seconds(after, pipeline, train_data.n_events, budget)
    if needed > max(0.0, budget.left):
        budget.decide(f"version {current.version} is not learned anew: it would take {spelled(needed)} "
                      f"of the {spelled(budget.left)} left")  # fmt: skip
        return trained
    budget.begin(f"version {current.version} anew, from all events")
    candidate = _refit_current(current_model, rival, current.version, gate_data, data, decide, run, say)
    if candidate is None:
        return trained
    refitted_model, refit_verdict = candidate
    why = f"version {current.version}, learned anew, for version {bundle.version} did not pass; {refit_verdict.why}"
    refitted = write_version(bundles, refitted_model, refit_verdict, why, catalogue, created)
    bundles.promote(refitted.version, why)
    say(f"version {refitted.version} is in use: it is version {current.version}, learned anew from all events")
    return dataclasses.replace(trained, refitted=refitted)


def _afterwards(data: Dataset, gate_data: Split | None, current: Recommender | None, budget: TimeBudget) -> Afterwards:
    """What comes after the pipeline: the gate, fits on the whole log, the version in use, and saving."""
    seconds = max(SAVING_SECONDS, SAVING_SHARE * budget.seconds) if budget.seconds < float("inf") else 0.0
    if gate_data is None:
        return Afterwards(fits=(data.n_events,), seconds=seconds)
    rivals: tuple[str, ...] = ()
    if isinstance(current, Pipeline):
        rivals = tuple(type(source).__name__ for source in current.sources_.values())
    elif current is not None:
        rivals = (type(current).__name__,)
    return Afterwards(
        fits=(data.n_events,),
        requests=2 * min(MIN_GATE_USERS, gate_data.test.n_events),
        rivals=rivals,
        rival_fits=(gate_data.train.n_events, data.n_events),
        seconds=seconds,
    )


def _relearning_seconds(after: Afterwards, pipeline: Pipeline, events: int, budget: TimeBudget) -> float:
    """Seconds of a fit of the version in use on so many events."""
    classes = {name: type(source).__name__ for name, source in pipeline.sources_.items()}
    return dataclasses.replace(after, rival_fits=(events,)).of_rivals(budget.costs, classes)


def _rival_before(
    current: Recommender | None, gate_data: Split | None, needed: float, budget: TimeBudget, run: Run
) -> Recommender | None:
    """The version in use as it cannot have seen the unseen days; None where there is none, or no time to fit it.

    One that cannot learn from this log is returned as it is: the gate says why it is not compared.

    needed: seconds of its fit, and of the fits of the new version that are still to come.
    """
    if current is None or gate_data is None or is_fitted_before(current, gate_data):
        return current
    if needed > max(0.0, budget.left):
        budget.decide(f"the version in use is not fitted without the unseen days: with what must follow it would take "
                      f"{spelled(needed)} of the {spelled(budget.left)} left")  # fmt: skip
        return None
    budget.work_on("the version in use")
    with contextlib.suppress(ZhiyinError):
        return fitted_before(current, gate_data, run)
    return current


def _affordable_users(
    pipeline: Pipeline,
    gate_data: Split,
    exclude_seen: bool,
    n_models: int,
    seconds_after: float,
    budget: TimeBudget,
    run: Run,
) -> int | None:
    """Users that there is time to judge by; None for all."""
    if budget.seconds == float("inf"):
        return None
    try:
        window = Window.of(gate_data, exclude_seen)
    except DataError:  # the gate says why
        return None
    few = window.take(np.arange(min(GATE_SAMPLE, len(window))))
    evaluate_window(pipeline, few.take(np.arange(min(2, len(few)))), [10], run)  # for the compiler
    with budget.timed() as timer:
        evaluate_window(pipeline, few, [10], run)
    each = n_models * timer.seconds / len(few)
    users = max(MIN_GATE_USERS, int(GATE_SHARE * max(0.0, budget.left - seconds_after) / max(each, 1e-9)))
    if users >= len(window):
        return None
    budget.decide(f"{users:,} of {len(window):,} users of the unseen days are judged by, for lack of time")
    return users


def load_current(
    bundles: Bundles, say: Callable[[str], None] = lambda message: None
) -> tuple[Bundle | None, Recommender | None]:
    """The version in use and its model; None for both where it cannot be loaded, which training repairs."""
    try:
        current = bundles.current
        if current is None:
            return None, None
        current.verify()
        return current, current.load()
    except ZhiyinError as error:
        say(f"the version in use cannot be used, and the new one is not compared with it: {error.message}")
        return None, None


def _refit_current(
    model: Pipeline,
    before: Recommender,
    version: int,
    gate_data: Split,
    data: Dataset,
    decide: Callable[..., Verdict],
    run: Run,
    say: Callable[[str], None],
) -> tuple[Pipeline, Verdict] | None:
    """The version in use, fitted on all events, and its verdict by the gate of a first version.

    before: the version as the gate has compared it. Returns None where it does not pass or cannot be fitted.
    """
    try:
        is_anew = before._context().fingerprint == gate_data.train.fingerprint
        verdict = decide(before if is_anew else model.refit(gate_data.train, run))
        return (model.refit(data, run), verdict) if verdict.passed else None
    except ZhiyinError as error:
        say(f"version {version} stays as it is, for it cannot learn from this log: {error}")
        return None


def write_version(
    bundles: Bundles, model: Pipeline, verdict: Verdict, why: str, catalogue: Catalogue, created: datetime
) -> Bundle:
    """Save a version with the figures of its verdict."""
    figures: dict[str, Any] = {"users": verdict.users}
    if verdict.users:
        figures = {verdict.metric: verdict.figures["candidate"], **figures}
    figures |= {name: value for name, value in verdict.figures.items() if name != "candidate"}
    report = {"judged": verdict.to_dict() | {"why": why}, "pipeline": model.report_}
    return bundles.write(model, figures=figures, report=report, catalogue=catalogue, made_at=created)


def _unused_folder(folder: Path, used: Sequence[Path]) -> Path:
    """The folder, or the next of its name where a model is trained twice with different settings."""
    number, free = 2, folder
    while free in used:
        free, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return free
