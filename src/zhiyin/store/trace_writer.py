"""A thread that writes traces beside the requests, which never wait for it.

An event must not be lost; traces of the last moment may be, in a crash.
"""

from __future__ import annotations

import itertools
import threading
import time
from typing import Protocol

from zhiyin.core.run import log
from zhiyin.store.store import Store
from zhiyin.store.traces import MAX_TRACES_PER_TRANSACTION, PAUSE_SECONDS, Trace, trace_row

# Seconds in which traces gather for one transaction: each transaction, and each waking of the thread, costs as much as
# the traces of some lists.
GATHER_SECONDS = 0.2
# Bytes that the head of a waiting trace is taken to have.
HEAD_BYTES = 2_048


class UnpackedTrace(Protocol):
    """What a trace is made of, where it is not made yet; see `Trace` for the fields."""

    @property
    def list_id(self) -> str: ...

    @property
    def user(self) -> str | None: ...

    @property
    def time(self) -> int: ...

    @property
    def nbytes(self) -> int:
        """Estimated bytes of what it holds beside its head."""

    def trace(self) -> Trace:
        """The trace, made at the first call."""


def _trace_of(waiting: Trace | UnpackedTrace) -> Trace:
    return waiting if isinstance(waiting, Trace) else waiting.trace()


class TraceWriter:
    """A queue of traces and the thread that writes them.

    Parameters
    ----------
    waiting: traces in the queue at most; further ones are dropped.
    bytes: of all traces in the queue, at most.

    Counters: `waiting`, `written`, `dropped` (the queue was full), `failed` (they could not be stored).
    """

    def __init__(self, store: Store, waiting: int = 10_000, bytes: int = 64 << 20) -> None:
        self.store, self.max_waiting, self.max_bytes, self._bytes = store, waiting, bytes, 0
        self.written = self.dropped = self.failed = 0
        # With the bytes that each counts.
        self._queue: dict[str, tuple[Trace | UnpackedTrace, int]] = {}
        self._condition, self._closed, self._is_failing = threading.Condition(), False, False
        self._thread = threading.Thread(target=self._run, name="zhiyin-traces", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Traces that are not yet committed."""
        return len(self._queue)

    def put(self, trace: Trace | UnpackedTrace) -> None:
        """Queue a trace, or what one is made of. Never waits: where the queue is full, and after `close`, the trace is
        dropped."""
        size = HEAD_BYTES + trace.nbytes
        with self._condition:
            if self._closed or len(self._queue) >= self.max_waiting or self._bytes + size > self.max_bytes:
                self.dropped += 1
                return
            replaced = self._queue.get(trace.list_id)
            self._bytes += size - (0 if replaced is None else replaced[1])
            self._queue[trace.list_id] = trace, size
            if len(self._queue) in (1, MAX_TRACES_PER_TRANSACTION):
                self._condition.notify()

    def find(self, list_id: str) -> Trace | None:
        """The trace of a list, stored or queued; None where there is none, or where its user was forgotten since."""
        entry = self._queue.get(list_id)
        if entry is None:
            return self.store.trace(list_id)
        waiting = entry[0]
        is_forgotten = waiting.user is not None and self.store.forgotten_at(waiting.user) >= waiting.time
        return None if is_forgotten else _trace_of(waiting)

    def close(self) -> None:
        """Write the queue, then stop."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._queue and not self._closed:
                    self._condition.wait()
                if len(self._queue) < MAX_TRACES_PER_TRANSACTION and not self._closed:
                    self._condition.wait(GATHER_SECONDS)
                batch = list(itertools.islice(self._queue.values(), MAX_TRACES_PER_TRANSACTION))
            if not batch:
                return
            self._write([trace for trace, _ in batch])
            with self._condition:
                for entry in batch:
                    if self._queue.get(entry[0].list_id) is entry:
                        del self._queue[entry[0].list_id]
                        self._bytes -= entry[1]
            if self._queue:
                time.sleep(PAUSE_SECONDS)

    def _write(self, batch: list[Trace | UnpackedTrace]) -> None:
        rows = []
        for trace in batch:
            time.sleep(0)  # whoever answers a request has the interpreter first
            try:
                rows.append(trace_row(_trace_of(trace)))
            except Exception as error:  # one bad trace does not lose the others
                self._record_failure(1, error)
        try:
            if rows:
                self.store.append_trace_rows(rows)
        except Exception as error:  # the thread goes on: the next transaction may succeed
            self._record_failure(len(rows), error)
        else:
            self.written += len(rows)
            if rows and len(rows) == len(batch):
                self._is_failing = False

    def _record_failure(self, n_traces: int, error: Exception) -> None:
        self.failed += n_traces
        if not self._is_failing:
            log.warning("store: traces are not written: %s", error)
        self._is_failing = True
