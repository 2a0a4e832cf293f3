"""The content of a service's store, merged with that of the files, so that models are trained on one log.

An event that is in the store and in a file counts once. Columns of the store overlay those of the files, and so do its
links. Users who were forgotten are removed from events that are older than that.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl

from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.event_schema import NO_KIND, StorePosition
from zhiyin.data.ids import whole_numbers
from zhiyin.data.quarantine import empty_quarantine

_KEY = ("user", "item", "time", "kind")
_PAIR = ["user", "other"]
# Rows of columns that are read at once.
ROWS_PER_CHUNK = 50_000


@dataclasses.dataclass(frozen=True)
class JsonColumns:
    """Columns of items or users as a store keeps them, in the order they changed.

    Parameters
    ----------
    ids: texts, unique. texts: of each its columns as a JSON object.
    """

    ids: pl.Series
    texts: pl.Series

    def __len__(self) -> int:
        return len(self.ids)

    def filter(self, mask: pl.Series) -> JsonColumns:
        return JsonColumns(self.ids.filter(mask), self.texts.filter(mask))

    def parts(self) -> Iterator[tuple[pl.Series, list[dict[str, Any]]]]:
        """Ids and columns in chunks; a text that is no JSON object has no columns."""
        for start in range(0, len(self), ROWS_PER_CHUNK):
            rows = [_object(text) for text in self.texts[start : start + ROWS_PER_CHUNK]]
            yield self.ids[start : start + ROWS_PER_CHUNK], rows

    def types(self, table: str, schema: CatalogueSchema) -> dict[str, str]:
        """Types of columns that have none yet, by their first values: of a store that was written before types were
        kept."""
        types: dict[str, str] = {}
        for _, rows in self.parts():
            types |= schema.with_types(CatalogueSchema(**{table: types})).first_types(table, rows)
        return types

    def columns(self, table: str, schema: CatalogueSchema) -> Columns:
        """Columns by their types, without `hidden`. A value that does not fit is null, and not present."""
        parts = [(pl.DataFrame({"id": self.ids[:0]}), pl.DataFrame())]
        for ids, rows in self.parts():
            values, wrong = schema.frame(table, rows)
            present = pl.DataFrame({name: [name in row for row in rows] for name in values.columns})
            for name, bad in wrong.items():
                present = present.with_columns(present[name].scatter(bad, False))
            parts.append((pl.DataFrame({"id": ids}).hstack(values), present))
        frames, present_parts = zip(*parts)
        both = pl.concat(frames, how="diagonal_relaxed")
        names = both.drop("id").columns
        present = pl.concat(present_parts, how="diagonal").with_columns(pl.all().fill_null(False))
        return Columns(both, present.select(names))


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


@dataclasses.dataclass(frozen=True)
class Columns:
    """Columns of items or users.

    Parameters
    ----------
    values: frame with `id` (text, unique) and a column for each name in the store.
    present: bool frame of the same rows and columns (without `id`): whether the store has the column for that row. A
        null that is present is null; values that are not present are those of the files.
    """

    values: pl.DataFrame
    present: pl.DataFrame

    def __len__(self) -> int:
        return len(self.values)


@dataclasses.dataclass(frozen=True)
class StoreSnapshot:
    """The content of a store at one moment.

    Parameters
    ----------
    events: `user`, `item` (texts or categories), `time` (Int64 microseconds UTC), `kind` (text or category), `value`
        (float, null where none), in the order of their sequence numbers.
    items, users: newest columns.
    first, declared: types of columns, by the first write and as declared.
    hidden: text ids of items that are not to be shown: deleted, or with `hidden` true.
    forgotten: when each of these users (texts) was forgotten last, int64 microseconds UTC, 0: never. None: nobody was.
    late: which of these users (texts) were forgotten, once more or not, while the store was read, bool: they may be
        in `events` and are removed. Detected by a counter of the store, not by a clock. None: nobody was.
    position: how much of the store `events` are: all up to a sequence number. None: they are of no store.
    quarantine: events of the store that are set aside, as `Dataset.quarantine` has them.
    links: `user`, `other` (texts), `weight` (null: the link was removed), a pair once.
    """

    events: pl.DataFrame
    items: JsonColumns
    users: JsonColumns
    hidden: pl.Series
    forgotten: Callable[[pl.Series], np.ndarray] | None = None
    late: Callable[[pl.Series], np.ndarray] | None = None
    position: StorePosition | None = None
    quarantine: pl.DataFrame = dataclasses.field(default_factory=empty_quarantine)
    first: CatalogueSchema = dataclasses.field(default_factory=CatalogueSchema)
    declared: CatalogueSchema = dataclasses.field(default_factory=CatalogueSchema)
    links: pl.DataFrame = dataclasses.field(
        default_factory=lambda: pl.DataFrame(schema={"user": pl.String, "other": pl.String, "weight": pl.Float64})
    )


@dataclasses.dataclass
class FileData:
    """What is known before it is coded: raw events, and what describes items and users. stored: bool of each event,
    whether it is of a store; None: none is."""

    events: pl.DataFrame
    items: pl.DataFrame | None
    users: pl.DataFrame | None
    links: pl.DataFrame | None
    stored: np.ndarray | None = None


def merge_snapshot(
    files: FileData, snapshot: StoreSnapshot, declared: CatalogueSchema | None = None
) -> tuple[FileData, pl.Series, CatalogueSchema, list[str]]:
    """Merge files and store.

    Parameters
    ----------
    files: their `events` may be empty: then all events are of the store.
    declared: types that the settings name.

    Returns
    -------
    The merged data, the ids of the hidden items, the types of all columns, and notes on what was decided.
    """
    notes: list[str] = []
    types = CatalogueSchema.of(files.items, files.users)
    types = snapshot.first.with_types(types).with_types(declared or CatalogueSchema()).with_types(snapshot.declared)
    for table, rows in (("items", snapshot.items), ("users", snapshot.users)):
        types = types.with_types(CatalogueSchema(**{table: rows.types(table, types)}))
    files = dataclasses.replace(
        files,
        items=None if files.items is None else snapshot.declared.shaped("items", files.items),
        users=None if files.users is None else snapshot.declared.shaped("users", files.users),
    )
    files, snapshot = _forget(files, snapshot, notes)
    described = pl.concat([snapshot.users.ids.alias("id"), *(one.alias("id") for one in _link_ids(snapshot.links))])
    user = _id_type(snapshot.events["user"], described,
                 [files.events["user"], *_ids(files.users), *_link_ids(files.links)])  # fmt: skip
    item = _id_type(snapshot.events["item"], snapshot.items.ids, [files.events["item"], *_ids(files.items)])
    new = snapshot.events.with_columns(
        user=_cast(snapshot.events["user"], user), item=_cast(snapshot.events["item"], item)
    )
    events, stored = _concat_events(files.events, new, notes)
    whole = FileData(
        events,
        _overlay(files.items, snapshot.items.columns("items", types), item),
        _overlay(files.users, snapshot.users.columns("users", types), user),
        _overlay_links(files.links, snapshot.links, user),
        stored,
    )
    return whole, _cast(snapshot.hidden, item), types, notes


def _forget(files: FileData, snapshot: StoreSnapshot, notes: list[str]) -> tuple[FileData, StoreSnapshot]:
    """Both without the users who were forgotten. Their later events in the store stay."""
    if snapshot.forgotten is None:
        return files, snapshot
    columns = [files.events["user"], *_ids(files.users), *_link_ids(files.links), snapshot.events["user"]]
    columns += [snapshot.users.ids, *_link_ids(snapshot.links)]
    texts = pl.concat([column.unique().cast(pl.String).alias("id") for column in columns]).unique()
    forgotten = pl.DataFrame({"id": texts, "moment": snapshot.forgotten(texts)}).filter(pl.col("moment") > 0)
    if forgotten.is_empty():
        return files, snapshot
    moment = _forgotten_times(files.events["user"], forgotten)
    old = moment > 0 if "time" not in files.events.columns else files.events["time"] < moment
    lost = int(old.sum())
    if lost:
        notes.append(f"{lost:,} events of the files are left out: their users were forgotten later")
    users = files.users.filter(_forgotten_times(files.users["id"], forgotten) == 0) if files.users is not None else None
    links = files.links
    if links is not None:
        links = links.filter(
            (_forgotten_times(links["user"], forgotten) == 0) & (_forgotten_times(links["other"], forgotten) == 0)
        )
    late = forgotten.filter(snapshot.late(forgotten["id"])) if snapshot.late is not None else forgotten.clear()
    if len(late):
        snapshot = dataclasses.replace(
            snapshot,
            events=snapshot.events.filter(_forgotten_times(snapshot.events["user"], late) == 0),
            users=snapshot.users.filter(_forgotten_times(snapshot.users.ids, late) == 0),
            links=snapshot.links.filter(
                (_forgotten_times(snapshot.links["user"], late) == 0)
                & (_forgotten_times(snapshot.links["other"], late) == 0)
            ),
        )
    return FileData(files.events.filter(~old), files.items, users, links), snapshot


def _forgotten_times(users: pl.Series, forgotten: pl.DataFrame) -> pl.Series:
    """When each was forgotten, 0: never."""
    matched = pl.DataFrame({"raw": users.unique()}).with_columns(id=pl.col("raw").cast(pl.String))
    matched = matched.join(forgotten, on="id", how="inner")
    if matched.is_empty():
        return pl.repeat(0, len(users), dtype=pl.Int64, eager=True)
    joined = pl.DataFrame({"raw": users}).join(matched, on="raw", how="left", maintain_order="left")
    return joined["moment"].fill_null(0)


def _ids(frame: pl.DataFrame | None) -> list[pl.Series]:
    return [] if frame is None else [frame["id"]]


def _link_ids(links: pl.DataFrame | None) -> list[pl.Series]:
    return [] if links is None else [links["user"], links["other"]]


def _id_type(events: pl.Series, described: pl.Series, files: list[pl.Series]) -> pl.DataType:
    """The type of the ids of the store: integers where those of the files are integers and all of them can be."""
    file_ids = [column for column in files if len(column)]
    if not file_ids or not all(column.dtype.is_integer() for column in file_ids):
        return pl.String()
    texts = pl.concat([column.unique().cast(pl.String).alias("id") for column in (events, described)])
    dtype = pl.UInt64() if any(column.dtype == pl.UInt64 for column in file_ids) else pl.Int64()
    return pl.String() if whole_numbers(texts, dtype).null_count() else dtype


def _cast(ids: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Ids of that type; of the hidden, which may be anything, those that can be."""
    return (whole_numbers(ids, dtype) if dtype.is_integer() else ids.cast(pl.String)).drop_nulls()


def _concat_events(files: pl.DataFrame, new: pl.DataFrame, notes: list[str]) -> tuple[pl.DataFrame, np.ndarray]:
    """One log, the files first; bool of each event, whether it is of the store."""
    timed = files.is_empty() or "time" in files.columns
    kinds = "kind" in files.columns or bool((new["kind"].cast(pl.String) != NO_KIND).any())
    values = "value" in files.columns or new["value"].null_count() < len(new)
    if not timed:
        new = new.sort("time", maintain_order=True)
        notes.append("the files have no times: what was heard stands behind them, in the order of its own times")
    elif len(files) and len(new):
        new = _without_duplicates(files, new, notes)
    order = ["user", "item", *(["time"] if timed else []), *(["kind"] if kinds else []), *(["value"] if values else [])]
    new = new.with_columns(pl.col("kind").cast(pl.Categorical), pl.col("value").cast(pl.Float32)).select(order)
    stored = np.arange(len(files) + len(new)) >= len(files)
    if files.is_empty():
        return new, stored
    if kinds and "kind" not in files.columns:
        files = files.with_columns(kind=pl.lit(NO_KIND, dtype=pl.Categorical))
    if values and "value" not in files.columns:
        files = files.with_columns(value=pl.lit(None, dtype=pl.Float32))
    types = {name: new[name].dtype for name in ("user", "item") if files[name].dtype.is_integer()}
    files = files.select(order).cast(types)  # type: ignore[arg-type]
    return pl.concat([files, new.cast(dict(files.schema))]), stored  # type: ignore[arg-type]


def _without_duplicates(files: pl.DataFrame, new: pl.DataFrame, notes: list[str]) -> pl.DataFrame:
    """The events of the store that are not in the files."""
    first, last = new["time"].min(), new["time"].max()
    near = files.lazy().filter(pl.col("time").is_between(first, last))
    kind = pl.col("kind") if "kind" in files.columns else pl.lit(NO_KIND)
    file_events = near.select("user", "item", "time", kind.cast(pl.String).alias("kind")).collect()
    if file_events.is_empty():
        return new
    file_events = file_events.with_columns(pl.col("user", "item").cast(pl.String)).unique()
    candidates = new.select(pl.col("user", "item", "kind").cast(pl.String), "time").with_row_index("row")
    duplicate_rows = candidates.join(file_events, on=list(_KEY), how="semi")["row"]
    if not len(duplicate_rows):
        return new
    notes.append(f"{len(duplicate_rows):,} events were heard and stand in the files too: they count once")
    is_new = np.ones(len(new), dtype=bool)
    is_new[duplicate_rows.to_numpy()] = False
    return new.filter(is_new)


def _overlay(files: pl.DataFrame | None, overlay: Columns, dtype: pl.DataType) -> pl.DataFrame | None:
    """The columns of the files with the values that the store has laid over them."""
    if not len(overlay):
        return files
    values = overlay.values.with_columns(_cast(overlay.values["id"], dtype).alias("id"))
    if files is None:
        return values.unique("id", keep="last", maintain_order=True)
    names = [name for name in values.columns if name != "id"]
    above = values.select("id", *(pl.col(name).alias(f"overlay\x1f{name}") for name in names))
    above = above.with_columns(overlay.present[name].alias(f"present\x1f{name}") for name in names)
    above = above.unique("id", keep="last", maintain_order=True)
    files = files.with_columns(pl.col("id").cast(dtype, strict=False)).unique("id", keep="first", maintain_order=True)
    both = files.join(above, on="id", how="full", coalesce=True, maintain_order="left_right")
    for name in names:
        top, present = both[f"overlay\x1f{name}"], both[f"present\x1f{name}"].fill_null(False)
        if name in files.columns:
            below, top = _common_type(both[name], top)
            top = top.zip_with(present, below)
        both = both.with_columns(top.alias(name))
    return both.select(*files.columns, *(name for name in names if name not in files.columns))


def _overlay_links(files: pl.DataFrame | None, stored: pl.DataFrame, dtype: pl.DataType) -> pl.DataFrame | None:
    """The links of the files, where those of the store, removed ones too, replace them."""
    if stored.is_empty():
        return files
    ids = {name: whole_numbers(stored[name], dtype) if dtype.is_integer() else stored[name] for name in _PAIR}
    stored = stored.select(pl.Series(name, column) for name, column in ids.items()).with_columns(
        stored["weight"].cast(pl.Float32)
    )
    present = stored.filter(pl.col("weight").is_not_null() & pl.all_horizontal(pl.col(*_PAIR).is_not_null()))
    if files is None:
        return present if len(present) else None
    if "weight" not in files.columns:
        files = files.unique(_PAIR, maintain_order=True).with_columns(weight=pl.lit(1.0, pl.Float32))
    files = files.with_columns(pl.col(*_PAIR).cast(dtype, strict=False), pl.col("weight").cast(pl.Float32))
    rest = files.join(stored, on=_PAIR, how="anti", maintain_order="left")
    return pl.concat([rest.select(*_PAIR, "weight"), present.select(*_PAIR, "weight")])


def _common_type(below: pl.Series, top: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Two columns of one name and type as one Polars type: that of the files where it holds the values of the store."""
    bottom_type, top_type = below.dtype, top.dtype
    if bottom_type == top_type:
        return below, top
    if bottom_type == pl.Null or top_type == pl.Null:
        return below.cast(top_type if bottom_type == pl.Null else bottom_type), top.cast(
            top_type if bottom_type == pl.Null else bottom_type
        )
    if isinstance(bottom_type, pl.List | pl.Array) and isinstance(top_type, pl.List):
        if isinstance(bottom_type, pl.Array):
            below = below.arr.to_list()
        return below.cast(top_type), top
    if bottom_type.is_temporal() and top_type.is_temporal():
        if isinstance(bottom_type, pl.Datetime) and isinstance(top_type, pl.Datetime):
            zone = bottom_type.time_zone
            top = top.dt.convert_time_zone(zone) if zone else top.dt.replace_time_zone(None)
        return below, top.cast(bottom_type)
    if (bottom_type.is_numeric() or bottom_type == pl.Boolean) and (top_type.is_numeric() or top_type == pl.Boolean):
        dtype = pl.Float64 if bottom_type.is_float() or top_type.is_float() or bottom_type.is_decimal() else pl.Int64
        return below.cast(dtype), top.cast(dtype)
    return below.cast(top_type, strict=False), top
