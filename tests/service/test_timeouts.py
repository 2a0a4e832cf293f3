"""What took too long is said by its name: a commit, something behind the service, or the request itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

pytest.importorskip("starlette")

from zhiyin.service import event_routes
from zhiyin.service.app import create_app

EVENTS = {"events": [{"user": "a", "item": "i1", "id": "e1"}]}


def client_of(shop: Any, **more: Any) -> Any:
    from starlette.testclient import TestClient

    client = TestClient(create_app([shop], **more))
    client.headers["Authorization"] = f"Bearer {shop.shown['admin']}"
    return client


# Without and with an empty query.
WAYS = pytest.mark.parametrize("path", ["/v1/events", "/v1/events?"])


@WAYS
def test_a_commit_that_takes_too_long(path: str, opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    shop, waiting = opened(), []
    client = client_of(shop)

    def submit(given: Any, validated: bool) -> Future[list[bool]]:
        waiting.append(Future())
        return waiting[-1]

    with monkeypatch.context() as patch:
        patch.setattr(event_routes, "COMMIT_TIMEOUT_SECONDS", 0.05)
        patch.setattr(shop.writer, "submit", submit)
        answer = client.post(path, json=EVENTS)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "did not commit" in answer.json()["error"]
    assert "send the same events again" in answer.json()["remedy"]
    assert waiting[0].cancelled()  # what has not begun is not written behind the client's back
    assert client.post(path, json=EVENTS).json()["events"][0]["status"] == "accepted"


@WAYS
def test_a_timeout_of_the_writer_is_none_of_the_commit(
    path: str, opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shop = opened()
    client = client_of(shop)

    def keep(_: Any) -> list[bool]:
        raise TimeoutError("the file system did not answer: a secret of u7")

    monkeypatch.setattr(shop.store, "append_validated", keep)
    with caplog.at_level(logging.WARNING, logger="zhiyin"):
        answer = client.post(path, json=EVENTS)
    assert answer.status_code == 504
    assert "commit" not in answer.json()["error"]
    assert "did not answer in time" in answer.json()["error"]
    assert "secret" not in answer.text
    assert "did not answer in time" in caplog.text


@pytest.mark.parametrize("way", ["short", "plain", "get"])
def test_a_timeout_of_anything_else_is_none_of_the_store(
    way: str, opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = opened()
    client = client_of(shop)

    def late(*_: Any, **__: Any) -> Any:
        raise TimeoutError("cut off")

    monkeypatch.setattr(shop.list_service, "create", late)
    monkeypatch.setattr(shop.store, "history", late)
    if way == "get":
        answer = client.get("/v1/users/u1/history")
    else:
        answer = client.post("/v1/recommendations" + ("?" if way == "plain" else ""), json={"user": "u1"})
    assert answer.status_code == 504, answer.text
    assert "commit" not in answer.json()["error"]
    assert answer.json()["remedy"]


def test_the_time_of_a_request_is_told_apart_from_a_timeout_within_it(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of a whole request is the service's own: 503, come again."""
    import threading

    shop, go = opened(), threading.Event()
    client = client_of(shop, longest=0.1)
    monkeypatch.setattr(shop.store, "history", lambda user, most: go.wait(10) and [])
    answer = client.get("/v1/users/u1/history")
    go.set()
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "longer than 0.1 seconds" in answer.json()["error"]
