"""One call for training, validation and test part: no event in two of them, and models take the validation part."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import numpy as np
import polars as pl
import pytest

import zhiyin as zy
from zhiyin.core.errors import ConfigError
from zhiyin.data.dataset import Dataset
from zhiyin.testing.recommender import shop

DATA, T0 = shop(users=120), 1_600_000_000_000_000


def keys(data: Dataset) -> Counter[tuple[int, int, int]]:
    return Counter(data.events.select("user", "item", "time").rows())


@pytest.mark.parametrize("by", ["auto", "time", "last", "ratio", "cold-users", "cold-items"])
def test_the_parts_are_the_log(by: str) -> None:
    split = zy.split(DATA, by, valid=0.1, test=0.2)
    train, valid, test = split
    assert (train, valid, test) == (split.train, split.valid, split.test)
    parts = [train, valid, test] + [part for part in (split.valid_shown,) if part is not None]
    if by == "cold-users":
        assert split.shown is not None
        parts.append(split.shown)
    assert sum(map(keys, parts), Counter()) == keys(DATA)
    assert all(part.items["id"].equals(DATA.items["id"]) for part in parts)
    assert split.validation.test is valid
    assert "valid" in split.validation.protocol


@pytest.mark.parametrize("by", ["time", "ratio"])
def test_shares_are_of_the_whole_log(by: str) -> None:
    long = zy.read(
        pl.DataFrame({"user": np.repeat(np.arange(40), 50), "item": np.tile(np.arange(50), 40),
                      "time": T0 + np.arange(2_000) * 1_000_000_000})
    )  # fmt: skip
    train, valid, test = zy.split(long, by, valid=0.1, test=0.3)
    assert [part.n_events for part in (train, valid, test)] == [1_200, 200, 600]


def test_durations_lie_one_after_the_other() -> None:
    day = 86_400_000_000
    times = T0 + np.arange(100) * day
    data = zy.read(pl.DataFrame({"user": np.arange(100) % 10, "item": np.arange(100) % 7, "time": times}))
    train, valid, test = zy.split(data, "time", valid="20d", test="10d")
    assert (train.n_events, valid.n_events, test.n_events) == (70, 20, 10)
    assert train.window[1] < valid.window[0] <= valid.window[1] < test.window[0]


def test_the_test_part_is_judged_with_what_was_known_before_it() -> None:
    split = zy.split(DATA, valid=0.1, test=0.2)
    assert keys(split.fold_in) == keys(split.train) + keys(split.valid)  # type: ignore[arg-type]
    assert keys(split.validation.fold_in) == keys(split.train)
    result = zy.evaluate({"popular": zy.Popular()}, split=split, rounds=0, baselines=False)
    assert result["popular"].metrics["ndcg@10"] > 0


def test_without_a_validation_part_it_is_a_pair() -> None:
    train, test = zy.split(DATA)
    assert train.n_events + test.n_events == DATA.n_events
    with pytest.raises(ConfigError, match="no validation part"):
        _ = zy.split(DATA).validation


@pytest.mark.parametrize("valid", [0.9, 0.8, 0.0, -1, True, 1.5])
def test_shares_that_leave_nothing(valid: Any) -> None:
    with pytest.raises(ConfigError):
        zy.split(DATA, "ratio", valid=valid, test=0.2)


def test_networks_stop_by_the_part_given() -> None:
    pytest.importorskip("torch")
    split = zy.split(DATA, "last", valid=0.1)
    model = zy.SASRec(factors=8, epochs=2, max_len=6)
    given = model.fit(split.train, zy.Run(threads=1), valid=split.valid).training_log_
    again = zy.SASRec(factors=8, epochs=2, max_len=6).fit(split.train, zy.Run(threads=1), valid=split.validation)
    own = zy.SASRec(factors=8, epochs=2, max_len=6).fit(split.train, zy.Run(threads=1)).training_log_
    assert [row["ndcg@10"] for row in given] == [row["ndcg@10"] for row in again.training_log_]
    assert [row["ndcg@10"] for row in given] != [row["ndcg@10"] for row in own]
    alone = zy.SASRec(factors=8, epochs=2, max_len=6, validation="none")
    assert "ndcg@10" in alone.fit(split.train, zy.Run(threads=1), valid=split.valid).training_log_[0]
    # All of the training part is learned from: without it, a part of it is held back.
    assert given[0]["loss"] != own[0]["loss"]
    with pytest.raises(ConfigError, match="does not share its codes"):
        model.fit(split.train, valid=shop(users=30))


def test_others_say_that_they_have_no_use_for_it(caplog: pytest.LogCaptureFixture) -> None:
    split = zy.split(DATA, valid=0.1)
    with caplog.at_level(logging.INFO, "zhiyin"):
        zy.ALS(factors=4, epochs=1).fit(split.train, valid=split.valid)
    assert "ALS: learns without a validation part" in caplog.text
