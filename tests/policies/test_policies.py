"""Every policy under the conformance suite."""

from __future__ import annotations

import pytest

from zhiyin.policies.registry import names
from zhiyin.policies.reinforce import LoggedChoices
from zhiyin.testing.policy import PolicyConformance, event_seeds, random_sets


class TestEpsilonGreedy(PolicyConformance):
    text = "epsilongreedy"


class TestSoftmax(PolicyConformance):
    text = "softmax:temperature=0.3"


class TestSquareCB(PolicyConformance):
    text = "squarecb"


class TestLinUCB(PolicyConformance):
    text = "linucb"


class TestDiscountedLinUCB(PolicyConformance):
    text = "linucb:discount=0.99,alpha=1"


class TestLinTS(PolicyConformance):
    text = "lints:draws=20"


class TestBetaBernoulli(PolicyConformance):
    text = "betabernoulli:draws=20,discount=0.99"


class TestTopKReinforce(PolicyConformance):
    text = "topkreinforce:epochs=3"

    @pytest.fixture(scope="class")
    @classmethod
    def taught(cls):
        sets = random_sets(20, 100)
        log = cls.make(floor=1.0).choose(sets, event_seeds(100))
        rewards = (sets.features[log.rows, 0] > 0).astype(float)
        return cls.make().fit(LoggedChoices(sets, log.rows, rewards, log.propensities))


def test_every_policy_is_under_the_suite():
    suites = {suite.text.partition(":")[0] for suite in PolicyConformance.__subclasses__()}
    assert suites == {name.lower() for name in names()}
