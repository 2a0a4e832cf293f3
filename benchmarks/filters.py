"""Filters inside retrieval: the best 100 of 1 M items (64 factors) among those that an expression lets through.

    python benchmarks/filters.py                       # one thread, one request at a time
    python benchmarks/filters.py --items 100000 --requests 50

Three filters keep about 0.1 %, 1 % and 30 % of the items, spread over the catalogue. A request is `Filters.mask` with
its mask kept from before, and `top_k_masked`. Recall is against a plain product over the whole catalogue. Shown beside:
a filter on a column of the user (its item part kept, the rest asked anew for each user), and how long a mask takes that
is not kept.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import polars as pl

from zhiyin.core.run import Run
from zhiyin.models.masked_search import Compact, top_k_masked
from zhiyin.pipeline.filters import Filters, RequestValues

KINDS = [f"kind-{number:04}" for number in range(1_000)]


def catalogue(n: int, rng: np.random.Generator) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "price": rng.gamma(2.0, 25.0, n).round(2),
            "category": pl.Series(rng.choice(KINDS, n)),
            "share": rng.random(n),
            "adult": rng.random(n) < 0.1,
            "min_age": rng.integers(0, 19, n),
            "released": pl.Series(rng.integers(1_500_000_000_000_000, 1_700_000_000_000_000, n)).cast(
                pl.Datetime("us")
            ),
        }
    )


FILTERS = {
    "0.1 %": "category IN ('kind-0007')",
    "1 %": "share < 0.0112 AND NOT adult",
    "30 %": "share BETWEEN 0.2 AND 0.54 AND NOT adult",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--factors", type=int, default=64)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--k", type=int, default=100)
    asked = parser.parse_args()
    rng, run = np.random.default_rng(7), Run(threads=1)
    items = catalogue(asked.items, rng)
    vectors = rng.standard_normal((asked.items, asked.factors), dtype=np.float32)
    queries = rng.standard_normal((asked.requests, asked.factors), dtype=np.float32)
    filters = Filters(items, user={"age": int})
    begun = time.perf_counter()
    compact = Compact.of(vectors)
    made = time.perf_counter() - begun
    for looks in (None, compact):  # compiles
        top_k_masked(vectors[:20_000], queries[:1], np.ones(20_000, dtype=bool), asked.k, compact=looks, run=run)
    print(f"{asked.items:,} items, {asked.factors} factors, top {asked.k}, {asked.requests} requests one at a time, "
          f"{run.n_threads} thread; compact vectors {compact.nbytes >> 20} MiB, made in {made:.1f} s")  # fmt: skip
    print(f"{'filter':45} {'kept':>7} {'mask':>9} {'median':>9} {'p99':>9} {'cpu med':>9} {'cpu p99':>9} {'recall':>7}")
    for text in FILTERS.values():
        begun = time.perf_counter()
        mask = filters.mask(text)
        cold = time.perf_counter() - begun
        for note, looks in ((text, compact), ("    the same without compact vectors", None)):
            timer, found = Timer(), []
            for query in queries:
                with timer:
                    best = top_k_masked(vectors, query[None], filters.mask(text), asked.k, compact=looks, run=run)
                found.append(best[0][0])
            print(f"{note:45} {mask.count / asked.items:7.2%} {cold * 1e3:6.1f} ms {timer} "
                  f"{recall(vectors, queries, mask, found, asked.k):7.4f}")  # fmt: skip
    for text in ("min_age <= user.age AND share < 0.01", "min_age <= user.age AND price < 60"):
        timer = Timer()
        filters.mask(text, RequestValues(user={"age": 1}))
        for number, query in enumerate(queries):
            with timer:  # a user never seen
                mask = filters.mask(text, RequestValues(user={"age": 12 + number / 100}))
                top_k_masked(vectors, query[None], mask, asked.k, compact=compact, run=run)
        print(f"{text:45} {mask.count / asked.items:7.2%} {'anew':>9} {timer}")


class Timer:
    """Wall-clock and processor time of many short pieces of work."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def __enter__(self) -> None:
        self.begun = time.perf_counter(), time.thread_time()

    def __exit__(self, *_: object) -> None:
        self.wall.append(time.perf_counter() - self.begun[0])
        self.cpu.append(time.thread_time() - self.begun[1])

    def __str__(self) -> str:
        return " ".join(f"{f(part) * 1e3:6.2f} ms" for part in (self.wall, self.cpu)
                        for f in (np.median, lambda x: np.quantile(x, 0.99)))  # fmt: skip


def recall(vectors: np.ndarray, queries: np.ndarray, mask, found: list[np.ndarray], k: int) -> float:  # type: ignore[no-untyped-def]
    """Of up to 20 queries, against all scores in full."""
    bits, shares = mask.bits, []
    for query, got in list(zip(queries, found))[:20]:
        scores = np.where(bits, vectors @ query, -np.inf)
        best = np.argpartition(-scores, k)[:k]
        best = best[np.isfinite(scores[best])]
        shares.append(np.isin(best, got).mean())
    return float(np.mean(shares))


if __name__ == "__main__":
    main()
