"""Interest evolution against RecSim: its unit values, and the returns of policies in the original environment."""

from __future__ import annotations

import numpy as np
import pytest

from zhiyin.core.errors import DataError
from zhiyin.policies.simulators.interest_evolution import (
    TOPIC_QUALITY,
    InterestEvolution,
    minutes_after,
    moved_interests,
)
from zhiyin.policies.simulators.slate_environment import session_returns, top_slates

N = 3000
# Mean return and standard error in the original environment, 500 to 600 users; two runs of random: 160.4 and 161.0.
REFERENCE = {
    ("proportional", "random"): (160.7, 0.5),
    ("proportional", "affinity"): (166.3, 0.9),
    ("proportional", "quality"): (264.1, 1.5),
    ("logit", "random"): (159.6, 0.5),
    ("logit", "affinity"): (166.5, 1.0),
    ("logit", "quality"): (268.3, 1.3),
}


def slates_of(kind, environment):
    rng = np.random.default_rng(5)
    scores = {
        "random": lambda: rng.random((environment.n_users, environment.n_candidates)),
        "affinity": environment.affinities,
        "quality": lambda: TOPIC_QUALITY[environment.topics],
    }[kind]
    return lambda observation: top_slates(scores(), environment.slate_size)


@pytest.mark.parametrize(("choice", "kind"), REFERENCE)
def test_returns_are_those_of_recsim(choice, kind):
    environment = InterestEvolution(n_users=N, choice=choice)
    returns = session_returns(environment, slates_of(kind, environment))
    mean, error = REFERENCE[choice, kind]
    assert abs(returns.mean() - mean) <= 3 * np.hypot(error, returns.std() / np.sqrt(N))


def test_time_left_after_a_video():
    # RecSim's own test: factors .3 and .7 of utilities 2 and 3 make 2.7.
    utility = np.array([0.3 * 2 + 0.7 * 3])
    assert minutes_after(np.array([0.5]), np.array([0.3]), utility, 1.0)[0] == pytest.approx(1.01)


def test_interests_move_by_their_distance():
    interests = np.array([0.0, 0.0, 0.5, 1.0, -1.0])
    after = moved_interests(interests, np.array([0.49, 0.51, 0.0, 0.0, 0.99]))
    assert after == pytest.approx([0.3, -0.3, 0.5 + 0.3 * 0.5 * 0.5, 1.0, -1.0])


def test_one_step():
    environment = InterestEvolution(n_users=500, n_candidates=4, slate_size=2)
    before, topics, quality = environment.interests.copy(), environment.topics.copy(), environment.quality.copy()
    response = environment.step(np.tile([2, 0], (500, 1)))
    idle = response.items < 0
    assert 0 < idle.sum() < 500
    assert (environment.minutes_left[idle] == 199.5).all()
    assert (response.rewards == np.where(idle, 0, 4)).all()
    assert (environment.interests[idle] == before[idle]).all()
    users = np.flatnonzero(~idle)
    items = response.items[users]
    assert (items == np.array([2, 0])[response.slots[users]]).all()
    gain = 0.9 / 3.4 * 4 * quality[users, items]
    assert environment.minutes_left[users] == pytest.approx(200 - 4 + gain)
    moved = environment.interests != before
    assert moved.sum(axis=1).max() == 1
    assert moved[users, topics[users, items]].all()


def test_the_last_video_is_cut_where_time_ends():
    environment = InterestEvolution(n_users=200)
    environment.minutes_left[:] = 0.5
    response = environment.step(np.tile([0, 1, 2], (200, 1)))
    assert set(response.rewards) == {0.0, 0.5}
    assert (response.ended == (environment.minutes_left <= 0)).all()
    assert response.ended[response.items < 0].all()


def test_ended_sessions_stay_until_reset():
    environment = InterestEvolution(n_users=20)
    environment.minutes_left[:10] = 0.1
    slates = np.tile([0, 1, 2], (20, 1))
    while environment.active[:10].any():
        environment.step(slates)
    interests, minutes = environment.interests[:10].copy(), environment.minutes_left[:10].copy()
    response = environment.step(slates)
    assert (response.rewards[:10] == 0).all()
    assert not response.ended[:10].any()
    assert (environment.interests[:10] == interests).all()
    assert (environment.minutes_left[:10] == minutes).all()
    environment.reset(~environment.active)
    assert environment.active.all()
    assert (environment.minutes_left[:10] == 200).all()


def test_sessions_depend_on_seed_and_user_only():
    few, many, other = InterestEvolution(n_users=7), InterestEvolution(n_users=50), InterestEvolution(n_users=7, seed=1)
    for _ in range(30):
        responses = [each.step(np.tile([1, 5, 3], (each.n_users, 1))) for each in (few, many, other)]
        assert (responses[0].items == responses[1].items[:7]).all()
    assert (few.interests == many.interests[:7]).all()
    assert (few.minutes_left == many.minutes_left[:7]).all()
    assert (few.interests != other.interests).any()


def test_a_user_has_another_session_each_time():
    environment = InterestEvolution(n_users=3)
    first = environment.observe().users
    environment.reset()
    assert (environment.observe().users != first).all()


@pytest.mark.parametrize("slates", [np.zeros((2, 2), dtype=int), np.zeros((2, 3)), np.full((2, 3), 10)])
def test_slates_that_are_none(slates):
    with pytest.raises(DataError):
        InterestEvolution(n_users=2).step(slates)


def test_slates_of_more_than_the_candidates():
    with pytest.raises(DataError, match="larger"):
        InterestEvolution(n_candidates=2)


def test_cascade_users():
    environment = InterestEvolution(n_users=300, choice="cascade")
    returns = session_returns(environment, slates_of("quality", environment))
    assert returns.mean() > session_returns(environment, slates_of("random", environment)).mean()
