"""Slots by pins, caps, shares and the order: against lists by hand, and a plain reference of the precedence."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable

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


def test_groups_of_each_request_and_cap_are_numbered_apart() -> None:
    """More requests than groups: with a wrong key, groups of two requests would share a counter."""
    row = Row(-1, ((0,), (1, 0)), (False, False))
    other = Row(-1, ((1,), ()), (False, False))
    constraints = constraints_of([[row, other, row]] * 4, [(1, 2, False), (1, 2, True)], [])
    assert constraints.n_groups == 4 * (2 + 2)
    numbers = [
        frozenset(constraints.groups[starts[3 * request] : starts[3 * request + 3]].tolist())
        for starts in constraints.starts
        for request in range(4)
    ]
    assert all(len(part) == 2 for part in numbers)
    assert {number for part in numbers for number in part} == set(range(16))


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


@dataclasses.dataclass(frozen=True)
class ExpectedList:
    """One list by the precedence that the module documents, as numbers within its request.

    rows, reasons, causes: by slot. missing: by share. blocked: the cap that first kept each row from a slot, or -1.
    """

    rows: list[int]
    reasons: list[int]
    causes: list[int]
    missing: list[int]
    blocked: list[int]

    def append(self, row: int, reason: int, cause: int) -> None:
        self.rows.append(row)
        self.reasons.append(reason)
        self.causes.append(cause)

    @property
    def rank(self) -> tuple[int, int, int]:
        """The better of two lists has the lower: longer, fewer caps exceeded, fewer slots of shares missing."""
        return -len(self.rows), self.reasons.count(BY_YIELDING), sum(self.missing)


def part_of(share: float, slots: int) -> int:
    """Slots that a share asks for, rounded up."""
    return math.ceil(round(share * slots, 9))


def expected_list(rows: list[Row], k: int, caps: list[tuple[int, int, bool]], shares: list[float]) -> ExpectedList:
    """Shares are put off to the last slots; where caps then leave them too few, they begin sooner by quarters."""
    n = min(k, len(rows))
    late = fill_in_order(rows, k, caps, shares, n, n)
    if not caps or not sum(late.missing):
        return late
    length, n_yielded, _ = late.rank
    lists = [late]
    for quarters in (4, 3, 2, 1, 0):
        lists.append(fill_in_order(rows, k, caps, shares, -length, (-length - n_yielded) * quarters // 4))
        if not sum(min(lists, key=lambda tried: tried.rank).missing):
            break
    return min(lists, key=lambda tried: tried.rank)  # the first of equal ones


def fill_in_order(
    rows: list[Row], k: int, caps: list[tuple[int, int, bool]], shares: list[float], length: int, horizon: int
) -> ExpectedList:
    """Slot by slot, with shares as parts of `length` slots that are to be had within `horizon` slots."""
    pinned = {row.pin: number for number, row in enumerate(rows) if 0 <= row.pin < k}
    places = {number: slot for slot, number in pinned.items()}  # the slot of each row that has one; pins from the start
    result = ExpectedList([], [], [], [], [-1] * len(rows))

    def members(share: int, of: Iterable[int]) -> int:
        return sum(rows[number].members[share] for number in of)

    def unplaced() -> list[int]:
        return [number for number in range(len(rows)) if number not in places]

    def missing(share: int) -> int:
        wanted = part_of(shares[share], length) - members(share, places)
        return max(0, min(wanted, members(share, unplaced())))

    def cap_against(number: int, slot: int, strict_only: bool) -> int:
        for c, (at_most, first, strict) in enumerate(caps):
            if slot < first and (strict or not strict_only):
                taken = [group for other, at in places.items() if at < first for group in rows[other].groups[c]]
                if any(taken.count(group) >= at_most for group in rows[number].groups[c]):
                    return c
        return -1

    def best(slot: int, strict_only: bool, serving: list[int] | None = None) -> int | None:
        """The first row that caps allow there; only members of the shares `serving`, where given."""
        for number in unplaced():
            if serving is None or members_of(number, serving):
                cap = cap_against(number, slot, strict_only)
                if cap < 0:
                    return number
                if result.blocked[number] < 0:
                    result.blocked[number] = cap
        return None

    def members_of(number: int, among: list[int]) -> list[int]:
        return [share for share in among if rows[number].members[share]]

    def choose(slot: int, strict_only: bool) -> tuple[int | None, int]:
        """The row for a slot, and the share that it is forced by or -1."""
        room = min(horizon - len(places), len(unplaced()))
        open_shares = [share for share in range(len(shares)) if missing(share) > 0]
        while open_shares and sum(map(missing, open_shares)) >= room:
            # Those named first, until they take all the room.
            fitting = [s for i, s in enumerate(open_shares) if i == 0 or sum(map(missing, open_shares[:i])) < room]
            number = best(slot, strict_only, fitting)
            if number is not None:
                forced = number != best(slot, strict_only)
                return number, members_of(number, fitting)[0] if forced else -1
            open_shares = [share for share in open_shares if share not in fitting]
        return best(slot, strict_only), -1

    for slot in range(k):
        number, reason, cause = pinned.get(slot), BY_PIN, -1
        if number is None:
            number, cause = choose(slot, False)
            reason = BY_ORDER if cause < 0 else BY_SHARE
        if number is None:
            number, _ = choose(slot, True)
            reason, cause = BY_YIELDING, -1 if number is None else cap_against(number, slot, False)
        if number is None:  # the list ends, and what is pinned further down moves up
            tail = [pinned[at] for at in sorted(pinned) if at > slot]
            for pin in tail:
                result.append(pin, BY_PIN, -1)
            break
        places[number] = slot
        result.append(number, reason, cause)
    for share, minimum in enumerate(shares):
        result.missing.append(max(0, part_of(minimum, len(result.rows)) - members(share, result.rows)))
    return result


def check_against_reference(
    requests: list[list[Row]], k: int, caps: list[tuple[int, int, bool]], shares: list[float]
) -> list[ExpectedList]:
    """Each list, and all that is said of it, as in the reference; returns the lists of the reference."""
    assignment = assigned(requests, k, constraints_of(requests, caps, shares))
    expected, begin = [expected_list(rows, k, caps, shares) for rows in requests], 0
    for n, (rows, one) in enumerate(zip(requests, expected, strict=True)):
        rest = k - len(one.rows)
        assert assignment.rows[n].tolist() == [number + begin for number in one.rows] + [-1] * rest
        assert assignment.reasons[n].tolist() == one.reasons + [BY_ORDER] * rest
        assert assignment.causes[n].tolist() == one.causes + [-1] * rest
        assert assignment.missing[n].tolist() == one.missing
        assert assignment.blocked_by[begin : begin + len(rows)].tolist() == one.blocked
        begin += len(rows)
    return expected


@pytest.mark.parametrize("n_caps", [1, 2])
def test_caps_take_the_best_that_they_let_in_and_yield_where_none_is(n_caps: int) -> None:
    rng = np.random.default_rng(n_caps)
    for _ in range(60):
        requests = [[dataclasses.replace(row, pin=-1) for row in rows] for rows in random_requests(rng)]
        caps = [(int(rng.integers(1, 4)), int(rng.integers(1, 8)), bool(rng.random() < 0.5)) for _ in range(n_caps)]
        check_against_reference(requests, int(rng.integers(2, 9)), caps, [])


SHARES = st.lists(st.sampled_from([0.2, 0.34, 0.5, 1.0]), max_size=2)


@settings(max_examples=examples(120))
@given(REQUESTS, st.integers(1, 6), st.lists(CAPS, max_size=2), SHARES)
def test_lists_are_those_of_the_reference(
    requests: list[list[Row]], k: int, caps: list[tuple[int, int, bool]], shares: list[float]
) -> None:
    check_against_reference(requests, k, caps, shares)


@pytest.mark.parametrize("seed", range(4))
def test_long_lists_are_those_of_the_reference(seed: int) -> None:
    """More rows than slots, two shares, two caps; strict caps in half of the seeds."""
    rng = np.random.default_rng(seed)
    reasons: set[int] = set()
    for _ in range(40):
        requests = random_requests(rng)
        caps = [(int(rng.integers(1, 4)), int(rng.integers(1, 8)), seed % 2 == 1) for _ in range(2)]
        shares = [float(share) for share in rng.choice([0.2, 0.34, 0.5, 1.0], 2)]
        for one in check_against_reference(requests, int(rng.integers(2, 9)), caps, shares):
            reasons |= set(one.reasons)
    assert reasons == {BY_ORDER, BY_PIN, BY_SHARE} | ({BY_YIELDING} if seed % 2 == 0 else set())


def of(*groups: int, a: bool = False, b: bool = False, pin: int = -1) -> Row:
    """A row of these groups by the first cap, and perhaps a member of the first share, a, and of the second, b."""
    return Row(pin, (groups, ()), (a, b))


ONE_EACH, ONE_EACH_STRICT = [(1, 9, False)], [(1, 9, True)]


@pytest.mark.parametrize(
    ("rows", "k", "caps", "shares", "expected"),
    [
        pytest.param(
            [of(), of(), of(a=True), of(a=True, pin=0)], 2, [], [0.5],
            ExpectedList([3, 0], [BY_PIN, BY_ORDER], [-1, -1], [0], [-1] * 4),
            id="a pin counts for a share",
        ),
        pytest.param(
            [of(), of(), of(), of(a=True), of(pin=2)], 3, [], [0.3],
            ExpectedList([0, 3, 4], [BY_ORDER, BY_SHARE, BY_PIN], [-1, 0, -1], [0], [-1] * 5),
            id="a pin leaves a share one slot less",
        ),
        pytest.param(
            [of(0), of(), of(0, pin=1)], 2, ONE_EACH, [],
            ExpectedList([1, 2], [BY_ORDER, BY_PIN], [-1, -1], [], [0, -1, -1]),
            id="a pin counts for a cap in the slots before it",
        ),
        pytest.param(
            [of(0), of(0), of(0, pin=3), of(1)], 4, ONE_EACH_STRICT, [],
            ExpectedList([3, 2], [BY_ORDER, BY_PIN], [-1, -1], [], [0, 0, -1, -1]),
            id="a pin moves up where strict caps end the list",
        ),
        pytest.param(
            [of(), of(b=True), of(a=True)], 1, [], [0.5, 0.5],
            ExpectedList([2], [BY_SHARE], [0], [0, 1], [-1] * 3),
            id="of two shares that do not fit the first named",
        ),
        pytest.param(
            [of(), of(), of(b=True), of(a=True)], 3, [], [0.3, 0.3],
            ExpectedList([0, 2, 3], [BY_ORDER, BY_SHARE, BY_SHARE], [-1, 1, 0], [0, 0], [-1] * 4),
            id="of two shares that fit the better row",
        ),
        pytest.param(
            [of(0, pin=0), of(0, b=True), of(0, a=True)], 2, ONE_EACH, [0.5, 0.5],
            ExpectedList([0, 2], [BY_PIN, BY_YIELDING], [-1, 0], [0, 1], [-1, 0, 0]),
            id="a cap yields to the share named first",
        ),
        pytest.param(
            [of(0, pin=0), of(0), of(0, a=True)], 3, ONE_EACH, [0.3],
            ExpectedList([0, 1, 2], [BY_PIN, BY_YIELDING, BY_YIELDING], [-1, 0, 0], [0], [-1, 0, 0]),
            id="a cap yields to a share only when it is due",
        ),
        pytest.param(
            [of(0), of(0), of(1, a=True), of()], 2, ONE_EACH, [0.5],
            ExpectedList([0, 2], [BY_ORDER, BY_ORDER], [-1, -1], [0], [-1, 0, -1, -1]),
            id="a share forces nothing that caps leave to it anyway",
        ),
        pytest.param(
            [of(0), of(0, a=True), of(1)], 2, [(1, 2, False)], [0.5],
            ExpectedList([1, 2], [BY_SHARE, BY_ORDER], [0, -1], [0], [0, -1, -1]),
            id="a share sooner where a cap would keep it from the last slot",
        ),
        pytest.param(
            [of(0), of(1), of(1, a=True)], 4, ONE_EACH_STRICT, [0.5],
            ExpectedList([0, 2], [BY_ORDER, BY_SHARE], [-1, 0], [0], [-1, 0, -1]),
            id="a share sooner where strict caps end the list",
        ),
        pytest.param(
            [of(0, 1, 2), of(0), of(1, a=True), of(2)], 3, ONE_EACH_STRICT, [0.5],
            ExpectedList([2, 1, 3], [BY_SHARE, BY_ORDER, BY_ORDER], [0, -1, -1], [1], [0, -1, -1, -1]),
            id="the longest list though it misses as much",
        ),
    ],
)  # fmt: skip
def test_a_list_by_hand(
    rows: list[Row], k: int, caps: list[tuple[int, int, bool]], shares: list[float], expected: ExpectedList
) -> None:
    assert check_against_reference([rows], k, caps, shares) == [expected]


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
