"""What an event without a rating says to models of ratings: it is no star, whoever did it and whenever."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import zhiyin as zy
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models.ratings.rating_model import RatingModel
from zhiyin.models.ratings.rating_values import RatingScale

DAY = 86_400_000_000
MODELS = {
    "UserItemBias": {},
    "BiasedMF": {"factors": 4},
    "SVDpp": {"factors": 4},
    "TimeSVDpp": {"factors": 4},
    "BayesianFM": {"factors": 4, "sweeps": 40, "burn": 15, "kept": 12},
    "RatingBlend": {"models": "useritembias + biasedmf:factors=4 + svdpp:factors=4"},
}


def films(views: int = 0) -> pl.DataFrame:
    """Ratings of two tastes: even users give horror (h) 5 and romance (r) 2 stars, odd users the other way round; and
    for each user so many views, without a rating, of films that the user has not rated."""
    rng, rows = np.random.default_rng(2), []
    for user in range(60):
        shelf = [(kind, number) for kind in "hr" for number in range(15)]
        likes = np.array([(kind == "h") == (user % 2 == 0) for kind, _ in shelf])
        order = np.argsort(rng.random(len(shelf)) - 0.4 * likes)  # what one likes, one sees more of
        for step, place in enumerate(order[:16]):
            kind, number = shelf[place]
            good = (kind == "h") == (user % 2 == 0)
            rows.append((f"u{user}", f"{kind}{number}", (10_000 + step) * DAY, "rate", 5.0 if good else 2.0))
        for step, place in enumerate(order[16 : 16 + views]):
            kind, number = shelf[place]
            rows.append((f"u{user}", f"{kind}{number}", (10_020 + step) * DAY, "view", None))
    schema = {"user": pl.String, "item": pl.String, "time": pl.Int64, "kind": pl.String, "value": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def fitted(name: str, log: pl.DataFrame) -> RatingModel:
    return getattr(zy, name)(**MODELS[name]).fit(Dataset.build(log), Run(threads=1))


def history(model: RatingModel, *events: tuple[str, float | None, float]) -> Histories:
    """One history of (item, rating, weight)."""
    items = model.context_.item_ids.encode([item for item, _, _ in events])
    values = np.array([np.nan if value is None else value for _, value, _ in events], dtype=np.float32)
    weights = np.array([weight for *_, weight in events], dtype=np.float32)
    times = np.full(len(events), 10_030 * DAY, dtype=np.int64)
    return Histories.of(np.array([0, len(events)]), items, weights=weights, values=values, times=times)


def test_which_events_are_ratings() -> None:
    nan = np.nan
    values = np.array([1, 5, nan, nan, nan, np.inf, nan, nan], dtype=np.float32)
    weights = np.array([1, 1, 1, -1, 0, 1, 1, -1], dtype=np.float32)
    offsets = np.array([0, 6, 8])  # two histories, the second one without a value
    histories = Histories.of(offsets, np.arange(8), weights=weights, values=values)
    scale = RatingScale.of(histories)
    assert (scale.rated, scale.low, scale.high, scale.disliked, scale.liked) == (True, 1, 5, 1, 5)
    assert (scale.clipped, scale.ignored) == (0, 1)
    learned = scale.of_training(histories)
    assert learned.histories.items.tolist() == [0, 1, 3, 7]
    assert learned.ratings.tolist() == [1, 5, 1, 1]
    assert learned.histories.offsets.tolist() == [0, 3, 4]
    assert learned.owner.tolist() == [0, 0, 0, 1]
    asked = scale.of_histories(histories)
    assert asked.histories.items.tolist() == [0, 1, 3, 6, 7]
    assert asked.ratings.tolist() == [1, 5, 1, 5, 1]


def test_weights_are_ratings_where_nothing_has_a_value() -> None:
    histories = Histories.of(np.array([0, 3]), np.arange(3), weights=np.array([1, 5, -1], np.float32))
    scale = RatingScale.of(histories)
    assert not scale.rated
    assert scale.of_training(histories).ratings.tolist() == [1, 5, -1]
    assert scale.of_histories(histories).ratings.tolist() == [1, 5, -1]


def test_no_rating_at_all_is_said() -> None:
    histories = Histories.of(np.array([0, 2]), np.arange(2), weights=np.full(2, np.inf, np.float32))
    with pytest.raises(zy.DataError, match="no event has a rating"):
        RatingScale.of(histories)


@pytest.mark.parametrize("name", MODELS)
def test_a_user_who_viewed_horror_and_rated_none_is_not_taken_to_hate_it(name: str) -> None:
    model = fitted(name, films(views=4))
    horror, romance = [f"h{n}" for n in range(10, 15)], [f"r{n}" for n in range(10, 15)]
    viewer = history(model, *[(f"h{n}", None, 1.0) for n in range(10)])
    assert model.predict(np.zeros(5, np.int64), horror, histories=viewer).mean() > 3.5  # no stars below the middle
    if name != "UserItemBias":  # which knows no tastes
        scores = model.score(viewer)[0]
        liked, other = (scores[model.context_.item_ids.encode(some)] for some in (horror, romance))
        assert liked.min() > other.max()


@pytest.mark.parametrize("name", ["GlobalMean", "UserItemBias", "BiasedMF"])
def test_views_teach_nothing_to_a_model_without_implicit_feedback(name: str) -> None:
    """Whether the log has views beside its ratings, the ratings are the same, and so are the predictions."""
    MODELS.setdefault("GlobalMean", {})
    plain, viewed = fitted(name, films()), fitted(name, films(views=8))
    users, items = [f"u{n}" for n in range(60)], [f"h{n % 15}" for n in range(60)]
    np.testing.assert_allclose(plain.predict(users, items), viewed.predict(users, items), atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_view_beside_ratings_is_no_rating(name: str) -> None:
    """Ten views of romance do not turn round the taste of one who rates horror high; a rating does what it says."""
    model = fitted(name, films(views=4))
    rated = [(f"h{n}", 5.0, 1.0) for n in range(6)] + [(f"r{n}", 2.0, 1.0) for n in range(6)]
    views = [(f"r{n}", None, 1.0) for n in range(6, 12)]
    rows, horror = np.zeros(5, np.int64), [f"h{n}" for n in range(10, 15)]
    before = model.predict(rows, horror, histories=history(model, *rated))
    after = model.predict(rows, horror, histories=history(model, *rated, *views))
    assert np.abs(after - before).max() < 0.6  # implicit feedback may move it, a star each would not leave it there
    if name in ("UserItemBias", "BiasedMF"):
        np.testing.assert_allclose(after, before, atol=1e-5)
    assert after.mean() > 3


def test_a_dislike_is_a_poor_rating() -> None:
    model = fitted("BiasedMF", films())
    rows, horror = np.zeros(5, np.int64), [f"h{n}" for n in range(10, 15)]
    none = history(model)
    disliked = history(model, *[(f"h{n}", None, -1.0) for n in range(6)])
    assert (
        model.predict(rows, horror, histories=disliked).mean()
        < model.predict(rows, horror, histories=none).mean() - 0.5
    )
