"""Which candidate gets which slot: pins, caps, minimum shares and duplicates, decided in one pass.

Slots are filled from the first to the k-th with the best candidate that may stand there. What counts when rules do not
go together, the stronger first:

1. pins, which also count for caps and shares;
2. strict caps (and duplicates, which are a strict cap of one): never exceeded, though the list be short;
3. caps that are not strict;
4. minimum shares: a slot is forced once the slots left are no more than what shares still miss; of two shares that do
   not both fit, the earlier named comes first. A share asks for no more than the candidates can give;
5. the order of the candidates.

Where caps that are not strict leave a slot empty, they yield, so that k items come back whenever k items qualify.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.run import Run

# Why an item has its slot.
BY_ORDER, BY_PIN, BY_SHARE, BY_YIELDING = range(4)


@dataclasses.dataclass(frozen=True, eq=False)
class Cap:
    """At most so many items of one group within the first slots.

    Parameters
    ----------
    offsets, groups: the groups of each of the m rows, groups[offsets[row]:offsets[row + 1]]; int64, from 0.
    at_most: items of one group. first: slots it looks at. strict: see the module.
    """

    offsets: np.ndarray
    groups: np.ndarray
    at_most: int
    first: int
    strict: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Arranged:
    """What `arrange` decided for n requests.

    Parameters
    ----------
    rows: int64[n, k], the row in each slot, -1 once nothing is left. why: int8[n, k], BY_... of each.
    which: int16[n, k], the share that forced a slot or the cap that yielded, else -1.
    missing: int64[n, s], slots that each share still misses. held: int16[m], the first cap that held a row back, or -1.
    """

    rows: np.ndarray
    why: np.ndarray
    which: np.ndarray
    missing: np.ndarray
    held: np.ndarray


def arrange(
    offsets: np.ndarray,
    k: int,
    *,
    pins: np.ndarray | None = None,
    caps: list[Cap] | None = None,
    shares: list[tuple[np.ndarray, float]] | None = None,
    run: Run | None = None,
) -> Arranged:
    """Fill k slots for each of n requests.

    Parameters
    ----------
    offsets: int64[n + 1], the rows of each request, best first.
    pins: int64[m], the slot (from 0) each row is pinned to, or -1; no slot twice in a request.
    shares: bool[m] members and the share of the list's slots that they get at least; rounded up.
    """
    n, m = len(offsets) - 1, int(offsets[-1])
    caps, shares = caps or [], shares or []
    pins = np.full(m, -1, np.int64) if pins is None else pins
    starts = np.zeros((len(caps), m + 1), dtype=np.int64)
    parts, base, owners = [np.zeros(0, np.int64)], 0, None
    for at, cap in enumerate(caps):
        # Counters of a request's own groups: (request, group) numbered densely.
        if owners is None:
            owners = np.repeat(np.arange(n), np.diff(offsets))
        width = int(cap.groups.max(initial=0)) + 1
        key = np.repeat(owners, np.diff(cap.offsets)) * width + cap.groups
        different, dense = np.unique(key, return_inverse=True)
        starts[at] = cap.offsets + sum(len(part) for part in parts)
        parts.append(dense + base)
        base += len(different)
    groups = np.concatenate(parts)
    limits = np.array([(cap.at_most, cap.first, cap.strict) for cap in caps], dtype=np.int64).reshape(-1, 3)
    members = np.array([member for member, _ in shares], dtype=bool).reshape(len(shares), m)
    least = np.array([share for _, share in shares], dtype=np.float64)
    made = Arranged(
        np.full((n, k), -1, np.int64),
        np.zeros((n, k), np.int8),
        np.full((n, k), -1, np.int16),
        np.zeros((n, len(shares)), np.int64),
        np.full(m, -1, np.int16),
    )
    counts = np.zeros(base, dtype=np.int64)

    def work(start: int, stop: int) -> None:
        _arrange(start, stop, offsets, pins, starts, groups, limits, members, least, counts, made.rows, made.why,
                 made.which, made.missing, made.held)  # fmt: skip

    for_chunks(work, n, run or Run(threads=1))
    return made


@kernel
def _barring(row, slot, starts, groups, limits, counts, strict_only):
    """The first cap that keeps a row from a slot, or -1."""
    for cap in range(len(limits)):
        if slot >= limits[cap, 1] or (strict_only and limits[cap, 2] == 0):
            continue
        for at in range(starts[cap, row], starts[cap, row + 1]):
            if counts[groups[at]] >= limits[cap, 0]:
                return cap
    return -1


@kernel
def _count(row, slot, starts, groups, limits, counts):
    for cap in range(len(limits)):
        if slot < limits[cap, 1]:
            for at in range(starts[cap, row], starts[cap, row + 1]):
                counts[groups[at]] += 1


@kernel
def _arrange(
    start, stop, offsets, pins, starts, groups, limits, members, least, counts, rows, why, which, missing, held
):
    k, n_shares = rows.shape[1], len(least)
    for request in range(start, stop):
        first, end = offsets[request], offsets[request + 1]
        taken = np.zeros(end - first, dtype=np.bool_)
        pinned = np.full(k, -1, dtype=np.int64)
        length = min(k, end - first)
        need = missing[request]
        for share in range(n_shares):
            need[share] = np.int64(np.ceil(least[share] * length - 1e-9))
        free, left = k, end - first  # slots, and rows for them
        for row in range(first, end):
            if 0 <= pins[row] < k:
                pinned[pins[row]] = row
                taken[row - first] = True
                free -= 1
                left -= 1
                _count(row, pins[row], starts, groups, limits, counts)
                for share in range(n_shares):
                    need[share] -= members[share, row]
        for share in range(n_shares):
            supply = 0
            for row in range(first, end):
                supply += members[share, row] and not taken[row - first]
            need[share] = max(0, min(need[share], supply))
        barred = np.zeros(n_shares, dtype=np.bool_)
        head, place = first, 0
        ended = False
        for slot in range(k):
            if pinned[slot] >= 0:
                rows[request, place], why[request, place] = pinned[slot], 1
                place += 1
                continue
            if ended:
                continue
            while head < end and taken[head - first]:
                head += 1
            chosen, reason, cause = -1, 0, -1
            barred[:] = False
            while chosen < 0:
                total = 0
                for share in range(n_shares):
                    total += 0 if barred[share] else need[share]
                if total == 0 or total < min(free, left):
                    break
                # The shares that still fit, the earlier named first.
                room, last = min(free, left), 0
                while last < n_shares and room > 0:
                    room -= 0 if barred[last] else need[last]
                    last += 1
                for row in range(head, end):
                    if taken[row - first]:
                        continue
                    serves = -1
                    for share in range(last):
                        if need[share] > 0 and not barred[share] and members[share, row]:
                            serves = share
                            break
                    if serves >= 0:
                        cap = _barring(row, slot, starts, groups, limits, counts, False)
                        if cap < 0:
                            chosen, reason, cause = row, 2, serves
                            break
                        if held[row] < 0:
                            held[row] = cap
                if chosen < 0:  # caps leave nothing for these shares in this slot
                    barred[:last] = True
            if chosen < 0:
                for row in range(head, end):
                    if taken[row - first]:
                        continue
                    cap = _barring(row, slot, starts, groups, limits, counts, False)
                    if cap < 0:
                        chosen = row
                        break
                    if held[row] < 0:
                        held[row] = cap
            if chosen < 0:
                for row in range(head, end):
                    if not taken[row - first] and _barring(row, slot, starts, groups, limits, counts, True) < 0:
                        chosen, reason = row, 3
                        cause = _barring(row, slot, starts, groups, limits, counts, False)
                        break
            if chosen < 0:
                ended = True  # what is pinned further down moves up
                continue
            # A share's item that is the best anyway was not forced.
            if reason == 2 and chosen == head:
                reason, cause = 0, -1
            rows[request, place], why[request, place], which[request, place] = chosen, reason, cause
            place += 1
            taken[chosen - first] = True
            free -= 1
            left -= 1
            _count(chosen, slot, starts, groups, limits, counts)
            for share in range(n_shares):
                if members[share, chosen] and need[share] > 0:
                    need[share] -= 1
        # What the list lacks of the share that was asked, whether candidates, caps or other shares are to blame.
        for share in range(n_shares):
            have = 0
            for slot in range(place):
                have += members[share, rows[request, slot]]
            wanted = np.int64(np.ceil(least[share] * min(k, place) - 1e-9))
            missing[request, share] = max(0, wanted - have)
