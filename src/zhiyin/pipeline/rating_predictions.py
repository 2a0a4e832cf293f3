"""Predicted ratings as `zhiyin predict` and `POST /v1/predict` answer them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.core.run import Run
from zhiyin.data.histories import Histories
from zhiyin.models.ratings.rating_model import RatingModel
from zhiyin.models.recommender import Recommender

REMEDY = "zhiyin train --goal rating --budget 10m"


@dataclasses.dataclass(frozen=True)
class RatingPredictions:
    """Predictions of n pairs.

    Parameters
    ----------
    ratings: float32[n], within `lowest` and `highest`, the range of the ratings that were learned.
    low, high: float32[n]: 90 % of ratings that were held back lay within as much of their prediction; None where that
        was not measured.
    known_users: bool[n], whether an event of the user is known.
    known_items: bool[n], whether the model knows the item; of another one the rating is that of a mean item.
    """

    ratings: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None
    lowest: float
    highest: float
    known_users: np.ndarray
    known_items: np.ndarray


def rating_model_of(model: Recommender) -> RatingModel:
    """What of a model predicts ratings. Raises ConfigError where nothing does."""
    found = model.rating_model
    if found is None:
        raise ConfigError(f"this {type(model).__name__} predicts no ratings", remedy=REMEDY)
    return found


def predict_ratings(
    model: RatingModel, histories: Histories, rows: np.ndarray, items: np.ndarray, now: int, run: Run
) -> RatingPredictions:
    """Predict the ratings of pairs at one moment.

    Parameters
    ----------
    rows: int64[n], rows of `histories`; -1: a user of whom nothing is known.
    items: int32[n], codes of items; below 0, or beyond those of the model: it does not know the item.
    now: microseconds UTC.
    """
    items = np.where(items < len(model.item_vectors_), items, -1).astype(np.int32)
    scores = model.pair_scores(histories, rows, items, np.full(len(rows), now, dtype=np.int64), run)
    ratings, half = model.clip(scores), model.half_width_
    lengths = histories.lengths if len(histories) else np.zeros(1, np.int64)
    return RatingPredictions(
        ratings,
        None if half is None else model.clip(ratings - np.float32(half)),
        None if half is None else model.clip(ratings + np.float32(half)),
        float(model.low_),
        float(model.high_),
        (rows >= 0) & (lengths[np.maximum(rows, 0)] > 0),
        items >= 0,
    )


def visitor_history(model: RatingModel, history: Sequence[Any], ratings: Mapping[Any, float], now: int) -> Histories:
    """The history of a visitor who had these items and gave these ratings, one row; unknown items are left out.

    Raises DataError for a rating that is no finite number.
    """
    items = [*history, *ratings]
    values = np.array([*[np.nan] * len(history), *ratings.values()], dtype=np.float32)
    if not np.isfinite(values[len(history) :]).all():
        raise DataError("a rating is no finite number", remedy="leave it out, or give a number")
    codes = model._context().item_ids.encode(items)
    known = codes >= 0
    codes, values = codes[known], values[known]
    weights = np.ones(len(codes), dtype=np.float32)
    schema = model._context().schema
    if schema is not None and len(codes):
        weights = schema.weights(None, [None if np.isnan(value) else float(value) for value in values])
    return Histories.of(
        np.array([0, len(codes)]),
        codes,
        weights=weights,
        values=values,
        times=np.full(len(codes), now, dtype=np.int64),
    )
