"""What a ranker loses with the age of its version, and what it is worth that it hears of events since.

    ZHIYIN_DATA=... python benchmarks/stale.py                       # online-retail, movielens-100k and the film shop
    python benchmarks/stale.py --data film-shop --users 1000         # smaller

For each of the last weeks of a log, users are asked at its first moment, with their whole history until then, and
judged by the items new to them that they took within the week. The version that answers was trained 0, 1, 7 or 30 days
earlier: its sources, and trees that learned on its last four weeks. "frozen" is its feature index as of training;
"fed" is the same version, sources and trees, whose index has heard of the events since. Intervals are 95 % over users
(cluster bootstrap over the weeks); the last column is the paired difference.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import polars as pl

import zhiyin as zy
from zhiyin.core.durations import UNITS
from zhiyin.core.ranking_metrics import hits_of
from zhiyin.data.dataset import Dataset
from zhiyin.data.splits import folds
from zhiyin.evaluation.model_evaluation import Window, accuracy
from zhiyin.evaluation.significance import bootstrap_interval
from zhiyin.models.recommender import Recommender
from zhiyin.models.registry import parse
from zhiyin.ranking.asof import AsOf
from zhiyin.ranking.examples import Candidates, join
from zhiyin.ranking.feature_builder import FeatureBuilder
from zhiyin.ranking.ranker import Ranker
from zhiyin.ranking.registry import parse as ranker_of
from zhiyin.ranking.retrieval import retrieve

AGES = (0, 1, 7, 30)
SOURCES = ("popular:half_life=7d", "itemknn", "transitions")
RANKER = "trees:leaves=15,min_leaf=50,learning_rate=0.05,trees=200"
# Candidates of each source, weeks that trees learn from, items of a list, days of a week.
EACH, TAUGHT, K, WEEK = 50, 4, 10, 7


def read(name: str, users: int) -> Dataset:
    if name == "film-shop":
        return zy.FilmShop(n_users=users, n_items=1_200).log()
    folder = Path(os.environ["ZHIYIN_DATA"]) / name
    if name == "movielens-100k":
        return zy.read(folder / "u.data", items=folder / "items.tsv", users=folder / "users.tsv")
    return zy.read(folder / "online_retail.csv.gz")


def before(data: Dataset, moment: int) -> Dataset:
    """What was known at a moment, in the codes of the whole log."""
    kept = data.events["time"].to_numpy() < moment
    heard = np.zeros(data.n_items, dtype=bool)
    heard[data.events["item"].to_numpy()[kept]] = True
    return data.subset(kept, candidates=heard)


def version(data: Dataset, moment: int, run: zy.Run) -> tuple[dict[str, Recommender], Ranker, FeatureBuilder]:
    """Sources, trees and features as they would have been trained at a moment: the trees on the last weeks before it,
    each asked at its first moment, as a pipeline learns."""
    known = before(data, moment)
    examples, marks = [], []
    first: FeatureBuilder | None = None
    for part in folds(known, TAUGHT, f"{WEEK}d"):
        window = Window.of(part)
        old = {text: parse(text).fit(part.train, run) for text in SOURCES}
        candidates = retrieve(old, window.histories, EACH, exclude=window.histories, run=run)
        right = np.isin(pairs(candidates.owners, candidates.items), pairs(owners(window), window.items))
        some = np.flatnonzero(np.bincount(candidates.owners, weights=right, minlength=len(window)) > 0)
        builder = FeatureBuilder.learn(part.train, old, like=first, run=run)
        first = first or builder
        examples.append(builder.build(window.histories.take(some), candidates.take(some)))
        marks.append(right[np.isin(candidates.owners, some)].astype(np.float32))
    whole, label = join(examples), np.concatenate(marks)
    held = run.rng(2).random(len(whole.offsets) - 1) < 0.2
    taught, stopped = (whole.take(np.flatnonzero(rows)) for rows in (~held, held))
    ranker = ranker_of(RANKER).fit(
        taught, label[~held[whole.owners]], valid=(stopped, label[held[whole.owners]]), run=run
    )
    sources = {text: parse(text).fit(known, run) for text in SOURCES}
    return sources, ranker, FeatureBuilder.learn(known, sources, like=first, run=run)


def owners(window: Window) -> np.ndarray:
    return np.repeat(np.arange(len(window)), window.relevant)


def pairs(rows: np.ndarray, items: np.ndarray) -> np.ndarray:
    """A request and an item as one number."""
    return rows.astype(np.int64) << 32 | items


def fed(index: AsOf, data: Dataset, since: int, until: int) -> AsOf:
    """An index that has heard of the events of [since, until)."""
    events = data.events.filter((pl.col("time") >= since) & (pl.col("time") < until))
    return index.with_events(events.with_columns(pl.col("kind").cast(pl.String)))


def ndcg(window: Window, candidates: Candidates, scores: np.ndarray, run: zy.Run) -> np.ndarray:
    """NDCG@K of each user."""
    order = np.lexsort((candidates.items, -scores, candidates.owners))
    places = np.arange(len(order)) - candidates.offsets[candidates.owners]
    lists = np.full((len(window), K), -1, dtype=np.int32)
    first = places < K
    lists[candidates.owners[first], places[first]] = candidates.items[order][first]
    hits = hits_of(lists, window.offsets, window.items, run)
    return accuracy(hits, window.relevant, [K], ["ndcg"])[f"ndcg@{K}"]


def judge(name: str, weeks: int, users: int, run: zy.Run) -> None:
    data = read(name, users)
    values: dict[tuple[int, str], list[np.ndarray]] = {}
    who = []
    for part in folds(data, weeks, f"{WEEK}d"):
        window = Window.of(part)
        begin = part.test.window[0]
        who.append(window.users)
        for age in AGES:
            moment = begin - age * UNITS["d"]
            sources, ranker, builder = version(data, moment, run)
            candidates = retrieve(sources, window.histories, EACH, exclude=window.histories, run=run)
            for how, index in (("frozen", builder.index), ("fed", fed(builder.index, data, moment, begin))):
                score = ranker.score(builder.build(window.histories, candidates, index=index), run)
                values.setdefault((age, how), []).append(ndcg(window, candidates, score, run))
    groups = np.concatenate(who)
    print(f"\n{name}: {data.n_events:,} events, {data.n_items:,} items; {weeks} weeks, {len(groups):,} lists of "
          f"{len(np.unique(groups)):,} users", flush=True)  # fmt: skip
    print(f"| age of the version | frozen, NDCG@{K} | fed, NDCG@{K} | fed − frozen |\n|---|---|---|---|")
    for age in AGES:
        frozen, live = (np.concatenate(values[age, how]) for how in ("frozen", "fed"))
        table = np.stack([frozen, live, live - frozen], axis=1)
        low, high = bootstrap_interval(table, run, groups=groups)
        cells = [
            f"{mean:{sign}.4f} [{a:{sign}.4f}, {b:{sign}.4f}]"
            for mean, a, b, sign in zip(table.mean(axis=0), low, high, ("", "", "+"))
        ]
        print(f"| {age} days | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sets = ["online-retail", "movielens-100k", "film-shop"]
    parser.add_argument("--data", nargs="*", choices=sets, default=sets)
    parser.add_argument("--weeks", type=int, default=3)
    parser.add_argument("--users", type=int, default=2_000, help="of the film shop")
    given = parser.parse_args()
    for name in given.data:
        begun = time.perf_counter()
        judge(name, given.weeks, given.users, zy.Run(seed=0))
        print(f"({time.perf_counter() - begun:.0f} s)")


if __name__ == "__main__":
    main()
