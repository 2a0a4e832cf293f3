"""Neural-linear policies: a linear posterior on the last layer of a ranking network.

Features are `NetworkRanker.representation(examples)`: any policy that learns by features (LinTS, LinUCB, SquareCB)
takes them. A retrained network has other hidden units, so what was learned by the old ones is void: `refit` learns it
again from the log (Riquelme, Tucker & Snoek, ICLR 2018).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Protocol, TypeVar

import numpy as np

from zhiyin.core.run import Run
from zhiyin.policies.action_sets import Outcomes
from zhiyin.policies.policy import Policy
from zhiyin.ranking.examples import Examples

P = TypeVar("P", bound=Policy)


class Encoder(Protocol):
    """Turns examples into features; see `NetworkRanker.representation`."""

    def representation(self, examples: Examples, run: Run | None = None) -> np.ndarray: ...


def refit(
    policy: P, encoder: Encoder, log: Iterable[tuple[Examples, np.ndarray, np.ndarray]], run: Run | None = None
) -> P:
    """A new policy with the same settings that has learned the log by the features of an encoder.

    Parameters
    ----------
    log: batches in the order in which the reward windows closed: examples of the chosen actions, a row each; their
        keys, int64; their rewards, float64.
    """
    fresh = dataclasses.replace(policy)
    for examples, actions, rewards in log:
        fresh.update(Outcomes(actions, rewards, encoder.representation(examples, run)))
    return fresh
