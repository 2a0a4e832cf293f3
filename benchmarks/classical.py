"""ALS and BPR beside `implicit` on a log of ML-20M's shape, EASE beside the one inverse it needs, and lists of films.

    pip install 'zhiyin[peers]'
    python benchmarks/classical.py als    # one sweep at 64 and 128 factors; time to the same held-out NDCG@10
    python benchmarks/classical.py bpr    # one epoch at 64 factors; NDCG@10 after each
    python benchmarks/classical.py ease   # 20,000 items: time and peak memory
    ZHIYIN_DATA=... python benchmarks/classical.py lists   # the folder that holds movielens-100k/

The log is made in memory (seeded): 138,493 users, 26,744 items, long-tailed activity and popularity, and
tastes (each user likes 2 of 64 genres), so that there is something to learn. Both libraries get the same
matrix, the same starting vectors, the same threads and the same objective: `implicit` counts confidence as
c = alpha · w where Zhiyin counts c = 1 + alpha · w, so it is given alpha + 1. Sweeps alternate between the two
in one process, so that a busy machine slows both; transposing and evaluating are outside the clock.

BPR of `implicit` draws negatives by popularity and passes over a pair whose negative the user took; Zhiyin draws again
(so it takes more steps an epoch), and is shown with the same draws ("popular") and with uniform ones.

`lists`: NDCG@10 on the split of Microsoft's Recommenders (`published.movielens_100k`). Each model is tuned on three
draws of a tenth of the train part; what was found, and pipelines that blend the best of it, are compared by the mean
over six more, and the best of all is named. `lists --test MODEL` judges that one on the test part.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # implicit asks for it: its own threads call BLAS

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from scipy import sparse

import published
from zhiyin.core.run import Run
from zhiyin.data.splits import split
from zhiyin.evaluation.protocol import evaluate
from zhiyin.evaluation.tuning import tune
from zhiyin.models.base import Recommender
from zhiyin.models.bpr import Plan
from zhiyin.models.catalog import parse, written
from zhiyin.models.factorization import half_sweep
from zhiyin.models.topk import top_k
from zhiyin.pipeline.pipeline import Pipeline

USERS, ITEMS, GENRES = 138_493, 26_744, 64
ALPHA, REG, CG_STEPS = 2.0, 5.0, 3
LISTED = ("als", "ease", "slim", "graphfilter", "userknn", "rp3beta", "itemknn")
TUNED, DRAWS = (1, 2, 3), (11, 12, 13, 14, 15, 16)

# Runs in a fresh process. Parameters: users, items, draws, repeats, threads.
EASE_CHILD = """
import json, sys, time
import numpy as np
sys.path.insert(0, "benchmarks")
from classical import log_of
from zhiyin.core.run import Run
from zhiyin.models.linear import _to_weights, gram, invert
users, items, draws, threads, parts = (int(part) for part in sys.argv[1:])
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
small = log_of(500, 300, 20_000)  # compiles the kernels
warm = gram(small, Run(threads=threads)); warm[np.diag_indices(300)] += 100; invert(warm); d = warm.diagonal().copy()
_to_weights(warm, d, Run(threads=threads))
log = log_of(users, items, draws)
before = peak()
if parts:  # the steps of EASE._fit, so that the inverse inside it can be told apart
    begun = time.perf_counter()
    weights = gram(log, Run(threads=threads))
    weights[np.diag_indices(items)] += np.float32(250)
    made = time.perf_counter()
    invert(weights)
    diagonal = weights.diagonal().copy()
    inverted = time.perf_counter()
    _to_weights(weights, diagonal, Run(threads=threads))
    done = time.perf_counter()
    out = {"gram": made - begun, "inverse": inverted - made, "weights": done - inverted, "fit": done - begun}
else:  # the yardstick: spotrf and spotri alone, on the same matrix
    from scipy.linalg import lapack
    matrix = gram(log, Run(threads=threads)).T
    matrix[np.diag_indices(items)] += np.float32(250)
    begun = time.perf_counter()
    lapack.spotrf(matrix, lower=1, overwrite_a=1, clean=0)
    lapack.spotri(matrix, lower=1, overwrite_c=1)
    out = {"inverse": time.perf_counter() - begun}
print(json.dumps(out | {"peak": peak(), "before": before, "nnz": log.nnz}))
"""


def log_of(users: int, items: int, draws: int, seed: int = 7) -> sparse.csr_matrix:
    """A binary CSR float32[users, items] of about `draws` events before repeats are taken out."""
    rng = np.random.default_rng(seed)
    worth = 1 / (np.arange(items) + 50.0) ** 1.1
    activity = np.maximum(rng.lognormal(0, 1.0, users), 0.13)
    counts = np.minimum((activity * draws / activity.sum()).astype(np.int64), items // 4)
    user = np.repeat(np.arange(users, dtype=np.int32), counts)
    tastes = rng.integers(0, GENRES, (users, 2), dtype=np.int32)
    item = rng.choice(items, len(user), p=worth / worth.sum()).astype(np.int32)
    # Two thirds of the draws move to the nearest item of a genre the user likes.
    moved = rng.random(len(user)) < 2 / 3
    liked = tastes[user[moved], rng.integers(0, 2, int(moved.sum()))]
    item[moved] = np.minimum(item[moved] // GENRES * GENRES + liked, items - 1)
    shuffle = rng.permutation(items).astype(np.int32)
    matrix = sparse.csr_matrix((np.ones(len(user), np.float32), (user, shuffle[item])), shape=(users, items))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def hold_out(log: sparse.csr_matrix, n: int, seed: int = 3) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
    """The log without one item of each of n users; those users and those items."""
    rng = np.random.default_rng(seed)
    lengths = np.diff(log.indptr)
    users = np.sort(rng.choice(np.nonzero(lengths > 5)[0], n, replace=False))
    places = log.indptr[users] + (rng.random(n) * lengths[users]).astype(np.int64)
    kept = np.ones(log.nnz, dtype=bool)
    kept[places] = False
    owner = np.repeat(np.arange(log.shape[0]), lengths)[kept]
    train = sparse.csr_matrix((log.data[kept], (owner, log.indices[kept])), shape=log.shape)
    return train, users, log.indices[places]


def ndcg_at_10(
    x: np.ndarray, y: np.ndarray, train: sparse.csr_matrix, users: np.ndarray, held: np.ndarray, run: Run
) -> float:
    """Mean NDCG@10 of one held-out item a user, everything in train left out."""
    total, m = 0.0, len(y)
    priority, allowed = np.arange(m, dtype=np.int32), np.ones(m, dtype=bool)
    for start in range(0, len(users), 2000):
        who = users[start : start + 2000]
        seen = train[who]
        excluded = (seen.indptr.astype(np.int64), seen.indices)
        items, _ = top_k(x[who] @ y.T, 10, priority, allowed, excluded, run)
        _row, rank = np.nonzero(items == held[start : start + 2000, None])
        total += float((1 / np.log2(rank + 2)).sum())
    return total / len(users)


def clocked(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def sweeps(
    train: sparse.csr_matrix, factors: int, threads: int
) -> tuple[dict[str, Callable[[], None]], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """One sweep of each library over vectors of its own, and those vectors."""
    from implicit.cpu._als import least_squares_cg

    users, items = train.tocsr(), train.T.tocsr()
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((users.shape[0], factors)) * 0.1 / np.sqrt(factors)).astype(np.float32)
    y = (rng.standard_normal((users.shape[1], factors)) * 0.1 / np.sqrt(factors)).astype(np.float32)
    vectors = {name: (x.copy(), y.copy()) for name in ("implicit", "zhiyin")}
    theirs = [(part * np.float32(ALPHA + 1)).astype(np.float32) for part in (users, items)]
    ours = [(part * np.float32(ALPHA)).astype(np.float32) for part in (users, items)]
    run = Run(threads=threads)

    def implicit_sweep() -> None:
        a, b = vectors["implicit"]
        least_squares_cg(theirs[0], a, b, REG, num_threads=threads, cg_steps=CG_STEPS)
        least_squares_cg(theirs[1], b, a, REG, num_threads=threads, cg_steps=CG_STEPS)

    def zhiyin_sweep() -> None:
        a, b = vectors["zhiyin"]
        half_sweep(ours[0], a, b, REG, CG_STEPS, run)
        half_sweep(ours[1], b, a, REG, CG_STEPS, run)

    return {"implicit": implicit_sweep, "zhiyin": zhiyin_sweep}, vectors


def als(draws: int, factors: list[int], epochs: int, threads: int) -> None:
    """Sweep times, and NDCG against seconds, of both libraries."""
    log = log_of(USERS, ITEMS, draws)
    train, who, held = hold_out(log, 10_000)
    print(f"{log.shape[0]:,} × {log.shape[1]:,}, {log.nnz:,} ones, {threads} threads")
    warm = log_of(300, 200, 5_000)
    sweeps(warm, 8, threads)[0]["zhiyin"]()  # compiles the kernels
    run = Run(threads=threads)
    for f in factors:
        calls, vectors = sweeps(train, f, threads)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        curves: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(epochs):
            for name, call in calls.items():
                times[name].append(clocked(call))
                curves[name].append(ndcg_at_10(*vectors[name], train, who, held, run))
        goal = 0.99 * min(max(curve) for curve in curves.values())
        print(f"factors {f}: NDCG@10 to reach: {goal:.4f} (99 % of the lower of the two best)")
        for name in calls:
            wall, cpu = (statistics.median(time[part] for time in times[name]) for part in (0, 1))
            until = next(epoch for epoch, value in enumerate(curves[name]) if value >= goal)
            reached = sum(time[0] for time in times[name][: until + 1])
            curve = " ".join(f"{value:.4f}" for value in curves[name])
            print(f"  {name:9} a sweep {wall:6.2f} s wall {cpu:6.2f} s CPU; goal after {until + 1} in {reached:.2f} s")
            print(f"            NDCG@10 after each: {curve}")
        ratio = [
            statistics.median(a[part] / b[part] for a, b in zip(times["implicit"], times["zhiyin"])) for part in (0, 1)
        ]
        print(f"  implicit / zhiyin: {ratio[0]:.2f} wall, {ratio[1]:.2f} CPU (median of {epochs} pairs)")


def bpr(draws: int, factors: list[int], epochs: int, threads: int) -> None:
    """Epoch times, and NDCG after each epoch, of both libraries; the same rate and penalty."""
    from implicit.cpu.bpr import RNGVector, bpr_update

    log = log_of(USERS, ITEMS, draws)
    train, who, held = hold_out(log, 10_000)
    train.sort_indices()
    print(f"{log.shape[0]:,} × {log.shape[1]:,}, {log.nnz:,} ones, {threads} threads")
    run, rate, reg = Run(threads=threads), 0.05, 0.01
    counts = np.bincount(train.indices, minlength=ITEMS)
    for f in factors:
        rng = np.random.default_rng(1)
        first = [(rng.standard_normal((n, f)) * 0.1 / np.sqrt(f)).astype(np.float32) for n in (USERS, ITEMS)]
        ones, zeros = np.ones((USERS, 1), np.float32), np.zeros((ITEMS, 1), np.float32)
        theirs = np.concatenate([first[0], ones], axis=1), np.concatenate([first[1], zeros], axis=1)
        owner, skipped = train.tocoo().row, []
        chance = RNGVector(threads, train.nnz - 1, np.arange(1, threads + 1))

        def implicit_epoch(theirs=theirs, owner=owner, chance=chance, skipped=skipped) -> None:  # type: ignore[no-untyped-def]
            found = bpr_update(chance, owner, train.indices, train.indptr, *theirs, rate, reg, threads, True)
            skipped.append(found[1] / train.nnz)

        calls: dict[str, Callable[[], object]] = {"implicit": implicit_epoch}
        state = {"implicit": theirs}
        for name, kind in (("popular", 1), ("uniform", 0)):
            x, y, bias = first[0].copy(), first[1].copy(), np.zeros(ITEMS, np.float32)
            state[name] = (x, y, bias)  # type: ignore[assignment]
            plan, draw = (
                Plan.of(train, kind, np.maximum(counts, 1e-9).astype(np.float64), 0.1),
                np.random.default_rng(2),
            )
            small = log_of(300, 200, 5_000)
            small.sort_indices()
            scratch = [np.zeros(shape, np.float32) for shape in ((300, f), (200, f), (200,))]
            Plan.of(small, kind, np.ones(200), 0.1).epoch(*scratch, rate, reg, draw, run)  # compiles the kernels
            calls[name] = lambda plan=plan, x=x, y=y, bias=bias, draw=draw: plan.epoch(x, y, bias, rate, reg, draw, run)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        curves: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(epochs):
            for name, call in calls.items():
                times[name].append(clocked(call))
                x, y, *bias = state[name]
                if bias:
                    x, y = np.concatenate([x, ones], axis=1), np.concatenate([y, bias[0][:, None]], axis=1)
                curves[name].append(ndcg_at_10(x, y, train, who, held, run))
        print(f"factors {f}; implicit passed over {100 * statistics.mean(skipped):.1f} % of its pairs")
        for name in calls:
            wall, cpu = (statistics.median(time[part] for time in times[name]) for part in (0, 1))
            ratio = [statistics.median(a[p] / b[p] for a, b in zip(times["implicit"], times[name])) for p in (0, 1)]
            curve = " ".join(f"{value:.4f}" for value in curves[name])
            print(f"  {name:9} an epoch {wall:6.2f} s wall {cpu:6.2f} s CPU; implicit / this {ratio[0]:.2f} wall, "
                  f"{ratio[1]:.2f} CPU; NDCG@10 {curve}")  # fmt: skip


def ease(users: int, items: int, draws: int, repeats: int, threads: int) -> None:
    """Fit time beside spotrf + spotri, and peak memory, each in a fresh process."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": str(threads)}
    rows = []
    for _ in range(repeats):
        found = {}
        for parts in (0, 1):
            command = [sys.executable, "-c", EASE_CHILD, *map(str, (users, items, draws, threads, parts))]
            text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
            found["fit" if parts else "alone"] = json.loads(text)
        rows.append(found)
        fit, alone = found["fit"], found["alone"]
        print(
            f"EASE {items:,} items, {fit['nnz']:,} ones: fit {fit['fit']:.1f} s (gram {fit['gram']:.1f}, inverse "
            f"{fit['inverse']:.1f}, weights {fit['weights']:.1f}); spotrf + spotri alone {alone['inverse']:.1f} s; "
            f"peak {fit['peak'] / 2**30:.2f} GiB, {fit['before'] / 2**30:.2f} before the fit",
            flush=True,
        )
    ratio = statistics.median(row["fit"]["fit"] / row["alone"]["inverse"] for row in rows)
    matrix = 4 * items * items
    extra = max(row["fit"]["peak"] / matrix for row in rows)
    print(f"fit / inverse {ratio:.2f} (target ≤ 3); whole process {extra:.2f} dense matrices of "
          f"{matrix / 2**30:.2f} GiB (target ≤ 2)")  # fmt: skip


def lists(trials: int, threads: int, test: str) -> None:
    """Tune, compare, choose, all within train; or judge the model `test` on the test part."""
    parts, run = published.movielens_100k(), Run(threads=threads, progress=False)
    if test:
        found = evaluate({"it": parse(test)}, split=parts, k=10, baselines=False, run=run)["it"]
        for metric in ("ndcg@10", "precision@10", "recall@10"):
            low, high = found.intervals[metric]
            print(f"{metric} {found.metrics[metric]:.4f} ({low:.4f} to {high:.4f})")
        return
    draws = [split(parts.train, "ratio", test=0.1, run=Run(seed=seed)) for seed in DRAWS]
    best: dict[str, Recommender] = {}
    values: dict[str, float] = {}

    def compare(models: list[Recommender]) -> None:
        named = {written(model): model for model in models}
        found = evaluate(named, split=draws, k=10, baselines=False, rounds=10, run=run)
        text = found.best
        best[text], values[text] = named[text], found[text].metrics["ndcg@10"]
        print(f"{values[text]:.4f}  {text}", flush=True)

    for name in LISTED:
        seeds = [Run(seed=seed, threads=threads, progress=False) for seed in TUNED]
        compare([tune(name, parts.train, trials=trials, validation=0.1, run=seed).model for seed in seeds])
    order = sorted(best, key=lambda text: -values[text])
    for several in (order[:2], order[:3]):
        compare([Pipeline(sources="; ".join(several), candidates=200, ranker="none")])
    print(f"chosen: {max(values, key=lambda text: values[text])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("als", "bpr", "ease", "lists"))
    parser.add_argument("--draws", type=int, default=30_000_000, help="events before repeats are taken out")
    parser.add_argument("--factors", type=int, nargs="+", help="als: 64 128, bpr: 64")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--items", type=int, default=20_000, help="ease: items")
    parser.add_argument("--users", type=int, default=100_000, help="ease: users")
    parser.add_argument("--repeats", type=int, default=3, help="ease: repeats")
    parser.add_argument("--trials", type=int, default=25, help="lists: settings tried of each model, three times")
    parser.add_argument("--test", default="", help="lists: judge this model on the test part, and choose nothing")
    parser.add_argument("--threads", type=int, default=Run().n_threads)
    asked = parser.parse_args()
    if asked.what == "als":
        als(asked.draws, asked.factors or [64, 128], asked.epochs, asked.threads)
    elif asked.what == "bpr":
        bpr(asked.draws, asked.factors or [64], asked.epochs, asked.threads)
    elif asked.what == "lists":
        lists(asked.trials, asked.threads, asked.test)
    else:
        ease(asked.users, asked.items, asked.draws // 3, asked.repeats, asked.threads)


if __name__ == "__main__":
    main()
