"""What one process of a service has acknowledged, every other process knows with the next request.

Two processes are two shops on one store in one program, each with its own memory: what one is told is asked of the
other at once, before any of the threads that look now and then have had their turn.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")

from tests.conftest import own_schema
from zhiyin.client import PageKey

from .conftest import click, client_of, eventually, listed

pytestmark = pytest.mark.slow

KINDS = ("sqlite", "postgres", "postgres and redis")
# Each write is made and asked for so often, by turns: what is right by chance is wrong once.
ROUNDS = 6
Pair = tuple[Any, Any]


@contextmanager
def processes(home: Path, folder: Path, settings: str) -> Iterator[Pair]:
    """Clients of two shops that share a settings file, as two workers do, with the admin key."""
    from zhiyin.pipeline.model_versions import Bundles
    from zhiyin.service.tenant import Tenant

    shutil.copytree(home / "bundles", folder / "models" / "bundles")
    Bundles(folder / "models" / "bundles").promote(1)
    (folder / "zhiyin.toml").write_text(settings)
    (folder / "shared").mkdir()
    shops: list[Any] = []
    patch = pytest.MonkeyPatch()
    patch.setattr("zhiyin.service.key_cache.POLL_SECONDS", 0.05)
    try:
        for _ in range(2):
            shop, shown = Tenant.open(folder / "zhiyin.toml", several=True, shared=folder / "shared")
            shops.append(shop)
            shop.shown = shown or shops[0].shown  # type: ignore[attr-defined]
        yield client_of(shops[0]), client_of(shops[1])
    finally:
        patch.undo()
        for shop in shops:
            shop.close()


def addresses(kind: str, request: pytest.FixtureRequest) -> str:
    settings = "[service]\nbudget = 60000\n"
    if "postgres" in kind:
        settings += f'store = "{own_schema(request.getfixturevalue("postgres"))}"\n'
    if "redis" in kind:
        settings += f'redis = "{request.getfixturevalue("server").url}"\n'
    return settings


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Redis of its own."""
    from ..store.test_live_state import Server

    pytest.importorskip("redis")
    if not shutil.which("redis-server"):
        pytest.skip("Redis is not installed: no redis-server on the path")
    made = Server(tmp_path_factory.mktemp("redis"))
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with processes(home, tmp_path_factory.mktemp("pair"), addresses(request.param, request)) as made:
        yield made


def by_turns(pair: Pair, rounds: int = ROUNDS) -> Iterator[tuple[int, Any, Any]]:
    """Round, the process that is told, the one that is asked."""
    for n in range(rounds):
        yield n, pair[n % 2], pair[1 - n % 2]


def test_events(pair: Pair) -> None:
    for n, here, there in by_turns(pair):
        assert len(listed(there, user=f"e{n}", k=40)) == 40
        for step in range(3):
            item = f"i{3 * n + step}"
            click(here, {"user": f"e{n}", "item": item, "id": f"e{n}-{step}"})
            assert item not in listed(there, user=f"e{n}", k=40)
            assert click(there, {"user": f"e{n}", "item": item, "id": f"e{n}-{step}"}).json()["events"] == [
                {"id": f"e{n}-{step}", "status": "known"}
            ]
        assert len(there.get(f"/v1/users/e{n}/history").json()["events"]) == 3


def test_columns_of_users(pair: Pair) -> None:
    def of_city(client: Any, city: str) -> bool:
        return len(listed(client, user="ann", k=5, filter=f"user.city = '{city}'")) == 5

    for n, here, there in by_turns(pair):
        here.put("/v1/users/ann", json={"city": f"a{n}"}).raise_for_status()
        assert of_city(there, f"a{n}")
        here.patch("/v1/users/ann", json={"city": f"b{n}"}).raise_for_status()
        assert of_city(there, f"b{n}")
        here.post("/v1/users", content=f'{{"id": "ann", "columns": {{"city": "c{n}"}}}}').raise_for_status()
        assert of_city(there, f"c{n}")
        assert there.get("/v1/users/ann").json()["columns"] == {"city": f"c{n}"}
        here.delete("/v1/users/ann").raise_for_status()
        assert not of_city(there, f"c{n}")
        assert there.get("/v1/users/ann").status_code == 404


def test_items(pair: Pair) -> None:
    for n, here, there in by_turns(pair):
        item = f"i{20 + n}"
        assert item in listed(there, k=40)
        here.patch(f"/v1/items/{item}", json={"hidden": True}).raise_for_status()
        assert item not in listed(there, k=40)
        assert item not in [row["item"] for row in there.get("/v1/items?k=100").json()["items"]]
        here.patch(f"/v1/items/{item}", json={"hidden": False}).raise_for_status()
        eventually(lambda there=there, item=item: item in listed(there, k=40))  # type: ignore[misc]
        here.put(f"/v1/items/new{n}", json={"price": 1000.0 + n}).raise_for_status()
        assert there.get(f"/v1/items/new{n}").json()["columns"] == {"price": 1000.0 + n}
        eventually(lambda there=there, n=n: listed(there, k=5, filter=f"price = {1000 + n}") == [f"new{n}"])  # type: ignore[misc]
        line = f'{{"id": "new{n}", "columns": {{"price": {2000 + n}}}}}'
        here.post("/v1/items", content=line).raise_for_status()
        assert there.get(f"/v1/items/new{n}").json()["columns"] == {"price": 2000.0 + n}
        assert f"new{n}" not in listed(there, k=5, filter=f"price = {1000 + n}")  # what it was is told no more
        here.delete(f"/v1/items/new{n}").raise_for_status()
        assert there.get(f"/v1/items/new{n}").status_code == 404
        assert f"new{n}" not in listed(there, k=60)


def test_placements(pair: Pair) -> None:
    for n, here, there in by_turns(pair):
        name = f"place{n}"
        for k in (3, 4):
            here.put(f"/v1/placements/{name}", json={"k": k}).raise_for_status()
            assert len(listed(there, placement=name)) == k
            assert there.get(f"/v1/placements/{name}").json()["settings"] == {"k": k}
        first = min(one["version"] for one in there.get(f"/v1/placements/{name}/versions").json()["versions"])
        there.post(f"/v1/placements/{name}/rollback", json={"version": first}).raise_for_status()
        assert len(listed(here, placement=name)) == 3
        assert name in [one["name"] for one in there.get("/v1/placements").json()["placements"]]
        there.delete(f"/v1/placements/{name}").raise_for_status()
        assert here.post("/v1/recommendations", json={"placement": name}).status_code == 404
        here.put(f"/v1/placements/{name}", json={"k": 2}).raise_for_status()
        there.delete(f"/v1/placements/{name}").raise_for_status()  # by the one that has not looked since


def test_lists_and_what_was_seen_of_them(pair: Pair) -> None:
    for n, here, there in by_turns(pair):
        made = here.post("/v1/recommendations", json={"user": f"s{n}", "k": 3}).json()
        list_id, items = made["list_id"], [row["item"] for row in made["items"]]
        answer = there.post(f"/v1/impressions/{list_id}", json={"items": items[:2]})
        assert answer.status_code == 200, answer.text
        assert answer.json()["kept"] == items[:2]
        for client in (here, there):
            told = client.get(f"/v1/lists/{list_id}").json()
            assert [one["items"] for one in told["impressions"]] == [items[:2]]
            assert client.post(f"/v1/lists/{list_id}/replay").json()["same"] is True
        click(here, {"user": f"s{n}", "item": items[0], "list_id": list_id})
        assert [one["item"] for one in there.get(f"/v1/lists/{list_id}").json()["events"]] == [items[0]]


def test_types_of_columns(pair: Pair) -> None:
    for n, here, there in by_turns(pair):
        column = f"c{n}"
        here.put("/v1/schema", json={"items": {column: "number"}}).raise_for_status()
        assert there.get("/v1/schema").json()["items"][column]["type"] == "number"
        assert there.put("/v1/items/typed", json={column: "many"}).status_code == 400
        answer = there.put(f"/v1/placements/{column}", json={"filter": f"{column} > 3"})
        assert answer.status_code == 200, answer.text
        assert listed(here, placement=column) == []
        here.put(f"/v1/users/t{n}", json={f"u{n}": 3}).raise_for_status()  # a first write decides
        assert there.put(f"/v1/users/t{n}", json={f"u{n}": "many"}).status_code == 400
        here.put("/v1/schema", json={"users": {f"u{n}": "text"}}).raise_for_status()
        assert there.put(f"/v1/users/t{n}", json={f"u{n}": "many"}).status_code == 200


def test_keys(pair: Pair) -> None:
    here, there = pair

    def status(key: str) -> int:
        return there.get("/v1/popular?k=1", headers={"Authorization": f"Bearer {key}"}).status_code

    for scope in ("read", "page"):
        key = here.post("/v1/keys", json={"name": f"{scope}2", "scopes": [scope]}).json()["key"]
        given = key if scope == "read" else str(PageKey(key).token(user="ann"))
        assert status(given) == 200
        assert f"{scope}2" in [one["name"] for one in there.get("/v1/keys").json()["keys"]]
        here.delete(f"/v1/keys/{scope}2").raise_for_status()
        assert status(given) == 401


def test_forgetting(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zhiyin.service.authentication.TRACE_WAIT_SECONDS", 0.3)  # of a list that is gone
    for n, here, there in by_turns(pair, 2):
        user = f"u{n}"  # one of whom the version has learned
        there.put(f"/v1/users/{user}", json={"city": "rome"}).raise_for_status()
        click(there, {"user": user, "item": "i30"})
        for client in pair:  # both hold what they know
            assert len(listed(client, user=user, k=5, filter="user.city = 'rome'")) == 5
            assert client.get(f"/v1/users/{user}/similar").status_code == 200
        made = there.post("/v1/recommendations", json={"user": user, "k": 3}).json()["list_id"]
        assert there.get(f"/v1/lists/{made}").status_code == 200
        here.delete(f"/v1/users/{user}").raise_for_status()
        assert listed(there, user=user, k=40) == listed(there, k=40)
        assert listed(there, user=user, k=5, filter="user.city = 'rome'") == []
        assert there.get(f"/v1/users/{user}/history").json()["events"] == []
        assert there.get(f"/v1/users/{user}/similar").status_code == 404
        assert there.get(f"/v1/users/{user}").status_code == 404
        for other in ("u40", "u41"):
            assert user not in [one["user"] for one in there.get(f"/v1/users/{other}/similar?k=60").json()["users"]]
        assert there.get(f"/v1/lists/{made}").status_code == 404


@pytest.mark.parametrize("kind", KINDS)
def test_frequency_caps_count_what_any_process_showed(
    kind: str, home: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    settings = addresses(kind, request) + '[rules]\nfrequency = {at_most = 2, window = "1d"}\n'
    with processes(home, tmp_path, settings) as (here, there):
        first = listed(here, user="ann", k=3)
        assert listed(there, user="ann", k=3) == first
        for client in (here, there):
            assert not set(first) & set(listed(client, user="ann", k=3))
        assert listed(there, user="bob", k=3) == first
        there.delete("/v1/users/ann").raise_for_status()
        assert listed(here, user="ann", k=3) == first
        assert listed(here, user="bob", k=3) == first  # what others were shown counts on
        assert not set(first) & set(listed(there, user="bob", k=3))
