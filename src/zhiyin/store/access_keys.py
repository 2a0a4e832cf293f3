"""Access keys of the service, in a table of the store, which all processes and machines of a shop share.

A file beside the settings would have to be copied to every machine, and a key revoked on one would open the others.
Only the hash of a key is stored. Exports leave keys out.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from zhiyin.core.errors import ConfigError, suggest
from zhiyin.core.page_tokens import key_id
from zhiyin.store.sqlalchemy_import import sa
from zhiyin.store.store import Store
from zhiyin.store.tables import ACCESS_KEYS, MARKS

# Keys of one shop.
MAX_KEYS = 100
# Prefix of keys of `meta`: imports that were made once and are not to be repeated.
_IMPORT_MARK = "access keys"


@dataclasses.dataclass(frozen=True)
class AccessKey:
    """An access key.

    Parameters
    ----------
    scopes: what it permits.
    hash: SHA-256 of the key, 64 hexadecimal digits.
    created: microseconds UTC.
    expires: microseconds UTC; None: never.
    used: the day of the last use, microseconds UTC; None: not used yet.
    """

    name: str
    scopes: frozenset[str]
    hash: str = dataclasses.field(repr=False)
    created: int
    expires: int | None = None
    used: int | None = None

    @property
    def id(self) -> str:
        """Public name: 16 hexadecimal digits, which lists of keys show and tokens name their key by."""
        return key_id(self.hash)

    def expired(self, now: int) -> bool:
        """Whether it has expired. now: microseconds UTC."""
        return self.expires is not None and self.expires <= now


class UnknownKeyError(ConfigError):
    """There is no key of this name."""


class KeyConflictError(ConfigError):
    """A change that the present keys forbid: the name is taken, there are too many, or it is the last admin key."""


class KeyTable:
    """The keys of a store. Each change is one transaction, which checks the present keys within it.

    With its first keys the file of an SQLite store becomes readable to its owner alone (0600).
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        with store.reading() as connection:
            exists = sa.inspect(connection).has_table(ACCESS_KEYS.name)
        if not exists:  # of a store from before there were keys in it
            with store.writing() as connection:
                ACCESS_KEYS.create(connection, checkfirst=True)

    def all(self) -> list[AccessKey]:
        """All keys by name."""
        return self.read()[0]

    def read(self) -> tuple[list[AccessKey], list[str]]:
        """All keys by name, and the names of damaged rows, which permit nothing and which `remove` deletes."""
        with self.store.reading() as connection:
            named_keys = [(str(row["name"]), _key_of(row)) for row in _rows(connection)]
        return [key for _, key in named_keys if key is not None], [name for name, key in named_keys if key is None]

    def add(self, key: AccessKey) -> None:
        """Store a new key. Raises KeyConflictError where its name is taken or there are too many."""
        with self.store.writing() as connection:
            keys, names = _all(connection), _names(connection)
            if key.name in names:
                raise KeyConflictError(
                    f"there is a key {key.name!r} already", column="name",
                    remedy=f"choose another name, or revoke it first: zhiyin key revoke {key.name}",
                )  # fmt: skip
            if len(keys) >= MAX_KEYS:
                raise KeyConflictError(f"there are {MAX_KEYS} keys, as many as there may be", remedy="revoke one first")
            connection.execute(sa.insert(ACCESS_KEYS), [_row(key)])
        if not keys:
            self._restrict_file()

    def remove(self, name: str, now: int, *, last_admin: bool = False) -> AccessKey:
        """Delete a key.

        Parameters
        ----------
        now: microseconds UTC.
        last_admin: delete it even if no admin key is left then.

        For a damaged row the key returned has no scopes. Raises UnknownKeyError, which names the nearest, and
        KeyConflictError for the last admin key.
        """
        with self.store.writing() as connection:
            keys_by_name = {one.name: one for one in _all(connection)}
            names = _names(connection)
            if name not in names:
                remedy = suggest(name, list(names)) if names else "there is no key yet"
                raise UnknownKeyError(f"there is no key {name!r}", column="name", remedy=remedy)
            key = keys_by_name.pop(name, None) or AccessKey(name, frozenset(), "", 0)  # a damaged row permits nothing
            left = any("admin" in one.scopes and not one.expired(now) for one in keys_by_name.values())
            if "admin" in key.scopes and not key.expired(now) and not left and not last_admin:
                raise KeyConflictError(
                    f"{name!r} is the last admin key", column="name",
                    remedy="add another first: zhiyin key add NAME --scope admin",
                )  # fmt: skip
            connection.execute(sa.delete(ACCESS_KEYS).where(ACCESS_KEYS.c.name == name))
        return key

    def add_first(self, keys: Sequence[AccessKey]) -> bool:
        """Add the first keys of a store. Returns False where it has or had keys, such as by another process."""
        with self.store.writing() as connection:
            if (
                _names(connection)
                or connection.execute(sa.select(MARKS.c.key).where(MARKS.c.key.like(f"{_IMPORT_MARK}%"))).first()
            ):
                return False
            connection.execute(sa.insert(ACCESS_KEYS), [_row(key) for key in keys])
            connection.execute(sa.insert(MARKS), [{"key": _IMPORT_MARK, "value": None}])
        self._restrict_file()
        return True

    def import_once(self, keys: Sequence[AccessKey]) -> int:
        """Add keys of another place, each only once: one that is revoked later does not come back.

        A name that is taken gets a number. Returns how many were added.
        """
        added = 0
        with self.store.writing() as connection:
            done = set(connection.execute(sa.select(MARKS.c.key).where(MARKS.c.key.like(f"{_IMPORT_MARK}%"))).scalars())
            present_keys = _all(connection)
            names, hashes = _names(connection), {one.hash for one in present_keys}
            for key in keys:
                mark = f"{_IMPORT_MARK} {key.id}"
                if mark in done or key.hash in hashes or len(names) >= MAX_KEYS:
                    continue
                name, number = key.name, 1
                while name in names:
                    number += 1
                    name = f"{key.name}-{number}"
                names.add(name)
                connection.execute(sa.insert(ACCESS_KEYS), [_row(dataclasses.replace(key, name=name))])
                connection.execute(sa.insert(MARKS), [{"key": mark, "value": None}])
                added += 1
        if added:
            self._restrict_file()
        return added

    def record_use(self, days: Mapping[str, int]) -> None:
        """Store the days of the last use, microseconds UTC by hash; a day before the stored one changes nothing."""
        of = ACCESS_KEYS.c
        with self.store.writing() as connection:
            for hash, day in days.items():
                older = (of.hash == hash) & (of.used.is_(None) | (of.used < day))
                connection.execute(sa.update(ACCESS_KEYS).where(older).values(used=day))

    def _restrict_file(self) -> None:
        """Let only its owner read an SQLite store: the hash of a page key signs tokens."""
        if self.store.path is not None:
            for end in ("", "-wal", "-shm"):
                file = self.store.path.with_name(self.store.path.name + end)
                if file.exists():
                    os.chmod(file, 0o600)

    def copy_from(self, other: KeyTable) -> None:
        """Replace all keys, and the marks of imports, by those of another store."""
        mine = MARKS.c.key.like(f"{_IMPORT_MARK}%")
        with other.store.reading() as connection:
            keys, marks = _all(connection), list(connection.execute(sa.select(MARKS.c.key).where(mine)).scalars())
        with self.store.writing() as connection:
            connection.execute(sa.delete(ACCESS_KEYS))
            connection.execute(sa.delete(MARKS).where(mine))
            for table, rows in ((ACCESS_KEYS, [_row(key) for key in keys]), (MARKS, [{"key": mark} for mark in marks])):
                if rows:
                    connection.execute(sa.insert(table), rows)


def _row(key: AccessKey) -> dict[str, Any]:
    row = {field.name: getattr(key, field.name) for field in dataclasses.fields(key)}
    return row | {"scopes": " ".join(sorted(key.scopes))}


def _all(connection: Any) -> list[AccessKey]:
    return [key for row in _rows(connection) if (key := _key_of(row)) is not None]


def _rows(connection: Any) -> Sequence[Mapping[str, Any]]:
    rows: Sequence[Mapping[str, Any]] = (
        connection.execute(sa.select(ACCESS_KEYS).order_by(ACCESS_KEYS.c.name)).mappings().all()
    )
    return rows


def _names(connection: Any) -> set[str]:
    return set(connection.execute(sa.select(ACCESS_KEYS.c.name)).scalars())


def _key_of(row: Mapping[str, Any]) -> AccessKey | None:
    """The key of a row; None where the row is damaged: SQLite stores any value in any column."""
    texts = [row[name] for name in ("name", "scopes", "hash")]
    times = [row["created"], *(row[name] for name in ("expires", "used") if row[name] is not None)]
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(time, int) for time in times):
        return None
    scopes = frozenset(row["scopes"].split())
    if not scopes or re.fullmatch("[0-9a-f]{64}", row["hash"]) is None:
        return None
    return AccessKey(**dict(row) | {"scopes": scopes})
