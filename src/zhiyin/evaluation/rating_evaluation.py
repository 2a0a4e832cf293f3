"""Evaluation of predicted ratings: a loss for each rating of a test part, and calibration by buckets of predictions.

`evaluate`, `tune` and the gate read the same `RatingWindow`. The unit of intervals and tests is the user: all ratings
of a user are drawn and counted together (`significance`, with the user of each rating as its group).

| metric | loss of one rating | figure |
|---|---|---|
| `rmse` | (r - r̂)² | root of the mean |
| `mae` | the absolute error | mean |
| `log_loss` | - ln P of what r was: at least the threshold, or below | mean |
| `calibration_error` | | Σ_b n_b / n · the absolute difference of mean r̂ and mean r in bucket b |
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.data.splits import Split
from zhiyin.evaluation.pointwise_metrics import binary_losses, platt_probabilities
from zhiyin.evaluation.rating_metric_names import RATING
from zhiyin.evaluation.significance import bootstrap_interval
from zhiyin.models.recommender import Recommender

if TYPE_CHECKING:
    from zhiyin.models.ratings.rating_model import RatingModel

# Buckets of predictions that calibration is looked at in, each of as many ratings.
N_BUCKETS = 10
# Random stream of the halves of the users that probabilities are fitted on.
_HALVES_STREAM = 223


@dataclasses.dataclass(frozen=True)
class RatingWindow:
    """The ratings of a test part, and the histories that they are predicted from.

    Parameters
    ----------
    train: the training part.
    histories: of every user code, before the test part.
    users: int64[m], rows of `histories`; items: int32[m], codes.
    times: int64[m], microseconds UTC, the moments that ratings are predicted for: their own where all of a history lies
        before them; None where it may not, as in a random split: then for the end of the train part, as a service
        answers, and not from what a user did on the same day.
    ratings: float32[m], what was given; a rating that is repeated counts each time.
    threshold: a rating of at least this is liked, for log-loss; None: there is no log-loss.
    """

    train: Dataset
    histories: Histories
    users: np.ndarray
    items: np.ndarray
    times: np.ndarray | None
    ratings: np.ndarray
    threshold: float | None = None

    @classmethod
    def of(cls, split: Split, threshold: float | None = None) -> RatingWindow | None:
        """The window of a split; None where its test part or its train part has no rating.

        threshold: None: .5 where all ratings are 0 or 1, else there is no log-loss.
        """
        train, test = split.train, split.test
        learned = train.histories.values
        learned = learned[np.isfinite(learned)]
        given = test.events["value"].fill_null(np.nan).to_numpy()
        rated = np.isfinite(given)
        if not len(learned) or not rated.any():
            return None
        if threshold is None and np.isin(learned, (0, 1)).all() and np.isin(given[rated], (0, 1)).all():
            threshold = 0.5
        return cls(
            train,
            split.fold_in.histories,
            test.events["user"].to_numpy()[rated].astype(np.int64),
            test.events["item"].to_numpy()[rated].astype(np.int32),
            test.events["time"].to_numpy()[rated] if train.has_times and _is_later(split) else None,
            given[rated],
            threshold,
        )

    def __len__(self) -> int:
        return len(self.ratings)

    @property
    def n_users(self) -> int:
        return len(np.unique(self.users))

    def take(self, rows: np.ndarray) -> RatingWindow:
        """The same window for some of its ratings: positions, or bool[m]."""
        parts = {name: getattr(self, name)[rows] for name in ("users", "items", "ratings")}
        return dataclasses.replace(self, times=None if self.times is None else self.times[rows], **parts)

    def segments(self, head: np.ndarray) -> dict[str, np.ndarray]:
        """bool[m] by segment of users and of items, as the segments of lists. head: bool[n_items]."""
        lengths = self.histories.lengths
        rated = np.unique(self.users)
        known = lengths[rated][lengths[rated] > 0]
        middle = np.median(known) if len(known) else 0
        mine, is_head = lengths[self.users], head[self.items]
        return {
            "new users": mine == 0,
            "light users": (mine > 0) & (mine <= middle),
            "heavy users": mine > middle,
            "head items": is_head,
            "tail items": ~is_head,
        }


@dataclasses.dataclass(frozen=True)
class RatingResult:
    """Predictions of one model, float32[m], its losses, {metric: float64[m]}, and the seconds it took."""

    predictions: np.ndarray
    losses: dict[str, np.ndarray]
    seconds: float


def rating_model_of(model: Recommender) -> RatingModel | None:
    """What of a model predicts ratings; None for a model of lists alone."""
    return model.rating_model


def evaluate_ratings(model: RatingModel, window: RatingWindow, run: Run) -> RatingResult:
    """Predict every rating of a window by a fitted model, within the range that it learned."""
    started = time.perf_counter()
    scores = model.pair_scores(window.histories, window.users, window.items, window.times, run)
    predictions = model.clip(scores)
    seconds = time.perf_counter() - started
    return RatingResult(predictions, losses(window, predictions, run), seconds)


def losses(window: RatingWindow, predictions: np.ndarray, run: Run) -> dict[str, np.ndarray]:
    """The loss of each rating, {metric: float64[m]}."""
    error = window.ratings.astype(np.float64) - predictions
    found = {"rmse": np.square(error), "mae": np.abs(error)}
    if window.threshold is not None:
        liked = window.ratings >= np.float32(window.threshold)
        users, place = np.unique(window.users, return_inverse=True)
        halves = (run.rng(_HALVES_STREAM).permutation(len(users)) % 2 == 0)[place]
        found["log_loss"] = binary_losses(liked, platt_probabilities(predictions, liked, halves))
    return found


def figure(metric: str, loss: float) -> float:
    """The figure of a metric by the mean of its losses."""
    return math.sqrt(loss) if metric == "rmse" and loss >= 0 else loss


def figures(found: dict[str, np.ndarray], truth: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """{metric: figure} over ratings."""
    by_metric = {name: figure(name, float(loss.mean())) if len(loss) else math.nan for name, loss in found.items()}
    return by_metric | {"calibration_error": calibration_error(calibration_table(truth, predictions))}


def intervals(found: dict[str, np.ndarray], users: np.ndarray, run: Run, rounds: int) -> dict[str, tuple[float, float]]:
    """95 % intervals of the figures, by draws of users with all their ratings."""
    low, high = bootstrap_interval(np.column_stack(list(found.values())), run, rounds, groups=users)
    return {
        name: (figure(name, float(a)), figure(name, float(b)))
        for name, a, b in zip(found, low, high)
        if not math.isnan(a)
    }


def calibration_table(truth: np.ndarray, predictions: np.ndarray, buckets: int = N_BUCKETS) -> list[dict[str, Any]]:
    """Rows {"from", "to", "ratings", "predicted", "true"} by buckets of predictions, each of about as many ratings.

    Equal predictions are in one bucket. "predicted" and "true" are means.
    """
    predictions, truth = np.asarray(predictions, np.float64), np.asarray(truth, np.float64)
    if not len(truth):
        return []
    edges = np.unique(np.quantile(predictions, np.arange(1, buckets) / buckets))
    place = np.searchsorted(edges, predictions, side="right")
    rows = []
    for bucket in np.unique(place):
        inside = place == bucket
        mine = predictions[inside]
        rows.append(
            {
                "from": float(mine.min()),
                "to": float(mine.max()),
                "ratings": int(inside.sum()),
                "predicted": float(mine.mean()),
                "true": float(truth[inside].mean()),
            }
        )
    return rows


def calibration_error(table: Sequence[dict[str, Any]]) -> float:
    """The mean over ratings of how far the mean prediction of a bucket is from its mean rating; NaN without any."""
    n = sum(row["ratings"] for row in table)
    return sum(row["ratings"] * abs(row["predicted"] - row["true"]) for row in table) / n if n else math.nan


def _is_later(split: Split) -> bool:
    """Whether what a user did in the test part lies after the history that is shown."""
    if split.by == "given":
        return split.train.window[1] <= split.test.window[0]
    return split.by in ("time", "last", "cold-users")


def has_ratings(data: Dataset) -> bool:
    """Whether an event of the data has a value."""
    return bool(np.isfinite(data.events["value"].fill_null(np.nan).to_numpy()).any())


def need_ratings(windows: Sequence[RatingWindow | None]) -> None:
    """Raise DataError where a part has no ratings to evaluate by."""
    if any(window is None for window in windows):
        raise DataError(
            "no event of the test part, or of the train part, has a rating",
            remedy='name the column of ratings under [columns]: rating = "stars"; or judge lists: --goal ranking',
        )


assert {"rmse", "mae", "log_loss", "calibration_error"} == set(RATING)
