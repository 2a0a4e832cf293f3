"""A service goes on answering when the files beside its versions are damaged, and takes up what mends them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("fastapi")

from tests.service.conftest import client_of


def until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        threading.Event().wait(0.01)


@pytest.mark.parametrize("content", [b"", b"2", b"\xff\n"])
def test_half_of_the_number_in_use(
    content: bytes, opened: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    shop = opened()
    client, bundles = client_of(shop), shop.live.bundles
    looks: list[Any] = []
    shop.live.also.append(looks.append)
    try:
        with caplog.at_level(logging.WARNING, logger="zhiyin"):
            (bundles.folder / "current").write_bytes(content)
            until(lambda: "goes on answering" in caplog.text)
            n = len(looks)
            until(lambda: len(looks) > n + 1)  # all that is looked at now and then is looked at
        assert client.get("/ready").json()["version"] == 1
        assert client.get("/v1/recommendations?user=u2").status_code == 200
        assert caplog.text.count("goes on answering") == 1
        bundles.promote(2)
        until(lambda: client.get("/ready").json()["version"] == 2)
    finally:
        bundles.promote(1)
