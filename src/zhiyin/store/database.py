"""The store: one database, SQLite by default, PostgreSQL by address; what is committed is never lost.

    store = Store("sqlite:///shop.db")        # or "postgresql://user:...@host/shop"
    store.append([Event("alice", "film 7", now)])
    store.history("alice", 100)

Events are only ever added. Items and users have versions: each change is a row of its own, the newest counts. Any
number of threads and processes may use one database.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from zhiyin.core.errors import ConfigError, DataError, MissingExtraError
from zhiyin.core.folders import whole_folder
from zhiyin.core.run import log
from zhiyin.store.records import ID, Event, columns, text

try:
    import sqlalchemy as sa
    from sqlalchemy.dialects import postgresql, sqlite
except ImportError:
    raise MissingExtraError("sqlalchemy", "serve", "the store") from None

# Events of one transaction at most, and rows of one statement.
BATCH, ROWS = 10_000, 500
# Seconds that a writer waits for another one of the same SQLite file.
PATIENCE = 10.0

_meta = sa.MetaData()
EVENTS = sa.Table(
    "events",
    _meta,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(ID), nullable=False, unique=True),
    sa.Column("user", sa.String(ID), nullable=False),
    sa.Column("item", sa.String(ID), nullable=False),
    sa.Column("time", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("value", sa.Float),
    sa.Column("list_id", sa.String(ID)),
    sa.Column("received", sa.BigInteger, nullable=False),
    sa.Index("events_user_time", "user", "time"),
)
THINGS = {
    name: sa.Table(
        name,
        _meta,
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(ID), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("columns", sa.Text),  # JSON; NULL: deleted
        sa.Column("received", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("id", "version"),
    )
    for name in ("items", "users")
}
_META = sa.Table("meta", _meta, sa.Column("key", sa.String(64), primary_key=True), sa.Column("value", sa.Text))
# Who was forgotten, as hashes: a version that had learned of them must not remember. `received`: when.
_FORGOTTEN = sa.Table(
    "forgotten", _meta, sa.Column("hash", sa.String(64), primary_key=True), sa.Column("received", sa.BigInteger)
)
FORMAT = "1"
_SCHEMA = {
    "seq": pl.Int64, "id": pl.String, "user": pl.String, "item": pl.String, "time": pl.Int64, "kind": pl.String,
    "value": pl.Float64, "list_id": pl.String, "received": pl.Int64,
}  # fmt: skip


class Store:
    """Events, items and users in one database. Raises ConfigError for an address that cannot be opened.

    Parameters
    ----------
    address: "sqlite:///path" or a path, or "postgresql://...". Tables are made where they are missing.
    """

    def __init__(self, address: str | Path) -> None:
        address = str(address)
        if "://" not in address:
            address = f"sqlite:///{address}"
        if address.startswith("postgresql://"):
            address = address.replace("postgresql://", "postgresql+psycopg://", 1)
        try:
            self._url = sa.make_url(address)
            dialect = self._url.get_backend_name()
        except sa.exc.SQLAlchemyError:
            raise ConfigError(
                "the store's address cannot be read", remedy="sqlite:///shop.db or postgresql://…"
            ) from None
        if dialect not in ("sqlite", "postgresql"):
            raise ConfigError(f"there is no store for {dialect}", remedy="sqlite:///shop.db or postgresql://…")
        self.dialect = dialect
        if dialect == "sqlite":
            if self._url.database in (None, "", ":memory:"):
                raise ConfigError("a store in memory would lose events", remedy="name a file: sqlite:///shop.db")
            Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
            self._engine = sa.create_engine(self._url, connect_args={"timeout": PATIENCE})
            sa.event.listen(self._engine, "connect", _durable)
            sa.event.listen(self._engine, "begin", _begin)
        else:
            self._engine = sa.create_engine(self._url, pool_pre_ping=True, pool_size=8, max_overflow=8)
        self._reader = self._engine.execution_options(writes=False)
        self._insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
        try:
            _meta.create_all(self._engine)
            with self._engine.begin() as link:
                made = self._insert(_META).values(key="format", value=FORMAT).on_conflict_do_nothing()
                link.execute(made)
                found = link.execute(sa.select(_META.c.value).where(_META.c.key == "format")).scalar_one()
        except sa.exc.DBAPIError as error:
            raise ConfigError(
                f"the store cannot be opened: {_reason(error)}", file=self._url.render_as_string(hide_password=True),
                remedy="check the address, its rights, and whether the database runs",
            ) from None  # fmt: skip
        if found != FORMAT:
            raise ConfigError(
                f"the store is of format {found}, not {FORMAT}", file=self._url.render_as_string(hide_password=True),
                remedy="use the version of zhiyin that wrote it",
            )  # fmt: skip

    def close(self) -> None:
        """Let the connections go."""
        self._engine.dispose()

    def __repr__(self) -> str:
        return f"Store({self._url.render_as_string(hide_password=True)!r})"

    # -- events -----------------------------------------------------------------------------------------------------

    def append(self, events: Sequence[Event]) -> list[bool]:
        """Keep events, all in one transaction; committed when this returns. Of each: whether it is new.

        An event whose id is known already is not kept again. Raises DataError for one that cannot be, and keeps none.
        """
        if len(events) > BATCH:
            raise DataError(f"{len(events):,} events at once", remedy=f"at most {BATCH:,}")
        return self.keep([event.checked() for event in events])

    def keep(self, rows: Sequence[Event]) -> list[bool]:
        """As `append`, for events that `Event.checked` gave."""
        now = time.time_ns() // 1000
        first: dict[str, int] = {}
        for at, event in enumerate(rows):
            first.setdefault(event.id, at)
        new: set[str] = set()
        names = ("id", "user", "item", "time", "kind", "value", "list_id")
        once = [rows[at] for at in first.values()]
        with self._engine.begin() as link:
            for start in range(0, len(once), ROWS):
                values = [{name: getattr(e, name) for name in names} | {"received": now}
                          for e in once[start : start + ROWS]]  # fmt: skip
                kept = self._insert(EVENTS).values(values).on_conflict_do_nothing(index_elements=["id"])
                new.update(link.execute(kept.returning(EVENTS.c.id)).scalars())
        return [event.id in new and first[event.id] == at for at, event in enumerate(rows)]

    def history(self, user: str, most: int = 1_000) -> list[Event]:
        """The newest events of a user, oldest first."""
        newest = sa.select(EVENTS).where(EVENTS.c.user == user).order_by(EVENTS.c.time.desc(), EVENTS.c.seq.desc())
        with self._reader.connect() as link:
            rows = link.execute(newest.limit(most)).mappings().all()
        return [_event(row) for row in reversed(rows)]

    def events(self, after: int = 0, most: int = 100_000) -> pl.DataFrame:
        """Events in the order they came, from the one after a `seq` on: a frame with all columns of the table."""
        asked = sa.select(EVENTS).where(EVENTS.c.seq > after).order_by(EVENTS.c.seq).limit(most)
        with self._reader.connect() as link:
            return pl.DataFrame(link.execute(asked).all(), schema=_SCHEMA, orient="row")

    def parts(self, after: int = 0, size: int = 100_000) -> Iterator[pl.DataFrame]:
        """All events after a `seq`, a frame of at most `size` at a time."""
        while len(part := self.events(after, size)):
            yield part
            after = int(part["seq"][-1])

    @property
    def last(self) -> int:
        """`seq` of the last event; 0 where there is none."""
        with self._reader.connect() as link:
            return int(link.execute(sa.select(sa.func.coalesce(sa.func.max(EVENTS.c.seq), 0))).scalar_one())

    def count(self) -> int:
        """How many events there are."""
        with self._reader.connect() as link:
            return int(link.execute(sa.select(sa.func.count()).select_from(EVENTS)).scalar_one())

    def drop_before(self, moment: int) -> int:
        """Retention: forget events from before a moment, microseconds UTC. Returns how many there were."""
        gone = 0
        while True:
            some = sa.select(EVENTS.c.seq).where(EVENTS.c.time < moment).limit(BATCH)
            with self._engine.begin() as link:
                found = link.execute(sa.delete(EVENTS).where(EVENTS.c.seq.in_(some))).rowcount
            gone += found
            if not found:
                return gone

    # -- items and users --------------------------------------------------------------------------------------------

    def put(self, table: str, things: Mapping[str, Mapping[str, Any] | None]) -> dict[str, int]:
        """Write versions of items or users: columns by id, None to delete. Returns the new version of each.

        What is the same as the newest version is not written again. Raises DataError for columns that cannot be.
        """
        of = _table(table)
        texts = {text(key, "id", ID): None if value is None else _json(value) for key, value in things.items()}
        now, versions = time.time_ns() // 1000, {}
        keys = list(texts)
        with self._engine.begin() as link:
            for start in range(0, len(keys), ROWS):
                part = keys[start : start + ROWS]
                known = {row.id: row for row in link.execute(self._newest(of, part))}
                rows = []
                for key in part:
                    old = known.get(key)
                    if (old is not None and old.columns == texts[key]) or (old is None and texts[key] is None):
                        versions[key] = old.version if old is not None else 0
                        continue
                    versions[key] = 1 if old is None else old.version + 1
                    rows.append({"id": key, "version": versions[key], "columns": texts[key], "received": now})
                if rows:
                    link.execute(sa.insert(of), rows)
        return versions

    def get(self, table: str, key: str) -> tuple[dict[str, Any], int] | None:
        """Columns of an item or user and their version; None for one unknown or deleted."""
        with self._reader.connect() as link:
            row = link.execute(self._newest(_table(table), [key])).first()
        return None if row is None or row.columns is None else (json.loads(row.columns), int(row.version))

    def all(self, table: str, after: int = 0) -> tuple[dict[str, dict[str, Any] | None], int]:
        """Newest columns of every item or user that changed after a `seq` (None: deleted), and the last `seq`."""
        of = _table(table)
        asked = sa.select(of.c.seq, of.c.id, of.c.columns).where(of.c.seq > after).order_by(of.c.seq)
        found: dict[str, dict[str, Any] | None] = {}
        with self._reader.connect() as link:
            for seq, key, said in link.execute(asked):
                found[key] = None if said is None else json.loads(said)
                after = int(seq)
        return found, after

    @staticmethod
    def _newest(of: sa.Table, keys: list[str]) -> Any:
        newest = sa.func.max(of.c.version).label("version")
        last = sa.select(of.c.id, newest).where(of.c.id.in_(keys)).group_by(of.c.id).subquery()
        return sa.select(of).join(last, (of.c.id == last.c.id) & (of.c.version == last.c.version))

    # -- whole ------------------------------------------------------------------------------------------------------

    def forget(self, user: str) -> dict[str, int]:
        """Remove all of a user. Returns the proof: what was removed, and what a search still finds (0 of each)."""
        of = THINGS["users"]
        with self._engine.begin() as link:
            events = link.execute(sa.delete(EVENTS).where(EVENTS.c.user == user)).rowcount
            versions = link.execute(sa.delete(of).where(of.c.id == user)).rowcount
            link.execute(sa.delete(_FORGOTTEN).where(_FORGOTTEN.c.hash == _hash(user)))
            link.execute(sa.insert(_FORGOTTEN).values(hash=_hash(user), received=time.time_ns() // 1000))
        if self.dialect == "sqlite":
            # What was overwritten must not live on in the journal; a reader of the old state is waited for.
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as link:
                busy = link.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").first()
            if busy is not None and busy[0]:
                log.warning("store: readers hold the journal; what was forgotten leaves it with the next checkpoint")
        with self._reader.connect() as link:
            left = sa.select(sa.func.count())
            events_left = link.execute(left.select_from(EVENTS).where(EVENTS.c.user == user)).scalar_one()
            versions_left = link.execute(left.select_from(of).where(of.c.id == user)).scalar_one()
        return {
            "events removed": events, "versions removed": versions,
            "events found": int(events_left), "versions found": int(versions_left),
        }  # fmt: skip

    def forgotten(self, user: str) -> int:
        """When a user was forgotten last, microseconds UTC; 0: never."""
        asked = sa.select(_FORGOTTEN.c.received).where(_FORGOTTEN.c.hash == _hash(user))
        with self._reader.connect() as link:
            return int(link.execute(asked).scalar() or 0)

    def export(self, folder: str | Path) -> Path:
        """Write everything as Parquet: events/part-*.parquet, items.parquet, users.parquet; whole or not at all."""
        with whole_folder(Path(folder)) as draft:
            (draft / "events").mkdir()
            for number, part in enumerate(self.parts()):
                part.write_parquet(draft / "events" / f"part-{number:05}.parquet")
            for name in THINGS:
                found, _ = self.all(name)
                rows = [(key, json.dumps(value)) for key, value in found.items() if value is not None]
                frame = pl.DataFrame(rows, schema={"id": pl.String, "columns": pl.String}, orient="row")
                frame.write_parquet(draft / f"{name}.parquet")
        return Path(folder)

    def load(self, folder: str | Path) -> int:
        """Take in what `export` wrote; what is known already stays. Returns the number of new events."""
        folder, new = Path(folder), 0
        parts = sorted((folder / "events").glob("part-*.parquet"))
        if not parts and not (folder / "items.parquet").is_file():
            raise DataError("this is no export of a store", file=folder, remedy="name the folder that was written")
        names = ("user", "item", "time", "kind", "value", "id", "list_id")
        for path in parts:
            frame = pl.read_parquet(path, columns=list(names))
            for part in frame.iter_slices(BATCH):
                new += sum(self.append([Event(*row) for row in part.select(names).iter_rows()]))
        for name in THINGS:
            if (folder / f"{name}.parquet").is_file():
                frame = pl.read_parquet(folder / f"{name}.parquet")
                self.put(name, {key: json.loads(said) for key, said in frame.iter_rows()})
        return new

    def backup(self, path: str | Path) -> Path:
        """A copy of the SQLite file while it is in use; open it as any other. PostgreSQL has pg_dump for this."""
        path = Path(path)
        if self.dialect != "sqlite":
            raise ConfigError("a PostgreSQL store is backed up by pg_dump", remedy="or export it as Parquet")
        if path.exists():
            raise DataError("there is a file already", file=path, remedy="name another")
        draft = path.with_name(f".{path.name}.draft")
        draft.unlink(missing_ok=True)
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as link:
            link.exec_driver_sql("VACUUM INTO ?", (str(draft),))
        draft.replace(path)
        return path


def _durable(link: Any, _: Any) -> None:
    """SQLite: a commit is on the disk when it returns, and what is deleted is overwritten."""
    link.isolation_level = None  # transactions begin where we say, not where the driver thinks
    cursor = link.cursor()
    for setting in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "temp_store=MEMORY",
                    "mmap_size=268435456", f"busy_timeout={int(PATIENCE * 1000)}"):  # fmt: skip
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def _begin(link: Any) -> None:
    """A transaction that will write takes its lock at once: one that reads first could find it taken."""
    if link.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        link.exec_driver_sql("BEGIN IMMEDIATE" if link.get_execution_options().get("writes", True) else "BEGIN")


def _hash(user: str) -> str:
    return hashlib.sha256(user.encode()).hexdigest()


def _event(row: Any) -> Event:
    return Event(row["user"], row["item"], row["time"], row["kind"], row["value"], row["id"], row["list_id"])


def _table(name: str) -> sa.Table:
    if name not in THINGS:
        raise ConfigError(f"the store has no table {name!r}", remedy="items or users")
    return THINGS[name]


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(columns(value), ensure_ascii=False, sort_keys=True, allow_nan=False)


def _reason(error: Exception) -> str:
    """The database's own words, without the statement and its values."""
    return str(getattr(error, "orig", error)).splitlines()[0][:200]
