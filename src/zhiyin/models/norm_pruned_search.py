"""Exact search for the k items of largest inner product, for many queries at once, pruned by vector length (LEMP)."""

from __future__ import annotations

import numpy as np

from zhiyin.core.bounded_heap import push, sort_best_first
from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.run import Run

# Size of the matrix products: 16 MiB of scores, which stay in cache until they are read.
ITEMS_PER_BLOCK, QUERIES_PER_BLOCK = 2_048, 2_048


def norm_pruned_top_k(
    vectors: np.ndarray,
    scale: np.ndarray | None,
    queries: np.ndarray,
    rows: np.ndarray,
    priority: np.ndarray,
    offsets: np.ndarray,
    codes: np.ndarray,
    items: np.ndarray,
    scores: np.ndarray,
    run: Run,
) -> None:
    """As `masked_search.top_k_masked` among `rows`; writes into `items` and `scores`.

    An inner product is at most the product of the two lengths. Items are visited from the longest vector to the
    shortest; a query is finished once its k-th best score exceeds the upper bound of the next block.

    Parameters
    ----------
    vectors: float32[n, d].
    scale: float32[n], factor of the inner products of each item; None for none.
    queries: float32[b, d].
    rows: int32, items to search.
    priority: int32[n], see `core.bounded_heap`.
    offsets: int64[b + 1], where the excluded codes of each query begin.
    codes: excluded items, sorted within each query.
    items: int32[b, k], filled with -1.
    scores: float32[b, k], filled with minus infinity.
    """
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[rows]
    if scale is not None:
        lengths = lengths * scale[rows]
    order = np.argsort(-lengths, kind="stable")  # NaN comes last
    rows, lengths = rows[order], lengths[order]
    slack = 1 + 1e-5 * (8 + vectors.shape[1] / 8)  # for the rounding of 32-bit sums
    buffer = np.empty(min(QUERIES_PER_BLOCK, len(queries)) * ITEMS_PER_BLOCK, dtype=np.float32)
    for start in range(0, len(queries), QUERIES_PER_BLOCK):
        open_queries = np.arange(start, min(start + QUERIES_PER_BLOCK, len(queries)))
        query_block = queries[open_queries]
        reach = np.sqrt(np.einsum("ij,ij->i", query_block, query_block)) * slack
        bars = np.full(len(open_queries), -np.inf, dtype=np.float32)
        size = np.zeros(len(open_queries), dtype=np.int64)
        for first in range(0, len(rows), ITEMS_PER_BLOCK):
            item_block = rows[first : first + ITEMS_PER_BLOCK]
            still_open = ~(reach * lengths[first] < bars)  # NaN stays open
            if not still_open.all():
                open_queries, query_block, reach, bars, size = (
                    array[still_open] for array in (open_queries, query_block, reach, bars, size)
                )
                if not len(open_queries):
                    break
            block_scores = np.matmul(
                query_block,
                vectors[item_block].T,
                out=buffer[: len(open_queries) * len(item_block)].reshape(len(open_queries), len(item_block)),
            )
            if scale is not None:
                block_scores *= scale[item_block]
            _merge_all(block_scores, open_queries, item_block, priority, offsets, codes, items, scores, size, bars, run)
    for_chunks(lambda a, b: _order(a, b, priority, items, scores), len(queries), run)


def _merge_all(block_scores, open_queries, item_block, priority, offsets, codes, items, scores, size, bars, run):
    def work(start: int, stop: int) -> None:
        _merge(block_scores, open_queries, item_block, priority, offsets, codes, items, scores, size, bars, start, stop)

    for_chunks(work, len(open_queries), run, chunk=max(16, -(-len(open_queries) // (4 * run.n_threads))))


@kernel
def _merge(block_scores, open_queries, item_block, priority, offsets, codes, items, scores, size, bars, start, stop):
    """Push a block of scores onto the heaps of the open queries."""
    k = items.shape[1]
    for row in range(start, stop):
        q = open_queries[row]
        line, heap_item, heap_score = block_scores[row], items[q], scores[q]
        n, bar, begin, end = size[row], bars[row], offsets[q], offsets[q + 1]
        for at in range(len(item_block)):
            score = line[at]
            if not score >= bar or score == -np.inf:
                continue
            item = item_block[at]
            out = begin + np.searchsorted(codes[begin:end], item)
            if out < end and codes[out] == item:
                continue
            n = push(score, item, n, heap_score, heap_item, priority)
            if n == k:
                bar = heap_score[0]
        size[row], bars[row] = n, bar


@kernel
def _order(start, stop, priority, items, scores):
    for q in range(start, stop):
        size = 0
        while size < items.shape[1] and items[q, size] >= 0:
            size += 1
        sort_best_first(scores[q], items[q], size, priority)
