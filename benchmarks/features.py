"""Point-in-time features of 1 M events × 200 candidates: seconds, rows a second, and the most memory held.

    python benchmarks/features.py                       # 1,000,000 requests of 200 candidates each: 200 M rows
    python benchmarks/features.py --events 200000

The log is that of `benchmarks/request.py`: every event is a request, with the user's history before it, and 200 random
candidates of 50,000 items with a category and a price. Rows are made a chunk of requests at a time and thrown away, as
training would read them. Compiled before the clock starts.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

import zhiyin as zy
from request import shop
from zhiyin.ranking.examples import Candidates
from zhiyin.ranking.feature_builder import FeatureBuilder, training_requests

CHUNK = 2_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--candidates", type=int, default=200)
    given = parser.parse_args()
    run, each = zy.Run(), given.candidates
    data = shop(50_000, 50_000, given.events)
    rng = run.rng(1)
    begun = time.perf_counter()
    builder = FeatureBuilder.learn(data, run=run)
    requests = training_requests(data, cut=0.0, max_requests=None)
    print(f"{data.n_events:,} events, index learned in {time.perf_counter() - begun:.1f} s", flush=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def part(start: int, stop: int) -> int:
        n = stop - start
        items = rng.integers(0, data.n_items, n * each).astype(np.int32)
        asked = Candidates(np.arange(n + 1, dtype=np.int64) * each, items, (), np.zeros((n * each, 0), np.float32),
                           np.zeros((n * each, 0), np.int32))  # fmt: skip
        return builder.build(requests.histories(start, stop), asked, run=run).numbers.shape[1]

    columns = part(0, 100)
    begun = time.perf_counter()
    for start in range(0, len(requests), CHUNK):
        part(start, min(start + CHUNK, len(requests)))
    seconds, rows = time.perf_counter() - begun, len(requests) * each
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{len(requests):,} requests × {each} candidates, {columns} numbers a row: {seconds:.0f} s, "
          f"{rows / seconds / 1e6:.2f} M rows/s, memory {most / 2**20:.2f} GiB at most, "
          f"{(most - before) / 2**20:.2f} GiB of it for the rows")  # fmt: skip


if __name__ == "__main__":
    main()
