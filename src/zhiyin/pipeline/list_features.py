"""Features of the items of a shortlist, by which the policy of a placement learns.

They say what the list knew of an item when it was made. The first ones mean the same with every version of the models;
the last ones, products of vectors of user and item, belong to a version.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from zhiyin.data.histories import Histories
from zhiyin.models.recommender import Recommender, VectorRecommender
from zhiyin.models.training_context import TrainingContext
from zhiyin.pipeline.expression_values import Value
from zhiyin.pipeline.filters import Filters
from zhiyin.pipeline.item_statistics import ItemStatistics
from zhiyin.ranking.examples import Candidates

if TYPE_CHECKING:
    from zhiyin.pipeline.answers import Answers

# Features at most.
MAX_FEATURES = 128
# Dimensions of the vectors of users and items, at most.
MAX_VECTOR_DIMENSIONS = 16
# Expected rewards that shrink the ratio of an item's rewards to its expected ones towards 1.
SHRINKAGE = 5.0
# Largest ratio of rewards to expected rewards: one lucky click must not say more.
MAX_RATIO = 5.0
# Columns of items whose values are features where they are numbers, and times, by their names in any case.
PRICE_COLUMNS = ("price", "sale_price", "list_price")
AGE_COLUMNS = ("created_at", "created", "published_at", "published", "release_date", "released", "added_at", "added")
POPULARITY_COLUMNS = ("popularity", "views", "sales", "rating_count", "n_ratings", "votes")
DAY = 86_400_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class VectorBlock:
    """How vectors of a source become features.

    Parameters
    ----------
    source: name of the source, a `VectorRecommender`.
    projection: float32[f, v], from its vectors to the v directions in which those of items differ most, scaled so that
        items have a mean square of 1 in all v dimensions together.
    """

    source: str
    projection: np.ndarray

    @classmethod
    def of(cls, source: str, model: VectorRecommender) -> VectorBlock:
        vectors = np.asarray(model.item_vectors_)
        gram = (vectors.T @ vectors).astype(np.float64)
        values, directions = np.linalg.eigh(gram)
        best = np.argsort(-values, kind="stable")[:MAX_VECTOR_DIMENSIONS]
        directions = directions[:, best]
        # The sign of an eigenvector is arbitrary: the largest part is positive.
        directions *= np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(len(best))])
        scale = np.sqrt(max(values[best].sum(), 1e-12) / max(1, len(vectors)))
        return cls(source, (directions / scale).astype(np.float32))


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureInputs:
    """What features are made of, for a batch of n requests.

    Parameters
    ----------
    histories: n.
    candidates: of the n requests, with their ranks by source.
    now: int64[n], microseconds UTC.
    """

    histories: Histories
    candidates: Candidates
    now: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class ListFeatures:
    """The layout of the features of a version.

    Parameters
    ----------
    sources: names of the sources whose ranks are features.
    age, price, popularity: columns of items; "": there is none.
    price_scale: mean and standard deviation of log(1 + price) over the catalogue; popularity_scale: likewise.
    vectors: of the first source that has vectors; None: there is none.
    """

    sources: tuple[str, ...]
    age: str = ""
    price: str = ""
    popularity: str = ""
    price_scale: tuple[float, float] = (0.0, 1.0)
    popularity_scale: tuple[float, float] = (0.0, 1.0)
    vectors: VectorBlock | None = None

    @classmethod
    def of(cls, answers: Answers) -> ListFeatures:
        """The layout for a model and its catalogue."""
        filters, sources = answers.filters, answers.model.sources_
        kinds = filters.columns.kinds["item"]

        def column(names: tuple[str, ...], kind: str) -> str:
            """The first of the names that is a column of a kind, as the catalogue spells it."""
            by_lower = {name.lower(): name for name in kinds if kinds[name] == kind}
            return next((by_lower[name] for name in names if name in by_lower), "")

        price, popularity = column(PRICE_COLUMNS, "number"), column(POPULARITY_COLUMNS, "number")
        block = next((VectorBlock.of(name, model) for name, model in sources.items()
                      if isinstance(model, VectorRecommender) and model.item_vectors_.shape[1] > 0), None)  # fmt: skip
        return cls(
            tuple(sources), column(AGE_COLUMNS, "time"), price, popularity, _log_scale(filters, price),
            _log_scale(filters, popularity), block,
        )  # fmt: skip

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features, by column."""
        vector = range(0 if self.vectors is None else self.vectors.projection.shape[1])
        fixed = ["bias", "position", "score", "rank", "is_new", "reward_ratio", "uncertainty", "log_events"]
        fixed += [f"column_{part}" for part in ("age", "price", "popularity") if getattr(self, part)]
        room = MAX_FEATURES - len(fixed) - 2 * len(vector)
        fixed += self._rank_names()[:room]
        return (*fixed, *(f"match_{i}" for i in vector), *(f"item_{i}" for i in vector))

    def _rank_names(self) -> list[str]:
        """By the class of each source, so that other settings of it leave the layout as it is."""
        names: list[str] = []
        for source in self.sources:
            name = "rank_" + source.split(":")[0].strip().lower()
            names.append(name if name not in names else f"{name}_{len(names)}")
        return names

    @property
    def position(self) -> int:
        """Column of the position."""
        return 1

    @property
    def n_version_free(self) -> int:
        """The first so many features mean the same with every version of the models."""
        return len(self.names) - (0 if self.vectors is None else 2 * self.vectors.projection.shape[1])

    @property
    def digest(self) -> str:
        """Of the names of the features: what was learned by other ones does not fit."""
        return hashlib.blake2b(json.dumps(self.names).encode(), digest_size=8).hexdigest()

    @property
    def version_digest(self) -> str:
        """Of the vectors: features of the vector block with another digest mean something else; "" without one."""
        if self.vectors is None:
            return ""
        text = self.vectors.source.encode() + np.ascontiguousarray(self.vectors.projection).tobytes()
        return hashlib.blake2b(text, digest_size=8).hexdigest()

    def matrix(
        self,
        filters: Filters,
        context: TrainingContext,
        models: Mapping[str, Recommender],
        inputs: FeatureInputs,
        statistics: ItemStatistics | None,
        owners: np.ndarray,
        items: np.ndarray,
        keys: np.ndarray,
        places: np.ndarray,
        scores: np.ndarray,
    ) -> np.ndarray:
        """Features of items, float32[m, d]; always finite.

        Parameters
        ----------
        filters: of the catalogue. context: of the training data. models: the sources by name.
        owners: int64[m], the request of each item, ascending. items: int32[m], codes. keys: int64[m].
        places: int64[m], places among the candidates before the policy, from 0. scores: float32[m].
        """
        names = self.names
        out = np.zeros((len(items), len(names)), dtype=np.float32)
        column = {name: at for at, name in enumerate(names)}
        n_trained = len(context.item_ids)
        is_trained = items < n_trained
        events = np.where(is_trained, context.popularity[np.minimum(items, n_trained - 1)], 0.0)
        out[:, 0] = 1.0
        out[:, column["score"]] = _standardised(scores, owners)
        out[:, column["rank"]] = 1.0 / (1.0 + places)
        out[:, column["is_new"]] = events <= 0
        out[:, column["log_events"]] = np.log1p(events) / 10
        out[:, column["uncertainty"]] = 1.0
        if statistics is not None:
            out[:, column["uncertainty"]] = 1 / np.sqrt(1 + statistics.displays_of(keys))
            out[:, column["reward_ratio"]] = np.minimum(statistics.ratios_of(keys, SHRINKAGE), MAX_RATIO) - 1
        for part, scale in (("price", self.price_scale), ("popularity", self.popularity_scale)):
            if f"column_{part}" in column:
                values = _numbers(filters.column(getattr(self, part)), items)
                known = (np.log1p(np.maximum(values, 0)) - scale[0]) / scale[1]
                out[:, column[f"column_{part}"]] = np.clip(np.nan_to_num(known), -5, 5)
        if "column_age" in column:
            times = _numbers(filters.column(self.age), items)
            days = np.maximum(inputs.now[owners] - times, 0) / DAY
            out[:, column["column_age"]] = np.nan_to_num(np.exp(-days / 30))
        ranks = _source_ranks(inputs.candidates, owners, items, len(filters))
        for source, name in zip(self.sources, self._rank_names()):
            at = column.get(name)
            if at is not None and source in inputs.candidates.sources:
                rank = ranks[:, inputs.candidates.sources.index(source)]
                out[:, at] = np.where(rank >= 0, 1.0 / (1.0 + np.maximum(rank, 0)), 0.0)
        model = None if self.vectors is None else models.get(self.vectors.source)
        if self.vectors is not None and isinstance(model, VectorRecommender):
            projection = self.vectors.projection
            d = projection.shape[1]
            vectors = model.item_vectors_[np.where(is_trained, items, 0)] @ projection
            vectors[~is_trained] = 0.0
            users = model.encode(inputs.histories) @ projection
            users /= np.maximum(np.linalg.norm(users, axis=1, keepdims=True), 1e-9)
            out[:, -2 * d : -d] = vectors * users[owners]
            out[:, -d:] = vectors / np.sqrt(d)
        np.clip(np.nan_to_num(out, copy=False), -10, 10, out=out)
        return out


def _standardised(scores: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """float64[m]: less the mean of the request, by its standard deviation; 0 where all are the same."""
    scores = scores.astype(np.float64)
    if not len(owners) or owners[-1] == owners[0]:
        spread = scores.std() if len(scores) else 0.0
        return (scores - scores.mean()) / spread if spread > 1e-12 else np.zeros(len(scores))
    sizes = np.bincount(owners)
    centred = scores - (np.bincount(owners, weights=scores) / np.maximum(sizes, 1))[owners]
    spread = np.sqrt(np.bincount(owners, weights=centred**2) / np.maximum(sizes, 1))[owners]
    return np.where(spread > 1e-12, centred / np.maximum(spread, 1e-12), 0.0)


def _source_ranks(candidates: Candidates, owners: np.ndarray, items: np.ndarray, n_items: int) -> np.ndarray:
    """int32[m, sources]: the rank that each source gave an item, from 0; -1: none."""
    keys = candidates.owners * n_items + candidates.items
    if not len(keys):
        return np.full((len(items), len(candidates.sources)), -1, dtype=np.int32)
    order = np.argsort(keys)
    wanted = owners * n_items + items
    at = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
    return np.where((keys[at] == wanted)[:, None], candidates.ranks[at], -1)


def _numbers(value: Value, items: np.ndarray) -> np.ndarray:
    """float64[m]: values of a column of numbers or times; NaN where NULL."""
    taken = value.take(items)
    numbers = np.broadcast_to(taken.data, len(items)).astype(np.float64)
    return numbers if taken.valid is None else np.where(taken.valid, numbers, np.nan)


def _log_scale(filters: Filters, column: str) -> tuple[float, float]:
    """Mean and standard deviation of log(1 + value) over the catalogue; (0, 1) where there are no values."""
    if not column:
        return 0.0, 1.0
    values = _numbers(filters.column(column), np.arange(len(filters)))
    logs = np.log1p(np.maximum(values[np.isfinite(values)], 0))
    spread = float(logs.std()) if len(logs) else 0.0
    return (float(logs.mean()) if len(logs) else 0.0), spread if spread > 1e-9 else 1.0
