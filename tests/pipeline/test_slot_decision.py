"""Slots that a policy fills with a caller's own actions: exact probabilities, limits that hold, repeatable draws."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhiyin.pipeline.list_policy import ExplorationLimits, ListDecision, ListPolicy
from zhiyin.pipeline.slot_decision import decide_slots, slot_bound, without_policy
from zhiyin.policies.action_sets import ActionSets, Outcomes, action_keys
from zhiyin.policies.epsilon_greedy import EpsilonGreedy
from zhiyin.policies.lin_ts import LinTS
from zhiyin.policies.policy import Policy
from zhiyin.policies.softmax import Softmax

KEYS = action_keys(f"a{i}" for i in range(6))
PHI = np.eye(6)


def learned(policy: Policy) -> Policy:
    policy.update(Outcomes(np.repeat(KEYS, 20), np.repeat(np.arange(6) / 5.0, 20), np.repeat(PHI, 20, axis=0)))
    return policy


def decide(listed: ListPolicy, event_id: str, allowed: np.ndarray | None = None, n_slots: int = 3) -> ListDecision:
    allowed = np.ones((n_slots, 6), dtype=bool) if allowed is None else allowed
    baseline = np.arange(len(allowed), dtype=np.int16)
    return decide_slots(listed, KEYS, allowed, baseline, lambda slot: PHI, event_id)


def check(made: ListDecision, allowed: np.ndarray) -> None:
    rows = np.arange(len(made))
    assert len(set(made.chosen.tolist())) == len(made)
    assert (made.propensities == made.pmfs[rows, made.chosen]).all()
    assert (made.prefix_propensities == np.cumprod(made.propensities)).all()
    np.testing.assert_allclose(made.pmfs.sum(axis=1), 1.0, atol=1e-12)
    for row, slot in enumerate(made.slots):
        barred = ~allowed[slot]
        barred[made.chosen[:row]] = True
        assert (made.pmfs[row][barred] == 0).all()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5),
    st.floats(0, 1),
    st.integers(1, 4),
    st.integers(0, 2**32),
    st.sampled_from(["online", "apprentice"]),
)
def test_probabilities_are_whole_and_limits_hold_in_every_slot(
    n_slots: int, share: float, first_slot: int, seed: int, mode: str
) -> None:
    rng = np.random.default_rng(seed)
    allowed = rng.random((n_slots, 6)) < 0.7
    allowed[np.arange(n_slots), np.arange(n_slots)] = True
    limits = ExplorationLimits(share=share, first_slot=first_slot, slot_shares={2: 0.05}, loss=share)
    listed = ListPolicy(learned(Softmax(temperature=0.5)), "p", limits=limits, mode=mode)  # type: ignore[arg-type]
    made = decide(listed, str(seed), allowed)
    check(made, allowed)
    if mode == "online":
        others = 1.0 - made.pmfs[np.arange(len(made)), made.greedy]
        assert (others <= slot_bound(limits, n_slots)[made.slots] + 1e-12).all()
        assert 1.0 - np.prod(1.0 - others) <= share + 1e-9
        assert made.expected_loss <= limits.loss + 1e-12


def test_the_same_event_draws_the_same_and_events_draw_by_the_probabilities() -> None:
    listed = ListPolicy(learned(Softmax(temperature=0.3)), "p")
    once, again = decide(listed, "e", n_slots=1), decide(listed, "e", n_slots=1)
    for field in dataclasses.fields(once):
        np.testing.assert_array_equal(getattr(once, field.name), getattr(again, field.name))
    assert decide(dataclasses.replace(listed, name="q"), "e9").chosen.tolist() != decide(listed, "e9").chosen.tolist()
    n = 3_000
    counts = np.bincount([decide(listed, f"e{i}", n_slots=1).chosen[0] for i in range(n)], minlength=6)
    expected = n * once.pmfs[0]
    assert ((counts - expected) ** 2 / expected).sum() < 25.7  # chi-square of 5 degrees of freedom, p = 1e-4


def test_greedy_is_what_is_believed_best_and_exploring_has_a_price() -> None:
    policy = learned(EpsilonGreedy(floor=1.0))
    made = decide(ListPolicy(policy, "p"), "e", n_slots=2)
    left = [i for i in range(6) if i != made.chosen[0]]
    assert made.greedy.tolist() == [5, max(left)]
    sets = ActionSets.single(KEYS, PHI)
    expected = policy.expected_rewards(sets)
    assert expected is not None
    assert made.expected_loss == pytest.approx((expected[made.greedy] - expected[made.chosen]).sum())
    assert made.explored == (made.chosen.tolist() != made.greedy.tolist())
    assert decide(ListPolicy(policy, "p", limits=ExplorationLimits(greedy=True)), "e").expected_loss == 0


def test_modes_that_do_not_let_the_policy_decide() -> None:
    policy = learned(LinTS())
    shadow = decide(ListPolicy(policy, "p", mode="shadow"), "e")
    assert (shadow.chosen.tolist(), shadow.propensities.tolist(), shadow.explored) == ([0, 1, 2], [1.0] * 3, False)
    assert shadow.greedy[0] == 5
    assert shadow.target_pmfs is not None
    assert shadow.target_pmfs[0, 5] > 0.5
    assert (shadow.pmfs[np.arange(3), shadow.chosen] == shadow.propensities).all()
    swaps = [decide(ListPolicy(policy, "p", mode="apprentice", randomisation=0.3), f"e{i}") for i in range(2_000)]
    assert np.mean([one.explored for one in swaps]) == pytest.approx(0.3, abs=0.04)
    for one in swaps[:50]:
        check(one, np.ones((3, 6), dtype=bool))
        assert one.baseline.tolist() == [0, 1, 2]


def test_a_slot_without_an_action_left_is_left_out() -> None:
    allowed = np.zeros((3, 6), dtype=bool)
    allowed[0, :2] = allowed[1, 0] = allowed[2, 3] = True
    listed = ListPolicy(learned(EpsilonGreedy(floor=1.0)), "p")
    made = [
        decide_slots(listed, KEYS, allowed, np.array([1, 0, 3], np.int16), lambda slot: PHI, f"e{i}") for i in range(20)
    ]
    assert {tuple(one.slots.tolist()) for one in made} == {(0, 1, 2), (0, 2)}
    assert {tuple(one.chosen.tolist()) for one in made} == {(1, 0, 3), (0, 3)}


def test_a_policy_that_cannot_choose_leaves_the_baseline_and_says_why() -> None:
    class Broken(EpsilonGreedy):
        def _probabilities(self, sets: ActionSets, seeds: np.ndarray, run: object) -> np.ndarray:
            return np.full(len(sets.actions), np.nan)

    for policy, reason in ((Broken(), "invalid_probabilities"), (narrow(), "schema_changed")):
        made = decide(ListPolicy(policy, "p"), "e")
        assert (made.reason, made.chosen.tolist(), made.propensities.tolist()) == (reason, [0, 1, 2], [1.0] * 3)
    none = without_policy(KEYS, np.array([2, -1, 4], np.int16), "killed")
    assert (none.slots.tolist(), none.chosen.tolist(), none.reason) == ([0, 2], [2, 4], "killed")


def narrow() -> Policy:
    policy = LinTS()
    policy.update(Outcomes(KEYS[:1], np.ones(1), np.ones((1, 2))))
    return policy
