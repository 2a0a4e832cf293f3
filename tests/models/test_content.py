"""Models that know items by their columns: the conformance suite, and what they do for items that nobody has had."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from zhiyin.core.errors import ConfigError
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.models.content import Content, PopularInCategory
from zhiyin.models.hybrid import Hybrid
from zhiyin.models.loading import load
from zhiyin.models.recommender import Recommender
from zhiyin.testing.recommender import RecommenderConformance

GENRES = ("crime", "love", "war")
WORDS = (("detective", "murder", "clue"), ("heart", "summer", "kiss"), ("tank", "battle", "general"))
NEW = range(36, 45)


class TestContent(RecommenderConformance):
    def make(self) -> Content:
        return Content()


class TestPopularInCategory(RecommenderConformance):
    def make(self) -> PopularInCategory:
        return PopularInCategory()


class TestHybrid(RecommenderConformance):
    def make(self) -> Hybrid:
        return Hybrid(base="als:factors=8,epochs=3")


def library() -> Dataset:
    """36 books of three genres, told by genre and by words of the title, and nine that nobody has had; each of 60
    readers keeps to one genre."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(60), 8)
    item = np.concatenate([rng.choice(12, 8, replace=False) * 3 + u % 3 for u in range(60)])
    pairs = [(WORDS[b % 3][b // 3 % 3], WORDS[b % 3][(b // 3 + 1) % 3]) for b in range(45)]
    books = pl.DataFrame({
        "id": np.arange(45), "genres": [f"{GENRES[b % 3]}|book" for b in range(45)],
        "title": [f"The {one} and the {other}, part {b}" for b, (one, other) in enumerate(pairs)],
    })  # fmt: skip
    events = pl.DataFrame({"user": user, "item": item, "time": 19_000 * 86_400_000_000 + np.arange(len(user)) * 10**9})
    return Dataset.build(events, items=books)


MODELS = (
    Content(),
    Content(text="bm25", columns="title"),
    Content(pieces=True, columns="title*2,genres"),
    Hybrid(base="als:factors=8,epochs=5"),
    Hybrid(base="als:factors=8,epochs=5", map="mlp", epochs=30),
    Hybrid(base="als:factors=8,epochs=5", map="text_cnn", columns="title", epochs=40, dropout=0.1),
    PopularInCategory(column="genres"),
)


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_books_nobody_has_had_go_to_readers_of_their_genre(model: Recommender) -> None:
    if getattr(model, "map", "ridge") != "ridge":
        pytest.importorskip("torch")
    data = library()
    model = model.fit(data, Run(seed=1, threads=1))
    cold = np.isin(data.item_ids.values.to_numpy(), list(NEW))
    allowed = cold | model.context_.candidates
    model.context_ = model.context_.__class__(**{**vars(model.context_), "candidates": allowed})  # type: ignore[misc]
    found = model.recommend(k=3, allow=list(NEW))
    right = found["item"].to_numpy() % 3 == found["user"].to_numpy() % 3
    assert right.mean() > 0.95


@pytest.mark.slow
def test_pictures_alone_tell_the_genre(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    data = library()
    for book in range(45):  # crime is red, love green, war blue, on noise
        pixels = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
        pixels[:, :, book % 3] += 100
        image.fromarray(pixels).save(tmp_path / f"{book}.png")
    model = Hybrid(
        base="als:factors=8,epochs=5", map="image_cnn", images=str(tmp_path), image_size=32, columns="genres*0",
        epochs=40, dropout=0.0, hidden=16,
    )  # fmt: skip
    model.fit(data, Run(seed=1, threads=2))
    allowed = model.context_.__class__(**{**vars(model.context_), "candidates": np.ones(data.n_items, dtype=bool)})
    model.context_ = allowed  # type: ignore[misc]
    found = model.recommend(k=3, allow=list(NEW))
    right = found["item"].to_numpy() % 3 == found["user"].to_numpy() % 3
    assert right.mean() > 0.9


def test_similar_books_are_of_one_genre() -> None:
    data = library()
    for model in (Content(columns="title"), Hybrid(base="als:factors=8,epochs=5")):
        near = model.fit(data).similar([0, 1, 2], 5)
        assert (near["similar"].to_numpy() % 3 == near["item"].to_numpy() % 3).all()


def test_an_item_added_later_is_known_by_its_columns() -> None:
    data = library()
    content = Content().fit(data)
    new = pl.DataFrame({"title": ["Murder and a clue", "Summer kiss"], "genres": ["crime|book", "love|book"]})
    near = (content.vectors_for(new) @ content.items_.T).toarray()
    genre = data.item_ids.values.to_numpy() % 3
    assert (genre[np.argsort(-near[0])[:12]] == 0).all()
    assert (genre[np.argsort(-near[1])[:12]] == 1).all()
    hybrid = Hybrid(base="als:factors=8,epochs=5").fit(data)
    scores = hybrid.encode(hybrid.context_.histories) @ hybrid.item_vectors_for(new).T
    reader = data.user_ids.values.to_numpy() % 3
    assert (scores[reader == 0, 0] > scores[reader == 0, 1]).all()
    assert (scores[reader == 1, 1] > scores[reader == 1, 0]).all()


def test_chinese_titles() -> None:
    words = (("侦探", "谋杀", "线索"), ("爱情", "夏天", "亲吻"), ("坦克", "战役", "将军"))
    data = library()
    titles = [f"{words[b % 3][b // 3 % 3]}与{words[b % 3][(b // 3 + 1) % 3]}第{b}部" for b in range(45)]
    books = pl.DataFrame({"id": np.arange(45), "title": titles})
    events = data.events.select(
        pl.Series("user", data.user_ids.decode(data.events["user"].to_numpy())),
        pl.Series("item", data.item_ids.decode(data.events["item"].to_numpy())),
        "time",
    )
    near = Content().fit(Dataset.build(events, items=books)).similar(0, 8)
    assert (near["similar"].to_numpy() % 3 == 0).all()


def test_saved_with_its_columns(tmp_path: Path) -> None:
    data = library()
    for model in (Content(), Hybrid(base="als:factors=8,epochs=3")):
        model.fit(data).save(tmp_path / type(model).__name__)
        loaded = load(tmp_path / type(model).__name__)
        assert loaded.recommend(k=5).equals(model.recommend(k=5))


def test_a_column_that_is_not_there() -> None:
    for model in (Content(columns="tittle"), Hybrid(columns="tittle"), PopularInCategory(column="genre")):
        with pytest.raises(ConfigError, match=r"title|genres"):
            model.fit(library())
