"""MIPS: importance weights of what actions have in common, for catalogues where those of single actions explode.

Saito and Joachims, "Off-Policy Evaluation for Large Action Spaces via Embeddings", ICML 2022. The weight of a decision
is the probability that the target policy chooses an action like the chosen one, over the logging policy's. It is
unbiased where rewards depend on an action through its cluster only; else the bias is what the actions of a cluster
differ by.

The answers are `LoggedDecisions`, whose propensities and target probabilities are those of the neighbourhood of the
chosen action: every estimator, interval and diagnostic works on them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.policies.off_policy.logged_decisions import FloatArray, LoggedDecisions, check_finite, check_probabilities

# Cells of the matrix rows × actions that are worked on at a time.
_CHUNK_CELLS = 2_000_000


def marginalize_by_cluster(
    rewards: FloatArray,
    actions: np.ndarray,
    logging: FloatArray,
    target: FloatArray,
    clusters: np.ndarray,
    *,
    groups: np.ndarray | None = None,
) -> LoggedDecisions:
    """Decisions whose action is known by its cluster alone.

    Parameters
    ----------
    rewards: float64[n].
    actions: int64[n], codes of the chosen actions.
    logging, target: float64[n, n_actions] or float64[n_actions], the two policies' probabilities of all actions.
    clusters: int64[n_actions], the cluster of each action; one cluster an action is plain IPS.
    groups: int64[n], see `LoggedDecisions`.
    """
    actions, logging, target = _checked(rewards, actions, logging, target)
    clusters = np.asarray(clusters)
    if clusters.shape != (logging.shape[-1],):
        raise DataError(
            f"{len(clusters)} clusters for {logging.shape[-1]} actions", remedy="give one cluster per action"
        )

    def mass(probabilities: FloatArray, chosen: np.ndarray) -> FloatArray:
        return np.where(clusters == clusters[chosen][:, None], probabilities, 0.0).sum(axis=1)

    return _marginalized(rewards, actions, logging, target, mass, groups)


def marginalize_by_vector(
    rewards: FloatArray,
    actions: np.ndarray,
    logging: FloatArray,
    target: FloatArray,
    vectors: FloatArray,
    bandwidth: float,
    *,
    groups: np.ndarray | None = None,
) -> LoggedDecisions:
    """Decisions whose action is known by its vector, blurred: neighbours count exp(-distance² / (2 bandwidth²)).

    vectors: float64[n_actions, size]; bandwidth: in units of their Euclidean distance. A bandwidth near 0 is plain IPS,
    a very large one the log's mean reward. The other parameters are those of `marginalize_by_cluster`.
    """
    actions, logging, target = _checked(rewards, actions, logging, target)
    vectors = np.asarray(vectors, dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) != logging.shape[-1]:
        raise DataError(f"{len(vectors)} vectors for {logging.shape[-1]} actions", remedy="give one vector per action")
    check_finite(vectors, "vectors", "give a vector to every action")
    if not bandwidth > 0:
        raise DataError(f"the bandwidth {bandwidth} is not above 0", remedy="give a distance at which items are alike")
    squares = np.einsum("ij,ij->i", vectors, vectors)

    def mass(probabilities: FloatArray, chosen: np.ndarray) -> FloatArray:
        distances = squares[chosen][:, None] + squares - 2 * vectors[chosen] @ vectors.T
        distances[np.arange(len(chosen)), chosen] = 0.0
        alike = np.exp(-np.maximum(distances, 0.0) / (2 * bandwidth**2))
        return np.einsum("ij,ij->i", alike, np.broadcast_to(probabilities, alike.shape))

    return _marginalized(rewards, actions, logging, target, mass, groups)


def _marginalized(
    rewards: FloatArray,
    actions: np.ndarray,
    logging: FloatArray,
    target: FloatArray,
    mass: Callable[[FloatArray, np.ndarray], FloatArray],
    groups: np.ndarray | None,
) -> LoggedDecisions:
    n, n_actions = len(actions), logging.shape[-1]
    propensities, target_probabilities = np.empty(n), np.empty(n)
    size = max(1, _CHUNK_CELLS // n_actions)
    for start in range(0, n, size):
        rows = slice(start, start + size)
        for probabilities, out in ((logging, propensities), (target, target_probabilities)):
            out[rows] = mass(probabilities if probabilities.ndim == 1 else probabilities[rows], actions[rows])
    return LoggedDecisions(rewards, np.minimum(propensities, 1.0), np.minimum(target_probabilities, 1.0), groups=groups)


def _checked(
    rewards: FloatArray, actions: np.ndarray, logging: FloatArray, target: FloatArray
) -> tuple[np.ndarray, FloatArray, FloatArray]:
    actions = np.asarray(actions)
    logging, target = np.asarray(logging, dtype=np.float64), np.asarray(target, dtype=np.float64)
    n_actions = logging.shape[-1]
    if target.shape[-1] != n_actions:
        raise DataError(
            f"the logging policy has {n_actions} actions, the target {target.shape[-1]}", remedy="code actions alike"
        )
    for name, probabilities in (("logging", logging), ("target", target)):
        if probabilities.ndim == 2 and len(probabilities) != len(rewards):
            raise DataError(
                f"{len(probabilities)} rows of {name} for {len(rewards)} rewards", remedy="one per decision"
            )
        check_probabilities(probabilities, name)
    if len(actions) != len(rewards) or (len(actions) and (actions.min() < 0 or actions.max() >= n_actions)):
        raise DataError(f"actions must be {len(rewards)} codes from 0 to {n_actions - 1}", remedy="code actions alike")
    return actions, logging, target
