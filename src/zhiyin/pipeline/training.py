"""Training: named models as folders of their own, or a pipeline within a time budget as a version.

`zhiyin train` calls `train_models`, or with `--budget` `train_version`; the service retrains by that same command.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from zhiyin.core.errors import DataError, ZhiyinError
from zhiyin.core.run import Run
from zhiyin.data.catalogue import Catalogue
from zhiyin.data.dataset import Dataset
from zhiyin.data.project_config.training_sections import TrainSection
from zhiyin.data.splits import Split
from zhiyin.models.recommender import Recommender
from zhiyin.pipeline.automl import fit_within_budget
from zhiyin.pipeline.model_versions import Bundle, Bundles
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.pipeline.promotion_gate import MARGIN, Verdict, decide_promotion, verdict_without_users
from zhiyin.pipeline.time_windows import gate_split

# Share of the budget for the pipeline that the gate evaluates; the rest refits its sources on the whole log.
GATED_BUDGET_SHARE = 0.85
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
    seconds: float,
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
    seconds: time budget.
    test: the last events that the gate evaluates on, as a duration such as "7d" or a share; see `gate_split`.
    margin: share of the metric of the version in use that may be lost.
    force: promote the version whatever the verdict is.
    say: called with messages for people.
    on_pipeline: called with the pipeline that the gate is about to evaluate.
    on_saved: called once the version is saved, before the version in use is fitted again.
    settings: the [train] section, which other goals than ranking read more of; see `training_goals`.
    """
    run, started, created = run or Run(), time.monotonic(), datetime.now(UTC)
    gate_data, reason = None, ""
    try:
        gate_data = gate_split(data, test, run, exclude_seen)
        for warning in gate_data.warnings:
            say(f"unseen days: {warning}")
    except DataError as error:  # a version that nobody can judge is better than none
        reason = error.message
        say(f"unseen days: there are none to judge by: {error}")
    train_data = gate_data.train if gate_data else data
    pipeline = fit_within_budget(train_data, GATED_BUDGET_SHARE * seconds, exclude_seen=exclude_seen, run=run)
    on_pipeline(pipeline)
    current, current_model = load_current(bundles, say)
    rivals = {}
    if current is not None and current_model is not None:
        rivals = {f"version {current.version}": current_model}
    decide = (
        partial(decide_promotion, split=gate_data, margin=margin, exclude_seen=exclude_seen, run=run)
        if gate_data
        else None
    )
    verdict = (
        decide(pipeline, rivals=rivals) if decide else verdict_without_users(reason, margin=margin, first=not rivals)
    )
    say(f"unseen days: {verdict.why}")
    catalogue = Catalogue.of(data)
    bundle = write_version(bundles, pipeline.refit(data, run), verdict, verdict.why, catalogue, created)
    promoted = verdict.passed or force
    if promoted:
        bundles.promote(bundle.version, verdict.why if verdict.passed else f"forced; {verdict.why}")
    trained = TrainedVersion(bundle, verdict, promoted, None, time.monotonic() - started)
    on_saved(trained)
    if promoted or not gate_data or not decide or not verdict.users:
        return trained
    is_stale = current_model is not None and current_model._context().fingerprint != data.fingerprint
    if current is None or not isinstance(current_model, Pipeline) or not is_stale:
        return trained
    candidate = _refit_current(current_model, current.version, gate_data, data, decide, run, say)
    if candidate is None:
        return trained
    refitted_model, refit_verdict = candidate
    why = f"version {current.version}, learned anew, for version {bundle.version} did not pass; {refit_verdict.why}"
    refitted = write_version(bundles, refitted_model, refit_verdict, why, catalogue, created)
    bundles.promote(refitted.version, why)
    say(f"version {refitted.version} is in use: it is version {current.version}, learned anew from all events")
    return dataclasses.replace(trained, refitted=refitted)


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
    version: int,
    gate_data: Split,
    data: Dataset,
    decide: Callable[..., Verdict],
    run: Run,
    say: Callable[[str], None],
) -> tuple[Pipeline, Verdict] | None:
    """The version in use, fitted on all events, and its verdict by the gate of a first version.

    Returns None where it does not pass or cannot be fitted.
    """
    try:
        verdict = decide(model.refit(gate_data.train, run))
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
