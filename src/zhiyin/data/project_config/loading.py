"""Loading of a settings file, with errors that name the line, the key and what would be right."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from zhiyin.core.errors import ConfigError, suggest
from zhiyin.data.project_config.config import FREE_SECTIONS, NESTED_SECTIONS, Config
from zhiyin.data.project_config.project_data import (
    STREAMS_IN_STORE,
    STREAMS_IN_STORE_REMEDY,
    is_same_database,
    resolved,
    store_address,
)


def load_config(path: str | Path) -> Config:
    """Read a configuration file.

    Raises ConfigError that names file, line, key and what would be right, for an unknown key the nearest.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError("there is no such configuration file", file=path, remedy="write one: zhiyin init")
    text = read_text(path)
    raw = _parsed(text, path)
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        key_path = _error_path(error)
        raise _explain(error, key_path, raw, path, text) from None
    clash = _streams_error(config, path, text)
    if clash is not None:
        raise clash
    return config


def read_text(path: Path) -> str:
    """The text of a configuration file. Raises ConfigError where it cannot be read or is not UTF-8."""
    try:
        content = path.read_bytes()
        return content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(
            f"the file cannot be read: {error.strerror}", file=path, remedy="see its permissions: ls -l"
        ) from None
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise ConfigError("the file is not UTF-8", file=path, row=row, remedy="save it as UTF-8") from None


def parse_usable(text: str, path: str | Path) -> tuple[Config, dict[tuple[str, ...], ConfigError]]:
    """What of the text of a configuration file can be used; and by place what cannot, and why.

    Of what cannot be used keys take their defaults, entries of tables are left out. A place is a section and a key, and
    of tables of names (`[schema]`, `[answers] context`) the name too; of a section that is no table, and of one that
    there is not, the section alone. Raises ConfigError for a text that is no TOML.
    """
    path = Path(path)
    raw = _parsed(text, path)
    errors: dict[tuple[str, ...], ConfigError] = {}
    while True:
        try:
            config = Config.model_validate(raw)
            clash = _streams_error(config, path, text)
            if clash is not None:
                errors["service", "streams"] = clash
                config.service.streams = None
            return config, errors
        except ValidationError as error:
            key_path = _error_path(error)
            reason = _explain(error, key_path, raw, path, text)
            for entry in _bad_entries(raw, key_path):
                errors[tuple(entry)] = reason
                del _dig(raw, entry[:-1])[entry[-1]]


def _streams_error(config: Config, path: Path, text: str) -> ConfigError | None:
    """The error of streams whose state would be in the database of the store; None where it is in another one."""
    if config.service.streams is None:
        return None
    try:
        streams, store = resolved(config.service.streams, path.parent), store_address(config, path.parent)
    except ConfigError:  # a variable that is not set is an error where it is needed
        return None
    if not is_same_database(streams, store):
        return None
    row = row_of(text, ["service", "streams"])
    return ConfigError(STREAMS_IN_STORE, file=path, row=row, remedy=STREAMS_IN_STORE_REMEDY)


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a ValueError
        row = re.search(r"at line (\d+)", str(error))
        last = max(1, len(text.splitlines())) if "end of document" in str(error) else None
        why = error if isinstance(error, tomllib.TOMLDecodeError) else "a value is too long or too deep"
        raise ConfigError(
            f"this is not TOML: {why}",
            file=path,
            row=int(row[1]) if row else last,
            remedy='texts stand in "quotes", lists in [brackets], sections begin with [name]',
        ) from None


def _error_path(error: ValidationError) -> list[str]:
    """The section, the table of one that holds tables, and, where it is a key of it that is wrong, the key."""
    place = [str(part) for part in error.errors()[0]["loc"]]
    return place[: 3 if place[0] in NESTED_SECTIONS else 2]


def _bad_entries(raw: dict[str, Any], key_path: list[str]) -> list[list[str]]:
    """Of a key that holds a table the entries that are wrong by themselves, else the key."""
    value = _dig(raw, key_path)
    if len(key_path) < 2 or not isinstance(value, dict) or key_path[0] in FREE_SECTIONS:
        return [key_path]
    bad = []
    for name, entry in value.items():
        try:
            Config.model_validate({key_path[0]: {key_path[1]: {name: entry}}})
        except ValidationError:
            bad.append([*key_path, name])
    return bad or [key_path]


def _explain(error: ValidationError, key_path: list[str], raw: dict[str, Any], path: Path, text: str) -> ConfigError:
    """What is wrong with the first key that is wrong, in the words of its field."""
    first = error.errors()[0]
    place = key_path
    if key_path[0] in NESTED_SECTIONS and len(key_path) > 1:
        key_path = [".".join(key_path[:2]), *key_path[2:]]
    section = Config.model_fields.get(key_path[0])
    if first["type"] == "extra_forbidden":
        inner = _keys(key_path[0]) if len(key_path) > 1 else {}
        key_names = list(inner) if len(key_path) > 1 else list(Config.model_fields)
        elsewhere = [name for name in Config.model_fields if name != key_path[0] and key_path[-1] in _keys(name)]
        remedy = suggest(key_path[-1], key_names)
        if elsewhere and not remedy.startswith("did you"):
            remedy = f"it belongs under [{elsewhere[0]}]"
        what = (
            f"[{key_path[0]}] has no key {key_path[-1]!r}"
            if len(key_path) > 1
            else f"there is no section {key_path[0]!r}"
        )
        return ConfigError(what, file=path, row=row_of(text, place), remedy=remedy)
    free = key_path[0] in FREE_SECTIONS
    field = section if free or len(key_path) == 1 else _keys(key_path[0]).get(key_path[1])
    expected = (field.title if field else None) or "a section of keys"
    value = repr(_dig(raw, place))
    return ConfigError(
        f"{'.'.join(key_path)} = {value if len(value) <= 80 else value[:77] + '...'} is not right",
        file=path,
        row=row_of(text, place),
        remedy=f"write {expected}" + (f" ({field.description})" if field and field.description and not free else ""),
    )


def _keys(section: str) -> dict[str, FieldInfo]:
    """The keys of a section, or of a table in one ("features.reviews"); none for the free tables."""
    name, _, inner = section.partition(".")
    field = Config.model_fields.get(name)
    kind = field.annotation if field else None
    if inner and isinstance(kind, type) and issubclass(kind, BaseModel):
        field = kind.model_fields.get(inner)
        kind = field.annotation if field else None
    return dict(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else {}


def _dig(value: Any, key_path: list[str]) -> Any:
    for part in key_path:
        value = value[part] if isinstance(value, dict) and part in value else value
    return value


def row_of(text: str, key_path: Sequence[str]) -> int | None:
    """The line of a key, as far as the text shows it; None where it is not found."""
    section = ""
    for row, line in enumerate(text.splitlines(), 1):
        head = re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line)
        if head:
            section = head[1].replace('"', "")
            if section == ".".join(key_path):
                return row
            continue
        name = re.match(r"""\s*(["']?)(.+?)\1\s*=""", line)
        if (
            name
            and [*section.split("."), name[2]][-len(key_path) :] == list(key_path)
            and not line.lstrip().startswith("#")
        ):
            return row
    return None
