"""Formulas of streams: sums that decay, and sessions of buckets, against plain computations over single events."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.store import stream_definitions as definitions
from zhiyin.store.stream_definitions import (
    COVISIT_HALF_LIFE,
    COVISIT_PERIOD,
    OUTPUTS,
    SESSION_GAP,
    TRENDING_HALF_LIFE,
    covisit_log_scores,
    log_score,
    merge_log_scores,
    merge_session_buckets,
    merge_sessions,
    polars_schema,
    score_at,
    trending_log_scores,
)

NOW = 1_790_000_000_000_000
weights = st.floats(1e-3, 1e6)
times = st.integers(NOW - 90 * 86_400_000_000, NOW)


@given(st.lists(st.tuples(weights, times), min_size=1, max_size=20))
def test_a_log_score_is_the_decayed_sum(events: list[tuple[float, int]]) -> None:
    expected = math.fsum(weight * 2.0 ** ((time - NOW) / TRENDING_HALF_LIFE) for weight, time in events)
    total = -np.inf
    for weight, time in events:
        total = merge_log_scores(total, log_score(weight, time, TRENDING_HALF_LIFE))
    assert score_at(total, NOW, TRENDING_HALF_LIFE) == pytest.approx(expected, rel=1e-9)
    frame = pl.DataFrame({"weight": [w for w, _ in events], "time": [t for _, t in events]})
    of_frame = frame.select(log_score(pl.col("weight"), pl.col("time"), TRENDING_HALF_LIFE).alias("log_score"))
    assert of_frame.select(definitions.sum_log_scores()).item() == pytest.approx(total, abs=1e-9)
    assert list(of_frame["log_score"]) == pytest.approx(
        list(log_score(frame["weight"].to_numpy(), frame["time"].to_numpy(), TRENDING_HALF_LIFE))
    )


def test_nothing_added_changes_nothing() -> None:
    assert merge_log_scores(-np.inf, -np.inf) == -np.inf
    assert merge_log_scores(20_000.5, -np.inf) == 20_000.5
    assert score_at(-np.inf, NOW, TRENDING_HALF_LIFE) == 0.0


@given(st.lists(st.tuples(st.sampled_from("abc"), weights, times), min_size=1, max_size=30))
def test_trending_windows_add_up_however_they_are_cut(events: list[tuple[str, float, int]]) -> None:
    rows = []
    for item, weight, time in events:  # a window of its own for each event
        bucket = time // TRENDING_HALF_LIFE
        score = weight * 2.0 ** ((time - bucket * TRENDING_HALF_LIFE) / TRENDING_HALF_LIFE)
        rows.append({"item": item, "bucket": bucket, "score": score, "n": 1})
    merged = trending_log_scores(pl.DataFrame(rows, schema=polars_schema(OUTPUTS["trending"])))
    expected: dict[str, float] = defaultdict(float)
    for item, weight, time in events:
        expected[item] += weight * 2.0 ** ((time - NOW) / TRENDING_HALF_LIFE)
    values = dict(zip(merged["item"], score_at(merged["log_score"].to_numpy(), NOW, TRENDING_HALF_LIFE), strict=True))
    assert values == pytest.approx(dict(expected), rel=1e-9)


def test_covisits_halve_with_each_week_in_both_directions() -> None:
    day = NOW // COVISIT_PERIOD
    rows = [("x", "y", day, 3), ("x", "y", day - 7, 4), ("y", "z", day, 1)]
    merged = covisit_log_scores(pl.DataFrame(rows, schema=polars_schema(OUTPUTS["covisits"]), orient="row"))
    scores = {
        (item, other): score_at(log_score, day * COVISIT_PERIOD, COVISIT_HALF_LIFE)
        for item, other, log_score in merged.iter_rows()
    }
    assert scores == pytest.approx({("x", "y"): 5, ("y", "x"): 5, ("y", "z"): 1, ("z", "y"): 1})


def plain_sessions(moments: list[int]) -> list[tuple[int, int, int]]:
    sessions: list[list[int]] = []
    for moment in sorted(moments):
        if sessions and moment - sessions[-1][-1] < SESSION_GAP:
            sessions[-1].append(moment)
        else:
            sessions.append([moment])
    return [(session[0], session[-1], len(session)) for session in sessions]


gaps = st.one_of(st.integers(0, SESSION_GAP * 3), st.sampled_from([SESSION_GAP - 1, SESSION_GAP, SESSION_GAP + 1]))


@given(st.integers(NOW, NOW + SESSION_GAP), st.lists(gaps, max_size=20))
def test_sessions_of_buckets_are_those_of_events(first: int, between: list[int]) -> None:
    moments = list(np.cumsum([first, *between]))
    rows = pl.DataFrame(
        [("u", int(t) // SESSION_GAP, int(t), int(t), 1) for t in moments],
        schema={"user": pl.String, **dict.fromkeys(("bucket", "first", "last", "n"), pl.Int64)}, orient="row",
    )  # fmt: skip
    merged = merge_sessions(merge_session_buckets(rows).drop("user"))
    assert list(merged.iter_rows()) == plain_sessions([int(t) for t in moments])
