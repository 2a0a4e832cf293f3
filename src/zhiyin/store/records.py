"""Records of the store: events, and columns of items and users. Validated here, whoever writes them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any

from zhiyin.core.errors import DataError
from zhiyin.core.limits import LARGEST_VALUE, MAX_COLUMNS, MAX_ID_CHARS, MAX_INTEGER, MAX_KIND_CHARS
from zhiyin.core.text_validation import SURROGATE, text
from zhiyin.core.uid import fresh_id
from zhiyin.data.event_schema import is_value
from zhiyin.data.time_policy import TimePolicy, wall_clock

# Bytes of all columns of an item or user, as JSON.
MAX_COLUMNS_BYTES = 256 * 1024
# Which times are accepted.
TIME_POLICY = TimePolicy()
# What a field of an event holds, as metadata of the field: "text" of 1 to `max_chars` characters, "integer" of at most
# MAX_INTEGER, or "number" of at most LARGEST_VALUE.
ID = {"type": "text", "max_chars": MAX_ID_CHARS}
KIND = {"type": "text", "max_chars": MAX_KIND_CHARS}
INTEGER, NUMBER = {"type": "integer"}, {"type": "number"}


def hash_of(user: str) -> str:
    """SHA-256 of a user's id, by which the store knows who was forgotten."""
    return hashlib.sha256(user.encode()).hexdigest()


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """An event of a user with an item. The fields are declared here only: columns, statements, frames, entries of Redis
    and JSON are made of them.

    What is stored has the fields in this order, so a new field stands last, behind `seq`, and is None by default: what
    was stored before lacks it.

    Parameters
    ----------
    user, item: ids as texts.
    time: microseconds UTC.
    kind: such as "view" or "purchase".
    value: a rating, a quantity or a price, of at most LARGEST_VALUE; None for none.
    id: tells a retry from a second click: of one id only the first event is stored. Generated where not given.
    list_id: the list that the item was shown in; None if in none.
    seq: sequence number in the store's order of arrival; 0: not known, or not stored yet. Not compared.
    """

    user: str = dataclasses.field(metadata=ID)
    item: str = dataclasses.field(metadata=ID)
    time: int = dataclasses.field(metadata=INTEGER)
    kind: str = dataclasses.field(default="event", metadata=KIND)
    value: float | None = dataclasses.field(default=None, metadata=NUMBER)
    id: str = dataclasses.field(default="", metadata=ID)
    list_id: str | None = dataclasses.field(default=None, metadata=ID)
    seq: int = dataclasses.field(default=0, compare=False, metadata=INTEGER)

    def validated(self, now: int | None = None) -> Event:
        """The event validated; see `validated_event`."""
        return validated_event(*_values(self), now=now)

    def numbered(self, seq: int) -> Event:
        """The event with its sequence number."""
        event: Any = _MutableEvent(*_all_values(self))
        event.seq = seq
        event.__class__ = Event
        return event


EVENT_FIELDS = tuple(field.name for field in dataclasses.fields(Event))
EVENT_FIELD_TYPES = {field.name: field.metadata["type"] for field in dataclasses.fields(Event)}
_MAX_CHARS = {field.name: field.metadata.get("max_chars", 0) for field in dataclasses.fields(Event)}
# All fields but the one that the database gives.
STORED_EVENT_FIELDS = tuple(name for name in EVENT_FIELDS if name != "seq")
# Fields that stores, exports and entries of Redis of before may lack.
ADDED_EVENT_FIELDS = EVENT_FIELDS[EVENT_FIELDS.index("seq") + 1 :]
# Fields of an event in the history of a user and in the trace of a list.
HISTORY_FIELDS = ("id", "item", "time", "kind", "value", *ADDED_EVENT_FIELDS)
_values, _all_values = operator.attrgetter(*STORED_EVENT_FIELDS), operator.attrgetter(*EVENT_FIELDS)
_history_values = operator.attrgetter(*HISTORY_FIELDS)


def history_json(event: Event) -> dict[str, Any]:
    """An event as the history of a user and the trace of a list show it."""
    return dict(zip(HISTORY_FIELDS, _history_values(event)))


def validated_event(
    user: Any, item: Any, time: Any, kind: Any, value: Any, id: Any, list_id: Any, *added: Any, now: int | None = None
) -> Event:
    """A valid event of any values, with an id. Raises DataError that names the field.

    Parameters
    ----------
    added: values of ADDED_EVENT_FIELDS; those left out are None.
    now: microseconds UTC; None: the clock of this machine. A time up to a day ahead of it is replaced by it; one that
        is further ahead, or before 1971, is refused.
    """
    text(user, "user", MAX_ID_CHARS)
    text(item, "item", MAX_ID_CHARS)
    text(kind, "kind", MAX_KIND_CHARS)
    if list_id is not None:
        text(list_id, "list_id", MAX_ID_CHARS)
    if added:
        added = tuple(map(_checked, ADDED_EVENT_FIELDS, added))
    if type(time) is float and time.is_integer():  # in JSON 1.7e15 is a whole number
        time = int(time)
    if isinstance(time, bool) or not isinstance(time, int):
        raise DataError(f"time = {_short(time)} is no moment", column="time", remedy="microseconds UTC, an integer")
    now = wall_clock() if now is None else now
    if not TIME_POLICY.accepts(time, now):
        message, remedy = TIME_POLICY.refusal(time, now)
        raise DataError(message, column="time", remedy=remedy)
    if value is not None:
        value = _number(value, "value")
    if id:
        text(id, "id", MAX_ID_CHARS)
    event: Any = _MutableEvent(user, item, min(time, now), kind, value, id or fresh_id(), list_id, 0, *added)
    event.__class__ = Event
    return event


def _checked(name: str, value: Any) -> Any:
    """The value of one of ADDED_EVENT_FIELDS, as it is stored. Raises DataError that names the field."""
    if value is None:
        return None
    type_name = EVENT_FIELD_TYPES[name]
    if type_name == "text":
        return text(value, name, _MAX_CHARS[name])
    if type_name == "integer":
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_INTEGER:
            raise DataError(f"{name} = {_short(value)} is no integer", column=name,
                            remedy=f"an integer from -{MAX_INTEGER} to {MAX_INTEGER}, or none")  # fmt: skip
        return value
    return _number(value, name)


def _number(value: Any, name: str) -> float:
    """A number that can be learned. Raises DataError that names the field."""
    if not is_value(value):
        raise DataError(f"{name} = {_short(value)} is no number that can be learned", column=name,
                        remedy=f"a number from -{LARGEST_VALUE} to {LARGEST_VALUE}, or none")  # fmt: skip
    return float(value)  # as databases store it: an integer of Python may be of any length


def columns(value: Any, name: str = "columns") -> dict[str, Any]:
    """Valid columns of an item or user: names to texts, numbers, booleans, null, or lists of texts or numbers.

    Raises DataError that names the column.
    """
    if not isinstance(value, Mapping) or len(value) > MAX_COLUMNS:
        raise DataError(f"{name} are no columns", column=name, remedy=f"an object of at most {MAX_COLUMNS} names")
    for key, part in value.items():
        text(key, name, MAX_ID_CHARS)
        if key == "id":
            raise DataError("a column cannot be named id", column="id", remedy="the id stands in the address")
        many = part if isinstance(part, list) else [part]
        if not all(part is None or isinstance(part, str | bool | int | float) for part in many):
            raise DataError(f"column {key!r} holds an object", column=key, remedy="texts, numbers, or a list of them")
        if any(isinstance(part, float) and not math.isfinite(part) for part in many):
            raise DataError(f"column {key!r} holds no finite number", column=key, remedy="leave it out if unknown")
        if any(isinstance(part, int | float) and abs(part) > MAX_INTEGER for part in many):
            raise DataError(f"column {key!r} holds a number too large", column=key, remedy="write it as a text")
        for part in many:
            if isinstance(part, str) and ("\x00" in part or SURROGATE.search(part)):
                raise DataError(
                    f"column {key!r} holds half a character or NUL", column=key, remedy="send valid Unicode"
                )
    if len(json.dumps(value, ensure_ascii=False).encode()) > MAX_COLUMNS_BYTES:
        raise DataError(f"{name} are too large", column=name, remedy=f"at most {MAX_COLUMNS_BYTES // 1024} KiB as JSON")
    return dict(value)


def _short(value: Any) -> str:
    """A value as an error message quotes it: Python refuses to write integers of thousands of digits."""
    return "an integer too large" if isinstance(value, int) and abs(value) > 10**80 else repr(value)[:80]


# An event under construction: a frozen class sets its fields five times slower, and histories hold many.
_MutableEvent: Any = dataclasses.make_dataclass(
    "_MutableEvent",
    [(field.name, field.type, dataclasses.field(default=field.default)) for field in dataclasses.fields(Event)],
    slots=True,
)


def events_from_rows(rows: Iterable[tuple[Any, ...]]) -> list[Event]:
    """Events of rows (EVENT_FIELDS) that were validated before; a row may end before ADDED_EVENT_FIELDS."""
    events: list[Any] = []
    for row in rows:
        one: Any = _MutableEvent(*row)
        one.__class__ = Event
        events.append(one)
    return events
