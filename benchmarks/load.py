"""A load generator for HTTP: requests at set times, whatever the answers take (an open loop), or as many as can be.

Each connection is a socket that is kept; a request that is late because the one before it was slow counts from when it
should have been sent, so nothing is left out of the figures.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
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


class _Wire:
    """One kept connection."""

    def __init__(self, host: str, port: int, key: str) -> None:
        self.host, self.port = host, port
        self.head = f"Host: {host}\r\nAuthorization: Bearer {key}\r\n"
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def send(self, request: Request) -> int:
        method, path, body = request
        if self.writer is None or self.writer.is_closing():
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        assert self.reader is not None
        raw = b"" if body is None else json.dumps(body).encode()
        kind = "Content-Type: application/json\r\n" if body is not None else ""
        head = f"{method} {path} HTTP/1.1\r\n{self.head}{kind}Content-Length: {len(raw)}\r\n\r\n"
        self.writer.write(head.encode() + raw)
        try:
            said = await self.reader.readuntil(b"\r\n\r\n")
            length = int(said.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await self.reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            self.writer.close()
            self.writer = None
            raise
        return int(said[9:12])


async def _open_loop(
    wires: list[_Wire], requests: Iterator[Request], rate: float, seconds: float, keep: Callable[[int, float], None]
) -> None:
    """Requests at a rate; a free connection takes the next that is due."""
    free: asyncio.Queue[_Wire] = asyncio.Queue()
    for wire in wires:
        free.put_nowait(wire)
    begun, tasks = time.perf_counter(), set()

    async def one(due: float, request: Request, wire: _Wire) -> None:
        try:
            status = await wire.send(request)
        except (OSError, asyncio.IncompleteReadError):
            status = 0
        keep(status, 1e3 * (time.perf_counter() - due))
        free.put_nowait(wire)

    # Arrivals are random, as people's are.
    gaps = np.random.default_rng(7).exponential(1 / rate, int(rate * seconds))
    for due in begun + np.cumsum(gaps):
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        wire = await free.get()
        task = asyncio.create_task(one(due, next(requests), wire))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)


async def _closed_loop(
    wires: list[_Wire], requests: Iterator[Request], seconds: float, keep: Callable[[int, float], None]
) -> None:
    """As many requests as the connections can send one after the other."""
    until = time.perf_counter() + seconds

    async def one(wire: _Wire) -> None:
        while time.perf_counter() < until:
            begun = time.perf_counter()
            try:
                status = await wire.send(next(requests))
            except (OSError, asyncio.IncompleteReadError):
                status = 0
            keep(status, 1e3 * (time.perf_counter() - begun))

    await asyncio.gather(*(one(wire) for wire in wires))


def load(
    address: tuple[str, int], key: str, requests: Iterator[Request], seconds: float, *, rate: float | None = None,
    connections: int = 16,
) -> Result:  # fmt: skip
    """Send requests for a while; rate None: as many as can be."""
    found: list[float] = []
    statuses: dict[int, int] = {}
    wires = [_Wire(*address, key) for _ in range(connections)]

    def keep(status: int, milliseconds: float) -> None:
        if status == 200:
            found.append(milliseconds)
        else:
            statuses[status] = statuses.get(status, 0) + 1

    begun = time.perf_counter()
    if rate is None:
        asyncio.run(_closed_loop(wires, requests, seconds, keep))
    else:
        asyncio.run(_open_loop(wires, requests, rate, seconds, keep))
    took = time.perf_counter() - begun
    return Result(np.array(found), sum(statuses.values()), took, statuses)
