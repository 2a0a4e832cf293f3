"""`zhiyin train --budget` against every single model of the shelf, on the data sets that have times.

    ZHIYIN_DATA=... python benchmarks/automl.py --budget 10m
    ZHIYIN_DATA=... python benchmarks/automl.py online-retail --budget 2m

The last 20 % of the events are test. The pipeline and the single models learn from the rest; singles are tuned as the
sources of the pipeline were, and shown with their defaults too. The last lines give the pipeline's gain over the best
single model on test, with a 95 % interval of the paired difference.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np

import zhiyin as zy
from zhiyin.data.dataset import Dataset
from zhiyin.evaluation.significance import bootstrap_interval
from zhiyin.models.registry import parse
from zhiyin.pipeline.automl import fit_within_budget

SINGLES = ("popular", "popular:half_life=1d", "popular:half_life=7d", "popular:half_life=30d", "itemknn", "als",
           "transitions", "content")  # fmt: skip
EASE_ITEMS = 12_000


def movielens_100k(folder: Path) -> Dataset:
    return zy.read(folder / "u.data", items=folder / "items.tsv", users=folder / "users.tsv")


def movielens_small(folder: Path) -> Dataset:
    return zy.read(folder / "ratings.csv", items=folder / "movies.csv")


def online_retail(folder: Path) -> Dataset:
    return zy.read(folder / "online_retail.csv.gz")


def retailrocket(folder: Path) -> Dataset:
    return zy.read({kind: folder / f"train_mat_{kind}.tsv" for kind in ("view", "cart", "buy")})


SETS = {
    "movielens-100k": movielens_100k,
    "movielens-small": movielens_small,
    "online-retail": online_retail,
    "retailrocket": retailrocket,
}


def judge(name: str, budget: float, inner: bool, run: zy.Run) -> tuple[str, float, float, float]:
    """Print one data set's table; returns the best single model and the pipeline's gain over it, with its interval."""
    data = SETS[name](Path(os.environ["ZHIYIN_DATA"]) / name)
    split = zy.split(data, "time")
    if inner:  # for development: the test part is never looked at
        split = zy.split(split.train, "time")
    pipeline = fit_within_budget(split.train, budget, run=run)
    report = pipeline.report_
    texts = [*SINGLES, *(["ease"] if split.train.n_items <= EASE_ITEMS else [])]
    texts += [tried["tuned"] for tried in report["tried"] if "tuned" in tried]
    models = {text: parse(text) for text in dict.fromkeys(texts)}
    judged = zy.evaluate({"pipeline": pipeline, **models}, split=split, k=10, run=run)
    print(f"\n{name}: {data!r}; budget {budget:.0f} s, took {report['seconds']:.0f} s")
    for choice in report["choices"].values():
        print(f"  {choice['segment']:9} {choice['method']:24} {choice['why']}; "
              + ", ".join(f"{m} {v:.4f}" for m, v in choice["figures"].items()))  # fmt: skip
    singles = [model for model in judged.models if model.name != "pipeline"]
    for model in sorted(judged.models, key=lambda model: -model.metrics["ndcg@10"]):
        low, high = model.intervals["ndcg@10"]
        print(f"  {model.name:60} ndcg@10 {model.metrics['ndcg@10']:.4f} ({low:.4f} to {high:.4f})")
    best = max(singles, key=lambda model: model.metrics["ndcg@10"]).name
    gain = judged.per_user["pipeline"]["ndcg@10"] - judged.per_user[best]["ndcg@10"]
    low, high = bootstrap_interval(gain[:, None], run, 10_000)
    print(f"  gain over {best}: {gain.mean():+.4f} ({low[0]:+.4f} to {high[0]:+.4f}), {len(gain):,} users", flush=True)
    return best, float(np.mean(gain)), float(low[0]), float(high[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", help=f"of {', '.join(SETS)}")
    parser.add_argument("--budget", default="10m")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--inner", action="store_true", help="judge within the train part")
    asked = parser.parse_args()
    run = zy.Run(seed=asked.seed, threads=asked.threads, progress=False)
    budget = zy.microseconds(asked.budget) / 1e6
    rows = {name: judge(name, budget, asked.inner, run) for name in asked.sets or SETS}
    print("\nset, best single, gain, 95 % interval")
    for name, (best, gain, low, high) in rows.items():
        print(f"{name}, {best}, {gain:+.4f}, {low:+.4f} to {high:+.4f}")
    return 0 if sum(low > 0 for _, _, low, _ in rows.values()) >= min(2, len(rows)) else 1


if __name__ == "__main__":
    sys.exit(main())
