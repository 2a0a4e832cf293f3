"""Served as evaluated: the last day of a real log, through the HTTP API in order, scores what `evaluate` says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")

import zhiyin as zy
from zhiyin.core.ranking_metrics import hits_of
from zhiyin.data.catalogue import Catalogue
from zhiyin.data.project_config import ServiceSection
from zhiyin.evaluation.model_evaluation import Window, accuracy
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.service.key_cache import Keys
from zhiyin.service.serving_state import ServingState
from zhiyin.service.tenant import Tenant
from zhiyin.store.store import Store

from .conftest import client_of

KS = [5, 20]


def replayed(client: Any, window: Window, test: Any, ids: Any, users: Any) -> np.ndarray:
    """Lists int32[n, K]: each user of the window asks just before their first event; then events come, in order."""
    row = {int(user): at for at, user in enumerate(window.users)}
    lists = np.full((len(window), max(KS)), -1, dtype=np.int32)
    asked: set[int] = set()
    for event in test.events.sort("time").select("user", "item", "time", "kind", "value").iter_rows(named=True):
        user = event["user"]
        name = str(users.raw(np.array([user]))[0])
        if user in row and user not in asked:
            asked.add(user)
            at = row[user]
            body = {"user": name, "k": max(KS), "exclude_seen": True, "now": int(window.histories.now[at])}
            answer = client.post("/v1/recommendations", json=body).json()
            found = ids.encode([int(r["item"]) for r in answer["items"]])
            lists[at, : len(found)] = found
        item = str(ids.raw(np.array([event["item"]]))[0])
        said = {"user": name, "item": item, "time": event["time"]}
        assert client.post("/v1/events", json={"events": [said]}).json()["rejected"] == 0
    assert len(asked) == len(window)
    return lists


@pytest.mark.slow
def test_the_last_day_scores_what_evaluate_says(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    data = zy.read(real_data("movielens-100k"))
    split = zy.split(data, by="time", test="1d")
    sources = "popular:half_life=7d; itemknn; ease"
    pipeline = Pipeline(sources=sources, ranker="none", windows=1).fit(split.train)
    figures = zy.evaluate({"served": pipeline}, split=split, k=KS)["served"].metrics
    bundles = Bundles(tmp_path / "bundles")
    bundles.promote(bundles.write(pipeline, figures={}, catalogue=Catalogue.of(split.train)).version)
    live = ServingState(bundles, Store(tmp_path / "store.db"))
    keys, shown = Keys.open(live.store)
    shop = Tenant("replay", live, keys, ServiceSection(budget=60_000))
    shop.shown = shown  # type: ignore[attr-defined]
    window = Window.of(split)
    lists = replayed(client_of(shop), window, split.test, data.item_ids, data.user_ids)
    shop.close()
    per_user = accuracy(hits_of(lists, window.offsets, window.items, zy.Run()), window.relevant, KS)
    for name, values in per_user.items():
        assert np.mean(values) == pytest.approx(figures[name], abs=1e-6), name
    assert figures["ndcg@20"] > 0
