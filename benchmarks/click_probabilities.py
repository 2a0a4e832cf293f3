"""Click probabilities learned from displays: log-loss, AUC and calibration beside simple rates and, where it is known,
the truth.

    python benchmarks/click_probabilities.py film-shop [--users 2000] [--lists 60] [--budget 120]
    python benchmarks/click_probabilities.py open-bandit [--budget 60]

Everything is learned from the first 80 % of the displays; the figures are of the others. The film shop's displays are
made, and their click probabilities known. The Open Bandit log is the four small files of $ZHIYIN_DATA/open-bandit: two
policies, two campaigns. It has no ids of users: its four user features make one.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from zhiyin.core.run import Run
from zhiyin.data.column_roles import Roles
from zhiyin.data.dataset import Dataset
from zhiyin.data.event_schema import EventSchema
from zhiyin.data.project_config.training_sections import TrainSection
from zhiyin.evaluation.pointwise_metrics import log_loss
from zhiyin.evaluation.probability_metrics import figures_table, probability_figures
from zhiyin.pipeline.click_learning import labels_of, simple_rates
from zhiyin.pipeline.click_training import displays_for, probabilities_as_of, train_click_version
from zhiyin.pipeline.display_log import DisplayLog
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.policies.simulators.film_shop import FilmShop
from zhiyin.policies.simulators.film_shop_displays import FilmShopDisplays
from zhiyin.ranking.calibration import expected_calibration_error

SETTINGS = TrainSection()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=("film-shop", "open-bandit"))
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--lists", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=120, help="seconds")
    options = parser.parse_args()
    if options.data == "film-shop":
        shop = FilmShopDisplays(FilmShop(n_users=options.users), lists=options.lists, seed=options.seed)
        measure(shop.log(), options.budget, shop)
    else:
        measure(open_bandit(), options.budget)


def open_bandit() -> Dataset:
    """The displays and clicks of the small files of the Open Bandit Dataset."""
    folder = Path(os.environ.get("ZHIYIN_DATA", ".")) / "open-bandit"
    features = [f"user_feature_{number}" for number in range(4)]
    columns = ["timestamp", "item_id", "position", "click", *features]
    parts = [
        pl.read_csv(folder / f"{policy}_{campaign}.csv", columns=columns).with_columns(campaign=pl.lit(campaign))
        for campaign in ("men", "women") for policy in ("random", "bts")
    ]  # fmt: skip
    rows = pl.concat(parts).with_columns(
        time=pl.col("timestamp").str.to_datetime(time_unit="us", time_zone="UTC").dt.timestamp("us"),
        user=pl.concat_str([pl.col(name).str.slice(0, 12) for name in features]),
        item=pl.format("{}-{}", "campaign", "item_id"),
    )
    shown = rows.select("user", "item", "time", kind=pl.lit("impression"), value=pl.col("position").cast(pl.Float32))
    clicked = rows.filter(pl.col("click") > 0).select(
        "user", "item", pl.col("time") + 1, kind=pl.lit("click"), value=pl.lit(None, dtype=pl.Float32)
    )
    events = pl.concat([shown, clicked])
    schema = EventSchema.of(["click", "impression"], {"click": 1.0})
    events = events.with_columns(
        pl.col("kind").cast(pl.Categorical), weight=pl.Series(schema.weights(events["kind"], events["value"]))
    )
    items = pl.concat([
        pl.read_csv(folder / f"random_{campaign}_item_context.csv").select(
            pl.format(campaign + "-{}", "item_id").alias("id"), pl.lit(campaign).alias("campaign"),
            pl.col("^item_feature_.*$"),
        )
        for campaign in ("men", "women")
    ])  # fmt: skip
    users = rows.unique("user").select(pl.col("user").alias("id"), *features)
    roles = Roles(user="user", item="item", time="time", rating="position", kind="kind")
    return Dataset.build(events, users=users, items=items, roles=roles, schema=schema)


def measure(data: Dataset, budget: float, shop: FilmShopDisplays | None = None) -> None:
    """Learn from the first displays, and print the figures of the last ones."""
    run, started = Run(), time.perf_counter()
    print(data)
    displays = displays_for(data, "ctr", SETTINGS)
    cut = int(np.quantile(displays.times, 0.8))
    past, held = data.subset(data.events["time"].to_numpy() < cut), displays.between(cut, 2**62)
    with tempfile.TemporaryDirectory() as folder:
        trained = train_click_version(past, Bundles(Path(folder) / "bundles"), budget, force=True, run=run, say=print)
        model = trained.bundle.load()
        p = {"ctr version": probabilities_as_of(model.ranker_, model.builder_, data, held, run)}
    p |= {name: rate(held) for name, rate in simple_rates(displays_for(past, "ctr", SETTINGS), "ctr").items()}
    labels = labels_of(held, "ctr")
    if shop is not None:
        p["the truth"] = truth_of(shop, data, held)
    heads, rows = figures_table({name: probability_figures(labels, one, held.users, run) for name, one in p.items()})
    print(f"{len(held):,} displays after the cut, {labels.mean():.3%} clicked")
    print(" | ".join(heads))
    for row in rows:
        print(" | ".join(str(cell) if isinstance(cell, str) else f"{cell:.5f}" for cell in row))
    if shop is not None:
        gap = log_loss(labels, p["ctr version"]) / log_loss(labels, p["the truth"]) - 1
        ece = expected_calibration_error(p["the truth"], p["ctr version"])
        print(f"log-loss {gap:+.2%} of the truth's; ECE against the true probabilities {ece:.5f}")
    print(f"trained in {trained.seconds:.0f} s, all in {time.perf_counter() - started:.0f} s")


def truth_of(shop: FilmShopDisplays, data: Dataset, held: DisplayLog) -> np.ndarray:
    """float64[m]: the true click probabilities of displays."""
    shown = shop.events().filter(pl.col("kind") == "impression")
    known = pl.DataFrame({
        "user": data.user_ids.encode(shown["user"]), "item": data.item_ids.encode(shown["item"]),
        "time": shown["time"], "truth": shown["truth"],
    }).unique(["user", "item", "time"], keep="first")  # fmt: skip
    wanted = pl.DataFrame({"user": held.users, "item": held.items, "time": held.times})
    found = wanted.join(known, on=["user", "item", "time"], how="left", maintain_order="left")["truth"]
    assert not found.is_null().any()
    return found.to_numpy()


if __name__ == "__main__":
    main()
