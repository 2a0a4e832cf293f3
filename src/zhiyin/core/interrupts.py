"""Ctrl-C that is not lost.

Python raises KeyboardInterrupt wherever the main thread is at the moment. In a finaliser or the callback of a weak
reference an exception has nobody to go to: Python prints it and goes on, and a command that was told to end runs for
ever. Such an interrupt is sent again.
"""

from __future__ import annotations

import _thread
import contextlib
import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

# Seconds until it is sent again: by then the finaliser has ended.
RESEND_SECONDS = 0.01


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended work at a place from which it can go on; the message says where.

    Parameters
    ----------
    number: the signal.
    """

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.message, self.number = message, number


@dataclasses.dataclass
class StopRequest:
    """Whether a signal asks to stop. number: that signal; None while there is none."""

    number: int | None = None


@contextlib.contextmanager
def deferred_interrupts(notice: Callable[[], None]) -> Iterator[StopRequest]:
    """A request to stop, which the first SIGINT or SIGTERM sets, after `notice`; a second one acts at once.

    Who does not look at the request gets the signal when the block has ended without an exception. In other threads
    than the main one, and where a signal is ignored, it is never set.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    kept = {number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)}

    def on_signal(number: int, frame: FrameType | None) -> None:
        if request.number is None:
            request.number = number
            notice()
            return
        signal.signal(number, kept[signal.Signals(number)])
        os.kill(os.getpid(), number)

    for number in kept:
        signal.signal(number, on_signal)
    try:
        yield request
    finally:
        for number, old in kept.items():
            signal.signal(number, old)
    if request.number is not None:
        os.kill(os.getpid(), request.number)


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
