"""Workers share a port; one that dies is followed by another; a stop leaves nothing behind."""

from __future__ import annotations

import http.client
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.crew import answer
from zhiyin.core.errors import ConfigError
from zhiyin.service.supervisor import MAX_DEATHS, listen, supervise

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


class Service:
    """The parent, in a process of its own."""

    def __init__(self, target: str, workers: int, **description: Any) -> None:
        finish = description.pop("finish", 10.0)
        code = (
            "import sys; from tests.service import crew; from zhiyin.service.supervisor import supervise; "
            f"sys.exit(supervise(crew.{target}, {description!r}, '127.0.0.1', 0, {workers}, "
            f"lambda host, port: print(port, flush=True), finish={finish}))"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline() or 0)

    def ask(self, path: str = "/") -> str:
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            link.request("GET", path)
            return link.getresponse().read().decode()
        finally:
            link.close()

    def workers(self) -> set[int]:
        """Processes below the parent that are ours, but for the one that tidies up after multiprocessing."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        lines = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in found}
        return {pid for pid, line in lines.items() if b"resource_tracker" not in line}

    def answering(self, many: int) -> set[int]:
        """Ask, several at a time, until so many workers have answered."""
        seen: set[int] = set()

        def some() -> None:
            for _ in range(20):
                seen.add(int(self.ask().split()[1]))

        def round_() -> bool:
            threads = [threading.Thread(target=some) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return len(seen) >= many

        until(round_)
        return seen

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


def until(there: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not there():
        assert time.monotonic() < end
        time.sleep(0.01)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def start() -> Iterator[Callable[..., Service]]:
    made: list[Service] = []

    def begin(target: str, workers: int, **description: Any) -> Service:
        made.append(Service(target, workers, **description))
        return made[-1]

    yield begin
    for service in made:
        service.process.kill()
        service.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_all_answer_and_a_stop_leaves_none(start: Callable[..., Service], number: int) -> None:
    service = start("answer", 2, word="hello")
    assert service.ask().startswith("hello ")
    seen = service.answering(2)
    assert seen == service.workers()
    assert service.stop(number) == 0
    until(lambda: not any(map(runs, seen)))
    with pytest.raises(ConnectionRefusedError):
        service.ask()
    listen("127.0.0.1", service.port).close()  # at once, though connections of before linger


def test_one_that_dies_is_followed_by_another(start: Callable[..., Service]) -> None:
    service = start("answer", 2, word="hello")
    before = service.answering(2)
    errors: list[Exception] = []
    answers: list[str] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                answers.append(service.ask())
            except OSError as error:
                errors.append(error)
            except http.client.HTTPException as error:
                errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    victim = before.pop()
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(service.workers() - before - {victim}) == 1)
    after = service.answering(2)
    done.set()
    thread.join()
    assert len(answers) > 10
    assert len(errors) <= 1, errors  # the connection that it had
    assert service.workers() > before
    assert victim not in service.workers()
    assert after <= service.workers() | {victim}
    assert service.stop() == 0


def test_a_stop_waits_for_what_is_being_answered(start: Callable[..., Service], tmp_path: Path) -> None:
    service = start("answer", 2, word="late", mark=str(tmp_path / "mark"))
    got: list[str] = []
    thread = threading.Thread(target=lambda: got.append(service.ask("/slow")))
    thread.start()
    until((tmp_path / "mark").exists)
    assert service.stop() == 0
    thread.join(10)
    assert got[0].startswith("late ")


def test_one_that_does_not_stop_is_killed(start: Callable[..., Service]) -> None:
    service = start("answer", 1, word="deaf", deaf=True, finish=0.3)
    worker = int(service.ask().split()[1])
    assert service.stop() == 1
    assert not runs(worker)
    assert "killed" in service.process.communicate()[1]


def test_workers_end_with_a_parent_that_was_killed(start: Callable[..., Service]) -> None:
    for more in ({}, {"deaf": True, "finish": 0.3}):
        service = start("answer", 2, word="orphan", **more)
        seen = service.answering(2)
        service.process.kill()
        until(lambda seen=seen: not any(map(runs, seen)))  # type: ignore[misc]


def test_it_gives_up_where_workers_only_die(start: Callable[..., Service]) -> None:
    service = start("fail", 1)
    assert service.process.wait(30) == 1
    said = service.process.communicate()[1]
    assert said.count("ended with 7") == MAX_DEATHS
    assert "it stops" in said


def test_addresses_where_nobody_can_listen() -> None:
    with listen("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is taken") as caught:
            supervise(answer, {}, "127.0.0.1", port, 1)
        assert "--port" in str(caught.value)
    with pytest.raises(ConfigError, match="cannot listen"):
        listen("192.0.2.1", 0)
    with pytest.raises(ConfigError, match="no address"):
        listen("a..b", 80)
    with pytest.raises(ConfigError, match="one or more"):
        supervise(answer, {}, "127.0.0.1", 0, 0)


def test_it_is_told_when_the_first_worker_answers_and_not_before(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = (
        "import sys; from tests.service import crew; from zhiyin.service.supervisor import supervise; "
        f"sys.exit(supervise(crew.answer_late, {{'word': 'me', 'mark': {str(mark)!r}}}, '127.0.0.1', 0, 2, "
        "lambda host, port: print('listens', flush=True), "
        "on_answering=lambda host, port: print('answers', port, flush=True)))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "listens\n"
        assert not select.select([process.stdout], [], [], 0.5)[0]
        mark.write_text("")
        word, port = process.stdout.readline().split()
        assert word == "answers"
        link = http.client.HTTPConnection("127.0.0.1", int(port), timeout=20)
        link.request("GET", "/")
        assert link.getresponse().read().startswith(b"me ")
        link.close()
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == ""  # and only once
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
