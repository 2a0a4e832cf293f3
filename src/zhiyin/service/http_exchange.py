"""Exchange: one request of a connection and its response, as the `receive` and `send` of ASGI.

The headers of a response are written with the first part of its body: one system call here, one packet, and one
waking of the client instead of two.
"""

from __future__ import annotations

import asyncio
import http
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

if TYPE_CHECKING:
    from zhiyin.service.http_connection import Connection

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") for status in http.HTTPStatus
}
_WITHOUT_BODY = frozenset({204, 304})


class Exchange(RequestResponseCycle):
    """One request and its response.

    Parameters
    ----------
    connection: over which the request comes; its `scope` is that of the request.
    keep_alive: whether the client expects the connection to stay open.
    """

    def __init__(self, connection: Connection, *, keep_alive: bool) -> None:
        super().__init__(
            connection.scope, connection.transport, connection.flow, connection.logger, connection.access_logger,
            False, connection.server_state.default_headers, asyncio.Event(), connection.expect_100_continue,
            keep_alive, connection.on_response_complete,
        )  # fmt: skip
        # Headers that wait for the body.
        self._head = b""

    async def send(self, message: Any) -> None:
        """Send a part of the response, as ASGI has it. Raises RuntimeError for parts in a wrong order."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if not self.response_started:
            if kind != "http.response.start":
                raise RuntimeError(f"a response begins with its status, not with {kind}")
            self.response_started, self.waiting_for_100_continue = True, False
            self._head = self._headers(message["status"], message.get("headers", ()))
        elif self.response_complete or kind != "http.response.body":
            raise RuntimeError(f"{kind} comes out of order in a response")
        else:
            self._send_body(message.get("body", b""), more=message.get("more_body", False))

    def _headers(self, status: int, headers: Any) -> bytes:
        """The status line and the headers, with what their values say of the body noted."""
        lines = [_STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n".encode("ascii")]
        says_close = False
        for name, value in (*self.default_headers, *headers):
            name = name.lower()
            lines.append(b"%b: %b\r\n" % (name, value))
            if name == b"content-length":
                if self.chunked_encoding is None:
                    self.expected_content_length, self.chunked_encoding = int(value), False
            elif name == b"transfer-encoding":
                if value.lower() == b"chunked":
                    self.expected_content_length, self.chunked_encoding = 0, True
            elif name == b"connection" and b"close" in [token.strip() for token in value.lower().split(b",")]:
                self.keep_alive, says_close = False, True
        if not self.keep_alive and not says_close:
            lines.append(b"connection: close\r\n")
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in _WITHOUT_BODY:
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
            raise RuntimeError("a header of the response holds a line break")
        return head + b"\r\n"

    def _send_body(self, body: bytes, *, more: bool) -> None:
        head, self._head = self._head, b""
        if self.scope["method"] == "HEAD":
            self.expected_content_length, data = 0, b""
        elif self.chunked_encoding:
            data = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            data += b"" if more else b"0\r\n\r\n"
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("the body is longer than its headers say")
            data = body
        if not more and self.expected_content_length != 0:
            raise RuntimeError("the body is shorter than its headers say")
        self.transport.write(head + data)
        if not more:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()
