"""Events a second of the jobs of Apache Flink, on one machine.

    python benchmarks/streams.py speed WORK                              # all jobs but rewards, from segment files
    python benchmarks/streams.py speed WORK --input datagen --job trending --job covisits
    python benchmarks/streams.py speed WORK --events 4000000 --set state.backend.type=rocksdb

Needs Java and Flink's Python (ZHIYIN_FLINK_PYTHON). WORK is a folder for the events, which are made once: 100,000 users
(lognormal activity), 20,000 items (Zipf's popularity, exponent .9), 30 days. Each job runs twice, on a cluster
in one process with two parallel tasks and a checkpoint every 5 s, over `--events` and over twice as many:

| key | meaning |
|---|---|
| job_s | seconds of the job by Flink's own count, from submission to the last commit |
| wall_s | seconds with the start of Python and Java and the planning of the SQL |
| events_per_s | events / job_s |
| events_per_s_between | events / the seconds that the longer run takes more: the rate without what a start costs |
| committed | events that the output has: a job that ends leaves out the windows of its last second |

"files" reads and writes JSON lines as in production. "datagen" makes the events in Flink and writes nothing: the rate
of the SQL alone. Figures are printed as JSON, a line each. Kills are measured by stream_kills.py.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.durations import UNITS
from zhiyin.engines.flink.flink_python import PYTHON_VARIABLE, flink_python
from zhiyin.engines.flink.jobs import JobOptions, submission
from zhiyin.engines.flink.local_jobs import LocalJobs

USERS, ITEMS, DAYS = 100_000, 20_000, 30
START = 1_760_000_000_000_000 // UNITS["d"] * UNITS["d"]
SEGMENT_ROWS = 250_000
JOBS = ("trending", "covisits", "histories", "sessions")
# Target of events a second of a job, from files, two cores.
TARGETS = {"trending": 150_000, "covisits": 60_000, "histories": 40_000}
SECONDS = 3600.0


def write_segments(folder: Path, events: int) -> list[Path]:
    """Segments of this many events, made unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    activity = rng.lognormal(0, 1, USERS)
    popularity = (np.arange(ITEMS) + 1.0) ** -0.9
    moments = np.sort(rng.integers(0, DAYS * UNITS["d"], events)) + START
    paths = []
    for first in range(0, events, SEGMENT_ROWS):
        time_of = moments[first : first + SEGMENT_ROWS]
        count = len(time_of)
        users = rng.choice(USERS, count, p=activity / activity.sum())
        items = rng.choice(ITEMS, count, p=popularity / popularity.sum())
        path = folder / f"events-{first + 1:020}-{first + count:020}-{count}.jsonl"
        paths.append(path)
        if path.exists():
            continue
        seq = pl.int_range(first + 1, first + count + 1, dtype=pl.Int64, eager=True)
        pl.DataFrame({
            "seq": seq, "id": pl.select(pl.format("event-{}", seq)).to_series(),
            "user": pl.select(pl.format("user-{}", pl.Series(users))).to_series(),
            "item": pl.select(pl.format("item-{}", pl.Series(items))).to_series(),
            "time": time_of, "received": time_of + rng.integers(0, 5 * UNITS["s"], count),
        }).with_columns(
            kind=pl.lit("view"), value=pl.lit(None, pl.Float64), list_id=pl.lit(None, pl.String), weight=pl.lit(1.0)
        ).write_ndjson(path.with_name(f".{path.name}"))  # fmt: skip
        os.replace(path.with_name(f".{path.name}"), path)
    return paths


def generated(statements: list[str], events: int) -> list[str]:
    """The statements of a job with events of Flink's generator as its input, and no output."""
    result = []
    for statement in statements:
        if not statement.startswith("CREATE TEMPORARY TABLE"):
            result.append(statement)
        elif statement.split()[3] == "events":
            result += [
                f"""CREATE TEMPORARY TABLE generated (n BIGINT, u INT, i INT) WITH (
                    'connector' = 'datagen', 'fields.n.kind' = 'sequence', 'fields.n.start' = '1',
                    'fields.n.end' = '{events}', 'fields.u.min' = '1', 'fields.u.max' = '{USERS}',
                    'fields.i.min' = '1', 'fields.i.max' = '{ITEMS}')""",
                f"""CREATE TEMPORARY VIEW events AS SELECT n AS seq, CAST(n AS STRING) AS id,
                    CAST(u AS STRING) AS `user`,
                    CAST(i AS STRING) AS item, {START} + n * {DAYS * UNITS["d"] // events} AS `time`,
                    {START} + n * {DAYS * UNITS["d"] // events} AS received, 'view' AS kind,
                    CAST(NULL AS DOUBLE) AS `value`, CAST(NULL AS STRING) AS list_id, 1e0 AS weight,
                    PROCTIME() AS arrived FROM generated""",
            ]
        else:
            result.append(re.sub(r"\) WITH \(.*", ") WITH ('connector' = 'blackhole')", statement, flags=re.DOTALL))
    return result


def committed_events(job: str, folder: Path) -> int | None:
    """How many events the output of a job stands for; None: it does not say so."""
    if job == "covisits":
        return None
    rows = pl.scan_ndjson(folder / "output" / job / "part-*")
    return int(
        rows.select(pl.col("events").list.len().sum() if job == "histories" else pl.col("n").sum()).collect().item()
    )


def run_job(job: str, folder: Path, events: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One run of a job over this many events."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "events").mkdir(parents=True)
    settings = dict(pair.split("=", 1) for pair in arguments.set)
    options = JobOptions(folder, checkpoint=arguments.checkpoint, bounded=True, parallelism=2, settings=settings)
    request = submission([job], options, None)
    if arguments.input == "files":
        for path in write_segments(arguments.work / f"segments-{2 * arguments.events}", 2 * arguments.events)[
            : -(-events // SEGMENT_ROWS)
        ]:
            os.link(path, folder / "events" / path.name)
    else:
        request["jobs"][0]["statements"] = generated(request["jobs"][0]["statements"], events)
    began = time.monotonic()
    with LocalJobs(arguments.python, request, folder / "logs", arguments.java) as jobs:
        seconds = jobs.wait(SECONDS)[job]
    figures = {"job": job, "input": arguments.input, "events": events, "job_s": round(seconds, 1),
               "wall_s": round(time.monotonic() - began, 1), "events_per_s": round(events / seconds)}  # fmt: skip
    if arguments.input == "files":
        figures["committed"] = committed_events(job, folder)
    shutil.rmtree(folder)
    return figures


def speed(arguments: argparse.Namespace) -> None:
    """Each job over two numbers of events."""
    for job in arguments.job or JOBS:
        runs = [run_job(job, arguments.work / "run", n * arguments.events, arguments) for n in (1, 2)]
        seconds = runs[1]["job_s"] - runs[0]["job_s"]
        # Nothing can be said where the longer run was not longer: the machine had other work.
        further = round(arguments.events / seconds) if seconds > 1 else None
        for run in runs:
            print(json.dumps(run), flush=True)
        print(json.dumps({"job": job, "input": arguments.input, "events_per_s_between": further,
                          "target": TARGETS.get(job)}), flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("speed", help="events a second")
    command.add_argument("work", type=Path)
    command.add_argument(
        "--events", type=int, default=2_000_000, help="a multiple of 250,000; the longer run has twice as many"
    )
    command.add_argument("--input", choices=("files", "datagen"), default="files")
    command.add_argument("--job", action="append", choices=JOBS)
    command.add_argument("--checkpoint", type=float, default=5.0, help="seconds")
    command.add_argument("--java", default="-Xmx4g -XX:+UseParallelGC", help="options of the JVM")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an option of Flink")
    command.add_argument("--python", type=Path, help=f"of Flink's environment; default {PYTHON_VARIABLE}, .venv-flink")
    arguments = parser.parse_args()
    arguments.python = arguments.python or flink_python(".venv-flink/bin/python", Path(__file__).parents[1])
    arguments.work = arguments.work.absolute()
    if arguments.events % SEGMENT_ROWS:
        sys.exit(f"--events {arguments.events} is no multiple of {SEGMENT_ROWS}")
    speed(arguments)


if __name__ == "__main__":
    main()
