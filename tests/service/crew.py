"""What the workers of test_supervisor do; apart from it, so that a worker starts fast."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from zhiyin.service.supervisor import READY, report


def answer(description: dict[str, Any], sock: socket.socket | None) -> None:
    """Says its process id. `/slow` takes its time, and a stop waits for it."""
    asyncio.run(_answer(description, sock))


async def _answer(description: dict[str, Any], sock: socket.socket | None) -> None:
    stop, busy = asyncio.Event(), set()
    if description.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    async def on_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        busy.add(asyncio.current_task())
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/slow" in head:
            Path(description["mark"]).write_text("begun")
            await stop.wait()
        body = f"{description['word']} {os.getpid()}".encode()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()
        busy.discard(asyncio.current_task())

    server = await asyncio.start_server(on_request, sock=sock)
    await stop.wait()
    server.close()
    await asyncio.gather(*busy)


def answer_late(description: dict[str, Any], sock: socket.socket | None) -> None:
    """As `answer`, once a file is there."""
    while not Path(description["mark"]).exists():
        time.sleep(0.02)
    report(READY)
    answer(description, sock)


def fail(description: dict[str, Any], sock: socket.socket | None) -> None:
    sys.exit(7)
