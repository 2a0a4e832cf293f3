"""CallPool: calls whose result is waited for within a limit, in threads that are used again."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class CallPool:
    """Runs calls in up to `max_threads` daemon threads, which start as they are needed. Any number of threads may use
    it.

    Unlike those of `ThreadPoolExecutor`, its threads never hold up the end of the process: a driver may hang in a call
    for as long as it likes.
    """

    def __init__(self, max_threads: int, name: str) -> None:
        self._max_threads, self._name = max_threads, name
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        # Guards the fields below.
        self._lock = threading.Lock()
        # Calls that wait or run, and threads.
        self._open_calls, self._threads, self._is_closed = 0, 0, False

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """The future of a call. A call that is cancelled before it begins does not run. Raises RuntimeError once
        closed."""
        future: Future[T] = Future()
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the pool of calls is closed")
            self._open_calls += 1
            is_thread_missing = self._open_calls > self._threads and self._threads < self._max_threads
            self._threads += is_thread_missing
        self._calls.put((future, call))
        if is_thread_missing:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        return future

    def close(self) -> None:
        """End the threads once their calls have returned. Calls that have not begun are cancelled. Does not wait."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        while True:
            try:
                entry = self._calls.get_nowait()
            except queue.Empty:
                break
            if entry is not None:
                entry[0].cancel()
        for _ in range(self._max_threads):
            self._calls.put(None)

    def _run(self) -> None:
        while (entry := self._calls.get()) is not None:
            future, call = entry
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:
                    self._end_call()
                    future.set_exception(error)
                else:
                    self._end_call()
                    future.set_result(result)
            else:
                self._end_call()
            del entry, future, call  # what a call holds is not held until the next one

    def _end_call(self) -> None:
        with self._lock:
            self._open_calls -= 1
