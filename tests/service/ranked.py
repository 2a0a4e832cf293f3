"""A shop whose lists a ranker orders: what sells changes from day to day, and kinds, values and categories differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.run import Run
from zhiyin.data.catalogue import Catalogue
from zhiyin.data.dataset import Dataset
from zhiyin.data.event_schema import StorePosition
from zhiyin.models.content import Content
from zhiyin.models.neighbors import ItemKNN
from zhiyin.models.popularity import Popular
from zhiyin.models.transitions import Transitions
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.ranking.feature_builder import FeatureBuilder, labels, training_requests
from zhiyin.ranking.retrieval import retrieve
from zhiyin.ranking.trees import Trees

DAY = 86_400_000_000
BEGIN = 19_600 * DAY  # in 2023
TRAINED = BEGIN + 60 * DAY
ITEMS, USERS = 60, 50
KINDS, WEIGHTS = ("hide", "purchase", "view"), {"hide": -1.0, "purchase": 5.0, "view": 1.0}
SOURCES: dict[str, Callable[[], Any]] = {
    "popular": Popular, "itemknn": ItemKNN, "transitions": Transitions, "content": Content,
}  # fmt: skip


def log(days: int, per_day: int = 40, seed: int = 0) -> pl.DataFrame:
    """Events in the order of their times: `user, item, time, kind, value`."""
    rng, n = np.random.default_rng(seed), days * per_day
    time = np.sort(BEGIN + rng.integers(0, days * DAY, n))
    fashion = (time - BEGIN) // (5 * DAY) * 7  # what sells moves on every five days
    user = rng.integers(0, USERS, n)
    item = (fashion + rng.geometric(0.2, n) + 30 * (user % 2)) % ITEMS
    chance = rng.random(n)
    kind = np.select([chance < 0.3, chance < 0.4], ["purchase", "hide"], "view")
    value = np.where(kind == "purchase", rng.integers(1, 5, n).astype(float), np.nan)
    return pl.DataFrame({
        "user": np.char.add("u", user.astype(str)), "item": np.char.add("i", item.astype(str)), "time": time,
        "kind": kind, "value": value,
    }).with_columns(pl.col("value").fill_nan(None))  # fmt: skip


def catalogue() -> pl.DataFrame:
    return pl.DataFrame({
        "id": [f"i{i}" for i in range(ITEMS)],
        "genre": [("drama", "comedy", "crime")[i % 3] for i in range(ITEMS)],
        "price": [1.0 + i % 10 for i in range(ITEMS)],
        "title": [f"{('rocket planet orbit', 'garden rose tulip')[i % 2]} {i}" for i in range(ITEMS)],
    })  # fmt: skip


def data_of(events: pl.DataFrame, position: StorePosition | None = None, from_store: int = 0) -> Dataset:
    """position: of the store that the last `from_store` events are from."""
    stored = None if position is None else np.arange(len(events)) >= len(events) - from_store
    weights = events["kind"].replace_strict(WEIGHTS, return_dtype=pl.Float32)
    return Dataset.build(
        events.with_columns(weights.alias("weight")), items=catalogue(), position=position, stored=stored
    )


def pipeline_of(data: Dataset) -> Pipeline:
    """Sources joined by trees that learned on the last tenth of the log."""
    run = Run(threads=1)
    requests = training_requests(data, cut=0.9)
    past = data_of(_raw(data).filter(pl.col("time") < int(requests.now.min())))
    assert past.item_ids.values.equals(data.item_ids.values)
    old = {name: make().fit(past, run) for name, make in SOURCES.items()}
    histories = requests.histories()
    candidates = retrieve(old, histories, 20, run=run)
    examples = FeatureBuilder.learn(past, old).build(histories, candidates)
    ranker = Trees(trees=30, leaves=15, min_leaf=5).fit(examples, labels(candidates, requests).values, run=run)
    fitted = {name: make().fit(data, run) for name, make in SOURCES.items()}
    pipeline = Pipeline.wrapping(fitted["itemknn"])
    pipeline.sources, pipeline.candidates, pipeline.ranker = "; ".join(SOURCES), 20, "trees"
    pipeline.sources_ = fitted  # type: ignore[misc]
    pipeline.ranker_, pipeline.builder_ = ranker, FeatureBuilder.learn(data, fitted)  # type: ignore[misc]
    pipeline.choices_ = dict.fromkeys(pipeline.choices_, "ranker")  # type: ignore[misc]
    return pipeline


def _raw(data: Dataset) -> pl.DataFrame:
    """The events of a data set with raw ids."""
    return data.events.select(
        data.user_ids.decode(data.events["user"].to_numpy()).alias("user"),
        data.item_ids.decode(data.events["item"].to_numpy()).alias("item"),
        "time", pl.col("kind").cast(pl.String), "value",
    )  # fmt: skip


def trained(
    folder: Path,
    events: pl.DataFrame,
    version: int = 1,
    position: StorePosition | None = None,
    from_store: int = 0,
) -> Bundles:
    """A folder of versions whose newest learned these events; `position`, `from_store` as of `data_of`."""
    data, bundles = data_of(events, position, from_store), Bundles(folder / "bundles")
    assert bundles.write(pipeline_of(data), figures={}, catalogue=Catalogue.of(data)).version == version
    return bundles
