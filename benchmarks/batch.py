"""Lists of many users at once by a pipeline with a learned ranker: the time of `evaluate` and `recommend --all`.

    python benchmarks/batch.py --folder /tmp/shop                           # 100,000 users, 20,000 items, all threads
    python benchmarks/batch.py --folder /tmp/shop --lists 10000 --threads 1
    PYTHONPATH=OTHER/src python benchmarks/batch.py --folder /tmp/shop      # the same by another checkout

The shop is that of `request.py`. Timed are `Pipeline.rank(histories, 20, exclude=histories)`, as an evaluation asks,
and `Answers.ask_many(k=20)`, as `recommend --all` does, without rules and with a filter, a cap and MMR. Lists of two
checkouts can be compared by the hash that is printed: it is that of all items, in their order.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import zhiyin as zy
from request import FILTER, fitted_shop
from zhiyin.pipeline.answers import Answers
from zhiyin.pipeline.rules import Rules


def measure(title: str, n: int, warm_up: Callable[[], np.ndarray], work: Callable[[], np.ndarray]) -> None:
    warm_up()
    wall, cpu = time.perf_counter(), time.process_time()
    items = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    mark = hashlib.blake2b(np.ascontiguousarray(items, dtype=np.int64).data, digest_size=4).hexdigest()
    print(f"  {title:31} {wall:6.1f} s wall {cpu:6.1f} s CPU {n / wall:8,.0f} users/s {1e3 * cpu / n:.3f} ms CPU each, "
          f"items {mark}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--lists", type=int, default=0, help="of the first so many users; 0: of all")
    parser.add_argument("--threads", type=int, default=0, help="0: all")
    parser.add_argument("--folder", type=Path, help="of the fitted shop")
    given = parser.parse_args()
    pipeline, frame = fitted_shop(given.items, given.users, given.events, given.folder)
    run = zy.Run(threads=given.threads) if given.threads else zy.Run()
    n = min(given.lists or given.users, len(pipeline.context_.user_ids))
    histories, users = pipeline.context_.histories, pipeline.context_.user_ids.values
    now = pipeline.context_.window[1]
    rules = Rules.from_dict({"filter": FILTER, "caps": [{"per": "category", "at_most": 3}]})
    print(
        f"{n:,} lists, {len(frame):,} items, {len(pipeline.sources_)} sources, {run.n_threads} threads, {zy.__file__}"
    )

    def ranked(stop: int) -> np.ndarray:
        batch = histories.rows(0, stop)
        return pipeline.rank(batch, 20, exclude=batch, run=run)[0]

    measure("rank, as evaluate", n, lambda: ranked(600), lambda: ranked(n))
    for title, answers, options in (
        ("ask_many, as recommend --all", Answers(pipeline, frame, run=run), {}),
        ("  with a filter, a cap and MMR", Answers(pipeline, frame, rules=rules, run=run), {"diversity": "mmr"}),
    ):

        def asked(stop: int, answers: Answers = answers, options: dict[str, str] = options) -> np.ndarray:
            return answers.ask_many(users[:stop], 20, now=now, **options)["item"].to_numpy()

        measure(title, n, lambda: asked(600), lambda: asked(n))


if __name__ == "__main__":
    main()
