"""What streaming jobs make of segments, computed by Polars: the same rows as their SQL, for tests without Flink.

    write_results(folder, windows=3)           # of folder/events, in files below folder/output

Events are read in an order that is none of theirs and come in several windows, as they do to a job.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from zhiyin.store.segment_files import listed_segments
from zhiyin.store.stream_definitions import (
    COVISIT_PERIOD,
    EVENT_SEGMENT,
    HISTORY_EVENT,
    MAX_COVISIT_ITEMS,
    OUTPUTS,
    TRENDING_HALF_LIFE,
    polars_schema,
)


def read_events(folder: Path) -> pl.DataFrame:
    """All events of the segments below the folder of streams."""
    schema = polars_schema(EVENT_SEGMENT)
    paths = [folder / "events" / segment.name for segment in listed_segments(folder, "events")]
    return pl.concat([pl.DataFrame(schema=schema), *(pl.read_ndjson(path, schema=schema) for path in paths)])


def trending_rows(events: pl.DataFrame) -> pl.DataFrame:
    """Rows of `trending`. events: of segments, with a column `window`."""
    time = pl.min_horizontal("time", "received")
    weighed = events.filter(pl.col("weight") > 0).with_columns(bucket=time // TRENDING_HALF_LIFE, t=time)
    age = (pl.col("t") - pl.col("bucket") * TRENDING_HALF_LIFE) / TRENDING_HALF_LIFE
    return weighed.group_by("window", "item", "bucket").agg(
        score=(pl.col("weight") * 2.0**age).sum(), n=pl.len().cast(pl.Int64)
    )


def covisit_rows(events: pl.DataFrame) -> pl.DataFrame:
    """Rows of `covisits`: a pair is in the window in which the later of its items came."""
    day = pl.min_horizontal("time", "received") // COVISIT_PERIOD
    visits = events.filter(pl.col("weight") > 0).select("user", "item", "window", bucket=day)
    visits = visits.unique(["user", "bucket", "item"], keep="first", maintain_order=True)
    visits = visits.filter(pl.int_range(pl.len()).over("user", "bucket") < MAX_COVISIT_ITEMS)
    pairs = visits.join(visits, on=["user", "bucket"]).filter(pl.col("item") < pl.col("item_right"))
    pairs = pairs.with_columns(a="item", b="item_right", window=pl.max_horizontal("window", "window_right"))
    return pairs.group_by("window", "a", "b", "bucket").agg(n=pl.len().cast(pl.Int64))


def history_rows(events: pl.DataFrame) -> pl.DataFrame:
    """Rows of `histories`."""
    return events.group_by("window", "user").agg(events=pl.struct(*HISTORY_EVENT))


_ROWS = {"trending": trending_rows, "covisits": covisit_rows, "histories": history_rows}


def write_results(folder: Path, windows: int = 3, seed: int = 0) -> None:
    """Write what the jobs `trending`, `covisits` and `histories` make of all segments, a file for each window."""
    events = read_events(folder).sample(fraction=1.0, shuffle=True, seed=seed)
    events = events.with_columns(window=pl.int_range(pl.len()) * windows // max(1, len(events)))
    for output, rows_of in _ROWS.items():
        rows = rows_of(events)
        part = folder / "output" / output
        part.mkdir(parents=True, exist_ok=True)
        for window in range(windows):
            of_window = rows.filter(pl.col("window") == window).select(*OUTPUTS[output])
            of_window.write_ndjson(part / f"part-{seed}-{window}")
