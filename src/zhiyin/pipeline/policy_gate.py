"""The gate of a policy's promotion: whether the log of its apprentice shows that it earns more than the baseline.

In mode apprentice the baseline decides with a small declared randomisation, and each decision says with what
probability the policy itself would have made the same list. Off-policy evaluation of these lists tells what the policy
would have earned, without ever having let it decide.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from zhiyin.pipeline.decision_record import DecisionRecord
from zhiyin.policies.off_policy import LoggedSlates, evaluate_slates

# What a log must have: lists of the policy's own that it is worth, positive rewards, and the share of one list.
MIN_EFFECTIVE_SIZE, MIN_POSITIVES, MAX_WEIGHT_SHARE = 1_000, 100, 0.05
# Reward of a slot may hang on the items above it: weights are products over the slots up to it.
ESTIMATOR = "rips"


@dataclasses.dataclass(frozen=True)
class GateResult:
    """Whether a policy may be promoted.

    Parameters
    ----------
    reasons: why not; empty where it may.
    figures: what was judged: lists, effective size, positive rewards, largest share, and the interval of the
        difference to the baseline, in reward a list.
    """

    reasons: tuple[str, ...]
    figures: dict[str, Any]

    @property
    def passed(self) -> bool:
        return not self.reasons


def judge_apprentice(decisions: Iterable[tuple[DecisionRecord, Sequence[float | None]]]) -> GateResult:
    """Whether the apprentice's log shows that the policy earns more than the baseline.

    Parameters
    ----------
    decisions: closed decisions with the reward of each of their slots; None counts as 0. Those of other modes, and
        those that do not say what the policy would have done, are left out.
    """
    rewards, propensities, targets = [], [], []
    for record, values in decisions:
        if record.info.mode == "apprentice" and record.target is not None and len(record):
            rewards.append(np.array([value or 0.0 for value in values], dtype=np.float64))
            propensities.append(record.propensities)
            targets.append(record.target)
    if not rewards:
        return GateResult(("no decision was made in mode apprentice: nothing tells what the policy would earn",), {})
    log = LoggedSlates(_padded(rewards, 0.0), _padded(propensities, 1.0), _padded(targets, 1.0))
    reward_range = (min(0.0, float(log.rewards.min())), max(float(log.rewards.max()), 1e-9))
    result = evaluate_slates(log, [ESTIMATOR], reward_range=reward_range)
    support = result.support
    figures: dict[str, Any] = {
        "lists": len(log), "effective_size": support.effective_size, "positive_rewards": support.n_positive,
        "largest_weight_share": support.max_weight_share, "baseline": support.mean_reward,
    }  # fmt: skip
    reasons = list(result.refusal.reasons) if result.refusal is not None else []
    if support.effective_size < MIN_EFFECTIVE_SIZE:
        reasons.append(
            f"{len(log):,} lists are worth {support.effective_size:,.0f} of the policy's own; {MIN_EFFECTIVE_SIZE:,} "
            "are the least"
        )
    if support.n_positive < MIN_POSITIVES:
        reasons.append(f"{support.n_positive:,} rewards were positive; {MIN_POSITIVES:,} are the least")
    if support.max_weight_share > MAX_WEIGHT_SHARE:
        reasons.append(f"one list has {support.max_weight_share:.0%} of all weight; {MAX_WEIGHT_SHARE:.0%} is the most")
    if result.estimates:
        estimate = result.estimates[0]
        figures |= {"policy": estimate.value, "difference": [estimate.difference_low, estimate.difference_high]}
        if estimate.difference_low <= 0:
            reasons.append(
                f"the policy earns {estimate.difference_low:.4g} to {estimate.difference_high:.4g} more a list than "
                "the baseline: the interval is not above 0"
            )
    return GateResult(tuple(dict.fromkeys(reasons)), figures)


def judge_guarded(guard: dict[str, Any]) -> GateResult:
    """Whether the lists of mode guarded show that the policy earns more than the baseline.

    Parameters
    ----------
    guard: what the learner says of it: "difference", the interval of policy minus baseline.
    """
    difference = guard.get("difference")
    if not isinstance(difference, list | tuple) or len(difference) != 2 or difference[0] is None:
        return GateResult(("nothing has been learned in mode guarded yet",), {})
    low, high = difference
    reason = f"the policy earns {low:.4g} to {high:.4g} more than the baseline: the interval is not above 0"
    return GateResult(() if low > 0 else (reason,), {"difference": [low, high]})


def _padded(rows: Sequence[np.ndarray], fill: float) -> np.ndarray:
    """float64[n, widest]: rows of several lengths."""
    widths = np.array([len(row) for row in rows])
    padded = np.full((len(rows), int(widths.max())), fill)
    padded[np.arange(padded.shape[1]) < widths[:, None]] = np.concatenate(rows)
    return padded
