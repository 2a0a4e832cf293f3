"""What a policy of a placement has learned, as the arrays of a snapshot in the store."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.pipeline.item_statistics import ItemStatistics
from zhiyin.pipeline.policy_kinds import make_policy
from zhiyin.policies.linear_policy import LinearPolicy
from zhiyin.policies.policy import Policy
from zhiyin.policies.reinforce import TopKReinforce

_POLICY, _STATISTICS = "policy/", "statistics/"


def snapshot_arrays(policy: Policy | None, statistics: ItemStatistics) -> dict[str, np.ndarray]:
    """The arrays of a snapshot, by name. Beside them its information has `n_updates` of the policy."""
    arrays = {} if policy is None else {f"{_POLICY}{name}": value for name, value in policy.state().items()}
    return arrays | {f"{_STATISTICS}{name}": value for name, value in statistics.arrays().items()}


def restored_policy(
    kind: str, settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray], info: Mapping[str, Any]
) -> tuple[Policy | None, ItemStatistics]:
    """The policy of a snapshot, which goes on learning where it stopped; None for the kind that does not learn.

    Parameters
    ----------
    kind, settings: of the policy, as those of the placement.
    info: of the snapshot.

    Raises DataError where the arrays do not fit, ConfigError for a policy that there is not.
    """
    policy = make_policy(kind, settings)
    statistics = ItemStatistics.from_arrays(_part(arrays, _STATISTICS))
    state = _part(arrays, _POLICY)
    if policy is not None and state:
        try:
            policy._restore(state)
            policy.n_updates = int(info.get("n_updates", 1))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            remedy = "roll the policy back, or have it learn from the log again"
            raise DataError(f"the snapshot does not fit a {kind} ({error})", remedy=remedy) from None
    return policy, statistics


def for_version(policy: Policy, n_version_free: int) -> Policy:
    """A copy of a policy for features of which those behind the first `n_version_free` mean something else now.

    What was learned of them is dropped; of the others it stays as it is.
    """
    policy = copy.copy(policy)
    if n_version_free < 0:
        return policy
    if isinstance(policy, LinearPolicy) and policy.posterior is not None:
        policy.posterior = policy.posterior.marginalised(np.arange(policy.posterior.n_features) < n_version_free)
    elif isinstance(policy, TopKReinforce) and policy.weights is not None:
        policy.weights = np.where(np.arange(len(policy.weights)) < n_version_free, policy.weights, 0.0)
    return policy


def _part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
