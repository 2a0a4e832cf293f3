"""Every policy under the conformance suite."""

from __future__ import annotations

from zhiyin.policies.registry import names
from zhiyin.testing.policy import PolicyConformance


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


def test_every_policy_is_under_the_suite():
    suites = {suite.text.partition(":")[0] for suite in PolicyConformance.__subclasses__()}
    assert suites == {name.lower() for name in names()}
