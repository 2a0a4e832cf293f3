"""The execution of a reading plan: events, links, items and users, joined with a store, weighed and coded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import polars as pl

from zhiyin.core.errors import DataError
from zhiyin.core.run import Run, log
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.column_roles import Roles
from zhiyin.data.dataset import Dataset
from zhiyin.data.entity_table import KEYS
from zhiyin.data.event_cleaning import CleanEvents, EventSource, note_of_times_ahead, read_events
from zhiyin.data.event_schema import NO_KIND, EventSchema
from zhiyin.data.ids import match_spelling
from zhiyin.data.link_table import read_links
from zhiyin.data.quarantine import common_reasons, empty_quarantine
from zhiyin.data.read_assumptions import Dialect, Findings
from zhiyin.data.read_plan import ReadPlan
from zhiyin.data.store_snapshot import FileData, StoreSnapshot, merge_snapshot
from zhiyin.data.table import merge
from zhiyin.data.text_values import TextValues


def execute(
    plan: ReadPlan,
    *,
    weights: Mapping[str, float] | None,
    strict: bool,
    snapshot: StoreSnapshot | None,
    now: int,
    types: CatalogueSchema | None,
    run: Run,
    reviews: TextValues | None = None,
) -> Dataset:
    """Read by a plan, and close its tables. The parameters are those of `read`."""
    findings = Findings(notes=list(plan.notes))
    parts = _read_events(plan, now, strict, findings, run)
    rejected = [part.rejected for part in parts]
    events = _concat_events(parts)
    details = [part.details for part in parts]
    del parts
    review_state = None
    if reviews is not None and "text" in events.columns:
        events, notes, review_state = reviews.fill(events)
        findings.notes.extend(notes)
    links = None
    if snapshot is not None:
        rejected.append(snapshot.quarantine)
    if plan.links is not None:
        links, rejected_links = read_links(plan.links, strict, findings)
        rejected.append(rejected_links)
    quarantine = pl.concat(rejected) if rejected else empty_quarantine()
    has_events = len(events) > 0 or (snapshot is not None and len(snapshot.events) > 0)
    note_rejected(quarantine, has_events, findings)
    ids_of = events if snapshot is None or len(events) else snapshot.events
    declared = types or CatalogueSchema()
    items, users = read_entities(plan, ids_of["item"], ids_of["user"], details, declared, findings)
    details.clear()
    del ids_of
    roles, hidden, stored, position = plan.roles, None, None, None
    if snapshot is not None:
        position = snapshot.position
        merged, hidden, declared, notes = merge_snapshot(FileData(events, items, users, links), snapshot, declared)
        events, items, users, links, stored = merged.events, merged.items, merged.users, merged.links, merged.stored
        findings.notes.extend(notes)
        del merged, snapshot
        if "kind" in events.columns and roles.kind is None:
            roles = dataclasses.replace(roles, kind="kind")
    if "value" in events.columns and roles.rating is None:
        roles = dataclasses.replace(roles, rating="value")
    events, schema, notes = _with_weights(events, roles, weights)
    findings.notes.extend(notes)
    for note in findings.notes:
        log.info(note)
    holder = [events]
    del events  # `build` takes the frame apart; nothing else may hold it
    data = Dataset.build(
        holder.pop(),
        users=users,
        items=items,
        roles=roles,
        quarantine=quarantine,
        notes=tuple(findings.notes),
        assumed=findings.assumed,
        links=links,
        schema=schema,
        position=position,
        stored=stored,
        types=declared,
        now=now,
    )
    data.reviews = review_state
    if hidden is not None and len(hidden):
        codes = data.item_ids.encode(hidden)
        data.candidates[codes[codes >= 0]] = False
    return data


def note_rejected(quarantine: pl.DataFrame, has_events: bool, findings: Findings) -> None:
    """Note how many rows were set aside and why. Raises DataError where that were all."""
    if quarantine.is_empty():
        return
    reasons = common_reasons(quarantine)
    findings.note(f"{len(quarantine):,} rows set aside: {reasons}")
    if not has_events:
        first = quarantine.row(0, named=True)
        raise DataError(
            f"every row was set aside ({reasons}); the first: {first['reason']}",
            file=first["file"], row=first["line"], remedy="name other columns, or mend the rows",
        )  # fmt: skip


def read_entities(
    plan: ReadPlan,
    item_ids: pl.Series,
    user_ids: pl.Series,
    details: list[pl.DataFrame | None],
    declared: CatalogueSchema,
    findings: Findings,
) -> tuple[pl.DataFrame | None, pl.DataFrame | None]:
    """What describes items and users, in the types that are declared, and None for each where nothing does. Closes the
    tables of all but the events.

    Parameters
    ----------
    item_ids, user_ids: of the log, repeated or not.
    details: columns of the log that describe them, as in `EntitySource.read`.
    """
    items = plan.items.read(item_ids, details, findings)
    users = plan.users.read(user_ids, details, findings)
    for source in (plan.items, plan.users, plan.links):
        if source is not None and source.table is not None:
            source.table.close()
    return (
        _in_declared_types(declared, "items", items, findings),
        _in_declared_types(declared, "users", users, findings),
    )


def _read_events(plan: ReadPlan, now: int, strict: bool, findings: Findings, run: Run) -> list[CleanEvents]:
    """The events of each table. Where a table shows whether days or months come first, the others are read so too."""
    parts: list[CleanEvents] = []
    headers = {source.table.findings.assumed.get("header") for source in plan.events}
    ambiguous: dict[int, EventSource] = {}
    with run.bar("Reading events", len(plan.events)) as advance:
        for source in plan.events:
            part = read_events(source, plan.roles, plan.dialect, now, strict, findings)
            if part.n_ahead:
                findings.note(note_of_times_ahead(part.n_ahead))
            if part.open_order:
                ambiguous[len(parts)] = source
            else:
                source.table.close()
            parts.append(part)
            merge(findings, source.table.findings)
            advance(1)
    if len(headers) > 1:  # what was assumed of one file does not hold for all
        findings.dispute("header")
    orders = {part.day_first for part in parts if not part.open_order and part.day_first is not None}
    for at, source in ambiguous.items():
        part = parts[at]
        if len(orders) != 1:
            assert part.day_first is not None
            findings.assume("day_first", part.day_first, part.open_order)
        elif part.day_first not in orders:
            dialect: Dialect = dataclasses.replace(plan.dialect, day_first=orders.copy().pop())
            parts[at] = read_events(source, plan.roles, dialect, now, strict, findings)
        source.table.close()
    return parts


def _concat_events(parts: list[CleanEvents]) -> pl.DataFrame:
    """Events of all parts, ids in one spelling."""
    if not parts:
        return pl.DataFrame(schema={"user": pl.String, "item": pl.String, "time": pl.Int64})
    first, rest = parts[0].events, parts[1:]
    for role in ("user", "item"):
        for part in rest:
            if part.events[role].dtype == pl.String or first[role].dtype == pl.String:
                ids = match_spelling(part.events[role], first[role])
                part.events = part.events.with_columns(ids.alias(role))
                if part.details is not None:
                    part.details = part.details.with_columns(ids.alias(KEYS[role]))
    frames = [part.events for part in parts]
    for part in parts:
        part.events = pl.DataFrame()
    return frames[0] if len(frames) == 1 else pl.concat(frames, how="vertical_relaxed")


def _in_declared_types(
    declared: CatalogueSchema, table: str, frame: pl.DataFrame | None, findings: Findings
) -> pl.DataFrame | None:
    """A frame with its columns in their declared types; a note says how many cells did not fit."""
    if frame is None:
        return None
    shaped = declared.shaped(table, frame)
    for name in shaped.columns:
        n_lost = shaped[name].null_count() - frame[name].null_count()
        if n_lost > 0:
            findings.note(
                f"{name}: {n_lost:,} cells are not of the type {declared.type_of(table, name)}, read as missing"
            )
    return shaped


def _with_weights(
    events: pl.DataFrame, roles: Roles, weights: Mapping[str, float] | None
) -> tuple[pl.DataFrame, EventSchema, list[str]]:
    """Events with their weights, the schema that gave them, and what was decided about them."""
    kind, value = (events.get_column(name, default=None) for name in ("kind", "value"))
    kinds = [NO_KIND] if kind is None else kind.unique().cast(pl.String).sort().to_list()
    schema = EventSchema.of(kinds, weights, roles.rating if value is not None else None)
    weight = schema.weights(kind, value, len(events))
    counts = WeightCounts.of(weight, value)
    if weights is None and counts.ones == counts.events:  # what events weigh that have no column of weights
        return events, schema, weight_notes(schema, weights, counts)
    return events.with_columns(weight=weight), schema, weight_notes(schema, weights, counts)


@dataclasses.dataclass(frozen=True)
class WeightCounts:
    """Of how many events, of how many the weight is 1 and is 0, and the value is below 0."""

    events: int
    ones: int
    zeros: int
    negative_values: int

    @classmethod
    def of(cls, weight: np.ndarray, value: pl.Series | None) -> WeightCounts:
        negative = 0 if value is None else int((value < 0).sum())
        return cls(len(weight), int((weight == 1).sum()), int((weight == 0).sum()), negative)


def weight_notes(schema: EventSchema, weights: Mapping[str, float] | None, counts: WeightCounts) -> list[str]:
    """What was decided about the weights of events, in sentences. weights: as `read` takes them."""
    if weights is None:
        if counts.ones == counts.events:
            return ["weights: every event counts 1"]
        return ["weights: " + schema.describe(negative=counts.negative_values > 0)]
    notes = ["weights: " + ", ".join(f"{name} = {number:g}" for name, number in weights.items())]
    if counts.zeros:
        notes.append(f"{counts.zeros:,} of {counts.events:,} events match no weight: kept as seen, worth 0")
    return notes
