"""Metrics of models on one fold of a comparison, and what they share on it, computed once."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import polars as pl
from scipy import sparse

from zhiyin.core.run import Run
from zhiyin.data.catalogue import category_columns
from zhiyin.data.dataset import Dataset
from zhiyin.evaluation.beyond_accuracy import BEYOND_ACCURACY, FIRST_K_ONLY, EvaluatedLists, popularity_groups
from zhiyin.evaluation.model_evaluation import PeakMemory, Window, WindowResult, accuracy, evaluate_window
from zhiyin.evaluation.rating_evaluation import RatingResult, RatingWindow, evaluate_ratings, rating_model_of
from zhiyin.models.popularity import Popular
from zhiyin.models.recommender import Recommender

# Share of the events that head items have.
HEAD_SHARE = 0.8
DIVERSITY_USERS = 20_000
# Entries of item vectors that the diversity of all lists may read: some seconds.
MAX_DIVERSITY_ENTRIES = 2_000_000_000
# Random stream of the users whose diversity is measured.
DIVERSITY_SAMPLE_STREAM = 221


@dataclasses.dataclass(frozen=True)
class ModelFoldResult:
    """One model on one fold. `by_item_segment`: {"head items": {"recall@10": float64[n], NaN without such truth}};
    `ratings`: None where there are none, or the model predicts none."""

    per_user: dict[str, np.ndarray]
    list_metrics: dict[str, float]
    by_item_segment: dict[str, dict[str, np.ndarray]]
    fit_seconds: float
    score_seconds: float
    peak_mb: float
    ratings: RatingResult | None = None
    training_log: list[dict[str, Any]] = dataclasses.field(default_factory=list)


class Work(Protocol):
    """Where models are fitted and their lists are made and measured: `LocalWork`, or on a cluster."""

    def fit(self, model: Recommender, train: Dataset, run: Run) -> None:
        """As `Recommender.fit`."""

    def evaluate_window(
        self, model: Recommender, window: Window, ks: Sequence[int], run: Run, *, auc: bool = False, label: str = ""
    ) -> WindowResult:
        """As the function of this name."""


class LocalWork:
    """Fits and ranks in this process."""

    def fit(self, model: Recommender, train: Dataset, run: Run) -> None:
        model.fit(train, run)

    def evaluate_window(
        self, model: Recommender, window: Window, ks: Sequence[int], run: Run, *, auc: bool = False, label: str = ""
    ) -> WindowResult:
        # Kernels load at their first call; that is no model's scoring time.
        model.rank(window.histories.rows(0, 1), 1, run=run)
        return evaluate_window(model, window, ks, run, auc=auc, label=label)


class Fold:
    """A test window, with what the metrics of all models on it share, computed once."""

    def __init__(
        self, window: Window, ks: list[int], run: Run, work: Work | None = None, ratings: RatingWindow | None = None
    ) -> None:
        """ratings: of the same split; None where it has none."""
        self.window, self.ks, self.run, self.work = window, ks, run, work or LocalWork()
        self.ratings = ratings
        train = window.train
        incidence = train.matrix()
        self.counts = np.bincount(incidence.indices, minlength=train.n_items).astype(np.float64)
        self.n_users = max(1, int((np.diff(incidence.indptr) > 0).sum()))
        # Offsets and items of what each judged user chose before: distinct items of positive weight.
        chosen = window.histories.matrix(train.n_items)
        self.histories = (chosen.indptr.astype(np.int64), chosen.indices)
        categories = category_matrix(train)
        self.by_category = categories is not None
        # Calibration compares shares of groups, diversity compares vectors: both categories, where items have them.
        self.item_groups = popularity_groups(self.counts) if categories is None else categories
        self.item_vectors = incidence.T.tocsr() if categories is None else categories
        self.diversity_rows = self._diversity_rows()
        positive = train.events["weight"].to_numpy() > 0
        events = np.bincount(train.events["item"].to_numpy()[positive], minlength=train.n_items)
        head = head_items(events)
        self.item_segments = {"head items": head, "tail items": ~head}
        lengths = window.histories.lengths
        middle = np.median(lengths[lengths > 0]) if (lengths > 0).any() else 0
        self.segments = {
            "new users": lengths == 0,
            "light users": (lengths > 0) & (lengths <= middle),
            "heavy users": lengths > middle,
        }
        # int32[n, max(ks)]: lists of plain popularity, of the first call of `evaluate`.
        self.popular_lists: np.ndarray | None = None

    def evaluate(self, name: str, model: Recommender, auc: bool) -> ModelFoldResult:
        """Fit if need be, rank, and measure."""
        window, fit_seconds = self.window, math.nan
        with PeakMemory() as memory:
            if not model.is_fitted:
                model = dataclasses.replace(model)
                started = time.perf_counter()
                self.work.fit(model, window.train, self.run)
                fit_seconds = time.perf_counter() - started
            result = self.work.evaluate_window(model, window, self.ks, self.run, auc=auc, label=f"{name}: ranking")
            rating_model = rating_model_of(model) if self.ratings is not None else None
            rated = (
                evaluate_ratings(rating_model, self.ratings, self.run)
                if rating_model is not None and self.ratings is not None
                else None
            )
        if self.popular_lists is None:
            if is_plain_popular(model):
                self.popular_lists = result.lists
            else:
                plain = Popular().fit(window.train, self.run)
                self.popular_lists = evaluate_window(plain, window, self.ks, self.run).lists
        per_user, list_metrics = self._beyond_accuracy(result, self.popular_lists)
        by_item_segment = {
            segment: self._accuracy_of_items(result, items) for segment, items in self.item_segments.items()
        }
        return ModelFoldResult(
            result.per_user | per_user, list_metrics, by_item_segment, fit_seconds, result.seconds, memory.mb, rated,
            [dict(row) for row in model.training_log_],
        )  # fmt: skip

    def _beyond_accuracy(
        self, result: WindowResult, popular_lists: np.ndarray
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Metrics beyond accuracy: those with a value a user, and those of all lists together."""
        per_user: dict[str, np.ndarray] = {}
        list_metrics: dict[str, float] = {}
        for k in self.ks:
            evaluated = EvaluatedLists(
                result.lists[:, :k],
                result.hits[:, :k],
                popular_lists[:, :k],
                self.histories,
                self.window.train.candidates,
                self.counts,
                self.n_users,
                self.item_groups,
                self.item_vectors,
                self.diversity_rows,
                self.run,
            )
            for name, metric in BEYOND_ACCURACY.items():
                if name in FIRST_K_ONLY and k != self.ks[0]:
                    continue
                value = metric(evaluated)
                if isinstance(value, np.ndarray):
                    per_user[f"{name}@{k}"] = value
                else:
                    list_metrics[f"{name}@{k}"] = float(value)
        return per_user, list_metrics

    def _accuracy_of_items(self, result: WindowResult, counted: np.ndarray) -> dict[str, np.ndarray]:
        """Recall and NDCG when only the relevant items in `counted` (bool[n_items]) count."""
        window = self.window
        before = np.concatenate([[0], np.cumsum(counted[window.items])])
        relevant = before[window.offsets[1:]] - before[window.offsets[:-1]]
        return accuracy(result.hits & counted[result.lists], relevant, self.ks, ("recall", "ndcg"))

    def _diversity_rows(self) -> np.ndarray:
        """Users whose lists are measured for diversity: all, or a seeded sample that bounds the work."""
        longest = np.sort(np.diff(self.item_vectors.indptr))[-self.ks[-1] :].sum()
        most = min(DIVERSITY_USERS, max(500, int(MAX_DIVERSITY_ENTRIES // max(1, longest))))
        n = len(self.window)
        if n <= most:
            return np.arange(n)
        return np.sort(self.run.rng(DIVERSITY_SAMPLE_STREAM).choice(n, most, replace=False))


def is_plain_popular(model: Recommender) -> bool:
    return type(model) is Popular and model.half_life is None


def category_matrix(data: Dataset) -> sparse.csr_matrix | None:
    """CSR float32[n_items, n_categories] of the first column that lists categories; None without one.

    Text or lists of text in a column named as categories are (`category_columns`), text parted at "|", ";" or ",";
    or else any column of lists of text.
    """
    named = category_columns(data.items.columns)
    for name in [*named, *(name for name in data.items.columns if name not in named)]:
        column, dtype = data.items[name], data.items.schema[name]
        if name in named and dtype == pl.String:
            column = column.str.replace_all(r"[;,]", "|").str.split("|")
        elif not (isinstance(dtype, pl.List) and dtype.inner == pl.String):
            continue
        pairs = pl.DataFrame({"item": np.arange(len(column)), "word": column}).explode("word")
        pairs = pairs.with_columns(pl.col("word").str.strip_chars()).filter(pl.col("word").str.len_chars() > 0)
        pairs = pairs.unique(maintain_order=True)
        if pairs.is_empty():
            continue
        code = pairs["word"].rank("dense").to_numpy() - 1
        ones = np.ones(len(pairs), dtype=np.float32)
        shape = (len(column), int(code.max()) + 1)
        return sparse.csr_matrix((ones, (pairs["item"].to_numpy(), code)), shape=shape)
    return None


def head_items(events: np.ndarray) -> np.ndarray:
    """bool[n_items]: the fewest items that hold `HEAD_SHARE` of the events (int[n_items])."""
    order = np.argsort(-events, kind="stable")
    before = np.cumsum(events[order]) - events[order]
    head = np.zeros(len(events), dtype=bool)
    head[order] = (before < HEAD_SHARE * events.sum()) & (events[order] > 0)
    return head
