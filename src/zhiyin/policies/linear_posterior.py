"""A Gaussian posterior over the weights of a linear model of the reward, shared by all actions.

    r = θᵀx + noise,  θ ~ N(0, I/λ)   ⇒   θ | data ~ N(A⁻¹b, A⁻¹),   A = λI + Σ xxᵀ,   b = Σ r x

(the noise has variance 1 here; policies scale the covariance.) With a discount γ < 1 old events count less, for tastes
that change: A ← γA + (1 - γ)λI + xxᵀ, b ← γb + r x (Russac, Vernade & Cappé, NeurIPS 2019).
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.core.parallel import kernel


class LinearPosterior:
    """The posterior after some outcomes. One writer calls `update`; readers take what `snapshot` returns.

    Parameters
    ----------
    precision: float64[d, d], A.
    response: float64[d], b.
    reg: λ > 0, precision of the prior.
    discount: γ in (0, 1], factor of what was learned before an event.
    """

    def __init__(self, precision: np.ndarray, response: np.ndarray, reg: float, discount: float) -> None:
        self.precision, self.response, self.reg, self.discount = precision, response, reg, discount

    @classmethod
    def prior(cls, n_features: int, reg: float = 1.0, discount: float = 1.0) -> LinearPosterior:
        """Before the first outcome."""
        return cls(reg * np.eye(n_features), np.zeros(n_features), reg, discount)

    @property
    def n_features(self) -> int:
        return len(self.response)

    def update(self, features: np.ndarray, rewards: np.ndarray) -> None:
        """Learn from outcomes in the order given. features: float64[n, d]. rewards: float64[n]."""
        self.check(features)
        _update(self.precision, self.response, features, rewards, self.reg, self.discount)
        self._drop_computed()

    def forget(self, share: float) -> None:
        """Let what was learned count less, as if a share of it, from 0 to 1, had never been observed.

        The covariance grows towards that of the prior, so that a change is learned sooner.
        """
        self.precision *= 1.0 - share
        self.precision[np.diag_indices_from(self.precision)] += share * self.reg
        self.response *= 1.0 - share
        self._drop_computed()

    def marginalised(self, keep: np.ndarray) -> LinearPosterior:
        """The posterior of some weights with the others back at the prior: for features that have lost their meaning.

        Of θ ~ N(m, A⁻¹), θ_K ~ N(m_K, (A⁻¹)_KK), whose precision is the Schur complement A_KK - A_KD A_DD⁻¹ A_DK.

        keep: bool[d], the weights that keep what was learned of them.
        """
        keep = np.asarray(keep, dtype=bool)
        kept, dropped = np.flatnonzero(keep), np.flatnonzero(~keep)
        result = LinearPosterior.prior(self.n_features, self.reg, self.discount)
        rows, cross = np.ix_(kept, kept), self.precision[np.ix_(kept, dropped)]
        weights = np.linalg.solve(self.precision[np.ix_(dropped, dropped)], cross.T).T if len(dropped) else cross
        schur = self.precision[rows] - weights @ cross.T
        result.precision[rows] = (schur + schur.T) / 2
        result.response[kept] = self.response[kept] - weights @ self.response[dropped]
        return result

    def _drop_computed(self) -> None:
        for name in ("factor", "mean", "root"):
            self.__dict__.pop(name, None)

    def snapshot(self) -> LinearPosterior:
        """The posterior as it is now, unaffected by later updates."""
        return LinearPosterior(self.precision.copy(), self.response.copy(), self.reg, self.discount)

    def check(self, features: np.ndarray) -> None:
        """Raises DataError for features of another width."""
        if features.shape[1] != self.n_features:
            raise DataError(
                f"{features.shape[1]} features where the policy has learned with {self.n_features}",
                remedy="use the same features, or begin with a new policy",
            )

    @cached_property
    def factor(self) -> np.ndarray:
        """float64[d, d], lower triangular: A = LLᵀ (Cholesky; an SVD would differ from machine to machine)."""
        return np.linalg.cholesky(self.precision)

    @cached_property
    def root(self) -> np.ndarray:
        """float64[d, d], lower triangular: L⁻¹. With z ~ N(0, I), L⁻ᵀz ~ N(0, A⁻¹); |L⁻¹x|² = xᵀA⁻¹x."""
        return _inverse_of_lower(self.factor)

    @cached_property
    def mean(self) -> np.ndarray:
        """float64[d], A⁻¹b."""
        return self.root.T @ (self.root @ self.response)

    def expected(self, features: np.ndarray) -> np.ndarray:
        """float64[m]: expected rewards of rows of features, float64[m, d]."""
        self.check(features)
        out = np.empty(len(features))
        _expected(features, self.mean, out)
        return out

    def deviation(self, features: np.ndarray) -> np.ndarray:
        """float64[m]: standard deviations of the expected rewards, √(xᵀA⁻¹x)."""
        self.check(features)
        out = np.empty(len(features))
        _deviation(features, self.root, out)
        return out


@kernel
def _update(precision, response, features, rewards, reg, discount):
    d = len(response)
    for n in range(len(rewards)):
        if discount < 1.0:
            for i in range(d):
                for j in range(i + 1):
                    precision[i, j] *= discount
                precision[i, i] += (1.0 - discount) * reg
                response[i] *= discount
        for i in range(d):
            x = features[n, i]
            response[i] += rewards[n] * x
            for j in range(i + 1):
                precision[i, j] += x * features[n, j]
    for i in range(d):
        for j in range(i):
            precision[j, i] = precision[i, j]


# Not by LAPACK: for matrices this small, its threads cost more time than they save.
@kernel
def _inverse_of_lower(factor):
    d = len(factor)
    out = np.zeros((d, d))
    for j in range(d):
        out[j, j] = 1.0 / factor[j, j]
        for i in range(j + 1, d):
            total = 0.0
            for k in range(j, i):
                total += factor[i, k] * out[k, j]
            out[i, j] = -total / factor[i, i]
    return out


# A row is summed in the same order wherever it stands: the probabilities of actions must not depend on their order.
@kernel
def _expected(features, mean, out):
    for row in range(len(features)):
        total = 0.0
        for i in range(len(mean)):
            total += features[row, i] * mean[i]
        out[row] = total


@kernel
def _deviation(features, root, out):
    d = len(root)
    for row in range(len(features)):
        square = 0.0
        for i in range(d):
            part = 0.0
            for j in range(i + 1):
                part += root[i, j] * features[row, j]
            square += part * part
        out[row] = np.sqrt(square)
