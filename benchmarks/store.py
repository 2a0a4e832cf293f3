"""How fast the store is, and that no kill loses what it acknowledged.

    python benchmarks/store.py speed                                   # SQLite in a temporary folder
    python benchmarks/store.py speed --postgres postgresql://u@/db     # and a PostgreSQL; its tables are filled
    python benchmarks/store.py fast-path                               # SQLite with and without SQLAlchemy
    python benchmarks/store.py log --folder /tmp/log                   # an empty log and one of 10 M events
    python benchmarks/store.py columns --folder /tmp/log               # the log of 10 M events read into frames
    python benchmarks/store.py kills --times 200                       # kill -9 under load, reopen, count
    python benchmarks/store.py kills --workers 2 --events 300000       # a service of two workers over HTTP, SQLite
    python benchmarks/store.py kills --workers 2 --servers             # on a PostgreSQL and a Redis, which die too

`speed` prints events a second, acknowledged after the commit (SQLite: synchronous=FULL), from 4 threads in batches of
100 and from 32 threads one at a time, without and with traces written beside them; and milliseconds to read histories.

`log` prints, of an empty SQLite log and of one of `--events` events (made in the folder where it is not there yet):
events a second over `--measured` events, so that merges of the indexes run meanwhile, in batches of 100, with ids of
the store and with random ones of clients, one at a time, and by two processes; processor time an event, and of an event
that is merged at the end; the time to read histories of about 100 events of 100,000 users, to open the store with the
tail as it is, and the size of the file.

`columns` prints the processor time of an event that is read into a frame, as columns and as rows.

`fast-path` prints the processor time of the statements that `store/sqlite_fast_path.py` takes past SQLAlchemy, by both
ways, the least of several rounds in turn.

`kills` without `--workers` kills one process that writes. With it, see `kills.py`: a service under load, whose workers,
parent, PostgreSQL and Redis are killed in turn until so many events were acknowledged. It exits with 1 where one was
lost or doubled.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from zhiyin.store import event_log
from zhiyin.store.group_commit import GroupCommitWriter
from zhiyin.store.records import Event
from zhiyin.store.store import Store
from zhiyin.store.trace_writer import TraceWriter
from zhiyin.store.traces import Trace

NOW = 1_700_000_000_000_000


# -- speed ----------------------------------------------------------------------------------------------------------


def writing(writer: GroupCommitWriter, threads: int, batch: int, seconds: float) -> tuple[float, list[float]]:
    """Events a second, and milliseconds of each acknowledgement."""
    counts, waits = [0] * threads, [list[float]() for _ in range(threads)]
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        while (begun := time.perf_counter()) < end:
            base = counts[number]
            events = [Event(f"u{(base + n) % 5_000}", f"i{n % 999}", NOW + base + n) for n in range(batch)]
            writer.submit(events).result()
            counts[number] += batch
            waits[number].append(1_000 * (time.perf_counter() - begun))

    begun = time.perf_counter()
    together([lambda n=n: work(n) for n in range(threads)])  # type: ignore[misc]
    return sum(counts) / (time.perf_counter() - begun), sorted(itertools.chain(*waits))


def together(works: list[Callable[[], None]]) -> None:
    running = [threading.Thread(target=work) for work in works]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def tracing(traces: TraceWriter, a_second: int, stop: threading.Event) -> None:
    """Traces of 300 candidates at a steady rate."""
    rng, n = np.random.default_rng(0), 0
    head = {"request": {"user": "u", "k": 10}, "items": [f"item {n}" for n in range(300)]}
    while not stop.wait(0.05):
        for _ in range(a_second // 20):
            n += 1
            arrays = {"scores": rng.random(300, dtype=np.float32), "propensities": rng.random(300, dtype=np.float32)}
            traces.put(Trace(f"{time.time_ns()}-{n}", f"u{n % 500}", NOW + n, 1, "home", head, arrays))


def speed(address: str, seconds: float) -> None:
    store = Store(address)
    writer = GroupCommitWriter(store)
    print(f"{store.dialect}:")
    for label, threads, batch in (("4 threads, batches of 100", 4, 100), ("32 threads, one at a time", 32, 1)):
        rate, waits = writing(writer, threads, batch, seconds)
        print(f"  {label:28} {rate:9,.0f} events/s; acknowledged in {quantiles(waits)} ms")
    traces, stop = TraceWriter(store), threading.Event()
    beside = threading.Thread(target=tracing, args=(traces, 400, stop))
    beside.start()
    rate, waits = writing(writer, 32, 1, seconds)
    stop.set()
    beside.join()
    traces.close()
    print(f"  {'32 threads, 400 traces/s':28} {rate:9,.0f} events/s; acknowledged in {quantiles(waits)} ms; "
          f"{traces.written:,} traces written, {traces.dropped + traces.failed} lost")  # fmt: skip
    writer.close()
    for user in range(500):
        store.append([Event(f"reader {user}", f"i{n}", NOW + n, "view", 1.0) for n in range(100)])
    for label, read in (
        ("history of 100 events", lambda user: store.history(user, 100)),
        ("history and when forgotten", lambda user: store.recent_events(user, 100)),
        ("when forgotten", lambda user: store.forgotten_at(user)),
    ):
        times = []
        for round in range(4_000):
            user = f"reader {round % 500}"
            begun = time.perf_counter()
            read(user)
            times.append(1_000 * (time.perf_counter() - begun))
        print(f"  {label:28} {quantiles(sorted(times[1_000:]), 3)} ms")
    store.close()


def quantiles(values: list[float], digits: int = 1) -> str:
    return f"{statistics.median(values):.{digits}f} (p99 {values[int(0.99 * len(values))]:.{digits}f})"


# -- a large log ----------------------------------------------------------------------------------------------------


def log_speed(folder: Path, n_events: int, n_measured: int) -> None:
    """Figures of an empty log, and of one of `n_events`."""
    empty, large = folder / f"empty-{time.time_ns()}.db", folder / "log.db"
    store = Store(large)
    rng, begun, before = np.random.default_rng(3), time.perf_counter(), store.count()
    for start in range(before, n_events, 10_000):
        users, items = rng.integers(0, 100_000, (2, 10_000)).tolist()
        times = (NOW + start * 1_000 + rng.integers(0, 60_000_000, 10_000)).tolist()
        store.append([Event(str(u), str(i), t, "view") for u, i, t in zip(users, items, times, strict=True)])
    if before < n_events:
        rate = (n_events - before) / (time.perf_counter() - begun)
        print(f"filled to {n_events:,} events in transactions of 10,000: {rate:,.0f} events/s", flush=True)
    store.close()
    rates: dict[str, list[float]] = {}
    for path in (empty, large):
        begun = time.perf_counter()
        used = time.process_time()
        store = Store(path)
        store.history("0", 1)
        seconds, used = time.perf_counter() - begun, time.process_time() - used
        n_tail = len(store._fast_path.index.tail)  # type: ignore[union-attr]
        print(f"{path.stem}: {store.count():,} events, {path.stat().st_size / 1e6:,.0f} MB, {n_tail:,} of them in the "
              f"tail; opened and its tail read in {seconds:.2f} s, {used:.2f} s of processor time",
              flush=True)  # fmt: skip
        writer = GroupCommitWriter(store)
        for label, threads, batch, own_ids, share in (
            ("4 threads, batches of 100", 4, 100, False, 1.0),
            ("the same, random ids of clients", 4, 100, True, 1.0),
            ("64 threads, one at a time", 64, 1, False, 0.1),
        ):
            used = time.process_time()
            n = int(n_measured * share)
            rate, waits = sustained(writer, threads, batch, own_ids, n)
            each = 1e6 * (time.process_time() - used) / n
            rates.setdefault(label, []).append(rate)
            print(f"  {label:32} {rate:9,.0f} events/s; {each:.1f} µs of processor time an event; "
                  f"acknowledged in {quantiles(waits)} ms, at most {waits[-1]:.0f}", flush=True)  # fmt: skip
        writer.close()
        two = appended_by_two(path, n_measured // 4)
        print(f"  two processes of 4 threads, 100   {sum(one['rate'] for one in two):9,.0f} events/s; "
              f"{statistics.mean(one['each'] for one in two):.1f} µs of processor time an event; acknowledged in "
              + " and ".join(f"{one['p50']:.1f} (p99 {one['p99']:.1f}, at most {one['most']:.0f})" for one in two)
              + " ms", flush=True)  # fmt: skip
        rates.setdefault("two processes", []).append(sum(one["rate"] for one in two))
        begun, used = time.perf_counter(), time.process_time()
        n_left = store.last_seq - store._fast_path.index.mark  # type: ignore[union-attr]
        store.merge_events()
        print(f"  {n_left:,} events merged: {1e6 * (time.process_time() - used) / max(1, n_left):.1f} µs of processor "
              f"time an event; {time.perf_counter() - begun:.1f} s", flush=True)  # fmt: skip
        times = []
        for user in rng.integers(0, 100_000, 4_000).tolist():
            begun = time.perf_counter()
            store.recent_events(str(user), 100)
            times.append(1_000 * (time.perf_counter() - begun))
        print(f"  history and when forgotten        {quantiles(sorted(times[1_000:]), 3)} ms", flush=True)
        store.close()
        print(f"  {path.stat().st_size / 1e6:,.0f} MB", flush=True)
    for label, (of_empty, of_large) in rates.items():
        print(f"{label}: {of_empty / of_large:.2f} times as fast into the empty log", flush=True)
    for path in folder.glob(f"{empty.name}*"):
        path.unlink()


def appended_by_two(path: Path, n_events: int) -> list[dict[str, float]]:
    """Figures of two processes that append batches of 100 by 4 threads at once, so many events each."""
    command = [sys.executable, __file__, "append", "--folder", str(path), "--measured", str(n_events)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    return [json.loads(process.communicate()[0]) for process in processes]


def append(path: Path, n_events: int) -> None:
    """What each of the two prints."""
    store = Store(path)
    store.load_tail()
    writer, used = GroupCommitWriter(store), time.process_time()
    rate, waits = sustained(writer, 4, 100, False, n_events)
    each = 1e6 * (time.process_time() - used) / n_events
    writer.close()
    store.close()
    figures = {"p50": statistics.median(waits), "p99": waits[int(0.99 * len(waits))], "most": waits[-1]}
    print(json.dumps({"rate": rate, "each": each, **figures}))


def columns(path: Path, n_events: int = 2_000_000) -> None:
    """Processor time of an event that is read into a frame."""
    store, names = Store(path), ("seq", "user", "item", "time", "kind", "value")
    for label, minimum in (("columns", event_log.MIN_COLUMN_ROWS), ("rows", sys.maxsize)):
        event_log.MIN_COLUMN_ROWS = minimum
        store.events(0, 25_000, names)
        after, n_read, used = 0, 0, time.process_time()
        while n_read < n_events and len(part := store.events(after, 25_000, names)):
            after, n_read = int(part["seq"][-1]), n_read + len(part)
        print(f"  {label:8} {1e6 * (time.process_time() - used) / max(1, n_read):.2f} µs of processor time an event")
    store.close()


def sustained(
    writer: GroupCommitWriter, threads: int, batch: int, own_ids: bool, n_events: int
) -> tuple[float, list[float]]:
    """Events a second over so many events, and milliseconds of each acknowledgement, sorted."""
    waits = [list[float]() for _ in range(threads)]

    def work(number: int) -> None:
        rng = np.random.default_rng(time.time_ns() + number)
        for _ in range(n_events // threads // batch):
            users, items = rng.integers(0, 100_000, (2, batch)).tolist()
            ids = [os.urandom(16).hex() if own_ids else "" for _ in range(batch)]
            now = time.time_ns() // 1_000
            events = [Event(str(u), str(i), now, "view", id=id) for u, i, id in zip(users, items, ids, strict=True)]
            begun = time.perf_counter()
            writer.submit(events).result()
            waits[number].append(1_000 * (time.perf_counter() - begun))

    begun = time.perf_counter()
    together([lambda n=n: work(n) for n in range(threads)])  # type: ignore[misc]
    return n_events / (time.perf_counter() - begun), sorted(itertools.chain(*waits))


# -- fast path ------------------------------------------------------------------------------------------------------


def fast_path(folder: Path, rounds: int = 8, calls: int = 200) -> None:
    """Microseconds of processor time of each statement, by the thread's own connection and through SQLAlchemy."""
    direct, through = Store(folder / "direct.db"), Store(folder / "sqlalchemy.db")
    for store in (direct, through):
        store.put("items", {f"i{n}": {"title": f"film {n}", "price": n} for n in range(200)})
        store.forget("u3")
    through._fast_path = SlowPath(through)  # type: ignore[assignment]
    operations: dict[str, Callable[[Store, int], object]] = {
        "change_marks": lambda store, n: store.change_marks(),
        "forgotten_at": lambda store, n: store.forgotten_at(f"u{n}"),
        "forget_count": lambda store, n: store.forget_count(),
        "last_change": lambda store, n: store.last_change("items"),
        "get": lambda store, n: store.get("items", f"i{n}"),
    }
    for label, operation in operations.items():
        least = []
        for store in (direct, through):
            times = []
            for _ in range(rounds):
                begun = time.thread_time()
                for n in range(calls):
                    operation(store, n)
                times.append((time.thread_time() - begun) / (n + 1))
            least.append(1e6 * min(times))
        print(f"  {label:28} {least[0]:7.1f} µs directly, {least[1]:7.1f} µs through SQLAlchemy")
    direct.close()
    through.close()


class SlowPath:
    """`SqliteFastPath` through SQLAlchemy."""

    def __init__(self, store: Store) -> None:
        self._store, self.write_turn, self.close = store, store._fast_path.write_turn, store._fast_path.close  # type: ignore[union-attr]

    def fetch(self, statement: Any, parameters: dict[str, Any]) -> Any:
        with self._store.reading() as connection:
            return connection.execute(statement, parameters).all()


# -- kills ----------------------------------------------------------------------------------------------------------

# Merges of few events, so that kills fall into them.
WRITES = """
import sys
from zhiyin.store import event_merge
from zhiyin.store.store import Store
from zhiyin.store.records import Event
from zhiyin.store.traces import Trace
from zhiyin.store.trace_writer import TraceWriter
from zhiyin.store import event_log
from zhiyin.store.group_commit import GroupCommitWriter

event_merge.MERGE_EVENTS, event_merge.MAX_TAIL_EVENTS = 100, 200
event_merge.FIRST_STEP_EVENTS = event_merge.MIN_STEP_EVENTS = event_merge.MAX_STEP_EVENTS = 30
store = Store(sys.argv[1])
writer, traces, name, waiting = GroupCommitWriter(store), TraceWriter(store), sys.argv[2], []
for number in range(10**9):
    made = [Event("u", "i", 1_700_000_000_000_000 + number, id=f"{name}-{number}-{part}") for part in range(3)]
    waiting.append((made, writer.submit(made)))
    traces.put(Trace(f"{name}-{number}", "u", number, 1, "home", {"text": "x" * 500}))
    if len(waiting) > 20:
        made, done = waiting.pop(0)
        done.result()
        print(*(event.id for event in made), flush=True)  # acknowledged
"""


def killed(address: str, times: int, seed: int = 0) -> tuple[set[str], set[str]]:
    """Kill a process that writes, at random moments, on one store. Returns ids acknowledged, and ids that are there.

    A line of the pipe that the kill cut in two counts as not acknowledged.
    """
    rng, acknowledged = random.Random(seed), set[str]()
    Store(address).close()
    root = Path(__file__).resolve().parents[1]
    for kill in range(times):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITES, address, f"k{kill}"], stdout=subprocess.PIPE, text=True, cwd=root,
            env=os.environ | {"PYTHONPATH": str(root / "src")},
        )  # fmt: skip
        assert process.stdout is not None
        heard = "".join(process.stdout.readline() for _ in range(rng.randint(5, 60)))
        process.send_signal(signal.SIGKILL)
        heard += process.stdout.read()
        process.wait()
        acknowledged.update(heard[: heard.rfind("\n") + 1].split())
    store = Store(address)
    stored = [one for part in store.event_batches() for one in part["id"]]
    there = set(stored)
    assert len(stored) == len(there)
    assert sorted(one.id for one in store.history("u", len(stored) + 1)) == sorted(stored)
    if store.path is not None:
        with store.reading() as link:
            assert link.exec_driver_sql("PRAGMA integrity_check").fetchone() == ("ok",)
    store.close()
    return acknowledged, there


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "log", "append", "columns", "fast-path", "kills"])
    parser.add_argument("--postgres", help="address of a PostgreSQL whose tables may be filled")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--times", type=int, default=200, help="kills")
    parser.add_argument("--folder", help="where the SQLite file lies; default a temporary folder")
    parser.add_argument("--workers", type=int, help="kill processes of a service with so many workers, over HTTP")
    parser.add_argument("--servers", action="store_true", help="with --workers: its own PostgreSQL and Redis")
    parser.add_argument("--events", type=int, help="log: of the large one, default 10 M; kills: acknowledged, 300,000")
    parser.add_argument("--measured", type=int, default=1_000_000, help="log: events of a measurement")
    parser.add_argument("--seed", type=int, default=0, help="with --workers: of batches and kills")
    given = parser.parse_args()
    if given.what == "log":
        place = Path(given.folder or tempfile.mkdtemp())
        log_speed(place, 10_000_000 if given.events is None else given.events, given.measured)
        return
    if given.what == "append":
        append(Path(given.folder), given.measured)
        return
    if given.what == "columns":
        columns(Path(given.folder) / "log.db")
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        if given.what == "kills" and given.workers is not None:
            from kills import run

            outcome = run(Path(folder), given.events or 300_000, given.workers, given.servers, given.seed, say)
            for line in outcome.report():
                say(line)
            if outcome.lost or outcome.doubled or outcome.changed or outcome.load.stale:
                raise SystemExit(1)
            return
        file = f"sqlite:///{folder}/shop.db"
        if given.what == "fast-path":
            fast_path(Path(folder))
            return
        if given.what == "speed":
            for address in filter(None, (file, given.postgres)):
                speed(address, given.seconds)
            return
        for address in filter(None, (file, given.postgres)):
            acknowledged, there = killed(address, given.times)
            lost = len(acknowledged - there)
            print(f"{given.times} kills, {len(acknowledged):,} events acknowledged, {len(there):,} there, {lost} lost")
            if lost:
                raise SystemExit(1)


if __name__ == "__main__":
    main()
