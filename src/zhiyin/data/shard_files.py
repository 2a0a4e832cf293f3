"""Shards of a log: its events split by user into folders, so that each of several processes reads its own alone.

    shards.json                                          the manifest: shards, parts with rows and digest, kinds
    shards/users.arrow, shards/items.arrow               ids, sorted, with their columns: row = code
    shards/candidates.npy, shards/item_counts.npy        bool[n_items], int64[n_items]: events of each item
    events/shard-00000-of-00004/part-00000.parquet       user, item, time, kind, value and more, as raw ids

The shard of a user is `hash_texts(id) % n_shards`. Within a shard the events of a user keep the order of the log. Codes
need no events to agree on: they are rows of the two tables. An optional column `weight` holds weights that were decided
already, with their schema in the manifest; else events are weighed when they are read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from zhiyin.core.atomic_files import draft_path
from zhiyin.core.atomic_folders import whole_folder
from zhiyin.core.errors import ConfigError, DataError
from zhiyin.core.hashing import hash_texts
from zhiyin.core.parallel import read_only
from zhiyin.core.params import whole_number
from zhiyin.core.run import Run
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.dataset import Dataset
from zhiyin.data.event_schema import EventSchema, StorePosition

FORMAT = 1
MANIFEST, TABLES = "shards.json", "shards"
MAX_SHARDS = 4096
# Rows of one part; rows of all shards that wait for their part to be full.
ROWS_PER_PART, MAX_PENDING_ROWS = 100_000, 4_000_000


@dataclasses.dataclass(frozen=True)
class Part:
    """A file of events: its path below the folder, its rows, and the digest of its bytes."""

    path: str
    rows: int
    digest: str


@dataclasses.dataclass(frozen=True)
class Shard:
    """The events of a share of the users: how many users have events in it, and its parts in order."""

    users: int
    parts: tuple[Part, ...]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)


@dataclasses.dataclass(frozen=True)
class ShardManifest:
    """What is known of a log in shards without reading its events.

    Parameters
    ----------
    kinds: of the events, sorted.
    has_times: whether the events have times of their own.
    has_values: whether an event has a value.
    types: of the columns of items and users.
    schema: what gave the column `weight`; None where events are weighed when they are read.
    position: how much of a store the events are; None where they are of no store.
    """

    shards: tuple[Shard, ...]
    kinds: tuple[str, ...]
    has_times: bool
    has_values: bool
    types: CatalogueSchema = dataclasses.field(default_factory=CatalogueSchema)
    schema: EventSchema | None = None
    position: StorePosition | None = None

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def digest(self) -> str:
        """A digest of all events."""
        digest = hashlib.blake2b(digest_size=16)
        for shard in self.shards:
            for part in shard.parts:
                digest.update(part.digest.encode())
            digest.update(b"\n")
        return digest.hexdigest()

    def write(self, folder: Path) -> None:
        state = {
            "format": FORMAT,
            "rows": self.rows,
            "shards": [
                {"users": shard.users, "rows": shard.rows, "parts": [list(dataclasses.astuple(p)) for p in shard.parts]}
                for shard in self.shards
            ],
            "kinds": list(self.kinds),
            "has_times": self.has_times,
            "has_values": self.has_values,
            "types": self.types.state(),
            "schema": None if self.schema is None else self.schema.state(),
            "position": None if self.position is None else dataclasses.asdict(self.position),
        }
        (folder / MANIFEST).write_text(json.dumps(state, ensure_ascii=False, indent=1) + "\n", "utf-8")

    @classmethod
    def read(cls, folder: Path) -> ShardManifest:
        """The manifest of a folder. Raises DataError where there is none, or it is damaged."""
        path = folder / MANIFEST
        if not path.is_file():
            raise DataError(
                "this folder holds no shards", file=folder,
                remedy="write them: zhiyin store export FOLDER --shards 8, or zhiyin data shards FOLDER --shards 8",
            )  # fmt: skip
        try:
            state = json.loads(path.read_text("utf-8"))
            if state["format"] != FORMAT:
                raise ValueError(f"format {state['format']} is not known")
            schema, position = state["schema"], state["position"]
            return cls(
                tuple(Shard(one["users"], tuple(Part(*part) for part in one["parts"])) for one in state["shards"]),
                tuple(state["kinds"]),
                bool(state["has_times"]),
                bool(state["has_values"]),
                CatalogueSchema.from_state(state["types"]),
                None if schema is None else EventSchema.from_state(schema),
                None if position is None else StorePosition(**position),
            )
        except (ConfigError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"the manifest is damaged ({error})", file=path, remedy="write the shards again") from None


def shard_numbers(ids: pl.Series, n_shards: int) -> np.ndarray:
    """int32[n]: the shard of each user, by a hash of the id as a text, the same on every machine and version."""
    texts = ids.cast(pl.String)
    offsets = np.concatenate([[0], np.cumsum(texts.str.len_bytes().to_numpy())]).astype(np.int64)
    data = np.frombuffer((texts.str.join("")[0] or "").encode(), dtype=np.uint8)
    hashes = hash_texts(read_only(data), read_only(offsets))
    return (hashes % np.uint64(n_shards)).astype(np.int32)


def shard_folder(shard: int, n_shards: int) -> str:
    """Path of the parts of a shard, below the folder of the shards."""
    return f"events/shard-{shard:05}-of-{n_shards:05}"


def write_part(folder: Path, path: str, events: pl.DataFrame) -> Part:
    """Write a part of a shard, under another name first: a task that is run twice leaves no part of a file."""
    content = io.BytesIO()
    events.write_parquet(content)
    data = content.getbuffer()
    draft = draft_path(folder / path)
    draft.write_bytes(data)
    os.replace(draft, folder / path)
    return Part(path, len(events), hashlib.blake2b(data, digest_size=16).hexdigest())


class ShardWriter:
    """Writes rows of events, in the order of the log, into the shards of their users.

    At most MAX_PENDING_ROWS rows are held, and the ids of users and items with their numbers of events.

    Parameters
    ----------
    folder: where `events/` is made.
    """

    def __init__(self, folder: Path, n_shards: int, rows_per_part: int = ROWS_PER_PART) -> None:
        self.folder, self.n_shards, self.rows_per_part = folder, checked_shards(n_shards), rows_per_part
        for shard in range(n_shards):
            (folder / shard_folder(shard, n_shards)).mkdir(parents=True)
        self.users, self.items, self.kinds = _Counts(), _Counts(), _Counts()
        self.has_values = False
        self._pending: list[list[pl.DataFrame]] = [[] for _ in range(n_shards)]
        self._n_pending = np.zeros(n_shards, dtype=np.int64)
        self._parts: list[list[Part]] = [[] for _ in range(n_shards)]

    def append(self, events: pl.DataFrame) -> None:
        """events: `user`, `item` (raw ids), `kind`, `value` and further columns, the same in every call."""
        for counts, name in ((self.users, "user"), (self.items, "item"), (self.kinds, "kind")):
            counts.add(events[name])
        self.has_values |= events["value"].null_count() < len(events)
        for shard, rows in rows_by_shard(shard_numbers(events["user"], self.n_shards)):
            self._pending[shard].append(events[rows])  # a copy: a slice would keep all of the batch
            self._n_pending[shard] += len(rows)
            if self._n_pending[shard] >= self.rows_per_part:
                self._flush(shard)
        while self._n_pending.sum() > MAX_PENDING_ROWS:
            self._flush(int(np.argmax(self._n_pending)))

    def finish(self) -> tuple[Shard, ...]:
        """Write what is pending. Returns the shards."""
        for shard in np.flatnonzero(self._n_pending).tolist():
            self._flush(shard)
        users = np.bincount(shard_numbers(self.users.frame()["id"], self.n_shards), minlength=self.n_shards)
        return tuple(Shard(int(n), tuple(parts)) for n, parts in zip(users, self._parts))

    def without(self, shards: Sequence[Shard], users: Sequence[str]) -> tuple[Shard, ...]:
        """Remove users from shards that were finished, and their events from the numbers of items."""
        gone, rewritten = pl.Series("id", users, dtype=pl.String), list(shards)
        places = shard_numbers(gone, self.n_shards)
        for shard, rows in rows_by_shard(places):
            parts = []
            for part in shards[shard].parts:
                events = pl.read_parquet(self.folder / part.path)
                is_gone = events["user"].is_in(gone.implode())
                self.items.add(events["item"].filter(is_gone), -1)
                parts.append(write_part(self.folder, part.path, events.filter(~is_gone)))
            n_gone = int(self.users.frame()["id"].is_in(gone[rows].implode()).sum())
            rewritten[shard] = Shard(shards[shard].users - n_gone, tuple(parts))
        return tuple(rewritten)

    def _flush(self, shard: int) -> None:
        path = f"{shard_folder(shard, self.n_shards)}/part-{len(self._parts[shard]):05}.parquet"
        self._parts[shard].append(write_part(self.folder, path, pl.concat(self._pending[shard])))
        self._pending[shard], self._n_pending[shard] = [], 0


def rows_by_shard(shards: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(shard, its rows in order) of the shards that rows belong to."""
    order = np.argsort(shards, kind="stable")
    numbers, starts = np.unique(shards[order], return_index=True)
    yield from zip(numbers.tolist(), np.split(order, starts[1:]))


class _Counts:
    """How often each id occurs in columns that are added one after another; memory is linear in the ids."""

    def __init__(self) -> None:
        self._total: pl.DataFrame | None = None
        self._added: list[pl.DataFrame] = []
        self._n_added = 0

    def add(self, ids: pl.Series, times: int = 1) -> None:
        """Add `times` for each of the ids."""
        rows = pl.DataFrame({"id": ids, "n": pl.repeat(times, len(ids), dtype=pl.Int64, eager=True)})
        self._added.append(_counted(rows))
        self._n_added += len(self._added[-1])
        if self._n_added > max(1_000_000, 0 if self._total is None else len(self._total)):
            self.frame()

    def frame(self) -> pl.DataFrame:
        """Frame `id`, `n`."""
        if self._added:
            self._total = _counted(pl.concat(([] if self._total is None else [self._total]) + self._added))
            self._added, self._n_added = [], 0
        return pl.DataFrame(schema={"id": pl.String, "n": pl.Int64}) if self._total is None else self._total


def _counted(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.group_by("id").agg(pl.col("n").sum())


def write_tables(
    folder: Path, users: pl.DataFrame, items: pl.DataFrame, candidates: np.ndarray, item_counts: np.ndarray
) -> None:
    """Write the tables that codes are rows of.

    Parameters
    ----------
    users, items: `id`, sorted, and what describes them.
    candidates: bool[n_items]. item_counts: int64[n_items], events of each item.
    """
    tables = folder / TABLES
    tables.mkdir()
    for name, frame in (("users", users), ("items", items)):
        frame.rechunk().write_ipc(tables / f"{name}.arrow", compression="uncompressed")  # so that reading maps it
    np.save(tables / "candidates.npy", candidates, allow_pickle=False)
    np.save(tables / "item_counts.npy", item_counts.astype(np.int64), allow_pickle=False)


def write_shards(data: Dataset, folder: str | Path, n_shards: int, run: Run | None = None) -> Path:
    """Write a data set as shards, whole or not at all; an older folder is replaced. Links are left out.

    Parameters
    ----------
    n_shards: at least as many as processes will train; users are spread evenly by a hash.
    """
    folder, n_shards = Path(folder), checked_shards(n_shards)
    refuse_foreign(folder)
    with whole_folder(folder) as draft, (run or Run()).bar("Writing shards", data.n_events) as advance:
        writer = ShardWriter(draft, n_shards)
        for start in range(0, data.n_events, ROWS_PER_PART):
            stored = stored_events(data)
            rows = with_raw_ids(data.events[start : start + ROWS_PER_PART], data.user_ids.values, data.item_ids.values)
            if stored is not None:
                rows = rows.with_columns(stored=pl.Series(stored[start : start + ROWS_PER_PART]))
            writer.append(rows)
            advance(len(rows))
        finish_folder(draft, data, writer.finish())
    return folder


def stored_events(data: Dataset) -> np.ndarray | None:
    """`Dataset.stored` where the position in the store, which gives it a meaning, is known."""
    return None if data.position is None else data.stored


def finish_folder(folder: Path, data: Dataset, shards: Sequence[Shard]) -> None:
    """Write tables and manifest beside shards that hold all events of a data set."""
    write_tables(folder, data.users, data.items, data.candidates, data.item_counts())
    has_values = data.events["value"].null_count() < data.n_events
    ShardManifest(
        tuple(shards), tuple(data.kinds), data.has_times, has_values, data.types, data.schema, data.position
    ).write(folder)  # fmt: skip


def with_raw_ids(events: pl.DataFrame, users: pl.Series, items: pl.Series) -> pl.DataFrame:
    """Rows of `Dataset.events` with ids for codes and texts for kinds, as a part holds them."""
    return events.with_columns(
        user=users.gather(events["user"]), item=items.gather(events["item"]), kind=events["kind"].cast(pl.String)
    )


def checked_shards(n_shards: int) -> int:
    """A number of shards. Raises ConfigError where it is out of range."""
    return whole_number(n_shards, "shards", at_least=1, at_most=MAX_SHARDS)


def refuse_foreign(folder: Path) -> None:
    """Raise DataError where a folder holds something that is no shards."""
    if folder.exists() and not (folder / MANIFEST).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise DataError("the folder holds something that is no shards", file=folder, remedy="name another folder")


def read_tables(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame, np.ndarray, np.ndarray]:
    """What `write_tables` wrote; the ids are mapped, and shared by the processes of a machine.

    Raises DataError where a file is missing or damaged.
    """
    tables = folder / TABLES
    try:
        users, items = (pl.read_ipc(tables / f"{name}.arrow") for name in ("users", "items"))
        candidates, counts = (np.load(tables / f"{name}.npy", allow_pickle=False) for name in _ITEM_ARRAYS)
        if not len(candidates) == len(counts) == len(items):
            raise ValueError("arrays of items are of another length than their table")
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise DataError(f"a table is damaged ({error})", file=tables, remedy="write the shards again") from None
    return users, items, candidates, counts


_ITEM_ARRAYS = ("candidates", "item_counts")


def read_part(folder: Path, part: Part) -> pl.DataFrame:
    """Columns of a part that training needs. Raises DataError where it is missing, cut off or of another export."""
    path = folder / part.path
    try:
        present = pl.read_parquet_schema(path)
        events = pl.read_parquet(path, columns=[name for name in _COLUMNS if name in present])
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"a part cannot be read ({reason})", file=path, remedy="write the shards again") from None
    if len(events) != part.rows:
        raise DataError(
            f"the part has {len(events):,} rows, its manifest says {part.rows:,}", file=path,
            remedy="write the shards again",
        )  # fmt: skip
    return events


_COLUMNS: tuple[str, ...] = ("user", "item", "time", "kind", "value", "weight", "stored")
