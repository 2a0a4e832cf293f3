"""`zhiyin compare`: `evaluate` of a default set of models."""

from __future__ import annotations

from zhiyin.cli.evaluate import Output
from zhiyin.cli.options import CONFIG, Assume, ConfigFile, Json, Models, NoStore, Seed, Settings, Threads


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
) -> None:
    """Evaluate a default set of models on the same split; otherwise as `evaluate`.

    \b
    Examples:
      zhiyin compare
      zhiyin compare ease als itemknn:k_neighbors=50
    """
    from zhiyin.cli.evaluate import evaluate
    from zhiyin.cli.project import DEFAULT_MODELS

    evaluate(models or list(DEFAULT_MODELS), param, output, assume, no_store, config, seed, threads, json)
