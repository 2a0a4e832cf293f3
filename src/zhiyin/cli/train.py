"""`zhiyin train`: learn from all events, and keep the models."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from zhiyin.cli.options import CONFIG, Assume, ConfigFile, Json, Models, NoStore, Seed, Settings, Threads
from zhiyin.core.errors import ConfigError


def train(
    models: Models = None,
    param: Settings = None,
    budget: Annotated[
        str | None, typer.Option(help="Choose, tune and blend sources in this time, 10m, and keep a version.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Put the version in use whatever the gate says.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the models.")] = None,
    assume: Assume = None,
    no_store: NoStore = False,
    config: ConfigFile = CONFIG,
    seed: Seed = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Fit models on all events and save them: those of the files, and those of the service's store where there is one.

    The data doctor has a look first.

    Networks keep a checkpoint every two minutes: interrupted, the same command goes on where it stood.

    With --budget and no model named, a pipeline is made: sources that fit the data are tuned and joined, judged on
    the last days beside what is in use and what is popular, and kept as a version. It is put in use if it is shown to
    be better than what is popular and not worse, by more than [train] margin, than what is in use; the first version
    unless popular is shown to be better. Else the version in use learns anew from all events.

    \b
    Examples:
      zhiyin train
      zhiyin train ease als:factors=128,reg=0.1
      zhiyin train ease -p reg=400 --output models
      zhiyin train sasrec:factors=128,epochs=50
      zhiyin train --budget 10m
    """
    from zhiyin.cli.output import duration, print_json, say
    from zhiyin.cli.project import finding_lines, open_project
    from zhiyin.core.params import settings_of
    from zhiyin.core.registry import label
    from zhiyin.data.catalogue import Catalogue
    from zhiyin.data.doctor import examine

    project = open_project(config, seed, threads, assume)
    if budget is not None:
        from zhiyin.cli.budget_training import train_within

        if models or param:
            raise ConfigError("--budget chooses the models itself", remedy="name models, or a budget, not both")
        train_within(project, budget, output, force, json, store=not no_store)
        return
    instances = project.models(models, param)
    data = project.data(store=not no_store)
    say(repr(data))
    for line in finding_lines(examine(data, project.config.split.test)):
        say(line)
    folder = output or project.home / project.config.train.output
    trained: list[dict[str, Any]] = []
    places: list[Path] = []
    for model in instances:
        begun = time.perf_counter()
        place = _unused_folder(folder / type(model).__name__.lower(), places)
        places.append(place)
        checkpoint = folder / ".checkpoints" / place.name
        model.fit(data, replace(project.run, checkpoint=checkpoint, checkpoint_every="2m"))
        seconds = time.perf_counter() - begun
        model.save(place)
        entry = {"model": type(model).__name__, "settings": settings_of(model), "path": str(place)}
        trained.append({**entry, "seconds": seconds})
        say(f"{label(model)}: fitted in {duration(seconds)}, saved in {place}")
    Catalogue.of(data).save(folder)
    if json:
        print_json(trained)
    else:
        user = data.user_ids.values[0]
        say(f"next: zhiyin evaluate, or zhiyin recommend {user} --model {places[0]}")


def _unused_folder(place: Path, used_folders: list[Path]) -> Path:
    """The place, or the next of its name when one model is trained twice with different settings."""
    number, free = 2, place
    while free in used_folders:
        free, number = place.with_name(f"{place.name}-{number}"), number + 1
    return free
