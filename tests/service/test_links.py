"""Links over HTTP: they count in the very next answer of every process, in expressions, models and who may be known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

pytest.importorskip("starlette")

from zhiyin.data.catalogue import Catalogue
from zhiyin.data.dataset import Dataset
from zhiyin.models.social import Friends
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.service.key_cache import Keys
from zhiyin.service.serving_state import ServingState
from zhiyin.service.tenant import Tenant
from zhiyin.store.store import Store

from .conftest import NOW, client_of, listed

POSTS, AUTHORS = [f"p{n}" for n in range(6)], ["ann", "bob", "cid", "dan", "eve", "fay"]


def network() -> Dataset:
    """Posts of six authors, each liked by its author alone and by one reader of no links; ann follows bob."""
    events = list(zip(AUTHORS, POSTS))
    events += [("reader", post) for post in POSTS]
    frame = pl.DataFrame(events, schema=["user", "item"], orient="row")
    frame = frame.with_columns(time=pl.Series([NOW - n * 1_000_000 for n in range(len(events))]))
    items = pl.DataFrame(
        {"id": POSTS, "author": ["ann", "bob", "cid", "dan", "eve", "fay"], "kind": ["post", "group"] * 3}
    )
    links = pl.DataFrame(
        [("ann", "bob"), ("bob", "cid"), ("bob", "dan"), ("eve", "dan")], schema=["user", "other"], orient="row"
    )
    return Dataset.build(frame, items=items, links=links)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    data, bundles = network(), Bundles(tmp_path_factory.mktemp("network") / "bundles")
    model = Friends(base="popular", alpha=0.0, followers=0.0, shared=0.0, common=0.0, walk=1).fit(data)
    bundles.promote(bundles.write(Pipeline.wrapping(model), figures={}, catalogue=Catalogue.of(data)).version)
    return bundles


@pytest.fixture
def start(bundles: Bundles, tmp_path: Path) -> Any:
    """Starts processes over one store."""
    opened: list[Tenant] = []

    def start(several: bool = False) -> Any:
        live = ServingState(bundles, Store(tmp_path / "shop.db"), several=several)
        keys, shown = Keys.open(live.store)
        tenant = Tenant("shop", live, keys)
        tenant.shown = shown or opened[0].shown  # type: ignore[attr-defined]
        opened.append(tenant)
        return client_of(tenant)

    yield start
    for tenant in opened:
        tenant.close()


def friends_first(client: Any, user: str) -> str:
    return listed(client, user=user, k=1, exclude_seen=True)[0]


def test_a_link_counts_in_the_next_answer_of_every_process(start: Callable[..., Any]) -> None:
    one, other = start(several=True), start(several=True)
    assert friends_first(one, "ann") == "p1"
    answer = one.put("/v1/users/ann/links/fay", json={"weight": 9.0})
    assert answer.json() == {"user": "ann", "other": "fay", "changed": True}
    assert friends_first(one, "ann") == friends_first(other, "ann") == "p5"
    assert other.delete("/v1/users/ann/links/fay").json()["changed"] is True
    assert friends_first(one, "ann") == friends_first(other, "ann") == "p1"
    # A link that the version has learned is removed as well, and a user whom it does not know is answered.
    assert one.delete("/v1/users/ann/links/bob").json()["changed"] is True
    assert other.get("/v1/users/ann/links").json() == {"user": "ann", "direction": "from", "links": []}
    assert other.put("/v1/users/newcomer/links/eve", json={}).json()["changed"] is True
    assert friends_first(one, "newcomer") == "p4"
    assert start(several=True) is not None  # a restart
    assert friends_first(start(), "newcomer") == "p4"


def test_links_are_told_in_both_directions(start: Callable[..., Any]) -> None:
    client = start()
    client.put("/v1/users/ann/links/dan", json={"weight": 0.5})
    there = client.get("/v1/users/ann/links").json()["links"]
    assert there == [{"user": "bob", "weight": 1.0}, {"user": "dan", "weight": 0.5}]
    back = client.get("/v1/users/dan/links?direction=to").json()["links"]
    assert back == [{"user": "bob", "weight": 1.0}, {"user": "eve", "weight": 1.0}, {"user": "ann", "weight": 0.5}]
    assert client.get("/v1/users/dan/links?direction=to&most=1").json()["links"] == back[:1]


def test_posts_of_friends_first_and_groups_alone(start: Callable[..., Any]) -> None:
    client = start()
    client.put("/v1/users/reader/links/cid", json={})
    client.put("/v1/users/reader/links/unknown to the version", json={})
    posts = listed(client, user="reader", k=6, exclude_seen=False,
                   boosts=[{"when": "author IN user.friends", "multiply": 100}])  # fmt: skip
    assert posts[0] == "p2"
    assert listed(client, user="reader", k=6, exclude_seen=False, filter="author IN user.friends") == ["p2"]
    assert listed(client, user="nobody", k=6, filter="author IN user.friends") == []
    assert listed(client, user="cid", k=6, exclude_seen=False, filter="author IN user.followers") == ["p1"]
    assert client.put("/v1/placements/groups", json={"filter": "kind = 'group'"}).status_code == 200
    assert set(listed(client, user="ann", k=6, placement="groups")) <= {"p1", "p3", "p5"}


def test_a_list_is_made_again_by_the_links_of_then(start: Callable[..., Any]) -> None:
    client = start()
    client.put("/v1/users/reader/links/cid", json={})
    ask = {"user": "reader", "filter": "author IN user.friends", "exclude_seen": False}
    made = client.post("/v1/recommendations", json=ask).json()
    client.delete("/v1/users/reader/links/cid")
    assert client.post("/v1/recommendations", json=ask).json()["items"] == []
    assert client.post(f"/v1/lists/{made['list_id']}/replay").json()["same"] is True


def suggested(client: Any, user: str) -> list[tuple[str, int, list[str]]]:
    users = client.get(f"/v1/users/{user}/suggested?k=5").json()["users"]
    return [(one["user"], one["common"], one["via"]) for one in users]


def test_people_one_may_know(start: Callable[..., Any]) -> None:
    client = start()
    assert suggested(client, "ann") == [("cid", 1, ["bob"]), ("dan", 1, ["bob"])]
    client.put("/v1/users/ann/links/eve", json={})
    assert suggested(client, "ann") == [("dan", 2, ["eve", "bob"]), ("cid", 1, ["bob"])]
    client.put("/v1/users/ann/links/dan", json={})
    client.delete("/v1/users/bob/links/cid")
    assert suggested(client, "ann") == []
    assert client.get("/v1/users/nobody/suggested").json() == {"user": "nobody", "users": []}


def test_a_user_who_is_forgotten_is_in_no_answer(start: Callable[..., Any]) -> None:
    one, other = start(several=True), start(several=True)
    one.put("/v1/users/ann/links/eve", json={})
    proof = one.delete("/v1/users/bob").json()["proof"]
    assert proof["links found"] == 0
    for client in (one, other):
        assert [link["user"] for link in client.get("/v1/users/ann/links").json()["links"]] == ["eve"]
        assert client.get("/v1/users/bob/links").json()["links"] == []
        assert "bob" not in client.get("/v1/users/ann/suggested").text
        assert [link["user"] for link in client.get("/v1/users/dan/links?direction=to").json()["links"]] == ["eve"]


def test_many_at_once(start: Callable[..., Any]) -> None:
    client = start()
    lines = [
        '{"user": "ann", "other": "fay"}', '{"user": "ann", "other": "ann"}', "nonsense", "",
        '{"user": "ann", "other": "cid", "weight": -1}', '{"user": "ann", "other": "bob", "weight": null}',
        '{"user": "ann", "whom": "cid"}',
    ]  # fmt: skip
    answer = client.post("/v1/links", content="\n".join(lines), headers={"Content-Type": "application/x-ndjson"}).json()
    assert answer["accepted"] == 2
    assert [row["line"] for row in answer["rejected"]] == [2, 3, 5, 7]
    assert [link["user"] for link in client.get("/v1/users/ann/links").json()["links"]] == ["fay"]
    assert client.post("/v1/links", content="", headers={"Content-Type": "application/x-ndjson"}).status_code == 422
    wrong = client.put("/v1/users/ann/links/ann", json={})
    assert wrong.status_code == 409
    assert "themselves" in wrong.json()["error"]
    assert client.put("/v1/users/ann/links/bob", json={"weight": 0}).status_code == 422


def test_a_visitor_of_a_page_may_not_write_links(start: Callable[..., Any]) -> None:
    client = start()
    key = client.post("/v1/keys", json={"name": "reader", "scopes": ["read"]}).json()["key"]
    refused = client.put("/v1/users/ann/links/cid", json={}, headers={"Authorization": f"Bearer {key}"})
    assert refused.status_code == 403
