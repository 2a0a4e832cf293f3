"""The protocol: every model is fitted on train alone, ranks the whole catalogue, and is compared with baselines.

    zy.evaluate({"ease": zy.EASE(), "als": zy.ALS()}, split=zy.split(data, test="7d"))

Nothing of the test part reaches `fit`: unfitted models are fitted on a copy here, and a fitted one is accepted
only when its fingerprint says that it learned from exactly this train part.
"""

from __future__ import annotations

import dataclasses
import io
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from zhiyin.core.durations import UNITS
from zhiyin.core.errors import ConfigError
from zhiyin.core.html_table import html_table
from zhiyin.core.params import list_length, settings_of
from zhiyin.core.ranking_metrics import RANKING
from zhiyin.core.registry import label
from zhiyin.core.run import Run
from zhiyin.core.version import __version__
from zhiyin.data.dataset import Dataset
from zhiyin.data.splits import Split
from zhiyin.evaluation.beyond_accuracy import BEYOND_ACCURACY
from zhiyin.evaluation.comparison_table import direction, rich_table, table_cells
from zhiyin.evaluation.fold_metrics import Fold, ModelFoldResult, Work, is_plain_popular
from zhiyin.evaluation.model_evaluation import (
    Window,
    metric_k,
)
from zhiyin.evaluation.protocol_text import evaluated_users, protocol_sentences, title_text, warning_sentences
from zhiyin.evaluation.rating_comparison import RatingComparison, rating_sentences
from zhiyin.evaluation.rating_evaluation import RatingWindow, need_ratings
from zhiyin.evaluation.rating_metric_names import default_metric, is_rating_metric
from zhiyin.evaluation.significance import bootstrap_interval, paired_tests
from zhiyin.models.popularity import Popular
from zhiyin.models.random import Random
from zhiyin.models.ratings.rating_baselines import GlobalMean, UserItemBias
from zhiyin.models.recommender import Recommender

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclasses.dataclass(frozen=True)
class ModelResult:
    """One model's figures: means over users, 95 % intervals, p against the best (Holm), by segment, cost.

    A user of several folds counts in the means once a fold; intervals and tests take all of their rows as one user's.
    `fit_seconds` is NaN for a model that was given fitted. `peak_mb`: see `model_evaluation.PeakMemory`. `calibration`:
    of a model of ratings, mean predicted and true rating by bucket (`rating_evaluation.calibration_table`).
    `training_log`: one dict an epoch, of the last fold where there are several; see `core.training_log.TrainingLog`.
    """

    name: str
    settings: dict[str, Any]
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    p_values: dict[str, float]
    segments: dict[str, dict[str, float]]
    fit_seconds: float
    score_seconds_per_1000: float
    peak_mb: float
    calibration: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    training_log: list[dict[str, Any]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A comparison of models under one protocol. Print it, `report` it, or take the figures out.

    `main`: the primary metric, such as "ndcg@10" or "rmse". `per_user`: {model: {metric: float64[n]}} with NaN where a
    metric is not defined; row r is user `users[r]` (a user evaluated in several folds has a row in each). `ratings`:
    the losses of each test rating; None where the log has no ratings, or no model predicts them.
    """

    title: str
    protocol: list[str]
    warnings: list[str]
    k: list[int]
    main: str
    best: str
    versions: dict[str, str]
    models: list[ModelResult]
    per_user: dict[str, dict[str, np.ndarray]]
    users: pl.Series
    ratings: RatingComparison | None = None

    def __getitem__(self, name: str) -> ModelResult:
        return next(model for model in self.models if model.name == name)

    def frame(self) -> pl.DataFrame:
        """Long frame `model`, `segment` ("all" or a segment's name), `metric`, `value`, `low`, `high`, `p`."""
        rows = []
        for model in self.models:
            for metric, value in model.metrics.items():
                low, high = model.intervals.get(metric, (None, None))
                rows.append((model.name, "all", metric, value, low, high, model.p_values.get(metric)))
            for segment, figures in model.segments.items():
                rows += [(model.name, segment, metric, v, None, None, None) for metric, v in figures.items()]
        schema: dict[str, Any] = dict.fromkeys(("model", "segment", "metric"), pl.String)
        schema |= dict.fromkeys(("value", "low", "high", "p"), pl.Float64)
        return pl.DataFrame(rows, schema=schema, orient="row")

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers; what is not a number is None. Without the figures of single users."""
        names = ("title", "protocol", "warnings", "k", "main", "best", "versions", "models")
        plain = {name: getattr(self, name) for name in names}
        plain["models"] = [dataclasses.asdict(model) for model in self.models]
        return _plain(plain)

    def report(self, path: str | Path) -> Path:
        """Write the comparison as one self-contained HTML file. Needs the extra "report"."""
        from zhiyin.evaluation.report import write_report

        return write_report(self, path)

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        return Group(rich_table(self), *(Text(f"! {warning}", style="yellow") for warning in self.warnings))

    def _repr_html_(self) -> str:
        """The comparison as a table, for notebooks."""
        header, rows = table_cells(self)
        return html_table(self.title, header, rows, self.warnings)

    def __str__(self) -> str:
        from rich.console import Console

        page = io.StringIO()
        Console(file=page, width=120, color_system=None).print(self)
        return page.getvalue().rstrip()


def evaluate(
    models: Mapping[str, Recommender] | Iterable[Recommender] | Recommender,
    train: Dataset | None = None,
    test: Dataset | None = None,
    *,
    split: Split | Sequence[Split] | None = None,
    k: int | Sequence[int] = (10, 20),
    main: str | None = None,
    exclude_seen: bool = True,
    rounds: int = 1000,
    baselines: bool = True,
    auc: bool = False,
    threshold: float | None = None,
    run: Run | None = None,
    title: str = "",
    work: Work | None = None,
) -> Evaluation:
    """Compare models on what users did after train.

    Parameters
    ----------
    models: by name, or a list (named by class and settings). Unfitted ones are fitted on train, as a copy. A
        fitted one is used as it is, and only if it learned from exactly this train part.
    train, test: two parts of one log; or `split`: what `zy.split` returns, or the list of `zy.folds`: models
        are then fitted afresh for each fold and the users of all folds evaluated together.
    k: lengths of lists. The length in `main` is added if it is missing.
    main: the primary metric, by which models are sorted and tested: a name in `ranking_metrics.RANKING` at a k, such
        as "ndcg@10", "auc", or of ratings "rmse", "mae" or "log_loss". None: "rmse" where all models predict ratings
        and the test part has some, else "ndcg@10". Ratings are evaluated beside lists wherever a model predicts them.
    exclude_seen: do not recommend items of a user's history; such items are not relevant either.
    rounds: bootstrap resamples of users for the 95 % intervals; 0 for no intervals.
    baselines: add Random, Popular and, for a log with times over more than 14 days, Popular with a half-life; where
        the primary metric is one of ratings, Popular, the global mean and the biases of users and items.
    auc: also compute the AUC of each user over the whole catalogue, by a second pass over all scores.
    threshold: a rating of at least this is liked, for the log-loss of ratings; None: .5 where all are 0 or 1, else
        there is none.
    work: where models are fitted and lists are made, such as on a cluster; None: in this process.

    Raises
    ------
    ConfigError where a fitted model learned from other data; DataError where no user can be evaluated.
    """
    run = run or Run()
    splits = _splits(train, test, split)
    chosen = _named(models)
    rating_windows = [RatingWindow.of(part, threshold) for part in splits]
    main = main or default_metric(chosen.values(), all(window is not None for window in rating_windows))
    by_ratings, ks = is_rating_metric(main), _lengths(k, metric_k(main, auc))
    if by_ratings:
        need_ratings(rating_windows)
    _refuse_leaks(chosen, splits)
    if baselines:
        chosen = _baselines(chosen, splits[0].train, by_ratings) | chosen
    windows = [Window.of(part, exclude_seen) for part in splits]
    folds = [Fold(window, ks, run, work, rated) for window, rated in zip(windows, rating_windows)]
    # A plain Popular goes first: its lists are what serendipity compares with.
    order = sorted(chosen, key=lambda name: not is_plain_popular(chosen[name]))
    outcomes: dict[str, list[ModelFoldResult]] = {name: [] for name in chosen}
    for number, fold in enumerate(folds):
        part = f" (fold {number + 1} of {len(folds)})" if len(folds) > 1 else ""
        for name in order:
            outcomes[name].append(fold.evaluate(name + part, chosen[name], auc))
    per_user = {name: _joined([o.per_user for o in outcomes[name]]) for name in chosen}
    segments = _joined([fold.segments for fold in folds])
    metrics = {name: _means(per_user[name], outcomes[name], ks) for name in chosen}
    ratings = _compared_ratings(folds, outcomes)
    if ratings is not None:
        metrics = {name: figures | ratings.metrics(name) for name, figures in metrics.items()}
    sign = -1 if direction(main) == "↓" else 1
    best = max(chosen, key=lambda name: _or_lowest(sign * metrics[name].get(main, math.nan)))
    users = evaluated_users(windows)
    # The user of each row: rows of one user in several folds are not independent.
    groups = users.rank("dense").to_numpy() if len(windows) > 1 else None
    p_values: dict[str, dict[str, float]] = {name: {} for name in chosen}
    tested = [m for m in per_user[best] if m.partition("@")[0] in RANKING or m == "auc"]
    for metric in tested:
        for name, p in paired_tests({name: per_user[name][metric] for name in chosen}, best, groups).items():
            p_values[name][metric] = p
    for name, tests in ({} if ratings is None else ratings.p_values(best)).items():
        p_values[name] |= tests
    results = []
    for name, model in chosen.items():
        results_of_model = outcomes[name]
        names = list(per_user[name])
        values = np.column_stack([per_user[name][m] for m in names])
        low, high = bootstrap_interval(values, run, rounds, groups=groups)
        by_item_segment: dict[str, dict[str, np.ndarray]] = {
            segment: _joined([o.by_item_segment[segment] for o in results_of_model])
            for segment in results_of_model[0].by_item_segment
        }
        n_judged = sum(len(window) for window in windows)
        intervals = {m: (float(a), float(b)) for m, a, b in zip(names, low, high) if not math.isnan(a)}
        by_segment = _by_segment(per_user[name], segments, by_item_segment)
        if ratings is not None:
            intervals |= ratings.intervals(name, run, rounds)
            for segment, figures in ratings.by_segment(name).items():
                by_segment[segment] = figures | by_segment.get(segment, {})
        results.append(
            ModelResult(
                name,
                settings_of(model),
                metrics[name],
                intervals,
                p_values[name],
                by_segment,
                float(np.mean([o.fit_seconds for o in results_of_model])),
                1000 * sum(o.score_seconds for o in results_of_model) / n_judged,
                max(o.peak_mb for o in results_of_model),
                [] if ratings is None else ratings.calibration(name),
                results_of_model[-1].training_log,
            )
        )
    sentences = protocol_sentences(splits, windows, folds, ks, rounds, run, auc)
    if ratings is not None:
        sentences[1:1] = rating_sentences([window for window in rating_windows if window is not None])
    return Evaluation(
        title or title_text(windows),
        sentences,
        warning_sentences(splits, windows),
        ks,
        main,
        best,
        _versions(),
        results,
        per_user,
        users,
        ratings,
    )


def _compared_ratings(folds: list[Fold], outcomes: dict[str, list[ModelFoldResult]]) -> RatingComparison | None:
    """The ratings of all folds; None where a fold has none, or no model predicts them."""
    windows = [fold.ratings for fold in folds if fold.ratings is not None]
    results = {name: [one.ratings for one in found] for name, found in outcomes.items()}
    if len(windows) < len(folds) or not any(all(one is not None for one in found) for found in results.values()):
        return None
    return RatingComparison.of(windows, results, [fold.item_segments["head items"] for fold in folds])


def _splits(train: Dataset | None, test: Dataset | None, split: Split | Sequence[Split] | None) -> list[Split]:
    if split is not None:
        if train is not None or test is not None:
            raise ConfigError("train and test cannot be given beside a split", remedy="give one of them")
        splits = [split] if isinstance(split, Split) else list(split)
        if not splits:
            raise ConfigError("there is no split to judge by", remedy="zy.split(data) or zy.folds(data)")
        return splits
    if train is None or test is None:
        raise ConfigError("train and test are both needed", remedy="evaluate(models, *zy.split(data))")
    if not (train.items["id"].equals(test.items["id"]) and train.users["id"].equals(test.users["id"])):
        raise ConfigError(
            "train and test do not share their codes of users and items",
            remedy="read them as one log and part it with zy.split or Dataset.subset",
        )
    later = train.has_times and train.n_events and test.n_events and train.window[1] >= test.window[0]
    warnings = ("train holds events later than the first test event: models learn from the future",)
    words = "train and test as given" + ("" if later or not train.has_times else ", train before test")
    return [Split(train, test, "given", words, warnings if later else ())]


def _lengths(k: int | Sequence[int], main: int | None) -> list[int]:
    many = np.atleast_1d(k).tolist() if isinstance(k, np.ndarray) else k
    ks = [list_length(one) for one in (many if isinstance(many, Iterable) and not isinstance(many, str) else [many])]
    if not ks:
        raise ConfigError("k names no length of lists", remedy="whole numbers of at least 1: k=(10, 20)")
    return sorted({*ks, main} if main else set(ks))


def _named(models: Mapping[str, Recommender] | Iterable[Recommender] | Recommender) -> dict[str, Recommender]:
    if isinstance(models, Mapping):
        return dict(models)
    named: dict[str, Recommender] = {}
    for model in [models] if isinstance(models, Recommender) else models:
        name = label(model)
        same = sum(other == name or other.startswith(f"{name} #") for other in named)
        named[f"{name} #{same + 1}" if same else name] = model
    return named


def _refuse_leaks(models: dict[str, Recommender], splits: list[Split]) -> None:
    for name, model in models.items():
        for part in splits:
            if model.is_fitted and model.context_.fingerprint != part.train.fingerprint:
                raise ConfigError(
                    f"{name} was fitted on other data; it may have seen the test window",
                    remedy="give an unfitted model (it is fitted here), or fit it on the train part of this split",
                )


def _baselines(models: dict[str, Recommender], train: Dataset, by_ratings: bool) -> dict[str, Recommender]:
    """The baselines that are not among the models already."""
    wanted: dict[str, Recommender] = {"Random": Random(), "Popular": Popular()}
    if by_ratings:
        wanted = {"Global mean": GlobalMean(), "User + item bias": UserItemBias(), "Popular": Popular()}
    elif train.has_times and train.window[1] - train.window[0] > 14 * UNITS["d"]:
        wanted["Popular 7d"] = Popular(half_life="7d")
    existing = [(type(model), settings_of(model)) for model in models.values()]
    return {
        f"{name} (baseline)" if name in models else name: model
        for name, model in wanted.items()
        if (type(model), settings_of(model)) not in existing
    }


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of all folds, end to end."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _means(users: dict[str, np.ndarray], outcomes: list[ModelFoldResult], ks: list[int]) -> dict[str, float]:
    """Means over users, and over folds what is a figure of all lists; in the order of the table, k by k."""
    figures = {name: _mean(values) for name, values in users.items()}
    for name in outcomes[0].list_metrics:
        figures[name] = float(np.mean([outcome.list_metrics[name] for outcome in outcomes]))
    ordered = [f"{name}@{k}" for k in ks for name in (*RANKING, *BEYOND_ACCURACY)] + ["auc"]
    return {name: figures[name] for name in ordered if name in figures}


def _by_segment(
    users: dict[str, np.ndarray],
    segments: dict[str, np.ndarray],
    by_item_segment: dict[str, dict[str, np.ndarray]],
) -> dict[str, dict[str, float]]:
    """Means over the users of each segment, with how many they are; segments nobody is in are left out."""
    by_segment = {}
    names = [name for name in users if name.partition("@")[0] in RANKING or name == "auc"]
    for segment, inside in segments.items():
        figures = {name: _mean(users[name][inside]) for name in names}
        by_segment[segment] = {"users": float(inside.sum()), **figures}
    for segment, values in by_item_segment.items():
        has_items = ~np.isnan(next(iter(values.values())))
        by_segment[segment] = {"users": float(has_items.sum()), **{name: _mean(v) for name, v in values.items()}}
    return {segment: figures for segment, figures in by_segment.items() if figures["users"]}


def _mean(values: np.ndarray) -> float:
    """Mean without NaN; NaN of nothing."""
    real = values[~np.isnan(values)]
    return float(real.mean()) if len(real) else math.nan


def _or_lowest(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _versions() -> dict[str, str]:
    packages = ("numpy", "scipy", "polars", "numba")
    here = {"python": platform.python_version(), "zhiyin": __version__}  # which may run uninstalled
    return here | {name: metadata.version(name) for name in packages}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
