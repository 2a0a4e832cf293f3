"""While the service starts it says so: it lives, and is not ready yet, also while code is being compiled."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("uvicorn")

from zhiyin.pipeline.model_versions import Bundles
from zhiyin.service.starting_answers import COMPILING, LOADING, StartingAnswers
from zhiyin.service.supervisor import listen

from .conftest import eventually


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with listen("127.0.0.1", 0) as sock:
        yield sock


def address(sock: socket.socket) -> str:
    return f"http://127.0.0.1:{sock.getsockname()[1]}"


def test_it_lives_and_is_not_ready(sock: socket.socket) -> None:
    with StartingAnswers(sock) as starting, httpx.Client(base_url=address(sock), timeout=20) as client:
        answer = client.get("/health")
        assert (answer.status_code, answer.json()) == (200, {"status": "starting"})
        assert client.head("/health").status_code == 200
        answer = client.get("/ready?verbose=1")
        assert (answer.status_code, answer.json()) == (503, {"status": "starting", "reason": LOADING})
        assert answer.headers["retry-after"] == "2"
        starting.compiling()
        assert client.get("/ready").json()["reason"] == COMPILING
        for method, path in (("POST", "/v1/events"), ("GET", "/v1/popular"), ("DELETE", "/v1/users/u1")):
            answer = client.request(method, path, content=b"x" * 300_000 if method == "POST" else None)
            assert answer.status_code == 503
            assert answer.json() == {"error": f"the service is starting: {COMPILING}", "remedy": "come again"}
            assert int(answer.headers["retry-after"]) > 0


def test_a_client_that_says_nothing_keeps_nobody_waiting(sock: socket.socket) -> None:
    with StartingAnswers(sock), socket.create_connection(sock.getsockname()) as silent:
        silent.send(b"GET /hea")
        assert httpx.get(f"{address(sock)}/health", timeout=2).status_code == 200
        with socket.create_connection(sock.getsockname()) as odd:
            odd.send(b"\x00" * 100_000)
        assert httpx.get(f"{address(sock)}/health", timeout=2).status_code == 200


def test_who_comes_after_the_end_is_answered_by_the_service(sock: socket.socket) -> None:
    with StartingAnswers(sock) as starting:
        assert httpx.get(f"{address(sock)}/health", timeout=20).status_code == 200
        starting.stop()
        with socket.create_connection(sock.getsockname()) as late:
            late.settimeout(0.2)
            late.send(b"GET /health HTTP/1.1\r\n\r\n")
            with pytest.raises(TimeoutError):
                late.recv(1)
            sock.setblocking(True)
            taken, _ = sock.accept()
            with taken:
                assert taken.recv(100).startswith(b"GET /health")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_while_code_is_compiled(home: Path, tmp_path: Path, workers: int) -> None:
    """The service in a folder of compiled code in which nothing says that all is there."""
    warm = next(Path(os.environ["NUMBA_CACHE_DIR"]).glob("zhiyin-*"))
    for folder in Path(os.environ["NUMBA_CACHE_DIR"]).glob("zhiyin-*"):
        warm = max(warm, folder, key=lambda one: one.stat().st_mtime)
    shutil.copytree(warm, tmp_path / "cache" / warm.name, ignore=shutil.ignore_patterns("complete-*"))
    shutil.copytree(home / "bundles", tmp_path / "models" / "bundles")
    Bundles(tmp_path / "models" / "bundles").promote(1)
    (tmp_path / "zhiyin.toml").write_text(f"[service]\nworkers = {workers}\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url, answers, log = f"http://127.0.0.1:{port}", list[tuple[int, Any, Any]](), tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "zhiyin", "serve", "--port", str(port)], cwd=tmp_path, stdout=output,
            stderr=subprocess.STDOUT, env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")},
        )  # fmt: skip
    try:

        def is_ready() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                alive = httpx.get(f"{url}/health", timeout=10)
                answers.append((alive.status_code, alive.json()["status"], None))
                found = httpx.get(f"{url}/ready", timeout=10)
            except httpx.TransportError:
                return False
            answers.append((found.status_code, found.json().get("reason"), found.headers.get("retry-after")))
            return found.status_code == 200

        eventually(is_ready, 240)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert (200, "starting", None) in answers
    assert (503, LOADING, "2") in answers
    assert (503, COMPILING, "2") in answers
    assert {status for status, _, retry in answers if retry} == {503}
    assert log.read_text().count("is being compiled") <= 1
    assert len(list((tmp_path / "cache").rglob("complete-*"))) == 1
