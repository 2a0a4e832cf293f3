"""The base class of all recommenders: raw ids in, a tidy frame out, batch first.

A model implements `_fit` and `_score`, and `_similar` if it knows similar items. Id mapping, unknown users,
filters, ties and saving are implemented here. The constructor only stores hyperparameters; the names of learned
attributes end in `_`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
from scipy import sparse

from zhiyin.core.array_table import ArrayTable
from zhiyin.core.errors import ConfigError, DataError, NotFittedError, UnknownItemError, suggest
from zhiyin.core.params import Parameterized, check_settings, list_length, settings_of
from zhiyin.core.run import Run, log
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.data.ids import id_list, id_series
from zhiyin.data.process_group import ProcessGroup
from zhiyin.data.splits import Split
from zhiyin.models import ann_index, search_plan
from zhiyin.models.finite_check import check_finite
from zhiyin.models.item_to_item import score_by_table
from zhiyin.models.masked_search import MIN_COMPACT_ITEMS, Compact, Mask, top_k_masked
from zhiyin.models.saving import save
from zhiyin.models.search_plan import SearchPlan
from zhiyin.models.topk import top_k
from zhiyin.models.training_context import TrainingContext

# Upper bound on the dense scores held at once, whatever the number of users.
CHUNK_BYTES = 256 << 20
# Batches up to this size are answered by one search per history; larger ones by a matrix product.
MAX_SINGLE_QUERIES = 3


@dataclasses.dataclass
class Recommender(Parameterized):
    """Base of all recommenders. See the module docstring."""

    # Whether `_score` handles all histories without a positive event; otherwise these get the popular items, but for
    # those that `knows` says the model has something to say of.
    scores_empty_histories: ClassVar[bool] = False
    # Whether it reads the columns of a user's links; see `data.learned_links.link_columns`.
    reads_links: ClassVar[bool] = False
    # Whether several processes can train it together, each on shards of its own: `zhiyin.read_shards`.
    trains_from_shards: ClassVar[bool] = False
    # Learned attributes that are neither arrays nor numbers: `_write_parts` and `_read_parts` store them.
    _parts: ClassVar[tuple[str, ...]] = ()
    # Whether `_fit` looks at the validation part that `fit` was given.
    _takes_valid: ClassVar[bool] = False
    # Whether what `_fit` reports is kept; a model made of others leaves it to them.
    _keeps_log: ClassVar[bool] = True
    # The validation part that `fit` was given, while it runs.
    _valid: ClassVar[Dataset | Split | None] = None
    context_: ClassVar[TrainingContext]
    # One dict an epoch of training: see `core.training_log.TrainingLog`. Empty for a model without epochs.
    training_log_: ClassVar[Sequence[Mapping[str, Any]]] = ()

    # -- implemented by a model -----------------------------------------------------------------------------------

    def _fit(self, data: Dataset, run: Run) -> None:
        """Learn from `data`: set attributes that end in `_` (arrays, CSR matrices, numbers)."""
        raise NotImplementedError

    def _score(self, histories: Histories, run: Run) -> np.ndarray:
        """float32[n, n_items], a new array; higher is better."""
        raise NotImplementedError

    def _similar(self, items: np.ndarray, run: Run) -> np.ndarray:
        """float32[n, n_items]: similarity of every item to items[r]. Optional: without it, ConfigError is raised."""
        raise ConfigError(
            f"{type(self).__name__} does not know which items are similar",
            remedy="use ItemKNN, EASE, ALS or Transitions",
        )

    def _put_search(self, table: ArrayTable, base: int, run: Run) -> int:
        """Place what a compiled search of `_score` reads, by the functions of `search_plan`; returns its kind.

        Optional: without it lists are found among scores of all items.
        """
        return search_plan.LIST

    # -- public methods -------------------------------------------------------------------------------------------

    def fit(self, data: Dataset, run: Run | None = None, *, valid: Dataset | Split | None = None) -> Any:
        """Learn from a data set, discarding what was learned before. Returns self.

        Parameters
        ----------
        valid: events held back to decide when to stop, with the codes of `data`: `valid` of
            `zy.split(data, valid=...)`, or its `validation`, which also says what is known of new users. Networks take
            it in place of the part that they would hold back themselves; others have no use for it, and say so.

        Raises ConfigError for a hyperparameter out of range, DataError where what is learned is not finite.
        """
        run = run or Run()
        learn = run.learner(self) if run.learner is not None else None
        if valid is not None and not self._takes_valid:
            log.info("%s: learns without a validation part: the one given is not used", type(self).__name__)
        self._valid = valid  # type: ignore[misc]
        try:
            return self.fit_by(learn or self._fit, data, run)
        finally:
            del self._valid

    def fit_by(self, learn: Callable[[Dataset, Run], None], data: Dataset, run: Run) -> Any:
        """As `fit`, by another implementation of `_fit`, such as one on a cluster, which sets the same attributes."""
        self.check_shards(data.group)
        for name, value in check_settings(type(self), settings_of(self)).items():
            setattr(self, name, value)
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)
        recorded, kept = run.recorded() if self._keeps_log else (run, None)
        learn(data, recorded)
        if kept is not None and kept.rows:
            self.training_log_ = kept.kept()  # type: ignore[misc]
        check_finite(self)
        self.context_ = TrainingContext.of(data, run, gather=True)  # type: ignore[misc]
        return self

    def check_shards(self, group: ProcessGroup) -> None:
        """Raise ConfigError where these processes cannot train the model together, each on its own shards."""
        if group.world > 1 and not self.trains_from_shards:
            raise ConfigError(
                f"{type(self).__name__} does not train from shards in several processes",
                remedy="train it in one process (without torchrun), or on Spark where it can: --engine spark://host",
            )

    @property
    def rating_model(self) -> Any:
        """What of the model predicts ratings, a `RatingModel`; None for a model of lists alone."""
        return None

    @property
    def is_fitted(self) -> bool:
        return "context_" in vars(self)

    def score(self, histories: Histories, run: Run | None = None) -> np.ndarray:
        """Scores of all items for each history, float32[n, n_items]. Memory grows with n: see `chunk_rows`."""
        context = self._context()
        scores = self._score(histories, run or Run())
        strangers = ~self.knows(histories)
        if strangers.any():
            scores[strangers] = context.popularity
        return scores

    def knows(self, histories: Histories) -> np.ndarray:
        """bool[n]: which histories the model scores itself; the others get the popular items.

        Those with a positive event, and those whose user it knows by columns.
        """
        if self.scores_empty_histories:
            return np.ones(len(histories), dtype=bool)
        known = has_positive_event(histories)
        return known if known.all() else known | self.knows_columns(histories)

    @property
    def reads_user_columns(self) -> bool:
        """Whether the model has learned from columns of users what to show to those who have done nothing yet."""
        return False

    def knows_columns(self, histories: Histories) -> np.ndarray:
        """bool[n]: whose columns say something to the model; nobody's, unless it reads columns."""
        return np.zeros(len(histories), dtype=bool)

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

        Scores are computed in chunks of at most CHUNK_BYTES.

        Parameters
        ----------
        exclude: items that each row must not get.
        allowed: bool[n_items] or a mask; None for all candidates.
        label: text of the progress bar.
        """
        context, run = self._context(), run or Run()
        k = min(list_length(k), len(context.item_ids))
        mask = context.mask(allowed)
        excluded = _offsets_and_items(exclude, len(histories))
        searched = self._rank_by_plan(histories, k, excluded, mask, run, label)
        if searched is not None:
            return searched
        items = np.empty((len(histories), k), dtype=np.int32)
        best = np.empty((len(histories), k), dtype=np.float32)
        with run.bar(label, len(histories)) as advance:
            for start, batch in histories.chunks(self.chunk_rows):
                stop = start + len(batch)
                out = exclude.rows(start, stop) if exclude is not None else None
                items[start:stop], best[start:stop] = self._rank_many(
                    batch, k, _offsets_and_items(out, len(batch)), mask, run
                )
                advance(len(batch))
        return items, best

    def put_search(self, table: ArrayTable, base: int, run: Run) -> int:
        """Place the model for `search_plan.search_source`; returns the kind of search. See `search_plan.put_source`."""
        context = self._context()
        kind = search_plan.LIST
        if type(self).rank is Recommender.rank:  # else the model has an order of its own
            kind = self._put_search(table, base, run)
        search_plan.put_kind(table, base, kind, context, self.scores_empty_histories)
        return kind

    def compiled_search(self, run: Run) -> SearchPlan:
        """The compiled search of the model, made once per fit."""
        plans = vars(self).setdefault("_plans", {})
        plan = plans.get(run.approximate)
        if plan is None or not plan.is_of(self):
            plan = plans[run.approximate] = SearchPlan(self, run)
        return plan

    def _rank_by_plan(
        self, histories: Histories, k: int, excluded: tuple[np.ndarray, np.ndarray], mask: Mask, run: Run, label: str
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """`rank` by the compiled search; None where there is none, or another way is faster for as many histories."""
        plan = self.compiled_search(run)
        if plan.kind == search_plan.LIST:
            return None
        return plan.search(histories, k, excluded, mask, run, label=label)

    def _rank_many(
        self, histories: Histories, k: int, excluded: tuple[np.ndarray, np.ndarray], allowed: Mask, run: Run
    ) -> tuple[np.ndarray, np.ndarray]:
        """`rank` of one chunk of histories."""
        return top_k(self.score(histories, run), k, self._context().priority, allowed.bits, excluded, run)

    @property
    def chunk_rows(self) -> int:
        """Number of histories scored at once, so that their scores fit into CHUNK_BYTES."""
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
        users: one raw id or several, in a list, tuple, array or Series; None without `histories` means every user of
            the training data. An unknown user has an empty history.
        k: length of each list: a whole number of at least 1, of Python or NumPy; ConfigError for anything else.
        histories: histories to use instead of those of the training data: {"visitor": ["item", ...]}, a list of such
            lists, or a `Histories`.
        exclude_seen: leave out the items of the history.
        allow: raw ids of the items to choose from; None for all candidates.
        deny: raw ids of items to leave out. Lists are shorter than k only where fewer than k items remain.

        Returns
        -------
        Frame `user`, `item` (raw ids), `score`, `rank` (from 1), best first, users in the order asked.
        """
        k, context = list_length(k), self._context()
        user_ids, batch = self._resolve_histories(users, histories)
        allowed = None
        if allow is not None or deny is not None:
            allowed = np.ones(len(context.item_ids), dtype=bool)
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
        user_column = user_ids.new_from_index(0, len(row)) if len(user_ids) == 1 else user_ids.gather(row)
        return pl.DataFrame([  # a list of series takes a third less time than a dictionary
            user_column.alias("user"), context.item_ids.decode(items[real]).alias("item"),
            pl.Series("score", scores[real]), pl.Series("rank", (place + 1).astype(np.int32)),
        ])  # fmt: skip

    def similar(self, items: Any, k: int = 10, *, run: Run | None = None) -> pl.DataFrame:
        """The k items most similar to each item: frame `item`, `similar`, `score`, `rank`.

        Raises UnknownItemError for an item the model has not seen, with the nearest known id.
        """
        k, context, run = list_length(k), self._context(), run or Run()
        raw_items = id_list(items)
        codes = context.item_ids.encode(raw_items)
        if (codes < 0).any():
            unknown = raw_items[int(np.argmax(codes < 0))]
            known_ids = [str(item) for item in context.item_ids.values.head(100_000).to_list()]
            raise UnknownItemError(f"item {unknown!r} is not known", remedy=suggest(str(unknown), known_ids)[:200])
        k = min(k, len(context.item_ids))
        neighbors = np.empty((len(codes), k), dtype=np.int32)
        scores = np.empty((len(codes), k), dtype=np.float32)
        for start in range(0, len(codes), self.chunk_rows):
            part = codes[start : start + self.chunk_rows]
            neighbors[start : start + len(part)], scores[start : start + len(part)] = self._most_similar(part, k, run)
        real = neighbors >= 0
        return pl.DataFrame(
            {
                "item": context.item_ids.decode(np.broadcast_to(codes[:, None], neighbors.shape)[real]),
                "similar": context.item_ids.decode(neighbors[real]),
                "score": scores[real],
                "rank": (np.nonzero(real)[1] + 1).astype(np.int32),
            }
        )

    def _most_similar(self, items: np.ndarray, k: int, run: Run) -> tuple[np.ndarray, np.ndarray]:
        """The k items most similar to each item, without the item itself: int32[n, k] and float32[n, k], as `rank`."""
        context = self._context()
        itself = (np.arange(len(items) + 1, dtype=np.int64), items)
        return top_k(self._similar(items, run), k, context.priority, context.candidates, itself, run)

    def _similar_to_item(self, item: int, k: int, run: Run) -> tuple[np.ndarray, np.ndarray]:
        """Items similar to one item, unordered: codes int32[m] and scores float32[m].

        The k most similar are among them, where there are so many. Raises ConfigError as `_similar` does.
        """
        if k <= len(self._context().item_ids) // 4:
            items, scores = self._most_similar(np.array([item]), k, run)
            present = items[0] >= 0
            return items[0][present], scores[0][present]
        similarities = self._similar(np.array([item]), run)[0]
        codes = np.flatnonzero(np.isfinite(similarities)).astype(np.int32)
        codes = codes[codes != item]
        return codes, similarities[codes]

    def similarities(self, items: np.ndarray, others: np.ndarray, run: Run) -> np.ndarray:
        """float32[n, m]: similarity of each of n items to each of m others. Raises ConfigError as `_similar` does."""
        return self._similar(items, run)[:, others]

    def similar_users(
        self, users: Any = None, k: int = 10, *, histories: Any = None, run: Run | None = None
    ) -> pl.DataFrame:
        """The k users of the training data most similar to each user: frame `user`, `similar`, `score`, `rank`.

        score is the cosine of the vectors of the two histories where the model has them (`encode`), else of the
        histories themselves, as vectors of summed event weights by item. Users without a positive event, and users
        without a positive similarity, are left out. Of equal scores the longer history comes first.

        Parameters
        ----------
        users: one raw id or several; None for every user.
        histories: histories to use instead of `users`, as in `recommend`.

        Raises DataError for a user the model has not seen.
        """
        k, context, run = list_length(k), self._context(), run or Run()
        user_ids, batch = self._resolve_histories(users, histories)
        if users is not None and (batch.users < 0).any():
            unknown = user_ids[int(np.argmax(batch.users < 0))]
            known_ids = [str(user) for user in context.user_ids.values.head(100_000).to_list()]
            raise DataError(f"user {unknown!r} is not known", remedy=suggest(str(unknown), known_ids)[:200])
        n = len(context.user_ids)
        k = min(k, n)
        lengths = context.histories.lengths
        priority = np.empty(n, dtype=np.int32)
        priority[np.lexsort((-np.arange(n), lengths))] = np.arange(n, dtype=np.int32)
        allowed = has_positive_event(context.histories)
        neighbors = np.empty((len(batch), k), dtype=np.int32)
        scores = np.empty((len(batch), k), dtype=np.float32)
        with run.bar("Comparing users", len(batch)) as advance:
            for start, part in batch.chunks(max(1, CHUNK_BYTES // (4 * max(1, n)))):
                stop = start + len(part)
                has_code = part.users >= 0
                itself = (np.concatenate([[0], np.cumsum(has_code)]).astype(np.int64), part.users[has_code])
                similarities = self._user_similarities(part, run)
                similarities[~has_positive_event(part)] = -np.inf
                neighbors[start:stop], scores[start:stop] = top_k(similarities, k, priority, allowed, itself, run)
                advance(len(part))
        real = neighbors >= 0
        row, place = np.nonzero(real)
        return pl.DataFrame(
            {
                "user": user_ids.gather(row),
                "similar": context.user_ids.decode(neighbors[real]),
                "score": scores[real],
                "rank": (place + 1).astype(np.int32),
            }
        )

    def _user_similarities(self, histories: Histories, run: Run) -> np.ndarray:
        """float32[n, n_users]: similarity of each history to that of each user; minus infinity where not positive."""
        context = self._context()
        n_items = len(context.item_ids)
        by_item = self._cached_for_users(
            lambda: _normalized_rows(context.histories.matrix(n_items, "weight")).T.tocsr()
        )
        similarities = score_by_table(_normalized_rows(histories.matrix(n_items, "weight")), by_item, run)
        similarities[similarities <= 0] = -np.inf
        return similarities

    def _cached_for_users(self, make: Callable[[], Any]) -> Any:
        """The result of `make`, a function of the training histories, computed once per fit."""
        cached = vars(self).get("_user_cache")
        if cached is None or cached[0] is not self.context_:
            cached = vars(self)["_user_cache"] = (self.context_, make())
        return cached[1]

    def prepare(self, run: Run | None = None) -> None:
        """Build the search indices that speed up single requests to a large catalogue. `save` does so too."""

    def save(self, path: Any) -> None:
        """Write the model to a folder, as arrays and JSON without code. An existing model there is replaced whole.

        Of several processes that trained it on shards the first one writes; in the others nothing is done.
        """
        if self._context().complete:
            save(self, path)

    def _write_parts(self, folder: Path) -> None:
        """Write the attributes named in `_parts`; most models have none."""

    def _read_parts(self, folder: Path, mmap: bool) -> None:
        """Read what `_write_parts` wrote; `context_` has been read before."""

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _context(self) -> TrainingContext:
        if not self.is_fitted:
            raise NotFittedError(f"this {type(self).__name__} has not been fitted", remedy="call fit(data) first")
        return self.context_

    def _resolve_histories(self, users: Any, histories: Any) -> tuple[pl.Series, Histories]:
        """Ids to name the rows of the answer by, and the history of each row; see `recommend`."""
        context = self._context()
        if histories is not None:
            if users is not None:
                raise ConfigError(
                    "users and histories cannot both be given", remedy="name the histories' users as keys"
                )
            if isinstance(histories, Histories):
                return pl.Series(range(len(histories)), dtype=pl.Int64), histories
            batch = Histories.from_items(histories, context.item_ids)
            return id_series(list(histories) if isinstance(histories, Mapping) else range(len(batch))), batch
        if users is None:
            return context.user_ids.values, context.histories
        raw = id_list(users)
        return id_series(raw), context.histories.take(context.user_ids.encode(raw))

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
        """Vectors of histories, float32[n, d]: the queries of a search index."""
        raise NotImplementedError

    def queries(self, histories: Histories, run: Run | None = None) -> np.ndarray:
        """`encode`, with zeros for the histories that get the popular items: what a compiled search tells them by."""
        vectors = np.asarray(self.encode(histories, run), dtype=np.float32)
        known = self.knows(histories)
        return vectors if known.all() else vectors * known[:, None]

    def _put_search(self, table: ArrayTable, base: int, run: Run) -> int:
        """By a search over the item vectors."""
        if type(self)._score is not VectorRecommender._score:
            return search_plan.LIST
        index = self._cached_for_items("indices", dict).get("dot") if run.approximate else None
        is_large = len(self.item_vectors_) >= MIN_COMPACT_ITEMS or index is not None
        kind = search_plan.put_vectors(table, base, self.item_vectors_, self._compact() if is_large else None)
        if index is not None:
            search_plan.put_index(table, base, index)
        return kind

    def _rank_by_plan(
        self, histories: Histories, k: int, excluded: tuple[np.ndarray, np.ndarray], mask: Mask, run: Run, label: str
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Few histories; for many a matrix product is faster."""
        if len(histories) > MAX_SINGLE_QUERIES:
            return None
        plan = self.compiled_search(run)
        if plan.kind == search_plan.LIST:
            return None
        queries = self.queries(histories, run) if plan.kind == search_plan.VECTORS else None
        return plan.search(histories, k, excluded, mask, run, queries)

    def _rank_many(
        self, histories: Histories, k: int, excluded: tuple[np.ndarray, np.ndarray], allowed: Mask, run: Run
    ) -> tuple[np.ndarray, np.ndarray]:
        """By a search in the order of vector length, which prunes vectors too short to enter the k best."""
        plain = type(self)._score is VectorRecommender._score
        if not plain or not self.knows(histories).all():
            return super()._rank_many(histories, k, excluded, allowed, run)
        vectors, priority = self.item_vectors_, self._context().priority
        return top_k_masked(
            vectors, self.encode(histories, run), allowed, k, priority=priority, exclude=excluded, run=run
        )

    def _most_similar(self, items: np.ndarray, k: int, run: Run) -> tuple[np.ndarray, np.ndarray]:
        if len(items) > MAX_SINGLE_QUERIES or type(self)._similar is not VectorRecommender._similar:
            return super()._most_similar(items, k, run)
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
        """`top_k_masked` for few queries.

        index: name of the search index to use where there is one and it is faster; "" for exact search.
        """
        vectors, priority = self.item_vectors_, self._context().priority
        compact = self._compact() if mask.count >= MIN_COMPACT_ITEMS else None
        candidate_index = self._cached_for_items("indices", dict).get(index)
        search = (
            candidate_index.search
            if candidate_index is not None and candidate_index.is_faster(mask, k)
            else top_k_masked
        )
        return search(
            vectors, queries, mask, k, priority=priority, exclude=exclude, compact=compact, scale=scale, run=run
        )

    def prepare(self, run: Run | None = None) -> None:
        """Build the missing search indices of a catalogue of more than `ann_index.MIN_INDEXED_ITEMS` items.

        "dot" is for queries that are vectors of histories, "cosine" for queries that are vectors of items. Takes
        minutes for a million items.
        """
        run, vectors, indices = run or Run(), self.item_vectors_, self._cached_for_items("indices", dict)
        if len(vectors) <= ann_index.MIN_INDEXED_ITEMS:
            return
        rng, name = run.rng(32), type(self).__name__
        if "dot" not in indices and type(self)._score is VectorRecommender._score:
            training = self._context().histories
            rows = rng.permutation(np.flatnonzero(training.lengths > 0))[: 4 * ann_index.TUNING_QUERIES]
            sample = training.take(np.sort(rows))
            sample = sample.take(np.flatnonzero(has_positive_event(sample)))
            queries = self.encode(sample, run) if len(sample) else vectors[: 2 * ann_index.TUNING_QUERIES]
            indices["dot"] = ann_index.Index.build(
                vectors, queries, self._compact(), run=run, label=f"{name}, inner product"
            )
        if "cosine" not in indices and type(self)._similar is VectorRecommender._similar:
            inverse = self._inverse_lengths()
            rows = rng.permutation(len(vectors))[: 2 * ann_index.TUNING_QUERIES]
            queries = vectors[rows] * inverse[rows, None]
            indices["cosine"] = ann_index.Index.build(
                vectors, queries, self._compact(), scale=inverse, run=run, label=f"{name}, cosine"
            )
        vars(self).pop("_plans", None)

    def _write_parts(self, folder: Path) -> None:
        self.prepare()
        indices = self._cached_for_items("indices", dict)
        if indices:
            ann_index.write(folder, self._compact(), indices)

    def _read_parts(self, folder: Path, mmap: bool) -> None:
        loaded = ann_index.read(folder, self.item_vectors_.shape, mmap)
        if loaded is not None:
            compact, indices = loaded
            if compact is not None:
                self._cached_for_items("compact", lambda: compact)
            self._cached_for_items("indices", lambda: indices)

    def _compact(self) -> Compact:
        return self._cached_for_items("compact", lambda: Compact.of(self.item_vectors_))

    def _inverse_lengths(self) -> np.ndarray:
        """float32[n_items]: 1 / length of each item vector."""
        return self._cached_for_items(
            "inverse", lambda: 1 / np.maximum(np.linalg.norm(self.item_vectors_, axis=1), 1e-12)
        )

    def _cached_for_items(self, name: str, make: Callable[[], Any]) -> Any:
        """The result of `make`, a function of the item vectors, computed once per fit and name."""
        cache = vars(self).get("_item_cache")
        if cache is None or cache["context"] is not self._context() or cache["vectors"] is not self.item_vectors_:
            cache = vars(self)["_item_cache"] = {"context": self._context(), "vectors": self.item_vectors_}
        if name not in cache:
            cache[name] = make()
        return cache[name]

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

    def _user_similarities(self, histories: Histories, run: Run) -> np.ndarray:
        """Cosine of the vectors of the two histories."""
        return (
            _normalized_vectors(self.encode(histories, run))
            @ self._cached_for_users(lambda: self._vectors_of_users(run)).T
        )

    def _vectors_of_users(self, run: Run) -> np.ndarray:
        """float32[n_users, d], normalized to length 1."""
        everyone = self._context().histories
        parts = [self.encode(batch, run) for _, batch in everyone.chunks(self.chunk_rows)]
        return _normalized_vectors(np.concatenate(parts))


def _offsets_and_items(histories: Histories | None, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and items of n histories; n empty rows for None."""
    if histories is None:
        return np.zeros(n + 1, np.int64), np.zeros(0, np.int32)
    return histories.offsets, histories.items


def has_positive_event(histories: Histories) -> np.ndarray:
    """bool[n]: whether a history has an event of positive weight."""
    return histories.positives > 0


def _normalized_rows(rows: sparse.csr_matrix) -> sparse.csr_matrix:
    """A CSR matrix with its rows scaled to length 1; empty rows stay empty."""
    length = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1))).ravel()
    scaled = rows.data / np.repeat(np.maximum(length, 1e-12), np.diff(rows.indptr))
    return sparse.csr_matrix((scaled.astype(np.float32), rows.indices, rows.indptr), shape=rows.shape)


def _normalized_vectors(vectors: np.ndarray) -> np.ndarray:
    """float32 vectors scaled to length 1; zero vectors stay zero."""
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
