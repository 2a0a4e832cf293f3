"""Results of experiments: under no difference p-values are uniform and alarms are rare, and a difference is found."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from zhiyin.api.experiment_settings import ExperimentSettings
from zhiyin.pipeline.experiment_log import ExperimentLog, unit_sums
from zhiyin.pipeline.experiment_results import (
    ExperimentResults,
    breached_guardrails,
    drawn_weights,
    experiment_results,
    judged,
    next_look,
)
from zhiyin.pipeline.experiment_state import ExperimentState, ExperimentVersion, Stop
from zhiyin.policies.experiments.arm_statistics import Sample
from zhiyin.policies.experiments.comparisons import welch
from zhiyin.store.experiment_export import EVENT_FRAME, LIST_FRAME
from zhiyin.store.records import Event
from zhiyin.store.sqlalchemy_import import sa
from zhiyin.store.store import Store
from zhiyin.store.tables import DECISIONS, OPEN_DECISIONS
from zhiyin.store.traces import Trace

BEGAN = 1_700_000_000_000_000
MINUTE = 60_000_000
ARMS: dict[str, Any] = {"control": {}, "b": {"placement": "other"}}
NO_COVARIATES = pl.DataFrame(schema={"unit": pl.String})


def version(state: ExperimentState | None = None, **settings: Any) -> ExperimentVersion:
    parsed = ExperimentSettings(**{"arms": ARMS, "metrics": {"clicks": {"events": {"click": 1}}}} | settings)
    return ExperimentVersion("x", parsed, state or ExperimentState(BEGAN))


def frames(
    arms: list[str], clicks: list[int], users: list[str] | None = None, **mark: Any
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A list of two items for each arm, a minute apart, with so many clicks."""
    n = len(arms)
    assignments = [json.dumps({"x": {"arm": arm, "p": 0.5, "began": BEGAN, **mark}, "y": {"arm": "z"}}) for arm in arms]
    lists = pl.DataFrame({
        "list_id": [f"l{i}" for i in range(n)], "user": users or [f"u{i}" for i in range(n)],
        "time": [BEGAN + i * MINUTE for i in range(n)], "assignments": assignments,
        "items": ['["i1","i2"]'] * n, "teams": [None] * n, "rewards": [None] * n,
    }, schema=LIST_FRAME)  # fmt: skip
    rows = [
        (f"l{i}", lists["user"][i], "i1", "click", None, BEGAN + i * MINUTE + 1)
        for i, count in enumerate(clicks)
        for _ in range(count)
    ]
    return lists, pl.DataFrame(rows, schema=EVENT_FRAME, orient="row")


def results_of(
    one: ExperimentVersion, units: pl.DataFrame, covariates: pl.DataFrame = NO_COVARIATES
) -> ExperimentResults:
    return experiment_results(one, units, covariates, BEGAN)


def units_of(arms: np.ndarray, clicks: np.ndarray, lists: np.ndarray | int = 1, **others: Any) -> pl.DataFrame:
    n = len(arms)
    return pl.DataFrame({
        "unit": [f"u{i}" for i in range(n)], "arm": np.array(["control", "b"])[arms], "epoch": 0, "segment": 0,
        "p": 0.5, "items": np.full(n, 2), "lists": np.zeros(n, np.int64) + lists,
        "metric.clicks": clicks.astype(float), "won": 0.0,
    } | others)  # fmt: skip


def test_each_list_counts_for_its_unit_and_arm_with_the_events_within_its_window() -> None:
    one = version(
        metrics={"clicks": {"events": {"click": 2, "buy": "value"}}, "rate": {"events": {"click": 1}, "per": "list"}}
    )
    lists, events = frames(["control", "b", "b", "b"], [1, 0, 2, 1], ["u1", "u2", "u2", "u3"])
    late = pl.DataFrame([
        ("l0", "u1", "i1", "click", None, BEGAN + 10 * MINUTE + 1), ("l0", "u1", "i1", "buy", 7.5, BEGAN + 10 * MINUTE),
        ("other", "u1", "i1", "click", None, BEGAN), ("l0", "u2", "i1", "buy", 100.0, BEGAN + 1),
    ], schema=EVENT_FRAME, orient="row")  # fmt: skip
    sums = unit_sums(lists, pl.concat([events, late]), "x", one.settings, BEGAN, [BEGAN + 3 * MINUTE])
    rows = {(row["unit"], row["arm"], row["segment"]): row for row in sums.iter_rows(named=True)}
    assert {key: row["metric.clicks"] for key, row in rows.items()} == {
        ("u1", "control", 0): 9.5, ("u2", "b", 0): 4.0, ("u3", "b", 1): 2.0,
    }  # fmt: skip
    assert rows["u2", "b", 0]["lists"] == 2
    assert rows["u2", "b", 0]["items"] == 4
    assert rows["u2", "b", 0]["metric.rate"] == 2
    assert not len(unit_sums(lists, events, "x", one.settings, BEGAN + 1, []))  # of an earlier design


def test_under_no_difference_p_values_are_uniform_and_numbers_of_units_alarm_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    one = version(metrics={"clicks": {"events": {"click": 1}}, "rate": {"events": {"click": 1}, "per": "list"}})
    welch_p, ratio_p, alarms = [], [], 0
    for _ in range(150):
        arms = rng.integers(0, 2, 400)
        lists = rng.integers(1, 4, 400)
        clicks = rng.binomial(lists, 0.3)
        units = units_of(arms, clicks, lists).with_columns(pl.col("metric.clicks").alias("metric.rate"))
        results = results_of(one, units)
        welch_p.append(results.comparisons[0].fixed.p_value)
        ratio_p.append(results.comparisons[1].fixed.p_value)
        alarms += results.sample_ratio_p_value < 0.05
    assert stats.kstest(welch_p, "uniform").pvalue > 0.001
    assert stats.kstest(ratio_p, "uniform").pvalue > 0.001
    assert stats.binomtest(alarms, 150, 0.05).pvalue > 0.001


def test_who_looks_a_hundred_times_is_alarmed_too_often_by_the_naive_test_and_not_by_ours() -> None:
    rng = np.random.default_rng(6)
    one = version(planned_units=10_000)
    naive = ours = 0
    n_experiments, looks, step = 60, 100, 100
    for _ in range(n_experiments):
        values = rng.binomial(3, 0.2, (2, looks * step // 2)).astype(float)
        alarmed = [False, False]
        for look in range(2, looks + 1):
            n = look * step // 2
            samples = [Sample.of(part[:n]) for part in values]
            found = judged(one.settings, "clicks", "b", welch(*samples), [n, n], 10 * n)
            alarmed[0] |= found.fixed.p_value < 0.05
            alarmed[1] |= found.verdict != "open"
        naive += alarmed[0]
        ours += alarmed[1]
    assert naive / n_experiments >= 0.3
    assert ours / n_experiments <= 0.05


def test_broken_assignment_is_an_alarm_and_stops_nothing() -> None:
    rng = np.random.default_rng(1)
    one = version(guardrails=[{"metric": "clicks"}])
    arms = (rng.random(4_000) < 0.4).astype(int)
    results = results_of(one, units_of(arms, rng.random(4_000) < np.where(arms == 1, 0.1, 0.5)))
    assert not results.sample_ratio_ok
    assert results.comparisons[0].verdict == "worse"
    assert breached_guardrails(one, results) == {}


@pytest.mark.parametrize(("better", "margin", "stops"), [
    ("higher", 0.1, True), ("higher", 0.9, False), ("lower", 0.0, False),
])  # fmt: skip
def test_a_guardrail_stops_what_is_surely_worse_than_its_margin(better: str, margin: float, stops: bool) -> None:
    rng = np.random.default_rng(2)
    metrics = {"clicks": {"events": {"click": 1}, "better": better}}
    one = version(metrics=metrics, guardrails=[{"metric": "clicks", "margin": margin}], planned_units=2_000)
    arms = rng.integers(0, 2, 2_000)
    results = results_of(one, units_of(arms, rng.random(2_000) < np.where(arms == 1, 0.2, 0.4)))
    assert results.sample_ratio_ok
    assert (breached_guardrails(one, results) != {}) is stops
    stopped = version(ExperimentState(BEGAN, {"b": Stop(BEGAN, "")}), guardrails=[{"metric": "clicks"}])
    assert breached_guardrails(stopped, results) == {}


def test_few_units_decide_nothing() -> None:
    one = version(guardrails=[{"metric": "clicks"}])
    arms = np.arange(60) % 2
    results = results_of(one, units_of(arms, arms == 0))
    assert not results.comparisons[0].enough
    assert results.comparisons[0].verdict == "open"
    assert breached_guardrails(one, results) == {}
    assert results_of(one, units_of(arms[:1], arms[:1])).comparisons == []


def test_what_users_did_before_narrows_the_interval() -> None:
    rng = np.random.default_rng(3)
    one = version(metrics={"clicks": {"events": {"click": 1}, "cuped": True}})
    before = rng.gamma(2, 2, 1_000)
    arms = rng.integers(0, 2, 1_000)
    units = units_of(arms, before + rng.normal(0, 0.5, 1_000) + 0.3 * arms)
    covariates = pl.DataFrame({"unit": units["unit"], "metric.clicks": before})
    plain, narrowed = (results_of(one, units, part).comparisons[0].fixed for part in (NO_COVARIATES, covariates))
    assert narrowed.method == "cuped"
    assert narrowed.low <= 0.3 <= narrowed.high
    assert narrowed.standard_error < 0.3 * plain.standard_error


def test_units_of_a_stopped_arm_count_until_then() -> None:
    stop = BEGAN + 500 * MINUTE
    one = version(ExperimentState(BEGAN, {"b": Stop(stop, "bad")}))
    arms = ["control", "b"] * 500
    clicks = [int(i >= 500) for i in range(1_000)]
    lists, events = frames(arms, clicks)
    results = results_of(one, unit_sums(lists, events, "x", one.settings, BEGAN, [stop]))
    assert results.comparisons[0].fixed.control == 0.0
    assert [arm.units for arm in results.arms] == [500, 500]  # the assignment goes on
    assert results.arms[1].stopped == "bad"


def test_weights_drawn_again_leave_the_estimate_right() -> None:
    """An arm that gets ever more of the traffic while the click rate rises: plain means are wrong, ours is not."""
    rng = np.random.default_rng(4)
    one = version(allocation="thompson")
    parts = []
    for epoch, (p, rate) in enumerate([(0.2, 0.1), (0.5, 0.3), (0.8, 0.5)]):
        arms = (rng.random(4_000) < p).astype(int)
        units = units_of(arms, rng.random(4_000) < rate)
        parts.append(units.with_columns(epoch=pl.lit(epoch), p=pl.Series(np.where(arms == 1, p, 1 - p))))
    units = pl.concat([part.with_columns(pl.col("epoch").cast(pl.Int64)) for part in parts])
    means = units.group_by("arm").agg(pl.col("metric.clicks").mean()).sort("arm")["metric.clicks"].to_list()
    results = results_of(one, units)
    (comparison,) = results.comparisons
    assert abs(means[0] - means[1]) > 0.1
    assert abs(comparison.fixed.estimate) < 4 * comparison.fixed.standard_error < 0.06
    assert comparison.fixed.control == pytest.approx(0.3, abs=0.03)
    assert results.sample_ratio_ok


def test_the_better_arm_is_drawn_more_and_none_less_than_the_floor() -> None:
    rng = np.random.default_rng(7)
    arms = rng.integers(0, 2, 2_000)
    results = results_of(one := version(allocation="thompson", floor=0.1),
                         units_of(arms, rng.random(2_000) < np.where(arms == 1, 0.3, 0.4)))  # fmt: skip
    weights = drawn_weights(one, results, np.random.default_rng(0))
    assert weights is not None
    assert weights["b"] == pytest.approx(0.1, abs=0.01)
    assert sum(weights.values()) == pytest.approx(1.0)
    again = drawn_weights(one, results, np.random.default_rng(0))
    assert again == weights


def test_planned_looks_come_at_their_units_with_their_bounds() -> None:
    rng = np.random.default_rng(8)
    one = version(looks=2, planned_units=800)
    arms = rng.integers(0, 2, 800)
    clicks = rng.random(800) < np.where(arms == 1, 0.5, 0.1)
    assert next_look(one, results_of(one, units_of(arms[:399], clicks[:399])), 9) is None
    look = next_look(one, results_of(one, units_of(arms[:400], clicks[:400])), 9)
    assert look is not None
    assert (look["look"], look["units"]) == (1, 400)
    assert look["bound"] == pytest.approx(1.977 * 2**0.5, abs=0.01)
    assert look["arms"][0]["crossed"]
    after = version(ExperimentState(BEGAN, looks=(look,)), looks=2, planned_units=800)
    assert next_look(after, results_of(after, units_of(arms[:799], clicks[:799])), 9) is None
    second = next_look(after, results_of(after, units_of(arms, clicks)), 9)
    assert second is not None
    assert second["bound"] < look["bound"]


def test_the_log_reads_each_closed_list_once_and_nothing_of_who_was_forgotten(store: Store) -> None:
    one = version(metrics={"clicks": {"events": {"click": 1}, "cuped": True}})
    began = store.clock()
    one = ExperimentVersion("x", one.settings, ExperimentState(began))

    def add(user: str, arm: str, time: int) -> None:
        head = {"items": ["i1"], "assignments": {"x": {"arm": arm, "p": 0.5, "began": began}}}
        store.append_traces([Trace(f"l-{user}-{time}", user, time, 1, "default", head)])
        store.append([Event(user, "i1", time, "click", list_id=f"l-{user}-{time}")])

    store.append([Event("u1", "i1", began - 1_000, "click"), Event("u1", "i1", began - 30 * 86_400_000_000, "click")])
    add("u1", "control", began + 1)
    add("u2", "b", began + 2)
    log = ExperimentLog(store)
    log.update(one, began + 5 * MINUTE)
    assert len(log.units) == 0  # the windows are open
    log.update(one, began + 11 * MINUTE)
    assert dict(zip(log.units["unit"], log.units["metric.clicks"])) == {"u1": 1.0, "u2": 1.0}
    assert log.covariates.rows() == [("u1", 1.0)]
    add("u1", "control", began + 12 * MINUTE)
    log.update(one, began + 30 * MINUTE)
    log.update(one, began + 31 * MINUTE)
    assert log.units.filter(pl.col("unit") == "u1")["lists"].to_list() == [2]
    whole = ExperimentLog(store).update(one, began + 31 * MINUTE)
    assert whole.units.sort("unit").equals(log.units.sort("unit"))
    store.forget("u1")
    log.update(one, began + 31 * MINUTE)
    assert log.units["unit"].to_list() == ["u2"]
    assert len(log.covariates) == 0


def test_lists_that_a_policy_decided_count_by_what_it_learns_once_their_decision_is_closed(store: Store) -> None:
    metrics = {"reward": {"events": {"click": 1}, "policy_rewards": True}, "clicks": {"events": {"click": 1}}}
    began = store.clock()
    one = ExperimentVersion("x", version(metrics=metrics).settings, ExperimentState(began))
    for n, user in enumerate(("closed", "open", "none")):
        head: dict[str, Any] = {"items": ["i1"], "assignments": {"x": {"arm": "b", "p": 0.5, "began": began}}}
        store.append_traces([Trace(f"l{n}", user, began + n + 1, 1, "other", head)])
        store.append([Event(user, "i1", began + n + 1, "click", list_id=f"l{n}")])
    row = {"list_id": "l0", "placement": "other", "time": began + 1}
    closed = row | {"version": 1, "mode": "online", "rewards": "[2.5, null, 0.5]", "n_events": 1, "late": 0,
                    "deadline": began, "closed": began, "events_seq": 1, "rewards_seq": 0}  # fmt: skip
    with store.writing() as connection:
        connection.execute(sa.insert(DECISIONS), [closed])
        connection.execute(sa.insert(OPEN_DECISIONS), [row | {"list_id": "l1", "time": began + 2}])
    log = ExperimentLog(store).update(one, began + 11 * MINUTE)
    assert log.units.select("unit", "metric.reward", "metric.clicks").rows() == [("closed", 3.0, 1.0)]
    with store.writing() as connection:
        connection.execute(sa.delete(OPEN_DECISIONS))
    log.update(one, began + 11 * MINUTE)
    assert dict(zip(log.units["unit"], log.units["metric.reward"])) == {"closed": 3.0, "open": 1.0, "none": 1.0}


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Any) -> Any:
    if request.param == "postgres":
        from tests.conftest import own_schema

        opened = Store(own_schema(request.getfixturevalue("postgres")))
    else:
        opened = Store(tmp_path / "shop.db")
    yield opened
    opened.close()
