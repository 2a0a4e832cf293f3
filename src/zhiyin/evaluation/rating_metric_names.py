"""Names of the metrics of predicted ratings, and what models are judged by for each goal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zhiyin.models.recommender import Recommender

# Of each the loss is the less the better.
RATING = ("rmse", "mae", "log_loss", "calibration_error")
# What lists and ratings are judged by where nothing else is asked for.
LIST_METRIC, RATING_METRIC = "ndcg@10", "rmse"


def is_rating_metric(metric: str) -> bool:
    return metric in RATING


def default_metric(models: Iterable[Recommender], has_ratings: bool) -> str:
    """What models are judged by: models of ratings, where there are some, by what they do."""
    chosen = list(models)
    rated = has_ratings and bool(chosen) and all(model.rating_model is not None for model in chosen)
    return RATING_METRIC if rated else LIST_METRIC
