"""One request and its response over a connection: what is written, in how many pieces, and what is refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from zhiyin.service.http_exchange import Exchange


class Flow:
    write_paused = False


class Transport:
    """Notes what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed = True


def sent(messages: Iterable[dict[str, Any]], method: str = "GET", keep_alive: bool = True) -> Transport:
    """The transport after a response of these messages."""
    transport = Transport()
    connection: Any = SimpleNamespace(
        scope={"method": method}, transport=transport, flow=Flow(), logger=logging.getLogger(),
        access_logger=logging.getLogger(), server_state=SimpleNamespace(default_headers=[]),
        expect_100_continue=False, on_response_complete=lambda: None,
    )  # fmt: skip

    async def send() -> None:
        exchange = Exchange(connection, keep_alive=keep_alive)
        for message in messages:
            await exchange.send(message)

    asyncio.run(send())
    return transport


def start(*headers: tuple[bytes, bytes], status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def test_headers_and_body_are_written_at_once() -> None:
    transport = sent([start((b"Content-Length", b"5"), (b"x-y", b"z")), body(b"hello")])
    assert transport.written == [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-y: z\r\n\r\nhello"]
    assert not transport.closed


def test_a_body_without_a_length_is_sent_in_chunks() -> None:
    transport = sent([start(), body(b"hello", more=True), body(b"", more=True), body(b"again")])
    head, _, rest = b"".join(transport.written).partition(b"\r\n\r\n")
    assert head == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked"
    assert rest == b"5\r\nhello\r\n5\r\nagain\r\n0\r\n\r\n"


def test_responses_without_a_body() -> None:
    transport = sent([start((b"content-length", b"5")), body(b"hello")], method="HEAD")
    assert transport.written == [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"]
    assert sent([start(status=204), body(b"")]).written == [b"HTTP/1.1 204 No Content\r\n\r\n"]


@pytest.mark.parametrize("headers", [[(b"connection", b"Keep-Alive, close")], []])
def test_a_connection_that_ends_with_the_response(headers: list[tuple[bytes, bytes]]) -> None:
    transport = sent([start((b"content-length", b"0"), *headers), body(b"")], keep_alive=bool(headers))
    assert transport.closed
    assert transport.written[0].lower().count(b"connection:") == 1


@pytest.mark.parametrize(
    "messages",
    [
        [body(b"")],
        [start((b"content-length", b"0")), start()],
        [start((b"content-length", b"0")), body(b""), body(b"")],
        [start((b"content-length", b"2")), body(b"abc")],
        [start((b"content-length", b"2")), body(b"a")],
        [start((b"x", b"a\r\nset-cookie: b"))],
        [start((b"x", b"a\nb"))],
        [start((b"x\r", b"a"))],
    ],
)
def test_what_is_no_response_is_an_error(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(RuntimeError):
        sent(messages)
