"""A small shop over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

DAY = 86_400_000_000
NOW = 1_700_000_000_000_000


def shop() -> Any:
    """Two tastes: even users take even items; 60 users, 40 items with price, genre and a title."""
    from zhiyin.data.dataset import Dataset

    rng = np.random.default_rng(1)
    users = np.repeat(np.arange(60), 10)
    items = 2 * rng.integers(0, 20, len(users)) + users % 2
    events = pl.DataFrame({
        "user": [f"u{u}" for u in users], "item": [f"i{i}" for i in items],
        "time": NOW - rng.permutation(len(users)) * DAY // 10, "kind": ["view"] * len(users),
    })  # fmt: skip
    words = ("rocket planet orbit star", "garden rose tulip soil")
    catalogue = pl.DataFrame({
        "id": [f"i{i}" for i in range(40)], "price": [float(i) for i in range(40)],
        "genre": ["even" if i % 2 == 0 else "odd" for i in range(40)],
        "title": [f"{words[i % 2]} number{i}" for i in range(40)],
    })  # fmt: skip
    return Dataset.build(events, items=catalogue)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions: the first knows what goes together and what items are described by, the second what is popular."""
    from zhiyin.data.catalogue import Catalogue
    from zhiyin.models.content import Content
    from zhiyin.models.neighbors import ItemKNN
    from zhiyin.models.popularity import Popular
    from zhiyin.pipeline.model_versions import Bundles
    from zhiyin.pipeline.pipeline import Pipeline

    folder = tmp_path_factory.mktemp("service")
    data, bundles = shop(), Bundles(folder / "bundles")
    knn = ItemKNN().fit(data)
    pipeline = Pipeline.wrapping(knn)
    pipeline.sources_ = {"itemknn": knn, "content": Content().fit(data)}  # type: ignore[misc]
    pipeline.sources = "itemknn; content"
    pipeline.choices_ = dict.fromkeys(pipeline.choices_, "rrf")  # type: ignore[misc]
    bundles.write(pipeline, figures={}, catalogue=Catalogue.of(data))
    bundles.write(Popular().fit(data), figures={}, catalogue=Catalogue.of(data))
    return folder


@pytest.fixture
def poll_seconds() -> float:
    """How often a shop looks for what other processes have changed."""
    return 0.05


@pytest.fixture
def opened(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poll_seconds: float
) -> Iterator[Callable[..., Any]]:
    """Opens shops over the first version; each has a store and keys of its own."""
    from zhiyin.data.project_config import AdsSection, ServiceSection
    from zhiyin.pipeline.model_versions import Bundles
    from zhiyin.service.key_cache import Keys
    from zhiyin.service.serving_state import ServingState
    from zhiyin.service.tenant import Tenant
    from zhiyin.store.store import Store

    monkeypatch.setattr("zhiyin.service.serving_state.POLL_SECONDS", poll_seconds)
    made = []

    def open_shop(name: str = "shop", options: dict[str, Any] | None = None, **settings: Any) -> Any:
        Bundles(home / "bundles").promote(1)
        config = settings.pop("config", None)
        several = settings.pop("several", False)
        state, streams = settings.pop("state", None), settings.pop("streams_reader", None)
        live = ServingState(
            Bundles(home / "bundles"), Store(tmp_path / f"{name}.db"), options, several=several, state=state,
            streams=streams,
        )  # fmt: skip
        keys, shown = Keys.open(live.store)
        keys.watch(0.05)
        ads = AdsSection(**settings.pop("ads_settings", {}))
        settings = {"budget": 60_000} | settings
        tenant = Tenant(name, live, keys, ServiceSection(**settings), config, ads_settings=ads)
        tenant.shown = shown  # type: ignore[attr-defined]
        made.append(tenant)
        return tenant

    yield open_shop
    for tenant in made:
        tenant.close()


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """A Redis of its own."""
    import shutil

    from ..store.test_live_state import Server

    pytest.importorskip("redis")
    if not shutil.which("redis-server"):
        pytest.skip("Redis is not installed: no redis-server on the path")
    server = Server(tmp_path)
    server.start()
    yield server.url
    server.stop()


@pytest.fixture
def service(opened: Callable[..., Any]) -> Any:
    return client_of(opened())


def client_of(*shops: Any) -> Any:
    """A client with the admin key of the first shop."""
    from starlette.testclient import TestClient

    from zhiyin.service.app import create_app

    client = TestClient(create_app(list(shops)), raise_server_exceptions=True)
    client.headers["Authorization"] = f"Bearer {shops[0].shown['admin']}"
    client.keys, client.shop = shops[0].shown, shops[0]  # type: ignore[attr-defined]
    client.store, client.live = shops[0].store, shops[0].live  # type: ignore[attr-defined]
    return client


def listed(client: Any, **body: Any) -> list[str]:
    """Items of a list."""
    answer = client.post("/v1/recommendations", json=body)
    assert answer.status_code == 200, answer.text
    return [row["item"] for row in answer.json()["items"]]


def click(client: Any, *events: dict[str, Any]) -> Any:
    return client.post("/v1/events", json={"events": list(events)})


def eventually(holds: Callable[[], Any], seconds: float = 10.0) -> None:
    """What is done in the background is done soon."""
    until, pause = time.monotonic() + seconds, 0.005
    while not holds():
        assert time.monotonic() < until
        time.sleep(pause)
        pause = min(0.05, 1.5 * pause)  # to ask is work, too
