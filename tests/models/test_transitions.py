"""Transitions equals a naive double loop over any log."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.models.transitions import Transitions
from zhiyin.testing.recommender import DAY, RecommenderConformance


class TestTransitions(RecommenderConformance):
    def make(self) -> Transitions:
        return Transitions(window=4)


class TestTransitionsTimed(RecommenderConformance):
    def make(self) -> Transitions:
        return Transitions(window=4, half_life="7d", session_gap="5d")


class TestTransitionsThatRepeat(RecommenderConformance):
    def make(self) -> Transitions:
        return Transitions(window=4, repeats=2.0, backward=0.5, damping=0.5)


def _naive(
    data: Dataset, window: int, half_life: int | None, gap: int | None, repeats: float, backward: float, damping: float
) -> np.ndarray:
    out = np.zeros((data.n_items, data.n_items))
    for row in range(data.n_users):
        one = data.histories.rows(row, row + 1)
        events = [(i, t) for i, t, w in zip(one.items.tolist(), one.times.tolist(), one.weights) if w > 0]
        for a, (i, t) in enumerate(events):
            for b in range(a + 1, min(len(events), a + window + 1)):
                if gap is not None and events[b][1] - events[b - 1][1] >= gap:
                    break
                j, then = events[b]
                worth = 1 / (b - a) * (2.0 ** (-(then - t) / half_life) if half_life else 1)
                if j != i:
                    out[i, j] += worth
                    out[j, i] += worth * backward
                else:
                    out[i, i] += worth * repeats
    events = np.bincount(data.events["item"].to_numpy()[data.events["weight"].to_numpy() > 0], minlength=data.n_items)
    return out / np.maximum(events, 1)[:, None] ** damping


EVENTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 20), st.sampled_from([1.0, 2.0, 0.0, -1.0])),
    min_size=1, max_size=40,
)  # fmt: skip


@given(EVENTS, st.integers(1, 5), st.sampled_from([None, "3d"]), st.sampled_from([None, "4d"]), st.integers(1, 2),
       st.sampled_from([(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (2.0, 0.5, 0.5)]))  # fmt: skip
def test_equals_a_double_loop(
    events: list[tuple[int, int, int, float]], window: int, half_life: str | None, gap: str | None, threads: int,
    more: tuple[float, float, float],
) -> None:  # fmt: skip
    user, item, day, weight = zip(*events)
    log = pl.DataFrame(
        {"user": user, "item": item, "time": np.array(day) * DAY, "weight": np.array(weight, dtype=np.float32)}
    )
    data = Dataset.build(log)
    repeats, backward, damping = more
    model = Transitions(window=window, half_life=half_life, session_gap=gap, repeats=repeats, backward=backward,
                        damping=damping).fit(data, Run(threads=threads))  # fmt: skip
    wanted = _naive(data, window, 3 * DAY if half_life else None, 4 * DAY if gap else None, *more)
    np.testing.assert_allclose(model.rules_.toarray(), wanted, rtol=1e-5, atol=1e-7)


def test_the_newest_event_counts_most() -> None:
    log = pl.DataFrame({"user": [1, 1, 2, 2], "item": ["a", "x", "b", "y"]})
    model = Transitions(decay=0.5, last=2).fit(Dataset.build(log))
    frame = model.recommend(histories={"v": ["a", "b"]}, k=2)
    assert frame["item"].to_list() == ["y", "x"]
    assert frame["score"].to_list() == pytest.approx([1.0, 0.5])


def test_what_repeats_is_said_again_where_it_may_be() -> None:
    log = pl.DataFrame({"user": [1, 1, 1, 2, 2, 2], "item": ["a", "a", "b", "a", "a", "c"]})
    model = Transitions(repeats=1.0).fit(Dataset.build(log))
    frame = model.recommend(histories={"v": ["a"]}, k=1, exclude_seen=False)
    assert frame["item"].to_list() == ["a"]
    assert sorted(model.similar("a", k=2)["similar"].to_list()) == ["b", "c"]
