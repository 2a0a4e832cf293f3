"""Long-term satisfaction: what engages at once spoils the taste for what follows (chocolate and kale).

RecSim's environment (Ie et al., arXiv:1909.04847) for n users at once. A user takes the first item of the slate. With
the clickbait score c in [0, 1] of that item and the hidden net positive exposure x,

    log engagement ~ N((5 c + 4 (1 - c)) · σ(s x), 1),    x ← .7 x - 2 (c - ½) + N(0, .05²)

The reward is the engagement. The more sensitive users are (s), the more clickbait costs; see `tie_sensitivity`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.special import expit

from zhiyin.core.params import param
from zhiyin.policies.simulators.counter_random import normals, uniforms
from zhiyin.policies.simulators.slate_environment import (
    CANDIDATE_STREAM,
    REWARD_STREAM,
    TRANSITION_STREAM,
    USER_STREAM,
    Observation,
    SlateEnvironment,
)

CHOC_MEAN, KALE_MEAN, CHOC_DEVIATION, KALE_DEVIATION = 5.0, 4.0, 1.0, 1.0
MEMORY, INNOVATION_DEVIATION = 0.7, 0.05


@dataclasses.dataclass
class LongTermSatisfaction(SlateEnvironment):
    """RecSim's long-term satisfaction environment, vectorised.

    The observation of a user is the clickbait score and the engagement of the last item, zeros before the first; that
    of a candidate is its clickbait score.
    """

    n_candidates: int = param(50, "items to choose a slate from, drawn anew at each step", at_least=1)
    slate_size: int = param(1, "items shown; only the first is ever taken", at_least=1)
    sensitivity: float = param(0.1, "how much exposure changes engagement", at_least=0)
    length: int = param(60, "steps of a session", at_least=1)
    max_engagement: float = param(100.0, "engagement counts up to this", at_least=0)

    def _allocate(self) -> None:
        self.exposure = np.zeros(self.n_users)
        self.clickbait = np.zeros((self.n_users, self.n_candidates))
        self._last = np.zeros((self.n_users, 2))

    def _begin(self, users: np.ndarray) -> None:
        drawn = uniforms(self._seeds[users], USER_STREAM, self.steps[users], 1)[:, 0]
        self.exposure[users] = (drawn - 0.5) / (1.0 - MEMORY)
        self._last[users] = 0.0

    def _draw_candidates(self) -> None:
        self.clickbait = uniforms(self._seeds, CANDIDATE_STREAM, self.steps, self.n_candidates)

    def observe(self) -> Observation:
        return Observation(self._last.copy(), self.clickbait[:, :, None].copy())

    def _respond(self, slates: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        clickbait = self.clickbait[np.arange(self.n_users), slates[:, 0]]
        deviation = clickbait * CHOC_DEVIATION + (1.0 - clickbait) * KALE_DEVIATION
        noise = normals(self._seeds, REWARD_STREAM, self.steps, 1)[:, 0]
        mean = mean_log_engagement(clickbait, self.exposure, self.sensitivity)
        engagement = np.minimum(np.exp(mean + deviation * noise), self.max_engagement)
        innovation = INNOVATION_DEVIATION * normals(self._seeds, TRANSITION_STREAM, self.steps, 1)[:, 0]
        after = MEMORY * self.exposure - 2.0 * (clickbait - 0.5) + innovation
        self.exposure = np.where(self.active, after, self.exposure)
        self._last = np.where(self.active[:, None], np.column_stack([clickbait, engagement]), self._last)
        return np.zeros(self.n_users, dtype=np.int64), engagement, self.steps + 1 >= self.length


def mean_log_engagement(clickbait: np.ndarray, exposure: np.ndarray, sensitivity: float) -> np.ndarray:
    """(5 c + 4 (1 - c)) · σ(s x)."""
    return (clickbait * CHOC_MEAN + (1.0 - clickbait) * KALE_MEAN) * expit(sensitivity * exposure)


def steady_exposure(clickbait: np.ndarray) -> np.ndarray:
    """The net positive exposure that a constant clickbait score leads to: -2 (c - ½) / (1 - .7)."""
    return -2.0 * (clickbait - 0.5) / (1.0 - MEMORY)


def tie_sensitivity() -> float:
    """The sensitivity above which never to show clickbait engages more in the long run than always to: .3 ln(5/4).

    With x* = ±1/.3, 5 σ(-s x*) = 4 σ(s x*) where exp(s / .3) = 5/4.
    """
    return (1.0 - MEMORY) * float(np.log(CHOC_MEAN / KALE_MEAN))
