"""SASRec on a log of ten million events and half a million items: what it costs in memory and time.

    pip install 'zhiyin[deep]'
    python benchmarks/soak.py              # 10 M events, 500,000 items, 200,000 users; 2,000 steps
    python benchmarks/soak.py --steps 0    # all of an epoch

The log is made in memory (seeded): lognormal activity, popularity by Zipf's law, and items that follow one another
(half of the events are a successor of the one before), so that the loss has somewhere to go. Training is the path for
large catalogues: sampled softmax, a table with sparse gradients, row-wise Adam. Peak memory is that of the whole
process, log and coding included; it must stay below 12 GiB.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.models.neural.batches import Sequences, TrainingSequences
from zhiyin.models.sequence.sasrec import SASRec

LIMIT = 12 * 2**30


def log_of(events: int, items: int, users: int, seed: int = 7) -> pl.DataFrame:
    """Columns user, item and time, by user and time."""
    rng = np.random.default_rng(seed)
    activity = rng.lognormal(0, 1.0, users)
    counts = np.maximum(2, np.ceil(activity * events / activity.sum()).astype(np.int64))
    user = np.repeat(np.arange(users, dtype=np.int32), counts)
    # The inverse of Zipf's cumulated shares, exponent 1: rank = items ** share.
    item = np.minimum((items ** rng.random(len(user))).astype(np.int64), items) - 1
    follows = np.flatnonzero(rng.random(len(user)) < 0.5)
    follows = follows[follows > 0]
    item[follows] = (item[follows - 1] * 7 + 3) % items
    item = rng.permutation(items)[item]
    time = np.arange(len(user), dtype=np.int64) * 1_000_000
    return pl.DataFrame({"user": user, "item": item, "time": time})


class Steps(TrainingSequences):
    """The first batches of an epoch."""

    def __init__(self, whole: TrainingSequences, steps: int) -> None:
        vars(self).update(vars(whole))
        self.n_batches = min(whole.n_batches, steps or whole.n_batches)
        self.all = whole

    def epoch(self, number: int) -> Iterator[Sequences]:
        return islice(self.all.epoch(number), self.n_batches)


class Short(SASRec):
    """SASRec that sees only so much of an epoch."""

    steps = 0

    def _batches(self, data: Dataset, run: Run) -> Steps:
        return Steps(super()._batches(data, run), self.steps)


def peak() -> int:
    """Most bytes of memory this process has held."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--items", type=int, default=500_000)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--steps", type=int, default=2000, help="steps of training; 0: all of an epoch")
    parser.add_argument("--factors", type=int, default=64)
    parser.add_argument("--max-len", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--negatives", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=Run().n_threads)
    parser.add_argument("--checkpoint", help="folder of checkpoints, one every 30 s")
    asked = parser.parse_args()

    begun = time.perf_counter()
    catalogue = pl.DataFrame({"id": np.arange(asked.items)})  # items nobody has had yet are in it too
    data = Dataset.build(log_of(asked.events, asked.items, asked.users), items=catalogue)
    print(
        f"{data.n_events:,} events, {data.n_items:,} items, {data.n_users:,} users: made in "
        f"{time.perf_counter() - begun:.0f} s, peak {peak() / 2**30:.2f} GiB",
        flush=True,
    )

    news: list[dict[str, Any]] = []
    model = Short(
        factors=asked.factors, epochs=1, max_len=asked.max_len, batch_size=asked.batch_size, loss="sampled_softmax",
        negatives=asked.negatives, validation="none",
    )  # fmt: skip
    model.steps = asked.steps
    run = Run(threads=asked.threads, callbacks=(news.append,), checkpoint=asked.checkpoint, checkpoint_every="30s")
    begun = time.perf_counter()
    model.fit(data, run)
    (last,) = news
    print(
        f"SASRec, {asked.factors} factors, {asked.negatives} negatives, {asked.threads} threads: loss "
        f"{last['loss']:.3f} in {last['seconds']:.0f} s of training ({time.perf_counter() - begun:.0f} s of fit), "
        f"{last['events_per_second']:,.0f} events/s",
        flush=True,
    )

    begun, some = time.perf_counter(), data.histories.rows(0, min(1000, data.n_users))
    model.rank(some, 10, run=run)
    print(f"lists of {len(some):,} users: {time.perf_counter() - begun:.1f} s")
    found = peak()
    print(f"peak {found / 2**30:.2f} GiB (must stay below {LIMIT / 2**30:.0f})")
    sys.exit(found >= LIMIT)


if __name__ == "__main__":
    main()
