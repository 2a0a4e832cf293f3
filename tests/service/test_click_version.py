"""A version for click probabilities, through the service: the same request, the same probability as offline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("starlette")
pytest.importorskip("lightgbm")

from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.pipeline.click_learning import learn_builder
from zhiyin.pipeline.click_training import train_click_version
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.policies.simulators.film_shop import FilmShop
from zhiyin.policies.simulators.film_shop_displays import FilmShopDisplays

from .conftest import client_of, eventually

RUN = Run(threads=1)


@pytest.fixture(scope="module")
def whole() -> Dataset:
    return FilmShopDisplays(FilmShop(n_users=120, n_items=60, days=30), lists=40).log()


@pytest.fixture(scope="module")
def bundles(whole: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """Learned from all but the last two days, and in use."""
    made = Bundles(tmp_path_factory.mktemp("clicks") / "bundles")
    train_click_version(_before(whole, True), made, 0.0, force=True, run=RUN)
    return made


@pytest.fixture
def client(bundles: Bundles, tmp_path: Path) -> Iterator[Any]:
    from zhiyin.data.project_config import ServiceSection
    from zhiyin.service.key_cache import Keys
    from zhiyin.service.serving_state import ServingState
    from zhiyin.service.tenant import Tenant
    from zhiyin.store.store import Store

    live = ServingState(bundles, Store(tmp_path / "shop.db"))
    keys, shown = Keys.open(live.store)
    shop = Tenant("clicks", live, keys, ServiceSection(budget=60_000))
    shop.shown = shown  # type: ignore[attr-defined]
    yield client_of(shop)
    shop.close()


def _before(whole: Dataset, before: bool) -> Dataset:
    cut = whole.window[1] - 2 * 86_400_000_000
    return whole.subset((whole.events["time"].to_numpy() < cut) == before)


def test_a_served_score_is_the_probability_of_offline(client: Any, whole: Dataset, bundles: Bundles) -> None:
    new = _before(whole, False).events.sort("time", maintain_order=True)
    rows = new.select(
        user=whole.user_ids.values.gather(new["user"]), item=whole.item_ids.values.gather(new["item"]),
        time=pl.col("time"), kind=pl.col("kind").cast(pl.String), value=pl.col("value"),
    )  # fmt: skip
    for part in rows.iter_slices(500):
        body = {"events": [{k: v for k, v in row.items() if v is not None} for row in part.iter_rows(named=True)]}
        assert client.post("/v1/events", json=body).json()["rejected"] == 0
    eventually(lambda: client.live.now.loaded.index.seq == client.store.last_seq)
    model = bundles.current.load()  # type: ignore[union-attr]
    index = learn_builder(whole, 0, RUN, like=model.builder_).index
    now = whole.window[1] + 3_600_000_000
    seen = np.unique(new["user"].to_numpy())[:5]
    for code in seen:
        user = whole.user_ids.values[int(code)]
        body = {"user": user, "k": 10, "now": now, "exclude_seen": False}
        answer = client.post("/v1/recommendations", json=body).json()
        assert answer["method"] == "ranker"
        items = whole.item_ids.encode([row["item"] for row in answer["items"]])
        history = whole.histories.take(np.array([code]), now)
        offline = model.probabilities(history, np.array([0, len(items)]), items, run=RUN, index=index)["click"]
        served = np.array([row["score"] for row in answer["items"]])
        assert np.abs(served - offline).max() < 1e-6
        assert (np.diff(served) <= 0).all()
        assert ((served > 0) & (served < 1)).all()
