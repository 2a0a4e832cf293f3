"""Reading and cleaning on Spark: parts of Parquet files in tasks, by the plan and the rules of a single process.

    plan       roles, types and weights, from samples, at the driver
    clean      each part: bad rows set aside, ids counted                      (a task a part of a file)
    code       ids become codes, events are weighed and sent to their users    (a task a part, then Spark's shuffle)
    sort       each block of users by user and time, ties in the order of the log    (a task a block)

Answers of PostgreSQL become Arrow files first, see `query_parts`. What only a whole column tells would differ from part
to part. Sources with such columns are read by the driver, whose log says why; so are all that are neither Parquet files
nor such answers, and stores. The data set is the same either way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from zhiyin.core.run import Run, log
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.column_roles import Roles
from zhiyin.data.dataset import Dataset, coded_links, described, sort_order
from zhiyin.data.event_cleaning import EventSource, note_of_times_ahead, read_events
from zhiyin.data.event_schema import NO_KIND, EventSchema
from zhiyin.data.frame_table import ParquetRows, ParquetTable
from zhiyin.data.ids import POINTED, Ids
from zhiyin.data.link_table import read_links
from zhiyin.data.quarantine import empty_quarantine, refuse_rows
from zhiyin.data.read_assumptions import Dialect, Findings
from zhiyin.data.read_execution import WeightCounts, execute, note_rejected, read_entities, weight_notes
from zhiyin.data.read_plan import ReadPlan, plan_read
from zhiyin.data.sql_query import query_table
from zhiyin.data.store_snapshot import StoreSnapshot
from zhiyin.data.table import ColumnPlan, Table, merge
from zhiyin.data.time_numbers import digits_format, numeric_unit
from zhiyin.data.time_policy import wall_clock
from zhiyin.engines.array_files import read_frame, write_frame
from zhiyin.engines.spark.engine import SparkEngine
from zhiyin.engines.spark.event_log import Blocks, EventLog, block_name, equal_bounds
from zhiyin.engines.spark.mapped_events import joined_events
from zhiyin.engines.spark.packed_rows import pack, schema_of, unpack
from zhiyin.engines.spark.query_answer import AnswerRows, AnswerTable
from zhiyin.engines.spark.query_parts import QueryReader

if TYPE_CHECKING:
    import pyarrow as pa

# Opens rows of a table: position of the first, and their number.
OpenRows = Callable[[int, int], ParquetTable]
MAX_ROWS_PER_PART = 1_000_000
MIN_ROWS_PER_PART = 10_000
_SENT = {
    "position": np.int64, "user": np.int32, "item": np.int32, "time": np.int64, "kind": np.int32, "value": np.float32,
    "weight": np.float32,
}  # fmt: skip


def read_log(
    engine: SparkEngine,
    source: Any,
    *,
    weights: Mapping[str, float] | None = None,
    strict: bool = False,
    snapshot: StoreSnapshot | None = None,
    now: int | None = None,
    types: CatalogueSchema | None = None,
    run: Run | None = None,
    rows_per_part: int | None = None,
    **options: Any,
) -> EventLog:
    """As `zhiyin.read`, on the workers where the source allows it: the same data set, its events in blocks.

    Parameters
    ----------
    options: further arguments of `read`.
    rows_per_part: rows that a task reads; None: chosen by the size of the log.
    """
    run, now = run or Run(), wall_clock() if now is None else now
    has_store = snapshot is not None
    queries = QueryReader(engine, run, options.get("columns"))
    open_query = query_table if has_store else queries.open
    try:
        plan = plan_read(source, types=types, has_store=has_store, open_query=open_query, **options)
        reason = "a store is read" if has_store else why_at_driver(plan, queries.reasons)
        if not reason:
            parts, reason = _clean(engine, plan, now, run, rows_per_part)
            if not reason:
                return _code(engine, plan, parts, weights, strict, now, types, run)
        log.info("the log is read by this process: %s", reason)
        data = execute(plan, weights=weights, strict=strict, snapshot=snapshot, now=now, types=types, run=run)
        return EventLog.publish(engine, data)
    finally:
        queries.close()


def why_at_driver(plan: ReadPlan, reasons_of_queries: Mapping[str, str]) -> str:
    """Why the events of a plan are not read in parts; "" where they are. reasons_of_queries: see `QueryReader`."""
    roles = plan.roles
    if roles.item_columns or roles.user_columns:
        return "columns of the log describe items or users"
    for source in plan.events:
        if not isinstance(source.table, ParquetTable):
            name = source.table.name
            return f"{name}: {reasons_of_queries[name]}" if name in reasons_of_queries else f"{name} is no Parquet file"
        schema = source.table.schema
        for role in ("user", "item"):
            dtype = schema[getattr(roles, role)]
            if not (dtype in (pl.String, pl.Categorical) or (dtype.is_integer() and dtype not in _LARGE)):
                return f"the {role}s of {source.table.name} are of the type {dtype}"
        time = schema[roles.time] if roles.time else pl.Date()
        if roles.clock or not (isinstance(time, pl.Datetime | pl.Date) or (time.is_integer() and time not in _LARGE)):
            return f"the times of {source.table.name} are of the type {time}"
        if roles.rating and not (schema[roles.rating].is_numeric() or schema[roles.rating] == pl.Boolean):
            return f"the values of {source.table.name} are of the type {schema[roles.rating]}"
        if roles.kind and schema[roles.kind] == pl.Binary:
            return f"the kinds of {source.table.name} are bytes"
    return "" if plan.events else "there is no log"


_LARGE = (pl.UInt64, pl.Int128, pl.UInt128)


@dataclasses.dataclass(frozen=True)
class _Part:
    """A part of a table, and the summary of its cleaning.

    Parameters
    ----------
    table: number of the table in the plan. start, n_rows: its rows of the table.
    position: of its first row in the log.
    summary: see `_clean_part`.
    """

    table: int
    start: int
    n_rows: int
    position: int
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _CleanLog:
    """The parts of a log, and the folder of their files."""

    folder: Path
    parts: list[_Part]


def _clean(engine: SparkEngine, plan: ReadPlan, now: int, run: Run, rows_per_part: int | None) -> tuple[_CleanLog, str]:
    """The parts, cleaned; and why they cannot be taken together, "" where they can."""
    tables = [source.table for source in plan.events]
    assert all(isinstance(table, ParquetTable) for table in tables)
    total = sum(table.n_rows for table in tables)  # type: ignore[attr-defined]
    size = rows_per_part or min(max(total // (4 * engine.slots), MIN_ROWS_PER_PART), MAX_ROWS_PER_PART)
    parts, position = [], 0
    for number, table in enumerate(tables):
        for start in range(0, table.n_rows, size):  # type: ignore[attr-defined]
            n_rows = min(size, table.n_rows - start)  # type: ignore[attr-defined]
            parts.append(_Part(number, start, n_rows, position))
            position += n_rows
    folder = engine.new_folder("clean")
    sources = [(_opener(source.table, plan.dialect), source.columns, source.kind) for source in plan.events]
    task = partial(_clean_part, str(folder), sources, plan.roles, plan.dialect, now)
    tasks = [(number, part.table, part.start, part.n_rows) for number, part in enumerate(parts)]
    summaries = engine.run_tasks(task, tasks, run, "Reading events")
    parts = [dataclasses.replace(part, summary=one) for part, one in zip(parts, summaries)]
    return _CleanLog(folder, parts), _disagreement([part.summary for part in parts], len(tables))


def _opener(table: Table, dialect: Dialect) -> OpenRows:
    if isinstance(table, AnswerTable):
        return partial(AnswerRows, table.files, table.name, dialect)
    return partial(ParquetRows, table.name, dialect)


def _disagreement(summaries: list[dict[str, Any]], n_tables: int) -> str:
    """What parts of a log decided differently, that a whole column decides once; "" where nothing is."""
    filled = [one for one in summaries if one["n"]]
    if len({tuple(one["times"]) for one in filled if one["times"] is not None}) > 1:
        return "numbers of its times look like different units in different parts"
    if any(one["times"] == [None, None] for one in filled):
        return "numbers of its times are of no unit that is known"
    for role in ("user", "item"):
        if len({one["dtypes"][role] == "String" for one in filled}) > 1:
            return f"its {role}s are numbers in one file and texts in another"
        if n_tables > 1 and any(one["pointed"][role] for one in filled):
            return f"its {role}s are written in several spellings"
    return ""


def _code(
    engine: SparkEngine,
    plan: ReadPlan,
    clean: _CleanLog,
    weights: Mapping[str, float] | None,
    strict: bool,
    now: int,
    types: CatalogueSchema | None,
    run: Run,
) -> EventLog:
    """The data set of cleaned parts; see `read_execution.execute`, of which it is the counterpart."""
    findings = Findings(notes=list(plan.notes))
    rejected = _join_findings(plan, clean, strict, findings)
    links = None
    if plan.links is not None:
        links, rejected_links = read_links(plan.links, strict, findings)
        rejected.append(rejected_links)
    quarantine = pl.concat(rejected) if rejected else empty_quarantine()
    n_events = sum(part.summary["n"] for part in clean.parts)
    note_rejected(quarantine, n_events > 0, findings)
    counts = {role: _counts(clean, role) for role in ("user", "item")}
    declared = types or CatalogueSchema()
    items, users = read_entities(plan, counts["item"]["id"], counts["user"]["id"], [], declared, findings)
    has_times, has_value = plan.roles.time is not None, plan.roles.rating is not None
    kinds = sorted({kind for part in clean.parts for kind in part.summary["kinds"]}) or [NO_KIND]
    schema = EventSchema.of(kinds, weights, plan.roles.rating if has_value else None)
    linked = [links["user"], links["other"]] if links is not None else []
    user_ids = Ids.of(counts["user"]["id"], *([users["id"]] if users is not None else []), *linked)
    item_ids = Ids.of(counts["item"]["id"], *([items["id"]] if items is not None else []))
    events_of_user = np.zeros(len(user_ids), dtype=np.int64)
    events_of_user[user_ids.encode(counts["user"]["id"])] = counts["user"]["n"].to_numpy()
    write_frame(clean.folder / "user.ids", user_ids.values.to_frame("id"))
    write_frame(clean.folder / "item.ids", item_ids.values.to_frame("id"))
    bounds = equal_bounds(events_of_user, engine.n_blocks(n_events, len(user_ids)))
    blocks = Blocks(engine.new_folder("events"), bounds)
    tasks = [(number, part.position) for number, part in enumerate(clean.parts)]
    emit = partial(_emit_events, str(clean.folder), bounds, schema)
    receive = partial(_receive_events, str(blocks.folder), bounds, has_times, len(kinds))
    counts_of_blocks = engine.exchange(emit, tasks, schema_of([*_SENT]), receive, len(blocks), run, "Sorting events")
    counted = WeightCounts(*(sum(one[at] for one in counts_of_blocks) for at in range(4)))
    findings.notes.extend(weight_notes(schema, weights, counted))
    for note in findings.notes:
        log.info(note)
    engine.remove(clean.folder)
    files = [blocks.folder / f"{block_name(block)}.arrow" for block in range(len(blocks))]
    data = Dataset(
        joined_events(files, engine.new_folder("columns"), kinds),
        described(user_ids, users),
        described(item_ids, items),
        has_times=has_times,
        roles=plan.roles,
        quarantine=quarantine,
        notes=tuple(findings.notes),
        assumed=findings.assumed,
        links=coded_links(links, user_ids) if links is not None else None,
        schema=schema,
        types=declared,
    )
    return EventLog(data, blocks)


def _join_findings(plan: ReadPlan, clean: _CleanLog, strict: bool, findings: Findings) -> list[pl.DataFrame]:
    """Add what cleaning noted; the rows set aside, a frame a table. Closes the tables of the events."""
    rejected = []
    for number, source in enumerate(plan.events):
        parts = [at for at, part in enumerate(clean.parts) if part.table == number]
        for at in parts:
            for note in clean.parts[at].summary["notes"]:
                findings.note(note)
        n_ahead = sum(clean.parts[at].summary["n_ahead"] for at in parts)
        if n_ahead:
            findings.note(note_of_times_ahead(n_ahead))
        merge(findings, source.table.findings)
        bad = [at for at in parts if clean.parts[at].summary["n_rejected"]]
        frames = [read_frame(clean.folder / f"{block_name(at)}.rejected") for at in bad]
        rejected.append(pl.concat(frames, rechunk=True) if frames else empty_quarantine())
        if strict:
            refuse_rows(rejected[-1])
        source.table.close()
    return rejected


def _counts(clean: _CleanLog, role: str) -> pl.DataFrame:
    """Frame `id`, `n`: events by raw id."""
    filled = [at for at, part in enumerate(clean.parts) if part.summary["n"]]
    if not filled:
        return pl.DataFrame(schema={"id": pl.String, "n": pl.Int64})
    frames = [read_frame(clean.folder / f"{block_name(at)}.{role}s") for at in filled]
    return pl.concat(frames, how="vertical_relaxed").group_by("id").agg(pl.col("n").cast(pl.Int64).sum())


# -- on the workers ----------------------------------------------------------------------------------------------------


def _clean_part(
    folder: str,
    sources: list[tuple[OpenRows, tuple[ColumnPlan, ...], str | None]],
    roles: Roles,
    dialect: Dialect,
    now: int,
    task: tuple[int, int, int, int],
) -> dict[str, Any]:
    """Clean some rows of a table; write them, the rows set aside and the numbers of events by id. Returns a summary:

    n, n_rejected, n_ahead: events, rows set aside, times ahead of the clock.
    notes: sentences. kinds: names of the kinds.
    times: unit and format of times that are numbers; None for others.
    dtypes, pointed: by role, the type of its ids, and whether one is written as 7.0.
    """
    number, table, start, n_rows = task
    open_rows, columns, kind = sources[table]
    place, findings = Path(folder), Findings()
    rows = open_rows(start, n_rows)
    clean = read_events(EventSource(rows, columns, kind), roles, dialect, now, False, findings)
    merge(findings, rows.findings)
    events = clean.events
    if "kind" in events.columns:
        events = events.with_columns(pl.col("kind").cast(pl.String))
    file = block_name(number)
    write_frame(place / f"{file}.events", events)
    if len(clean.rejected):
        write_frame(place / f"{file}.rejected", clean.rejected)
    for role in ("user", "item"):
        write_frame(place / f"{file}.{role}s", events.group_by(pl.col(role).alias("id")).agg(pl.len().alias("n")))
    pointed = {
        role: events[role].dtype == pl.String and bool(events[role].str.contains(POINTED).any())
        for role in ("user", "item")
    }
    return {
        "n": len(events),
        "n_rejected": len(clean.rejected),
        "n_ahead": clean.n_ahead,
        "notes": findings.notes,
        "kinds": events["kind"].unique().to_list() if "kind" in events.columns else [],
        "times": _unit_of_times(rows, roles),
        "dtypes": {role: str(events[role].dtype) for role in ("user", "item")},
        "pointed": pointed,
    }


def _unit_of_times(rows: ParquetTable, roles: Roles) -> list[str | None] | None:
    """Unit and format that the numbers of a column of times are read in; None where it holds none."""
    if roles.time is None:
        return None
    column = rows.execute([ColumnPlan(roles.time, "time")]).frame[roles.time]
    if not column.dtype.is_integer():
        return None
    return [numeric_unit(column), digits_format(column.drop_nulls())]


@lru_cache(maxsize=4)
def _ids(file: str) -> Ids:
    return Ids(read_frame(Path(file))["id"])


def _emit_events(
    folder: str, bounds: np.ndarray, schema: EventSchema, task: tuple[int, int]
) -> Iterator[pa.RecordBatch]:
    """Events as codes, with the block of their user and their place in the log."""
    number, position = task
    events = read_frame(Path(folder) / f"{block_name(number)}.events")
    n = len(events)
    if not n:
        return
    user, item = (_ids(f"{folder}/{role}.ids").encode(events[role]) for role in ("user", "item"))
    kind, value = (events.get_column(name, default=None) for name in ("kind", "value"))
    columns = {
        "position": position + np.arange(n, dtype=np.int64),
        "user": user,
        "item": item,
        "time": events["time"].to_numpy() if "time" in events.columns else np.zeros(n, dtype=np.int64),
        "kind": np.zeros(n, dtype=np.int32) if kind is None else schema.codes(kind),
        "value": np.full(n, np.nan) if value is None else value.fill_null(np.nan).to_numpy(),
        "weight": schema.weights(kind, value, n),
    }
    targets = (np.searchsorted(bounds, user, side="right") - 1).astype(np.int32)
    yield from pack(targets, {name: array.astype(_SENT[name], copy=False) for name, array in columns.items()})


def _receive_events(
    folder: str, bounds: np.ndarray, has_times: bool, n_kinds: int, target: int, sent: pa.Table
) -> list[int]:
    """Write the sorted events of a block of users. Returns the fields of its `WeightCounts`."""
    events = pl.DataFrame(unpack(sent, _SENT)).sort("position")
    start, stop = int(bounds[target]), int(bounds[target + 1])
    user = events["user"].to_numpy() - np.int32(start)
    order = sort_order(user, events["time"].to_numpy() if has_times else None, stop - start)
    if order is not None:
        events = events[order]
    code = pl.UInt8 if n_kinds <= 255 else pl.UInt16 if n_kinds <= 65_535 else pl.UInt32  # as Polars numbers an Enum
    columns = events.select("user", "item", "time", pl.col("kind").cast(code), "value", "weight")
    write_frame(Path(folder) / f"{block_name(target)}.arrow", columns)
    return list(dataclasses.astuple(WeightCounts.of(events["weight"].to_numpy(), events["value"])))
