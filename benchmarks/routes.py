"""The cost of the way into the service: CPU time of a request to the routes that are asked for most, without a network.

    python benchmarks/routes.py                                  # this checkout
    python benchmarks/routes.py --against ../other/src           # beside another one, in turns; ratios of medians

The application is called as a server calls it, one request after another. Counted is the CPU time of all threads, which
other programs on the machine disturb less than the time on the clock. The shop is small (60 users, 40 items), so that a
list costs little and the way to it much.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BODIES: dict[str, tuple[str, Any]] = {
    "recommendations": ("/v1/recommendations", {"user": "u3", "k": 10}),
    "rank": ("/v1/rank", {"user": "u3", "items": [f"i{n}" for n in range(20)]}),
    "one event": ("/v1/events", {"events": [{"user": "u3", "item": "i1", "kind": "view"}]}),
    "100 events": ("/v1/events", {"events": [{"user": f"u{n}", "item": "i1", "kind": "view"} for n in range(100)]}),
}


def measure(seconds: float) -> dict[str, float]:
    """Requests a second of CPU time, by route."""
    from fuzz import prepare
    from zhiyin.service.app import create_app
    from zhiyin.service.tenant import Tenant

    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        shop, keys = Tenant.open(Path(folder) / "zhiyin.toml")
        try:
            return asyncio.run(_measure(create_app([shop]), keys["admin"], seconds))
        finally:
            shop.close()


async def _measure(app: Any, key: str, seconds: float) -> dict[str, float]:
    rates = {}
    for name, (path, body) in BODIES.items():
        raw = json.dumps(body).encode()
        for duration in (seconds / 5, seconds):  # the first to warm up
            n_requests, start, end = 0, time.process_time(), time.perf_counter() + duration
            while time.perf_counter() < end:
                await _request(app, path, raw, key)
                n_requests += 1
        rates[name] = n_requests / (time.process_time() - start)
    return rates


async def _request(app: Any, path: str, body: bytes, key: str) -> None:
    headers = [(b"host", b"shop"), (b"authorization", b"Bearer " + key.encode()), (b"accept", b"*/*"),
               (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]  # fmt: skip
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
             "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": headers,
             "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}  # fmt: skip
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    statuses = []

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()  # the client stays

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 200))

    await app(scope, receive, send)
    assert set(statuses) == {200}, statuses


def in_turns(sources: list[Path], rounds: int, seconds: float) -> list[dict[str, float]]:
    """Medians of requests a second of CPU time, of each checkout."""
    results: list[list[dict[str, float]]] = [[] for _ in sources]
    for _ in range(rounds):
        for source, rates in zip(sources, results):
            benchmarks = Path(__file__).parent
            path = os.pathsep.join([str(source), str(benchmarks)])
            command = [sys.executable, __file__, "--seconds", str(seconds), "--json"]
            run = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=True, capture_output=True)
            rates.append(json.loads(run.stdout.splitlines()[-1]))
    return [{name: statistics.median(rates[name] for rates in of_one) for name in BODIES} for of_one in results]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="src of another checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each route and round")
    parser.add_argument("--json", action="store_true", help="write the figures of this checkout as JSON")
    options = parser.parse_args()
    if options.json:
        print(json.dumps(measure(options.seconds)))
        return
    own = Path(__file__).parents[1] / "src"
    sources = [own, *([options.against] if options.against else [])]
    rates, *others = in_turns(sources, options.rounds, options.seconds)
    for name in BODIES:
        ratio = f"; {rates[name] / others[0][name]:.2f} times the other's" if others else ""
        print(f"{name}: {1e6 / rates[name]:,.0f} µs of CPU time, {rates[name]:,.0f} requests a second of it{ratio}")


if __name__ == "__main__":
    main()
