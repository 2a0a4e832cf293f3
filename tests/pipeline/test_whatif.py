"""What another configuration would have earned: which lists count, support by slot, refusals in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zhiyin.core.errors import ConfigError
from zhiyin.pipeline.whatif import DRAWN, LoggedList, evaluate_lists, slates_of, slot_support

RATES = np.array([0.02, 0.05, 0.09, 0.2])
LOGGING, TARGET = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.1, 0.2, 0.3, 0.4])


def drawn_lists(n: int, seed: int, target: np.ndarray = TARGET, n_slots: int = 2, **others: Any) -> list[LoggedList]:
    """Lists whose slots are drawn with repeats, so that the value of a policy is n_slots times that of one slot."""
    rng = np.random.default_rng(seed)
    items = rng.choice(4, (n, n_slots), p=LOGGING)
    clicks = (rng.random((n, n_slots)) < RATES[items]).astype(float)
    return [
        LoggedList(click, LOGGING[row], target[row], user=f"u{number % (n // 2)}", **others)
        for number, (click, row) in enumerate(zip(clicks, items, strict=True))
    ]


def test_the_interval_holds_the_truth() -> None:
    """In 100 small simulations, by a normal interval where it is allowed and by the default otherwise."""
    truth, difference = 2 * TARGET @ RATES, 2 * (TARGET - LOGGING) @ RATES
    inside = covered = 0
    for seed in range(100):
        result = evaluate_lists(drawn_lists(1500, seed), interval="normal")
        estimate = result["rips"]
        inside += estimate.low <= truth <= estimate.high
        covered += estimate.difference_low <= difference <= estimate.difference_high
    assert inside >= 93
    assert covered >= 93


def test_the_logging_policy_itself_is_the_log_bit_for_bit() -> None:
    lists = drawn_lists(600, 1, target=LOGGING)
    control = LoggedList(np.array([1.0, 0.0]), np.ones(2), np.ones(2), "control")
    result = evaluate_lists([*lists, control, control])
    logged = float(np.sum([one.rewards.sum() for one in [*lists, control, control]]) / 602)
    for name in ("sips", "rips"):
        assert result[name].value == result.logged_value == logged
        assert (result[name].difference, result[name].difference_low, result[name].difference_high) == (0, 0, 0)
    assert all((slot.mean_weight, slot.mean_weight_error) == (1, 0) for slot in result.slots)
    assert result.used == {DRAWN: 600, "control": 2}
    assert "just so" in result.verdict()


def test_lists_made_without_a_draw_count_only_where_all_of_them_would_be_the_same() -> None:
    same = LoggedList(np.array([1.0, 0.0]), np.ones(2), np.ones(2), "control")
    other = LoggedList(np.array([1.0, 0.0]), np.ones(2), np.array([1.0, 0.0]), "control")
    spent = LoggedList(np.array([0.0, 1.0]), np.ones(2), np.ones(2), "loss_budget_spent")
    lists = drawn_lists(600, 2)
    result = evaluate_lists([*lists, same, same, other, spent], left_out={"their reward window is open": 5})
    assert result.used == {DRAWN: 600, "loss_budget_spent": 1}
    assert result.left_out == {
        "their reward window is open": 5,
        "made without a draw (control), 1 of them not as this configuration would": 3,
    }
    assert result.evaluation is not None
    assert result.evaluation.support.n_rows == 601
    assert any("Left out: 3 lists" in note for note in result.notes())


def test_a_log_that_never_explores() -> None:
    other = LoggedList(np.array([1.0]), np.ones(1), np.zeros(1), "shadow", n_choices=50)
    result = evaluate_lists([other] * 10)
    assert result.refusal is not None
    assert "never explores" in result.refusal.reasons[0]
    assert "share = 0.1" in result.refusal.remedies[0]
    assert "500,000 lists" in result.refusal.remedies[0]
    with pytest.raises(ConfigError, match="cannot answer"):
        result["rips"]
    assert evaluate_lists([], left_out={"their reward window is open": 3}).refusal is not None
    assert "no decided lists" in str(evaluate_lists([]).refusal)


def test_the_first_slot_that_lacks_support_is_named() -> None:
    """The configuration always shows item 3 in slot 2, which the log shows there in none of the lists."""
    rng = np.random.default_rng(3)
    lists = [
        LoggedList(np.zeros(3), np.full(3, 0.5), np.array([0.5, 0.0, 1.0]), share=0.02, n_choices=4)
        for _ in rng.random(2000)
    ]
    result = evaluate_lists(lists)
    assert result.refusal is not None
    assert "never shows down to slot 2" in result.refusal.reasons[0]
    assert [slot.is_supported for slot in result.slots] == [True, False, False]
    assert "share = 0.1" in result.refusal.remedies[0]
    assert result.to_dict()["estimates"] == []
    assert "slot 2" in str(result)
    assert "Refused" in result._repr_html_()


def test_more_of_the_same_log_is_asked_for_by_what_it_is_worth() -> None:
    """Worth 50 lists of its own by 2,000 with 5 % explored: 1,000 need 40,000 with 5 %, 20,000 with 10 %."""
    lists = [
        LoggedList(np.array([float(number % 400 == 0)]), np.array([0.025]), np.array([float(number % 40 == 0)]),
                   share=0.05, n_choices=20)
        for number in range(2000)
    ]  # fmt: skip
    result = evaluate_lists(lists)
    assert result.refusal is not None
    assert result.slots[0].effective_size == pytest.approx(50)
    assert "share = 0.1" in result.refusal.remedies[0]
    assert "20,000 lists" in result.refusal.remedies[0]


def test_lists_of_different_lengths_and_of_one_slot() -> None:
    short = [
        LoggedList(one.rewards[:1], one.propensities[:1], one.target_probabilities[:1]) for one in drawn_lists(400, 4)
    ]
    slates = slates_of([*short, *drawn_lists(400, 5)])
    assert slates.rewards.shape == (800, 2)
    assert (slates.propensities[:400, 1] == 1).all()
    assert (slates.rewards[:400, 1] == 0).all()
    result = evaluate_lists(short)
    assert result["pi"].value == pytest.approx(result["iips"].value) == pytest.approx(result["sips"].value)


def test_support_by_slot_counts_a_user_once() -> None:
    lists = drawn_lists(1000, 6)
    slots = slot_support(slates_of(lists))
    weights = np.cumprod(np.array([one.target_probabilities / one.propensities for one in lists]), axis=1)
    assert [slot.mean_weight for slot in slots] == pytest.approx(weights.mean(axis=0))
    by_user = weights[:500] + weights[500:]
    assert slots[1].effective_size == pytest.approx(by_user[:, 1].sum() ** 2 / (by_user[:, 1] ** 2).sum())
    assert slots[1].mean_weight_error == pytest.approx(by_user[:, 1].std(ddof=1) * np.sqrt(500) / 1000, rel=1e-6)


def test_rewards_beyond_one_are_named() -> None:
    lists = [LoggedList(5 * one.rewards, one.propensities, one.target_probabilities) for one in drawn_lists(2000, 7)]
    result = evaluate_lists(lists)
    assert any("range from 0 to 5" in note for note in result.notes())
    told = evaluate_lists(lists, reward_range=(0, 5))
    assert told["rips"].high == pytest.approx(result["rips"].high)
    assert not any("range from" in note for note in told.notes())


def test_a_reward_model_narrows_the_estimate() -> None:
    """Expected rewards of the items themselves, which is what a perfect model says."""
    rng = np.random.default_rng(8)
    lists = []
    for one in drawn_lists(3000, 8):
        items = rng.choice(4, 2, p=LOGGING)
        clicks = (rng.random(2) < 5 * RATES[items] / 1.2).astype(float)
        expected = np.full(2, 5 * TARGET @ RATES / 1.2)
        lists.append(LoggedList(clicks, LOGGING[items], TARGET[items], one.made_for, one.user,
                                5 * RATES[items] / 1.2, expected))  # fmt: skip
    result = evaluate_lists(lists)
    assert result["cascade_dr"].standard_error < result["rips"].standard_error
    assert result["cascade_dr"].low < 2 * 5 * TARGET @ RATES / 1.2 < result["cascade_dr"].high
