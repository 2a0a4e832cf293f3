"""Clicks over expected clicks, exact sums, and batches that do not matter."""

from __future__ import annotations

import numpy as np
import pytest

from zhiyin.core.errors import DataError
from zhiyin.pipeline.item_statistics import MAX_SLOTS, SLOT_PRIOR, ItemStatistics
from zhiyin.policies.action_sets import action_keys


def displays(n: int = 4_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    keys = action_keys(f"item {number}" for number in range(100))
    return keys[rng.integers(0, 100, n)], rng.integers(0, 5, n), (rng.random(n) < 0.3) * rng.normal(1, 1, n)


def test_sums_are_those_of_the_displays() -> None:
    keys, slots, rewards = displays()
    statistics = ItemStatistics()
    statistics.update(keys, slots, rewards)
    unique, counts = np.unique(keys, return_counts=True)
    np.testing.assert_array_equal(statistics.keys, unique)
    np.testing.assert_array_equal(statistics.displays_of(unique), counts)
    np.testing.assert_allclose(statistics.rewards, [rewards[keys == key].sum() for key in unique], atol=1e-12)
    assert statistics.displays_of(np.array([3])) == [0.0]
    assert statistics.ratios_of(np.array([3])) == [1.0]


def test_one_update_or_many_give_the_same_state() -> None:
    keys, slots, rewards = displays()
    whole, parts = ItemStatistics(), ItemStatistics()
    whole.update(keys, slots, rewards)
    for part in np.array_split(np.arange(len(keys)), 37):
        parts.update(keys[part], slots[part], rewards[part])
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(parts.arrays()[name], array)


def test_expected_rewards_are_those_of_the_slots() -> None:
    statistics = ItemStatistics()
    keys, slots = np.array([1, 2, 1]), np.array([0, 1, 0])
    statistics.update(keys, slots, np.array([1.0, 0.0, 1.0]))
    second = (0 + SLOT_PRIOR * 1.0) / SLOT_PRIOR  # slot 1, before it had any display; all slots brought 1 each
    third = (1 + SLOT_PRIOR * 0.5) / (1 + SLOT_PRIOR)
    np.testing.assert_allclose(statistics.expected, [third, second])
    np.testing.assert_allclose(statistics.ratios_of(np.array([1, 2])), [3 / (1 + third), 1 / (1 + second)])


def test_an_item_of_a_bad_slot_is_not_punished() -> None:
    """Two items are equally good, one always stands in a slot that is seen half as often: their ratios meet."""
    rng, n = np.random.default_rng(1), 40_000
    keys = np.where(np.arange(n) % 4 < 2, rng.integers(10, 30, n), np.where(np.arange(n) % 4 == 2, 1, 2))
    slots = np.where(keys == 1, 0, np.where(keys == 2, 1, rng.integers(0, 2, n)))
    rewards = (rng.random(n) < np.where(slots == 0, 0.4, 0.2)).astype(float)
    statistics = ItemStatistics()
    statistics.update(keys, slots, rewards)
    np.testing.assert_allclose(statistics.ratios_of(np.array([1, 2])), 1.0, atol=0.06)


def test_slots_behind_the_last_count_as_the_last() -> None:
    statistics = ItemStatistics()
    statistics.update(np.array([1]), np.array([MAX_SLOTS + 9]), np.array([2.0]))
    assert statistics.slot_rewards[-1] == 2.0
    assert statistics.slot_rates.shape == (MAX_SLOTS,)


def test_arrays_come_back_and_damaged_ones_are_refused() -> None:
    statistics = ItemStatistics()
    statistics.update(*displays(100))
    again = ItemStatistics.from_arrays(statistics.arrays())
    again.update(np.array([5]), np.array([0]), np.array([1.0]))
    assert statistics.displays.sum() == 100
    for change in ({"keys": statistics.keys[::-1]}, {"displays": np.zeros(1)}, {"slot_rewards": np.zeros(2)}):
        with pytest.raises(DataError):
            ItemStatistics.from_arrays({**statistics.arrays(), **change})
    with pytest.raises(DataError):
        ItemStatistics.from_arrays({})
