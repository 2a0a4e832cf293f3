"""A linear reward model of (context, action) for the estimators that need one, fitted so that no row predicts itself.

Rows are dealt into folds; each fold is predicted by the model of the others (cross-fitting), so that a model that fits
its own noise does not bias DR. The score of a context x and an action vector v is linear in 1, x, v and, with
interactions, x ⊗ v: without interactions every context would prefer the same actions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from zhiyin.core.errors import ConfigError, DataError, suggest
from zhiyin.policies.off_policy.logged_decisions import FloatArray, check_finite

KINDS = ("logistic", "ridge")
MAX_FEATURES = 2_000
_CHUNK_ROWS = 8_192
# Cells of the matrix rows × actions that are scored at a time.
_CHUNK_CELLS = 2_000_000
_MAX_NEWTON_STEPS = 50
_NEWTON_TOLERANCE = 1e-8


@dataclass(frozen=True)
class RewardModel:
    """Coefficients float64[1 + context size, 1 + vector size] of (1, x) ⊗ (1, v); logistic: the score is a logit."""

    coefficients: FloatArray
    kind: str

    def predict_chosen(self, contexts: FloatArray, vectors: FloatArray) -> FloatArray:
        """float64[n]: expected rewards of pairs; contexts, vectors: float64[n, ...] with a leading column of ones."""
        return self._reward(np.einsum("ij,ij->i", contexts @ self.coefficients, vectors))

    def predict_all(self, contexts: FloatArray, vectors: FloatArray) -> FloatArray:
        """float64[n, n_actions]: expected rewards of each context with every action."""
        return self._reward(contexts @ self.coefficients @ vectors.T)

    def _reward(self, scores: FloatArray) -> FloatArray:
        return expit(scores) if self.kind == "logistic" else scores


def cross_fitted_predictions(
    contexts: FloatArray,
    actions: np.ndarray,
    rewards: FloatArray,
    target: FloatArray,
    *,
    action_vectors: FloatArray | None = None,
    kind: str = "logistic",
    interactions: bool = True,
    penalty: float = 1.0,
    n_folds: int = 3,
    groups: np.ndarray | None = None,
    row_weights: FloatArray | None = None,
    seed: int = 0,
) -> tuple[FloatArray, FloatArray]:
    """Predictions for `LoggedDecisions.with_predictions`: of the chosen actions, and expected under the target policy.

    Parameters
    ----------
    contexts: float64[n, context size], what was known of each decision; size 0 is allowed.
    actions: int64[n], codes of the chosen actions.
    rewards: float64[n]; in [0, 1] for the logistic kind.
    target: float64[n, n_actions] or float64[n_actions], the target policy's probabilities.
    action_vectors: float64[n_actions, vector size]; None: each action has a coefficient of its own.
    kind: "logistic" or "ridge".
    interactions: whether the effect of an action depends on the context.
    penalty: of squared coefficients, on standardised columns; the intercept has none.
    n_folds: at least 2.
    groups: int64[n]; rows of a group are in one fold.
    row_weights: float64[n], 1 / pass_probability of a sub-sampled log.
    seed: of the deal into folds.

    Returns (float64[n], float64[n]). Raises ConfigError and DataError for settings and arrays that do not fit.
    """
    rewards, actions = np.asarray(rewards, dtype=np.float64), np.asarray(actions)
    contexts, target = np.asarray(contexts, dtype=np.float64), np.asarray(target, dtype=np.float64)
    n, n_actions = len(rewards), target.shape[-1]
    vectors = np.eye(n_actions) if action_vectors is None else np.asarray(action_vectors, dtype=np.float64)
    _check(contexts, actions, rewards, target, vectors, kind, penalty, n_folds)
    left, right = _standardised(contexts), _standardised(vectors, centre=action_vectors is not None)
    active = np.ones((left.shape[1], right.shape[1]), dtype=bool)
    active[1:, 1:] = interactions
    if active.sum() > MAX_FEATURES:
        raise ConfigError(
            f"the reward model would have {active.sum():,} features, {MAX_FEATURES:,} are the most",
            remedy="give action_vectors with few columns, set interactions=False, or give your own model's predictions",
        )
    fold = _deal(n, n_folds, groups, seed)
    data = _Data(left, right, actions, rewards, np.ones(n) if row_weights is None else row_weights, active)
    models = (
        _fit_ridge(data, fold, n_folds, penalty) if kind == "ridge" else _fit_logistic(data, fold, n_folds, penalty)
    )
    chosen, expected = np.empty(n), np.empty(n)
    for number, model in enumerate(models):
        rows = np.flatnonzero(fold == number)
        for part in _parts(rows, max(1, _CHUNK_CELLS // max(1, n_actions))):
            rewards_of_all = model.predict_all(left[part], right)
            chosen[part] = rewards_of_all[np.arange(len(part)), actions[part]]
            probabilities = target if target.ndim == 1 else target[part]
            expected[part] = (
                np.einsum("ij,...j->i", rewards_of_all, probabilities)
                if target.ndim == 1
                else np.einsum("ij,ij->i", rewards_of_all, probabilities)
            )
    return chosen, expected


@dataclass(frozen=True)
class _Data:
    """Contexts and action vectors with a leading column of ones, and what was logged."""

    contexts: FloatArray
    vectors: FloatArray
    actions: np.ndarray
    rewards: FloatArray
    row_weights: FloatArray
    active: np.ndarray

    def features(self, rows: np.ndarray) -> FloatArray:
        """float64[m, n_features]: the active products of (1, x) and (1, v); the first is the intercept."""
        products = self.contexts[rows][:, :, None] * self.vectors[self.actions[rows]][:, None, :]
        return products[:, self.active]

    def model(self, coefficients: FloatArray, kind: str) -> RewardModel:
        matrix = np.zeros(self.active.shape)
        matrix[self.active] = coefficients
        return RewardModel(matrix, kind)


def _fit_ridge(data: _Data, fold: np.ndarray, n_folds: int, penalty: float) -> list[RewardModel]:
    n_features = int(data.active.sum())
    grams, moments = np.zeros((n_folds, n_features, n_features)), np.zeros((n_folds, n_features))
    for number in range(n_folds):
        for part in _parts(np.flatnonzero(fold == number), _CHUNK_ROWS):
            features = data.features(part)
            weighted = features * data.row_weights[part, None]
            grams[number] += weighted.T @ features
            moments[number] += weighted.T @ data.rewards[part]
    penalties = np.diag(_penalties(n_features, penalty))
    gram, moment = grams.sum(axis=0), moments.sum(axis=0)
    return [
        data.model(np.linalg.solve(gram - grams[number] + penalties, moment - moments[number]), "ridge")
        for number in range(n_folds)
    ]


def _fit_logistic(data: _Data, fold: np.ndarray, n_folds: int, penalty: float) -> list[RewardModel]:
    return [data.model(_newton(data, np.flatnonzero(fold != number), penalty), "logistic") for number in range(n_folds)]


def _newton(data: _Data, rows: np.ndarray, penalty: float) -> FloatArray:
    """Coefficients of the penalised logistic regression on these rows, by Newton's method with step halving."""
    n_features = int(data.active.sum())
    penalties = _penalties(n_features, penalty)
    weights = data.row_weights[rows]
    mean = float(weights @ data.rewards[rows] / weights.sum())
    coefficients = np.zeros(n_features)
    coefficients[0] = logit(np.clip(mean, 1e-6, 1 - 1e-6))
    loss, gradient, curvature = _derivatives(data, rows, coefficients, penalties)
    for _ in range(_MAX_NEWTON_STEPS):
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while True:
            candidate = coefficients - size * step
            new = _derivatives(data, rows, candidate, penalties)
            if new[0] <= loss + 1e-12 * abs(loss) or size < 1e-6:
                break
            size /= 2
        improvement, coefficients = loss - new[0], candidate
        loss, gradient, curvature = new
        if improvement <= _NEWTON_TOLERANCE * max(abs(loss), 1.0):
            break
    return coefficients


def _derivatives(
    data: _Data, rows: np.ndarray, coefficients: FloatArray, penalties: FloatArray
) -> tuple[float, FloatArray, FloatArray]:
    """Loss, gradient and curvature of the penalised logistic loss."""
    loss = 0.5 * float(penalties @ coefficients**2)
    gradient = penalties * coefficients
    # A trace in the diagonal keeps the curvature invertible where a column is constant and the penalty 0.
    curvature = np.diag(penalties + 1e-9)
    for part in _parts(rows, _CHUNK_ROWS):
        features, weights = data.features(part), data.row_weights[part]
        scores = features @ coefficients
        rates = expit(scores)
        loss += float(weights @ (np.logaddexp(0, scores) - data.rewards[part] * scores))
        gradient += features.T @ (weights * (rates - data.rewards[part]))
        curvature += (features * (weights * rates * (1 - rates))[:, None]).T @ features
    return loss, gradient, curvature


def _penalties(n_features: int, penalty: float) -> FloatArray:
    penalties = np.full(n_features, penalty, dtype=np.float64)
    penalties[0] = 0.0
    return penalties


def _standardised(values: FloatArray, centre: bool = True) -> FloatArray:
    """A column of ones, then the columns with mean 0 and deviation 1; constant columns become 0."""
    if centre and values.shape[1]:
        deviation = values.std(axis=0)
        values = (values - values.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    return np.column_stack([np.ones(len(values)), values])


def _deal(n: int, n_folds: int, groups: np.ndarray | None, seed: int) -> np.ndarray:
    """int64[n]: the fold of each row."""
    position = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    n_units = int(position.max()) + 1
    if n_units < n_folds:
        raise DataError(f"{n_units} rows or groups cannot make {n_folds} folds", remedy="log more decisions")
    return (np.random.default_rng(seed).permutation(n_units) % n_folds)[position]


def _parts(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _check(
    contexts: FloatArray, actions: np.ndarray, rewards: FloatArray, target: FloatArray, vectors: FloatArray,
    kind: str, penalty: float, n_folds: int,
) -> None:  # fmt: skip
    if kind not in KINDS:
        raise ConfigError(f"there is no reward model {kind!r}", remedy=suggest(kind, list(KINDS)))
    if n_folds < 2 or penalty < 0:
        raise ConfigError(f"n_folds {n_folds} and penalty {penalty}: at least 2 and 0", remedy="leave the defaults")
    n, n_actions = len(rewards), target.shape[-1]
    shapes = {"contexts": contexts.shape[:1], "actions": actions.shape}
    if target.ndim == 2:
        shapes["target"] = target.shape[:1]
    for name, shape in shapes.items():
        if shape != (n,):
            raise DataError(f"{name} has {shape[0]} rows for {n} rewards", remedy="give one row per logged decision")
    if contexts.ndim != 2:
        raise DataError("contexts must have rows and columns", remedy="give float64[n, context size]")
    if len(vectors) != n_actions:
        raise DataError(
            f"{len(vectors)} action vectors for {n_actions} actions of the target", remedy="give one vector per action"
        )
    if n and (actions.min() < 0 or actions.max() >= n_actions):
        raise DataError(
            f"an action code is outside 0 to {n_actions - 1}", remedy="code actions as the columns of target"
        )
    check_finite(contexts, "contexts", "fill missing values first")
    check_finite(vectors, "action_vectors", "fill missing values first")
    check_finite(rewards, "rewards", "leave out decisions whose reward window has not closed")
    if kind == "logistic" and n and (rewards.min() < 0 or rewards.max() > 1):
        raise DataError(
            f"rewards from {rewards.min():g} to {rewards.max():g} are no probabilities",
            remedy='use kind="ridge", or scale rewards to 0 to 1',
        )
