"""Which candidate gets which slot: pins, caps, minimum shares and duplicates, decided in one pass.

Slots are filled from the first to the k-th with the best candidate that is allowed there. Where rules conflict, this is
their precedence, the strongest first:

1. pins, which also count for caps and shares;
2. strict caps (and duplicates, which are a strict cap of one): never exceeded, even where the list is then short;
3. caps that are not strict;
4. minimum shares: a slot is forced once the free slots are no more than the members that shares still miss, sooner
   where caps leave fewer slots for them; of two shares that do not both fit, the one named earlier comes first. A share
   never asks for more than the candidates have;
5. the order of the candidates.

Where caps that are not strict leave a slot empty, they yield, so that k items come back whenever k items qualify.

`allowed_replacements` gives the candidates that may take a slot of such a list with all of these rules satisfied.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from zhiyin.core.array_table import bool_at, float64_at, int32_at, int64_at, int64_rows_at, int_at, length_at
from zhiyin.core.hashing import find, table
from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.run import Run
from zhiyin.pipeline.rule_table import (
    FIRST_CAP,
    LIMITS,
    MIN_SHARES,
    N_CAPS,
    N_EXPOSURE,
    N_SHARES,
    SLOTS_OF_CAP,
    rule_slots,
)  # fmt: skip

# Why an item has its slot.
BY_ORDER, BY_PIN, BY_SHARE, BY_YIELDING, BY_POLICY = range(5)


@dataclasses.dataclass(frozen=True, eq=False)
class Cap:
    """At most so many items of one group within the first slots.

    Parameters
    ----------
    offsets, groups: the groups of each of the m rows, groups[offsets[row]:offsets[row + 1]]; int64, from 0.
    at_most: items of one group.
    first: how many of the first slots it applies to.
    strict: see the module.
    """

    offsets: np.ndarray
    groups: np.ndarray
    at_most: int
    first: int
    strict: bool


@dataclasses.dataclass(frozen=True, eq=False)
class SlotAssignment:
    """What `assign_slots` decided for n requests.

    Parameters
    ----------
    rows: int64[n, k], the row in each slot, -1 behind the end of a list.
    reasons: int8[n, k], BY_... of each.
    causes: int16[n, k], the share that forced a slot or the cap that yielded, else -1.
    missing: int64[n, s], members that each share still misses.
    blocked_by: int16[m], the first cap that kept a row from a slot, or -1.
    """

    rows: np.ndarray
    reasons: np.ndarray
    causes: np.ndarray
    missing: np.ndarray
    blocked_by: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Constraints:
    """Caps and shares of the m rows of n requests, as the kernels read them.

    Parameters
    ----------
    starts: int64[caps, m + 1], the groups of each row by each cap: groups[starts[cap, row]:starts[cap, row + 1]].
    groups: int64, groups of each request, numbered from 0 to `n_groups` over all requests.
    limits: int64[caps, 3]: at most, first slots, strict.
    members: bool[shares, m].
    min_shares: float64[shares], of the slots.
    """

    starts: np.ndarray
    groups: np.ndarray
    n_groups: int
    limits: np.ndarray
    members: np.ndarray
    min_shares: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """Starts, groups, limits, members and minimum shares, in the order in which kernels take them."""
        return self.starts, self.groups, self.limits, self.members, self.min_shares

    @classmethod
    def of(
        cls,
        offsets: np.ndarray,
        caps: list[Cap] | None = None,
        shares: list[tuple[np.ndarray, float]] | None = None,
    ) -> Constraints:
        """See `assign_slots`."""
        m = int(offsets[-1])
        caps, shares = caps or [], shares or []
        starts = np.zeros((len(caps), m + 1), dtype=np.int64)
        parts, base = [np.zeros(0, np.int64)], 0
        owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)) if caps else np.zeros(0, np.int64)
        for at, cap in enumerate(caps):
            # Counters of a request's own groups: (request, group) numbered densely.
            width = int(cap.groups.max(initial=0)) + 1
            key = np.repeat(owners, np.diff(cap.offsets)) * width + cap.groups
            different, dense = np.unique(key, return_inverse=True)
            starts[at] = cap.offsets + sum(len(part) for part in parts)
            parts.append(dense + base)
            base += len(different)
        limits = np.array([(cap.at_most, cap.first, cap.strict) for cap in caps], dtype=np.int64).reshape(-1, 3)
        members = np.array([member for member, _ in shares], dtype=bool).reshape(len(shares), m)
        min_shares = np.array([share for _, share in shares], dtype=np.float64)
        return cls(starts, np.concatenate(parts), base, limits, members, min_shares)


def assign_slots(
    offsets: np.ndarray,
    k: int,
    *,
    pins: np.ndarray | None = None,
    caps: list[Cap] | None = None,
    shares: list[tuple[np.ndarray, float]] | None = None,
    constraints: Constraints | None = None,
    run: Run | None = None,
) -> SlotAssignment:
    """Fill k slots for each of n requests.

    Parameters
    ----------
    offsets: int64[n + 1], the rows of each request, best first.
    pins: int64[m], the slot (from 0) each row is pinned to, or -1; no slot twice in a request.
    shares: bool[m] members and the share of the list's slots that they get at min_shares; rounded up.
    constraints: caps and shares, where they were made before.
    """
    n, m = len(offsets) - 1, int(offsets[-1])
    constraints = constraints or Constraints.of(offsets, caps, shares)
    pins = np.full(m, -1, np.int64) if pins is None else pins
    assignment = SlotAssignment(
        np.full((n, k), -1, np.int64),
        np.zeros((n, k), np.int8),
        np.full((n, k), -1, np.int16),
        np.zeros((n, len(constraints.min_shares)), np.int64),
        np.full(m, -1, np.int16),
    )
    counts = np.zeros(constraints.n_groups, dtype=np.int64)

    args = (offsets, pins, *constraints.arrays, counts, assignment.rows, assignment.reasons, assignment.causes,
            assignment.missing, assignment.blocked_by)  # fmt: skip
    for_chunks(lambda start, stop: assign_lists(start, stop, *args), n, run or Run(threads=1))
    return assignment


def allowed_replacements(
    offsets: np.ndarray, assignment: SlotAssignment, constraints: Constraints, max_per_slot: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows that may replace the row in a slot with every rule satisfied; of each slot that is not pinned, the best.

    A row that is not in the list may take a slot where, the rest of the list as it is, no cap of one of its groups is
    exceeded, strict or not, and no share falls below its minimum.

    max_per_slot: rows for each slot at most.

    Returns
    -------
    counts int64[n, k], how many may take each slot, and rows int64, by request and slot, best first.
    """
    n, k = assignment.rows.shape
    counts = np.zeros((n, k), dtype=np.int64)
    no_rows = np.zeros(0, np.int64)
    group_counts = np.zeros(constraints.n_groups, dtype=np.int64)
    args = (offsets, assignment.rows, assignment.reasons, *constraints.arrays, group_counts, max_per_slot, counts)
    _collect_replacements(*args, False, no_rows)
    rows = np.empty(int(counts.sum()), dtype=np.int64)
    group_counts[:] = 0
    _collect_replacements(*args, True, rows)
    return counts, rows


@kernel
def gather_constraints(k, rules, offsets, items):
    """Caps and shares of the rows of slates, as `Constraints` holds them.

    Returns starts, groups, the number of groups, limits, members and minimum shares.
    """
    n_caps, n_shares, m = int_at(rules, N_CAPS), int_at(rules, N_SHARES), len(items)
    first_condition, _ = rule_slots(n_caps, n_shares, int_at(rules, N_EXPOSURE))
    n_entries = 0
    for cap in range(n_caps):
        slot = FIRST_CAP + SLOTS_OF_CAP * cap
        if length_at(rules, slot + 1) == 0:
            n_entries += m
        else:
            item_starts = int64_at(rules, slot + 1)
            for row in range(m):
                n_entries += item_starts[items[row] + 1] - item_starts[items[row]]
    starts, groups = np.zeros((n_caps, m + 1), dtype=np.int64), np.empty(n_entries, dtype=np.int64)
    limits = np.empty((n_caps, 3), dtype=np.int64)
    n_groups, to = 0, 0
    for cap in range(n_caps):
        slot = FIRST_CAP + SLOTS_OF_CAP * cap
        item_groups, item_starts = int32_at(rules, slot), int64_at(rules, slot + 1)
        limits[cap] = int64_rows_at(rules, LIMITS)[cap]
        if limits[cap, 1] == 0:
            limits[cap, 1] = k
        for request in range(len(offsets) - 1):
            # Groups of a request are numbered apart from those of others: counters are its own.
            begin, first_row = to, offsets[request]
            for row in range(first_row, offsets[request + 1]):
                item = items[row]
                starts[cap, row] = to
                if len(item_starts) == 0:
                    if item_groups[item] >= 0:
                        groups[to] = item_groups[item]
                        to += 1
                    continue
                for entry in range(item_starts[item], item_starts[item + 1]):
                    groups[to] = item_groups[entry]
                    to += 1
            own = groups[begin:to].copy()
            slots = table(len(own))
            for entry in range(len(own)):
                found = find(slots, own, own[entry])
                if slots[found] < 0:
                    slots[found] = entry
                    groups[begin + entry] = n_groups
                    n_groups += 1
                else:
                    groups[begin + entry] = groups[begin + slots[found]]
        starts[cap, m] = to
    members = np.empty((n_shares, m), dtype=np.bool_)
    for share in range(n_shares):
        is_member = bool_at(rules, first_condition + share)
        for row in range(m):
            members[share, row] = is_member[items[row]]
    return starts, groups[:to], n_groups, limits, members, float64_at(rules, MIN_SHARES).copy()


@kernel
def _blocking_cap(row, slot, starts, groups, limits, counts, strict_only):
    """The first cap that forbids a row in a slot, or -1."""
    for cap in range(len(limits)):
        if slot >= limits[cap, 1] or (strict_only and limits[cap, 2] == 0):
            continue
        for at in range(starts[cap, row], starts[cap, row + 1]):
            if counts[groups[at]] >= limits[cap, 0]:
                return cap
    return -1


@kernel
def _count_groups(row, slot, starts, groups, limits, counts):
    for cap in range(len(limits)):
        if slot < limits[cap, 1]:
            for at in range(starts[cap, row], starts[cap, row + 1]):
                counts[groups[at]] += 1


@kernel
def _first_unblocked(
    head, end, first, slot, strict_only, n_shares, missing_members, barred, placed, members, starts, groups, limits,
    counts, blocked_by,
):  # fmt: skip
    """The first row of [head, end) that is not placed and that no cap forbids in a slot, and the share it serves.

    (-1, -1) where there is none. With `n_shares` > 0 only rows count that serve one of the first so many shares; with
    `strict_only` only strict caps. Of rows that a cap forbids, `blocked_by` notes the first one that did.
    """
    for row in range(head, end):
        if placed[row - first]:
            continue
        served = -1
        for share in range(n_shares):
            if missing_members[share] > 0 and not barred[share] and members[share, row]:
                served = share
                break
        if n_shares > 0 and served < 0:
            continue
        cap = _blocking_cap(row, slot, starts, groups, limits, counts, strict_only)
        if cap < 0:
            return row, served
        if blocked_by[row] < 0:
            blocked_by[row] = cap
    return -1, -1


@kernel
def _choose_for_shares(
    best, head, end, first, slot, strict_only, room, missing_members, barred, placed, members, starts, groups, limits,
    counts, blocked_by,
):  # fmt: skip
    """The row for a slot and the share that forces it, -1 where none does, given that `room` slots are left to shares.

    best: the row that has the slot without shares.
    """
    barred[:] = False
    while True:
        total = 0
        for share in range(len(missing_members)):
            total += 0 if barred[share] else missing_members[share]
        if total == 0 or total < room:
            return best, -1
        # The shares that still fit, the earlier named first.
        remaining, last = max(1, room), 0
        while last < len(missing_members) and remaining > 0:
            remaining -= 0 if barred[last] else missing_members[last]
            last += 1
        chosen, served = _first_unblocked(
            head, end, first, slot, strict_only, last, missing_members, barred, placed, members, starts, groups, limits,
            counts, blocked_by,
        )  # fmt: skip
        if chosen >= 0:  # a share's row that is the best anyway is not forced
            return chosen, -1 if chosen == best else served
        barred[:last] = True  # caps leave nothing for these shares in this slot


@kernel
def assign_lists(
    start,
    stop,
    offsets,
    pins,
    starts,
    groups,
    limits,
    members,
    min_shares,
    counts,
    rows,
    reasons,
    causes,
    missing,
    blocked_by,
):
    """Fill the lists of requests; where caps stand in the way of shares, begin with the shares sooner.

    `_fill_list` puts a share off for as long as there are slots for it. Caps may leave fewer: strict ones end the list
    early, others yield in its last slots. Then lists are tried that leave less and less to the end, until no slot of a
    share is missing. The best one is the longest, of equal ones that with the fewest caps exceeded, then that with the
    fewest slots of shares missing.
    """
    k = rows.shape[1]
    for request in range(start, stop):
        n = min(k, offsets[request + 1] - offsets[request])
        args = (
            offsets,
            pins,
            starts,
            groups,
            limits,
            members,
            min_shares,
            counts,
            rows,
            reasons,
            causes,
            missing,
            blocked_by,
        )
        length, yielded, lacking = _fill_list(request, n, n, *args)
        if lacking == 0 or len(limits) == 0:
            continue
        size, reach = length, length - yielded
        best, best_rank, horizon = -1, (-length, yielded, lacking), n
        for attempt in range(5):  # all that caps let in, three quarters, a half, a quarter, nothing is put off
            horizon = reach * (4 - attempt) // 4
            length, yielded, lacking = _fill_list(request, size, horizon, *args)
            if (-length, yielded, lacking) < best_rank:
                best, best_rank = horizon, (-length, yielded, lacking)
            if best_rank[2] == 0:
                break
        if best < 0:
            _fill_list(request, n, n, *args)
        elif best != horizon:
            _fill_list(request, size, best, *args)


@kernel
def _fill_list(
    request, length, horizon, offsets, pins, starts, groups, limits, members, min_shares, counts, rows, reasons, causes,
    missing, blocked_by,
):  # fmt: skip
    """Fill one list. Shares are parts of `length` slots, and are to be had within `horizon` slots where caps let them.

    Returns the items of the list, how many exceed a cap, and the slots that shares miss.
    """
    k, n_shares = rows.shape[1], len(min_shares)
    first, end = offsets[request], offsets[request + 1]
    rows[request, :], reasons[request, :], causes[request, :] = -1, 0, -1
    blocked_by[first:end] = -1
    for cap in range(len(limits)):
        for at in range(starts[cap, first], starts[cap, end]):
            counts[groups[at]] = 0
    placed = np.zeros(end - first, dtype=np.bool_)
    pinned = np.full(k, -1, dtype=np.int64)
    missing_members = np.empty(n_shares, dtype=np.int64)
    for share in range(n_shares):
        missing_members[share] = np.int64(np.ceil(min_shares[share] * length - 1e-9))
    free, left = horizon, end - first  # slots, and rows for them
    for row in range(first, end):
        if 0 <= pins[row] < k:
            pinned[pins[row]] = row
            placed[row - first] = True
            free -= 1
            left -= 1
            _count_groups(row, pins[row], starts, groups, limits, counts)
            for share in range(n_shares):
                missing_members[share] -= members[share, row]
    for share in range(n_shares):
        supply = 0
        for row in range(first, end):
            supply += members[share, row] and not placed[row - first]
        missing_members[share] = max(0, min(missing_members[share], supply))
    barred = np.zeros(n_shares, dtype=np.bool_)
    head, place, yielded = first, 0, 0
    ended = False
    for slot in range(k):
        if pinned[slot] >= 0:
            rows[request, place], reasons[request, place] = pinned[slot], 1
            place += 1
            continue
        if ended:
            continue
        while head < end and placed[head - first]:
            head += 1
        room, total = min(free, left), 0
        for share in range(n_shares):
            total += missing_members[share]
        chosen, reason, cause = -1, 0, -1
        for yields in (False, True):  # whether caps that are not strict yield
            chosen, _ = _first_unblocked(
                head, end, first, slot, yields, 0, missing_members, barred, placed, members, starts, groups, limits,
                counts, blocked_by,
            )  # fmt: skip
            if chosen >= 0 and total > 0 and room <= total:
                chosen, cause = _choose_for_shares(
                    chosen, head, end, first, slot, yields, room, missing_members, barred, placed, members, starts,
                    groups, limits, counts, blocked_by,
                )  # fmt: skip
                reason = 0 if cause < 0 else 2
            if chosen >= 0 and yields:
                reason, cause = 3, _blocking_cap(chosen, slot, starts, groups, limits, counts, False)
                yielded += 1
            if chosen >= 0:
                break
        if chosen < 0:
            ended = True  # what is pinned further down moves up
            continue
        rows[request, place], reasons[request, place], causes[request, place] = chosen, reason, cause
        place += 1
        placed[chosen - first] = True
        free -= 1
        left -= 1
        _count_groups(chosen, slot, starts, groups, limits, counts)
        for share in range(n_shares):
            if members[share, chosen] and missing_members[share] > 0:
                missing_members[share] -= 1
    # What the list lacks of the share that was asked, whether candidates, caps or other shares are to blame.
    lacking = 0
    for share in range(n_shares):
        n_members = 0
        for slot in range(place):
            n_members += members[share, rows[request, slot]]
        wanted = np.int64(np.ceil(min_shares[share] * min(k, place) - 1e-9))
        missing[request, share] = max(0, wanted - n_members)
        lacking += missing[request, share]
    return place, yielded, lacking


@kernel
def _collect_replacements(
    offsets, lists, reasons, starts, groups, limits, members, min_shares, group_counts, max_per_slot, counts, write, out
):
    n, k = lists.shape
    n_caps, n_shares = len(limits), len(min_shares)
    to = 0
    for request in range(n):
        first, end = offsets[request], offsets[request + 1]
        in_list = np.zeros(end - first, dtype=np.bool_)
        length = 0
        n_members = np.zeros(n_shares, dtype=np.int64)
        for slot in range(k):
            row = lists[request, slot]
            if row < 0:
                break
            length += 1
            in_list[row - first] = True
            _count_groups(row, slot, starts, groups, limits, group_counts)
            for share in range(n_shares):
                n_members[share] += members[share, row]
        for slot in range(length):
            if reasons[request, slot] == 1:  # pinned
                continue
            current, n_allowed = lists[request, slot], 0
            for row in range(first, end):
                if n_allowed == max_per_slot:
                    break
                if in_list[row - first]:
                    continue
                fits = True
                for share in range(n_shares):
                    wanted = np.int64(np.ceil(min_shares[share] * length - 1e-9))
                    if members[share, current] and not members[share, row] and n_members[share] <= wanted:
                        fits = False
                for cap in range(n_caps):
                    if not fits or slot >= limits[cap, 1]:
                        continue
                    for at in range(starts[cap, row], starts[cap, row + 1]):
                        others = group_counts[groups[at]]
                        for own in range(starts[cap, current], starts[cap, current + 1]):
                            others -= groups[own] == groups[at]
                        if others >= limits[cap, 0]:
                            fits = False
                            break
                if fits:
                    if write:
                        out[to] = row
                    to += 1
                    n_allowed += 1
            counts[request, slot] = n_allowed
