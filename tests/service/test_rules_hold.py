"""Every rule of `[rules]` holds in every list over HTTP: with exploration, pins, new items, pages, and fill."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.examples import examples

pytest.importorskip("starlette")

from tests.rules_kept import ALL, CONDITIONS, ITEMS, NEW, TABLES, Asked, check, qualifying, shop
from zhiyin.data.catalogue import Catalogue
from zhiyin.models.content import Content
from zhiyin.models.neighbors import ItemKNN
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.pipeline.rules import Rules

from .conftest import client_of, eventually, listed


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version of the shop whose items have all columns that rules speak of."""
    data, folder = shop(), tmp_path_factory.mktemp("rules")
    knn = ItemKNN().fit(data)
    pipeline = Pipeline.wrapping(knn)
    pipeline.sources_ = {"itemknn": knn, "content": Content().fit(data)}  # type: ignore[misc]
    pipeline.sources, pipeline.choices_ = "itemknn; content", dict.fromkeys(pipeline.choices_, "rrf")  # type: ignore[misc]
    Bundles(folder / "bundles").write(pipeline, figures={}, catalogue=Catalogue.of(data))
    return folder


PINS = st.dictionaries(st.integers(1, 5), st.sampled_from(sorted(ALL)), max_size=2).filter(
    lambda pins: len(set(pins.values())) == len(pins)
)
BODIES = st.fixed_dictionaries({
    "user": st.sampled_from(["u3", "u8", "visitor"]), "k": st.integers(1, 8), "pins": PINS,
    "filter": st.sampled_from(["", *sorted(CONDITIONS)]), "exclude": st.lists(st.sampled_from(sorted(ALL)), max_size=4),
    "diversity": st.sampled_from(["none", "mmr"]), "exclude_seen": st.sampled_from([None, True, False]),
    "placement": st.sampled_from(["default", "busy"]),
})  # fmt: skip
LOG = shop()


def done(user: str) -> dict[str, set[str]]:
    code = int(LOG.user_ids.encode([user])[0])
    mine = LOG.events.filter(pl.col("user") == code)
    found: dict[str, set[str]] = {}
    for kind, item in zip(mine["kind"], LOG.item_ids.decode(mine["item"].to_numpy())):
        found.setdefault(kind if isinstance(kind, str) else LOG.kinds[int(kind)], set()).add(item)
    return found


@pytest.mark.slow
@settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=TABLES, bodies=st.lists(BODIES, min_size=3, max_size=6), buys=st.sampled_from(["i4", "i7", "new5"]))
def test_every_rule_holds_over_http(
    opened: Callable[..., Any], table: dict[str, Any], bodies: list[dict[str, Any]], buys: str
) -> None:
    name = f"shop{time.monotonic_ns()}"
    tenant = opened(name, options={"rules": Rules.from_dict(table)})
    client = client_of(tenant)
    for key, row in NEW.items():
        columns = {column: value for column, value in row.items() if value is not None}
        assert client.put(f"/v1/items/{key}", json=columns).status_code == 200
    eventually(lambda: not tenant.live.waiting_items and len(tenant.live.now.ids) == len(ALL))
    assert client.put("/v1/placements/busy", json={"explore": 1.0, "filter": "price > 4"}).status_code == 200
    bought = {user: done(user) for user in ("u3", "u8")} | {"visitor": {}}
    for user, item, kind in (("visitor", buys, "purchase"), ("u3", "i6", "view"), ("u3", buys, "purchase")):
        assert client.post("/v1/events", json={"events": [{"user": user, "item": item, "kind": kind}]}).is_success
        bought[user].setdefault(kind, set()).add(item)
    shown: dict[str, Counter[str]] = {user: Counter() for user in bought}
    for body in bodies:
        user, busy = body["user"], body["placement"] == "busy"
        seen = body["exclude_seen"] if body["exclude_seen"] is not None else "bought" not in table
        there = {item: row for item, row in ALL.items() if row["price"] > 4} if busy else ALL
        asked = Asked(body["k"], body["filter"], body["exclude"], body["pins"], bought=bought[user],
                      seen=frozenset().union(*bought[user].values()) if seen and bought[user] else frozenset(),
                      shown=Counter(shown[user]))  # fmt: skip
        answer = client.post("/v1/recommendations", json=body | {"pins": {str(s): i for s, i in body["pins"].items()}})
        assert answer.status_code == 200, answer.text
        items = [row["item"] for row in answer.json()["items"]]
        check(table, asked, items, there)
        shown[user].update(items)
        again = client.post(f"/v1/lists/{answer.json()['list_id']}/replay").json()
        assert again["same"], again
        given_items = sorted(ALL)[:12]
        asked = Asked(12, body["filter"], pins={}, include=given_items, bought=bought[user], shown=Counter(shown[user]))
        ranked = client.post(
            "/v1/rank", json={"user": user, "items": given_items, "placement": body["placement"]}
        ).json()
        rows = [row["item"] for row in ranked["items"]]
        assert sorted(rows) == given_items
        kept = [row["item"] for row in ranked["items"] if row["score"] is not None]
        asked.filter = ""
        own = {item: row for item, row in there.items() if item in given_items}
        check({key: value for key, value in table.items() if key != "pins"}, asked, kept, own, whole=False)
        assert {row["item"] for row in ranked["removed"]} == set(given_items) - set(kept)
        if not {"caps", "dedupe"} & set(table):
            pinned = set(table.get("pins", {}).values())
            assert set(kept) - pinned == qualifying(table, asked, own) - pinned
        shown[user].update(kept)
    tenant.close()


def test_a_placement_brings_nothing_into_a_ranking(opened: Callable[..., Any]) -> None:
    """Neither its pins nor the house's, and what its filter removes is told."""
    client = client_of(opened(options={"rules": Rules.from_dict({"pins": {2: "i30"}, "stock": "stock"})}))
    client.put("/v1/placements/home", json={"pins": {"1": "i35"}, "filter": "price < 9", "explore": 1.0})
    body = {"user": "u2", "items": ["i1", "i2", "i3", "i4", "i10", "nowhere"], "placement": "home"}
    ranked = client.post("/v1/rank", json=body).json()
    assert sorted(row["item"] for row in ranked["items"][:3]) == ["i1", "i2", "i3"]
    assert [(row["item"], row["score"]) for row in ranked["items"][3:]] == [(i, None) for i in ("i4", "i10", "nowhere")]
    told = {row["item"]: row["rule"] for row in ranked["removed"]}
    assert told == {"i4": "stock", "i10": "filter", "nowhere": "unknown"}
    assert listed(client, user="u2", placement="home", k=3, filter="price < 40")[0] != "i35"  # its own filter holds
    client.put("/v1/placements/home", json={"pins": {"1": "i2"}})
    assert client.post("/v1/rank", json=body).json()["items"][0]["item"] == "i2"
    client.patch("/v1/items/i2", json={"hidden": True})
    told = {row["item"]: row["rule"] for row in client.post("/v1/rank", json=body).json()["removed"]}
    assert told == {"i2": "hidden", "i4": "stock", "nowhere": "unknown"}
    assert "i2" not in listed(client, user="u2", placement="home", k=5)


def test_what_is_hidden_is_not_pinned_by_the_house(opened: Callable[..., Any]) -> None:
    client = client_of(opened(options={"rules": Rules.from_dict({"pins": {1: "i30"}})}))
    assert listed(client, user="u2", k=3)[0] == "i30"
    client.patch("/v1/items/i30", json={"hidden": True})
    assert "i30" not in listed(client, user="u2", k=30)


def exposed(lists: list[list[str]]) -> float:
    """Share of the exposure of some lists that odd items had."""
    weights = [(1 / math.log2(place + 2), item) for items in lists for place, item in enumerate(items)]
    return sum(w for w, item in weights if ITEMS[item]["genre"] == "odd") / sum(w for w, _ in weights)


def test_exposure_reaches_its_target_over_http(opened: Callable[..., Any]) -> None:
    """For users whose taste is another; lists are made again as they were, and what the ledger said is in the trace."""
    options = {"rules": Rules.from_dict({"exposure": [{"of": "genre = 'odd'", "target": 0.9}]})}
    client, plain = client_of(opened("fair", options=options)), client_of(opened("plain"))
    lists, changed = [], 0
    for n in range(60):
        body = {"user": f"u{2 * (n % 15)}", "k": 6}
        answer = client.post("/v1/recommendations", json=body).json()
        lists.append([row["item"] for row in answer["items"]])
        changed += lists[-1] != listed(plain, **body)
        if n % 20 == 3:
            assert client.post(f"/v1/lists/{answer['list_id']}/replay").json()["same"]
    assert exposed(lists) == pytest.approx(0.9, abs=0.05)
    assert changed > 40
    popular = [row["item"] for row in client.get("/v1/popular?k=6").json()["items"]]
    assert len(popular) == 6


def test_every_process_reaches_the_target_of_exposure(opened: Callable[..., Any], redis_url: str) -> None:
    """Two processes: each by itself, or both by one Redis."""
    from zhiyin.store.redis_state import RedisState

    options = {"rules": Rules.from_dict({"exposure": [{"of": "genre = 'odd'", "target": 0.9}]})}
    for states in ((None, None), (RedisState(redis_url, "a"), RedisState(redis_url, "a"))):
        kind = "alone" if states[0] is None else "shared"
        clients = [client_of(opened(f"{kind}{n}", options=options, state=state)) for n, state in enumerate(states)]
        lists = [listed(clients[n % 2], user=f"u{2 * (n % 15)}", k=6) for n in range(240)]
        assert exposed(lists) == pytest.approx(0.9, abs=0.05)
        if states[0] is not None:
            for state in states:
                state.close()  # type: ignore[union-attr]
