"""Valid requests of every route, changed at random, over a real port: nothing fails, hangs, or is taken for another."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from benchmarks.fuzz import fuzz, valid

from zhiyin.api.endpoints import ENDPOINTS

from .test_connections import Port, port  # noqa: F401


def test_every_route_that_is_described_is_fuzzed() -> None:
    asked = {(method.lower(), path.partition("?")[0]) for method, path, _, _ in valid("made", None)}
    for endpoint in ENDPOINTS.values():
        if endpoint.response is None:  # figures for Prometheus
            continue
        method, path = endpoint.method.lower(), endpoint.path
        pattern = re.sub(r"\{\w+\}", "[^/]+", path)
        assert any(how == method and re.fullmatch(pattern, where) for how, where in asked), (method, path)


@pytest.mark.slow
def test_nothing_that_arrives_fails_or_hangs(port: Callable[..., Port], monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("benchmarks.fuzz.CUT", 0.2)
    one = port()
    report = fuzz(one.port, one.shop.shown, 1_600, seed=1)
    found: dict[str, Any] = {name: getattr(report, name) for name in ("failed", "hung", "refused", "accepted")}
    assert not any(found.values()), found
    assert {"200", "400", "401", "404", "422"} <= set(report.statuses)
    assert one.ask(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 200")
