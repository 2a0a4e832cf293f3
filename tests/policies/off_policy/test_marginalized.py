"""MIPS: its limits, unbiasedness where its assumption holds, and less variance."""

from __future__ import annotations

import numpy as np
import pytest

from zhiyin.core.errors import DataError
from zhiyin.policies.off_policy import ESTIMATORS, LoggedDecisions, evaluate_off_policy, support_of
from zhiyin.policies.off_policy.marginalized import marginalize_by_cluster, marginalize_by_vector

N_ACTIONS = 60


@pytest.fixture(scope="module")
def case() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    n = 5000
    logging, target = rng.dirichlet(np.full(N_ACTIONS, 0.4), 3), rng.dirichlet(np.full(N_ACTIONS, 0.4), 3)
    logging = 0.95 * logging + 0.05 / N_ACTIONS
    context = rng.integers(0, 3, n)
    clusters = np.arange(N_ACTIONS) % 6
    q = rng.uniform(0.1, 0.9, (3, 6))
    cumulative = logging.cumsum(axis=1)[context]
    actions = (rng.random(n)[:, None] > cumulative[:, :-1]).sum(axis=1)
    rewards = (rng.random(n) < q[context, clusters[actions]]).astype(float)
    value = float((target[context] * q[context][:, clusters]).sum(axis=1).mean())
    return {"rewards": rewards, "actions": actions, "logging": logging[context], "target": target[context],
            "clusters": clusters, "value": np.array(value)}  # fmt: skip


def plain(case: dict[str, np.ndarray]) -> LoggedDecisions:
    rows = np.arange(len(case["actions"]))
    return LoggedDecisions(
        case["rewards"], case["logging"][rows, case["actions"]], case["target"][rows, case["actions"]]
    )


def test_limits(case: dict[str, np.ndarray]) -> None:
    given = (case["rewards"], case["actions"], case["logging"], case["target"])
    ips = ESTIMATORS["ips"].estimate
    vectors = np.random.default_rng(1).normal(0, 1, (N_ACTIONS, 4))
    alone, together = np.arange(N_ACTIONS), np.zeros(N_ACTIONS)
    assert ips(marginalize_by_cluster(*given, alone)) == pytest.approx(ips(plain(case)), rel=1e-12)
    assert ips(marginalize_by_cluster(*given, together)) == pytest.approx(case["rewards"].mean(), rel=1e-9)
    assert ips(marginalize_by_vector(*given, vectors, 1e-4)) == pytest.approx(ips(plain(case)), rel=1e-12)
    assert ips(marginalize_by_vector(*given, vectors, 1e6)) == pytest.approx(case["rewards"].mean(), rel=1e-6)
    # Actions of one cluster with one vector, far from the others: the kernel is the cluster.
    far = np.eye(6)[case["clusters"]] * 1e3
    by_vector, by_cluster = marginalize_by_vector(*given, far, 1.0), marginalize_by_cluster(*given, case["clusters"])
    assert by_vector.propensities == pytest.approx(by_cluster.propensities, rel=1e-9)
    assert by_vector.target_probabilities == pytest.approx(by_cluster.target_probabilities, rel=1e-9)


def test_less_variance_and_no_bias_where_clusters_decide(case: dict[str, np.ndarray]) -> None:
    log = marginalize_by_cluster(case["rewards"], case["actions"], case["logging"], case["target"], case["clusters"])
    by_cluster = evaluate_off_policy(log, ["ips"], interval="normal")["ips"]
    by_action = evaluate_off_policy(plain(case), ["ips"], interval="normal", refuse=False)["ips"]
    assert abs(by_cluster.value - float(case["value"])) < 4 * by_cluster.standard_error
    assert by_cluster.standard_error < 0.5 * by_action.standard_error
    assert support_of(log).effective_size > 4 * support_of(plain(case)).effective_size


def test_unbiased_by_enumeration() -> None:
    rng = np.random.default_rng(2)
    logging, target = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(6))
    clusters = np.array([0, 0, 1, 1, 2, 2])
    q = rng.uniform(0, 1, 3)[clusters]
    log = marginalize_by_cluster(q, np.arange(6), logging, target, clusters)
    assert logging @ ESTIMATORS["ips"].contributions(log) == pytest.approx(target @ q, rel=1e-12)
    within = q + np.array([0.1, -0.1] * 3)
    biased = marginalize_by_cluster(within, np.arange(6), logging, target, clusters)
    assert abs(logging @ ESTIMATORS["ips"].contributions(biased) - target @ within) > 1e-3


def test_what_does_not_fit(case: dict[str, np.ndarray]) -> None:
    given = (case["rewards"], case["actions"], case["logging"], case["target"])
    with pytest.raises(DataError, match="3 clusters for 60 actions"):
        marginalize_by_cluster(*given, np.zeros(3))
    with pytest.raises(DataError, match="3 vectors for 60 actions"):
        marginalize_by_vector(*given, np.zeros((3, 2)), 1.0)
    with pytest.raises(DataError, match="bandwidth 0 is not above 0"):
        marginalize_by_vector(*given, np.zeros((60, 2)), 0)
    with pytest.raises(DataError, match="has 60 actions, the target 59"):
        marginalize_by_cluster(*given[:3], case["target"][:, :-1], case["clusters"])
    with pytest.raises(DataError, match="codes from 0 to 59"):
        marginalize_by_cluster(case["rewards"], case["actions"] + 60, *given[2:], case["clusters"])
    with pytest.raises(DataError, match="rows of logging"):
        marginalize_by_cluster(*given[:2], case["logging"][:5], case["target"], case["clusters"])
