"""Reading shards: the whole log in one process, or in each of several its share of it, under the codes of all."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.core.run import Run, log
from zhiyin.data.column_roles import Roles
from zhiyin.data.dataset import Dataset, sort_order
from zhiyin.data.event_schema import NO_KIND, EventSchema
from zhiyin.data.histories import Histories
from zhiyin.data.ids import Ids
from zhiyin.data.process_group import ALONE, ProcessGroup
from zhiyin.data.shard_files import ShardManifest, read_part, read_tables
from zhiyin.data.time_policy import wall_clock

# Ids that are looked up at once by a binary search; events of one message to the first process.
IDS_PER_LOOKUP, EVENTS_PER_MESSAGE = 50_000, 1_000_000


class ShardedDataset(Dataset):
    """What one of several processes holds of a data set: the ids, columns and codes of all, the events of its shards.

    `events`, `histories` and `matrix` have the events of this process alone; users of others have no events there.
    `window`, `candidates` and `item_counts` are of all. Every process makes the same calls in the same order.
    """

    @classmethod
    def of(cls, part: Dataset, group: ProcessGroup, fingerprint: str) -> ShardedDataset:
        """The data set whose events in this process are those of `part`. Every process calls it."""
        data = cls.__new__(cls)
        vars(data).update({name: value for name, value in vars(part).items() if name not in _CACHED})
        data.group, data._fingerprint = group, fingerprint
        times = part.events["time"]
        own = [len(times), times.min() or 0, times.max() or 0] if len(times) else [0, 0, 0]
        sizes = np.stack(group.gather(np.array(own, dtype=np.int64)))
        filled = sizes[sizes[:, 0] > 0]
        data.n_all_events = int(sizes[:, 0].sum())
        timed = part.has_times and len(filled) > 0
        data._window = (int(filled[:, 1].min()), int(filled[:, 2].max())) if timed else (0, 0)
        return data

    n_all_events: int
    _window: tuple[int, int]
    _fingerprint: str

    @property
    def window(self) -> tuple[int, int]:
        """First and last moment of the whole log, microseconds UTC; (0, 0) without times."""
        return self._window

    @property
    def fingerprint(self) -> str:
        """A digest of ids, events and weights, the same in every process and for any number of processes above one."""
        return self._fingerprint

    def subset(self, mask: np.ndarray, *, candidates: np.ndarray | None = None) -> ShardedDataset:
        part = super().subset(mask, candidates=candidates)
        # Of the events of this process; data sets of processes are told apart by nothing else than their parent.
        own = hashlib.blake2b(np.packbits(mask).tobytes(), digest_size=16)
        own.update(self._fingerprint.encode())
        return ShardedDataset.of(part, self.group, own.hexdigest())

    def __repr__(self) -> str:
        return (
            f"Dataset({self.n_all_events:,} events, {self.n_events:,} of them in process {self.group.rank} "
            f"of {self.group.world}, {self.n_users:,} users, {self.n_items:,} items)"
        )


_CACHED = ("histories", "_matrices", "fingerprint")


def read_shards(
    folder: str | Path,
    *,
    weights: Mapping[str, float] | None = None,
    group: ProcessGroup = ALONE,
    now: int | None = None,
    run: Run | None = None,
) -> Dataset:
    """Read what `write_shards` or the export of a store wrote.

    One process gets the whole log, the `Dataset` that `zhiyin.read` makes of it. Of several processes each reads the
    shards rank, rank + world, ... and no file of another's, and gets a `ShardedDataset`.

    Parameters
    ----------
    weights: of events, as `zhiyin.read` takes them. None: those that were decided when the shards were written, else
        the usual ones.
    now: what the clock says, microseconds UTC; left out, the first process's. Later events, by more than a day, and
        events of before 1971 are left out.

    Raises DataError for files that are missing or damaged, and ConfigError for fewer shards than processes; where one
    process fails, all do.
    """
    folder, run = Path(folder), run or Run()
    if now is None:
        now = int(group.gather(np.array([wall_clock()], dtype=np.int64))[0][0])
    moment = now
    data, manifest, counts = group.together(lambda: _read(folder, weights, group, moment, run))
    if not (group.sum(counts.own) == counts.every).all():
        error = DataError(
            "the shards have other events than their table of items says", file=folder, remedy="write the shards again"
        )
        error.silent = group.rank > 0
        raise error
    if group.world == 1:
        return data
    events = json.dumps([data.schema.state(), manifest.digest], sort_keys=True)
    digest = hashlib.blake2b(events.encode(), digest_size=16)
    for ids in (data.user_ids, data.item_ids):
        digest.update(ids.values.hash(seed=7).to_numpy().tobytes())
    digest.update(np.packbits(data.candidates).tobytes())
    return ShardedDataset.of(data, group, digest.hexdigest())


class _ItemCounts:
    """Events of each item: those read by this process, and those of all shards; int64[n_items]."""

    def __init__(self, own: np.ndarray, every: np.ndarray) -> None:
        self.own, self.every = own, every


def _read(
    folder: Path, weights: Mapping[str, float] | None, group: ProcessGroup, now: int, run: Run
) -> tuple[Dataset, ShardManifest, _ItemCounts]:
    """The events of the shards of this process as a data set, under the codes of all."""
    manifest = ShardManifest.read(folder)
    n_shards = len(manifest.shards)
    if group.world > n_shards:
        raise ConfigError(
            f"{group.world} processes, but {n_shards} shards: some processes would have no events",
            remedy=f"at most {n_shards} processes, or write more shards: --shards {group.world}",
        )
    users, items, candidates, every = read_tables(folder)
    user_ids, item_ids = Ids(users["id"]), Ids(items["id"])
    kinds = list(manifest.kinds) or [NO_KIND]
    schema = manifest.schema
    if schema is None or weights is not None:
        schema = EventSchema.of(kinds, weights, "value" if manifest.has_values else None)
    columns: dict[str, list[pl.Series]] = {}
    n_refused = 0
    own = np.zeros(len(items), dtype=np.int64)
    shards = manifest.shards[group.rank :: group.world]
    parts = [part for shard in shards for part in shard.parts]
    with run.bar("Reading shards", sum(part.rows for part in parts)) as advance:
        for part in parts:
            rows = read_part(folder, part)
            coded = _coded(rows, user_ids, item_ids, kinds, folder / part.path)
            own += np.bincount(coded["item"].to_numpy(), minlength=len(items))
            weighed = "weight" in rows.columns and weights is None
            if not weighed:
                weight = schema.weights(coded["kind"], coded["value"], len(coded))
                coded = coded.with_columns(weight=pl.Series(weight, dtype=pl.Float32))
            if manifest.schema is None and manifest.has_times:  # else they were checked when they were read first
                accepted = coded["time"].is_between(schema.times.earliest, schema.times.latest(now))
                n_refused += len(coded) - int(accepted.sum())
                coded = coded.filter(accepted)
            for column in coded:
                columns.setdefault(column.name, []).append(column)
            advance(part.rows)
    if n_refused:
        log.warning("shards: %s events are left out, whose times are no moments of the past", f"{n_refused:,}")
    events, stored = _sorted(columns, kinds, len(users), manifest.has_times)
    if manifest.position is not None and stored is None:
        stored = np.ones(len(events), dtype=bool)  # an export of a store
    data = Dataset(
        events,
        users,
        items,
        has_times=manifest.has_times,
        candidates=candidates,
        roles=Roles(
            "user", "item", "time" if manifest.has_times else None, "value" if manifest.has_values else None, "kind"
        ),
        schema=schema,
        position=manifest.position,
        stored=stored,
        types=manifest.types,
    )
    return data, manifest, _ItemCounts(own, every)


def _coded(rows: pl.DataFrame, users: Ids, items: Ids, kinds: list[str], path: Path) -> pl.DataFrame:
    """Rows of a part with codes for ids and kinds; `stored` where the part has it."""
    try:
        columns: dict[str, Any] = {
            "user": _codes(rows["user"], users),
            "item": _codes(rows["item"], items),
            "time": rows["time"].cast(pl.Int64),
            "kind": rows["kind"].cast(pl.Enum(kinds)),
            "value": rows["value"].cast(pl.Float32),
        }
    except pl.exceptions.PolarsError as error:
        raise DataError(f"the part has no events as expected ({error})", file=path) from None
    if min(columns["user"].min(initial=0), columns["item"].min(initial=0)) < 0:
        raise DataError("the part has ids that the tables lack", file=path, remedy="write the shards again")
    coded = pl.DataFrame(columns)
    return coded.with_columns(rows[name] for name in ("weight", "stored") if name in rows.columns)


def _codes(raw: pl.Series, ids: Ids) -> np.ndarray:
    """int32[n]: codes of raw ids, each distinct one looked up once."""
    distinct = raw.unique()
    codes = [ids.encode(distinct[at : at + IDS_PER_LOOKUP]) for at in range(0, len(distinct), IDS_PER_LOOKUP)]
    known = pl.DataFrame({"id": distinct, "code": np.concatenate([np.zeros(0, np.int32), *codes])})
    joined = pl.DataFrame({"id": raw}).join(known, on="id", how="left", maintain_order="left")
    return joined["code"].fill_null(-1).to_numpy()


def _sorted(
    columns: dict[str, list[pl.Series]], kinds: list[str], n_users: int, has_times: bool
) -> tuple[pl.DataFrame, np.ndarray | None]:
    """Events of `Dataset` sorted by (user, time), and `stored` where the parts have it. Takes `columns` apart."""
    empty: dict[str, Any] = {
        "user": pl.Int32, "item": pl.Int32, "time": pl.Int64, "kind": pl.Enum(kinds), "value": pl.Float32,
        "weight": pl.Float32,
    }  # fmt: skip
    whole = {name: pl.concat(columns.pop(name), rechunk=True) for name in list(columns)}
    if not whole:
        return pl.DataFrame(schema=empty), None
    times = whole["time"].to_numpy() if has_times else None
    order = sort_order(whole["user"].to_numpy(), times, n_users)
    if order is not None:
        for name in whole:
            whole[name] = whole[name].gather(order)
    stored = whole.pop("stored").to_numpy() if "stored" in whole else None
    return pl.DataFrame([whole[name].cast(dtype).alias(name) for name, dtype in empty.items()]), stored


def gathered_histories(data: Dataset) -> tuple[Histories, np.ndarray | None]:
    """The histories of all users and `Dataset.stored`, in the first process; in another those of its own users.

    Where several processes hold them, those of others are written to temporary files, which the arrays map: no process
    holds more than its own events and some messages. Every process calls it.
    """
    group, own = data.group, data.histories
    if group.world == 1:
        return own, data.stored
    lengths = group.sum(own.lengths)
    starts = np.cumsum(lengths) - lengths
    n_all, n_own = int(lengths.sum()), len(own.items)
    arrays = {name: getattr(own, name) for name in ("items", "weights", "times", "kinds", "values")}
    if data.stored is not None:
        arrays["stored"] = data.stored
    user = data.events["user"].to_numpy()
    whole = {name: _mapped(array.dtype, n_all if group.rank == 0 else 0) for name, array in arrays.items()}
    n_messages = max(-(-int(sizes[0]) // EVENTS_PER_MESSAGE) for sizes in group.gather(np.array([n_own])))
    for number in range(n_messages):
        rows = slice(number * EVENTS_PER_MESSAGE, (number + 1) * EVENTS_PER_MESSAGE)
        shift = (starts - own.offsets[:-1])[user[rows]]
        places = group.gather_first(shift + np.arange(rows.start, rows.start + len(shift)))
        for name, array in arrays.items():
            for at, values in zip(places, group.gather_first(np.ascontiguousarray(array[rows]))):
                whole[name][at] = values
    if group.rank > 0:
        return own, data.stored
    histories = Histories(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        whole["items"],
        whole["weights"],
        whole["times"],
        whole["kinds"],
        whole["values"],
        own.now,
        own.users,
        own.features,
    )
    return histories, whole.get("stored")


def _mapped(dtype: np.dtype, n: int) -> np.ndarray:
    """An array of zeros in a temporary file, which goes with the array."""
    if n == 0:
        return np.zeros(0, dtype=dtype)
    with tempfile.TemporaryFile() as file:
        return np.asarray(np.memmap(file, dtype=dtype, mode="w+", shape=(n,)))
