"""The gate lets through what is better on unseen days, and only that."""

from __future__ import annotations

import numpy as np
import polars as pl

from tests.conformance.recommender import DAY
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.splits import split
from zhiyin.models.popularity import Popular
from zhiyin.models.random import Random
from zhiyin.models.transitions import Transitions
from zhiyin.pipeline.gate import gate


def walks(seed: int = 0) -> Dataset:
    """Users who walk a ring of 40 items, a step a day: what comes next is certain, popularity says nothing."""
    rng = np.random.default_rng(seed)
    rows = [
        {"user": f"u{u}", "item": f"i{(start + day) % 40:02}", "time": day * DAY + u}
        for u, start in enumerate(rng.integers(0, 40, 80))
        for day in range(20)
    ]
    return Dataset.build(pl.DataFrame(rows))


def test_the_better_model_passes_and_the_worse_does_not() -> None:
    parts = split(walks(), "time", test="3d")
    passed = gate(Transitions(), parts, metric="ndcg@3")
    assert passed.passed
    assert passed.figures["candidate"] > 0.5
    assert passed.gains["popular"][1] > 0
    failed = gate(Random(), parts, {"version 1": Transitions()}, metric="ndcg@3")
    assert not failed.passed
    assert failed.gains["version 1"][2] < 0
    assert "version 1" in failed.why


def test_what_is_as_good_as_popular_does_not_pass() -> None:
    assert not gate(Popular(), split(walks(), "time", test="3d")).passed


def test_what_is_in_use_is_judged_as_it_is() -> None:
    data = walks()
    parts = split(data, "time", test="3d")
    # In use: learned from the first days only, so it has never seen the test days.
    early = data.subset(data.events["time"].to_numpy() < 5 * DAY)
    used = Transitions().fit(early)
    as_is = gate(Transitions(), parts, {"used": used}, metric="ndcg@3", run=Run(seed=1))
    assert as_is.figures["used"] < as_is.figures["candidate"]
    # One that has seen the test days is fitted anew: no better than the same model of the train part.
    leaked = gate(Transitions(), parts, {"used": Transitions().fit(data)}, metric="ndcg@3", run=Run(seed=1))
    assert leaked.figures["used"] == leaked.figures["candidate"]
    assert not leaked.passed
