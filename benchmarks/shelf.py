"""Rows of the speed table of the model shelf; run by `classical.py`, which says what each is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
from scipy import sparse

from logs import hold_out, ndcg_at_10
from race import Racer, race, track, turn
from zhiyin.core.run import Run

L1, L2 = 1.0, 10.0  # of SLIM


def als(
    log: sparse.csr_matrix, factors: Sequence[int], repeats: int, threads: int, pythons: Sequence[str], solver: str
) -> None:
    """A sweep of each library from the same vectors, on the same objective. solver: "cg" or "exact"."""
    with track(log, threads, pythons) as where:
        for f in factors:
            print(f"{f} factors")
            racers = [
                Racer("zhiyin", "zhiyin_als", {"factors": f, "solver": solver}),
                Racer("implicit", "implicit_als", {"factors": f, "solver": solver}),
            ]
            if solver == "exact":
                racers.append(Racer("irspack, Cholesky", "irspack_als", {"factors": f, "solver": "CHOLESKY"}))
            else:
                racers.append(Racer("irspack, conjugate gradient", "irspack_als", {"factors": f, "solver": "CG"}))
                racers.append(Racer("irspack, iALS++", "irspack_als", {"factors": f, "solver": "IALSPP"}))
            race(where, racers, repeats)


def goal(log: sparse.csr_matrix, factors: int, sweeps: int, threads: int) -> None:
    """Seconds of sweeps until NDCG@10 is what `implicit` has after the last of its own."""
    train, who, held = hold_out(log, 10_000)
    run = Run(threads=threads)
    racers = [Racer(name, f"{name}_als", {"factors": factors}) for name in ("implicit", "zhiyin")]
    seconds: dict[str, list[float]] = {racer.label: [] for racer in racers}
    curves: dict[str, list[float]] = {racer.label: [] for racer in racers}
    with track(train, threads) as where, ExitStack() as open_ones:
        processes = {racer.label: open_ones.enter_context(where.run(racer, where.pythons[0])) for racer in racers}
        for _ in range(sweeps):
            for name, process in processes.items():
                found = turn(process, name)
                seconds[name].append(found["wall"])
                curves[name].append(ndcg_at_10(np.load(found["x"]), np.load(found["y"]), train, who, held, run))
    wanted = curves["implicit"][-1]
    print(
        f"{factors} factors; implicit has NDCG@10 {wanted:.4f} after {sweeps} sweeps, {sum(seconds['implicit']):.1f} s"
    )
    for name, curve in curves.items():
        print(f"  {name:9} {' '.join(f'{value:.4f}' for value in curve)}")
        for words, needed in (("reaches it", wanted), ("is within 1 % of its own best", 0.99 * max(curve))):
            until = next((at + 1 for at, value in enumerate(curve) if value >= needed), 0)
            print(f"  {name:9} {words} after {until or 'no'} sweeps, {sum(seconds[name][:until]):.2f} s")


def knn(log: sparse.csr_matrix, k: int, repeats: int, threads: int, pythons: Sequence[str]) -> None:
    """Fits of ItemKNN by cosine. `implicit`, and RecTools over it, count an item among its own neighbours."""
    racers = [Racer("zhiyin", "zhiyin_fit", {"model": f"itemknn:k_neighbors={k},shrinkage=0"})]
    racers += [Racer(name, f"{name}_knn", {"k": k}) for name in ("implicit", "irspack", "lenskit", "rectools")]
    with track(log, threads, pythons) as where:
        race(where, racers, repeats)


def slim(log: sparse.csr_matrix, sample: int, repeats: int, threads: int, pythons: Sequence[str]) -> None:
    """Fits of SLIM with the same penalties; scikit-learn on a sample of items, scaled up to all."""
    penalties = {"l1": L1, "l2": L2}
    racers = [
        Racer("zhiyin", "zhiyin_fit", {"model": f"slim:l1={L1},l2={L2}"}),
        Racer("irspack", "irspack_slim", penalties),
        Racer("lenskit", "lenskit_slim", penalties),
        Racer("scikit-learn, scaled", "sklearn_slim", penalties | {"sample": sample}),
    ]
    with track(log, threads, pythons) as where:
        race(where, racers, repeats)


def top(log: sparse.csr_matrix, factors: int, users: int, repeats: int, threads: int) -> None:
    """The ten best of all items for many users, what each had left out, and whether the lists agree."""
    with track(log, threads) as where:
        settings = {"factors": factors, "users": users, "folder": str(where.folder)}
        racers = [
            Racer("zhiyin, from histories", "zhiyin_top", settings),
            Racer("zhiyin, from vectors", "zhiyin_top_of_vectors", settings),
            Racer("implicit, from vectors", "implicit_top", settings),
        ]
        found = race(where, racers, repeats)
        lists = [np.load(runs[-1]["lists"]) for runs in found.values()]
    for label, other in zip(found, lists):
        print(f"  {label:28} {np.mean(other == lists[-1]):.6f} of the places as the last")


def one(log: sparse.csr_matrix, factors: int, events: int, times: int, threads: int) -> None:
    """Milliseconds of single calls."""
    with track(log, threads) as where:
        settings = {"factors": factors, "events": events, "times": times, "folder": str(where.folder)}
        racers = [Racer(name, f"{name}_one", settings) for name in ("zhiyin", "implicit")]
        with ExitStack() as open_ones:
            processes = [open_ones.enter_context(where.run(racer, where.pythons[0])) for racer in racers]
            for _ in range(3):
                for racer, process in zip(racers, processes):
                    found = {key: value for key, value in turn(process).items() if isinstance(value, dict)}
                    said = "; ".join(f"{key} p50 {ms['p50']:.3f}, p99 {ms['p99']:.3f} ms" for key, ms in found.items())
                    print(f"  {racer.label:9} {said}", flush=True)
