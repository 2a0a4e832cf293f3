"""Kernels of `candidate_plan`: from the lists of the sources to scored candidates, a request after another."""

from __future__ import annotations

import numpy as np

from zhiyin.core.array_table import length_at
from zhiyin.core.parallel import kernel
from zhiyin.models.search_plan import LIST, SOURCE_SLOTS, search_source
from zhiyin.ranking.blend_kernels import RANKER, blend
from zhiyin.ranking.feature_kernels import write_features
from zhiyin.ranking.lightgbm_inference import LEAF_STARTS, ROWS_PER_BLOCK, add_trees
from zhiyin.ranking.retrieval import merge_lists


@kernel
def retrieve_request(
    words, eligible, kinds, begins, events, weights, query_begins, queries, excluded, list_items, list_scores, offsets,
    items, scores, ranks,
):  # fmt: skip
    """Candidates of one request; returns their number.

    Parameters
    ----------
    words: the words of the searches of all sources, one after another. eligible: `Mask.words`.
    kinds: int8[s], of `search_plan`; the lists of sources of kind LIST are in list_items and list_scores already.
    begins: int64[s + 1], where the list of each source begins.
    events, weights: the items of the history, and their weights.
    query_begins, queries: int64[s + 1] into float32, the query of each source of kind VECTORS.
    excluded: int32, codes that may not be returned.
    list_items, list_scores, offsets, items, scores, ranks: see `merge_lists`.
    """
    in_order = np.sort(excluded)
    for source in range(len(kinds)):
        if kinds[source] != LIST:
            search_source(
                words, source * SOURCE_SLOTS, eligible, events, weights,
                queries[query_begins[source] : query_begins[source + 1]], in_order,
                list_items[0][begins[source] : begins[source + 1]], list_scores[0][begins[source] : begins[source + 1]],
            )  # fmt: skip
    return merge_lists(list_items, list_scores, begins, 0, 1, offsets, items, scores, ranks)


@kernel
def score_requests(
    forest, layout, index, base, recent, start, stop, offsets, events, weights, times, values, moments, users,
    item_offsets, items, scores, ranks, numbers, codes, methods, blend_weights, sums, table, table_codes, out,
):  # fmt: skip
    """Scores of the candidates of the requests [start, stop), by the method of each.

    Parameters
    ----------
    forest: words of `Forest.table`; without trees the scores of a learned ranker are left as they are.
    layout, index, base, recent: see `feature_kernels.write_features`, as numbers, codes and sums.
    offsets, events, weights, times, values, moments, users: histories, as of the moments int64[n].
    item_offsets, items, scores, ranks: candidates.
    methods: int8[n], of `blend_kernels`. blend_weights: float32[n, 2 s], of the weighted blend.
    table: float32[rows, m], where the features of all candidates are kept; with no columns they are not.
    table_codes: int32[m, codes], where the codes are kept; with no rows they are not.
    out: float32[m].
    """
    histories, candidates = (offsets, events, weights, times, values), (item_offsets, items, scores, ranks)
    has_trees, keeps = length_at(forest, LEAF_STARTS) > 1, table.shape[1] > 0
    largest = 0
    for row in range(start, stop):
        if methods[row] == RANKER:
            largest = max(largest, item_offsets[row + 1] - item_offsets[row])
    features = table if keeps else np.empty((table.shape[0], largest), dtype=np.float32)
    total = np.empty(largest, dtype=np.float64)
    for row in range(start, stop):
        first, last = item_offsets[row], item_offsets[row + 1]
        if methods[row] != RANKER:
            blend(scores, ranks, methods[row], blend_weights[row], first, last, out)
        elif first < last:
            to, n = first if keeps else 0, last - first
            write_features(
                layout, index, base, recent, histories, moments[row], users[row], row, candidates, numbers, codes,
                sums, features, to, table_codes,
            )  # fmt: skip
            if has_trees:
                total[:n] = 0.0
                for block in range(0, n, ROWS_PER_BLOCK):
                    add_trees(forest, features, to + block, total[block : min(n, block + ROWS_PER_BLOCK)])
                for at in range(n):
                    out[first + at] = total[at]
