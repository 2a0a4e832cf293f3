"""Two services over the same events: one counts its log itself, the other reads what streams have computed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zhiyin.engines.stream_loader import StreamLoader
from zhiyin.service import stream_reading
from zhiyin.service.stream_reading import StreamReader
from zhiyin.store.memory_state import DirectState
from zhiyin.store.segment_export import SegmentExporter
from zhiyin.store.stream_state import open_stream_state

from .conftest import DAY, click, client_of

USERS = 40


def events_of(now: int, n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Events of five days, in no order of their times, of several kinds; i20 and i21 have the same ones, in another
    order."""
    rng = np.random.default_rng(seed)
    kinds = np.array(["view", "view", "purchase", "dislike"])
    events = [
        {"user": f"s{user}", "item": f"i{item}", "time": int(now - age), "kind": str(kind), "id": f"{seed}-{number}"}
        for number, (user, item, age, kind) in enumerate(
            zip(rng.integers(USERS, size=n), rng.integers(20, size=n), rng.integers(5 * DAY, size=n),
                rng.choice(kinds, n))
        )
    ]  # fmt: skip
    times = [now - int(age) for age in rng.integers(2 * DAY, size=40)]
    alike = [(f"a{number % 7}", item, time) for item, order in (("i20", 1), ("i21", -1))
             for number, time in list(enumerate(times))[::order]]  # fmt: skip
    return events + [{"user": user, "item": item, "time": time, "id": f"{seed}-{item}-{number}"}
                     for number, (user, item, time) in enumerate(alike)]  # fmt: skip


def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a busy machine wait for streams: what a service answers without them is tested by itself."""
    monkeypatch.setattr(stream_reading, "TIMEOUT_SECONDS", 60.0)
    monkeypatch.setattr(stream_reading, "POLL_TIMEOUT_SECONDS", 60.0)


class Pair:
    """A service that counts its log itself, and one that reads a streamed state, over the same events."""

    def __init__(self, opened: Callable[..., Any], address: str, folder: Path) -> None:
        self.folder = folder
        self.embedded = client_of(opened("embedded", state=DirectState(), several=True))
        self.open_state = partial(open_stream_state, address, "shop")
        reader = StreamReader(self.open_state)
        self.streamed = client_of(opened("streamed", state=DirectState(), several=True, streams_reader=reader))

    def post(self, events: list[dict[str, Any]]) -> None:
        for client in (self.embedded, self.streamed):
            for start in range(0, len(events), 500):
                assert click(client, *events[start : start + 500]).status_code == 200

    def export(self) -> None:
        """Write what the store of the second service holds to segments."""
        schema = self.streamed.live.now.loaded.schema
        with SegmentExporter(self.streamed.store, self.folder, lambda: schema, segment_rows=100) as exporter:
            exporter.export()

    def load(self) -> None:
        """Load the results that are there."""
        with closing(self.open_state()) as state, StreamLoader(self.folder, state) as loader:
            loader.run_once()

    def is_taken_in(self) -> bool:
        """Whether the second service has all of its store from streams, and both have counted it."""
        if self.streamed.live.streams.mark() != self.streamed.store.highest_seq:
            return False
        paths = ["/v1/trending?k=50", *(f"/v1/covisits?item=i{number}&k=50" for number in range(22))]
        return all(self.rows(path, self.streamed) == self.rows(path, self.embedded) for path in paths)

    def rows(self, path: str, client: Any) -> list[str]:
        return [row["item"] for row in self.answer(path, client)]

    @staticmethod
    def answer(path: str, client: Any) -> list[dict[str, Any]]:
        answer = client.get(path)
        assert answer.status_code == 200, answer.text
        rows: list[dict[str, Any]] = answer.json()["items"]
        return rows

    def assert_equal(self, path: str) -> list[str]:
        """Both services list the same items, and the same scores up to one factor: they are as of a moment."""
        one, other = self.answer(path, self.embedded), self.answer(path, self.streamed)
        assert [row["item"] for row in one] == [row["item"] for row in other], path
        for rows in (one, other):
            top = rows[0]["score"] if rows else 1.0
            for row in rows:
                row["score"] /= top
        assert [row["score"] for row in one] == pytest.approx([row["score"] for row in other], rel=1e-5), path
        return [row["item"] for row in one]

    def assert_same_answers(self) -> None:
        """Of all lists that are made of streams, for `events_of`."""
        assert len(self.assert_equal("/v1/trending?k=50")) == 22
        self.assert_equal("/v1/trending?k=5&filter=price>7")
        for number in range(22):
            assert len(self.assert_equal(f"/v1/covisits?item=i{number}&k=50")) > 0
        users = [*(f"s{number}" for number in range(0, USERS, 4)), "a0", "u3", "stranger"]
        covisits = [self.assert_equal(f"/v1/covisits?user={user}&k=50") for user in users]
        assert all(covisits[:-3])
        for user in users:
            self.assert_equal(f"/v1/recommendations?user={user}&k=20")
            one, other = (client.live._read_recent(user) for client in (self.embedded, self.streamed))
            assert one == other
            assert [event.seq for event in one.events] == [event.seq for event in other.events]
