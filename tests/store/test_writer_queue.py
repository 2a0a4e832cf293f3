"""Processes that write to one store take turns."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from tests.conformance.store import event
from zhiyin.store import sqlite_fast_path, writer_queue
from zhiyin.store.errors import StoreAwayError
from zhiyin.store.store import Store
from zhiyin.store.writer_queue import WriterQueue

HOLDER = """
import sys, time
from pathlib import Path
from zhiyin.store.writer_queue import WriterQueue

with WriterQueue(Path(sys.argv[1])).turn(5) as has_turn:
    print(has_turn, flush=True)
    time.sleep(60)
"""


def test_who_waits_is_next(tmp_path: Path) -> None:
    """Two queues, as of two processes: who has had the turn does not get it again before the one who waits."""
    queues, turns = [WriterQueue(tmp_path / "a.db") for _ in range(2)], list[int]()
    inside = threading.Lock()

    def work(which: int) -> None:
        for _ in range(30):
            with queues[which].turn(20) as has_turn:
                assert has_turn
                assert inside.acquire(blocking=False)
                turns.append(which)
                # The other comes to the door meanwhile.
                threading.Event().wait(0.004)
                inside.release()

    threads = [threading.Thread(target=work, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(turns) == 60
    changes = sum(one != other for one, other in itertools.pairwise(turns))
    assert changes >= 30  # without a queue one has all turns, then the other
    for queue in queues:
        queue.close()


def test_a_turn_that_does_not_come_and_one_of_a_process_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shop.db"
    store = Store(path)
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        monkeypatch.setattr(sqlite_fast_path, "BUSY_TIMEOUT_SECONDS", 0.05)
        with pytest.raises(StoreAwayError, match="other writers hold the store"):
            store.append([event(1)])
        with pytest.raises(StoreAwayError), store.writing():
            pass
        assert store.history("alice") == []  # readers do not wait
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    monkeypatch.setattr(sqlite_fast_path, "BUSY_TIMEOUT_SECONDS", 10.0)
    assert store.append([event(1)]) == [True]
    store.close()
    assert store.append([event(1), event(2)]) == [False, True]  # opened again
    store.close()


def test_without_locks_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop.db.door").mkdir()  # cannot be opened
    store = Store(tmp_path / "shop.db")
    assert store.append([event(1)]) == [True]
    store.close()

    def refused(descriptor: int, operation: int) -> None:
        raise OSError(95, "not supported")

    monkeypatch.setattr(writer_queue.fcntl, "flock", refused)
    queues = [WriterQueue(tmp_path / "b.db") for _ in range(2)]
    with queues[0].turn(1) as first, queues[1].turn(1) as second:
        assert (first, second) == (True, True)
    for queue in queues:
        queue.close()
