"""Dataset: events, items and users with stable codes, sorted once and stably by (user, time)."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from zhiyin.core.errors import DataError
from zhiyin.core.html_table import html_table
from zhiyin.core.parallel import kernel, read_only
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.column_roles import Roles
from zhiyin.data.event_schema import NO_KIND, EventSchema, StorePosition
from zhiyin.data.histories import Histories
from zhiyin.data.ids import Ids
from zhiyin.data.pictures import Pictures
from zhiyin.data.process_group import ALONE, ProcessGroup
from zhiyin.data.quarantine import empty_quarantine
from zhiyin.data.time_policy import wall_clock

EVENT_COLUMNS = ("user", "item", "time", "kind", "value", "weight")


class Dataset:
    """An event log with its catalogue.

    Parameters
    ----------
    events: frame sorted by (user, time), equal times in the order of the log: `user`, `item` (Int32 codes),
        `time` (Int64 microseconds UTC; 0 when the log has none), `kind` (Enum), `value` (Float32, null where
        none),
        `weight` (Float32). Repeats are kept: every event is a row.
    users, items: frames with one row a code; column `id` holds the raw ids, sorted, the other columns
        describe them.
    candidates: bool[n_items], the items that may be recommended; an item known only from a later part of a
        split is not one.
    has_times: whether the log has times; without them `time` is 0 and the order of the log replaces it.
    roles: which column of the source played which role.
    quarantine: rows set aside while reading: `file`, `line`, `reason`, `raw`.
    notes: what was decided while reading, in sentences to be shown.
    assumed: decisions among them that the source leaves open, as `read(assume=...)` takes them.
    links: who follows or befriends whom, or None where it is not known: `user`, `other` (Int32 user codes, a pair once,
        sorted), `weight` (Float32, above 0). A link has a direction; a friendship is two links.
    schema: the meaning of the events: kinds, weights, accepted times.
    position: how much of a store was read; None where no store was read.
    stored: bool[n_events], the events of the store; None where no store was read.
    types: of columns of items and users whose type was declared, or is known from the store; others are learned from
        the frames.
    images: where pictures of the items are; None where none are named.

    `reviews`: what knows again how texts of reviews became values (`zhiyin.features.review_values`); None where none
    were read.

    `group`: the processes that hold the events together; of an ordinary data set, this one alone.
    """

    group: ProcessGroup = ALONE
    reviews: Mapping[str, Any] | None = None

    def __init__(
        self,
        events: pl.DataFrame,
        users: pl.DataFrame,
        items: pl.DataFrame,
        *,
        has_times: bool,
        candidates: np.ndarray | None = None,
        roles: Roles | None = None,
        quarantine: pl.DataFrame | None = None,
        notes: tuple[str, ...] = (),
        assumed: Mapping[str, Any] | None = None,
        links: pl.DataFrame | None = None,
        schema: EventSchema | None = None,
        position: StorePosition | None = None,
        stored: np.ndarray | None = None,
        types: CatalogueSchema | None = None,
        images: Pictures | None = None,
    ) -> None:
        self.images = images
        self.events, self.users, self.items, self.links = events, users, items, links
        self.schema = schema if schema is not None else EventSchema.of(self.kinds)
        self.position, self.stored = position, stored
        self.types = types if types is not None else CatalogueSchema()
        self.has_times, self.roles, self.notes = has_times, roles, notes
        self.assumed: dict[str, Any] = dict(assumed or {})
        self.candidates = np.ones(len(items), dtype=bool) if candidates is None else candidates
        self.quarantine = quarantine if quarantine is not None else empty_quarantine()
        self.user_ids, self.item_ids = Ids(users["id"]), Ids(items["id"])

    @property
    def n_users(self) -> int:
        return len(self.users)

    @property
    def n_items(self) -> int:
        return len(self.items)

    @property
    def n_events(self) -> int:
        return len(self.events)

    @property
    def kinds(self) -> list[str]:
        """Kinds of events by code."""
        return list(self.events.schema["kind"].categories)  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        span = ""
        if self.has_times and self.n_events:
            first, last = self.window
            span = f", {_day(first)} to {_day(last)}"
        return f"Dataset({self.n_events:,} events, {self.n_users:,} users, {self.n_items:,} items{span})"

    def _repr_html_(self) -> str:
        """The tables and their columns, with types, for notebooks."""
        tables = (("events", self.events), ("users", self.users), ("items", self.items))
        rows = [
            (name, f"{len(frame):,}", ", ".join(f"{column} ({dtype})" for column, dtype in frame.schema.items()))
            for name, frame in tables
        ]
        return html_table(repr(self), ("table", "rows", "columns"), rows)

    @property
    def window(self) -> tuple[int, int]:
        """First and last moment of the log, microseconds UTC; (0, 0) without times."""
        if not self.n_events or not self.has_times:
            return 0, 0
        return int(self.events["time"].min()), int(self.events["time"].max())  # type: ignore[arg-type]

    @cached_property
    def histories(self) -> Histories:
        """Every user's history, row = user code; `now` is the end of the log."""
        events = self.events
        counts = np.bincount(events["user"].to_numpy(), minlength=self.n_users)
        return Histories(
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            events["item"].to_numpy(),
            events["weight"].to_numpy(),
            events["time"].to_numpy(),
            events["kind"].to_physical().to_numpy(),
            events["value"].fill_null(np.nan).to_numpy(),
            np.full(self.n_users, self.window[1], dtype=np.int64),
            np.arange(self.n_users, dtype=np.int32),
            self.users.drop("id") if self.users.width > 1 else None,
        )

    def history_of(self, users: Iterable[Any]) -> Histories:
        """Histories of raw user ids; a user the log does not know has an empty one."""
        return self.histories.take(self.user_ids.encode(users))

    def item_counts(self, mask: np.ndarray | None = None) -> np.ndarray:
        """int64[n_items]: events of each item where `mask` (bool[n_events]) is true, or all. Of events in several
        processes, those of all: every process calls it."""
        items = self.events["item"].to_numpy()
        return self.group.sum(np.bincount(items if mask is None else items[mask], minlength=self.n_items))

    def popularity(self) -> np.ndarray:
        """int64[n_items]: events of each item with a positive weight; see `item_counts`."""
        return self.item_counts(self.events["weight"].to_numpy() > 0)

    def matrix(self, how: str = "binary") -> sparse.csr_matrix:
        """CSR float32[n_users, n_items]; see `Histories.matrix`. Computed on demand and kept."""
        if how not in self._matrices:
            self._matrices[how] = self.histories.matrix(self.n_items, how)
        return self._matrices[how]

    @cached_property
    def _matrices(self) -> dict[str, sparse.csr_matrix]:
        return {}

    def subset(self, mask: np.ndarray, *, candidates: np.ndarray | None = None) -> Dataset:
        """The events where `mask` (bool[n_events]) is true, under the same codes."""
        return Dataset(
            self.events.filter(pl.Series(mask)),
            self.users,
            self.items,
            has_times=self.has_times,
            candidates=self.candidates if candidates is None else candidates,
            roles=self.roles,
            links=self.links,
            schema=self.schema,
            position=self.position,
            stored=None if self.stored is None else self.stored[mask],
            types=self.types,
            images=self.images,
        )

    @cached_property
    def fingerprint(self) -> str:
        """A digest of ids, events and links: two data sets with the same one teach a model the same."""
        digest = hashlib.blake2b(digest_size=16)
        for ids in (self.users["id"], self.items["id"]):
            digest.update(ids.hash(seed=7).to_numpy().tobytes())
        columns = [self.events[name] for name in ("user", "item", "time", "weight")]
        columns += [self.events["kind"].to_physical(), self.events["value"].fill_null(np.nan)]
        for column in columns:
            digest.update(np.ascontiguousarray(column.to_numpy()).data)
        digest.update("\0".join(self.kinds).encode())
        digest.update(np.packbits(self.candidates).tobytes())
        if self.links is not None:
            digest.update(b"links")
            for name in ("user", "other", "weight"):
                digest.update(np.ascontiguousarray(self.links[name].to_numpy()).data)
        return digest.hexdigest()

    @classmethod
    def build(
        cls,
        events: pl.DataFrame,
        *,
        users: pl.DataFrame | None = None,
        items: pl.DataFrame | None = None,
        roles: Roles | None = None,
        quarantine: pl.DataFrame | None = None,
        notes: tuple[str, ...] = (),
        assumed: Mapping[str, Any] | None = None,
        links: pl.DataFrame | None = None,
        schema: EventSchema | None = None,
        position: StorePosition | None = None,
        stored: np.ndarray | None = None,
        types: CatalogueSchema | None = None,
        now: int | None = None,
    ) -> Dataset:
        """Code and sort a clean log.

        Parameters
        ----------
        events: `user` and `item` raw ids without nulls; optional `time` (Int64 microseconds), `kind` (text),
            `value`, `weight`. The frame is taken apart while it is coded, so that a large log is not held
            twice.
        users, items: frames with a column `id` and whatever else is known; ids without events are kept.
        links: `user` and `other`, raw user ids without nulls, and optionally `weight`, above 0. Users whom only a link
            knows become users without events. Of a repeated link the weights are summed; without weights it counts
            once. A link from a user to themselves is left out.
        types: as `Dataset` has them.
        schema: what events mean, its kinds are taken from the log; left out, the usual one. It gives no weights here.
        position, stored: see the class; `stored` in the order of `events`.
        now: what the clock says, microseconds UTC; left out, this machine's. Events whose time is more than a day ahead
            of it are set aside.
        """
        if events.is_empty():
            raise DataError("there is no event to learn from", remedy="check the source")
        is_accepted, rejected = _not_ahead(events, schema or EventSchema(), wall_clock() if now is None else now)
        if is_accepted is not None:
            events, stored = events.filter(is_accepted), None if stored is None else stored[is_accepted]
            quarantine = rejected if quarantine is None else pl.concat([quarantine, rejected])
            if events.is_empty():
                raise DataError("every event is more than a day ahead of the clock", remedy="check the clock")
        columns = {name: events[name] for name in events.columns}
        del events
        n = len(columns["user"])
        linked = [links["user"], links["other"]] if links is not None else []
        user_ids = Ids.of(columns["user"], *([users["id"]] if users is not None else []), *linked)
        item_ids = Ids.of(columns["item"], *([items["id"]] if items is not None else []))
        user = user_ids.encode(columns.pop("user"))
        item = item_ids.encode(columns.pop("item"))
        has_times = "time" in columns
        time = columns.pop("time").to_numpy() if has_times else None
        order = sort_order(user, time, len(user_ids))
        if order is not None:
            user, item = user[order], item[order]
            time = time[order] if time is not None else None
        if stored is not None and order is not None:
            stored = stored[order]
        kind = columns.pop("kind") if "kind" in columns else None
        if kind is None:
            kinds = pl.repeat(NO_KIND, n, dtype=pl.Enum([NO_KIND]), eager=True)
        else:
            kind = kind.fill_null(NO_KIND) if kind.null_count() else kind
            kinds = kind.cast(pl.Enum(kind.unique().cast(pl.String).sort().to_list()))
        names = tuple(kinds.dtype.categories)  # type: ignore[attr-defined]
        value = columns.pop("value").cast(pl.Float32) if "value" in columns else None
        if value is None:
            value = pl.repeat(None, n, dtype=pl.Float32, eager=True)
        weight = columns.pop("weight").cast(pl.Float32) if "weight" in columns else None
        if weight is None:
            weight = pl.repeat(1.0, n, dtype=pl.Float32, eager=True)
        if order is not None:
            kinds, value, weight = (column.gather(order) for column in (kinds, value, weight))
        sorted_events = pl.DataFrame(
            {
                "user": user,
                "item": item,
                "time": np.zeros(n, dtype=np.int64) if time is None else time,
                "kind": kinds,
                "value": value,
                "weight": weight,
            }
        )
        return cls(
            sorted_events,
            described(user_ids, users),
            described(item_ids, items),
            has_times=has_times,
            roles=roles,
            quarantine=quarantine,
            notes=notes,
            assumed=assumed,
            links=coded_links(links, user_ids) if links is not None else None,
            schema=EventSchema.of(names) if schema is None else dataclasses.replace(schema, kinds=names),
            position=position,
            stored=stored,
            types=types,
        )


def _not_ahead(events: pl.DataFrame, schema: EventSchema, now: int) -> tuple[np.ndarray | None, pl.DataFrame]:
    """bool of each event, whether its time is not too far ahead, and those that are, set aside; None: all are right."""
    latest = schema.times.latest(now)
    if "time" not in events.columns or (events["time"].max() or 0) <= latest:  # type: ignore[operator]
        return None, empty_quarantine()
    is_ahead = (events["time"] > latest).fill_null(False)
    reason = pl.format("time = {} is more than a day ahead of the clock", "time")
    raw = pl.concat_str([pl.col(name).cast(pl.String) for name in ("user", "item", "time")], separator=",")
    rows = events.with_row_index("line", 1).filter(is_ahead)
    ahead = rows.select(
        pl.lit("events").alias("file"), pl.col("line").cast(pl.Int64), reason.alias("reason"), raw.alias("raw")
    )
    return (~is_ahead).to_numpy(), ahead


def described(ids: Ids, described: pl.DataFrame | None) -> pl.DataFrame:
    """One row a code: the ids, joined with what is known of them. The first row of a repeated id counts."""
    frame = pl.DataFrame({"id": ids.values})
    if described is None:
        return frame
    described = described.with_columns(pl.col("id").cast(ids.dtype, strict=False)).unique("id", keep="first")
    return frame.join(described, on="id", how="left", maintain_order="left")


def coded_links(links: pl.DataFrame, ids: Ids) -> pl.DataFrame:
    """Links in user codes, each pair once, sorted."""
    coded = pl.DataFrame({"user": ids.encode(links["user"]), "other": ids.encode(links["other"])})
    weighted = "weight" in links.columns
    weight = links["weight"].cast(pl.Float32) if weighted else pl.repeat(1.0, len(links), dtype=pl.Float32, eager=True)
    total = pl.col("weight").cast(pl.Float64).sum() if weighted else pl.col("weight").first()
    return (
        coded.with_columns(weight=weight)
        .filter(pl.col("user") != pl.col("other"))
        .group_by("user", "other")
        .agg(total.cast(pl.Float32))
        .sort("user", "other")
    )


def _day(us: int) -> str:
    return str(pl.Series([us]).cast(pl.Datetime("us")).dt.date()[0])


def sort_order(user: np.ndarray, time: np.ndarray | None, n_users: int) -> np.ndarray | None:
    """The stable order by (user, time) as int32 or int64 positions; None when the rows are sorted already."""
    if time is None:
        time = np.zeros(0, dtype=np.int64)
    user, time = read_only(user), read_only(time)
    if _is_sorted(user, time):
        return None
    order = np.empty(len(user), dtype=row_dtype(len(user)))
    starts = _count_sort(user, np.zeros(n_users + 1, dtype=np.int64), order)
    if len(time):
        _sort_segments(starts, order, time)
    return order


def row_dtype(n: int) -> type[np.integer[Any]]:
    """The smallest type of positions in n rows."""
    return np.int32 if n < 2**31 else np.int64


@kernel
def _is_sorted(user: np.ndarray, time: np.ndarray) -> bool:
    for row in range(1, len(user)):
        if user[row] < user[row - 1]:
            return False
        if len(time) and user[row] == user[row - 1] and time[row] < time[row - 1]:
            return False
    return True


@kernel
def _count_sort(user: np.ndarray, starts: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Rows by user, equal users in their own order; starts[u] becomes where user u begins."""
    for row in range(len(user)):
        starts[user[row] + 1] += 1
    for u in range(1, len(starts)):
        starts[u] += starts[u - 1]
    next_row = starts[:-1].copy()
    for row in range(len(user)):
        order[next_row[user[row]]] = row
        next_row[user[row]] += 1
    return starts


@kernel
def _sort_segments(starts: np.ndarray, order: np.ndarray, time: np.ndarray) -> None:
    """Within each user, rows by time; rows of equal time keep their order."""
    for u in range(len(starts) - 1):
        segment = order[starts[u] : starts[u + 1]]
        for position in range(1, len(segment)):
            if time[segment[position]] < time[segment[position - 1]]:
                segment[:] = segment[np.argsort(time[segment], kind="mergesort")].copy()
                break
