"""The contract of every recommender: raw ids in, a tidy frame out, batch first.

A model writes two methods, `_fit` and `_score` (and `_similar` if it knows similar items); everything else, from
unknown users to saving, is here once. The constructor only stores; what is learned ends in `_`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
from scipy import sparse

from zhiyin.core.errors import ConfigError, DataError, NotFittedError, UnknownItemError, nearest
from zhiyin.core.params import check_settings, list_length, settings_of
from zhiyin.core.run import Run, log
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.data.ids import id_list, id_series
from zhiyin.models import ann_index
from zhiyin.models.finite_check import check_finite
from zhiyin.models.item_to_item import score_by_table
from zhiyin.models.masked_search import WORTH, Compact, Mask, top_k_where
from zhiyin.models.saving import save
from zhiyin.models.topk import first_k, top_k
from zhiyin.models.training_context import TrainingContext

# Dense scores never hold more than this at once, whatever the number of users.
CHUNK_BYTES = 256 << 20
# Requests at once up to which each is searched for alone; more are multiplied together.
SINGLE = 3


@dataclasses.dataclass
class Recommender:
    """Base of all recommenders. See the module docstring."""

    # A history without a positive event gets the popular items, unless the model has an answer of its own.
    answers_strangers: ClassVar[bool] = False
    # Learned attributes that `_write_parts` and `_read_parts` keep, being neither arrays nor numbers.
    _parts: ClassVar[tuple[str, ...]] = ()
    context_: ClassVar[TrainingContext]

    # -- to be written by a model ---------------------------------------------------------------------------------

    def _fit(self, data: Dataset, run: Run) -> None:
        """Learn from `data`: set attributes that end in `_` (arrays, CSR matrices, numbers)."""
        raise NotImplementedError

    def _score(self, histories: Histories, run: Run) -> np.ndarray:
        """float32[n, n_items], a new array; higher is better."""
        raise NotImplementedError

    def _similar(self, items: np.ndarray, run: Run) -> np.ndarray:
        """float32[n, n_items]: how similar each item is to items[r]. Models without the notion leave this out."""
        raise ConfigError(
            f"{type(self).__name__} does not know which items are similar",
            remedy="use ItemKNN, EASE, ALS or Transitions",
        )

    def _rank_few(
        self, histories: Histories, k: int, excluded: tuple[np.ndarray, np.ndarray], allowed: Mask, run: Run
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """As `top_k` of `_score`, for at most SINGLE histories, without scoring every item; None where it cannot."""
        return None

    # -- what every model can do ----------------------------------------------------------------------------------

    def fit(self, data: Dataset, run: Run | None = None) -> Any:
        """Learn from a data set, afresh. Returns self. Raises ConfigError for a hyperparameter out of range."""
        run = run or Run()
        for name, value in check_settings(type(self), settings_of(self)).items():
            setattr(self, name, value)
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)
        self._fit(data, run)
        check_finite(self)
        self.context_ = TrainingContext.of(data, run)  # type: ignore[misc]
        return self

    @property
    def is_fitted(self) -> bool:
        return "context_" in vars(self)

    def score(self, histories: Histories, run: Run | None = None) -> np.ndarray:
        """Scores of all items for each history, float32[n, n_items]: mind the size of the batch."""
        known = self._context()
        scores = self._score(histories, run or Run())
        if not self.answers_strangers:
            strangers = ~has_signal(histories)
            if strangers.any():
                scores[strangers] = known.popularity
        return scores

    def rank(
        self,
        histories: Histories,
        k: int,
        *,
        exclude: Histories | None = None,
        allowed: np.ndarray | Mask | None = None,
        run: Run | None = None,
        label: str = "",
    ) -> tuple[np.ndarray, np.ndarray]:
        """Best k item codes and their scores for each history: int32[n, k], float32[n, k]; -1 once nothing is left.

        `exclude`: items each row must not get; `allowed`: bool[n_items], or a mask. Only CHUNK_BYTES of scores exist
        at once.
        """
        known, run = self._context(), run or Run()
        k = min(list_length(k), len(known.item_ids))
        mask = known.mask(allowed)
        items = np.empty((len(histories), k), dtype=np.int32)
        best = np.empty((len(histories), k), dtype=np.float32)
        if 0 < len(histories) <= SINGLE:
            found = self._few(histories, k, _pairs(exclude, len(histories)), mask, run)
            if found is not None:
                return found
        with run.bar(label, len(histories)) as advance:
            for start, batch in histories.chunks(self.chunk_rows):
                stop = start + len(batch)
                out = exclude.rows(start, stop) if exclude is not None else None
                items[start:stop], best[start:stop] = self._rank_many(batch, k, _pairs(out, len(batch)), mask, run)
                advance(len(batch))
        return items, best

    def _rank_many(
        self, histories: Histories, k: int, excluded: tuple[np.ndarray, np.ndarray], allowed: Mask, run: Run
    ) -> tuple[np.ndarray, np.ndarray]:
        """`rank` of a chunk."""
        return top_k(self.score(histories, run), k, self._context().priority, allowed.bits, excluded, run)

    def _few(
        self, histories: Histories, k: int, excluded: tuple[np.ndarray, np.ndarray], allowed: Mask, run: Run
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """`rank` of few histories without scores of all items, if this model can."""
        known = self._context()
        if self.answers_strangers or has_signal(histories).all():
            return self._rank_few(histories, k, excluded, allowed, run)
        if len(histories) == 1:
            return first_k(known.in_order(allowed), known.popularity, k, allowed.bits, excluded)
        return None

    @property
    def chunk_rows(self) -> int:
        """Histories scored at once."""
        return max(1, CHUNK_BYTES // (4 * max(1, len(self._context().item_ids))))

    def recommend(
        self,
        users: Any = None,
        k: int = 10,
        *,
        histories: Any = None,
        exclude_seen: bool = True,
        allow: Any = None,
        deny: Any = None,
        run: Run | None = None,
    ) -> pl.DataFrame:
        """Recommend k items to each user.

        Parameters
        ----------
        users: a raw id or several, in a list, tuple, array or Series; None with no `histories` means every user of the
            training data. A user never seen gets what a stranger gets.
        histories: instead of what was seen in training, the histories to answer: {"visitor": ["item", ...]}, a list
            of such lists, or a `Histories`.
        exclude_seen: leave out what is in the history.
        k: a whole number of at least 1, of Python or NumPy; ConfigError for anything else.
        allow, deny: raw item ids to choose from, or to leave out. k items come back while k remain.

        Returns
        -------
        Frame `user`, `item` (raw ids), `score`, `rank` (from 1), best first, users in the order asked.
        """
        k, known = list_length(k), self._context()
        who, batch = self._asked(users, histories)
        allowed = None
        if allow is not None or deny is not None:
            allowed = np.ones(len(known.item_ids), dtype=bool)
            if allow is not None:
                allowed[:] = False
                allowed[self._codes(allow, "allow")] = True
            if deny is not None:
                allowed[self._codes(deny, "deny")] = False
        items, scores = self.rank(
            batch, k, exclude=batch if exclude_seen else None, allowed=allowed, run=run, label="Recommending"
        )
        real = items >= 0
        row, place = np.nonzero(real)
        named = who.new_from_index(0, len(row)) if len(who) == 1 else who.gather(row)
        return pl.DataFrame([  # of series, a third quicker than of a dictionary
            named.alias("user"), known.item_ids.decode(items[real]).alias("item"),
            pl.Series("score", scores[real]), pl.Series("rank", (place + 1).astype(np.int32)),
        ])  # fmt: skip

    def similar(self, items: Any, k: int = 10, *, run: Run | None = None) -> pl.DataFrame:
        """The k items most similar to each item: frame `item`, `similar`, `score`, `rank`.

        Raises UnknownItemError for an item the model has not seen, with the nearest known id.
        """
        k, known, run = list_length(k), self._context(), run or Run()
        asked = id_list(items)
        codes = known.item_ids.encode(asked)
        if (codes < 0).any():
            unknown = asked[int(np.argmax(codes < 0))]
            few = [str(item) for item in known.item_ids.values.head(100_000).to_list()]
            raise UnknownItemError(f"item {unknown!r} is not known", remedy=nearest(str(unknown), few)[:200])
        k = min(k, len(known.item_ids))
        found = np.empty((len(codes), k), dtype=np.int32)
        scores = np.empty((len(codes), k), dtype=np.float32)
        for start in range(0, len(codes), self.chunk_rows):
            part = codes[start : start + self.chunk_rows]
            found[start : start + len(part)], scores[start : start + len(part)] = self._nearest(part, k, run)
        real = found >= 0
        return pl.DataFrame(
            {
                "item": known.item_ids.decode(np.broadcast_to(codes[:, None], found.shape)[real]),
                "similar": known.item_ids.decode(found[real]),
                "score": scores[real],
                "rank": (np.nonzero(real)[1] + 1).astype(np.int32),
            }
        )

    def _nearest(self, items: np.ndarray, k: int, run: Run) -> tuple[np.ndarray, np.ndarray]:
        """The k items most similar to each, itself left out: int32[n, k] and float32[n, k], as `rank`."""
        known = self._context()
        itself = (np.arange(len(items) + 1, dtype=np.int64), items)
        return top_k(self._similar(items, run), k, known.priority, known.candidates, itself, run)

    def _similar_to(self, item: int, k: int, run: Run) -> tuple[np.ndarray, np.ndarray]:
        """What is similar to one item, in no order: codes int32[m] and scores float32[m]. The k most similar at least,
        where there are so many. Raises ConfigError as `_similar` does."""
        if k <= len(self._context().item_ids) // 4:
            items, scores = self._nearest(np.array([item]), k, run)
            there = items[0] >= 0
            return items[0][there], scores[0][there]
        found = self._similar(np.array([item]), run)[0]
        codes = np.flatnonzero(np.isfinite(found)).astype(np.int32)
        codes = codes[codes != item]
        return codes, found[codes]

    def similarities(self, items: np.ndarray, others: np.ndarray, run: Run) -> np.ndarray:
        """float32[n, m]: how similar each of some items is to each of others. Raises ConfigError as `_similar` does."""
        return self._similar(items, run)[:, others]

    def similar_users(
        self, users: Any = None, k: int = 10, *, histories: Any = None, run: Run | None = None
    ) -> pl.DataFrame:
        """The k users of the training data most alike each user: frame `user`, `similar`, `score`, `rank`.

        score is the cosine of what the model makes of a history where it makes a vector of it (`encode`), else of the
        histories themselves, an item worth the summed weight of its events. Users without an event worth more than
        nothing, and users alike in nothing, are not in it. Equal scores: the longer history first.

        `users`: a raw id or several, None for every user; `histories`: as in `recommend`, instead of users.
        Raises DataError for a user the model has not seen.
        """
        k, known, run = list_length(k), self._context(), run or Run()
        who, batch = self._asked(users, histories)
        if users is not None and (batch.users < 0).any():
            unknown = who[int(np.argmax(batch.users < 0))]
            few = [str(user) for user in known.user_ids.values.head(100_000).to_list()]
            raise DataError(f"user {unknown!r} is not known", remedy=nearest(str(unknown), few)[:200])
        n = len(known.user_ids)
        k = min(k, n)
        lengths = known.histories.lengths
        priority = np.empty(n, dtype=np.int32)
        priority[np.lexsort((-np.arange(n), lengths))] = np.arange(n, dtype=np.int32)
        allowed = has_signal(known.histories)
        found = np.empty((len(batch), k), dtype=np.int32)
        scores = np.empty((len(batch), k), dtype=np.float32)
        with run.bar("Comparing users", len(batch)) as advance:
            for start, part in batch.chunks(max(1, CHUNK_BYTES // (4 * max(1, n)))):
                stop = start + len(part)
                named = part.users >= 0
                itself = (np.concatenate([[0], np.cumsum(named)]).astype(np.int64), part.users[named])
                alike = self._alike(part, run)
                alike[~has_signal(part)] = -np.inf
                found[start:stop], scores[start:stop] = top_k(alike, k, priority, allowed, itself, run)
                advance(len(part))
        real = found >= 0
        row, place = np.nonzero(real)
        return pl.DataFrame(
            {
                "user": who.gather(row),
                "similar": known.user_ids.decode(found[real]),
                "score": scores[real],
                "rank": (place + 1).astype(np.int32),
            }
        )

    def _alike(self, histories: Histories, run: Run) -> np.ndarray:
        """float32[n, n_users]: how alike each history is to that of each user; minus infinity: in nothing."""
        known = self._context()
        n_items = len(known.item_ids)
        by_item = self._of_users(lambda: _unit(known.histories.matrix(n_items, "weight")).T.tocsr())
        alike = score_by_table(_unit(histories.matrix(n_items, "weight")), by_item, run)
        alike[alike <= 0] = -np.inf
        return alike

    def _of_users(self, make: Callable[[], Any]) -> Any:
        """What `make` makes of the users of the training data, made once for each fit."""
        kept = vars(self).get("_kept_of_users")
        if kept is None or kept[0] is not self.context_:
            kept = vars(self)["_kept_of_users"] = (self.context_, make())
        return kept[1]

    def prepare(self, run: Run | None = None) -> None:
        """Make what single requests to a large catalogue are answered with: search indices. `save` does so too."""

    def save(self, path: Any) -> None:
        """Write the model to a folder: arrays and JSON, nothing that runs. An old one is replaced whole."""
        save(self, path)

    def _write_parts(self, folder: Path) -> None:
        """Write the attributes named in `_parts` into files of their own; most models have none."""

    def _read_parts(self, folder: Path, mmap: bool) -> None:
        """Read what `_write_parts` wrote; `context_` is there already."""

    # -- small things -----------------------------------------------------------------------------------------------

    def _context(self) -> TrainingContext:
        if not self.is_fitted:
            raise NotFittedError(f"this {type(self).__name__} has not been fitted", remedy="call fit(data) first")
        return self.context_

    def _asked(self, users: Any, histories: Any) -> tuple[pl.Series, Histories]:
        """Who is asking, and with which history."""
        known = self._context()
        if histories is not None:
            if users is not None:
                raise ConfigError(
                    "users and histories cannot both be given", remedy="name the histories' users as keys"
                )
            if isinstance(histories, Histories):
                return pl.Series(range(len(histories)), dtype=pl.Int64), histories
            batch = Histories.from_items(histories, known.item_ids)
            return id_series(list(histories) if isinstance(histories, Mapping) else range(len(batch))), batch
        if users is None:
            return known.user_ids.values, known.histories
        raw = id_list(users)
        return id_series(raw), known.histories.take(known.user_ids.encode(raw))

    def _codes(self, raw: Any, what: str) -> np.ndarray:
        codes = self._context().item_ids.encode(raw)
        if (codes < 0).any():
            log.info("%s: %d of %d items are not known", what, int((codes < 0).sum()), len(codes))
        return codes[codes >= 0]


@dataclasses.dataclass
class VectorRecommender(Recommender):
    """A recommender whose score is an inner product: `encode(histories) · item_vectors_`."""

    item_vectors_: ClassVar[np.ndarray]

    def encode(self, histories: Histories, run: Run | None = None) -> np.ndarray:
        """Vectors of histories, float32[n, d]: what a search index is asked with."""
        raise NotImplementedError

    def _rank_few(
        self, histories: Histories, k: int, excluded: tuple[np.ndarray, np.ndarray], allowed: Mask, run: Run
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Nothing as long as the catalogue is written: the vectors are searched."""
        if type(self)._score is not VectorRecommender._score:
            return None
        return self._search(self.encode(histories, run), allowed, k, excluded, run, "dot" if run.approximate else "")

    def _rank_many(
        self, histories: Histories, k: int, excluded: tuple[np.ndarray, np.ndarray], allowed: Mask, run: Run
    ) -> tuple[np.ndarray, np.ndarray]:
        """Short vectors are left out where long ones have shown that they cannot be among the best."""
        plain = type(self)._score is VectorRecommender._score
        if not plain or not (self.answers_strangers or has_signal(histories).all()):
            return super()._rank_many(histories, k, excluded, allowed, run)
        vectors, priority = self.item_vectors_, self._context().priority
        return top_k_where(
            vectors, self.encode(histories, run), allowed, k, priority=priority, exclude=excluded, run=run
        )

    def _nearest(self, items: np.ndarray, k: int, run: Run) -> tuple[np.ndarray, np.ndarray]:
        if len(items) > SINGLE or type(self)._similar is not VectorRecommender._similar:
            return super()._nearest(items, k, run)
        itself = (np.arange(len(items) + 1, dtype=np.int64), items)
        inverse = self._inverse_lengths()
        queries = self.item_vectors_[items] * inverse[items, None]
        index = "" if run.approximate is False else "cosine"
        return self._search(queries, self._context().mask(), k, itself, run, index, inverse)

    def _search(
        self,
        queries: np.ndarray,
        mask: Mask,
        k: int,
        exclude: tuple[np.ndarray, np.ndarray] | None,
        run: Run,
        index: str = "",
        scale: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `top_k_where`, for few queries; by that index where there is one and it is quicker."""
        vectors, priority = self.item_vectors_, self._context().priority
        compact = self._compact() if mask.count >= WORTH else None
        asked = self._of_items("indices", dict).get(index)
        search = asked.search if asked is not None and asked.worth(mask, k) else top_k_where
        return search(
            vectors, queries, mask, k, priority=priority, exclude=exclude, compact=compact, scale=scale, run=run
        )

    def prepare(self, run: Run | None = None) -> None:
        """Make the search indices of a catalogue of more than `ann.INDEXED` items, unless they are there: "dot", asked
        with vectors of histories, and "cosine", asked with those of items; minutes for a million items."""
        run, vectors, indices = run or Run(), self.item_vectors_, self._of_items("indices", dict)
        if len(vectors) <= ann_index.INDEXED:
            return
        rng, name = run.rng(32), type(self).__name__
        if "dot" not in indices and type(self)._score is VectorRecommender._score:
            heard = self._context().histories
            rows = rng.permutation(np.flatnonzero(heard.lengths > 0))[: 4 * ann_index.QUERIES]
            asked = heard.take(np.sort(rows))
            asked = asked.take(np.flatnonzero(has_signal(asked)))
            queries = self.encode(asked, run) if len(asked) else vectors[: 2 * ann_index.QUERIES]
            indices["dot"] = ann_index.Index.build(
                vectors, queries, self._compact(), run=run, label=f"{name}, inner product"
            )
        if "cosine" not in indices and type(self)._similar is VectorRecommender._similar:
            inverse = self._inverse_lengths()
            rows = rng.permutation(len(vectors))[: 2 * ann_index.QUERIES]
            queries = vectors[rows] * inverse[rows, None]
            indices["cosine"] = ann_index.Index.build(
                vectors, queries, self._compact(), scale=inverse, run=run, label=f"{name}, cosine"
            )

    def _write_parts(self, folder: Path) -> None:
        self.prepare()
        indices = self._of_items("indices", dict)
        if indices:
            ann_index.write(folder, self._compact(), indices)

    def _read_parts(self, folder: Path, mmap: bool) -> None:
        found = ann_index.read(folder, self.item_vectors_.shape, mmap)
        if found is not None:
            compact, indices = found
            if compact is not None:
                self._of_items("compact", lambda: compact)
            self._of_items("indices", lambda: indices)

    def _compact(self) -> Compact:
        return self._of_items("compact", lambda: Compact.of(self.item_vectors_))

    def _inverse_lengths(self) -> np.ndarray:
        """float32[n_items]: 1 / length of each item vector."""
        return self._of_items("inverse", lambda: 1 / np.maximum(np.linalg.norm(self.item_vectors_, axis=1), 1e-12))

    def _of_items(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` makes of the item vectors, made once for each fit."""
        kept = vars(self).get("_kept_of_items")
        if kept is None or kept["known"] is not self._context() or kept["vectors"] is not self.item_vectors_:
            kept = vars(self)["_kept_of_items"] = {"known": self._context(), "vectors": self.item_vectors_}
        if name not in kept:
            kept[name] = make()
        return kept[name]

    def _score(self, histories: Histories, run: Run) -> np.ndarray:
        return self.encode(histories, run) @ self.item_vectors_.T

    def similarities(self, items: np.ndarray, others: np.ndarray, run: Run) -> np.ndarray:
        if type(self)._similar is not VectorRecommender._similar:
            return super().similarities(items, others, run)
        inverse, vectors = self._inverse_lengths(), self.item_vectors_
        return (vectors[items] * inverse[items, None]) @ (vectors[others] * inverse[others, None]).T

    def _similar(self, items: np.ndarray, run: Run) -> np.ndarray:
        """Cosine of the item vectors."""
        inverse = self._inverse_lengths()
        scores = (self.item_vectors_[items] * inverse[items, None]) @ self.item_vectors_.T
        scores *= inverse
        return scores

    def _alike(self, histories: Histories, run: Run) -> np.ndarray:
        """Cosine of the vectors of histories."""
        return _long_one(self.encode(histories, run)) @ self._of_users(lambda: self._vectors_of_users(run)).T

    def _vectors_of_users(self, run: Run) -> np.ndarray:
        """float32[n_users, d], each of length 1."""
        everyone = self._context().histories
        parts = [self.encode(batch, run) for _, batch in everyone.chunks(self.chunk_rows)]
        return _long_one(np.concatenate(parts))


def _pairs(histories: Histories | None, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and items, of none as well."""
    if histories is None:
        return np.zeros(n + 1, np.int64), np.zeros(0, np.int32)
    return histories.offsets, histories.items


def has_signal(histories: Histories) -> np.ndarray:
    """bool[n]: whether a history has an event worth more than nothing."""
    return histories.positives > 0


def _unit(rows: sparse.csr_matrix) -> sparse.csr_matrix:
    """A CSR matrix with rows of length 1; empty ones stay so."""
    length = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1))).ravel()
    scaled = rows.data / np.repeat(np.maximum(length, 1e-12), np.diff(rows.indptr))
    return sparse.csr_matrix((scaled.astype(np.float32), rows.indices, rows.indptr), shape=rows.shape)


def _long_one(vectors: np.ndarray) -> np.ndarray:
    """float32 vectors of length 1; zeros stay so."""
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
