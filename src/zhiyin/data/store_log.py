"""What a service has heard, joined with what the files say, so that both are learned as one log.

Events of both are learned; one that stands in a file and was heard too counts once. Columns that were heard are laid
over those of the files. Who asked to be forgotten is not learned from files that are older than that.
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

_KEY = ("user", "item", "time", "kind")
# Rows of columns that are read at once.
PART = 50_000
# Rows set aside: see `Dataset.quarantine`.
QUARANTINE = {"file": pl.String, "line": pl.Int64, "reason": pl.String, "raw": pl.String}


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

    def filter(self, kept: pl.Series) -> JsonColumns:
        return JsonColumns(self.ids.filter(kept), self.texts.filter(kept))

    def parts(self) -> Iterator[tuple[pl.Series, list[dict[str, Any]]]]:
        """Ids and columns, some at a time; a text that is no object says nothing."""
        for start in range(0, len(self), PART):
            rows = [_object(text) for text in self.texts[start : start + PART]]
            yield self.ids[start : start + PART], rows

    def types(self, table: str, known: CatalogueSchema) -> dict[str, str]:
        """Types of columns that have none yet, by their first values: of a store that was written before types were
        kept."""
        found: dict[str, str] = {}
        for _, rows in self.parts():
            found |= known.with_types(CatalogueSchema(**{table: found})).first_types(table, rows)
        return found

    def columns(self, table: str, schema: CatalogueSchema) -> Columns:
        """Columns by their types; `hidden` is none of them. What does not fit is null, and counts as not heard."""
        parts = [(pl.DataFrame({"id": self.ids[:0]}), pl.DataFrame())]
        for ids, rows in self.parts():
            values, wrong = schema.frame(table, rows)
            said = pl.DataFrame({name: [name in row for row in rows] for name in values.columns})
            for name, bad in wrong.items():
                said = said.with_columns(said[name].scatter(bad, False))
            parts.append((pl.DataFrame({"id": ids}).hstack(values), said))
        frames, saids = zip(*parts)
        both = pl.concat(frames, how="diagonal_relaxed")
        names = both.drop("id").columns
        said = pl.concat(saids, how="diagonal").with_columns(pl.all().fill_null(False))
        return Columns(both, said.select(names))


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


@dataclasses.dataclass(frozen=True)
class Columns:
    """Columns of items or users.

    Parameters
    ----------
    values: frame with `id` (text, unique) and a column for each name that was heard.
    said: bool frame of the same rows and columns (without `id`): whether the column was heard of that row. What was
        heard as null is null; what was not heard is as the files say.
    """

    values: pl.DataFrame
    said: pl.DataFrame

    def __len__(self) -> int:
        return len(self.values)


@dataclasses.dataclass(frozen=True)
class Heard:
    """What a store holds.

    Parameters
    ----------
    events: `user`, `item` (texts or categories), `time` (Int64 microseconds UTC), `kind` (text or category), `value`
        (float, null where none), in the order they came.
    items, users: newest columns. first, declared: types of columns, as first writes decided and as was declared.
    hidden: text ids of items that are not to be shown: deleted, or with `hidden` true.
    forgotten: when each of these users (texts) was forgotten last, int64 microseconds UTC, 0: never. None: nobody was.
    late: which of these users (texts) were forgotten, once more or not, while the store was read, bool: they may stand
        in `events` and are left out. Told by what the store counts, not by a clock. None: nobody was.
    position: how much of the store `events` are: all up to a sequence number. None: they are of no store.
    quarantine: events of the store that are set aside, as `Dataset.quarantine` has them.
    """

    events: pl.DataFrame
    items: JsonColumns
    users: JsonColumns
    hidden: pl.Series
    forgotten: Callable[[pl.Series], np.ndarray] | None = None
    late: Callable[[pl.Series], np.ndarray] | None = None
    position: StorePosition | None = None
    quarantine: pl.DataFrame = dataclasses.field(default_factory=lambda: pl.DataFrame(schema=QUARANTINE))
    first: CatalogueSchema = dataclasses.field(default_factory=CatalogueSchema)
    declared: CatalogueSchema = dataclasses.field(default_factory=CatalogueSchema)


@dataclasses.dataclass
class Parts:
    """What is known before it is coded: raw events, and what describes items and users. stored: bool of each event,
    whether it is of a store; None: none is."""

    events: pl.DataFrame
    items: pl.DataFrame | None
    users: pl.DataFrame | None
    links: pl.DataFrame | None
    stored: np.ndarray | None = None


def join(
    files: Parts, heard: Heard, declared: CatalogueSchema | None = None
) -> tuple[Parts, pl.Series, CatalogueSchema, list[str]]:
    """The files and what was heard as one; the hidden items as ids of that whole; the types of all columns; what was
    decided, in sentences.

    `files.events` may be empty: then what was heard is all there is. declared: types that the settings name.
    """
    notes: list[str] = []
    types = CatalogueSchema.of(files.items, files.users)
    types = heard.first.with_types(types).with_types(declared or CatalogueSchema()).with_types(heard.declared)
    for table, rows in (("items", heard.items), ("users", heard.users)):
        types = types.with_types(CatalogueSchema(**{table: rows.types(table, types)}))
    files = dataclasses.replace(
        files,
        items=None if files.items is None else heard.declared.shaped("items", files.items),
        users=None if files.users is None else heard.declared.shaped("users", files.users),
    )
    files, heard = _forget(files, heard, notes)
    user = _same(heard.events["user"], heard.users.ids,
                 [files.events["user"], *_ids(files.users), *_ends(files.links)])  # fmt: skip
    item = _same(heard.events["item"], heard.items.ids, [files.events["item"], *_ids(files.items)])
    new = heard.events.with_columns(user=_cast(heard.events["user"], user), item=_cast(heard.events["item"], item))
    events, stored = _united(files.events, new, notes)
    whole = Parts(
        events,
        _laid(files.items, heard.items.columns("items", types), item),
        _laid(files.users, heard.users.columns("users", types), user),
        files.links,
        stored,
    )
    return whole, _cast(heard.hidden, item), types, notes


def _forget(files: Parts, heard: Heard, notes: list[str]) -> tuple[Parts, Heard]:
    """Both without those who were forgotten. What was heard of them since stays."""
    if heard.forgotten is None:
        return files, heard
    columns = [files.events["user"], *_ids(files.users), *_ends(files.links), heard.events["user"]]
    columns.append(heard.users.ids)
    texts = pl.concat([column.unique().cast(pl.String).alias("id") for column in columns]).unique()
    gone = pl.DataFrame({"id": texts, "moment": heard.forgotten(texts)}).filter(pl.col("moment") > 0)
    if gone.is_empty():
        return files, heard
    moment = _moments(files.events["user"], gone)
    old = moment > 0 if "time" not in files.events.columns else files.events["time"] < moment
    lost = int(old.sum())
    if lost:
        notes.append(f"{lost:,} events of the files are left out: their users were forgotten later")
    users = files.users.filter(_moments(files.users["id"], gone) == 0) if files.users is not None else None
    links = files.links
    if links is not None:
        links = links.filter((_moments(links["user"], gone) == 0) & (_moments(links["other"], gone) == 0))
    late = gone.filter(heard.late(gone["id"])) if heard.late is not None else gone.clear()
    if len(late):
        heard = dataclasses.replace(
            heard,
            events=heard.events.filter(_moments(heard.events["user"], late) == 0),
            users=heard.users.filter(_moments(heard.users.ids, late) == 0),
        )
    return Parts(files.events.filter(~old), files.items, users, links), heard


def _moments(users: pl.Series, gone: pl.DataFrame) -> pl.Series:
    """When each was forgotten, 0: never."""
    known = pl.DataFrame({"raw": users.unique()}).with_columns(id=pl.col("raw").cast(pl.String))
    known = known.join(gone, on="id", how="inner")
    if known.is_empty():
        return pl.repeat(0, len(users), dtype=pl.Int64, eager=True)
    found = pl.DataFrame({"raw": users}).join(known, on="raw", how="left", maintain_order="left")
    return found["moment"].fill_null(0)


def _ids(frame: pl.DataFrame | None) -> list[pl.Series]:
    return [] if frame is None else [frame["id"]]


def _ends(links: pl.DataFrame | None) -> list[pl.Series]:
    return [] if links is None else [links["user"], links["other"]]


def _same(events: pl.Series, described: pl.Series, files: list[pl.Series]) -> pl.DataType:
    """The type of ids that were heard: whole numbers where those of the files are and all of them can be."""
    told = [column for column in files if len(column)]
    if not told or not all(column.dtype.is_integer() for column in told):
        return pl.String()
    texts = pl.concat([column.unique().cast(pl.String).alias("id") for column in (events, described)])
    dtype = pl.UInt64() if any(column.dtype == pl.UInt64 for column in told) else pl.Int64()
    return pl.String() if whole_numbers(texts, dtype).null_count() else dtype


def _cast(ids: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Ids of that type; of the hidden, which may be anything, those that can be."""
    return (whole_numbers(ids, dtype) if dtype.is_integer() else ids.cast(pl.String)).drop_nulls()


def _united(files: pl.DataFrame, new: pl.DataFrame, notes: list[str]) -> tuple[pl.DataFrame, np.ndarray]:
    """One log, the files first; bool of each event, whether it is of the store."""
    timed = files.is_empty() or "time" in files.columns
    kinds = "kind" in files.columns or bool((new["kind"].cast(pl.String) != NO_KIND).any())
    values = "value" in files.columns or new["value"].null_count() < len(new)
    if not timed:
        new = new.sort("time", maintain_order=True)
        notes.append("the files have no times: what was heard stands behind them, in the order of its own times")
    elif len(files) and len(new):
        new = _fresh(files, new, notes)
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


def _fresh(files: pl.DataFrame, new: pl.DataFrame, notes: list[str]) -> pl.DataFrame:
    """What was heard and does not stand in the files."""
    first, last = new["time"].min(), new["time"].max()
    near = files.lazy().filter(pl.col("time").is_between(first, last))
    kind = pl.col("kind") if "kind" in files.columns else pl.lit(NO_KIND)
    known = near.select("user", "item", "time", kind.cast(pl.String).alias("kind")).collect()
    if known.is_empty():
        return new
    known = known.with_columns(pl.col("user", "item").cast(pl.String)).unique()
    asked = new.select(pl.col("user", "item", "kind").cast(pl.String), "time").with_row_index("row")
    twice = asked.join(known, on=list(_KEY), how="semi")["row"]
    if not len(twice):
        return new
    notes.append(f"{len(twice):,} events were heard and stand in the files too: they count once")
    kept = np.ones(len(new), dtype=bool)
    kept[twice.to_numpy()] = False
    return new.filter(kept)


def _laid(files: pl.DataFrame | None, heard: Columns, dtype: pl.DataType) -> pl.DataFrame | None:
    """Columns that were heard over those of the files."""
    if not len(heard):
        return files
    values = heard.values.with_columns(_cast(heard.values["id"], dtype).alias("id"))
    if files is None:
        return values.unique("id", keep="last", maintain_order=True)
    names = [name for name in values.columns if name != "id"]
    above = values.select("id", *(pl.col(name).alias(f"heard\x1f{name}") for name in names))
    above = above.with_columns(heard.said[name].alias(f"said\x1f{name}") for name in names)
    above = above.unique("id", keep="last", maintain_order=True)
    files = files.with_columns(pl.col("id").cast(dtype, strict=False)).unique("id", keep="first", maintain_order=True)
    both = files.join(above, on="id", how="full", coalesce=True, maintain_order="left_right")
    for name in names:
        top, said = both[f"heard\x1f{name}"], both[f"said\x1f{name}"].fill_null(False)
        if name in files.columns:
            below, top = _alike(both[name], top)
            top = top.zip_with(said, below)
        both = both.with_columns(top.alias(name))
    return both.select(*files.columns, *(name for name in names if name not in files.columns))


def _alike(below: pl.Series, top: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Two columns of one name and type as one Polars type: that of the files where it holds what was heard."""
    one, other = below.dtype, top.dtype
    if one == other:
        return below, top
    if one == pl.Null or other == pl.Null:
        return below.cast(other if one == pl.Null else one), top.cast(other if one == pl.Null else one)
    if isinstance(one, pl.List | pl.Array) and isinstance(other, pl.List):
        if isinstance(one, pl.Array):
            below = below.arr.to_list()
        return below.cast(other), top
    if one.is_temporal() and other.is_temporal():
        if isinstance(one, pl.Datetime) and isinstance(other, pl.Datetime):
            zone = one.time_zone
            top = top.dt.convert_time_zone(zone) if zone else top.dt.replace_time_zone(None)
        return below, top.cast(one)
    if (one.is_numeric() or one == pl.Boolean) and (other.is_numeric() or other == pl.Boolean):
        dtype = pl.Float64 if one.is_float() or other.is_float() or one.is_decimal() else pl.Int64
        return below.cast(dtype), top.cast(dtype)
    return below.cast(other, strict=False), top
