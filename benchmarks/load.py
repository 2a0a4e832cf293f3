"""A load generator for HTTP: requests at set times, whatever the answers take (an open loop), or as many as can be.

Each connection is a socket that is kept; a request that is late because the one before it was slow counts from when it
should have been sent, so nothing is left out of the figures. One thread waits for sockets by `select`, whose clock is
exact to the microsecond; asyncio's rounds up to the millisecond, and its lateness would be told as the server's.
"""

from __future__ import annotations

import dataclasses
import json
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

# What a request is: method, path, body (None: none).
Request = tuple[str, str, Any]


@dataclasses.dataclass
class Result:
    """Milliseconds of each request that was answered, and how many were not answered well."""

    milliseconds: np.ndarray
    errors: int
    seconds: float
    statuses: dict[int, int]

    @property
    def rate(self) -> float:
        return len(self.milliseconds) / self.seconds

    def said(self) -> str:
        p50, p95, p99 = np.percentile(self.milliseconds, [50, 95, 99]) if len(self.milliseconds) else [np.nan] * 3
        worst = self.milliseconds.max(initial=0)
        return (f"{self.rate:,.0f} requests/s, p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms, "
                f"max {worst:.0f} ms, {self.errors} errors {self.statuses or ''}")  # fmt: skip


# Seconds that the last answers are waited for.
PATIENCE = 30.0


class _Wire:
    """One kept connection, with the answer that it is receiving."""

    def __init__(self, host: str, port: int) -> None:
        self.address = (host, port)
        self.due = 0.0
        self._got, self._whole = b"", 0
        self.socket: socket.socket | None = None

    def fileno(self) -> int:
        assert self.socket is not None
        return self.socket.fileno()

    def send(self, raw: bytes, due: float) -> bool:
        """Whether it could be sent."""
        self.due, self._got, self._whole = due, b"", 0
        try:
            if self.socket is None:
                self.socket = socket.create_connection(self.address, PATIENCE)
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket.sendall(raw)
            return True
        except OSError:
            self.close()
            return False

    def receive(self) -> int | None:
        """The status once the answer is whole, 0 where the connection broke, None where there is more to come."""
        assert self.socket is not None
        try:
            part = self.socket.recv(1 << 18, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            part = b""
        if not part:
            self.close()
            return 0
        self._got += part
        if not self._whole:
            end = self._got.find(b"\r\n\r\n")
            if end < 0:
                return None
            length = self._got[:end].lower().split(b"content-length:")[1].split(b"\r\n")[0]
            self._whole = end + 4 + int(length)
        return int(self._got[9:12]) if len(self._got) >= self._whole else None

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
        self.socket = None


def _raw(request: Request, host: str, key: str) -> bytes:
    method, path, body = request
    said = b"" if body is None else json.dumps(body).encode()
    kind = "Content-Type: application/json\r\n" if body is not None else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n{kind}"
    return f"{head}Content-Length: {len(said)}\r\n\r\n".encode() + said


def _answers(busy: set[_Wire], wait: float, keep: Callable[[int, float], None]) -> list[_Wire]:
    """Connections that are free again, after `wait` seconds at most."""
    free = []
    for wire in select.select(list(busy), [], [], max(0.0, wait))[0]:
        status = wire.receive()
        if status is not None:
            keep(status, 1e3 * (time.perf_counter() - wire.due))
            free.append(wire)
    busy.difference_update(free)
    return free


def _open_loop(
    wires: list[_Wire], requests: Iterator[bytes], rate: float, seconds: float, keep: Callable[[int, float], None]
) -> None:
    """Requests at a rate; a free connection takes the next that is due."""
    # Arrivals are random, as people's are.
    gaps = np.random.default_rng(7).exponential(1 / rate, int(rate * seconds))
    dues = deque((time.perf_counter() + np.cumsum(gaps)).tolist())
    free, busy, end = deque(wires), set[_Wire](), dues[-1] + PATIENCE
    while (dues or busy) and time.perf_counter() < end:
        while dues and free and dues[0] <= time.perf_counter():
            wire, due = free.popleft(), dues.popleft()
            if wire.send(next(requests), due):
                busy.add(wire)
            else:
                keep(0, 0.0)
                free.append(wire)
        until = dues[0] if dues and free else end
        free.extend(_answers(busy, until - time.perf_counter(), keep))
    for _ in busy:
        keep(0, 0.0)


def _closed_loop(
    wires: list[_Wire], requests: Iterator[bytes], seconds: float, keep: Callable[[int, float], None]
) -> None:
    """As many requests as the connections can send one after the other."""
    until, busy, free = time.perf_counter() + seconds, set[_Wire](), list(wires)
    while time.perf_counter() < until:
        for wire in free:
            if wire.send(next(requests), time.perf_counter()):
                busy.add(wire)
            else:
                keep(0, 0.0)
        free = [wire for wire in wires if wire not in busy] + _answers(busy, until - time.perf_counter(), keep)
    end = time.perf_counter() + PATIENCE
    while busy and time.perf_counter() < end:
        _answers(busy, end - time.perf_counter(), keep)
    for _ in busy:
        keep(0, 0.0)


def load(
    address: tuple[str, int], key: str, requests: Iterator[Request], seconds: float, *, rate: float | None = None,
    connections: int = 16,
) -> Result:  # fmt: skip
    """Send requests for a while; rate None: as many as can be."""
    found: list[float] = []
    statuses: dict[int, int] = {}
    wires = [_Wire(*address) for _ in range(connections)]
    texts: Iterator[bytes] = (_raw(request, address[0], key) for request in requests)

    def keep(status: int, milliseconds: float) -> None:
        if status == 200:
            found.append(milliseconds)
        else:
            statuses[status] = statuses.get(status, 0) + 1

    if rate is not None:  # made before the clock starts
        texts = iter([next(texts) for _ in range(int(rate * seconds))])
    begun = time.perf_counter()
    if rate is None:
        _closed_loop(wires, texts, seconds, keep)
    else:
        _open_loop(wires, texts, rate, seconds, keep)
    took = time.perf_counter() - begun
    for wire in wires:
        wire.close()
    return Result(np.array(found), sum(statuses.values()), took, statuses)
