"""Several processes behind one port: the parent listens and supervises, the workers answer.

    status = supervise(target, description, "127.0.0.1", 8000, workers=4)

`target(description, sock)` is a function of a module; each worker imports it, opens what the description names (a
store, a version, an application), calls `report(READY)` and answers on the socket until SIGTERM. All workers accept
connections from the same socket: a worker that dies loses its own connections and no others.
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
from contextlib import nullcontext, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from zhiyin.core.errors import ConfigError
from zhiyin.core.run import log

# Deaths of workers within so many seconds at which the service ends.
MAX_DEATHS, DEATH_WINDOW_SECONDS = 5, 60.0
# Seconds before a dead worker is replaced: at first, doubled with each death within the window, and at most.
RESTART_SECONDS, MAX_RESTART_SECONDS = 0.1, 5.0
# Seconds that workers have to finish their requests.
FINISH_SECONDS = 15.0
# Connections that may wait to be accepted.
BACKLOG = 2048

Target = Callable[[dict[str, Any], socket.socket | None], None]
# What a worker tells its parent when it answers.
READY = "ready"
# In a worker: by what its parent hears of it.
_parent: Connection | None = None


def report(what: str) -> None:
    """Tell the parent of this worker how far it is, READY when it answers; in any other process nothing is done."""
    if _parent is not None:
        with suppress(OSError):  # the parent has ended
            _parent.send_bytes(what.encode())


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0: any that is free. Raises ConfigError for an address that is in use or invalid."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, proto)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no name of a machine"
        raise ConfigError(f"there is no address {host!r}: {reason}", remedy="such as 127.0.0.1") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        in_use = error.errno == errno.EADDRINUSE
        raise ConfigError(
            f"port {port} of {host} is taken" if in_use else f"cannot listen at {host}:{port}: {error.strerror}",
            remedy="stop what listens there, or name another: --port" if in_use else "name others: --host, --port",
        ) from None
    return sock


def supervise(
    target: Target,
    description: dict[str, Any],
    host: str,
    port: int,
    workers: int,
    on_ready: Callable[[str, int], None] | None = None,
    finish: float = FINISH_SECONDS,
    on_answering: Callable[[str, int], None] | None = None,
    on_report: Callable[[str], None] | None = None,
    sock: socket.socket | None = None,
) -> int:
    """Listen and keep workers running until SIGTERM or SIGINT. Call it in the main thread.

    Parameters
    ----------
    target: a function of a module.
    description: plain data: texts, numbers, lists, dicts.
    workers: 1 or more.
    on_ready: called with host and port once the port listens and the workers are started.
    finish: seconds that workers have to finish their requests.
    on_answering: called with host and port once the first worker has reported that it answers.
    on_report: called with what else workers report.
    sock: listens already, and is closed by the caller; None: at host and port.

    Returns 0 after a requested stop, 1 where workers died too often or had to be killed at the end. Raises
    ConfigError where it cannot listen.
    """
    if workers < 1:
        raise ConfigError(f"{workers} workers", remedy="one or more")
    with nullcontext(sock) if sock is not None else listen(host, port) as listening:
        return _WorkerPool(target, description, listening, workers, finish).run(on_ready, on_answering, on_report)


class _WorkerPool:
    """Worker processes, each replaced when it dies."""

    def __init__(
        self, target: Target, description: dict[str, Any], sock: socket.socket, workers: int, finish: float
    ) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._reports, self._to_parent = self._context.Pipe(duplex=False)
        self._work = (target, description, sock, finish, self._to_parent)
        self._sock, self._finish = sock, finish
        self._processes: list[BaseProcess | None] = [None] * workers
        self._starts = [0.0] * workers  # when a dead worker may be replaced
        self._deaths: deque[float] = deque()
        self._stop = False
        # A signal wakes the wait by a byte in this pipe.
        self._wake_read, self._wake_write = os.pipe()

    def run(
        self,
        on_ready: Callable[[str, int], None] | None,
        on_answering: Callable[[str, int], None] | None,
        on_report: Callable[[str], None] | None,
    ) -> int:
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        status = 0
        try:
            self._start_workers()
            if on_ready is not None:
                on_ready(*self._sock.getsockname()[:2])
            while not self._stop:
                self._wait()
                for said in self._new_reports():
                    if said == READY and on_answering is not None:
                        on_answering(*self._sock.getsockname()[:2])
                        on_answering = None
                    elif said != READY and on_report is not None:
                        on_report(said)
                if not self._stop and self._count_deaths():
                    log.error("service: %d workers died within a minute: it stops", len(self._deaths))
                    status = 1
                    break
                self._start_workers()
        finally:
            clean = self._end()
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._reports.close()
            self._to_parent.close()
        return status if clean else 1

    def _on_signal(self, *_: object) -> None:
        self._stop = True
        with suppress(BlockingIOError):
            os.write(self._wake_write, b"x")

    def _start_workers(self) -> None:
        now = time.monotonic()
        for place, process in enumerate(self._processes):
            if process is None and now >= self._starts[place] and not self._stop:
                fresh = self._context.Process(target=_work, args=self._work, name=f"zhiyin-worker-{place}")
                fresh.start()
                self._processes[place] = fresh

    def _wait(self) -> None:
        """Wait until a worker ends or reports, a signal comes, or a dead worker may be replaced."""
        empty = [self._starts[place] for place, process in enumerate(self._processes) if process is None]
        patience = max(0.0, min(empty) - time.monotonic()) if empty else None
        sentinels = (process.sentinel for process in self._processes if process is not None)
        wait([self._wake_read, self._reports, *sentinels], patience)

    def _new_reports(self) -> list[str]:
        """What workers have reported since the last time."""
        reports = []
        while self._reports.poll():
            reports.append(self._reports.recv_bytes().decode())
        return reports

    def _count_deaths(self) -> bool:
        """Count dead workers; True for too many. A worker that ends on its own has died, whatever its exit status."""
        now = time.monotonic()
        for place, process in enumerate(self._processes):
            if process is None or process.is_alive():
                continue
            log.warning("service: worker %d ended with %s; another follows", process.pid or 0, process.exitcode)
            process.close()
            self._processes[place] = None
            self._deaths.append(now)
            while self._deaths[0] < now - DEATH_WINDOW_SECONDS:
                self._deaths.popleft()
            self._starts[place] = now + min(RESTART_SECONDS * 2 ** (len(self._deaths) - 1), MAX_RESTART_SECONDS)
        return len(self._deaths) >= MAX_DEATHS

    def _end(self) -> bool:
        """Stop all workers, and kill those that do not end in time. Returns whether none had to be killed."""
        running = [process for process in self._processes if process is not None]
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


def _work(target: Target, description: dict[str, Any], sock: socket.socket, finish: float, parent: Connection) -> None:
    """Run the target in a worker."""
    global _parent
    _parent = parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent says when to stop
    threading.Thread(target=_end_with_parent, args=(finish,), name="zhiyin-parent", daemon=True).start()
    target(description, sock)


def _end_with_parent(finish: float) -> None:
    """End this worker when its parent ends, however it does: an orphan would hold the port."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(finish)
    os._exit(1)
