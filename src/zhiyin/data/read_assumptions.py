"""How a source is written where its content leaves it open: what the caller assumes, and what reading assumed."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

from zhiyin.core.booleans import to_boolean
from zhiyin.core.errors import ConfigError, suggest
from zhiyin.data.time_zones import is_zone


@dataclasses.dataclass(frozen=True)
class Dialect:
    """What the caller assumes of a source; None where its content decides.

    Parameters
    ----------
    encoding: of text files that are not in UTF-8, such as "gb18030".
    separator: between fields of text files.
    header: the line of the log's header, from 1; 0 where there is none.
    decimal: "." or ",", the mark before the fraction of a number.
    day_first: whether 03/04/2024 is 3 April (true) or 4 March (false).
    zone: where times without a zone are from, such as "Europe/Berlin"; left out, they are UTC.
    missing: words that denote a missing value.
    text: columns that stay text although they hold numbers.
    """

    encoding: str | None = None
    separator: str | None = None
    header: int | None = None
    decimal: str | None = None
    day_first: bool | None = None
    zone: str | None = None
    missing: tuple[str, ...] | None = None
    text: tuple[str, ...] = ()

    @classmethod
    def of(cls, assume: Mapping[str, Any] | None) -> Dialect:
        """From keys and values. Raises ConfigError for an unknown key, or a value that is not of its type."""
        values = {key: value for key, value in dict(assume or {}).items() if value is not None}
        field_names = {field.name for field in dataclasses.fields(cls)}
        for key, value in values.items():
            if key not in field_names:
                raise ConfigError(f"nothing called {key!r} can be assumed", remedy=suggest(key, sorted(field_names)))
            if not _VALUE_RULES[key][0](value):
                raise ConfigError(
                    f"{key} = {value!r} cannot be assumed", remedy=f"write {key} = {_VALUE_RULES[key][1]}"
                )
            if key in ("missing", "text"):
                values[key] = tuple(value)
        return cls(**values)

    def without_header(self) -> Dialect:
        """The same for the other tables: `header` is of the log."""
        return dataclasses.replace(self, header=None)


def parse_assumption(text: str) -> tuple[str, Any]:
    """KEY=VALUE of the command line as a key and a value of its type. Raises ConfigError as `Dialect.of` does."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals:
        raise ConfigError(f"{text!r} is no assumption", remedy="write KEY=VALUE, such as day_first=true")
    if key in ("missing", "text"):
        return key, [part.strip() for part in value.split(",") if part.strip()]
    if key == "day_first":
        with contextlib.suppress(ValueError):
            return key, to_boolean(value)
    if key == "header" and value.strip().isdecimal():
        return key, int(value)
    if key == "separator":
        return key, {"\\t": "\t", "tab": "\t", "space": " ", "\\x01": "\x01"}.get(value, value)
    return key, value


def _is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(part, str) for part in value)


_VALUE_RULES: dict[str, tuple[Any, str]] = {
    "encoding": (lambda value: isinstance(value, str), '"gb18030"'),
    "separator": (lambda value: isinstance(value, str) and 0 < len(value) <= 2, '";"'),
    "header": (lambda value: type(value) is int and 0 <= value <= 100, "1, at most 100, or 0 for none"),
    "decimal": (lambda value: value in (".", ","), '"." or ","'),
    "day_first": (lambda value: isinstance(value, bool), "true or false"),
    "zone": (lambda value: isinstance(value, str) and is_zone(value), '"Europe/Berlin"'),
    "missing": (_is_texts, '["NA", "-"]'),
    "text": (_is_texts, '["zip"]'),
}


@dataclasses.dataclass
class Findings:
    """What was decided while tables were read.

    Parameters
    ----------
    notes: sentences to be shown.
    assumed: keys of a `Dialect` that were assumed, each with the one value that holds for all that was read.
    disputed: keys that were assumed differently for several columns or files: no value holds for all.
    """

    notes: list[str] = dataclasses.field(default_factory=list)
    assumed: dict[str, Any] = dataclasses.field(default_factory=dict)
    disputed: set[str] = dataclasses.field(default_factory=set)

    def note(self, sentence: str) -> None:
        """Add a sentence, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def record(self, key: str, value: Any) -> None:
        """Add a value that was assumed. One that contradicts another is dropped with it: the next reading, which would
        take it for all columns and files, judges each by itself as this one did."""
        if key not in self.disputed and self.assumed.setdefault(key, value) != value:
            self.dispute(key)

    def dispute(self, key: str) -> None:
        """Say that no value of a key holds for all that was read."""
        self.disputed.add(key)
        self.assumed.pop(key, None)

    def assume(self, key: str, value: Any, sentence: str) -> None:
        """Add a decision that could have been another one, and the sentence with both readings."""
        self.record(key, value)
        value_text = "true" if value is True else "false" if value is False else repr(value).replace("'", '"')
        self.note(f"{sentence} (assumed: {key} = {value_text}, under [read] or by --assume)")
