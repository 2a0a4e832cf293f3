"""`zhiyin train --shards`: fit networks on shards, in one process or in those that torchrun started."""

from __future__ import annotations

import dataclasses
import logging
import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from zhiyin.cli.options import CONFIG
from zhiyin.cli.output import duration, print_json, say
from zhiyin.cli.project import Project, open_project, project_of
from zhiyin.cli.training_display import training_display
from zhiyin.core.errors import ConfigError
from zhiyin.core.params import settings_of
from zhiyin.core.registry import label
from zhiyin.core.training_log import how_it_ended
from zhiyin.data.project_config import Config
from zhiyin.models.shards import read_shards, started_group

if TYPE_CHECKING:
    from zhiyin.core.run import Run
    from zhiyin.data.dataset import Dataset
    from zhiyin.models.recommender import Recommender
    from zhiyin.pipeline.training import TrainedModel


def train_on_shards(
    folder: Path,
    models: Sequence[str] | None,
    params: Sequence[str] | None,
    output: Path | None,
    as_version: bool,
    config: Path,
    seed: int | None,
    threads: int | None,
    json: bool,
) -> None:
    """Fit models on the shards of a folder and save them; of several processes the first one prints and saves.

    Raises ConfigError, in every process, for models that several processes cannot train together.
    """
    from zhiyin.pipeline.training import train_models

    group = started_group()
    first = group.rank == 0
    if not first:  # notes are printed once
        logging.getLogger("zhiyin").setLevel(logging.ERROR)

    def opened() -> tuple[Project, list[Recommender]]:
        if config == CONFIG and not config.exists():  # shards need no settings
            project = project_of(Config(), Path(), seed, threads)
        else:
            project = open_project(config, seed, threads)
        instances = project.models(models, params)
        if as_version and len(instances) != 1:
            raise ConfigError("--as-version keeps one model", remedy="name one model")
        for model in instances:
            model.check_shards(group)
        return project, instances

    project, instances = group.together(opened)
    display = training_display() if first else None
    run = dataclasses.replace(project.run, display=display, progress=project.run.progress if first else False)
    created = datetime.now(UTC)
    data = read_shards(folder, weights=project.config.weights or None, run=run)
    if first:
        say(repr(data))
    place = output or project.home / project.config.train.output

    def fit_shown(model: Recommender, data: Dataset, run: Run) -> None:
        with nullcontext() if display is None else display.model():
            model.fit(data, run)

    def on_trained(one: TrainedModel) -> None:
        if first:
            for sentence in how_it_ended(one.model.training_log_):
                say(sentence)
            say(f"{label(one.model)}: fitted in {duration(one.seconds)}, saved in {one.folder}")

    trained = train_models(instances, data, place, run, on_trained, fit_shown)
    if not first:
        return
    if as_version:
        from zhiyin.data.catalogue import Catalogue
        from zhiyin.pipeline.model_versions import Bundles

        bundles = Bundles(place / "bundles")
        with bundles.training():
            version = bundles.write(
                trained[0].model, figures={}, catalogue=Catalogue.of(data), made_at=created
            ).version  # fmt: skip
        say(f"kept as version {version}, which no gate has judged; put it in use: zhiyin promote {version}")
    if json:
        print_json(
            [
                {"model": type(one.model).__name__, "settings": settings_of(one.model), "path": str(one.folder),
                 "seconds": one.seconds}
                for one in trained
            ]
        )  # fmt: skip
    elif not as_version:
        say(f"next: zhiyin recommend {shlex.quote(str(data.user_ids.values[0]))} --model {trained[0].folder}")
