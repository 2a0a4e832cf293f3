"""The comparison of models as a table for the terminal, and the labels and formats shared with the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from zhiyin.evaluation.rating_metric_names import RATING, is_rating_metric

if TYPE_CHECKING:
    from rich.table import Table

SIGNIFICANT = 0.05


class ModelScores(Protocol):
    """Metrics of one model, with intervals, p values and cost."""

    @property
    def name(self) -> str: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...
    @property
    def intervals(self) -> Mapping[str, tuple[float, float]]: ...
    @property
    def p_values(self) -> Mapping[str, float]: ...
    @property
    def segments(self) -> Mapping[str, Mapping[str, float]]: ...
    @property
    def fit_seconds(self) -> float: ...
    @property
    def score_seconds_per_1000(self) -> float: ...
    @property
    def peak_mb(self) -> float: ...
    @property
    def calibration(self) -> Sequence[Mapping[str, Any]]: ...
    @property
    def training_log(self) -> Sequence[Mapping[str, Any]]: ...


class Comparison(Protocol):
    """What is shown of an evaluation; `main` is the metric models are sorted and tested by ("ndcg@10")."""

    @property
    def title(self) -> str: ...
    @property
    def protocol(self) -> Sequence[str]: ...
    @property
    def warnings(self) -> Sequence[str]: ...
    @property
    def k(self) -> Sequence[int]: ...
    @property
    def main(self) -> str: ...
    @property
    def best(self) -> str: ...
    @property
    def versions(self) -> Mapping[str, str]: ...
    @property
    def models(self) -> Sequence[ModelScores]: ...


# Metric: (name in print, which way is better, meaning in a few words)
WORDS: dict[str, tuple[str, str, str]] = {
    "ndcg": ("NDCG", "↑", "relevant items found, those near the top counting most; 1 is a perfect list"),
    "recall": ("Recall", "↑", "share of a user's relevant items that are in the list"),
    "precision": ("Precision", "↑", "share of the list that is relevant"),
    "hit_rate": ("Hit rate", "↑", "share of users whose list holds at least one relevant item"),
    "map": ("MAP", "↑", "mean precision at the places of the relevant items"),
    "mrr": ("MRR", "↑", "mean of 1 / place of the first relevant item"),
    "auc": ("AUC", "↑", "chance that a relevant item scores above another one; 0.5 is guessing"),
    "gauc": ("GAUC", "↑", "AUC within each user, averaged by impressions"),
    "log_loss": ("Log-loss", "↓", "surprise of the predicted probabilities at what happened"),
    "rmse": ("RMSE", "↓", "root of the mean squared error of predicted values"),
    "mae": ("MAE", "↓", "mean absolute error of predicted values"),
    "calibration_error": (
        "Calibration error",
        "↓",
        "how far the mean prediction is from the mean of what was given, by buckets of predictions",
    ),
    "coverage": ("Coverage", "↑", "share of the catalogue that is recommended to anyone"),
    "gini": ("Gini", "↓", "inequality of recommendations among items: 0 even, 1 all to one item"),
    "novelty": ("Novelty", "", "how unknown the recommended items are, in bits"),
    "diversity": ("Diversity", "", "how unlike each other the items of one list are"),
    "serendipity": (
        "Serendipity",
        "↑",
        "relevant items that a list of the most popular would not have shown",
    ),
    "popularity_lift": (
        "Popularity lift",
        "",
        "how much more popular lists are than what users chose themselves",
    ),
    "calibration": (
        "Miscalibration",
        "↓",
        "how far lists stray from the mix of a user's history; 0 is the same mix",
    ),
}


def rich_table(evaluation: Comparison, metrics: Sequence[str] | None = None) -> Table:
    """The models, best first. Bold: the best; "n.s.": not distinguishable from it at p < 0.05.

    metrics: columns beside the main one; None: recall, coverage and popularity lift at the same k; beside a metric of
        ratings the other ones of ratings, and NDCG at the first k.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    header, rows = table_cells(evaluation, metrics)
    table = Table(title=escape(evaluation.title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.collapse_padding = True
    table.add_column(header[0], no_wrap=True, vertical="bottom")
    narrow = {"ms per 1,000 users": "ms per\n1,000\nusers", "peak MB": "peak\nMB"}
    for name in header[1:]:
        text = narrow.get(name) or name.replace(" ", "\n").replace("@", "\n@")
        table.add_column(text, justify="right", no_wrap=True, vertical="bottom")
    for row in rows:
        style = "bold" if row[0] == evaluation.best else ""
        table.add_row(escape(row[0]), *row[1:], style=style)
    return table


def table_cells(
    evaluation: Comparison, metrics: Sequence[str] | None = None
) -> tuple[list[str], list[tuple[str, ...]]]:
    """The header and the rows of the table, as texts. metrics: as in `rich_table`."""
    main = evaluation.main
    if metrics is None:
        at = main.partition("@")[2]
        metrics = [f"{name}@{at}" for name in ("recall", "coverage", "popularity_lift")]
        if is_rating_metric(main):
            metrics = [*RATING, f"ndcg@{evaluation.k[0]}"]
    names = {name for model in evaluation.models for name in model.metrics}
    others = [name for name in metrics if name in names and name != main]
    header = ["model", label(main), "p", *map(label, others), "fit", "ms per 1,000 users", "peak MB"]
    rows = [
        (
            model.name,
            number(main, model.metrics.get(main)) + _half_width(main, model),
            _verdict(evaluation, model),
            *(number(name, model.metrics.get(name)) for name in others),
            seconds(model.fit_seconds),
            f"{1000 * model.score_seconds_per_1000:,.0f}",
            f"{model.peak_mb:,.0f}",
        )
        for model in ranked(evaluation)
    ]
    return header, rows


def ranked(evaluation: Comparison) -> list[ModelScores]:
    """Models by the main metric, best first; those without a value last, equals in the order given."""
    sign = -1 if direction(evaluation.main) == "↓" else 1

    def place(model: ModelScores) -> float:
        value = model.metrics.get(evaluation.main, math.nan)
        return math.inf if math.isnan(value) else -sign * value

    return sorted(evaluation.models, key=place)


def indistinct(evaluation: Comparison, model: ModelScores) -> bool:
    """Whether the model does not differ significantly from the best: p, corrected for all comparisons, is >= 0.05."""
    return model.name != evaluation.best and model.p_values.get(evaluation.main, 0.0) >= SIGNIFICANT


def label(metric: str) -> str:
    """A metric as it is printed: "ndcg@10" is "NDCG@10"."""
    name, at, k = metric.partition("@")
    return WORDS.get(name, (name.replace("_", " "),))[0] + at + k


def direction(metric: str) -> str:
    """ "↑" where more is better, "↓" where less is, "" where it depends."""
    return WORDS.get(metric.partition("@")[0], ("", "", ""))[1]


def number(metric: str, value: float | None) -> str:
    """A metric's value with the digits that mean something; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    name = metric.partition("@")[0]
    if name == "coverage":
        return f"{value:.1%}"
    if name == "popularity_lift":
        return f"{value:+.0%}"
    return f"{value:.2f}" if name == "novelty" else f"{value:.4f}"


def interval(metric: str, model: ModelScores, before: str = "") -> str:
    """A metric's interval as it is printed, after `before`; nothing where there is none."""
    low, high = model.intervals.get(metric, (math.nan, math.nan))
    return "" if math.isnan(low) else f"{before}{number(metric, low)} – {number(metric, high)}"


def p_value(p: float | None) -> str:
    """A p value as it is printed."""
    if p is None or math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def seconds(value: float) -> str:
    """A time as it is printed: ms below a second, minutes from 100 seconds on."""
    if math.isnan(value):
        return "–"
    if value < 1:
        return f"{1000 * value:.0f} ms"
    return f"{value:.1f} s" if value < 100 else f"{value / 60:.1f} min"


def _half_width(metric: str, model: ModelScores) -> str:
    low, high = model.intervals.get(metric, (math.nan, math.nan))
    return "" if math.isnan(low) else f" ± {number(metric, (high - low) / 2)}"


def _verdict(evaluation: Comparison, model: ModelScores) -> str:
    if model.name == evaluation.best:
        return "best"
    return p_value(model.p_values.get(evaluation.main)) + (" n.s." if indistinct(evaluation, model) else "")
