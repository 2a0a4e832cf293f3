"""Reviews over HTTP: the text of an event becomes its value, by the map that the version in use has learned."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

pytest.importorskip("starlette")

from zhiyin.api.requests import MAX_REVIEW_CHARS
from zhiyin.data.project_config.data_sections import ReviewsSection
from zhiyin.features.review_values import ReviewReader, ReviewValues
from zhiyin.features.sentiment_lexicon import score

from .conftest import client_of, eventually


def send(client: Any, *events: dict[str, Any]) -> Any:
    return client.post("/v1/events", json={"events": [{"user": "u1"} | event for event in events]})


def values(client: Any, user: str = "u1") -> dict[str, float | None]:
    events = client.get(f"/v1/users/{user}/history", params={"most": 100}).json()["events"]
    return {event["item"]: event["value"] for event in events}


def test_a_text_becomes_the_value_and_is_not_kept(service: Any) -> None:
    answer = send(
        service,
        {"item": "i1", "text": "一点也不喜欢"}, {"item": "i2", "text": "never disappointed"},
        {"item": "i3", "text": "Tuesday"}, {"item": "i4", "text": "awful", "value": 4.0}, {"item": "i5"},
        {"item": "i6", "text": "很好", "id": "one"},
    )  # fmt: skip
    assert answer.json()["rejected"] == 0
    kept = values(service)
    assert kept["i1"] == pytest.approx(score("一点也不喜欢"), rel=1e-6)
    assert kept["i2"] == pytest.approx(score("never disappointed"), rel=1e-6)
    assert (kept["i3"], kept["i4"], kept["i5"]) == (None, 4.0, None)
    assert send(service, {"item": "i6", "text": "很差", "id": "one"}).json()["events"][0]["status"] == "known"
    assert values(service)["i6"] == pytest.approx(score("很好"), rel=1e-6)
    assert "disappointed" not in json.dumps(service.get("/v1/users/u1/history").json())


def test_a_bad_review_is_a_dislike_of_the_next_list(service: Any) -> None:
    send(service, {"item": "i1", "text": "很差，不推荐"})
    view = service.live.view()
    past = service.live.user_history(view, "u1").history
    assert past.weights[-1] == -1.0


def test_texts_that_are_none_are_rejected_one_by_one(service: Any) -> None:
    answer = send(service, {"item": "i1", "text": "x" * (MAX_REVIEW_CHARS + 1)}, {"item": "i2", "text": 5},
                  {"item": "i3", "text": "good " * 2000})  # fmt: skip
    assert [event["status"] for event in answer.json()["events"]] == ["rejected", "rejected", "accepted"]
    assert "10,000" in answer.json()["events"][0]["reason"]


def test_training_and_service_give_one_text_one_value(opened: Any, home: Path, tmp_path: Path) -> None:
    """The scale of the log's ratings is learned where the log is read, saved with the version, and used over HTTP."""
    from zhiyin.data.catalogue import Catalogue
    from zhiyin.data.reading import read
    from zhiyin.models.popularity import Popular
    from zhiyin.pipeline.model_versions import Bundles

    texts = ["Not good at all.", "没有失望", "I love it"]
    pl.DataFrame({
        "user": [f"u{n}" for n in range(8)], "item": [f"i{n % 4}" for n in range(8)],
        "rating": [1, 2, 4, 5, 3, None, None, None], "review": ["bad", "so so", "good", "great", "ok", *texts],
    }).write_csv(tmp_path / "log.csv")  # fmt: skip
    data = read(tmp_path / "log.csv", reviews=ReviewReader(ReviewsSection(column="review")))
    trained = data.events.sort("user")["value"].to_list()[-3:]
    shop = opened()
    bundle = Bundles(home / "bundles").write(Popular().fit(data), figures={}, catalogue=Catalogue.of(data))
    Bundles(home / "bundles").promote(bundle.version)
    try:
        saved = Catalogue.load(bundle.folder)
        assert saved is not None
        assert saved.reviews is not None
        assert ReviewValues.from_state(saved.reviews).best == 5.0
        client, until = client_of(shop), time.monotonic() + 60
        while shop.live.view().version != bundle.version:
            assert time.monotonic() < until
            time.sleep(0.05)
        send(client, *({"item": f"i{n}", "text": text} for n, text in enumerate(texts)))
        assert [values(client)[f"i{n}"] for n in range(3)] == pytest.approx(trained, rel=1e-6)
    finally:  # the folder is of all tests
        Bundles(home / "bundles").promote(1)
        eventually(lambda: shop.live.view().version == 1, 60)
        shutil.rmtree(bundle.folder)


def test_the_settings_give_the_scale_where_nothing_was_learned(opened: Any) -> None:
    shop = opened()
    shop.reviews = ReviewsSection(column="review", worst=1.0, best=5.0)
    client = client_of(shop)
    send(client, {"item": "i1", "text": "很差"})
    assert values(client)["i1"] == pytest.approx(3 + 2 * score("很差"), rel=1e-6)
