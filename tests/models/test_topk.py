"""top_k equals a naive sort, whatever ties, infinities and NaN there are."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.core.run import Run
from zhiyin.models.topk import top_k

VALUES = st.sampled_from([0.0, 0.5, 1.0, -1.0, float("inf"), float("-inf"), float("nan")])


@given(st.data(), st.integers(1, 5), st.integers(1, 12), st.integers(1, 12), st.integers(1, 2))
def test_equals_a_naive_sort(draw: st.DataObject, n: int, m: int, k: int, threads: int) -> None:
    k = min(k, m)
    scores = np.array(draw.draw(st.lists(VALUES, min_size=n * m, max_size=n * m)), np.float32).reshape(n, m)
    priority = np.array(draw.draw(st.permutations(range(m))), dtype=np.int32)
    allowed = np.array(draw.draw(st.lists(st.booleans(), min_size=m, max_size=m)))
    out = [draw.draw(st.lists(st.integers(0, m - 1), max_size=m)) for _ in range(n)]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in out])]).astype(np.int64)
    excluded = (offsets, np.array([item for row in out for item in row], dtype=np.int32))
    items, best = top_k(scores.copy(), k, priority, allowed, excluded, Run(threads=threads))
    for row in range(n):
        left = [i for i in range(m) if allowed[i] and i not in out[row] and scores[row, i] > -np.inf]
        left.sort(key=lambda i: (-scores[row, i], -priority[i]))
        wanted = left[:k]
        assert items[row].tolist() == wanted + [-1] * (k - len(wanted))
        assert best[row].tolist() == [scores[row, i] for i in wanted] + [-np.inf] * (k - len(wanted))
