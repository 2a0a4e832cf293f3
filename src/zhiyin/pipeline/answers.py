"""Answers: one list for one request, through filters, sources, ranker, rules and variety, with reasons if wanted.

    answers = Answers(pipeline, data.items, users=data.users, rules=Rules.from_dict({"filter": "stock > 0"}))
    answer = answers.ask(Request(user="alice", k=10, filter="price < 50", diversity="mmr", explain=True))
    answer.items, answer.reasons, answer.removed

What may not be shown is left out before sources name their best, so k items come back whenever k items qualify.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import threading
import time
from collections import OrderedDict
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from zhiyin.core.errors import ConfigError, UnknownItemError
from zhiyin.core.metering import check
from zhiyin.core.run import Run
from zhiyin.data.catalogue import category_columns
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.histories import Histories
from zhiyin.data.ids import Ids
from zhiyin.models.masked_search import Mask
from zhiyin.models.recommender import Recommender, VectorRecommender
from zhiyin.pipeline import backfill, diversity
from zhiyin.pipeline.cold_start import MoreIds, NewItems
from zhiyin.pipeline.explanations import Reason, reasons
from zhiyin.pipeline.exploration import Policy
from zhiyin.pipeline.filters import Filters
from zhiyin.pipeline.pipeline import ROWS, Pipeline
from zhiyin.pipeline.request import (
    MAX_EXCLUDED,
    Answer,
    Request,
    check_diversity_method,
    encode_known,
    exploration_policy,
    resolve_options,
)
from zhiyin.pipeline.row_alignment import align_rows
from zhiyin.pipeline.rulebook import Rulebook
from zhiyin.pipeline.rules import Boost, Rules
from zhiyin.pipeline.slate import Ragged, RequestBatch, Slate, Slates
from zhiyin.ranking.asof import AsOf
from zhiyin.ranking.candidates import Retrieved
from zhiyin.ranking.examples import Candidates, Examples, ItemFeatures

# Rulebooks of requests' own filters and boosts that are kept.
BOOKS = 256
# States of what may be shown that are kept: each some bytes an item.
OPEN = 16
# Candidates of lists that are filled up together, at most.
MOST_ROWS = 2_000_000
# Shares of the time budget after which the ranker and variety are left out; reasons are when all of it is gone.
RANK_BY, VARY_BY = 0.7, 0.9


@dataclasses.dataclass(frozen=True, eq=False)
class EligibleItems:
    """Items that a request may get: bool[all], and those that the model knows. `of`: what it was found from."""

    bits: np.ndarray
    known: Mask
    of: tuple[Mask, np.ndarray | None]

    @classmethod
    def made(cls, mask: Mask, shown: np.ndarray | None, candidates: np.ndarray, n: int) -> EligibleItems:
        """Of a filter, what is shown and what may be at all; the model knows the first n."""
        if not mask.is_sparse:
            bits = candidates & mask.bits
            if shown is not None:
                bits &= shown
            return cls(bits, Mask.of(bits[:n]), (mask, shown))
        rows = mask.rows[candidates[mask.rows]]
        if shown is not None:
            rows = rows[shown[rows]]
        bits = np.zeros(len(candidates), dtype=bool)
        bits[rows] = True
        return cls(bits, Mask.of_rows(rows[rows < n], n), (mask, shown))


@dataclasses.dataclass(frozen=True, eq=False)
class _Batch:
    """RequestBatch that are answered together: they have one mask, one rulebook and one length.

    Parameters
    ----------
    histories: n of them. needs: what the requests bring. passing: what they may get. seen: leave out what is in the
    histories. policy: explores. also: int32, codes that count as seen besides the history, of a batch of one.
    index: what the ranker knows of items.
    """

    histories: Histories
    needs: RequestBatch
    book: Rulebook
    passing: EligibleItems
    k: int
    word: str
    balance: float
    seen: bool
    policy: Policy | None = None
    also: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))
    index: AsOf | None = None

    def take(self, requests: np.ndarray) -> _Batch:
        """Some of the requests, in their order."""
        return dataclasses.replace(self, histories=self.histories.take(requests), needs=self.needs.take(requests))


@dataclasses.dataclass(frozen=True, eq=False)
class _Made:
    """Lists of a batch, their candidates, and what ordered these; "" where that hangs on the user. examples: what the
    ranker read, of a batch of one."""

    slates: Slates
    candidates: Candidates
    method: str
    examples: Examples | None = None


class _Clock:
    """Seconds of each stage, and which stages a request leaves out."""

    def __init__(self, request: Request) -> None:
        self.seconds: dict[str, float] = {}
        self.degraded: list[str] = []
        self.skip, self._budget = request.skip, request.budget
        self._started = self._begun = time.perf_counter()

    def passed(self, stage: str) -> None:
        check()
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._begun
        self._begun = now

    def late(self, stage: str, share: float) -> bool:
        """Whether a stage is to be left out: so much of the budget is gone, or it was asked for."""
        gone = self._budget is not None and time.perf_counter() - self._started >= share * self._budget
        if not gone and stage not in self.skip:
            return False
        if stage not in self.degraded:
            self.degraded.append(stage)
        return True


@dataclasses.dataclass(frozen=True)
class _Listing:
    """What a request for a list that is no one's asks for. gone: int32[m], items not to be listed."""

    k: int
    book: Rulebook
    needs: RequestBatch
    mask: Mask
    gone: np.ndarray


class Answers:
    """Answers requests by a model, a catalogue and rules. Any number of threads may ask.

    Parameters
    ----------
    model: a fitted recommender; a pipeline, or any other, which then is the only source.
    items: the catalogue, a column `id`; in any order. users: likewise, or None.
    rules: of the house. kinds: names of event kinds by code, for `bought`.
    variety: as `Request.diversity`, for requests that do not say. balance: likewise.
    by: column of categories that lists are spread over; "": found by name, for mmr and dpp likeness as a model has it.
    context: types of what requests bring, such as {"device": str}.
    schema: types of the columns of items and users; None: learned from the frames.
    new: items that the model has never seen, `id` (texts) and the catalogue's columns; see `pipeline.cold_start`.
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
        run: Run | None = None,
    ) -> None:
        self.model = model if isinstance(model, Pipeline) else Pipeline.wrapping(model)
        known = self.known = self.model._context()
        self.run = run or Run(threads=1)
        # Types are fixed here, by the catalogue: what comes later is brought into them.
        if schema is None:
            schema = CatalogueSchema.of(new).with_types(CatalogueSchema.of(items, users))
        self.schema = schema
        self.items = self.schema.shaped("items", align_rows(items, known.item_ids.values))
        more = [] if new is None else new["id"].cast(pl.String).to_list()
        self.ids: Ids = MoreIds(known.item_ids, more) if more else known.item_ids
        if new is not None and more:
            both = self.items.with_columns(pl.col("id").cast(pl.String))
            self.items = pl.concat([both, self.schema.shaped("items", new)], how="diagonal_relaxed")
        self.new_items = NewItems(self.model, self.items[len(known.item_ids) :], self.run)
        # A permutation: behind what the model knows come new items, the newest first.
        order = np.arange(-len(more), 0, dtype=known.priority.dtype)
        self.priority = np.concatenate([known.priority, order]) if more else known.priority
        self._candidates = np.concatenate([known.candidates, np.ones(len(more), dtype=bool)])
        described = users is not None and users.width > 1
        self.users = self.schema.shaped("users", align_rows(users, known.user_ids.values)) if described else None
        self.filters = Filters(
            self.items, None if self.users is None else self.users.schema, context, schema=self.schema
        )
        self.rules, self.kinds, self.balance, self.by = rules or Rules(), kinds, balance, by
        self.variety, self._context = check_diversity_method(variety), context
        self._books: OrderedDict[tuple[str, tuple[Boost, ...]], Rulebook] = OrderedDict()
        self._open: OrderedDict[tuple[int, int], EligibleItems] = OrderedDict()
        self._likeness: dict[str, Any] = {}
        self._lock = threading.Lock()
        self.rulebook("", ())  # what is wrong with the rules of the house is said now

    def with_catalogue(self, items: pl.DataFrame, schema: CatalogueSchema | None = None) -> Answers:
        """The same over another catalogue: one row for each id, the known ones first; rows behind them are new items.

        schema: with types of columns that are new; None: as it is.

        What is kept of columns that did not change stays where no item was added.
        """
        n = len(self.known.item_ids)
        if len(items) != len(self.ids):
            new = items[n:] if len(items) > n else None
            known = items[:n].with_columns(self.known.item_ids.values.alias("id"))
            return Answers(self.model, known, self.users, new=new, rules=self.rules, kinds=self.kinds,
                           variety=self.variety, balance=self.balance, by=self.by, context=self._context,
                           schema=schema or self.schema, run=self.run)  # fmt: skip
        made = copy.copy(self)
        made._lock, made._books, made._likeness = threading.Lock(), OrderedDict(), dict(self._likeness)
        made._open = OrderedDict()
        made.schema = schema or self.schema
        made.items = items = made.schema.shaped("items", items.with_columns(self.items["id"]))
        made.filters = self.filters.with_catalogue(items, made.schema)
        if self.new_items.m and not items[n:].equals(self.items[n:]):
            made.new_items = NewItems(self.model, items[n:], self.run)
            made._likeness.pop("alike", None)
        if self.by:
            made._likeness.pop("alike", None)
        made._likeness.pop("categories", None)  # what is popular stays as it was: no item was added
        made.rulebook("", ())
        return made

    def rulebook(self, filter: str, boosts: tuple[Boost, ...]) -> Rulebook:
        """The rules of the house with a request's own."""
        key = (filter, boosts)
        with self._lock:
            found = self._books.get(key)
        if found is None:
            both = " AND ".join(f"({text})" for text in (self.rules.filter, filter) if text)
            rules = dataclasses.replace(self.rules, filter=both, boosts=(*self.rules.boosts, *boosts))
            if filter:  # alone, so that what is wrong is said in the words of the request
                self.filters.parse(filter, "bool")
            found = rules.bind(self.filters, kinds=self.kinds, item_ids=self.ids, seed=self.run.seed)
            with self._lock:
                self._books[key] = found
                while len(self._books) > BOOKS:
                    self._books.popitem(last=False)
        return found

    def ask(self, request: Request, shown: np.ndarray | None = None, index: AsOf | None = None) -> Answer:
        """The list for one request: a batch of one. Raises ConfigError for a request that cannot be.

        shown: bool[n_items], items that may be shown at this moment; None: all.
        index: what the ranker knows of items, where events were heard since the model was trained.
        """
        clock = _Clock(request)
        k, word, balance = self._checked(request)
        history, also = self._history(request)
        book = self.rulebook(request.filter, request.boosts)
        needs = self._needs(request, history, shown)
        passing = self._passing(book.mask(needs), shown, kept=request.include is None)
        seen, policy = self._seen(request), exploration_policy(request)
        batch = _Batch(history, needs, book, passing, k, word, balance, seen, policy, also, index)
        made = self._lists(batch, clock)
        best, candidates = made.slates[0], made.candidates
        answer = Answer(
            self.ids.raw(best.items),
            best.scores.tolist(),
            trace=best.trace,
            seconds=clock.seconds,
            method=made.method,
            left_out=candidates.left_out if isinstance(candidates, Retrieved) else {},
            degraded=clock.degraded,
            propensities=np.ones(len(best)) if best.propensities is None else best.propensities,
            exposed=book.exposure_sums(made.slates, needs) if book.exposure else _NO_GROUPS,
            sources=candidates.sources,
            ranks=_ranks_of(best.items, candidates),
            features=_features_of(request, best.items, made.examples),
        )
        if request.closed:
            answer = dataclasses.replace(answer, removed=self._kept_out(request, batch, best, shown))
        if not request.explain or clock.late("reasons", 1.0):
            return answer
        why = self._reasons(history, best, candidates, made.method, made.examples)
        removed = answer.removed if request.closed else self._removed(history, needs, book, batch.seen, k, index)
        clock.passed("explain")
        return dataclasses.replace(answer, reasons=why, removed=removed)

    def ask_many(
        self, users: Any = None, k: int = 10, *, shown: np.ndarray | None = None, now: int | None = None, **asked: Any
    ) -> pl.DataFrame:
        """Lists for many users at once, each the one that `ask` gives; None: all of the training data.

        Parameters
        ----------
        now: microseconds UTC; None: the present. asked: any other of `Request`, the same for all, but for what speaks
            of one user alone and for reasons; `seed` is that of the first user, the next one has the next.

        Returns
        -------
        Frame `user`, `item`, `score`, `rank`, in the order of the users; with exploration also `propensity`.
        """
        wrong = [name for name in asked if name not in _OF_MANY]
        if wrong:
            raise ConfigError(f"ask_many does not take {wrong[0]!r}", remedy="it takes " + ", ".join(_OF_MANY))
        request = Request(k=k, now=time.time_ns() // 1000 if now is None else now, **asked)
        clock, policy = _Clock(request), exploration_policy(request)
        k, word, balance = self._checked(request)
        book = self.rulebook(request.filter, request.boosts)
        who, histories = self.model._resolve_histories(users, None)
        codes = self.known.user_ids.encode(who).astype(np.int64)
        parts: list[Slates] = []
        order: list[np.ndarray] = []
        with self.run.bar("Recommending", len(histories)) as advance:
            for rows in self._alike_requests(book, codes, request):
                passing: EligibleItems | None = None
                for start in range(0, len(rows), ROWS):
                    some = rows[start : start + ROWS]
                    part = _consecutive(histories, some)
                    if self.model.has_times:
                        part = dataclasses.replace(part, now=np.full(len(part), request.now, dtype=np.int64))
                    needs = self._needs_of(request, part, codes[some], shown, some)
                    if passing is None:
                        first = needs.take(np.zeros(1, np.int64))
                        passing = self._passing(book.mask(first), shown, kept=False)
                    seen = self._seen(request)
                    batch = _Batch(part, needs, book, passing, k, word, balance, seen, policy)
                    parts.append(self._lists(batch, clock).slates)
                    order.append(some)
                    advance(len(some))
        if not parts:
            parts, order = [Slates(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))], [codes[:0]]
        slates = Slates.joined(parts)
        back = np.argsort(np.concatenate(order), kind="stable")
        if len(back) and (np.diff(back) != 1).any():
            slates = slates.pick(back)
        frame = pl.DataFrame({
            "user": who.gather(slates.owners),
            "item": self.ids.decode(slates.items),
            "score": slates.scores,
            "rank": (slates.places + 1).astype(np.int32),
        })  # fmt: skip
        if policy is None:
            return frame
        chances = np.ones(len(frame)) if slates.propensities is None else slates.propensities
        return frame.with_columns(pl.Series("propensity", chances))

    # -- the one way to a list --------------------------------------------------------------------------------------

    def _lists(self, batch: _Batch, clock: _Clock) -> _Made:
        """Lists of a batch of requests that have one mask: retrieve, rank, arrange; what is popular fills them up."""
        histories, k, n = batch.histories, batch.k, len(self.known.item_ids)
        gone = self._gone(batch)
        known = gone if not self.new_items.m else _below(gone, n)
        clock.passed("filter")
        exclude = Histories.of(known.offsets, known.values)
        candidates = self.model.retrieve(histories, k, exclude=exclude, allowed=batch.passing.known, run=self.run)
        clock.passed("retrieve")
        method, examples = "", None
        if len(histories) > 1:
            scores = self.model.order(histories, candidates, self.run, batch.index, ranker="ranker" not in clock.skip)
        else:
            method = self.model.method_of(histories)
            if method == "ranker" and clock.late("ranker", RANK_BY):
                method = "rrf"
            if method == "ranker":
                scores, examples = self.model.ranked(histories, candidates, self.run, batch.index)
            else:
                scores = self.model.scores_by(method, histories, candidates, self.run)
        clock.passed("rank")
        if batch.word != "none" and clock.late("variety", VARY_BY):
            batch = dataclasses.replace(batch, word="none")
        slates = Slates(candidates.offsets, candidates.items, np.asarray(scores, np.float32))
        if self.new_items.m:
            fresh = gone.values >= n
            owners, codes, worth = self.new_items.score_candidates(
                histories, slates.offsets, slates.items, slates.scores, batch.passing.bits[n:],
                (gone.owners[fresh], gone.values[fresh]),
            )  # fmt: skip
            slates = slates.with_rows(owners, codes, worth)
        wanted = np.maximum(0, k - np.diff(slates.offsets))
        made = self._finished(batch, slates, gone, wanted)
        clock.passed("rules")
        return _Made(made, candidates, method, examples)

    def _finished(self, batch: _Batch, slates: Slates, gone: Ragged, wanted: np.ndarray) -> Slates:
        """Lists of the candidates, filled up with so many popular items, int64[n], and more where rules leave out too
        many."""
        filled, given = self._filled(batch, slates, gone, wanted)
        vary = functools.partial(self._vary, history=batch.histories, k=batch.k, word=batch.word, balance=batch.balance)
        made = batch.book.rerank_qualified(
            filled, batch.needs, batch.k, diversify=vary, policy=batch.policy, run=self.run
        )
        lacks = np.diff(made.offsets) < batch.k
        # A cap that is not strict yields to candidates only after one look at what is popular.
        for event in made.events:
            if event.step == "cap yielded":
                lacks[event.owners[wanted[event.owners] < 4 * batch.k]] = True
        short = np.flatnonzero(lacks & (given >= wanted))
        if not len(short):
            return made
        more = np.maximum(4 * batch.k, 8 * wanted[short])
        if len(batch.histories) == 1:
            return self._finished(batch, slates, gone, more)
        size = max(1, MOST_ROWS // int(more.max()))
        parts = [
            self._finished(batch.take(some), slates.pick(some), gone.take(some), more[start : start + size])
            for start in range(0, len(short), size)
            for some in [short[start : start + size]]
        ]
        # The lists that were short are behind those that were not; then all stand in their order.
        place = np.arange(len(made))
        place[short] = len(made) + np.arange(len(short))
        return Slates.joined([made, *parts]).pick(place)

    def _filled(self, batch: _Batch, slates: Slates, gone: Ragged, wanted: np.ndarray) -> tuple[Slates, np.ndarray]:
        """The candidates best first, and below them so many popular items, and those that a group needs. Also int64[n]:
        how many popular items there were."""
        order = self._popular_first(batch.passing)
        given = np.zeros(len(slates), dtype=np.int64)
        rows: list[tuple[np.ndarray, np.ndarray]] = []
        held = slates
        if wanted.any():
            taken = _both(gone, slates)
            found = backfill.popular(order, batch.passing.bits, wanted, taken.offsets, taken.values)
            given = np.bincount(found[0], minlength=len(slates))
            rows.append(found)
            held = slates.with_rows(*found, np.zeros(len(found[1]), np.float32))
        for group, count in batch.book.required_groups(batch.needs, batch.k):
            moment = batch.book.request_values(batch.needs, held.owners)
            have = np.bincount(held.owners[self.filters.where(group, held.items, moment)], minlength=len(slates))
            lacks = np.maximum(0, count - have)
            if not lacks.any():
                continue
            first = batch.book.request_values(batch.needs.take(np.zeros(1, np.int64)))
            allowed = batch.passing.bits & self.filters.mask(group, first).bits
            taken = _both(gone, held)
            found = backfill.popular(order, allowed, lacks, taken.offsets, taken.values)
            rows.append(found)
            held = held.with_rows(*found, np.zeros(len(found[1]), np.float32))
        if not rows:
            return Slates.best_first(slates.offsets, slates.items, slates.scores), given
        owners, items = (np.concatenate(part) for part in zip(*rows))
        by = np.argsort(owners, kind="stable")
        owners, items = owners[by], items[by]
        all_rows = slates.with_rows(owners, items, backfill.behind(slates.lowest(), owners, len(slates)))
        return Slates.best_first(all_rows.offsets, all_rows.items, all_rows.scores), given

    def _popular_first(self, passing: EligibleItems) -> np.ndarray:
        """int32: items from the most popular one on; few that pass are sorted for themselves."""
        if passing.known.is_sparse:
            rows = np.flatnonzero(passing.bits)
            return rows[np.argsort(-self.priority[rows])].astype(np.int32)
        if "best_first" not in self._likeness:
            self._likeness["best_first"] = np.argsort(-self.priority).astype(np.int32)
        return self._likeness["best_first"]

    def _gone(self, batch: _Batch) -> Ragged:
        """What no list may hold, pinned items aside: excluded, bought, shown too often; and seen, where that counts."""
        offsets, codes = batch.book.excluded_items(batch.needs)
        histories = batch.histories
        if not batch.seen:
            return Ragged(offsets, codes)
        if len(histories) == 1:
            values = np.concatenate([codes, histories.items, batch.also])
            return Ragged(np.array([0, len(values)], dtype=np.int64), values)
        owners = np.concatenate([np.repeat(np.arange(len(histories)), lengths)
                                 for lengths in (np.diff(offsets), histories.lengths)])  # fmt: skip
        order = np.argsort(owners, kind="stable")
        return Ragged(offsets + histories.offsets, np.concatenate([codes, histories.items])[order])

    def _seen(self, request: Request) -> bool:
        return not self.rules.bought if request.exclude_seen is None else request.exclude_seen

    def _alike_requests(self, book: Rulebook, codes: np.ndarray, request: Request) -> list[np.ndarray]:
        """Rows of users, int64 by code, whose columns give them the same items to choose from and the same groups."""
        columns = [name for scope, name in book.request_columns if scope == "user"]
        columns = [name for name in columns if self.users is not None and name in self.users.columns]
        if not columns or self.users is None:
            return [np.arange(len(codes))]
        frame = _rows_or_null(self.users.select(columns), codes).with_row_index("row of ask_many")
        parts = frame.group_by(columns, maintain_order=True).agg("row of ask_many")
        return [np.asarray(rows, dtype=np.int64) for rows in parts["row of ask_many"].to_list()]

    def list_by_score(
        self, worth: np.ndarray, request: Request, shown: np.ndarray | None = None, method: str = ""
    ) -> Answer:
        """The list for a request by what items are worth to everyone, under the same rules.

        worth: float32[all items], minus infinity: not to be listed. Equal ones by popularity. method: as told.
        """
        begun, asked = time.perf_counter(), self._listing(request, shown)
        allowed = self._candidates & (worth > -np.inf)
        if asked.mask.count < asked.mask.n:
            allowed &= asked.mask.bits
        if shown is not None:
            allowed &= shown
        allowed[asked.gone] = False
        rows = np.flatnonzero(allowed)
        return self._listed(asked, rows, worth[rows], method, begun)

    def similar(self, item: Any, request: Request, shown: np.ndarray | None = None) -> Answer:
        """Items most similar to one, under the same rules. Raises UnknownItemError."""
        begun, code = time.perf_counter(), int(self.ids.encode([item])[0])
        n = len(self.known.item_ids)
        if code < 0:
            raise UnknownItemError(f"item {str(item)!r} is not known", remedy="put it into the catalogue first")
        asked = self._listing(request, shown)
        if code >= n:
            likeness = self.new_items.similarity_row(code)
            rows = np.zeros(0, np.int64) if likeness is None else np.flatnonzero(likeness > 0)
            worth = np.zeros(0, np.float32) if likeness is None else likeness[rows]
        else:
            narrow = bool(asked.book.conditions) or request.include is not None
            hidden = 0 if shown is None else n - int(np.count_nonzero(shown[:n]))
            most = n if narrow else min(n, request.k + 200 + hidden)
            rows, worth = self.model._similar_to_item(code, most, self.run)
            if self.new_items.m:
                near = np.argsort(-worth, kind="stable")[:100]
                free = np.ones(self.new_items.m, dtype=bool) if shown is None else shown[n:]
                codes, values = self.new_items.similar_new_items(rows[near], worth[near], free)
                rows, worth = np.concatenate([rows, codes]), np.concatenate([worth, values])
        kept = self._candidates[rows] & asked.mask.contains(rows) & ~np.isin(rows, asked.gone)
        if shown is not None:
            kept &= shown[rows]
        return self._listed(asked, rows[kept], worth[kept], "similar", begun)

    def _listing(self, request: Request, shown: np.ndarray | None) -> _Listing:
        k, _, _ = self._checked(request)
        history, also = self._history(request)
        book, needs = self.rulebook(request.filter, request.boosts), self._needs(request, history, shown)
        gone = book.excluded_items(needs)[1]
        if request.exclude_seen:
            gone = np.concatenate([gone, history.items, also])
        return _Listing(k, book, needs, book.mask(needs), gone)

    def _listed(self, asked: _Listing, rows: np.ndarray, worth: np.ndarray, method: str, begun: float) -> Answer:
        """The best of some items, codes int[m] with worth float32[m], under the rules."""
        most = 4 * asked.k
        while True:
            if len(rows) > most:
                best = np.partition(worth, len(rows) - most)[len(rows) - most]
                some = np.flatnonzero(worth >= best)
            else:
                some = np.arange(len(rows))
            some = self._with_groups(asked, rows, worth, some)
            some = some[np.lexsort((-self.priority[rows[some]], -worth[some]))]
            slates = Slates.best_first(np.array([0, len(some)]), rows[some].astype(np.int32), worth[some])
            slate = asked.book.rerank_qualified(slates, asked.needs, asked.k)
            if len(slate.items) >= asked.k or len(some) == len(rows):
                break
            most *= 8
        found = slate[0]
        seconds = {"list": time.perf_counter() - begun}
        exposed = asked.book.exposure_sums(slate, asked.needs) if asked.book.exposure else _NO_GROUPS
        return Answer(self.ids.raw(found.items), found.scores.tolist(), trace=found.trace, seconds=seconds,
                      method=method, propensities=np.ones(len(found.items)), exposed=exposed)  # fmt: skip

    def _with_groups(self, asked: _Listing, rows: np.ndarray, worth: np.ndarray, some: np.ndarray) -> np.ndarray:
        """Places of the best items, and with them those of the best of each group that lists need some of."""
        if len(some) == len(rows):
            return some
        for group, count in asked.book.required_groups(asked.needs, asked.k):
            members = np.flatnonzero(self.filters.where(group, rows, asked.book.request_values(asked.needs)))
            if len(members) > count:
                members = members[np.argpartition(-worth[members], count - 1)[:count]]
            some = np.union1d(some, members)
        return some

    def nearest_known_items(self, codes: np.ndarray) -> np.ndarray:
        """int32: codes as the model knows them; of new items those of the known ones most like them, -1 where none."""
        found = np.asarray(codes, dtype=np.int32)
        n = len(self.known.item_ids)
        if not self.new_items.m or not (found >= n).any():
            return found
        found = found.copy()
        for at in np.flatnonzero(found >= n).tolist():
            found[at] = self.new_items.nearest_known_item(int(found[at]))
        return found

    # -- inside -----------------------------------------------------------------------------------------------------

    def _checked(self, request: Request) -> tuple[int, str, float]:
        k, word, balance = resolve_options(request, self.variety, self.balance)
        return min(k, len(self.ids)), word, balance

    def _passing(self, mask: Mask, shown: np.ndarray | None, kept: bool) -> EligibleItems:
        """What a request may get; found once for a filter and a state of what is shown, where that is `kept`."""
        key = (id(mask), id(shown))
        with self._lock:
            found = self._open.get(key)
        if found is None or found.of[0] is not mask or found.of[1] is not shown:
            found = EligibleItems.made(mask, shown, self._candidates, len(self.known.item_ids))
            with self._lock:
                if kept:
                    self._open[key] = found
                while len(self._open) > OPEN:
                    self._open.popitem(last=False)
        return found

    def _reasons(
        self, history: Histories, best: Slate, candidates: Candidates, method: str, examples: Examples | None
    ) -> list[Reason]:
        n = len(self.known.item_ids)
        rules = [told(best.trace, int(item)) for item in best.items]
        old = reasons(
            self.model, history, best.items[best.items < n], candidates, self.run, method=method, examples=examples
        )
        known, raw, found = iter(old), self.ids.raw(best.items), []
        for item, name, steps in zip(best.items, raw, rules):
            if item < n:
                found.append(dataclasses.replace(next(known), rules=steps))
            else:
                found.append(self.new_items.reason(name, self.new_items.source, steps))
        return found

    def _history(self, request: Request) -> tuple[Histories, np.ndarray]:
        """The history in codes of the model, and codes of what else was seen."""
        also = self.ids.encode(list(request.seen))
        if request.history is None:
            history = self.known.histories.take(self.known.user_ids.encode([request.user]))
        elif isinstance(request.history, Histories):
            history = request.history
        else:
            given = self.ids.encode(list(request.history))
            also = np.concatenate([also, given])
            codes = self.nearest_known_items(given)
            codes = codes[codes >= 0]
            history = Histories.of(np.array([0, len(codes)]), codes)
        now = time.time_ns() // 1000 if request.now is None else request.now
        if self.model.has_times:
            history = dataclasses.replace(history, now=np.array([now], dtype=np.int64))
        return history, also[also >= 0]

    def _needs(self, request: Request, history: Histories, shown: np.ndarray | None) -> RequestBatch:
        """The request in item codes."""
        user: dict[str, Any] = {}
        number = int(self.known.user_ids.encode([request.user])[0]) if request.user is not None else -1
        if self.users is not None and number >= 0:
            user = self.users.row(number, named=True)
        user |= request.user_columns
        counts = zip(self.ids.encode(list(request.shown)).tolist(), request.shown.values())
        include, exclude, pins = self._named(request)
        return RequestBatch.one(
            now=time.time_ns() // 1000 if request.now is None else request.now,
            user_number=number,
            visit=request.visit,
            history=history,
            shown={code: n for code, n in counts if code >= 0},
            user=user,
            context=request.context,
            include=include,
            exclude=exclude,
            pins=pins,
            closed=request.closed,
            allowed=shown,
            deficits=None if request.deficits is None else np.asarray(request.deficits, np.float64),
            seed=request.seed,
        )

    def _needs_of(
        self, request: Request, histories: Histories, codes: np.ndarray, shown: np.ndarray | None, places: np.ndarray
    ) -> RequestBatch:
        """The requests of many users, int64 by code; `places` of theirs among all who are asked for count the seeds."""
        n = len(codes)
        one = self._needs(dataclasses.replace(request, user=None), histories, shown)
        user = None if self.users is None else _rows_or_null(self.users, codes)
        context = None
        if request.context:
            context = pl.DataFrame({name: [value] for name, value in request.context.items()})[np.zeros(n, np.int64)]
        lists = {name: part.repeated(n) for name in ("include", "exclude", "pins")
                 if (part := getattr(one, name)) is not None}  # fmt: skip
        seeds = np.uint64(request.seed % 2**64) + places.astype(np.uint64)
        return dataclasses.replace(
            one, n=n, now=request.now, users=codes, visits=None, user=user, context=context, seeds=seeds, **lists
        )

    def _named(self, request: Request) -> tuple[list[int] | None, list[int], dict[int, int]]:
        """Codes of what a request includes, excludes and pins. Raises UnknownItemError for a pin that is not known."""
        ids = self.ids
        unknown = [str(item) for item in request.pins.values() if ids.encode([item])[0] < 0]
        if unknown:
            raise UnknownItemError(f"item {unknown[0]!r} is pinned and not known", remedy="pin items of the catalogue")
        include = None if request.include is None else encode_known(ids, request.include).tolist()
        pins = {slot: int(ids.encode([item])[0]) for slot, item in request.pins.items()}
        return include, encode_known(ids, request.exclude, MAX_EXCLUDED).tolist(), pins

    def _vary(self, slates: Slates, history: Histories, k: int, word: str, balance: float) -> Slates:
        if word == "none" or not len(slates.items):
            return slates
        if word == "calibrate":
            table = self._categories(needed=True)
            wanted = diversity.category_shares(history, table)
            return diversity.calibrate(slates, table, wanted, k, balance=balance, run=self.run)
        likeness = self._alike()
        step = diversity.mmr if word == "mmr" else diversity.dpp
        return step(slates, likeness, k, balance=balance, run=self.run)

    def check_variety(self) -> None:
        """Raises ConfigError where lists cannot be spread as the house asks."""
        if self.by or self.variety == "calibrate":
            self._categories(needed=True)
        elif self.variety != "none":
            self._alike()

    def _alike(self) -> Any:
        """What tells how alike items are: a content model's features, a model's vectors, or categories."""
        if "alike" not in self._likeness:
            found: Any = None
            sources = [] if self.by else list(self.model.sources_.values())
            for source in sources:
                if isinstance(getattr(source, "items_", None), sparse.csr_matrix):
                    found = source.items_  # type: ignore[attr-defined]
                    break
            else:
                vectors = [s.item_vectors_ for s in sources if isinstance(s, VectorRecommender)]
                found = vectors[0] if vectors else None
            found = self._categories(needed=True) if found is None else self.new_items.extended(found)
            self._likeness["alike"] = diversity.UnitRows.of(found) if sparse.issparse(found) else found
        return self._likeness["alike"]

    def _categories(self, needed: bool) -> sparse.csr_matrix | None:
        if "categories" not in self._likeness:
            column = self.by or next(iter(category_columns(self.items.columns)), "")
            if not column:
                raise ConfigError(
                    "there is nothing to spread lists over",
                    remedy="name a column of categories of the items (by=), or leave variety out: diversity='none', "
                    "on the command line --variety none",
                )
            table = diversity.category_table(self.filters.column(column), len(self.items))
            self._likeness["categories"] = table
        return self._likeness["categories"]

    def _kept_out(self, request: Request, batch: _Batch, best: Slate, shown: np.ndarray | None) -> list[dict[str, Any]]:
        """Of a closed request: items of `include` that are not in the list, in the order given, and why."""
        raw = list(dict.fromkeys(request.include or ()))
        codes = self.ids.encode(raw)
        rule: dict[int, str] = {}
        for event in best.trace:
            if event["step"] in ("cap", "dedupe"):
                rule |= dict.fromkeys(event["items"], event["step"])
        if batch.seen:
            rule |= dict.fromkeys([*batch.histories.items.tolist(), *batch.also.tolist()], "seen")
        known = np.unique(codes[codes >= 0])
        slates = Slates.best_first(np.array([0, len(known)]), known, np.zeros(len(known), np.float32))
        for event in batch.book.qualify(slates, batch.needs)[0].trace:
            rule |= dict.fromkeys(event["items"], event["step"])
        if shown is not None:
            rule |= dict.fromkeys(known[~shown[known]].tolist(), "hidden")
        listed = set(best.items.tolist())
        return [{"item": item, "rule": "unknown" if code < 0 else rule.get(code, "no candidate")}
                for item, code in zip(raw, codes.tolist()) if code not in listed]  # fmt: skip

    def _removed(
        self, history: Histories, needs: RequestBatch, book: Rulebook, seen: bool, k: int, index: AsOf | None
    ) -> list[dict[str, Any]]:
        """What would have been in the list, were there no rules, and the rule that removed it."""
        candidates = self.model.retrieve(history, k, run=self.run)
        scores = self.model.order(history, candidates, self.run, index)
        slates = Slates.best_first(candidates.offsets, candidates.items, scores)
        best = slates.keep(slates.places < k)
        found = {int(item): event["step"] for event in book.qualify(best, needs)[0].trace for item in event["items"]}
        if seen:
            found |= {int(item): "seen" for item in np.intersect1d(best.items, history.items)}
        raw = self.known.item_ids.raw(best.items)
        return [{"item": name, "rule": found[int(i)]} for name, i in zip(raw, best.items) if int(i) in found]


def _features_of(request: Request, items: np.ndarray, examples: Examples | None) -> ItemFeatures | None:
    if request.features == "none" or examples is None:
        return None
    return ItemFeatures.of(examples, items if request.features == "shown" else None)


_NO_GROUPS = np.zeros((0, 3))
# What `ask_many` takes of `Request`, besides k and now.
_OF_MANY = ("filter", "boosts", "include", "exclude", "pins", "exclude_seen", "diversity", "balance", "context",
            "explore", "policy", "deficits", "seed", "skip", "closed")  # fmt: skip


def _both(gone: Ragged, slates: Slates) -> Ragged:
    """Of each request what it must not get and what it has."""
    if len(slates) == 1:
        values = np.concatenate([gone.values, slates.items])
        return Ragged(np.array([0, len(values)], dtype=np.int64), values)
    order = np.argsort(np.concatenate([gone.owners, slates.owners]), kind="stable")
    return Ragged(gone.offsets + slates.offsets, np.concatenate([gone.values, slates.items])[order])


def _below(gone: Ragged, n: int) -> Ragged:
    """Codes below n."""
    kept = gone.values < n
    total = np.concatenate([[0], np.cumsum(kept)])
    return Ragged(total[gone.offsets], gone.values[kept])


def _consecutive(histories: Histories, rows: np.ndarray) -> Histories:
    """Some histories, as views where they lie together."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
        return histories.rows(int(rows[0]), int(rows[-1]) + 1)
    return histories.take(rows)


def _rows_or_null(frame: pl.DataFrame, rows: np.ndarray) -> pl.DataFrame:
    """Rows of a frame; row -1 is all null."""
    places = pl.Series(rows)
    return frame.select(pl.all().gather(places.set(places < 0, None)))


def _ranks_of(items: np.ndarray, candidates: Candidates) -> np.ndarray:
    """int32[k, sources]: the place that each source gave each item; -1 where it did not name it."""
    order = np.argsort(candidates.items)
    known = candidates.items[order]
    ranks = np.full((len(items), len(candidates.sources)), -1, dtype=np.int32)
    if len(known):
        at = np.minimum(np.searchsorted(known, items), len(known) - 1)
        there = known[at] == items
        ranks[there] = candidates.ranks[order[at[there]]]
    return ranks


def told(trace: list[dict[str, Any]], item: int) -> list[str]:
    """What rules did to an item, in words."""
    found = []
    for event in trace:
        if item in event.get("items", ()):
            at = event["items"].index(item)
            words = event["step"]
            if event.get("when") or event.get("of"):
                words += f" ({event.get('when') or event.get('of')})"
            if "slot" in event:
                words += f", slot {event['slot'][at]}"
            found.append(words)
    return list(dict.fromkeys(found))
