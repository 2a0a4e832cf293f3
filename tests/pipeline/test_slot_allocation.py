"""Shares beside caps: what caps leave room for, a share gets."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhiyin.pipeline.slot_allocation import Cap, SlotAssignment, assign_slots


def one_list(
    sellers: list[int], members: list[bool], k: int, share: float, at_most: int, strict: bool
) -> SlotAssignment:
    n = len(sellers)
    cap = Cap(np.arange(n + 1), np.array(sellers, np.int64), at_most, k, strict)
    return assign_slots(np.array([0, n]), k, caps=[cap], shares=[(np.array(members), share)])


def listed(made: SlotAssignment) -> list[int]:
    return [int(row) for row in made.rows[0] if row >= 0]


@pytest.mark.parametrize("k", [5, 10, 12, 20])
def test_a_share_holds_where_a_strict_cap_ends_the_list(k: int) -> None:
    """30 rows of 10 sellers, the last row of each seller but one is a member: asking for more takes nothing away."""
    sellers = [row % 10 for row in range(30)]
    members = [row >= 21 for row in range(30)]
    rows = listed(one_list(sellers, members, k, 0.4, 1, True))
    assert len(rows) == min(k, 10)
    assert sum(members[row] for row in rows) == math.ceil(0.4 * len(rows))
    assert len({sellers[row] for row in rows}) == len(rows)


@pytest.mark.parametrize("k", [5, 8, 12])
def test_a_share_holds_where_a_cap_yields(k: int) -> None:
    """Three genres, two items each: from the seventh slot on the cap yields, and the share is not given up for it."""
    genres = [row % 3 for row in range(30)]
    members = [row >= 24 for row in range(30)]
    made = one_list(genres, members, k, 0.25, 2, False)
    rows = listed(made)
    assert len(rows) == k
    assert sum(members[row] for row in rows) == math.ceil(0.25 * k)
    counts = np.bincount([genres[row] for row in rows[:6]], minlength=3)
    assert (counts <= 2).all()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=9),
    st.integers(1, 6),
    st.sampled_from([0.2, 0.34, 0.5, 1.0]),
    st.integers(1, 2),
)
def test_a_share_beside_one_strict_cap_is_as_large_as_can_be(
    items: list[tuple[int, bool]], k: int, share: float, at_most: int
) -> None:
    """Against all lists there could be: the longest that keep the cap, and of them those that serve the share most."""
    sellers, members = [seller for seller, _ in items], [member for _, member in items]
    possible = [
        rows
        for size in range(min(k, len(items)) + 1)
        for rows in itertools.combinations(range(len(items)), size)
        if max(np.bincount([sellers[row] for row in rows], minlength=1)) <= at_most
    ]
    longest = max(map(len, possible))
    most = max(sum(members[row] for row in rows) for rows in possible if len(rows) == longest)
    made = one_list(sellers, members, k, share, at_most, True)
    rows = listed(made)
    assert len(rows) == longest
    assert max(np.bincount([sellers[row] for row in rows], minlength=1)) <= at_most
    wanted = math.ceil(share * longest - 1e-9)
    got = sum(members[row] for row in rows)
    assert got >= min(wanted, most)
    assert made.missing[0, 0] == max(0, wanted - got)
