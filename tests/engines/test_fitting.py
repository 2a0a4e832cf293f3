"""Models fitted on Spark are those of a single process, file by file."""

from __future__ import annotations

import filecmp
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from zhiyin.core.errors import ConfigError
from zhiyin.core.run import Run
from zhiyin.models.als import ALS
from zhiyin.models.linear import EASE
from zhiyin.models.loading import load
from zhiyin.models.neighbors import SIMILARITIES, ItemKNN
from zhiyin.models.popularity import Popular
from zhiyin.models.recommender import Recommender
from zhiyin.models.state_files import TRAINING_LOG_FILE
from zhiyin.models.transitions import Transitions
from zhiyin.testing.recommender import shop

if TYPE_CHECKING:
    from zhiyin.engines.spark.engine import SparkEngine
    from zhiyin.engines.spark.event_log import EventLog

MODELS = [
    ALS(factors=8, reg=0.5, epochs=3),
    ALS(factors=5, reg=0.5, epochs=2, solver="exact", reg_power=0.5),
    ALS(factors=40, reg=0.5, epochs=1, solver="blocks"),
    ItemKNN(k_neighbors=7),
    ItemKNN(k_neighbors=7, similarity="jaccard"),
    ItemKNN(k_neighbors=7, similarity="tfidf"),
    ItemKNN(k_neighbors=7, similarity="bm25"),
    Transitions(half_life="1d", session_gap="1d", backward=0.5, damping=0.5, repeats=1.0),
    EASE(reg=20.0),
    Popular(half_life="7d"),
]


@pytest.fixture(scope="module")
def events(spark: SparkEngine) -> EventLog:
    from zhiyin.engines.spark.event_log import EventLog

    return EventLog.publish(spark, shop(seed=3))


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_the_saved_folder_is_that_of_a_single_process(
    spark: SparkEngine, events: EventLog, model: Recommender, tmp_path: Path
) -> None:
    from zhiyin.engines.spark.fitting import fit

    run = Run(seed=5)
    fit(spark, model, events, run).save(tmp_path / "spark")
    model.fit(events.data, run).save(tmp_path / "single")
    # The log of a training holds times, and what is computed for it alone.
    folders = (tmp_path / "single", tmp_path / "spark")
    names, others = (sorted(path.name for path in one.iterdir() if path.name != TRAINING_LOG_FILE) for one in folders)
    assert others == names
    assert filecmp.cmpfiles(tmp_path / "spark", tmp_path / "single", names, shallow=False) == (names, [], [])
    assert load(tmp_path / "spark").recommend(k=3).height


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_a_table_summed_over_blocks_of_users_is_that_of_a_single_process(
    spark: SparkEngine, events: EventLog, similarity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past a size no task has all pairs: here past none, with sums for three items a task."""
    from zhiyin.engines.spark import item_knn
    from zhiyin.engines.spark.fitting import fit

    monkeypatch.setattr(item_knn, "MAX_SHARED_PAIRS", 0)
    monkeypatch.setattr(item_knn, "MAX_SUM_BYTES", 3 * 4 * events.data.n_items)
    monkeypatch.delattr(item_knn, "compute_rows")  # the way of smaller logs
    model = ItemKNN(k_neighbors=7, similarity=similarity)
    got = fit(spark, model, events, Run()).similarities_
    wanted = ItemKNN(k_neighbors=7, similarity=similarity).fit(events.data).similarities_
    for part in ("indptr", "indices", "data"):
        assert np.array_equal(getattr(got, part), getattr(wanted, part))
    assert not list(spark.folder.glob("item-knn-*"))


def test_settings_are_checked_as_by_a_single_process(spark: SparkEngine, events: EventLog) -> None:
    from zhiyin.engines.spark.fitting import fit

    with pytest.raises(ConfigError, match="factors"):
        fit(spark, ALS(factors=0), events, Run())
