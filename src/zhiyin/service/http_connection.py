"""One HTTP connection: how long a client may take for its headers, and how much it may send."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from zhiyin.service.http_exchange import Exchange
from zhiyin.service.request_limits import MAX_BODY_BYTES

if TYPE_CHECKING:
    from zhiyin.service.connections import Connections

# Bytes of a request's line and headers, and of its trailers; number of headers.
MAX_HEADER_BYTES, MAX_HEADERS = 64 << 10, 100
# Seconds from the first byte, or the opening of the connection, to the end of the headers; seconds without progress in
# reading an answer.
HEADER_SECONDS, WRITE_STALL_SECONDS = 15.0, 30.0
# Bytes and seconds for which incoming bytes are discarded after a refusal: a client that is still sending when its
# connection is closed never reads the answer.
MAX_DISCARDED_BYTES, DISCARD_SECONDS = 16 << 20, 3.0
# Seconds between two discards, at first.
DRAIN_SECONDS = 0.03
# Bytes on the wire of one request with a body: chunks have heads of their own.
MAX_REQUEST_BYTES = 2 * MAX_BODY_BYTES + MAX_HEADER_BYTES
# Bytes behind the headers that are parsed before they are needed.
MAX_PARSED_AHEAD = 2 << 10
# Reads of one request, and chunks of one body, that may be small.
MAX_SMALL_READS, MAX_SMALL_CHUNKS = 16, 4_096
# Mean bytes of a read, and of a chunk, below which they are small.
SMALL_READ_BYTES, SMALL_CHUNK_BYTES = 256, 8
# Seconds between two reads of a request that comes in small ones.
SLOW_READ_SECONDS = 0.25
# Receive buffer of a refused connection, in bytes: with room for all that is still sent, the kernel wakes the sender
# once and not for every window.
DRAIN_WINDOW_BYTES = 4 << 20


class Connection(HttpToolsProtocol):
    """One connection as uvicorn answers it, within the limits of its `Connections`; see `connections.limited`."""

    all: Connections

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.address, self._root_path_bytes = "", self.root_path.encode("ascii")
        # Whether headers are expected, and since when (None: not, or timed by keep-alive).
        self._since: float | None = time.monotonic()
        self._in_headers, self._bytes, self._discarded_bytes = True, 0, -1
        self._stuck: tuple[int, float] | None = None
        self._drain: SocketDrain | None = None
        self._reads = self._chunks = self._body_bytes = 0
        # The last bytes of the headers so far, and bytes behind them that are not parsed yet.
        self._last, self._unparsed = b"", b""
        self._slow_timer: asyncio.TimerHandle | None = None
        # Whether bytes behind a request that is being answered are no HTTP.
        self.broken = False

    @property
    def slowed_down(self) -> bool:
        """Whether reading is paused because the request comes in small pieces."""
        return self._slow_timer is not None

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self._in_headers and (self.cycle is None or self.cycle.response_complete) and not self.pipeline

    @property
    def silent(self) -> bool:
        """Whether it has had no request so far."""
        return self.cycle is None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Transport(transport, self))  # type: ignore[arg-type]
        self.address = self.client[0] if self.client else ""
        if not self.all.opened(self):
            self._refuse(503, "too many connections: come again in a second")

    def connection_lost(self, exc: Exception | None) -> None:
        self.all.closed(self)
        if self._drain is not None:
            self._drain.close()
        if self._slow_timer is not None:
            self._slow_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._discarded_bytes >= 0:
            self.discarded(len(data))
            return
        self._reads += 1
        if self._unparsed:
            self._unparsed += data
            return
        self._parse_first(data)
        if self._reads > MAX_SMALL_READS and self._bytes < SMALL_READ_BYTES * self._reads:
            self._slow_down()

    def _parse_first(self, data: bytes) -> None:
        """Parse the headers of one request alone, where many bytes follow them.

        Whether the body, which may have a million chunks, or the next request is read depends on the answer.
        """
        if self._in_headers and len(data) > MAX_PARSED_AHEAD:
            end = _end_of_headers(self._last, data)
            if 0 < end < len(data) - MAX_PARSED_AHEAD:
                self._parse(data[:end])
                if not self.transport.is_closing():
                    self._unparsed = data[end:]
                    self.flow.pause_reading()
                return
        self._last = data[-3:] if len(data) > 2 else (self._last + data)[-3:]
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._in_headers:
            if self._since is None:
                self._since = time.monotonic()
            part = MAX_HEADER_BYTES - (self._bytes - len(data))
            # Further bytes may be a body, the next request, or more of these headers.
            if part < len(data) and data.find(b"\r\n\r\n", 0, max(0, part)) < 0:
                if part > 0:
                    super().data_received(data[:part])
                if self._in_headers and self._bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
                    self._refuse(
                        431, f"the headers are too large: at most {MAX_HEADER_BYTES >> 10} KiB, {MAX_HEADERS} headers"
                    )
                elif self.parser is not None and not self.transport.is_closing():
                    super().data_received(data[max(0, part) :])
                return
        elif self._bytes > MAX_REQUEST_BYTES:
            self._refuse(413, "the request is too large")
            return
        super().data_received(data)

    def parse_rest(self) -> None:
        """Parse the remaining bytes: the body is read, or the answer before is complete."""
        if self._unparsed:
            data, self._unparsed = self._unparsed, b""
            self._parse_first(data)

    def _slow_down(self) -> None:
        """Read less often, so that the kernel gathers small pieces: each read costs the same, however small it is."""
        if self._slow_timer is None and not self.transport.is_closing():
            self.transport.pause_reading()
            self._slow_timer = self.loop.call_later(SLOW_READ_SECONDS, self._resume_reading)

    def _resume_reading(self) -> None:
        self._slow_timer = None
        if not self.flow.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    # -- callbacks of the parser --------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_headers:
            return  # a trailer, which comes after the body, is no header: a proxy has not seen it
        if len(self.headers) >= MAX_HEADERS:
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_headers, self._since = False, None
        parser, scope = self.parser, self.scope
        scope["method"] = parser.get_method().decode("ascii")
        version = parser.get_http_version()
        if version != "1.1":
            scope["http_version"] = version
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope["raw_path"] = self._root_path_bytes + url.path
        scope["path"] = self.root_path + (unquote(path) if "%" in path else path)
        scope["query_string"] = url.query or b""
        before = self.cycle
        self.cycle = exchange = Exchange(self, keep_alive=version != "1.0" and parser.should_keep_alive())
        if before is None or before.response_complete:
            self._start_asgi_task(exchange, self.app)
        else:  # requests that are sent before the answer to this one are answered in their order
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self.app))

    def on_body(self, body: bytes) -> None:
        self._chunks += 1
        self._body_bytes += len(body)
        if self._chunks > MAX_SMALL_CHUNKS and self._body_bytes < SMALL_CHUNK_BYTES * self._chunks:
            raise ValueError("the chunks are too small")
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_headers, self._last = True, b""
        self._bytes = self._reads = self._chunks = self._body_bytes = 0

    def on_response_complete(self) -> None:
        if not self._in_headers and self.cycle.response_complete and not self.transport.is_closing():
            self.transport.close()  # the rest of the body is not wanted, nor parsed
        super().on_response_complete()
        if not self.idle:  # the remaining bytes were a request
            self._unset_keepalive_if_required()

    def send_400_response(self, msg: str) -> None:
        if self.cycle is None or self.cycle.response_complete:
            super().send_400_response(msg)
        elif self._in_headers:  # the requests before it are answered, and then the connection ends
            self.broken, self.cycle.keep_alive = True, False
            self.flow.pause_reading()
        elif self.cycle.response_started:
            self.abort()
        else:
            super().send_400_response(msg)

    # -- the end ------------------------------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """Close the connection if it is too slow."""
        if self._discarded_bytes >= 0:
            if self._since is not None and now - self._since > DISCARD_SECONDS:
                self.abort()
        elif self.idle and self._since is not None and now - self._since > HEADER_SECONDS:
            if self.silent and not self._bytes:
                self.abort()  # it never sent anything
            else:
                self._refuse(408, f"the headers came too slowly: within {HEADER_SECONDS:g} seconds")
        left = self.transport.get_write_buffer_size()
        if not left:
            self._stuck = None
        elif self._stuck is None or self._stuck[0] != left:
            self._stuck = (left, now)
        elif now - self._stuck[1] > WRITE_STALL_SECONDS:
            self.abort()

    def discard_rest(self) -> None:
        """Discard further bytes for a moment after the answer, then close."""
        if not self.transport.is_closing():
            self._discarded_bytes, self._since, self._unparsed = 0, time.monotonic(), b""
            with contextlib.suppress(OSError, RuntimeError, NotImplementedError):
                self.transport.write_eof()
            if hasattr(socket, "MSG_TRUNC"):
                self.flow.pause_reading()
                self._drain = SocketDrain(self)
            else:
                self.flow.resume_reading()

    def discarded(self, size: int) -> None:
        """Count bytes that came after the answer."""
        self._discarded_bytes += size
        if self._discarded_bytes > MAX_DISCARDED_BYTES:
            self.abort()

    def abort(self) -> None:
        """Close at once."""
        if self._drain is not None:
            self._drain.close()
        self.transport.abort()

    def _refuse(self, status: int, message: str) -> None:
        """Send a refusal without a request, and close."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.abort()  # an answer is being sent: this one would be taken for it
            return
        body = b'{"error":"%s","remedy":""}' % message.encode()
        head = (
            f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            "connection: close\r\n" + ("retry-after: 1\r\n" if status == 503 else "") + "\r\n"
        )
        self.transport.write(head.encode() + body)
        if self.silent and not self._bytes:
            self.transport.close()
        else:
            self.discard_rest()


class SocketDrain:
    """Discards incoming bytes of a connection in the kernel without copying them: megabytes cost microseconds."""

    _BUFFER = bytearray(1 << 20)  # nothing is ever written to it

    def __init__(self, owner: Connection) -> None:
        self._owner, self._wait, self._window = owner, DRAIN_SECONDS, False
        self._socket: socket.socket | None = None
        with contextlib.suppress(OSError):
            self._socket = socket.socket(fileno=os.dup(owner.transport.get_extra_info("socket").fileno()))
            self._socket.setblocking(False)
            if owner.all.windows > 0:
                owner.all.windows -= 1
                self._window = True
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, DRAIN_WINDOW_BYTES)
        self._timer = owner.loop.call_soon(self._discard)

    def _discard(self) -> None:
        n_bytes = 0
        try:
            while self._socket is not None and n_bytes < MAX_DISCARDED_BYTES:
                size = self._socket.recv_into(self._BUFFER, 0, socket.MSG_TRUNC)
                if not size:
                    self._owner.abort()  # the client has closed, too
                    return
                n_bytes += size
        except BlockingIOError:
            pass
        except OSError:
            self._owner.abort()
            return
        self._wait = DRAIN_SECONDS if n_bytes else min(0.25, 2 * self._wait)
        self._timer = self._owner.loop.call_later(self._wait, self._discard)
        self._owner.discarded(n_bytes)

    def close(self) -> None:
        """Stop discarding."""
        self._timer.cancel()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._window:
            self._window = False
            self._owner.all.windows += 1


class _Transport:
    """A transport whose `close` lets a client that still sends a body read the answer first."""

    __slots__ = ("_owner", "_real", "abort", "get_extra_info", "get_write_buffer_size", "pause_reading",
                 "write_eof")  # fmt: skip

    def __init__(self, real: asyncio.Transport, owner: Connection) -> None:
        self._real, self._owner = real, owner
        for name in self.__slots__[2:]:
            setattr(self, name, getattr(real, name))

    def is_closing(self) -> bool:
        return self._owner._discarded_bytes >= 0 or self._real.is_closing()

    def write(self, data: bytes) -> None:
        if self._owner._discarded_bytes < 0:  # otherwise the last answer was sent
            self._real.write(data)

    def resume_reading(self) -> None:
        self._owner.parse_rest()
        if not self._owner.slowed_down and not self._owner.flow.read_paused:
            self._real.resume_reading()

    def close(self) -> None:
        if (self._owner._in_headers and not self._owner.broken) or self._owner._discarded_bytes >= 0:
            self._real.close()
        else:
            self._owner.discard_rest()


_PHRASES = {
    408: "Request Timeout", 413: "Content Too Large", 431: "Request Header Fields Too Large", 503: "Service Unavailable"
}  # fmt: skip


def _end_of_headers(before: bytes, data: bytes) -> int:
    """Position in `data` behind the end of headers that began in the bytes before it; 0: they do not end."""
    joint = (before + data[:3]).find(b"\r\n\r\n")
    if joint >= 0:
        return joint + 4 - len(before)
    return data.find(b"\r\n\r\n", 0, MAX_HEADER_BYTES) + 4 if b"\r\n\r\n" in data[:MAX_HEADER_BYTES] else 0
