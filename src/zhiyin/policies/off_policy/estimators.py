"""Off-policy estimators: how each weights rewards, and whether it uses a reward model.

With w = target probability / propensity, r the reward, q the reward model's prediction for the chosen action and
q_target its expectation under the target policy, every estimator here is

    mean(q_target) + mean(v * (r - q))        v = f(w), without a model q = q_target = 0,

or, self-normalised, mean(q_target) + sum(v * (r - q)) / sum(v). They differ in f.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from zhiyin.core.errors import ConfigError, DataError, suggest
from zhiyin.policies.off_policy.logged_decisions import FloatArray, LoggedDecisions

WeightTransform = Callable[[FloatArray, float], FloatArray]
# Candidates of the limit that SLOPE tunes; infinity is the estimator without a limit.
WEIGHT_LIMITS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, np.inf)
# Shrinkage acts on the squared weight.
SHRINKAGE_LIMITS = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6, np.inf)


def identity_weights(weights: FloatArray, limit: float = np.inf) -> FloatArray:
    """The importance weights themselves."""
    return weights


def zero_weights(weights: FloatArray, limit: float = 0.0) -> FloatArray:
    """Zeros: rewards are not used."""
    return np.zeros_like(weights)


def clipped_weights(weights: FloatArray, limit: float) -> FloatArray:
    """min(w, limit)."""
    return weights if limit == np.inf else np.minimum(weights, limit)


def switch_weights(weights: FloatArray, limit: float) -> FloatArray:
    """w where it is at most `limit`, else 0: large weights leave the row to the reward model."""
    return weights if limit == np.inf else np.where(weights <= limit, weights, 0.0)


def shrunk_weights(weights: FloatArray, limit: float) -> FloatArray:
    """limit * w / (w² + limit): optimistic shrinkage; w for an infinite limit, 0 for limit 0."""
    if limit == np.inf:
        return weights
    if limit == 0:
        return np.zeros_like(weights)
    return weights * limit / (weights * weights + limit)


@dataclass(frozen=True)
class Estimator:
    """How one estimator weights rewards.

    Parameters
    ----------
    name: as callers ask for it.
    title: as tables show it.
    source: the paper that proposed it.
    transform: (weights float64[n], limit) -> float64[n].
    self_normalised: whether the weighted part is divided by the sum of weights instead of the number of rows.
    uses_model: whether a reward model's predictions are needed.
    limits: candidates of `limit` that SLOPE chooses among; empty where there is nothing to tune.
    unbiased: whether the expectation is the target's value whenever the propensities are right and every action that
        the target may choose can be logged (self-normalised ones are so up to a term that falls with 1/n).
    """

    name: str
    title: str
    source: str
    transform: WeightTransform
    self_normalised: bool = False
    uses_model: bool = False
    limits: tuple[float, ...] = ()
    unbiased: bool = True

    def contributions(self, log: LoggedDecisions, limit: float = np.inf) -> FloatArray:
        """float64[n]: one term per row, whose mean over rows, weighted by 1 / pass_probability, is the estimate.

        limit: of estimators that have one; infinity is none. Raises DataError where a needed reward model is missing.
        """
        self.check(log)
        weights = self.transform(log.importance_weights, limit)
        if self.self_normalised:
            row_weights = row_weights_of(log)
            weights = weights * (row_weights.sum() / float(row_weights @ weights))
        if not self.uses_model:
            return weights * log.rewards
        assert log.predicted_chosen is not None
        assert log.predicted_target is not None
        return log.predicted_target + weights * (log.rewards - log.predicted_chosen)

    def estimate(self, log: LoggedDecisions, limit: float = np.inf) -> float:
        """The estimated value of the target policy, reward per decision."""
        contributions = self.contributions(log, limit)
        row_weights = row_weights_of(log)
        return float(row_weights @ contributions / row_weights.sum())

    def check(self, log: LoggedDecisions) -> None:
        """Raise DataError where the log lacks the predictions that this estimator needs."""
        if self.uses_model and not log.has_predictions:
            raise DataError(
                f"{self.name} needs a reward model's predictions",
                remedy="add them by log.with_predictions(*cross_fitted_predictions(...)), or ask for ips and snips",
            )


def row_weights_of(log: LoggedDecisions) -> FloatArray:
    """float64[n]: how many decisions each row stands for, 1 / pass_probability."""
    if log.pass_probabilities is None:
        return np.ones(len(log))
    return 1.0 / log.pass_probabilities


ESTIMATORS: dict[str, Estimator] = {
    estimator.name: estimator
    for estimator in (
        Estimator("ips", "IPS", "Horvitz and Thompson 1952; Li et al., WSDM 2011", identity_weights),
        Estimator("snips", "SNIPS", "Swaminathan and Joachims, NeurIPS 2015", identity_weights, self_normalised=True),
        Estimator(
            "clipped_ips", "clipped IPS", "Ionides 2008; Bottou et al., JMLR 2013", clipped_weights,
            limits=WEIGHT_LIMITS, unbiased=False,
        ),
        Estimator("dm", "DM", "Beygelzimer and Langford, KDD 2009", zero_weights, uses_model=True, unbiased=False),
        Estimator("dr", "DR", "Dudík, Langford and Li, ICML 2011", identity_weights, uses_model=True),
        Estimator(
            "sndr", "SNDR", "Thomas and Brunskill, ICML 2016", identity_weights, self_normalised=True, uses_model=True
        ),
        Estimator(
            "switch_dr", "Switch-DR", "Wang, Agarwal and Dudík, ICML 2017", switch_weights,
            uses_model=True, limits=WEIGHT_LIMITS, unbiased=False,
        ),
        Estimator(
            "dros", "DRos", "Su et al., ICML 2020", shrunk_weights,
            uses_model=True, limits=SHRINKAGE_LIMITS, unbiased=False,
        ),
    )
}  # fmt: skip


def estimator_named(name: str) -> Estimator:
    """The estimator of this name. Raises ConfigError with the nearest name where there is none."""
    key = name.lower().replace("-", "_")
    if key not in ESTIMATORS:
        raise ConfigError(f"there is no off-policy estimator {name!r}", remedy=suggest(key, list(ESTIMATORS)))
    return ESTIMATORS[key]
