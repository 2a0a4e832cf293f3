"""Limits: how large a request may be, how many a key may send, how many may be at work at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

from zhiyin.service.around import CURRENT
from zhiyin.service.errors import RefusedError, say

# Bytes of a request's body; seconds that its sending may take.
BODY, SENDING = 4 << 20, 20.0
# Threads that make lists in one process, and requests that may wait for them: beyond it, come again later.
THREADS, WAITING = 2, 64
# Buckets of keys and visitors that are held.
BUCKETS = 100_000
T = TypeVar("T")


class Work:
    """The threads that make lists. Raises RefusedError 503 at once where too much waits."""

    def __init__(self, threads: int = THREADS, waiting: int = WAITING) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="zhiyin-work")
        self.threads, self.most, self.busy = threads, threads + waiting, 0

    async def do(self, work: Callable[..., T], *args: Any) -> T:
        """Do it in one of the threads. What still waits when its request ends, or its client goes, is not done."""
        if self.busy >= self.most:
            raise RefusedError(503, f"{self.busy} requests are at work", "come again in a second, or add workers")
        waits = self.busy >= self.threads
        self.busy += 1
        future = self._pool.submit(copy_context().run, work, *args)
        done = asyncio.wrap_future(future)
        try:
            if waits:
                await _unless_gone(future, done)
            return await done
        finally:
            done.add_done_callback(_heard)
            if future.done() or future.cancel():
                self.busy -= 1
            else:  # nobody waits for it any more, and still it holds a thread
                loop = asyncio.get_running_loop()
                future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._left))

    def _left(self) -> None:
        self.busy -= 1

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _heard(done: asyncio.Future[Any]) -> None:
    """A failure that came after its request had ended is nobody's: asyncio would log what it says."""
    if not done.cancelled():
        done.exception()


async def _unless_gone(future: Future[Any], done: asyncio.Future[Any]) -> None:
    """Wait for work; raises RefusedError 499, which nobody hears, where the client left before it was begun."""
    current = CURRENT.get()
    if current is None:
        return
    gone = asyncio.ensure_future(_gone(current.receive))
    gone.add_done_callback(_heard)
    try:
        await asyncio.wait((gone, done), return_when=asyncio.FIRST_COMPLETED)
        if gone.done() and not done.done() and future.cancel():
            raise RefusedError(499, "the client is gone", "")
    finally:
        gone.cancel()


async def _gone(receive: Callable[[], Any]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Rate:
    """A bucket of tokens for each key, and for each visitor of a page token: so many requests a second in the long run,
    twice as many at once.

    Of one process: where several answer, each allows its share. `BUCKETS` are held at most: beyond it the one used
    longest ago goes, and is full when its key comes again.
    """

    def __init__(self, a_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.a_second, self._clock, self._lock = a_second, clock, threading.Lock()
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> None:
        """Raises RefusedError 429 where a key has none left. `key`: a name, not the secret."""
        if self.a_second <= 0:
            return
        now = self._clock()
        with self._lock:
            left, then = self._left.get(key, (2 * self.a_second, now))
            left = min(2 * self.a_second, left + (now - then) * self.a_second)
            self._left[key] = (left, now)
            self._left.move_to_end(key)
            if len(self._left) > BUCKETS:
                self._left.popitem(last=False)
            if left < 1:
                wait = (1 - left) / self.a_second
                raise RefusedError(429, "this key sends too many requests", f"at most {self.a_second:g} a second",
                                   retry=wait)  # fmt: skip
            self._left[key] = (left - 1, now)


class Limited:
    """Refuses bodies of more bytes, whatever their header says, and those that take more seconds to come."""

    def __init__(self, app: Any, body: int = BODY, sending: float = SENDING) -> None:
        self.app, self.body, self.sending = app, body, sending

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def refuse(status: int, error: str, remedy: str) -> None:
            answer = say(status, error, remedy)
            answer.headers["Connection"] = "close"
            await answer(scope, receive, send)

        headers = dict(scope["headers"])
        declared, chunked = headers.get(b"content-length", b""), b"transfer-encoding" in headers
        large = ("the request is too large", f"at most {self.body / (1 << 20):g} MiB")
        if declared.isdigit() and (len(declared) > 18 or int(declared) > self.body):
            await refuse(413, *large)
            return
        if scope["method"] in ("GET", "HEAD", "OPTIONS", "DELETE") and not declared.strip(b"0") and not chunked:
            await self.app(scope, receive, send)
            return
        chunks, size, more, until = [], 0, True, time.monotonic() + self.sending
        while more:
            try:
                message = await asyncio.wait_for(receive(), max(0.01, until - time.monotonic()))
            except TimeoutError:
                await refuse(408, "the request came too slowly", f"within {self.sending:g} seconds")
                return
            if message["type"] != "http.request":
                return
            chunks.append(message.get("body", b""))
            size, more = size + len(chunks[-1]), message.get("more_body", False)
            if size > self.body:
                await refuse(413, *large)
                return
        whole: dict[str, Any] | None = {"type": "http.request", "body": b"".join(chunks), "more_body": False}

        async def again() -> Any:
            nonlocal whole
            if whole is None:
                return await receive()
            first, whole = whole, None
            return first

        await self.app(scope, again, send)
