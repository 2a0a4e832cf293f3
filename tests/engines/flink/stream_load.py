"""Events written as segments while jobs run, what Flink committed of them, and whether each counts exactly once."""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zhiyin.core.durations import UNITS
from zhiyin.core.errors import EngineError
from zhiyin.engines.flink.flink_python import PYTHON_VARIABLE, flink_home, flink_python

HALF_LIFE = 24 * UNITS["h"]
NOW = 1_764_500_000_000_000
USERS, ITEMS = 211, 97


def need_flink() -> Path:
    """Flink's Python; the test skips where Flink cannot run."""
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        pytest.skip("Java 17 is not installed: Flink needs it")
    try:
        python = flink_python(os.environ.get(PYTHON_VARIABLE, ".venv-flink/bin/python"), Path(__file__).parents[3])
        flink_home(python)
    except EngineError as error:
        pytest.skip(f"Flink is not installed: {error.message}")
    return python


def event(seq: int) -> dict[str, Any]:
    """The event of a number: every fifth is days late, clocks of senders and of the service differ, some weigh 0."""
    late = (seq * 7919) % (5 * UNITS["d"]) if seq % 5 == 0 else 0
    moment = NOW + seq * 1_000 - late
    return {
        "seq": seq, "id": f"e{seq}", "user": f"u{seq * 31 % USERS}", "item": f"i{seq * 17 % ITEMS}", "time": moment,
        "received": moment + (seq % 7 - 3) * UNITS["s"], "kind": "view", "value": None if seq % 3 else 0.5,
        "list_id": None, "weight": 0.0 if seq % 11 == 0 else 1.0 + seq % 2,
    }  # fmt: skip


def weighing_events(written: int) -> int:
    """How many of the first events have a weight above 0."""
    return written - written // 11


def write_segment(folder: Path, first: int, last: int) -> None:
    """Write the events of the numbers from `first` to `last`, as an exporter does: hidden, then renamed."""
    events = folder / "events"
    events.mkdir(parents=True, exist_ok=True)
    draft = events / f".{first}.draft"
    draft.write_text("".join(json.dumps(event(seq)) + "\n" for seq in range(first, last + 1)))
    os.replace(draft, events / f"events-{first:020}-{last:020}-{last - first + 1}.jsonl")


class Load:
    """Writes segments in the background, neighbours in reverse order, until it is paused.

    Parameters
    ----------
    rows: of a segment. every: seconds between two segments.
    """

    def __init__(self, folder: Path, rows: int = 200, every: float = 0.2) -> None:
        self.folder, self.rows, self.every = folder, rows, every
        # Number of the last event that was written, all before it too.
        self.written = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def write(self, segments: int = 2) -> None:
        """Write segments; an even number, since neighbours change places."""
        for _ in range(segments // 2):
            middle = self.written + self.rows
            write_segment(self.folder, middle + 1, middle + self.rows)
            write_segment(self.folder, self.written + 1, middle)
            self.written = middle + self.rows

    def resume(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="load")
        self._thread.start()

    def pause(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._thread = None

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.write()
            self._stop.wait(2 * self.every)


class Committed:
    """What the jobs `trending` and `histories` committed; each file is read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: set[Path] = set()
        self.ids: Counter[str] = Counter()
        self.count = self.last_seq = 0
        # By item and bucket.
        self.scores: dict[tuple[str, int], float] = defaultdict(float)

    def read(self) -> None:
        """Read what is new."""
        for job, add in (("trending", self._add_trending), ("histories", self._add_history)):
            for path in sorted((self.folder / "output" / job).rglob("*")):
                if path.is_file() and path not in self.names and path.name[0] not in "._":
                    for line in path.read_text().splitlines():
                        add(json.loads(line))
                    self.names.add(path)

    def _add_trending(self, row: dict[str, Any]) -> None:
        self.count += row["n"]
        self.scores[row["item"], row["bucket"]] += row["score"]

    def _add_history(self, row: dict[str, Any]) -> None:
        for entry in row["events"]:
            self.ids[entry["id"]] += 1
            self.last_seq = max(self.last_seq, entry["seq"])

    def complete(self, written: int) -> bool:
        """Whether as much is committed as events were written, or more."""
        self.read()
        return self.count >= weighing_events(written) and self.ids.total() >= written

    def differences(self, written: int) -> str:
        """What differs from every event counted once; empty where nothing does."""
        self.read()
        texts = []
        expected_scores: dict[tuple[str, int], float] = defaultdict(float)
        for entry in map(event, range(1, written + 1)):
            if entry["weight"] > 0:
                bucket, rest = divmod(min(entry["time"], entry["received"]), HALF_LIFE)
                expected_scores[entry["item"], bucket] += entry["weight"] * 2 ** (rest / HALF_LIFE)
        weighing = weighing_events(written)
        if self.count != weighing:
            texts.append(f"trending counts {self.count} events of {weighing}")
        if self.scores.keys() != expected_scores.keys():
            texts.append("trending has other items or buckets")
        elif not all(math.isclose(self.scores[key], value, rel_tol=1e-9) for key, value in expected_scores.items()):
            texts.append("scores of trending differ")
        expected_ids = Counter(f"e{seq}" for seq in range(1, written + 1))
        if self.ids != expected_ids:
            texts.append(f"histories lack {(expected_ids - self.ids).total()} events and have "
                         f"{(self.ids - expected_ids).total()} too many")  # fmt: skip
        return ", ".join(texts)


def wait_until(
    condition: Callable[[], bool], what: str, seconds: float = 240, alive: Callable[[], bool] | None = None
) -> None:
    """Wait for a condition. Fails after `seconds`, and as soon as what is to bring it about is not alive."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert alive is None or alive(), f"{what}: nothing is at work for it any more"
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.1)
