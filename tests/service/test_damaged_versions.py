"""A service goes on answering when the files beside its versions are damaged, and takes up what mends them."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")

from tests.service.conftest import client_of
from zhiyin.core.errors import DataError
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.service.serving_state import ServingState
from zhiyin.service.version_loader import VersionLoader
from zhiyin.store.store import Store


def until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        threading.Event().wait(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"2", b"\xff\n"])
def test_half_of_the_number_in_use(
    content: bytes, opened: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    shop = opened()
    client, bundles = client_of(shop), shop.live.bundles
    looks: list[Any] = []
    shop.live.periodic_tasks.append(looks.append)
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


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Versions in the order in which they are verified."""
    from zhiyin.pipeline.model_versions import Bundle

    numbers: list[int] = []
    verify = Bundle.verify

    def counted(bundle: Bundle) -> None:
        numbers.append(bundle.version)
        verify(bundle)

    monkeypatch.setattr(Bundle, "verify", counted)
    return numbers


@contextlib.contextmanager
def opened_live(folder: Path) -> Iterator[ServingState]:
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(contextlib.closing(Store(folder / "store.db")))
        yield stack.enter_context(contextlib.closing(ServingState(Bundles(folder / "bundles"), store, {})))


def wait_for_looks(live: Any, number: int) -> None:
    """Until the thread that watches the versions has looked at them so many times more."""
    looks: list[Any] = []
    live.periodic_tasks.append(looks.append)
    until(lambda: len(looks) > number)


@pytest.mark.slow
def test_a_version_that_was_refused_is_verified_again_only_when_it_has_changed(
    home: Path, tmp_path: Path, verified: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zhiyin.service.serving_state.POLL_SECONDS", 0.01)
    shutil.copytree(home / "bundles", tmp_path / "bundles")
    bundles = Bundles(tmp_path / "bundles")
    bundles.promote(1)
    file = next((tmp_path / "bundles" / "0002" / "model").rglob("*.npy"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with opened_live(tmp_path) as live:
        wait_for_looks(live, 1)
        verified.clear()
        (tmp_path / "bundles" / "current").write_text("2\n")
        wait_for_looks(live, 5)
        assert verified == [2]
        assert [entry.what for entry in live.health_issues()] == ["version 2"]
        assert live.now.version == 1
        (tmp_path / "whole").write_bytes(whole)
        (tmp_path / "whole").replace(file)  # at once: half a file would be looked at too
        until(lambda: live.now.version == 2)
        wait_for_looks(live, 2)
        assert verified == [2, 2]
        assert live.health_issues() == []


def test_a_first_version_is_taken_up_when_it_is_promoted(
    home: Path, tmp_path: Path, verified: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zhiyin.service.serving_state.POLL_SECONDS", 0.01)
    shutil.copytree(home / "bundles", tmp_path / "bundles")
    (tmp_path / "bundles" / "current").unlink()
    with opened_live(tmp_path) as live:
        assert [entry.remedy for entry in live.health_issues()] == ["zhiyin promote VERSION"]
        assert live.serving is None
        Bundles(tmp_path / "bundles").promote(2)
        until(lambda: live.serving is not None)
        assert live.now.version == 2


def test_damaged_versions_are_not_verified_again_and_again_where_none_can_answer(
    home: Path, tmp_path: Path, verified: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zhiyin.service.serving_state.POLL_SECONDS", 0.01)
    shutil.copytree(home / "bundles", tmp_path / "bundles")
    Bundles(tmp_path / "bundles").promote(1)
    verified.clear()
    for version in ("0001", "0002"):
        (tmp_path / "bundles" / version / "model" / "more").write_text("was not written with it")
    (tmp_path / "bundles" / "0002" / "bundle.json").write_text("{")
    with opened_live(tmp_path) as live:
        looks: list[int] = []
        first = live.versions.first
        monkeypatch.setattr(live.versions, "first", lambda number: [looks.append(number), first(number)][1])
        until(lambda: len(looks) > 3)
        assert verified == [1]
        assert [entry.what for entry in live.health_issues()] == ["version 1", "version 2", "all lists"]
        (tmp_path / "bundles" / "0001" / "model" / "more").unlink()
        until(lambda: live.serving is not None)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.EACCES, errno.EIO])
def test_a_version_that_the_system_refuses_to_read_is_tried_again(
    number: int, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many open files is not a damaged version: nothing in its folder has to change for another try."""
    monkeypatch.setattr("zhiyin.service.serving_state.POLL_SECONDS", 0.01)
    monkeypatch.setattr("zhiyin.service.version_loader.RETRY_SECONDS", 0.01)
    shutil.copytree(home / "bundles", tmp_path / "bundles")
    Bundles(tmp_path / "bundles").promote(1)
    shutil.rmtree(tmp_path / "bundles" / "0002")
    load, refuses = np.load, threading.Event()

    def refused(path: Any, *others: Any, **named: Any) -> Any:
        if refuses.is_set():
            raise OSError(number, "as the system has it", str(path))
        return load(path, *others, **named)

    monkeypatch.setattr(np, "load", refused)
    refuses.set()
    with opened_live(tmp_path) as live:
        first, _ = live.health_issues()
        assert first.what == "version 1"
        assert os.strerror(number) in first.reason
        assert "train" not in first.remedy
        refuses.clear()
        until(lambda: live.serving is not None)
        assert live.health_issues() == []


def test_pauses_between_tries_grow(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(home / "bundles", tmp_path / "bundles")
    bundles, tries, now = Bundles(tmp_path / "bundles"), [], [1_000.0]
    monkeypatch.setattr("zhiyin.service.version_loader.time.monotonic", lambda: now[0])

    def refused(bundle: Any) -> Any:
        tries.append(bundle.version)
        try:
            raise MemoryError
        except MemoryError:
            raise DataError("a part of the model is missing or damaged") from None

    loader = VersionLoader(bundles, refused)
    bundles.promote(1)
    shutil.rmtree(tmp_path / "bundles" / "0002")
    for _ in range(200):
        assert loader.first(0) is None
        now[0] += 1.0
    assert 5 <= len(tries) <= 10
    assert "memory" in loader.rejected[0].reason
