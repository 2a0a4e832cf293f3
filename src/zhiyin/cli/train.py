"""`zhiyin train`: fit models on all events and save them."""

from __future__ import annotations

import dataclasses
import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zhiyin.cli.options import (
    CONFIG,
    Assume,
    ConfigFile,
    Engine,
    EngineFolder,
    EngineOptions,
    Json,
    Models,
    NoStore,
    Seed,
    Settings,
    Threads,
    checked_duration,
)
from zhiyin.core.errors import ConfigError

if TYPE_CHECKING:
    from zhiyin.core.run import Run
    from zhiyin.data.dataset import Dataset
    from zhiyin.models.recommender import Recommender


def train(
    models: Models = None,
    param: Settings = None,
    budget: Annotated[
        str | None,
        typer.Option(
            callback=checked_duration, help="Choose, tune and blend sources in this time, 10m, and keep a version."
        ),
    ] = None,
    goal: Annotated[
        str | None,
        typer.Option(help="What a version is to be best at: ranking, ctr, cvr or rating; else [train] goal."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Put the version in use whatever the gate says.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the models.")] = None,
    assume: Assume = None,
    no_store: NoStore = False,
    config: ConfigFile = CONFIG,
    seed: Seed = None,
    threads: Threads = None,
    json: Json = False,
    engine: Engine = None,
    engine_folder: EngineFolder = None,
    engine_option: EngineOptions = None,
    shards: Annotated[
        Path | None, typer.Option(help="Learn from the shards of this folder; under torchrun in several processes.")
    ] = None,
    as_version: Annotated[
        bool, typer.Option("--as-version", help="With --shards: keep the model as a version, for zhiyin serve.")
    ] = False,
    callbacks: Annotated[
        str | None,
        typer.Option(help="Where curves go: tensorboard, mlflow, tensorboard=FOLDER,mlflow=EXPERIMENT."),
    ] = None,
) -> None:
    """Fit models on all events and save them: those of the files, and those of the service's store where there is one.

    The findings of `zhiyin check` are printed first.

    Each epoch is shown, a line each where standard error is no terminal: losses, metric, seconds, learning rate.
    Networks write a checkpoint every two minutes and when Ctrl-C or SIGTERM ends them: the same command continues
    from it, also where the store has heard something since. A second Ctrl-C ends at once.

    With --budget and no model named, a pipeline is made: sources that fit the data are tuned and joined, judged on
    the last days beside what is in use and what is popular, and kept as a version. It is put in use if it is shown to
    be better than what is popular and not worse, by more than [train] margin, than what is in use; the first version
    unless popular is shown to be better. Else the version in use learns anew from all events.

    --goal says what a version is to be best at: the order of lists (ranking), or another that the documentation
    describes; without --budget it takes two minutes.

    \b
    Examples:
      zhiyin train
      zhiyin train ease als:factors=128,reg=0.1
      zhiyin train ease -p reg=400 --output models
      zhiyin train sasrec:factors=128,epochs=50
      zhiyin train sasrec --callbacks tensorboard=runs,mlflow=shop
      zhiyin train --budget 10m
      zhiyin train als itemknn --engine spark://host:7077
      zhiyin train --goal ctr --budget 5m
      zhiyin train --budget 2h --engine spark://host:7077
      zhiyin train sasrec --shards shards
      torchrun --nproc-per-node 2 -m zhiyin train sasrec --shards shards
    """
    from zhiyin.cli.engine import opened_work
    from zhiyin.cli.output import duration, print_json, say
    from zhiyin.cli.project import open_project
    from zhiyin.core.params import settings_of
    from zhiyin.core.registry import label

    if shards is not None:
        from zhiyin.cli.shard_training import train_on_shards

        if budget is not None or engine is not None or force:
            raise ConfigError(
                "--shards fits named models in these processes", remedy="leave out --budget, --force and --engine"
            )
        train_on_shards(shards, models, param, output, as_version, config, seed, threads, json)
        return
    if as_version:
        raise ConfigError("--as-version is of --shards", remedy="a version of a pipeline is made by --budget")
    project = open_project(config, seed, threads, assume)
    goal, named = goal or project.config.train.goal, goal is not None
    if budget is None and (named or not (models or param)) and goal != "ranking":
        from zhiyin.pipeline.training_goals import DEFAULT_BUDGET

        budget = DEFAULT_BUDGET
    if budget is not None:
        if callbacks is not None:
            raise ConfigError("--callbacks is of named models", remedy="name models, or leave out --callbacks")
        from zhiyin.cli.budget_training import train_within

        if models or param:
            raise ConfigError("--budget chooses the models itself", remedy="name models, or a budget, not both")
        with opened_work(engine, engine_folder, engine_option, project.home) as work:
            train_within(project, budget, output, force, json, goal=goal, store=not no_store, work=work)
        return
    from zhiyin.cli.training_callbacks import training_callbacks
    from zhiyin.cli.training_display import training_display
    from zhiyin.core.training_log import how_it_ended
    from zhiyin.pipeline.training import TrainedModel, fit_here, train_models

    instances = project.models(models, param)
    folder = output or project.home / project.config.train.output
    texts = project.config.train.callbacks if callbacks is None else callbacks.split(",")
    display = training_display()
    run = dataclasses.replace(
        project.run, display=display, callbacks=training_callbacks([text for text in texts if text], project.home)
    )

    def on_trained(one: TrainedModel) -> None:
        for sentence in how_it_ended(one.model.training_log_):
            say(sentence)
        say(f"{label(one.model)}: fitted in {duration(one.seconds)}, saved in {one.folder}")

    with opened_work(engine, engine_folder, engine_option, project.home) as work:
        data = project.training_data(store=not no_store, read=None if work is None else work.read)
        fit = work.fit if work is not None else fit_here

        def fit_shown(model: Recommender, data: Dataset, run: Run) -> None:
            with nullcontext() if display is None else display.model():
                fit(model, data, run)

        trained = train_models(instances, data, folder, run, on_trained, fit_shown)
    if json:
        print_json(
            [
                {"model": type(one.model).__name__, "settings": settings_of(one.model), "path": str(one.folder),
                 "seconds": one.seconds}
                for one in trained
            ]
        )  # fmt: skip
    else:
        user = shlex.quote(str(data.user_ids.values[0]))
        say(f"next: zhiyin evaluate, or zhiyin recommend {user} --model {trained[0].folder}")
