"""TwoTower: the conformance suite, and what features alone can do."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest

pytest.importorskip("torch")

import torch

from tests.models.planted import assert_checkerboard
from zhiyin.core.errors import ConfigError
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models.loading import load
from zhiyin.models.two_tower import Towers, TwoTower, Vocabulary
from zhiyin.testing.recommender import RecommenderConformance, shop


class TestTwoTower(RecommenderConformance):
    exact_across_threads = False

    def make(self) -> TwoTower:
        return TwoTower(factors=8, epochs=3, max_len=10, negatives=64, dropout=0.2)


GENRES = ("crime", "love", "war")


def library(seed: int = 0) -> Dataset:
    """36 books of three genres and six books of them that nobody has; each of 60 readers keeps to one genre."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(60), 8)
    item = np.concatenate([rng.choice(12, 8, replace=False) * 3 + u % 3 for u in range(60)])
    books = pl.DataFrame(
        {
            "id": np.arange(42),
            "genres": [f"{GENRES[b % 3]}|book" for b in range(42)],
            "title": [f"Title no. {b}" for b in range(42)],
            "year": [1900.0 + b % 3 * 40 for b in range(42)],
            "cover": [f"https://covers.example/{b}.jpg" for b in range(42)],
        }
    )
    readers = pl.DataFrame({"id": np.arange(60), "shelf": [GENRES[u % 3] for u in range(60)]})
    return Dataset.build(pl.DataFrame({"user": user, "item": item}), items=books, users=readers)


@pytest.fixture(scope="module")
def model() -> TwoTower:
    small = TwoTower(factors=16, epochs=20, learning_rate=0.01, negatives=64, validation="none", hidden=8)
    return small.fit(library(), Run(threads=1))


def test_learns_the_checkerboard() -> None:
    assert_checkerboard(
        TwoTower(factors=16, epochs=30, learning_rate=0.03, negatives=64, dropout=0.0, validation="none", batch_size=16)
    )


def test_a_new_item_lands_among_its_like_by_its_features_alone(model: TwoTower) -> None:
    new = pl.DataFrame({"title": ["Unheard of", "Also new", None], "genres": ["war", "Crime|Book", "love"]})
    vectors = model.item_vectors_for(new)
    assert vectors.shape == (3, 16)
    assert vectors.dtype == np.float32
    nearest = np.argsort(-(vectors @ model.item_vectors_.T), axis=1)[:, :14]
    for row, genre in enumerate((2, 0, 1)):
        assert sorted(nearest[row]) == list(range(genre, 42, 3))


def test_items_nobody_has_are_recommended_to_whom_they_suit(model: TwoTower) -> None:
    frame = model.recommend(list(range(60)), k=2, allow=range(36, 42))
    assert [item % 3 for item in frame["item"]] == [user % 3 for user in frame["user"]]


def test_the_own_vector_of_an_item_without_events_counts_for_nothing(model: TwoTower) -> None:
    described = model.item_vectors_for(library().items)
    np.testing.assert_allclose(described[36:], model.item_vectors_[36:], atol=1e-6)
    assert (np.abs(described[:36] - model.item_vectors_[:36]).max(axis=1) > 1e-3).all()


def test_an_item_without_events_is_never_a_negative(model: TwoTower) -> None:
    network = towers(model)
    assert int(network.draw(torch.Generator().manual_seed(0), 5_000).max()) == 35


def test_vocabularies_are_saved(model: TwoTower, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    back = load(tmp_path / "m")
    assert isinstance(back, TwoTower)
    new = pl.DataFrame({"genres": ["war|crime"], "title": ["no. 7"], "unknown": [1]})
    np.testing.assert_allclose(back.item_vectors_for(new), model.item_vectors_for(new), atol=1e-6)
    assert back.columns_ == model.columns_
    assert back.user_columns_ == model.user_columns_
    np.testing.assert_array_equal(back.words_, model.words_)
    asked = visitors(["war", None])
    np.testing.assert_allclose(back.encode(asked), model.encode(asked), atol=1e-5)


def test_users_columns_are_used_where_they_come_with_the_histories(model: TwoTower) -> None:
    without = model.encode(visitors(None))
    some = model.encode(visitors(["war", None]))
    assert (some[0] != without[0]).any()
    np.testing.assert_allclose(some[1], without[1], rtol=1e-6)


def visitors(shelves: list[str | None] | None) -> Histories:
    batch = Histories.of(np.array([0, 1, 2]), np.array([3, 4]))
    features = None if shelves is None else pl.DataFrame({"shelf": shelves}, schema={"shelf": pl.String})
    return Histories(*(getattr(batch, name) for name in FIELDS), features)


FIELDS = ("offsets", "items", "weights", "times", "kinds", "values", "now", "users")


def towers(model: TwoTower) -> Towers:
    network = model._network
    assert isinstance(network, Towers)
    return network


@pytest.mark.parametrize("hard", [0.0, 0.5])
def test_log_q_makes_the_sum_over_negatives_that_over_all_items(hard: float) -> None:
    made = TwoTower(factors=8, epochs=1, negatives=16, hard=hard, validation="none", temperature=0.5)
    network = towers(made.fit(shop()))
    states, table = network.scaled(torch.randn(5, 8)) / 0.5, network.item_vectors()
    drawn = torch.zeros(5)
    generator = torch.Generator().manual_seed(1)
    for _ in range(1_000):
        pool = network.draw(generator, network.pool)
        negatives, log_q = network.hardest(states, table, pool, pool, generator)
        assert len(negatives) == len(log_q) == 16
        drawn += (states @ table[negatives].T - log_q).exp().sum(dim=1) / 1_000
    had = network.had.nonzero().flatten()
    torch.testing.assert_close(drawn, (states @ table[had].T).exp().sum(dim=1), rtol=0.06, atol=0)


def test_hard_negatives_are_the_best_scored_of_the_pool() -> None:
    made = TwoTower(factors=8, epochs=1, negatives=8, hard=0.25, validation="none").fit(shop())
    network = towers(made)
    states, table = torch.randn(1, 8), network.item_vectors()
    pool = network.draw(torch.Generator().manual_seed(2), network.pool)
    hard = network.hardest(states, table, pool, pool, torch.Generator().manual_seed(3))[0][:2]
    best = (states @ table[pool].T).flatten().topk(2).values
    torch.testing.assert_close((states @ table[hard].T).flatten(), best)


@pytest.mark.parametrize(
    ("history", "half_life", "wanted"),
    [
        ("any", 0.0, [[0, 1, 0, 1], [1, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 0]]),
        ("next", 1.0, [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0.25, 0.5, 1, 0]]),
    ],
)
def test_a_target_is_not_in_its_own_history(history: str, half_life: float, wanted: list[list[float]]) -> None:
    made = TwoTower(factors=4, epochs=1, validation="none", history=history, half_life=half_life).fit(shop())
    weights = towers(made).others(torch.tensor([[5, 6, 5, 7], [5, 6, -1, -1]]))
    assert weights[0].tolist() == wanted
    assert weights[1, :2, 2:].abs().sum() == 0


def test_words_parts_and_numbers() -> None:
    frame = pl.DataFrame(
        {
            "name": ["The War (War, #1)", "War and Peace", "PEACE", None],
            "tags": [["a", "b b"], ["a"], [], None],
            "year": [1.0, 2.0, None, 4.0],
        }
    )
    found = Vocabulary.learn(frame, "name,tags,year", np.ones(4, bool), 1, 2)
    words = bytes(found.words).decode().split("\0")
    assert {"0 war", "0 #1", "0 the war", "0 war and peace", "0 peace", "1 b b", "2 0", "2 1", "2 missing"} <= set(
        words
    )
    codes = found.encode(frame)
    np.testing.assert_allclose(np.sqrt(codes.multiply(codes).sum(axis=1)).ravel(), np.ones((1, 4)), rtol=1e-6)
    often = Vocabulary.learn(frame, "name", np.ones(4, bool), 2, 2)
    assert bytes(often.words).decode().split("\0") == ["0 peace", "0 war"]
    unseen = Vocabulary.learn(frame, "name", np.array([False, True, False, False]), 1, 2)
    assert "#1" not in bytes(unseen.words).decode()


def test_columns() -> None:
    data = library()
    chosen = TwoTower(factors=4, epochs=1, validation="none").fit(data)
    assert [column["name"] for column in chosen.columns_] == ["genres", "title"]  # no number, no address
    named = TwoTower(factors=4, epochs=1, validation="none", columns="year, genres").fit(data)
    assert [column["name"] for column in named.columns_] == ["year", "genres"]
    with pytest.raises(ConfigError, match="'genre'"):
        TwoTower(columns="genre").fit(data)


def test_users_with_columns_alone_get_a_list_made_from_them() -> None:
    """Women take nine of ten items from one half of the catalogue, men from the other."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(300):
        own = np.arange(20) // 10 == (0 if user % 2 else 1)
        rows += [(f"u{user}", f"i{item}") for item in rng.choice(20, 5, replace=False, p=np.where(own, 0.09, 0.01))]
    users = pl.DataFrame({"id": [f"u{n}" for n in range(300)], "gender": ["F" if n % 2 else "M" for n in range(300)]})
    data = Dataset.build(pl.DataFrame(rows, schema=["user", "item"], orient="row"), users=users)
    model = TwoTower(factors=16, epochs=40, history_dropout=0.4, negatives=64, validation="none").fit(
        data, Run(threads=1)
    )
    assert model.reads_user_columns
    assert data.histories.features is not None
    stranger = data.histories.row(-1)
    for gender in ("F", "M"):
        asked = dataclasses.replace(stranger, features=data.histories.features.clear().vstack(
            pl.DataFrame({"gender": [gender]}, schema=data.histories.features.schema)))  # fmt: skip
        assert model.knows(asked).tolist() == [True]
        items, scores = model.rank(asked, 8)
        raw = data.item_ids.raw(items[0])
        assert np.mean([(int(item[1:]) < 10) == (gender == "F") for item in raw]) >= 0.9
        np.testing.assert_allclose(scores[0], model.score(asked)[0][items[0]], rtol=1e-4)
    assert model.knows(stranger).tolist() == [False]
    np.testing.assert_array_equal(model.score(stranger)[0], data.popularity())
