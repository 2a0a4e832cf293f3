"""Hostile bytes for the service: valid requests of every route, changed at random; nothing may fail, hang or grow.

    python benchmarks/fuzz.py                        # 200,000 requests to a small shop of its own, 12 connections
    python benchmarks/fuzz.py --requests 5000 --seed 7 --workers 2
    python benchmarks/fuzz.py --stranger             # CPU of one request without a key, whatever it sends
    python benchmarks/fuzz.py --idle 2000            # requests beside so many idle connections of one address

Told: answers by status, answers of 500 and above (but 503 of a busy service), connections that hang, memory over time,
valid requests that were refused, and requests with one certain fault that were accepted. The same seed sends the same
bytes. `tests/service/test_fuzz.py` runs a short one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

# Seconds after which an answer hangs; that a request cut off by a change is waited for.
HANGS, CUT = 20.0, 1.5
Valid = tuple[str, str, Any, str | None]
# A decision that was made, for what is said of decisions.
DECISION = "fuzzed"


def valid(list_id: str, page: str | None, events: str = "e") -> list[Valid]:
    """Requests that are right: method, path, body (a text: lines of JSON; None: none), scope of the key."""
    ask = {
        "user": "u1", "session": "s", "k": 5, "filter": "price > 3 AND genre IN ('even')", "explain": True,
        "boosts": [{"when": "price > 1", "multiply": 1.5, "add": "0.1 * price"}], "exclude": ["i1", "i2"],
        "include": ["i5", "i6", "i7"], "pins": {"1": "i9"}, "exclude_seen": True, "diversity": "mmr", "balance": 0.5,
        "placement": "home", "language": "zh", "fields": ["title", "price"], "context": {"a": 1}, "page": page,
        "user_columns": {"age": 30},
    }  # fmt: skip
    widgets = [{"name": "a", "kind": "trending", "k": 3}, {"name": "b", "similar_to": "i3"},
               {"name": "c", "placement": "home", "filter": "price < 50"},
               {"name": "d", "kind": "covisits", "similar_to": "i3"}]  # fmt: skip
    decision = {
        "policy": "hero", "user": "u1", "excluded": ["c"], "defer": False,
        "context": [{"device": "phone", "hour": 20, "weather": {"snow": True, "wind": [1.5, 2]}}, {"tags": ["a", "b"]}],
        "actions": [{"id": "a", "features": {"price": 9.5, "genre": "drama", "none": None}}, {"id": "b"}, {"id": "c"}],
        "slots": [{"id": "top", "baseline": "b", "features": {"width": 3}}, {"id": "side", "excluded": ["b"]}],
    }  # fmt: skip
    event = {"user": "u1", "item": "i1", "kind": "view", "time": 1_700_000_000_000_000, "value": 1.5, "id": events}
    return [
        ("POST", "/v1/recommendations", ask, "read"),
        ("POST", "/v1/recommendations", {"history": ["i1", "i2"], "k": 3, "diversity": "dpp"}, "read"),
        ("POST", "/v1/recommendations", {"user": "u2", "now": 1_700_000_000_000_000}, "admin"),
        ("POST", "/v1/rank", {"user": "u1", "items": ["i1", "i2", "zz"], "explain": True}, "read"),
        ("POST", "/v1/pages", {"user": "u1", "widgets": widgets}, "read"),
        ("POST", "/v1/events", {"events": [event, {"user": "u", "item": "i"}]}, "events"),
        ("POST", f"/v1/impressions/{list_id}", {"items": ["i1", "i2"]}, "events"),
        ("POST", "/v1/decisions", decision | {"event_id": f"{events}-decision"}, "read"),
        ("POST", "/v1/decisions", {"policy": "hero", "user": "u1", "candidates": {"k": 5}, "defer": True}, "read"),
        ("POST", f"/v1/decisions/{DECISION}/reward", {"value": 1.5, "id": "r1", "name": "click"}, "events"),
        ("POST", f"/v1/decisions/{DECISION}/reward", {"slots": [{"id": "1", "value": -1}]}, "events"),
        ("POST", f"/v1/decisions/{DECISION}/activate", None, "events"),
        ("POST", "/v1/predict", {"user": "u1", "items": ["i1", "i2"]}, "read"),
        ("POST", "/v1/ads", {"user": "u1", "slots": 2, "bids": {"i1": 350_000}, "filter": "price > 3"}, "read"),
        ("GET", "/v1/users/u1/links?direction=to&most=5", None, "read"),
        ("GET", "/v1/users/u1/suggested?k=5", None, "read"),
        ("PUT", "/v1/users/u1/links/u2", {"weight": 2.5}, "events"),
        ("DELETE", "/v1/users/u1/links/u3", None, "events"),
        ("POST", "/v1/links", '{"user": "u1", "other": "u4"}\n{"user": "u1", "other": "u5", "weight": null}', "events"),
        ("GET", "/v1/recommendations?user=u1&k=5&filter=price%3E3&explain=true&fields=title", None, "read"),
        ("GET", "/v1/popular?k=5&filter=price%3E3&fields=title", None, "read"),
        ("GET", "/v1/trending?k=5", None, "read"),
        ("GET", "/v1/covisits?item=i1&k=5&filter=price%3E3", None, "read"),
        ("GET", "/v1/covisits?user=u1&session=s1&fields=title", None, "read"),
        ("GET", "/v1/items?search=number&k=5&fields=title,price", None, "read"),
        ("GET", "/v1/items/i1", None, "read"),
        ("GET", "/v1/items/i1/similar?k=5&filter=price%3C50", None, "read"),
        ("GET", "/v1/users/u1/similar?k=3", None, "read"),
        ("GET", "/v1/users/u1/history?most=10", None, "read"),
        ("PUT", "/v1/items/f1", {"title": "x", "price": 3}, "admin"),
        ("PATCH", "/v1/items/f1", {"price": 4}, "admin"),
        ("DELETE", "/v1/items/f2", None, "admin"),
        ("PUT", "/v1/users/f1", {"age": 3}, "admin"),
        ("PATCH", "/v1/users/f1", {"city": "x"}, "admin"),
        ("DELETE", "/v1/users/f2", None, "admin"),
        ("POST", "/v1/items", '{"id": "f3", "columns": {"price": 3}}\n{"id": "f4", "columns": null}', "admin"),
        ("POST", "/v1/users", '{"id": "f3", "columns": {"age": 3}}', "admin"),
        ("GET", f"/v1/lists/{list_id}", None, "admin"),
        ("POST", f"/v1/lists/{list_id}/replay?explain=true", None, "admin"),
        ("GET", "/v1/placements", None, "admin"),
        ("GET", "/v1/placements/home", None, "admin"),
        ("PUT", "/v1/placements/f1", {"k": 5, "filter": "price > 1", "explore": 0.5, "budget": 50}, "admin"),
        ("GET", "/v1/placements/home/versions", None, "admin"),
        ("POST", "/v1/placements/home/rollback", {"version": 1}, "admin"),
        ("DELETE", "/v1/placements/f2", None, "admin"),
        ("PUT", "/v1/placements/p1", {"policy": {
            "kind": "lin_ts", "settings": {"draws": 20},
            "rewards": {"click": 1, "watch": {"reward": 1, "value_at_least": 3}},
            "exploration": {"share": 0.2, "slot_shares": {"1": 0.01}},
        }}, "admin"),
        ("GET", "/v1/policies", None, "admin"), ("GET", "/v1/policies/p1", None, "admin"),
        ("POST", "/v1/policies/p1/promote", {"mode": "online", "force": True}, "admin"),
        ("POST", "/v1/policies/p1/kill", None, "admin"), ("POST", "/v1/policies/p1/revive", None, "admin"),
        ("POST", "/v1/policies/p1/freeze", None, "admin"), ("POST", "/v1/policies/p1/unfreeze", None, "admin"),
        ("POST", "/v1/policies/p1/rollback", {"snapshot": 0}, "admin"),
        ("GET", "/v1/campaigns", None, "admin"),
        ("PUT", "/v1/campaigns/f1", {
            "items": ["i1", "i2"], "bid_micros": 350_000, "daily_budget_micros": 20_000_000, "pay": "click",
            "pacing": "traffic", "pacing_by": "throttle", "frequency_cap": {"at_most": 3, "per": "1d"},
        }, "admin"),
        ("GET", "/v1/campaigns/f1", None, "admin"),
        ("DELETE", "/v1/campaigns/f1", None, "admin"),
        ("GET", "/v1/experiments", None, "admin"),
        ("PUT", "/v1/experiments/f1", {"arms": {"control": {}, "b": {"placement": "home", "weight": 2}}}, "admin"),
        ("GET", "/v1/experiments/f1", None, "admin"),
        ("GET", "/v1/experiments/f1/versions", None, "admin"),
        ("GET", "/v1/experiments/f1/results", None, "admin"),
        ("POST", "/v1/experiments/f1/stop", {"arm": "b", "reason": "enough"}, "admin"),
        ("DELETE", "/v1/experiments/f1", None, "admin"),
        ("POST", "/v1/whatif", {"placement": "hero", "settings": {"policy": {"kind": "lin_ts", "actions": "own"}},
                                "rules": {"filter": "price > 1"}, "mode": "online", "limit": 5}, "admin"),
        ("GET", "/v1/users/f1", None, "read"),
        ("GET", "/v1/schema", None, "admin"),
        ("PUT", "/v1/schema", {"items": {"weight": "number", "colours": "texts"}, "users": {"age": None}}, "admin"),
        ("GET", "/v1/keys", None, "admin"),
        ("POST", "/v1/keys", {"name": "f1", "scopes": ["read", "events"], "expires": "1.5h"}, "admin"),
        ("DELETE", "/v1/keys/f1", None, "admin"),
        ("POST", "/v1/tokens", {"user": "u1", "session": "s", "expires": "90m", "scope": ["read"]}, "page"),
        ("GET", "/health", None, None), ("GET", "/ready", None, None), ("GET", "/metrics", None, "admin"),
        ("GET", "/docs", None, None), ("GET", "/openapi.json", None, None), ("GET", "/try", None, None),
    ]  # fmt: skip


# Each makes a body certainly wrong: the field, and what it holds instead.
FAULTS: list[tuple[str, Any]] = [
    ("k", 0), ("k", 1_001), ("k", "many"), ("k", "5"), ("k", True), ("kk", 1), ("user", ""), ("user", "a" * 257),
    ("user", 5), ("filter", 5), ("filter", "price >"), ("filter", "nothing = 1"), ("boosts", {}),
    ("boosts", [{"whenn": ""}]), ("boosts", [{"multiply": True}]), ("exclude", "i1"), ("pins", {"x": "i1"}),
    ("pins", {"05": "i1"}), ("exclude_seen", "perhaps"), ("exclude_seen", 1), ("diversity", "much"), ("balance", 2),
    ("language", "xx"), ("fields", ["a"] * 51), ("context", []), ("context", {"a": {}}), ("page", "nonsense"),
    ("now", 1), ("include", [1]), ("history", ["i1"]), ("explain", "yes"),
]  # fmt: skip
WEIRD: list[Any] = [
    0, -1, 1, 2**31, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, -(10**30), 1e308, -1e308, 5e-324,
    0.1, -0.0, "", "\x00", "\ud800", "\u202e", "a" * 300, "a" * 70_000, "é", "e\u0301", "\ufeff", "\ue000", "/", "..",
    "%2f",
    "%", "i1", "u1", None, True, False, [], {}, [[]], [None], {"": 1}, "NaN", "1e999", "'", '"', "\\", "\n",
    "; DROP TABLE items", "price", "price > 1", "(((", "NOT " * 60, "1/0 > 0", "x.y.z = 1", ["i1"] * 50,
    {"a": {"b": 1}}, [1, "a", None, True], "٣", "-0", "0x1", "１", "NULL", "𝒳", "\U0010ffff", "=1+1", "<script>",
    {"a": 1}, [[["x"]]],
]  # fmt: skip
_INSERTED = [
    b"\r\n", b"\n", b"\0", b"\r\nTransfer-Encoding: chunked\r\n", b"\r\nContent-Length: 3\r\n", b" " * 200, b"%00",
    b"%2f", b"\r\nTransfer-Encoding: gzip, chunked\r\n", b"\r\nExpect: 100-continue\r\n", b"%ff",
    b"\r\nContent-Encoding: gzip\r\n",
    b"\r\nUpgrade: websocket\r\nConnection: upgrade\r\n", b"\r\nAuthorization: Bearer x\r\n",
]  # fmt: skip


def changed(value: Any, rng: random.Random) -> Any:
    """A JSON value with one place of it changed."""
    if isinstance(value, dict) and value:
        value, chance, name = dict(value), rng.random(), rng.choice(list(value))
        if chance < 0.6:
            value[name] = changed(value[name], rng)
        elif chance < 0.75:
            value[name] = rng.choice(WEIRD)
        elif chance < 0.85:
            del value[name]
        else:
            value[str(rng.choice(WEIRD))[:40] or "x"] = rng.choice(WEIRD)
        return value
    if isinstance(value, list) and value:
        value, chance, place = list(value), rng.random(), rng.randrange(len(value))
        if chance < 0.5:
            value[place] = changed(value[place], rng)
        elif chance < 0.8:
            value[place] = rng.choice(WEIRD)
        else:
            value = value * rng.randint(2, 30)
        return value
    return rng.choice(WEIRD)


def raw(method: str, path: str, body: bytes, kind: str, key: str | None) -> bytes:
    """The bytes of a request."""
    lines = [b"%s %s HTTP/1.1" % (method.encode(), path.encode("utf-8", "surrogatepass")), b"Host: x",
             b"Connection: close"]  # fmt: skip
    lines += [b"Authorization: Bearer " + key.encode()] if key else []
    lines += [b"Content-Type: " + kind.encode(), b"Content-Length: %d" % len(body)] if body else []
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def request(one: Valid, keys: Mapping[str, str], body: Any = None) -> bytes:
    method, path, own, scope = one
    said = own if body is None else body
    text = b"" if said is None else said.encode() if isinstance(said, str) else json.dumps(said).encode()
    kind = "application/x-ndjson" if isinstance(said, str) else "application/json"
    return raw(method, path, text, kind, keys[scope] if scope else None)


def hostile(right: list[Valid], keys: Mapping[str, str], rng: random.Random) -> tuple[bytes, bool]:
    """A request with something changed, and whether it may be one that never ends."""
    method, path, said, scope = rng.choice(right)
    kind, body = "application/json", b""
    if isinstance(said, str):
        kind, body = "application/x-ndjson", said.encode()
    elif said is not None:
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            said = changed(said, rng)
        body = json.dumps(said, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
        if rng.random() < 0.05:
            body = body.replace(b"1", rng.choice([b"NaN", b"Infinity", b"1e999", b"1" + b"0" * 5_000, b"-0", b"01"]), 1)
        if rng.random() < 0.03:
            body = body[:-1] + b',"user":"twice","k":1}'
    if "?" in path or rng.random() < 0.25:
        path = _changed_path(path, rng)
    data = raw(method, path, body, kind, keys[scope] if scope else None)
    chance = rng.random()
    if chance < 0.25:
        return _changed_bytes(data, rng), True
    if chance < 0.28:
        return data * rng.randint(2, 4), True
    if chance < 0.30:
        return data[: rng.randrange(1, len(data))], True
    return data, False


def _changed_path(path: str, rng: random.Random) -> str:
    value = rng.choice(WEIRD)
    text = value if isinstance(value, str) else str(value)
    put, (plain, _, query) = quote(text.encode("utf-8", "surrogatepass")[:3_000], safe=""), path.partition("?")
    chance = rng.random()
    if query and chance < 0.5:
        parts = query.split("&")
        place = rng.randrange(len(parts))
        parts[place] = parts[place].split("=")[0] + "=" + put
        return f"{plain}?{'&'.join(parts)}"
    if chance < 0.9:
        steps = plain.split("/")
        steps[rng.randrange(1, len(steps))] = put or "%20"
        return "/".join(steps) + (f"?{query}" if query else "")
    return path + ("&" if query else "?") + "k=" + put


def _changed_bytes(data: bytes, rng: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        if not made:
            break
        chance, place = rng.random(), rng.randrange(min(len(made), 400))
        if chance < 0.4:
            made[place] = rng.randrange(256)
        elif chance < 0.6:
            made[place:place] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
        elif chance < 0.8:
            del made[place : place + rng.randint(1, 20)]
        else:
            made[place:place] = rng.choice(_INSERTED)
    return bytes(made)


@dataclasses.dataclass
class Report:
    """What became of the requests. failed, hung, refused, accepted: the first bytes of each, with the answer."""

    statuses: Counter[str] = dataclasses.field(default_factory=Counter)
    failed: list[tuple[str, bytes]] = dataclasses.field(default_factory=list)
    hung: list[tuple[str, bytes]] = dataclasses.field(default_factory=list)
    refused: list[tuple[str, bytes]] = dataclasses.field(default_factory=list)
    accepted: list[tuple[str, bytes]] = dataclasses.field(default_factory=list)
    memory: list[int] = dataclasses.field(default_factory=list)


def send(port: int, data: bytes | list[bytes], patience: float) -> bytes:
    """What is answered; nothing where the connection was closed without a word. data: of a list each part goes as a
    packet of its own."""
    found = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=patience) as one:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                for part in [data] if isinstance(data, bytes) else data:
                    one.sendall(part)
            except ConnectionError:
                pass  # what was answered before can still be read
            while len(found) < 1 << 20 and (part := one.recv(65_536)):
                found += part
    except TimeoutError:
        return found or b"<hangs>"
    except OSError:
        pass
    return found


def fuzz(port: int, keys: Mapping[str, str], number: int, seed: int, threads: int = 4,
         resident: Callable[[], int] | None = None) -> Report:  # fmt: skip
    """Send requests to a service and note what became of them. resident: bytes of memory of the service."""
    made = json.loads(send(port, request(("POST", "/v1/recommendations", {"user": "u1", "k": 3}, "read"), keys), HANGS)
                      .partition(b"\r\n\r\n")[2])  # fmt: skip
    send(port, request(("PUT", "/v1/placements/home", {"k": 5}, "admin"), keys), HANGS)
    policy = {"kind": "lin_ts", "actions": "own", "mode": "online"}
    send(port, request(("PUT", "/v1/placements/hero", {"policy": policy}, "admin"), keys), HANGS)
    decided = {"policy": "hero", "actions": [{"id": "a"}], "event_id": DECISION, "defer": True}
    send(port, request(("POST", "/v1/decisions", decided, "read"), keys), HANGS)
    # The first value of a column decides its type: these are the right ones.
    send(port, request(("PUT", "/v1/users/f1", {"age": 3, "city": "x"}, "admin"), keys), HANGS)
    report, lock = Report(), threading.Lock()

    def work(at: int) -> None:
        rng = random.Random(f"{seed} {at}")
        right = valid(made["list_id"], made["next"], f"e{seed}-{at}")
        for n in range(number // threads):
            kind = "hostile" if n % 10 else "valid" if n % 20 else "fault"
            endless = False
            if kind == "hostile":
                data, endless = hostile(right, keys, rng)
            elif kind == "valid":
                data = request(right[n // 10 % len(right)], keys)
            else:
                name, value = rng.choice(FAULTS)
                data = request(right[0], keys, right[0][2] | {name: value})
            begun = time.monotonic()
            answer = send(port, data, CUT if endless else HANGS)
            status = answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/1.") else answer[:8].decode("latin-1")
            with lock:
                report.statuses[status] += 1
                shown = answer[-200:].decode("latin-1"), data[:2_000]
                if status[:1] == "5" and not (status == "503" and b"at work" in answer):
                    report.failed.append(shown)
                if not endless and (answer == b"<hangs>" or time.monotonic() - begun > HANGS / 2):
                    report.hung.append(shown)
                if kind == "valid" and status[:1] != "2" and not status.startswith(("404", "409", "503")):
                    report.refused.append(shown)
                if kind == "fault" and status[:1] == "2":
                    report.accepted.append(shown)
                if resident is not None and at == 0 and n % max(1, number // threads // 20) == 0:
                    report.memory.append(resident())
                    print(f"{report.statuses.total():>9,} requests, {report.memory[-1] >> 20} MB, 5xx "
                          f"{len(report.failed)}, hangs {len(report.hung)}", flush=True)  # fmt: skip

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))  # raises what went wrong here
    return report


# -- a service of its own ----------------------------------------------------------------------------------------------


def prepare(folder: Path) -> None:
    """A small shop: 60 users, 40 items, one version in use."""
    import numpy as np
    import polars as pl

    from zhiyin.data.catalogue import Catalogue
    from zhiyin.data.dataset import Dataset
    from zhiyin.models.neighbors import ItemKNN
    from zhiyin.pipeline.model_versions import Bundles

    rng = np.random.default_rng(1)
    users = np.repeat(np.arange(60), 10)
    items = 2 * rng.integers(0, 20, len(users)) + users % 2
    events = pl.DataFrame({
        "user": [f"u{u}" for u in users], "item": [f"i{i}" for i in items],
        "time": 1_690_000_000_000_000 + rng.permutation(len(users)) * 1_000_000, "kind": ["view"] * len(users),
    })  # fmt: skip
    catalogue = pl.DataFrame({
        "id": [f"i{i}" for i in range(40)], "price": [float(i) for i in range(40)],
        "genre": ["even" if i % 2 == 0 else "odd" for i in range(40)], "title": [f"number{i}" for i in range(40)],
    })  # fmt: skip
    data, bundles = Dataset.build(events, items=catalogue), Bundles(folder / "models" / "bundles")
    bundles.write(ItemKNN().fit(data), figures={}, catalogue=Catalogue.of(data))
    bundles.promote(1)
    (folder / "zhiyin.toml").write_text("[service]\nrate = 0\n")


class Served:
    """`zhiyin serve` in a folder, until the end of the block. `port`, `keys` by scope, `pids`."""

    def __init__(self, folder: Path, workers: int = 1) -> None:
        self.log = (folder / "log").open("w+")
        command = [sys.executable, "-m", "zhiyin", "serve", "--port", "0", "--workers", str(workers)]
        self.process = subprocess.Popen(command, cwd=folder, stdout=self.log, stderr=subprocess.STDOUT)
        until = time.monotonic() + 180
        while not (found := re.search(r"at http://\S+?:(\d+)", Path(self.log.name).read_text())):
            assert self.process.poll() is None, Path(self.log.name).read_text()
            assert time.monotonic() < until
            time.sleep(0.1)
        self.port = int(found[1])
        shown = re.findall(r"key (?:to|for) (\w+): (\S+)", Path(self.log.name).read_text())
        self.keys = {"page" if scope == "pages" else scope: key for scope, key in shown}
        while not send(self.port, b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 5).startswith(
            b"HTTP/1.1 200"
        ):
            time.sleep(0.1)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    @property
    def pids(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid, *map(int, children)]

    def resident(self) -> int:
        """Bytes of memory of all its processes."""
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids)
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        """Seconds of CPU of all threads of all its processes that live."""
        times = [task.read_text() for pid in self.pids for task in Path(f"/proc/{pid}/task").glob("*/schedstat")]
        return sum(int(one.split()[0]) for one in times) / 1e9


@dataclasses.dataclass(frozen=True)
class Stranger:
    """What somebody without a key sends over one connection. pieces: one packet each. requests: how many there are in
    them. times: how often it is measured."""

    pieces: list[bytes]
    requests: int = 1
    times: int = 200


def strangers() -> dict[str, Stranger]:
    """From nothing to as much as they can."""
    wrong, close = b"Authorization: Bearer zy_read_nobody\r\n", b"Connection: close\r\n"
    kind, size = b"Content-Type: application/json\r\n", (4 << 20) - 1

    def head(line: bytes, *more: bytes) -> bytes:
        return line + b" HTTP/1.1\r\nHost: x\r\n" + b"".join(more) + b"\r\n"

    def get(path: bytes, *more: bytes) -> Stranger:
        return Stranger([head(b"GET " + path, close, *more)])

    def post(body: bytes, *more: bytes, path: bytes = b"/v1/recommendations", how: bytes = b"POST") -> Stranger:
        return Stranger([head(how + b" " + path, kind, b"Content-Length: %d\r\n" % len(body), *more) + body])

    def chunks(length: int, each: int, *more: bytes, path: bytes = b"/v1/events", how: bytes = b"POST") -> Stranger:
        body = (b"%x\r\n" % each + b" " * each + b"\r\n") * (length // each) + b"0\r\n\r\n"
        return Stranger([head(how + b" " + path, kind, b"Transfer-Encoding: chunked\r\n", *more) + body])

    popular, context = b"/v1/popular", b'{"context":{' + b",".join(b'"%d":[]' % n for n in range(250_000)) + b"}}"
    preflight = b"Origin: https://x.example\r\nAccess-Control-Request-Method: POST\r\n"
    trickled = head(b"GET " + popular, close, b"X: " + b"y" * 1_000 + b"\r\n")
    return {
        "GET /health": get(b"/health"), "GET /ready": get(b"/ready"), "GET /docs": get(b"/docs"),
        "GET /openapi.json": get(b"/openapi.json"), "GET /try": get(b"/try"), "GET /metrics": get(b"/metrics"),
        "GET of no page": get(b"/" + b"n" * 2_000),
        "GET without a key": get(popular), "GET with a wrong key": get(popular, wrong),
        "a token that is none": get(popular, b"Authorization: Bearer a." + b"b" * 4_000 + b".c\r\n"),
        "POST {} with a wrong key": post(b"{}", wrong), "POST {} without a key": post(b"{}"),
        "POST 2.8 MiB of context": post(context, wrong), "POST 4 MiB": post(b"x" * size, wrong),
        "POST 4 MiB to /health": post(b"x" * size, path=b"/health"),
        "POST 4 MiB to no page": post(b"x" * size, path=b"/nothing"),
        "OPTIONS with 4 MiB": post(b"x" * size, how=b"OPTIONS"),
        "a preflight with 4 MiB": post(b"x" * size, preflight, how=b"OPTIONS"),
        "POST 4 MiB, said to be 40": Stranger(
            [head(b"POST /v1/events", wrong, kind, b"Content-Length: 40000000\r\n") + b"x" * size]
        ),
        "chunks, 4 MiB": chunks(size, 4_096, wrong), "chunks of a byte": chunks(500_000, 1, wrong),
        "chunks of a byte to /health": chunks(500_000, 1, path=b"/health"),
        "chunks of a byte, OPTIONS": chunks(500_000, 1, how=b"OPTIONS"),
        "Expect: 100-continue": Stranger(
            [head(b"POST /v1/events", kind, b"Expect: 100-continue\r\n", b"Content-Length: 4000000\r\n")]
        ),
        "100 in one go, no key": Stranger([head(b"GET " + popular) * 99 + head(b"GET " + popular, close)], 100, 20),
        "100 in one go, no page": Stranger([head(b"GET /nothing") * 99 + head(b"GET /nothing", close)], 100, 20),
        "a header of 60 KB": get(popular, b"X: " + b"y" * 60_000 + b"\r\n"),
        "a header of 4 MB": Stranger([head(b"GET " + popular, b"X: " + b"y" * 4_000_000 + b"\r\n")]),
        "99 headers": get(popular, *[b"X-%d: y\r\n" % n for n in range(97)]),
        "50,000 headers": get(popular, *[b"X-%d: y\r\n" % n for n in range(50_000)]),
        "a header, byte by byte": Stranger([trickled[n : n + 1] for n in range(len(trickled))], times=30),
        "an upgrade": get(popular, b"Upgrade: websocket\r\nConnection: upgrade\r\n"),
        "no HTTP": Stranger([os.urandom(4_000)]),
    }  # fmt: skip


def measure_strangers(service: Served) -> None:
    """CPU of the service for one request, user and system together."""
    begun, before = time.monotonic(), service.cpu()
    time.sleep(3)
    idle = (service.cpu() - before) / (time.monotonic() - begun)
    print(f"CPU of the service while nobody asks: {1e3 * idle:.1f} ms a second, taken off below")
    print(f"{'':28} {'bytes':>9} answer  ms of CPU")
    for name, one in strangers().items():
        patience = HANGS if one.requests > 1 else CUT
        for _ in range(one.times // 10):
            send(service.port, one.pieces, patience)
        begun, before = time.monotonic(), service.cpu()
        for _ in range(one.times):
            answer = send(service.port, one.pieces, patience)
        spent = service.cpu() - before - idle * (time.monotonic() - begun)
        took = spent / one.times / one.requests
        size = sum(map(len, one.pieces)) // one.requests
        print(f"{name:28} {size:>9,}  {answer[9:12].decode('latin-1'):>4}  {1e3 * took:9.2f}", flush=True)


def measure_idle(service: Served, number: int = 2_000, times: int = 100) -> None:
    """`number` idle connections of one address: what becomes of requests of the same address, and of another one."""

    def ask(address: str) -> tuple[str, float]:
        begun = time.monotonic()
        with socket.create_connection(("127.0.0.1", service.port), HANGS, (address, 0)) as one:
            one.sendall(b"GET /v1/popular?k=5 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer "
                        + service.keys["read"].encode() + b"\r\n\r\n")  # fmt: skip
            answer = b""
            while part := one.recv(65_536):
                answer += part
        return answer[9:12].decode("latin-1"), time.monotonic() - begun

    before, idle = service.resident(), list[socket.socket]()
    for n in range(number):
        idle.append(socket.create_connection(("127.0.0.1", service.port), HANGS))
        if n % 2:
            idle[-1].sendall(b"GET /health HTTP/1.1\r\nHo")  # half of them begin to ask
    for address in ("127.0.0.1", "127.0.0.2"):
        answers = [ask(address) for _ in range(times)]
        seconds = sorted(took for _, took in answers)
        print(f"{number:,} idle connections of 127.0.0.1; {times} requests of {address}: "
              f"{dict(Counter(status for status, _ in answers))}, median {1e3 * seconds[times // 2]:.1f} ms, longest "
              f"{1e3 * seconds[-1]:.1f} ms, memory {(service.resident() - before) / (1 << 20):+.0f} MB")  # fmt: skip
    for one in idle:
        one.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=12, help="connections at once; some wait for what never comes")
    parser.add_argument("--stranger", action="store_true")
    parser.add_argument("--idle", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        with Served(Path(name), given.workers) as service:
            if given.stranger:
                measure_strangers(service)
                return
            if given.idle:
                measure_idle(service, given.idle)
                return
            pids, begun = service.pids, time.monotonic()
            report = fuzz(service.port, service.keys, given.requests, given.seed, given.threads, service.resident)
            print(f"{report.statuses.total():,} requests in {time.monotonic() - begun:,.0f} s: "
                  f"{dict(report.statuses.most_common(20))}")  # fmt: skip
            print(f"5xx {len(report.failed)}, hangs {len(report.hung)}, valid refused {len(report.refused)}, invalid "
                  f"accepted {len(report.accepted)}, processes the same {pids == service.pids}")  # fmt: skip
            print("memory, MB:", *(size >> 20 for size in report.memory))
            for what in ("failed", "hung", "refused", "accepted"):
                for answer, data in getattr(report, what)[:5]:
                    print(f"-- {what}: {data[:400]!r}\n   {answer!r}")


if __name__ == "__main__":
    main()
