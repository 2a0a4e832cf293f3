"""Environments through Gymnasium: its own checks, resets, the same sessions as without it."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from zhiyin.core.errors import MissingExtraError
from zhiyin.policies.simulators.interest_evolution import InterestEvolution
from zhiyin.policies.simulators.long_term_satisfaction import LongTermSatisfaction


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", [InterestEvolution, LongTermSatisfaction])
def test_gymnasium_accepts_the_environment(kind):
    check_env = pytest.importorskip("gymnasium.utils.env_checker").check_env
    from zhiyin.policies.simulators.gymnasium_env import SlateEnv

    check_env(SlateEnv(kind(n_users=1)))
    with pytest.raises(ValueError, match="SlateVectorEnv"):
        SlateEnv(kind(n_users=2))


def test_many_users_are_many_environments():
    gymnasium_env = pytest.importorskip("zhiyin.policies.simulators.gymnasium_env", exc_type=MissingExtraError)
    env, plain = gymnasium_env.SlateVectorEnv(LongTermSatisfaction(n_users=4, length=3)), None
    observation, _ = env.reset(seed=9)
    plain = LongTermSatisfaction(n_users=4, length=3, seed=9)
    assert env.observation_space.contains(observation)
    assert (observation["items"] == plain.observe().items).all()
    env.action_space.seed(0)
    for step in range(9):
        actions = env.action_space.sample()
        observation, rewards, terminated, truncated, _ = env.step(actions)
        assert env.observation_space.contains(observation)
        assert not truncated.any()
        assert terminated.all() == (step % 4 == 2)
        if step % 4 == 3:  # the step after the end only begins anew
            assert (rewards == 0).all()
            plain.reset()
        else:
            assert (rewards == plain.step(actions).rewards).all()
        assert (observation["items"] == plain.observe().items).all()


def test_the_same_seed_is_the_same_session():
    gymnasium_env = pytest.importorskip("zhiyin.policies.simulators.gymnasium_env", exc_type=MissingExtraError)
    env = gymnasium_env.SlateEnv(InterestEvolution(n_users=1))
    first = env.reset(seed=4)[0]
    other = env.reset()[0]
    again = env.reset(seed=4)[0]
    assert (first["users"] == again["users"]).all()
    assert (first["users"] != other["users"]).any()


def test_without_gymnasium_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    monkeypatch.delitem(sys.modules, "zhiyin.policies.simulators.gymnasium_env", raising=False)
    with pytest.raises(MissingExtraError, match="gymnasium") as error:
        import zhiyin.policies.simulators.gymnasium_env  # noqa: F401
    assert "zhiyin[gym]" in error.value.remedy
    assert np.isfinite(InterestEvolution(n_users=1).observe().users).all()
