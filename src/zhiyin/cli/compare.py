"""`zhiyin compare`: `evaluate` of a default set of models."""

from __future__ import annotations

from zhiyin.cli.evaluate import Output
from zhiyin.cli.options import (
    CONFIG,
    Assume,
    ConfigFile,
    EvaluationGoal,
    Json,
    Models,
    NoStore,
    Seed,
    Settings,
    Threads,
)


def compare(
    models: Models = None,
    param: Settings = None,
    output: Output = None,
    assume: Assume = None,
    no_store: NoStore = False,
    config: ConfigFile = CONFIG,
    seed: Seed = None,
    threads: Threads = None,
    json: Json = False,
    goal: EvaluationGoal = None,
) -> None:
    """Evaluate a default set of models on the same split; otherwise as `evaluate`.

    \b
    Examples:
      zhiyin compare
      zhiyin compare ease als itemknn:k_neighbors=50
      zhiyin compare --goal rating
    """
    from zhiyin.cli.evaluate import evaluate
    from zhiyin.cli.evaluation_output import RATING_MODELS
    from zhiyin.cli.project import DEFAULT_MODELS

    chosen = models or list(RATING_MODELS if goal == "rating" else DEFAULT_MODELS)
    evaluate(chosen, param, output, assume, no_store, config, seed, threads, json, goal=goal)
