"""Sessions on Spark: each block of users in a task; their tables are joined by file."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import polars as pl

from zhiyin.core.atomic_files import whole_file
from zhiyin.core.run import Run
from zhiyin.data.sessions import gap_length, named, table_of_sessions
from zhiyin.engines.array_files import read_frame, write_frame
from zhiyin.engines.spark.engine import SparkEngine
from zhiyin.engines.spark.event_log import EventLog, block_name


def write_sessions(
    engine: SparkEngine, log: EventLog, output: str | os.PathLike[str], gap: str = "30m", run: Run | None = None
) -> int:
    """Write `zhiyin.data.sessions.sessions` of a log as one Parquet file. Returns the number of sessions.

    The tables of the blocks are streamed into the file: they are never all in memory.
    """
    length = gap_length(log.data, gap)
    folder = engine.new_folder("sessions")
    write_frame(folder / "ids.arrow", log.data.user_ids.values.to_frame("id"))
    task = partial(_sessions_of_block, str(log.blocks.folder), str(folder), length)
    counts = engine.run_tasks(task, range(len(log.blocks)), run or Run(), "Sessions")
    files = [folder / f"{block_name(block)}.sessions" for block in range(len(log.blocks))]
    with whole_file(Path(output)) as draft:
        pl.scan_ipc(files).sink_parquet(draft)
    engine.remove(folder)
    return sum(counts)


# -- on the workers ----------------------------------------------------------------------------------------------------


def _sessions_of_block(events: str, folder: str, gap: int, block: int) -> int:
    place = Path(folder)
    table = table_of_sessions(read_frame(Path(events) / f"{block_name(block)}.arrow"), gap)
    write_frame(place / f"{block_name(block)}.sessions", named(table, read_frame(place / "ids.arrow")["id"]))
    return len(table)
