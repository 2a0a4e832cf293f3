"""Ranks of listed items by source."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.pipeline.answer_reasons import source_ranks
from zhiyin.ranking.examples import Candidates


@given(
    candidates=st.lists(st.integers(0, 2**31 - 1), max_size=40, unique=True),
    others=st.lists(st.integers(0, 2**31 - 1), max_size=10, unique=True),
    n_sources=st.integers(0, 4),
    data=st.data(),
)
def test_ranks_are_those_of_the_candidates(
    candidates: list[int], others: list[int], n_sources: int, data: st.DataObject
) -> None:
    named = data.draw(st.lists(st.sampled_from(candidates), unique=True)) if candidates else []
    items = data.draw(st.permutations(list(dict.fromkeys([*named, *others]))))
    ranks = np.arange(len(candidates) * n_sources, dtype=np.int32).reshape(len(candidates), n_sources)
    found = source_ranks(
        np.array(items, dtype=np.int32),
        Candidates(
            np.array([0, len(candidates)]),
            np.array(candidates, dtype=np.int32),
            tuple(map(str, range(n_sources))),
            np.zeros(ranks.shape, np.float32),
            ranks,
        ),
    )
    expected = [ranks[candidates.index(item)].tolist() if item in candidates else [-1] * n_sources for item in items]
    assert found.shape == (len(items), n_sources)
    assert found.tolist() == expected
