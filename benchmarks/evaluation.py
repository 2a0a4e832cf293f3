"""How long it takes to rank the whole catalogue for many users: 100,000 users × 25,000 items, top 100.

    python benchmarks/evaluation.py            # ALS (64) and EASE
    python benchmarks/evaluation.py --users 10000 --models EASE

What is timed is `model.rank(histories, 100, exclude=histories)`, which is what `zy.evaluate` spends its time
in: scoring, leaving out what was seen, the best 100. Histories have about 100 events each and long-tailed
items. The models' learned state is random (EASE: a dense weight matrix, ALS: item vectors), made directly and
not fitted: the time depends on its shape only. Dense scores are made in chunks of `CHUNK_BYTES`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).parent))
from logs import log_of
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.models.als import ALS
from zhiyin.models.linear import EASE
from zhiyin.models.recommender import CHUNK_BYTES, Recommender
from zhiyin.models.training_context import TrainingContext

TARGETS = {"ALS": 30, "EASE": 120}


def made(name: str, data: Dataset, run: Run) -> Recommender:
    """A model in the state that fitting would leave, with random numbers in it."""
    rng = np.random.default_rng(5)
    model: Recommender
    if name == "ALS":
        model = als = ALS(factors=64)
        als.item_vectors_ = (rng.standard_normal((data.n_items, 64), dtype=np.float32) * 0.1)  # fmt: skip
        als.gram_ = als.item_vectors_.T @ als.item_vectors_
    else:
        model = ease = EASE()
        ease.weights_ = rng.standard_normal((data.n_items, data.n_items), dtype=np.float32)
    model.context_ = TrainingContext.of(data, run)  # type: ignore[misc]
    return model


def peak() -> float:
    """Peak resident memory of this process, GiB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=25_000)
    parser.add_argument("--events", type=int, default=140, help="draws a user, before repeats are taken out")
    parser.add_argument("--models", nargs="+", default=["ALS", "EASE"], choices=list(TARGETS))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=Run().n_threads)
    asked = parser.parse_args()
    run = Run(threads=asked.threads)
    log = log_of(asked.users, asked.items, asked.users * asked.events).tocoo()
    items = pl.DataFrame({"id": np.arange(asked.items)})
    users = pl.DataFrame({"id": np.arange(asked.users)})
    data = Dataset.build(pl.DataFrame({"user": log.row, "item": log.col}), users=users, items=items)
    del log
    print(f"{data.n_users:,} users × {data.n_items:,} items, {data.n_events / data.n_users:.0f} events a user, "
          f"top 100, {run.n_threads} threads, scores in chunks of {CHUNK_BYTES >> 20} MiB")  # fmt: skip
    for name in asked.models:
        model = made(name, data, run)
        model.rank(data.histories.rows(0, 200), 100, exclude=data.histories.rows(0, 200), run=run)  # compiles
        seconds, before = [], peak()
        for _ in range(asked.repeats):
            begun = time.perf_counter()
            model.rank(data.histories, 100, exclude=data.histories, run=run)
            seconds.append(time.perf_counter() - begun)
        print(f"{name}: {statistics.median(seconds):.1f} s (target ≤ {TARGETS[name]} s), "
              f"peak {peak():.2f} GiB, {before:.2f} before ranking", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
