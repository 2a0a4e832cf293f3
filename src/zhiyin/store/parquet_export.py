"""A store as Parquet files, for other programs or another store; and such files taken in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from zhiyin.core.atomic_folders import whole_folder
from zhiyin.core.errors import DataError
from zhiyin.core.run import Advance, Run, log
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.shard_files import checked_shards
from zhiyin.store.event_log import EVENT_FRAME, MAX_EVENTS_PER_TRANSACTION
from zhiyin.store.forgetting import ForgottenUsers, increment_forget_count
from zhiyin.store.records import ADDED_EVENT_FIELDS, EVENT_FIELDS, Event, hash_of
from zhiyin.store.sqlalchemy_import import sa
from zhiyin.store.tables import (
    COLUMN_TYPES,
    DECISION_USERS,
    DECISIONS,
    EVENTS,
    FORGOTTEN,
    IMPRESSIONS,
    LINKS,
    LISTS,
    OPEN_DECISIONS,
    REPORTED_REWARDS,
    ROWS_PER_STATEMENT,
    VERSIONED_TABLES,
    number_lists,
)
from zhiyin.store.versioned_tables import VersionedTables

# Rows of one file; of lists, whose arrays take kilobytes each, fewer.
ROWS_PER_FILE, LISTS_PER_FILE = 100_000, 5_000
_FRAMES: dict[str, dict[str, Any]] = {
    "lists": {
        "list_id": pl.String, "user": pl.String, "time": pl.Int64, "version": pl.Int64, "placement": pl.String,
        "head": pl.String, "arrays": pl.Binary,
    },
    "impressions": {"list_id": pl.String, "time": pl.Int64, "items": pl.String},
    "open_decisions": {"list_id": pl.String, "placement": pl.String, "time": pl.Int64},
    "decisions": {
        "list_id": pl.String, "placement": pl.String, "time": pl.Int64, "version": pl.Int64, "mode": pl.String,
        "rewards": pl.String, "n_events": pl.Int64, "late": pl.Int64, "deadline": pl.Int64, "closed": pl.Int64,
    },
    "reported_rewards": {
        "list_id": pl.String, "slot": pl.String, "value": pl.Float64, "id": pl.String, "time": pl.Int64,
        "received": pl.Int64, "name": pl.String,
    },
    "decision_users": {"list_id": pl.String, "user": pl.String, "time": pl.Int64},
    "links": {"user": pl.String, "other": pl.String, "weight": pl.Float64, "received": pl.Int64},
    "forgotten": {"hash": pl.String, "received": pl.Int64},
}  # fmt: skip
# Closed decisions stand behind the rewards that they hold, and their users behind them: so they are loaded.
_TABLES_OF_LISTS = (IMPRESSIONS, REPORTED_REWARDS, OPEN_DECISIONS, DECISIONS, DECISION_USERS)


class ParquetExport(ForgottenUsers, VersionedTables):
    """Exports a store and loads exports."""

    def export(
        self,
        folder: str | Path,
        run: Run | None = None,
        *,
        shards: int | None = None,
        types: CatalogueSchema | None = None,
    ) -> Path:
        """Write everything as Parquet; whole or not at all.

        Files: events/, links/, lists/, impressions/, reported_rewards/, open_decisions/, decisions/ and
        decision_users/part-*.parquet; items, users, placements, catalogue_schema, experiments, policies and
        forgotten.parquet. What policies have learned is not among them: it is learned again from the decisions.

        Parameters
        ----------
        shards: split the events by user into this many shards below events/, with shards.json and shards/, which
            several processes can train on: `zhiyin.read_shards`.
        types: of columns of items and users that the settings declare; for shards.
        """
        if shards is not None:
            checked_shards(shards)
        with whole_folder(Path(folder)) as draft, (run or Run()).bar("Exporting", self.count()) as advance:
            for table in (EVENTS, LINKS, LISTS, *_TABLES_OF_LISTS):
                (draft / table.name).mkdir()
                if table is EVENTS and shards is not None:
                    self._export_shards(draft, shards, types, advance)
                    continue
                batches = self.event_batches(size=ROWS_PER_FILE) if table is EVENTS else self._batches(table)
                for number, batch in enumerate(batches):
                    batch.write_parquet(draft / table.name / f"part-{number:05}.parquet")
                    advance(len(batch) if table is EVENTS else 0, table.name)
            for name in VERSIONED_TABLES:
                newest, _ = self.changes_since(name)
                rows = [(key, json.dumps(values)) for key, values in newest.items() if values is not None]
                frame = pl.DataFrame(rows, schema={"id": pl.String, "columns": pl.String}, orient="row")
                frame.write_parquet(draft / f"{name}.parquet")
            forgotten = list(self.forgotten_by_hash().items())
            frame = pl.DataFrame(forgotten, schema=_FRAMES["forgotten"], orient="row")
            frame.write_parquet(draft / "forgotten.parquet")
        return Path(folder)

    def _export_shards(self, folder: Path, shards: int, types: CatalogueSchema | None, advance: Advance) -> None:
        from zhiyin.store.shard_export import export_shards  # which imports the whole of the store
        from zhiyin.store.store import Store

        assert isinstance(self, Store)
        export_shards(self, folder, shards, ROWS_PER_FILE, advance, types)

    def _batches(self, table: sa.Table) -> Iterator[pl.DataFrame]:
        """All rows of lists, or of a table that belongs to them, in the order of their primary key."""
        size = LISTS_PER_FILE if table is LISTS else ROWS_PER_FILE
        (key,) = table.primary_key.columns
        schema = _FRAMES[table.name]
        query, after = sa.select(*(table.c[name] for name in schema), key).order_by(key).limit(size), None
        while True:
            with self.reading() as connection:
                rows = connection.execute(query if after is None else query.where(key > after)).all()
            if not rows:
                return
            yield pl.DataFrame([row[:-1] for row in rows], schema=schema, orient="row")
            after = rows[-1][-1]

    def load(
        self,
        folder: str | Path,
        run: Run | None = None,
        catalogue: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
    ) -> int:
        """Take in what `export` wrote; what is stored already stays. Returns the number of new events.

        Left out are events of before their user was forgotten, here or there, closed decisions with rewards of such a
        user, and events that `append` would refuse, which a warning counts.

        Parameters
        ----------
        catalogue: columns of items and users by table and id, as their types have them, in place of those of the files.
        """
        folder = Path(folder)
        event_files = sorted((folder / "events").glob("**/part-*.parquet"))  # in shards or not
        if not event_files and not (folder / "items.parquet").is_file():
            raise DataError("this is no export of a store", file=folder, remedy="name the folder that was written")
        self._load_rows(folder / "forgotten.parquet", FORGOTTEN)
        forgotten = self.forgotten_by_hash()
        n_new = self._load_events(event_files, forgotten, run or Run())
        rewarded = _rewarded_by_forgotten(folder, forgotten)
        for table in (LINKS, LISTS, *_TABLES_OF_LISTS):
            for path in sorted((folder / table.name).glob("part-*.parquet")):
                self._load_rows(path, table, forgotten, rewarded)
        for name in VERSIONED_TABLES:
            checked = None if catalogue is None else catalogue.get(name)
            rows_by_id: Mapping[str, Any] = exported_rows(folder, name) if checked is None else checked
            if name == "users" and forgotten:
                rows_by_id = {user: values for user, values in rows_by_id.items() if hash_of(user) not in forgotten}
            write = self.patch if name == COLUMN_TYPES else self.put
            write(name, rows_by_id)
        return n_new

    def _load_events(self, files: list[Path], forgotten: Mapping[str, int], run: Run) -> int:
        n_new, n_refused, first_reason = 0, 0, ""
        with run.bar("Loading", len(files)) as advance:
            for path in files:
                frame = _without_forgotten(_read_exported(path, list(EVENT_FIELDS), ADDED_EVENT_FIELDS), forgotten)
                for part in frame.iter_slices(MAX_EVENTS_PER_TRANSACTION):
                    events, reason = _valid_events(part.select(EVENT_FIELDS), self.clock())
                    n_new += sum(seq > 0 for seq in self.append_validated(events))
                    n_refused += len(part) - len(events)
                    first_reason = first_reason or reason
                advance(1)
        if n_refused:
            log.warning("store: %s events were left out; the first: %s", f"{n_refused:,}", first_reason)
        return n_new

    def _load_rows(
        self,
        path: Path,
        table: sa.Table,
        forgotten: Mapping[str, int] | None = None,
        rewarded: frozenset[str] = frozenset(),
    ) -> None:
        """Insert the rows of a file that are not stored yet. rewarded: lists whose decisions are left out."""
        if not path.is_file():
            return
        frame = _read_exported(path, list(_FRAMES[table.name]))
        if table is LISTS:
            frame = _without_forgotten(frame, forgotten or {})
        elif table is LINKS:
            frame = _without_links_of_forgotten(frame, forgotten or {})
        elif table in (DECISIONS, DECISION_USERS) and rewarded:
            frame = frame.filter(~pl.col("list_id").is_in(list(rewarded)))
        for part in frame.iter_slices(ROWS_PER_STATEMENT):
            with self.writing() as connection:
                rows = part.to_dicts()
                if table in (OPEN_DECISIONS, DECISIONS, DECISION_USERS, REPORTED_REWARDS):
                    rows = _of_stored_lists(connection, table, rows)
                if rows:
                    connection.execute(self._insert(table).on_conflict_do_nothing(), rows)
                if table is LISTS and rows:
                    number_lists(connection, [row["list_id"] for row in rows])
                if table is FORGOTTEN:
                    increment_forget_count(connection)


def _of_stored_lists(connection: Any, table: sa.Table, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a table of decisions whose lists are stored; closed ones become no open ones."""
    ids = [row["list_id"] for row in rows]
    present = set(connection.execute(sa.select(LISTS.c.list_id).where(LISTS.c.list_id.in_(ids))).scalars())
    if table is OPEN_DECISIONS:
        present -= set(connection.execute(sa.select(DECISIONS.c.list_id).where(DECISIONS.c.list_id.in_(ids))).scalars())
    elif table is DECISION_USERS:
        present &= set(connection.execute(sa.select(DECISIONS.c.list_id).where(DECISIONS.c.list_id.in_(ids))).scalars())
    rows = [row for row in rows if row["list_id"] in present]
    if table is DECISIONS:  # what is loaded with them has numbers of this store
        for name, source in (("events_seq", EVENTS), ("rewards_seq", REPORTED_REWARDS)):
            last = connection.execute(sa.select(sa.func.coalesce(sa.func.max(source.c.seq), 0))).scalar_one()
            rows = [{**row, name: int(last)} for row in rows]
        connection.execute(sa.delete(OPEN_DECISIONS).where(OPEN_DECISIONS.c.list_id.in_(present)))
    return rows


def _rewarded_by_forgotten(folder: Path, forgotten: Mapping[str, int]) -> frozenset[str]:
    """Lists of an export whose decisions were closed with rewards of a user who was forgotten afterwards."""
    lists: set[str] = set()
    if forgotten:
        for path in sorted((folder / DECISION_USERS.name).glob("part-*.parquet")):
            frame = _read_exported(path, list(_FRAMES[DECISION_USERS.name]))
            remaining = _without_forgotten(frame, forgotten)
            lists.update(frame.join(remaining, on=["list_id", "user"], how="anti")["list_id"])
    return frozenset(lists)


def exported_rows(folder: Path, name: str) -> dict[str, Any]:
    """Columns by id of a table of an export, such as "items"; empty where it has no such file.

    Raises DataError where the file is cut off or damaged.
    """
    path = Path(folder) / f"{name}.parquet"
    if not path.is_file():
        return {}
    try:
        return {key: json.loads(value) for key, value in _read_exported(path, ["id", "columns"]).iter_rows()}
    except (ValueError, TypeError, RecursionError):
        raise DataError("the columns of a row are no JSON", file=path, remedy="export again") from None


def _read_exported(path: Path, names: list[str], added: Sequence[str] = ()) -> pl.DataFrame:
    """Columns of a file of an export. Raises DataError where it is cut off or damaged.

    added: fields of events that an older export lacks; they are null then.
    """
    try:
        present = pl.read_parquet_schema(path) if added else {}
        lacking = [name for name in added if name not in present]
        frame = pl.read_parquet(path, columns=[name for name in names if name not in lacking])
        return frame.with_columns(pl.lit(None, EVENT_FRAME[name]).alias(name) for name in lacking).select(names)
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"the file is cut off or damaged ({reason})", file=path, remedy="export again") from None


def _without_forgotten(frame: pl.DataFrame, forgotten: Mapping[str, int]) -> pl.DataFrame:
    """Rows (user, time, ...) but those of before their user was forgotten.

    forgotten: microseconds UTC by `hash_of` the user.
    """
    if not forgotten:
        return frame
    users = frame["user"].drop_nulls().unique()
    times = pl.DataFrame({"user": users, "forgotten_at": [forgotten.get(hash_of(user), -1) for user in users]})
    joined = frame.join(times, on="user", how="left", maintain_order="left")
    return joined.filter(pl.col("time") > pl.col("forgotten_at").fill_null(-1)).drop("forgotten_at")


def _without_links_of_forgotten(frame: pl.DataFrame, forgotten: Mapping[str, int]) -> pl.DataFrame:
    """Links but those of before one of the two users was forgotten; see `_without_forgotten`."""
    for name in ("user", "other"):
        renamed = {name: "user", "received": "time", "user": name} if name == "other" else {"received": "time"}
        rest = _without_forgotten(frame.rename(renamed), forgotten)
        frame = rest.rename({new: old for old, new in renamed.items()}).select(frame.columns)
    return frame


def _valid_events(frame: pl.DataFrame, now: int) -> tuple[list[Event], str]:
    """The events of rows (EVENT_FIELDS) that are valid, and why the first of the others is not."""
    events, reason = [], ""
    for row in frame.iter_rows():
        try:
            events.append(Event(*row).validated(now))
        except DataError as error:
            reason = reason or error.message
    return events, reason
