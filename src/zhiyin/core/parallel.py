"""Threads for compiled kernels.

A kernel is a Numba function compiled with `kernel`: it releases the GIL and works on the rows [start, stop). Threads
take chunks of rows as they become free, so a Zipf tail of heavy rows does not leave one thread working alone, and any
number of callers may run kernels at once (Numba's own parallel loops allow neither).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

import numba
import numpy as np

from zhiyin.core.kernel_cache import KernelLocator
from zhiyin.core.run import Run

# What Numba is asked to keep functions by while one of ours is made; others stay where their users want them.
_LOCATOR = f"{KernelLocator.__module__}.{KernelLocator.__qualname__}"
_choosing_locator = threading.Lock()


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of plain arrays: GIL released, cached on disk, sums may be reordered."""
    # "nnan" and "ninf" stay off: scores of minus infinity mean "excluded" and must compare as written.
    return compiled(function, fastmath={"reassoc", "contract", "nsz", "arcp"})


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compile a function with Numba, GIL released, cached on disk where a folder can be written (`kernel_cache`)."""
    # Said, for a function that is compiled while its caller is takes what is not said from the caller.
    options.setdefault("fastmath", False)
    with _choosing_locator:
        chosen = getattr(numba.config, "CACHE_LOCATOR_CLASSES", "")
        numba.config.CACHE_LOCATOR_CLASSES = _LOCATOR  # type: ignore[attr-defined]
        try:
            return numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # "no locator available"
            return numba.njit(nogil=True, **options)(function)
        finally:
            numba.config.CACHE_LOCATOR_CLASSES = chosen  # type: ignore[attr-defined]


def read_only(array: np.ndarray) -> np.ndarray:
    """The array, contiguous and read-only: a kernel is compiled once for it, whoever owns the memory."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def for_chunks(work: Callable[[int, int], None], n: int, run: Run, chunk: int = 0, label: str = "") -> None:
    """Call work(start, stop) over [0, n) in chunks, on the run's threads, with a progress bar when labelled.

    `chunk` = 0 cuts about 32 chunks a thread. The first exception (Ctrl-C included) cancels what has not begun.
    """
    threads = run.n_threads
    chunk = chunk or max(1, -(-n // (32 * threads)))
    starts = range(0, n, chunk)
    with run.bar(label, n) if label else _Silent() as advance:
        if threads == 1 or len(starts) <= 1:
            for start in starts:
                work(start, min(start + chunk, n))
                advance(min(chunk, n - start))
            return
        failed = threading.Event()

        def guarded(start: int) -> None:
            if failed.is_set():
                return
            try:
                work(start, min(start + chunk, n))
            except BaseException:
                failed.set()
                raise

        pool = ThreadPoolExecutor(threads)
        try:
            pending = {pool.submit(guarded, start) for start in starts}
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                advance(len(done) * chunk)
        finally:
            failed.set()  # Ctrl-C in this thread: chunks not yet begun return at once
            pool.shutdown(wait=True, cancel_futures=True)


class _Silent:
    """A progress bar that is not shown."""

    def __enter__(self) -> Callable[[int], None]:
        return lambda steps: None

    def __exit__(self, *_: object) -> None:
        return None
