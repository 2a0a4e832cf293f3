"""Sentiment: what unrated reviews are worth, judged on reviews whose rating was kept back."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

pytest.importorskip("sklearn")

from zhiyin.core.errors import DataError
from zhiyin.features.sentiment import Sentiment, _increasing, fill_values

GOOD = ["great", "loved it", "wonderful", "not bad at all", "很好", "喜欢", "excellent value"]
BAD = ["awful", "hated it", "boring", "not good at all", "很差", "失望", "waste of money"]
PLAIN = ["the film", "a box", "delivery on monday", "颜色是蓝色", "bought for my son", "as described", "size ten"]


def reviews(n: int, seed: int) -> pl.DataFrame:
    """Reviews of several phrases; the more of them are good, the better the rating, and one in ten is a slip."""
    rng = np.random.default_rng(seed)
    texts, ratings = [], []
    for _ in range(n):
        share = rng.random()
        chosen = [rng.choice(GOOD if rng.random() < share else BAD) for _ in range(4)]
        texts.append(", ".join(rng.permutation(chosen + rng.choice(PLAIN, 3).tolist())))
        rating = np.clip(round(1 + 4 * sum(phrase in GOOD for phrase in chosen) / 4), 1, 5)
        ratings.append(float(rating if rng.random() > 0.1 else rng.integers(1, 6)))
    return pl.DataFrame({"review": texts, "rating": ratings})


@pytest.fixture(scope="module")
def model() -> Sentiment:
    learned = reviews(800, 0)
    return Sentiment.learn(learned["review"], learned["rating"])


def test_held_out_reviews_fall_on_the_right_side(model: Sentiment) -> None:
    held_out = reviews(500, 1).filter(pl.col("rating") != 3)
    right = (model.probability(held_out["review"]) > 0.5) == (held_out["rating"] > 3).to_numpy()
    assert right.mean() > 0.85  # one in ten is a slip: about 0.93 can be had
    assert abs(right.mean() - model.accuracy) < 0.06  # what it says of itself is what it is worth


def test_values_are_ratings_and_not_only_sides(model: Sentiment) -> None:
    held_out = reviews(500, 2)
    value, rating = model.value(held_out["review"]), held_out["rating"].to_numpy()
    assert np.corrcoef(value, rating)[0, 1] > 0.75
    assert abs(value.mean() - rating.mean()) < 0.2
    assert np.mean((value - rating) ** 2) < 0.6 * rating.var()
    assert (np.diff(model.values) >= 0).all()


@pytest.mark.slow
def test_unrated_reviews_are_filled_and_nothing_else_changes() -> None:
    frame = reviews(600, 3).with_row_index("row")
    unrated = pl.col("row") % 5 == 0
    events = frame.with_columns(
        rating=pl.when(~unrated).then("rating"),
        review=pl.when(pl.col("row") != 10).then("review"),
        weight=pl.when(~unrated | (pl.col("row") == 5)).then(0.5),
    )
    filled, said = fill_values(events, "review", "rating")
    assert filled.columns == events.columns
    same = filled.filter(~unrated)
    assert same["rating"].to_list() == events.filter(~unrated)["rating"].to_list()
    new = filled.filter(unrated)
    assert new.filter(pl.col("row") != 10)["rating"].null_count() == 0
    assert new.filter(pl.col("row") == 10).select("rating", "weight").row(0) == (None, None)
    assert new.filter(pl.col("row") == 5)["weight"].item() == 0.5
    weight = new.filter(~pl.col("row").is_in([5, 10]))["weight"]
    assert weight.is_between(-1, 1).all()
    assert weight.min() < -0.5 < 0.5 < weight.max()  # type: ignore[operator]
    assert said[0].startswith("119 unrated reviews valued by their text, learned from 480 rated ones")
    again, nothing = fill_values(frame, "review", "rating")
    assert again["rating"].to_list() == frame["rating"].to_list()
    assert nothing == ["every review with a text has a rating"]


def test_saved_and_restored(model: Sentiment) -> None:
    back = Sentiment.from_state(model.state())
    asked = pl.Series(["great, loved it", "awful", None, " "])
    np.testing.assert_array_equal(back.probability(asked), model.probability(asked))
    assert np.isnan(back.value(asked)[2:]).all()


def test_too_few_rated_reviews() -> None:
    few = reviews(20, 4)
    with pytest.raises(DataError, match="too few to learn"):
        Sentiment.learn(few["review"], few["rating"])
    with pytest.raises(DataError, match="no column 'text'"):
        fill_values(few, "text", "rating")


def test_means_are_made_to_rise() -> None:
    assert _increasing(np.array([1.0, 3.0, 2.0, 4.0]), np.array([1, 1, 3, 1])).tolist() == [1, 2.25, 2.25, 4]
