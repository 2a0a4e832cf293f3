"""`zhiyin train --budget`: what it prints of training a version."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhiyin.cli.budget_progress import BudgetProgress
from zhiyin.cli.command_clock import command_begun
from zhiyin.cli.output import duration, print_json, print_table, say
from zhiyin.cli.project import Project
from zhiyin.cli.rating_report import print_rating_report

if TYPE_CHECKING:
    from zhiyin.engines.spark.work import SparkWork
    from zhiyin.pipeline.pipeline import Pipeline
    from zhiyin.pipeline.training import TrainedVersion


def train_within(
    project: Project,
    budget: str,
    output: Path | None,
    force: bool,
    json: bool,
    *,
    goal: str = "ranking",
    store: bool = True,
    work: SparkWork | None = None,
) -> None:
    """Build, evaluate and save a pipeline within a time such as "10m". Raises BusyError while another one is built.

    goal: what the version is to be best at, a name of `pipeline.training_goals`.
    work: the engine that reads the data, and fits the sources that have a job there.
    """
    from zhiyin.core.durations import microseconds
    from zhiyin.pipeline.model_versions import Bundles
    from zhiyin.pipeline.time_budget import TimeBudget
    from zhiyin.pipeline.training_goals import DEFAULT_GOAL, training_goal

    chosen = training_goal(goal)
    seconds = microseconds(budget) / 1e6  # refused before anything is read
    bundles = Bundles((output or project.home / project.config.train.output) / "bundles")
    progress = BudgetProgress()
    time = TimeBudget(seconds, started=command_begun(), say=say, on_stage=progress.on_stage)
    with bundles.training():
        time.begin("reading")
        data = project.training_data(store=store, read=None if work is None else work.read)
        run = project.run if work is None else dataclasses.replace(project.run, learner=work.learner)
        if progress.moves:
            run = dataclasses.replace(run, progress=False)  # one line moves, and no bar beside it

        def print_pipeline(pipeline: Pipeline) -> None:
            with progress.paused():
                if pipeline.report_.get("goal") == "rating":
                    print_rating_report(pipeline.report_, table=not json)
                else:
                    print_report(pipeline.report_, choices=not json)
                if work is not None:
                    _print_places(pipeline, work)

        with progress:
            trained = chosen.train(
                data,
                bundles,
                time if chosen.name == DEFAULT_GOAL else max(1.0, time.left),
                test=project.config.split.test,
                exclude_seen=project.config.evaluate.exclude_seen,
                margin=project.config.train.margin,
                force=force,
                run=run,
                say=say,
                on_pipeline=print_pipeline,
                on_saved=lambda trained: _print_version(trained, str(data.user_ids.values[0])),
                settings=project.config.train,
            )
    say(f"took {duration(time.elapsed)} of {duration(seconds)}")
    if json:
        version = trained.bundle.version
        print_json({"version": version, "promoted": trained.promoted, "report": trained.bundle.report(),
                    "refitted": trained.refitted and trained.refitted.version})  # fmt: skip


def _print_version(trained: TrainedVersion, user: str) -> None:
    """Print where a version was saved, and whether and why it is in use. `user`: id of a user, for an example."""
    version, verdict = trained.bundle.version, trained.verdict
    say(f"version {version} kept in {trained.bundle.folder}, {duration(trained.seconds)}")
    if trained.promoted:
        say(f"version {version} is in use. next: zhiyin recommend {shlex.quote(user)}")
        return
    reason = "it is shown to be worse than it may be" if verdict.worse else "too few users to show that it may be"
    reason = reason if verdict.users else "nobody could be judged"
    say(f"it is NOT in use: {reason} (see above). to use it anyway: zhiyin promote {version}")


def _print_places(pipeline: Pipeline, work: SparkWork) -> None:
    """Print which sources were fitted on the engine, and which by this process."""
    places: dict[bool, list[str]] = {True: [], False: []}
    for name, model in pipeline.sources_.items():
        places[work.learner(model) is not None].append(name)
    for on_engine, where in ((True, f"on {work.engine.url}"), (False, "by this process, for they have no job there")):
        if places[on_engine]:
            say(f"fitted {where}: {'; '.join(places[on_engine])}")


def print_report(report: dict[str, Any], choices: bool = True) -> None:
    """Print which sources were tried, which were not and why, and what each adds; with `choices`, a table of the
    figures of each method by segment of users."""
    for tried in report.get("tried", []):
        left = tried.get("left_out")
        tuned = tried.get("tuned")
        say(f"source {tried['source']} ({tried['why']})" + (f": left out, {left}" if left else "")
            + (f": tuned to {tuned}, {tried['value']:.4f} from {tried['before']:.4f}" if tuned else ""))  # fmt: skip
    for one in report.get("not_tried", []):
        say(f"not tried: {one['source']} ({one['why_not']})")
    for note in report["notes"]:
        say(f"windows: {note}")
    if choices:
        segments = report["choices"]
        print_table(
            ["method", *segments],
            [
                [method, *(choice["figures"].get(method) for choice in segments.values())]
                for method in segments["all"]["figures"]
            ],
        )
    for name, choice in report["choices"].items():
        say(f"{name}: {choice['method']}, {choice['why']}")
    whole = report["without"].get("none")
    for name, value in report["without"].items():
        if name != "none":
            say(f"without {name}: {report['metric']} of the blend {value:.4f} ({whole - value:+.4f} is what it adds)")
