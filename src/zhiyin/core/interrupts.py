"""Ctrl-C that is not lost.

Python raises KeyboardInterrupt wherever the main thread is at the moment. In a finaliser or the callback of a weak
reference an exception has nobody to go to: Python prints it and goes on, and a command that was told to end runs for
ever. Such an interrupt is sent again.
"""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

# Seconds until it is sent again: by then the finaliser has ended.
RESEND_SECONDS = 0.01


def resend_lost_interrupts() -> None:
    """Have interrupts that were raised where no exception can go raised again in the main thread."""
    sys.unraisablehook = _on_unraisable


def _on_unraisable(unraisable: Any) -> None:
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        timer = threading.Timer(RESEND_SECONDS, _thread.interrupt_main)
        timer.daemon = True
        timer.start()
    else:
        sys.__unraisablehook__(unraisable)


@contextlib.contextmanager
def noticed_interrupts() -> Iterator[threading.Event]:
    """An event that SIGINT sets, besides what it does anyway: a loop that waits looks whether an interrupt was lost.

    In other threads than the main one, and where SIGINT is ignored or not handled by Python, it is never set.
    """
    noticed, previous = threading.Event(), signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield noticed
        return
    handler: Callable[[int, FrameType | None], Any] = previous

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        noticed.set()
        handler(number, frame)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield noticed
    finally:
        signal.signal(signal.SIGINT, previous)
