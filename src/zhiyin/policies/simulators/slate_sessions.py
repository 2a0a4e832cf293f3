"""Sessions of simulated users with SlateQ: what it sees of an environment, and learning while users go on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.policies.probabilities import slot_seed
from zhiyin.policies.simulators.choice_models import WeightedChoiceModel
from zhiyin.policies.simulators.counter_random import session_seeds
from zhiyin.policies.simulators.interest_evolution import InterestEvolution
from zhiyin.policies.simulators.slate_environment import Observation, SlateEnvironment
from zhiyin.policies.slate_q import SlateQ
from zhiyin.policies.slate_states import SlateStates, SlateTransitions

# From an observation and where sessions have just begun, bool[n], to what SlateQ chooses from.
StatesOf = Callable[[Observation, np.ndarray], SlateStates]


class InterestEvolutionStates:
    """Features of interest evolution: the topic of an item.

    The weights of choice are those of the environment's own model: SlateQ takes the choice model as given.
    """

    def __init__(self, environment: InterestEvolution) -> None:
        if not isinstance(environment.choice_model, WeightedChoiceModel):
            raise DataError(f"no weights of choice in the {environment.choice} model", remedy="proportional or logit")
        self.choice_model: WeightedChoiceModel = environment.choice_model

    def __call__(self, observation: Observation, began: np.ndarray) -> SlateStates:
        topics = observation.items
        weights, null_weights = self.choice_model.weights(np.einsum("nd,nmd->nm", observation.users, topics))
        return SlateStates(topics, np.ones((len(topics), 1)), weights, null_weights)


class LongTermSatisfactionStates:
    """Features of long-term satisfaction: the clickbait c of an item, and h, what the user has had of late.

    φ = (1, c, c², h, h², c h), where h is the mean of c - ½ over past items, the last ones weighing most. Something is
    always taken. Call it once a step: it remembers h.
    """

    def __init__(self, memory: float = 0.7) -> None:
        self.memory = memory
        self._exposure = np.zeros(0)

    def __call__(self, observation: Observation, began: np.ndarray) -> SlateStates:
        clickbait, last = observation.items[:, :, 0], observation.users[:, 0]
        if len(self._exposure) != len(last):
            self._exposure = np.zeros(len(last))
        after = self.memory * self._exposure + (1.0 - self.memory) * (last - 0.5)
        self._exposure = np.where(began, 0.0, after)
        h = np.broadcast_to(self._exposure[:, None], clickbait.shape)
        items = np.stack([np.ones_like(clickbait), clickbait, clickbait**2, h, h**2, clickbait * h], axis=2)
        n = len(clickbait)
        return SlateStates(items, np.ones((n, 1)), np.ones(clickbait.shape), np.zeros(n))


def run_sessions(
    environment: SlateEnvironment, slate_q: SlateQ, states_of: StatesOf, seed: int = 0, learn: bool = True
) -> np.ndarray:
    """float64[n]: total reward of a new session of each user.

    Parameters
    ----------
    seed: of the exploration; another seed for each call.
    learn: update `slate_q` after each step.
    """
    environment.reset()
    n, k = environment.n_users, environment.slate_size
    returns, began = np.zeros(n), np.ones(n, dtype=bool)
    seeds = session_seeds(seed, np.arange(n), np.zeros(n, dtype=np.int64))
    shown: _Shown | None = None
    while environment.active.any():
        states = states_of(environment.observe(), began)
        users, began = np.flatnonzero(environment.active), np.zeros(n, dtype=bool)
        slates, now = np.zeros((n, k), dtype=np.int64), states.take(users)
        steps = environment.steps[users].astype(np.uint64)
        slates[users], _ = slate_q.choose_slates(now, k, slot_seed(seeds[users], steps))
        if learn and shown is not None:
            slate_q.update(shown.followed_by(states, slates))
        response = environment.step(slates)
        returns += response.rewards
        chosen = now.chosen_features(response.items[users])
        shown = _Shown(users, chosen, response.rewards[users], response.ended[users])
    if learn and shown is not None:  # the last sessions end here
        slate_q.update(shown.followed_by(states, slates))
    return returns


@dataclasses.dataclass(frozen=True, eq=False)
class _Shown:
    """Slates of the last step whose next state is not yet known; a row an active user."""

    users: np.ndarray
    chosen: np.ndarray
    rewards: np.ndarray
    ended: np.ndarray

    def followed_by(self, states: SlateStates, slates: np.ndarray) -> SlateTransitions:
        """The transitions, given the states and slates of all users one step later."""
        return SlateTransitions(self.chosen, self.rewards, states.take(self.users), slates[self.users], self.ended)
