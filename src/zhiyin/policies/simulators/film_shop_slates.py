"""The film shop as an environment of slates: users look through a list of films, click and buy.

At each step a user is offered candidates drawn from the films that are released, and sees a list of some of them. The
list is looked at by a position-based model, as in `FilmShop.respond`. A step is a day after the opening.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np

from zhiyin.core.params import param
from zhiyin.policies.simulators.counter_random import uniforms
from zhiyin.policies.simulators.film_shop import AGES, COUNTRIES, FilmShop
from zhiyin.policies.simulators.film_texts import GENRES
from zhiyin.policies.simulators.slate_environment import (
    CANDIDATE_STREAM,
    CHOICE_STREAM,
    REWARD_STREAM,
    Observation,
    SlateEnvironment,
)

NOVELTY_DAYS = 21.0


@dataclasses.dataclass
class FilmShopSlates(SlateEnvironment):
    """A film shop. The tastes of users are hidden, and turn from day to day; new films come.

    The observation of a user is (country, age group: one-hot; shares of genres among what was clicked in this session);
    that of a film is (shares of genres, low price, newness from 0 to 1). The reward of a step is the number of clicks,
    and `purchase_reward` for each film bought.
    """

    n_candidates: int = param(50, "films to choose a list from, drawn anew at each step", at_least=1)
    slate_size: int = param(10, "films shown", at_least=1)
    length: int = param(30, "steps of a session, a day each", at_least=1)
    n_items: int = param(300, "films of the shop", at_least=1)
    before: int = param(60, "days before the first step", at_least=1)
    purchase_reward: float = param(5.0, "what a purchase is worth, in clicks", at_least=0)

    @cached_property
    def shop(self) -> FilmShop:
        days = self.before + self.length
        return FilmShop(n_users=self.n_users, n_items=self.n_items, days=days, seed=self.seed)

    @property
    def examination(self) -> np.ndarray:
        """float64[k]: the probability that each slot is looked at."""
        return self.shop.examination(self.slate_size).astype(np.float64)

    def _allocate(self) -> None:
        self.candidates = np.zeros((self.n_users, self.n_candidates), dtype=np.int64)
        self._clicked = np.zeros((self.n_users, len(GENRES)))
        self._by_slot = np.zeros((self.n_users, self.slate_size))

    def _begin(self, users: np.ndarray) -> None:
        self._clicked[users] = 0.0

    def _draw_candidates(self) -> None:
        days = self.before + self.steps
        released = self.shop.films.released[None, :] <= days[:, None]
        draws = np.where(released, uniforms(self._seeds, CANDIDATE_STREAM, self.steps, self.n_items), 2.0)
        self.candidates = np.argpartition(draws, self.n_candidates - 1, axis=1)[:, : self.n_candidates]

    @property
    def days(self) -> np.ndarray:
        """int64[n]: the day of the shop's period that each user is at."""
        return self.before + self.steps

    def observe(self) -> Observation:
        people, films = self.shop.people, self.shop.films
        who = np.column_stack([np.eye(len(COUNTRIES))[people.country], np.eye(len(AGES))[people.age]])
        taste = self._clicked / np.maximum(self._clicked.sum(axis=1, keepdims=True), 1.0)
        age = self.days[:, None] - films.released[self.candidates]
        newness = np.exp(-np.maximum(age, 0) / NOVELTY_DAYS)
        vectors = films.vectors[self.candidates].astype(np.float64)
        items = np.concatenate([vectors[:, :, : len(GENRES)], vectors[:, :, -1:], newness[:, :, None]], axis=2)
        return Observation(np.column_stack([who, taste]), items)

    def values(self) -> np.ndarray:
        """float64[n, candidates]: the expected reward of each candidate where it is looked at."""
        users = np.arange(self.n_users)
        days = self.days.astype(np.float32)
        buys = self.shop.purchase_probability(users, self.candidates, days)
        return self.shop.probability(users, self.candidates, days) * (1.0 + self.purchase_reward * buys)

    def _respond(self, slates: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        users = np.arange(self.n_users)
        shown, days = np.take_along_axis(self.candidates, slates, axis=1), self.days.astype(np.float32)
        chance = self.shop.probability(users, shown, days) * self.examination
        clicks = uniforms(self._seeds, CHOICE_STREAM, self.steps, self.slate_size) < chance
        buys = self.shop.purchase_probability(users, shown, days)
        bought = clicks & (uniforms(self._seeds, REWARD_STREAM, self.steps, self.slate_size) < buys)
        self._by_slot = clicks + self.purchase_reward * bought
        rows, slots = np.nonzero(clicks & self.active[:, None])
        np.add.at(self._clicked, rows, self.shop.films.vectors[shown[rows, slots], : len(GENRES)])
        first = np.where(clicks.any(axis=1), clicks.argmax(axis=1), -1)
        return first, self._by_slot.sum(axis=1), self.steps + 1 >= self.length

    def _slot_rewards(self, slots: np.ndarray, rewards: np.ndarray) -> np.ndarray:
        return self._by_slot
