"""Predicted ratings over HTTP: as the model predicts them, with what was heard a moment ago, by every worker alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("starlette")

from zhiyin.client import ApiError, Client
from zhiyin.core.run import Run
from zhiyin.data.catalogue import Catalogue
from zhiyin.data.dataset import Dataset
from zhiyin.models.ratings.biased_mf import BiasedMF
from zhiyin.models.ratings.rating_baselines import UserItemBias
from zhiyin.models.ratings.rating_blend import RatingBlend
from zhiyin.models.ratings.timesvdpp import TimeSVDpp
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.pipeline.pipeline import Pipeline

from .conftest import click, client_of, eventually

DAY = 86_400_000_000
NOW = 1_700_000_000_000_000


def films() -> Dataset:
    """Even users give horror (h) 5 and romance (r) 2 stars, odd ones the other way round; views have no rating."""
    rng, rows = np.random.default_rng(2), []
    for user in range(60):
        order = rng.permutation(30)
        for step, place in enumerate(order[:20]):
            item, good = f"{'hr'[place % 2]}{place // 2}", place % 2 == user % 2
            rated = step < 15
            rows.append((f"u{user}", item, NOW - (40 - step) * DAY, "rate" if rated else "view",
                         (5.0 if good else 2.0) if rated else None))  # fmt: skip
    schema = {"user": pl.String, "item": pl.String, "time": pl.Int64, "kind": pl.String, "value": pl.Float64}
    return Dataset.build(pl.DataFrame(rows, schema=schema, orient="row"))


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A first version that predicts ratings, by a blend with a model that looks at times; a second one of lists."""
    from zhiyin.models.neighbors import ItemKNN

    folder, data = tmp_path_factory.mktemp("ratings"), films()
    parts = [UserItemBias(), BiasedMF(factors=4), TimeSVDpp(factors=4, epochs=10)]
    fitted = {name: model.fit(data, Run(threads=1)) for name, model in zip(("a", "b", "c"), parts)}
    blend = RatingBlend.of(fitted, np.array([0.1, 0.2, 0.5, 0.3]))
    blend.models = "useritembias + biasedmf:factors=4 + timesvdpp:factors=4,epochs=10"
    blend.half_width_ = 0.4
    bundles = Bundles(folder / "bundles")
    bundles.write(Pipeline.wrapping(blend), figures={}, catalogue=Catalogue.of(data))
    bundles.write(Pipeline.wrapping(ItemKNN().fit(data)), figures={}, catalogue=Catalogue.of(data))
    return folder


def predicted(client: Any, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/predict", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def stars(answer: dict[str, Any]) -> list[float]:
    return [row["rating"] for row in answer["ratings"]]


ITEMS = ["h0", "r0", "h7", "r7", "h3"]


def test_the_service_answers_what_the_model_predicts(service: Any, home: Path) -> None:
    answer = predicted(service, user="u4", items=[*ITEMS, "new"])
    model = Bundles(home / "bundles").get(1).load()
    now = service.store.clock()
    offline = model.predict(["u4"] * 6, [*ITEMS, "new"], times=[now] * 6)
    np.testing.assert_array_equal(np.array(stars(answer), np.float32), offline)
    assert answer["version"] == 1
    assert answer["known"]
    assert answer["range"] == [2.0, 5.0]
    assert [row["known"] for row in answer["ratings"]] == [True] * 5 + [False]
    for row in answer["ratings"]:
        assert row["low"] == pytest.approx(max(2.0, row["rating"] - 0.4), abs=1e-5)
        assert row["high"] == pytest.approx(min(5.0, row["rating"] + 0.4), abs=1e-5)
    horror, romance = stars(answer)[0], stars(answer)[1]
    assert horror > romance + 1


def test_a_rating_counts_in_the_next_answer_and_a_view_is_no_rating(service: Any) -> None:
    stranger = predicted(service, user="new one", items=ITEMS)
    assert not stranger["known"]
    click(service, *[{"user": "new one", "item": f"h{n}", "kind": "view"} for n in range(10)])
    viewer = predicted(service, user="new one", items=ITEMS)
    assert viewer["known"]
    assert viewer["ratings"][2]["rating"] > viewer["ratings"][3]["rating"]  # who views horror does not hate it
    rated = [{"user": "new one", "item": f"{kind}{n}", "kind": "rate", "value": 2.0 if kind == "h" else 5.0}
             for n in range(6) for kind in "hr"]  # fmt: skip
    click(service, *rated)
    after = predicted(service, user="new one", items=ITEMS)
    assert after["ratings"][2]["rating"] < after["ratings"][3]["rating"] - 1


def test_a_visitor_whose_events_are_not_kept(service: Any) -> None:
    given = {f"{kind}{n}": 5.0 if kind == "r" else 2.0 for n in range(6) for kind in "hr"}
    answer = predicted(service, ratings=given, items=["r9", "h9"])
    assert answer["user"] is None
    assert answer["known"]
    assert stars(answer)[0] > stars(answer)[1] + 1
    liked = predicted(service, history=[f"h{n}" for n in range(6)], items=["r9", "h9"])
    assert stars(liked)[0] < stars(liked)[1]
    assert predicted(service, items=["r9"])["known"] is False
    unknown = predicted(service, history=["nowhere"], items=["r9"])
    assert not unknown["known"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"items": []}, "items"),
        ({"items": ["x"] * 1001}, "items"),
        ({"items": ["h0"], "user": "u1", "ratings": {"h1": 5}}, None),
        ({"items": ["h0"], "user": "u1", "history": ["h1"]}, None),
        ({"items": ["h0"], "ratings": {"h1": "5"}}, "ratings.h1"),
        ({"items": ["h0"], "ratings": {"h1": 1e300}}, "ratings.h1"),
        ({"items": ["h0"], "context": {"device": "tv"}}, "context"),
        ({"user": "u1"}, "items"),
    ],
)
def test_what_is_no_question_is_refused(service: Any, body: dict[str, Any], field: str | None) -> None:
    answer = service.post("/v1/predict", json=body)
    assert answer.status_code == 422
    if field is not None:
        assert answer.json()["field"] == field


def test_who_may_ask(service: Any) -> None:
    body = {"user": "u4", "items": ["h0"]}
    for scope, status in (("read", 200), ("events", 403)):
        headers = {"Authorization": f"Bearer {service.keys[scope]}"}
        assert service.post("/v1/predict", json=body, headers=headers).status_code == status
    assert service.post("/v1/predict", json=body, headers={"Authorization": ""}).status_code == 401


def test_a_version_of_lists_says_that_it_predicts_none(opened: Callable[..., Any], home: Path) -> None:
    shop = opened()
    client = client_of(shop)
    assert client.post("/v1/predict", json={"user": "u4", "items": ["h0"]}).status_code == 200
    Bundles(home / "bundles").promote(2)
    eventually(lambda: client.get("/ready").json().get("version") == 2)
    answer = client.post("/v1/predict", json={"user": "u4", "items": ["h0"]})
    assert answer.status_code == 409
    assert "--goal rating" in answer.json()["remedy"]


def test_two_workers_and_a_restart_answer_alike(opened: Callable[..., Any]) -> None:
    """Events that one process has heard count at the other, and after both were opened again."""
    first, shop = client_of(opened("same", several=True)), opened("same", several=True)
    shop.shown = first.keys  # they were shown once, at the first start
    second = client_of(shop)
    click(first, *[{"user": "w", "item": f"r{n}", "kind": "rate", "value": 5.0} for n in range(6)],
          {"user": "w", "item": "h3", "kind": "view"})  # fmt: skip
    answers = [stars(predicted(client, user="w", items=ITEMS)) for client in (first, second)]
    assert answers[0] == answers[1]
    again = opened("same")
    again.shown = first.keys
    third = client_of(again)
    assert stars(predicted(third, user="w", items=ITEMS)) == answers[0]


def test_the_client_method(service: Any) -> None:
    import httpx

    class Through(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            path = request.url.raw_path.decode()
            answer = service.request(request.method, path, content=request.read(), headers=dict(request.headers))
            return httpx.Response(answer.status_code, content=answer.content, headers=answer.headers)

    with Client("http://shop", service.keys["read"], transport=Through()) as client:
        found = client.predict(ITEMS, user="u4")
        assert [row.item for row in found] == ITEMS
        assert found.known
        assert found.range == (2.0, 5.0)
        assert found.ratings[0].low is not None
        with pytest.raises(ApiError):
            client.predict([])
