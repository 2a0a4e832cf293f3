"""The synchronous and the asynchronous client."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from zhiyin.client.api_call import Call, CallSequence
from zhiyin.client.api_methods import AsyncMethods, SyncMethods
from zhiyin.client.transport import connection_settings, import_httpx, retry_delay

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")


class Client(SyncMethods):
    """A client of one service; threads may share it.

    Parameters
    ----------
    url: such as "http://127.0.0.1:8000".
    key: as `zhiyin key add` shows it; it is never printed.
    timeout: seconds of each attempt.
    retries: further attempts where the service is overloaded or unreachable; they never have an effect twice.
    transport: of httpx; for tests.

    Every method raises ApiError for a response that is no success. Raises MissingExtraError without httpx.
    """

    def __init__(
        self,
        url: str,
        key: str,
        timeout: float = 2.0,
        retries: int = 2,
        *,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http: httpx.Client = import_httpx().Client(**connection_settings(url, key, timeout, transport))
        self._errors = import_httpx().TransportError
        self.url, self.retries = url, retries

    def send(self, call: Call[T]) -> T:
        """Send a call, and send it again where `retry_delay` says so."""
        for attempt in itertools.count():
            response: httpx.Response | Exception
            try:
                response = self._http.request(**call.request())
            except self._errors as error:
                response = error
            delay = retry_delay(response, attempt, self.retries if call.retries_allowed else 0)
            if delay is None:
                return call.result(response)
            time.sleep(delay)
        raise AssertionError("unreachable")

    def _execute(self, build: Callable[[], Call[T] | CallSequence[T]]) -> T:
        call = build()
        if isinstance(call, CallSequence):
            return call.join([self.send(part) for part in call.calls])
        return self.send(call)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"


class AsyncClient(AsyncMethods):
    """As `Client`, with methods that are awaited."""

    def __init__(
        self,
        url: str,
        key: str,
        timeout: float = 2.0,
        retries: int = 2,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http: httpx.AsyncClient = import_httpx().AsyncClient(**connection_settings(url, key, timeout, transport))
        self._errors = import_httpx().TransportError
        self.url, self.retries = url, retries

    async def send(self, call: Call[T]) -> T:
        """Send a call, and send it again where `retry_delay` says so."""
        for attempt in itertools.count():
            response: httpx.Response | Exception
            try:
                response = await self._http.request(**call.request())
            except self._errors as error:
                response = error
            delay = retry_delay(response, attempt, self.retries if call.retries_allowed else 0)
            if delay is None:
                return call.result(response)
            await asyncio.sleep(delay)
        raise AssertionError("unreachable")

    async def _execute(self, build: Callable[[], Call[T] | CallSequence[T]]) -> T:
        call = build()
        if isinstance(call, CallSequence):
            return call.join([await self.send(part) for part in call.calls])
        return await self.send(call)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"
