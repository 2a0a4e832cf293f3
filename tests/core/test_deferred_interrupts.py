"""The first signal asks to stop, the second stops at once, and one that nobody looks at is not lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from zhiyin.core.interrupts import deferred_interrupts

pytestmark = pytest.mark.skipif(
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN, reason="SIGINT is ignored in this process"
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_asks_and_is_noticed(number: signal.Signals) -> None:
    told: list[str] = []
    before = signal.getsignal(number)

    def work() -> None:
        with deferred_interrupts(lambda: told.append("notice")) as request:
            assert request.number is None
            signal.raise_signal(number)
            assert request.number == number
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert told == ["notice"]
    assert signal.getsignal(number) is before


def test_the_second_ends_at_once() -> None:
    def work() -> None:
        with deferred_interrupts(lambda: None) as request:
            signal.raise_signal(signal.SIGINT)
            assert request.number == signal.SIGINT
            signal.raise_signal(signal.SIGINT)
            for _ in range(1000):
                pass
            raise AssertionError("it went on")

    with pytest.raises(KeyboardInterrupt):
        work()


def test_one_that_nobody_looks_at_is_raised_at_the_end() -> None:
    done = []

    def work() -> None:
        with deferred_interrupts(lambda: None):
            signal.raise_signal(signal.SIGINT)
            done.append("all of the block")
        for _ in range(1000):
            pass

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["all of the block"]


def test_a_second_term_kills() -> None:
    code = (
        "import os, signal, time\nfrom zhiyin.core.interrupts import deferred_interrupts\n"
        "with deferred_interrupts(lambda: None):\n    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('asked', flush=True)\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, env=os.environ)
    assert (done.stdout, done.returncode) == ("asked\n", -signal.SIGTERM)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with deferred_interrupts(lambda: None) as request:
            signal.raise_signal(signal.SIGTERM)
            assert request.number is None
    finally:
        signal.signal(signal.SIGTERM, before)
