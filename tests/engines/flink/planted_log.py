"""A small log with all that may go wrong in it, and what the jobs must make of it, by polars."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.durations import UNITS
from zhiyin.store import stream_definitions as definitions

NOW = 1_764_500_000_000_000
ITEMS = [
    "plain", "it's", 'say "hi"', "`tick`", "back\\slash", "new\nline", "tab\there", "semi;colon", "-- comment", "物品",
    "${folder}", "ночь", "😀", "\u2028", "e\u0301", "é", "", " ", "null", "0", "a", "A", "ab", "%s", "{}", "<b>",
    "\x7f", "𝔘",
]  # fmt: skip
USERS = [*(f"u{n}" for n in range(20)), "o'hara", 'u"x', "用户", "line\nbreak"]
ROBOT = "robot"
ROBOT_ITEMS = definitions.MAX_COVISIT_ITEMS + 37
KINDS = ("view", "click", "it's")


def planted_events(count: int, seed: int = 7) -> pl.DataFrame:
    """Events of people over six days and before 1970, and of a robot that meets more items than take part in pairs."""
    rng = np.random.default_rng(seed)
    time = NOW - rng.integers(0, 6 * UNITS["d"], count)
    edges = [-1, 0, 1, -definitions.TRENDING_HALF_LIFE, -definitions.SESSION_GAP - 1, definitions.SESSION_GAP]
    time[: len(edges)] = edges
    # Times on the edge of buckets.
    whole = slice(len(edges), len(edges) + 60)
    time[whole] = time[whole] // definitions.SESSION_GAP * definitions.SESSION_GAP + rng.integers(-1, 2, 60)
    received = time + rng.choice([0, 0, 1, -1, UNITS["s"], -3 * UNITS["h"], 2 * UNITS["d"]], count)
    values = rng.choice([0.1, -2.5, 1e-300, 1e15, 0.0, 1 / 3], count)
    rows: list[dict[str, Any]] = [
        {
            "user": USERS[rng.integers(len(USERS))], "item": ITEMS[rng.integers(len(ITEMS))], "time": int(time[n]),
            "received": int(received[n]), "kind": KINDS[rng.integers(len(KINDS))],
            "value": None if n % 3 else float(values[n]), "list_id": None if n % 2 else f"list '{rng.integers(40)}",
            "weight": float(rng.choice([-1.0, 0.0, 0.3, 1.0, 2.5])),
        }
        for n in range(count)
    ]  # fmt: skip
    day = NOW // UNITS["d"] * UNITS["d"]
    rows += [
        {"user": ROBOT, "item": f"r{n}", "time": day + n, "received": day + n, "kind": "view", "value": None,
         "list_id": None, "weight": 1.0}
        for n in range(ROBOT_ITEMS)
    ]  # fmt: skip
    order = rng.permutation(len(rows))
    frame = pl.DataFrame([rows[n] for n in order], infer_schema_length=None)
    frame = frame.with_columns(seq=pl.int_range(1, len(rows) + 1, dtype=pl.Int64))
    frame = frame.with_columns(id=pl.format("e'{}", pl.col("seq")))
    return frame.select(list(definitions.EVENT_SEGMENT)).cast(definitions.polars_schema(definitions.EVENT_SEGMENT))


def planted_impressions(events: pl.DataFrame, seed: int = 8) -> pl.DataFrame:
    """Lists of six items; many of their events are exactly at the ends of the time in which events count."""
    rng = np.random.default_rng(seed)
    rows = []
    of_lists = events.filter(pl.col("list_id").is_not_null()).rows(named=True)
    offsets = [0, 1, -1, definitions.REWARD_WINDOW, definitions.REWARD_WINDOW + 1, UNITS["h"]]
    for number in range(44):  # four lists have no event
        list_id = f"list '{number}"
        of_list = [event for event in of_lists if event["list_id"] == list_id]
        time = of_list[0]["time"] - offsets[number % len(offsets)] if of_list else NOW
        items = list(dict.fromkeys([event["item"] for event in of_list[:3]] + [ITEMS[n] for n in rng.permutation(28)]))
        for slot, item in enumerate(items[:6], start=1):
            rows.append({
                "list_id": list_id, "placement": f"place '{number % 3}", "version": number % 2 + 1,
                "user": None if number % 4 == 0 else USERS[number % len(USERS)], "time": time, "slot": slot,
                "item": item, "id": f"{list_id}:{slot}",
            })  # fmt: skip
    schema = definitions.polars_schema(definitions.IMPRESSION_SEGMENT)
    return pl.DataFrame(rows, infer_schema_length=None).select(list(schema)).cast(schema)


def write_segments(folder: Path, name: str, rows: pl.DataFrame, size: int, order: Sequence[int]) -> None:
    """Write rows as segments of `size` rows in this order of segments, as an exporter does: hidden, then renamed."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    for part in order:
        segment = rows[part * size : (part + 1) * size]
        first, last = part * size + 1, part * size + len(segment)
        draft = folder / name / f".{name}-{first}"
        lines = [json.dumps(row, ensure_ascii=n % 2 == 0) for n, row in enumerate(segment.rows(named=True))]
        draft.write_text("".join(line + "\n" for line in lines), "utf-8")
        os.replace(draft, folder / name / f"{name}-{first:020}-{last:020}-{len(segment)}.jsonl")


def output(folder: Path, name: str) -> pl.DataFrame:
    """All rows that were committed to an output."""
    schema = definitions.polars_schema(definitions.OUTPUTS[name])
    files = [file for file in (folder / "output" / name).glob("**/[!._]*") if file.is_file() and file.stat().st_size]
    return pl.concat([pl.DataFrame(schema=schema), *(pl.read_ndjson(file, schema=schema) for file in sorted(files))])


def expected(events: pl.DataFrame, impressions: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """What each output has, summed up; covisits without those of the robot."""
    t = pl.min_horizontal("time", "received")
    positive = events.filter(pl.col("weight") > 0).with_columns(t=t)
    half_life, day, gap = definitions.TRENDING_HALF_LIFE, definitions.COVISIT_PERIOD, definitions.SESSION_GAP
    bucket = (pl.col("t") // half_life).alias("bucket")
    elapsed = (pl.col("t") - pl.col("t") // half_life * half_life) / half_life
    trending = positive.group_by("item", bucket).agg(
        score=(pl.col("weight") * 2.0**elapsed).sum(), n=pl.len().cast(pl.Int64)
    )
    visits = positive.filter(pl.col("user") != ROBOT).select("user", "item", bucket=pl.col("t") // day).unique()
    covisits = (
        visits.join(visits, on=["user", "bucket"])
        .filter(pl.col("item") < pl.col("item_right"))
        .group_by(a="item", b="item_right", bucket="bucket")
        .agg(n=pl.len().cast(pl.Int64))
    )
    histories = events.select("user", *definitions.HISTORY_EVENT)
    sessions = (
        events.with_columns(t=t)
        .group_by("user", bucket=pl.col("t") // gap)
        .agg(first=pl.col("t").min(), last=pl.col("t").max(), n=pl.len().cast(pl.Int64), seq=pl.col("seq").min())
    )
    joined = impressions.join(events, on=["list_id", "item"], suffix="_event")
    later = pl.col("time_event") - pl.col("time")
    joined = joined.filter(later.is_between(0, definitions.REWARD_WINDOW))
    seconds = (
        joined["time_event"] - joined["time"]
    ).to_numpy() / 1e6  # polars multiplies by the reciprocal, almost 1e-6
    rewards = joined.select(
        "list_id", "placement", "version", "slot", "item", "user_event", "id_event", "kind", "value", "weight",
        "time_event", pl.Series("seconds", seconds),
    )  # fmt: skip
    rewards.columns = list(definitions.OUTPUTS["rewards"])
    clicked = joined.select("list_id", "item").unique().with_columns(clicked=pl.lit(1, pl.Int64))
    click_through = (
        impressions.join(clicked, on=["list_id", "item"], how="left")
        .group_by("placement", "item")
        .agg(shown=pl.len().cast(pl.Int64), clicked=pl.col("clicked").fill_null(0).sum())
    )
    return {
        "trending": trending, "covisits": covisits, "histories": histories, "sessions": sessions, "rewards": rewards,
        "click_through": click_through,
    }  # fmt: skip


def summed(name: str, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of an output put together as whoever reads them does."""
    match name:
        case "trending":
            return rows.group_by("item", "bucket").agg(pl.col("score").sum(), pl.col("n").sum())
        case "covisits":
            return rows.group_by("a", "b", "bucket").agg(pl.col("n").sum())
        case "histories":
            return rows.explode("events").unnest("events")
        case "sessions":
            return rows.group_by("user", "bucket").agg(
                pl.col("first").min(), pl.col("last").max(), pl.col("n").sum(), pl.col("seq").min()
            )
        case "click_through":
            return rows.group_by("placement", "item").agg(pl.col("shown").sum(), pl.col("clicked").sum())
    return rows


def total(name: str, rows: pl.DataFrame) -> int:
    """What grows with every event that an output has, and with nothing else."""
    match name:
        case "histories":
            return int(rows["events"].list.len().sum())
        case "rewards":
            return len(rows)
        case "click_through":
            return int(rows["shown"].sum() + rows["clicked"].sum())
    return int(rows["n"].sum())
