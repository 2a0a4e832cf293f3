"""A log in shards, written on the workers: each block of users goes to the shards of its users."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.atomic_folders import whole_folder
from zhiyin.core.run import Run
from zhiyin.data.shard_files import (
    Part,
    Shard,
    checked_shards,
    finish_folder,
    refuse_foreign,
    rows_by_shard,
    shard_folder,
    shard_numbers,
    stored_events,
    with_raw_ids,
    write_part,
)
from zhiyin.engines.array_files import read_array, read_frame, write_array, write_frame
from zhiyin.engines.spark.engine import SparkEngine
from zhiyin.engines.spark.event_log import EventLog, block_name


def write_shards(engine: SparkEngine, log: EventLog, folder: str | Path, n_shards: int, run: Run | None = None) -> Path:
    """As `zhiyin.write_shards`, on the workers, which must see the folder: a part for each block and shard.

    Parts are named by the blocks of users, in whose order the events of a data set are.
    """
    folder, n_shards, run = Path(folder).resolve(), checked_shards(n_shards), run or Run()
    refuse_foreign(folder)
    data, tables = log.data, engine.new_folder("shards")
    write_frame(tables / "users.arrow", data.users.select("id"))
    write_frame(tables / "items.arrow", data.items.select("id"))
    stored = stored_events(data)
    if stored is not None:
        write_array(tables / "stored.npy", stored)
    firsts = data.histories.offsets[log.blocks.bounds[:-1]].tolist()
    with whole_folder(folder) as draft:
        for shard in range(n_shards):
            (draft / shard_folder(shard, n_shards)).mkdir(parents=True)
        write = partial(_write_block, str(log.blocks.folder), str(tables), str(draft), n_shards, list(data.kinds))
        tasks = [(*task, first) for task, first in zip(log.blocks.tasks, firsts)]
        written = engine.run_tasks(write, tasks, run, "Writing shards")
        parts: list[list[Part]] = [[] for _ in range(n_shards)]
        for block in written:  # in the order of the tasks, whatever order they ended in
            for shard, *part in block:
                parts[shard].append(Part(*part))
        with_events = data.user_ids.values.filter(pl.Series(data.histories.lengths > 0))
        users = np.bincount(shard_numbers(with_events, n_shards), minlength=n_shards)
        finish_folder(draft, data, [Shard(int(n), tuple(own)) for n, own in zip(users, parts)])
    engine.remove(tables)
    return folder


def _write_block(
    blocks: str, tables: str, out: str, n_shards: int, kinds: list[str], task: tuple[int, int, int, int]
) -> list[Any]:
    """Write the events of a block into the shards of their users; [shard, path, rows, digest] of each part."""
    block, start, stop, first = task
    events = read_frame(Path(blocks) / f"{block_name(block)}.arrow")
    users, items = (read_frame(Path(tables) / f"{name}.arrow")["id"] for name in ("users", "items"))
    stored = Path(tables) / "stored.npy"
    columns = {
        "kind": pl.Series(kinds, dtype=pl.Enum(kinds)).gather(events["kind"]),
        "value": events["value"].fill_nan(None),
    }
    rows = with_raw_ids(events.with_columns(**columns), users, items)
    if stored.exists():
        rows = rows.with_columns(stored=pl.Series(read_array(stored)[first : first + len(rows)]))
    of_user = shard_numbers(users[start:stop], n_shards)
    parts = []
    for shard, mine in rows_by_shard(of_user[events["user"].to_numpy() - start]):
        path = f"{shard_folder(shard, n_shards)}/part-{block:06}.parquet"
        part = write_part(Path(out), path, rows[mine])
        parts.append([shard, part.path, part.rows, part.digest])
    return parts
