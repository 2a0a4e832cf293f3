"""What the commands of streams share: the meaning of events, and an end by Ctrl-C that leaves everything whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zhiyin.cli.project import Project
    from zhiyin.data.event_schema import EventSchema
    from zhiyin.store.store import Store
    from zhiyin.store.stream_state import StreamState


def event_schema_in_use(project: Project) -> EventSchema:
    """What events mean to the version in use; without one, by `[weights]`, or as is usual."""
    from zhiyin.pipeline.model_versions import Bundles

    return Bundles(project.home / project.config.train.output / "bundles").event_schema(project.config.weights)


@contextmanager
def opened_stream_state(project: Project, store: Store) -> Iterator[StreamState]:
    """The streamed state of a store, closed at the end. Raises ConfigError where the settings name none."""
    from zhiyin.core.errors import ConfigError
    from zhiyin.data.project_config import FILE_NAME, streams_address
    from zhiyin.store.live_state import state_name
    from zhiyin.store.stream_state import open_stream_state

    address = streams_address(project.config, project.home, store.address)
    if address is None:
        raise ConfigError(
            "no streamed state is named", file=project.home / FILE_NAME,
            remedy='name it under [service]: streams = "redis://127.0.0.1:6379/0"',
        )  # fmt: skip
    with closing(open_stream_state(address, state_name(store.address))) as state:
        yield state


def applied_mark(project: Project, store: Store) -> Callable[[], int] | None:
    """Reads up to which event segments need not be kept for the streamed state; None where the settings name none, or
    where no job computes histories."""
    if project.config.service.streams is None or "histories" not in project.config.streams.jobs:
        return None

    from zhiyin.store.stream_state import needless_upto

    def read() -> int:
        with opened_stream_state(project, store) as state:
            return needless_upto(state)

    return read


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets; a second signal ends the process as usual."""
    stop = threading.Event()
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def request_stop(number: int, frame: object) -> None:
        stop.set()
        restore()

    for number in previous:
        signal.signal(number, request_stop)
    try:
        yield stop
    finally:
        restore()
