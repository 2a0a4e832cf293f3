"""Lists of a batch of requests: retrieve, rank, fill up, apply the rules."""

from __future__ import annotations

import dataclasses
import functools
import time

import numpy as np

from zhiyin.core.run import Run
from zhiyin.core.work_limits import check
from zhiyin.data.histories import Histories
from zhiyin.pipeline.choosing_stage import ListChooser
from zhiyin.pipeline.cold_start import NewItems
from zhiyin.pipeline.diversifier import Diversifier
from zhiyin.pipeline.eligible_items import EligibleItems
from zhiyin.pipeline.filters import Filters
from zhiyin.pipeline.item_keys import ItemKeys
from zhiyin.pipeline.list_features import FeatureInputs
from zhiyin.pipeline.list_plan import Fill, ListInputs
from zhiyin.pipeline.list_policy import ListPolicy
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.pipeline.request import Request
from zhiyin.pipeline.rulebook import Rulebook
from zhiyin.pipeline.slate import Ragged, RequestBatch, Slates
from zhiyin.ranking.asof import AsOf
from zhiyin.ranking.candidate_plan import ScoredCandidates
from zhiyin.ranking.examples import Candidates, Examples

# Shares of a request's time budget after which the ranker and diversity are skipped; reasons are when it is used up.
RANKER_DEADLINE, DIVERSITY_DEADLINE = 0.7, 0.9


@dataclasses.dataclass(frozen=True, eq=False)
class ListBatch:
    """Requests that are answered together: they have the same mask, rulebook and length.

    Parameters
    ----------
    histories: n of them.
    requests: the other inputs of the requests.
    eligible: items that they may get.
    exclude_seen: leave out what is in the histories.
    seen: int32, codes that count as seen besides the history, of a batch of one.
    index: what the ranker knows of items; None: what it has learned.
    policy: chooses the items of the lists; None: the rules alone do.
    forced: int32, codes of a list that is given, of a batch of one.
    policy_reason: why the policy is not to decide; "": it is.
    """

    histories: Histories
    requests: RequestBatch
    rulebook: Rulebook
    eligible: EligibleItems
    k: int
    diversity_method: str
    balance: float
    exclude_seen: bool
    policy: ListPolicy | None = None
    forced: np.ndarray | None = None
    policy_reason: str = ""
    seen: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))
    index: AsOf | None = None

    def take(self, rows: np.ndarray) -> ListBatch:
        """Some of the requests, in their order."""
        return dataclasses.replace(self, histories=self.histories.take(rows), requests=self.requests.take(rows))

    def excluded(self) -> Ragged:
        """Items that no list may contain, pins aside: excluded, bought, shown too often, and seen where that counts."""
        offsets, codes = self.rulebook.excluded_items(self.requests)
        histories = self.histories
        if not self.exclude_seen:
            return Ragged(offsets, codes)
        if len(histories) == 1:
            values = np.concatenate([codes, histories.items, self.seen])
            return Ragged(np.array([0, len(values)], dtype=np.int64), values)
        owners = np.concatenate([np.repeat(np.arange(len(histories)), lengths)
                                 for lengths in (np.diff(offsets), histories.lengths)])  # fmt: skip
        order = np.argsort(owners, kind="stable")
        return Ragged(offsets + histories.offsets, np.concatenate([codes, histories.items])[order])


@dataclasses.dataclass(frozen=True, eq=False)
class BuiltLists:
    """Lists of a batch.

    Parameters
    ----------
    candidates: what they were chosen from.
    method: what ordered the candidates; "" where that depends on the user.
    scored: scores of the candidates.
    """

    slates: Slates
    candidates: Candidates
    method: str
    scored: ScoredCandidates

    @property
    def examples(self) -> Examples | None:
        """What the ranker read, of a batch of one."""
        return self.scored.examples


class StageClock:
    """Seconds of each stage, and which stages a request skips."""

    def __init__(self, request: Request) -> None:
        self.seconds: dict[str, float] = {}
        self.degraded: list[str] = []
        self.skip, self._budget = request.skip, request.budget
        self._started = self._stage_started = time.perf_counter()

    def finish_stage(self, stage: str) -> None:
        check()
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._stage_started
        self._stage_started = now

    def skips(self, stage: str, deadline: float) -> bool:
        """Whether a stage is skipped: that share of the time budget is used up, or the request asks for it."""
        late = self._budget is not None and time.perf_counter() - self._started >= deadline * self._budget
        if not late and stage not in self.skip:
            return False
        if stage not in self.degraded:
            self.degraded.append(stage)
        return True


class ListBuilder:
    """Builds lists by a model over one catalogue. Any number of threads may use one.

    Parameters
    ----------
    priority: int[n_items], a permutation; of equally good items the one with the higher number comes first.
    """

    def __init__(
        self,
        model: Pipeline,
        new_items: NewItems,
        filters: Filters,
        diversifier: Diversifier,
        priority: np.ndarray,
        keys: ItemKeys,
        run: Run,
    ) -> None:
        self.keys = keys
        self.model, self.new_items, self.filters = model, new_items, filters
        self.diversifier, self.priority, self.run = diversifier, priority, run
        self._popular_order: np.ndarray | None = None

    def with_catalogue(self, new_items: NewItems, filters: Filters, diversifier: Diversifier) -> ListBuilder:
        """The same over another catalogue with the same ids."""
        changed = ListBuilder(self.model, new_items, filters, diversifier, self.priority, self.keys, self.run)
        changed._popular_order = self._popular_order
        return changed

    def build(self, batch: ListBatch, clock: StageClock) -> BuiltLists:
        """Retrieve, rank and apply the rules; popular items fill up what is short."""
        histories, k, n_trained = batch.histories, batch.k, self.new_items.n
        excluded = batch.excluded()
        trained = excluded if not self.new_items.m else _values_below(excluded, n_trained)
        clock.finish_stage("filter")
        exclude = Histories.of(trained.offsets, trained.values)
        candidates = self.model.retrieve(histories, k, exclude=exclude, allowed=batch.eligible.trained, run=self.run)
        clock.finish_stage("retrieve")
        method = ""
        if len(histories) > 1:
            scored = self.model.scored(histories, candidates, self.run, batch.index, ranker="ranker" not in clock.skip)
        else:
            method = self.model.method_of(histories)
            if method == "ranker" and clock.skips("ranker", RANKER_DEADLINE):
                method = "rrf"
            scored = self.model.scored(histories, candidates, self.run, batch.index, method=method)
        clock.finish_stage("rank")
        if batch.diversity_method != "none" and clock.skips("variety", DIVERSITY_DEADLINE):
            batch = dataclasses.replace(batch, diversity_method="none")
        slates = Slates(
            np.asarray(candidates.offsets, np.int64),
            np.ascontiguousarray(candidates.items, np.int32),
            np.ascontiguousarray(scored.scores, np.float32),
        )
        if self.new_items.m:
            is_new = excluded.values >= n_trained
            owners, codes, new_scores = self.new_items.score_candidates(
                histories, slates.offsets, slates.items, slates.scores, batch.eligible.bits[n_trained:],
                (excluded.owners[is_new], excluded.values[is_new]),
            )  # fmt: skip
            slates = slates.with_rows(owners, codes, new_scores)
        wanted = np.maximum(0, k - np.diff(slates.offsets))
        if batch.policy is not None and clock.skips("policy", DIVERSITY_DEADLINE):
            batch = dataclasses.replace(batch, policy_reason="budget_exceeded_time")
        removed, popular_order = np.asarray(excluded.values, np.int32), self._items_by_popularity(batch.eligible)
        fill = Fill(excluded.offsets, removed, popular_order, batch.eligible.bits, wanted)
        variety = self.diversifier.variety(histories, batch.diversity_method, batch.balance)
        chooser = None if batch.policy is None else functools.partial(self._chooser, batch, candidates)
        inputs = ListInputs(slates.offsets, slates.items, slates.scores, batch.requests, k, fill, variety, chooser)
        lists = batch.rulebook.plan.make(inputs, self.run)
        clock.finish_stage("rules")
        return BuiltLists(lists, candidates, method, scored)

    def _chooser(self, batch: ListBatch, candidates: Candidates, rows: np.ndarray | None) -> ListChooser:
        """The policy of a batch, with what it needs to know of the candidates. rows: some of the requests."""
        if rows is not None:
            batch, candidates = batch.take(rows), candidates.take(rows)
        policy = batch.policy
        assert policy is not None
        features, statistics, new_displays = policy.features, policy.statistics, None
        if features is None or policy.policy is None:
            return ListChooser(policy, self.keys.of, forced=batch.forced, reason=batch.policy_reason)
        now = np.array(np.broadcast_to(np.asarray(batch.requests.now, np.int64), batch.requests.n))
        inputs = FeatureInputs(batch.histories, candidates, now)
        context, sources = self.model._context(), self.model.sources_

        def matrix(owners: np.ndarray, items: np.ndarray, places: np.ndarray, scores: np.ndarray) -> np.ndarray:
            keys = self.keys.of(items)
            return features.matrix(
                self.filters, context, sources, inputs, statistics, owners, items, keys, places, scores
            )

        if statistics is not None:

            def new_displays(items: np.ndarray) -> np.ndarray:
                return statistics.displays_of(self.keys.of(items)) == 0

        return ListChooser(policy, self.keys.of, matrix, new_displays, features.position, batch.forced,
                           batch.policy_reason)  # fmt: skip

    def _items_by_popularity(self, eligible: EligibleItems) -> np.ndarray:
        """int32: items, the most popular first. All eligible ones are among them; where they are few, no others."""
        if eligible.trained.is_sparse:
            rows = np.flatnonzero(eligible.bits)
            return rows[np.argsort(-self.priority[rows])].astype(np.int32)
        if self._popular_order is None:
            self._popular_order = np.argsort(-self.priority).astype(np.int32)
        return self._popular_order


def _values_below(items: Ragged, n: int) -> Ragged:
    """Values below n."""
    below = items.values < n
    total = np.concatenate([[0], np.cumsum(below)])
    return Ragged(total[items.offsets], items.values[below])
