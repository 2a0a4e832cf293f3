"""The pipeline is a recommender like any other, chooses what is best on unseen days, and says why."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.pipeline.test_promotion_gate import walks
from zhiyin.core.errors import ConfigError
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.splits import split
from zhiyin.evaluation.model_evaluation import Window, evaluate_window
from zhiyin.models.loading import load
from zhiyin.pipeline.explanations import reasons
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.pipeline.time_windows import plan_windows
from zhiyin.pipeline.window_candidates import hits
from zhiyin.ranking.examples import Candidates
from zhiyin.testing.recommender import DAY, RecommenderConformance, assert_same_state


@pytest.mark.slow
def test_sources_are_fitted_the_same_twice_and_read_back_bit_for_bit(tmp_path: Path) -> None:
    one, other = (
        Pipeline(sources="als:factors=4; itemknn; transitions", ranker="none").fit(two_worlds()) for _ in range(2)
    )
    one.save(tmp_path / "p")
    for again in (other, load(tmp_path / "p")):
        for name, source in one.sources_.items():
            assert_same_state(source, again.sources_[name])


class TestBlend(RecommenderConformance):
    def make(self) -> Pipeline:
        return Pipeline(sources="popular; itemknn; als:factors=4", ranker="none", candidates=10, share=0.2)


class TestRanked(RecommenderConformance):
    def make(self) -> Pipeline:
        return Pipeline(sources="popular:half_life=7d; transitions", candidates=10, share=0.2)


def two_worlds(seed: int = 0) -> Dataset:
    """Half of the users walk a ring, where what comes next is certain; the others take what is new this week."""
    rng = np.random.default_rng(seed)
    rows = []
    for u in range(120):
        for day in range(30):
            item = f"ring {(u + day) % 60:02}" if u % 2 else f"new {max(0, day - rng.integers(0, 6)):02}"
            rows.append({"user": f"u{u:03}", "item": item, "time": day * DAY + u})
    return Dataset.build(pl.DataFrame(rows))


def ndcg(model, parts) -> float:  # type: ignore[no-untyped-def]
    return float(evaluate_window(model, Window.of(parts), [5], Run()).per_user["ndcg@5"].mean())


@pytest.mark.parametrize("ranker", ["none", "trees"])
def test_joined_sources_beat_each_of_them(ranker: str) -> None:
    parts = split(two_worlds(), "time", test="3d")
    sources = ("transitions", "popular:half_life=1d")
    pipeline = Pipeline(sources="; ".join(sources), ranker=ranker, windows=3, metric="ndcg@5").fit(parts.train)
    alone = [ndcg(pipeline.sources_[name], parts) for name in sources]
    assert ndcg(pipeline, parts) > max(alone) + (0.02 if ranker == "trees" else 0)
    assert pipeline.choices_["all"] in ("weighted", "rrf", "ranker")


def test_a_blend_that_does_not_beat_the_best_source_is_not_kept() -> None:
    parts = split(walks(), "time", test="3d")
    pipeline = Pipeline(sources="transitions; random", ranker="none", metric="ndcg@3").fit(parts.train)
    assert pipeline.choices_["all"] == "transitions"
    assert "no blend beats transitions" in str(pipeline.report_["choices"]["all"]["why"])  # type: ignore[index]
    own, _ = pipeline.sources_["transitions"].rank(parts.train.histories, 3, exclude=parts.train.histories)
    joined, _ = pipeline.rank(parts.train.histories, 3, exclude=parts.train.histories)
    assert np.array_equal(own, joined)


def test_what_is_wrong_with_the_sources_is_said() -> None:
    data = walks()
    with pytest.raises(ConfigError, match="there is no model 'popluar'"):
        Pipeline(sources="popluar").fit(data)
    with pytest.raises(ConfigError, match="named twice"):
        Pipeline(sources="als; als").fit(data)
    with pytest.raises(ConfigError, match="needs a source"):
        Pipeline(sources=" ; ").fit(data)


def test_a_log_too_short_to_judge_by_is_said() -> None:
    one = Dataset.build(pl.DataFrame({"user": ["a"], "item": ["x"], "time": [0]}))
    pipeline = Pipeline(sources="popular; itemknn").fit(one)
    assert pipeline.choices_["all"] == "rrf"
    assert "too short" in str(pipeline.report_["choices"]["all"]["why"])  # type: ignore[index]
    assert pipeline.recommend(["b"], 3)["item"].to_list() == ["x"]


def test_hits_are_what_was_had_in_the_window() -> None:
    _, window = plan_windows(walks(), 1, 0.2, True, Run()).choose[0]
    n = window.train.n_items
    every = Candidates(
        np.arange(len(window) + 1) * n,
        np.tile(np.arange(n, dtype=np.int32), len(window)),
        ("all",),
        np.zeros((len(window) * n, 1), np.float32),
        np.zeros((len(window) * n, 1), np.int32),
    )
    expected = np.zeros((len(window), n), np.float32)
    for row in range(len(window)):
        expected[row, window.items[window.offsets[row] : window.offsets[row + 1]]] = 1
    assert np.array_equal(hits(every, window), expected.ravel())


def test_a_ranked_pipeline_comes_back_from_disk_with_the_same_lists(tmp_path: Path) -> None:
    data = two_worlds()
    pipeline = Pipeline(sources="transitions; popular:half_life=1d", metric="ndcg@5").fit(data)
    pipeline.save(tmp_path / "p")
    back = load(tmp_path / "p")
    assert isinstance(back, Pipeline)
    assert back.choices_ == pipeline.choices_
    users = ["u000", "u001", "nobody"]
    assert back.recommend(users, 8).equals(pipeline.recommend(users, 8))
    # What the sources know of the log stands there once.
    assert not list((tmp_path / "p").glob("source-*/history.items.npy"))


def test_lists_are_filled_when_candidates_run_out() -> None:
    data = walks()
    pipeline = Pipeline(sources="transitions", ranker="none", candidates=2).fit(data)
    frame = pipeline.recommend(["u1"], 20)
    assert len(frame) == frame["item"].n_unique()
    assert len(frame) == 40 - 20  # 20 of 40 items were had
    assert (np.diff(frame["score"].to_numpy()) <= 0).all()


def test_reasons_name_sources_and_history() -> None:
    data = walks()
    pipeline = Pipeline(sources="transitions; itemknn", ranker="none", metric="ndcg@3").fit(data)
    history = data.history_of(["u3"])
    items, _ = pipeline.rank(history, 3, exclude=history)
    candidates = pipeline.retrieve(history, exclude=history)
    found = reasons(pipeline, history, items[0], candidates)
    last = int(data.item_ids.decode(history.items)[-1].removeprefix("i"))
    assert found[0].item == f"i{(last + 1) % 40:02}"
    assert found[0].sources["transitions"]["rank"] == 1
    assert found[0].because
    assert found[0].because[0]["item"] in data.item_ids.decode(history.items).to_list()
    english, chinese = found[0].sentence(), found[0].sentence("zh", {found[0].because[0]["item"]: "春天"})
    assert english.startswith("Because you had “i")
    assert "place" not in english
    assert chinese.startswith("因为您选过“春天”")
    assert chinese.endswith("。")
    with pytest.raises(ConfigError, match="one of en, zh"):
        found[0].sentence("fr")


def test_who_was_never_judged_gets_no_strangers_list() -> None:
    """All that can be judged here are strangers: every user comes once, one after another."""
    rng = np.random.default_rng(5)
    users = np.repeat(np.arange(60), 12)
    frame = pl.DataFrame({"user": users, "item": rng.integers(0, 30, len(users)), "time": np.arange(len(users)) * DAY})
    fitted = Pipeline(sources="popular; itemknn", ranker="none", windows=2).fit(Dataset.build(frame))
    assert fitted.report_["choices"]["long"]["requests"] == 0
    assert fitted.choices_["long"] == fitted.choices_["short"] == "rrf"


@pytest.mark.slow
def test_ctrl_c_while_a_source_is_tuned_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    from zhiyin.pipeline import automl

    pytest.importorskip("optuna")
    real = automl.tune

    def interrupted(*given: object, **named: object) -> object:
        result = real(*given, **named | {"trials": 1, "timeout": None})  # type: ignore[arg-type]
        return dataclasses.replace(result, interrupted=True)

    monkeypatch.setattr(automl, "tune", interrupted)
    with pytest.raises(KeyboardInterrupt):
        automl.fit_within_budget(walks(), 120.0, run=Run(threads=1))


@pytest.mark.slow
def test_without_optuna_sources_are_joined_untuned(monkeypatch: pytest.MonkeyPatch) -> None:
    from zhiyin.pipeline import automl

    real = automl.find_spec
    monkeypatch.setattr(automl, "find_spec", lambda name: None if name == "optuna" else real(name))
    found = automl.fit_within_budget(walks(), 120.0, run=Run(threads=1))
    assert not any("left_out" in tried or "tuned" in tried for tried in found.report_["tried"])
    assert len(found.sources_) == len(found.report_["tried"]) > 3


@pytest.mark.parametrize("kinds", [12, pytest.param(40, marks=pytest.mark.slow)])
def test_a_ranker_learns_where_other_kinds_are_the_most_frequent_in_each_window(kinds: int) -> None:
    """Only so many kinds are counted apart: which ones is settled once, for training, judging and serving."""
    data = two_worlds()
    rng = np.random.default_rng(3)
    usual = rng.integers(0, kinds, data.n_events)
    late = data.events["time"].to_numpy() > np.quantile(data.events["time"].to_numpy(), 0.75)
    names = np.array([f"kind {n:02}" for n in range(kinds)])[np.where(late, (usual * usual) % kinds, usual)]
    frame = data.events.select(
        user=data.user_ids.decode(data.events["user"].to_numpy()),
        item=data.item_ids.decode(data.events["item"].to_numpy()),
        time="time",
        kind=pl.Series(names),
    )
    pipeline = Pipeline(sources="transitions; popular:half_life=1d", metric="ndcg@5").fit(Dataset.build(frame))
    assert pipeline.builder_ is not None
    assert len(pipeline.recommend(k=5)) == 5 * data.n_users
