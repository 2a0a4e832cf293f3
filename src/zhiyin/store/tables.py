"""Tables of the store, and the upgrade of a store of an older format."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence
from typing import Any

from zhiyin.core.errors import ConfigError
from zhiyin.core.limits import MAX_ID_CHARS, MAX_KIND_CHARS
from zhiyin.core.run import log
from zhiyin.store.records import ADDED_EVENT_FIELDS, EVENT_FIELDS, STORED_EVENT_FIELDS, Event
from zhiyin.store.sqlalchemy_import import sa

# Formats of a store, by database.
FORMATS = {"sqlite": "5", "postgresql": "4"}
_OLD_FORMATS = ("1", "2", "3", "4")
# Key of `meta`: the name of a store, whose sequence numbers mean nothing in another one.
IDENTITY = "identity"
# Key of `meta` in SQLite: the sequence number up to which the indexes of events are complete; see `event_index.py`.
EVENTS_INDEXED = "events_indexed"
# Writers of a PostgreSQL store take this lock in turn: so a row with a higher `seq` is never committed earlier, and a
# reader that goes on from a `seq` misses nothing.
WRITE_LOCK_ID = 7_453_010_373_645_639_777

# The table of types of columns; see `column_types`.
COLUMN_TYPES = "catalogue_schema"
# The table of experiments; see `zhiyin.service.experiments`.
EXPERIMENTS = "experiments"
# The table of what people have decided of policies, by placement: mode, frozen, killed, snapshot.
POLICIES = "policies"
# The table of campaigns of ads; see `zhiyin.service.campaigns`.
CAMPAIGNS = "campaigns"
# Rows, or ids, of one statement at most.
ROWS_PER_STATEMENT = 500

META = sa.MetaData()


def _seq() -> sa.Column[int]:
    return sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True)


def _event_column(name: str) -> sa.Column[Any]:
    """The column of a field of an event."""
    (field,) = (field for field in dataclasses.fields(Event) if field.name == name)
    types: dict[str, Any] = {
        "text": sa.String(field.metadata.get("max_chars")),
        "integer": sa.BigInteger,
        "number": sa.Float,
    }
    return sa.Column(name, types[field.metadata["type"]], nullable=field.default is None)


# A `seq` is never used twice, not even when the newest rows were deleted: AUTOINCREMENT, as SQLite calls it.
EVENTS = sa.Table(
    "events",
    META,
    _seq(),
    *(_event_column(name) for name in STORED_EVENT_FIELDS if name not in ADDED_EVENT_FIELDS),
    sa.Column("received", sa.BigInteger, nullable=False),
    *(_event_column(name) for name in ADDED_EVENT_FIELDS),
    sa.UniqueConstraint("id").ddl_if("postgresql"),
    sa.Index("events_user_seq", "user", "seq").ddl_if("postgresql"),
    sa.Index("events_list", "list_id", postgresql_where=sa.text("list_id IS NOT NULL")).ddl_if("postgresql"),
    sqlite_autoincrement=True,
)
# Events of before a time are found without reading the others.
EVENTS_OF_TIME = sa.Index("events_time", EVENTS.c.time)
# In SQLite the indexes of events by user, id and list are tables that are filled later, many events at a time.
SQLITE_META = sa.MetaData()
# A user's newest events are read from this table alone, a page or two; rows of `events` would be a page each.
EVENTS_OF_USER = sa.Table(
    "events_of_user",
    SQLITE_META,
    *(
        sa.Column(name, EVENTS.c[name].type, nullable=EVENTS.c[name].nullable, primary_key=name in ("user", "seq"))
        for name in dict.fromkeys(("user", "seq", "time", *EVENT_FIELDS))
    ),
    sqlite_with_rowid=False,
)
EVENT_IDS = sa.Table(
    "event_ids",
    SQLITE_META,
    sa.Column("id", sa.String(MAX_ID_CHARS), primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
EVENT_LISTS = sa.Table(
    "event_lists",
    SQLITE_META,
    sa.Column("list_id", sa.String(MAX_ID_CHARS), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sqlite_with_rowid=False,
)
# Whoever deletes an event deletes its entries.
_EVENT_TRIGGER = f"""
    CREATE TRIGGER IF NOT EXISTS event_deleted AFTER DELETE ON events BEGIN
        DELETE FROM {EVENTS_OF_USER.name} WHERE "user" = old."user" AND seq = old.seq;
        DELETE FROM {EVENT_IDS.name} WHERE id = old.id AND seq = old.seq;
        DELETE FROM {EVENT_LISTS.name} WHERE list_id = old.list_id AND seq = old.seq;
    END
"""
# The highest `seq` that was ever given to an event, by dialect; 0: none was.
HIGHEST_SEQ = {
    "sqlite": sa.text("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'"),
    "postgresql": sa.text("SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('events', 'seq')), 0)"),
}
VERSIONED_TABLES = {
    name: sa.Table(
        name,
        META,
        _seq(),
        sa.Column("id", sa.String(MAX_ID_CHARS), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("columns", sa.Text),  # JSON; NULL: deleted
        sa.Column("received", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("id", "version"),
        sqlite_autoincrement=True,
    )
    for name in ("items", "users", "placements", COLUMN_TYPES, EXPERIMENTS, POLICIES, CAMPAIGNS)
}
# One row for each list that was made, with its trace, and one for each time that a list was really shown.
LISTS = sa.Table(
    "lists",
    META,
    sa.Column("list_id", sa.String(MAX_ID_CHARS), primary_key=True),
    sa.Column("user", sa.String(MAX_ID_CHARS)),
    sa.Column("time", sa.BigInteger, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("placement", sa.String(MAX_ID_CHARS), nullable=False),
    sa.Column("head", sa.Text, nullable=False),  # JSON
    sa.Column("arrays", sa.LargeBinary),  # safetensors, compressed by zlib; NULL: none
    sa.Index("lists_user", "user"),
    sa.Index("lists_time", "time"),
)
# Lists in the order in which they were committed: the table of lists has no such number.
LIST_NUMBERS = sa.Table(
    "list_numbers",
    META,
    _seq(),
    sa.Column("list_id", sa.String(MAX_ID_CHARS), nullable=False, unique=True),
    sqlite_autoincrement=True,
)
IMPRESSIONS = sa.Table(
    "impressions",
    META,
    _seq(),
    sa.Column("list_id", sa.String(MAX_ID_CHARS), nullable=False),
    sa.Column("time", sa.BigInteger, nullable=False),
    sa.Column("items", sa.Text, nullable=False),  # JSON
    sa.UniqueConstraint("list_id", "time"),
    sa.Index("impressions_time", "time"),
)
# Lists that a policy has decided and whose window of rewards is still open; written with their traces.
OPEN_DECISIONS = sa.Table(
    "open_decisions",
    META,
    sa.Column("list_id", sa.String(MAX_ID_CHARS), primary_key=True),
    sa.Column("placement", sa.String(MAX_ID_CHARS), nullable=False),
    sa.Column("time", sa.BigInteger, nullable=False),
    sa.Index("open_decisions_time", "placement", "time"),
)
# Decisions whose window has ended, in the order in which they were closed, with the rewards that are learned.
DECISIONS = sa.Table(
    "decisions",
    META,
    _seq(),
    sa.Column("list_id", sa.String(MAX_ID_CHARS), nullable=False, unique=True),
    sa.Column("placement", sa.String(MAX_ID_CHARS), nullable=False),
    sa.Column("time", sa.BigInteger, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("mode", sa.String(32), nullable=False),
    sa.Column("rewards", sa.Text),  # JSON, a number or null for each slot that was decided; NULL: is not learned
    sa.Column("n_events", sa.Integer, nullable=False),  # events and reported rewards that came within the window
    sa.Column("late", sa.Integer, nullable=False),  # those that came after it
    sa.Column("deadline", sa.BigInteger, nullable=False),  # end of the window
    sa.Column("closed", sa.BigInteger, nullable=False),
    sa.Column("events_seq", sa.BigInteger, nullable=False),  # the last event when it was closed
    sa.Column("rewards_seq", sa.BigInteger, nullable=False),  # the last reported reward likewise
    sa.Index("decisions_placement", "placement", "seq"),
    sqlite_autoincrement=True,
)
# Users whose events are in the rewards of a closed decision whose list names nobody: it goes when one is forgotten.
DECISION_USERS = sa.Table(
    "decision_users",
    META,
    _seq(),
    sa.Column("list_id", sa.String(MAX_ID_CHARS), nullable=False),
    sa.Column("user", sa.String(MAX_ID_CHARS), nullable=False),
    sa.Column("time", sa.BigInteger, nullable=False),  # when the decision was closed
    sa.UniqueConstraint("list_id", "user"),
    sa.Index("decision_users_user", "user"),
)
# Rewards that were sent as numbers. Of one list and id only the first is stored.
REPORTED_REWARDS = sa.Table(
    "reported_rewards",
    META,
    _seq(),
    sa.Column("list_id", sa.String(MAX_ID_CHARS), nullable=False),
    sa.Column("slot", sa.String(MAX_ID_CHARS), nullable=False),
    sa.Column("value", sa.Float, nullable=False),
    sa.Column("id", sa.String(MAX_ID_CHARS), nullable=False),
    sa.Column("time", sa.BigInteger, nullable=False),
    sa.Column("received", sa.BigInteger, nullable=False),
    sa.Column("name", sa.String(MAX_KIND_CHARS)),
    sa.UniqueConstraint("list_id", "id"),
    sa.Index("reported_rewards_received", "received"),
    sqlite_autoincrement=True,
)
# What policies have learned. `outdated`: of a user who was forgotten since, so it is learned anew.
POLICY_STATES = sa.Table(
    "policy_states",
    META,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("name", sa.String(MAX_ID_CHARS), nullable=False),
    sa.Column("mark", sa.BigInteger, nullable=False),  # decisions.seq up to which it has learned
    sa.Column("state", sa.LargeBinary, nullable=False),  # safetensors
    sa.Column("info", sa.Text, nullable=False),  # JSON
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("outdated", sa.Integer, nullable=False),
    sa.Index("policy_states_name", "name", "number"),
    sqlite_autoincrement=True,
)
# Links between users; see `links.py`.
LINKS = sa.Table(
    "links",
    META,
    _seq(),
    sa.Column("user", sa.String(MAX_ID_CHARS), nullable=False),
    sa.Column("other", sa.String(MAX_ID_CHARS), nullable=False),
    sa.Column("weight", sa.Float),  # NULL: removed
    sa.Column("received", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("user", "other"),
    sa.Index("links_other", "other"),
    sqlite_autoincrement=True,
)
# Clicks and purchases of displayed ads, each counted once. Amounts of money are whole micros: millionths of a unit.
AD_CHARGES = sa.Table(
    "ad_charges",
    META,
    _seq(),
    sa.Column("list_id", sa.String(MAX_ID_CHARS), nullable=False),
    sa.Column("item", sa.String(MAX_ID_CHARS), nullable=False),
    sa.Column("action", sa.String(16), nullable=False),  # click or purchase
    sa.Column("campaign", sa.String(MAX_ID_CHARS), nullable=False),
    sa.Column("event", sa.BigInteger, nullable=False),  # its number
    sa.Column("time", sa.BigInteger, nullable=False),
    sa.Column("micros", sa.BigInteger, nullable=False),  # 0: not what is paid for, or beyond the budget
    sa.UniqueConstraint("list_id", "item", "action"),
    sqlite_autoincrement=True,
)


def _counts(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.BigInteger, nullable=False, server_default="0") for name in names]


# Sums by campaign and day (days since 1970, UTC; -1: of all days). `reserved`: what the displays were expected to cost.
AD_TOTALS = sa.Table(
    "ad_totals",
    META,
    sa.Column("campaign", sa.String(MAX_ID_CHARS), primary_key=True),
    sa.Column("day", sa.BigInteger, primary_key=True, autoincrement=False),
    *_counts("displays", "reserved", "clicks", "purchases", "paid", "unpaid", "spend"),
)
# Sums by ad. `expected`: what is paid for, as many as the model expected, in millionths; `events`: as many as came.
AD_ITEMS = sa.Table(
    "ad_items",
    META,
    sa.Column("campaign", sa.String(MAX_ID_CHARS), primary_key=True),
    sa.Column("item", sa.String(MAX_ID_CHARS), primary_key=True),
    *_counts("displays", "expected", "events"),
)
# What displays of a minute (since 1970) are still expected to cost; the row goes when the window of reservations ends.
AD_RESERVATIONS = sa.Table(
    "ad_reservations",
    META,
    sa.Column("campaign", sa.String(MAX_ID_CHARS), primary_key=True),
    sa.Column("minute", sa.BigInteger, primary_key=True, autoincrement=False),
    *_counts("micros"),
)
# Requests for ads by hour since 1970.
AD_TRAFFIC = sa.Table(
    "ad_traffic",
    META,
    sa.Column("hour", sa.BigInteger, primary_key=True, autoincrement=False),
    *_counts("requests"),
)
# What belongs to a list, and goes with it.
TABLES_OF_LISTS = (IMPRESSIONS, REPORTED_REWARDS, OPEN_DECISIONS, DECISIONS, DECISION_USERS, LIST_NUMBERS, AD_CHARGES)
MARKS = sa.Table("meta", META, sa.Column("key", sa.String(64), primary_key=True), sa.Column("value", sa.Text))
# Users who were forgotten, as hashes: a version that has learned of them must not use it. `received`: when.
FORGOTTEN = sa.Table(
    "forgotten", META, sa.Column("hash", sa.String(64), primary_key=True), sa.Column("received", sa.BigInteger)
)
# Keys of the service, as hashes. An older program does not read them, so they are no new format.
ACCESS_KEYS = sa.Table(
    "access_keys",
    META,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("scopes", sa.String(MAX_ID_CHARS), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("expires", sa.BigInteger),
    sa.Column("used", sa.BigInteger),
)
# Tables that came within the format.
_ADDED_TABLES = (
    *(VERSIONED_TABLES[name] for name in (COLUMN_TYPES, EXPERIMENTS, POLICIES, CAMPAIGNS)),
    OPEN_DECISIONS, DECISIONS, DECISION_USERS, REPORTED_REWARDS, POLICY_STATES, LIST_NUMBERS, LINKS,
    AD_CHARGES, AD_TOTALS, AD_ITEMS, AD_RESERVATIONS, AD_TRAFFIC,
)  # fmt: skip


def prepare(connection: Any, place: str) -> None:
    """Create the tables and columns that are missing and upgrade an older format, within `connection`'s transaction.

    Raises ConfigError for a newer format, and for tables of another program.

    place: the address, for the message.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(WRITE_LOCK_ID)))
    format, newest = None, FORMATS[connection.dialect.name]
    if sa.inspect(connection).has_table(MARKS.name):
        format = connection.execute(sa.select(MARKS.c.value).where(MARKS.c.key == "format")).scalar()
    if format not in (None, *_OLD_FORMATS, newest):
        raise ConfigError(
            f"the store is of format {format}, not {newest}",
            file=place,
            remedy="use the version of zhiyin that wrote it",
        )
    if format is not None:
        _add_event_columns(connection, EVENTS)
    if format == newest:
        # They came within the format; an older program need not know them.
        if connection.dialect.name == "sqlite":
            _add_event_columns(connection, EVENTS_OF_USER)
        EVENTS_OF_TIME.create(connection, checkfirst=True)
        is_numbered = sa.inspect(connection).has_table(LIST_NUMBERS.name)
        META.create_all(connection, _ADDED_TABLES)
        if not is_numbered:
            number_lists(connection)
        return
    if format is None:
        _check_foreign_tables(connection, place)
    else:
        log.info("store: %s is brought from format %s to %s; a large one takes minutes", place, format, newest)
    if connection.dialect.name == "sqlite":
        if format is not None:
            _upgrade_file(connection, format)
        META.create_all(connection)
        SQLITE_META.create_all(connection)
        connection.exec_driver_sql(_EVENT_TRIGGER)
    else:
        META.create_all(connection)
        for index in EVENTS.indexes if format is not None else ():
            index.create(connection, checkfirst=True)
    number_lists(connection)
    connection.execute(sa.delete(MARKS).where(MARKS.c.key == "format"))
    connection.execute(sa.insert(MARKS).values(key="format", value=newest))
    if connection.execute(sa.select(MARKS.c.value).where(MARKS.c.key == IDENTITY)).scalar() is None:
        connection.execute(sa.insert(MARKS).values(key=IDENTITY, value=uuid.uuid4().hex))


def is_older_format(connection: Any) -> bool:
    """Whether the store is of a format that `prepare` brings to the newest."""
    if not sa.inspect(connection).has_table(MARKS.name):
        return False
    format = connection.execute(sa.select(MARKS.c.value).where(MARKS.c.key == "format")).scalar()
    return format in _OLD_FORMATS and format != FORMATS[connection.dialect.name]


def _upgrade_file(connection: Any, format: str) -> None:
    """Bring the tables of an older SQLite store into the form of the newest format.

    The indexes of events become tables. They are filled in the order of the old indexes, so that nothing is sorted.
    The rows are copied, since SQLite takes no constraint from a table that exists, nor gives it AUTOINCREMENT. All of
    it is one transaction: of an upgrade that is killed nothing is left.
    """
    is_numbered = sa.inspect(connection).has_table("sqlite_sequence")
    highest = connection.execute(HIGHEST_SEQ["sqlite"]).scalar_one() if is_numbered else 0
    highest = max(highest, connection.exec_driver_sql("SELECT coalesce(max(seq), 0) FROM events").scalar_one())
    filled = {EVENTS_OF_USER: '"user", seq', EVENT_IDS: "id", EVENT_LISTS: "list_id, seq"}
    for table, order in filled.items():
        draft = table.to_metadata(sa.MetaData(), name=f"new_{table.name}")  # an old index has the name of the table
        draft.create(connection)
        names = _quoted_names(table)
        condition = "WHERE list_id IS NOT NULL" if table is EVENT_LISTS else ""
        connection.exec_driver_sql(
            f"INSERT INTO {draft.name} ({names}) SELECT {names} FROM events {condition} ORDER BY {order}"
        )
    for name in ("events_user_time", "events_of_user", "events_list", "events_time"):
        connection.exec_driver_sql(f"DROP INDEX IF EXISTS {name}")
    for table in filled:
        connection.exec_driver_sql(f"ALTER TABLE new_{table.name} RENAME TO {table.name}")
    copied = [EVENTS, *((VERSIONED_TABLES["items"], VERSIONED_TABLES["users"]) if format == "1" else ())]
    for table in copied:
        connection.exec_driver_sql(f"ALTER TABLE {table.name} RENAME TO old_{table.name}")
    for table in copied:
        connection.execute(sa.schema.CreateTable(table))
        names = _quoted_names(table)
        connection.exec_driver_sql(
            f"INSERT INTO {table.name} ({names}) SELECT {names} FROM old_{table.name} ORDER BY seq"
        )
        connection.exec_driver_sql(f"DROP TABLE old_{table.name}")
    EVENTS_OF_TIME.create(connection)  # behind the rows: they are sorted once
    # A number is never given twice, also where the newest events were deleted.
    connection.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = 'events'")
    connection.exec_driver_sql("INSERT INTO sqlite_sequence (name, seq) VALUES ('events', ?)", (highest,))
    connection.execute(sa.insert(MARKS).values(key=EVENTS_INDEXED, value=str(highest)))


def _quoted_names(table: sa.Table) -> str:
    return ", ".join(f'"{column.name}"' for column in table.columns)


def number_lists(connection: Any, list_ids: Sequence[str] | None = None) -> None:
    """Give numbers to lists that have none, within the transaction that inserts them.

    list_ids: ROWS_PER_STATEMENT at most, in their order of time; None: all lists.
    """
    lists = sa.select(LISTS.c.list_id).where(~sa.exists().where(LIST_NUMBERS.c.list_id == LISTS.c.list_id))
    if list_ids is not None:
        lists = lists.where(LISTS.c.list_id.in_(list_ids))
    connection.execute(sa.insert(LIST_NUMBERS).from_select(["list_id"], lists.order_by(LISTS.c.time, LISTS.c.list_id)))


def _add_event_columns(connection: Any, table: sa.Table) -> None:
    """Add the columns of ADDED_EVENT_FIELDS that a table lacks; they are NULL in the rows of before."""
    present = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
    missing = [table.c[name] for name in ADDED_EVENT_FIELDS if name not in present]
    for column in missing:
        type_name = column.type.compile(dialect=connection.dialect)
        connection.exec_driver_sql(f'ALTER TABLE {table.name} ADD COLUMN "{column.name}" {type_name}')
        log.info("store: the column %s was added to %s", column.name, table.name)


def _check_foreign_tables(connection: Any, place: str) -> None:
    """Raises ConfigError where tables of another program have the names of the store's."""
    inspector = sa.inspect(connection)
    tables = [*META.sorted_tables, *(SQLITE_META.sorted_tables if connection.dialect.name == "sqlite" else ())]
    for table in tables:
        if inspector.has_table(table.name):
            missing = {column.name for column in table.columns} - {
                one["name"] for one in inspector.get_columns(table.name)
            }
            if missing:
                raise ConfigError(
                    f"the database has a table {table.name} already, and it is not a store's: it has no column "
                    f"{min(missing)}",
                    file=place,
                    remedy="give the store a file, database or schema of its own; "
                    "a schema: postgresql://user@host/shop?options=-csearch_path%3Dzhiyin",
                )
