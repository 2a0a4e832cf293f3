"""The fields of an event are those of `records.Event` in every type that is written out beside it."""

from __future__ import annotations

import dataclasses
import inspect
import json
from typing import Any

from zhiyin.api.requests import EventBody
from zhiyin.api.responses import HistoryEvent
from zhiyin.client import event_calls
from zhiyin.client.api_types import Event as ClientEvent
from zhiyin.client.event_queue import EventQueue
from zhiyin.store.records import (
    ADDED_EVENT_FIELDS,
    EVENT_FIELD_TYPES,
    EVENT_FIELDS,
    HISTORY_FIELDS,
    STORED_EVENT_FIELDS,
    Event,
    history_json,
)
from zhiyin.store.tables import EVENTS, EVENTS_OF_USER

# Sent and not stored: the text of a review becomes the value.
SENT_ONLY = {"text"}


def test_what_is_sent_has_all_fields_that_are_stored() -> None:
    queue_parameters = set(inspect.signature(EventQueue.add).parameters) - {"self"}
    for place, names in {
        "EventBody of api/requests.py": EventBody.model_fields,
        "Event of client/api_types.py": [field.name for field in dataclasses.fields(ClientEvent)],
        "event of client/event_calls.py": inspect.signature(event_calls.event).parameters,
        "EventQueue.add of client/event_queue.py": queue_parameters,
    }.items():
        assert set(names) == set(STORED_EVENT_FIELDS) | SENT_ONLY, place


def test_an_answer_has_the_fields_of_histories() -> None:
    assert set(HistoryEvent.model_fields) == set(HISTORY_FIELDS)
    event = Event("u", "i", 1, value=2.0, id="e")
    assert set(history_json(event)) == set(HISTORY_FIELDS)
    assert all(value == getattr(event, name) for name, value in history_json(event).items())


# A value of every field that is sent.
_VALUES = {"text": "x", "integer": 5, "number": 1.5}
FIELDS: dict[str, Any] = {name: _VALUES[EVENT_FIELD_TYPES[name]] for name in STORED_EVENT_FIELDS}


def test_the_client_sends_every_field() -> None:
    assert event_calls.event_json(ClientEvent(**FIELDS)) == FIELDS
    assert event_calls.event_json(FIELDS) == FIELDS
    assert json.loads(event_calls.event(**FIELDS).body or b"") == {"events": [FIELDS]}


def test_the_queue_sends_every_field() -> None:
    sent: list[Any] = []

    class FakeClient:
        def events(self, events: list[ClientEvent]) -> Any:
            sent.extend(events)
            return event_calls.EventsResult([], 0)

    with EventQueue(FakeClient()) as queue:  # type: ignore[arg-type]
        queue.add(**FIELDS)
    assert [event_calls.event_json(event) for event in sent] == [FIELDS]


def test_the_table_holds_all_fields() -> None:
    assert set(EVENTS.c.keys()) == {*EVENT_FIELDS, "received"}
    assert set(EVENTS_OF_USER.columns.keys()) == set(EVENT_FIELDS)  # histories are read from the index alone
    assert all(EVENTS.c[name].nullable for name in ADDED_EVENT_FIELDS)
    defaults = {field.name: field.default for field in dataclasses.fields(Event)}
    assert all(defaults[name] is None for name in ADDED_EVENT_FIELDS)
