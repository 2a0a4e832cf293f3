"""Shards that workers write are those of one process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

import zhiyin as zy
from tests.data.thread_group import in_threads
from zhiyin.data.shard_files import ShardManifest
from zhiyin.data.sharded_dataset import read_shards

if TYPE_CHECKING:
    from zhiyin.engines.spark.engine import SparkEngine


def test_workers_write_the_shards_of_one_process(spark: SparkEngine, tmp_path: Path) -> None:
    from zhiyin.engines.spark.reading import read_log
    from zhiyin.engines.spark.shards import write_shards

    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "user": [f"user {n}" for n in rng.integers(0, 60, 3000)],
            "item": rng.integers(0, 40, 3000),
            "time": 1_700_000_000 + rng.integers(0, 500, 3000),
            "kind": rng.choice(["view", "buy", "dislike"], 3000),
            "rating": rng.choice([None, 2.5, -1.0], 3000).astype(float),
        }
    )
    frame.write_parquet(tmp_path / "log.parquet")
    log = read_log(spark, tmp_path / "log.parquet", rows_per_part=500)
    assert len(log.blocks) > 1
    folder = write_shards(spark, log, tmp_path / "workers", 3)
    alone = zy.write_shards(log.data, tmp_path / "alone", 3)

    ours, theirs = ShardManifest.read(folder), ShardManifest.read(alone)
    assert [(shard.rows, shard.users) for shard in ours.shards] == [(s.rows, s.users) for s in theirs.shards]
    assert (ours.kinds, ours.schema, ours.has_values) == (theirs.kinds, theirs.schema, theirs.has_values)
    assert read_shards(folder).fingerprint == log.data.fingerprint
    parts, expected = (in_threads(2, lambda group, at=at: read_shards(at, group=group)) for at in (folder, alone))
    for rank in range(2):
        assert parts[rank].events.equals(expected[rank].events)
