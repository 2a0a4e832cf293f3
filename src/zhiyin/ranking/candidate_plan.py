"""CandidatePlan: candidates of requests and their scores, in compiled code over plain arrays.

The union of the lists of the sources, the features of the candidates and their scores are two calls of compiled
functions, for one request as for a chunk of many. What is not compiled is computed beside: the scores of a ranker that
is no forest, and the columns of users and contexts.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from zhiyin.core.parallel import for_chunks, read_only
from zhiyin.core.params import list_length
from zhiyin.core.run import Run
from zhiyin.core.workspace import float32_zeros
from zhiyin.data.histories import Histories
from zhiyin.models import search_plan
from zhiyin.models.masked_search import Mask
from zhiyin.models.recommender import Recommender, VectorRecommender
from zhiyin.ranking import blend_kernels
from zhiyin.ranking.asof import AsOf
from zhiyin.ranking.examples import Candidates, Examples
from zhiyin.ranking.feature_builder import FeatureBuilder, FeatureLayout, RequestColumns
from zhiyin.ranking.feature_writing import NO_FOREST, NO_LAYOUT, request_arrays, requests_per_chunk
from zhiyin.ranking.plan_kernels import retrieve_request, score_requests
from zhiyin.ranking.ranker import Ranker
from zhiyin.ranking.retrieval import retrieve, silent_sources
from zhiyin.ranking.trees import Trees


@dataclasses.dataclass(frozen=True, eq=False)
class ScoredCandidates:
    """Scores of the candidates of requests.

    Parameters
    ----------
    scores: float32[m], comparable within a request.
    examples_of: gives what a learned ranker read of the candidates; None where none did, or it was not kept.
    """

    scores: np.ndarray
    examples_of: functools.partial[Examples] | None = None

    @functools.cached_property
    def examples(self) -> Examples | None:
        """What the ranker read; None where none did, or it was not kept."""
        return None if self.examples_of is None else self.examples_of()


class _Search:
    """The compiled searches of all sources.

    Attributes
    ----------
    words: of their tables, one after another. kinds: int8[s], of `search_plan`.
    is_whole: whether all of them need nothing but the history.
    reads_user_columns: whether one of them knows users by their columns.
    """

    def __init__(self, sources: Mapping[str, Recommender], run: Run) -> None:
        self.names, self.models = tuple(sources), tuple(sources.values())
        self._plans = [model.compiled_search(run) for model in self.models]  # they hold the arrays
        self.words = np.concatenate([plan.words for plan in self._plans])
        self.kinds = np.array([plan.kind for plan in self._plans], dtype=np.int8)
        self.is_whole = not np.isin(self.kinds, (search_plan.LIST, search_plan.VECTORS)).any()
        self.reads_user_columns = any(model.reads_user_columns for model in self.models)
        self.no_queries, self.no_query = np.zeros(len(self.models) + 1, np.int64), np.zeros(0, np.float32)
        self.no_items = np.zeros(0, np.int32)


class CandidatePlan:
    """See the module. Any number of threads may use one.

    Parameters
    ----------
    sources: fitted recommenders by name.
    weights: float[2, 2 s], of the weighted blend, for strangers and for users with a history.
    ranker, builder: a fitted ranker, and what makes its features; None where there is none.

    Raises DataError where the builder does not make the features that the ranker was trained on.
    """

    def __init__(
        self,
        sources: Mapping[str, Recommender],
        weights: np.ndarray,
        ranker: Ranker | None,
        builder: FeatureBuilder | None,
    ) -> None:
        self.sources, self.ranker, self.builder = dict(sources), ranker, builder
        self.weights = np.asarray(weights, dtype=np.float32)
        names = ("rrf", "weighted", "ranker", *sources)
        self.method_codes = {name: code for code, name in enumerate(names)}
        self._searches: dict[bool | None, _Search] = {}
        self.layout: FeatureLayout | None = None
        self._forest = NO_FOREST.words
        if builder is not None and type(ranker) is Trees:
            ranker.check(builder.no_examples)
            self.layout = builder.layout_of_trees(ranker.bag_codes_)
            self._forest = ranker.forest_.table.words

    # -- candidates -------------------------------------------------------------------------------------------------

    def retrieve(
        self,
        histories: Histories,
        k: int,
        run: Run,
        *,
        exclude: Histories | None = None,
        allowed: np.ndarray | Mask | None = None,
    ) -> Candidates:
        """As `retrieval.retrieve`; for one history the sources are searched and united in one compiled call."""
        if len(histories) != 1 or not self.sources:
            return retrieve(self.sources, histories, k, exclude=exclude, allowed=allowed, run=run)
        search = self._search(run)
        context = search.models[0]._context()
        mask, k = context.mask(allowed), min(list_length(k), len(context.item_ids))
        n, width = len(search.models), k * len(search.models)
        begins = np.arange(0, width + 1, k) if k else np.zeros(n + 1, np.int64)
        list_items, list_scores = np.empty((1, width), dtype=np.int32), np.empty((1, width), dtype=np.float32)
        query_begins, queries, kinds = search.no_queries, search.no_query, search.kinds
        silent = silent_sources(self.sources, histories) if search.reads_user_columns else {}
        if silent:
            kinds = kinds.copy()
            for number, name in enumerate(search.names):
                if name in silent:
                    kinds[number] = search_plan.LIST
                    list_items[:, k * number : k * (number + 1)] = -1
        if not search.is_whole:
            vectors = [search.no_query] * n
            for number, model in enumerate(search.models):
                line = slice(k * number, k * (number + 1))
                if search.names[number] in silent:
                    continue
                if search.kinds[number] == search_plan.LIST:
                    list_items[:, line], list_scores[:, line] = model.rank(
                        histories, k, exclude=exclude, allowed=allowed, run=run
                    )
                elif search.kinds[number] == search_plan.VECTORS and isinstance(model, VectorRecommender):
                    vectors[number] = model.queries(histories, run)[0]
            query_begins = np.cumsum([0, *map(len, vectors)])
            queries = np.concatenate(vectors)
        offsets = np.array([0, width], dtype=np.int64)
        items = np.empty(width, dtype=np.int32)
        scores, ranks = np.empty((width, n), dtype=np.float32), np.empty((width, n), dtype=np.int32)
        excluded = search.no_items if exclude is None else exclude.items
        count = retrieve_request(
            search.words, mask.words, kinds, begins, read_only(histories.items), read_only(histories.weights),
            query_begins, queries, read_only(excluded), list_items, list_scores, offsets, items, scores, ranks,
        )  # fmt: skip
        offsets[1] = count
        return Candidates(offsets, items[:count], search.names, scores[:count], ranks[:count])

    def _search(self, run: Run) -> _Search:
        """The compiled searches of the sources, for a run that asks for exact or approximate ones."""
        held = self._searches.get(run.approximate)
        if held is None:
            held = self._searches[run.approximate] = _Search(self.sources, run)
        return held

    # -- scores -----------------------------------------------------------------------------------------------------

    def score(
        self,
        histories: Histories,
        candidates: Candidates,
        methods: np.ndarray,
        run: Run,
        index: AsOf | None = None,
    ) -> ScoredCandidates:
        """Scores of candidates by the method of each request, int8[n], codes of `method_codes`.

        index: what the ranker knows of items; None: what it has learned. The features of one request are kept.
        """
        out = np.empty(len(candidates.items), dtype=np.float32)
        ranked = methods == blend_kernels.RANKER
        layout, builder, n = self.layout, self.builder, len(histories)
        numbers, codes, table = np.zeros((n, 0), np.float32), np.zeros((n, 0), np.int32), np.empty((0, 0), np.float32)
        words, moments, n_sums, columns = (NO_LAYOUT.words,) * 4, histories.now, 0, None
        is_ranked = bool(ranked.any())
        if is_ranked and (layout is None or builder is None):
            return self._scored_beside(histories, candidates, ranked, methods, run, index)
        if is_ranked and layout is not None and builder is not None:
            index = builder.index if index is None else index
            moments = builder.moments(histories, index)
            columns = builder.request_columns(histories, moments, None, layout.bag_codes)
            numbers, codes, words = columns.numbers, columns.codes, (layout.table.words, *index.words)
            table, n_sums = np.empty((layout.n_rows, len(out) if n == 1 else 0), dtype=np.float32), index.n_sums
        arrays = request_arrays(histories, moments, candidates, numbers, codes)
        weights = read_only(self.weights[(histories.positives > 0).astype(np.int64)])

        def work(start: int, stop: int) -> None:
            score_requests(
                self._forest, *words, start, stop, *arrays, methods, weights, float32_zeros(n_sums), table, codes[:0],
                out,
            )  # fmt: skip

        for_chunks(work, n, run, requests_per_chunk(n, run))
        if columns is not None:
            self._finish(out, ranked, candidates)
        if columns is None or n > 1:
            return ScoredCandidates(out)
        return ScoredCandidates(out, functools.partial(self._examples, histories, candidates, table, columns))

    def _finish(self, out: np.ndarray, ranked: np.ndarray, candidates: Candidates) -> None:
        """Make the raw scores of the ranker its public ones."""
        assert self.ranker is not None
        if ranked.all():
            out[:] = self.ranker.finished(out, 0)
        else:
            rows = ranked[candidates.owners]
            out[rows] = self.ranker.finished(out[rows], 0)

    def _scored_beside(
        self,
        histories: Histories,
        candidates: Candidates,
        ranked: np.ndarray,
        methods: np.ndarray,
        run: Run,
        index: AsOf | None,
    ) -> ScoredCandidates:
        """Scores by a ranker that is no forest, from examples; those of the other requests by their methods."""
        assert self.ranker is not None
        assert self.builder is not None
        if ranked.all():
            examples = self.builder.build(histories, candidates, None, run, index)
            return ScoredCandidates(self.ranker.score(examples, run), functools.partial(_itself, examples))
        out = self.score(histories, candidates, np.where(ranked, np.int8(blend_kernels.FUSED), methods), run).scores
        rows = np.flatnonzero(ranked)
        examples = self.builder.build(histories.take(rows), candidates.take(rows), None, run, index)
        out[ranked[candidates.owners]] = self.ranker.score(examples, run)
        return ScoredCandidates(out)

    def _examples(
        self, histories: Histories, candidates: Candidates, table: np.ndarray, columns: RequestColumns
    ) -> Examples:
        """The rows that the trees read, as examples."""
        assert self.builder is not None
        assert self.layout is not None
        n_numbers, n_codes = self.layout.n_numbers, self.layout.n_codes
        codes = table[n_numbers : n_numbers + n_codes].T.astype(np.int32)
        return self.builder.examples(histories, candidates, table[:n_numbers].T, codes, columns)


def _itself(examples: Examples) -> Examples:
    return examples
