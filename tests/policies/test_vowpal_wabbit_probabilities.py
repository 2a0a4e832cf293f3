"""Probabilities of exploration against those of Vowpal Wabbit, on what it has learned itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zhiyin.policies.action_sets import ActionSets
from zhiyin.policies.registry import parse

# Decisions in its text format: of the first two, the cost of one action was seen, which had the probability 0.5.
DECISIONS = (
    ["shared | u1 u2", "0:1.0:0.5 | a1 b1", "| a2 b2", "| a3 b3"],
    ["| b1 c1", "0:0.0:0.5 | b2 c2", "| b3 c1"],
    ["| a1 b1 c1", "| a3 b3 c3"],
)


def predictions(arguments: str) -> list[list[float]]:
    """What Vowpal Wabbit says of each decision, before it learns from it."""
    vw: Any = pytest.importorskip("vowpalwabbit", reason="vowpalwabbit is not installed: probabilities to compare with")
    workspace = vw.Workspace(f"{arguments} --quiet")
    told = []
    for lines in DECISIONS:
        told.append(workspace.predict(lines))
        if any(":" in line.split("|")[0] for line in lines):
            workspace.learn(lines)
    workspace.finish()
    return told


@pytest.mark.parametrize(
    ("exploration", "policy"),
    [
        ("--softmax --lambda 1", "softmax:temperature=1"),
        ("--softmax --lambda 20", "softmax:temperature=0.05"),
        ("--epsilon 0.1", "epsilongreedy:floor=0.1"),
        ("--epsilon 0.5", "epsilongreedy:floor=0.5"),
    ],
)
def test_the_probabilities_are_those_of_vowpal_wabbit(exploration: str, policy: str) -> None:
    costs = predictions("--cb_adf")
    assert np.ptp(costs[2]) > 0.1  # it has learned something
    for expected, cost in zip(predictions(f"--cb_explore_adf {exploration}"), costs, strict=True):
        sets = ActionSets.single(np.arange(len(cost)), scores=-np.array(cost))
        assert parse(policy).probabilities(sets) == pytest.approx(np.array(expected), abs=1e-6)
