"""A TaskManager of Flink killed under load again and again: is every event counted once, and when do results go on?

    python benchmarks/stream_kills.py --kills 20

Needs Java and Flink's Python (ZHIYIN_FLINK_PYTHON). A local cluster runs `trending` and `histories` over segments that
are written all the while, some days late and neighbours in reverse order. In each round the one TaskManager is killed
by SIGKILL at a random moment, and what supervises it (here: this program) starts another at once. The round is over
when an event is committed that was written after the kill; then the load pauses, all must be committed, and each event
is looked for: ids of `histories`, counts and scores of `trending`. One JSON line a kill, one for all.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the load is that of the tests

from tests.engines.flink.stream_load import Committed, Load, wait_until

from zhiyin.engines.flink.flink_python import flink_python
from zhiyin.engines.flink.jobs import JobOptions
from zhiyin.engines.flink.jobs_control import JobsControl
from zhiyin.engines.flink.local_cluster import LocalCluster

JOBS = ("trending", "histories")
# Seconds of load before a kill, at random, from the moment on at which results come.
BEFORE = (0.5, 4.0)
TARGET_SECONDS = 30.0


def kill_once(cluster: LocalCluster, load: Load, committed: Committed, before: float) -> dict[str, Any]:
    """One round. Returns seconds from the kill to a new TaskManager and to new results, and what differs at its end."""

    def last_seq() -> int:
        committed.read()
        return committed.last_seq

    load.resume()
    started = load.written
    wait_until(lambda: last_seq() > started, "results before the kill", alive=lambda: load.running)
    time.sleep(before)
    (taskmanager,) = cluster.state().taskmanagers
    os.kill(taskmanager, signal.SIGKILL)
    killed, written = time.monotonic(), load.written
    wait_until(lambda: not cluster.state().taskmanagers, "the death of the TaskManager")
    cluster.start()
    restarted = time.monotonic() - killed
    # Segments of before the kill may have been renamed after it was counted: two more are on the safe side.
    wait_until(lambda: last_seq() > written + 2 * load.rows, "results after the kill", alive=lambda: load.running)
    seconds = time.monotonic() - killed
    load.pause()
    wait_until(lambda: committed.complete(load.written), "all events")
    return {"taskmanager_s": round(restarted, 1), "new_results_s": round(seconds, 1), "events": load.written,
            "differences": committed.differences(load.written)}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--checkpoint", type=float, default=5.0, help="seconds; the default of [streams]")
    parser.add_argument("--rate", type=int, default=2_000, help="events a second")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    python = flink_python(".venv-flink/bin/python", Path.cwd())
    with tempfile.TemporaryDirectory(prefix="stream-kills-") as folder:
        cluster = LocalCluster(Path(folder) / "cluster", python, slots=4)
        options = JobOptions(Path(folder) / "streams", checkpoint=arguments.checkpoint, parallelism=2)
        load = Load(options.folder, rows=arguments.rate // 5, every=0.2)
        committed = Committed(options.folder)
        rounds = []
        try:
            JobsControl(options, cluster.start(), python, cluster.daemons).start(JOBS)
            for number in range(1, arguments.kills + 1):
                rounds.append(kill_once(cluster, load, committed, rng.uniform(*BEFORE)))
                print(json.dumps({"kill": number, **rounds[-1]}), flush=True)
        finally:
            load.pause()
            cluster.stop()
        orphans = len(cluster.daemons.running())
    exact = sum(not result["differences"] for result in rounds)
    slowest = max(result["new_results_s"] for result in rounds)
    summary = {"kills": len(rounds), "exact": exact, "slowest_s": slowest, "target_s": TARGET_SECONDS,
               "median_s": sorted(result["new_results_s"] for result in rounds)[len(rounds) // 2],
               "events": load.written, "checkpoint_s": arguments.checkpoint, "orphans": orphans}  # fmt: skip
    print(json.dumps(summary))
    return 0 if exact == len(rounds) and slowest <= TARGET_SECONDS and orphans == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
