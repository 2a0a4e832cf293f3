"""`zhiyin evaluate`: metrics of models on events that they were not fitted on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
)

Output = Annotated[Path | None, typer.Option("--output", "-o", help="Folder of report.html and evaluation.json.")]


def evaluate(
    models: Models = None,
    param: Settings = None,
    output: Output = None,
    assume: Assume = None,
    no_store: NoStore = False,
    config: ConfigFile = CONFIG,
    seed: Seed = None,
    threads: Threads = None,
    json: Json = False,
    engine: Engine = None,
    engine_folder: EngineFolder = None,
    engine_option: EngineOptions = None,
) -> None:
    """Fit models on the past and evaluate them on what came after, beside Random and Popular.

    Models are fitted afresh: those that `train` saved have seen the test part. Writes report.html and
    evaluation.json.

    \b
    Examples:
      zhiyin evaluate
      zhiyin evaluate ease:reg=100 ease:reg=500
      zhiyin evaluate als --json | jq .best
      zhiyin evaluate als itemknn --engine spark://host:7077
    """
    from zhiyin.cli.engine import opened_work
    from zhiyin.cli.evaluation_output import evaluate_models, write_evaluation
    from zhiyin.cli.project import open_project

    project = open_project(config, seed, threads, assume)
    instances = project.models(models, param)
    with opened_work(engine, engine_folder, engine_option, project.home) as work:
        data = project.data(store=not no_store, read=None if work is None else work.read)
        evaluation = evaluate_models(project, instances, data, work)
    write_evaluation(evaluation, output or project.home, json)
