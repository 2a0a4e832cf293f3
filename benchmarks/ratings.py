"""Models of ratings on five folds of MovieLens-100k: RMSE, MAE and seconds, beside scikit-surprise where installed.

    pip install 'zhiyin[peers]'
    python benchmarks/ratings.py DATA                  # the published folds u1..u5: cuts of u.data in its order
    python benchmarks/ratings.py DATA --folds random   # shuffled first (seed 0), as Surprise's own table does
    python benchmarks/ratings.py DATA --only biasedmf biasedmf:factors=16,epochs=10,rate=0.04   # beside Surprise's SVD
    python benchmarks/ratings.py DATA --only biasedmf svdpp --no-peers
    python benchmarks/ratings.py goal DATA --budget 2m # `zhiyin train --goal rating` on each of five random folds

DATA is a folder with u.data, users.tsv and items.tsv. Seconds are of fitting and predicting one fold, on one thread
each; kernels are compiled before. TimeSVDpp is told when a test rating was given, and has learned from later ones too,
as in its paper. The models take turns on each fold, so that a busy machine slows all of them. A peer is slower by the
median over the folds of its seconds over ours.

`goal` trains a version on 80 % of the ratings within the budget, as the command does, which holds back a part of them
to choose and to judge by, loads the version from disk, and predicts the other 20 % once, as a service would: without
being told when a rating was given. Nothing is chosen by the test part.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from zhiyin.core.durations import microseconds
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.evaluation.pointwise_metrics import mae, rmse
from zhiyin.models import registry
from zhiyin.models.ratings.rating_baselines import UserItemBias
from zhiyin.models.ratings.rating_model import RatingModel
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.pipeline.rating_training import train_rating_version

OURS = ("biasedmf", "svdpp", "timesvdpp", "bayesianfm")
PEERS = {"Surprise SVD": "biasedmf", "Surprise SVDpp": "svdpp"}
FOLDS, SIZE = 5, 20_000


def read(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Ratings, users and items; genres as lists, years as numbers, neither titles nor postcodes."""
    names = ["user", "item", "value", "time"]
    log = pl.read_csv(folder / "u.data", separator="\t", has_header=False, new_columns=names)
    users, items = (
        pl.read_csv(folder / name, separator="\t", quote_char=None, infer_schema=False)
        for name in ("users.tsv", "items.tsv")
    )
    user, age, gender, job = (pl.col(name) for name in users.columns[:4])
    item, _, year, genres = (pl.col(name) for name in items.columns[:4])
    number = {"dtype": pl.Int64, "strict": False}
    return (
        log.with_columns(pl.col("time") * 1_000_000),
        users.select(id=user.cast(**number), age=age.cast(**number), gender=gender, job=job),
        items.select(id=item.cast(**number), year=year.cast(**number), genres=genres.str.split(" ")),
    )


def ours(name: str, train: pl.DataFrame, test: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame) -> np.ndarray:
    model = registry.parse(name).fit(Dataset.build(train, users=users, items=items), Run(threads=1))
    assert isinstance(model, RatingModel)
    return model.predict(test["user"], test["item"], times=test["time"])


def peer(name: str, train: pl.DataFrame, test: pl.DataFrame) -> np.ndarray:
    import surprise

    frame = train.select("user", "item", "value").to_pandas()
    whole = surprise.Dataset.load_from_df(frame, surprise.Reader(rating_scale=(1, 5))).build_full_trainset()
    model = getattr(surprise, name.split()[1])(random_state=0).fit(whole)
    return np.array([model.predict(u, i).est for u, i in zip(test["user"].to_list(), test["item"].to_list())])


def goal(arguments: list[str]) -> None:
    """RMSE and MAE of versions of `train --goal rating`, a fold each."""
    parser = argparse.ArgumentParser(prog="ratings.py goal", description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--budget", default="2m")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(1, FOLDS + 1)))
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    asked = parser.parse_args(arguments)
    log, users, items = read(asked.data)
    log = log[np.random.default_rng(asked.seed).permutation(len(log))]
    seconds = microseconds(asked.budget) / 1e6
    rows = []
    for fold in asked.folds:
        test = log[(fold - 1) * SIZE : fold * SIZE]
        train = pl.concat([log[: (fold - 1) * SIZE], log[fold * SIZE :]])
        data = Dataset.build(train, users=users, items=items)
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            bundle = train_rating_version(data, Bundles(folder), seconds, run=Run(threads=asked.threads)).bundle
            taken, model = time.perf_counter() - begun, bundle.load()
            found, report = model.predict(test["user"], test["item"]), bundle.report()["pipeline"]
        bias = UserItemBias().fit(data).predict(test["user"], test["item"])
        truth = test["value"].to_numpy()
        rows.append((rmse(truth, found), mae(truth, found), rmse(truth, bias), taken))
        weights = ", ".join(f"{name} {weight:.2f}" for name, weight in report["weights"].items())
        figures = f"RMSE {rows[-1][0]:.4f}  MAE {rows[-1][1]:.4f}  biases alone {rows[-1][2]:.4f}  {taken:6.1f} s"
        print(f"fold {fold}  {figures}  load {os.getloadavg()[0]:.1f}  {weights}", flush=True)
        for note in report["notes"]:
            print(f"        {note}")
    error, absolute, bias_error, taken = np.mean(rows, axis=0)
    print(f"mean    RMSE {error:.4f}  MAE {absolute:.4f}  biases alone {bias_error:.4f}  {taken:6.1f} s")


def main() -> None:
    if sys.argv[1:2] == ["goal"]:
        goal(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--folds", choices=("published", "random"), default="published")
    parser.add_argument("--only", nargs="+", default=OURS, help="models as on a command line")
    parser.add_argument("--no-peers", action="store_true")
    asked = parser.parse_args()
    log, users, items = read(asked.data)
    if asked.folds == "random":
        log = log[np.random.default_rng(0).permutation(len(log))]
    runs: dict[str, Callable[[pl.DataFrame, pl.DataFrame], np.ndarray]] = {
        name: lambda train, test, name=name: ours(name, train, test, users, items) for name in asked.only
    }
    if not asked.no_peers:
        try:
            import surprise

            print(f"scikit-surprise {surprise.__version__}")
            runs |= {
                name: lambda train, test, name=name: peer(name, train, test)
                for name, beside in PEERS.items()
                if any(mine.split(":")[0] == beside for mine in asked.only)
            }
        except ImportError:
            print("scikit-surprise is not installed: pip install 'zhiyin[peers]'")
    for name in asked.only:  # compiles
        quick = {"bayesianfm": "bayesianfm:sweeps=2"}.get(name.split(":")[0], name)
        ours(quick, log[:2000], log[:100], users, items)
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in runs}
    for fold in range(FOLDS):
        test = log[fold * SIZE : (fold + 1) * SIZE]
        train = pl.concat([log[: fold * SIZE], log[(fold + 1) * SIZE :]])
        truth = test["value"].to_numpy()
        for name, run in runs.items():
            begun = time.perf_counter()
            found = run(train, test)
            seconds = time.perf_counter() - begun
            figures[name].append((rmse(truth, found), mae(truth, found), seconds))
            print(f"fold {fold + 1}  {name:<16} {figures[name][-1][0]:.4f} {figures[name][-1][1]:.4f} {seconds:8.2f} s")
    print(f"\n{'mean of folds':<16}   RMSE    MAE  seconds")
    for name, rows in figures.items():
        error, absolute, seconds = (float(column) for column in np.mean(rows, axis=0))
        print(f"{name:<16} {error:.4f} {absolute:.4f} {seconds:8.2f}")
    for name, beside in PEERS.items():
        for mine in (mine for mine in asked.only if name in figures and mine.split(":")[0] == beside):
            ratios = [theirs[2] / own[2] for theirs, own in zip(figures[name], figures[mine])]
            print(f"{name} takes {statistics.median(ratios):.1f} times as long as {mine}")


if __name__ == "__main__":
    main()
