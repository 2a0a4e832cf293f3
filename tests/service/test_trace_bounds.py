"""Traces are bounded, whatever is asked for: in bytes of each, of a key, of all, of what waits and of what is kept."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")

from zhiyin.data.project_config import ServiceSection
from zhiyin.service.list_service import ListService
from zhiyin.service.retention import RetentionJob
from zhiyin.service.trace_encoding import MAX_PLAIN_IDS, TOO_LONG, TOO_MANY, TraceQuota
from zhiyin.store.store import Store
from zhiyin.store.trace_writer import TraceWriter
from zhiyin.store.traces import Trace, trace_row

from .conftest import eventually


def kept(service: Any, **body: Any) -> tuple[dict[str, Any], Trace]:
    """An answer and its trace."""
    answer = service.post("/v1/recommendations", json=body)
    assert answer.status_code == 200, answer.text
    trace = service.shop.traces.find(answer.json()["list_id"])
    assert trace is not None
    return answer.json(), trace


def bytes_of(trace: Trace) -> int:
    row = trace_row(trace)
    return len(row["head"]) + len(row["arrays"] or b"")


def replayed(service: Any, answer: dict[str, Any]) -> dict[str, Any]:
    found = service.post(f"/v1/lists/{answer['list_id']}/replay")
    assert found.status_code == 200
    return found.json()


@pytest.mark.parametrize("name", ["exclude", "include", "history"])
def test_long_lists_are_kept_as_codes_and_made_again(service: Any, name: str) -> None:
    long = [f"{'x' * 100}{n}" for n in range(900)] + [f"i{n}" for n in range(0, 40, 3)]
    answer, trace = kept(service, k=8, **{name: long})
    assert bytes_of(trace) < 4_000
    assert trace.head["asked"][name]["count"] == len(long)
    assert replayed(service, answer)["same"]
    short = [f"i{n}" for n in range(0, 40, 3)]
    answer, trace = kept(service, k=8, **{name: short})
    assert trace.head["request"][name] == short
    assert len(short) <= MAX_PLAIN_IDS
    assert replayed(service, answer)["same"]


def test_pages_of_long_lists_are_made_again(service: Any) -> None:
    widgets = [{"name": f"w{n}", "k": 30} for n in range(2)]
    answer = service.post("/v1/pages", json={"user": "u3", "widgets": widgets})
    assert answer.status_code == 200
    for widget in answer.json()["widgets"]:
        assert replayed(service, widget)["same"]


def test_a_request_of_long_texts_is_a_digest(service: Any) -> None:
    answer, trace = kept(service, user="u3", context={f"c{n}": "x" * 1_000 for n in range(100)})
    assert bytes_of(trace) < 4_000
    assert trace.head["request"]["bytes"] > 100_000
    said = replayed(service, answer)
    assert (said["same"], said["reason"]) == (False, TOO_LONG)
    assert service.get(f"/v1/lists/{answer['list_id']}").json()["items"]
    longer = service.post("/v1/recommendations", json={"context": {"a": "x" * 1_025}})
    assert longer.status_code == 422


def test_beyond_its_share_a_key_has_less_kept(service: Any) -> None:
    list_service: ListService = service.shop.list_service
    made = [kept(service, user="u3", k=20)[0]]
    list_service.trace_quota = TraceQuota(of_key=1.0, of_all=1e9)  # a byte a second: however quick this is
    made += [kept(service, user="u3", k=20)[0] for _ in range(5)]
    said = [replayed(service, answer) for answer in made]
    assert said[0]["same"]
    assert (said[-1]["same"], said[-1]["reason"]) == (False, TOO_MANY)
    assert {row["item"] for row in service.get(f"/v1/lists/{made[-1]['list_id']}").json()["items"]} == {
        row["item"] for row in made[-1]["items"]
    }
    # What was shown of it can still be told.
    shown = service.post(f"/v1/impressions/{made[-1]['list_id']}", json={"items": [made[-1]["items"][0]["item"]]})
    assert shown.status_code == 200


def test_shares_are_of_each_key_and_of_all() -> None:
    quota = TraceQuota(of_key=1_000, of_all=1_500)
    assert quota.allow("a", 2_000)
    assert not quota.allow("a", 10)
    assert quota.allow("b", 1_000)
    assert not quota.allow("b", 1_000)  # together they have had enough
    assert not quota.allow("c", 10**9)


def trace_of(n: int, size: int = 0) -> Trace:
    return Trace(f"list {n}", None, 1_700_000_000_000_000 + n, 1, "home", {"items": []},
                 {"scores": np.random.default_rng(n).random(size // 8)})  # fmt: skip


def test_what_waits_is_bounded_by_bytes(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store, gate = Store(tmp_path / "shop.db"), threading.Event()
    keep = store.append_trace_rows
    monkeypatch.setattr(store, "append_trace_rows", lambda rows: gate.wait(20) and keep(rows))
    traces = TraceWriter(store, bytes=1 << 20)
    for n in range(100):
        traces.put(trace_of(n, 100_000))
    assert traces.dropped == 90
    gate.set()
    eventually(lambda: traces.written == 10)
    eventually(lambda: traces._bytes == 0)
    for n in range(100, 110):
        traces.put(trace_of(n, 100_000))
    assert traces.dropped == 90
    traces.close()
    store.close()


def test_the_oldest_lists_go_where_all_take_too_much(tmp_path: Any) -> None:
    store = Store(tmp_path / "shop.db")
    store.append_traces([trace_of(n, 40_000) for n in range(100)])
    number, size = store.trace_count_and_bytes()
    assert number == 100
    assert 3_000_000 < size < 5_000_000
    settings = ServiceSection(lists_size=2, keep_lists="900y")
    RetentionJob(str(tmp_path / "shop.db"), settings).close()
    eventually(lambda: store.trace_count_and_bytes()[0] < 60)
    left = [trace.list_id for trace in store.traces()]
    assert left == [f"list {n}" for n in range(100 - len(left), 100)]
    assert store.trace_count_and_bytes()[1] <= 2 << 20
    assert len(left) > 30
    store.close()
