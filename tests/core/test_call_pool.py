"""Calls in threads that are used again, waited for within a limit."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, wait

import pytest

from zhiyin.core.call_pool import CallPool


def test_calls_one_after_the_other_use_one_thread() -> None:
    pool = CallPool(8, "calls")
    threads = {pool.submit(threading.current_thread).result(60) for _ in range(100)}
    assert len(threads) == 1
    assert all(thread.daemon for thread in threads)
    pool.close()


def test_results_and_errors_are_those_of_the_calls() -> None:
    pool = CallPool(2, "calls")

    def fail() -> None:
        raise ZeroDivisionError

    futures = [pool.submit(fail if n % 3 == 0 else lambda n=n: n * n) for n in range(30)]
    wait(futures, 60)
    for n, future in enumerate(futures):
        if n % 3 == 0:
            with pytest.raises(ZeroDivisionError):
                future.result(0)
        else:
            assert future.result(0) == n * n
    pool.close()


def test_as_many_threads_as_may_be_run_at_once_and_no_more() -> None:
    pool, release, running = CallPool(3, "calls"), threading.Event(), threading.Semaphore(0)

    def hang() -> threading.Thread:
        running.release()
        assert release.wait(60)
        return threading.current_thread()

    futures = [pool.submit(hang) for _ in range(5)]
    for _ in range(3):
        assert running.acquire(timeout=60)
    with pytest.raises(TimeoutError):
        futures[0].result(0)
    assert sum(future.running() for future in futures) == 3
    assert futures[4].cancel()  # it had not begun, and never will
    release.set()
    assert len({future.result(60) for future in futures[:4]}) <= 3
    pool.close()


def test_a_closed_pool_cancels_what_waits_and_ends_its_threads() -> None:
    pool, release = CallPool(1, "calls"), threading.Event()
    begun = threading.Event()

    def hang() -> threading.Thread:
        begun.set()
        assert release.wait(60)
        return threading.current_thread()

    hanging, waiting = pool.submit(hang), pool.submit(lambda: 1)
    assert begun.wait(60)
    pool.close()
    pool.close()
    with pytest.raises(CancelledError):
        waiting.result(60)
    with pytest.raises(RuntimeError):
        pool.submit(lambda: 1)
    release.set()
    thread = hanging.result(60)
    thread.join(60)
    assert not thread.is_alive()
