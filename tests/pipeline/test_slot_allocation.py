"""Shares beside caps: what caps leave room for, a share gets."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from zhiyin.core.run import Run
from zhiyin.pipeline.slot_allocation import (
    BY_ORDER,
    BY_PIN,
    BY_SHARE,
    BY_YIELDING,
    Cap,
    Constraints,
    SlotAssignment,
    allowed_replacements,
    assign_slots,
)


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


@settings(max_examples=examples(150), deadline=None, derandomize=True)
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


@dataclasses.dataclass(frozen=True)
class Row:
    """A candidate: the slot it is pinned to, its groups by each of two caps, whether it is a member of each share."""

    pin: int
    groups: tuple[tuple[int, ...], tuple[int, ...]]
    members: tuple[bool, bool]


GROUPS = st.lists(st.integers(0, 2), max_size=2, unique=True).map(tuple)
ROWS = st.builds(
    Row, st.sampled_from([-1, -1, -1, -1, 0, 1, 3]), st.tuples(GROUPS, GROUPS), st.tuples(st.booleans(), st.booleans())
)


def pinned_once(rows: list[Row]) -> list[Row]:
    """The rows, each slot pinned by its first."""
    taken: set[int] = set()
    return [
        dataclasses.replace(row, pin=-1) if row.pin in taken or taken.add(row.pin) else row  # type: ignore[func-returns-value]
        for row in rows
    ]


REQUESTS = st.lists(st.lists(ROWS, max_size=7).map(pinned_once), min_size=1, max_size=4)
# At most, within the first slots, strict.
CAPS = st.tuples(st.integers(1, 2), st.integers(1, 6), st.booleans())


def constraints_of(requests: list[list[Row]], caps: list[tuple[int, int, bool]], shares: list[float]) -> Constraints:
    flat = [row for rows in requests for row in rows]
    offsets = np.cumsum([0, *map(len, requests)])
    made = []
    for c, (at_most, first, strict) in enumerate(caps):
        starts = np.cumsum([0, *(len(row.groups[c]) for row in flat)])
        groups = np.array([group for row in flat for group in row.groups[c]], dtype=np.int64)
        made.append(Cap(starts, groups, at_most, first, strict))
    members = [(np.array([row.members[s] for row in flat], dtype=bool), share) for s, share in enumerate(shares)]
    return Constraints.of(offsets, made, members)


def assigned(requests: list[list[Row]], k: int, constraints: Constraints, run: Run | None = None) -> SlotAssignment:
    pins = np.array([row.pin for rows in requests for row in rows], dtype=np.int64)
    offsets = np.cumsum([0, *map(len, requests)])
    return assign_slots(offsets, k, pins=pins, constraints=constraints, run=run)


@settings(max_examples=examples(60))
@given(REQUESTS, st.integers(1, 6), st.lists(CAPS, max_size=2), st.lists(st.sampled_from([0.2, 0.5, 1.0]), max_size=2))
def test_many_requests_are_each_alone(
    requests: list[list[Row]], k: int, caps: list[tuple[int, int, bool]], shares: list[float]
) -> None:
    both = assigned(requests, k, constraints_of(requests, caps, shares))
    begin = 0
    for n, rows in enumerate(requests):
        one = assigned([rows], k, constraints_of([rows], caps, shares))
        np.testing.assert_array_equal(np.where(one.rows[0] >= 0, one.rows[0] + begin, -1), both.rows[n])
        for field in ("reasons", "causes", "missing"):
            np.testing.assert_array_equal(getattr(one, field)[0], getattr(both, field)[n], err_msg=field)
        np.testing.assert_array_equal(one.blocked_by, both.blocked_by[begin : begin + len(rows)])
        begin += len(rows)
    again = assigned(requests, k, constraints_of(requests, caps, shares), Run(threads=1))
    np.testing.assert_array_equal(again.rows, both.rows)


@settings(max_examples=examples(60))
@given(REQUESTS, st.integers(1, 6), st.lists(CAPS, max_size=2), st.lists(st.sampled_from([0.2, 0.5, 1.0]), max_size=2))
def test_a_list_keeps_its_rules_in_their_order(
    requests: list[list[Row]], k: int, caps: list[tuple[int, int, bool]], shares: list[float]
) -> None:
    """Pins stand where they are pinned or higher; strict caps hold beside them; no row is empty while one may stand."""
    flat = [row for rows in requests for row in rows]
    made = assigned(requests, k, constraints_of(requests, caps, shares))
    begin = 0
    for n, rows in enumerate(requests):
        got = [int(row) for row in made.rows[n] if row >= 0]
        assert (made.rows[n][len(got) :] == -1).all()
        assert len(set(got)) == len(got)
        assert all(begin <= row < begin + len(rows) for row in got)
        pinned = [row for row in range(begin, begin + len(rows)) if 0 <= flat[row].pin < k]
        assert set(pinned) <= set(got)
        for slot, row in enumerate(got):
            assert (made.reasons[n, slot] == BY_PIN) == (row in pinned)
            assert row not in pinned or slot <= flat[row].pin
            assert made.reasons[n, slot] != BY_SHARE or flat[row].members[made.causes[n, slot]]
        if not caps:
            assert len(got) == min(k, len(rows)) or pinned
            assert not (made.blocked_by >= 0).any()
        if not caps and not shares and not pinned:
            assert got == list(range(begin, begin + min(k, len(rows))))
        for s, share in enumerate(shares):
            wanted = math.ceil(share * len(got) - 1e-9)
            assert made.missing[n, s] == max(0, wanted - sum(flat[row].members[s] for row in got))
        begin += len(rows)


def random_requests(rng: np.random.Generator) -> list[list[Row]]:
    """Three requests of up to twelve rows, more than their lists have slots."""

    def groups() -> tuple[int, ...]:
        return tuple(rng.permutation(3)[: rng.choice(3, p=[0.2, 0.6, 0.2])].tolist())

    def row() -> Row:
        pin = int(rng.choice([-1, 0, 2], p=[0.9, 0.05, 0.05]))
        return Row(pin, (groups(), groups()), (bool(rng.random() < 0.4), bool(rng.random() < 0.3)))

    return [pinned_once([row() for _ in range(rng.integers(4, 13))]) for _ in range(3)]


def in_order(rows: list[Row], k: int, caps: list[tuple[int, int, bool]]) -> tuple[list[int], list[int], list[int]]:
    """The list by caps alone, the cap that yielded for each row or -1, and the cap that each row was first kept by."""
    got: list[int] = []
    yielded: list[int] = []
    blocked = [-1] * len(rows)

    def cap_against(row: int, strict_only: bool) -> int:
        for c, (at_most, first, strict) in enumerate(caps):
            if len(got) < first and (strict or not strict_only):
                shown = [group for other in got[:first] for group in rows[other].groups[c]]
                if any(shown.count(group) >= at_most for group in rows[row].groups[c]):
                    return c
        return -1

    while len(got) < k:
        free = [row for row in range(len(rows)) if row not in got]
        allowed = next((row for row in free if cap_against(row, False) < 0), None)
        for row in free[: None if allowed is None else free.index(allowed)]:
            blocked[row] = cap_against(row, False) if blocked[row] < 0 else blocked[row]
        if allowed is None:
            allowed = next((row for row in free if cap_against(row, True) < 0), None)
        if allowed is None:
            break
        yielded.append(cap_against(allowed, False))
        got.append(allowed)
    return got, yielded, blocked


@pytest.mark.parametrize("n_caps", [1, 2])
def test_caps_take_the_best_that_they_let_in_and_yield_where_none_is(n_caps: int) -> None:
    rng = np.random.default_rng(n_caps)
    for _ in range(60):
        requests = [[dataclasses.replace(row, pin=-1) for row in rows] for rows in random_requests(rng)]
        caps = [(int(rng.integers(1, 4)), int(rng.integers(1, 8)), bool(rng.random() < 0.5)) for _ in range(n_caps)]
        k = int(rng.integers(2, 9))
        made = assigned(requests, k, constraints_of(requests, caps, []))
        begin = 0
        for n, rows in enumerate(requests):
            got, yielded, blocked = in_order(rows, k, caps)
            rest = [-1] * (k - len(got))
            assert made.rows[n].tolist() == [row + begin for row in got] + rest
            assert made.causes[n].tolist() == yielded + rest
            reasons = [BY_ORDER if cap < 0 else BY_YIELDING for cap in yielded]
            assert made.reasons[n].tolist() == reasons + [BY_ORDER] * len(rest)
            assert made.blocked_by[begin : begin + len(rows)].tolist() == blocked
            begin += len(rows)


@pytest.mark.parametrize("n_caps", [0, 1, 2])
@pytest.mark.parametrize("n_shares", [0, 2])
def test_what_may_replace_a_row_breaks_no_rule_and_is_all_of_that(n_caps: int, n_shares: int) -> None:
    rng = np.random.default_rng(10 * n_caps + n_shares)
    replaced = 0
    for _ in range(25):
        requests, k, most = random_requests(rng), int(rng.integers(2, 6)), int(rng.integers(1, 7))
        caps = [(int(rng.integers(1, 4)), int(rng.integers(1, 7)), bool(rng.random() < 0.5)) for _ in range(n_caps)]
        shares = [0.25, 0.5][:n_shares]
        flat = [row for rows in requests for row in rows]
        offsets = np.cumsum([0, *map(len, requests)])
        constraints = constraints_of(requests, caps, shares)
        made = assigned(requests, k, constraints)
        counts, rows_of = allowed_replacements(offsets, made, constraints, most)
        rest = rows_of.tolist()
        for n, rows in enumerate(requests):
            got = [int(row) for row in made.rows[n] if row >= 0]
            for slot in range(k):
                expected = []
                if slot < len(got) and made.reasons[n, slot] != BY_PIN:
                    others = [(at, row) for at, row in enumerate(got) if at != slot]
                    free = [row for row in range(offsets[n], offsets[n] + len(rows)) if row not in got]
                    expected = [row for row in free if _fits(flat, got, others, slot, row, caps, shares)][:most]
                assert counts[n, slot] == len(expected)
                assert rest[: len(expected)] == expected
                del rest[: len(expected)]
                replaced += len(expected)
        assert not rest
    assert replaced > 100


def _fits(
    flat: list[Row], got: list[int], others: list[tuple[int, int]], slot: int, row: int,
    caps: list[tuple[int, int, bool]], shares: list[float],
) -> bool:  # fmt: skip
    for c, (at_most, first, _) in enumerate(caps):
        if slot < first:
            within = [group for at, other in others if at < first for group in flat[other].groups[c]]
            if any(within.count(group) >= at_most for group in flat[row].groups[c]):
                return False
    for s, share in enumerate(shares):
        wanted = math.ceil(share * len(got) - 1e-9)
        before = sum(flat[one].members[s] for one in got)
        after = before - flat[got[slot]].members[s] + flat[row].members[s]
        if after < min(wanted, before):
            return False
    return True
