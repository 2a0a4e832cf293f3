"""`read`: from files, frames or a query to a Dataset, every decision said and every bad row set aside."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.errors import ConfigError, DataError, nearest
from zhiyin.core.run import Run, log
from zhiyin.data.dataset import Dataset, empty_quarantine
from zhiyin.data.event_schema import NO_KIND, EventSchema
from zhiyin.data.guess import guess_key, guess_links, guess_roles, name_score
from zhiyin.data.heard import Heard, Parts, join
from zhiyin.data.schema import Roles
from zhiyin.data.sources import find_sources
from zhiyin.data.tables import Table, open_table, query_table
from zhiyin.data.times import TimePolicy, to_microseconds, wall_clock


def read(
    source: Any,
    *,
    items: Any = None,
    users: Any = None,
    links: Any = None,
    columns: Mapping[str, Any] | None = None,
    weights: Mapping[str, float] | None = None,
    query: str | None = None,
    strict: bool = False,
    heard: Heard | None = None,
    now: int | None = None,
    run: Run | None = None,
) -> Dataset:
    """Read an event log, and what is known of items and users.

    Parameters
    ----------
    source: a file (CSV, TSV, "::"-separated, Parquet, JSON Lines; plain, gzip or zstd), a folder or list of
        them, a Polars or pandas frame, a database address with `query` ("postgresql://...",
        "sqlite:///shop.db"), or a mapping from
        event kind to any of these: {"view": "views.tsv", "buy": "buys.tsv"}.
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
    strict: raise DataError at the first bad row instead of setting bad rows aside in `Dataset.quarantine`.
    heard: what the service's store holds, joined with the files before events are weighed; `source` may then be None.
    now: what the clock says, microseconds UTC; left out, this machine's. Rows whose time is more than a day ahead of
        it are set aside; a time less far ahead is taken as this moment.

    >>> read(pl.DataFrame({"user": ["a", "a"], "item": ["x", "y"]})).n_events
    2
    """
    run = run or Run()
    now = wall_clock() if now is None else now
    given = {role: value for role, value in dict(columns or {}).items() if value}
    keys = {"item": given.pop("item_id", None), "user": given.pop("user_id", None)}
    ties = {role: given.pop(f"link_{role}", None) for role in ("user", "other", "weight")}
    fixed: dict[str, Any] = {role: tuple(given.pop(role)) for role in ("item_columns", "user_columns") if role in given}
    unasked = {"item": False, "user": False}
    if isinstance(source, str | Path) and Path(source).is_dir():
        found = find_sources(Path(source))
        unasked = {"item": items is None, "user": users is None}
        items = found.items if items is None else items
        users = found.users if users is None else users
        links = found.links if links is None else links
        source = found.events
    if source is None and heard is not None:
        tables, roles = [], Roles("user", "item", "time")
        sample: list[str] = []
    else:
        tables = _tables(source, query)
        roles = dataclasses.replace(guess_roles(tables[0][1].sample, given, tables[0][1].name), **fixed)
        sample = tables[0][1].columns
    notes: list[str] = []
    if tables:
        notes.append(f"columns: {roles.sentence()}")
    named = [column for column in sample if roles.time is None and name_score("time", column) >= 1]
    if named and named[0] not in roles.__dict__.values():
        notes.append(f"no times: {named[0]} is named like one, but what stands in it does not read as times")
    parts, details, bad = [], [], []
    with run.bar("Reading events", len(tables)) as advance:
        while tables:  # each is let go when it is read
            kind, table = tables.pop(0)
            part, detail, rejected = _events(table, roles, kind, strict, now, notes)
            parts.append(part)
            details.append(detail)
            bad.append(rejected)
            notes.extend(table.notes)
            del table
            advance(1)
    if parts:
        events = parts.pop() if len(parts) == 1 else pl.concat(parts, how="vertical_relaxed")
    else:
        events = pl.DataFrame(schema={"user": pl.String, "item": pl.String, "time": pl.Int64})
    parts.clear()
    tied = None
    if heard is not None:
        bad.append(heard.quarantine)
    if links is not None:
        tied, rejected = _links(links, ties, strict, notes)
        bad.append(rejected)
    quarantine = pl.concat(bad) if bad else empty_quarantine()
    if len(quarantine):
        reasons = quarantine["reason"].str.replace(r" = .*? is ", " is ").value_counts(sort=True).head(3).iter_rows()
        listed = "; ".join(f"{count:,} × {reason}" for reason, count in reasons)
        notes.append(f"{len(quarantine):,} rows set aside: {listed}")
    known = events if heard is None or len(events) else heard.events
    catalogue = _described(
        items, "item", keys["item"], known["item"], details, roles.item_columns, notes, unasked["item"]
    )
    people = _described(users, "user", keys["user"], known["user"], details, roles.user_columns, notes, unasked["user"])
    del known
    hidden, stored, position = None, None, None
    if heard is not None:
        position = heard.position
        whole, hidden, said = join(Parts(events, catalogue, people, tied), heard)
        events, catalogue, people, tied = whole.events, whole.items, whole.users, whole.links
        stored = whole.stored
        notes.extend(said)
        del whole, heard
        if "value" in events.columns and roles.rating is None:
            roles = dataclasses.replace(roles, rating="value")
        if "kind" in events.columns and roles.kind is None:
            roles = dataclasses.replace(roles, kind="kind")
    events, schema, said = _weighted(events, roles, weights)
    notes.extend(said)
    for note in notes:
        log.info(note)
    holder = [events]
    del events  # `build` takes the frame apart; nothing else may hold it
    data = Dataset.build(
        holder.pop(),
        users=people,
        items=catalogue,
        roles=roles,
        quarantine=quarantine,
        notes=tuple(notes),
        links=tied,
        schema=schema,
        position=position,
        stored=stored,
        now=now,
    )
    if hidden is not None and len(hidden):
        codes = data.item_ids.encode(hidden)
        data.candidates[codes[codes >= 0]] = False
    return data


def _tables(source: Any, query: str | None) -> list[tuple[str | None, Table]]:
    """(kind or None, table) of every part of the log."""
    if isinstance(source, Mapping):
        return [(kind, table) for kind, part in source.items() for _, table in _tables(part, query)]
    if isinstance(source, list | tuple):
        if not source:
            raise DataError("no event file was named", remedy="name at least one")
        return [pair for part in source for pair in _tables(part, query)]
    if query is not None:
        return [(None, query_table(str(source), query))]
    if isinstance(source, str) and "://" in source:
        raise ConfigError("a database address needs a query", remedy='query="SELECT user_id, item_id, at FROM events"')
    if isinstance(source, str | Path) and Path(source).is_dir():
        return [pair for part in find_sources(Path(source)).events for pair in _tables(part, query)]
    return [(None, open_table(source))]


def _events(
    table: Table, roles: Roles, kind: str | None, strict: bool, now: int, notes: list[str]
) -> tuple[pl.DataFrame, pl.DataFrame | None, pl.DataFrame]:
    """One table's clean events, the columns that describe items and users, and the rows set aside."""
    wanted = {role: getattr(roles, role) for role in ("user", "item", "time", "rating", "kind")}
    wanted = {role: column for role, column in wanted.items() if column}
    extra = [*roles.item_columns, *roles.user_columns]
    missing = [column for column in [*wanted.values(), *extra] if column not in table.columns]
    if missing:
        raise DataError(
            f"there is no column {missing[0]!r}", file=table.name, remedy=nearest(missing[0], table.columns)
        )
    numeric = {roles.rating} if roles.rating else set()
    loaded = table.load(list(dict.fromkeys([*wanted.values(), *extra])), numeric)
    reasons: dict[int, str] = loaded.bad
    clean: dict[str, pl.Series] = {}
    for role, column in wanted.items():
        series = loaded.frame[column]
        if role == "time":
            clean["time"] = _times(series, reasons, now, notes)
        elif role in ("user", "item"):
            clean[role] = _ids(series)
            _reject(reasons, clean[role].is_null(), f"{role} is missing")
        elif role == "rating":
            clean["value"] = series.cast(pl.Float32, strict=False).fill_nan(None)
            for row in clean["value"].is_infinite().fill_null(False).arg_true().to_list():
                reasons.setdefault(row, f"{column} = {series[row]} is no finite number")
        else:
            names = series.cast(pl.String).str.strip_chars()
            clean["kind"] = names.replace("", None).fill_null(NO_KIND).cast(pl.Categorical)
    if kind is not None:
        clean["kind"] = pl.repeat(kind, len(loaded.frame), dtype=pl.Categorical, eager=True)
    events = pl.DataFrame(clean)
    detail = loaded.frame.select(list(dict.fromkeys([wanted["user"], wanted["item"], *extra]))) if extra else None
    if reasons:
        good = np.ones(len(events), dtype=bool)
        good[list(reasons)] = False
        events = events.filter(good)
        detail = detail.filter(good) if detail is not None else None
    return events, detail, _rejected(table, reasons, strict)


def _links(
    source: Any, given: dict[str, str | None], strict: bool, notes: list[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The clean links (`user`, `other`, perhaps `weight`) and the rows set aside."""
    table = open_table(source)
    roles = guess_links(table.sample, given, table.name)
    notes.append(
        "links: " + ", ".join(f"{role} = {roles[role]}" for role in ("user", "other", "weight") if role in roles)
    )
    loaded = table.load(list(dict.fromkeys(roles.values())), {roles["weight"]} if "weight" in roles else set())
    reasons = loaded.bad
    clean = {role: _ids(loaded.frame[roles[role]]) for role in ("user", "other")}
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
    notes.extend(table.notes)
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


def _times(column: pl.Series, reasons: dict[int, str], now: int, notes: list[str]) -> pl.Series:
    """Times that the policy accepts; those a little ahead of the clock as what it says. Others are rejected."""
    times, policy = to_microseconds(column), TimePolicy()
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
        notes.append(f"{ahead:,} times are up to a day ahead of the clock: taken as now")
        times = times.clip(upper_bound=now)
    return times


def _ids(column: pl.Series) -> pl.Series:
    """Ids as whole numbers or text: 17850.0 is 17850, blanks are nulls."""
    if column.dtype.is_integer():
        return column
    if column.dtype.is_float() or column.dtype.is_decimal():
        number = column.fill_nan(None) if column.dtype.is_float() else column
        whole = number.cast(pl.Int64, strict=False)
        same = whole.null_count() == number.null_count() and (whole.cast(pl.Float64) == number.cast(pl.Float64)).all()
        return whole if same else number.cast(pl.String)
    if column.dtype.is_nested() or column.dtype == pl.Binary:
        raise DataError(
            "ids must be text or numbers, and these are lists or objects",
            column=column.name,
            remedy="name a plain column, or take the id out of the object first",
        )
    text = column.cast(pl.String).str.strip_chars()
    return text.replace("", None) if (text == "").any() else text


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


def _described(
    source: Any,
    role: str,
    key: str | None,
    ids: pl.Series,
    details: list[pl.DataFrame | None],
    columns: tuple[str, ...],
    notes: list[str],
    unasked: bool = False,
) -> pl.DataFrame | None:
    """The items (or users) table with its key as `id`; else what the log says of them, the last word."""
    known = ids.unique()
    if source is not None and unasked and key is None:  # a file of the folder that nobody named may be something else
        table = open_table(source)
        if guess_key(table.load(table.columns, set()).frame, role, known)[1] == 0:
            notes.append(f"{Path(table.name).name}: left out, no column of it holds the {role}s of the log")
            source = None
    if source is None:
        parts = [part for part in details if part is not None]
        if not parts or not columns:
            return None
        frame = pl.concat(parts, how="vertical_relaxed")
        at = frame.columns[0 if role == "user" else 1]
        rows = frame.select(pl.col(at).alias("id"), *columns).drop_nulls("id")
        last = rows.group_by("id", maintain_order=True).agg(pl.all().drop_nulls().last())
        return last.with_columns(_ids(last["id"]))
    table = open_table(source)
    if key is not None and key not in table.columns:
        raise DataError(f"there is no column {key!r}", file=table.name, remedy=nearest(key, table.columns))
    frame = table.load(table.columns, set()).frame
    rejected = table.set_aside()
    if rejected:
        line, reason, _ = rejected[0]
        notes.append(f"{Path(table.name).name}: {len(rejected):,} rows set aside, the first is line {line}: {reason}")
    notes.extend(table.notes)
    best, share, others = guess_key(frame, role, known)
    if key is None:
        if not best or share == 0:
            raise DataError(
                f"no column holds the {role}s of the log",
                file=table.name,
                remedy=f'name the key column with {role}_id = "..." under [columns], or leave this file out',
            )
        named = [name for name in others if name.lower().replace("_", "") in (f"{role}id", "bookid", "movieid")]
        key = best
        other = f" (not {', '.join(named)}, which holds fewer)" if named else ""
        notes.append(f"{Path(table.name).name}: {role}s by {key}, {share:.1%} of the log's are in it{other}")
    frame = frame.rename({"id": "id_"}) if "id" in frame.columns and key != "id" else frame
    frame = frame.rename({key: "id"}) if key != "id" else frame
    return frame.with_columns(_ids(frame["id"])).drop_nulls("id")
