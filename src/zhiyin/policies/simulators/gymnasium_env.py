"""Simulated environments as Gymnasium's: one user as an `Env`, many as a `VectorEnv` (extra `gym`).

An action is a slate, the positions of candidates by slot; an observation has "users" and "items".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from zhiyin.core.errors import MissingExtraError
from zhiyin.policies.simulators.slate_environment import Observation, SlateEnvironment

try:
    import gymnasium
    from gymnasium import spaces
    from gymnasium.vector import AutoresetMode, VectorEnv
    from gymnasium.vector.utils import batch_space
except ModuleNotFoundError:
    raise MissingExtraError("gymnasium", "gym", "a Gymnasium environment") from None


class SlateEnv(gymnasium.Env):
    """One user. Raises ValueError for an environment of several.

    >>> from zhiyin.policies.simulators.interest_evolution import InterestEvolution
    >>> env = SlateEnv(InterestEvolution(n_users=1))
    >>> env.reset(seed=3)[0]["items"].shape, env.step(env.action_space.sample())[2]
    ((10, 20), False)
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - as Gymnasium declares it

    def __init__(self, environment: SlateEnvironment) -> None:
        if environment.n_users != 1:
            raise ValueError(f"{environment.n_users} users: take SlateVectorEnv")
        self.environment = environment
        self.observation_space, self.action_space = slate_spaces(environment)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        _restart(self.environment, seed)
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        response = self.environment.step(np.asarray(action)[None, :])
        info = {"slot": int(response.slots[0]), "item": int(response.items[0])}
        return self._observation(), float(response.rewards[0]), bool(response.ended[0]), False, info

    def _observation(self) -> dict[str, np.ndarray]:
        return {name: values[0] for name, values in _arrays(self.environment.observe()).items()}


def _restart(environment: SlateEnvironment, seed: int | None) -> None:
    """A new session of each user, drawn from the seed where one is given."""
    if seed is not None:
        environment.reseed(seed)
    environment.reset()


class SlateVectorEnv(VectorEnv):
    """As many environments as users. The step after the end of a session begins a new one, without reward."""

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, environment: SlateEnvironment) -> None:
        self.environment, self.num_envs = environment, environment.n_users
        self.single_observation_space, self.single_action_space = slate_spaces(environment)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        _restart(self.environment, seed)
        return _arrays(self.environment.observe()), {}

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        began = ~self.environment.active  # ended at the step before
        response = self.environment.step(np.asarray(actions))
        if began.any():
            self.environment.reset(began)
        info = {"slot": response.slots, "item": response.items}
        never = np.zeros(self.num_envs, dtype=bool)
        return _arrays(self.environment.observe()), response.rewards, response.ended, never, info


def slate_spaces(environment: SlateEnvironment) -> tuple[spaces.Dict, spaces.MultiDiscrete]:
    """The spaces of observations and actions of one user."""
    observation = environment.observe()
    shapes = {"users": observation.users.shape[1:], "items": observation.items.shape[1:]}
    observations = spaces.Dict({name: spaces.Box(-np.inf, np.inf, shape, np.float64) for name, shape in shapes.items()})
    return observations, spaces.MultiDiscrete(np.full(environment.slate_size, environment.n_candidates))


def _arrays(observation: Observation) -> dict[str, np.ndarray]:
    return {"users": observation.users, "items": observation.items}
