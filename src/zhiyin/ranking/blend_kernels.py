"""Kernels of rank fusion: scores of one request's candidates by the scores and ranks of their sources.

Common arguments:

- scores: float32[m, s], NaN where a source did not name the item. ranks: int32[m, s], from 0; -1 likewise.
- first, last: the candidates of the request, [first, last).
- out: float32[m].
"""

from __future__ import annotations

import numpy as np

from zhiyin.core.parallel import compiled, kernel

# The constant of reciprocal rank fusion (Cormack, Clarke & Büttcher, SIGIR 2009).
RRF = 60.0

# What orders the candidates of a request: reciprocal ranks, weighted signals, a learned ranker, or a source, by number.
FUSED, WEIGHTED, RANKER, FIRST_SOURCE = range(4)


@kernel
def reciprocal_rank(rank):
    """The term of a rank (from 0) in reciprocal rank fusion; of one rank or of an array."""
    return 1.0 / (RRF + 1 + rank)


# Sums of float32 in the order of the sources, so that equal candidates stay equal: not `kernel`.
@compiled
def fused_rank(ranks, at):
    """float32: the sum of the reciprocal ranks of a candidate."""
    total = np.float32(0)
    for source in range(ranks.shape[1]):
        if ranks[at, source] >= 0:
            total += np.float32(reciprocal_rank(ranks[at, source]))
    return total


@compiled
def fuse_ranks(ranks, first, last, out):
    """Scores by reciprocal rank fusion."""
    for at in range(first, last):
        out[at] = fused_rank(ranks, at)


@compiled
def order_by_source(ranks, source, first, last, out):
    """Scores in the order of one source, ties included; what it did not name comes last, by reciprocal ranks."""
    best_of_others = 1 + ranks.shape[1] / (RRF + 1)  # fused ranks are below it
    for at in range(first, last):
        rank = ranks[at, source]
        out[at] = best_of_others + 1 / (1 + rank) if rank >= 0 else fused_rank(ranks, at)


@compiled
def score_range(scores, source, first, last):
    """float32: the lowest and the highest score of a source; infinite where it named nothing."""
    low, high = np.float32(np.inf), np.float32(-np.inf)
    for at in range(first, last):
        score = scores[at, source]
        if not np.isnan(score):
            low, high = min(low, score), max(high, score)
    return low, high


@compiled
def score_share(score, low, high):
    """float32: a source's score between 0 (its worst in the request, and what it did not name) and 1."""
    if np.isnan(score):
        return np.float32(0)
    # The worst named item keeps a little more than one that was not named at all.
    share = (score - low + np.float32(1e-6)) / (high - low + np.float32(2e-6))
    return share if np.isfinite(share) else np.float32(0)


@compiled
def write_signals(offsets, scores, ranks, start, stop, out):
    """Fill float32[m, 2 s]: the shares of the scores, and the reciprocal ranks brought to at most 1."""
    n = scores.shape[1]
    for row in range(start, stop):
        first, last = offsets[row], offsets[row + 1]
        for source in range(n):
            low, high = score_range(scores, source, first, last)
            for at in range(first, last):
                rank = ranks[at, source]
                out[at, source] = score_share(scores[at, source], low, high)
                out[at, n + source] = np.float32(reciprocal_rank(rank)) * np.float32(RRF + 1) if rank >= 0 else 0


@compiled
def weigh_signals(scores, ranks, weights, first, last, out):
    """Scores by the signals of `write_signals` times weights, float32[2 s]."""
    n = scores.shape[1]
    out[first:last] = 0
    for source in range(n):
        low, high = score_range(scores, source, first, last)
        for at in range(first, last):
            out[at] += score_share(scores[at, source], low, high) * weights[source]
    for source in range(n):
        for at in range(first, last):
            rank = ranks[at, source]
            if rank >= 0:
                out[at] += np.float32(reciprocal_rank(rank)) * np.float32(RRF + 1) * weights[n + source]


@compiled
def blend(scores, ranks, method, weights, first, last, out):
    """Scores of one request by any method but RANKER."""
    if method == FUSED:
        fuse_ranks(ranks, first, last, out)
    elif method == WEIGHTED:
        weigh_signals(scores, ranks, weights, first, last, out)
    else:
        order_by_source(ranks, method - FIRST_SOURCE, first, last, out)


@compiled
def blend_requests(offsets, scores, ranks, methods, weights, start, stop, out):
    """Scores of the requests [start, stop) by the methods int8[n], with weights float32[n, 2 s]."""
    for row in range(start, stop):
        blend(scores, ranks, methods[row], weights[row], offsets[row], offsets[row + 1], out)
