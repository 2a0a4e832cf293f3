"""Odd values and weights: a model learns from them or says what is wrong, and no number of it is NaN."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import polars as pl
import pytest

import zhiyin as zy
from zhiyin.data.histories import Histories
from zhiyin.models.recommender import check_finite

RATING_MODELS = ("BiasedMF", "SVDpp", "TimeSVDpp", "BayesianFM")


def ratings(*more: tuple[int, int, float], factor: float = 1.0) -> zy.Dataset:
    draw = random.Random(1)
    rows = [(u, i, factor * draw.randint(1, 5)) for u in range(40) for i in draw.sample(range(30), 8)]
    frame = pl.DataFrame([*rows, *more], schema=["user", "item", "rating"], orient="row")
    return zy.read(frame.with_columns(time=1_600_000_000 + 3_600 * pl.int_range(pl.len())))


@pytest.mark.slow
@pytest.mark.parametrize("name", RATING_MODELS)
@pytest.mark.parametrize("odd", [200.0, 1e6, 9e15, -9e15, 1e30])
def test_one_value_far_from_the_others(name: str, odd: float, caplog: pytest.LogCaptureFixture) -> None:
    plain, data = ratings(), ratings((0, 0, odd))
    model = getattr(zy, name)().fit(data)
    assert len(model.recommend(k=5)) == 200
    users, items = plain.users["id"].to_list() * 2, plain.items["id"].to_list()
    predicted = model.predict(users[: len(items)], items)
    assert np.isfinite(predicted).all()
    assert np.abs(predicted - 3).max() < 20


@pytest.mark.parametrize("name", RATING_MODELS)
@pytest.mark.parametrize("factor", [20.0, 1_000.0, 1e-3])
def test_ratings_of_any_scale(name: str, factor: float) -> None:
    """As play counts and percentages are: what is learned does not depend on the unit."""
    model = getattr(zy, name)().fit(ratings(factor=factor))
    users, items = np.arange(30), np.arange(30)
    predicted = model.predict(users, items) / factor
    assert np.isfinite(predicted).all()
    assert 1 <= predicted.min() <= predicted.max() <= 5.001


@pytest.mark.parametrize("name", RATING_MODELS)
@pytest.mark.parametrize("times", [30, 400])
def test_one_user_and_one_item_again_and_again(name: str, times: int) -> None:
    model = getattr(zy, name)().fit(ratings(*[(1, 1, 5.0)] * times))
    assert len(model.recommend(k=5)) == 200


@pytest.mark.parametrize("name", RATING_MODELS)
def test_a_history_of_items_alone_asks_for_more_of_them(name: str) -> None:
    draw, rows = random.Random(5), []
    for u in range(60):
        for i in draw.sample(range(20), 10):
            good = i % 2 == u % 2
            rows.append((f"u{u}", f"{'AB'[i % 2]}{i}", draw.choice([4, 5]) if good else draw.choice([1, 2])))
    frame = pl.DataFrame(rows, schema=["user", "item", "rating"], orient="row")
    model = getattr(zy, name)().fit(zy.read(frame.with_columns(time=1_600_000_000 + 60 * pl.int_range(pl.len()))))
    had = ["A0", "A2", "A4", "A6"]
    listed = model.recommend(histories={"visitor": had}, k=6)["item"].to_list()
    assert [item[0] for item in listed] == ["A"] * 6
    # It is as if each of them had got a good rating.
    plain = Histories.from_items([had], model.context_.item_ids)
    rated = dataclasses.replace(plain, values=np.full(4, model.liked_, dtype=np.float32))
    assert np.allclose(model.score(plain), model.score(rated), atol=1e-4)
    assert 4 <= model.liked_ <= 5
    assert 1 <= model.disliked_ <= 2


@pytest.mark.parametrize("weight", [float("inf"), -float("inf"), float("nan"), 1e38, -1e7])
def test_weights_that_no_sum_holds_are_refused(weight: float) -> None:
    log = pl.DataFrame({"user": [1, 2], "item": [1, 2], "kind": ["view", "buy"]})
    with pytest.raises(zy.ConfigError, match="cannot read the weight"):
        zy.read(log, weights={"view": weight, "buy": 1})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_model_that_learned_no_numbers_is_neither_fitted_nor_saved(value: float, tmp_path) -> None:
    class Diverges(zy.Popular):
        def _fit(self, data, run) -> None:
            super()._fit(data, run)
            self.vectors_ = np.array([0.0, value, 1.0], dtype=np.float32)

    data = ratings()
    with pytest.raises(zy.DataError, match=r"Diverges has learned numbers(.|\n)*smaller learning rate"):
        Diverges().fit(data)
    model = zy.BiasedMF().fit(data)
    model.item_vectors_ = model.item_vectors_.copy()
    model.item_vectors_[3, 2] = value
    with pytest.raises(zy.DataError, match="item_vectors_"):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    with pytest.raises(zy.DataError):
        check_finite(model)


def test_events_of_one_moment_are_split_by_ratio_and_it_is_said() -> None:
    rows = [(u, i, 1_600_000_000) for u in range(40) for i in range(u % 7, u % 7 + 8)]
    data = zy.read(pl.DataFrame(rows, schema=["user", "item", "time"], orient="row"))
    found = zy.split(data)
    assert found.by == "ratio"
    assert "all events carry one time" in found.warnings[0]
    with pytest.raises(zy.DataError, match=r"one time(.|\n)*by = \"ratio\""):
        zy.split(data, "time")
