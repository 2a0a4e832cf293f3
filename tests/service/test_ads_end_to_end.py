"""Ads of the film shop: a log of displays → a version with probabilities → served ads → clicks → spend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("lightgbm")

from zhiyin.core.run import Run
from zhiyin.data.project_config import AdsSection, ServiceSection
from zhiyin.pipeline.click_training import train_click_version
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.policies.simulators.film_shop import FilmShop
from zhiyin.policies.simulators.film_shop_displays import FilmShopDisplays
from zhiyin.service.key_cache import Keys
from zhiyin.service.serving_state import ServingState
from zhiyin.service.tenant import Tenant
from zhiyin.store.store import Store

from .conftest import click, client_of

pytestmark = pytest.mark.slow


def test_from_displays_to_spend(tmp_path: Path) -> None:
    shop = FilmShop(n_users=120, n_items=60, days=30)
    data = FilmShopDisplays(shop, lists=40).log()
    bundles = Bundles(tmp_path / "bundles")
    version = train_click_version(data, bundles, 0.0, run=Run(threads=1), say=lambda line: None)
    assert version.promoted
    live = ServingState(bundles, Store(tmp_path / "shop.db"))
    keys, shown = Keys.open(live.store)
    tenant: Any = Tenant(
        "shop", live, keys, ServiceSection(budget=60_000), None, ads_settings=AdsSection(exploration=0.0)
    )
    tenant.shown = shown
    try:
        client, films, rng = client_of(tenant), shop.items["id"].to_list(), np.random.default_rng(1)
        users = shop.users["id"].to_list()
        budgets = {}
        for number in range(6):
            name, budgets[f"c{number}"] = f"c{number}", 3_000_000
            body = {"items": films[10 * number : 10 * number + 10], "bid_micros": 200_000 + 50_000 * number,
                    "total_budget_micros": 3_000_000, "pacing": "none"}  # fmt: skip
            assert client.put(f"/v1/campaigns/{name}", json=body).status_code == 200
        truth, guessed, spent = [], [], 0
        for _ in range(150):
            user = int(rng.integers(0, 120))
            answer = client.post("/v1/ads", json={"user": users[user], "slots": 2})
            assert answer.status_code == 200, answer.text
            answer = answer.json()
            for ad in answer["ads"]:
                p = float(shop.probability(np.array([user]), np.array([[films.index(ad["item"])]]), day=29)[0, 0])
                truth.append(p)
                guessed.append(ad["probability"])
                if rng.random() < p:
                    event = {"user": users[user], "item": ad["item"], "kind": "click", "list_id": answer["list_id"]}
                    assert click(client, event, event).status_code == 200
                    spent += ad["price_micros"]
        reports = {name: client.get(f"/v1/campaigns/{name}").json() for name in budgets}
        assert sum(one["total"]["spend_micros"] + one["total"]["unpaid"] for one in reports.values()) > 0
        assert all(one["total"]["spend_micros"] <= budgets[name] for name, one in reports.items())
        assert sum(one["total"]["displays"] for one in reports.values()) == len(truth)
        if not any(one["total"]["unpaid"] for one in reports.values()):
            assert sum(one["total"]["spend_micros"] for one in reports.values()) == spent
        assert np.mean(truth) > 1.3 * float(
            shop.probability(np.arange(120), np.tile(np.arange(60), (120, 1)), 29).mean()
        )
    finally:
        tenant.close()
