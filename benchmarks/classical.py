"""Classical models beside their peers: speed on logs of ML-20M's shape, and lists of films.

    pip install 'zhiyin[peers]'
    python benchmarks/classical.py als    # a sweep at 64, 128 and 256 factors
    python benchmarks/classical.py knn --python OTHER/bin/python   # where OTHER has LensKit, irspack or RecTools
    python benchmarks/classical.py COMMAND --help

Logs are made in memory (seeded): 138,493 users, 26,744 items, long-tailed activity and popularity, and tastes (each
user likes 2 of 64 genres), so that there is something to learn. Every library has a process of its own (`racers.py`)
and the same matrix, threads and objective; ALS the same starting vectors too. They take turns, so that a busy machine
slows all; making the log, converting it, compiling and evaluating are outside the clock. A library is looked for in
this Python and in those of `--python`, and said to be missing where none has it. Figures are medians: of five runs, or
of three where one takes 20 s.

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

import published
import shelf
from large import large
from logs import ITEMS, USERS, hold_out, log_of, ndcg_at_10
from zhiyin.core.registry import specification
from zhiyin.core.run import Run
from zhiyin.data.splits import split
from zhiyin.evaluation.protocol import evaluate
from zhiyin.evaluation.tuning import tune
from zhiyin.models.bpr import Plan
from zhiyin.models.recommender import Recommender
from zhiyin.models.registry import parse
from zhiyin.pipeline.pipeline import Pipeline

LISTED = ("als", "ease", "slim", "graphfilter", "userknn", "rp3beta", "itemknn")
TUNED, DRAWS = (1, 2, 3), (11, 12, 13, 14, 15, 16)

# Runs in a fresh process. Parameters: users, items, draws, repeats, threads.
EASE_CHILD = """
import json, sys, time
import numpy as np
sys.path.insert(0, "benchmarks")
from logs import log_of
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


def clocked(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


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
        named = {specification(model): model for model in models}
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


# What each command does, and how it may be asked.
COMMANDS = {
    "als": (
        "a sweep of ALS beside implicit and irspack",
        ["", "--factors 64 --repeats 3", "--factors 64 --solver exact"],
    ),
    "goal": ("seconds to the NDCG@10 that implicit has after 15 sweeps", ["", "--factors 128 --sweeps 5"]),
    "knn": ("fit of ItemKNN, cosine, beside implicit, irspack, LensKit and RecTools", ["", "--k 200"]),
    "slim": ("fit of SLIM on ML-1M's shape beside irspack, LensKit and scikit-learn", ["", "--sample 100"]),
    "top": ("the best 10 for 10,000 users beside implicit", ["", "--users 10000"]),
    "one": ("milliseconds of one fold-in and one list", ["", "--events 100"]),
    "large": ("100 M events: read, ALS, evaluate; seconds and memory", ["", "--events 2000000 --users 20000"]),
    "bpr": ("an epoch of BPR beside implicit; NDCG@10 after each", ["--epochs 2"]),
    "ease": ("EASE on 20,000 items beside the inverse it needs: time and memory", ["--repeats 1"]),
    "lists": ("NDCG@10 on MovieLens-100k; ZHIYIN_DATA names the folder that holds movielens-100k", ["--threads 1"]),
}


def asked_for() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    parts = {}
    for name, (words, examples) in COMMANDS.items():
        lines = "\n".join(f"    python benchmarks/classical.py {name} {options}".rstrip() for options in examples)
        part = commands.add_parser(name, help=words, description=words, epilog=f"examples:\n{lines}",
                                   formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
        part.add_argument("--threads", type=int, default=Run().n_threads)
        parts[name] = part
    for name in ("als", "goal", "knn", "slim", "top", "one", "bpr", "ease"):
        draws = 1_650_000 if name == "slim" else 31_600_000 if name not in ("bpr", "ease") else 30_000_000
        parts[name].add_argument("--draws", type=int, default=draws, help="events before repeats are taken out")
    for name in ("als", "knn", "slim", "top", "ease"):
        parts[name].add_argument("--repeats", type=int, default=3 if name == "ease" else 0)
    for name in ("als", "knn", "slim"):
        parts[name].add_argument("--python", nargs="+", default=[], help="more Pythons where libraries are looked for")
    for name, factors in (("als", [64, 128, 256]), ("bpr", [64])):
        parts[name].add_argument("--factors", type=int, nargs="+", default=factors)
    for name in ("goal", "top", "one"):
        parts[name].add_argument("--factors", type=int, default=64)
    parts["als"].add_argument("--solver", choices=("cg", "exact"), default="cg", help="exact: Cholesky's decomposition")
    parts["goal"].add_argument("--sweeps", type=int, default=15)
    parts["knn"].add_argument("--k", type=int, default=200)
    parts["slim"].add_argument("--sample", type=int, default=100, help="items that scikit-learn fits")
    parts["top"].add_argument("--users", type=int, default=10_000)
    parts["one"].add_argument("--events", type=int, default=100)
    parts["one"].add_argument("--times", type=int, default=1000)
    parts["large"].add_argument("--events", type=int, default=100_000_000)
    parts["large"].add_argument("--users", type=int, default=1_000_000)
    parts["large"].add_argument("--items", type=int, default=200_000)
    parts["bpr"].add_argument("--epochs", type=int, default=5)
    parts["ease"].add_argument("--items", type=int, default=20_000)
    parts["ease"].add_argument("--users", type=int, default=100_000)
    parts["lists"].add_argument("--trials", type=int, default=25, help="settings tried of each model, three times")
    parts["lists"].add_argument("--test", default="", help="judge this model on the test part, and choose nothing")
    return parser.parse_args()


def main() -> None:
    asked = asked_for()
    threads = asked.threads
    if asked.what == "large":
        large(asked.events, asked.users, asked.items, threads)
    elif asked.what == "lists":
        lists(asked.trials, threads, asked.test)
    elif asked.what == "bpr":
        bpr(asked.draws, asked.factors, asked.epochs, threads)
    elif asked.what == "ease":
        ease(asked.users, asked.items, asked.draws // 3, asked.repeats, threads)
    elif asked.what == "slim":
        shelf.slim(log_of(6_040, 3_706, asked.draws), asked.sample, asked.repeats, threads, asked.python)
    else:
        log = log_of(USERS, ITEMS, asked.draws)
        if asked.what == "als":
            shelf.als(log, asked.factors, asked.repeats, threads, asked.python, asked.solver)
        elif asked.what == "goal":
            shelf.goal(log, asked.factors, asked.sweeps, threads)
        elif asked.what == "knn":
            shelf.knn(log, asked.k, asked.repeats, threads, asked.python)
        elif asked.what == "top":
            shelf.top(log, asked.factors, asked.users, asked.repeats, threads)
        else:
            shelf.one(log, asked.factors, asked.events, asked.times, threads)


if __name__ == "__main__":
    main()
