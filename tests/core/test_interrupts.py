"""An interrupt in a finaliser or in the callback of a weak reference ends the program all the same."""

from __future__ import annotations

import signal
import sys
import time
import weakref
from collections.abc import Callable

import pytest

from zhiyin.core.interrupts import noticed_interrupts, resend_lost_interrupts


class Interrupted:
    """Ctrl-C arrives while it is deleted."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


class Watched:
    pass


def in_a_finaliser() -> None:
    Interrupted()


def in_a_callback() -> None:
    watched = Watched()
    reference = weakref.ref(watched, lambda _: signal.raise_signal(signal.SIGINT))
    del watched
    assert reference() is None


@pytest.mark.parametrize("lose_interrupt", [in_a_finaliser, in_a_callback])
def test_an_interrupt_that_python_would_ignore_is_raised(
    lose_interrupt: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # put back afterwards
    resend_lost_interrupts()

    def work() -> None:
        lose_interrupt()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        work()


def test_other_exceptions_are_printed_as_ever(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        def __del__(self) -> None:
            raise ValueError("broken finaliser")

    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    resend_lost_interrupts()
    Broken()
    assert "broken finaliser" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_lost_interrupt_is_noticed() -> None:
    before = signal.getsignal(signal.SIGINT)
    with noticed_interrupts() as noticed:
        assert not noticed.is_set()
        in_a_finaliser()
        assert noticed.is_set()
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt), noticed_interrupts():
        signal.raise_signal(signal.SIGINT)
