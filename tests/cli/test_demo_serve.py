"""The demo to its end: a version in use, and a service whose printed lines work as they stand."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")

import httpx

from tests.cli.conftest import Command
from zhiyin.cli import demo
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.service.key_cache import Keys, digest_of
from zhiyin.store.store import Store

pytestmark = pytest.mark.slow

MAIN = [sys.executable, "-c", "from zhiyin.cli.main import main; main()"]


def test_without_serving_it_ends_by_itself(zhiyin: Command, log: Path) -> None:
    said = zhiyin("demo", "--data", str(log), "--output", "out", "--no-serve").stderr
    assert "6. The service" not in said
    bundle = Bundles(Path("out/models/bundles")).current
    assert bundle is not None
    assert bundle.version == 1
    assert set(bundle.load().sources_) == {"popular:half_life=7d", "itemknn", "ease"}
    assert not Path("out/store.db").exists()
    # What it leaves is a project like any other.
    shown = zhiyin("recommend", "u0", "-k", "2", "--config", "out/zhiyin.toml", "--json").stdout
    assert len(json.loads(shown)) == 2


@contextmanager
def demonstrated(log: Path, output: Path) -> Iterator[tuple[Any, list[str]]]:
    """The demo in a process of its own, and what it said until it served."""
    process = subprocess.Popen(
        [*MAIN, "demo", "--data", str(log), "--output", str(output)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    guard = threading.Timer(240, process.kill)
    guard.start()
    try:
        lines: list[str] = []
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line.rstrip("\n"))
            if line.startswith("Ctrl-C ends it"):
                break
        yield process, lines
    finally:
        guard.cancel()
        process.kill()
        process.wait()


def ask(line: str) -> Any:
    """What a printed line gives, by curl where there is one."""
    words = shlex.split(line)
    assert words[:2] == ["curl", "-s"]
    if shutil.which("curl"):
        return json.loads(subprocess.run(words, capture_output=True, timeout=30, check=True).stdout)
    headers = dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H")
    if "-d" not in words:
        return httpx.get(words[2], headers=headers).json()
    return httpx.post(words[2], headers=headers, content=words[words.index("-d") + 1]).json()


def test_the_printed_lines_work_and_ctrl_c_ends_it(log: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    store = Store(output / "store.db")
    _, older = Keys.open(store)  # as an earlier demo left them: hashes that nobody can read back
    store.close()
    with demonstrated(log, output) as (process, lines):
        keys = dict(line.split(": ") for line in lines if re.match("key (to|for) ", line))
        assert set(keys) == {"key to read", "key to events", "key for pages", "key to admin"}
        assert not set(keys.values()) & set(older.values())
        clicks, listed, similar = [line for line in lines if line.startswith("  curl ")]
        assert {event["status"] for event in ask(clicks)["events"]} == {"accepted"}
        for _ in range(20):  # a busy machine leaves reasons out, and says so
            found = ask(listed)
            if not found["degraded"]:
                break
        assert len(found["items"]) == 5
        assert all(row["sentence"] for row in found["items"])
        assert len(ask(similar)["items"]) == 5
        address = next(line.strip() for line in lines if "/try#" in line)
        page, fragment = address.split("#")
        assert httpx.get(page).status_code == 200
        given = dict(part.split("=") for part in fragment.split("&"))
        assert given["key"] == keys["key for pages"]
        assert keys["key to admin"] not in address
        assert re.fullmatch(r"(u\d+%2C){2}u\d+", given["users"])
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(30) == 0
        assert "stopped" in rest
        assert "Traceback" not in rest
    assert not [path for path in output.rglob(".*") if "draft" in path.name]
    store = Store(output / "store.db")
    known, _ = Keys.open(store)
    assert all(known.find(digest_of(key)) for key in [*keys.values(), *older.values()])
    assert all((key.expires is not None) == key.name.startswith("demo-") for key in known.all())
    # The next demo takes the place of this one's keys.
    assert set(demo._keys_for_today(known)) == set(older)
    assert len(known.all()) == 2 * len(older)
    assert [event.kind for event in store.history("visitor")] == ["view", "view"]
    store.close()


def test_the_first_free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(demo, "PORTS", (port,))
        with demo._listen_on_free_port() as door:
            assert door.getsockname()[1] != port
    monkeypatch.setattr(demo, "PORTS", (port,))
    with demo._listen_on_free_port() as door:
        assert door.getsockname()[1] == port


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else object())
    demo._serve(tmp_path, demo.ExampleIds(["u1"], ["i1"]))
    said = capsys.readouterr().err
    assert "uvicorn is missing: pip install 'zhiyin[serve,rules]'" in said
    assert f"cd {tmp_path} && zhiyin serve" in said
    assert not list(tmp_path.iterdir())


def test_ids_of_any_kind_are_quoted() -> None:
    keys = {"read": "r", "events": "e", "page": "p", "admin": "a"}
    lines = demo._usage_lines("http://127.0.0.1:1", keys, demo.ExampleIds(["a,b c"], ["it's / 知?", "x"]))
    posted = shlex.split(lines[5])
    assert json.loads(posted[-1])["events"][0]["item"] == "it's / 知?"
    assert shlex.split(lines[7])[2].endswith("/v1/items/it%27s%20%2F%20%E7%9F%A5%3F/similar?k=5")
