"""What streams compute: constants, columns of segments and outputs, and how partial results are merged.

The streaming jobs, the state that their results go to and the computation embedded in the service all follow these
definitions. No result depends on the order of arrival: each is a sum, a minimum or maximum, or a union by id.

A sum that decays is held as its log score L = log2(sum of w * 2**(t / H)): t and the half-life H are microseconds, t
since the epoch. Its value now is 2**(L - now / H). A log score never has to be rescaled, and two are merged by adding
what they stand for: `merge_log_scores`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.durations import UNITS
from zhiyin.data.project_config.service_sections import STREAM_JOBS
from zhiyin.store.live_state import MAX_EVENTS_PER_USER

JOBS = STREAM_JOBS
# Half-life of trending items, which is the length of a bucket of them as well; microseconds, as all durations here.
TRENDING_HALF_LIFE = 24 * UNITS["h"]
# Items of which trending scores are held.
MAX_TRENDING_ITEMS = 1_000_000
# Two items of one user count as a co-visit within one such period (a UTC day), and count half after the half-life.
COVISIT_PERIOD, COVISIT_HALF_LIFE = 24 * UNITS["h"], 7 * UNITS["d"]
# Distinct items of a user and day that take part in co-visits; other items that are held for each item.
MAX_COVISIT_ITEMS, MAX_COVISITS = 200, 200
# A gap this long, or longer, between two events of a user ends a session; also the length of a bucket of sessions.
SESSION_GAP = 30 * UNITS["m"]
# Buckets of sessions that are held for each user: those that came last.
MAX_SESSION_BUCKETS = 500
# Events that are held for each user: those of the highest sequence numbers.
MAX_HISTORY_EVENTS = MAX_EVENTS_PER_USER
# An event counts for a list from the moment of the list until this much later.
REWARD_WINDOW = 24 * UNITS["h"]
# Rows of a segment file at most.
MAX_SEGMENT_ROWS = 1_000_000

# Types of columns: "text", "integer" (int64), "number" (float64), or a list of rows of such columns.
Columns = Mapping[str, Any]
EVENT_SEGMENT: Columns = {
    "seq": "integer", "id": "text", "user": "text", "item": "text", "time": "integer", "received": "integer",
    "kind": "text", "value": "number", "list_id": "text", "weight": "number",
}  # fmt: skip
IMPRESSION_SEGMENT: Columns = {
    "list_id": "text", "placement": "text", "version": "integer", "user": "text", "time": "integer", "slot": "integer",
    "item": "text", "id": "text",
}  # fmt: skip
SEGMENTS: Mapping[str, Columns] = {"events": EVENT_SEGMENT, "impressions": IMPRESSION_SEGMENT}
HISTORY_EVENT: Columns = {
    "seq": "integer", "id": "text", "item": "text", "time": "integer", "kind": "text", "value": "number",
    "list_id": "text",
}  # fmt: skip
# Columns of what each folder below `output` holds. `rewards` has two outputs; `seq` of a session is the lowest one.
OUTPUTS: Mapping[str, Columns] = {
    "trending": {"item": "text", "bucket": "integer", "score": "number", "n": "integer"},
    "covisits": {"a": "text", "b": "text", "bucket": "integer", "n": "integer"},
    "histories": {"user": "text", "events": [HISTORY_EVENT]},
    "sessions": {
        "user": "text", "bucket": "integer", "first": "integer", "last": "integer", "n": "integer", "seq": "integer",
    },
    "rewards": {
        "list_id": "text", "placement": "text", "version": "integer", "slot": "integer", "item": "text",
        "user": "text", "event_id": "text", "kind": "text", "value": "number", "weight": "number", "time": "integer",
        "seconds": "number",
    },
    "click_through": {"placement": "text", "item": "text", "shown": "integer", "clicked": "integer"},
}  # fmt: skip
# Outputs that are merged into the streamed state; `rewards` is a log for whoever reads its files.
STATE_OUTPUTS = ("trending", "covisits", "histories", "sessions", "click_through")

_POLARS_TYPES: dict[str, Any] = {"text": pl.String, "integer": pl.Int64, "number": pl.Float64}


def polars_schema(columns: Columns) -> dict[str, Any]:
    """Types of polars by column."""
    return {
        name: pl.List(pl.Struct(polars_schema(kind[0]))) if isinstance(kind, list) else _POLARS_TYPES[kind]
        for name, kind in columns.items()
    }


# -- sums that decay --------------------------------------------------------------------------------------------------


def log_score(weight: Any, time: Any, half_life: int) -> Any:
    """Log score of one contribution: log2(weight) + time / half_life.

    weight: above 0. time: microseconds since the epoch. Numbers or numpy arrays, or both expressions of polars.
    """
    if isinstance(weight, pl.Expr):
        return weight.log(2.0) + time / half_life
    return np.log2(weight) + np.asarray(time) / half_life


def merge_log_scores(one: Any, other: Any) -> Any:
    """The log score of two sums together: max + log2(1 + 2**(min - max)); numbers or numpy arrays.

    Minus infinity is the log score of a sum without contributions.
    """
    return np.logaddexp2(one, other)


def sum_log_scores(name: str = "log_score") -> pl.Expr:
    """Aggregation of polars: the log score of all contributions of a group, from the column of their log scores."""
    scores = pl.col(name)
    return (scores.max() + (2.0 ** (scores - scores.max())).sum().log(2.0)).alias(name)


def score_at(log_scores: Any, now: int, half_life: int) -> Any:
    """Values now of sums that decay. now: microseconds since the epoch."""
    return np.exp2(np.asarray(log_scores) - now / half_life)


def trending_log_scores(rows: pl.DataFrame) -> pl.DataFrame:
    """Frame item, log_score, one row an item, of rows of the output `trending`."""
    scores = rows.lazy().filter(pl.col("score") > 0)
    scores = scores.select("item", log_score=pl.col("bucket") + pl.col("score").log(2.0))
    return scores.group_by("item").agg(sum_log_scores()).collect()


def covisit_log_scores(rows: pl.DataFrame) -> pl.DataFrame:
    """Frame item, other, log_score, both directions of each pair, of rows of the output `covisits`."""
    scores = rows.lazy().filter(pl.col("n") > 0, pl.col("a") != pl.col("b"))
    days = pl.col("bucket") * (COVISIT_PERIOD / COVISIT_HALF_LIFE)
    scores = scores.select("a", "b", log_score=days + pl.col("n").log(2.0))
    there = scores.select(pl.col("a").alias("item"), pl.col("b").alias("other"), "log_score")
    back = scores.select(pl.col("b").alias("item"), pl.col("a").alias("other"), "log_score")
    return pl.concat([there, back]).group_by("item", "other").agg(sum_log_scores()).collect()


# -- sessions ---------------------------------------------------------------------------------------------------------


def merge_session_buckets(rows: pl.DataFrame) -> pl.DataFrame:
    """Buckets of sessions (user, bucket, first, last, n), one row a user and bucket."""
    by_bucket = rows.lazy().group_by("user", "bucket")
    return by_bucket.agg(pl.col("first").min(), pl.col("last").max(), pl.col("n").sum()).collect()


def merge_sessions(buckets: pl.DataFrame) -> pl.DataFrame:
    """Sessions (first, last, n) of one user, oldest first, of merged buckets (bucket, first, last, n).

    A gap of SESSION_GAP or more between two events ends a session. Within a bucket no gap is that long, so those
    between buckets decide.
    """
    ordered = buckets.lazy().sort("bucket")
    begins = (pl.col("first") - pl.col("last").shift(1) >= SESSION_GAP).fill_null(True)
    sessions = ordered.with_columns(session=begins.cum_sum()).group_by("session", maintain_order=True)
    merged = sessions.agg(pl.col("first").min(), pl.col("last").max(), pl.col("n").sum())
    return merged.select("first", "last", "n").collect()
