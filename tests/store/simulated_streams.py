"""What the streaming jobs make of segments, by polars: for tests of all that comes before and after them."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from zhiyin.store.segment_files import Segment, listed_segments
from zhiyin.store.stream_definitions import (
    COVISIT_PERIOD,
    EVENT_SEGMENT,
    HISTORY_EVENT,
    OUTPUTS,
    SESSION_GAP,
    TRENDING_HALF_LIFE,
    polars_schema,
)


def commit_outputs(folder: Path, segments: list[Segment] | None = None, part: str = "part-0") -> None:
    """Write the results for these segments of events (None: all) as one committed file of each output."""
    chosen = listed_segments(folder, "events") if segments is None else segments
    schema = polars_schema(EVENT_SEGMENT)
    events = pl.concat([pl.read_ndjson(folder / "events" / one.name, schema=schema) for one in chosen])
    for output, rows in outputs_of(events).items():
        target = folder / "output" / output
        target.mkdir(parents=True, exist_ok=True)
        rows.select(*OUTPUTS[output]).write_ndjson(target / part)


def outputs_of(events: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Rows of the outputs trending, covisits, histories and sessions: one window holds all of these events."""
    events = events.with_columns(t=pl.min_horizontal("time", "received"))
    worth = events.filter(pl.col("weight") > 0)
    age = (pl.col("t") % TRENDING_HALF_LIFE) / TRENDING_HALF_LIFE
    trending = worth.group_by("item", bucket=pl.col("t") // TRENDING_HALF_LIFE).agg(
        score=(pl.col("weight") * 2.0**age).sum(), n=pl.len().cast(pl.Int64)
    )
    visits = worth.select("user", "item", bucket=pl.col("t") // COVISIT_PERIOD).unique()
    pairs = visits.join(visits, on=["user", "bucket"]).filter(pl.col("item") < pl.col("item_right"))
    covisits = pairs.group_by(a="item", b="item_right", bucket="bucket").agg(n=pl.len().cast(pl.Int64))
    histories = events.group_by("user").agg(events=pl.struct(*HISTORY_EVENT))
    sessions = events.group_by("user", bucket=pl.col("t") // SESSION_GAP).agg(
        pl.col("t").min().alias("first"), pl.col("t").max().alias("last"), pl.len().cast(pl.Int64).alias("n"),
        pl.col("seq").min(),
    )  # fmt: skip
    return {"trending": trending, "covisits": covisits, "histories": histories, "sessions": sessions}
