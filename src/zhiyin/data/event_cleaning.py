"""The events of one table: planned by the roles of its columns, then read, checked and cleaned."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl

from zhiyin.core.errors import DataError, suggest
from zhiyin.core.limits import LARGEST_VALUE
from zhiyin.data.column_roles import Roles
from zhiyin.data.entity_table import KEYS
from zhiyin.data.event_schema import NO_KIND, beyond_values
from zhiyin.data.quarantine import reject, rejected_rows
from zhiyin.data.read_assumptions import Dialect, Findings
from zhiyin.data.table import ColumnPlan, Table, Use
from zhiyin.data.time_formats import Times
from zhiyin.data.time_of_day import join_clock, read_clock
from zhiyin.data.time_policy import TimePolicy
from zhiyin.data.timestamps import read_times

_USES: dict[str, Use] = {"user": "id", "item": "id", "time": "time", "rating": "number", "kind": "text", "text": "text"}


@dataclasses.dataclass(frozen=True)
class EventSource:
    """How one table of the log is read.

    Parameters
    ----------
    table: where the events are.
    columns: how its columns are loaded.
    kind: of all its events; None: as its column of kinds says.
    """

    table: Table
    columns: tuple[ColumnPlan, ...]
    kind: str | None


def plan_events(table: Table, roles: Roles, kind: str | None) -> EventSource:
    """Plan the reading of one table. Raises DataError for a column that it does not have."""
    role_columns = _role_columns(roles)
    if roles.text not in table.columns:  # of several tables one may hold the reviews
        role_columns.pop("text", None)
    details = [*roles.item_columns, *roles.user_columns]
    clock = [roles.clock] if roles.clock else []
    missing = [column for column in [*role_columns.values(), *details, *clock] if column not in table.columns]
    if missing:
        raise DataError(
            f"there is no column {missing[0]!r}", file=table.name, remedy=suggest(missing[0], table.columns)
        )
    uses: dict[str, Use] = dict.fromkeys(details, "any")
    uses |= dict.fromkeys(clock, "text")
    uses |= {column: _USES[role] for role, column in role_columns.items()}
    return EventSource(table, table.plan(uses), kind)


def _role_columns(roles: Roles) -> dict[str, str]:
    """The column of each role that has one."""
    return {role: column for role in _USES if (column := getattr(roles, role))}


@dataclasses.dataclass
class CleanEvents:
    """The events of one table.

    Parameters
    ----------
    events: frame with a column for each role.
    details: frame of KEYS and the columns that describe items and users; None without such columns.
    rejected: the rows set aside.
    n_ahead: number of times that were ahead of the clock and taken as now.
    day_first: the order of days and months that was read, None where there is no such question.
    open_order: the message where that order is a guess.
    """

    events: pl.DataFrame
    details: pl.DataFrame | None
    rejected: pl.DataFrame
    n_ahead: int = 0
    day_first: bool | None = None
    open_order: str = ""


def read_events(
    source: EventSource, roles: Roles, dialect: Dialect, now: int, strict: bool, findings: Findings
) -> CleanEvents:
    """Read the events of one table.

    Parameters
    ----------
    now: microseconds UTC, see `TimePolicy`.
    strict: raise DataError for a bad row.
    """
    table, role_columns = source.table, _role_columns(roles)
    loaded = table.execute(source.columns)
    reasons = loaded.bad
    clean: dict[str, pl.Series] = {}
    n_ahead, day_first, open_order = 0, None, ""
    for role, column in role_columns.items():
        if role == "text":
            known = column in loaded.frame.columns
            clean["text"] = (
                loaded.frame[column].cast(pl.String)
                if known
                else pl.repeat(None, len(loaded.frame), dtype=pl.String, eager=True)
            )
            continue
        series = loaded.frame[column]
        if role == "time":
            clock = loaded.frame[roles.clock] if roles.clock else None
            clean["time"], n_ahead, parsed = _times(table, series, clock, reasons, now, dialect, findings)
            day_first, open_order = parsed.day_first, parsed.open_order
        elif role in ("user", "item"):
            clean[role] = series
            reject(reasons, series.is_null(), f"{role} is missing")
        elif role == "rating":
            clean["value"] = _values(series, reasons)
        else:
            names = series.cast(pl.String).str.strip_chars()
            clean["kind"] = names.replace("", None).fill_null(NO_KIND).cast(pl.Categorical)
    if source.kind is not None:
        clean["kind"] = pl.repeat(source.kind, len(loaded.frame), dtype=pl.Categorical, eager=True)
    events = pl.DataFrame(clean)
    details = None
    if described := [*roles.item_columns, *roles.user_columns]:
        keys = (pl.col(role_columns[role]).alias(KEYS[role]) for role in ("user", "item"))
        details = loaded.frame.select(*keys, *dict.fromkeys(described))
    if reasons:
        is_good = np.ones(len(events), dtype=bool)
        is_good[list(reasons)] = False
        events = events.filter(is_good)
        details = details.filter(is_good) if details is not None else None
    return CleanEvents(events, details, rejected_rows(table, reasons, strict), n_ahead, day_first, open_order)


def note_of_times_ahead(n_ahead: int) -> str:
    """The sentence about the times of a table that are ahead of the clock."""
    return f"{n_ahead:,} times are up to a day ahead of the clock: taken as now"


def _values(column: pl.Series, reasons: dict[int, str]) -> pl.Series:
    """Values of events as Float32; those beyond LARGEST_VALUE are rejected."""
    numbers = column if column.dtype.is_numeric() else column.cast(pl.Float64, strict=False)
    numbers = numbers.fill_nan(None) if numbers.dtype.is_float() else numbers
    for row in beyond_values(numbers).arg_true().to_list():
        reasons.setdefault(row, f"{column.name} = {column[row]} is beyond {LARGEST_VALUE}, the largest value")
    return numbers.cast(pl.Float32, strict=False)


def _times(
    table: Table,
    column: pl.Series,
    clock: pl.Series | None,
    reasons: dict[int, str],
    now: int,
    dialect: Dialect,
    findings: Findings,
) -> tuple[pl.Series, int, Times]:
    """Times that the policy accepts; those up to a day ahead of the clock become `now`. Others are rejected.

    clock: times of day to be joined with the days of the column.

    Returns
    -------
    Int64 microseconds UTC, the number of times that became `now`, and what was decided of the column.
    """
    parsed, policy = read_times(column, dialect.day_first, None if clock is not None else dialect.zone), TimePolicy()
    times = parsed.times
    if clock is not None:
        since_midnight = read_clock(clock)
        times = join_clock(times, since_midnight, dialect.zone)
        rows = (since_midnight.is_null() & ~_is_missing(clock)).arg_true()
        for row, cell in zip(rows.to_list(), clock.gather(rows).to_list()):
            reasons.setdefault(row, f"{clock.name} = {str(cell)!r} is not a time of day")
    if parsed.mixed_orders is not None:
        rows_of_both = list(parsed.mixed_orders)
        lines = [line for line, _ in table.locate(rows_of_both)]
        examples = [f"{column[row]!r} in line {line}" for row, line in zip(rows_of_both, lines)]
        order = "the day" if parsed.day_first else "the month"
        findings.note(
            f"{column.name}: both orders of day and month occur ({' and '.join(examples)}); read with {order} first, "
            "so that dates of the other order are wrong where the day is 12 or less, and set aside where it is more"
        )
    for sentence in parsed.notes:
        findings.note(sentence)
    is_missing = _is_missing(column)
    reject(reasons, is_missing, "time is missing")
    checks = [
        (times.is_null() & ~is_missing, "is not a time"),
        (times < policy.earliest, "is an impossible time (before 1971)"),
        (times > policy.latest(now), "is more than a day ahead of the clock"),
    ]
    for is_wrong, problem in checks:
        rows = is_wrong.fill_null(False).arg_true()
        for row, cell in zip(rows.to_list(), column.gather(rows).to_list()):
            reasons.setdefault(row, f"{column.name} = {cell if isinstance(cell, int) else str(cell)!r} {problem}")
    n_ahead = int(times.is_between(now, policy.latest(now), closed="right").sum())
    return times.clip(upper_bound=now) if n_ahead else times, n_ahead, parsed


def _is_missing(column: pl.Series) -> pl.Series:
    """bool[n]: cells that are null or empty."""
    return column.is_null() | (column == "").fill_null(True) if column.dtype == pl.String else column.is_null()
