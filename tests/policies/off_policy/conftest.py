"""Fixtures of off-policy tests: policies of the Open Bandit Dataset, and a finite problem of known value."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zhiyin.policies.off_policy import LoggedDecisions


@cache
def item_priors(campaign: str) -> dict[str, list[int]]:
    """The Beta priors of a campaign's items: "alpha" and "beta"."""
    return json.loads((Path(__file__).parent / "prior_bts.json").read_text())[campaign]


@cache
def thompson_probabilities(campaign: str) -> np.ndarray:
    """float64[n_items, 3]: how often the campaign's Thompson sampling shows an item at a position, 100,000 draws.

    The draws are those of the obp package: one call of the legacy generator per simulation, which a call with all of
    them at once repeats.
    """
    priors = item_priors(campaign)
    n_simulations, n_items = 100_000, len(priors["alpha"])
    legacy = np.random.RandomState(12345)
    draws = legacy.beta(priors["alpha"], priors["beta"], size=(n_simulations, n_items))
    shown = np.argsort(draws, axis=1)[:, ::-1][:, :3]
    return np.stack([np.bincount(shown[:, k], minlength=n_items) for k in range(3)], axis=1) / n_simulations


@pytest.fixture(scope="session")
def thompson() -> Callable[[str], np.ndarray]:
    return thompson_probabilities


@pytest.fixture(scope="session")
def priors() -> Callable[[str], dict[str, list[int]]]:
    return item_priors


@dataclasses.dataclass(frozen=True)
class FiniteProblem:
    """4 contexts × 5 actions with Bernoulli rewards: every (context, action, reward) is one row of `cells`.

    probabilities: float64[40], of each cell when the logging policy decides; value: of the target policy;
    q: float64[4, 5], expected rewards.
    """

    cells: LoggedDecisions
    probabilities: np.ndarray
    value: float
    context_probabilities: np.ndarray
    logging: np.ndarray
    target: np.ndarray
    q: np.ndarray

    def with_model(self, predicted: np.ndarray) -> LoggedDecisions:
        """The cells with a reward model's predictions: float64[4, 5]."""
        expected = (self.target * predicted).sum(axis=1)
        return self.cells.with_predictions(np.repeat(predicted.ravel(), 2), np.repeat(expected, 10))

    def draw(self, n: int, seed: int) -> np.ndarray:
        """int64[n]: cells of n logged decisions."""
        return np.random.default_rng(seed).choice(len(self.probabilities), n, p=self.probabilities)


@pytest.fixture(scope="session")
def problem() -> FiniteProblem:
    rng = np.random.default_rng(42)
    contexts = rng.dirichlet(np.full(4, 3.0))
    logging, target = rng.dirichlet(np.full(5, 2.0), 4), rng.dirichlet(np.full(5, 1.0), 4)
    logging = 0.9 * logging + 0.02
    q = rng.uniform(0.1, 0.9, (4, 5))
    by_reward = np.stack([q, 1 - q], axis=2)  # reward 1, then reward 0
    cells = LoggedDecisions(
        rewards=np.tile([1.0, 0.0], 20),
        propensities=np.repeat(logging.ravel(), 2),
        target_probabilities=np.repeat(target.ravel(), 2),
    )
    probabilities = (contexts[:, None, None] * logging[:, :, None] * by_reward).ravel()
    value = float(contexts @ (target * q).sum(axis=1))
    return FiniteProblem(cells, probabilities, value, contexts, logging, target, q)


def take(log: LoggedDecisions, rows: np.ndarray) -> LoggedDecisions:
    """The log of these rows, with repeats."""
    columns = {field.name: getattr(log, field.name) for field in dataclasses.fields(log)}
    return LoggedDecisions(**{name: None if values is None else values[rows] for name, values in columns.items()})


@pytest.fixture(scope="session")
def take_rows() -> Callable[[LoggedDecisions, np.ndarray], LoggedDecisions]:
    return take


@pytest.fixture(scope="session")
def rare_clicks(thompson: Callable[[str], np.ndarray], priors: Callable[[str], dict[str, list[int]]]) -> dict[str, Any]:
    """1,000 logs of 10,000 rows like the Open Bandit Dataset's, as counts of cells: uniform logging over 80 items and 3
    positions, clicks in proportion to the means of the items' priors, .34 % on average; the target is the campaign's
    Thompson sampling."""
    probabilities = thompson("all")
    weights = (probabilities * 80).ravel()
    alpha, beta_ = (np.array(priors("all")[name]) for name in ("alpha", "beta"))
    appeal = np.repeat(alpha / (alpha + beta_), 3)
    rates = 0.0034 * appeal / appeal.mean()
    cells = LoggedDecisions(
        rewards=np.repeat([1.0, 0.0], 240),
        propensities=np.full(480, 1 / 80),
        target_probabilities=np.tile(weights / 80, 2),
    )
    chances = np.concatenate([rates, 1 - rates]) / 240
    counts = np.random.default_rng(11).multinomial(10_000, chances, 1000)
    truth = float((probabilities.ravel() * rates).sum() / 3)
    return {
        "cells": cells, "counts": counts, "truth": truth, "logged_truth": float(rates.mean()),
        "weights": np.tile(weights, 2),
    }  # fmt: skip
