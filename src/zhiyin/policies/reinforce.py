"""Top-K off-policy REINFORCE: a softmax policy learned from logged decisions (Chen et al., WSDM 2019).

    maximise  Σ over the log of  min(π(a)/β(a), cap) · λ_K(π(a)) · r · log π(a)  +  κ log π(a)
    λ_K(π) = K (1 - π)^(K-1)

β is the logged propensity and λ_K the derivative of the chance to be among K drawn actions; weight and multiplier are
constants in the gradient. The last term is the Kullback–Leibler divergence from the logging policy, up to a constant,
by the logged choices. K = 1 without a cap is the usual off-policy gradient of the reward.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from zhiyin.core.errors import DataError, NotFittedError
from zhiyin.core.parallel import kernel
from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.policies.action_sets import ActionSets, as_array
from zhiyin.policies.softmax import Softmax


@dataclasses.dataclass(frozen=True, eq=False)
class LoggedChoices:
    """Decisions that were made by another policy, and what they brought.

    Parameters
    ----------
    sets: the actions, with features.
    rows: int64[n], rows of the chosen actions.
    rewards: float64[n].
    propensities: float64[n] in (0, 1], the probabilities with which they were chosen.

    Raises
    ------
    DataError: shapes that do not fit, a propensity out of range, a chosen action of another decision.
    """

    sets: ActionSets
    rows: np.ndarray
    rewards: np.ndarray
    propensities: np.ndarray

    def __post_init__(self) -> None:
        as_array(self, "rows", np.int64, 1)
        as_array(self, "rewards", np.float64, 1)
        as_array(self, "propensities", np.float64, 1)
        n, offsets = self.sets.n_decisions, self.sets.offsets
        if not len(self.rows) == len(self.rewards) == len(self.propensities) == n:
            raise DataError("rows, rewards and propensities are not one a decision", remedy=f"{n} of each")
        wrong = (self.rows < offsets[:-1]) | (self.rows >= offsets[1:])
        if wrong.any():
            decision = int(np.argmax(wrong))
            remedy = "rows count through the actions of all decisions"
            raise DataError(f"the chosen row of decision {decision} is none of its actions", remedy=remedy)
        bad = ~((self.propensities > 0) & (self.propensities <= 1))
        if bad.any():
            decision = int(np.argmax(bad))
            remedy = "log the probability that the choice was drawn with"
            raise DataError(f"propensity {self.propensities[decision]:g} of decision {decision}", remedy=remedy)
        if self.sets.features is None:
            raise DataError("logged decisions without features", remedy="ActionSets(..., features=...)")


@dataclasses.dataclass
class TopKReinforce(Softmax):
    """π_a ∝ exp(xᵀθ / temperature). θ is learned by `fit` from a log; single outcomes teach it nothing."""

    slate_size: int = param(1, "K: actions that are shown at once", at_least=1)
    weight_cap: float = param(20.0, "largest importance weight; 0: weights of 1, no correction", at_least=0)
    logging_kl: float = param(0.0, "κ: how far to keep to the logging policy", at_least=0, tune=(0, 1))
    epochs: int = param(20, "passes over the log", at_least=1)
    batch_size: int = param(256, "decisions a step", at_least=1)
    learning_rate: float = param(0.02, "step of Adam", at_least=0, tune=(1e-3, 0.3), log=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.weights: np.ndarray | None = None

    def fit(self, log: LoggedChoices, run: Run | None = None) -> TopKReinforce:
        """Learn from a log, from zero. The order of the decisions is drawn by the run's seed; returns self.

        Raises DataError for a log of no decisions.
        """
        run = run or Run()
        n = log.sets.n_decisions
        if n == 0:
            raise DataError("the log holds no decisions", remedy="a longer time, or another placement")
        assert log.sets.features is not None
        self.weights = np.zeros(log.sets.features.shape[1])
        moments = np.zeros((2, len(self.weights)))
        rng, step = run.rng(1), 0
        with run.bar(type(self).__name__, self.epochs) as advance:
            for _ in range(self.epochs):
                order = rng.permutation(n)
                for start in range(0, n, self.batch_size):
                    step += 1
                    slope = self.gradient(log, order[start : start + self.batch_size])
                    moments[0] += 0.1 * (slope - moments[0])
                    moments[1] += 0.001 * (slope**2 - moments[1])
                    first, second = moments[0] / (1 - 0.9**step), moments[1] / (1 - 0.999**step)
                    self.weights += self.learning_rate * first / (np.sqrt(second) + 1e-8)
                advance(1)
        self.n_updates = n
        return self

    def gradient(self, log: LoggedChoices, decisions: np.ndarray | None = None) -> np.ndarray:
        """float64[d]: mean gradient over decisions, int64; None: all. See the module for what it is the gradient of."""
        if self.weights is None:
            raise NotFittedError("this TopKReinforce has not been fitted", remedy="call fit(log) first")
        decisions = np.arange(log.sets.n_decisions) if decisions is None else np.asarray(decisions)
        cap = self.weight_cap or np.inf
        excluded = log.sets.excluded if log.sets.excluded is not None else np.zeros(len(log.sets.actions), bool)
        return _gradient(
            log.sets.features, log.sets.offsets, excluded, log.rows, log.rewards, log.propensities, decisions,
            self.weights, self.temperature, float(self.slate_size), cap, self.weight_cap > 0, self.logging_kl,
        )  # fmt: skip

    def expected_rewards(self, sets: ActionSets) -> np.ndarray | None:
        return None  # scores of a softmax are no rewards

    def _scores(self, sets: ActionSets) -> np.ndarray:
        if sets.features is None:
            raise DataError("TopKReinforce chooses by features", remedy="ActionSets(..., features=...)")
        if self.weights is None:
            return np.zeros(len(sets.actions))
        if sets.features.shape[1] != len(self.weights):
            raise DataError(
                f"{sets.features.shape[1]} features where the policy has learned with {len(self.weights)}",
                remedy="use the same features, or fit again",
            )
        return sets.features @ self.weights

    def state(self) -> dict[str, np.ndarray]:
        return {} if self.weights is None else {"weights": self.weights}

    def _restore(self, state: Mapping[str, np.ndarray]) -> None:
        weights = state["weights"]
        if weights.ndim != 1 or weights.dtype != np.float64 or not np.isfinite(weights).all():
            raise ValueError("the weights are no finite numbers")
        self.weights = weights


@kernel
def _gradient(
    features, offsets, excluded, chosen, rewards, propensities, decisions, weights, temperature, k, cap, corrected, kl
):
    d = len(weights)
    total, mean = np.zeros(d), np.empty(d)
    longest = 0
    for r in decisions:
        longest = max(longest, offsets[r + 1] - offsets[r])
    probabilities = np.empty(longest)
    for r in decisions:
        first, last = offsets[r], offsets[r + 1]
        best = -np.inf
        for row in range(first, last):
            score = 0.0
            for i in range(d):
                score += features[row, i] * weights[i]
            probabilities[row - first] = -np.inf if excluded[row] else score / temperature
            best = max(best, probabilities[row - first])
        mass = 0.0
        for row in range(last - first):
            probabilities[row] = np.exp(probabilities[row] - best)
            mass += probabilities[row]
        mean[:] = 0.0
        for row in range(last - first):
            probabilities[row] /= mass
            for i in range(d):
                mean[i] += probabilities[row] * features[first + row, i]
        p = probabilities[chosen[r] - first]
        factor = k * (1.0 - p) ** (k - 1.0) * rewards[r]
        if corrected:
            factor *= min(p / propensities[r], cap)
        factor = (factor + kl) / temperature
        for i in range(d):
            total[i] += factor * (features[chosen[r], i] - mean[i])
    return total / len(decisions)
