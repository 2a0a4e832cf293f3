"""What decided that an item is in a list, and the sentence that says so."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tests.models.test_segment_popular import asked, by_gender
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.pipeline.answers import Answers, Request
from zhiyin.pipeline.deciding_causes import Cause, causes, column_effects
from zhiyin.pipeline.explanations import Reason
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.ranking.feature_builder import FeatureBuilder


@pytest.fixture(scope="module")
def shop() -> Dataset:
    return by_gender()


@pytest.fixture(scope="module")
def pipeline(shop: Dataset) -> Pipeline:
    return Pipeline(sources="popular; itemknn; segmentpopular", ranker="none").fit(shop, Run(threads=1))


def test_columns_that_decide_are_named(shop: Dataset, pipeline: Pipeline) -> None:
    answers = Answers(pipeline, shop.items, users=shop.users)
    why = answers.ask(Request(user="new", k=5, user_columns={"gender": "F", "age": 40}, explain=True)).reasons
    assert [reason.decided for reason in why] == [Cause("columns", "segmentpopular", ("gender",))] * 5
    assert {reason.sentence() for reason in why} == {"Because of your gender."}
    assert {reason.sentence("zh") for reason in why} == {"因为您的性别。"}
    assert why[0].to_dict()["decided"] == {"by": "columns", "source": "segmentpopular", "columns": ["gender"]}


def test_without_columns_popularity_decides(shop: Dataset, pipeline: Pipeline) -> None:
    why = Answers(pipeline, shop.items).ask(Request(user="new", k=3, explain=True)).reasons
    assert {reason.sentence("zh") for reason in why} <= {"近期热门。", "大家都喜欢。"}


def test_what_a_column_adds_is_what_its_absence_takes_away(shop: Dataset, pipeline: Pipeline) -> None:
    model, items = pipeline.sources_["segmentpopular"], np.arange(6)
    effects, scores = column_effects(model, asked(shop, gender="F", age=40), items, Run(threads=1))
    assert set(effects) == {"gender", "age"}
    without = model.score(asked(shop, age=40))[0][items]
    np.testing.assert_allclose(effects["gender"], scores - without, atol=1e-5)


def test_the_largest_sum_of_features_decides(shop: Dataset, pipeline: Pipeline) -> None:
    """Features of one thing count together, what lowers a score decides nothing, the hour is the same of all items."""
    whole = Pipeline.wrapping(pipeline.sources_["itemknn"])
    whole.sources_ = pipeline.sources_  # type: ignore[misc]
    whole.builder_ = FeatureBuilder.learn(shop, pipeline.sources_)  # type: ignore[misc]
    names = ["itemknn score", "itemknn rank", "item events", "user gender", "hour", "user events"]
    moved = np.array([
        [0.3, 0.3, 0.5, 0.1, 9.0, 9.0],
        [0.1, 0.1, 0.5, 0.1, 0.0, 0.0],
        [0.1, 0.1, -0.5, 0.7, 0.0, 0.0],
        [-0.1, -0.1, -0.5, -0.7, 1.0, 1.0],
    ])  # fmt: skip
    history = shop.histories.take(np.array([1]))
    candidates = whole.retrieve(history, 4, run=Run(threads=1))
    found = causes(
        whole, history, candidates.items[:4], np.arange(4), candidates, "ranker", (names, moved), Run(threads=1)
    )
    assert [cause.by for cause in found[:3]] == ["source", "popularity", "columns"]
    assert (found[0].source, found[2].columns) == ("itemknn", ("gender",))
    assert found[3].by in ("source", "columns", "popularity")  # by ranks, where no feature raised it


def bought() -> Dataset:
    rng = np.random.default_rng(3)
    rows = []
    for user in range(60):
        start = int(rng.integers(0, 12))
        rows += [(f"u{user}", f"i{(start + step) % 12}", 10**15 + 3600 * 10**6 * (user + step),
                  "purchase" if step % 2 else "view") for step in range(4)]  # fmt: skip
    return Dataset.build(pl.DataFrame(rows, schema=["user", "item", "time", "kind"], orient="row"))


def test_what_was_done_is_said_by_the_kind_of_the_event() -> None:
    data = bought()
    pipeline = Pipeline(sources="itemknn", ranker="none").fit(data, Run(threads=1))
    reason = Answers(pipeline, data.items).ask(Request(user="u5", k=1, explain=True)).reasons[0]
    history = data.history_of(["u5"])
    kinds = dict(zip(data.item_ids.raw(history.items), history.kinds.tolist()))
    names = {"purchase": "bought", "view": "viewed"}
    assert reason.because
    for entry in reason.because:
        assert entry["did"] == names[data.kinds[kinds[entry["item"]]]]
    assert reason.sentence().startswith(f"Because you {reason.because[0]['did']} “i")
    assert "《" not in reason.sentence("zh")


def test_sentences_of_verbs() -> None:
    because = [{"item": "a", "did": "bought"}, {"item": "b", "did": "viewed"}]
    reason = Reason("x", "rrf", {"ease": {"rank": 54, "score": 1.0}}, because, decided=Cause("source", "ease:reg=5"))
    assert reason.sentence() == "Because you bought “a” and you viewed “b”; goes with what you had."
    assert reason.sentence("zh", {"a": "水壶"}) == "因为您买过“水壶”，您看过“b”；与您选过的相配。"
    alike = Reason("x", "rrf", {}, [because[0], because[0] | {"item": "c"}], decided=Cause("source", "als"))
    assert alike.sentence("zh") == "因为您买过“a”和“c”；与您口味相近的人喜欢。"
    assert Reason("x", "rrf", {}, decided=Cause("item", columns=("genre",))).sentence() == "Because of its genre."
    assert Reason("x", "popular", {}).sentence("zh") == "大家都喜欢。"
