"""Shared by `evaluate`, `compare` and `demo`: evaluate models, print the table, write the report and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhiyin.cli.output import say
from zhiyin.cli.project import Project
from zhiyin.core.atomic_files import write_whole
from zhiyin.core.errors import MissingExtraError

if TYPE_CHECKING:
    from zhiyin.data.dataset import Dataset
    from zhiyin.evaluation.fold_metrics import Work
    from zhiyin.models.recommender import Recommender


# Models of `evaluate` and `compare` where ratings are the goal and none is named.
RATING_MODELS = ["BiasedMF", "SVDpp", "BayesianFM"]


def goal_of(project: Project, goal: str | None) -> str | None:
    """What is judged first: as the command says, else as [train] goal does where that is of ratings; None: not said."""
    return goal or ("rating" if project.config.train.goal == "rating" else None)


def evaluated_models(
    project: Project, models: Sequence[str] | None, params: Sequence[str] | None, goal: str | None
) -> list[Recommender]:
    """The models that are named; without any those of the settings, and where ratings are the goal those of ratings."""
    if models or goal_of(project, goal) != "rating":
        return project.models(models, params)
    of_settings = [model for model in project.models(None, params) if model.rating_model is not None]
    return of_settings or project.models(RATING_MODELS, params)


def evaluate_models(
    project: Project,
    models: Sequence[Recommender],
    data: Dataset,
    work: Work | None = None,
    goal: str | None = None,
) -> Any:
    """Evaluate models, each fitted anew on the train part: a saved model has seen the test part. Prints the split.

    work: where they are fitted and their lists made; None: in this process.
    goal: "ranking" or "rating": what is judged first; None: what [train] goal says, or what all models do.
    """
    from zhiyin.core.registry import label
    from zhiyin.data.checks import examine
    from zhiyin.evaluation.protocol import evaluate
    from zhiyin.evaluation.rating_evaluation import has_ratings
    from zhiyin.evaluation.rating_metric_names import LIST_METRIC, RATING_METRIC, default_metric

    say(repr(data))
    for finding in examine(data, project.config.split.test):
        if finding.name in ("leaking-columns", "no-times", "too-little-data"):
            say(f"{finding.severity}: {finding.name}: {finding.message}")
    splits = project.splits(data)
    first = splits[0] if isinstance(splits, list) else splits
    chosen = first.by
    if project.config.split.by == "auto" and (first.by == "time" or not data.has_times):
        chosen += ", because the log has " + ("times" if data.has_times else "no times")
    say(f"split: {chosen}: {first.protocol}")
    settings = project.config.evaluate
    main = default_metric(models if goal is None else (), has_ratings(data))
    if goal_of(project, goal) == "rating":
        main = RATING_METRIC
    elif main == LIST_METRIC and 10 not in settings.k:
        main = f"ndcg@{settings.k[0]}"
    return evaluate(
        {label(model): model for model in models},
        split=splits,
        k=tuple(settings.k),
        main=main,
        exclude_seen=settings.exclude_seen,
        rounds=settings.bootstrap,
        threshold=settings.threshold,
        run=project.run,
        title=project.title(data),
        work=work,
    )


def write_evaluation(evaluation: Any, folder: Path, json: bool = False) -> None:
    """Print the table (or JSON), and write report.html and evaluation.json into a folder."""
    import json as json_module

    from zhiyin.cli.output import json_safe, print_json, print_rich
    from zhiyin.evaluation.comparison_table import rich_table

    figures = evaluation.to_json()
    figures = json_safe(json_module.loads(figures) if isinstance(figures, str) else figures)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "evaluation.json", json_module.dumps(figures, ensure_ascii=False, indent=1) + "\n")
    for warning in evaluation.warnings:
        say(f"warning: {warning}")
    if json:
        print_json(figures)
    else:
        print_rich(rich_table(evaluation))
    written = [str(folder / "evaluation.json")]
    try:
        evaluation.report(folder / "report.html")
        written.insert(0, str(folder / "report.html"))
    except MissingExtraError as error:
        say(str(error))
    say(f"wrote {' and '.join(written)}")
