"""Sessions: events of a user without a long pause between them.

A pause of at least `gap` ends a session, so that the next event begins another one.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from zhiyin.core.durations import microseconds
from zhiyin.core.errors import DataError
from zhiyin.data.dataset import Dataset


def session_numbers(user: np.ndarray, time: np.ndarray | None, gap: int | None) -> np.ndarray:
    """int32[m]: the session of each event, ascending from 0; no two users share one.

    Parameters
    ----------
    user: int32[m], codes.
    time: int64[m], microseconds; None where the log has no times. Events are sorted by user and time.
    gap: microseconds without an event that end a session. None: a user has one session.
    """
    numbers = np.zeros(len(user), dtype=np.int32)
    if len(user):
        begins = user[1:] != user[:-1]
        if gap is not None and time is not None:
            begins = begins | (np.diff(time) >= gap)
        numbers[1:] = np.cumsum(begins)
    return numbers


def sessions(data: Dataset, gap: str = "30m") -> pl.DataFrame:
    """The sessions of all events of a log, whatever they weigh, by user and time.

    Parameters
    ----------
    gap: duration without an event that ends a session, such as "30m".

    Returns
    -------
    Frame `user` (id), `first`, `last` (moments of its first and last event, UTC), `events` (number), `items` (number of
    different ones).

    Raises ConfigError for a gap that is no duration above 0, DataError for a log without times.

    >>> minutes = pl.Series([0, 10, 40]) * 60_000_000
    >>> log = pl.DataFrame({"user": ["a", "a", "a"], "item": ["x", "x", "y"], "time": minutes})
    >>> sessions(Dataset.build(log), "30m")["events"].to_list()
    [2, 1]
    """
    length = gap_length(data, gap)
    return named(table_of_sessions(data.events, length), data.user_ids.values)


def gap_length(data: Dataset, gap: str) -> int:
    """A gap in microseconds. Raises as `sessions`."""
    length = microseconds(gap)
    if not data.has_times:
        raise DataError("a log without times has no sessions", remedy="name the column of times: [columns] time")
    return length


def table_of_sessions(events: pl.DataFrame, gap: int) -> pl.DataFrame:
    """The sessions of events that are sorted by user and time: as `sessions`, with codes of users.

    gap: microseconds.
    """
    number = session_numbers(events["user"].to_numpy(), events["time"].to_numpy(), gap)
    return (
        events.lazy()
        .select("user", "item", "time", number=pl.Series(number))
        .group_by("number", maintain_order=True)
        .agg(
            pl.col("user").first(),
            pl.col("time").first().alias("first"),
            pl.col("time").last().alias("last"),
            pl.len().alias("events"),
            pl.col("item").n_unique().alias("items"),
        )
        .drop("number")
        .collect()
    )


def named(table: pl.DataFrame, user_ids: pl.Series) -> pl.DataFrame:
    """A table of sessions with ids for codes of users, and moments for microseconds. user_ids: by code."""
    moments = (pl.col(name).cast(pl.Datetime("us", "UTC")) for name in ("first", "last"))
    return table.with_columns(user_ids.gather(table["user"]).alias("user"), *moments)
