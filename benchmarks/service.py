"""The service under load, with the load generator on the same cores; every figure of its table.

    python benchmarks/service.py prepare /tmp/shop                 # 100,000 items, 4 sources, trees; a store
    python benchmarks/service.py lists /tmp/shop                   # recommendations at 150/s, and as many as can be
    python benchmarks/service.py rank /tmp/shop                    # POST /v1/rank of 25 and of 300 items at 100/s
    python benchmarks/service.py events /tmp/shop                  # events kept on disk: batches of 100, single
    python benchmarks/service.py fresh /tmp/shop                   # until a new item and a click count
    python benchmarks/service.py log /tmp/shop --events 10000000   # fill the store's log
    python benchmarks/service.py start /tmp/shop --workers 2       # until it answers, the first 100 lists, and memory
    python benchmarks/service.py soak /tmp/shop --minutes 30 --retrain 6m    # everything at once
    python benchmarks/service.py prepare /tmp/million --items 1000000 ; python benchmarks/service.py big /tmp/million

The log is made as in benchmarks/request.py. Each request asks for 20 items under a filter, with MMR by category, the
history read from SQLite (users drawn from 100,000), traced. Latency counts from when a request was due. Each figure is
measured in `--rounds`, each of which is printed with how fast the machine is at that moment, and then their median.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import Request as Call
from urllib.request import urlopen

import numpy as np

from load import Request, Result, load

SETTINGS = """
[answers]
variety = "mmr"
categories = "category"

[service]
budget = 200
rate = 0
"""
FILTER = "price < 50 AND category <> 'c7'"


def prepare(folder: Path, n_items: int) -> None:
    """A version of a pipeline with a ranker that is used, and events of the last day in the store."""
    import request as shop
    import zhiyin as zy
    from zhiyin.data.catalogue import Catalogue
    from zhiyin.pipeline import ranker_training, window_candidates
    from zhiyin.pipeline.model_versions import Bundles
    from zhiyin.pipeline.pipeline import DEFAULT_RANKER
    from zhiyin.pipeline.time_windows import plan_windows
    from zhiyin.ranking import registry as rankers
    from zhiyin.ranking.feature_builder import FeatureBuilder

    run = zy.Run()
    if n_items > 100_000:  # all items for each of 20,000 users would take an hour: what is measured is time
        run, window_candidates.MAX_WINDOW_REQUESTS = dataclasses.replace(run, approximate=True), 2_000
    data = shop.shop(n_items, 100_000, 2_000_000)
    pipeline = zy.Pipeline(sources=shop.SOURCES, candidates=100, ranker="none", windows=1).fit(data, run)
    part, window = plan_windows(data, 1, 0.02, True, run).choose[0]
    past = window_candidates.retrieve_window(pipeline.sources_, part, window, 100, run)
    pipeline.ranker_ = ranker_training.train_ranker(rankers.parse(DEFAULT_RANKER), [past], run, past.builder(run))
    pipeline.builder_ = FeatureBuilder.learn(data, pipeline.sources_, run=run)
    pipeline.choices_ = dict.fromkeys(pipeline.choices_, "ranker")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "zhiyin.toml").write_text(SETTINGS)
    bundles = Bundles(folder / "models" / "bundles")
    bundles.promote(bundles.write(pipeline, figures={}, catalogue=Catalogue.of(data)).version)
    fill(folder, 200_000)


def fill(folder: Path, events: int) -> None:
    """Events of the past days into the store's log."""
    from zhiyin.store.records import Event
    from zhiyin.store.store import Store

    rng, store, now = np.random.default_rng(3), Store(folder / "store.db"), time.time_ns() // 1000
    for start in range(0, events, 10_000):
        n = min(10_000, events - start)
        users, items = rng.integers(0, 100_000, n).tolist(), rng.integers(0, 100_000, n).tolist()
        times = (now - rng.integers(0, 86_400_000_000, n)).tolist()
        store.append([Event(str(u), str(i), t, "view") for u, i, t in zip(users, items, times)])
        if start % 1_000_000 == 0:
            print(f"{start:,} events", file=sys.stderr, flush=True)
    store.close()


class Server:
    """`zhiyin serve` in a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.log = folder, folder / "server.log"
        made = [sys.executable, "-m", "zhiyin", "key", "add", f"benchmark-{time.time_ns()}", "--scope", "admin",
                "--expires", "1d"]  # fmt: skip
        self.key = subprocess.run(made, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
        self.begun = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "zhiyin", "serve", "--port", "0", *options], cwd=folder,
            stdout=self.log.open("w"), stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        found = self._wait(r"at http://([\d.]+):(\d+)")
        self.address = (found[1], int(found[2]))
        while True:
            try:
                self.call("GET", "/ready")
                break
            except OSError:
                time.sleep(0.01)
        self.ready = time.perf_counter() - self.begun
        self.processor_at_ready = self.processor(parent=True)

    def _wait(self, pattern: str) -> re.Match[str]:
        while True:
            found = re.search(pattern, self.log.read_text())
            if found:
                return found
            if self.process.poll() is not None:
                raise SystemExit(self.log.read_text())
            time.sleep(0.01)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        raw = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        url = f"http://{self.address[0]}:{self.address[1]}{path}"
        with urlopen(Call(url, raw, headers, method=method), timeout=30) as answer:
            return json.loads(answer.read())

    def load(self, requests: Iterator[Request], seconds: float, **how: Any) -> Any:
        return load(self.address, self.key, requests, seconds, **how)

    def workers(self) -> list[int]:
        """Processes that answer."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        spawned = [int(p) for p in children if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]
        return spawned or [self.process.pid]

    def processor(self, *, parent: bool = False) -> float:
        """Seconds of processor time that the workers have used, and the parent of several too."""
        found = 0
        for pid in {*self.workers(), *([self.process.pid] if parent else [])}:
            said = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            found += int(said[11]) + int(said[12])
        return found / os.sysconf("SC_CLK_TCK")

    def memory(self) -> list[tuple[float, float]]:
        """MB of each worker: of its own (private), and shared with files."""
        found = []
        for pid in self.workers():
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            kb = {n: int(v) for n, v in re.findall(r"(\w+):\s+(\d+) kB", rollup)}
            own = kb["Private_Dirty"] + kb.get("Swap", 0)
            found.append((own / 1024, (kb["Rss"] - own) / 1024))
        return found

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(30):
            print(f"the server ended with {self.process.returncode}: {self.log.read_text()[-2000:]}")


def rounds(label: str, given: argparse.Namespace, measure: Callable[[], tuple[Result, str]]) -> list[Result]:
    """Measure several times; print each, and the medians."""
    results = []
    for _ in range(given.rounds):
        result, more = measure()
        results.append(result)
        print(f"{label}: {result.said()}{more}; 5 M additions in {additions():.2f} s", flush=True)
    p50, p99, rate = np.median(
        [[*np.percentile(one.milliseconds, [50, 99]), one.rate] for one in results if len(one.milliseconds)], axis=0
    )
    errors = sum(one.errors for one in results)
    print(
        f"{label}, median of {len(results)}: {rate:,.0f} requests/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms, "
        f"{errors} errors", flush=True,
    )  # fmt: skip
    return results


def asks(seed: int = 1, k: int = 20) -> Iterator[Request]:
    rng = np.random.default_rng(seed)
    while True:
        user = str(rng.integers(0, 100_000))
        yield "POST", "/v1/recommendations", {"user": user, "k": k, "filter": FILTER}


def ranks(n: int) -> Iterator[Request]:
    rng = np.random.default_rng(2)
    while True:
        items = [str(i) for i in rng.choice(100_000, n, replace=False)]
        yield "POST", "/v1/rank", {"user": str(rng.integers(0, 100_000)), "items": items}


def events(batch: int, seed: int = 3) -> Iterator[Request]:
    rng = np.random.default_rng(seed)
    while True:
        users, items = rng.integers(0, 100_000, (2, batch)).tolist()
        yield "POST", "/v1/events", {"events": [
            {"user": str(u), "item": str(i), "kind": "view"} for u, i in zip(users, items)
        ]}  # fmt: skip


def lists(folder: Path, given: argparse.Namespace) -> None:
    for workers in given.workers:
        server = Server(folder, "--workers", str(workers))
        server.load(asks(9), 5, rate=50)
        rate = given.rate or 150

        def measure(seed: int, **how: Any) -> tuple[Result, str]:
            used = server.processor()  # noqa: B023
            result = server.load(asks(seed), given.seconds, **how)  # noqa: B023
            each = 1e3 * (server.processor() - used) / max(1, len(result.milliseconds))  # noqa: B023
            return result, f"; {each:.1f} ms of processor time each"

        rounds(f"{workers} workers, {rate:g}/s", given, partial(measure, 1, rate=rate))
        rounds(f"{workers} workers, as many as can be", given, partial(measure, 4, connections=8 * workers))
        print(f"{workers} workers, with explain, 50/s: "
              + server.load(_explained(), given.seconds, rate=50).said(), flush=True)  # fmt: skip
        server.stop()


def _explained() -> Iterator[Request]:
    for method, path, body in asks(6):
        yield method, path, body | {"explain": True}


def rank(folder: Path, given: argparse.Namespace) -> None:
    server = Server(folder, "--workers", str(given.workers[0]))
    for n in (25, 300):
        server.load(ranks(n), 3, rate=50)
        rounds(f"rank {n} items, 100/s", given, lambda: (server.load(ranks(n), given.seconds, rate=100), ""))  # noqa: B023
    server.stop()


def bring(folder: Path, given: argparse.Namespace) -> None:
    server = Server(folder, "--workers", str(given.workers[0]))
    for batch, connections in ((100, 8), (1, 64)):
        server.load(events(batch, 5), 2, connections=connections)

        def measure() -> tuple[Result, str]:
            result = server.load(events(batch), given.seconds, connections=connections)  # noqa: B023
            return result, f"; {batch * result.rate:,.0f} events/s"  # noqa: B023

        results = rounds(f"events into {events_in(folder):,}, {batch} a request", given, measure)
        print(f"  median {batch * np.median([one.rate for one in results]):,.0f} events/s", flush=True)
    server.stop()


def fresh(folder: Path, given: argparse.Namespace) -> None:
    """Seconds until a posted item is in lists, and whether a click and a hidden item count at once."""
    server = Server(folder, "--workers", str(given.workers[0]))
    server.load(asks(9), 5, rate=50)
    took = []
    for n in range(20):
        name = f"fresh-{time.time_ns()}"
        begun = time.perf_counter()
        server.call("PUT", f"/v1/items/{name}", {"category": "c3", "price": 1.0 + n})
        while True:
            found = server.call(
                "POST", "/v1/recommendations", {"k": 50, "filter": f"price = {1.0 + n} AND category = 'c3'"}
            )
            if name in [row["item"] for row in found["items"]]:
                break
            time.sleep(0.005)
        took.append(time.perf_counter() - begun)
        server.call("PATCH", f"/v1/items/{name}", {"hidden": True})
        found = server.call(
            "POST", "/v1/recommendations", {"k": 50, "filter": f"price = {1.0 + n} AND category = 'c3'"}
        )
        assert name not in [row["item"] for row in found["items"]]
    print(
        f"a new item is in lists after {np.median(took):.2f} s, at most {max(took):.2f} s; a hidden one is gone at once"
    )
    server.stop()


def events_in(folder: Path) -> int:
    """Number of the newest event of the store's log."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(folder / "store.db")) as connection:
        return int(connection.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0])


def start(folder: Path, given: argparse.Namespace) -> None:
    """Seconds from the start of the command until it is ready, and the slowest of the first 100 lists after that."""
    count = events_in(folder)
    for workers in given.workers:
        times, worst = [], []
        for _ in range(given.rounds):
            server = Server(folder, "--workers", str(workers))
            times.append(server.ready)
            first = server.load(asks(), 5, rate=20)
            worst.append(first.milliseconds.max(initial=0))
            print(
                f"ready after {server.ready:.1f} s, {server.processor_at_ready:.1f} s of processor time; first lists: "
                f"{first.said()}; {server.call('GET', '/ready').get('set_aside', '')}; "
                f"5 M additions in {additions():.2f} s", flush=True,
            )  # fmt: skip
            server.load(asks(), 10, rate=100)
            said = "; ".join(f"{own:.0f} MB of its own, {shared:.0f} MB shared" for own, shared in server.memory())
            server.stop()
        print(
            f"{workers} workers, {count:,} events in the log, median of {len(times)}: ready after "
            f"{np.median(times):.1f} s, the slowest of the first 100 lists {np.median(worst):.0f} ms; {said}",
            flush=True,
        )  # fmt: skip


def big(folder: Path, given: argparse.Namespace) -> None:
    server = Server(folder, "--workers", str(given.workers[0]))
    rng = np.random.default_rng(8)

    def similar() -> Iterator[Request]:
        while True:
            yield "GET", f"/v1/items/{rng.integers(0, 1_000_000)}/similar?k=20", None

    for name, requests in (("similar", similar), ("recommendations", asks)):
        server.load(requests(), 5, rate=30)
        rounds(f"1 M items, {name}, 100/s", given, lambda: (server.load(requests(), given.seconds, rate=100), ""))  # noqa: B023
    print(f"memory: {server.memory()}")
    server.stop()


def _teachable(folder: Path, n_events: int) -> None:
    """Files that a training beside the service learns from, named in the settings."""
    import polars as pl

    import request as shop

    if not (folder / "events.parquet").exists():
        events, items = shop.tables(100_000, 100_000, n_events)
        events.with_columns(pl.from_epoch("time", time_unit="us")).write_parquet(folder / "events.parquet")
        items.write_parquet(folder / "items.parquet")
    settings = '[data]\nsource = "events.parquet"\nitems = "items.parquet"\n' + SETTINGS + 'train_budget = "2m"\n'
    (folder / "zhiyin.toml").write_text(settings)


def soak(folder: Path, given: argparse.Namespace) -> None:
    """Lists, ranks, events, changing and new items, versions that change each minute, and trainings."""
    from zhiyin.pipeline.model_versions import Bundles

    bundles = Bundles(folder / "models" / "bundles")
    if len(bundles.versions()) < 2:
        model = bundles.get(bundles.versions()[-1])
        from zhiyin.data.catalogue import Catalogue

        bundles.write(model.load(), figures={}, catalogue=Catalogue.load(model.folder))
    options = ["--workers", str(given.workers[0])]
    if given.retrain:
        _teachable(folder, given.training_events)
        options += ["--retrain", given.retrain]
    server, until, stop = Server(folder, *options), given.minutes * 60, threading.Event()
    wrong: list[str] = []

    def churn() -> None:
        rng, n = np.random.default_rng(5), 0
        while not stop.wait(0.5):
            n += 1
            try:
                server.call("PATCH", f"/v1/items/{rng.integers(0, 100_000)}", {"price": float(n % 90)})
                if n % 20 == 0:
                    server.call("PUT", f"/v1/items/new-{n}", {"category": "c3", "price": 5.0})
                if n % 120 == 0:
                    versions = bundles.versions()
                    bundles.promote(versions[(n // 120) % len(versions)])
            except OSError as error:
                wrong.append(str(error))

    def mixed() -> Iterator[Request]:
        parts, rng = [asks(), ranks(25), events(1), events(20)], np.random.default_rng(6)
        while True:
            yield next(parts[rng.choice(4, p=[0.5, 0.1, 0.3, 0.1])])

    thread = threading.Thread(target=churn)
    thread.start()
    begun, minute, errors = time.perf_counter(), 0, 0
    memory: list[float] = []
    # p99 of minutes in which a training ran from beginning to end, and of those without any.
    slowest: dict[bool, list[float]] = {True: [], False: []}
    while time.perf_counter() - begun < until:
        training = _is_training(bundles.folder)
        found, minute = server.load(mixed(), 60, rate=given.rate or 100), minute + 1
        own = max(own for own, _ in server.memory())
        memory.append(own)
        errors += found.errors
        still = _is_training(bundles.folder)
        if training == still and minute > 1 and len(found.milliseconds):
            slowest[training].append(float(np.percentile(found.milliseconds, 99)))
        beside = "a training beside it" if training and still else "a training in part" if training or still else ""
        print(
            f"minute {minute}: {found.said()}; {own:.0f} MB; {len(wrong)} failed changes; {beside or 'no training'}; "
            f"5 M additions in {additions():.2f} s", flush=True,
        )  # fmt: skip
    stop.set()
    thread.join()
    server.stop()
    third = memory[2] if len(memory) > 2 else memory[0]
    print(f"{errors} errors, {len(wrong)} failed changes; memory {third:.0f} MB after the third minute, "
          f"{memory[-1]:.0f} MB at the end, {max(memory):.0f} MB at most")  # fmt: skip
    for training, values in slowest.items():
        if values:
            name = "with a training" if training else "without"
            print(
                f"p99 of {len(values)} minutes {name}: median {np.median(values):.1f} ms, highest {max(values):.1f} ms"
            )
    if all(slowest.values()):
        print(
            f"p99 with a training is {np.median(slowest[True]) / np.median(slowest[False]):.2f} times of that without"
        )
    if given.retrain:
        print(f"trainings: versions {bundles.versions()}; the last: {(bundles.folder / 'retrain.json').read_text()}")


def _is_training(folder: Path) -> bool:
    """Whether a training beside the service runs at this moment."""
    try:
        record = json.loads((folder / "retrain.json").read_text())
    except FileNotFoundError:
        return False
    return record["ended"] is None


def additions() -> float:
    """How fast the machine is at this moment: what else runs on it shows here."""
    begun, total = time.process_time(), 0
    for number in range(5_000_000):
        total += number
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["prepare", "log", "lists", "rank", "events", "fresh", "start", "big", "soak"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, help="requests a second; default 150 for lists, 100 for the soak")
    parser.add_argument("--retrain", help="soak: how often to train beside it, such as 6m; left out: never")
    parser.add_argument("--training-events", type=int, default=300_000, help="soak: events in the file trained on")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    given = parser.parse_args()
    print(f"this machine now: 5 M additions in {additions():.2f} s of processor time", flush=True)
    if given.what == "prepare":
        prepare(given.folder, given.items)
    elif given.what == "log":
        fill(given.folder, given.events)
    else:
        {"lists": lists, "rank": rank, "events": bring, "fresh": fresh, "start": start, "big": big, "soak": soak}[
            given.what
        ](given.folder, given)


if __name__ == "__main__":
    main()
