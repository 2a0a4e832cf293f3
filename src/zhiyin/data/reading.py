"""`read`: from files, frames or a query to a Dataset, every decision said and every bad row set aside."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.errors import DataError, nearest
from zhiyin.core.limits import LARGEST_VALUE
from zhiyin.core.run import Run, log
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.column_roles import Roles
from zhiyin.data.dataset import Dataset, empty_quarantine
from zhiyin.data.dialect import Dialect, Findings
from zhiyin.data.entity_table import KEYS, Description
from zhiyin.data.event_schema import NO_KIND, EventSchema, beyond_values
from zhiyin.data.ids import match_spelling
from zhiyin.data.role_inference import guess_links, guess_roles, ignored
from zhiyin.data.source_discovery import find_sources
from zhiyin.data.sql_query import QueryLimit
from zhiyin.data.store_log import Heard, Parts, join
from zhiyin.data.table_opening import is_folder, open_table, query_table
from zhiyin.data.table_source import Table, Use, merge
from zhiyin.data.timestamps import TimePolicy, join_clock, read_clock, read_times, wall_clock


def read(
    source: Any,
    *,
    items: Any = None,
    users: Any = None,
    links: Any = None,
    columns: Mapping[str, Any] | None = None,
    weights: Mapping[str, float] | None = None,
    query: str | None = None,
    query_limit: QueryLimit | None = None,
    strict: bool = False,
    heard: Heard | None = None,
    now: int | None = None,
    assume: Mapping[str, Any] | None = None,
    types: CatalogueSchema | None = None,
    run: Run | None = None,
) -> Dataset:
    """Read an event log, and what is known of items and users.

    Parameters
    ----------
    source: a file (CSV, TSV, "::"-separated, Parquet, Arrow, JSON; plain, gzip, zstd, bzip2, xz or zip: told by its
        content, not its name), a folder or list of them, a Polars or pandas frame, a database address with `query`
        ("postgresql://...", "sqlite:///shop.db"), or a mapping from event kind to any of these:
        {"view": "views.tsv", "buy": "buys.tsv"}.
    items, users: the same, for the catalogue and the users. In a folder they are found by themselves, as are links.
    links: the same, for who follows or befriends whom: two columns of user ids, and optionally a weight above 0. A link
        goes one way; users whom only a link knows become users without events.
    columns: roles that need no guessing: {"user": "who", "item": "what", "time": "at", "rating": "stars",
        "kind": "action", "item_columns": [...], "user_columns": [...]}; `item_id` and `user_id` name the key
        columns of the items and users tables, `link_user`, `link_other` and `link_weight` the columns of the links.
    weights: what events are worth: {"view": 1, "purchase": 5, "rating >= 4": 1, "dislike": -1}; the first
        rule that matches decides, an event that matches none is kept with weight 0. Without rules every event
        is worth 1, known kinds their usual weight, and a negative rating or quantity -1. An event that names no kind
        is of the kind "event".
    query_limit: seconds and rows that the query may take; left out, ten minutes and 100 million rows.
    strict: raise DataError at the first bad row instead of setting bad rows aside in `Dataset.quarantine`.
    heard: what the service's store holds, joined with the files before events are weighed; `source` may then be None.
    now: what the clock says, microseconds UTC; left out, this machine's. Rows whose time is more than a day ahead of
        it are set aside; a time less far ahead is taken as this moment.
    types: declared types of columns of items and users; what does not fit one is null there.
    assume: what the content of a source leaves open: {"day_first": True, "decimal": ",", "encoding": "gb18030",
        "separator": ";", "header": 3, "missing": ["-"], "text": ["zip"]}; see `Dialect`. What was assumed otherwise
        stands in `Dataset.assumed`.

    >>> read(pl.DataFrame({"user": ["a", "a"], "item": ["x", "y"]})).n_events
    2
    """
    run = run or Run()
    now = wall_clock() if now is None else now
    dialect, findings = Dialect.of(assume), Findings()
    given = {role: value for role, value in dict(columns or {}).items() if value}
    keys = {"item": given.pop("item_id", None), "user": given.pop("user_id", None)}
    ties = {role: given.pop(f"link_{role}", None) for role in ("user", "other", "weight")}
    fixed: dict[str, Any] = {role: tuple(given.pop(role)) for role in ("item_columns", "user_columns") if role in given}
    unasked = {"item": False, "user": False}
    if isinstance(source, str | Path) and is_folder(source):
        found = find_sources(Path(source), dialect)
        unasked = {"item": items is None, "user": users is None}
        items = found.items if items is None else items
        users = found.users if users is None else users
        links = found.links if links is None else links
        source = found.events
        for sentence in found.notes:
            findings.note(sentence)
    if source is None and heard is not None:
        tables, roles = [], Roles("user", "item", "time")
    else:
        tables = _tables(source, query, dialect, query_limit)
        roles = dataclasses.replace(guess_roles(tables[0][1].sample, given, tables[0][1].name), **fixed)
    if tables:
        findings.note(f"columns: {roles.sentence()}")
        for sentence in ignored(tables[0][1].sample, roles):
            findings.note(sentence)
    parts = _read_parts(tables, roles, dialect, now, strict, findings, run)
    bad = [part.rejected for part in parts]
    details = [part.detail for part in parts]
    events = _together(parts)
    tied = None
    if heard is not None:
        bad.append(heard.quarantine)
    if links is not None:
        tied, rejected = _links(links, ties, dialect, strict, findings)
        bad.append(rejected)
    quarantine = pl.concat(bad) if bad else empty_quarantine()
    if len(quarantine):
        reasons = quarantine["reason"].str.replace(r" = .*? is ", " is ").value_counts(sort=True).head(3).iter_rows()
        listed = "; ".join(f"{count:,} × {reason}" for reason, count in reasons)
        findings.note(f"{len(quarantine):,} rows set aside: {listed}")
    if events.is_empty() and len(quarantine) and (heard is None or heard.events.is_empty()):
        first = quarantine.row(0, named=True)
        raise DataError(
            f"every row was set aside ({listed}); the first: {first['reason']}",
            file=first["file"], row=first["line"], remedy="name other columns, or mend the rows",
        )  # fmt: skip
    known = events if heard is None or len(events) else heard.events
    declared = types or CatalogueSchema()
    catalogue = Description("item", items, keys["item"], roles.item_columns, unasked["item"]).read(
        known["item"], details, _with_texts(dialect, declared.items), findings
    )
    people = Description("user", users, keys["user"], roles.user_columns, unasked["user"]).read(
        known["user"], details, _with_texts(dialect, declared.users), findings
    )
    details.clear()
    del known
    catalogue = _shaped(declared, "items", catalogue, findings)
    people = _shaped(declared, "users", people, findings)
    hidden, stored, position = None, None, None
    if heard is not None:
        position = heard.position
        whole, hidden, declared, said = join(Parts(events, catalogue, people, tied), heard, declared)
        events, catalogue, people, tied = whole.events, whole.items, whole.users, whole.links
        stored = whole.stored
        findings.notes.extend(said)
        del whole, heard
        if "value" in events.columns and roles.rating is None:
            roles = dataclasses.replace(roles, rating="value")
        if "kind" in events.columns and roles.kind is None:
            roles = dataclasses.replace(roles, kind="kind")
    events, schema, said = _weighted(events, roles, weights)
    findings.notes.extend(said)
    for note in findings.notes:
        log.info(note)
    holder = [events]
    del events  # `build` takes the frame apart; nothing else may hold it
    data = Dataset.build(
        holder.pop(),
        users=people,
        items=catalogue,
        roles=roles,
        quarantine=quarantine,
        notes=tuple(findings.notes),
        assumed=findings.assumed,
        links=tied,
        schema=schema,
        position=position,
        stored=stored,
        types=declared,
        now=now,
    )
    if hidden is not None and len(hidden):
        codes = data.item_ids.encode(hidden)
        data.candidates[codes[codes >= 0]] = False
    return data


def _with_texts(dialect: Dialect, types: Mapping[str, str]) -> Dialect:
    """A dialect in which columns that are declared as texts stay as they are written."""
    texts = [name for name, type in types.items() if type in ("text", "piped", "texts")]
    return dataclasses.replace(dialect, text=(*dialect.text, *texts))


def _shaped(
    declared: CatalogueSchema, table: str, frame: pl.DataFrame | None, findings: Findings
) -> pl.DataFrame | None:
    """A frame in its declared types, and a note on what is missing then."""
    if frame is None:
        return None
    shaped = declared.shaped(table, frame)
    for name in shaped.columns:
        lost = shaped[name].null_count() - frame[name].null_count()
        if lost > 0:
            findings.note(
                f"{name}: {lost:,} cells are not of the type {declared.type_of(table, name)}, read as missing"
            )
    return shaped


def _tables(
    source: Any, query: str | None, dialect: Dialect, limit: QueryLimit | None = None
) -> list[tuple[str | None, Table]]:
    """(kind or None, table) of every part of the log."""
    if isinstance(source, Mapping):
        return [(kind, table) for kind, part in source.items() for _, table in _tables(part, query, dialect, limit)]
    if isinstance(source, list | tuple):
        if not source:
            raise DataError("no event file was named", remedy="name at least one")
        return [pair for part in source for pair in _tables(part, query, dialect, limit)]
    if query is not None:
        return [(None, query_table(str(source), query, dialect, limit))]
    if isinstance(source, str | Path) and is_folder(source):
        sources = find_sources(Path(source), dialect)
        pairs = [pair for part in sources.events for pair in _tables(part, query, dialect)]
        for sentence in sources.notes:
            pairs[0][1].findings.note(sentence)
        return pairs
    return [(None, open_table(source, dialect))]


@dataclasses.dataclass
class _Part:
    """One table of the log.

    Parameters
    ----------
    events: its clean events, by role.
    detail: `user`, `item` and the columns that describe them, or None.
    rejected: the rows set aside.
    day_first: the order of days and months that was read, None where there is no such question.
    open_order: what to say where that order is a guess.
    """

    events: pl.DataFrame
    detail: pl.DataFrame | None
    rejected: pl.DataFrame
    day_first: bool | None = None
    open_order: str = ""


def _read_parts(
    tables: list[tuple[str | None, Table]],
    roles: Roles,
    dialect: Dialect,
    now: int,
    strict: bool,
    findings: Findings,
    run: Run,
) -> list[_Part]:
    """All tables of the log. Where one of them tells whether days or months come first, the others are read so too."""
    parts: list[_Part] = []
    headers = {table.findings.assumed.get("header") for _, table in tables}
    doubtful: dict[int, tuple[str | None, Table]] = {}
    with run.bar("Reading events", len(tables)) as advance:
        while tables:  # each is let go when it is read
            kind, table = tables.pop(0)
            part = _events(table, roles, kind, dialect, now, strict, findings)
            if part.open_order:
                doubtful[len(parts)] = kind, table
            parts.append(part)
            merge(findings, table.findings)
            del table
            advance(1)
    if len(headers) > 1:  # what was assumed of one file is not said of all of them
        findings.dispute("header")
    sure = {part.day_first for part in parts if not part.open_order and part.day_first is not None}
    for at, (kind, table) in doubtful.items():
        part = parts[at]
        if len(sure) != 1:
            assert part.day_first is not None
            findings.assume("day_first", part.day_first, part.open_order)
        elif part.day_first not in sure:
            known = dataclasses.replace(dialect, day_first=sure.copy().pop())
            parts[at] = _events(table, roles, kind, known, now, strict, findings)
    return parts


def _together(parts: list[_Part]) -> pl.DataFrame:
    """Events of all parts, ids in one spelling."""
    if not parts:
        return pl.DataFrame(schema={"user": pl.String, "item": pl.String, "time": pl.Int64})
    first, rest = parts[0].events, parts[1:]
    for role in ("user", "item"):
        for part in rest:
            if part.events[role].dtype == pl.String or first[role].dtype == pl.String:
                same = match_spelling(part.events[role], first[role])
                part.events = part.events.with_columns(same.alias(role))
                if part.detail is not None:
                    part.detail = part.detail.with_columns(same.alias(KEYS[role]))
    frames = [part.events for part in parts]
    for part in parts:
        part.events = pl.DataFrame()
    return frames[0] if len(frames) == 1 else pl.concat(frames, how="vertical_relaxed")


def _events(
    table: Table, roles: Roles, kind: str | None, dialect: Dialect, now: int, strict: bool, findings: Findings
) -> _Part:
    """One table's clean events, the columns that describe items and users, and the rows set aside."""
    wanted = {role: getattr(roles, role) for role in ("user", "item", "time", "rating", "kind")}
    wanted = {role: column for role, column in wanted.items() if column}
    extra = [*roles.item_columns, *roles.user_columns]
    clock = [roles.clock] if roles.clock else []
    missing = [column for column in [*wanted.values(), *extra, *clock] if column not in table.columns]
    if missing:
        raise DataError(
            f"there is no column {missing[0]!r}", file=table.name, remedy=nearest(missing[0], table.columns)
        )
    by_role: dict[str, Use] = {"user": "id", "item": "id", "time": "time", "rating": "number", "kind": "text"}
    uses: dict[str, Use] = dict.fromkeys(extra, "any")
    uses |= dict.fromkeys(clock, "text")
    loaded = table.load(uses | {column: by_role[role] for role, column in wanted.items()})
    reasons = loaded.bad
    clean: dict[str, pl.Series] = {}
    order, open_order = None, ""
    for role, column in wanted.items():
        series = loaded.frame[column]
        if role == "time":
            clean["time"], order, open_order = _times(
                table, series, loaded.frame[roles.clock] if roles.clock else None, reasons, now, dialect, findings
            )
        elif role in ("user", "item"):
            clean[role] = series
            _reject(reasons, series.is_null(), f"{role} is missing")
        elif role == "rating":
            numbers = series if series.dtype.is_numeric() else series.cast(pl.Float64, strict=False)
            numbers = numbers.fill_nan(None) if numbers.dtype.is_float() else numbers
            for row in beyond_values(numbers).arg_true().to_list():
                reasons.setdefault(row, f"{column} = {series[row]} is beyond {LARGEST_VALUE}, the largest value")
            clean["value"] = numbers.cast(pl.Float32, strict=False)
        else:
            names = series.cast(pl.String).str.strip_chars()
            clean["kind"] = names.replace("", None).fill_null(NO_KIND).cast(pl.Categorical)
    if kind is not None:
        clean["kind"] = pl.repeat(kind, len(loaded.frame), dtype=pl.Categorical, eager=True)
    events = pl.DataFrame(clean)
    detail = None
    if extra:
        keys = (pl.col(wanted[role]).alias(KEYS[role]) for role in ("user", "item"))
        detail = loaded.frame.select(*keys, *dict.fromkeys(extra))
    if reasons:
        good = np.ones(len(events), dtype=bool)
        good[list(reasons)] = False
        events = events.filter(good)
        detail = detail.filter(good) if detail is not None else None
    return _Part(events, detail, _rejected(table, reasons, strict), order, open_order)


def _links(
    source: Any, given: dict[str, str | None], dialect: Dialect, strict: bool, findings: Findings
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The clean links (`user`, `other`, perhaps `weight`) and the rows set aside."""
    table = open_table(source, dialect.beside())
    roles = guess_links(table.sample, given, table.name)
    findings.note(
        "links: " + ", ".join(f"{role} = {roles[role]}" for role in ("user", "other", "weight") if role in roles)
    )
    uses: dict[str, Use] = {column: "number" if role == "weight" else "id" for role, column in roles.items()}
    loaded = table.load(uses)
    reasons = loaded.bad
    clean = {role: loaded.frame[roles[role]] for role in ("user", "other")}
    for role in ("user", "other"):
        _reject(reasons, clean[role].is_null(), f"{roles[role]} is missing")
    _reject(reasons, _alike(clean["user"], clean["other"]), "links a user to themselves")
    if "weight" in roles:
        weight = loaded.frame[roles["weight"]].cast(pl.Float32, strict=False).fill_nan(None)
        wrong = ~((weight > 0) & weight.is_finite()).fill_null(False)
        _reject(reasons, wrong, f"{roles['weight']} is no number above 0")
        clean["weight"] = weight
    frame = pl.DataFrame({role: column.alias(role) for role, column in clean.items()})
    if reasons:
        good = np.ones(len(frame), dtype=bool)
        good[list(reasons)] = False
        frame = frame.filter(good)
    merge(findings, table.findings)
    return frame, _rejected(table, reasons, strict)


def _alike(one: pl.Series, other: pl.Series) -> pl.Series:
    """Whether two columns of ids hold the same, whatever their types."""
    if one.dtype != other.dtype:
        one, other = one.cast(pl.String), other.cast(pl.String)
    return (one == other).fill_null(False)


def _rejected(table: Table, reasons: dict[int, str], strict: bool) -> pl.DataFrame:
    """The rows set aside; the first of them as an error when `strict`."""
    rejected = _quarantine(table, reasons)
    if strict and len(rejected):
        first = rejected.row(0, named=True)
        raise DataError(
            f"{first['reason']} ({len(rejected):,} bad rows in all)",
            file=table.name,
            row=first["line"],
            remedy="mend the rows, or read without strict to set them aside",
        )
    return rejected


def _times(
    table: Table,
    column: pl.Series,
    clock: pl.Series | None,
    reasons: dict[int, str],
    now: int,
    dialect: Dialect,
    findings: Findings,
) -> tuple[pl.Series, bool | None, str]:
    """Times that the policy accepts; those a little ahead of the clock as what it says. Others are rejected.

    Also the order of days and months that was read, and what to say where it is a guess. clock: times of day to be
    joined with the days of the column.
    """
    read, policy = read_times(column, dialect.day_first, None if clock is not None else dialect.zone), TimePolicy()
    times = read.times
    if clock is not None:
        since_midnight = read_clock(clock)
        times = join_clock(times, since_midnight, dialect.zone)
        absent = clock.is_null() | (clock == "").fill_null(True) if clock.dtype == pl.String else clock.is_null()
        rows = (since_midnight.is_null() & ~absent).arg_true()
        for row, cell in zip(rows.to_list(), clock.gather(rows).to_list()):
            reasons.setdefault(row, f"{clock.name} = {str(cell)!r} is not a time of day")
    if read.mixed_orders is not None:
        rows_of_both = list(read.mixed_orders)
        places = [line for line, _ in table.locate(rows_of_both)]
        shown = [f"{column[row]!r} in line {line}" for row, line in zip(rows_of_both, places)]
        order = "the day" if read.day_first else "the month"
        findings.note(
            f"{column.name}: both orders of day and month occur ({' and '.join(shown)}); read with {order} first, so "
            "that dates of the other order are wrong where the day is 12 or less, and set aside where it is more"
        )
    for sentence in read.notes:
        findings.note(sentence)
    missing = column.is_null() | (column == "").fill_null(True) if column.dtype == pl.String else column.is_null()
    _reject(reasons, missing, "time is missing")
    said = [
        (times.is_null() & ~missing, "is not a time"),
        (times < policy.earliest, "is an impossible time (before 1971)"),
        (times > policy.latest(now), "is more than a day ahead of the clock"),
    ]
    for wrong, what in said:
        rows = wrong.fill_null(False).arg_true()
        for row, cell in zip(rows.to_list(), column.gather(rows).to_list()):
            reasons.setdefault(row, f"{column.name} = {cell if isinstance(cell, int) else str(cell)!r} {what}")
    ahead = int(times.is_between(now, policy.latest(now), closed="right").sum())
    if ahead:
        findings.note(f"{ahead:,} times are up to a day ahead of the clock: taken as now")
        times = times.clip(upper_bound=now)
    return times, read.day_first, read.open_order


def _reject(reasons: dict[int, str], rows: pl.Series, reason: str) -> None:
    for row in rows.arg_true().to_list():
        reasons.setdefault(row, reason)


def _quarantine(table: Table, reasons: dict[int, str]) -> pl.DataFrame:
    rows = sorted(reasons)
    places = table.locate(rows) if rows else []
    found = [(table.name, line, reasons[row], raw) for row, (line, raw) in zip(rows, places)]
    found += [(table.name, line, reason, raw) for line, reason, raw in table.set_aside()]
    return pl.DataFrame(found, schema=empty_quarantine().schema, orient="row").sort("line")


def _weighted(
    events: pl.DataFrame, roles: Roles, weights: Mapping[str, float] | None
) -> tuple[pl.DataFrame, EventSchema, list[str]]:
    """Events with their weights, the schema that gave them, and what was decided about them."""
    kind, value = (events.get_column(name, default=None) for name in ("kind", "value"))
    kinds = [NO_KIND] if kind is None else kind.unique().cast(pl.String).sort().to_list()
    schema = EventSchema.of(kinds, weights, roles.rating if value is not None else None)
    weight = schema.weights(kind, value, len(events))
    if weights is None:
        if (weight == 1).all():
            return events, schema, ["weights: every event counts 1"]
        negative = value is not None and bool((value < 0).any())
        notes = ["weights: " + schema.describe(negative=negative)]
    else:
        notes = ["weights: " + ", ".join(f"{name} = {worth:g}" for name, worth in weights.items())]
        unmatched = int((weight == 0).sum())
        if unmatched:
            notes.append(f"{unmatched:,} of {len(events):,} events match no weight: kept as seen, worth 0")
    return events.with_columns(weight=weight), schema, notes
