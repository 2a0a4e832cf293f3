"""When a log cannot answer: why, and what to log so that it can."""

from __future__ import annotations

import math
from dataclasses import dataclass

from zhiyin.policies.off_policy.support import Support

# Below this many effective observations a few rows make the estimate.
MIN_EFFECTIVE_SIZE = 100.0
# One observation with a larger share of all weight makes the estimate by itself.
MAX_WEIGHT_SHARE = 0.1
# The estimate says nothing of the target's actions that the log cannot contain.
MAX_UNLOGGED_MASS = 0.01
# Standard errors by which the mean weight may differ from 1.
MAX_MEAN_WEIGHT_ERRORS = 4.0
# What an answer good enough to act on needs; the remedies aim at it.
WANTED_EFFECTIVE_SIZE = 1000
WANTED_POSITIVES = 100
# The share of decisions that the remedies ask to draw by the target policy: bounds its weights by 1 / share.
SHARE_BY_TARGET = 0.05


@dataclass(frozen=True)
class Refusal:
    """Why a log cannot answer.

    Parameters
    ----------
    reasons: what is missing, each with its figure and the limit it fails.
    remedies: what to log so that it can answer.
    """

    reasons: tuple[str, ...]
    remedies: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(
            ["The log cannot answer:", *(f"  - {reason}" for reason in self.reasons), "What to log:",
             *(f"  - {remedy}" for remedy in self.remedies)]
        )  # fmt: skip


def refusal(support: Support) -> Refusal | None:
    """Why a log with this support cannot answer; None where it can."""
    if support.n_rows == 0:
        return Refusal(("the log has no decisions",), ("log decisions with their propensities and rewards",))
    reasons, remedies = [], []
    if support.mean_weight == 0:
        reasons.append("the target policy never chooses an action that was logged")
    elif support.effective_size < MIN_EFFECTIVE_SIZE:
        reasons.append(
            f"{support.n_observations:,} observations are worth {support.effective_size:,.1f} of the target policy's "
            f"own (effective sample size); {MIN_EFFECTIVE_SIZE:,.0f} are the least"
        )
    if support.max_weight_share > MAX_WEIGHT_SHARE:
        reasons.append(
            f"one observation, of weight {support.max_weight:,.0f}, holds {support.max_weight_share:.0%} of all "
            f"weight; {MAX_WEIGHT_SHARE:.0%} is the most"
        )
    if reasons:
        remedies.append(_draw_some_by_target(support))
    if support.unlogged_mass is not None and support.unlogged_mass > MAX_UNLOGGED_MASS:
        reasons.append(
            f"the target policy spends {support.unlogged_mass:.1%} of its choices on actions that the log cannot "
            f"contain; {MAX_UNLOGGED_MASS:.0%} is the most"
        )
        remedies.append(
            "give every eligible action a probability above 0 when decisions are drawn, and log that probability"
        )
    expected = 1 - (support.unlogged_mass or 0.0)
    deviation = abs(support.mean_weight - expected)
    if support.mean_weight > 0 and deviation > MAX_MEAN_WEIGHT_ERRORS * support.mean_weight_error + 1e-6:
        reasons.append(
            f"the mean importance weight is {support.mean_weight:.3f} ± {support.mean_weight_error:.3f} and must be "
            f"{expected:.4g}: "
            "the propensities are not those that were drawn from, or the log lacks actions of the target policy"
        )
        remedies.append(
            "log the probability that the draw was made with, unrounded and never computed again; keep decisions "
            "without a reward; evaluate only policies that choose among the same eligible actions"
        )
    return Refusal(tuple(reasons), tuple(remedies)) if reasons else None


def _draw_some_by_target(support: Support) -> str:
    max_weight = 1 / SHARE_BY_TARGET
    n_rows = math.ceil(WANTED_EFFECTIVE_SIZE * max_weight)
    positive_share = support.n_positive / support.n_rows
    if positive_share > 0:
        n_rows = max(n_rows, math.ceil(WANTED_POSITIVES / positive_share))
    n_rows = round_up(n_rows)
    return (
        f"draw {SHARE_BY_TARGET:.0%} of the decisions by the target policy and log the probabilities of the mixture: "
        f"no weight exceeds {max_weight:.0f} then, and about {n_rows:,} decisions give an effective sample of "
        f"{WANTED_EFFECTIVE_SIZE:,}" + (f" and {WANTED_POSITIVES} positive outcomes" if positive_share > 0 else "")
    )


def round_up(number: float) -> int:
    """The next whole number of two digits followed by zeros.

    >>> round_up(12_345)
    13000
    """
    whole = math.ceil(round(number, 6))
    digits = 10 ** max(len(str(whole)) - 2, 0)
    return math.ceil(whole / digits) * digits
