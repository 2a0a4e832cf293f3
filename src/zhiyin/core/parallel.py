"""Threads for compiled kernels.

A kernel is a Numba function compiled with `kernel`: it releases the GIL and works on the rows [start, stop). Threads
take chunks of rows as they become free, so a Zipf tail of heavy rows does not leave one thread working alone, and any
number of callers may run kernels at once (Numba's own parallel loops allow neither).
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import cache
from typing import Any

import numba
import numpy as np

from zhiyin.core.run import Run, log


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of plain arrays: GIL released, cached on disk, sums may be reordered."""
    # "nnan" and "ninf" stay off: scores of minus infinity mean "excluded" and must compare as written.
    return compiled(function, fastmath={"reassoc", "contract", "nsz", "arcp"})


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compile a function with Numba, GIL released, cached on disk where a folder can be written.

    Numba looks beside the source, then below the home folder. Where neither can be written, the compiled code goes to
    a private folder of the system's temporary one, and without that it is compiled anew in every process.
    """
    # Said, for a function that is compiled while its caller is takes what is not said from the caller.
    options.setdefault("fastmath", False)
    try:
        return numba.njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:  # "no locator available"
        folder = _temporary_cache()
    if folder is not None:
        numba.config.CACHE_DIR = folder  # type: ignore[attr-defined]
        with contextlib.suppress(RuntimeError):
            return numba.njit(nogil=True, cache=True, **options)(function)
    return numba.njit(nogil=True, **options)(function)


def read_only(array: np.ndarray) -> np.ndarray:
    """The array, contiguous and read-only: a kernel is compiled once for it, whoever owns the memory."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


@cache
def _temporary_cache() -> str | None:
    """A folder for compiled code that only this user can write, or None; which it is, is logged once.

    What lies there is executed, so a folder that belongs to somebody else, or that others can write, is not used.
    """
    folder = os.path.join(tempfile.gettempdir(), f"zhiyin-compiled-{os.getuid()}")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        status = os.lstat(folder)
        own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
        usable = own and os.access(folder, os.W_OK)
    except OSError:
        usable = False
    if usable:
        log.info("compiled code is kept in %s; set NUMBA_CACHE_DIR to a folder that lasts", folder)
        return folder
    log.warning("no folder for compiled code can be written, so each start compiles anew: set NUMBA_CACHE_DIR to one")
    return None


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
