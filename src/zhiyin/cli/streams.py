"""What the commands of streams share: the meaning of events, and an end by Ctrl-C that leaves everything whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zhiyin.cli.project import Project
    from zhiyin.data.event_schema import EventSchema


def event_schema_in_use(project: Project) -> EventSchema:
    """What events mean to the version in use; without one, by `[weights]`, or as is usual."""
    from zhiyin.pipeline.model_versions import Bundles

    return Bundles(project.home / project.config.train.output / "bundles").event_schema(project.config.weights)


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
