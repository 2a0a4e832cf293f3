"""Which files of a folder are the events, the items, the users, and who knows whom."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from zhiyin.core.errors import DataError
from zhiyin.data.column_names import name_score
from zhiyin.data.file_formats import plain_name
from zhiyin.data.link_roles import guess_links
from zhiyin.data.read_assumptions import Dialect
from zhiyin.data.role_inference import guess_roles
from zhiyin.data.shard_files import MANIFEST, TABLES, ShardManifest
from zhiyin.data.source_opening import ENDINGS, open_table
from zhiyin.data.table import Table

_EVENTS = re.compile(r"rating|event|interaction|click|log|u\.data|view|purchase|order|transaction|train", re.IGNORECASE)
_ITEMS = re.compile(r"item|movie|book|product|catalog|article|track|artist|title", re.IGNORECASE)
_USERS = re.compile(r"user|customer|member", re.IGNORECASE)
_LINKS = re.compile(r"friend|follow|link|social|trust|knows", re.IGNORECASE)


# Files that programs write next to tables, and the file that `zhiyin check` writes.
_NO_DATA = re.compile(r"readme|licen[cs]e|\.|quarantine\.csv$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Sources:
    """Files of a folder by what they hold.

    Parameters
    ----------
    events, items, users, links: the files; None where there is none.
    notes: sentences about the files that are not read.
    event_tables: the tables of `events`, opened.
    """

    events: list[Path]
    items: Path | None
    users: Path | None
    links: Path | None = None
    notes: tuple[str, ...] = ()
    event_tables: list[Table] = dataclasses.field(default_factory=list, repr=False)


def data_files(folder: Path) -> list[Path]:
    """Files of a folder that hold tables, sorted by name; where it has none, those of the folders below it, as in data
    that is partitioned by day."""
    own = sorted(path for path in folder.iterdir() if _holds_a_table(path))
    return own or sorted(
        path for path in folder.glob("*/**/*") if _holds_a_table(path) and not _is_hidden(path, folder)
    )


def _holds_a_table(path: Path) -> bool:
    return path.is_file() and plain_name(path).endswith(ENDINGS) and not _NO_DATA.match(path.name)


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)


def find_sources(folder: Path, dialect: Dialect | None = None) -> Sources:
    """Sort a folder's files into events, items, users and links. Raises DataError when none holds events."""
    if (folder / MANIFEST).is_file():
        return _shards(folder, dialect)
    tables: dict[Path, Table] = {}
    unread: dict[Path, str] = {}
    for path in data_files(folder):
        try:
            tables[path] = open_table(path, dialect)
        except DataError as error:
            unread[path] = error.message
    logs, links = {}, [path for path, table in tables.items() if _LINKS.search(path.name) and _joins_users(table)]
    for path, table in tables.items():
        if path in links and len(links) < len(tables):
            continue
        try:
            roles = guess_roles(table.sample, source=str(path))
        except DataError:
            continue
        if table.sample[roles.item].n_unique() == len(table.sample) > 50 and _ITEMS.search(path.name):
            continue  # one row an item: a catalogue
        if table.sample[roles.user].n_unique() == len(table.sample) > 50 and _USERS.search(path.name):
            continue
        n_roles = sum(getattr(roles, role) is not None for role in ("time", "rating", "kind"))
        logs[path] = (bool(_EVENTS.search(path.name)), n_roles, path.stat().st_size)
    if not tables:
        why = "; ".join(f"{path.name}: {reason}" for path, reason in list(unread.items())[:3])
        raise DataError(
            f"no file of this folder is a table that can be read{': ' + why if why else ''}", file=folder,
            remedy="name the event file itself; Excel files are saved as CSV first",
        )  # fmt: skip
    if not logs:
        raise DataError(
            "no file has both a user and an item column",
            file=folder,
            remedy="name the event file itself, and its columns if their names say nothing",
        )
    best = max(logs, key=lambda path: logs[path])
    events = [path for path in logs if tables[path].columns == tables[best].columns]
    rest = {path: table for path, table in tables.items() if path not in events and path not in links}
    links_file = next((path for path in links if path not in events), None)
    items, users = _describing(rest, "item", _ITEMS), _describing(rest, "user", _USERS)
    used = {*events, items, users, links_file}
    for path in [path for path in tables if path not in used]:
        unread[path] = f"its columns are not those of {best.name}" if path in logs else "no part of a log is seen in it"
    notes = tuple(f"{path.relative_to(folder)}: not read, {reason}" for path, reason in sorted(unread.items()))
    return Sources(events, items, users, links_file, notes, [tables[path] for path in events])


def _shards(folder: Path, dialect: Dialect | None) -> Sources:
    """The files of a log in shards, whose manifest names them."""
    events = [folder / part.path for shard in ShardManifest.read(folder).shards for part in shard.parts]
    items, users = (_if_described(folder / TABLES / f"{name}.arrow", dialect) for name in ("items", "users"))
    return Sources(events, items, users, event_tables=[open_table(path, dialect) for path in events])


def _if_described(path: Path, dialect: Dialect | None) -> Path | None:
    """A table of shards; None where it has nothing but ids."""
    return path if len(open_table(path, dialect).columns) > 1 else None


def _joins_users(table: Table) -> bool:
    """Whether a table has two columns of users and none of items."""
    try:
        guess_links(table.sample, {})
    except DataError:
        return False
    return not any(name_score("item", column) >= 2 for column in table.columns)


def _describing(tables: dict[Path, Table], role: str, pattern: re.Pattern[str]) -> Path | None:
    """The file that describes items (or users): named so, else with a column so named; the widest."""
    other = "user" if role == "item" else "item"
    scored = []
    for path, table in tables.items():
        named = bool(pattern.search(path.name))
        keyed = any(name_score(role, column) >= 2 for column in table.columns)
        foreign = any(name_score(other, column) >= 2 for column in table.columns)
        if (named or keyed) and not foreign and len(table.columns) > 1:
            scored.append((named, keyed, len(table.columns), path))
    return max(scored)[3] if scored else None
