"""The service as a process: one or several workers on one store, with or without Redis, until it is told to stop."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")
import httpx

from zhiyin.client import PageKey

from .conftest import eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def running(home: Path, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts `zhiyin serve` in a folder with the first version in use; gives a client with the admin key."""
    from zhiyin.pipeline.model_versions import Bundles

    started: list[subprocess.Popen[str]] = []
    clients: list[httpx.Client] = []
    shutil.copytree(home / "bundles", tmp_path / "models" / "bundles")
    Bundles(tmp_path / "models" / "bundles").promote(1)
    (tmp_path / "zhiyin.toml").write_text("[service]\nbudget = 60000\n")

    def start(*options: str, settings: str = "") -> Any:
        if settings:
            (tmp_path / "zhiyin.toml").write_text("[service]\nbudget = 60000\n" + settings)
        log = (tmp_path / f"log{len(started)}").open("w+")
        process = subprocess.Popen(
            [sys.executable, "-m", "zhiyin", "serve", "--port", "0", *options], cwd=tmp_path, stdout=log,
            stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        started.append(process)

        def said() -> str:
            return Path(log.name).read_text()

        def address() -> re.Match[str] | None:
            assert process.poll() is None, said()
            return re.search(r"at (http://\S+?)[,\s]", said())

        eventually(address, 120)
        found = address()
        assert found is not None
        shown = re.search(r"key to admin: (\S+)", said())
        if shown:
            start.key = shown[1]  # type: ignore[attr-defined]
        client = httpx.Client(base_url=found[1], headers={"Authorization": f"Bearer {start.key}"}, timeout=20)  # type: ignore[attr-defined]
        clients.append(client)
        eventually(lambda: _up(client), 120)
        client.process, client.said, client.home = process, said, tmp_path  # type: ignore[attr-defined]
        return client

    yield start
    for client in clients:
        client.close()
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def _up(client: httpx.Client) -> bool:
    try:
        return client.get("/ready").status_code == 200
    except httpx.TransportError:
        return False


def ask(client: Any, fresh: bool = False, **body: Any) -> list[str]:
    """A list; `fresh`: over a connection of its own, which any worker may take."""
    headers = {"Connection": "close"} if fresh else {}
    answer = client.post("/v1/recommendations", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return [row["item"] for row in answer.json()["items"]]


def bring(client: Any, user: str, *items: str) -> None:
    events = [{"user": user, "item": item, "kind": "view"} for item in items]
    assert client.post("/v1/events", json={"events": events}).json()["rejected"] == 0


def stop(client: Any) -> int:
    client.process.send_signal(signal.SIGTERM)
    return client.process.wait(30)


def test_one_process(running: Callable[..., Any]) -> None:
    client = running()
    bring(client, "ann", "i1", "i3")
    before = ask(client, user="ann", k=5)
    assert "key to read" in client.said()
    assert client.get("/try").status_code == 200
    assert stop(client) == 0
    again = running()
    assert "key to read" not in again.said()
    assert ask(again, user="ann", k=5) == before
    assert stop(again) == 0


@pytest.mark.parametrize("shared", [False, True])
def test_forgotten_by_another_program(running: Callable[..., Any], shared: bool, request: Any) -> None:
    """`zhiyin forget` beside a running service: what it holds in memory goes too."""
    redis = f'redis = "{request.getfixturevalue("redis_url")}"\n' if shared else ""
    client = running(settings=redis)
    bring(client, "ann", "i1", "i3")
    assert ask(client, user="ann", k=5) != ask(client, k=5)
    command = [sys.executable, "-m", "zhiyin", "forget", "ann", "--yes", "--json"]
    done = subprocess.run(command, cwd=client.home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    eventually(lambda: ask(client, user="ann", k=5) == ask(client, k=5))
    assert client.get("/v1/users/ann/history").json()["events"] == []


def check_workers(client: Any) -> None:
    """What one worker hears, the others know with the very next request."""
    for n in range(15):
        user = f"visitor{n}"
        for _ in range(4):  # so that workers that remember users remember these
            assert len(ask(client, fresh=True, user=user, k=5)) == 5
        bring(client, user, f"i{2 * n}")
        lists = [ask(client, fresh=True, user=user, k=40) for _ in range(4)]
        assert all(f"i{2 * n}" not in found for found in lists)
        assert lists[0] == lists[1] == lists[2] == lists[3]
    for n in range(10):
        client.patch(f"/v1/items/i{n}", json={"hidden": True})
        for _ in range(4):
            assert f"i{n}" not in ask(client, fresh=True, user="u3", k=40)
    proof = client.delete("/v1/users/visitor0").json()["proof"]
    assert proof["events found"] == 0
    stranger = ask(client, k=5)
    assert all(ask(client, fresh=True, user="visitor0", k=5) == stranger for _ in range(6))


def test_several_workers_know_what_one_hears(running: Callable[..., Any]) -> None:
    client = running("--workers", "2")
    check_workers(client)
    assert stop(client) == 0


def test_a_revoked_key_is_refused_by_every_worker(running: Callable[..., Any]) -> None:
    """Keys made and revoked on the command line, and by one worker: the others follow without a restart."""
    client = running("--workers", "2")

    def statuses(key: str) -> set[int]:
        headers = {"Authorization": f"Bearer {key}", "Connection": "close"}
        return {client.get("/v1/popular?k=1", headers=headers).status_code for _ in range(12)}

    def command(*words: str) -> Any:
        done = subprocess.run([sys.executable, "-m", "zhiyin", "key", *words], cwd=client.home, capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    typed = command("add", "shop", "--scope", "read").strip()
    web = client.post("/v1/keys", json={"name": "web", "scopes": ["page"]}).json()["key"]
    signed = str(PageKey(web).token(user="ann"))
    for key in (typed, signed):
        eventually(lambda key=key: statuses(key) == {200})  # type: ignore[misc]
    command("revoke", "shop")
    assert client.delete("/v1/keys/web").status_code == 200
    for key in (typed, signed):
        eventually(lambda key=key: statuses(key) == {401})  # type: ignore[misc]
    assert stop(client) == 0
    assert typed not in client.said()
    assert web not in client.said()


def test_several_workers_and_redis(running: Callable[..., Any], redis_url: str) -> None:
    client = running("--workers", "2", settings=f'redis = "{redis_url}"\n')
    check_workers(client)
    assert stop(client) == 0


def test_a_worker_that_is_killed_loses_nothing_acknowledged(running: Callable[..., Any]) -> None:
    client = running("--workers", "2")
    children = Path(f"/proc/{client.process.pid}/task/{client.process.pid}/children")
    kept = []
    for n in range(60):
        if n == 20:
            workers = [pid for pid in children.read_text().split() if b"spawn_main" in _command(pid)]
            os.kill(int(workers[0]), signal.SIGKILL)
        try:
            event = {"user": "ann", "item": "i1", "id": f"e{n}", "kind": "view"}
            answer = client.post("/v1/events", json={"events": [event]}, headers={"Connection": "close"})
        except httpx.TransportError:
            time.sleep(0.05)
            continue
        if answer.status_code == 200:
            kept.append(f"e{n}")
    assert len(kept) > 40
    history = client.get("/v1/users/ann/history?most=1000").json()["events"]
    assert set(kept) <= {event["id"] for event in history}
    assert stop(client) == 0


def test_a_bad_start_and_a_killed_worker_leave_two_workers_that_answer(
    running: Callable[..., Any], tmp_path: Path
) -> None:
    """Rows that do not fit, a damaged version in use, rules that cannot be used, then settings that are no TOML."""
    from zhiyin.pipeline.model_versions import Bundles
    from zhiyin.service.key_cache import Keys
    from zhiyin.store.store import Store

    store = Store(tmp_path / "store.db")
    running.key = Keys.open(store)[1]["admin"]  # type: ignore[attr-defined]
    store.close()
    add = "INSERT INTO items (id, version, columns, received) VALUES (?, 1, ?, 1)"
    with sqlite3.connect(tmp_path / "store.db") as link:
        link.executemany(add, [("p1", '{"price": [1, 2]}'), ("p2", "no json"), ("p3", '{"tags": "a"}'), ("p4", "[]"),
                               ("p5", '{"tags": ["a"]}'), ("p6", '{"hidden": "true"}')])  # fmt: skip
    bundles = Bundles(tmp_path / "models" / "bundles")
    bundles.promote(2)
    next((tmp_path / "models" / "bundles" / "0002" / "model").rglob("*.npy")).write_bytes(b"damaged")
    rules = '[rules]\ncaps = [{ per = "colour", at_most = 1 }]\nnonsense = 3\n'
    client = running("--workers", "2", settings=rules)
    expected = {
        "version 2",
        "items.price",
        "[rules] caps",
        "[rules] nonsense",
        "change 2 of items",
        "change 4 of items",
    }
    children = Path(f"/proc/{client.process.pid}/task/{client.process.pid}/children")

    def workers() -> set[str]:
        return {pid for pid in children.read_text().split() if b"spawn_main" in _command(pid)}

    def check() -> None:
        found = client.get("/ready", headers={"Connection": "close"}).json()
        assert found["version"] == 1
        assert {entry["what"] for entry in found["set_aside"]} >= expected
        assert len(ask(client, fresh=True, user="ann", k=5)) == 5

    before = workers()
    assert len(before) == 2
    for _ in range(4):
        check()
    (tmp_path / "zhiyin.toml").write_bytes(b"[service]\nbudg\xff")
    victim = before.pop()
    os.kill(int(victim), signal.SIGKILL)
    eventually(lambda: len(workers() - {victim}) == 2, 120)
    (other,) = before
    (follower,) = workers() - {victim, other}
    listening = Path(f"/proc/{follower}/task")
    eventually(lambda: len(list(listening.iterdir())) > 5, 120)  # its threads run: it has opened the shop
    os.kill(int(other), signal.SIGSTOP)  # the follower alone has to answer
    try:
        eventually(lambda: _up(client), 120)
        check()
        bring(client, "ann", "i3")
    finally:
        os.kill(int(other), signal.SIGCONT)
    assert client.put("/v1/items/fresh", json={"price": 1.0}).status_code == 200
    eventually(lambda: "fresh" in ask(client, fresh=True, k=100))
    assert stop(client) == 0


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_port_that_is_taken(running: Callable[..., Any], tmp_path: Path) -> None:
    client = running()
    port = str(client.base_url.port)
    other = subprocess.run(
        [sys.executable, "-m", "zhiyin", "serve", "--port", port], cwd=tmp_path, capture_output=True, text=True
    )
    assert other.returncode == 1
    assert "taken" in other.stderr
    assert "Traceback" not in other.stderr


def test_a_restart_after_a_kill_leaves_no_folder_behind_and_goes_on_with_the_last_settings(
    running: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What users were shown lies in the temporary folder while the service runs, and no longer.

    The settings of the first start have keys that are set aside, and the file is no TOML at the second.
    """
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    client = running("--workers", "2", settings="colour = 5\n[rules]\nnonsense = 3\n")
    children = Path(f"/proc/{client.process.pid}/task/{client.process.pid}/children").read_text().split()
    ask(client, user="ann", k=5)
    (left,) = temporary.glob("zhiyin-run-*")
    assert left.stat().st_mode & 0o777 == 0o700
    assert list(left.glob("*.showings"))
    client.process.kill()
    client.process.wait()
    eventually(lambda: not any(b"spawn_main" in _command(pid) for pid in children))
    assert left.is_dir()
    (tmp_path / "zhiyin.toml").write_text("[[[[")
    again = running("--workers", "2")
    found = {entry["what"]: entry for entry in again.get("/ready").json()["set_aside"]}
    assert found.keys() >= {"zhiyin.toml", "[service] colour", "[rules] nonsense"}
    assert "line 1: this is not TOML" in found["zhiyin.toml"]["reason"]
    assert "zhiyin.toml is not used" in again.said()
    assert len(ask(again, user="ann", k=5)) == 5
    (fresh,) = temporary.glob("zhiyin-run-*")
    assert fresh != left
    assert stop(again) == 0
    assert not list(temporary.glob("zhiyin-run-*"))
