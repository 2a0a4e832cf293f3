"""How fast, and in how much memory, `zy.read` takes in a log of ML-20M's shape.

    python benchmarks/reading.py   # 20 M rows, CSV and Parquet, by time and by user
    python benchmarks/reading.py --rows 1000000 --repeats 1

The log is made (seeded, Zipf items and users, ratings in half stars, unix seconds) and kept in `--folder`.
Every measurement is a fresh process that imports Zhiyin and reads once. `peak` is VmHWM (ru_maxrss would
inherit the parent's), which counts the pages of a mapped file although they can be dropped at any moment;
`own` leaves those out (the highest RssAnon seen, sampled each 20 ms).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

USERS, ITEMS = 138_493, 26_744
TARGETS = {"csv": "≤ 15 s, ≤ 3 GiB", "parquet": "≤ 8 s"}

# Runs in the fresh process. Parameters: the path.
CHILD = """
import json, sys, threading, time
begun = time.perf_counter()
import zhiyin as zy
zy.read
imported = time.perf_counter()
own, done = 0, threading.Event()
def watch():
    global own
    while not done.wait(0.02):
        for line in open("/proc/self/status"):
            if line.startswith("RssAnon"):
                own = max(own, int(line.split()[1]))
threading.Thread(target=watch, daemon=True).start()
data = zy.read(sys.argv[1])
seconds = time.perf_counter() - imported
done.set()
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"seconds": seconds, "import": imported - begun, "peak": peak * 1024, "own": own * 1024,
                  "events": data.n_events, "users": data.n_users, "items": data.n_items}))
"""


def make(folder: Path, rows: int, order: str, seed: int = 7) -> dict[str, Path]:
    """Write the log as CSV and Parquet unless it is there; the paths by format."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: folder / f"ratings-{rows}-{order}.{kind}" for kind in TARGETS}
    if all(path.exists() for path in paths.values()):
        return paths
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame(
        {
            "userId": _zipf(rng, USERS, rows, 0.6),
            "movieId": _zipf(rng, ITEMS, rows, 0.9),
            "rating": (rng.integers(1, 11, rows) / 2).astype(np.float64),
            "timestamp": np.sort(rng.integers(789_652_009, 1_427_784_002, rows)),
        }
    )
    if order == "by-user":
        frame = frame.sort("userId", "timestamp", maintain_order=True)
    frame.write_parquet(paths["parquet"])
    frame.write_csv(paths["csv"])
    return paths


def _zipf(rng: np.random.Generator, n: int, rows: int, power: float) -> np.ndarray:
    """Ids 1..n, each at least once, drawn by a Zipf law whose ranks are dealt to the ids at random."""
    share = np.arange(1, n + 1, dtype=np.float64) ** -power
    drawn = np.searchsorted(np.cumsum(share / share.sum()), rng.random(rows)).clip(0, n - 1)
    drawn[rng.permutation(rows)[:n]] = np.arange(n)[:rows]
    return (rng.permutation(n)[drawn] + 1).astype(np.int64)


def measure(path: Path, repeats: int) -> dict[str, float]:
    """Medians over fresh processes."""
    found = []
    for _ in range(repeats):
        answer = subprocess.run([sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, check=True)
        found.append(json.loads(answer.stdout.splitlines()[-1]))
    return {key: statistics.median(one[key] for one in found) for key in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--order", choices=("both", "by-time", "by-user"), default="both")
    parser.add_argument("--format", choices=("both", *TARGETS), default="both")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "zhiyin-reading")
    asked = parser.parse_args()
    print(f"{asked.rows:,} rows, median of {asked.repeats} fresh processes, {time.strftime('%Y-%m-%d')}\n")
    print("| format | rows stand | seconds | peak GiB | own GiB | target |\n|---|---|---|---|---|---|")
    for order in ("by-time", "by-user") if asked.order == "both" else (asked.order,):
        for kind, path in make(asked.folder, asked.rows, order).items():
            if asked.format in ("both", kind):
                got = measure(path, asked.repeats)
                assert got["events"] == asked.rows, "every row is an event"
                memory = f"{got['peak'] / 2**30:.2f} | {got['own'] / 2**30:.2f}"
                print(f"| {kind} | {order} | {got['seconds']:.1f} | {memory} | {TARGETS[kind]} |", flush=True)


if __name__ == "__main__":
    main()
