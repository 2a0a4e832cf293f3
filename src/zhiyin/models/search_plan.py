"""Retrieval by one model in compiled code: what a model has learned, at fixed slots, and the kernel that reads it.

A model places its arrays by `put_source`, once; `search_source` then gives the k best items for one history, what
`Recommender.rank` gives: without Python, and without an array of length n_items. A model of none of the kinds below is
of kind LIST: its lists come from `rank`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from zhiyin.core.array_table import (
    ArrayTable,
    bool_at,
    float32_at,
    float32_rows_at,
    float_at,
    int8_rows_at,
    int32_at,
    int64_at,
    int_at,
    length_at,
)
from zhiyin.core.isolated_call import isolated
from zhiyin.core.parallel import for_chunks, kernel, read_only
from zhiyin.core.run import Run
from zhiyin.data.histories import HOW, Histories, entries_of
from zhiyin.models.ann_index import MAX_EXHAUSTIVE_ITEMS, Index, index_is_faster, wanted_items
from zhiyin.models.compact_search import NO_LIMIT, search_compact, search_rows
from zhiyin.models.item_to_item import recent_entries
from zhiyin.models.list_search import items_of_lists
from zhiyin.models.masked_search import (
    MASK_BITS,
    MASK_COUNT,
    MASK_N,
    MASK_ROWS,
    MASK_SPARSE,
    MIN_COMPACT_ITEMS,
    NO_SCALES,
    Compact,
    Mask,
)
from zhiyin.models.normal_equations import solve_blocks
from zhiyin.models.table_search import search_ordered, search_table

if TYPE_CHECKING:
    from zhiyin.models.recommender import Recommender
    from zhiyin.models.training_context import TrainingContext

# Kinds of search. LIST: none in compiled code. POPULAR: the same scores for everyone. TABLE: the history, as ones,
# times a sparse table. RECENT_TABLE: its newest events times a sparse table. VECTORS: a query, handed in, times item
# vectors. FOLDED_VECTORS: as VECTORS, the query computed from the history inside.
LIST, POPULAR, TABLE, RECENT_TABLE, VECTORS, FOLDED_VECTORS = range(6)
# How a history is folded in: by steps of conjugate gradient, by the normal equations, as a sum of item vectors.
FOLD_EXACTLY, FOLD_SUM = range(2)
# Slots of a source, counted from its base: of every kind, of POPULAR, tables, vectors, folding in, and of an index.
SOURCE_SLOTS = 32
_KIND, _SCORES_EMPTY, _PRIORITY, _POPULAR, _POPULARITY = range(5)
_ORDER, _SCORES = range(5, 7)
_INDPTR, _INDICES, _DATA, _POWERS = range(5, 9)
_VECTORS, _CODES, _STEPS, _BY_LENGTH, _LENGTHS, _PLACES = range(5, 11)
_FOLD, _ENTRIES, _CONFIDENCE, _MATRIX, _REG, _REG_POWER = range(11, 17)
_LISTS, _MEMBERS, _MEANS, _SPREADS, _ABOVE, _WANTED, _FILTERED, _MAX_PLACES, _MAX_EXHAUSTIVE = range(18, 27)
# Where there is an index, it is used after so many places of the exact search: where lengths differ, that ends earlier.
MAX_PLACES = 131_072


# A history is folded in to the same numbers here and in batches.
_solve_blocks = isolated(solve_blocks)


def put_source(table: ArrayTable, base: int, model: Recommender, run: Run) -> int:
    """Place what `search_source` reads of a fitted model at the slots base .. base + SOURCE_SLOTS; returns its kind.

    The table is valid for as long as the model is not fitted anew.
    """
    return model.put_search(table, base, run)


def put_kind(table: ArrayTable, base: int, kind: int, context: TrainingContext, scores_empty: bool) -> None:
    """Place what all kinds have.

    scores_empty: whether all histories without a positive event are scored; otherwise these get the popular items,
        but for those with a query other than zeros.
    """
    table.put_int(base + _KIND, kind)
    table.put_int(base + _SCORES_EMPTY, scores_empty)
    table.put(base + _PRIORITY, context.priority, np.int32)
    table.put(base + _POPULAR, context.best_first, np.int32)
    table.put(base + _POPULARITY, context.popularity, np.float32)


def put_scores(table: ArrayTable, base: int, scores: np.ndarray, priority: np.ndarray) -> int:
    """Place finite scores of the items, the same for everyone: kind POPULAR."""
    table.put(base + _ORDER, np.lexsort((-priority, -scores)), np.int32)
    table.put(base + _SCORES, scores, np.float32)
    return POPULAR


def put_table(table: ArrayTable, base: int, rows: sparse.csr_matrix, powers: np.ndarray | None = None) -> int:
    """Place a sparse table items × items with positive entries: kind TABLE, or RECENT_TABLE.

    powers: float32[last], weights of the newest events, the newest first; None for TABLE. LIST for a table of more than
    2^31 entries.
    """
    if rows.indices.dtype != np.int32 or rows.indptr.dtype != np.int32:
        return LIST
    table.put(base + _INDPTR, rows.indptr, np.int32)
    table.put(base + _INDICES, rows.indices, np.int32)
    table.put(base + _DATA, rows.data, np.float32)
    if powers is None:
        return TABLE
    table.put(base + _POWERS, powers, np.float32)
    return RECENT_TABLE


def put_vectors(table: ArrayTable, base: int, vectors: np.ndarray, compact: Compact | None) -> int:
    """Place item vectors, float32[n, d]: kind VECTORS. compact: `Compact.of(vectors)`, where n >= MIN_COMPACT_ITEMS."""
    table.put(base + _VECTORS, vectors, np.float32)
    if compact is not None:
        table.put(base + _CODES, compact.codes, np.int8)
        table.put(base + _STEPS, compact.steps, np.float32)
        table.put(base + _BY_LENGTH, compact.order, np.int32)
        table.put(base + _LENGTHS, compact.lengths, np.float32)
        table.put(base + _PLACES, compact.places, np.int32)
    return VECTORS


def put_fold(table: ArrayTable, base: int, fold: int, entries: str, confidence: float = 1.0) -> int:
    """Place how a history is folded in: kind FOLDED_VECTORS, over vectors that were placed.

    Parameters
    ----------
    fold: FOLD_EXACTLY, with `put_least_squares`, or FOLD_SUM.
    entries: what is made of the events, see `Histories.matrix`.
    confidence: what the entries are multiplied by.
    """
    table.put_int(base + _FOLD, fold)
    table.put_int(base + _ENTRIES, HOW.index(entries))
    table.put_float(base + _CONFIDENCE, confidence)
    return FOLDED_VECTORS


def put_least_squares(table: ArrayTable, base: int, gram: np.ndarray, reg: float, reg_power: float) -> None:
    """Place the problem of `als.half_sweep`."""
    matrix = gram.astype(np.float32)
    matrix.ravel()[:: len(matrix) + 1] += np.float32(reg)
    table.put(base + _MATRIX, matrix, np.float32)
    table.put_float(base + _REG, reg)
    table.put_float(base + _REG_POWER, reg_power)


def put_index(
    table: ArrayTable, base: int, index: Index, max_places: int = MAX_PLACES, max_exhaustive: int = MAX_EXHAUSTIVE_ITEMS
) -> None:
    """Place an index of vectors that were placed with their compact form: searches of many items become approximate,
    where the exact one has not ended after `max_places`. max_exhaustive: so many items are always searched exactly."""
    table.put_int(base + _MAX_PLACES, max_places)
    table.put_int(base + _MAX_EXHAUSTIVE, max_exhaustive)
    table.put(base + _LISTS, index.offsets, np.int64)
    table.put(base + _MEMBERS, index.members, np.int32)
    table.put(base + _MEANS, index.means, np.float32)
    table.put(base + _SPREADS, index.spreads, np.float32)
    table.put_float(base + _ABOVE, index.above)
    table.put_int(base + _WANTED, index.wanted)
    table.put_int(base + _FILTERED, index.filtered)


@kernel
def search_source(words, base, eligible, items, weights, query, excluded, items_out, scores_out):
    """The k best items for one history, as `Recommender.rank` of it; not for kind LIST.

    Parameters
    ----------
    words: the words of a table, in which `put_source` has placed a model at `base`.
    eligible: `Mask.words` of the items that may be returned.
    items, weights: int32[m] and float32[m], the history's events, oldest first.
    query: float32[d], the history's vector, zeros for one that the model does not know (`VectorRecommender.queries`);
        read for kind VECTORS alone.
    excluded: int32, codes that may not be returned, sorted.
    items_out, scores_out: int32[k] and float32[k], best first; filled up with -1 and minus infinity.

    Returns the number of items found.
    """
    if len(items_out) == 0:
        return 0
    kind, priority = int_at(words, base + _KIND), int32_at(words, base + _PRIORITY)
    bits, rows = bool_at(eligible, MASK_BITS), int32_at(eligible, MASK_ROWS)
    sparse_mask = int_at(eligible, MASK_SPARSE) != 0
    popular = int32_at(words, base + _POPULAR)
    scores_empty = int_at(words, base + _SCORES_EMPTY) != 0 or (kind == VECTORS and _is_known(query))
    if not scores_empty and not _has_positive(weights):
        popularity = float32_at(words, base + _POPULARITY)
        return search_ordered(
            popular, popularity, bits, rows, sparse_mask, excluded, priority, items_out, scores_out
        )  # fmt: skip
    if kind == POPULAR:
        order, scores = int32_at(words, base + _ORDER), float32_at(words, base + _SCORES)
        return search_ordered(order, scores, bits, rows, sparse_mask, excluded, priority, items_out, scores_out)
    if kind in (TABLE, RECENT_TABLE):
        used, values = np.empty(len(items), dtype=np.int32), np.empty(len(items), dtype=np.float32)
        if kind == TABLE:
            n = entries_of(items, weights, 0, used, values)
        else:
            n = recent_entries(items, weights, float32_at(words, base + _POWERS), used, values)
        return search_table(
            used, values, n, int32_at(words, base + _INDPTR), int32_at(words, base + _INDICES),
            float32_at(words, base + _DATA), bits, rows, sparse_mask, excluded, priority, popular, items_out,
            scores_out,
        )  # fmt: skip
    vectors = float32_rows_at(words, base + _VECTORS)
    if kind == FOLDED_VECTORS:
        query = _folded(words, base, vectors, items, weights)
    return _search_vectors(words, base, vectors, query, bits, rows, sparse_mask, eligible, excluded, priority,
                           items_out, scores_out)  # fmt: skip


@kernel
def _is_known(query):
    n_other = 0
    for at in range(len(query)):
        n_other += query[at] != 0
    return n_other > 0


@kernel
def _has_positive(weights):
    n_positive = 0
    for at in range(len(weights)):
        n_positive += weights[at] > 0
    return n_positive > 0


@kernel
def _search_vectors(words, base, vectors, query, bits, rows, sparse_mask, eligible, excluded, priority, items_out,
                    scores_out):  # fmt: skip
    """`masked_search.top_k_masked` of one query; approximate, where there is an index and it is faster."""
    count = int_at(eligible, MASK_COUNT)
    all_pass = count == int_at(eligible, MASK_N)
    wanted, limit = 0, np.int64(NO_LIMIT)
    if length_at(words, base + _LISTS):
        wanted = wanted_items(int_at(words, base + (_WANTED if all_pass else _FILTERED)), len(items_out))
        if index_is_faster(count, wanted, int_at(words, base + _MAX_EXHAUSTIVE)):
            limit = np.int64(0 if sparse_mask else int_at(words, base + _MAX_PLACES))
    if limit == NO_LIMIT and (count < MIN_COMPACT_ITEMS or length_at(words, base + _CODES) == 0):
        return search_rows(vectors, NO_SCALES, query, rows, len(rows), excluded, priority, items_out, scores_out)
    codes, steps = int8_rows_at(words, base + _CODES), float32_at(words, base + _STEPS)
    order, lengths = int32_at(words, base + _BY_LENGTH), float32_at(words, base + _LENGTHS)
    places = int32_at(words, base + _PLACES)
    if limit > 0:
        n = search_compact(
            codes, steps, order, lengths, vectors, NO_SCALES, query, bits, sparse_mask or all_pass, rows, places,
            not sparse_mask, limit, excluded, priority, items_out, scores_out,
        )  # fmt: skip
        if n >= 0:
            return n
    near = items_of_lists(
        query, int64_at(words, base + _LISTS), int32_at(words, base + _MEMBERS), float32_rows_at(words, base + _MEANS),
        float32_at(words, base + _SPREADS), float_at(words, base + _ABOVE), bits, all_pass, wanted + len(excluded),
    )  # fmt: skip
    return search_compact(
        codes, steps, order, lengths, vectors, NO_SCALES, query, bits, True, near, places, False, NO_LIMIT, excluded,
        priority, items_out, scores_out,
    )  # fmt: skip


@kernel
def _folded(words, base, vectors, items, weights):
    """float32[d]: the vector of a history."""
    columns, data = np.empty(len(items), dtype=np.int32), np.empty(len(items), dtype=np.float32)
    n = entries_of(items, weights, int_at(words, base + _ENTRIES), columns, data)
    confidence = np.float32(float_at(words, base + _CONFIDENCE))
    for at in range(n):
        data[at] *= confidence
    x, fold = np.zeros((1, vectors.shape[1]), dtype=np.float32), int_at(words, base + _FOLD)
    if fold == FOLD_SUM:
        for at in range(n):
            for j in range(vectors.shape[1]):
                x[0, j] += data[at] * vectors[columns[at], j]
        return x[0]
    indptr = np.array([0, n], dtype=np.int32)
    matrix, power = float32_rows_at(words, base + _MATRIX), float_at(words, base + _REG_POWER)
    ridge = np.empty(1 if power != 0 else 0, dtype=np.float32)
    if power != 0:
        ridge[0] = float_at(words, base + _REG) * (max(n, 1) ** power - 1)
    _solve_blocks((indptr, columns, data, x, vectors, matrix, ridge, x.shape[1], 0, 1))
    return x[0]


@kernel
def _search_histories(words, eligible, offsets, items, weights, queries, excluded_offsets, excluded, start, stop,
                      items_out, scores_out):  # fmt: skip
    for row in range(start, stop):
        begin, end = offsets[row], offsets[row + 1]
        search_source(
            words, 0, eligible, items[begin:end], weights[begin:end], queries[row],
            np.sort(excluded[excluded_offsets[row] : excluded_offsets[row + 1]]), items_out[row], scores_out[row],
        )  # fmt: skip


class SearchPlan:
    """One model, placed. Any number of threads may use one.

    Attributes
    ----------
    kind: LIST: the other methods may not be called.
    words: of the table, SOURCE_SLOTS slots; valid for as long as the plan is held.
    """

    def __init__(self, model: Recommender, run: Run) -> None:
        self._table = ArrayTable(SOURCE_SLOTS)
        self.kind = put_source(self._table, 0, model, run)
        self.words = self._table.words
        self._learned = {name: value for name, value in vars(model).items() if name.endswith("_")}

    def is_of(self, model: Recommender) -> bool:
        """Whether the model has learned nothing else since."""
        state = vars(model)
        return all(state.get(name) is value for name, value in self._learned.items())

    def search(
        self,
        histories: Histories,
        k: int,
        excluded: tuple[np.ndarray, np.ndarray],
        mask: Mask,
        run: Run,
        queries: np.ndarray | None = None,
        label: str = "",
    ) -> tuple[np.ndarray, np.ndarray]:
        """int32[n, k] and float32[n, k], as `Recommender.rank`. queries: float32[n, d], of kind VECTORS."""
        n = len(histories)
        items, scores = np.empty((n, k), dtype=np.int32), np.empty((n, k), dtype=np.float32)
        queries = np.empty((n, 0), np.float32) if queries is None else queries
        events = read_only(histories.items), read_only(histories.weights)
        offsets, vectors, words = read_only(histories.offsets), read_only(queries), mask.words
        excluded_offsets, codes = (read_only(array) for array in excluded)

        def work(start: int, stop: int) -> None:
            _search_histories(
                self._table.words, words, offsets, *events, vectors, excluded_offsets, codes, start, stop, items, scores
            )

        for_chunks(work, n, run, label=label)
        return items, scores
