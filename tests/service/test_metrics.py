"""What the service tells of itself: figures, logs, spans; and what it must never tell."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")

from zhiyin.core.errors import ConfigError
from zhiyin.service import log_format
from zhiyin.service.app import create_app
from zhiyin.service.errors import RefusedError
from zhiyin.service.request_context import CURRENT, RequestRecord
from zhiyin.service.request_limits import Work

from .conftest import click, client_of, eventually, listed


def figures(client: Any, **headers: str) -> dict[tuple[str, ...], float]:
    """Value by name and labels, the latter as name=value."""
    from prometheus_client.parser import text_string_to_metric_families

    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_requests_and_lists_are_counted(service: Any) -> None:
    for _ in range(3):
        listed(service, user="u3", k=5)
    service.get("/v1/items/i3/similar")
    service.get("/v1/items/secret-thing")
    service.get("/v1/items/secret%2Fthing")
    service.get("/no/such/secret-place")
    found = figures(service)
    count = ("zhiyin_requests_total", "method=POST", "route=/v1/recommendations", "status=200")
    assert found[count] == found["zhiyin_request_seconds_count", "route=/v1/recommendations"] == 3
    assert found["zhiyin_requests_total", "method=GET", "route=/v1/items/{key}", "status=404"] == 2
    assert found["zhiyin_requests_total", "method=GET", "route=none", "status=404"] == 1
    assert "secret" not in service.get("/metrics").text
    for stage in ("filter", "retrieve", "rank", "rules"):
        assert found["zhiyin_stage_seconds_count", f"stage={stage}"] >= 3
        assert 0 < found["zhiyin_stage_seconds_sum", f"stage={stage}"] < 10
    by_origin = {key[2]: value for key, value in found.items() if key[0] == "zhiyin_lists_total"}
    made = sum(value for key, value in found.items() if key[0] == "zhiyin_lists_total")
    assert made == 4
    assert set(by_origin) == {"origin=recommendations", "origin=similar"}
    assert found["zhiyin_version",] == 1
    assert found["zhiyin_version_age_seconds",] > 0
    assert found["zhiyin_requests_busy",] == 0


def test_what_is_noted_is_counted_before_it_grows(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zhiyin.service.metrics.MAX_UNCOUNTED", 3)
    service.live.periodic_tasks.clear()
    metrics = service.app.state.authenticator.metrics
    (shop,) = metrics.shops
    for _ in range(11):
        listed(service, user="u3", k=5)
        assert len(metrics._uncounted) <= 3
        assert len(shop._uncounted) <= 3
    assert sum(value for key, value in figures(service).items() if key[0] == "zhiyin_lists_total") == 11


def test_events_and_what_waits(service: Any) -> None:
    click(service, {"user": "u1", "item": "i2", "id": "a"}, {"user": "", "item": "i2"})
    click(service, {"user": "u1", "item": "i2", "id": "a"})
    listed(service, user="u1")
    eventually(lambda: service.shop.traces.waiting == 0)
    found = figures(service)
    assert {fate: found["zhiyin_events_total", f"status={fate}"] for fate in ("accepted", "known", "rejected")} == {
        "accepted": 1, "known": 1, "rejected": 1
    }  # fmt: skip
    assert found["zhiyin_freshness_seconds_count",] == 2
    assert found["zhiyin_events_waiting",] == found["zhiyin_traces_waiting",] == found["zhiyin_items_waiting",] == 0
    assert found["zhiyin_traces_written_total",] == 1
    assert found["zhiyin_traces_dropped_total",] == found["zhiyin_traces_failed_total",] == 0
    assert found["zhiyin_live_users",] == 1


def test_coverage_and_masks(service: Any) -> None:
    shown = set(listed(service, user="u3", k=8)) | set(listed(service, user="u4", k=8))
    for _ in range(3):
        listed(service, user="u3", filter="price < 30")
    shown |= set(listed(service, user="u3", filter="price < 30"))
    found = figures(service)
    assert found["zhiyin_coverage",] == pytest.approx(len(shown) / 40)
    assert found["zhiyin_mask_cache_total", "result=hit"] >= 3
    assert found["zhiyin_mask_cache_total", "result=miss"] >= 1


def test_coverage_looks_back_on_so_many_lists(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zhiyin.service.metrics.COVERAGE_LISTS", 2)
    for user in ("u3", "u4"):
        listed(service, user=user, k=40)
    for _ in range(2):
        listed(service, user="u3", k=1)
    assert figures(service)["zhiyin_coverage",] == pytest.approx(1 / 40)


def test_degraded(opened: Callable[..., Any]) -> None:
    client = client_of(opened(budget=1))
    client.shop.list_service.budget = 1e-9
    assert client.post("/v1/recommendations", json={"user": "u3", "diversity": "mmr"}).json()["degraded"]
    assert figures(client)["zhiyin_degraded_total", "stage=variety"] == 1


def test_who_may_see_them(opened: Callable[..., Any]) -> None:
    client = client_of(opened())
    keys = {scope: {"Authorization": f"Bearer {key}"} for scope, key in client.keys.items()}
    assert client.get("/metrics", headers=keys["read"]).status_code == 403
    assert client.get("/metrics", headers={"Authorization": ""}).status_code == 401
    assert client.get("/metrics", headers=keys["admin"]).status_code == 200
    one, two = opened("one", metrics_open=True), opened("two", metrics_open=False)
    assert client_of(one).get("/metrics", headers={"Authorization": ""}).status_code == 200
    assert client_of(one, two).get("/metrics", headers={"Authorization": ""}).status_code == 401


def test_a_key_sees_the_figures_of_its_own_shop(opened: Callable[..., Any]) -> None:
    one, two = opened("one"), opened("two")
    client = client_of(one, two)
    listed(client, user="u3")
    seen = {label for key in figures(client) for label in key if label.startswith("shop=")}
    assert seen == {"shop=one"}
    lists = {key: value for key, value in figures(client).items() if key[0] == "zhiyin_lists_total"}
    assert list(lists.values()) == [1]
    other = {"Authorization": f"Bearer {two.shown['admin']}"}
    assert not [key for key in figures(client, **other) if "shop=one" in key or key[0] == "zhiyin_lists_total"]


def test_several_processes_add_up(opened: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes write into one folder; whichever is asked adds up, but not what waited in one that is gone."""
    from prometheus_client import values

    folder = tmp_path / "figures"
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
    clients = []
    for pid, name in ((2**22 + 1, "gone"), (os.getpid(), "here")):
        monkeypatch.setattr(values, "ValueClass", values.MultiProcessValue(lambda pid=pid: pid))
        clients.append(client_of(opened(name, metrics_open=True)))
    gone, here = clients
    for _ in range(3):
        assert listed(gone, user="u3")
    assert listed(here, user="u3")
    monkeypatch.setattr(gone.shop.writer, "_waiting", 7)
    for look in gone.live.periodic_tasks:  # what waits is written down now and then, asked or not
        look(gone.live.now)
    monkeypatch.setattr(gone.shop.writer, "_waiting", 0)
    assert "events_waiting" in "".join(file.read_bytes().decode("latin-1") for file in folder.glob("gauge_livesum_*"))
    found = figures(here)
    assert found["zhiyin_requests_total", "method=POST", "route=/v1/recommendations", "status=200"] == 4
    assert found["zhiyin_request_seconds_count", "route=/v1/recommendations"] == 4
    assert found["zhiyin_events_waiting",] == 0
    assert found["zhiyin_version",] == 1
    assert [file.name for file in folder.glob("gauge_livesum_*")] == [f"gauge_livesum_{os.getpid()}.db"]


# -- logs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What is logged, as JSON."""
    stream, root = io.StringIO(), logging.getLogger()
    before, handlers = (
        [(log, log.level) for log in (root, logging.getLogger("zhiyin"), log_format.access_log)],
        root.handlers[:],
    )
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    log_format.configure("json", access=True)
    (fresh,) = [handler for handler in root.handlers if handler not in handlers]
    fresh.setStream(stream)  # type: ignore[attr-defined]
    root.setLevel(logging.DEBUG)  # everything that anyone says, but for the client
    monkeypatch.setattr(logging.getLogger("httpx"), "disabled", True)
    yield stream
    logging.captureWarnings(False)
    root.removeHandler(fresh)
    for log, level in before:
        log.setLevel(level)


def test_a_line_a_request(service: Any, written: io.StringIO) -> None:
    service.get("/v1/items/i3", headers={"X-Request-Id": "mine-1"})
    (line,) = [one for one in map(json.loads, written.getvalue().splitlines()) if one["message"] == "request"]
    assert line.pop("milliseconds") > 0
    assert line.pop("time").endswith("Z")
    assert line == {"level": "info", "message": "request", "method": "GET", "route": "/v1/items/{key}", "status": 200,
                    "request": "mine-1"}  # fmt: skip


def test_logs_hold_nobodys_data(service: Any, written: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    user, item, key = "user-mallory", "item-contraband", service.keys["admin"]
    secrets = {"user": user, "item": item, "key": key, "wrong": "zy_admin_wrong"}
    service.headers["Cookie"] = f"who={user}"
    service.headers["X-Request-Id"] = key

    def ask() -> set[int]:
        said = []
        for method, path, body in [
            ("GET", f"/v1/items/{item}", None), ("PUT", f"/v1/items/{item}", {"title": user}),
            ("GET", f"/v1/items/{item}/similar?filter=title%20=%20'{user}'&fields={key}", None),
            ("GET", f"/v1/users/{user}/history", None), ("GET", f"/v1/users/{user}/similar", None),
            ("GET", f"/v1/recommendations?user={user}&placement={item}", None),
            ("POST", "/v1/recommendations", {"user": user, "pins": {"1": item}, "filter": f"x = '{key}'"}),
            ("POST", "/v1/recommendations", {"user": user, user: item}),
            ("POST", "/v1/events", {"events": [{"user": user, "item": item, "id": key, "kind": "a\n" + user}]}),
            ("POST", "/v1/events", {"events": [{"user": user, "item": item}]}),
            ("POST", f"/v1/impressions/{user}", {"items": [item]}), ("GET", f"/v1/lists/{user}", None),
            ("GET", f"/{user}/{item}?key={key}", None), ("DELETE", f"/v1/users/{user}", None),
            ("PUT", f"/v1/placements/{item}", {"filter": f"nothing = '{user}'"}),
            ("GET", f"/v1/placements/{user}", None),
        ]:  # fmt: skip
            said.append(service.request(method, path, json=body).status_code)
        said.append(service.get("/v1/popular", headers={"Authorization": "Bearer zy_admin_wrong"}).status_code)
        return set(said)

    assert {200, 400, 401, 404, 422} <= ask()

    def fail(*args: Any, **more: Any) -> Any:
        try:
            raise KeyError(user)
        except KeyError as error:
            raise RuntimeError(f"{item} of {user} with {key}: {args}") from error

    for where, names in (
        (service.shop.list_service, ("create",)),
        (service.shop.store, ("get", "put", "history", "append_validated")),
        (service.shop.live, ("user_history", "add_events")),
    ):
        for name in names:
            monkeypatch.setattr(where, name, fail)
    assert 500 in ask()
    text = written.getvalue()
    assert "RuntimeError at" in text
    assert "test_metrics.py" in text
    assert not [name for name, secret in secrets.items() if secret in text]


def test_logs_of_others(written: io.StringIO) -> None:
    log = logging.getLogger("zhiyin")
    try:
        raise ValueError("user-mallory did it")
    except ValueError as error:
        log.warning("service: %s", error)
        log.exception("service")
        log.error(error)
    log.warning("placements: %s", ConfigError("user-mallory is no item"))
    log.warning("placements: %s", ConfigError("k is too large").message)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [line["message"] for line in lines] == [
        "service: ValueError", "service", "ValueError", "placements: ConfigError", "placements: k is too large"
    ]  # fmt: skip
    assert lines[1]["error"].startswith("ValueError at test_metrics.py:")
    assert "mallory" not in written.getvalue()


def test_libraries_do_not_quote_anybody(written: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """Futures that nobody asks for, tasks that fail in the background, threads that end, warnings: all that Python
    itself would write down with whatever it holds."""

    async def play() -> None:
        asyncio.get_running_loop().set_exception_handler(log_format.loop_failed)
        future = asyncio.get_running_loop().create_future()
        future.set_exception(RefusedError(404, "nothing is known of user-mallory"))
        del future
        gc.collect()
        asyncio.get_running_loop().call_soon(int, "user-mallory")
        await asyncio.sleep(0.01)
        asyncio.get_running_loop().set_exception_handler(None)
        asyncio.get_running_loop().call_soon(int, "user-mallory")
        await asyncio.sleep(0.01)

    asyncio.run(play())
    thread = threading.Thread(target=int, args=("user-mallory",))
    thread.start()
    thread.join()
    warnings.warn("user-mallory", stacklevel=1)
    for name in ("asyncio", "sqlalchemy.pool", "redis", "uvicorn.error"):
        logging.getLogger(name).error("about %s", "user-mallory")
    logging.getLogger("redis").error("about user-mallory")
    server = logging.getLogger("uvicorn.error")  # a server of another test may have set its level
    monkeypatch.setattr(server, "disabled", False)
    monkeypatch.setattr(logging.getLogger("uvicorn"), "propagate", True)
    monkeypatch.setattr(server, "propagate", True)
    level = server.level
    server.setLevel(logging.INFO)
    server.info("Finished server process [%d]", 7)
    server.setLevel(level)
    text = written.getvalue()
    assert "mallory" not in text
    assert "RefusedError at" in text
    assert "a thread ended: ValueError at" in text
    assert "Finished server process [7]" in text


def test_what_ends_after_its_request_is_not_written(service: Any, written: io.StringIO) -> None:
    """Requests that wait for a thread and fail there: asyncio says nothing of their futures."""

    async def play() -> None:
        work = Work(threads=1, waiting=20)

        def fail(n: int) -> None:
            time.sleep(0.002)
            raise RefusedError(404, f"nothing is known of user-mallory-{n}")

        async def receive() -> Any:
            await asyncio.sleep(60)

        async def one(n: int) -> None:
            CURRENT.set(RequestRecord("r", receive, "GET", 0))
            with contextlib.suppress(RefusedError):
                await work.do(fail, n)

        await asyncio.gather(*(one(n) for n in range(12)))
        gc.collect()
        await asyncio.sleep(0.01)
        work.close()

    asyncio.run(play())
    assert not [line for line in map(json.loads, written.getvalue().splitlines()) if line["level"] == "error"]
    assert "mallory" not in written.getvalue()


def test_text_for_people() -> None:
    record = logging.LogRecord("zhiyin", logging.INFO, "x.py", 1, "version %d\nis in use", (3,), None)
    assert log_format.Text().format(record).endswith("Z info version 3 is in use")
    with pytest.raises(ConfigError, match="kind 'xml'"):
        log_format.configure("xml")


def test_a_warning_tells_its_kind_and_place_and_its_text_where_it_is_about_code(written: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)  # pytest has replaced what shows warnings
        logging.captureWarnings(True)
        warnings.warn("fork() may lead to deadlocks", DeprecationWarning, stacklevel=1)
        warnings.warn("user-mallory", stacklevel=1)
    messages = [line["message"] for line in map(json.loads, written.getvalue().splitlines())]
    assert any(
        re.fullmatch(r"DeprecationWarning at test_metrics\.py:\d+: fork\(\) may .* deadlocks", m) for m in messages
    )
    assert any(re.fullmatch(r"UserWarning at test_metrics\.py:\d+", message) for message in messages)


# -- spans ------------------------------------------------------------------------------------------------------------


def test_a_span_a_request_with_its_stages(opened: Callable[..., Any]) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from starlette.testclient import TestClient

    from zhiyin.service.telemetry import Spans

    shop, kept = opened(), InMemorySpanExporter()
    spans = Spans(None, kept)
    client = TestClient(create_app([shop], spans=spans))
    client.headers["Authorization"] = f"Bearer {shop.shown['admin']}"
    client.headers["traceparent"] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    listed(client, user="u3", explain=True)
    client.get("/v1/users/mallory/similar")
    spans.flush()
    found = kept.get_finished_spans()
    top = {span.name: span for span in found if span.name.startswith(("GET", "POST"))}
    request = top["POST /v1/recommendations"]
    assert request.attributes["http.response.status_code"] == 200
    assert request.context.trace_id == 0x0AF7651916CD43DD8448EB211C80319C
    assert request.parent.span_id == 0xB7AD6B7169203331
    inside = [span for span in found if span.parent is not None and span.parent.span_id == request.context.span_id]
    assert [span.name for span in inside] == ["filter", "retrieve", "rank", "rules", "explain"]
    assert all(request.start_time <= span.start_time <= span.end_time <= request.end_time for span in inside)
    assert top["GET /v1/users/{key}/similar"].attributes["http.response.status_code"] == 404
    assert "mallory" not in "".join(span.to_json() for span in found)
    spans.close()


@pytest.mark.slow
def test_without_an_address_nothing_is_imported() -> None:
    asked = (
        "import sys, zhiyin.service.app; "
        "print([name for name in ('opentelemetry.sdk', 'opentelemetry.exporter') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", asked], check=True, text=True, capture_output=True).stdout
    assert told.strip() == "[]"
