"""TimeSVDpp: it follows its gradient, folds users in exactly, and learns drifts that SVDpp cannot."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import polars as pl
import pytest

from zhiyin.core.errors import DataError
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.evaluation.pointwise_metrics import rmse
from zhiyin.models.loading import load
from zhiyin.models.ratings.svdpp import SVDpp, implicit_sums
from zhiyin.models.ratings.temporal_effects import Moments
from zhiyin.models.ratings.timesvdpp import TimeSVDpp, sweep
from zhiyin.testing.recommender import DAY, RecommenderConformance


class TestTimeSVDpp(RecommenderConformance):
    def make(self) -> TimeSVDpp:
        return TimeSVDpp(factors=4, epochs=5, bins=5)


class TestTimeSVDppWithDriftingFactors(RecommenderConformance):
    def make(self) -> TimeSVDpp:
        return TimeSVDpp(factors=4, epochs=5, bins=5, factor_drift=True)


@pytest.mark.parametrize(("drifting", "day_bias", "scaling"), list(itertools.product((False, True), repeat=3)))
def test_a_sweep_follows_its_gradient(drifting: bool, day_bias: bool, scaling: bool) -> None:
    """One sweep with a tiny step moves every parameter by minus half the gradient, found by central differences."""
    rng = np.random.default_rng(2)
    offsets, items = np.array([0, 4, 4, 7, 12]), rng.integers(0, 6, 12).astype(np.int32)
    owner, f = np.repeat(np.arange(4), np.diff(offsets)), 3
    ratings, devs, bins = rng.normal(3, 1, 12), rng.standard_normal(12), rng.integers(0, 2, 12)
    day = np.array([0, 0, 1, 1, 2, 2, 2, 3, 4, 4, 5, 5])
    in_bin = items * 2 + bins
    shares = np.stack([1 / np.bincount(part)[part] for part in (owner, day, in_bin)], axis=1)
    reg, reg_bias, reg_drift, reg_day, reg_bin = penalties = np.array([0.3, 0.2, 0.7, 0.9, 1.1])
    shapes = {"users": (4, 3), "days": (6, 2), "heard": (6, 3), "p": (4, f), "a": (4, f), "q": (6, f), "y": (6, f)}
    start = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    if not drifting:
        start["a"] = np.zeros((4, 0))

    def errors(users: Any, days: Any, heard: Any, p: Any, a: Any, q: Any, y: Any) -> tuple[Any, Any]:
        z = np.array([y[items[b:e]].sum(axis=0) / np.sqrt(max(e - b, 1)) for b, e in itertools.pairwise(offsets)])
        vectors = (p + z)[owner] + (a[owner] * devs[:, None] if drifting else 0)
        worth = heard[items, 0] + heard[items, 1 + bins]
        offset = 3 + users[owner, 0] + users[owner, 1] * devs + days[day, 0]
        found = offset + worth * (users[owner, 2] + days[day, 1]) + np.sum(vectors * q[items], axis=1)
        return ratings - found, z

    def loss(users: Any, days: Any, heard: Any, p: Any, a: Any, q: Any, y: Any) -> float:
        error, z = errors(users, days, heard, p, a, q, y)
        each = reg * np.sum(p[owner] ** 2 + z[owner] ** 2 + q[items] ** 2, axis=1)
        each += reg_bias * (users[owner, 0] ** 2 + heard[items, 0] ** 2)
        rated = np.unique(owner)
        once = reg_drift * np.sum(users[rated, 1] ** 2 + (users[rated, 2] - 1) ** 2 + np.sum(a[rated] ** 2, axis=1))
        once += reg_day * np.sum(days**2) + reg_bin * np.sum(heard[:, 1:].ravel()[np.unique(in_bin)] ** 2)
        return float(np.sum(error**2 + each) + once)

    moved = {name: value.copy() for name, value in start.items()}
    rate = 1e-7
    found = sweep(
        np.arange(4), np.arange(12), offsets, items, ratings, offsets, items, bins, devs, day, shares, 3.0,
        *moved.values(), np.ones(4), rate, penalties, np.inf, day_bias, scaling,
    )  # fmt: skip
    assert found == pytest.approx(np.sum(errors(**start)[0] ** 2), rel=1e-4)
    still = {("users", 2)} if not scaling else set()
    still |= {("days", 0), ("days", 1)} if not day_bias else {("days", 1)} if not scaling else set()
    free = dict(start)
    for name, value in start.items():
        for at in np.ndindex(value.shape):
            if (name, at[1]) in still:
                assert moved[name][at] == value[at]
                continue
            sides = []
            for step in (1e-5, -1e-5):
                free[name] = value.copy()
                free[name][at] += step
                sides.append(loss(**free))
            free[name] = value
            gradient = (sides[0] - sides[1]) / 2e-5
            assert (moved[name][at] - value[at]) / rate == pytest.approx(-gradient / 2, rel=1e-4, abs=1e-4), name


@pytest.mark.parametrize("drifting", [False, True])
def test_folding_in_is_one_ridge_regression(drifting: bool) -> None:
    """All that is a user's, every day of it included, against the solution of the whole system."""
    data, _ = planted()
    model = TimeSVDpp(factors=3, epochs=10, bins=4, factor_drift=drifting, reg_day=2.0, reg_drift=1.5, fold_reg=0.8)
    model.fit(data)
    row, f = 5, 3
    one = data.histories.take(np.array([row]))
    one = one.take(np.array([0]), now=int(one.times[len(one.times) // 2]))
    when = Moments.of(one, tuple(model.window_), 4, model.power)
    heard = model.item_vectors_[one.items].astype(np.float64)
    worth = heard[:, 0] + heard[np.arange(len(heard)), 2 + f + when.bins]
    dev, asked = when.deviations / model.unit_, float(when.asked_deviations[0] / model.unit_)
    z = implicit_sums(one.offsets, one.items, model.implicit_)[0].astype(np.float64)
    q = heard[:, 2 : 2 + f]
    same = (when.days[:, None] == np.unique(when.days)).astype(np.float64)
    columns = [np.ones((len(q), 1)), q, dev[:, None], worth[:, None], *([q * dev[:, None]] if drifting else [])]
    design = np.hstack([*columns, same, same * worth[:, None]])
    n, days = len(q), same.shape[1]
    once = [model.reg_drift] * (2 + f * drifting) + [model.reg_day] * (2 * days)
    penalty = 0.8 * np.array([n * model.reg_bias, *[n * model.reg] * f, *once])
    targets = one.values - model.mean_ - worth - q @ z
    x = np.linalg.solve(design.T @ design + np.diag(penalty), design.T @ targets)
    today = int(np.flatnonzero(np.unique(when.days) == when.asked_days[0])[0])
    c = 1 + x[2 + f] + x[-days + today]
    offset = model.mean_ + x[0] + x[1 + f] * asked + x[len(x) - 2 * days + today]
    vector = z + x[1 : 1 + f] + (x[3 + f : 3 + 2 * f] * asked if drifting else 0)
    wanted = np.concatenate([[c, offset], vector, np.zeros(4)])
    wanted[2 + f + when.asked_bins[0]] = c
    np.testing.assert_allclose(model.encode(one)[0], wanted, rtol=1e-3, atol=1e-3)


def planted() -> tuple[Dataset, pl.DataFrame]:
    """Users who grow milder or stricter over 300 days, items that change their worth half-way; a tenth held out."""
    rng = np.random.default_rng(0)
    users, items = 120, 60
    user, item = np.nonzero(rng.random((users, items)) < 0.6)
    time = rng.integers(0, 300, len(user)) * DAY + rng.integers(0, DAY, len(user))
    slope, late = rng.standard_normal(users), 0.6 * rng.standard_normal(items)
    fixed = 0.4 * rng.standard_normal(users)[user] + 0.4 * rng.standard_normal(items)[item]
    value = 3 + fixed + slope[user] * (time / DAY / 150 - 1) + np.where(time < 150 * DAY, 1, -1) * late[item]
    value = value + 0.1 * rng.standard_normal(len(user))
    log = pl.DataFrame({"user": user, "item": item, "value": value.astype(np.float32), "time": time + 10_000 * DAY})
    held = rng.random(len(log)) < 0.1
    return Dataset.build(log.filter(pl.Series(~held))), log.filter(pl.Series(held))


PLAIN: dict[str, Any] = {"factors": 2, "epochs": 60, "reg": 0.05, "reg_bias": 0.01}


def test_a_planted_drift_is_found_that_svdpp_cannot_see() -> None:
    data, held = planted()
    truth = held["value"].to_numpy()
    blind = SVDpp(**PLAIN).fit(data).predict(held["user"], held["item"], times=held["time"])
    model = TimeSVDpp(**PLAIN, bins=2, power=1.0, reg_bin=0.5, reg_drift=0.5).fit(data)
    found = model.predict(held["user"], held["item"], times=held["time"])
    assert rmse(truth, blind) > 0.7
    assert rmse(truth, found) < 0.25
    early, late = (
        model.predict(held["user"], held["item"], times=np.full(len(held), t * DAY)) for t in (10_010, 10_290)
    )
    change = np.abs(late - early).mean()
    assert change > 0.5
    end = model.predict(held["user"], held["item"])  # for the end of the log
    assert np.abs(end - late).mean() < 0.1 * change


def test_what_is_drifting_in_the_factors() -> None:
    """Tastes that turn round in time: the product of user and item changes its sign."""
    rng = np.random.default_rng(3)
    users, items = 100, 60
    user, item = np.nonzero(rng.random((users, items)) < 0.7)
    side = (rng.standard_normal(users) > 0) * 2.0 - 1, (rng.standard_normal(items) > 0) * 2.0 - 1
    time = rng.integers(0, 200, len(user)) * DAY
    value = 3 + side[0][user] * side[1][item] * (1 - time / DAY / 100) + 0.1 * rng.standard_normal(len(user))
    log = pl.DataFrame({"user": user, "item": item, "value": value.astype(np.float32), "time": time + DAY})
    held = rng.random(len(log)) < 0.1
    test, data = log.filter(pl.Series(held)), Dataset.build(log.filter(pl.Series(~held)))
    errors = []
    for drifting in (False, True):
        model = TimeSVDpp(**PLAIN, power=1.0, reg_drift=0.5, factor_drift=drifting).fit(data)
        errors.append(rmse(test["value"].to_numpy(), model.predict(test["user"], test["item"], times=test["time"])))
    assert errors[1] < 0.3 < 0.5 < errors[0]


def test_moments() -> None:
    times = np.array([10, 10, 14, 3, 0]) * DAY
    histories = Histories.of(np.array([0, 3, 3, 4, 5]), np.zeros(5), times=times, now=np.array([20, 0, 1, 0]) * DAY)
    when = Moments.of(histories, (3 * DAY, 14 * DAY), 4, 0.5)
    assert when.bins.tolist() == [2, 2, 3, 0, 3]
    assert when.asked_bins.tolist() == [3, 3, 0, 3]
    middle = 34 / 3
    np.testing.assert_allclose(when.deviations[:3], [-((middle - 10) ** 0.5)] * 2 + [(14 - middle) ** 0.5], rtol=1e-5)
    assert when.starts.tolist() == [0, 2, 3, 4, 5]
    assert when.asked_days[0] == 20
    np.testing.assert_allclose(when.asked_deviations, [(14 - middle) ** 0.5, 0, 0, 0], rtol=1e-5)
    none = Moments.of(histories.take(np.array([], dtype=np.int64)), (0, 0), 4, 0.4)
    assert len(none.asked_bins) == len(none.bins) == 0


def test_times_of_pairs(tmp_path: Any) -> None:
    data, held = planted()
    model = TimeSVDpp(factors=2, epochs=3).fit(data)
    held = held.head(50)
    moments = held["time"].cast(pl.Datetime("us"))
    found = model.predict(held["user"], held["item"], times=held["time"])
    np.testing.assert_array_equal(model.predict(held["user"], held["item"], times=moments), found)
    model.save(tmp_path / "m")
    np.testing.assert_array_equal(load(tmp_path / "m").predict(held["user"], held["item"], times=moments), found)
    for place in (0, 20, 49):
        row = data.histories.take(
            data.user_ids.encode(held["user"][[place]]), now=held["time"][place] // DAY * DAY + DAY // 2
        )
        alone = model.predict([0], held["item"][[place]], histories=row)
        np.testing.assert_allclose(alone, found[place], rtol=1e-4)
    stranger = model.predict(["?"], held["item"][[0]], times=held["time"][[0]])
    assert np.isfinite(stranger).all()
    with pytest.raises(DataError, match="times do not pair up"):
        model.predict(held["user"], held["item"], times=held["time"][:3])


def test_a_log_without_times() -> None:
    data, held = planted()
    data = Dataset.build(data.events.select("user", "item", "value"))
    errors = []
    for model in (TimeSVDpp(**PLAIN, scaling=False, day_bias=False), SVDpp(**PLAIN)):
        found = model.fit(data, Run(threads=1)).predict(held["user"], held["item"], times=held["time"])
        errors.append(rmse(held["value"].to_numpy(), found))
    assert errors[0] == pytest.approx(errors[1], abs=0.05)
