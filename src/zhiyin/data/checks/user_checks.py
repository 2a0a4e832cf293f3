"""Checks of users: one event, robots, placeholder ids."""

from __future__ import annotations

import numpy as np
import polars as pl

from zhiyin.core.durations import UNITS
from zhiyin.data.checks.facts import Facts, format_ids, format_share
from zhiyin.data.checks.finding import Finding

_PLACEHOLDERS = [
    "", "-1", "null", "none", "nan", "n/a", "undefined", "unknown", "anonymous", "guest", "test", "default",
]  # fmt: skip


def one_event_users(facts: Facts) -> Finding | None:
    """Users with a single event: nothing can be learned and tested on them at once."""
    active = int((facts.per_user > 0).sum())
    count = int((facts.per_user == 1).sum())
    if not count:
        return None
    return Finding(
        "one-event-users",
        "warning" if count > 0.3 * active else "info",
        f"{count:,} of {active:,} users ({format_share(count, active)}) have one event only",
        "they get popular items; check that one person does not come under many ids (sessions, devices)",
        count,
    )


def bot_like_users(facts: Facts) -> Finding | None:
    """Users with far more events than others, or faster than a person can act."""
    counts = facts.per_user
    active = counts[counts > 0]
    usual = float(np.quantile(active, 0.99, method="lower"))
    many = counts > max(1000.0, 10 * usual)
    fast = np.zeros(len(counts), dtype=bool)
    pace = 1000
    if facts.data.has_times and len(facts.time) > pace and not facts.whole_days:
        took = facts.time[pace - 1 :] - facts.time[: -pace + 1]
        # A thousand events at one and the same moment are an import, not a fast hand.
        hasty = (facts.user[pace - 1 :] == facts.user[: -pace + 1]) & (took > 0) & (took <= UNITS["h"])
        fast[facts.user[pace - 1 :][hasty]] = True
    suspects = np.flatnonzero(many | fast)
    if not len(suspects):
        return None
    suspects = suspects[np.argsort(-counts[suspects], kind="stable")]
    share = format_share(float(counts[suspects].sum()), facts.data.n_events)
    why = [f"{int(many.sum())} with over ten times the events of 99% of users ({usual:,.0f})"] if many.any() else []
    why += [f"{int(fast.sum())} with {pace:,} events within an hour"] if fast.any() else []
    return Finding(
        "bot-like-users",
        "warning",
        f"{len(suspects):,} users may be robots ({'; '.join(why)}) and have {share} of all events: "
        f"{format_ids(facts.data.user_ids, suspects)}",
        "leave robots, staff and shared accounts out of the log: they teach what no customer wants",
        len(suspects),
    )


def placeholder_ids(facts: Facts) -> Finding | None:
    """Placeholder ids, under which the events of many are logged."""
    placeholders = []
    for role, ids, counts in (
        ("user", facts.data.user_ids, facts.per_user),
        ("item", facts.data.item_ids, facts.per_item),
    ):
        middle = float(np.median(counts[counts > 0]))
        heavy = np.flatnonzero((counts > 0.01 * facts.data.n_events) & (counts > 10 * middle))
        names = ids.decode(heavy).cast(pl.String).str.to_lowercase()
        hit = heavy[names.is_in(_PLACEHOLDERS).to_numpy()]
        placeholders += [(role, ids.decode(hit[i : i + 1])[0], int(counts[hit[i]])) for i in range(len(hit))]
    if not placeholders:
        return None
    listed = "; ".join(f"{role} {raw!r} with {count:,} events" for role, raw, count in placeholders)
    return Finding(
        "placeholder-ids",
        "warning",
        f"some ids look like stand-ins for an unknown one: {listed}",
        "leave these rows out, or give each visit an id of its own",
        len(placeholders),
    )
