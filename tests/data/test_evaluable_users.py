"""A cut by time leaves enough users to be judged, whatever one user does; where it does already, it stays."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.examples import examples

from zhiyin.core.errors import DataError
from zhiyin.data.dataset import Dataset
from zhiyin.data.evaluable_users import balanced_cuts, count_judged
from zhiyin.data.splits import _by_time, split, time_split

DAY, MINUTE = 86_400_000_000, 60_000_000


def shop(users: int = 80, events: int = 20, days: int = 40, seed: int = 3) -> pl.DataFrame:
    """Users who take `events` of 40 items each, at random moments of these days."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), events)
    return pl.DataFrame(
        {
            "user": [f"u{u}" for u in user],
            "item": [f"i{i}" for i in rng.integers(0, 40, len(user))],
            "time": DAY + rng.integers(0, days * DAY, len(user)),
        }
    )


def flood(start: int, events: int = 503, step: int = MINUTE, items: int = 1) -> pl.DataFrame:
    """One user who views `items` items in turn, at steps of time."""
    number = np.arange(events)
    return pl.DataFrame(
        {"user": ["monitor"] * events, "item": [f"i{n % items}" for n in number], "time": start + number * step}
    )


def log(*frames: pl.DataFrame) -> Dataset:
    return Dataset.build(pl.concat(frames))


@pytest.mark.parametrize("items", [1, 40])
@pytest.mark.parametrize("test", [None, 0.3, "2h"])
def test_one_user_who_fills_the_last_part_gets_an_earlier_cut(items: int, test: str | float | None) -> None:
    data = log(shop(), flood(41 * DAY - 3 * MINUTE, 12_000, items=items))
    if items == 1:  # which the user knows already
        assert count_judged(*split(data, "time", test=test), exclude_seen=True) == 0
    for part in (time_split(data, test, exclude_seen=True), split(data, test=test)):
        assert part.by == "time"
        assert part.train.window[1] < part.test.window[0]
        assert part.train.n_events + part.test.n_events == data.n_events
        if items == 1 or not isinstance(test, str):
            assert count_judged(*part, exclude_seen=True) >= 30
            assert "the test part begins earlier" in part.warnings[0]


def test_where_repeats_count_a_crowd_of_one_is_still_too_few() -> None:
    data = log(shop(), flood(41 * DAY - 3 * MINUTE))
    assert count_judged(*split(data, "time"), exclude_seen=False) == 1
    assert count_judged(*split(data, exclude_seen=False), exclude_seen=False) >= 30


def test_events_of_one_moment_before_all_others_leave_something_to_learn() -> None:
    data = log(shop(), flood(DAY // 2, 12_000, step=0))
    with pytest.raises(DataError, match="nothing is left to learn"):
        split(data, "time")
    assert count_judged(*split(data), exclude_seen=True) >= 30
    with pytest.raises(DataError, match="nothing is left to learn"):
        split(data, test=0.2)  # what was asked for is not answered by something else


@pytest.mark.parametrize("users", [10, 25, 80, 2_000])
@pytest.mark.parametrize("test", [None, 0.1, "7d"])
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_a_log_without_a_crowd_is_cut_where_it_was(users: int, test: str | float | None, exclude_seen: bool) -> None:
    data = log(shop(users))
    plain = split(data, "time", test=test)
    for part in (time_split(data, test, exclude_seen), split(data, test=test, exclude_seen=exclude_seen)):
        assert part.protocol == plain.protocol
        assert part.warnings == plain.warnings
        assert part.test.events.equals(plain.test.events)


def test_a_split_by_time_that_is_insisted_on_stays() -> None:
    data = log(shop(), flood(41 * DAY))
    assert split(data, "time").test.window[0] > 41 * DAY


@settings(max_examples=examples(40), deadline=None)
@given(st.integers(2, 60), st.integers(1, 12), st.integers(0, 9), st.integers(0, 2000), st.sampled_from([0.1, 0.5]))
def test_a_balanced_cut_leaves_its_share_of_the_users(
    users: int, events: int, seed: int, crowd: int, share: float
) -> None:
    frame = shop(users, events, seed=seed)
    data = log(frame, flood(20 * DAY, crowd, step=1, items=40)) if crowd else log(frame)
    (cut, end) = balanced_cuts(data, [1 - share, 1])
    assert end == data.window[1] + 1
    assert data.window[0] <= cut < end
    if cut > data.window[0]:
        assert count_judged(*_by_time(data, cut), exclude_seen=True) >= share * data.n_users - 1e-9


def test_events_worth_nothing_make_no_cut() -> None:
    assert balanced_cuts(Dataset.build(shop(3).with_columns(weight=pl.lit(0.0))), [0.8]) == []
