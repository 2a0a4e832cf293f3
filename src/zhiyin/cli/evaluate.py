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
    EvaluationGoal,
    Json,
    Models,
    NoStore,
    Seed,
    Settings,
    Threads,
    checked_goal,
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
    goal: EvaluationGoal = None,
) -> None:
    """Fit models on the past and evaluate them on what came after, beside Random and Popular.

    Where ratings are the goal, or all models predict ratings, RMSE comes first, beside MAE, calibration and the global
    mean and the biases of users and items.

    Models are fitted afresh: those that `train` saved have seen the test part. Writes report.html and
    evaluation.json.

    \b
    Examples:
      zhiyin evaluate
      zhiyin evaluate ease:reg=100 ease:reg=500
      zhiyin evaluate als --json | jq .best
      zhiyin evaluate --goal rating
      zhiyin evaluate als itemknn --engine spark://host:7077
    """
    from zhiyin.cli.engine import opened_work
    from zhiyin.cli.evaluation_output import evaluate_models, evaluated_models, write_evaluation
    from zhiyin.cli.project import open_project

    goal = checked_goal(goal)
    project = open_project(config, seed, threads, assume)
    instances = evaluated_models(project, models, param, goal)
    with opened_work(engine, engine_folder, engine_option, project.home) as work:
        data = project.data(store=not no_store, read=None if work is None else work.read)
        evaluation = evaluate_models(project, instances, data, work, goal)
    write_evaluation(evaluation, output or project.home, json)
