"""Training with ratings as the goal: a version whose blend is better than biases, judged on ratings it has not seen."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import zhiyin as zy
from zhiyin.core.errors import ConfigError, DataError
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.models.als import ALS
from zhiyin.models.ratings.biased_mf import BiasedMF
from zhiyin.models.ratings.rating_baselines import GlobalMean
from zhiyin.models.ratings.rating_blend import RatingBlend
from zhiyin.pipeline import rating_candidates, rating_training
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.pipeline.rating_candidates import RatingSource
from zhiyin.pipeline.rating_gate import BASELINE, decide_by_ratings
from zhiyin.pipeline.rating_training import hold_back, train_rating_version

DAY = 86_400_000_000
RUN = Run(seed=1, threads=1, progress=False)
QUICK = [
    RatingSource("useritembias", "the baseline"),
    RatingSource("biasedmf:factors=4,epochs=20,reg=0.02", "tastes"),
    RatingSource("svdpp:factors=4,epochs=10,reg=0.05", "tastes once more"),
]


def rated(users: int = 80, items: int = 50, times: bool = False, seed: int = 0) -> Dataset:
    """Ratings by biases and two tastes, which biases cannot know."""
    rng = np.random.default_rng(seed)
    user, item = np.nonzero(rng.random((users, items)) < 0.5)
    value = 3 + 0.4 * rng.standard_normal(users)[user] + 0.4 * rng.standard_normal(items)[item]
    value = np.clip(value + np.where((user + item) % 2, 0.9, -0.9) + 0.2 * rng.standard_normal(len(user)), 1, 5)
    frame = pl.DataFrame({"user": [f"u{u}" for u in user], "item": [f"i{i}" for i in item], "value": value})
    if times:
        frame = frame.with_columns(time=pl.Series(rng.integers(0, 60, len(user)) * DAY + 10_000 * DAY))
    return Dataset.build(frame)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rating_candidates, "suitable_rating_models", lambda data: QUICK)


def train(data: Dataset, folder: Path, seconds: float = 30.0, **more: Any) -> Any:
    return train_rating_version(data, Bundles(folder), seconds, run=RUN, **more)


@pytest.mark.parametrize("times", [False, True])
def test_a_version_predicts_better_than_biases(times: bool, tmp_path: Path) -> None:
    said: list[str] = []
    trained = train(rated(times=times), tmp_path, say=said.append)
    assert trained.promoted
    assert trained.verdict.metric == "rmse"
    assert trained.verdict.figures["candidate"] < 0.7 * trained.verdict.figures[BASELINE]
    assert trained.bundle.manifest["figures"]["rmse"] == trained.verdict.figures["candidate"]
    model = Bundles(tmp_path).current.load()  # type: ignore[union-attr]
    assert isinstance(model, Pipeline)
    assert isinstance(model.rating_model, RatingBlend)
    fresh = rated(times=times, seed=0)
    known = model.predict(["u2", "u2"], ["i3", "i4"])
    assert known.tolist() == model.rating_model.predict(["u2", "u2"], ["i3", "i4"]).tolist()
    assert known[0] > known[1] + 0.8  # an odd sum is liked
    listed = model.recommend(["u2"], 5)["item"].to_list()
    assert all((2 + int(item[1:])) % 2 for item in listed)
    report = trained.bundle.report()["pipeline"]
    assert report["goal"] == "rating"
    assert report["blend"]["figures"]["rmse"] == pytest.approx(trained.verdict.figures["candidate"])
    assert len(report["blend"]["calibration"]) > 5
    assert set(report["weights"]) == {"constant", *model.rating_model.parts_}
    assert report["without"]["none"] <= min(report["without"].values()) * 1.001
    assert len(fresh.users) == len(model.context_.user_ids)
    assert any("rmse" in line for line in said)


def test_what_is_held_back_serves_one_purpose_each() -> None:
    for times in (False, True):
        held = hold_back(rated(times=times), None, RUN)
        train_pairs = set(zip(held.part.train.events["user"], held.part.train.events["item"]))
        halves = [set(zip(half.users.tolist(), half.items.tolist())) for half in (held.choose, held.judge)]
        assert not halves[0] & halves[1]
        assert not train_pairs & (halves[0] | halves[1])
        assert len(held.choose) + len(held.judge) == len(held.part.test.events)
        if times:
            assert held.choose.times is not None
            assert held.judge.times is not None
            assert held.choose.times.max() < held.judge.times.min()
        else:
            assert not set(held.choose.users) & set(held.judge.users)


def test_the_interval_of_predictions_holds_what_it_says(tmp_path: Path) -> None:
    data, later = rated(seed=0), rated(seed=0)
    rng = np.random.default_rng(7)
    out = rng.random(data.n_events) < 0.15
    trained = train(data.subset(~out), tmp_path)
    model = trained.bundle.load().rating_model
    test = later.subset(out)
    found = model.predict(
        test.user_ids.decode(test.events["user"].to_numpy()), test.item_ids.decode(test.events["item"].to_numpy())
    )
    inside = np.abs(found - test.events["value"].to_numpy()) <= model.half_width_
    assert 0.8 < inside.mean() < 0.98


def test_the_gate_keeps_what_is_better() -> None:
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(100), 10)
    base = rng.gamma(2, 0.5, 1000)
    better = decide_by_ratings(0.8 * base, base, {"version 1": 0.9 * base}, users, margin=0.02, first=False, run=RUN)
    assert better.passed
    assert better.tests["version 1"].gain == pytest.approx(np.sqrt(0.9 * base.mean()) - np.sqrt(0.8 * base.mean()))
    worse = decide_by_ratings(0.9 * base, base, {"version 1": 0.8 * base}, users, margin=0.02, first=False, run=RUN)
    assert not worse.passed
    assert worse.worse
    loose = decide_by_ratings(0.9 * base, base, {"version 1": 0.8 * base}, users, margin=0.2, first=False, run=RUN)
    assert loose.passed
    first = decide_by_ratings(base, base, {}, users, margin=0.02, first=True, run=RUN)
    assert first.passed
    assert not decide_by_ratings(1.5 * base, base, {}, users, margin=0.02, first=True, run=RUN).passed
    few = decide_by_ratings(0.8 * base[:100], base[:100], {}, users[:100], margin=0.02, first=False, run=RUN)
    assert not few.passed  # ten users


def test_the_second_version_is_judged_against_the_first_and_a_poor_one_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(rated(), tmp_path)
    name = f"version {first.bundle.version}"
    again = train(rated(seed=0, users=81), tmp_path)
    assert name in again.verdict.tests
    assert again.verdict.tests[name].gain == pytest.approx(0, abs=0.05)
    # A candidate that knows biases alone is not put in use, and what is in use learns anew.
    monkeypatch.setattr(rating_training._Search, "_weigh", _bias_alone)
    poor = train(rated(seed=0, users=82), tmp_path)
    assert not poor.promoted
    assert poor.verdict.worse
    assert poor.refitted is not None
    assert Bundles(tmp_path).current_number == poor.refitted.version
    renewed = poor.refitted.load()
    assert (
        renewed.rating_model.models == first.bundle.load().rating_model.models
        or "biasedmf" in renewed.rating_model.models
    )
    assert len(renewed.context_.user_ids) == 82


def _bias_alone(search: Any, names: list[str]) -> Any:
    bias = next(name for name in search.fitted if name.startswith("useritembias"))
    return rating_training.Chosen([bias], np.array([0.0, 1.0]), {"none": 1.0})


def test_a_version_of_lists_in_use_is_not_compared_and_it_is_said(tmp_path: Path) -> None:
    data, bundles = rated(), Bundles(tmp_path)
    bundles.promote(bundles.write(Pipeline.wrapping(ALS(factors=4).fit(data)), figures={}).version)
    trained = train(data, tmp_path)
    assert "predicts no ratings" in trained.verdict.why
    assert trained.promoted


def test_without_ratings_or_without_enough_to_judge(tmp_path: Path) -> None:
    data = rated()
    with pytest.raises(DataError, match=r"no ratings(.|\n)*--goal ranking"):
        train(Dataset.build(data.events.select("user", "item")), tmp_path)
    tiny = Dataset.build(pl.DataFrame({"user": ["a", "b"], "item": ["x", "y"], "value": [1.0, 5.0]}))
    trained = train(tiny, tmp_path)
    assert trained.promoted
    assert trained.verdict.users == 0
    assert 1 <= trained.bundle.load().predict(["a"], ["x"])[0] <= 5


def test_a_budget_is_kept_on_a_slow_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of the machine counts as four: models get fewer steps or are left out, and it is said."""
    real, begun = time.monotonic, time.monotonic()
    slowed = lambda: begun + 4 * (real() - begun)  # noqa: E731
    monkeypatch.setattr(rating_training.time, "monotonic", slowed)
    monkeypatch.setattr(rating_candidates.time, "monotonic", slowed)
    monkeypatch.setattr(
        rating_candidates, "suitable_rating_models",
        lambda data: [*QUICK, RatingSource("bayesianfm:sweeps=4000,factors=16", "far too slow")],
    )  # fmt: skip
    trained = train(rated(), tmp_path, seconds=40.0)
    report = trained.bundle.report()["pipeline"]
    slow = next(one for one in report["tried"] if one["source"].startswith("bayesianfm"))
    assert "left_out" in slow or any("for lack of time" in note for note in report["notes"])
    longest = max(one.get("fit_seconds", 0.0) for one in report["tried"])
    assert report["seconds"] <= 1.15 * 40.0 + 1.4 * longest


def test_pipelines_predict_by_their_rating_model() -> None:
    data = rated()
    ranking = Pipeline.wrapping(ALS(factors=4).fit(data))
    with pytest.raises(ConfigError, match="no source"):
        ranking.predict(["u1"], ["i1"])
    both = Pipeline.wrapping(ALS(factors=4).fit(data))
    both.sources_ = {**both.sources_, "globalmean": GlobalMean().fit(data)}  # type: ignore[misc]
    assert both.predict(["u1"], ["i1"])[0] == pytest.approx(data.events["value"].mean(), abs=1e-4)
    assert zy.Pipeline().rating_model is None
    assert BiasedMF().rating_model is not None
