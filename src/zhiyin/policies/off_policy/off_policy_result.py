"""What an off-policy evaluation answers: estimates with intervals, diagnostics, and a refusal where there is none."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import polars as pl

from zhiyin.core.errors import ConfigError, suggest
from zhiyin.core.html_table import html_table
from zhiyin.policies.off_policy.refusal import Refusal
from zhiyin.policies.off_policy.support import Support


@dataclass(frozen=True)
class Estimate:
    """One estimator's answer.

    Parameters
    ----------
    estimator, title: its name in calls and in tables.
    value: the estimated reward per decision of the target policy.
    low, high: the interval, which always contains `value`.
    interval: the method of the interval.
    limit: the weight limit that was used, or tuned by SLOPE; None where the estimator has none.
    standard_error: of the value, by the delta method; too small on rare rewards.
    covers_bias: whether the interval covers the target's value; False where it covers the estimator's expectation only,
        which clipping or an error of the reward model keeps apart from the target's value.
    difference, difference_low, difference_high: the value minus the log's own mean reward, which is what the logging
        policy earned on the same rows, and the interval of that difference. It is narrower than two intervals side by
        side, and 0 to 0 where the target decides as the log did.
    difference_interval, difference_error: its method and standard error.
    """

    estimator: str
    title: str
    value: float
    low: float
    high: float
    interval: str
    limit: float | None
    standard_error: float
    covers_bias: bool
    difference: float
    difference_low: float
    difference_high: float
    difference_interval: str
    difference_error: float


@dataclass(frozen=True)
class OffPolicyResult:
    """Estimates of a target policy's value from the log of another policy; shows itself as a table in notebooks.

    Parameters
    ----------
    estimates: by estimator; empty where the log cannot answer.
    support: diagnostics of the importance weights.
    refusal: why the log cannot answer, and what to log; None where it can.
    confidence: of the intervals, such as 0.95.
    warnings: what a reader must know beside the figures.
    """

    estimates: tuple[Estimate, ...]
    support: Support
    refusal: Refusal | None
    confidence: float
    warnings: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Estimate:
        """The estimate by an estimator's name. Raises ConfigError where there is none."""
        for estimate in self.estimates:
            if estimate.estimator == name:
                return estimate
        if self.refusal is not None:
            raise ConfigError(
                "the log cannot answer, there is no estimate", remedy="read `refusal`: " + self.refusal.remedies[0]
            )
        raise ConfigError(
            f"no estimate by {name!r}", remedy=suggest(name, [entry.estimator for entry in self.estimates])
        )

    def table(self) -> pl.DataFrame:
        """One row per estimate, with the fields of `Estimate` as columns."""
        types = {"str": pl.String, "bool": pl.Boolean}
        schema = {field.name: types.get(str(field.type), pl.Float64) for field in dataclasses.fields(Estimate)}
        return pl.DataFrame([dataclasses.asdict(estimate) for estimate in self.estimates], schema=schema)

    def to_dict(self) -> dict[str, Any]:
        """The result as what JSON can hold; infinite limits are None."""
        estimates = [dataclasses.asdict(estimate) for estimate in self.estimates]
        for estimate in estimates:
            if estimate["limit"] is not None and not math.isfinite(estimate["limit"]):
                estimate["limit"] = None
        return {
            "estimates": estimates,
            "support": dataclasses.asdict(self.support),
            "refusal": None if self.refusal is None else dataclasses.asdict(self.refusal),
            "confidence": self.confidence,
            "warnings": list(self.warnings),
        }

    def __str__(self) -> str:
        lines = [self._caption()]
        if self.refusal is not None:
            lines.append(str(self.refusal))
        lines += [
            "  ".join(cell.rjust(14) for cell in row) for row in ([_HEADER, *self._rows()] if self.estimates else [])
        ]
        return "\n".join([*lines, *(f"Note: {note}" for note in self._notes())])

    def _repr_html_(self) -> str:
        notes = self._notes()
        if self.refusal is not None:
            notes = [*(f"Refused: {reason}" for reason in self.refusal.reasons),
                     *(f"What to log: {remedy}" for remedy in self.refusal.remedies), *notes]  # fmt: skip
        return html_table(self._caption(), _HEADER, self._rows(), notes)

    def _caption(self) -> str:
        return f"Off-policy evaluation of {self.support.n_rows:,} logged decisions, {self.confidence:.0%} intervals"

    def _rows(self) -> list[list[str]]:
        return [
            [estimate.title + ("" if estimate.covers_bias else " *"), _figure(estimate.value), _figure(estimate.low),
             _figure(estimate.high), _signed(estimate.difference), _signed(estimate.difference_low),
             _signed(estimate.difference_high), estimate.interval,
             "" if estimate.limit is None else f"{estimate.limit:g}"]
            for estimate in self.estimates
        ]  # fmt: skip

    def _notes(self) -> list[str]:
        support = self.support
        notes = [
            f"Support: effective sample size {support.effective_size:,.0f} of {support.n_observations:,}, mean weight "
            f"{support.mean_weight:.3f} ± {support.mean_weight_error:.3f}, largest weight {support.max_weight:,.1f} "
            f"({support.max_weight_share:.1%} of all), {support.n_positive:,} positive rewards. The log itself earned "
            f"{_figure(support.mean_reward)}."
        ]
        if any(not estimate.covers_bias for estimate in self.estimates):
            notes.append("* The interval leaves out the bias of clipped weights or of the reward model.")
        return [*notes, *self.warnings]


_HEADER = ["estimator", "value", "low", "high", "minus the log", "low", "high", "interval", "limit"]


def _figure(value: float) -> str:
    return f"{value:.6g}"


def _signed(value: float) -> str:
    return f"{value:+.6g}" if value else "0"
