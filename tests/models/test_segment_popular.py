"""SegmentPopular: shrunken means by hand, segments of columns, users with columns only in every path."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import polars as pl
import pytest

from zhiyin.core.errors import ConfigError
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.features.user_segments import UserSegments
from zhiyin.models.hybrid import Hybrid
from zhiyin.models.loading import load
from zhiyin.models.neighbors import ItemKNN
from zhiyin.models.popularity import Popular
from zhiyin.models.recommender import Recommender
from zhiyin.models.segment_popular import SegmentPopular
from zhiyin.pipeline.answers import Answers, Request
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.testing import RecommenderConformance


class TestSegmentPopular(RecommenderConformance):
    def make(self) -> SegmentPopular:
        return SegmentPopular()


def by_gender(n: int = 400, seed: int = 0, **more: Any) -> Dataset:
    """Women take i0 to i9 in nine of ten events, men i10 to i19; ages say nothing."""
    rng = np.random.default_rng(seed)
    users = [f"u{at}" for at in range(n)]
    genders = ["F" if at % 2 else "M" for at in range(n)]
    rows = []
    for user, gender in zip(users, genders):
        own = np.arange(20) // 10 == (0 if gender == "F" else 1)
        rows += [(user, f"i{item}") for item in rng.choice(20, 6, replace=False, p=np.where(own, 0.09, 0.01))]
    events = pl.DataFrame(rows, schema=["user", "item"], orient="row")
    return Dataset.build(events, users=pl.DataFrame({
        "id": users, "gender": genders, "age": rng.integers(18, 70, n), "tags": [["a"]] * n,
    }), **more)  # fmt: skip


def asked(data: Dataset, **columns: Any) -> Histories:
    """The history of somebody who has done nothing, of whom these columns are known."""
    assert data.histories.features is not None
    schema = data.histories.features.schema
    frame = pl.DataFrame({name: [columns.get(name)] for name in schema}, schema=schema)
    return dataclasses.replace(data.histories.row(-1), features=frame)


def share_of_own(data: Dataset, items: np.ndarray, gender: str) -> float:
    raw = data.item_ids.raw(items[items >= 0])
    return float(np.mean([(int(item[1:]) < 10) == (gender == "F") for item in raw]))


@pytest.fixture(scope="module")
def shop() -> Dataset:
    return by_gender()


def test_effects_by_hand() -> None:
    """Two of two women and one of four men have a, one man has b: with reg = 2 each group's difference is shrunk."""
    events = pl.DataFrame({"user": ["w1", "w2", "m1", "m2", "m3", "m4"], "item": ["a", "a", "a", "b", "c", "c"]})
    users = pl.DataFrame({"id": ["w1", "w2", "m1", "m2", "m3", "m4"], "sex": ["w", "w", "m", "m", "m", "m"]})
    data = Dataset.build(events, users=users)
    model = SegmentPopular(reg=2.0, min_users=1).fit(data)
    item = int(data.item_ids.encode(["a"])[0])
    scores = model.score(asked(data, sex="w"))[0]
    np.testing.assert_allclose(scores[item], 0.5 + (2 - 2 * 0.5) / (2 + 2), rtol=1e-6)
    scores = model.score(asked(data, sex="m"))[0]
    np.testing.assert_allclose(scores[item], 0.5 + (1 - 4 * 0.5) / (4 + 2), rtol=1e-6)
    nobody = model.score(asked(data))[0]
    np.testing.assert_allclose(nobody[data.item_ids.encode(["a", "b", "c"])], [3 / 6, 1 / 6, 2 / 6], rtol=1e-6)


def test_segments_are_values_and_pairs_that_enough_users_have() -> None:
    frame = pl.DataFrame({
        "sex": ["w", "w", "w", "m", "m", "m", None], "town": ["x", "x", "y", "x", "y", "y", "y"],
        "same": ["s"] * 7, "bag": [["t"]] * 7,
    })  # fmt: skip
    segments = UserSegments.learn(frame, min_users=2, max_segments=99, bins=4, pairs=True)
    named = [dict(zip(segments.names_of(code), segments.segments[code]["values"])) for code in range(len(segments))]
    assert named == [{"town": "y"}, {"sex": "m"}, {"sex": "w"}, {"town": "x"}, {"sex": "m", "town": "y"},
                     {"sex": "w", "town": "x"}]  # fmt: skip
    rows = segments.encode(frame, 7).toarray()
    assert rows[0].tolist() == [0, 0, 1, 1, 0, 1]
    assert rows[6].tolist() == [1, 0, 0, 0, 0, 0]
    for row in range(7):
        assert segments.encode(frame[row : row + 1], 1).toarray()[0].tolist() == rows[row].tolist()
    fewer = UserSegments.learn(frame, min_users=2, max_segments=3, bins=4, pairs=True)
    assert fewer.segments == segments.segments[:3]


def test_numbers_are_binned_and_codes_are_not() -> None:
    frame = pl.DataFrame({"income": np.arange(200) * 13.5, "job": np.arange(200) % 4})
    segments = UserSegments.learn(frame, min_users=5, max_segments=99, bins=4, pairs=False)
    assert [column["edges"] is None for column in segments.columns] == [False, True]
    same = segments.encode(pl.DataFrame({"income": ["27.0"], "job": [3.0]}), 1)
    assert same.toarray()[0].tolist() == segments.encode(frame[3:4].with_columns(income=27.0), 1).toarray()[0].tolist()
    assert same.nnz == 2


def test_a_column_that_is_not_there_is_named(shop: Dataset) -> None:
    with pytest.raises(ConfigError, match="gendr"):
        SegmentPopular(columns="gendr").fit(shop)


def test_held_out_users_choose_the_shrinkage(shop: Dataset) -> None:
    assert SegmentPopular().fit(shop).shrinkage_ < 1e6
    users = shop.users.with_columns(gender=shop.users["gender"].shuffle(seed=3))
    noise = Dataset.build(
        pl.DataFrame({"user": shop.user_ids.decode(shop.events["user"].to_numpy()),
                      "item": shop.item_ids.decode(shop.events["item"].to_numpy())}), users=users)  # fmt: skip
    model = SegmentPopular(columns="gender").fit(noise)
    popular = Popular().fit(noise).score(asked(noise, gender="F"))[0] / noise.n_users
    np.testing.assert_allclose(model.score(asked(noise, gender="F"))[0], popular, atol=0.08)


def models() -> list[Recommender]:
    return [SegmentPopular(), Hybrid(base="als:factors=8,epochs=5")]


@pytest.mark.parametrize("model", models(), ids=lambda model: type(model).__name__)
def test_gender_decides_the_list_of_who_has_done_nothing(model: Recommender, shop: Dataset, tmp_path: Any) -> None:
    model.fit(shop, Run(threads=1))
    model.save(tmp_path / "model")
    for fitted in (model, load(tmp_path / "model")):
        assert fitted.reads_user_columns
        both = [asked(shop, gender=gender) for gender in ("F", "M")]
        for history, gender in zip(both, "FM"):
            items, scores = fitted.rank(history, 8)
            assert share_of_own(shop, items[0], gender) == 1.0
            np.testing.assert_allclose(scores[0], fitted.score(history)[0][items[0]], rtol=1e-4)
        assert fitted.knows_columns(both[0]).tolist() == [True]
        assert fitted.knows_columns(asked(shop)).tolist() == [False]
        nothing = fitted.rank(asked(shop), 8)[0][0]
        assert 0.2 < share_of_own(shop, nothing, "F") < 0.8


def test_a_batch_is_answered_as_each_alone(shop: Dataset) -> None:
    """Strangers with columns, without, and users with a history, in one batch of a pipeline."""
    pipeline = Pipeline(sources="popular; itemknn; segmentpopular", ranker="none").fit(shop, Run(threads=1))
    assert shop.histories.features is not None
    known = shop.histories.take(np.array([0, 1, 2, 3, -1, -1, -1, -1]))
    columns = pl.concat([known.features[:4], *(asked(shop, gender=g).features for g in ("F", "M", None, "F"))])  # type: ignore[index, list-item]
    batch = dataclasses.replace(known, features=columns)
    items, scores = pipeline.rank(batch, 6, exclude=batch, run=Run(threads=1))
    for row in range(len(batch)):
        one = batch.rows(row, row + 1)
        alone, alone_scores = pipeline.rank(one, 6, exclude=one, run=Run(threads=1))
        assert alone[0].tolist() == items[row].tolist()
        np.testing.assert_allclose(alone_scores[0], scores[row], rtol=1e-4, atol=1e-5)
    assert share_of_own(shop, items[4], "F") == share_of_own(shop, items[5], "M") == 1.0


def test_sources_that_do_not_know_a_user_are_silent_where_another_does(shop: Dataset) -> None:
    pipeline = Pipeline(sources="popular; itemknn; segmentpopular", ranker="none").fit(shop, Run(threads=1))
    at = list(pipeline.sources_).index("itemknn")
    both = dataclasses.replace(
        asked(shop, gender="F"),
        offsets=np.zeros(3, np.int64), now=np.zeros(2, np.int64), users=np.full(2, -1, np.int32),
        features=pl.concat([asked(shop, gender="F").features, asked(shop).features]),  # type: ignore[list-item]
    )  # fmt: skip
    for histories in (both, both.rows(0, 1), both.rows(1, 2)):
        found = pipeline.retrieve(histories, 5, run=Run(threads=1))
        named = [bool((found.ranks[found.owners == row, at] >= 0).any()) for row in range(len(histories))]
        assert named == [histories.features["gender"][row] is None for row in range(len(histories))]  # type: ignore[index]
    assert isinstance(pipeline.sources_["itemknn"], ItemKNN)


def test_answers_lay_the_columns_of_a_request_over_those_learned(shop: Dataset) -> None:
    pipeline = Pipeline(sources="popular; itemknn; segmentpopular", ranker="none").fit(shop, Run(threads=1))
    answers = Answers(pipeline, shop.items, users=shop.users)
    for gender in ("F", "M"):
        answer = answers.ask(Request(user="new", k=8, user_columns={"gender": gender, "age": "no number", "more": 1}))
        assert share_of_own(shop, shop.item_ids.encode(answer.items), gender) == 1.0
    plain = answers.ask(Request(user="new", k=8))
    assert 0.2 < share_of_own(shop, shop.item_ids.encode(plain.items), "F") < 0.8
