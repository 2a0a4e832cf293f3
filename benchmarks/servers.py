"""Which server answers fastest: a small Starlette endpoint, one worker, the load on the same machine; and how evenly
the connections of two workers are spread.

    python benchmarks/servers.py [--seconds 5] [--runs 3] [--connections 16]
    python benchmarks/servers.py --accept                  # 16 connections: a shared socket, or SO_REUSEPORT

The load is of wrk where it is installed, else of load.py. A server that is not installed is left out. The runs of the
servers take turns, so that what else the machine does falls on all of them; processor time an answer hangs on that
less.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

SERVERS = {
    "uvicorn, asyncio + h11": ("uvicorn", "--port {port} --no-access-log --loop asyncio --http h11"),
    "uvicorn, asyncio + httptools": ("uvicorn", "--port {port} --no-access-log --loop asyncio --http httptools"),
    "uvicorn, uvloop + httptools": ("uvicorn", "--port {port} --no-access-log --loop uvloop --http httptools"),
    "uvicorn, connections of Zhiyin": ("zhiyin", "{port}"),
    "granian": ("granian", "--port {port} --interface asgi --workers 1"),
    "hypercorn": ("hypercorn", "--bind 127.0.0.1:{port} --workers 1"),
}
NEEDS = {"h11": "h11", "httptools": "httptools", "uvloop": "uvloop"}


async def recommendations(request: Request) -> JSONResponse:
    k = int(request.query_params.get("k", 10))
    items = [{"item": f"film {n}", "score": 1.0 / (n + 1)} for n in range(k)]
    return JSONResponse({"user": request.query_params["user"], "version": 3, "items": items})


app = Starlette(routes=[Route("/v1/recommendations", recommendations)])


def spent(pid: int) -> float:
    """Processor seconds of a process and those below it. Linux."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + sum(spent(int(each)) for each in below)


def measure(server: str, options: str, seconds: int, connections: int) -> tuple[float, float, float]:
    """Answers a second, the 99th percentile of their time in milliseconds, processor microseconds an answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", server, *options.format(port=port).split(), "servers:app"]
    if server == "zhiyin":
        command = [sys.executable, __file__, "--serve", str(port)]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, cwd=Path(__file__).parent, stdout=said, stderr=said)
        try:
            until = time.monotonic() + 30
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    if time.monotonic() > until or process.poll() is not None:
                        said.seek(0)
                        raise RuntimeError(f"{server} does not start: {said.read().decode()[-500:]}") from None
                    time.sleep(0.05)
            send(port, 1, connections)  # warm
            before = spent(process.pid)
            rate, slow, answers = send(port, seconds, connections)
            busy = spent(process.pid) - before
        finally:
            process.terminate()
            process.wait()
    return rate, slow, busy / answers * 1e6


def send(port: int, seconds: int, connections: int) -> tuple[float, float, int]:
    """Answers a second, the 99th percentile of their time in milliseconds, and how many they were."""
    path = "/v1/recommendations?user=alice"
    if shutil.which("wrk") is None:
        from load import load

        result = load(
            ("127.0.0.1", port), "no key", itertools.repeat(("GET", path, None)), seconds, connections=connections
        )
        if result.errors:
            raise RuntimeError(f"{result.errors} errors {result.statuses}")
        return result.rate, float(np.percentile(result.milliseconds, 99)), len(result.milliseconds)
    wrk = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", f"http://127.0.0.1:{port}{path}"]
    found = subprocess.run(wrk, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in found or "Socket errors" in found:
        raise RuntimeError(found)
    number, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", found).groups()  # type: ignore[union-attr]
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", found)[1])  # type: ignore[index]
    answers = int(re.search(r"(\d+) requests in", found)[1])  # type: ignore[index]
    return rate, float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit], answers


def serve(port: int) -> None:
    """Answer by uvicorn with the connections of Zhiyin's service."""
    import uvicorn

    from zhiyin.service.connections import Connections, limited

    uvicorn.run(app, port=port, http=limited(Connections()), log_config=None, access_log=False, ws="none")


def accepted(sock: socket.socket | None, port: int, answers: Any) -> None:
    """One of two workers: how many connections it gets, on a socket of its own where it is given none."""
    import uvloop

    count = 0

    class Busy(asyncio.Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            nonlocal count
            count += 1
            end = time.perf_counter() + 0.002  # a list
            while time.perf_counter() < end:
                pass
            transport.write(b"x")

    async def answer() -> None:
        own = sock
        if own is None:
            own = socket.socket()
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            own.bind(("127.0.0.1", port))
            own.listen(2_048)
        await asyncio.get_running_loop().create_server(Busy, sock=own)
        answers.put(-1)
        await asyncio.sleep(3)
        answers.put(count)

    uvloop.run(answer())


def spread(shared: bool) -> list[int]:
    """Connections of each of two workers, of 16 that are opened one after the other."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", 0))
        port, answers = sock.getsockname()[1], context.Queue()
        if shared:
            sock.listen(2_048)
        workers = [context.Process(target=accepted, args=(sock if shared else None, port, answers)) for _ in range(2)]
        for worker in workers:
            worker.start()
        for _ in workers:
            answers.get(timeout=30)
        opened = []
        for _ in range(16):
            opened.append(socket.create_connection(("127.0.0.1", port)))
            time.sleep(0.007)
        counts = sorted(answers.get(timeout=30) for _ in workers)
        for worker in workers:
            worker.join()
        for connection in opened:
            connection.close()
        return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("--seconds", 5), ("--runs", 3), ("--connections", 16)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--accept", action="store_true", help="how evenly two workers get connections")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve)
        return
    if args.accept:
        for shared in (True, False):
            name = "a shared socket" if shared else "SO_REUSEPORT"
            print(name, *(spread(shared) for _ in range(args.runs)))
        return
    there = {
        name: how for name, how in SERVERS.items()
        if find_spec(how[0]) and all(find_spec(part) for word, part in NEEDS.items() if word in name)
    }  # fmt: skip
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in there}
    for _ in range(args.runs):
        for name, how in there.items():
            found[name].append(measure(*how, args.seconds, args.connections))
    print(f"{'server':32}{'answers a second':>18}{'least … most':>20}{'99 % within ms':>16}{'CPU µs each':>13}")
    for name, runs in found.items():
        rates, times, busy = zip(*runs)
        print(
            f"{name:32}{statistics.median(rates):18,.0f}{min(rates):11,.0f} … {max(rates):6,.0f}"
            f"{statistics.median(times):16.1f}{statistics.median(busy):13.0f}"
        )


if __name__ == "__main__":
    main()
