"""Users of whom only columns are known, over HTTP: lists are made from the columns, kept or sent with the request."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("starlette")

from zhiyin.data.dataset import Dataset

from .conftest import DAY, client_of


def log() -> Dataset:
    """Women take i0 to i9, men i10 to i19, in nine of ten events."""
    rng = np.random.default_rng(5)
    n = 300
    now = time.time_ns() // 1000
    rows = []
    for user in range(n):
        own = np.arange(20) // 10 == (0 if user % 2 else 1)
        rows += [(f"u{user}", f"i{item}", int(now - rng.random() * 60 * DAY), "view")
                 for item in rng.choice(20, 5, replace=False, p=np.where(own, 0.09, 0.01))]  # fmt: skip
    events = pl.DataFrame(rows, schema=["user", "item", "time", "kind"], orient="row")
    users = pl.DataFrame({
        "id": [f"u{user}" for user in range(n)], "gender": ["F" if user % 2 else "M" for user in range(n)],
        "age": rng.integers(18, 70, n),
    })  # fmt: skip
    return Dataset.build(events, users=users)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from zhiyin.data.catalogue import Catalogue
    from zhiyin.pipeline.model_versions import Bundles
    from zhiyin.pipeline.pipeline import Pipeline

    folder, data = tmp_path_factory.mktemp("columns"), log()
    pipeline = Pipeline(sources="popular; itemknn; segmentpopular", ranker="none", windows=2).fit(data)
    Bundles(folder / "bundles").write(pipeline, figures={}, catalogue=Catalogue.of(data))
    return folder


@pytest.fixture
def service(opened: Any) -> Any:
    return client_of(opened())


def share(items: list[str], gender: str) -> float:
    return float(np.mean([(int(item[1:]) < 10) == (gender == "F") for item in items]))


def listed(client: Any, **body: Any) -> list[str]:
    answer = client.post("/v1/recommendations", json={"k": 8} | body)
    assert answer.status_code == 200, answer.text
    return [row["item"] for row in answer.json()["items"]]


def test_columns_that_are_kept_decide_and_change_the_next_list(service: Any) -> None:
    before = listed(service, user="new")
    assert 0.2 < share(before, "F") < 0.8
    for gender in ("F", "M", "F"):
        assert service.put("/v1/users/new", json={"gender": gender, "town": "x"}).status_code == 200
        assert share(listed(service, user="new"), gender) == 1.0
    assert listed(service, user="another") == before
    service.delete("/v1/users/new")
    assert listed(service, user="new") == before


def test_columns_of_the_request_come_before_those_kept(service: Any) -> None:
    assert share(listed(service, user_columns={"gender": "M"}), "M") == 1.0
    service.put("/v1/users/new", json={"gender": "F"})
    assert share(listed(service, user="new", user_columns={"gender": "M"}), "M") == 1.0
    assert share(listed(service, user="new", user_columns={"age": 30}), "F") == 1.0
    assert listed(service, user_columns={"gender": 5, "unheard": "of"}) == listed(service)
    ranked = service.post("/v1/rank", json={"items": ["i3", "i13"], "user_columns": {"gender": "M"}}).json()
    assert [row["item"] for row in ranked["items"]] == ["i13", "i3"]


def test_a_list_made_from_columns_is_replayed(service: Any) -> None:
    body = {"user": "new", "user_columns": {"gender": "M"}, "k": 5}
    answer = service.post("/v1/recommendations", json=body).json()
    service.put("/v1/users/new", json={"gender": "F"})
    replay = service.post(f"/v1/lists/{answer['list_id']}/replay").json()
    assert replay["same"] is True
    assert [row["item"] for row in replay["items"]] == [row["item"] for row in answer["items"]]


def test_a_page_may_not_say_what_its_user_is(service: Any) -> None:
    token = service.post("/v1/tokens", json={"user": "new", "scope": ["read"]})
    assert token.status_code == 200, token.text
    headers = {"Authorization": f"Bearer {token.json()['token']}"}
    answer = service.post("/v1/recommendations", json={"user_columns": {"gender": "M"}}, headers=headers)
    assert answer.status_code == 403
    assert "user_columns" in answer.text


def test_a_first_event_counts_beside_the_columns(service: Any) -> None:
    service.put("/v1/users/new", json={"gender": "F"})
    now = time.time_ns() // 1000
    service.post("/v1/events", json={"events": [{"user": "new", "item": "i12", "time": now}]})
    assert "i12" not in listed(service, user="new")
