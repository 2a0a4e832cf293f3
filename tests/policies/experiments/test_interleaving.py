"""Team-draft interleaving: the lists that there can be, teams, and no preference where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from zhiyin.core.errors import DataError
from zhiyin.policies.experiments.interleaving import preference, team_draft

N = 4000
SEEDS = np.arange(N, dtype=np.uint64)


def lists(first: list[int], second: list[int], k: int) -> dict[tuple[int, ...], int]:
    drafted = team_draft(np.tile(first, (N, 1)), np.tile(second, (N, 1)), k, SEEDS)
    values, counts = np.unique(drafted.items, axis=0, return_counts=True)
    return {tuple(value.tolist()): int(count) for value, count in zip(values, counts)}


def test_lists_are_those_that_a_draft_can_give():
    assert set(lists([1, 2], [2, 3], 3)) == {(1, 2, 3), (2, 1, 3)}
    assert set(lists([1, 2], [3, 4], 3)) == {(1, 3, 2), (1, 3, 4), (3, 1, 2), (3, 1, 4)}
    assert all(abs(count - N / 4) < 4.5 * np.sqrt(N * 3 / 16) for count in lists([1, 2], [3, 4], 3).values())
    assert set(lists([1, -1], [2, -1], 3)) == {(1, 2, -1), (2, 1, -1)}


def test_teams_vary_where_lists_do_not():
    drafted = team_draft(np.tile([1, 2, 3], (N, 1)), np.tile([2, 3, 1], (N, 1)), 3, SEEDS)
    rows = np.unique(np.concatenate([drafted.items, drafted.teams], axis=1), axis=0)
    assert len({tuple(row[3:].tolist()) + tuple(row[:3].tolist()) for row in rows}) == 4
    assert (np.abs((drafted.teams == 0).sum(axis=1) - (drafted.teams == 1).sum(axis=1)) == 1).all()


def test_the_same_seed_gives_the_same_list():
    one, two = (team_draft(np.tile([1, 2, 3], (9, 1)), np.tile([4, 5, 6], (9, 1)), 4, SEEDS[:9]) for _ in range(2))
    assert (one.items == two.items).all()
    assert (one.teams == two.teams).all()


def test_clicks_decide():
    teams = np.array([[0, 1, 1], [0, 1, 0], [1, 0, 1]], dtype=np.int8)
    clicks = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]], dtype=bool)
    result = preference(teams, clicks)
    assert (result.first_wins, result.second_wins, result.ties, result.preference) == (0, 1, 2, 1.0)


def test_a_ranking_is_not_preferred_to_itself_and_a_better_one_is():
    rng = np.random.default_rng(6)
    relevance = rng.random((N, 10))
    best = np.argsort(-relevance, axis=1)
    noisy = np.argsort(-(relevance + rng.normal(0, 0.5, relevance.shape)), axis=1)
    for second, expected in ((best, None), (noisy, -1)):
        drafted = team_draft(best, second, 10, SEEDS)
        looked = 1 / np.arange(1, 11)
        chance = np.take_along_axis(relevance, drafted.items, axis=1) ** 4 * looked
        result = preference(drafted.teams, rng.random((N, 10)) < chance)
        if expected is None:
            assert result.p_value > 0.001
        else:
            assert result.preference < 0
            assert result.p_value < 1e-6


def test_errors():
    with pytest.raises(DataError, match="rankings and seeds"):
        team_draft(np.zeros((2, 3)), np.zeros((1, 3)), 3, SEEDS[:2])
    with pytest.raises(DataError, match="different shapes"):
        preference(np.zeros((1, 3), np.int8), np.zeros((1, 2), bool))
