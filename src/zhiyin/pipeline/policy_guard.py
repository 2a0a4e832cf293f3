"""The guard of mode guarded: a policy gets a larger share of the lists only when it is shown not to do harm.

Lists are split at random between the policy and the baseline. The share of the policy grows step by step; a step is
taken when the lower bound of its difference to the baseline is above the margin, and it falls to nothing when the upper
bound is below. Each step is judged by its own lists alone, so that rewards which change with the hour are not mistaken
for the policy's; the bounds hold however often they are looked at, and the steps share the probability of an error.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from zhiyin.pipeline.policy_monitors import Sums
from zhiyin.policies.off_policy.confidence_sequences import normal_mixture_bound, normal_mixture_rho

# Shares of the lists before the last one, which is 1 - control.
SHARES = (0.05, 0.1, 0.25, 0.5)
# Confidence of all steps together; lists of both at which a step's interval is narrowest.
LEVEL, PLANNED_LISTS = 0.95, 10_000
# Lists of each side, and lists of the baseline with a reward, before a step is judged.
MIN_LISTS, MIN_REWARDED = 100, 25


@dataclasses.dataclass
class Guard:
    """The state of the guard.

    Parameters
    ----------
    step: index of the present share; -1: the policy has lost, its share is 0.
    since: microseconds UTC; lists of before do not count.
    policy, baseline: rewards of the lists of the present step.
    difference: policy less baseline of the present step, low and high; None: too few lists.
    """

    step: int = 0
    since: int = 0
    policy: Sums = dataclasses.field(default_factory=Sums)
    baseline: Sums = dataclasses.field(default_factory=Sums)
    difference: tuple[float, float] | None = None

    def share(self, control: float) -> float:
        """The share of the lists that the policy makes. control: that which the baseline always makes."""
        if self.step < 0:
            return 0.0
        shares = [share for share in SHARES if share < 1 - control]
        return shares[self.step] if self.step < len(shares) else 1 - control

    def judge(self, margin: float, control: float) -> None:
        """Take a step up, or stop the policy, where the lists of this step allow it. margin: relative loss allowed."""
        if self.step < 0 or min(self.policy.n, self.baseline.n) < MIN_LISTS or self.baseline.nonzero < MIN_REWARDED:
            return
        # A policy whose lists were hardly ever rewarded has hardly any variance: that of the baseline is less hopeful.
        variance = max(self.policy.variance, self.baseline.variance)
        n = self.policy.n + self.baseline.n
        of_one = variance * (1 / self.policy.n + 1 / self.baseline.n) * n
        alpha = (1 - LEVEL) / (len(SHARES) + 1)
        half = normal_mixture_bound(n * of_one, normal_mixture_rho(PLANNED_LISTS * of_one, alpha), alpha) / n
        estimate = self.policy.mean - self.baseline.mean
        self.difference = (estimate - half, estimate + half)
        allowed = margin * abs(self.baseline.mean)
        if self.difference[1] < -allowed:
            self.step = -1
        elif self.difference[0] >= -allowed and self.share(control) < 1 - control:
            self.step += 1
            self.policy, self.baseline = Sums(), Sums()

    def figures(self, control: float) -> dict[str, Any]:
        """The guard as serving and people see it; `state`: "ramp", "full", or "guard" where the policy was stopped."""
        share = self.share(control)
        state = "guard" if self.step < 0 else "full" if math.isclose(share, 1 - control) else "ramp"
        return {
            "share": share, "state": state, "difference": None if self.difference is None else list(self.difference),
            "lists": [self.policy.n, self.baseline.n], "since": self.since,
        }  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Guard:
        """Of what `as_json` gave. Raises TypeError or KeyError for anything else."""
        difference = values["difference"]
        parts = {"policy": Sums(**values["policy"]), "baseline": Sums(**values["baseline"])}
        return cls(**{**values, **parts, "difference": None if difference is None else tuple(difference)})
