"""The linear posterior: against MABWiser's figures, against the batch solution, with and without a discount."""

from __future__ import annotations

import numpy as np
import pytest

from zhiyin.core.errors import DataError
from zhiyin.policies.action_sets import ActionSets, Outcomes
from zhiyin.policies.lin_ts import LinTS
from zhiyin.policies.lin_ucb import LinUCB
from zhiyin.policies.linear_posterior import LinearPosterior

# The rows of MABWiser's tests/test_linucb.py (Apache-2.0), with what it expects for two contexts and three arms.
HISTORY = np.array(
    [[0, 1, 2, 3, 5], [1, 1, 1, 1, 1], [0, 0, 1, 0, 0], [0, 2, 2, 3, 5], [1, 3, 1, 1, 1],
     [0, 0, 0, 0, 0], [0, 1, 4, 3, 5], [0, 1, 2, 4, 5], [1, 2, 1, 1, 3], [0, 2, 1, 0, 0]]
)  # fmt: skip
CONTEXTS = np.array([[0, 1, 2, 3, 5], [1, 1, 1, 1, 1]])


def per_arm(contexts: np.ndarray, arms: np.ndarray) -> np.ndarray:
    """Features of a model of its own for each arm: the context in the arm's block, 0 elsewhere."""
    out = np.zeros((len(contexts), 3, contexts.shape[1]))
    out[np.arange(len(contexts)), arms] = contexts
    return out.reshape(len(contexts), -1)


@pytest.mark.parametrize(
    ("alpha", "arms", "rewards", "expected"),
    [
        (0, [0, 0, 0, 1, 1, 1, 2, 2, 2, 0], [0, 0, 0, 0, 0, 0, 1, 1, 1, 1],
         [[-0.018378378378378413, 0.0, 0.9966292134831471], [0.14054054054054055, 0.0, 0.43258426966292074]]),
        (1, [0, 0, 0, 1, 1, 2, 2, 2, 2, 2], [0, 0, 1, 0, 0, 0, 0, 1, 1, 1],
         [[0.9790312458954391, 1.1617706239438832, 1.4247056229871702],
          [0.8896475809353053, 0.923364043088837, 1.457085577251709]]),
    ],
)  # fmt: skip
def test_upper_bounds_are_those_of_mabwiser(alpha, arms, rewards, expected):
    policy = LinUCB(alpha=alpha, reg=1)
    policy.update(Outcomes(np.array(arms), np.array(rewards), per_arm(HISTORY, np.array(arms))))
    for context, bounds in zip(CONTEXTS, expected):
        features = per_arm(np.tile(context, (3, 1)), np.arange(3))
        sets = ActionSets.single([0, 1, 2], features)
        assert policy._prepare(sets).scores == pytest.approx(bounds, abs=1e-12)
        assert policy.choose(sets).rows[0] == np.argmax(bounds)


@pytest.mark.parametrize("discount", [1.0, 0.999])
def test_many_single_updates_equal_the_batch_solution(discount):
    rng = np.random.default_rng(0)
    n, d, reg = 100_000, 8, 0.7
    features, rewards = rng.normal(size=(n, d)), rng.normal(size=n)
    posterior = LinearPosterior.prior(d, reg, discount)
    posterior.update(features, rewards)
    weights = discount ** np.arange(n - 1, -1, -1)
    precision = (features * weights[:, None]).T @ features + reg * np.eye(d)
    mean = np.linalg.solve(precision, features.T @ (weights * rewards))
    assert np.abs(posterior.precision - precision).max() <= 1e-8 * np.abs(precision).max()
    assert np.abs(posterior.mean - mean).max() <= 1e-8
    expected = np.sqrt(np.einsum("ij,ij->i", features[:9] @ np.linalg.inv(precision), features[:9]))
    assert posterior.deviation(features[:9]) == pytest.approx(expected, rel=1e-8)


def test_a_snapshot_does_not_change():
    posterior = LinearPosterior.prior(2)
    snapshot = posterior.snapshot()
    posterior.update(np.ones((1, 2)), np.ones(1))
    assert snapshot.expected(np.ones((1, 2))) == 0
    assert posterior.expected(np.ones((1, 2))) > 0


def test_other_features_are_refused():
    policy = LinUCB()
    policy.update(Outcomes([1], [1.0], [[1.0, 2.0]]))
    with pytest.raises(DataError, match="3 features where the policy has learned with 2"):
        policy.choose(ActionSets.single([1], [[1.0, 2.0, 3.0]]))
    with pytest.raises(DataError, match="chooses by features"):
        policy.choose(ActionSets.single([1], scores=[0.5]))
    with pytest.raises(DataError, match="learns by features"):
        policy.update(Outcomes([1], [1.0]))


@pytest.mark.slow
def test_thompson_draws_have_the_mean_and_covariance_of_the_posterior():
    rng = np.random.default_rng(1)
    policy = LinTS(scale=0.8, draws=40_000)
    policy.update(Outcomes(np.zeros(30, int), rng.normal(size=30), rng.normal(size=(30, 6))))
    features = rng.normal(size=(5, 6))
    values = policy._sample(ActionSets.single(range(5), features), np.array([9], np.uint64), 0, 1)
    assert policy.posterior is not None
    covariance = 0.64 * features @ np.linalg.inv(policy.posterior.precision) @ features.T
    scale = np.sqrt(np.diag(covariance))
    assert np.abs((values.mean(axis=0) - policy.posterior.expected(features)) / scale).max() <= 4.5 / 200
    assert np.abs(np.cov(values.T) - covariance).max() <= 0.03 * covariance.max()


def test_the_marginal_posterior_is_that_of_the_gaussian() -> None:
    rng, d = np.random.default_rng(0), 6
    posterior = LinearPosterior.prior(d, reg=0.7)
    posterior.update(rng.normal(size=(40, d)), rng.normal(size=40))
    keep = np.array([True, False, True, True, False, False])
    result = posterior.marginalised(keep)
    covariance = np.linalg.inv(posterior.precision)
    np.testing.assert_allclose(np.linalg.inv(result.precision)[np.ix_(keep, keep)], covariance[np.ix_(keep, keep)])
    np.testing.assert_allclose(result.mean[keep], posterior.mean[keep])
    np.testing.assert_array_equal(result.mean[~keep], 0.0)
    np.testing.assert_array_equal(result.precision[np.ix_(~keep, ~keep)], 0.7 * np.eye(3))
    np.testing.assert_array_equal(result.precision[np.ix_(keep, ~keep)], 0.0)
    everything = posterior.marginalised(np.ones(d, dtype=bool))
    np.testing.assert_allclose(everything.precision, posterior.precision)
    nothing = posterior.marginalised(np.zeros(d, dtype=bool))
    np.testing.assert_array_equal(nothing.precision, 0.7 * np.eye(d))


def test_forgetting_a_share_is_having_seen_less() -> None:
    rng = np.random.default_rng(1)
    features, rewards = rng.normal(size=(30, 4)), rng.normal(size=30)
    posterior, lighter = LinearPosterior.prior(4, reg=0.5), LinearPosterior.prior(4, reg=0.5)
    posterior.update(features, rewards)
    assert posterior.mean is not None
    posterior.forget(0.75)
    lighter.update(features / 2, rewards / 2)  # each outcome counts a quarter
    np.testing.assert_allclose(posterior.precision, lighter.precision)
    np.testing.assert_allclose(posterior.mean, lighter.mean)
