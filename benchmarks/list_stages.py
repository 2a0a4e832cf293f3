"""Processor time of one list over HTTP by stage and by thread, in one process of the service, on any machine.

    python benchmarks/service.py prepare /tmp/shop              # the shop of benchmarks/service.py
    python benchmarks/list_stages.py /tmp/shop                  # 2,000 lists by a socket, two at a time
    python benchmarks/list_stages.py /tmp/shop --rank 25

The service runs as one worker of several does: history and marks of changes from SQLite, metrics in files, traces
written by their thread. The load generator is a process of its own. Time is that of the thread's clock, which other
programs on the machine disturb less than the time on the wall; a stage counts without the stages inside it. Stages cost
about 1 µs each for being measured; the line of threads is measured without them, in a round of its own.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

LISTS_AT_A_TIME = 2


class StageTimer:
    """Adds up the processor time of functions by stage, on whichever threads they run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._stack = threading.local()

    def clear(self) -> None:
        """Count from nothing."""
        self.seconds.clear()
        self.calls.clear()

    def wrap(self, owner: Any, name: str, stage: str) -> None:
        """Measure a function of a module or a class from now on."""
        function = getattr(owner, name)
        setattr(owner, name, functools.wraps(function)(self._measured(function, stage)))

    def _measured(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def measured(*args: Any, **named: Any) -> Any:
            stack = self._stack.__dict__.setdefault("inner", [])
            stack.append(0.0)
            begun = time.thread_time()
            try:
                return function(*args, **named)
            finally:
                took = time.thread_time() - begun
                self.seconds[stage] += took - stack.pop()
                self.calls[stage] += 1
                if stack:
                    stack[-1] += took

        return measured


def measured_stages(timer: StageTimer) -> None:
    """Measure the stages of a list."""
    from zhiyin.pipeline.answers import Answers
    from zhiyin.service import endpoint_dispatch, list_routes, list_service
    from zhiyin.service.authentication import Authenticator
    from zhiyin.service.http_connection import Connection
    from zhiyin.service.list_service import ListService
    from zhiyin.service.metrics import Metrics, ShopMetrics
    from zhiyin.service.serving_state import ServingState
    from zhiyin.service.user_cache import UserCache
    from zhiyin.store import trace_writer
    from zhiyin.store.store import Store
    from zhiyin.store.trace_writer import TraceWriter

    for owner, name, stage in (
        (Connection, "data_received", "HTTP: bytes parsed"),
        (Authenticator, "authenticate", "key"),
        (Authenticator, "identify", "key"),
        (endpoint_dispatch, "_validated", "body: types"),
        (endpoint_dispatch, "parsed", "body: JSON"),
        (ListService, "create", "list service: the rest"),
        (ServingState, "catch_up", "marks of changes"),
        (Store, "recent_events", "history: SQLite"),
        (ServingState, "history_and_showings", "history: the rest"),
        (UserCache, "history", "history: arrays"),
        (list_service, "build_request", "request"),
        (Answers, "ask", "ask"),
        (list_service, "next_cursor", "cursor"),
        (ListService, "_write_trace", "trace: on the path"),
        (TraceWriter, "put", "trace: queue"),
        (trace_writer, "trace_row", "trace: packed (writer)"),
        (Store, "append_trace_rows", "trace: stored (writer)"),
        (TraceWriter, "_write", "trace: stored (writer)"),
        (ShopMetrics, "on_list", "metrics"),
        (Metrics, "done", "metrics"),
        (list_routes, "list_json", "JSON: objects"),
        (endpoint_dispatch, "json_response", "JSON: bytes"),
    ):  # fmt: skip
        if hasattr(owner, name):
            timer.wrap(owner, name, stage)


def thread_seconds() -> dict[str, float]:
    """Processor seconds of this process's threads so far, by name; Linux."""
    seconds: dict[str, float] = defaultdict(float)
    for thread in threading.enumerate():
        if thread.ident is not None:
            name = thread.name.split("_")[0].removesuffix("-0")
            seconds[name] += time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return seconds


def send(port: int, key: str, options: argparse.Namespace) -> None:
    """The load generator: it sends the lists to warm up, says so, and waits for a line before the others."""
    from load import _answers, _raw, _Wire
    from service import asks, ranks

    requests = ranks(options.rank) if options.rank else asks()
    wires = [_Wire("127.0.0.1", port) for _ in range(LISTS_AT_A_TIME)]
    statuses = set[int]()
    for is_last, number in enumerate((options.warm, options.lists)):
        texts = [_raw(next(requests), "shop", key) for _ in range(number)]
        busy, free = set[_Wire](), wires
        while busy or texts:
            for wire in free:
                if texts and wire.send(texts.pop(), time.perf_counter()):
                    busy.add(wire)
            free = _answers(busy, 30.0, lambda status, _: statuses.add(status))
        if statuses != {200}:
            raise SystemExit(f"the service answered {statuses}")
        print("sent", flush=True)
        if not is_last:
            sys.stdin.readline()


def measure(folder: Path, options: argparse.Namespace, timer: StageTimer | None) -> dict[str, float]:
    """Milliseconds of processor time of a list by thread."""
    from zhiyin.service.app import create_app
    from zhiyin.service.request_limits import Work
    from zhiyin.service.server import run
    from zhiyin.service.tenant import Tenant

    with tempfile.TemporaryDirectory() as shared, socket.socket() as sock:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(Path(shared) / "metrics")
        sock.bind(("127.0.0.1", 0))
        sock.listen(128)
        shop, _ = Tenant.open(folder / "zhiyin.toml", several=True, shared=Path(shared))
        key = shop.keys.add(f"stages-{time.time_ns()}", ["admin"], "1d")[1]
        command = [sys.executable, __file__, str(folder), "--client", f"{sock.getsockname()[1]} {key}",
                   f"--lists={options.lists}", f"--warm={options.warm}", f"--rank={options.rank}"]  # fmt: skip
        client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        result: dict[str, float] = {}

        def watch() -> None:
            assert client.stdin is not None
            assert client.stdout is not None
            if client.stdout.readline():
                time.sleep(0.5)  # traces are written
                if timer is not None:
                    timer.clear()
                before = thread_seconds()
                print("go", file=client.stdin, flush=True)
                if not client.stdout.readline():
                    print("the load generator failed", file=sys.stderr)
                while shop.traces.waiting:
                    time.sleep(0.02)
                for name, seconds in thread_seconds().items():
                    result[name] = 1e3 * (seconds - before[name]) / options.lists
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=watch, name="watcher", daemon=True).start()
        try:
            run(create_app([shop], Work(1, on_loop=not options.thread)), sock)
        finally:
            client.kill()
            client.wait()
            shop.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lists", type=int, default=2_000)
    parser.add_argument("--warm", type=int, default=500, help="lists before the first that counts")
    parser.add_argument("--rank", type=int, default=0, help="POST /v1/rank of so many items instead of lists")
    parser.add_argument("--thread", action="store_true", help="lists are made by a thread beside the event loop")
    parser.add_argument("--client", help=argparse.SUPPRESS)  # port and key, for the load generator's process
    options = parser.parse_args()
    if options.client:
        port, key = options.client.split()
        send(int(port), key, options)
        return
    threads = measure(options.folder, options, None)
    total = sum(threads.values())
    print(f"{total:.3f} ms of processor time a list, all threads")
    for name, milliseconds in sorted(threads.items(), key=lambda entry: -entry[1]):
        if milliseconds >= 0.005:
            print(f"  thread {name:24} {milliseconds:7.3f}")
    timer = StageTimer()
    measured_stages(timer)
    threads = measure(options.folder, options, timer)
    print("by stage, without the stages inside it; ms a list, calls a list")
    for stage, seconds in sorted(timer.seconds.items(), key=lambda entry: -entry[1]):
        print(f"  {stage:26} {1e3 * seconds / options.lists:7.3f} {timer.calls[stage] / options.lists:7.2f}")
    rest = sum(threads.values()) - 1e3 * sum(timer.seconds.values()) / options.lists
    print(f"  {'the rest (HTTP, hand-over)':26} {rest:7.3f}")


if __name__ == "__main__":
    main()
