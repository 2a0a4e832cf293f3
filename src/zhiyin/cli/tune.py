"""`zhiyin tune`: search a model's hyperparameters, on a window before the test part."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from zhiyin.cli.options import (
    CONFIG,
    Assume,
    ConfigFile,
    EvaluationGoal,
    Json,
    NoStore,
    Seed,
    Threads,
    checked_duration,
    checked_goal,
)
from zhiyin.core.atomic_files import whole_file
from zhiyin.core.durations import microseconds


def tune(
    model: Annotated[str, typer.Argument(help="A model, such as als or als:factors=64.")],
    trials: Annotated[int | None, typer.Option(min=1, help="Settings to try.")] = None,
    timeout: Annotated[
        str | None, typer.Option(callback=checked_duration, help='Stop after this long, such as "10m".')
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier search stopped.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Put the best settings into the settings file.")] = False,
    assume: Assume = None,
    no_store: NoStore = False,
    config: ConfigFile = CONFIG,
    seed: Seed = None,
    threads: Threads = None,
    json: Json = False,
    goal: EvaluationGoal = None,
) -> None:
    """Search the hyperparameters of a model. The test part is not used.

    A model of ratings is tuned by RMSE where the log has ratings, any other by NDCG@10; [tune] metric and --goal say
    otherwise.

    \b
    Examples:
      zhiyin tune ease --trials 20
      zhiyin tune als --timeout 10m --resume --write
    """
    from zhiyin.cli.output import print_json, say
    from zhiyin.cli.project import open_project
    from zhiyin.evaluation.rating_metric_names import LIST_METRIC, RATING_METRIC, is_rating_metric
    from zhiyin.evaluation.tuning import tune as search

    project = open_project(config, seed, threads, assume)
    instance, settings = project.models([model])[0], project.config.tune
    name = type(instance).__name__
    parts = project.splits(project.data(store=not no_store))
    train = parts[0].train if isinstance(parts, list) else parts.train
    storage = project.home / ".zhiyin" / f"tune-{name.lower()}.db"
    storage.parent.mkdir(exist_ok=True)
    if not resume:
        storage.unlink(missing_ok=True)
    limit = timeout or settings.timeout
    metric = settings.metric
    if checked_goal(goal) is not None and (metric is None or is_rating_metric(metric) != (goal == "rating")):
        metric = RATING_METRIC if goal == "rating" else LIST_METRIC
    result = search(
        instance,
        train,
        metric=metric,
        trials=trials or settings.trials,
        timeout=microseconds(limit) / 1e6 if limit else None,
        fixed=[part.partition("=")[0].strip() for part in model.partition(":")[2].split(",") if part],
        exclude_seen=project.config.evaluate.exclude_seen,
        storage=storage,
        run=project.run,
    )
    best: dict[str, Any] = dict(result.best)
    lines = table_lines(name, best)
    if write:
        _write_settings(config, name, best)
        say(f"wrote [models.{name}] in {config}")
    if json:
        print_json(result.to_json())
        return
    say(f"{name}: {result.metric} {result.value:.4f} on the validation window")
    typer.echo("\n".join(lines))
    if not write:
        say(f"next: put these lines into {config} (or run again with --resume --write), then zhiyin evaluate")


def table_lines(name: str, settings: dict[str, Any]) -> list[str]:
    """Lines of the settings file with these hyperparameters; None is left out."""
    written = [f"{key} = {_toml(value)}" for key, value in settings.items() if value is not None]
    return [f"[models.{name}]", *written]


def _write_settings(config: Path, name: str, settings: dict[str, Any]) -> None:
    """Set hyperparameters in the settings file, line by line; its comments and all else stay as they are."""
    from zhiyin.data.project_config import load_config

    old = config.read_text("utf-8")
    lines, head = old.splitlines(), re.compile(rf"\s*\[models\.{name}\]", re.IGNORECASE)
    start = next((row for row, line in enumerate(lines) if head.match(line)), None)
    if start is None:
        lines += ["", *table_lines(name, settings)]
    else:
        end = next((r for r in range(start + 1, len(lines)) if lines[r].lstrip().startswith("[")), len(lines))
        for key, value in settings.items():
            rows = [r for r in range(start + 1, end) if re.match(rf"\s*#?\s*{key}\s*=", lines[r])]
            line = f"{key} = {_toml(value)}" if value is not None else f"# {key} = ..."
            if rows:
                lines[rows[-1]] = line
            elif value is not None:
                lines.insert(start + 1, line)
                end += 1
    with whole_file(config) as draft:
        draft.write_text("\n".join(lines) + "\n", "utf-8")
        load_config(draft)  # settings that cannot be read do not replace those that can


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else repr(value)
