"""Lists, evaluations and features made on Spark are those of a single process."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from zhiyin.core.errors import ConfigError
from zhiyin.core.run import Run
from zhiyin.data.catalogue import Catalogue
from zhiyin.data.dataset import Dataset
from zhiyin.data.splits import split
from zhiyin.evaluation.protocol import evaluate
from zhiyin.models.als import ALS
from zhiyin.models.linear import EASE
from zhiyin.models.neighbors import ItemKNN
from zhiyin.pipeline.answers import Answers
from zhiyin.pipeline.rules import Rules
from zhiyin.ranking.asof import AsOf
from zhiyin.ranking.examples import Candidates
from zhiyin.testing.recommender import shop

if TYPE_CHECKING:
    from zhiyin.engines.spark.engine import SparkEngine

NOW = 1_700_000_000_000_000


@pytest.fixture(scope="module")
def data() -> Dataset:
    return shop(seed=3)


@pytest.mark.parametrize("model", [ALS(factors=8, epochs=2), EASE(reg=20.0)], ids=repr)
def test_lists_with_filters_rules_and_exploration(
    spark: SparkEngine, data: Dataset, model: ALS | EASE, tmp_path: Path
) -> None:
    from zhiyin.engines.spark.lists import recommend_all

    model.fit(data)
    model.save(tmp_path / "model")
    place = pl.int_range(pl.len())
    items = data.items.select("id", (place % 7).alias("price"), pl.format("kind {}", place % 3).alias("category"))
    catalogue = dataclasses.replace(Catalogue.of(data), schema=None, items=items)
    settings = {"rules": Rules.from_dict({"filter": "price < 6"}), "variety": "mmr"}
    options = {"filter": "price > 0", "explore": 0.5, "seed": 7}
    answers = Answers(model, catalogue.items, catalogue.users, kinds=catalogue.kinds, **settings)
    wanted = answers.ask_many(None, 5, now=NOW, **options)
    frame = recommend_all(
        spark, tmp_path / "model", 5, catalogue=catalogue, settings=settings, options=options, now=NOW
    )
    assert_frame_equal(frame, wanted, check_exact=True)
    some = data.user_ids.values[[5, 3, 8]]
    frame = recommend_all(spark, model, 3, users=some, now=NOW)
    assert_frame_equal(frame, Answers(model).ask_many(some, 3, now=NOW), check_exact=True)


def test_a_wrong_filter_is_the_error_of_a_single_process(spark: SparkEngine, data: Dataset) -> None:
    from zhiyin.engines.spark.lists import recommend_all

    model = ItemKNN(k_neighbors=3).fit(data)
    with pytest.raises(ConfigError) as expected:
        Answers(model).ask_many(None, 3, filter="prize < 3")
    with pytest.raises(ConfigError) as raised:
        recommend_all(spark, model, 3, options={"filter": "prize < 3"})
    assert str(raised.value) == str(expected.value)


def test_evaluation_is_that_of_a_single_process(spark: SparkEngine, data: Dataset) -> None:
    from zhiyin.engines.spark.work import SparkWork

    parts, models = split(data, test=0.3), {"als": ALS(factors=4, epochs=2), "ease": EASE()}
    arguments = {"split": parts, "k": (3, 5), "main": "ndcg@5", "rounds": 50, "auc": True, "run": Run(seed=1)}
    here = evaluate(models, **arguments)
    there = evaluate(models, work=SparkWork(spark), **arguments)
    assert there.users.equals(here.users)
    for name, metrics in here.per_user.items():
        for metric, values in metrics.items():
            np.testing.assert_array_equal(there.per_user[name][metric], values, err_msg=f"{name} {metric}")
        assert there[name].metrics == pytest.approx(here[name].metrics, abs=1e-9, nan_ok=True)
        assert there[name].intervals == here[name].intervals
    assert there.best == here.best


def test_features_are_those_of_a_single_process(spark: SparkEngine, data: Dataset) -> None:
    from zhiyin.engines.spark.features import point_in_time_features

    table = ItemKNN(k_neighbors=5).fit(data).similarities_
    index = AsOf.learn(data, neighbors={"knn": table}, prices=np.arange(data.n_items, dtype=np.float32))
    n = data.n_users
    counts = np.arange(n) % 4
    offsets = np.concatenate([[0], np.cumsum(counts)])
    items = np.random.default_rng(0).integers(0, data.n_items, offsets[-1]).astype(np.int32)
    nothing = np.zeros((len(items), 0), dtype=np.float32)
    candidates = Candidates(offsets, items, (), nothing, nothing.astype(np.int32))
    wanted = index.numbers(data.histories, candidates)
    features = point_in_time_features(spark, index, data.histories, candidates)
    assert features.shape == (len(items), len(index.names))
    np.testing.assert_array_equal(features, wanted)
