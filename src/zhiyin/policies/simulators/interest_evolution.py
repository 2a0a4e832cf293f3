"""Interest evolution: users whose interests move with what they watch, and whose time grows with its quality.

The environment of RecSim (Ie et al., arXiv:1909.04847) that SlateQ was published with (arXiv:1905.12767), for n users
at once. A video has one of 20 topics; the first 14 are of low quality, the others of high. A user takes at most one
video of the slate by affinity, watches it and

    time left    ← time left - minutes watched + α · minutes watched · utility
    interest_c   ← interest_c ± .3 (1 - |interest_c|) (1 - interest_c),   + with probability (1 + interest_c) / 2

for its topic c; without a choice, half a minute is lost. The reward is the minutes watched. Time left and quality are
hidden; the observation is the interests of the users and the topics of the candidates.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np

from zhiyin.core.params import param
from zhiyin.policies.simulators.choice_models import Cascade, ChoiceModel, MultinomialLogit, Proportional
from zhiyin.policies.simulators.counter_random import normals, uniforms
from zhiyin.policies.simulators.slate_environment import (
    CANDIDATE_STREAM,
    CHOICE_STREAM,
    REWARD_STREAM,
    TRANSITION_STREAM,
    USER_STREAM,
    Observation,
    SlateEnvironment,
)

N_TOPICS = 20
TOPIC_QUALITY = np.concatenate([np.linspace(-3, 0, 14), np.linspace(0, 3, 6)])
QUALITY_DEVIATION = 0.1  # of a video from the quality of its topic
VIDEO_MINUTES, SESSION_MINUTES, NO_CLICK_MINUTES = 4.0, 200.0, 0.5
BUDGET_FACTOR = 0.9 / 3.4  # qualities lie within ±3.4; the best gives back 0.9 of the minutes watched
INTEREST_STEP = 0.3


@dataclasses.dataclass
class InterestEvolution(SlateEnvironment):
    """RecSim's interest evolution environment, vectorised.

    >>> environment = InterestEvolution(n_users=4)
    >>> environment.observe().items.shape, environment.step(np.tile([0, 1, 2], (4, 1))).rewards.shape
    ((4, 10, 20), (4,))
    """

    choice: str = param("proportional", "model of choice", choices=("proportional", "logit", "cascade"))
    no_click_mass: float = param(1.0, "affinity of no choice")
    min_normalizer: float = param(-1.0, "affinity that is never chosen, of the proportional models")

    def _allocate(self) -> None:
        self.interests = np.zeros((self.n_users, N_TOPICS))
        self.minutes_left = np.zeros(self.n_users)
        self.topics = np.zeros((self.n_users, self.n_candidates), dtype=np.int64)
        self.quality = np.zeros((self.n_users, self.n_candidates))

    @cached_property
    def choice_model(self) -> ChoiceModel:
        if self.choice == "logit":
            return MultinomialLogit(self.no_click_mass)
        if self.choice == "cascade":
            return Cascade(attention=0.65, scaling=0.05, min_normalizer=self.min_normalizer)
        return Proportional(self.min_normalizer, self.no_click_mass)

    def _begin(self, users: np.ndarray) -> None:
        self.interests[users] = 2.0 * uniforms(self._seeds[users], USER_STREAM, self.steps[users], N_TOPICS) - 1.0
        self.minutes_left[users] = SESSION_MINUTES

    def _draw_candidates(self) -> None:
        k = self.n_candidates
        self.topics = (N_TOPICS * uniforms(self._seeds, CANDIDATE_STREAM, self.steps, k)).astype(np.int64)
        noise = normals(self._seeds, REWARD_STREAM, self.steps, k)
        self.quality = TOPIC_QUALITY[self.topics] + QUALITY_DEVIATION * noise

    def observe(self) -> Observation:
        return Observation(self.interests.copy(), np.eye(N_TOPICS)[self.topics])

    def affinities(self) -> np.ndarray:
        """float64[n, candidates]: interest of each user in each candidate."""
        return np.take_along_axis(self.interests, self.topics, axis=1)

    def _respond(self, slates: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = np.arange(self.n_users)
        affinities = np.take_along_axis(self.affinities(), slates, axis=1)
        drawn = uniforms(self._seeds, CHOICE_STREAM, self.steps, 1)[:, 0]
        slots = self.choice_model.choose(affinities, drawn)
        chosen, idle = self.active & (slots >= 0), self.active & (slots < 0)
        users, items = rows[chosen], slates[chosen, slots[chosen]]
        minutes = np.minimum(self.minutes_left, VIDEO_MINUTES) * chosen
        flips = uniforms(self._seeds, TRANSITION_STREAM, self.steps, 1)[:, 0]
        topics = self.topics[users, items]
        self.interests[users, topics] = moved_interests(self.interests[users, topics], flips[chosen])
        self.minutes_left[users] = minutes_after(
            self.minutes_left[users], minutes[chosen], self.quality[users, items], BUDGET_FACTOR
        )
        self.minutes_left[idle] -= NO_CLICK_MINUTES
        return slots, minutes, self.minutes_left <= 0


def moved_interests(interests: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """float64[n]: interests in the topic of a video after it was watched, in [-1, 1]."""
    moves = INTEREST_STEP * (1.0 - np.abs(interests)) * (1.0 - interests)
    towards = uniforms < (interests + 1.0) / 2.0
    return np.clip(interests + np.where(towards, moves, -moves), -1.0, 1.0)


def minutes_after(
    minutes_left: np.ndarray, minutes_watched: np.ndarray, utility: np.ndarray, factor: float
) -> np.ndarray:
    """float64[n]: time left after watching: good videos give back a part of the time that they took."""
    return minutes_left - minutes_watched + factor * minutes_watched * utility
