"""Versions for click and purchase probabilities: learned from displays, judged, saved, and asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lightgbm")

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.pipeline.click_learning import build, labels_of, learn_builder, simple_rates
from zhiyin.pipeline.click_training import displays_for, judge, probabilities_as_of, train_click_version
from zhiyin.pipeline.display_log import display_log
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.policies.simulators.film_shop import FilmShop
from zhiyin.policies.simulators.film_shop_displays import FilmShopDisplays

RUN = Run(threads=1)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return FilmShopDisplays(FilmShop(n_users=120, n_items=60, days=30), lists=40).log()


@pytest.fixture(scope="module")
def trained(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Any:
    said: list[str] = []
    bundles = Bundles(tmp_path_factory.mktemp("ctr") / "bundles")
    version = train_click_version(data, bundles, 0.0, run=RUN, say=said.append)
    return version, said


@pytest.fixture(scope="module")
def model(trained: Any) -> Pipeline:
    loaded = trained[0].bundle.load()
    assert isinstance(loaded, Pipeline)
    return loaded


def test_it_is_judged_by_log_loss_and_put_in_use(trained: Any) -> None:
    version, said = trained
    report = version.bundle.report()["pipeline"]
    assert version.promoted
    assert version.verdict.metric == "log-loss"
    assert set(version.verdict.tests) == {"base rate", "item and position rate"}
    assert report["figures"]["candidate"]["log_loss"] < report["figures"]["base rate"]["log_loss"]
    assert report["figures"]["candidate"]["auc"] > 0.6
    assert sum(one["rows"] for one in report["reliability"]) == report["judged_displays"]
    assert any("no time left" in line for line in said)


def test_probabilities_are_those_of_the_first_position_and_of_nothing_else(model: Pipeline, data: Dataset) -> None:
    log = display_log(data)
    log = log.take(np.arange(len(log.requests))[-40:])
    histories = log.requests.histories()
    p = model.probabilities(histories, log.offsets, log.items, run=RUN)["click"]
    assert p.dtype == np.float32
    assert ((p > 0) & (p < 1)).all()
    log.positions[:] = 1
    assert np.abs(p - model.ranker_.score(build(model.builder_, log, RUN))).max() < 1e-6
    alone = [
        model.probabilities(histories.row(request), np.array([0, 1]), log.items[at : at + 1])["click"][0]
        for request, at in zip(range(5), log.offsets)
    ]
    assert np.allclose(alone, p[log.offsets[:5]], atol=1e-7)


def test_a_later_position_is_clicked_less(model: Pipeline, data: Dataset) -> None:
    log = display_log(data)
    means = []
    for position in (1, 8):
        log.positions[:] = position
        means.append(float(model.ranker_.score(build(model.builder_, log, RUN)).mean()))
    assert means[1] < 0.7 * means[0]


def test_lists_are_ordered_by_the_probability(model: Pipeline, data: Dataset) -> None:
    histories = data.histories.rows(0, 5)
    items, scores = model.rank(histories, 10, run=RUN)
    p = model.probabilities(histories, np.arange(0, 51, 10), items.ravel().astype(np.int32), run=RUN)["click"]
    assert np.abs(scores.ravel() - p).max() < 1e-6
    assert (np.diff(scores, axis=1) <= 0).all()


def test_features_count_nothing_from_the_display_on(data: Dataset, model: Pipeline) -> None:
    log = display_log(data)
    cut = int(np.quantile(log.times, 0.6))
    held = log.between(cut, cut + 3_600_000_000 * 24)
    until = int(held.times.max()) + 1
    past = data.subset(data.events["time"].to_numpy() < until)
    whole = build(learn_builder(data, 0, RUN, like=model.builder_), held, RUN)
    earlier = build(learn_builder(past, 0, RUN, like=model.builder_), held, RUN)
    assert np.array_equal(whole.numbers, earlier.numbers, equal_nan=True)


def test_a_version_in_use_is_a_rival_and_a_ranking_is_none(data: Dataset, trained: Any, tmp_path: Path) -> None:
    bundles = Bundles(trained[0].bundle.folder.parent)
    again = train_click_version(data, bundles, 0.0, run=RUN)
    assert f"version {trained[0].bundle.version}" in again.verdict.tests
    bundles.promote(trained[0].bundle.version)
    with pytest.raises(ConfigError, match="trained anew"):
        trained[0].bundle.load().refit(data)


def test_purchases_after_clicks(data: Dataset, tmp_path: Path) -> None:
    from zhiyin.data.project_config.training_sections import TrainSection

    clicked = displays_for(data, "cvr", TrainSection())
    assert clicked.clicks.all()
    assert 0 < labels_of(clicked, "cvr").mean() < 1
    version = train_click_version(data, Bundles(tmp_path / "bundles"), 0.0, goal="cvr", run=RUN).bundle.load()
    assert version.goal_ == "cvr"
    p = version.probabilities(data.histories.rows(0, 2), np.array([0, 2, 3]), np.array([4, 7, 4], np.int32))
    assert list(p) == ["purchase"]
    assert p["purchase"].shape == (3,)


def test_the_gate_refuses_what_is_worse_than_the_base_rate() -> None:
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(100), 50)
    truth = rng.uniform(0.01, 0.2, 5_000)
    labels = (rng.random(5_000) < truth).astype(np.float32)
    base = np.full(5_000, labels.mean())
    for p, passed in ((truth, True), (np.clip(3 * truth, 0, 0.9), False)):
        verdict = judge({"candidate": p, "base rate": base}, labels, users, 0.02, first=True, run=RUN)
        assert verdict.passed == passed


def test_too_few_clicks_are_refused(data: Dataset, tmp_path: Path) -> None:
    few = data.subset(np.arange(data.n_events) < 800)
    with pytest.raises(DataError, match="too few"):
        train_click_version(few, Bundles(tmp_path / "bundles"), 0.0, run=RUN)


def test_rates_of_items_and_positions_by_hand() -> None:
    rates = simple_rates(_planted(), "ctr")
    base = 2 / 12  # one click of ten displays, with one of two added
    assert np.allclose(rates["base rate"](_planted()), base)
    rate = (1 + 20 * base) / 30  # of the one item, and of the one position
    assert np.allclose(rates["item and position rate"](_planted()), rate * rate / base)


def _planted() -> Any:
    from .test_display_log import log_of

    rows = [(f"u{n}", "x", n, "impression", 1.0) for n in range(10)]
    return display_log(log_of([*rows, ("u0", "x", 100, "click", None)], {"click": 1}))


def test_probabilities_as_of_are_in_order_of_the_displays(model: Pipeline, data: Dataset) -> None:
    log = display_log(data)
    some = log.take(np.arange(len(log.requests))[-20:])
    p = probabilities_as_of(model.ranker_, model.builder_, data, some, RUN)
    assert p.shape == (len(some),)
