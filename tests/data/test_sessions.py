"""Sessions end where nothing happens for as long as the gap, or longer."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import groupby, pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.data.dataset import Dataset
from zhiyin.data.sessions import session_numbers, sessions

MINUTE = 60_000_000
START = 1_700_000_000_000_000
ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 20), st.sampled_from([1.0, 0.0, -1.0])),
    min_size=1, max_size=40,
)  # fmt: skip


def log_of(rows: list[tuple[int, int, int, float]]) -> Dataset:
    frame = pl.DataFrame(rows, schema=["user", "item", "time", "weight"], orient="row")
    times = pl.col("time").cast(pl.Int64) * MINUTE + START
    return Dataset.build(frame.with_columns(times, pl.col("weight").cast(pl.Float32)))


@given(ROWS, st.integers(1, 8))
def test_they_are_those_of_a_loop(rows: list[tuple[int, int, int, float]], gap: int) -> None:
    wanted = []
    for user, group in groupby(sorted(row[:3] for row in rows), key=lambda row: row[0]):
        events = sorted((time, item) for _, item, time in group)
        starts = [0, *(at for at, (a, b) in enumerate(pairwise(events), 1) if b[0] - a[0] >= gap), len(events)]
        parts = [events[start:stop] for start, stop in pairwise(starts)]
        wanted += [(user, part[0][0], part[-1][0], len(part), len({item for _, item in part})) for part in parts]
    table = sessions(log_of(rows), f"{gap}m")
    moments = [(table[name].dt.epoch("us") - START) // MINUTE for name in ("first", "last")]
    columns = (table["user"], *moments, table["events"], table["items"])
    assert list(zip(*(column.to_list() for column in columns))) == wanted


@given(ROWS)
def test_numbers_ascend_and_are_of_one_user_each(rows: list[tuple[int, int, int, float]]) -> None:
    events = log_of(rows).events
    user, time = events["user"].to_numpy(), events["time"].to_numpy()
    numbers = session_numbers(user, time, 3 * MINUTE)
    assert set(np.diff(numbers).tolist()) <= {0, 1}
    assert len(set(zip(numbers.tolist(), user.tolist()))) == len(set(numbers.tolist()))
    assert (
        session_numbers(user, None, 3 * MINUTE).tolist() == user.tolist() == session_numbers(user, time, None).tolist()
    )


def test_columns_and_what_has_no_sessions() -> None:
    table = sessions(log_of([(7, 1, 0, 1.0)]))
    assert table["user"].to_list() == [7]
    assert table["first"].to_list() == [datetime.fromtimestamp(START / 1e6, UTC)]
    assert table.columns == ["user", "first", "last", "events", "items"]
    with pytest.raises(ConfigError, match="duration"):
        sessions(log_of([(7, 1, 0, 1.0)]), "soon")
    with pytest.raises(DataError, match="without times"):
        sessions(Dataset.build(pl.DataFrame({"user": ["a"], "item": ["x"]})))
