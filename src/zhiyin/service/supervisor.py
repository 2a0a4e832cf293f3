"""Several processes behind one port: the parent listens and watches, the workers answer.

    status = supervise(target, description, "127.0.0.1", 8000, workers=4)

`target(description, sock)` is a function of a module; each worker imports it anew, makes of the description what it
needs (a store, a version, an application) and answers on the socket until SIGTERM. All workers take connections from
the same socket: one that dies takes with it the connections it had, and no others.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from zhiyin.core.errors import ConfigError
from zhiyin.core.run import log

# Deaths within so many seconds at which it gives up; seconds before a worker follows one that died: doubled with each
# death of the last minute, and at most.
DEATHS, WITHIN, PAUSE, LONGEST = 5, 60.0, 0.1, 5.0
# Seconds that workers have to finish what they do.
FINISH = 15.0
# Connections that may wait to be taken.
BACKLOG = 2048

Target = Callable[[dict[str, Any], socket.socket | None], None]


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0: any that is free. Raises ConfigError where the address is taken or cannot be."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, proto)
    except (OSError, UnicodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "no name of a machine"
        raise ConfigError(f"there is no address {host!r}: {said}", remedy="such as 127.0.0.1") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        taken = error.errno == errno.EADDRINUSE
        raise ConfigError(
            f"port {port} of {host} is taken" if taken else f"cannot listen at {host}:{port}: {error.strerror}",
            remedy="stop what listens there, or name another: --port" if taken else "name others: --host, --port",
        ) from None
    return sock


def supervise(
    target: Target,
    description: dict[str, Any],
    host: str,
    port: int,
    workers: int,
    on_ready: Callable[[str, int], None] | None = None,
    finish: float = FINISH,
) -> int:
    """Listen and keep workers running until SIGTERM or SIGINT. Call it in the main thread.

    Parameters
    ----------
    target: a function of a module. description: plain data: texts, numbers, lists, dicts.
    workers: 1 or more. on_ready: called with host and port once the port listens and the workers are started.
    finish: seconds that workers have to finish what they do.

    Returns 0 after a stop that was asked for, 1 where workers died too often or had to be killed at the end. Raises
    ConfigError where it cannot listen.
    """
    if workers < 1:
        raise ConfigError(f"{workers} workers", remedy="one or more")
    with listen(host, port) as sock:
        return _Crew(target, description, sock, workers, finish).run(on_ready)


class _Crew:
    def __init__(
        self, target: Target, description: dict[str, Any], sock: socket.socket, workers: int, finish: float
    ) -> None:
        self._work, self._sock, self._finish = (target, description, sock, finish), sock, finish
        self._context = multiprocessing.get_context("spawn")
        self._at: list[BaseProcess | None] = [None] * workers
        self._starts = [0.0] * workers  # when a place that is empty may be filled
        self._deaths: deque[float] = deque()
        self._stop = False
        # A signal wakes the wait by a byte in this pipe.
        self._woken, self._wake = os.pipe()

    def run(self, on_ready: Callable[[str, int], None] | None) -> int:
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        before = {number: signal.signal(number, self._asked) for number in (signal.SIGTERM, signal.SIGINT)}
        status = 0
        try:
            self._fill()
            if on_ready is not None:
                on_ready(*self._sock.getsockname()[:2])
            while not self._stop:
                self._wait()
                if not self._stop and self._count_deaths():
                    log.error("service: %d workers died within a minute: it stops", len(self._deaths))
                    status = 1
                    break
                self._fill()
        finally:
            clean = self._end()
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(self._woken)
            os.close(self._wake)
        return status if clean else 1

    def _asked(self, *_: object) -> None:
        self._stop = True
        with suppress(BlockingIOError):
            os.write(self._wake, b"x")

    def _fill(self) -> None:
        now = time.monotonic()
        for place, process in enumerate(self._at):
            if process is None and now >= self._starts[place] and not self._stop:
                fresh = self._context.Process(target=_work, args=self._work, name=f"zhiyin-worker-{place}")
                fresh.start()
                self._at[place] = fresh

    def _wait(self) -> None:
        """Until a worker ends, a signal comes, or an empty place may be filled."""
        empty = [self._starts[place] for place, process in enumerate(self._at) if process is None]
        patience = max(0.0, min(empty) - time.monotonic()) if empty else None
        wait([self._woken, *(process.sentinel for process in self._at if process is not None)], patience)

    def _count_deaths(self) -> bool:
        """Whether there are too many. A worker that ends without being asked to has died, whatever its status."""
        now = time.monotonic()
        for place, process in enumerate(self._at):
            if process is None or process.is_alive():
                continue
            log.warning("service: worker %d ended with %s; another follows", process.pid or 0, process.exitcode)
            process.close()
            self._at[place] = None
            self._deaths.append(now)
            while self._deaths[0] < now - WITHIN:
                self._deaths.popleft()
            self._starts[place] = now + min(PAUSE * 2 ** (len(self._deaths) - 1), LONGEST)
        return len(self._deaths) >= DEATHS

    def _end(self) -> bool:
        """Ask all to stop, wait, kill who does not. Whether none had to be killed."""
        running = [process for process in self._at if process is not None]
        for process in running:
            process.terminate()
        until = time.monotonic() + self._finish
        for process in running:
            process.join(max(0.0, until - time.monotonic()))
        late = [process for process in running if process.is_alive()]
        for process in late:
            log.warning("service: worker %d did not stop in %g seconds: killed", process.pid or 0, self._finish)
            process.kill()
        for process in running:
            process.join()
            process.close()
        return not late


def _work(target: Target, description: dict[str, Any], sock: socket.socket, finish: float) -> None:
    """In a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent says when to stop
    threading.Thread(target=_outlive, args=(finish,), name="zhiyin-parent", daemon=True).start()
    target(description, sock)


def _outlive(finish: float) -> None:
    """A worker ends with its parent, however that one ended: an orphan would keep the port."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(finish)
    os._exit(1)
