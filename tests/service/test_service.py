"""The service over a real store and version: what was just done counts, what is gone is gone, nothing is a 500."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.examples import examples

pytest.importorskip("starlette")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zhiyin.pipeline.model_versions import Bundles
from zhiyin.service.key_cache import SCOPES
from zhiyin.service.loaded_version import NoVersionError
from zhiyin.service.serving_state import ServingState
from zhiyin.store.store import Store

from .conftest import click, eventually, listed, shop


def test_a_click_counts_in_the_very_next_list(service: Any) -> None:
    before = listed(service, user="newcomer", k=10)
    for item in ("i1", "i3", "i5"):
        assert click(service, {"user": "newcomer", "item": item, "kind": "view"}).json()["rejected"] == 0
    after = listed(service, user="newcomer", k=10)
    assert after != before
    assert not {"i1", "i3", "i5"} & set(after)
    assert sum(int(item[1:]) % 2 for item in after) >= 9
    assert listed(service, history=["i1", "i3", "i5"], k=10) == after
    found = service.get("/v1/users/newcomer/history").json()["events"]
    assert [event["item"] for event in found] == ["i1", "i3", "i5"]


def test_what_was_learned_and_what_came_after(service: Any) -> None:
    seen = set(shop().events.filter(pl.col("user") == shop().user_ids.encode(["u3"])[0])["item"].to_list())
    names = {shop().item_ids.values[code] for code in seen}
    free = [f"i{i}" for i in range(1, 40, 2) if f"i{i}" not in names]
    assert not names & set(listed(service, user="u3", k=40))
    click(service, {"user": "u3", "item": free[0]})
    assert free[0] not in listed(service, user="u3", k=40)


def test_a_retry_is_known(service: Any) -> None:
    event = {"user": "u1", "item": "i2", "id": "once"}
    assert click(service, event).json()["events"][0]["status"] == "accepted"
    assert click(service, event).json()["events"][0]["status"] == "known"
    assert service.store.count() == 1


def test_each_event_has_its_own_fate(service: Any) -> None:
    answer = click(service, {"user": "u1", "item": "i2"}, {"user": "", "item": "i2"}, {"user": "u1"},
                   {"user": "u1", "item": "i1", "time": -5}, {"user": "u1", "item": "i1", "colour": 3})  # fmt: skip
    assert answer.status_code == 200
    assert [row["status"] for row in answer.json()["events"]] == ["accepted"] + ["rejected"] * 4
    assert answer.json()["rejected"] == 4
    assert "item" in answer.json()["events"][2]["reason"]
    assert click(service, {"user": ""}).status_code == 400
    assert service.store.count() == 1


def test_a_hidden_or_deleted_item_is_gone_from_the_next_answer(service: Any) -> None:
    first, second = listed(service, user="u3", k=2)
    assert service.put(f"/v1/items/{first}", json={"price": 3, "hidden": True}).json() == {"id": first, "version": 1}
    assert first not in listed(service, user="u3", k=40)
    assert first not in [row["item"] for row in service.get(f"/v1/items/{second}/similar?k=40").json()["items"]]
    assert first not in listed(service, user="u3", k=5, pins={1: first})
    assert service.delete(f"/v1/items/{second}").status_code == 200
    assert second not in listed(service, user="u3", k=40)
    assert service.patch(f"/v1/items/{first}", json={"hidden": False}).json()["version"] == 2
    assert service.get(f"/v1/items/{first}").json()["columns"] == {"hidden": False, "price": 3}
    eventually(lambda: listed(service, user="u3", k=1) == [first])


def test_filters_pins_and_reasons(service: Any) -> None:
    answer = service.post("/v1/recommendations", json={
        "user": "u3", "k": 6, "filter": "price < 20 AND genre = 'even'", "pins": {"2": "i7"}, "explain": True,
        "language": "zh", "exclude": ["i0"], "boosts": [{"when": "price > 15", "multiply": 1.5}],
    }).json()  # fmt: skip
    items = [row["item"] for row in answer["items"]]
    assert "i7" not in items  # pinned, and it does not pass the filter
    assert all(int(item[1:]) < 20 and int(item[1:]) % 2 == 0 for item in items)
    assert all(row["sentence"].endswith("。") for row in answer["items"])
    assert {"item", "rule"} == set(answer["removed"][0])
    simple = service.get("/v1/recommendations", params={"user": "u3", "k": 3, "filter": "price < 9"}).json()
    assert len(simple["items"]) == 3
    assert len(service.get("/v1/popular?k=4").json()["items"]) == 4


def test_rank_orders_what_it_is_given(service: Any) -> None:
    given_items = ["i0", "i1", "nowhere", "i3", "i2"]
    found = service.post("/v1/rank", json={"user": "u3", "items": given_items}).json()["items"]
    assert sorted(row["item"] for row in found) == sorted(given_items)
    assert found[-1] == {"item": "nowhere", "score": None}


def test_keys_and_scopes(service: Any) -> None:
    may = {"read": {"read"}, "events": {"events"}, "page": set(), "admin": set(SCOPES)}
    calls = {
        "read": lambda h: service.get("/v1/popular", headers=h),
        "events": lambda h: service.post("/v1/events", json={"events": [{"user": "a", "item": "i1"}]}, headers=h),
        "admin": lambda h: service.put("/v1/items/i9", json={"price": 1}, headers=h),
    }
    for owner, scopes in may.items():
        header = {"Authorization": f"Bearer {service.keys[owner]}"}
        for scope, call in calls.items():
            assert call(header).status_code == (200 if scope in scopes else 403)
    for wrong in ("Bearer nonsense", "Bearer ", "Basic abc", "Bearer " + "知" * 10):
        assert calls["read"]({"Authorization": wrong.encode()}).status_code == 401
    assert service.get("/health", headers={"Authorization": ""}).status_code == 200
    assert service.get("/ready").json()["version"] == 1


@pytest.mark.slow
def test_a_promoted_version_is_taken_up_while_requests_run(service: Any, home: Path) -> None:
    wrong, stop = [], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answer = service.post("/v1/recommendations", json={"user": "u3", "k": 5})
            if answer.status_code != 200 or len(answer.json()["items"]) != 5:
                wrong.append(answer.text)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    Bundles(home / "bundles").promote(2)
    for _ in range(200):
        if service.get("/ready").json()["version"] == 2:
            break
        time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join()
    assert service.get("/ready").json()["version"] == 2
    assert not wrong


def test_forgotten_at_once(service: Any) -> None:
    click(service, {"user": "u3", "item": "i1"})
    known = listed(service, user="u3", k=10)
    proof = service.delete("/v1/users/u3").json()["proof"]
    assert proof["events removed"] == 1
    assert proof["events found"] == 0
    assert listed(service, user="u3", k=10) == listed(service, k=10) != known


def test_what_is_too_large_is_refused(service: Any) -> None:
    assert service.post("/v1/events", content=b"x" * (5 << 20)).status_code == 413
    assert click(service, *[{"user": "a", "item": "b"}] * 1_001).status_code == 422
    assert service.post("/v1/rank", json={"items": ["i1"] * 10_000}).status_code == 422
    assert service.post("/v1/recommendations", json={"k": 100_000}).status_code == 422


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 422), (b"[]", 422), (b'{"k": NaN}', 422), (b'{"balance": Infinity}', 422), (b'{"user": "\\ud800"}', 422),
        (b'{"user": 3}', 422), (b'{"colour": 3}', 422), (b'{"filter": "price <"}', 400),
        (b'{"filter": "prize < 3"}', 400),
        (b'{"filter": "price < 3; DROP TABLE items"}', 400), (b'{"user": "a", "history": ["i1"]}', 422),
        (b'{"pins": {"0": "i1"}, "k": 3}', 422), (b'{"pins": {"1": "nothing"}}', 404), (b"\xff\xfe", 422), (b"", 422),
        (b'{"context": {"a": {"b": 1}}}', 422), (b'{"boosts": [{"when": "("}]}', 400),
        (b'{"history": ["nowhere"]}', 200),
    ],
)  # fmt: skip
def test_requests_that_cannot_be(service: Any, body: bytes, status: int) -> None:
    answer = service.post("/v1/recommendations", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    if status != 200:
        assert answer.json()["error"]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text(max_size=8), part, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["user", "item", "kind", "time", "value", "id", "list_id", "k", "filter", "pins", "boosts", "history", "events"]
)


@settings(max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.dictionaries(FIELDS, ANYTHING, max_size=5), path=st.sampled_from(["recommendations", "events", "rank"]))
def test_nothing_is_a_500(service: Any, body: dict[str, Any], path: str) -> None:
    import json

    for said in (body, {"events": [body]}):
        try:
            content = json.dumps(said).encode("utf-8")
        except UnicodeEncodeError:
            continue
        answer = service.post(f"/v1/{path}", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code in (200, 400, 404, 422), answer.text
        answer.json()


def test_without_a_version_in_use(tmp_path: Path) -> None:
    live = ServingState(Bundles(tmp_path / "bundles"), Store(tmp_path / "store.db"))
    try:
        with pytest.raises(NoVersionError, match="no version can answer"):
            live.view()
        assert [entry.what for entry in live.health_issues()] == ["all lists"]
    finally:
        live.close()
