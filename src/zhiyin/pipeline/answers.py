"""Answers: recommendation lists for requests: filters, sources, ranker, rules, diversity and explanations.

    answers = Answers(pipeline, data.items, users=data.users, rules=Rules.from_dict({"filter": "stock > 0"}))
    answer = answers.ask(Request(user="alice", k=10, filter="price < 50", diversity="mmr", explain=True))
    answer.items, answer.reasons, answer.removed

Items that may not be shown are excluded before sources retrieve, so k items come back whenever k items qualify.
"""

from __future__ import annotations

import copy
import dataclasses
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.errors import ConfigError, UnknownItemError
from zhiyin.core.run import Run
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.histories import Histories
from zhiyin.data.ids import Ids
from zhiyin.data.learned_links import LearnedLinks
from zhiyin.models.recommender import Recommender
from zhiyin.pipeline import answer_reasons
from zhiyin.pipeline.cold_start import MoreIds, NewItems
from zhiyin.pipeline.diversifier import Diversifier
from zhiyin.pipeline.eligible_items import EligibleItemsCache
from zhiyin.pipeline.filters import Filters
from zhiyin.pipeline.item_keys import ItemKeys
from zhiyin.pipeline.list_building import ListBatch, ListBuilder, StageClock
from zhiyin.pipeline.non_personalized import ListRules, best_under_rules
from zhiyin.pipeline.pipeline import MAX_BATCH_REQUESTS, Pipeline
from zhiyin.pipeline.request import Answer, Request, check_diversity_method, list_policy, resolve_options
from zhiyin.pipeline.request_encoding import RequestEncoder
from zhiyin.pipeline.row_alignment import align_rows
from zhiyin.pipeline.rulebook import Rulebook
from zhiyin.pipeline.rules import Boost, Rules
from zhiyin.pipeline.slate import Slate, Slates
from zhiyin.ranking.asof import AsOf
from zhiyin.ranking.retrieval import Retrieved

# Rulebooks cached for filters and boosts of requests.
MAX_RULEBOOKS = 256


class Answers:
    """Answers requests by a model, a catalogue and rules. Any number of threads may use one.

    Parameters
    ----------
    model: a fitted recommender: a pipeline, or any other, which then is the only source.
    items: the catalogue, with a column `id`, in any order.
    users: likewise; None: users have no columns.
    rules: of all lists.
    kinds: names of event kinds by code, for `bought`.
    variety: diversity method where `Request.diversity` is None.
    balance: likewise for `Request.balance`.
    by: column of categories for diversity; "": inferred from the names of the columns, and mmr and dpp use the
        similarity of a model.
    context: types of the context columns of requests, such as {"device": str}.
    new: items that the model has never seen: `id` (texts) and the catalogue's columns; see `pipeline.cold_start`.
    schema: types of the columns of items and users; None: learned from the frames.
    links: between users, in codes of the model; None: there are none.
    """

    def __init__(
        self,
        model: Recommender,
        items: pl.DataFrame | None = None,
        users: pl.DataFrame | None = None,
        *,
        rules: Rules | None = None,
        kinds: tuple[str, ...] = (),
        variety: str = "none",
        balance: float = 0.7,
        by: str = "",
        context: Any = None,
        new: pl.DataFrame | None = None,
        schema: CatalogueSchema | None = None,
        links: LearnedLinks | None = None,
        run: Run | None = None,
    ) -> None:
        self.links = links
        self.model = model if isinstance(model, Pipeline) else Pipeline.wrapping(model)
        known = self.known = self.model._context()
        self.run = run or Run(threads=1)
        # The catalogue fixes the types of columns; later rows are cast to them.
        if schema is None:
            schema = CatalogueSchema.of(new).with_types(CatalogueSchema.of(items, users))
        self.schema = schema
        self.items = self.schema.shaped("items", align_rows(items, known.item_ids.values))
        new_ids = [] if new is None else new["id"].cast(pl.String).to_list()
        self.ids: Ids = MoreIds(known.item_ids, new_ids) if new_ids else known.item_ids
        if new is not None and new_ids:
            trained = self.items.with_columns(pl.col("id").cast(pl.String))
            self.items = pl.concat([trained, self.schema.shaped("items", new)], how="diagonal_relaxed")
        self.new_items = NewItems(self.model, self.items[len(known.item_ids) :], self.run)
        # A permutation: new items come behind those of the model, the newest first.
        order = np.arange(-len(new_ids), 0, dtype=known.priority.dtype)
        self.priority = np.concatenate([known.priority, order]) if new_ids else known.priority
        self._candidates = np.concatenate([known.candidates, np.ones(len(new_ids), dtype=bool)])
        described = users is not None and users.width > 1
        self.users = self.schema.shaped("users", align_rows(users, known.user_ids.values)) if described else None
        self.filters = Filters(
            self.items, None if self.users is None else self.users.schema, context, schema=self.schema
        )
        self.rules, self.kinds, self.balance, self.by = rules or Rules(), kinds, balance, by
        self.variety, self._context = check_diversity_method(variety), context
        self._diversifier = Diversifier(self.model, self.items, self.filters, self.new_items, by, self.run)
        self._builder = ListBuilder(
            self.model,
            self.new_items,
            self.filters,
            self._diversifier,
            self.priority,
            ItemKeys(self.ids),
            self.run,
        )
        self._prepare()

    def _prepare(self) -> None:
        """Create what depends on the catalogue."""
        has_times = self.model.has_times
        reads_links = any(source.reads_links for source in self.model.sources_.values())
        self._encoder = RequestEncoder(
            self.known, self.ids, self.users, self.new_items, has_times, self.links, reads_links
        )
        self._eligible = EligibleItemsCache(self._candidates, len(self.known.item_ids))
        self._rulebooks: OrderedDict[tuple[str, tuple[Boost, ...]], Rulebook] = OrderedDict()
        self._lock = threading.Lock()
        self.rulebook("", ())  # raises for rules that do not fit the catalogue

    def with_catalogue(self, items: pl.DataFrame, schema: CatalogueSchema | None = None) -> Answers:
        """The same over another catalogue. Caches of columns that did not change stay where no item was added.

        Parameters
        ----------
        items: one row for each id, those of the model first; rows behind them are new items.
        schema: with types of new columns; None: as it is.
        """
        n = len(self.known.item_ids)
        if len(items) != len(self.ids):
            new = items[n:] if len(items) > n else None
            trained = items[:n].with_columns(self.known.item_ids.values.alias("id"))
            return Answers(self.model, trained, self.users, new=new, rules=self.rules, kinds=self.kinds,
                           variety=self.variety, balance=self.balance, by=self.by, context=self._context,
                           schema=schema or self.schema, links=self.links, run=self.run)  # fmt: skip
        changed = copy.copy(self)
        changed.schema = schema or self.schema
        changed.items = items = changed.schema.shaped("items", items.with_columns(self.items["id"]))
        changed.filters = self.filters.with_catalogue(items, changed.schema)
        if self.new_items.m and not items[n:].equals(self.items[n:]):
            changed.new_items = NewItems(self.model, items[n:], self.run)
        changed._diversifier = self._diversifier.with_catalogue(items, changed.filters, changed.new_items)
        changed._builder = self._builder.with_catalogue(changed.new_items, changed.filters, changed._diversifier)
        changed._prepare()
        return changed

    def rulebook(self, filter: str, boosts: tuple[Boost, ...]) -> Rulebook:
        """The rules of all lists with the filter and the boosts of a request. Raises ConfigError for wrong ones."""
        key = (filter, boosts)
        rulebook = self._rulebooks.get(key)
        if rulebook is None:
            both = " AND ".join(f"({text})" for text in (self.rules.filter, filter) if text)
            rules = dataclasses.replace(self.rules, filter=both, boosts=(*self.rules.boosts, *boosts))
            if filter:  # alone, so that an error shows the text of the request
                self.filters.parse(filter, "bool")
            rulebook = Rulebook(rules, self.filters, kinds=self.kinds, item_ids=self.ids, seed=self.run.seed)
            with self._lock:
                self._rulebooks[key] = rulebook
                while len(self._rulebooks) > MAX_RULEBOOKS:
                    self._rulebooks.popitem(last=False)
        return rulebook

    def ask(self, request: Request, visible: np.ndarray | None = None, index: AsOf | None = None) -> Answer:
        """The list for one request, as a batch of one. Raises ConfigError for a request that cannot be answered.

        Parameters
        ----------
        visible: bool[n_items], items that may be shown at this moment; None: all.
        index: what the ranker knows of items, where events came since the model was trained.
        """
        clock = StageClock(request)
        k, method, balance = self._options(request)
        rulebook = self.rulebook(request.filter, request.boosts)
        history, seen, requests = self._encoder.one(request, visible)
        eligible = self._eligible.get(rulebook.mask(requests), visible, store=request.include is None)
        batch = ListBatch(history, requests, rulebook, eligible, k, method, balance, self.excludes_seen(request),
                          list_policy(request), self._forced(request), "", seen, index)  # fmt: skip
        built = self._builder.build(batch, clock)
        slate, candidates = built.slates[0], built.candidates
        answer = Answer(
            self.ids.raw(slate.items),
            slate.scores.tolist(),
            trace=slate.trace,
            seconds=clock.seconds,
            method=built.method,
            left_out=candidates.left_out if isinstance(candidates, Retrieved) else {},
            degraded=clock.degraded,
            propensities=np.ones(len(slate)) if slate.propensities is None else slate.propensities,
            exposed=rulebook.exposure_sums(built.slates, requests),
            sources=candidates.sources,
            ranks=answer_reasons.source_ranks(slate.items, candidates),
            features=answer_reasons.item_features(request.features, slate.items, built.examples),
            decision=slate.decision,
        )
        if request.forced is not None:
            return self._of_given_list(request.forced, slate, answer)
        if request.closed:
            unlisted = answer_reasons.unlisted_items(request, self.ids, batch, slate, visible)
            answer = dataclasses.replace(answer, removed=unlisted)
        if not request.explain or clock.skips("reasons", 1.0):
            return answer
        why = answer_reasons.list_reasons(self.model, self.new_items, self.ids, history, slate, built, self.run)
        removed = answer.removed
        if not request.closed:
            removed = answer_reasons.removed_items(self.model, batch, self.run)
        clock.finish_stage("explain")
        return dataclasses.replace(answer, reasons=why, removed=removed)

    def eligible(self, request: Request, visible: np.ndarray | None = None) -> tuple[Histories, np.ndarray, np.ndarray]:
        """What one request may get by filters, rules, and what is visible; caps, shares and pins aside.

        Returns
        -------
        The history in codes of the model; bool[n_items]; int32, codes of items that the request must not get.
        """
        rulebook = self.rulebook(request.filter, request.boosts)
        history, seen, requests = self._encoder.one(request, visible)
        eligible = self._eligible.get(rulebook.mask(requests), visible, store=request.include is None)
        excluded = rulebook.excluded_items(requests)[1]
        if request.exclude_seen:
            excluded = np.concatenate([excluded, history.items, seen])
        return history, eligible.bits, excluded

    def ask_many(
        self,
        users: Any = None,
        k: int = 10,
        *,
        visible: np.ndarray | None = None,
        now: int | None = None,
        **options: Any,
    ) -> pl.DataFrame:
        """Lists for many users at once, each the one that `ask` gives.

        Parameters
        ----------
        users: raw ids; None: all users of the training data.
        visible: as in `ask`.
        now: microseconds UTC; None: the present.
        options: other fields of `Request`, the same for all users, but for those that belong to one user and for
            reasons. `seed` is that of the first user; each next user has the next number.

        Returns
        -------
        Frame `user`, `item`, `score`, `rank`, in the order of the users; with exploration also `propensity`.
        """
        wrong = [name for name in options if name not in _BATCH_OPTIONS]
        if wrong:
            raise ConfigError(f"ask_many does not take {wrong[0]!r}", remedy="it takes " + ", ".join(_BATCH_OPTIONS))
        request = Request(k=k, now=time.time_ns() // 1000 if now is None else now, **options)
        clock, policy = StageClock(request), list_policy(request)
        k, method, balance = self._options(request)
        rulebook = self.rulebook(request.filter, request.boosts)
        user_ids, histories = self.model._resolve_histories(users, None)
        codes = self.known.user_ids.encode(user_ids).astype(np.int64)
        parts: list[Slates] = []
        positions: list[np.ndarray] = []
        with self.run.bar("Recommending", len(histories)) as advance:
            # Users whose columns give them the same eligible items and groups share a mask.
            for group in self._encoder.users_by_columns(codes, rulebook.request_columns):
                eligible = None
                for start in range(0, len(group), MAX_BATCH_REQUESTS):
                    rows = group[start : start + MAX_BATCH_REQUESTS]
                    part = _take_histories(histories, rows)
                    if self.model.has_times:
                        part = dataclasses.replace(part, now=np.full(len(part), request.now, dtype=np.int64))
                    requests = self._encoder.many(request, part, codes[rows], visible, rows)
                    if eligible is None:
                        first = requests.take(np.zeros(1, np.int64))
                        eligible = self._eligible.get(rulebook.mask(first), visible, store=False)
                    batch = ListBatch(part, requests, rulebook, eligible, k, method, balance,
                                      self.excludes_seen(request), policy)  # fmt: skip
                    parts.append(self._builder.build(batch, clock).slates)
                    positions.append(rows)
                    advance(len(rows))
        if not parts:
            parts = [Slates(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))]
            positions = [codes[:0]]
        slates = Slates.joined(parts)
        order = np.argsort(np.concatenate(positions), kind="stable")
        if len(order) and (np.diff(order) != 1).any():
            slates = slates.pick(order)
        frame = pl.DataFrame({
            "user": user_ids.gather(slates.owners),
            "item": self.ids.decode(slates.items),
            "score": slates.scores,
            "rank": (slates.places + 1).astype(np.int32),
        })  # fmt: skip
        if policy is None:
            return frame
        propensities = np.ones(len(frame)) if slates.propensities is None else slates.propensities
        return frame.with_columns(pl.Series("propensity", propensities))

    def list_by_score(
        self, scores: np.ndarray, request: Request, visible: np.ndarray | None = None, method: str = ""
    ) -> Answer:
        """The list for a request by scores that are the same for everyone, under the same rules.

        Parameters
        ----------
        scores: float32[n_items]; minus infinity: not listed. Of equal scores the more popular item comes first.
        method: what `Answer.method` says.
        """
        started, rules = time.perf_counter(), self._list_rules(request, visible)
        rows = np.flatnonzero(self._candidates & (scores > -np.inf))
        return self._scored_answer(rules, rows, scores[rows], method, started)

    def list_in_order(
        self, items: np.ndarray, request: Request, visible: np.ndarray | None = None, method: str = ""
    ) -> Answer:
        """The list of given items in a given order, under the same rules but boosts, which have no part in the order.

        Parameters
        ----------
        items: int[m], codes, best first.
        method: what `Answer.method` says.
        """
        started, rules = time.perf_counter(), self._list_rules(request, visible)
        rulebook = rules.rulebook.without_boosts()
        items = items[self._candidates[items]]
        scores = np.arange(len(items), 0, -1, dtype=np.float32)
        return self._scored_answer(dataclasses.replace(rules, rulebook=rulebook), items, scores, method, started)

    def similar(self, item: Any, request: Request, visible: np.ndarray | None = None) -> Answer:
        """Items most similar to one, under the same rules. Raises UnknownItemError."""
        started, code = time.perf_counter(), int(self.ids.encode([item])[0])
        n = len(self.known.item_ids)
        if code < 0:
            raise UnknownItemError(f"item {str(item)!r} is not known", remedy="put it into the catalogue first")
        rules = self._list_rules(request, visible)
        if code >= n:
            similarity = self.new_items.similarity_row(code)
            rows = np.zeros(0, np.int64) if similarity is None else np.flatnonzero(similarity > 0)
            scores = np.zeros(0, np.float32) if similarity is None else similarity[rows]
        else:
            is_filtered = bool(rules.rulebook.conditions) or request.include is not None
            n_hidden = 0 if visible is None else n - int(np.count_nonzero(visible[:n]))
            n_similar = n if is_filtered else min(n, request.k + 200 + n_hidden)
            rows, scores = self.model._similar_to_item(code, n_similar, self.run)
            if self.new_items.m:
                nearest = np.argsort(-scores, kind="stable")[:100]
                allowed = np.ones(self.new_items.m, dtype=bool) if visible is None else visible[n:]
                codes, new_scores = self.new_items.similar_new_items(rows[nearest], scores[nearest], allowed)
                rows, scores = np.concatenate([rows, codes]), np.concatenate([scores, new_scores])
        candidates = self._candidates[rows]
        return self._scored_answer(rules, rows[candidates], scores[candidates], "similar", started)

    def nearest_known_items(self, codes: np.ndarray) -> np.ndarray:
        """int32: codes that the model knows; for a new item the most similar one that it knows, -1 where none is."""
        return self.new_items.nearest_known_items(codes)

    def excludes_seen(self, request: Request) -> bool:
        """Whether items of the history are left out of a list for its user."""
        return not self.rules.bought if request.exclude_seen is None else request.exclude_seen

    def check_diversity(self) -> None:
        """Raises ConfigError where the catalogue lacks what the diversity setting of all lists needs."""
        self._diversifier.check("calibrate" if self.by else self.variety)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _options(self, request: Request) -> tuple[int, str, float]:
        k, method, balance = resolve_options(request, self.variety, self.balance)
        return min(k, len(self.ids)), method, balance

    def _forced(self, request: Request) -> np.ndarray | None:
        return None if request.forced is None else self.ids.encode(list(request.forced))

    def _of_given_list(self, forced: Sequence[Any], slate: Slate, answer: Answer) -> Answer:
        """The answer about a list that is given: its items, and the probability of each in its slot."""
        codes = self.ids.encode(list(forced))
        propensities = np.zeros(len(codes)) if slate.forced is None else slate.forced
        if slate.forced is None:
            n = min(len(codes), len(slate.items))
            propensities[:n] = codes[:n] == slate.items[:n]
        return dataclasses.replace(answer, items=list(forced), scores=[], ranks=answer.ranks[:0], features=None,
                                   propensities=propensities)  # fmt: skip

    def _list_rules(self, request: Request, visible: np.ndarray | None) -> ListRules:
        """What applies to a list by scores that are the same for everyone."""
        k, _, _ = self._options(request)
        rulebook = self.rulebook(request.filter, request.boosts)
        history, seen, requests = self._encoder.one(request, visible)
        excluded = rulebook.excluded_items(requests)[1]
        if request.exclude_seen:
            excluded = np.concatenate([excluded, history.items, seen])
        return ListRules(k, rulebook, requests, rulebook.mask(requests), excluded, visible)

    def _scored_answer(
        self, rules: ListRules, items: np.ndarray, scores: np.ndarray, method: str, started: float
    ) -> Answer:
        slates = best_under_rules(rules, items, scores, self.priority)
        slate = slates[0]
        seconds = {"list": time.perf_counter() - started}
        exposed = rules.rulebook.exposure_sums(slates, rules.requests)
        return Answer(self.ids.raw(slate.items), slate.scores.tolist(), trace=slate.trace, seconds=seconds,
                      method=method, propensities=np.ones(len(slate.items)), exposed=exposed)  # fmt: skip


# What `ask_many` takes of `Request`, besides k and now.
_BATCH_OPTIONS = ("filter", "boosts", "include", "exclude", "pins", "exclude_seen", "diversity", "balance", "context",
                  "explore", "policy", "deficits", "seed", "skip", "closed")  # fmt: skip


def _take_histories(histories: Histories, rows: np.ndarray) -> Histories:
    """Some histories, as views where they are consecutive."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
        return histories.rows(int(rows[0]), int(rows[-1]) + 1)
    return histories.take(rows)
