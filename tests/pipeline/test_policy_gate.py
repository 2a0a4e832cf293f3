"""The gate of promotions: it opens for a policy that is better by its apprentice's log, and for no other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from zhiyin.pipeline.decision_record import DecisionInfo, DecisionRecord
from zhiyin.pipeline.policy_gate import judge_apprentice, judge_guarded

SLOTS = 2


def log(
    n: int, effect: float, seed: int = 1, mode: str = "apprentice", swap: float = 0.3
) -> Iterator[tuple[DecisionRecord, list[float | None]]]:
    """Lists of two slots that the apprentice swaps with a probability; the policy would swap nine of ten.

    effect: what a swap adds to the click rate of the first slot.
    """
    rng = np.random.default_rng(seed)
    for _ in range(n):
        swapped = rng.random() < swap
        propensities = np.array([swap if swapped else 1 - swap, 1.0])
        target = np.array([0.9 if swapped else 0.1, 1.0])
        clicks: list[float | None] = [
            float(rng.random() < 0.2 + effect * swapped), float(rng.random() < 0.1) if rng.random() < 0.9 else None
        ]  # fmt: skip
        empty = np.zeros(SLOTS, np.int16)
        record = DecisionRecord(
            DecisionInfo("home", "LinTS", mode), ("a", "b"), empty, empty, empty, empty, propensities,
            np.cumprod(propensities), None, swapped, 0.0, None if mode == "online" else target,
        )  # fmt: skip
        yield record, clicks


def test_a_better_policy_passes() -> None:
    gate = judge_apprentice(log(6_000, effect=0.3))
    assert gate.passed, gate.reasons
    low, high = gate.figures["difference"]
    assert 0 < low < 0.6 * 0.3 < high  # nine of ten are swapped instead of three
    assert gate.figures["effective_size"] > 1_000


def test_a_worse_policy_and_one_that_is_not_better_do_not() -> None:
    for effect in (-0.1, 0.0):
        gate = judge_apprentice(log(6_000, effect=effect))
        assert not gate.passed
        assert "the interval is not above 0" in gate.reasons[-1]


def test_little_support_is_refused_with_its_figures() -> None:
    gate = judge_apprentice(log(1_500, effect=0.3, swap=0.02))
    assert not gate.passed
    assert any("1,000" in reason for reason in gate.reasons)
    few = judge_apprentice(log(300, effect=0.3))
    assert any("100 are the least" in reason for reason in few.reasons) or few.figures["positive_rewards"] >= 100
    assert any("1,000" in reason for reason in few.reasons)


def test_only_the_apprentice_is_evidence() -> None:
    for mode in ("online", "shadow", "guarded"):
        gate = judge_apprentice(log(50, effect=0.3, mode=mode))
        assert gate.reasons == ("no decision was made in mode apprentice: nothing tells what the policy would earn",)


@pytest.mark.parametrize(
    ("guard", "passed"),
    [
        ({}, False),
        ({"difference": None}, False),
        ({"difference": [-0.1, 0.2]}, False),
        ({"difference": [0.01, 0.2]}, True),
    ],
)
def test_guarded_lists_are_compared_directly(guard: dict[str, object], passed: bool) -> None:
    assert judge_guarded(guard).passed is passed
