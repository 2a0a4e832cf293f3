"""Are click probabilities right? Expected calibration error on a held-out week of the simulated shop.

    python benchmarks/calibration.py                # boosted trees and DeepFM: raw, Platt, isotonic
    python benchmarks/calibration.py --users 500    # smaller

At the moments of the shop's log each user is shown one of four adverts apart (half drawn by popularity, half from all
released films) and clicks with the shop's own probability, so the truth is known for every row. Rankers learn from
five weeks, stop early and are calibrated on the sixth, and are judged on the seventh. Features are as of the moment.
The error is over 15 bins of equally many rows, once against the true probabilities and once against clicks; beside it
the error of always saying the mean of the sixth week, which is calibrated and useless: its AUC is one half.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import polars as pl

import zhiyin as zy
from zhiyin.policies.simulators.film_shop import DAY, START
from zhiyin.ranking.calibration import expected_calibration_error
from zhiyin.ranking.examples import Candidates, Examples
from zhiyin.ranking.feature_builder import FeatureBuilder, training_requests
from zhiyin.ranking.registry import parse

EACH = 4  # adverts a request
RANKERS = ("trees:objective=binary,learning_rate=0.05,min_leaf=100", "deepfm:factors=8,dropout=0.2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=4_000)
    parser.add_argument("--items", type=int, default=1_200)
    given = parser.parse_args()
    run = zy.Run(seed=0)
    shop = zy.FilmShop(n_users=given.users, n_items=given.items)
    data = shop.log(run)
    last = shop.days
    weeks = {"train": (last - 49, last - 14), "calibrate": (last - 14, last - 7), "test": (last - 7, last)}
    # What the features know is counted as of each moment; their columns are learned from the catalogue alone.
    builder = FeatureBuilder.learn(data, run=run)
    rows: dict[str, tuple[Examples, np.ndarray, np.ndarray]] = {}
    for number, (name, (first, stop)) in enumerate(weeks.items()):
        rows[name] = shown(shop, data, builder, first, stop, run.rng(1, number))
        chance = rows[name][2]
        print(f"{name:9} days {first}-{stop}: {len(chance):,} adverts, {chance.mean():.4f} clicked, at best AUC "
              f"{auc(rows[name][1], chance):.4f}", flush=True)  # fmt: skip
    examples, labels, _ = rows["train"]
    held, truth, _ = rows["calibrate"]
    asked, clicks, chance = rows["test"]
    mean = np.full(len(chance), truth.mean())
    print(f"{'the mean':34} ECE {ece(chance, mean):.4f}  of clicks {ece(clicks, mean):.4f}")
    for text in RANKERS:
        for how in ("none", "platt", "isotonic"):
            begun = time.process_time()
            ranker = parse(f"{text},calibrate={how}").fit(examples, labels, valid=(held, truth), run=run)
            p = ranker.score(asked, run)
            seconds, name = time.process_time() - begun, f"{text.partition(':')[0]}, calibrate={how}"
            print(f"{name:34} ECE {ece(chance, p):.4f}  of clicks {ece(clicks, p):.4f}  AUC {auc(clicks, p):.4f}  "
                  f"({seconds:.0f} s)", flush=True)  # fmt: skip


def shown(
    shop: zy.FilmShop, data: zy.Dataset, builder: FeatureBuilder, first: int, stop: int, rng: np.random.Generator
) -> tuple[Examples, np.ndarray, np.ndarray]:
    """Adverts at moments of the log between two days: examples, clicks and their true probabilities."""
    requests = training_requests(data, cut=START + first * DAY, window=f"{stop - first}d", max_requests=None)
    n = len(requests)
    films = place(data.item_ids.values, shop.items["id"])
    people = place(data.user_ids.values, shop.users["id"])
    day = (requests.now - START) / DAY
    before = data.events.filter(pl.col("time") < START + first * DAY)["item"].to_numpy()
    popular = before[rng.integers(0, len(before), (n, EACH))]
    items = np.where(rng.random((n, EACH)) < 0.5, popular, rng.integers(0, data.n_items, (n, EACH)))
    chance = shop.probability(people[requests.users], films[items], day)
    there = (shop.films.released[films[items]] <= np.floor(day)[:, None]) & (chance > 0)
    there &= np.array([len(set(row)) == EACH for row in items.tolist()])[:, None]
    offsets = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
    m = int(offsets[-1])
    candidates = Candidates(offsets, items[there].astype(np.int32), (), np.zeros((m, 0), np.float32),
                            np.zeros((m, 0), np.int32))  # fmt: skip
    p = chance[there].astype(np.float64)
    clicks = (rng.random(m) < p).astype(np.float32)
    return builder.build(requests.histories(), candidates), clicks, p


def place(ids: pl.Series, among: pl.Series) -> np.ndarray:
    """int64: where each id stands among others."""
    table = pl.DataFrame({"id": among, "at": np.arange(len(among))})
    return pl.DataFrame({"id": ids}).join(table, on="id", how="left", maintain_order="left")["at"].to_numpy()


def ece(labels: np.ndarray, p: np.ndarray) -> float:
    return expected_calibration_error(labels, p)


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    negative = np.sort(scores[labels < 0.5])
    positive = scores[labels > 0.5]
    both = np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")
    return float(both.mean() / 2 / len(negative))


if __name__ == "__main__":
    main()
