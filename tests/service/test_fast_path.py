"""The short way answers as the long one does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("fastapi")

from zhiyin.service import app as apps

from .conftest import client_of

JSON = {"Content-Type": "application/json"}
LISTS, RANK, EVENTS = "/v1/recommendations", "/v1/rank", "/v1/events"
REQUESTS: list[tuple[str, str | bytes, dict[str, str]]] = [
    (LISTS, '{"user": "u1", "k": 5, "filter": "price < 60", "explain": true}', JSON),
    (LISTS, '{"history": ["i1", "i2"], "k": "4"}', JSON),
    (LISTS, "{}", {"Content-Type": "application/json; charset=utf-8"}),
    (LISTS, "{}", {"Content-Type": "text/plain"}),
    (LISTS, "{}", {}),
    (LISTS, "", JSON),
    (LISTS, "{", JSON),
    (LISTS, "[]", JSON),
    (LISTS, '{"k": 0}', JSON),
    (LISTS, '{"k": 5, "kk": 1}', JSON),
    (LISTS, '{"balance": NaN}', JSON),
    (LISTS, b'{"user": "\xff"}', JSON),
    (LISTS, '{"user": "\\ud800"}', JSON),
    (LISTS, '{"filter": "price <"}', JSON),
    (LISTS, '{"placement": "nowhere"}', JSON),
    (LISTS, "{}", JSON | {"Authorization": "Bearer zy_wrong"}),
    (LISTS, "{}", JSON | {"Authorization": "Basic abc"}),
    (LISTS, "{}", JSON | {"Authorization": ""}),
    (RANK, '{"user": "u1", "items": ["i3", "nowhere", "i1", "i3"]}', JSON),
    (RANK, '{"items": []}', JSON),
    (RANK, '{"items": ["i1"], "boosts": [{"when": "price < 60", "multiply": 2}]}', JSON),
    (EVENTS, '{"events": [{"user": "q", "item": "i1", "id": "e1"}, {"user": "q", "item": ""}]}', JSON),
    (EVENTS, '{"user": "q", "item": "i1", "id": "e2"}\n\nnonsense\n', {"Content-Type": "application/x-ndjson"}),
    (EVENTS, '{"events": [{"user": "q", "item": "i1", "id": "e3", "value": NaN}]}', JSON),
    (EVENTS, '{"events": []}', JSON),
    (EVENTS, "{", JSON),
]


def plain(said: Any) -> Any:
    """Without what is another each time."""
    return {k: v for k, v in said.items() if k not in ("list_id", "milliseconds", "next")}


@pytest.mark.parametrize(("path", "body", "headers"), REQUESTS)
def test_both_ways_say_the_same(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, path: str, body: str | bytes, headers: dict[str, str]
) -> None:
    short = client_of(opened("short"))
    for part in (apps.list_routes, apps.event_routes):
        monkeypatch.setattr(part, "FAST_ROUTES", {})
    long = client_of(opened("long"))
    answers = [one.post(path, content=body, headers=headers) for one in (short, long)]
    assert answers[0].status_code == answers[1].status_code
    assert plain(answers[0].json()) == plain(answers[1].json())
    assert set(answers[0].headers) == set(answers[1].headers)
