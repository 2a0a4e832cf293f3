"""A service under load whose processes are killed: what it acknowledged against what is stored. See `store.py kills`.

Clients bring events over HTTP and send each batch again, by the same ids, until it is acknowledged, as the shipped
clients do. Meanwhile a worker, the parent, Redis and PostgreSQL are killed by SIGKILL in turn; the parent, Redis and
PostgreSQL are started again at once. A probe writes an event of a new user and asks for the user's list over another
connection: what was acknowledged must not be listed any more.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import http.client
import itertools
import json
import os
import pwd
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fuzz import prepare
from zhiyin.store.store import Store

# Threads that bring events; seconds that one answer is waited for; largest batch.
SENDERS, PATIENCE, BATCH = 4, 30.0, 150
# Seconds between the deaths of two workers: at five within a minute the service stops by design.
APART = 15.0
# Seconds that Redis and PostgreSQL stay away.
AWAY = 1.0


# -- processes ---------------------------------------------------------------------------------------------------------


class Service:
    """`zhiyin serve` on one port; it can be killed and started again."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder, self.workers_wanted = folder, workers
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.keys: dict[str, str] = {}
        self.failed_starts = 0
        self.start()

    def start(self) -> None:
        """Start it, again and again while the port is still held; returns once it listens."""
        until = time.monotonic() + 120
        while True:
            log = (self.folder / "service.log").open("ab+")
            begun = log.seek(0, os.SEEK_END)
            command = [sys.executable, "-m", "zhiyin", "serve", "--port", str(self.port)]
            command += ["--workers", str(self.workers_wanted)]
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT)
            while self.process.poll() is None:
                text = (self.folder / "service.log").read_bytes()[begun:].decode()
                self.keys |= dict(re.findall(r"key to (\w+): (\S+)", text))
                if re.search(r"at http://", text) and self.ready():
                    return
                time.sleep(0.05)
            self.failed_starts += 1
            if time.monotonic() > until:
                raise RuntimeError((self.folder / "service.log").read_text()[-2_000:])
            time.sleep(0.2)

    def ready(self) -> bool:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as link:
            try:
                link.request("GET", "/ready")
                return link.getresponse().status == 200
            except (OSError, http.client.HTTPException):
                return False

    def workers(self) -> list[int]:
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        lines = {int(pid): _command_of(int(pid)) for pid in found}
        return [pid for pid, line in lines.items() if b"spawn_main" in line]

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


class Redis:
    """A Redis on a socket in a folder, without persistence."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, f"unix://{folder}/redis.sock"
        self.start()

    def start(self) -> None:
        command = ["redis-server", "--port", "0", "--unixsocket", f"{self.folder}/redis.sock", "--save", ""]
        self.process = subprocess.Popen([*command, "--dir", str(self.folder)], stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Postgres:
    """A PostgreSQL on a socket in a folder, with its own settings but for the addresses: a commit is on the disk."""

    def __init__(self, folder: Path) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
        beside = shutil.which("initdb")
        if not found and beside is None:
            raise SystemExit("PostgreSQL is not installed: no initdb on the path or in /usr/lib/postgresql")
        self.folder, self.programs = folder, found[-1] if found else Path(beside or "").parent
        self.address = f"postgresql://zhiyin@/postgres?host={folder}"
        subprocess.run(self._as_user("initdb", "-A", "trust", "-U", "zhiyin"), check=True, stdout=subprocess.DEVNULL,
                       cwd="/")  # fmt: skip
        self.start()

    def _as_user(self, program: str, *words: str) -> list[str]:
        """PostgreSQL refuses to run as root."""
        command = [str(self.programs / program), "-D", f"{self.folder}/data", *words]
        if os.getuid() != 0:
            return command
        known = {user.pw_name for user in pwd.getpwall()}
        return ["runuser", "-u", "postgres" if "postgres" in known else "nobody", "--", *command]

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories={self.folder}"
        command = self._as_user("pg_ctl", "-w", "-t", "60", "-l", f"{self.folder}/log", "-o", options, "start")
        until = time.monotonic() + 60
        while subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/").returncode:
            if time.monotonic() > until:
                raise RuntimeError((self.folder / "log").read_text()[-2_000:])
            time.sleep(0.1)  # its processes of before still hold its memory

    def kill(self) -> None:
        pid = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        command = self._as_user("pg_ctl", "-m", "immediate", "stop")
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")


def _command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


# -- load --------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Load:
    """Clients of a service. `phase` names what happens to the service at the moment.

    acknowledged: by id the number that the event carries as its value. statuses: answers by phase, path and status.
    stale: probes whose list still held what had been acknowledged. slowest: seconds of the longest answer by phase.
    """

    service: Service
    seed: int
    phase: str = "calm"
    acknowledged: dict[str, int] = dataclasses.field(default_factory=dict)
    statuses: Counter[tuple[str, str, str]] = dataclasses.field(default_factory=Counter)
    slowest: dict[str, float] = dataclasses.field(default_factory=dict)
    probes: int = 0
    stale: int = 0
    stopped: threading.Event = dataclasses.field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.numbers = itertools.count()
        self.moments = [time.monotonic()]  # when batches were acknowledged, oldest first
        works: list[Callable[[], None]] = [lambda at=at: self._bring(at) for at in range(SENDERS)]  # type: ignore[misc]
        self.threads = [threading.Thread(target=work) for work in [*works, self._probe]]
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def outage(self, since: float) -> float:
        """Seconds of the longest time without an acknowledgement since a moment."""
        moments = self.moments[bisect.bisect(self.moments, since) :]
        return max(after - before for before, after in itertools.pairwise([since, *moments]))

    def post(self, link: http.client.HTTPConnection, path: str, key: str, body: Any) -> tuple[int, Any]:
        """Status and answer; 0 where the connection failed."""
        phase, begun = self.phase, time.monotonic()
        headers = {"Authorization": f"Bearer {self.service.keys[key]}", "Content-Type": "application/json"}
        try:
            link.request("POST", path, json.dumps(body), headers)
            response = link.getresponse()
            status, answer = response.status, json.loads(response.read())
            said = str(status)
        except (OSError, http.client.HTTPException, ValueError) as error:
            link.close()
            status, answer, said = 0, None, type(error).__name__
        self.statuses[phase, path, said] += 1
        self.slowest[phase] = max(self.slowest.get(phase, 0.0), time.monotonic() - begun)
        return status, answer

    def _link(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.service.port, timeout=PATIENCE)

    def _bring(self, at: int) -> None:
        rng, link = random.Random(f"{self.seed}-{at}"), self._link()
        while not self.stopped.is_set():
            size = 1 if rng.random() < 0.6 else rng.randint(2, BATCH)
            numbers = [next(self.numbers) for _ in range(size)]
            events = [{"user": f"k{number % 500}", "item": f"i{rng.randrange(40)}", "id": f"{at}-{number}",
                       "value": number} for number in numbers]  # fmt: skip
            while not self.stopped.is_set():
                status, answer = self.post(link, "/v1/events", "events", {"events": events})
                if status == 200:
                    told = {one["id"] for one in answer["events"] if one["status"] in ("accepted", "known")}
                    self.acknowledged |= {event["id"]: event["value"] for event in events if event["id"] in told}
                    self.moments.append(time.monotonic())
                    break
                if rng.random() < 0.1:
                    link.close()
                time.sleep(0.1)

    def _probe(self) -> None:
        rng = random.Random(f"{self.seed}-probe")
        for n in itertools.count():
            if self.stopped.is_set():
                return
            item, number = f"i{rng.randrange(40)}", next(self.numbers)
            event = {"user": f"p{n}", "item": item, "id": f"p-{number}", "value": number}
            with contextlib.closing(self._link()) as link:
                status, _ = self.post(link, "/v1/events", "events", {"events": [event]})
            if status != 200:
                time.sleep(0.1)
                continue
            self.acknowledged[event["id"]] = number
            for _ in range(2):
                with contextlib.closing(self._link()) as link:
                    status, answer = self.post(link, "/v1/recommendations", "read", {"user": f"p{n}", "k": 40})
                if status == 200:
                    self.probes += 1
                    self.stale += any(row["item"] == item for row in answer["items"])


# -- kills -------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Outcome:
    """What a run ended with.

    Parameters
    ----------
    acknowledged, stored: events. lost: acknowledged and not stored. changed: stored otherwise than they were sent.
    doubled: stored twice. kills: by victim. outages: by victim, the longest time after
        each kill in which nothing was acknowledged, in seconds; that of Redis and PostgreSQL includes the second away.
    """

    acknowledged: int
    stored: int
    lost: int
    changed: int
    doubled: int
    kills: dict[str, int]
    outages: dict[str, list[float]]
    load: Load

    def report(self) -> Iterator[str]:
        yield (f"{self.acknowledged:,} events acknowledged, {self.stored:,} stored: {self.lost} lost, "
               f"{self.doubled} doubled, {self.changed} changed; {self.load.probes:,} lists asked for right after an "
               f"acknowledgement, {self.load.stale} without its event")  # fmt: skip
        yield "kill -9: " + ", ".join(f"{victim} {number}" for victim, number in self.kills.items())
        yield f"starts refused because the port was still held: {self.load.service.failed_starts}"
        for victim, seconds in ((victim, seconds) for victim, seconds in self.outages.items() if seconds):
            yield f"  {victim:10} longest time without an acknowledgement: median {statistics.median(seconds):.1f}, " \
                  f"at most {max(seconds):.1f} s"  # fmt: skip
        for phase in sorted(self.load.slowest):
            counts = {f"{path[4:]} {said}": number for (one, path, said), number in sorted(self.load.statuses.items())
                      if one == phase}  # fmt: skip
            yield f"  {phase:10} longest answer {self.load.slowest[phase]:.1f} s; {counts}"


def run(folder: Path, events: int, workers: int, servers: bool, seed: int, say: Callable[[str], None]) -> Outcome:
    """Kill until so many events were acknowledged. servers: PostgreSQL and Redis instead of a file and memory."""
    prepare(folder)
    settings = "[service]\nrate = 0\n"
    with contextlib.ExitStack() as stack:
        redis = postgres = None
        if servers:
            place = Path(tempfile.mkdtemp(prefix="zy-kills-"))  # short: it is part of the path of a socket
            place.chmod(0o777)
            stack.callback(shutil.rmtree, place, ignore_errors=True)
            postgres, redis = Postgres(place), Redis(place)
            stack.callback(postgres.stop)
            stack.callback(lambda: redis.kill())
            settings += f'store = "{postgres.address}"\nredis = "{redis.url}"\n'
        (folder / "zhiyin.toml").write_text(settings)
        service = Service(folder, workers)
        stack.callback(service.process.kill)
        load = Load(service, seed)
        try:
            kills, outages = _kill(load, events, redis, postgres, seed, say)
        finally:
            load.stop()
            status = service.stop()
        if status:
            raise RuntimeError(f"the service ended with {status}: {(folder / 'service.log').read_text()[-2_000:]}")
        return _count(
            postgres.address if postgres is not None else f"sqlite:///{folder}/store.db", load, kills, outages
        )


def _kill(
    load: Load, events: int, redis: Redis | None, postgres: Postgres | None, seed: int, say: Callable[[str], None]
) -> tuple[dict[str, int], dict[str, list[float]]]:
    rng, service = random.Random(seed), load.service
    victims = ["worker"] if service.workers_wanted > 1 else []
    victims += ["redis", "postgres"] if redis is not None and postgres is not None else []
    victims.append("parent")
    kills, outages, last_worker = dict.fromkeys(victims, 0), {victim: list[float]() for victim in victims}, 0.0
    for victim in itertools.cycle(victims):
        time.sleep(rng.uniform(1.5, 5.0))
        if len(load.acknowledged) >= events:
            return kills, outages
        if victim == "worker":
            while time.monotonic() < last_worker + APART or not service.workers():
                time.sleep(0.1)
            last_worker = time.monotonic()
        load.phase = victim
        begun = restarted = time.monotonic()
        if victim == "worker":
            os.kill(rng.choice(service.workers()), signal.SIGKILL)
        elif victim == "parent":
            service.process.kill()
            service.process.wait()
            service.start()
            last_worker = 0.0
        else:
            server: Any = redis if victim == "redis" else postgres
            server.kill()
            time.sleep(AWAY)
            server.start()
        if victim != "redis":
            restarted = time.monotonic()
        while load.moments[-1] < restarted:
            assert time.monotonic() < restarted + 120, f"no events are acknowledged after {victim} was killed"
            time.sleep(0.02)
        time.sleep(2.0)
        outages[victim].append(load.outage(begun))
        kills[victim] += 1
        say(f"{victim} killed: nothing acknowledged for {outages[victim][-1]:.1f} s; {len(load.acknowledged):,} events")
        load.phase = "calm"
    raise AssertionError


def _count(address: str, load: Load, kills: dict[str, int], outages: dict[str, list[float]]) -> Outcome:
    store, sent = Store(address), load.acknowledged
    ids, numbers = Counter[str](), Counter[int]()
    changed = 0
    for part in store.event_batches():
        for id, value in part.select("id", "value").iter_rows():
            ids[id] += 1
            numbers[int(value)] += 1
            changed += int(value) != int(id.rpartition("-")[2])
    if store.path is not None:
        with store.reading() as link:
            assert link.exec_driver_sql("PRAGMA integrity_check").fetchone() == ("ok",)
    store.close()
    doubled = sum(number > 1 for number in numbers.values())
    lost = sum(id not in ids for id in sent)
    return Outcome(len(sent), sum(ids.values()), lost, changed, doubled, kills, outages, load)
