"""Connections: how many there may be, how long one may take to say what it wants, and how much it may say.

Who asks for nothing gives way first. At the limits, of one address or of all, the connection that has been idle for the
longest time is closed in favour of a new one, so that thousands of silent connections keep nobody out. A look over all
of them once a second ends those that are slow: in sending headers, in reading their answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from zhiyin.service.request_limits import BODY

# Connections in all, and of one address, where the settings do not say; descriptors left to files and the store.
ALL, OF_ONE, SPARE = 4_096, 1_024, 256
# Bytes of a request's line and headers, and of its trailers; number of headers.
HEADER, HEADERS = 64 << 10, 100
# Seconds from the first byte, or the opening of the connection, to the end of the headers; in which an answer has to be
# taken on; between two looks.
WAITING, READING, LOOK = 15.0, 30.0, 1.0
# Bytes and seconds for which what still comes is thrown away after a refusal: who is still sending when a connection is
# closed never reads the answer on it.
LINGER, LINGERING = 16 << 20, 3.0
# Seconds between two looks at what came, at first.
PAUSE = 0.03
# Bytes on the wire of one request with a body: chunks have heads of their own.
WIRE = 2 * BODY + HEADER
# Bytes behind the headers that are parsed although nobody has asked for them yet.
AHEAD = 2 << 10
# Reads of one request, and chunks of one body, that may be small; mean bytes of one read below which they are, and of
# one chunk; seconds between two reads of a request that comes in small ones.
READS, CHUNKS, SMALL_READ, SMALL_CHUNK, REST = 16, 4_096, 256, 8, 0.25
# Receive buffer of a refused connection, in bytes, and how many may have it at once: with room for all that is still
# sent, the kernel wakes the sender once and not for every window.
WINDOW, WINDOWS = 4 << 20, 32


class Connections:
    """All connections of a process.

    Parameters
    ----------
    limit: connections in all. of_one: of one address. trusted: networks of proxies, which speak for many: for them only
        the limit of all counts.
    """

    def __init__(self, limit: int = ALL, of_one: int = OF_ONE, trusted: Sequence[str] = ()) -> None:
        self.limit, self.of_one = limit, of_one
        self._trusted = [ip_network(text, strict=False) for text in trusted]
        self._of: dict[str, dict[Connection, None]] = {}
        self._number = self.refused = self.evicted = 0
        self.windows = WINDOWS if _largest_window() >= WINDOW else 0
        self._looking: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return self._number

    def opened(self, one: Connection) -> bool:
        """Whether there is room for one more; the longest idle one may have been closed for it."""
        address = one.address
        own = self._of.get(address, {})
        if len(own) >= self.of_one and not self._speaks_for_many(address) and not self._evict(own):
            self.refused += 1
            return False
        if self._number >= self.limit:
            largest = max(self._of.values(), key=len)
            if not self._evict(largest) and not any(self._evict(of) for of in list(self._of.values())):
                self.refused += 1
                return False
        self._of.setdefault(address, {})[one] = None
        self._number += 1
        if self._looking is None:
            self._looking = one.loop.call_later(LOOK, self._look)
        return True

    def closed(self, one: Connection) -> None:
        own = self._of.get(one.address)
        if own is not None and one in own:
            del own[one]
            self._number -= 1
            if not own:
                del self._of[one.address]

    def _speaks_for_many(self, address: str) -> bool:
        try:
            return any(ip_address(address) in network for network in self._trusted)
        except ValueError:  # a socket of Unix
            return True

    def _evict(self, own: dict[Connection, None]) -> bool:
        """Close the first of these, in the order they were opened, that has asked for nothing yet; else the first
        that asks for nothing now."""
        found = next((one for one in own if one.silent), None) or next((one for one in own if one.idle), None)
        if found is None:
            return False
        self.evicted += 1
        self.closed(found)
        found.abort()
        return True

    def _look(self) -> None:
        self._looking = None
        now = time.monotonic()
        for own in list(self._of.values()):
            for one in list(own):
                one.look(now)
        if self._number:
            loop = asyncio.get_running_loop()
            self._looking = loop.call_later(LOOK, self._look)


class Connection(HttpToolsProtocol):
    """One connection, as uvicorn answers it, within the limits of its `Connections`: `limited` gives such a class."""

    all: Connections

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.address = ""
        # Whether headers are awaited or on their way, since when (None: not, or by the timer of a kept connection).
        self._since: float | None = time.monotonic()
        self._in_headers, self._bytes, self._lingers = True, 0, -1
        self._stuck: tuple[int, float] | None = None
        self._thrown_away: _Thrown | None = None
        self._reads = self._chunks = self._body_bytes = 0
        # The last bytes of the headers so far, and what came behind them and is not parsed yet.
        self._last, self._unparsed = b"", b""
        self._rest: asyncio.TimerHandle | None = None
        # Whether what came behind a request that is being answered is no HTTP.
        self.broken = False

    @property
    def resting(self) -> bool:
        """Whether reading is paused because the request comes in small pieces."""
        return self._rest is not None

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self._in_headers and (self.cycle is None or self.cycle.response_complete) and not self.pipeline

    @property
    def silent(self) -> bool:
        """Whether it has never asked for anything."""
        return self.cycle is None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Transport(transport, self))  # type: ignore[arg-type]
        self.address = self.client[0] if self.client else ""
        if not self.all.opened(self):
            self._refuse(503, "too many connections: come again in a second")

    def connection_lost(self, exc: Exception | None) -> None:
        self.all.closed(self)
        if self._thrown_away is not None:
            self._thrown_away.close()
        if self._rest is not None:
            self._rest.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._lingers >= 0:
            self.threw_away(len(data))
            return
        self._reads += 1
        if self._unparsed:
            self._unparsed += data
            return
        self._parse_first(data)
        if self._reads > READS and self._bytes < SMALL_READ * self._reads:
            self._pause_for_a_while()

    def _parse_first(self, data: bytes) -> None:
        """Parse one request's headers and no more, where much comes behind them: whether anybody wants the body, which
        may be of a million chunks, or the next request, is decided by the answer to the headers."""
        if self._in_headers and len(data) > AHEAD:
            end = _end_of_headers(self._last, data)
            if 0 < end < len(data) - AHEAD:
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
            part = HEADER - (self._bytes - len(data))
            # What is beyond may be a body, the next request, or more of these headers.
            if part < len(data) and data.find(b"\r\n\r\n", 0, max(0, part)) < 0:
                if part > 0:
                    super().data_received(data[:part])
                if self._in_headers and self._bytes > HEADER and not self.transport.is_closing():
                    self._refuse(431, f"the headers are too large: at most {HEADER >> 10} KiB, {HEADERS} headers")
                elif self.parser is not None and not self.transport.is_closing():
                    super().data_received(data[max(0, part) :])
                return
        elif self._bytes > WIRE:
            self._refuse(413, "the request is too large")
            return
        super().data_received(data)

    def parse_rest(self) -> None:
        """Parse what was left: somebody asks for the body, or the answer before it is complete."""
        if self._unparsed:
            data, self._unparsed = self._unparsed, b""
            self._parse_first(data)

    def _pause_for_a_while(self) -> None:
        """Every read costs the loop the same, however few bytes it brings: small ones are gathered in the kernel."""
        if self._rest is None and not self.transport.is_closing():
            self.transport.pause_reading()
            self._rest = self.loop.call_later(REST, self._read_again)

    def _read_again(self) -> None:
        self._rest = None
        if not self.flow.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    # -- callbacks of the parser --------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_headers:
            return  # a trailer, which comes after the body, is no header: a proxy has not seen it
        if len(self.headers) >= HEADERS:
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_headers, self._since = False, None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._chunks += 1
        self._body_bytes += len(body)
        if self._chunks > CHUNKS and self._body_bytes < SMALL_CHUNK * self._chunks:
            raise ValueError("the chunks are too small")
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_headers, self._last = True, b""
        self._bytes = self._reads = self._chunks = self._body_bytes = 0

    def on_response_complete(self) -> None:
        if not self._in_headers and self.cycle.response_complete and not self.transport.is_closing():
            self.transport.close()  # nobody wants the rest of the body: it is not parsed to get to the next request
        super().on_response_complete()
        if not self.idle:  # what was left unparsed was a request
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

    def look(self, now: float) -> None:
        """End what is too slow."""
        if self._lingers >= 0:
            if self._since is not None and now - self._since > LINGERING:
                self.abort()
        elif self.idle and self._since is not None and now - self._since > WAITING:
            if self.silent and not self._bytes:
                self.abort()  # it never said anything
            else:
                self._refuse(408, f"the headers came too slowly: within {WAITING:g} seconds")
        left = self.transport.get_write_buffer_size()
        if not left:
            self._stuck = None
        elif self._stuck is None or self._stuck[0] != left:
            self._stuck = (left, now)
        elif now - self._stuck[1] > READING:
            self.abort()

    def linger(self) -> None:
        """The answer is sent, and refuses what still comes: throw it away for a moment, then close."""
        if not self.transport.is_closing():
            self._lingers, self._since, self._unparsed = 0, time.monotonic(), b""
            with contextlib.suppress(OSError, RuntimeError, NotImplementedError):
                self.transport.write_eof()
            if hasattr(socket, "MSG_TRUNC"):
                self.flow.pause_reading()
                self._thrown_away = _Thrown(self)
            else:
                self.flow.resume_reading()

    def threw_away(self, size: int) -> None:
        """So many bytes came after the answer."""
        self._lingers += size
        if self._lingers > LINGER:
            self.abort()

    def abort(self) -> None:
        if self._thrown_away is not None:
            self._thrown_away.close()
        self.transport.abort()

    def _refuse(self, status: int, message: str) -> None:
        """Answer without a request, and close."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.abort()  # an answer is on its way: this one would be taken for it
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
            self.linger()


class _Thrown:
    """Takes what still comes over a connection out of the kernel without reading it: megabytes cost microseconds."""

    _BUFFER = bytearray(1 << 20)  # nothing is ever written to it

    def __init__(self, owner: Connection) -> None:
        self._owner, self._wait, self._window = owner, PAUSE, False
        self._socket: socket.socket | None = None
        with contextlib.suppress(OSError):
            self._socket = socket.socket(fileno=os.dup(owner.transport.get_extra_info("socket").fileno()))
            self._socket.setblocking(False)
            if owner.all.windows > 0:
                owner.all.windows -= 1
                self._window = True
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW)
        self._timer = owner.loop.call_soon(self._take)

    def _take(self) -> None:
        took = 0
        try:
            while self._socket is not None and took < LINGER:
                size = self._socket.recv_into(self._BUFFER, 0, socket.MSG_TRUNC)
                if not size:
                    self._owner.abort()  # the other side has ended, too
                    return
                took += size
        except BlockingIOError:
            pass
        except OSError:
            self._owner.abort()
            return
        self._wait = PAUSE if took else min(0.25, 2 * self._wait)
        self._timer = self._owner.loop.call_later(self._wait, self._take)
        self._owner.threw_away(took)

    def close(self) -> None:
        self._timer.cancel()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._window:
            self._window = False
            self._owner.all.windows += 1


class _Transport:
    """A transport whose `close` lets who still sends a body read the answer first."""

    __slots__ = ("_owner", "_real", "abort", "get_extra_info", "get_write_buffer_size", "pause_reading",
                 "write_eof")  # fmt: skip

    def __init__(self, real: asyncio.Transport, owner: Connection) -> None:
        self._real, self._owner = real, owner
        for name in self.__slots__[2:]:
            setattr(self, name, getattr(real, name))

    def is_closing(self) -> bool:
        return self._owner._lingers >= 0 or self._real.is_closing()

    def write(self, data: bytes) -> None:
        if self._owner._lingers < 0:  # else the connection has had its last answer
            self._real.write(data)

    def resume_reading(self) -> None:
        self._owner.parse_rest()
        if not self._owner.resting and not self._owner.flow.read_paused:
            self._real.resume_reading()

    def close(self) -> None:
        if (self._owner._in_headers and not self._owner.broken) or self._owner._lingers >= 0:
            self._real.close()
        else:
            self._owner.linger()


_PHRASES = {
    408: "Request Timeout", 413: "Content Too Large", 431: "Request Header Fields Too Large", 503: "Service Unavailable"
}  # fmt: skip


def limited(connections: Connections) -> type[Connection]:
    """A class of connections that count towards these."""
    return type("LimitedConnection", (Connection,), {"all": connections})


def _end_of_headers(before: bytes, data: bytes) -> int:
    """Where in `data` the headers end that began in the bytes before it; 0 where they do not."""
    joint = (before + data[:3]).find(b"\r\n\r\n")
    if joint >= 0:
        return joint + 4 - len(before)
    return data.find(b"\r\n\r\n", 0, HEADER) + 4 if b"\r\n\r\n" in data[:HEADER] else 0


def _largest_window() -> int:
    """Bytes of a receive buffer that the kernel lets a process ask for; 0 where that is not known."""
    try:
        return int(Path("/proc/sys/net/core/rmem_max").read_text())
    except (OSError, ValueError):
        return 0


def descriptors() -> int:
    """Raise the number of files that this process may have open as far as it may; returns it."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return ALL + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, ALL + SPARE)
    wanted = min(max(soft, ALL + SPARE), wanted)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return int(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
