"""The gate lets through what is shown to be good enough on unseen days, and only that."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import polars as pl
import pytest

from zhiyin.core.errors import DataError
from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.data.splits import split
from zhiyin.models.popularity import Popular
from zhiyin.models.random import Random
from zhiyin.models.recommender import Recommender
from zhiyin.models.transitions import Transitions
from zhiyin.pipeline.promotion_gate import MIN_USERS, Verdict, decide_promotion
from zhiyin.testing.recommender import DAY


def walks(seed: int = 0, users: int = 80) -> Dataset:
    """Users who walk a ring of 40 items, a step a day: what comes next is certain, popularity says nothing."""
    rng = np.random.default_rng(seed)
    rows = [
        {"user": f"u{u}", "item": f"i{(start + day) % 40:02}", "time": day * DAY + u}
        for u, start in enumerate(rng.integers(0, 40, users))
        for day in range(20)
    ]
    return Dataset.build(pl.DataFrame(rows))


@dataclasses.dataclass
class Sometimes(Recommender):
    """Knows the next item of the ring for a share of the users, and says popular things to the others."""

    scores_empty_histories: ClassVar[bool] = True
    share: float = param(0.5, "share of the users")
    salt: int = param(0, "which of them")

    def _fit(self, data: Dataset, run: Run) -> None:
        self.items_ = data.n_items

    def _score(self, histories: Histories, run: Run) -> np.ndarray:
        scores = np.tile(np.linspace(0, 0.1, self.items_, dtype=np.float32), (len(histories), 1))
        last = histories.items[histories.offsets[1:] - 1]
        knows = np.random.default_rng(self.salt).random(histories.users.max() + 1)[histories.users] < self.share
        scores[np.flatnonzero(knows), (last[knows] + 1) % self.items_] = 1
        return scores


def judged(candidate: Recommender, used: Recommender | None = None, users: int = 80, margin: float = 0.02) -> Verdict:
    rivals = {} if used is None else {"version 1": used}
    return decide_promotion(
        candidate, split(walks(users=users), "time", test="3d"), rivals, metric="ndcg@3", margin=margin
    )


def test_the_better_model_passes_and_the_worse_does_not() -> None:
    passed = judged(Transitions(), Random())
    assert passed.passed
    assert passed.figures["candidate"] > 0.5
    assert passed.tests["popular"].low > 0
    failed = judged(Random(), Transitions())
    assert not failed.passed
    assert failed.worse
    assert failed.tests["version 1"].high < 0
    assert "version 1" in failed.why
    assert "it takes" not in failed.why  # more users would not help


def test_what_is_as_good_as_popular_does_not_replace_anything() -> None:
    verdict = judged(Popular(), Random())
    assert not verdict.passed
    assert not verdict.worse
    assert verdict.tests["popular"].needed is None
    assert "no number of users" in verdict.why


def test_the_same_model_learned_anew_is_not_inferior() -> None:
    verdict = judged(Transitions(), Transitions(), margin=0.01)
    assert verdict.passed
    assert verdict.tests["version 1"].gain == 0
    assert not judged(Transitions(), Transitions(), margin=0).passed  # nothing is above nothing


def test_the_margin_says_how_much_may_be_lost() -> None:
    candidate, used = Sometimes(share=0.85), Sometimes(share=0.9)
    strict, loose = judged(candidate, used, 400, 0.02), judged(candidate, used, 400, 0.3)
    test = strict.tests["version 1"]
    assert not strict.passed
    assert test.bound == pytest.approx(-0.02 * strict.figures["version 1"])
    assert loose.passed
    assert loose.tests["version 1"].low == test.low > loose.tests["version 1"].bound


def test_too_few_users_are_said_with_how_many_it_takes_and_so_many_do() -> None:
    few = judged(Sometimes(share=0.5), Random(), 60)
    test = few.tests["popular"]
    assert not few.passed
    assert not few.worse
    assert test.needed is not None
    assert 60 < test.needed < 500
    assert f"about {test.needed:,} users, there were 60" in few.why
    assert judged(Sometimes(share=0.5), Random(), 2 * test.needed).tests["popular"].passed


def test_no_interval_of_a_handful_of_users_shows_anything() -> None:
    verdict = judged(Transitions(), Random(), MIN_USERS - 5)
    assert verdict.users < MIN_USERS
    assert verdict.tests["popular"].low > 0
    assert not verdict.passed
    assert f"about {MIN_USERS} users" in verdict.why


def test_the_first_version_of_a_small_shop_goes_into_use() -> None:
    small = judged(Transitions(), None, 5)
    assert small.first
    assert small.passed
    alike = judged(Popular(), None, 40)
    assert alike.passed
    assert "the first version is used unless popular is shown to be better" in alike.why
    # But not one that is shown to be worse than what is simply popular.
    data = Dataset.build(
        pl.DataFrame(
            [
                {"user": f"u{u}", "item": "hit" if day == 9 else f"i{u % 9}{day}", "time": day * DAY + u}
                for u in range(80)
                for day in range(10)
                if day != 9 or u % 2
            ]
            + [{"user": f"other {u}", "item": "hit", "time": DAY} for u in range(40)]
        )
    )
    bad = decide_promotion(Random(), split(data, "time", test="1d"), metric="ndcg@3")
    assert not bad.passed
    assert bad.worse


def test_what_is_in_use_is_judged_as_it_is() -> None:
    data = walks()
    parts = split(data, "time", test="3d")
    # In use: learned from the first days only, so it has never seen the test days.
    early = data.subset(data.events["time"].to_numpy() < 5 * DAY)
    used = Transitions().fit(early)
    as_is = decide_promotion(Transitions(), parts, {"used": used}, metric="ndcg@3", run=Run(seed=1))
    assert as_is.figures["used"] < as_is.figures["candidate"]
    # One that has seen the test days is fitted anew: no better than the same model of the train part.
    leaked = decide_promotion(Transitions(), parts, {"used": Transitions().fit(data)}, metric="ndcg@3", run=Run(seed=1))
    assert leaked.figures["used"] == leaked.figures["candidate"]


@dataclasses.dataclass
class NeedsTitles(Sometimes):
    """Reads a column of the items."""

    def _fit(self, data: Dataset, run: Run) -> None:
        if "title" not in data.items.columns:
            raise DataError("the items have no titles", remedy="a column title")
        super()._fit(data, run)


def test_what_is_in_use_and_cannot_learn_from_the_log_any_more_stops_nothing() -> None:
    log = walks()
    items = log.items.with_columns(pl.col("id").alias("title"), pl.Series("id", [f"x{n}" for n in range(log.n_items)]))
    events = pl.DataFrame({"user": ["a", "b"], "item": ["x1", "x2"], "time": [1, 2]})
    used = NeedsTitles(0.9).fit(Dataset.build(events, items=items))
    verdict = judged(Sometimes(0.9, salt=1), used)
    assert verdict.passed
    assert "version 1" not in verdict.figures
    assert "version 1 is not compared, it cannot learn from this log: the items have no titles" in verdict.why


def test_where_nobody_can_be_judged_the_first_version_passes_and_no_later_one() -> None:
    again = pl.DataFrame({"user": ["a", "b"] * 6, "item": ["x", "y"] * 6, "time": [day * DAY for day in range(12)]})
    parts = split(Dataset.build(again), "time", test="3d")
    first = decide_promotion(Transitions(), parts)
    assert first.passed
    assert first.users == 0
    assert first.why.startswith("not judged: nobody can be judged")
    later = decide_promotion(Transitions(), parts, {"version 1": Popular()})
    assert not later.passed
    assert not later.worse
    assert later.figures == {}
