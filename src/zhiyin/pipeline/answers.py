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
from zhiyin.core.run import Run
from zhiyin.data.histories import Histories
from zhiyin.data.ids import Ids
from zhiyin.models.base import Recommender, VectorRecommender
from zhiyin.models.search import Mask
from zhiyin.pipeline import diversity
from zhiyin.pipeline.explain import Reason, reasons
from zhiyin.pipeline.exploring import explored
from zhiyin.pipeline.filters import Filters
from zhiyin.pipeline.frames import aligned, fitting
from zhiyin.pipeline.fresh import MoreIds, NewItems
from zhiyin.pipeline.pipeline import ROWS, Pipeline
from zhiyin.pipeline.request import Answer, Request, checked, known_of, known_variety
from zhiyin.pipeline.rules import Boost, Rulebook, Rules
from zhiyin.pipeline.slate import Requests, Slate, Slates
from zhiyin.ranking.asof import AsOf
from zhiyin.ranking.candidates import Retrieved
from zhiyin.ranking.examples import Candidates, Examples, ItemFeatures

# Rulebooks of requests' own filters and boosts that are kept.
BOOKS = 256
# States of what may be shown that are kept: each some bytes an item.
OPEN = 16
# Shares of the time budget after which the ranker and variety are left out; reasons are when all of it is gone.
RANK_BY, VARY_BY = 0.7, 0.9
# Columns that items are spread over where none is named.
CATEGORIES = ("category", "categories", "genre", "genres", "topic", "topics", "brand", "seller")


@dataclasses.dataclass(frozen=True, eq=False)
class Passing:
    """Items that a request may get: bool[all], and those that the model knows. `of`: what it was found from."""

    bits: np.ndarray
    known: Mask
    of: tuple[Mask, np.ndarray | None]

    @classmethod
    def made(cls, mask: Mask, shown: np.ndarray | None, candidates: np.ndarray, n: int) -> Passing:
        """Of a filter, what is shown and what may be at all; the model knows the first n."""
        if not mask.few:
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


@dataclasses.dataclass(frozen=True)
class _Listing:
    """What a request for a list that is no one's asks for. gone: int32[m], items not to be listed."""

    k: int
    book: Rulebook
    needs: Requests
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
    new: items that the model has never seen, `id` (texts) and the catalogue's columns; see `pipeline.fresh`.
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
        run: Run | None = None,
    ) -> None:
        self.model = model if isinstance(model, Pipeline) else Pipeline.around(model)
        known = self.known = self.model._known()
        self.run = run or Run(threads=1)
        self.items = aligned(items, known.item_ids.values)
        more = [] if new is None else new["id"].cast(pl.String).to_list()
        self.ids: Ids = MoreIds(known.item_ids, more) if more else known.item_ids
        if new is not None and more:
            both = self.items.with_columns(pl.col("id").cast(pl.String))
            self.items = pl.concat([both, fitting(new, both.schema)], how="diagonal")
        self.new = NewItems(self.model, self.items[len(known.item_ids) :], self.run)
        # A permutation: behind what the model knows come new items, the newest first.
        order = np.arange(-len(more), 0, dtype=known.priority.dtype)
        self.priority = np.concatenate([known.priority, order]) if more else known.priority
        self._candidates = np.concatenate([known.candidates, np.ones(len(more), dtype=bool)])
        self.users = None if users is None or users.width < 2 else aligned(users, known.user_ids.values)
        self.filters = Filters(self.items, None if self.users is None else self.users.schema, context)
        self.rules, self.kinds, self.balance, self.by = rules or Rules(), kinds, balance, by
        self.variety, self._context = known_variety(variety), context
        self._books: OrderedDict[tuple[str, tuple[Boost, ...]], Rulebook] = OrderedDict()
        self._open: OrderedDict[tuple[int, int], Passing] = OrderedDict()
        self._likeness: dict[str, Any] = {}
        self._lock = threading.Lock()
        self.book("", ())  # what is wrong with the rules of the house is said now

    def replaced(self, items: pl.DataFrame) -> Answers:
        """The same over another catalogue: one row for each id, the known ones first; rows behind them are new items.

        What is kept of columns that did not change stays where no item was added.
        """
        n = len(self.known.item_ids)
        if len(items) != len(self.ids):
            new = items[n:] if len(items) > n else None
            known = items[:n].with_columns(self.known.item_ids.values.alias("id"))
            return Answers(self.model, known, self.users, new=new, rules=self.rules, kinds=self.kinds,
                           variety=self.variety, balance=self.balance, by=self.by, context=self._context,
                           run=self.run)  # fmt: skip
        made = copy.copy(self)
        made._lock, made._books, made._likeness = threading.Lock(), OrderedDict(), dict(self._likeness)
        made._open = OrderedDict()
        made.items = items = items.with_columns(self.items["id"])
        made.filters = self.filters.another(items)
        if self.new.m and not items[n:].equals(self.items[n:]):
            made.new = NewItems(self.model, items[n:], self.run)
            made._likeness.pop("alike", None)
        if self.by:
            made._likeness.pop("alike", None)
        made._likeness.pop("categories", None)
        made.book("", ())
        return made

    def book(self, filter: str, boosts: tuple[Boost, ...]) -> Rulebook:
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
        """The list for one request. Raises ConfigError for a request that cannot be.

        shown: bool[n_items], items that may be shown at this moment; None: all.
        index: what the ranker knows of items, where events were heard since the model was trained.
        """
        begun = time.perf_counter()
        seconds: dict[str, float] = {}

        def passed(stage: str) -> None:
            nonlocal begun
            seconds[stage] = time.perf_counter() - begun
            begun = time.perf_counter()

        k, word, balance = self._checked(request)
        started, degraded, n = begun, list[str](), len(self.known.item_ids)

        def late(stage: str, share: float) -> bool:
            out_of_time = request.budget is not None and time.perf_counter() - started >= share * request.budget
            if not out_of_time and stage not in request.skip:
                return False
            degraded.append(stage)
            return True

        history, also = self._history(request)
        book = self.book(request.filter, request.boosts)
        if shown is not None and request.pins:
            pins = {slot: item for slot, item in request.pins.items() if self._shown(item, shown)}
            request = dataclasses.replace(request, pins=pins)
        needs = self._needs(request, history)
        seen = not self.rules.bought if request.exclude_seen is None else request.exclude_seen
        passing = self._passing(book.mask(needs), shown, kept=request.include is None)
        gone = book.removed(needs)[1]
        if seen:
            gone = np.concatenate([gone, history.items, also])
        known_gone = gone[gone < n] if self.new.m else gone
        passed("filter")
        exclude = Histories.of(np.array([0, len(known_gone)]), known_gone)
        candidates = self.model.retrieve(history, k, exclude=exclude, allowed=passing.known, run=self.run)
        passed("retrieve")
        method = self.model.method_of(history)
        if method == "ranker" and late("ranker", RANK_BY):
            method = "rrf"
        examples = None
        if method == "ranker":
            scores, examples = self.model.ranked(history, candidates, self.run, index)
        else:
            scores = self.model.scores_by(method, history, candidates, self.run)
        passed("rank")
        if word != "none" and late("variety", VARY_BY):
            word = "none"
        vary = functools.partial(self._vary, history=history, k=k, word=word, balance=balance)
        named, worth = candidates.items, scores
        if self.new.m:
            free = passing.bits[n:].copy()
            free[gone[gone >= n] - n] = False
            more, extra = self.new.join(history, named, worth, free)
            named, worth = np.concatenate([named, more]), np.concatenate([worth, extra])
        fill = max(0, k - len(named))
        while True:
            slates = self._filled(named, worth, passing.bits, gone, fill)
            slate = book.finish(slates, needs, k, between=vary)
            # Of what rules left out too much is made up by what is popular.
            if len(slate.items) >= k or len(slates.items) < len(named) + fill:
                break
            fill = max(4 * k, 8 * fill)
        passed("rules")
        best, propensities = slate[0], np.ones(len(slate.items))
        if request.explore > 0:
            best, propensities = explored(best, slates.items, needs, request.explore, request.seed)
        answer = Answer(
            self.ids.raw(best.items),
            best.scores.tolist(),
            trace=best.trace,
            seconds=seconds,
            method=method,
            left_out=candidates.left_out if isinstance(candidates, Retrieved) else {},
            degraded=degraded,
            propensities=propensities,
            sources=candidates.sources,
            ranks=_ranks_of(best.items, candidates),
            features=_features_of(request, best.items, examples),
        )
        if not request.explain or late("reasons", 1.0):
            return answer
        why = self._reasons(history, best, candidates)
        removed = self._removed(history, needs, book, seen, k, index)
        passed("explain")
        return dataclasses.replace(answer, reasons=why, removed=removed)

    def ask_many(
        self,
        users: Any = None,
        k: int = 10,
        *,
        filter: str = "",
        exclude_seen: bool | None = None,
        variety: str | None = None,
        now: int | None = None,
    ) -> pl.DataFrame:
        """Lists for many users at once; None: all of the training data. Frame `user`, `item`, `score`, `rank`.

        Only what sources name is ranked, nothing popular is added: a list may be short where rules leave little.
        """
        k, word, balance = self._checked(Request(k=k, diversity=variety))
        book = self.book(filter, ())
        who, histories = self.model._asked(users, None)
        seen = not self.rules.bought if exclude_seen is None else exclude_seen
        now = time.time_ns() // 1000 if now is None else now
        fixed = all(condition.node.scopes <= {"item", "now"} for _, condition in book.conditions)
        allowed = self.known.candidates
        if fixed:
            allowed = allowed & book.mask(Requests(now=now)).bits[: len(allowed)]
        codes = self.known.user_ids.encode(who).astype(np.int64)
        parts = []
        with self.run.bar("Recommending", len(histories)) as advance:
            for start, part in histories.chunks(ROWS):
                code = codes[start : start + len(part)]
                columns = None
                if self.users is not None:
                    known = pl.lit(pl.Series(code >= 0))
                    columns = self.users[np.maximum(code, 0)].select(pl.when(known).then(pl.all()))
                needs = Requests(len(part), now, users=code, histories=part, user=columns)
                found = self.model.retrieve(part, 2 * k, exclude=part if seen else None, allowed=allowed, run=self.run)
                slates = Slates.best_first(found.offsets, found.items, self.model.order(part, found, self.run))
                vary = functools.partial(self._vary, history=part, k=k, word=word, balance=balance)
                slates = book.rerank(slates, needs, k, between=vary)
                parts.append(pl.DataFrame({
                    "user": who[start : start + len(part)].gather(slates.owners),
                    "item": self.known.item_ids.decode(slates.items),
                    "score": slates.scores,
                    "rank": (slates.places + 1).astype(np.int32),
                }))  # fmt: skip
                advance(len(part))
        return pl.concat(parts)

    def list_by(self, worth: np.ndarray, request: Request, shown: np.ndarray | None = None, method: str = "") -> Answer:
        """The list for a request by what items are worth to everyone, under the same rules.

        worth: float32[all items], minus infinity: not to be listed. Equal ones by popularity. method: as told.
        """
        begun, asked = time.perf_counter(), self._listing(request)
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
        asked = self._listing(request)
        if code >= n:
            likeness = self.new.like(code)
            rows = np.zeros(0, np.int64) if likeness is None else np.flatnonzero(likeness > 0)
            worth = np.zeros(0, np.float32) if likeness is None else likeness[rows]
        else:
            narrow = bool(asked.book.conditions) or request.include is not None
            hidden = 0 if shown is None else n - int(np.count_nonzero(shown[:n]))
            most = n if narrow else min(n, request.k + 200 + hidden)
            rows, worth = self.model._similar_to(code, most, self.run)
            if self.new.m:
                near = np.argsort(-worth, kind="stable")[:100]
                free = np.ones(self.new.m, dtype=bool) if shown is None else shown[n:]
                codes, values = self.new.beside(rows[near], worth[near], free)
                rows, worth = np.concatenate([rows, codes]), np.concatenate([worth, values])
        kept = self._candidates[rows] & asked.mask.holds(rows) & ~np.isin(rows, asked.gone)
        if shown is not None:
            kept &= shown[rows]
        return self._listed(asked, rows[kept], worth[kept], "similar", begun)

    def _listing(self, request: Request) -> _Listing:
        k, _, _ = self._checked(request)
        history, also = self._history(request)
        book, needs = self.book(request.filter, request.boosts), self._needs(request, history)
        gone = book.removed(needs)[1]
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
            some = some[np.lexsort((-self.priority[rows[some]], -worth[some]))]
            slates = Slates.best_first(np.array([0, len(some)]), rows[some].astype(np.int32), worth[some])
            slate = asked.book.finish(slates, asked.needs, asked.k)
            if len(slate.items) >= asked.k or len(some) == len(rows):
                break
            most *= 8
        found = slate[0]
        seconds = {"list": time.perf_counter() - begun}
        ones = np.ones(len(found.items))
        return Answer(self.ids.raw(found.items), found.scores.tolist(), trace=found.trace, seconds=seconds,
                      method=method, propensities=ones)  # fmt: skip

    def stand_ins(self, codes: np.ndarray) -> np.ndarray:
        """int32: codes as the model knows them; of new items those of the known ones most like them, -1 where none."""
        found = np.asarray(codes, dtype=np.int32)
        n = len(self.known.item_ids)
        if not self.new.m or not (found >= n).any():
            return found
        found = found.copy()
        for at in np.flatnonzero(found >= n).tolist():
            found[at] = self.new.stand_in(int(found[at]))
        return found

    # -- inside -----------------------------------------------------------------------------------------------------

    def _checked(self, request: Request) -> tuple[int, str, float]:
        k, word, balance = checked(request, self.variety, self.balance)
        return min(k, len(self.ids)), word, balance

    def _passing(self, mask: Mask, shown: np.ndarray | None, kept: bool) -> Passing:
        """What a request may get; found once for a filter and a state of what is shown, where that is `kept`."""
        key = (id(mask), id(shown))
        with self._lock:
            found = self._open.get(key)
        if found is None or found.of[0] is not mask or found.of[1] is not shown:
            found = Passing.made(mask, shown, self._candidates, len(self.known.item_ids))
            with self._lock:
                if kept:
                    self._open[key] = found
                while len(self._open) > OPEN:
                    self._open.popitem(last=False)
        return found

    def _reasons(self, history: Histories, best: Slate, candidates: Candidates) -> list[Reason]:
        n = len(self.known.item_ids)
        rules = [told(best.trace, int(item)) for item in best.items]
        old = reasons(self.model, history, best.items[best.items < n], candidates, self.run)
        known, raw, found = iter(old), self.ids.raw(best.items), []
        for item, name, steps in zip(best.items, raw, rules):
            if item < n:
                found.append(dataclasses.replace(next(known), rules=steps))
            else:
                found.append(self.new.reason(name, self.new.source, steps))
        return found

    def _shown(self, item: Any, shown: np.ndarray) -> bool:
        """Whether an item may be shown; one that is not known is left for the error that names it."""
        code = int(self.ids.encode([item])[0])
        return code < 0 or bool(shown[code])

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
            codes = self.stand_ins(given)
            codes = codes[codes >= 0]
            history = Histories.of(np.array([0, len(codes)]), codes)
        now = time.time_ns() // 1000 if request.now is None else request.now
        if self.model.has_times:
            history = dataclasses.replace(history, now=np.array([now], dtype=np.int64))
        return history, also[also >= 0]

    def _needs(self, request: Request, history: Histories) -> Requests:
        """The request in item codes."""
        ids = self.ids
        user: dict[str, Any] = {}
        number = int(self.known.user_ids.encode([request.user])[0]) if request.user is not None else -1
        if self.users is not None and number >= 0:
            user = self.users.row(number, named=True)
        user |= request.user_columns
        unknown = [str(item) for item in request.pins.values() if ids.encode([item])[0] < 0]
        if unknown:
            raise ConfigError(f"item {unknown[0]!r} is pinned and not known", remedy="pin items of the catalogue")
        return Requests.one(
            now=time.time_ns() // 1000 if request.now is None else request.now,
            user_number=number,
            visit=request.visit,
            history=history,
            shown={code: n for code, n in zip(ids.encode(list(request.shown)).tolist(), request.shown.values())
                   if code >= 0},
            user=user,
            context=request.context,
            include=None if request.include is None else known_of(ids, request.include).tolist(),
            exclude=known_of(ids, request.exclude).tolist(),
            pins={slot: int(ids.encode([item])[0]) for slot, item in request.pins.items()},
        )  # fmt: skip

    def _filled(
        self, items: np.ndarray, scores: np.ndarray, allowed: np.ndarray, gone: np.ndarray, more: int
    ) -> Slates:
        """The candidates best first, and after them so many popular items that may be shown."""
        offsets = np.array([0, len(items)])
        if more:
            free = allowed.copy()
            free[gone] = False
            free[items] = False
            rows = np.flatnonzero(free)
            if len(rows) > more:
                rows = rows[np.argpartition(-self.priority[rows], more - 1)[:more]]
            rows = rows[np.argsort(-self.priority[rows])]
            low = float(scores.min()) if len(scores) else 0.0
            fall = np.arange(1, len(rows) + 1, dtype=np.float32) / (len(rows) + 1)
            items = np.concatenate([items, rows.astype(np.int32)])
            scores = np.concatenate([scores, np.float32(low) - fall * max(1.0, abs(low))])
            offsets = np.array([0, len(items)])
        return Slates.best_first(offsets, items, scores)

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
            found = self._categories(needed=True) if found is None else self.new.extended(found)
            self._likeness["alike"] = diversity.UnitRows.of(found) if sparse.issparse(found) else found
        return self._likeness["alike"]

    def _categories(self, needed: bool) -> sparse.csr_matrix | None:
        if "categories" not in self._likeness:
            names = {name.lower(): name for name in self.items.columns}
            column = self.by or next((names[name] for name in CATEGORIES if name in names), "")
            if not column:
                raise ConfigError(
                    "there is nothing to spread lists over",
                    remedy="name a column of categories of the items (by=), or diversity='none'",
                )
            table = diversity.category_table(self.filters.column(column), len(self.items))
            self._likeness["categories"] = table
        return self._likeness["categories"]

    def _removed(
        self, history: Histories, needs: Requests, book: Rulebook, seen: bool, k: int, index: AsOf | None
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
