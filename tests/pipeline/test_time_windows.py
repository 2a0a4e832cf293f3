"""The plan of windows: in the order of time, disjoint, each judged by what lies before it; short logs have fewer."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.test_evaluable_users import flood, log, shop
from tests.examples import examples
from tests.pipeline.test_promotion_gate import walks
from zhiyin.core.errors import ConfigError
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.evaluable_users import MIN_USERS
from zhiyin.data.splits import rolling
from zhiyin.evaluation.model_evaluation import Window
from zhiyin.pipeline.time_windows import MIN_FIRST_SHARE, WindowPlan, gate_split, plan_windows
from zhiyin.testing.recommender import DAY

RUN = Run(seed=3, threads=1)


def random_log(n: int, users: int, seed: int, times: bool, moments: int = 10**9) -> Dataset:
    """A log whose events can be told apart by their value."""
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame(
        {
            "user": rng.integers(0, users, n),
            "item": rng.integers(0, 30, n),
            "value": np.arange(n, dtype=np.float32),
        }
    )
    return Dataset.build(frame.with_columns(time=rng.integers(1, moments + 1, n) * 1_000) if times else frame)


def events_of(data: Dataset) -> set[float]:
    return set(data.events["value"].to_list())


def check(data: Dataset, plan: WindowPlan) -> None:
    """What holds of every plan."""
    parts = [part for part, _ in (*plan.learn, *plan.choose)]
    used = [plan.tune, *(part.test for part in parts)]
    for one, other in itertools.combinations(map(events_of, used), 2):
        assert not one & other
    assert set().union(*map(events_of, used)) <= events_of(data)
    before, timed = events_of(plan.tune), data.window[0] < data.window[1]
    for part in parts:
        assert before <= events_of(part.train)
        assert not events_of(part.train) & events_of(part.test)
        before = events_of(part.train)
        if timed:
            assert part.train.window[1] < part.test.window[0]
    for one, other in itertools.pairwise(parts):
        assert events_of(one.test) <= events_of(other.train)
        if timed:
            assert one.test.window[1] < other.test.window[0]
    assert len(plan.learn) + len(plan.choose) < 2 or (plan.learn and plan.choose)


@settings(max_examples=examples(60), deadline=None)
@given(
    st.integers(1, 300), st.integers(1, 40), st.integers(0, 5), st.booleans(), st.sampled_from([2, 10, 10**9]),
    st.integers(1, 20), st.sampled_from([0.001, 0.05, 0.1, 0.5]),
)  # fmt: skip
def test_no_event_is_used_twice(
    n: int, users: int, seed: int, times: bool, moments: int, count: int, share: float
) -> None:
    data = random_log(n, users, seed, times, moments)
    plan = plan_windows(data, count, share, True, RUN)
    check(data, plan)
    assert [row["part"] for row in plan.to_rows()] == [
        "tune",
        *["learn"] * len(plan.learn),
        *["choose"] * len(plan.choose),
    ]


@pytest.mark.parametrize("times", [True, False])
def test_windows_hold_the_share_that_was_asked_for(times: bool) -> None:
    data = random_log(4_000, 100, 0, times)
    plan = plan_windows(data, 6, 0.1, True, RUN)
    assert (len(plan.learn), len(plan.choose), plan.notes) == (4, 2, ())
    for part, window in (*plan.learn, *plan.choose):
        assert part.test.n_events == pytest.approx(400, rel=0.1)
        assert len(window) > 50
    assert plan.tune.n_events == pytest.approx(1_600, rel=0.05)


def test_nobody_loses_all_events_where_there_are_no_times() -> None:
    data = random_log(300, 100, 1, times=False)
    plan = plan_windows(data, 4, 0.1, True, RUN)
    assert set(plan.tune.events["user"]) == set(data.events["user"])
    again = plan_windows(data, 4, 0.1, True, RUN)
    assert events_of(again.tune) == events_of(plan.tune)  # the same seed, the same shares


def test_a_short_log_has_fewer_windows_and_says_so() -> None:
    many = plan_windows(walks(), 20, 0.1, True, RUN)
    assert len(many.learn) + len(many.choose) == round((1 - MIN_FIRST_SHARE) / 0.1)
    assert "must be left before them" in many.notes[0]
    moments = random_log(50, 10, 0, times=True, moments=2)
    few = plan_windows(moments, 6, 0.1, True, RUN)
    assert (len(few.learn), len(few.choose)) == (0, 1)
    assert "nothing that learns from windows is tried" in few.notes[-1]
    none = plan_windows(random_log(1, 1, 0, times=True), 6, 0.1, True, RUN)
    assert (none.learn, none.choose) == ((), ())


@pytest.mark.parametrize("times", [True, False])
def test_the_gate_has_the_last_part_to_itself(times: bool) -> None:
    data = random_log(2_000, 60, 2, times)
    part = gate_split(data, "9y" if not times else None, RUN)  # a duration means nothing without times
    check(part.train, plan_windows(part.train, 6, 0.1, True, RUN))
    assert not events_of(part.train) & events_of(part.test)
    assert part.test.n_events == pytest.approx(0.2 * data.n_events, rel=0.2)


def test_events_of_one_time_are_cut_as_without_times() -> None:
    data = random_log(2_000, 60, 2, times=True, moments=1)
    part = gate_split(data, "7d", RUN)
    assert part.by == "ratio"
    plan = plan_windows(part.train, 6, 0.1, True, RUN)
    assert len(plan.learn) + len(plan.choose) == 6
    check(part.train, plan)


def test_edges_that_are_no_windows_are_refused() -> None:
    for edges in ((0.5,), (0.9, 0.5), (0.5, 1.2), (-0.1, 1)):
        with pytest.raises(ConfigError, match="no windows"):
            rolling(walks(), edges)


def test_events_of_one_moment_stay_together() -> None:
    frame = pl.DataFrame({"user": [1, 2, 3, 4] * 5, "item": list(range(20)), "time": [DAY, 2 * DAY] * 10})
    (part,) = rolling(Dataset.build(frame), (0.2, 0.4, 0.6, 0.8, 1.0))
    assert (part.train.n_events, part.test.n_events) == (10, 10)


@pytest.mark.parametrize("day", [20, 38])
def test_one_user_who_fills_the_windows_leaves_them_to_the_others(day: int) -> None:
    plain, crowded = log(shop()), log(shop(), flood(day * DAY, 12_000, step=10_000_000))
    before = plan_windows(plain, 8, 0.07, True, RUN)
    assert not before.notes
    plan = plan_windows(crowded, 8, 0.07, True, RUN)
    assert (len(plan.learn), len(plan.choose)) == (5, 3)
    assert min(len(window) for _, window in (*plan.learn, *plan.choose)) >= 10
    assert "few users fill them" in plan.notes[0]
    parts = [part for part, _ in (*plan.learn, *plan.choose)]
    for one, other in itertools.pairwise(parts):
        assert one.test.window[1] < other.test.window[0]
    assert plan.tune.window[1] < parts[0].test.window[0]


def test_the_gate_is_judged_by_users_although_one_fills_the_last_part() -> None:
    data = log(shop(), flood(41 * DAY - 120_000_000))
    part = gate_split(data, None, RUN)
    assert len(Window.of(part)) >= MIN_USERS
    assert "the test part begins earlier" in part.warnings[0]
    assert gate_split(log(shop()), None, RUN).protocol == gate_split(log(shop()), 0.2, RUN).protocol
