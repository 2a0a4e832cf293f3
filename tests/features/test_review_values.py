"""Values of reviews: one map in training and in the service, the settings, and what it says where it learns nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.data.catalogue import Catalogue
from zhiyin.data.project_config import load_config, read_data
from zhiyin.data.project_config.data_sections import ReviewsSection
from zhiyin.data.reading import read
from zhiyin.features.review_values import MIN_RATED, ReviewReader, ReviewValues, review_reader
from zhiyin.features.sentiment_lexicon import score

from .test_sentiment import reviews
from .test_sentiment_lexicon import sentences


def log(folder: Path, n_rated: int, texts: list[str]) -> Path:
    """A log of rated reviews, and of some that have a text alone."""
    rated = (
        reviews(n_rated, 7)
        if n_rated
        else pl.DataFrame({"review": [], "rating": []}, schema={"review": pl.String, "rating": pl.Float64})
    )
    rows = pl.DataFrame({
        "user_id": [f"u{n % 40}" for n in range(n_rated + len(texts))],
        "item_id": [f"i{n % 25}" for n in range(n_rated + len(texts))],
        "timestamp": [1_700_000_000 + 60 * n for n in range(n_rated + len(texts))],
        "rating": [*rated["rating"].to_list(), *[None] * len(texts)],
        "review": [*rated["review"].to_list(), *texts],
    })  # fmt: skip
    rows.write_csv(folder / "events.csv")
    return folder / "events.csv"


TEXTS = ["Not good at all.", "I love it", "一点也不喜欢", "没有失望", "Tuesday", ""]


def values_of(data: Any, start: int) -> list[float | None]:
    frame = data.events.sort("time")
    return frame["value"].to_list()[start:]


def test_without_rated_reviews_the_lexicon_judges_and_says_so(tmp_path: Path) -> None:
    log(tmp_path, 0, TEXTS)
    (tmp_path / "zhiyin.toml").write_text('[data]\nsource = "events.csv"\n[features.reviews]\ncolumn = "review"\n')
    config = load_config(tmp_path / "zhiyin.toml")
    data = read_data(config, tmp_path, reviews=review_reader(config.features.reviews))
    values = values_of(data, 0)
    np.testing.assert_allclose(values[:4], [score(text) for text in TEXTS[:4]], rtol=1e-6)  # type: ignore[arg-type]
    assert values[4:] == [None, None]
    assert data.events.sort("time")["weight"].to_list() == [-1.0, 1.0, -1.0, 1.0, 1.0, 1.0]
    said = " ".join(data.notes)
    assert f"0 reviews are rated, and {MIN_RATED} are needed" in said
    assert "5 reviews in review have no rating; 4 were given a value" in said


def test_the_scale_is_that_of_the_settings_or_of_the_ratings(tmp_path: Path) -> None:
    path = log(tmp_path, 40, TEXTS)
    by_ratings = read(path, reviews=ReviewReader(ReviewsSection(column="review")))
    low, high = by_ratings.events["value"].min(), by_ratings.events["value"].max()
    values = values_of(by_ratings, 40)
    np.testing.assert_allclose(values[0], low + (score(TEXTS[0]) + 1) / 2 * (high - low), rtol=1e-5)  # type: ignore[operator]
    told = read(path, reviews=ReviewReader(ReviewsSection(column="review", worst=0.0, best=10.0)))
    np.testing.assert_allclose(values_of(told, 40)[1], 5 * (score(TEXTS[1]) + 1), rtol=1e-5)
    assert values_of(told, 0)[:40] == values_of(by_ratings, 0)[:40]


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="revew"):
        read(log(tmp_path, 0, TEXTS), reviews=ReviewReader(ReviewsSection(column="revew")))


def test_one_of_several_files_holds_the_reviews(tmp_path: Path) -> None:
    log(tmp_path, 0, TEXTS)
    pl.read_csv(tmp_path / "events.csv").drop("review", "rating").write_csv(tmp_path / "views.csv")
    source = {"view": tmp_path / "views.csv", "review": tmp_path / "events.csv"}
    data = read(source, reviews=ReviewReader(ReviewsSection(column="review")))
    assert data.events.filter(pl.col("kind") == "view")["value"].null_count() == len(TEXTS)
    assert data.events.filter(pl.col("kind") == "review")["value"].drop_nulls().len() == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[features.reviews]\ncolum = "review"\n', r"\[features.reviews\] has no key 'colum'"),
        ('[features.reviews]\nlanguage = "fr"\n', "features.reviews.language = 'fr'"),
        ('[features.reviews]\nworst = "bad"\n', "features.reviews.worst = 'bad'"),
        ("[features]\nreview = 1\n", r"\[features\] has no key|features.review"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "zhiyin.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "zhiyin.toml")


@pytest.mark.slow
def test_learned_values_are_the_same_after_saving(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    data = read(log(tmp_path, MIN_RATED + 100, TEXTS), reviews=ReviewReader(ReviewsSection(column="review")))
    assert "learned from 600 rated reviews" in " ".join(data.notes)
    Catalogue.of(data).save(tmp_path)
    loaded = Catalogue.load(tmp_path)
    assert loaded is not None
    assert loaded.reviews is not None
    values = ReviewValues.from_state(loaded.reviews).values(pl.Series(TEXTS[:5]))
    np.testing.assert_array_equal(values, np.array(values_of(data, MIN_RATED + 100)[:5], np.float32))


@pytest.mark.slow
def test_a_learned_map_keeps_what_the_lexicon_knows() -> None:
    """Learned from reviews of a few phrases, it is right on sentences of words it has never seen."""
    pytest.importorskip("sklearn")
    rated = reviews(800, 3)
    from zhiyin.features.sentiment import Sentiment

    model = Sentiment.learn(rated["review"], rated["rating"])
    for name in ("test_en", "test_zh"):
        rows = sentences(name)
        found = model.probability(pl.Series([text for _, text in rows])) > 0.5
        assert np.mean(found == np.array([good for good, _ in rows])) >= 0.8
