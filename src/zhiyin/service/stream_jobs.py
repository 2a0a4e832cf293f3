"""Streams of a store: its events and lists exported for streaming jobs, and what these have computed loaded.

Two threads of the process that watches the service; one of each a store, also where several machines serve it: the
folder of streams has a lock for each, and who finds it held waits until it is free.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from zhiyin.core.durations import SECOND, microseconds
from zhiyin.core.file_locks import LockHeldError
from zhiyin.core.run import log
from zhiyin.data.project_config import Config, streams_address, streams_folder
from zhiyin.engines.stream_loader import StreamLoader
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.service.health_issues import one_line_reason
from zhiyin.store.live_state import state_name
from zhiyin.store.segment_export import SegmentExporter
from zhiyin.store.store import Store
from zhiyin.store.stream_state import StreamState, needless_upto, open_stream_state

# Seconds before a thread tries again: after a failure, and where another process holds the lock.
RETRY_SECONDS, LOCK_SECONDS = 1.0, 5.0
# Seconds that a thread has to end.
CLOSE_SECONDS = 10.0


class StreamJobs:
    """The threads of one shop with [service] streams.

    Parameters
    ----------
    config: settings of the shop. home: folder that their paths are taken from.
    store: address of the store.
    """

    def __init__(self, config: Config, home: Path, store: str) -> None:
        self._config, self._home, self._store = config, home, store
        self._address = streams_address(config, home, store)
        self._folder = streams_folder(config, home)
        self._every, self._keep = (microseconds(text) / SECOND for text in (config.streams.every, config.streams.keep))
        self._stop = threading.Event()
        jobs = {"zhiyin-export": self._export, "zhiyin-load": self._load}
        self._threads = [threading.Thread(target=self._work, args=(job,), name=name, daemon=True)
                         for name, job in jobs.items()]  # fmt: skip
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop the threads; a segment that is being written, or a file that is being loaded, is ended."""
        self._stop.set()
        for thread in self._threads:
            thread.join(CLOSE_SECONDS)

    def _work(self, job: Callable[[], None]) -> None:
        """Run a job until it is stopped, again after each failure; a failure that goes on is logged once."""
        failure = ""
        while not self._stop.is_set():
            pause = RETRY_SECONDS
            try:
                job()
            except LockHeldError as error:
                pause = LOCK_SECONDS
                log.debug("streams: %s", error.message)
            except Exception as error:  # serving goes on; the next try may succeed
                reason = f"{type(error).__name__} {one_line_reason(error)}"
                if reason != failure:
                    log.warning("streams: %s; it is tried again", one_line_reason(error))
                failure = reason
            self._stop.wait(pause)

    def _export(self) -> None:
        bundles = Bundles(self._home / self._config.train.output / "bundles")
        with (
            closing(Store(self._store)) as store,
            SegmentExporter(
                store, self._folder, lambda: bundles.event_schema(self._config.weights), self._keep,
                partial(self._mark, store) if "histories" in self._config.streams.jobs else None,
            ) as exporter,
        ):  # fmt: skip
            exporter.run(self._stop, self._every)

    def _mark(self, store: Store) -> int:
        """The sequence number up to which segments need not be kept for the histories of the state."""
        with closing(self._open_state(store)) as state:
            return needless_upto(state)

    def _load(self) -> None:
        with (
            closing(Store(self._store)) as store,
            closing(self._open_state(store)) as state,
            StreamLoader(self._folder, state, store, keep_log=self._keep) as loader,
        ):
            loader.run(self._stop, self._every)

    def _open_state(self, store: Store) -> StreamState:
        assert self._address is not None
        return open_stream_state(self._address, state_name(store.address))
