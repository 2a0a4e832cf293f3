"""The service under load, with the load generator on the same cores; every figure of its table.

    python benchmarks/service.py prepare /tmp/shop                 # 100,000 items, 4 sources, trees; a store
    python benchmarks/service.py lists /tmp/shop                   # recommendations at 150/s, and as many as can be
    python benchmarks/service.py rank /tmp/shop                    # POST /v1/rank of 25 and of 300 items at 100/s
    python benchmarks/service.py events /tmp/shop                  # events kept on disk: batches of 100, single
    python benchmarks/service.py fresh /tmp/shop                   # until a new item and a click count
    python benchmarks/service.py log /tmp/shop --events 10000000   # fill the store's log
    python benchmarks/service.py start /tmp/shop                   # until it answers, and memory
    python benchmarks/service.py soak /tmp/shop --minutes 30 --retrain 6m    # everything at once
    python benchmarks/service.py prepare /tmp/million --items 1000000 ; python benchmarks/service.py big /tmp/million

The log is made as in benchmarks/request.py. Each request asks for 20 items under a filter, with MMR by category, the
history read from SQLite (users drawn from 100,000), traced. Latency counts from when a request was due.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request as Call
from urllib.request import urlopen

import numpy as np

from load import Request, load

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
    from zhiyin.pipeline import pipeline_fitting
    from zhiyin.pipeline.model_versions import Bundles
    from zhiyin.pipeline.pipeline import DEFAULT_RANKER
    from zhiyin.pipeline.time_windows import plan_windows
    from zhiyin.ranking import registry as rankers

    run = zy.Run()
    if n_items > 100_000:  # all items for each of 20,000 users would take an hour: what is measured is time
        run, pipeline_fitting.MAX_WINDOW_REQUESTS = dataclasses.replace(run, approximate=True), 2_000
    data = shop.shop(n_items, 100_000, 2_000_000)
    pipeline = zy.Pipeline(sources=shop.SOURCES, candidates=100, ranker="none", windows=1).fit(data, run)
    part, window = plan_windows(data, 1, 0.02, True, run).choose[0]
    window_candidates = pipeline_fitting.retrieve_window(pipeline.sources_, part, window, 100, run)
    pipeline.ranker_ = pipeline_fitting._train_ranker(
        rankers.parse(DEFAULT_RANKER), [window_candidates], run, window_candidates.builder(run)
    )
    pipeline.builder_ = pipeline_fitting.FeatureBuilder.learn(data, pipeline.sources_, run=run)
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

    def processor(self) -> float:
        """Seconds of processor time that the workers have used."""
        found = 0
        for pid in self.workers():
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
        for _ in range(given.rounds):
            print(f"{workers} workers, {rate:g}/s: {server.load(asks(), given.seconds, rate=rate).said()}", flush=True)
        for _ in range(given.rounds):
            used = server.processor()
            found = server.load(asks(4), given.seconds, connections=8 * workers)
            each = 1e3 * (server.processor() - used) / max(1, len(found.milliseconds))
            print(
                f"{workers} workers, as many as can be: {found.said()}; {each:.1f} ms of processor time each",
                flush=True,
            )
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
        for _ in range(given.rounds):
            print(f"rank {n} items, 100/s: {server.load(ranks(n), given.seconds, rate=100).said()}", flush=True)
    server.stop()


def bring(folder: Path, given: argparse.Namespace) -> None:
    server = Server(folder, "--workers", str(given.workers[0]))
    for batch, connections in ((100, 8), (1, 64)):
        server.load(events(batch, 5), 2, connections=connections)
        for _ in range(given.rounds):
            found = server.load(events(batch), given.seconds, connections=connections)
            print(f"events, {batch} a request: {batch * found.rate:,.0f} events/s; {found.said()}", flush=True)
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


def start(folder: Path, given: argparse.Namespace) -> None:
    import sqlite3

    count = sqlite3.connect(folder / "store.db").execute("SELECT max(seq) FROM events").fetchone()[0]
    for workers in given.workers:
        times = []
        for _ in range(given.rounds):
            server = Server(folder, "--workers", str(workers))
            times.append(server.ready)
            server.load(asks(), 10, rate=100)
            said = "; ".join(f"{own:.0f} MB of its own, {shared:.0f} MB shared" for own, shared in server.memory())
            server.stop()
        print(
            f"{workers} workers, {count:,} events in the log: ready after {np.median(times):.1f} s; {said}", flush=True
        )


def big(folder: Path, given: argparse.Namespace) -> None:
    server = Server(folder, "--workers", str(given.workers[0]))
    rng = np.random.default_rng(8)

    def similar() -> Iterator[Request]:
        while True:
            yield "GET", f"/v1/items/{rng.integers(0, 1_000_000)}/similar?k=20", None

    for name, requests in (("similar", similar), ("recommendations", asks)):
        server.load(requests(), 5, rate=30)
        for _ in range(given.rounds):
            print(f"1 M items, {name}, 100/s: {server.load(requests(), given.seconds, rate=100).said()}", flush=True)
    print(f"memory: {server.memory()}")
    server.stop()


def _teachable(folder: Path) -> None:
    """Files that a training beside the service learns from, named in the settings."""
    import polars as pl

    import request as shop

    if not (folder / "events.parquet").exists():
        events, items = shop.tables(100_000, 100_000, 2_000_000)
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
        _teachable(folder)
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
    begun, minute = time.perf_counter(), 0
    while time.perf_counter() - begun < until:
        found, minute = server.load(mixed(), 60, rate=given.rate or 100), minute + 1
        own = max(own for own, _ in server.memory())
        print(f"minute {minute}: {found.said()}; {own:.0f} MB; {len(wrong)} failed changes", flush=True)
    stop.set()
    thread.join()
    server.stop()
    if given.retrain:
        print(f"trainings: versions {bundles.versions()}; the last: {(bundles.folder / 'retrain.json').read_text()}")


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
