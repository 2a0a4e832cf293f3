"""What an experiment has shown so far: arms, differences to the control with intervals, and whether the log is sound.

Made of the sums of units that `ExperimentLog` keeps. Every difference has two intervals: one for a number of units that
was fixed beforehand, and one that holds however often somebody looks.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from zhiyin.api.experiment_settings import ExperimentSettings, MetricSettings
from zhiyin.pipeline.experiment_log import metric_column
from zhiyin.pipeline.experiment_state import ExperimentVersion
from zhiyin.policies.experiments.arm_statistics import Sample
from zhiyin.policies.experiments.comparisons import (
    Difference,
    always_valid,
    cuped,
    difference_of_ratios,
    ratio,
    sample_ratio_p_value,
    welch,
)
from zhiyin.policies.experiments.group_sequential import obrien_fleming, pocock
from zhiyin.policies.experiments.interleaving import Preference, preference_of_credits

# Below this p-value of the numbers of units the assignment or the log is broken.
SAMPLE_RATIO_ALARM = 0.001
# Units of each arm, and units of both with anything of the metric, from which the normal approximation is trusted.
MIN_UNITS, MIN_ACTIVE_UNITS = 100, 20


@dataclasses.dataclass(frozen=True)
class ArmSummary:
    """An arm. units: that were assigned to it; lists, items: that they got. weight: probability of the arm now."""

    name: str
    units: int
    lists: int
    items: int
    weight: float
    stopped: str | None


@dataclasses.dataclass(frozen=True)
class MetricComparison:
    """A metric of an arm, against the control.

    Parameters
    ----------
    fixed: the difference at a number of units fixed beforehand. anytime: with an interval that holds at any time.
    enough: whether there are units enough for the normal approximation.
    verdict: "better", "worse" or "open", by the interval that holds at any time.
    """

    metric: str
    arm: str
    fixed: Difference
    anytime: Difference
    enough: bool
    verdict: str


@dataclasses.dataclass(frozen=True)
class InterleavingSummary:
    """Which of two placements the clicks of units prefer.

    Parameters
    ----------
    first, second: names of the placements.
    preference: of the units, by whose items their events credit.
    """

    first: str
    second: str
    preference: Preference


@dataclasses.dataclass(frozen=True)
class ExperimentResults:
    """See the module.

    Parameters
    ----------
    sample_ratio_p_value: of the numbers of units in the arms; below SAMPLE_RATIO_ALARM nothing else means anything.
    until: lists up to this time are counted, microseconds UTC.
    """

    name: str
    kind: str
    control: str
    started: int
    until: int
    arms: list[ArmSummary]
    sample_ratio_p_value: float
    comparisons: list[MetricComparison]
    interleaving: InterleavingSummary | None = None
    looks: Sequence[Any] = ()

    @property
    def sample_ratio_ok(self) -> bool:
        return self.sample_ratio_p_value >= SAMPLE_RATIO_ALARM

    def to_dict(self) -> dict[str, Any]:
        """As JSON; lift is the difference as a share of the control."""
        result: dict[str, Any] = dataclasses.asdict(self) | {"sample_ratio_ok": self.sample_ratio_ok}
        for row, comparison in zip(result["comparisons"], self.comparisons):
            row["lift"] = comparison.fixed.lift
        return dict(_json_numbers(result))


def experiment_results(
    version: ExperimentVersion, units: pl.DataFrame, covariates: pl.DataFrame, until: int
) -> ExperimentResults:
    """The results of the sums of units.

    Parameters
    ----------
    units, covariates, until: of an `ExperimentLog`.
    """
    settings, state = version.settings, version.state
    probabilities = version.assignment.probabilities
    interleaved = settings.kind == "interleaving"
    totals = units.group_by("arm").agg(pl.col("unit").n_unique(), pl.col("lists", "items").sum())
    by_arm = {row["arm"]: row for row in totals.iter_rows(named=True)}
    nothing = {"unit": 0, "lists": 0, "items": 0}
    arms = []
    for name in ("interleaved",) if interleaved else settings.arms:
        row = by_arm.get(name, nothing)
        stop = state.stopped.get(name)
        arms.append(ArmSummary(name, row["unit"], row["lists"], row["items"], probabilities.get(name, 1.0),
                               None if stop is None else stop.reason))  # fmt: skip
    common: dict[str, Any] = {
        "name": version.name, "kind": settings.kind, "control": settings.control, "started": state.started,
        "until": until, "arms": arms, "looks": state.looks,
    }  # fmt: skip
    if interleaved:
        return ExperimentResults(
            **common, sample_ratio_p_value=1.0, comparisons=[], interleaving=_interleaving(settings, units)
        )
    comparisons = []
    for arm in list(settings.arms)[1:]:
        pair = _comparable(version, units, arm)
        for name, metric in settings.metrics.items():
            comparison = compare_arms(settings, pair, covariates, arm, name, metric)
            if comparison is not None:
                comparisons.append(comparison)
    return ExperimentResults(
        **common, sample_ratio_p_value=_sample_ratio(units, probabilities), comparisons=comparisons
    )


def compare_arms(
    settings: ExperimentSettings,
    units: pl.DataFrame,
    covariates: pl.DataFrame,
    arm: str,
    name: str,
    metric: MetricSettings,
) -> MetricComparison | None:
    """One metric of an arm against the control; None where there are too few units.

    Parameters
    ----------
    units: of both arms, from lists at which both were served.
    """
    column = metric_column(name)
    per = {"unit": pl.lit(1.0), "list": pl.col("lists").cast(pl.Float64), "item": pl.col("items").cast(pl.Float64)}
    rows = units.select("unit", "arm", "epoch", "p", pl.col(column).alias("y"), per[metric.per].alias("x"))
    if settings.allocation == "thompson":
        parts = _weighted(rows, settings.control, arm)
        counts = [int((part[1] > 0).sum()) for part in parts]
        if min(counts) < 2:
            return None
        active = sum(int(((x > 0) & (y != 0)).sum()) for y, x in parts)
        fixed = difference_of_ratios(*parts[0], *parts[1], settings.level)
    else:
        both = [rows.filter(pl.col("arm") == one) for one in (settings.control, arm)]
        counts = [len(part) for part in both]
        if min(counts) < 2:
            return None
        active = sum(int((part["y"] != 0).sum()) for part in both)
        if metric.per != "unit":
            if not all(part["x"].sum() for part in both):
                return None
            samples = [Sample.of(part["y"].to_numpy(), part["x"].to_numpy()) for part in both]
            fixed = ratio(samples[0], samples[1], settings.level)
        elif metric.cuped and column in covariates.columns:
            joined = [part.join(covariates.select("unit", before=column), on="unit", how="left") for part in both]
            samples = [Sample.of(part["y"].to_numpy(), part["before"].fill_null(0.0).to_numpy()) for part in joined]
            fixed = cuped(samples[0], samples[1], settings.level)
        else:
            samples = [Sample.of(part["y"].to_numpy()) for part in both]
            fixed = welch(samples[0], samples[1], settings.level)
    return judged(settings, name, arm, fixed, counts, active)


def judged(
    settings: ExperimentSettings, name: str, arm: str, fixed: Difference, counts: Sequence[int], active: int
) -> MetricComparison:
    """A difference of a metric with the interval that holds at any time, and the verdict by it.

    Parameters
    ----------
    counts: units of the control and of the arm. active: units of both with anything of the metric.
    """
    sizes = [Sample(count, 0.0, 0.0) for count in counts]
    anytime = always_valid(fixed, sizes[0], sizes[1], settings.planned_units)
    enough = min(counts) >= MIN_UNITS and active >= MIN_ACTIVE_UNITS
    sign = 1 if settings.metrics[name].better == "higher" else -1
    verdict = "open"
    if enough and (anytime.low > 0 or anytime.high < 0):
        verdict = "better" if sign * anytime.estimate > 0 else "worse"
    return MetricComparison(name, arm, fixed, anytime, enough, verdict)


def breached_guardrails(version: ExperimentVersion, results: ExperimentResults) -> dict[str, str]:
    """Arms that are surely worse than a guardrail allows, with the reason; by the intervals that hold at any time."""
    reasons: dict[str, str] = {}
    if not results.sample_ratio_ok:
        return reasons
    for rail in version.settings.guardrails:
        sign = 1 if version.settings.metrics[rail.metric].better == "higher" else -1
        for one in results.comparisons:
            if one.metric != rail.metric or one.arm in version.state.stopped or not one.enough:
                continue
            best = one.anytime.high if sign > 0 else -one.anytime.low
            if best < -rail.margin * abs(one.anytime.control):
                reasons.setdefault(one.arm, (
                    f"guardrail {rail.metric}: {one.anytime.treatment:.4g} against {one.anytime.control:.4g} of "
                    f"{results.control}, difference {one.anytime.low:.4g} to {one.anytime.high:.4g}"
                ))  # fmt: skip
    return reasons


def drawn_weights(
    version: ExperimentVersion, results: ExperimentResults, rng: np.random.Generator, draws: int = 10_000
) -> dict[str, float] | None:
    """Weights of the arms by Thompson sampling: the share of draws in which an arm is the best, at least the floor.

    The first metric decides; its arms are normal with the estimates' errors. Arms that were stopped keep the floor,
    since their units get the control's lists. None while there are too few units.
    """
    settings = version.settings
    name, metric = next(iter(settings.metrics.items()))
    rows = [one for one in results.comparisons if one.metric == name]
    if len(rows) < len(settings.arms) - 1 or not all(one.enough for one in rows):
        return None
    sign = 1 if metric.better == "higher" else -1
    # The control's draw is 0: the differences to it decide which arm is the best.
    drawn = np.zeros((draws, len(settings.arms)))
    names = list(settings.arms)
    for one in rows:
        column = names.index(one.arm)
        drawn[:, column] = sign * (one.fixed.estimate + one.fixed.standard_error * rng.standard_normal(draws))
        if one.arm in version.state.stopped:
            drawn[:, column] = -math.inf
    shares = np.bincount(drawn.argmax(axis=1), minlength=len(names)) / draws
    floor = min(settings.floor, 1 / len(names))
    weights = floor + (1 - floor * len(names)) * shares
    return dict(zip(names, weights.round(6).tolist()))


def next_look(version: ExperimentVersion, results: ExperimentResults, now: int) -> dict[str, Any] | None:
    """The result at the next planned look, where its units are there; None before, and after the last look.

    It is crossed where |z| of an arm exceeds the bound of the look.
    """
    settings, looks = version.settings, version.state.looks
    units = sum(arm.units for arm in results.arms)
    number = len(looks) + 1
    if not settings.looks or number > settings.looks or units < settings.planned_units * number / settings.looks:
        return None
    bound = _bounds(settings.boundary, settings.looks, 1 - settings.level)[number - 1]
    name = next(iter(settings.metrics))
    rows = []
    for one in results.comparisons:
        if one.metric != name:
            continue
        fixed = one.fixed
        z = fixed.estimate / fixed.standard_error if fixed.standard_error else 0.0
        low, high = (fixed.estimate + side * bound * fixed.standard_error for side in (-1, 1))
        rows.append({"arm": one.arm, "estimate": fixed.estimate, "low": low, "high": high, "z": z,
                     "crossed": abs(z) > bound})  # fmt: skip
    look = {"look": number, "of": settings.looks, "time": now, "units": units, "metric": name, "bound": bound}
    return dict(_json_numbers(look | {"arms": rows}))


@functools.lru_cache(maxsize=100)
def _bounds(boundary: str, looks: int, alpha: float) -> list[float]:
    """The bound of |z| at each look; solving for them takes seconds."""
    solve = obrien_fleming if boundary == "obrien_fleming" else pocock
    return [float(bound) for bound in solve(looks, alpha)]


def _comparable(version: ExperimentVersion, units: pl.DataFrame, arm: str) -> pl.DataFrame:
    """Sums of the control and an arm by unit and epoch, from the time before the arm was stopped."""
    stops = sorted(stop.time for stop in version.state.stopped.values())
    stop = version.state.stopped.get(arm)
    pair = units.filter(pl.col("arm").is_in([version.settings.control, arm]))
    if stop is not None:
        pair = pair.filter(pl.col("segment") <= stops.index(stop.time))
    sums = [name for name in units.columns if name not in ("unit", "arm", "epoch", "segment", "p")]
    grouped = pair.group_by("unit", "arm", "epoch", maintain_order=True)
    return grouped.agg(pl.col("p").first(), pl.col(sums).sum())


def _weighted(rows: pl.DataFrame, control: str, arm: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of the control and an arm (y, x) of every unit, weighted by the inverse of the assignment's probability."""
    weighted = rows.with_columns(pl.col("y") / pl.col("p"), pl.col("x") / pl.col("p"))
    sums = [
        pl.col(name).filter(pl.col("arm") == one).sum().alias(f"{name}{n}")
        for n, one in enumerate((control, arm))
        for name in ("y", "x")
    ]
    frame = weighted.group_by("unit", maintain_order=True).agg(sums)
    return [(frame[f"y{n}"].to_numpy(), frame[f"x{n}"].to_numpy()) for n in range(2)]


def _sample_ratio(units: pl.DataFrame, probabilities: dict[str, float]) -> float:
    """P-value of the numbers of units in the arms; over all epochs of the assignment, each with its probabilities."""
    counts = units.group_by("epoch", "arm").agg(pl.col("unit").n_unique(), pl.col("p").first())
    statistic, freedom, p_value = 0.0, 0, 1.0
    for _, group in counts.group_by("epoch"):
        known = dict(zip(group["arm"], group["p"]))
        numbers = dict(zip(group["arm"], group["unit"]))
        shares = [known.get(name, share) for name, share in probabilities.items()]
        observed = [numbers.get(name, 0) for name in probabilities]
        p_value = sample_ratio_p_value(observed, shares)
        expected = np.array(shares) / sum(shares) * sum(observed)
        statistic += float(((np.array(observed) - expected) ** 2 / expected).sum())
        freedom += len(shares) - 1
    if freedom == len(probabilities) - 1:
        return p_value
    return float(stats.chi2.sf(statistic, freedom)) if freedom else 1.0


def _interleaving(settings: ExperimentSettings, units: pl.DataFrame) -> InterleavingSummary:
    first, second = (arm.placement or settings.placement for arm in settings.arms.values())
    won = units.group_by("unit").agg(pl.col("won").sum())["won"].to_numpy()
    return InterleavingSummary(first, second, preference_of_credits(won, settings.level))


def _json_numbers(value: Any) -> Any:
    """The value with None in place of NaN and infinities, and plain numbers."""
    if isinstance(value, dict):
        return {key: _json_numbers(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_json_numbers(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
