"""Limits: how large a request may be, how many a key may send, how many may be at work at once.

In this order, so that who is refused costs as little as can be: the key, by the headers alone; the size that they say;
then the body, as far as it may go.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

from starlette.responses import Response

from zhiyin.core.work_limits import Meter, metered
from zhiyin.service.errors import RefusedError, answer_to, error_response
from zhiyin.service.request_context import CURRENT, MAX_REQUEST_SECONDS

# Bytes of a request's body, and of all bodies that are on their way; seconds until a body has come.
MAX_BODY_BYTES, MAX_TOTAL_BODY_BYTES, MAX_BODY_SECONDS = 4 << 20, 256 << 20, 20.0
# Threads that make lists in one process, those that write, which a held store may hold, and requests that may wait for
# either: beyond it, come again later.
LIST_THREADS, WRITE_THREADS, MAX_WAITING_REQUESTS = 2, 2, 64
# Seconds of processor time that short work may take on average to be done on the event loop, the weight of the newest
# in that average, and the most that one may count.
MAX_LOOP_SECONDS, LOOP_AVERAGE_WEIGHT, MAX_COUNTED_SECONDS = 0.008, 0.05, 0.04
# Work that one request may do, about as many nanoseconds of a core.
MAX_WORK_UNITS = 2e9
# Buckets of keys and visitors that are held.
MAX_BUCKETS = 100_000
# Everything below it needs a key.
KEYED_PREFIX = "/v1/"
T = TypeVar("T")


class Work:
    """Threads, such as those that make lists. Raises RefusedError 503 at once where too much waits.

    Parameters
    ----------
    waiting: requests that may wait for a thread.
    on_loop: whether `do_short` may do work on the event loop: right where other processes answer on the same socket
        meanwhile. Handing work to a thread and back costs about as much as a tenth of a list, and the thread and the
        loop then wait for each other's turn at the interpreter.
    """

    def __init__(
        self,
        threads: int = LIST_THREADS,
        waiting: int = MAX_WAITING_REQUESTS,
        name: str = "zhiyin-work",
        *,
        on_loop: bool = False,
    ) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self.threads, self.most, self.busy, self.on_loop = threads, threads + waiting, 0, on_loop
        # Mean seconds of processor time of short work, by kind; the newest weighs most.
        self._mean_seconds: dict[str, float] = {}

    async def do_short(self, kind: str, work: Callable[[], T]) -> T:
        """Do work that is expected to take a few milliseconds and to wait for nothing: on the event loop, where that
        is allowed and work of its kind has been short; else in one of the threads.

        Parameters
        ----------
        kind: of few different ones.
        """
        if not self.on_loop:
            return await self.do(work)
        if self._mean_seconds.get(kind, 0.0) > MAX_LOOP_SECONDS:
            return await self.do(self._timed, kind, work)
        with metered(Meter(MAX_WORK_UNITS, MAX_REQUEST_SECONDS)):
            return self._timed(kind, work)

    def _timed(self, kind: str, work: Callable[[], T]) -> T:
        """Do work of a kind, and add its processor time to the average of the kind."""
        begun = time.thread_time()
        try:
            return work()
        finally:
            seconds = min(time.thread_time() - begun, MAX_COUNTED_SECONDS)
            mean = self._mean_seconds.get(kind, 0.0)
            self._mean_seconds[kind] = mean + LOOP_AVERAGE_WEIGHT * (seconds - mean)

    async def do(self, work: Callable[..., T], *args: Any) -> T:
        """Do it in one of the threads. What still waits when its request ends, or its client goes, is not done."""
        if self.busy >= self.most:
            raise RefusedError(503, f"{self.busy} requests are at work", "come again in a second, or add workers")
        waits = self.busy >= self.threads
        self.busy += 1
        meter = Meter(MAX_WORK_UNITS, MAX_REQUEST_SECONDS)
        future = self._pool.submit(copy_context().run, _counted, meter, work, args)
        done = asyncio.wrap_future(future)
        try:
            if waits:
                await _wait_unless_disconnected(future, done)
            return await done
        finally:
            done.add_done_callback(_retrieve_exception)
            if future.done() or future.cancel():
                self.busy -= 1
            else:  # nobody waits for it any more, and still it holds a thread, until it is asked to stop
                meter.stop()
                loop = asyncio.get_running_loop()
                future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._left))

    def _left(self) -> None:
        self.busy -= 1

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _counted(meter: Meter, work: Callable[..., T], args: Sequence[Any]) -> T:
    with metered(meter):
        return work(*args)


def _retrieve_exception(done: asyncio.Future[Any]) -> None:
    """Retrieve the exception of work whose request has ended: asyncio would log its message."""
    if not done.cancelled():
        done.exception()


async def _wait_unless_disconnected(future: Future[Any], done: asyncio.Future[Any]) -> None:
    """Wait for work; raises RefusedError 499, which nobody hears, where the client left before it was begun."""
    current = CURRENT.get()
    if current is None:
        return
    disconnected = asyncio.ensure_future(_disconnected(current.receive))
    disconnected.add_done_callback(_retrieve_exception)
    try:
        await asyncio.wait((disconnected, done), return_when=asyncio.FIRST_COMPLETED)
        if disconnected.done() and not done.done() and future.cancel():
            raise RefusedError(499, "the client is gone", "")
    finally:
        disconnected.cancel()


async def _disconnected(receive: Callable[[], Any]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Rate:
    """A bucket of tokens for each key, and for each visitor of a page token: so many requests a second in the long run,
    twice as many at once.

    Of one process: where several answer, each allows its share. `MAX_BUCKETS` are held at most: beyond it the one used
    longest ago goes, and is full when its key comes again.
    """

    def __init__(self, a_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.a_second, self._clock, self._lock = a_second, clock, threading.Lock()
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> None:
        """Raises RefusedError 429 where a key has none left. `key`: a name, not the secret."""
        wait = self.spend(key)
        if wait:
            raise RefusedError(429, "this key sends too many requests", f"at most {self.a_second:g} a second",
                               retry=wait)  # fmt: skip

    def spend(self, key: str, amount: float = 1.0) -> float:
        """Take tokens; seconds after which there will be as many, where there are not, and none is taken."""
        if self.a_second <= 0:
            return 0.0
        now = self._clock()
        with self._lock:
            left, then = self._left.pop(key, (2 * self.a_second, now))
            left = min(2 * self.a_second, left + (now - then) * self.a_second)
            self._left[key] = (left - amount if left >= amount else left, now)
            if len(self._left) > MAX_BUCKETS:
                self._left.popitem(last=False)
        return max(0.0, (amount - left) / self.a_second)


def header(scope: dict[str, Any], name: bytes) -> str:
    """The first header of a name; "" where there is none."""
    return next((value for one, value in scope["headers"] if one == name), b"").decode("latin-1")


def bearer_credentials(scope: dict[str, Any]) -> str | None:
    """The key or page token of the header Authorization; None where there is none."""
    return _bearer(header(scope, b"authorization"))


def _bearer(authorization: str) -> str | None:
    kind, _, credentials = authorization.partition(" ")
    return credentials.strip() or None if kind.lower() == "bearer" else None


class RequestLimitMiddleware:
    """Refuses requests before they are read: with two keys or an unknown one, with too large a body, whatever their
    header says, or one that takes too long to come, and where too many bodies are on their way.

    known: raises RefusedError for a key or page token that is not known, or None for none. Asked about everything
    below /v1.
    """

    def __init__(
        self,
        app: Any,
        known: Callable[[str | None], Any] | None = None,
        body: int = MAX_BODY_BYTES,
        sending: float = MAX_BODY_SECONDS,
        bodies: int = MAX_TOTAL_BODY_BYTES,
    ) -> None:
        self.app, self.known, self.body, self.sending, self.bodies = app, known, body, sending, bodies
        self._held = 0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # A list of its own: a server may write trailers into the one that it gave.
        headers = scope["headers"] = list(scope["headers"])
        length, chunked = b"", False
        keys: list[bytes] = []
        for name, value in headers:
            if name == b"authorization":
                keys.append(value)
            elif name == b"content-length":
                length = value
            elif name == b"transfer-encoding":
                chunked = True
        declared, size = length.decode("latin-1"), 0
        bare = not length.strip(b"0") and not chunked

        async def refuse(answer: Response) -> None:
            if not bare or size:  # not all of the body is read
                answer.headers["Connection"] = "close"
            await answer(scope, receive, send)

        try:
            self._authenticate(scope, keys)
        except RefusedError as error:
            await refuse(answer_to(error))
            return
        large = ("the request is too large", f"at most {self.body / (1 << 20):g} MiB")
        if declared.isdigit() and (len(declared) > 18 or int(declared) > self.body):
            await refuse(error_response(413, *large))
            return
        if bare and scope["method"] in ("GET", "HEAD", "OPTIONS", "DELETE"):
            await self.app(scope, receive, send)
            return
        if not scope["path"].startswith(KEYED_PREFIX) or scope["method"] == "OPTIONS":  # no such route takes a body
            await self.app(scope, _nothing(receive), _closing(send))
            return
        chunks: list[bytes] = []
        more, until = True, time.monotonic() + self.sending
        try:
            while more:
                try:
                    async with asyncio.timeout(max(0.01, until - time.monotonic())):
                        message = await receive()
                except TimeoutError:
                    await refuse(error_response(408, "the request came too slowly", f"within {self.sending:g} seconds"))
                    return
                if message["type"] != "http.request":
                    return
                part, more = message.get("body", b""), message.get("more_body", False)
                if part:
                    chunks.append(part)
                    size += len(part)
                    self._held += len(part)
                if size > self.body:
                    await refuse(error_response(413, *large))
                    return
                if more and self._held > self.bodies:
                    await refuse(
                        error_response(503, "too many large requests are on their way", "come again in a second")
                    )
                    return
            whole = {"type": "http.request", "body": b"".join(chunks), "more_body": False}
            chunks.clear()
            await self.app(scope, resumed(whole, receive), send)
        finally:
            self._held -= size

    def _authenticate(self, scope: dict[str, Any], authorizations: list[bytes]) -> None:
        """Raises RefusedError for a request whose headers Authorization, all of them given, name no known key."""
        if len(authorizations) > 1:
            raise RefusedError(400, "there are two headers Authorization", "send one")
        if self.known is None or scope["method"] == "OPTIONS" or not scope["path"].startswith(KEYED_PREFIX):
            return
        self.known(_bearer(authorizations[0].decode("latin-1")) if authorizations else None)


def resumed(first: Any, receive: Callable[[], Any]) -> Callable[[], Any]:
    """`receive`, with a message in front."""
    messages = [first]

    async def next_one() -> Any:
        return messages.pop() if messages else await receive()

    return next_one


def _nothing(receive: Callable[[], Any]) -> Callable[[], Any]:
    """`receive` of a request whose body nobody wants."""
    return resumed({"type": "http.request", "body": b"", "more_body": False}, receive)


def _closing(send: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`send` of a request whose body is not read: the connection ends with its answer."""

    async def send_and_close(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = message | {"headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await send(message)

    return send_and_close
