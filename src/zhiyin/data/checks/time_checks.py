"""Checks of the times of events."""

from __future__ import annotations

import numpy as np

from zhiyin.core.durations import UNITS, spell
from zhiyin.data.checks.facts import DAY, Facts, format_day, format_share
from zhiyin.data.checks.finding import Finding

_YEAR_1990 = 631_152_000 * UNITS["s"]


def no_times(facts: Facts) -> Finding | None:
    """A log without times."""
    if facts.data.has_times:
        return None
    return Finding(
        "no-times",
        "warning",
        "the log has no times: zhiyin will split by ratio, and models of order and recency are of no use",
        "name a time column if there is one; else read the figures as those of a random split",
    )


def impossible_times(facts: Facts) -> Finding | None:
    """Events in the future, or before there were such logs."""
    times = facts.sorted_times
    early = int(np.searchsorted(times, _YEAR_1990))
    late = len(times) - int(np.searchsorted(times, facts.now + DAY, side="right"))
    if not early + late:
        return None
    parts = [f"{early:,} events before 1990 (the first {format_day(times[0])})"] if early else []
    parts += [f"{late:,} events in the future (the last {format_day(times[-1])})"] if late else []
    return Finding(
        "impossible-times",
        "error" if early + late > 0.01 * len(times) else "warning",
        "; ".join(parts) + ": a split by time and every notion of recency go wrong with them",
        "check the unit and the clock of the source; leave these rows out or mend them",
        early + late,
    )


def one_moment(facts: Facts) -> Finding | None:
    """Many events of many users at the same moment: the time of an import, not of the events."""
    times = facts.sorted_times
    if len(times) < 100 or facts.whole_days:
        return None
    starts = np.flatnonzero(np.concatenate([[True], times[1:] != times[:-1]]))
    sizes = np.diff(np.append(starts, len(times)))
    top = int(np.argmax(sizes))
    if sizes[top] < max(100, 0.05 * len(times)):
        return None
    moment = str(np.datetime64(int(times[starts[top]]), "us").astype("datetime64[s]")).replace("T", " ")
    return Finding(
        "one-moment",
        "error" if sizes[top] > 0.5 * len(times) else "warning",
        f"{sizes[top]:,} events ({format_share(sizes[top], len(times))}) carry the same time, {moment} UTC",
        "that is probably when they were imported: find the events' own times, or leave these out",
        int(sizes[top]),
    )


def coarse_times(facts: Facts) -> Finding | None:
    """Events of one user at one moment: their order is that of the rows."""
    if not facts.data.has_times or facts.data.n_events < 2:
        return None
    same = (facts.time[1:] == facts.time[:-1]) & (facts.user[1:] == facts.user[:-1])
    tied = np.zeros(len(facts.time), dtype=bool)
    tied[1:] |= same
    tied[:-1] |= same
    count = int(tied.sum())
    if not facts.whole_days and count < 0.2 * len(tied):
        return None
    what = "times are whole days" if facts.whole_days else "times are coarse, or written in batches"
    return Finding(
        "coarse-times",
        "info",
        f"{what}: {format_share(count, len(tied))} of events share user and moment with another, and keep "
        "the order of the rows",
        "log seconds or finer; until then trust sequence models no further than the order of the rows",
        count,
    )


def time_gaps(facts: Facts) -> Finding | None:
    """Long stretches without any event."""
    times = facts.sorted_times
    if len(times) < 100:
        return None
    gaps = np.diff(times)
    span = int(times[-1] - times[0])
    long = np.flatnonzero((gaps > 0.05 * span) & (gaps > 20 * span / len(gaps)) & (gaps > DAY))
    if not len(long):
        return None
    widest = long[np.argmax(gaps[long])]
    return Finding(
        "time-gaps",
        "warning",
        f"{len(long)} long {'stretch' if len(long) == 1 else 'stretches'} without events in {spell(span)}; "
        f"the longest, {spell(int(gaps[widest]))}, from {format_day(times[widest])} to {format_day(times[widest + 1])}",
        "check whether a part of the log is missing or a time is wrong; if it is real, train on the rest",
        len(long),
    )
