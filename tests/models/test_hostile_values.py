"""Hostile values at every model: it learns finite numbers, or says what is wrong; it is never fitted with NaN."""

from __future__ import annotations

import contextlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.examples import examples
from zhiyin.core.errors import ZhiyinError
from zhiyin.core.params import params_of
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.models import MODELS
from zhiyin.models.finite_check import check_finite
from zhiyin.models.recommender import Recommender
from zhiyin.models.registry import make, model_class

DAY = 86_400_000_000
# Small settings, so that a fit takes milliseconds; those that a model does not have are left out.
SMALL: dict[str, Any] = {
    "factors": 4, "epochs": 3, "sweeps": 6, "burn": 2, "kept": 3, "dim": 8, "hidden": 8, "max_len": 8, "layers": 1,
    "blocks": 1, "heads": 1, "batch": 64, "patience": 0,
}  # fmt: skip
NETWORKS = {
    "SASRec",
    "HSTU",
    "GRU4Rec",
    "NARM",
    "Caser",
    "NeuMF",
    "MultVAE",
    "LightGCN",
    "UltraGCN",
    "TwoTower",
    "Hybrid",
}
# Models that need more than a log of events: descriptions, links.
LEFT_OUT = {"Friends", "Content", "PopularInCategory", "Hybrid", "TwoTower", "Pipeline"}
CHEAP = [name for name in MODELS if name not in LEFT_OUT | NETWORKS]

ODD = st.sampled_from([200.0, 1e6, -1e6, 9e15, 1e30, -1e30, 1e38, 1e300, np.inf, -np.inf, np.nan, 0.0, -5.0, 1e-30])
# (user, item, value, how often)
EVENTS = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 9), ODD, st.sampled_from([1, 1, 2, 30])), max_size=6)


def hostile(events: list[tuple[int, int, float, int]], odd_weights: bool) -> Dataset:
    """Plain ratings of 1 to 5 with hostile ones among them, as values or as weights."""
    rng = np.random.default_rng(3)
    rows = [(u, i, float(1 + (u * i) % 5)) for u in range(12) for i in rng.permutation(10)[:6].tolist()]
    rows += [(u, i, value) for u, i, value, times in events for _ in range(times)]
    frame = pl.DataFrame(rows, schema={"user": pl.Int64, "item": pl.Int64, "value": pl.Float64}, orient="row")
    frame = frame.with_columns(time=(10_000 + pl.int_range(pl.len()) % 40) * DAY)
    if odd_weights:
        frame = frame.rename({"value": "weight"})
    return Dataset.build(frame)


def small(name: str) -> Recommender:
    known = params_of(model_class(name))
    return make(name, {key: value for key, value in SMALL.items() if key in known})


def fit_or_say(name: str, data: Dataset) -> Recommender | None:
    """The fitted model; None where it said what is wrong."""
    model = small(name)
    with contextlib.suppress(ZhiyinError):
        model.fit(data, Run(threads=1, progress=False))
        check_finite(model)
        return model
    assert not model.is_fitted  # what is not finite is not kept, and so never saved
    return None


@pytest.mark.parametrize("name", CHEAP)
@given(events=EVENTS)
@example(events=[(1, 1, 200.0, 1)])
@example(events=[(1, 1, np.inf, 1), (2, 2, -np.inf, 1), (3, 3, np.nan, 1)])
@example(events=[(1, 1, 5.0, 30)])
@settings(max_examples=examples(6))
def test_hostile_values_never_make_nan(name: str, events: list[tuple[int, int, float, int]]) -> None:
    model = fit_or_say(name, hostile(events, odd_weights=False))
    if model is None:
        return
    assert np.isfinite(model.recommend(k=3)["score"].to_numpy()).all()
    if model.rating_model is not None:
        found = model.rating_model.predict(list(range(12)), [n % 10 for n in range(12)])
        assert np.isfinite(found).all()
        assert np.abs(found).max() <= max(5.0, *(abs(v) for _, _, v, _ in events if np.isfinite(v)), 5.0)


@pytest.mark.parametrize("name", CHEAP)
@given(events=EVENTS)
@example(events=[(1, 1, np.inf, 1)])
@example(events=[(1, 1, 1e30, 30), (1, 1, -1e30, 30)])
@settings(max_examples=examples(4))
def test_hostile_weights_never_make_nan(name: str, events: list[tuple[int, int, float, int]]) -> None:
    model = fit_or_say(name, hostile(events, odd_weights=True))
    if model is not None:
        assert not np.isnan(model.recommend(k=3)["score"].to_numpy()).any()


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("torch"), reason="networks need torch")
@pytest.mark.parametrize("name", sorted(NETWORKS - LEFT_OUT))
def test_hostile_values_of_networks(name: str, tmp_path: Path) -> None:
    events = [(1, 1, 1e30, 30), (2, 2, np.inf, 1), (3, 3, np.nan, 2), (4, 4, -1e6, 1)]
    for odd_weights in (False, True):
        model = fit_or_say(name, hostile(events, odd_weights))
        if model is not None:
            model.save(tmp_path / f"{name}-{odd_weights}")
            assert np.isfinite(model.recommend(k=3)["score"].to_numpy()).all()


def test_every_model_is_tried() -> None:
    assert set(CHEAP) | NETWORKS | LEFT_OUT == set(MODELS)


@pytest.mark.parametrize("name", ["BiasedMF", "SVDpp", "TimeSVDpp"])
@pytest.mark.parametrize("rate", [0.5, 5.0])
def test_steps_that_are_far_too_long_are_bounded_or_said(name: str, rate: float) -> None:
    model = make(name, {"factors": 16, "epochs": 40, "rate": rate, "reg": 0.0, "reg_bias": 0.0})
    said = ""
    try:
        model.fit(hostile([(1, 1, 200.0, 30)], odd_weights=False), Run(threads=1))
    except ZhiyinError as error:
        said = str(error)
    assert model.is_fitted or "learning rate" in said
    if model.is_fitted:
        check_finite(model)
