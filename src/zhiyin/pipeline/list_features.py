"""Features of the items of a shortlist, by which the policy of a placement learns.

They say what the list knew of an item when it was made. The first ones mean the same with every version of the models;
the last ones, products of vectors of user and item, belong to a version.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from zhiyin.core.parallel import kernel
from zhiyin.core.run import Run
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
            tuple(sources),
            column(AGE_COLUMNS, "time"), price, popularity, _log_scale(filters, price),
            _log_scale(filters, popularity), block,
        )  # fmt: skip

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the features, by column."""
        vector = range(0 if self.vectors is None else self.vectors.projection.shape[1])
        fixed = [*_FIXED]
        fixed += [f"column_{part}" for part, _ in self._columns]
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

    @functools.cached_property
    def digest(self) -> str:
        """Of the names of the features: what was learned by other ones does not fit."""
        return hashlib.blake2b(json.dumps(self.names).encode(), digest_size=8).hexdigest()

    @functools.cached_property
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
        n_trained = len(context.item_ids)
        is_trained = items < n_trained
        known = np.where(is_trained, items, 0)
        m, candidates, vectors = len(items), inputs.candidates, self.vectors
        out = np.zeros((m, len(self.names)), dtype=np.float32)
        displays, ratios = np.zeros(m), np.ones(m)
        if statistics is not None:
            displays, ratios = statistics.displays_of(keys), statistics.ratios_of(keys, SHRINKAGE)
        numbers = np.empty((len(self._columns), m))
        for row, (_, name) in enumerate(self._columns):
            numbers[row] = _numbers(filters.column(name), items)
        users, item_vectors, projection = _NO_VECTORS, _NO_VECTORS, _NO_VECTORS
        model = None if vectors is None else models.get(vectors.source)
        if vectors is not None and isinstance(model, VectorRecommender):
            projection = vectors.projection
            users = np.asarray(model.encode(inputs.histories, _ONE_THREAD), dtype=np.float32)
            item_vectors = np.asarray(model.item_vectors_[known], dtype=np.float32)
        _fill_features(
            out, owners, items, is_trained, places, scores.astype(np.float64), np.asarray(context.popularity[known]),
            displays, ratios, numbers, self._column_kinds, self._scales, inputs.now, candidates.offsets,
            candidates.items, candidates.ranks, self._rank_columns(candidates.sources), users, item_vectors, projection,
            MAX_RATIO,
        )  # fmt: skip
        return out

    @functools.cached_property
    def _columns(self) -> list[tuple[str, str]]:
        """Parts and names of the columns of items that are features."""
        return [(part, getattr(self, part)) for part in ("age", "price", "popularity") if getattr(self, part)]

    @functools.cached_property
    def _column_kinds(self) -> np.ndarray:
        """bool: which of `_columns` are times."""
        return np.array([part == "age" for part, _ in self._columns], dtype=bool)

    @functools.cached_property
    def _scales(self) -> np.ndarray:
        """float64[columns, 2]: mean and standard deviation of the logarithms of `_columns`."""
        scales = {"age": (0.0, 1.0), "price": self.price_scale, "popularity": self.popularity_scale}
        return np.array([scales[part] for part, _ in self._columns], dtype=np.float64).reshape(-1, 2)

    def _rank_columns(self, sources: tuple[str, ...]) -> np.ndarray:
        """int64[sources]: the feature that holds the rank by each source of candidates; -1: none."""
        if sources == self.sources:
            return self._own_rank_columns
        by_source = dict(zip(self.sources, self._own_rank_columns.tolist()))
        return np.array([by_source.get(source, -1) for source in sources], dtype=np.int64)

    @functools.cached_property
    def _own_rank_columns(self) -> np.ndarray:
        place = {name: at for at, name in enumerate(self.names)}
        return np.array([place.get(name, -1) for name in self._rank_names()], dtype=np.int64)


_NO_VECTORS = np.zeros((0, 0), dtype=np.float32)
_ONE_THREAD = Run(threads=1)
# Columns of the features that every layout has; see `ListFeatures.names`.
_FIXED = ("bias", "position", "score", "rank", "is_new", "reward_ratio", "uncertainty", "log_events")


@kernel
def _fill_features(
    out, owners, items, is_trained, places, scores, popularity, displays, ratios, numbers, is_time, scales, now,
    candidate_offsets, candidate_items, candidate_ranks, rank_columns, users, item_vectors, projection, max_ratio,
):  # fmt: skip
    """Fill float32[m, d] with the features of m items, in the order of `ListFeatures.names`; see `matrix`."""
    m, d = out.shape
    v = projection.shape[1]
    user, item = np.zeros(v), np.zeros(v)
    first = 0
    while first < m:
        r, last = owners[first], first
        while last < m and owners[last] == r:
            last += 1
        mean, spread = 0.0, 0.0
        for row in range(first, last):
            mean += scores[row]
        mean /= last - first
        for row in range(first, last):
            spread += (scores[row] - mean) ** 2
        spread = np.sqrt(spread / (last - first))
        length = 0.0
        for j in range(v):
            user[j] = 0.0
            for i in range(len(projection)):
                user[j] += users[r, i] * projection[i, j]
            length += user[j] * user[j]
        length = max(np.sqrt(length), 1e-9)
        for row in range(first, last):
            events = np.float64(popularity[row]) if is_trained[row] else 0.0
            out[row, 0] = 1.0
            out[row, 2] = (scores[row] - mean) / spread if spread > 1e-12 else 0.0
            out[row, 3] = 1.0 / (1.0 + places[row])
            out[row, 4] = 1.0 if events <= 0.0 else 0.0
            out[row, 5] = min(ratios[row], max_ratio) - 1.0
            out[row, 6] = 1.0 / np.sqrt(1.0 + displays[row])
            out[row, 7] = np.log1p(max(events, 0.0)) / 10.0
            for c in range(len(numbers)):
                value = numbers[c, row]
                if np.isnan(value):
                    continue
                if is_time[c]:
                    out[row, 8 + c] = np.exp(-max(now[r] - value, 0.0) / 86_400e6 / 30.0)
                else:
                    out[row, 8 + c] = min(max((np.log1p(max(value, 0.0)) - scales[c, 0]) / scales[c, 1], -5.0), 5.0)
            for at in range(candidate_offsets[r], candidate_offsets[r + 1]):
                if candidate_items[at] == items[row]:
                    for source in range(len(rank_columns)):
                        rank = candidate_ranks[at, source]
                        if rank_columns[source] >= 0 and rank >= 0:
                            out[row, rank_columns[source]] = 1.0 / (1.0 + rank)
                    break
            if is_trained[row]:
                for j in range(v):
                    item[j] = 0.0
                for i in range(len(projection)):
                    x = np.float64(item_vectors[row, i])
                    for j in range(v):
                        item[j] += x * projection[i, j]
                for j in range(v):
                    out[row, d - 2 * v + j] = item[j] * user[j] / length
                    out[row, d - v + j] = item[j] / np.sqrt(np.float64(v))
            for j in range(d):
                x = out[row, j]
                out[row, j] = min(max(x, -10.0), 10.0) if np.isfinite(x) else 0.0
        first = last


def _numbers(value: Value, items: np.ndarray) -> np.ndarray:
    """float64[m]: values of a column of numbers or times; NaN where NULL."""
    if value.offsets is not None or len(value.data) == 1:
        value = value.take(items)
        numbers = np.broadcast_to(value.data, len(items)).astype(np.float64)
        return numbers if value.valid is None else np.where(value.valid, numbers, np.nan)
    numbers = value.data[items].astype(np.float64)
    if value.valid is not None:
        numbers[~value.valid[items]] = np.nan
    return numbers


def _log_scale(filters: Filters, column: str) -> tuple[float, float]:
    """Mean and standard deviation of log(1 + value) over the catalogue; (0, 1) where there are no values."""
    if not column:
        return 0.0, 1.0
    values = _numbers(filters.column(column), np.arange(len(filters)))
    logs = np.log1p(np.maximum(values[np.isfinite(values)], 0))
    spread = float(logs.std()) if len(logs) else 0.0
    return (float(logs.mean()) if len(logs) else 0.0), spread if spread > 1e-9 else 1.0
