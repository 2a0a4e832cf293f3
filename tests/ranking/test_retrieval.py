"""The union of several sources: each one's places and scores are kept, budgets hold."""

from __future__ import annotations

import threading
import time

import numpy as np
import polars as pl
import pytest

from zhiyin.core.errors import ConfigError
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.models.neighbors import ItemKNN
from zhiyin.models.popularity import Popular
from zhiyin.models.recommender import Recommender
from zhiyin.models.transitions import Transitions
from zhiyin.ranking.blend_kernels import RRF
from zhiyin.ranking.retrieval import Budget, retrieve


def made() -> tuple[Dataset, dict[str, Recommender]]:
    rng = np.random.default_rng(2)
    frame = pl.DataFrame({"user": rng.integers(0, 40, 600), "item": (rng.random(600) ** 2 * 50).astype(int),
                          "time": np.arange(600) * 1_000_000})  # fmt: skip
    data = Dataset.build(frame)
    return data, {"p": Popular().fit(data), "k": ItemKNN().fit(data), "t": Transitions().fit(data)}


DATA, SOURCES = made()


@pytest.mark.parametrize("limit", [None, 9])
def test_the_union_equals_a_loop(limit: int | None) -> None:
    had = DATA.histories.take(np.array([0, 5, -1, 7, 39]))
    allowed = np.arange(DATA.n_items) % 3 != 0
    found = retrieve(SOURCES, had, 6, exclude=had, allowed=allowed, budget=Budget(items=limit))
    for row in range(len(had)):
        lists = {name: source.rank(had.rows(row, row + 1), 6, exclude=had.rows(row, row + 1), allowed=allowed)
                 for name, source in SOURCES.items()}  # fmt: skip
        fused: dict[int, float] = {}
        for items, _ in lists.values():
            for place, item in enumerate(items[0][items[0] >= 0].tolist()):
                fused[item] = fused.get(item, 0.0) + 1 / (RRF + place + 1)
        mine = slice(found.offsets[row], found.offsets[row + 1])
        named = found.items[mine].tolist()
        assert len(named) == len(set(named)) == min(len(fused), limit or len(fused))
        values = [fused[item] for item in named]
        assert values == pytest.approx(sorted(fused.values(), reverse=True)[: len(named)])
        for at, name in enumerate(found.sources):
            items, scores = lists[name]
            for item, rank, score in zip(named, found.ranks[mine, at], found.scores[mine, at]):
                where = np.flatnonzero(items[0] == item)
                assert rank == (where[0] if len(where) else -1)
                if len(where):
                    assert score == pytest.approx(scores[0][where[0]], rel=1e-6)


class Slow(Popular):
    """A source that answers when it is told to."""

    gate = threading.Event()

    def rank(self, *args, **named):  # type: ignore[no-untyped-def]
        self.gate.wait(10)
        return super().rank(*args, **named)


def test_a_source_that_is_late_is_left_out_until_it_is_done() -> None:
    Slow.gate.clear()
    slow = Slow().fit(DATA)
    had, budget = DATA.histories.rows(0, 3), Budget(seconds=0.2)
    sources = {"p": SOURCES["p"], "slow": slow}
    begun = time.monotonic()
    found = retrieve(sources, had, 5, budget=budget, run=Run(threads=1))
    assert time.monotonic() - begun < 5
    assert list(found.left_out) == ["slow"]
    assert (found.ranks[:, 1] == -1).all()
    assert np.array_equal(found.items, retrieve({"p": SOURCES["p"]}, had, 5).items)
    again = retrieve(sources, had, 5, budget=budget, run=Run(threads=1))
    assert "earlier" in again.left_out["slow"]
    Slow.gate.set()
    for _ in range(100):
        late = retrieve(sources, had, 5, budget=budget, run=Run(threads=1))
        if not late.left_out:
            break
        time.sleep(0.02)
    assert (late.ranks[:, 1] >= 0).any()


def test_budgets_that_answer_nothing() -> None:
    with pytest.raises(ConfigError):
        Budget(seconds=0)
    with pytest.raises(ConfigError):
        Budget(items=0)
    with pytest.raises(ConfigError, match="'k'"):
        retrieve(SOURCES, DATA.histories.rows(0, 1), {"p": 3, "t": 3})
