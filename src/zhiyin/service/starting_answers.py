"""What is answered on the service's socket before it can answer itself: that it lives, and that it is not ready yet.

`/health` is answered with 200, all else with 503 and Retry-After. A thread of its own answers until `stop`; connections
that come afterwards wait for the service. Each connection has one answer and is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from types import TracebackType

LOADING = "a version is being loaded"
COMPILING = "code is being compiled, once after an installation or an upgrade: a minute or more"
# Seconds until a request may succeed, that a client has to send its request, and bytes of a request's head.
RETRY_SECONDS, HEAD_SECONDS, MAX_HEAD_BYTES = 2, 5.0, 16_384
# Connections that are answered at once; others wait.
MAX_CONNECTIONS = 64


class StartingAnswers:
    """See the module. It answers within a `with` block, or until `stop`.

    Parameters
    ----------
    sock: listens; it stays open.

    Attributes
    ----------
    reason: why the service is not ready.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.reason = LOADING
        self._sock = sock
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="zhiyin-starting", daemon=True)

    def __enter__(self) -> StartingAnswers:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def compiling(self) -> None:
        """Say from now on that code is being compiled."""
        self.reason = COMPILING

    def stop(self) -> None:
        """Accept no further connections; those that were accepted are answered."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._answer())

    async def _answer(self) -> None:
        self._limit = asyncio.Semaphore(MAX_CONNECTIONS)
        # A descriptor of its own, since the server closes what it has.
        server = await asyncio.start_server(self._connected, sock=self._sock.dup(), limit=MAX_HEAD_BYTES)
        await self._end.wait()
        server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEAD_SECONDS):
                await server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with self._limit, asyncio.timeout(HEAD_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                method, _, rest = head.partition(b" ")
                path = rest.split(b" ", 1)[0].partition(b"?")[0].rstrip(b"/")
                writer.write(self._response(path, with_body=method != b"HEAD"))
                await writer.drain()
                writer.write_eof()
                # What else was sent is read, so that the answer is not lost by a reset.
                while await reader.read(65_536):
                    pass
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    def _response(self, path: bytes, with_body: bool) -> bytes:
        status, retry = "503 Service Unavailable", f"Retry-After: {RETRY_SECONDS}\r\n"
        if path.endswith(b"/health"):
            status, retry, said = "200 OK", "", {"status": "starting"}
        elif path.endswith(b"/ready"):
            said = {"status": "starting", "reason": self.reason}
        else:
            said = {"error": f"the service is starting: {self.reason}", "remedy": "come again"}
        body = json.dumps(said).encode()
        head = f"HTTP/1.1 {status}\r\n{retry}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return f"{head}Cache-Control: no-store\r\nConnection: close\r\n\r\n".encode() + (body if with_body else b"")
