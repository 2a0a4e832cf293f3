"""Ratings are judged beside lists: figures by hand, intervals and tests by users, calibration, tuning by RMSE."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import zhiyin as zy
from zhiyin.core.errors import ConfigError, DataError
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.splits import Split, split
from zhiyin.evaluation.comparison_table import table_cells
from zhiyin.evaluation.pointwise_metrics import log_loss, platt_probabilities
from zhiyin.evaluation.protocol import evaluate
from zhiyin.evaluation.rating_evaluation import (
    RatingWindow,
    calibration_error,
    calibration_table,
    evaluate_ratings,
    losses,
)
from zhiyin.evaluation.significance import standard_error
from zhiyin.evaluation.tuning import tune
from zhiyin.models.als import ALS
from zhiyin.models.popularity import Popular
from zhiyin.models.ratings.biased_mf import BiasedMF
from zhiyin.models.ratings.rating_baselines import GlobalMean, UserItemBias

DAY = 86_400_000_000
RUN = Run(seed=3, threads=1)


def rated(users: int = 60, items: int = 40, seed: int = 0, binary: bool = False) -> Dataset:
    """Ratings of 1 to 5 by biases and a taste, over 40 days."""
    rng = np.random.default_rng(seed)
    user, item = np.nonzero(rng.random((users, items)) < 0.5)
    truth = 3 + 0.6 * rng.standard_normal(users)[user] + 0.6 * rng.standard_normal(items)[item]
    truth = truth + 0.8 * np.where((user + item) % 2, 1, -1)
    value = np.clip(np.round(truth + 0.3 * rng.standard_normal(len(user))), 1, 5)
    if binary:
        value = (value >= 4).astype(float)
    time = rng.integers(0, 40, len(user)) * DAY + 10_000 * DAY
    return Dataset.build(pl.DataFrame({"user": user, "item": item, "value": value, "time": time}))


def test_figures_by_hand() -> None:
    """Trained on ratings 2 and 4, the global mean predicts 3 for 1, 4 and 5 stars: errors of -2, 1 and 2."""
    log = pl.DataFrame({"user": ["a", "b", "a", "b", "b"], "item": ["x", "x", "y", "y", "z"],
                        "value": [2.0, 4.0, 1.0, 4.0, 5.0], "time": [DAY, DAY, 5 * DAY, 5 * DAY, 6 * DAY]})  # fmt: skip
    found = evaluate(GlobalMean(), split=split(Dataset.build(log), "time", test="3d"), rounds=0, run=RUN)
    assert found.main == "rmse"
    figures = found["GlobalMean"].metrics
    assert figures["rmse"] == pytest.approx(math.sqrt((4 + 1 + 4) / 3))
    assert figures["mae"] == pytest.approx(5 / 3)
    assert figures["calibration_error"] == pytest.approx(abs(10 / 3 - 3))
    assert found.ratings is not None
    assert found.ratings.losses["GlobalMean"]["rmse"].tolist() == pytest.approx([4, 1, 4])
    assert found.ratings.users.to_list() == ["a", "b", "b"]


def test_ratings_are_judged_beside_lists_and_first_where_they_are_the_goal() -> None:
    parts = split(rated(), "time", test="10d")
    models = {"mf": BiasedMF(factors=4, epochs=10), "als": ALS(factors=4)}
    lists = evaluate(models, split=parts, rounds=50, run=RUN)
    assert lists.main == "ndcg@10"  # ALS predicts no ratings
    assert "rmse" in lists["mf"].metrics
    assert "rmse" not in lists["als"].metrics
    assert lists["mf"].calibration
    assert not lists["als"].calibration
    goal = evaluate(models, split=parts, main="rmse", rounds=50, run=RUN)
    assert [model.name for model in goal.models] == ["Global mean", "User + item bias", "Popular", "mf", "als"]
    assert goal.best == "mf"
    assert goal["mf"].metrics["rmse"] == lists["mf"].metrics["rmse"]
    assert goal["mf"].metrics["rmse"] < goal["User + item bias"].metrics["rmse"] < goal["Global mean"].metrics["rmse"]
    assert "ndcg@10" in goal["als"].metrics
    header, rows = table_cells(goal)
    assert header[1:4] == ["RMSE", "p", "MAE"]
    assert rows[0][0] == "mf"
    assert rows[-1][1] == "–"
    assert any("Ratings:" in sentence for sentence in goal.protocol)
    json.dumps(goal.to_json())


def test_intervals_and_tests_take_the_ratings_of_a_user_together() -> None:
    parts = split(rated(), "ratio", test=0.3, run=RUN)
    found = evaluate({"mf": BiasedMF(factors=4, epochs=10)}, split=parts, rounds=400, run=RUN)
    low, high = found["mf"].intervals["rmse"]
    value = found["mf"].metrics["rmse"]
    assert low < value < high
    assert found.ratings is not None
    loss = found.ratings.losses["mf"]["rmse"]
    mean, error, users = standard_error(loss, found.ratings.groups)
    assert users == 60
    assert (low**2, high**2) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), rel=0.15)
    assert found["Global mean"].p_values["rmse"] < 0.001
    assert set(found["mf"].segments) >= {"light users", "heavy users", "head items", "tail items"}
    assert found["mf"].segments["light users"]["rmse"] > 0


def test_every_rating_is_for_its_own_moment_only_where_history_lies_before_it() -> None:
    data = rated()
    later, random = RatingWindow.of(split(data, "time", test="10d")), RatingWindow.of(split(data, "ratio", run=RUN))
    assert later is not None
    assert random is not None
    assert later.times is not None
    assert (later.times > split(data, "time", test="10d").train.window[1]).all()
    assert random.times is None
    given = RatingWindow.of(Split(*split(data, "ratio", run=RUN), "given", "as given"))
    assert given is not None
    assert given.times is None


def test_calibration_by_buckets() -> None:
    predictions = np.repeat([1.0, 2.0, 3.0, 4.0], 25)
    truth = predictions + np.repeat([0.5, 0.0, 0.0, -0.5], 25)
    table = calibration_table(truth, predictions, buckets=4)
    assert [row["ratings"] for row in table] == [25] * 4
    assert [row["true"] - row["predicted"] for row in table] == pytest.approx([0.5, 0, 0, -0.5])
    assert calibration_error(table) == pytest.approx(0.25)
    assert calibration_error(calibration_table(predictions, predictions)) == 0
    assert math.isnan(calibration_error([]))


def test_log_loss_of_likes_needs_a_threshold_or_ratings_of_0_and_1() -> None:
    parts = split(rated(), "time", test="10d")
    plain = RatingWindow.of(parts)
    assert plain is not None
    assert plain.threshold is None
    assert "log_loss" not in losses(plain, plain.ratings, RUN)
    liked = RatingWindow.of(parts, threshold=4)
    assert liked is not None
    rng = np.random.default_rng(0)
    good = losses(liked, liked.ratings + rng.normal(0, 0.5, len(liked)).astype(np.float32), RUN)["log_loss"].mean()
    blind = losses(liked, rng.normal(3, 1, len(liked)).astype(np.float32), RUN)["log_loss"].mean()
    share = float((liked.ratings >= 4).mean())
    entropy = -(share * math.log(share) + (1 - share) * math.log(1 - share))
    assert good < 0.7 * entropy
    assert blind == pytest.approx(entropy, abs=0.03)  # a prediction that knows nothing is worth the share alone
    binary = RatingWindow.of(split(rated(binary=True), "time", test="10d"))
    assert binary is not None
    assert binary.threshold == 0.5
    found = evaluate(
        {"mf": BiasedMF(factors=4)}, split=split(rated(), "time", test="10d"), threshold=4, rounds=0, run=RUN
    )
    assert found["mf"].metrics["log_loss"] < 0.69


def test_probabilities_are_fitted_on_the_other_half() -> None:
    """One half lies the other way round: it is predicted by what the other half has shown, and so wrongly."""
    rng = np.random.default_rng(1)
    scores, halves = rng.normal(0, 1, 4_000), np.arange(4_000) % 2 == 0
    labels = rng.random(4_000) < 1 / (1 + np.exp(-2 * scores))
    right = platt_probabilities(scores, labels, halves)
    assert log_loss(labels, right) == pytest.approx(log_loss(labels, 1 / (1 + np.exp(-2 * scores))), abs=0.005)
    turned = np.where(halves, labels, ~labels)
    assert log_loss(turned, platt_probabilities(scores, turned, halves)) > 1


def test_a_log_without_ratings_says_so() -> None:
    data = Dataset.build(rated().events.select("user", "item", "time"))
    parts = split(data, "time", test="10d")
    assert evaluate({"mf": BiasedMF(factors=2, epochs=2)}, split=parts, rounds=0, run=RUN).main == "ndcg@10"
    with pytest.raises(DataError, match="rating"):
        evaluate({"mf": BiasedMF()}, split=parts, main="rmse", run=RUN)
    with pytest.raises(DataError, match="rating"):
        tune(BiasedMF(), data, metric="rmse", trials=2, run=RUN)


def test_a_rating_model_is_tuned_for_what_it_does() -> None:
    """By RMSE, where less is better: the penalty that the ratings ask for wins over one that forbids all tastes."""
    train = rated(120)
    start = BiasedMF(factors=4, epochs=15, reg=0.3, reg_bias=0.2)
    found = tune(start, train, trials=8, fixed=("factors", "epochs", "rate", "fold_reg"), validation=0.2, run=RUN)
    assert found.metric == "rmse"
    assert found.value < found.default_value
    complete = found.trials.filter(pl.col("state") == "complete")["value"]
    assert found.value == complete.min()
    window = RatingWindow.of(split(train, "auto", test=0.2, run=RUN))
    assert window is not None
    assert isinstance(found.model, BiasedMF)
    result = evaluate_ratings(found.model.fit(window.train, RUN), window, RUN)
    assert math.sqrt(result.losses["rmse"].mean()) == pytest.approx(found.value)
    assert "ratings of" in found.protocol[1]
    assert tune(UserItemBias(), train, metric="ndcg@10", trials=2, run=RUN).metric == "ndcg@10"
    with pytest.raises(ConfigError, match="predicts no ratings"):
        tune(Popular(), train, metric="rmse", trials=2, run=RUN)
    with pytest.raises(ConfigError, match="no metric"):
        tune(BiasedMF(), train, metric="rsme", trials=2, run=RUN)


def test_a_trial_that_diverges_does_not_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    fit, seen = BiasedMF._fit, []

    def diverge(self: BiasedMF, data: Dataset, run: Run) -> None:
        fit(self, data, run)
        seen.append(self.reg)
        if len(seen) == 2:
            self.item_vectors_[0, 0] = np.nan

    monkeypatch.setattr(BiasedMF, "_fit", diverge)
    found = tune(BiasedMF(factors=2, epochs=2), rated(), trials=4, fixed=("factors", "epochs"), run=RUN)
    assert found.trials["state"].to_list().count("pruned") >= 1
    assert np.isfinite(found.value)


def test_the_report_shows_ratings_first_with_calibration(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    found = evaluate({"mf": BiasedMF(factors=4)}, split=split(rated(), "time", test="10d"), rounds=50, run=RUN)
    page = found.report(tmp_path / "report.html").read_text()
    assert "Predicted and true ratings" in page
    assert page.index("Sorted by RMSE") < page.index("Predicted and true ratings")
    assert "At k = 10" in page
    assert page.index("RMSE") < page.index("NDCG")
    for row in found["mf"].calibration:
        assert f"<td>{row['predicted']:.3f}</td><td>{row['true']:.3f}</td>" in page


def test_python_names() -> None:
    assert isinstance(zy.UserItemBias(), UserItemBias)
    assert zy.RatingBlend().rating_model is not None
    assert zy.ALS().rating_model is None
