"""Candidates: what several recommenders name for the same requests, joined."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from zhiyin.core.run import Run
from zhiyin.data.histories import Histories
from zhiyin.models.base import Recommender
from zhiyin.ranking.examples import Candidates


def retrieve(
    sources: Mapping[str, Recommender],
    histories: Histories,
    k: int,
    *,
    exclude: Histories | None = None,
    allowed: np.ndarray | None = None,
    run: Run | None = None,
) -> Candidates:
    """The union of the k best items of each source for each history; scores and ranks of each source kept.

    Within a request candidates stand by item code.
    """
    run = run or Run()
    n = len(histories)
    lists = [source.rank(histories, k, exclude=exclude, allowed=allowed, run=run) for source in sources.values()]
    keys, at, rank, score = [], [], [], []
    for number, (items, scores) in enumerate(lists):
        row, place = np.nonzero(items >= 0)
        keys.append(row.astype(np.int64) << 32 | items[row, place])
        at.append(np.full(len(row), number))
        rank.append(place)
        score.append(scores[row, place])
    every = np.concatenate(keys)
    named, where = np.unique(every, return_inverse=True)
    ranks = np.full((len(named), len(lists)), -1, dtype=np.int32)
    values = np.full((len(named), len(lists)), np.nan, dtype=np.float32)
    ranks[where, np.concatenate(at)] = np.concatenate(rank)
    values[where, np.concatenate(at)] = np.concatenate(score)
    counts = np.bincount(named >> 32, minlength=n)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Candidates(offsets, (named & 0xFFFFFFFF).astype(np.int32), tuple(sources), values, ranks)
