"""Who gets which arm: shares, layers, stability."""

from __future__ import annotations

import numpy as np
import pytest

from zhiyin.core.errors import ConfigError
from zhiyin.policies.experiments.assignment import Experiment, check_layers
from zhiyin.policies.experiments.comparisons import sample_ratio_p_value

USERS = [f"user-{number}" for number in range(40_000)]


def test_arms_have_their_shares_and_stay():
    experiment = Experiment("home", {"control": 2, "new": 1, "newer": 1})
    arms = experiment.assign(USERS)
    assert sample_ratio_p_value(np.bincount(arms), [2, 1, 1]) > 0.001
    assert (experiment.assign(USERS[::-1]) == arms[::-1]).all()


def test_experiments_of_a_layer_share_nobody_and_those_of_others_are_independent():
    one = Experiment("one", {"a": 1, "b": 1}, layer="lists", share=0.3)
    two = Experiment("two", {"a": 1, "b": 1}, layer="lists", share=0.5, offset=0.3)
    other = Experiment("three", {"a": 1, "b": 1}, layer="models")
    check_layers([one, two, other])
    in_one, in_two = one.assign(USERS), two.assign(USERS)
    assert not ((in_one >= 0) & (in_two >= 0)).any()
    assert abs((in_one >= 0).mean() - 0.3) < 0.01
    assert abs((in_two >= 0).mean() - 0.5) < 0.01
    crossed = np.bincount(other.assign(USERS)[in_one >= 0] * 2 + in_one[in_one >= 0], minlength=4)
    assert sample_ratio_p_value(crossed, [1, 1, 1, 1]) > 0.001


def test_two_experiments_assign_independently():
    arms = [Experiment(name, {"a": 1, "b": 1}).assign(USERS) for name in ("one", "two")]
    assert sample_ratio_p_value(np.bincount(arms[0] * 2 + arms[1]), [1, 1, 1, 1]) > 0.001


def test_errors():
    with pytest.raises(ConfigError, match="two arms"):
        Experiment("x", {"only": 1})
    with pytest.raises(ConfigError, match="two arms"):
        Experiment("x", {"a": 1, "b": 0})
    with pytest.raises(ConfigError, match=r"takes 0\.6 from 0\.5"):
        Experiment("x", {"a": 1, "b": 1}, share=0.6, offset=0.5)
    one, two = (Experiment(name, {"a": 1, "b": 1}, share=0.5, offset=0.2) for name in ("x", "y"))
    with pytest.raises(ConfigError, match="'x' and 'y' share users"):
        check_layers([one, two])
    with pytest.raises(ConfigError, match="two experiments are called 'x'"):
        check_layers([one, one])
