"""Books that nobody has read yet: TwoTower beside TF-IDF cosine over the same columns, on Goodbooks.

    ZHIYIN_DATA=... python benchmarks/two_tower.py             # the folder that holds goodbooks/
    ZHIYIN_DATA=... python benchmarks/two_tower.py --tune      # the same on a validation part cut from train

A fifth of the books loses all its events (`split(data, "cold-items")`); titles, authors, year and language of all are
known. Two tables: the whole catalogue is ranked, and the cold books alone. The floor is the mean of the TF-IDF vectors
of what a user had against each book's, by words, by words and pairs of words, and by pieces of words. The settings of
TwoTower were chosen on such a validation part, not on the test part. Takes minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]

import zhiyin as zy
from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.data.splits import Split, split
from zhiyin.models.recommender import Recommender
from zhiyin.models.registry import parse, register
from zhiyin.models.training_context import TrainingContext

COLUMNS = ("title", "authors", "original_publication_year", "language_code")
WAYS: dict[str, dict[str, Any]] = {
    "words": {"token_pattern": r"[\w']+"},
    "pairs": {"token_pattern": r"[\w']+", "ngram_range": (1, 2)},
    "pieces": {"analyzer": "char_wb", "ngram_range": (3, 5)},
}
SHOWN = ("ndcg@10", "recall@20")
CHOSEN: dict[str, Any] = {
    "factors": 512,
    "epochs": 24,
    "validation": "none",
    "learning_rate": 0.0005,
    "schedule": "cosine",
    "dropout": 0.5,
    "ids": False,
    "negatives": 256,
    "popularity": 0.0,
    "temperature": 0.05,
}


@register
@dataclasses.dataclass
class ContentKNN(Recommender):
    """Cosine of TF-IDF vectors: a user is the mean of the vectors of what they had."""

    way: str = param("words", "what is counted", choices=tuple(WAYS))
    likeness_: ClassVar[np.ndarray]

    def _fit(self, data: Dataset, run: Run) -> None:
        said = data.items.select(pl.concat_str(pl.col(COLUMNS).cast(pl.String).fill_null(""), separator=" "))
        vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32, **WAYS[self.way])
        vectors = sparse.csr_matrix(vectorizer.fit_transform(said.to_series().to_list()))
        self.likeness_ = (vectors @ vectors.T).toarray()  # type: ignore[misc]

    def _score(self, histories: Histories, run: Run) -> np.ndarray:
        return histories.matrix(len(self.likeness_)) @ self.likeness_  # a sum ranks as the mean does


def cold_only(parts: Split) -> Split:
    """The same split, in which only items without an event in train may be recommended."""
    cold = np.bincount(parts.train.events["item"].to_numpy(), minlength=parts.train.n_items) == 0
    every = np.ones(parts.train.n_events, dtype=bool)
    train = parts.train.subset(every, candidates=cold)
    return dataclasses.replace(parts, train=train, protocol=f"{parts.protocol}; only they are ranked")


def some_users(test: Dataset, n: int, run: Run) -> Dataset:
    """The test events of n of the users, drawn at random."""
    chosen = np.zeros(test.n_users, dtype=bool)
    chosen[run.rng(31).permutation(test.events["user"].unique().sort().to_numpy())[:n]] = True
    return test.subset(chosen[test.events["user"].to_numpy()])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", action="store_true", help="judge on a validation part cut from train")
    parser.add_argument("--threads", type=int, default=Run().n_threads)
    parser.add_argument("--users", type=int, default=10_000, help="judge this many users, drawn at random")
    parser.add_argument("--set", nargs="*", default=[], help="further settings of TwoTower, name=value")
    asked = parser.parse_args()
    folder = Path(os.environ.get("ZHIYIN_DATA", ".")) / "goodbooks"
    if not folder.exists():
        sys.exit("set ZHIYIN_DATA to the folder that holds goodbooks/")
    run = Run(threads=asked.threads)
    parts = split(zy.read(folder / "ratings.csv", items=folder / "books.csv"), "cold-items", run=run)
    if asked.tune:
        parts = split(parts.train, "cold-items", run=dataclasses.replace(run, seed=1))
    parts = dataclasses.replace(parts, test=some_users(parts.test, asked.users, run))
    tower = parse(",".join(["TwoTower", *asked.set]).replace(",", ":", 1), CHOSEN | {"columns": ",".join(COLUMNS)})
    models: dict[str, Recommender] = {f"tf-idf of {way}": ContentKNN(way=way) for way in WAYS} | {"two towers": tower}
    for name, model in models.items():
        begun = time.perf_counter()
        model.fit(parts.train, run)
        print(f"{name}: fit in {time.perf_counter() - begun:.0f} s", flush=True)
    ok = True
    for what, judged in (("the whole catalogue", parts), ("the cold books alone", cold_only(parts))):
        for model in models.values():  # the two train parts differ in what may be recommended, not in what they teach
            model.context_ = TrainingContext.of(judged.train, run)  # type: ignore[misc]
        found = zy.evaluate(models, split=judged, run=run, baselines=False)
        print(f"{what}: {found.protocol[0]}", flush=True)
        for name in models:
            result = found[name]
            figures = (f"{m} {result.metrics[m]:.4f} [{result.intervals[m][0]:.4f}, {result.intervals[m][1]:.4f}]"
                       for m in SHOWN)  # fmt: skip
            p = result.p_values.get("ndcg@10")  # of the paired test against the best by NDCG@10, None for the best
            beside = "" if p is None else f"  p {p:.3f}"
            print(f"  {name:16} {'  '.join(figures)}{beside}", flush=True)
        for metric in SHOWN:
            floor = max(found[name].metrics[metric] for name in models if name != "two towers")
            ok &= found["two towers"].metrics[metric] > floor
    print("TwoTower is above every floor" if ok else "TwoTower is BELOW a floor")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
