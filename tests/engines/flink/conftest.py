"""All jobs, run once by Flink over a planted log. Without Java, or without Flink, its tests skip and say so."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from tests.engines.flink import planted_log
from tests.engines.flink.stream_load import need_flink
from zhiyin.engines.flink.jobs import JOBS, JobOptions, submission
from zhiyin.engines.flink.local_jobs import LocalJobs
from zhiyin.store import stream_definitions as definitions

SEGMENT_ROWS = 100
# Seconds until all that was written has been read and committed.
DEADLINE = 240.0


@dataclass
class StreamedLog:
    """A planted log, and the folder in which all jobs have written what they made of it."""

    folder: Path
    events: pl.DataFrame
    impressions: pl.DataFrame


def wait_for_output(jobs: LocalJobs, folder: Path, totals: dict[str, int]) -> None:
    """Wait until each output has committed this much, or too much."""
    deadline = time.monotonic() + DEADLINE
    waiting = dict(totals)
    while waiting:
        jobs.check()
        waiting = {n: t for n, t in waiting.items() if planted_log.total(n, planted_log.output(folder, n)) < t}
        assert time.monotonic() < deadline, f"not committed in time: {waiting}"
        time.sleep(0.2)


@pytest.fixture(scope="session")
def streamed_log(tmp_path_factory: pytest.TempPathFactory) -> StreamedLog:
    """The first segments are there before the jobs; the rest comes late, after a restart from savepoints."""
    python = need_flink()
    folder = tmp_path_factory.mktemp("streams it's 流")
    options = JobOptions(folder, checkpoint=1.0, parallelism=2)
    events = planted_log.planted_events(1500)
    impressions = planted_log.planted_impressions(events)
    robot = (definitions.MAX_COVISIT_ITEMS * (definitions.MAX_COVISIT_ITEMS - 1)) // 2

    def totals(events: pl.DataFrame, impressions: pl.DataFrame) -> dict[str, int]:
        expected = planted_log.expected(events, impressions)
        by_name = {
            name: len(rows) if name in ("histories", "rewards") else planted_log.total(name, rows)
            for name, rows in expected.items()
        }
        return by_name | {"covisits": by_name["covisits"] + robot}

    # Late are segments of any number but those of the robot, whose items that take part are the ones that came first.
    n_segments = -(-len(events) // SEGMENT_ROWS)
    late = [n for n in range(n_segments) if n % 4 == 1]
    early = [n for n in range(n_segments) if n % 4 != 1][::-1]
    of_early = pl.concat([events[n * SEGMENT_ROWS : (n + 1) * SEGMENT_ROWS] for n in early])
    assert (of_early["user"] == planted_log.ROBOT).sum() > definitions.MAX_COVISIT_ITEMS * 0.7
    planted_log.write_segments(folder, "events", events, SEGMENT_ROWS, early)
    planted_log.write_segments(folder, "impressions", impressions[:130], 50, [2, 0, 1])
    before = totals(of_early, impressions[:130])
    robot_early = min(int((of_early["user"] == planted_log.ROBOT).sum()), definitions.MAX_COVISIT_ITEMS)
    before["covisits"] += robot_early * (robot_early - 1) // 2 - robot
    with LocalJobs(python, submission(JOBS, options, None), folder / "logs") as jobs:
        wait_for_output(jobs, folder, before)
        savepoints = jobs.stop(folder / "savepoints")
    with LocalJobs(python, submission(JOBS, options, None, savepoints), folder / "logs") as jobs:
        planted_log.write_segments(folder, "events", events, SEGMENT_ROWS, late)
        planted_log.write_segments(folder, "impressions", impressions, 65, [4, 3, 2])
        wait_for_output(jobs, folder, totals(events, impressions))
        jobs.stop(folder / "savepoints")
    return StreamedLog(folder, events, impressions)
