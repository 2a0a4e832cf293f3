"""Users of whom only columns are known: how good a list made of gender, age and occupation is, on MovieLens-1M.

    python benchmarks/cold_users.py [--seed 0] [--models "SegmentPopular;TwoTower"] [--folds 5]

Users are held out whole, a fifth at a time, until each was once: nothing that they did is learned. Each is asked for
as a user without a history, with the columns of users.dat; relevant is all that they rated. Compared by
NDCG@10 and recall@20, with paired 95 % intervals over users against each baseline:

- `popular`: the same list for everyone.
- `popular by ...`: the popular items of the users with the same value of one column, or of all three; of a group
  without events, the popular ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.ranking_metrics import RANKING, hits_of
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models.recommender import Recommender
from zhiyin.models.registry import parse

METRICS = (("ndcg", 10), ("recall", 20))
COLUMNS = ("gender", "age", "occupation")
ROUNDS = 2_000


def movielens(folder: Path) -> Dataset:
    """MovieLens-1M in the order that each user rated, all events of weight 1, and the columns of users."""
    pairs = pl.DataFrame(np.loadtxt(folder / "sequences.txt", dtype=np.int64), schema=["user", "item"])
    original = pl.DataFrame(np.loadtxt(folder / "sas_to_original_users.txt", dtype=np.int64), schema=["user", "id"])
    text = (folder / "users.dat").read_text("latin-1").replace("::", "\t")
    users = pl.read_csv(
        text.encode(),
        separator="\t",
        has_header=False,
        infer_schema_length=None,
        new_columns=["id", "gender", "age", "occupation", "zip"],
    )
    events = pairs.join(original, on="user", how="inner", maintain_order="left").select(user="id", item="item")
    return Dataset.build(events, users=users.select("id", *COLUMNS))


def popular_by(train: Dataset, columns: tuple[str, ...], frame: pl.DataFrame) -> np.ndarray:
    """float32[n, n_items]: the events of users with the same values; of a group without any, those of all."""
    keys = train.users.select(
        pl.concat_str(pl.col(name).cast(pl.String) for name in columns) if columns else pl.lit("")
    )
    asked = frame.select(pl.concat_str(pl.col(name).cast(pl.String) for name in columns) if columns else pl.lit(""))
    keys_of_users = keys.to_series().to_list() if columns else [""] * train.n_users
    keys_asked = asked.to_series().to_list() if columns else [""] * len(frame)
    groups = {key: at for at, key in enumerate(dict.fromkeys([*keys_of_users, *keys_asked]))}
    counts = np.zeros((len(groups), train.n_items), dtype=np.float32)
    owner = np.array([groups[key] for key in keys_of_users])[train.events["user"].to_numpy()]
    np.add.at(counts, (owner, train.events["item"].to_numpy()), 1.0)
    every = counts.sum(axis=0)
    rows = counts[[groups[key] for key in keys_asked]]
    # Ties of a small group in the order of popularity.
    return np.where(rows.sum(axis=1, keepdims=True) > 0, rows + every / (every.max() + 1) * 0.5, every)


def values_of(lists: np.ndarray, relevant: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    """Each metric of each user; relevant: CSR of items, sorted within a user."""
    hits, counts = hits_of(lists, *relevant), np.diff(relevant[0])
    return {f"{name}@{k}": RANKING[name](hits[:, :k], counts, k) for name, k in METRICS}


def best_of(scores: np.ndarray, k: int = 20) -> np.ndarray:
    return np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int32)


def interval(difference: np.ndarray, rng: np.random.Generator) -> tuple[float, float, float]:
    """Mean of a difference per user, and its 95 % interval by bootstrap over users."""
    n = len(difference)
    means = np.array([difference[rng.integers(0, n, n)].mean() for _ in range(ROUNDS)])
    low, high = np.quantile(means, [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


def fold_of(data: Dataset, held: np.ndarray, models: list[str], run: Run) -> dict[str, dict[str, np.ndarray]]:
    """The metrics of the users of one fold, int64[n] codes, by everything that is compared."""
    train = data.subset(~np.isin(data.events["user"].to_numpy(), held))
    truth = data.histories.take(held).matrix(data.n_items)
    truth.sort_indices()
    relevant = truth.indptr.astype(np.int64), truth.indices.astype(np.int32)
    features = data.users.drop("id")[held]
    empty = Histories.of(np.zeros(len(held) + 1, np.int64), np.zeros(0, np.int32))
    asked = dataclasses.replace(empty, features=features)
    results = {}
    for columns in ((), *((name,) for name in COLUMNS), COLUMNS):
        name = "popular" + (f" by {', '.join(columns)}" if columns else "")
        results[name] = values_of(best_of(popular_by(train, columns, features)), relevant)
    for text in models:
        model: Recommender = parse(text)
        results[text] = values_of(model.fit(train, run).rank(asked, 20, run=run)[0], relevant)
    return results


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", default=os.environ.get("ZHIYIN_DATA", "."), help="folder that holds movielens-1m")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--folds", type=int, default=5)
    arguments.add_argument("--models", default="SegmentPopular;Hybrid:base=als:factors=64", help="separated by ;")
    given = arguments.parse_args()
    folder = Path(given.data, "movielens-1m")
    if not (folder / "users.dat").is_file():
        raise SystemExit(f"there is no {folder / 'users.dat'}: name the folder that holds movielens-1m by --data")
    data, run = movielens(folder), Run(seed=given.seed)
    models = [text.strip() for text in given.models.split(";") if text.strip()]
    active = np.flatnonzero(data.histories.lengths)
    fold = run.rng(9).permutation(len(active)) % given.folds
    print(f"{data!r}, {given.folds} folds of users, seed {given.seed}", flush=True)
    parts = []
    for number in range(given.folds):
        parts.append(fold_of(data, active[fold == number], models, run))
        print(f"fold {number + 1} of {given.folds}", flush=True)
    results = {
        name: {metric: np.concatenate([part[name][metric] for part in parts]) for metric in parts[0][name]}
        for name in parts[0]
    }
    report(results, [name for name in results if name.startswith("popular")], run)


def report(results: dict[str, dict[str, np.ndarray]], baselines: list[str], run: Run) -> None:
    rng: Any = run.rng(5)
    metrics = [f"{name}@{k}" for name, k in METRICS]
    print("\n| model | " + " | ".join(metrics) + " |\n|---|" + "---|" * len(metrics))
    for name, values in results.items():
        print(f"| {name} | " + " | ".join(f"{values[metric].mean():.4f}" for metric in metrics) + " |")
    print("\n| against | " + " | ".join(f"{metric}, difference and 95 % interval" for metric in metrics) + " |")
    print("|---|" + "---|" * len(metrics))
    for name in results:
        if name in baselines:
            continue
        for baseline in baselines:
            cells = []
            for metric in metrics:
                mean, low, high = interval(results[name][metric] - results[baseline][metric], rng)
                cells.append(f"{mean:+.4f} ({low:+.4f} to {high:+.4f})")
            print(f"| {name} over {baseline} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
