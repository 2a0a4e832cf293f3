"""What is wrong with values that do not fit a pydantic model: where, in plain words, and the nearest name."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from zhiyin.core.errors import closest_name, suggest

# Characters of a wrong value that are quoted.
MAX_QUOTED_CHARS = 80
_OBJECT_ERRORS = ("model_type", "model_attributes_type", "dict_type")
_SHOULD_BE = "it should be "


@dataclasses.dataclass(frozen=True)
class FieldError:
    """The first error of a value.

    Parameters
    ----------
    path: names of the fields, keys and positions that lead to it; empty where the fields contradict each other.
    message: what is wrong, without the path.
    remedy: the nearest name, or what there is; "" where the message says it all.
    """

    path: tuple[str, ...]
    message: str
    remedy: str = ""

    @property
    def field(self) -> str:
        """The path as one text, such as "policy.exploration.share"."""
        return ".".join(self.path)

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.path else self.message


def first_field_error(error: ValidationError, model: type[BaseModel] | None) -> FieldError:
    """The first error that validation by a model found.

    Of a value that is none of several alternatives, the error of the alternative that it is nearest to.

    Parameters
    ----------
    model: whose `model_validate` raised the error; None: the value is of a plain type.

    >>> class Point(BaseModel, extra="forbid"):
    ...     x: int = 0
    >>> try:
    ...     Point.model_validate({"X": 1})
    ... except ValidationError as error:
    ...     print(first_field_error(error, Point))
    X: there is no such key
    """
    entries = [(one, *_resolved(model, one["loc"])) for one in error.errors(include_url=False)]
    first = entries[0][1]
    same_value = [one for one in entries if one[1][: len(first)] == first]
    deepest = max(len(path) for _, path, _ in same_value)
    place = next(path for _, path, _ in same_value if len(path) == deepest)[:-1]
    same_object = [one for one in entries if one[1][:-1] == place and len(one[1]) == deepest]
    # A key that there is not may be the missing one, misspelt.
    misspelt = [one for one in same_object if one[0]["type"] == "extra_forbidden"]
    entry, path, parent = misspelt[0] if misspelt else next(one for one in same_value if len(one[1]) == deepest)
    message, remedy = _words(entry, path, parent)
    alternatives = dict.fromkeys(_words(*one)[0] for one in entries if one[1] == path)
    if len(alternatives) > 1 and all(words.startswith(_SHOULD_BE) for words in alternatives):
        message = _SHOULD_BE + " or ".join(words.removeprefix(_SHOULD_BE) for words in alternatives)
    return FieldError(path, message, remedy)


def _words(entry: Mapping[str, Any], path: Sequence[str], parent: type[BaseModel] | None) -> tuple[str, str]:
    """Message and remedy of an error as pydantic lists them. parent: the model that the last name of the path is of."""
    kind, context = str(entry["type"]), entry.get("ctx") or {}
    if kind == "extra_forbidden":
        return "there is no such key", suggest(path[-1], list(parent.model_fields)) if parent is not None else ""
    if kind == "missing":
        return "it is missing", ""
    if kind == "literal_error":
        value, names = entry["input"], str(context.get("expected", ""))
        message = f"{_quoted(value)} is none of {names}"
        known = [name.strip("'\" ") for name in names.replace(" or ", ", ").split(", ")]
        near = closest_name(value, known) if isinstance(value, str) else None
        return message, "" if near is None else f"did you mean {near!r}?"
    if kind in _OBJECT_ERRORS:  # pydantic would name a class
        return "it should be an object", ""
    message = str(entry["msg"]).removeprefix("Value error, ")
    return f"it should{message.removeprefix('Input should')}" if message.startswith("Input should") else message, ""


def _quoted(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_QUOTED_CHARS else text[: MAX_QUOTED_CHARS - 3] + "..."


def _resolved(
    model: type[BaseModel] | None, loc: Sequence[str | int]
) -> tuple[tuple[str, ...], type[BaseModel] | None]:
    """The path of a place as pydantic tells it, without the names of alternatives, and the model that its end is of."""
    kind: Any = model
    path: list[str] = []
    parent: type[BaseModel] | None = None
    for part in loc:
        kind = _plain_type(kind)
        if part == "[key]":  # the key that stands before it is wrong, not its value
            continue
        if typing.get_origin(kind) in (typing.Union, types.UnionType):  # the part names an alternative
            kind = next((one for one in typing.get_args(kind) if getattr(one, "__name__", "") == part), None)
            continue
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(str(part))
            parent, kind = kind, None if field is None else field.annotation
        elif typing.get_args(kind):  # of a mapping the values, of a list the elements
            parent, kind = None, typing.get_args(kind)[-1]
        elif path:
            continue
        path.append(str(part))
    return tuple(path), parent


def _plain_type(kind: Any) -> Any:
    """A type without its annotations, and without None."""
    while True:
        if typing.get_origin(kind) is typing.Annotated:
            kind = typing.get_args(kind)[0]
        elif typing.get_origin(kind) in (typing.Union, types.UnionType):
            members = [one for one in typing.get_args(kind) if one is not types.NoneType]
            if len(members) > 1:
                return kind
            kind = members[0]
        else:
            return kind
