"""The data and the store that a settings file names."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from zhiyin.core.durations import microseconds
from zhiyin.core.errors import ConfigError
from zhiyin.data.dataset import Dataset
from zhiyin.data.project_config.config import FILE_NAME, Config
from zhiyin.data.sql_query import QueryLimit
from zhiyin.data.store_snapshot import StoreSnapshot
from zhiyin.data.text_values import TextValues

STREAMS_IN_STORE = "service.streams is the database of the store itself"
STREAMS_IN_STORE_REMEDY = 'name a database of its own, such as streams = "sqlite:///streams.db"'


def read_data(
    config: Config,
    base_dir: str | Path = ".",
    strict: bool | None = None,
    snapshot: StoreSnapshot | None = None,
    reviews: TextValues | None = None,
) -> Dataset:
    """The data a configuration names.

    Parameters
    ----------
    base_dir: the folder of the configuration file, from which its paths are taken. `${NAME}` in a path or
        address is replaced by an environment variable, so that the file need not hold a password.
    strict: overrules the file's own `strict`.
    snapshot: what the service's store holds; then no file need be named.
    reviews: what values of events are made by of texts, as [features.reviews] says; see `read`.
    """
    from zhiyin.data.reading import read

    return read(**read_arguments(config, base_dir, strict, snapshot), reviews=reviews)


def read_arguments(
    config: Config, base_dir: str | Path = ".", strict: bool | None = None, snapshot: StoreSnapshot | None = None
) -> dict[str, Any]:
    """The arguments of `read` by which `read_data` reads."""
    base, data = Path(base_dir), config.data
    if data.source is None and snapshot is None:
        raise ConfigError(
            "no event log is named",
            file=base / FILE_NAME,
            remedy='name it under [data]: source = "ratings.csv", or begin anew: zhiyin init ratings.csv',
        )
    written_keys = config.columns.model_fields_set  # an empty list that was written means none; left out, a guess
    columns = {n: v for n, v in config.columns.model_dump().items() if v or (n in written_keys and v is not None)}
    return {
        "source": resolved(data.source, base),
        "items": resolved(data.items, base),
        "users": resolved(data.users, base),
        "links": resolved(data.links, base),
        "images": resolved(data.images, base),
        "columns": columns or None,
        "weights": config.weights or None,
        "query": data.query,
        "query_limit": QueryLimit(microseconds(data.query_timeout) / 1e6, data.query_rows),
        "strict": data.strict if strict is None else strict,
        "snapshot": snapshot,
        "assume": config.read.model_dump(),
        "types": config.schema.types,
    }


def store_address(config: Config, base_dir: str | Path = ".") -> str:
    """Where the project's events are kept: a path or "postgresql://...", with variables filled in."""
    return str(resolved(config.service.store, Path(base_dir)))


def streams_folder(config: Config, base_dir: str | Path = ".") -> Path:
    """The folder of streams: `[streams] folder`, with variables filled in."""
    return Path(resolved(config.streams.folder, Path(base_dir)))


def streams_address(config: Config, base_dir: str | Path = ".", store: str | None = None) -> str | None:
    """Where the service reads what streams compute: `[service] streams`, with variables filled in; None: nowhere.

    store: address of the store, instead of the one that the settings name.

    Raises ConfigError where it is the database of the store.
    """
    address = resolved(config.service.streams, Path(base_dir))
    if address is not None and is_same_database(address, store or store_address(config, base_dir)):
        raise ConfigError(STREAMS_IN_STORE, file=Path(base_dir) / FILE_NAME, remedy=STREAMS_IN_STORE_REMEDY)
    return None if address is None else str(address)


def is_same_database(one: str, other: str) -> bool:
    """Whether two addresses, with variables filled in, are of one database of SQLite or PostgreSQL."""
    database = _database(one)
    return database is not None and database == _database(other)


def _database(address: str) -> tuple[object, ...] | None:
    """What tells a database of SQLite or PostgreSQL from others, whoever connects to it; None for another address."""
    path = address.removeprefix("sqlite:///")
    if "://" not in path:
        return ("sqlite", os.path.realpath(path if path == address else path.partition("?")[0]))
    try:
        parts = urlsplit(address)
        if parts.scheme.partition("+")[0] not in ("postgresql", "postgres"):
            return None
        options = dict(parse_qsl(parts.query))
        host, port = options.get("host") or parts.hostname or "localhost", options.get("port") or parts.port or 5432
        port, name = int(port), parts.path.strip("/") or parts.username
    except ValueError:
        return None
    host = "localhost" if host in ("127.0.0.1", "::1") else host
    return ("postgresql", host, port, name, options.get("options"))


def resolved(source: Any, base: Path) -> Any:
    """A source with variables filled in and paths taken from `base`."""
    if isinstance(source, dict):
        return {kind: resolved(part, base) for kind, part in source.items()}
    if isinstance(source, list):
        return [resolved(part, base) for part in source]
    if source is None:
        return None
    address = re.sub(r"\$\{(\w+)\}", lambda match: _variable(match[1], base), source)
    if address.startswith("sqlite:///") and not address.startswith("sqlite:////"):
        return f"sqlite:///{(base / address.removeprefix('sqlite:///')).resolve()}"
    return address if "://" in address else str(base / Path(address).expanduser())


def _variable(name: str, base: Path) -> str:
    if name not in os.environ:
        raise ConfigError(
            f"the environment variable {name} is not set", file=base / FILE_NAME, remedy=f"export {name}=..."
        )
    return os.environ[name]
