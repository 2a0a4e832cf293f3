"""Checks of the test part that a split by time would make."""

from __future__ import annotations

import numpy as np

from zhiyin.core.durations import spell
from zhiyin.data.checks.facts import DAY, Facts, format_day, format_ids, format_share
from zhiyin.data.checks.finding import Finding

# Fewest events of one user, and least share of the test part, that are reported.
_MIN_CROWD_EVENTS, _MIN_CROWD_SHARE = 100, 0.2


def too_little_data(facts: Facts) -> Finding | None:
    """Too few events or users to learn from, or too few in the test part to judge by."""
    data, cut = facts.data, facts.cut
    active = int((facts.per_user > 0).sum())
    if data.n_events < 1000 or active < 100:
        return Finding(
            "too-little-data",
            "warning",
            f"{data.n_events:,} events of {active:,} users are too few for figures one can trust",
            "collect more before comparing models; until then Popular is hard to beat",
            data.n_events,
        )
    if cut is None:
        return None
    if not isinstance(cut, int):
        return Finding("too-little-data", "error", cut.message, cut.remedy or "another test window")
    later = facts.time >= cut
    users = np.unique(facts.user[later])
    length, span = data.window[1] + 1 - cut, data.window[1] - data.window[0]
    if len(users) >= 100 and not (length < DAY < span / 7) and later.mean() < 0.9:
        return None
    return Finding(
        "too-little-data",
        "warning",
        f"a split by time would judge by {len(users):,} users and {int(later.sum()):,} events "
        f"({format_share(later.sum(), len(later))}) in the last {spell(length)}",
        "choose a test part with at least 100 users and a day, better a week, and most events before it",
        len(users),
    )


def crowding_users(facts: Facts) -> Finding | None:
    """A user who fills the part of the log that a split by time would judge by."""
    cut = facts.cut
    if not isinstance(cut, int):
        return None
    counts = np.bincount(facts.user[facts.time >= cut], minlength=facts.data.n_users)
    total = int(counts.sum())
    usual = float(np.median(facts.per_user[facts.per_user > 0]))
    suspects = np.flatnonzero(
        (counts >= _MIN_CROWD_EVENTS) & (counts > _MIN_CROWD_SHARE * total) & (counts > 10 * usual)
    )
    if not len(suspects):
        return None
    suspects = suspects[np.argsort(-counts[suspects], kind="stable")]
    count = int(counts[suspects].sum())
    return Finding(
        "crowding-users",
        "warning",
        f"{format_ids(facts.data.user_ids, suspects)} made {count:,} of the {total:,} events "
        f"({format_share(count, total)}) since {format_day(cut)}, where a test part would begin",
        "a monitor, a kiosk or a robot: leave it out of the log; training and evaluation take an earlier cut where too "
        "few others can be judged",
        len(suspects),
    )


def drift(facts: Facts) -> Finding | None:
    """How much of the test part is new: users without a past, items without an event."""
    cut = facts.cut
    if not isinstance(cut, int):
        return None
    later = facts.time >= cut
    known_items = np.bincount(facts.item[~later], minlength=facts.data.n_items) > 0
    known_users = np.bincount(facts.user[~later], minlength=facts.data.n_users) > 0
    new_items = float((~known_items[facts.item[later]]).mean())
    users = np.unique(facts.user[later])
    new_users = float((~known_users[users]).mean())
    if new_items < 0.2 and new_users < 0.5:
        return None
    return Finding(
        "drift",
        "info",
        f"from {format_day(cut)}, where a test part would begin, {new_users:.0%} of users have no earlier event "
        f"and {new_items:.0%} of events go to items without one",
        "models that know items by their events miss new ones: read the figures by segment, retrain often",
        int((~known_users[users]).sum()),
    )
