"""The ratings part of a comparison: figures, intervals, tests, segments and calibration of each model that predicts
ratings, over all folds together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.run import Run
from zhiyin.evaluation.rating_evaluation import (
    RatingResult,
    RatingWindow,
    calibration_table,
    figure,
    figures,
    intervals,
)
from zhiyin.evaluation.significance import paired_tests


@dataclasses.dataclass(frozen=True)
class RatingComparison:
    """What `evaluate` says of predicted ratings.

    Parameters
    ----------
    users: raw ids, one a rating of all folds; ratings: float32[m], what was given.
    losses: {model: {metric: float64[m]}}; predictions: {model: float32[m]}.
    segments: {segment: bool[m]}.
    """

    users: pl.Series
    ratings: np.ndarray
    losses: dict[str, dict[str, np.ndarray]]
    predictions: dict[str, np.ndarray]
    segments: dict[str, np.ndarray]

    @classmethod
    def of(
        cls,
        windows: Sequence[RatingWindow],
        results: Mapping[str, Sequence[RatingResult | None]],
        heads: Sequence[np.ndarray],
    ) -> RatingComparison:
        """Of the windows of all folds, and of each model a result a fold. heads: bool[n_items] of each fold."""
        parts = [window.segments(head) for window, head in zip(windows, heads)]
        whole = {name: [one for one in found if one is not None] for name, found in results.items()}
        whole = {name: found for name, found in whole.items() if len(found) == len(windows)}
        return cls(
            pl.concat([window.train.users["id"].gather(window.users) for window in windows]),
            np.concatenate([window.ratings for window in windows]),
            {
                name: {metric: np.concatenate([one.losses[metric] for one in found]) for metric in _common(found)}
                for name, found in whole.items()
            },
            {name: np.concatenate([one.predictions for one in found]) for name, found in whole.items()},
            {name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
        )

    @property
    def groups(self) -> np.ndarray:
        """The user of each rating, as codes."""
        return self.users.rank("dense").to_numpy()

    def metrics(self, model: str) -> dict[str, float]:
        """{metric: figure}; empty for a model that predicts no ratings."""
        if model not in self.losses:
            return {}
        return figures(self.losses[model], self.ratings, self.predictions[model])

    def intervals(self, model: str, run: Run, rounds: int) -> dict[str, tuple[float, float]]:
        """95 % intervals of the figures."""
        return intervals(self.losses[model], self.groups, run, rounds) if model in self.losses else {}

    def p_values(self, best: str) -> dict[str, dict[str, float]]:
        """{model: {metric: p}} against the best; empty where that predicts no ratings."""
        found: dict[str, dict[str, float]] = {}
        for metric in self.losses.get(best, {}):
            values = {name: mine[metric] for name, mine in self.losses.items() if metric in mine}
            for name, p in paired_tests(values, best, self.groups).items():
                found.setdefault(name, {})[metric] = p
        return found

    def by_segment(self, model: str) -> dict[str, dict[str, float]]:
        """{segment: {metric: figure}} and how many users they are of."""
        found = {}
        for segment, inside in self.segments.items():
            if model in self.losses and inside.any():
                mine = {name: figure(name, float(loss[inside].mean())) for name, loss in self.losses[model].items()}
                found[segment] = {"users": float(len(np.unique(self.groups[inside]))), **mine}
        return found

    def calibration(self, model: str) -> list[dict[str, Any]]:
        """Mean predicted and true rating by bucket of predictions; see `calibration_table`."""
        return calibration_table(self.ratings, self.predictions[model]) if model in self.losses else []


def rating_sentences(windows: Sequence[RatingWindow]) -> list[str]:
    """How ratings were judged, in sentences."""
    n = sum(map(len, windows))
    users = len(np.unique(np.concatenate([window.users for window in windows])))
    sentences = [
        f"Ratings: {n:,} of {users:,} users in the test part, each predicted "
        + ("for the end of the train part" if any(w.times is None for w in windows) else "for its own moment")
        + "; RMSE and MAE over all ratings, intervals by draws of users with all of theirs."
    ]
    thresholds = {window.threshold for window in windows} - {None}
    if thresholds:
        sentences.append(
            f"Log-loss of whether a rating is at least {max(filter(None, thresholds)):g}, its probability by a "
            "logistic regression on the prediction, for each half of the users fitted on the other."
        )
    return sentences


def _common(found: Sequence[RatingResult]) -> list[str]:
    """Metrics that all folds have."""
    return [metric for metric in found[0].losses if all(metric in one.losses for one in found)]
