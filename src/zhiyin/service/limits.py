"""Limits: how large a request may be, how many a key may send, how many may be at work at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from zhiyin.service.errors import RefusedError

# Bytes of a request's body; seconds that its sending may take.
BODY, SENDING = 4 << 20, 20.0
# Threads that make lists in one process, and requests that may wait for them: beyond it, come again later.
THREADS, WAITING = 2, 64
T = TypeVar("T")


class Work:
    """The threads that make lists. Raises RefusedError 503 at once where too much waits."""

    def __init__(self, threads: int = THREADS, waiting: int = WAITING) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="zhiyin-work")
        self.most, self.busy = threads + waiting, 0

    async def do(self, work: Callable[..., T], *args: Any) -> T:
        if self.busy >= self.most:
            raise RefusedError(503, f"{self.busy} requests are at work", "come again in a second, or add workers")
        self.busy += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)
        finally:
            self.busy -= 1

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class Rate:
    """A bucket of tokens for each key: so many requests a second in the long run, twice as many at once.

    Of one process: where several answer, each allows its share.
    """

    def __init__(self, a_second: float) -> None:
        self.a_second, self._lock = a_second, threading.Lock()
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, key: str) -> None:
        """Raises RefusedError 429 where a key has none left. `key`: a name, not the secret."""
        if self.a_second <= 0:
            return
        now = time.monotonic()
        with self._lock:
            left, then = self._left.get(key, (2 * self.a_second, now))
            left = min(2 * self.a_second, left + (now - then) * self.a_second)
            if left < 1:
                self._left[key] = (left, now)
                wait = (1 - left) / self.a_second
                raise RefusedError(429, "this key sends too many requests", f"at most {self.a_second:g} a second",
                                   retry=wait)  # fmt: skip
            self._left[key] = (left - 1, now)


class Limited:
    """Refuses bodies above BODY bytes, whatever their header says, and those that take too long to come."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        from fastapi.responses import JSONResponse

        async def refuse(status: int, error: str, remedy: str) -> None:
            said = {"error": error, "remedy": remedy}
            await JSONResponse(said, status, {"Connection": "close"})(scope, receive, send)

        declared = dict(scope["headers"]).get(b"content-length", b"")
        if declared.isdigit() and int(declared) > BODY:
            await refuse(413, "the request is too large", f"at most {BODY >> 20} MiB")
            return
        chunked = b"transfer-encoding" in dict(scope["headers"])
        if scope["method"] in ("GET", "HEAD", "OPTIONS", "DELETE") and not declared.strip(b"0") and not chunked:
            await self.app(scope, receive, send)
            return
        chunks, size, more, until = [], 0, True, time.monotonic() + SENDING
        while more:
            try:
                message = await asyncio.wait_for(receive(), max(0.01, until - time.monotonic()))
            except TimeoutError:
                await refuse(408, "the request came too slowly", f"within {SENDING:g} seconds")
                return
            if message["type"] != "http.request":
                return
            chunks.append(message.get("body", b""))
            size, more = size + len(chunks[-1]), message.get("more_body", False)
            if size > BODY:
                await refuse(413, "the request is too large", f"at most {BODY >> 20} MiB")
                return
        whole: dict[str, Any] | None = {"type": "http.request", "body": b"".join(chunks), "more_body": False}

        async def again() -> Any:
            nonlocal whole
            if whole is None:
                return await receive()
            first, whole = whole, None
            return first

        await self.app(scope, again, send)
