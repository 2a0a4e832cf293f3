"""Restores a backup in the place of an SQLite store; who was forgotten since the backup stays forgotten."""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from zhiyin.core.atomic_files import replace_durably
from zhiyin.core.errors import DataError, ZhiyinError
from zhiyin.core.run import Run, log
from zhiyin.store.access_keys import KeyTable
from zhiyin.store.errors import StoreAwayError, translated_errors
from zhiyin.store.records import hash_of
from zhiyin.store.store import Store
from zhiyin.store.tables import IDENTITY

# Pages of SQLite that are copied at once.
PAGES_PER_STEP = 2_000


def restore(
    path: str | Path, backup: str | Path, run: Run | None = None, validate: Callable[[Store], None] | None = None
) -> tuple[Path | None, int]:
    """Put a backup in the place of the store at `path`.

    Returns where the old file is now, if there was one, and how many users were forgotten again.

    Parameters
    ----------
    validate: is called with the copy before it takes the place of the store, and raises where it must not.

    Raises StoreAwayError while anybody else has the store open, DataError where the backup is no store or is damaged;
    the store is then as it was.
    """
    path, backup = Path(path).absolute(), Path(backup).absolute()
    _check_file(backup)
    if path.exists() and path.samefile(backup):
        raise DataError("a store cannot be restored from itself", file=backup, remedy="name the backup")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.restoring")
    try:
        with translated_errors(path):
            _copy(backup, draft, run or Run())
        _check_file(draft)
        _change_identity(draft)
        if validate is not None:
            with closing(Store(draft)) as copy:
                validate(copy)
        n_forgotten = _take_over(path, draft) if path.exists() else 0
        return _swap(path, draft), n_forgotten
    finally:
        for end in ("", "-wal", "-shm", "-journal", ".door", ".turn", ".merging"):
            draft.with_name(draft.name + end).unlink(missing_ok=True)


def _copy(backup: Path, draft: Path, run: Run) -> None:
    draft.unlink(missing_ok=True)
    draft.touch(0o600)
    with (
        run.bar("Copying", None) as advance,
        closing(sqlite3.connect(f"{backup.as_uri()}?mode=ro", uri=True)) as source,
        closing(sqlite3.connect(draft)) as target,
    ):
        source.backup(
            target,
            pages=PAGES_PER_STEP,
            progress=lambda _, left, of: advance(0, f"{of - left:,} of {of:,} pages"),
        )


def _check_file(path: Path) -> None:
    """Raises DataError for a file that is no store, or is damaged."""
    if not path.is_file():
        raise DataError("there is no such file", file=path, remedy="name what zhiyin store backup wrote")
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            connection.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()[0]
            connection.execute("SELECT max(seq) FROM events").fetchone()
            pages, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    except (sqlite3.Error, TypeError) as error:
        raise DataError(f"this is no store: {error}", file=path, remedy="name what zhiyin store backup wrote") from None
    if path.stat().st_size < pages * size:
        problem = f"it has {path.stat().st_size:,} bytes of {pages * size:,}"
    if problem != "ok":
        raise DataError(f"the file is damaged: {problem}", file=path, remedy="take another backup")


def _change_identity(path: Path) -> None:
    """Numbers that the backup has not given yet were given to other events by the store before it."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM meta WHERE key = ?", (IDENTITY,))
        connection.execute("INSERT INTO meta (key, value) VALUES (?, ?)", (IDENTITY, uuid.uuid4().hex))


def _take_over(path: Path, draft: Path) -> int:
    """Bring over from the present store what must not be undone: who was forgotten since the backup, and its keys, of
    which one may have been revoked. Returns how many users were forgotten again."""
    try:
        present = Store(path)
    except ZhiyinError:
        log.warning("store: the old file cannot be read: who was forgotten since the backup is not known")
        log.warning("store: the old file cannot be read: keys are as they were in the backup; see zhiyin key list")
        return 0
    with closing(present), closing(Store(draft)) as copy:
        n_forgotten = _forget_again(present, copy)
        KeyTable(copy).copy_from(KeyTable(present))
    return n_forgotten


def _forget_again(present: Store, copy: Store) -> int:
    """Delete from a copy of the backup who was forgotten after it was made. Returns how many users."""
    in_backup = copy.forgotten_by_hash()
    since = {user_hash for user_hash, at in present.forgotten_by_hash().items() if at != in_backup.get(user_hash)}
    if not since:
        return 0
    query = (
        'SELECT "user" FROM events UNION SELECT id FROM users UNION SELECT "user" FROM decision_users '
        'UNION SELECT "user" FROM lists WHERE "user" IS NOT NULL UNION SELECT "user" FROM links '
        "UNION SELECT other FROM links"
    )
    with copy.reading() as connection:
        users = [user for (user,) in connection.exec_driver_sql(query) if hash_of(user) in since]
    for user in users:
        copy.forget(user)
    return len(users)


def _swap(path: Path, draft: Path) -> Path | None:
    """Put the draft in the place of the store. Returns where the old file is now; None where there was none."""
    if not path.exists():
        replace_durably(draft, path)
        return None
    aside = path.with_name(f"{path.name}.before-restore")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.before-restore.{number}")
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        try:
            # Only who is alone can leave the journal behind, and it must not be found beside another file.
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise StoreAwayError(
                    "another process uses the store", file=path, remedy="stop zhiyin serve; then restore again"
                ) from None
            for end in ("-wal", "-shm"):  # the store is damaged: all of it stays as it is, nothing is read
                if (journal := path.with_name(path.name + end)).exists():
                    journal.replace(aside.with_name(aside.name + end))
        try:
            os.link(path, aside)
        except OSError:  # a file system without hard links
            path.replace(aside)
        replace_durably(draft, path)
    return aside
