"""The cross-fitted reward model, and the classification problem whose figures are published."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.policies.off_policy import ESTIMATORS, LoggedDecisions, evaluate_off_policy
from zhiyin.policies.off_policy.reward_model import cross_fitted_predictions


def draw(n: int = 6000, seed: int = 0, n_actions: int = 8) -> dict[str, Any]:
    """Decisions whose rewards are a logistic function of context and action vector, with interactions."""
    rng = np.random.default_rng(seed)
    contexts, vectors = rng.normal(0, 1, (n, 3)), rng.normal(0, 1, (n_actions, 2))
    scores = -1 + contexts @ rng.normal(0, 1, (3, 2)) @ vectors.T
    q = 1 / (1 + np.exp(-scores))
    logging = np.full((n, n_actions), 1 / n_actions)
    target = np.exp(2 * scores)
    target /= target.sum(axis=1, keepdims=True)
    actions = rng.integers(0, n_actions, n)
    rewards = (rng.random(n) < q[np.arange(n), actions]).astype(float)
    return {"contexts": contexts, "vectors": vectors, "q": q, "logging": logging, "target": target, "actions": actions,
            "rewards": rewards}  # fmt: skip


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_predictions_approach_the_expected_rewards(kind: str) -> None:
    case = draw()
    chosen, expected = cross_fitted_predictions(
        case["contexts"], case["actions"], case["rewards"], case["target"], action_vectors=case["vectors"], kind=kind
    )
    rows = np.arange(len(chosen))
    truth = case["q"][rows, case["actions"]]
    assert np.sqrt(np.mean((chosen - truth) ** 2)) < (0.03 if kind == "logistic" else 0.2)
    value = float((case["target"] * case["q"]).sum(axis=1).mean())
    assert expected.mean() == pytest.approx(value, abs=0.01 if kind == "logistic" else 0.2)


def test_the_model_reduces_the_variance_and_dm_without_interactions_is_wrong() -> None:
    case = draw()
    log = LoggedDecisions(case["rewards"], np.full(6000, 1 / 8), case["target"][np.arange(6000), case["actions"]])
    value = float((case["target"] * case["q"]).sum(axis=1).mean())
    by = {}
    for interactions in (True, False):
        predictions = cross_fitted_predictions(
            case["contexts"], case["actions"], case["rewards"], case["target"], action_vectors=case["vectors"],
            interactions=interactions,
        )  # fmt: skip
        by[interactions] = evaluate_off_policy(log.with_predictions(*predictions))
    assert by[True]["dr"].standard_error < 0.8 * by[True]["ips"].standard_error
    assert by[True]["dm"].value == pytest.approx(value, abs=0.01)
    assert abs(by[False]["dm"].value - value) > 0.1  # and its own interval is blind to it
    assert not by[False]["dm"].low < value < by[False]["dm"].high
    assert not by[False]["dm"].covers_bias
    assert by[False]["dr"].low < value < by[False]["dr"].high


def test_no_row_predicts_itself() -> None:
    """Rewards without any pattern: a prediction that had seen its row would go along with the reward."""
    rng = np.random.default_rng(1)
    contexts, rewards = rng.normal(0, 1, (200, 30)), rng.normal(0, 1, 200)
    chosen, _ = cross_fitted_predictions(
        contexts, rng.integers(0, 2, 200), rewards, np.array([0.5, 0.5]), kind="ridge", penalty=1e-6
    )
    assert np.corrcoef(chosen, rewards)[0, 1] < 0.15
    # Rows of a group are in one fold: copies of a row do not tell its reward either.
    twice = np.repeat(np.arange(200), 2)
    actions = rng.integers(0, 2, 200)[twice]
    kind: dict[str, Any] = {"kind": "ridge", "penalty": 1e-6}
    leaking, _ = cross_fitted_predictions(contexts[twice], actions, rewards[twice], np.array([0.5, 0.5]), **kind)
    grouped, _ = cross_fitted_predictions(
        contexts[twice], actions, rewards[twice], np.array([0.5, 0.5]), groups=twice, **kind
    )
    assert np.corrcoef(leaking, rewards[twice])[0, 1] > 0.2
    assert np.corrcoef(grouped, rewards[twice])[0, 1] < 0.15


def test_against_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.linear_model")
    case = draw(2000, seed=3)
    settings: dict[str, Any] = {"action_vectors": case["vectors"], "interactions": False, "n_folds": 2, "seed": 4}
    arguments = (case["contexts"], case["actions"], case["rewards"], case["target"])
    fold = (np.random.default_rng(4).permutation(2000) % 2).astype(bool)

    def scaled(values: np.ndarray) -> np.ndarray:
        return (values - values.mean(axis=0)) / values.std(axis=0)

    features = np.column_stack([scaled(case["contexts"]), scaled(case["vectors"])[case["actions"]]])
    logistic = sklearn.LogisticRegression(C=0.5, tol=1e-10, max_iter=1000).fit(features[~fold], case["rewards"][~fold])
    ours, _ = cross_fitted_predictions(*arguments, penalty=2.0, **settings)
    assert ours[fold] == pytest.approx(logistic.predict_proba(features[fold])[:, 1], abs=1e-6)


def test_actions_without_vectors_and_contexts_without_columns() -> None:
    rng = np.random.default_rng(0)
    actions, rates = rng.integers(0, 3, 30_000), np.array([0.1, 0.3, 0.6])
    rewards = (rng.random(30_000) < rates[actions]).astype(float)
    chosen, expected = cross_fitted_predictions(np.empty((30_000, 0)), actions, rewards, np.array([0.0, 0.5, 0.5]))
    assert chosen == pytest.approx(rates[actions], abs=0.02)
    assert expected == pytest.approx(np.full(30_000, 0.45), abs=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "forest"}, "no reward model 'forest'"),
        ({"n_folds": 1}, "at least 2"),
        ({"n_folds": 7}, "cannot make 7 folds"),
        ({"rewards": np.full(6, 2.0)}, "no probabilities"),
        ({"rewards": np.full(6, np.nan)}, "not finite"),
        ({"actions": np.full(6, 3)}, "outside 0 to 2"),
        ({"contexts": np.zeros((5, 2))}, "contexts has 5 rows for 6 rewards"),
        ({"action_vectors": np.zeros((2, 2))}, "2 action vectors for 3 actions"),
        ({"contexts": np.zeros((6, 999))}, "features"),
    ],
)
def test_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    given = {"contexts": np.zeros((6, 2)), "actions": np.zeros(6, dtype=int), "rewards": np.zeros(6),
             "target": np.full(3, 1 / 3)} | change  # fmt: skip
    with pytest.raises((ConfigError, DataError), match=message):
        cross_fitted_predictions(**given)


def test_digits_as_a_bandit() -> None:
    """The example of obp's README: its truth, and the relative error of IPW, in every digit."""
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split

    contexts, labels = load_digits(return_X_y=True)
    train, test, train_labels, test_labels = train_test_split(contexts, labels, test_size=0.7, random_state=12345)
    n, rows = len(test), np.arange(len(test))

    def policy(classifier: Any, alpha: float) -> np.ndarray:
        chosen = classifier.fit(train, train_labels).predict(test).astype(int)
        probabilities = np.full((n, 10), (1 - alpha) / 10)
        probabilities[rows, chosen] = alpha + (1 - alpha) / 10
        return probabilities

    logging = policy(LogisticRegression(random_state=12345, max_iter=10_000), 0.8)
    target = policy(RandomForestClassifier(random_state=12345), 1.0)
    legacy = np.random.RandomState(12345)
    actions = np.array([legacy.choice(10, p=row, replace=False) for row in logging])
    log = LoggedDecisions(actions == test_labels, logging[rows, actions], target[rows, actions])
    truth = float(target[rows, test_labels].mean())
    assert truth == pytest.approx(0.9634340222575517, rel=1e-15)
    assert abs(ESTIMATORS["ips"].estimate(log) - truth) / truth == pytest.approx(0.01827255896321327, rel=1e-12)
    assert abs(ESTIMATORS["snips"].estimate(log) - truth) / truth == pytest.approx(0.0127732698, abs=5.1e-11)
    predictions = cross_fitted_predictions(test, actions, log.rewards, target, interactions=False)
    result = evaluate_off_policy(log.with_predictions(*predictions))
    for name in ("ips", "snips", "dr", "sndr"):
        assert result[name].low < truth < result[name].high
