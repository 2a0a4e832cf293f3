"""EASE on Gowalla's published split (LightGCN's): Recall@20 .1765, NDCG@20 .1467 at reg 80 (BARS-Match).

    ZHIYIN_DATA=path/to/data python benchmarks/gowalla.py

Protocol: train items masked, all 40,981 items ranked; Recall@20 = hits / test items of the user, NDCG@20 with the ideal
over min(20, test items), mean over users with a test item. Takes about ten minutes on two cores and 7 GiB.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import polars as pl

import zhiyin as zy
from zhiyin.data.dataset import Dataset
from zhiyin.evaluation.ranking import hits_of, ndcg, recall

PUBLISHED = {"recall@20": 0.1765, "ndcg@20": 0.1467}


def pairs(path: Path) -> pl.DataFrame:
    """(user, item) rows of a file of lines "user item item ..."."""
    lines = [line.split() for line in path.read_text().splitlines()]
    lengths = [len(line) - 1 for line in lines]
    users = np.repeat(np.array([int(line[0]) for line in lines]), lengths)
    return pl.DataFrame({"user": users, "item": np.array([int(item) for line in lines for item in line[1:]])})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reg", type=float, default=80.0)
    args = parser.parse_args()
    folder = Path(os.environ["ZHIYIN_DATA"]) / "gowalla"
    train_pairs, test_pairs = pairs(folder / "train.txt"), pairs(folder / "test.txt")
    everything = pl.DataFrame({"id": pl.concat([train_pairs["item"], test_pairs["item"]]).unique().sort()})
    people = pl.DataFrame({"id": pl.concat([train_pairs["user"], test_pairs["user"]]).unique().sort()})
    train = Dataset.build(train_pairs, items=everything, users=people)
    test = Dataset.build(test_pairs, items=everything, users=people)
    print(f"train {train}, test {test}", flush=True)
    begun = time.perf_counter()
    model = zy.EASE(reg=args.reg).fit(train)
    fitted = time.perf_counter()
    truth = test.matrix()
    truth.sort_indices()
    relevant = np.diff(truth.indptr)
    rows = np.flatnonzero(relevant)
    histories = train.histories.take(rows)
    lists, _ = model.rank(histories, 20, exclude=histories)
    ranked = time.perf_counter()
    truth = truth[rows]
    hits = hits_of(lists, truth.indptr.astype(np.int64), truth.indices.astype(np.int32))
    figures = {
        "recall@20": float(recall(hits, relevant[rows], 20).mean()),
        "ndcg@20": float(ndcg(hits, relevant[rows], 20).mean()),
    }
    for name, value in figures.items():
        away = value - PUBLISHED[name]
        verdict = "within" if abs(away) <= 0.0003 else "OUTSIDE"
        print(f"{name}: {value:.6f} (published {PUBLISHED[name]:.4f}, {away:+.5f}: {verdict} .0003)")
    print(f"fit {fitted - begun:.0f} s, rank {len(rows):,} users {ranked - fitted:.0f} s")


if __name__ == "__main__":
    main()
