"""The two clients: one waits for each answer, one awaits it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from zhiyin.client.api_call import Call, Calls
from zhiyin.client.api_methods import AsyncMethods, SyncMethods
from zhiyin.client.transport import httpx_or_say, pause, settings_of

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")


class Client(SyncMethods):
    """Asks a service; any number of threads may use one.

    Parameters
    ----------
    url: such as "http://127.0.0.1:8000". key: as `zhiyin key add` shows it; it is never printed.
    timeout: seconds for each try. retries: further tries where the service is busy or out of reach; nothing is done
    twice by them.

    Every method raises ApiError for an answer that is no success. Raises MissingExtraError without httpx.
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
        self._http: httpx.Client = httpx_or_say().Client(**settings_of(url, key, timeout, transport))
        self._errors = httpx_or_say().TransportError
        self.url, self.retries = url, retries

    def send(self, call: Call[T]) -> T:
        """Send a call, again while that helps."""
        for attempt in itertools.count():
            answer: httpx.Response | Exception
            try:
                answer = self._http.request(**call.request())
            except self._errors as error:
                answer = error
            wait = pause(answer, attempt, self.retries if call.tries else 0)
            if wait is None:
                return call.result(answer)
            time.sleep(wait)
        raise AssertionError("unreachable")

    def _answer(self, build: Callable[[], Call[T] | Calls[T]]) -> T:
        asked = build()
        if isinstance(asked, Calls):
            return asked.join([self.send(call) for call in asked.calls])
        return self.send(asked)

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
    """As `Client`, for programs that await."""

    def __init__(
        self,
        url: str,
        key: str,
        timeout: float = 2.0,
        retries: int = 2,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http: httpx.AsyncClient = httpx_or_say().AsyncClient(**settings_of(url, key, timeout, transport))
        self._errors = httpx_or_say().TransportError
        self.url, self.retries = url, retries

    async def send(self, call: Call[T]) -> T:
        """Send a call, again while that helps."""
        for attempt in itertools.count():
            answer: httpx.Response | Exception
            try:
                answer = await self._http.request(**call.request())
            except self._errors as error:
                answer = error
            wait = pause(answer, attempt, self.retries if call.tries else 0)
            if wait is None:
                return call.result(answer)
            await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    async def _answer(self, build: Callable[[], Call[T] | Calls[T]]) -> T:
        asked = build()
        if isinstance(asked, Calls):
            return asked.join([await self.send(call) for call in asked.calls])
        return await self.send(asked)

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
