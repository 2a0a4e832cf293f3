"""Features of the candidates of many requests by the compiled functions of `plan_kernels`, on all threads."""

from __future__ import annotations

import numpy as np

from zhiyin.core.array_table import ArrayTable
from zhiyin.core.parallel import for_chunks, read_only
from zhiyin.core.run import Run
from zhiyin.core.workspace import float32_zeros
from zhiyin.data.histories import Histories
from zhiyin.ranking import blend_kernels, feature_kernels, lightgbm_inference
from zhiyin.ranking.examples import Candidates
from zhiyin.ranking.plan_kernels import score_requests

# A layout of the point-in-time features alone, and a forest without trees.
NO_LAYOUT = ArrayTable(feature_kernels.FIRST_BAG)
NO_FOREST = ArrayTable(lightgbm_inference.N_SLOTS)


def write_all_features(
    words: tuple[np.ndarray, ...],
    histories: Histories,
    moments: np.ndarray,
    candidates: Candidates,
    numbers: np.ndarray,
    codes: np.ndarray,
    run: Run,
    n_sums: int,
    out: np.ndarray,
    out_codes: np.ndarray,
) -> None:
    """Fill the features of all candidates, float32[features, m], and their codes; see `plan_kernels.score_requests`.

    words: of layout, index and both logs.
    """
    n, m = len(histories), len(candidates.items)
    methods = np.full(n, blend_kernels.RANKER, dtype=np.int8)
    arrays = request_arrays(histories, moments, candidates, numbers, codes)
    weights, scores = read_only(np.zeros((n, 0), dtype=np.float32)), np.empty(m, dtype=np.float32)

    def work(start: int, stop: int) -> None:
        score_requests(
            NO_FOREST.words,
            *words,
            start,
            stop,
            *arrays,
            methods,
            weights,
            float32_zeros(n_sums),
            out,
            out_codes,
            scores,
        )

    for_chunks(work, n, run, requests_per_chunk(n, run))


def request_arrays(
    histories: Histories, moments: np.ndarray, candidates: Candidates, numbers: np.ndarray, codes: np.ndarray
) -> list[np.ndarray]:
    """What `score_requests` takes of histories, candidates and request columns, in the order of its arguments."""
    parts = (
        histories.offsets, histories.items, histories.weights, histories.times, histories.values, moments,
        histories.users, candidates.offsets, candidates.items, candidates.scores, candidates.ranks, numbers, codes,
    )  # fmt: skip
    return [read_only(part) for part in parts]


def requests_per_chunk(n: int, run: Run) -> int:
    """Requests that a thread takes at a time: few enough that all threads end together."""
    return max(1, min(256, n // (4 * run.n_threads)))
