"""Policies with a linear posterior of the reward: what LinUCB, LinTS and the policies over scores have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.core.params import param
from zhiyin.policies.action_sets import ActionSets, Outcomes
from zhiyin.policies.linear_posterior import LinearPosterior
from zhiyin.policies.policy import Policy


@dataclasses.dataclass
class LinearPolicy(Policy):
    """A policy that learns the reward as a linear function of the features, one function for all actions.

    The number of features is that of the first outcomes; before them every action is expected to bring 0.
    """

    reg: float = param(1.0, "precision of the prior of the weights", at_least=1e-12, tune=(0.01, 100), log=True)
    discount: float = param(1.0, "factor of what was learned before, for each outcome", at_least=1e-6, at_most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.posterior: LinearPosterior | None = None
        # The prior that decides before the first outcome, with its factors.
        self._prior: LinearPosterior | None = None

    def _posterior_of(self, sets: ActionSets) -> tuple[LinearPosterior, np.ndarray]:
        """The posterior, or the prior before the first outcome, and the features of the actions.

        Raises DataError where there are none, or others than those of the outcomes.
        """
        if sets.features is None:
            raise DataError(f"{type(self).__name__} chooses by features", remedy="ActionSets(..., features=...)")
        if self.posterior is None:
            prior, d = self._prior, sets.features.shape[1]
            if prior is None or prior.n_features != d:
                prior = self._prior = LinearPosterior.prior(d, self.reg, self.discount)
            return prior, sets.features
        self.posterior.check(sets.features)
        return self.posterior, sets.features

    def expected_rewards(self, sets: ActionSets) -> np.ndarray | None:
        posterior, features = self._posterior_of(sets)
        return posterior.expected(features)

    def _update(self, outcomes: Outcomes) -> None:
        if outcomes.features is None:
            raise DataError(f"{type(self).__name__} learns by features", remedy="Outcomes(..., features=...)")
        if self.posterior is None:
            self.posterior = LinearPosterior.prior(outcomes.features.shape[1], self.reg, self.discount)
        self.posterior.update(outcomes.features, outcomes.rewards)

    def forget(self, share: float) -> None:
        if self.posterior is not None:
            self.posterior.forget(share)

    def state(self) -> dict[str, np.ndarray]:
        if self.posterior is None:
            return {}
        return {"precision": self.posterior.precision, "response": self.posterior.response}

    def _restore(self, state: Mapping[str, np.ndarray]) -> None:
        precision, response = state["precision"], state["response"]
        d = len(response)
        if precision.shape != (d, d) or precision.dtype != np.float64 or response.dtype != np.float64:
            raise ValueError("the precision is not of the size of the response")
        if not (np.isfinite(precision).all() and np.isfinite(response).all()):
            raise ValueError("numbers that are not finite")
        self.posterior = LinearPosterior(precision, response, self.reg, self.discount)
        self.posterior.factor  # noqa: B018 - raises LinAlgError, a ValueError, where the precision is none


@dataclasses.dataclass
class ScoredPolicy(LinearPolicy):
    """A policy over scores: those of the caller's scorer, or else the expected rewards of its own linear posterior."""

    def _prepare(self, sets: ActionSets) -> ActionSets:
        return dataclasses.replace(sets, scores=self._scores(sets), features=None)

    def expected_rewards(self, sets: ActionSets) -> np.ndarray | None:
        return self._scores(sets)

    def _scores(self, sets: ActionSets) -> np.ndarray:
        """float64[m], higher is better."""
        if sets.scores is not None:
            return sets.scores
        posterior, features = self._posterior_of(sets)
        return posterior.expected(features)

    def _update(self, outcomes: Outcomes) -> None:
        if outcomes.features is not None:  # without, the scorer learns elsewhere
            super()._update(outcomes)
