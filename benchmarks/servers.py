"""Which server answers fastest: a small FastAPI endpoint, one worker, wrk on the same machine.

    python benchmarks/servers.py [--seconds 5] [--runs 3] [--connections 16]

Needs wrk (`apt-get install wrk`); a server that is not installed is left out. The runs of the servers take turns, so
that what else the machine does falls on all of them; processor time an answer hangs on that less.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

SERVERS = {
    "uvicorn, asyncio + h11": ("uvicorn", "--port {port} --no-access-log --loop asyncio --http h11"),
    "uvicorn, asyncio + httptools": ("uvicorn", "--port {port} --no-access-log --loop asyncio --http httptools"),
    "uvicorn, uvloop + httptools": ("uvicorn", "--port {port} --no-access-log --loop uvloop --http httptools"),
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
            address = f"http://127.0.0.1:{port}/v1/recommendations?user=alice"
            load = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", address]
            subprocess.run([*load[:3], "-d1s", address], capture_output=True, check=True)  # warm
            before = spent(process.pid)
            found = subprocess.run(load, capture_output=True, text=True, check=True).stdout
            busy = spent(process.pid) - before
        finally:
            process.terminate()
            process.wait()
    if "Non-2xx" in found or "Socket errors" in found:
        raise RuntimeError(f"{server}: {found}")
    number, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", found).groups()  # type: ignore[union-attr]
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", found)[1])  # type: ignore[index]
    answers = int(re.search(r"(\d+) requests in", found)[1])  # type: ignore[index]
    return rate, float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit], busy / answers * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("--seconds", 5), ("--runs", 3), ("--connections", 16)):
        parser.add_argument(name, type=int, default=default)
    args = parser.parse_args()
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
