"""A log of 100 M events from files to figures: read, ALS, evaluate; run by `classical.py large`.

python benchmarks/large.py FOLDER THREADS   # the fresh process: reads FOLDER, prints a line for each step
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

PIECE = 5_000_000
JUDGED, FACTORS, SWEEPS = 10_000, 64, 3


def make(folder: Path, events: int, users: int, items: int, seed: int = 5) -> None:
    """Parquet files of PIECE rows, by time: users of long-tailed activity, items of Zipf's popularity."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    busy, liked = (np.cumsum(part) for part in (rng.lognormal(0, 1, users), 1 / (np.arange(items) + 100.0)))
    names = rng.permutation(items)
    for number, begin in enumerate(range(0, events, PIECE)):
        n = min(PIECE, events - begin)
        frame = pl.DataFrame(
            {
                "user_id": np.searchsorted(busy, rng.random(n) * busy[-1]),
                "item_id": names[np.searchsorted(liked, rng.random(n) * liked[-1])],
                "timestamp": 1_600_000_000 + np.sort(rng.integers(begin, begin + n, n)) // 4,
            }
        )
        frame.write_parquet(folder / f"events-{number:03}.parquet")


def peak_gib() -> float:
    """The most memory that this process has had, mapped files counted."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def work(folder: str, threads: int) -> None:
    """The steps, each with its seconds and the peak of memory so far."""
    import zhiyin as zy

    run = zy.Run(threads=threads, progress=False)
    whole = begun = time.perf_counter()

    def step(what: str) -> None:
        nonlocal begun
        print(f"  {what:44} {time.perf_counter() - begun:7.1f} s, peak {peak_gib():5.2f} GiB", flush=True)
        begun = time.perf_counter()

    data = zy.read(folder, run=run)
    step(f"read {data.n_events:,} events")
    last = data.histories.offsets[1:] - 1
    asked = run.rng(9).choice(np.flatnonzero(data.histories.lengths > 5), JUDGED, replace=False)
    held = np.zeros(data.n_events, dtype=bool)
    held[last[asked]] = True
    train, test = data.subset(~held), data.subset(held)
    del data
    step(f"hold out the last event of {JUDGED:,} users")
    model = zy.ALS(factors=FACTORS, epochs=SWEEPS).fit(train, run)
    step(f"ALS, {FACTORS} factors, {SWEEPS} sweeps")
    found = zy.evaluate({"als": model}, train, test, k=10, baselines=False, run=run)
    step(f"evaluate, NDCG@10 {found['als'].metrics['ndcg@10']:.4f}")
    print(f"  all: {time.perf_counter() - whole:.0f} s, peak {peak_gib():.2f} GiB")


def large(events: int, users: int, items: int, threads: int) -> None:
    """Make the files, and do the work in a fresh process."""
    folder = Path(tempfile.mkdtemp(prefix="zhiyin-large-"))
    try:
        make(folder, events, users, items)
        size = sum(path.stat().st_size for path in folder.iterdir()) / 2**30
        print(f"{events:,} events of {users:,} users and {items:,} items, {size:.2f} GiB of Parquet, {threads} threads")
        subprocess.run([sys.executable, __file__, str(folder), str(threads)], check=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]))
