"""Checks of events: duplicates, weights, values and kinds."""

from __future__ import annotations

import numpy as np
import polars as pl

from zhiyin.data.checks.facts import Facts, format_share
from zhiyin.data.checks.finding import Finding
from zhiyin.data.column_names import words
from zhiyin.data.event_schema import KNOWN_KINDS

_COUNTED = {"quantity", "qty", "count", "plays", "listens", "amount", "weight", "value"}


def duplicate_events(facts: Facts) -> Finding | None:
    """The same user, item and kind at the same time; without times the same user, item and kind."""
    events = facts.data.events
    if len(events) < 2:
        return None
    new = np.concatenate([[True], facts.user[1:] != facts.user[:-1]])
    if facts.data.has_times:
        new[1:] |= facts.time[1:] != facts.time[:-1]
    # Rows are sorted by (user, time), so duplicates share a run of equal ones; a run of one row holds none.
    inside = ~(new & np.append(new[1:], True))
    run = np.cumsum(new)[inside]
    kind = events["kind"].to_physical().to_numpy()[inside].astype(np.int64)
    key = (run * facts.data.n_items + facts.item[inside]) * max(1, len(facts.data.kinds)) + kind
    key.sort()
    count = int((key[1:] == key[:-1]).sum())
    if not count:
        return None
    same = "user, item, kind and time" if facts.data.has_times else "user, item and kind (there are no times to tell)"
    return Finding(
        "duplicate-events",
        "warning",
        f"{count:,} events ({format_share(count, len(events))}) repeat another one in {same}",
        "they are kept and count twice: remove them at the source if one act was logged twice",
        count,
    )


def weightless_events(facts: Facts) -> Finding | None:
    """Events that no weight rule matches."""
    count = int((facts.data.events["weight"] == 0).sum())
    if not count:
        return None
    return Finding(
        "weightless-events",
        "error" if count == facts.data.n_events else "warning",
        f"{count:,} events ({format_share(count, facts.data.n_events)}) match no weight: seen, but worth nothing",
        'give them a weight under [weights], such as "rating >= 4" = 1, if they should count',
        count,
    )


def low_ratings(facts: Facts) -> Finding | None:
    """Low ratings that count as positive events."""
    data = facts.data
    value, weight = data.events["value"], data.events["weight"]
    low, high = value.min(), value.max()
    if low is None or high is None or low == high:
        return None
    low, high = float(low), float(high)  # type: ignore[arg-type]
    negative = int(((value < 0) & (weight > 0)).sum())
    if negative:
        return Finding(
            "low-ratings-as-positive",
            "warning",
            f"{negative:,} events with a negative value count as positive",
            'weigh them: "rating < 0" = -1 under [weights]',
            negative,
        )
    counted = data.roles is not None and data.roles.rating is not None and _COUNTED & set(words(data.roles.rating))
    if counted or high > 100 or weight.n_unique() > 1 or value.n_unique() > 101:
        return None  # plays and quantities are no opinions; differing weights are a decision already made
    limit = low + 0.4 * (high - low)
    count = int((value <= limit).sum())
    if not count:
        return None
    good = f"{low + 0.75 * (high - low):g}"
    return Finding(
        "low-ratings-as-positive",
        "info",
        f"{count:,} events ({format_share(count, data.n_events)}) are ratings of {limit:g} or less, on a scale "
        f"of {low:g} to {high:g}, and count as much as the best",
        f'count the good ones only: "rating >= {good}" = 1 under [weights], unless any choice counts',
        count,
    )


def unknown_kinds(facts: Facts) -> Finding | None:
    """Kinds of events that are not known by name and have no weight of their own."""
    events = facts.data.events
    strange = [kind for kind in facts.data.kinds if kind.lower() not in KNOWN_KINDS]
    if len(facts.data.kinds) < 2 or not strange:
        return None
    rows = (
        events.lazy().filter(pl.col("kind").is_in(strange) & (pl.col("weight") == 1)).group_by("kind").len().collect()
    )
    count = int(rows["len"].sum())
    if not count:
        return None
    names = rows["kind"].cast(pl.String).sort().to_list()
    return Finding(
        "unknown-kinds",
        "info",
        f"{count:,} events are of kinds zhiyin does not know and count 1: {', '.join(names[:8])}",
        f'say what they are worth under [weights]: "{names[0]}" = 2, or -1 for a dislike',
        count,
    )
