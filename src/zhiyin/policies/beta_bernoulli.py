"""Thompson sampling on success rates of actions, without features (Chapelle & Li, NeurIPS 2011).

For few items, banners, and the time before anything is known about users.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.core.hashing import GOLDEN, mix
from zhiyin.core.parallel import kernel
from zhiyin.core.params import param
from zhiyin.core.prng import uniform_of
from zhiyin.policies.action_sets import ActionSets, Outcomes
from zhiyin.policies.normals import fill_normals
from zhiyin.policies.probabilities import POSTERIOR_STREAM, stream_state
from zhiyin.policies.thompson import ThompsonPolicy


@dataclasses.dataclass
class BetaBernoulli(ThompsonPolicy):
    """Values are rates ~ Beta(α + successes, β + failures).

    Rewards are from 0 to 1; a fraction is that much of a success. With a discount, what was learned of an action counts
    less with every outcome of any action, so that it comes back to the prior.
    """

    alpha: float = param(1.0, "prior successes", at_least=1e-6)
    beta: float = param(1.0, "prior failures", at_least=1e-6)
    discount: float = param(1.0, "factor of what was learned before, for each outcome", at_least=1e-6, at_most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.actions = np.zeros(0, dtype=np.int64)  # sorted keys of the actions with outcomes
        self.counts = np.zeros((0, 2))  # successes, failures, as of the action's last outcome
        self.last_updates = np.zeros(0, dtype=np.int64)  # number of outcomes before it, for the discount

    def parameters(self, actions: np.ndarray) -> np.ndarray:
        """float64[m, 2]: α and β of the posteriors of actions, int64[m]."""
        result = np.tile([self.alpha, self.beta], (len(actions), 1))
        if len(self.actions):
            at = np.minimum(np.searchsorted(self.actions, actions), len(self.actions) - 1)
            rows = np.flatnonzero(self.actions[at] == actions)
            at = at[rows]
            age = self.n_updates - 1 - self.last_updates[at]
            result[rows] += self.counts[at] * np.power(self.discount, age)[:, None]
        return result

    def expected_rewards(self, sets: ActionSets) -> np.ndarray | None:
        parameters = self.parameters(sets.actions)
        return parameters[:, 0] / parameters.sum(axis=1)

    def _sample(self, sets: ActionSets, seeds: np.ndarray, start: int, stop: int) -> np.ndarray:
        actions = sets.actions[sets.offsets[start] : sets.offsets[stop]]
        values = np.empty((self.draws, len(actions)))
        _sample_log_odds(self.parameters(actions), actions, sets.offsets, seeds, values, start, stop)
        return values

    def _update(self, outcomes: Outcomes) -> None:
        bad = (outcomes.rewards < 0) | (outcomes.rewards > 1)
        if bad.any():
            row = int(np.argmax(bad))
            remedy = "scale rewards to 0..1, or take a policy with features"
            raise DataError(f"the reward {outcomes.rewards[row]:g} of row {row} is not from 0 to 1", remedy=remedy)
        places = np.searchsorted(self.actions, outcomes.actions)
        is_new = places == len(self.actions)
        is_new[~is_new] = self.actions[places[~is_new]] != outcomes.actions[~is_new]
        new = outcomes.actions[is_new]  # not by a set of all actions: an update may be of one outcome
        if len(new):
            merged = np.union1d(self.actions, new)
            at = np.searchsorted(merged, self.actions)
            counts, last_updates = np.zeros((len(merged), 2)), np.zeros(len(merged), dtype=np.int64)
            counts[at], last_updates[at] = self.counts, self.last_updates
            self.actions, self.counts, self.last_updates = merged, counts, last_updates
        rows = np.searchsorted(self.actions, outcomes.actions)
        _add(self.counts, self.last_updates, rows, outcomes.rewards, self.n_updates, self.discount)

    def forget(self, share: float) -> None:
        self.counts *= 1.0 - share

    def state(self) -> dict[str, np.ndarray]:
        if not len(self.actions):
            return {}
        return {"actions": self.actions, "counts": self.counts, "last_updates": self.last_updates}

    def _restore(self, state: Mapping[str, np.ndarray]) -> None:
        actions, counts, last_updates = state["actions"], state["counts"], state["last_updates"]
        if (
            counts.shape != (len(actions), 2)
            or last_updates.shape != actions.shape
            or (actions[1:] <= actions[:-1]).any()
        ):
            raise ValueError("counts are not of the size of the actions")
        if not (np.isfinite(counts).all() and (counts >= 0).all()):
            raise ValueError("counts are negative or not finite")
        self.actions, self.counts, self.last_updates = actions, counts, last_updates


@kernel
def _add(counts, last_updates, rows, rewards, n_before, discount):
    for n in range(len(rows)):
        row, now = rows[n], n_before + n
        if discount < 1.0:
            faded = discount ** np.float64(now - last_updates[row])
            counts[row, 0] *= faded
            counts[row, 1] *= faded
        last_updates[row] = now
        counts[row, 0] += rewards[n]
        counts[row, 1] += 1.0 - rewards[n]


@kernel
def _log_gamma_variate(shape, state, normal):
    """Logarithm of a Gamma(shape, 1) variate (Marsaglia & Tsang 2000), and the next state."""
    boost = 0.0
    if shape < 1.0:
        state += GOLDEN
        boost = np.log(uniform_of(mix(state)) + 2.0**-54) / shape
        shape += 1.0
    d = shape - 1.0 / 3.0
    c = 1.0 / np.sqrt(9.0 * d)
    while True:
        state = fill_normals(state, normal)
        v = 1.0 + c * normal[0]
        if v <= 0.0:
            continue
        v = v * v * v
        state += GOLDEN
        uniform = uniform_of(mix(state)) + 2.0**-54
        square = normal[0] * normal[0]
        # Below the curve that is compared with next: for most variates two logarithms less.
        if uniform < 1.0 - 0.0331 * square * square:
            return np.log(d * v) + boost, state
        if np.log(uniform) < 0.5 * normal[0] * normal[0] + d - d * v + d * np.log(v):
            return np.log(d * v) + boost, state


@kernel
def _sample_log_odds(parameters, actions, offsets, seeds, values, start, stop):
    """values[draw, action]: logarithms of the odds of the rates, so that a rate of nearly 1 keeps its digits.

    The draws of an action are its own, wherever it stands among the others.
    """
    normal, base = np.empty(1), offsets[start]
    for r in range(start, stop):
        for row in range(offsets[r] - base, offsets[r + 1] - base):
            state = mix(stream_state(seeds[r], POSTERIOR_STREAM) ^ mix(np.uint64(actions[row]) + GOLDEN))
            for draw in range(len(values)):
                successes, state = _log_gamma_variate(parameters[row, 0], state, normal)
                failures, state = _log_gamma_variate(parameters[row, 1], state, normal)
                values[draw, row] = successes - failures
