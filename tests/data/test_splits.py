"""Splits: nothing leaks, nothing is lost, and every refusal says what to do."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import zhiyin as zy
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.splits import folds, split

DAY = 86_400_000_000


@pytest.fixture(scope="module")
def data() -> Dataset:
    """200 users, 50 items and 4,000 events over 100 days; the last items arrive late."""
    rng = np.random.default_rng(3)
    day = rng.integers(0, 100, 4_000)
    item = np.minimum(rng.integers(0, 30, 4_000) + day // 5, 49)
    return Dataset.build(
        pl.DataFrame(
            {
                "user": rng.integers(0, 200, 4_000),
                "item": item,
                "time": (day * DAY + rng.integers(0, DAY, 4_000)).astype(np.int64) + 400 * DAY,
            }
        ),
        items=pl.DataFrame({"id": range(60), "title": [None] * 55 + list("abcde")}),
    )


def rows(*parts: Dataset) -> list[tuple]:
    return sorted(row for part in parts for row in part.events.select("user", "item", "time").rows())


@pytest.mark.parametrize("test", [None, 0.1, "7d", "36h"])
def test_by_time_never_leaks(data: Dataset, test: str | float | None) -> None:
    made = split(data, test=test)
    train, held = made
    assert train.events["time"].max() < held.events["time"].min()
    assert rows(train, held) == rows(data)
    assert made.by == "time"
    assert "global time: train before" in made.protocol
    if test == "7d":
        assert held.events["time"].min() > data.window[1] - 7 * DAY
        assert train.events["time"].max() <= data.window[1] - 7 * DAY
    if test in (None, 0.1):
        assert held.n_events == pytest.approx((test or 0.2) * 4_000, abs=2)


def test_candidates_are_what_was_known_when_training_ended(data: Dataset) -> None:
    train, test = split(data, test="20d")
    seen = np.unique(train.events["item"].to_numpy())
    only_test = np.setdiff1d(np.unique(test.events["item"].to_numpy()), seen)
    assert len(only_test)
    assert not train.candidates[only_test].any()
    assert train.candidates[seen].all()
    assert train.candidates[55:].all()  # described, though never seen
    assert not train.candidates[50:55].any()  # neither
    assert len(train.candidates) == train.n_items == data.n_items


def test_equal_times_stay_on_one_side() -> None:
    log = pl.DataFrame({"user": range(10), "item": range(10), "time": [400 * DAY] * 5 + [401 * DAY] * 5})
    train, test = split(Dataset.build(log), test=0.3)
    assert (train.n_events, test.n_events) == (5, 5)


def test_last(data: Dataset) -> None:
    made = split(data, "last")
    train, test = made
    assert rows(train, test) == rows(data)
    last = data.events.group_by("user", maintain_order=True).agg(pl.col("time").last(), pl.len())
    assert test.events["time"].to_list() == last.filter(pl.col("len") > 1)["time"].to_list()
    assert any("leaks across users" in warning for warning in made.warnings)


def test_a_user_of_one_event_is_not_tested() -> None:
    data = Dataset.build(pl.DataFrame({"user": [1, 2, 2], "item": [1, 1, 2]}))
    train, test = split(data, "last")
    assert test.events.select("user", "item").rows() == [(1, 1)]
    assert train.n_events == 2


def test_ratio(data: Dataset) -> None:
    train, test = split(data, "ratio", test=0.25)
    assert rows(train, test) == rows(data)
    total = np.bincount(data.events["user"].to_numpy(), minlength=data.n_users)
    held = np.bincount(test.events["user"].to_numpy(), minlength=data.n_users)
    assert (held == np.floor(total * 0.25)).all()
    assert rows(split(data, "ratio").test) == rows(split(data, "ratio").test)
    assert rows(split(data, "ratio").test) != rows(split(data, "ratio", run=Run(seed=1)).test)


def test_cold_users(data: Dataset) -> None:
    made = split(data, "cold-users", test=0.1)
    train, test = made
    cold = set(test.events["user"].to_list())
    assert len(cold) == 20
    assert not cold & set(train.events["user"].to_list())
    assert rows(train, made.fold_in, test) == rows(data)
    for user in cold:
        shown = made.fold_in.events.filter(pl.col("user") == user)["time"]
        later = test.events.filter(pl.col("user") == user)["time"]
        assert len(shown) == (len(shown) + len(later)) // 2
        assert shown.max() <= later.min()


def test_cold_items(data: Dataset) -> None:
    made = split(data, "cold-items", test=0.2)
    train, test = made
    cold = set(test.events["item"].to_list())
    assert not cold & set(train.events["item"].to_list())
    assert rows(train, test) == rows(data)
    assert train.candidates[list(cold)].all()
    assert made.warnings


def test_rolling_folds(data: Dataset) -> None:
    made = folds(data, k=3, test="10d")
    assert len(made) == 3
    for one, after in zip(made, [*made[1:], None]):
        assert one.train.events["time"].max() < one.test.events["time"].min()
        assert one.test.window[1] - one.test.window[0] < 10 * DAY
        if after is not None:
            assert rows(after.train) == rows(one.train, one.test)
    assert made[-1].test.window[1] == data.window[1]


def test_without_times() -> None:
    data = Dataset.build(pl.DataFrame({"user": [u for u in range(120) for _ in range(10)], "item": [*range(10)] * 120}))
    assert split(data).by == "ratio"
    assert split(data).warnings == ()
    for wrong in (lambda: split(data, "time"), lambda: folds(data)):
        with pytest.raises(zy.DataError, match=r"the log has none(.|\n)*split by \"ratio\""):
            wrong()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda data: split(data, "tme"), "did you mean 'time'"),
        (lambda data: split(data, "rolling"), "use folds"),
        (lambda data: split(data, test="400d"), "a shorter test window"),
        (lambda data: split(data, test="7x"), "not a duration"),
        (lambda data: split(data, test=1.5), "between 0 and 1"),
        (lambda data: split(data, "ratio", test="7d"), "between 0 and 1"),
        (lambda data: split(data, "ratio", test=0.001), "another split, window or share"),
        (lambda data: folds(data, k=30, test="7d"), "fewer or shorter windows"),
    ],
)
def test_refusals_say_what_to_do(data: Dataset, wrong, says: str) -> None:
    with pytest.raises(zy.ZhiyinError) as caught:
        wrong(data)
    assert says in str(caught.value)


def test_a_share_of_the_whole_by_movielens(real_data) -> None:
    train, test = split(zy.read(real_data("movielens-100k")), "time")
    assert train.n_events + test.n_events == 100_000
    assert train.window[1] < test.window[0]


def test_auto_splits_by_time_only_where_that_judges_known_users() -> None:
    def log(last_day: int) -> Dataset:
        """Ten users of ten events each; user u begins on day u and has one event every `last_day` / 10 days."""
        user = np.repeat(np.arange(10), 10)
        time = user * DAY + np.tile(np.arange(10), 10) * last_day * DAY // 10
        return Dataset.build(pl.DataFrame({"user": user, "item": np.arange(100) % 7, "time": time + 10**15}))

    assert split(log(100), "auto").by == "time"
    chosen = split(log(1), "auto")  # every user is there for one day only
    assert chosen.by == "ratio"
    assert "judge strangers" in chosen.warnings[0]
