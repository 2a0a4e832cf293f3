"""A start always succeeds: what a store, a folder of versions or a settings file holds that cannot be used is set aside
by itself, named, and keeps nothing else out."""

from __future__ import annotations

import json
import random
import re
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")

from zhiyin.data.project_config import ServiceSection
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.pipeline.rules import Rules
from zhiyin.service.key_cache import Keys
from zhiyin.service.serving_state import ServingState
from zhiyin.service.tenant import Tenant
from zhiyin.store.store import Store

from ..conftest import own_schema
from .conftest import client_of, eventually, listed

Open = Callable[..., Any]


@pytest.fixture
def start(home: Path, tmp_path: Path) -> Iterator[Open]:
    """Starts a service over one store and a copy of the versions, again and again."""
    shutil.copytree(home / "bundles", tmp_path / "bundles")
    Bundles(tmp_path / "bundles").promote(1)
    running: list[Tenant] = []
    known: dict[str, str] = {}

    def start(rules: Rules | None = None, address: str = "", **how: Any) -> Any:
        while running:
            running.pop().close()
        store = Store(address or tmp_path / "store.db")
        live = ServingState(Bundles(tmp_path / "bundles"), store, {"rules": rules or Rules()}, **how)
        keys, shown = Keys.open(store)
        known.update(shown)
        running.append(Tenant("shop", live, keys, ServiceSection(budget=60_000)))
        running[0].shown = known  # type: ignore[attr-defined]
        return client_of(running[0])

    yield start
    while running:
        running.pop().close()


def rows(folder: Path, *statements: tuple[str, tuple[Any, ...]]) -> None:
    """Rows as another program, or an older one, may have left them."""
    link = sqlite3.connect(folder / "store.db")
    with link:
        for statement, values in statements:
            link.execute(statement, values)
    link.close()


ITEM = "INSERT INTO items (id, version, columns, received) VALUES (?, ?, ?, 1)"
PLACEMENT = "INSERT INTO placements (id, version, columns, received) VALUES (?, ?, ?, 1)"


def set_aside(client: Any) -> dict[str, dict[str, str]]:
    answer = client.get("/ready")
    assert answer.status_code == 200, answer.text
    return {entry["what"]: entry for entry in answer.json().get("set_aside", [])}


def works(client: Any, mark: str) -> None:
    """Lists answer, and a good item that is written now is listed."""
    assert listed(client, user="u1", k=10)
    assert client.put(f"/v1/items/{mark}", json={"title": mark, "price": 1.0}).status_code == 200
    eventually(lambda: mark in listed(client, k=100))
    event = {"events": [{"user": "u1", "item": "i1"}]}
    assert client.post("/v1/events", json=event).json()["rejected"] == 0


def test_rows_that_do_not_fit_keep_no_other_out(start: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start()
    rows(
        tmp_path,
        (ITEM, ("secret-1", 1, '{"price": [1, 2], "title": "bad price"}')), (ITEM, ("y", 1, '{"tags": ["a"]}')),
        (ITEM, ("x", 1, '{"tags": "a", "x": 1}')), (ITEM, ("z", 1, '{"x": [1]}')), (ITEM, ("i1", 1, "[1, 2]")),
        (ITEM, ("i2", 1, '{"title": "good"}')), (ITEM, ("i2", 2, "not json")), (ITEM, ("i3", 1, '{"hidden": "true"}')),
        (ITEM, ("i4", 1, '{"title": "' + "x" * 10 + '", "title": {"a": 1}}')),
    )  # fmt: skip
    client = start()
    found = set_aside(client)
    assert {"items.price", "items.x", "items.title"} <= set(found)
    assert sum(what.startswith("change ") for what in found) == 2
    assert found["items.price"]["reason"].startswith("of 1 items the value is not a number, first in change ")
    assert "PUT /v1/schema" in found["items.price"]["mend"]
    assert "secret-1" not in json.dumps(found) + caplog.text
    works(client, "fresh")
    assert {"x", "y", "z", "secret-1", "i1", "i2"} <= set(listed(client, k=100))
    assert "i3" not in listed(client, k=100)
    assert client.get("/v1/items/i2").json()["columns"]["title"] == "good"
    assert client.put("/v1/items/secret-1", json={"price": 3}).status_code == 200
    assert client.put("/v1/items/i1", json={"title": "whole again"}).status_code == 200
    eventually(lambda: "items.price" not in set_aside(client))


@pytest.mark.slow
def test_versions_that_cannot_be_loaded(start: Open, tmp_path: Path) -> None:
    start()
    bundles = Bundles(tmp_path / "bundles")
    bundles.promote(2)
    for file in (tmp_path / "bundles" / "0002" / "model").rglob("*.json"):
        file.write_text("{}")
    client = start()
    assert client.get("/ready").json()["version"] == 1
    assert set_aside(client)["version 2"]["mend"] == "zhiyin rollback, or zhiyin train"
    works(client, "fresh")
    (tmp_path / "bundles" / "current").write_bytes(b"\x00garbage")
    client = start()
    assert client.get("/ready").json()["version"] == 1
    assert "the file that names the version in use" in set_aside(client)


def test_without_any_version_events_are_kept_and_lists_wait_for_one(start: Open, tmp_path: Path) -> None:
    shutil.move(tmp_path / "bundles", tmp_path / "elsewhere")
    client = start()
    answer = client.get("/ready")
    assert (answer.status_code, answer.json()["status"]) == (503, "no version")
    for asked in (client.post("/v1/recommendations", json={}), client.get("/v1/popular"), client.get("/v1/items")):
        assert (asked.status_code, asked.json()["error"]) == (503, "no version can answer")
        assert "Retry-After" in asked.headers
    assert client.get("/health").status_code == client.get("/metrics").status_code == 200
    event = {"events": [{"user": "u1", "item": "i1"}]}
    assert client.post("/v1/events", json=event).json()["rejected"] == 0
    assert len(client.get("/v1/users/u1/history").json()["events"]) == 1
    assert client.put("/v1/items/early", json={"price": 2.5}).status_code == 200
    assert client.delete("/v1/users/u2").status_code == 200
    shutil.move(tmp_path / "elsewhere", tmp_path / "bundles")
    eventually(lambda: client.get("/ready").status_code == 200)
    assert "early" in listed(client, k=100)
    works(client, "fresh")


def test_rules_that_the_catalogue_does_not_allow_show_nothing(start: Open) -> None:
    client = start(Rules(filter="price >= 0 AND NOT adult"))
    found = set_aside(client)
    assert "nothing is shown until then" in found["[rules] filter"]["reason"]
    answer = client.post("/v1/recommendations", json={"user": "u1", "k": 5})
    assert (answer.status_code, answer.json()["items"], answer.json()["degraded"]) == (200, [], ["rules"])
    assert client.get("/v1/popular").json()["items"] == []
    assert client.put("/v1/items/new", json={"adult": False, "price": 1}).status_code == 200  # mends it
    eventually(lambda: "new" in listed(client, k=10))
    assert not set_aside(client)


def test_rules_that_arrange_are_left_out_and_said(start: Open) -> None:
    from zhiyin.pipeline.rules import CapRule

    client = start(Rules(filter="price < 5", caps=(CapRule("seller", 1),), bought={"purchase": "never"}))
    assert set(set_aside(client)) >= {"[rules] caps", "[rules] bought"}
    answer = client.post("/v1/recommendations", json={"user": "u1", "k": 50, "fields": ["price"]}).json()
    assert answer["items"]
    assert all(row["columns"]["price"] < 5 for row in answer["items"])
    assert "rules" in answer["degraded"]


def test_a_version_whose_catalogue_the_rules_do_not_fit_is_not_taken_up(start: Open, tmp_path: Path) -> None:
    client = start(Rules(filter="price >= 0"))
    folder = tmp_path / "bundles" / "0002" / "catalogue"
    import polars as pl

    items = pl.read_ipc((folder / "items.arrow").read_bytes()).drop("price")
    items.write_ipc(folder / "items.arrow")
    (folder / "schema.json").unlink()
    (tmp_path / "bundles" / "current").write_text("2\n")
    eventually(lambda: "version 2" in set_aside(client))
    assert client.get("/ready").json()["version"] == 1
    works(client, "fresh")
    again = start(Rules(filter="price >= 0"))
    assert again.get("/ready").json()["version"] == 1


def test_placements_that_cannot_be_read(start: Open, tmp_path: Path) -> None:
    client = start()
    assert client.put("/v1/placements/good", json={"k": 3}).status_code == 200
    rows(
        tmp_path, (PLACEMENT, ("good", 2, '{"settings": "{\\"k\\": \\"many\\"}", "by": "http"}')),
        (PLACEMENT, ("bad", 1, '{"settings": 3}')), (PLACEMENT, ("worse", 1, "[]")), (PLACEMENT, ("none", 1, "{}")),
        (PLACEMENT, ("gone", 1, '{"settings": "{\\"filter\\": \\"colour = 1\\"}", "by": "http"}')),
    )  # fmt: skip
    client = start()
    found = set_aside(client)
    assert {"placement 'good'", "placement 'bad'", "placement 'none'", "placement 'gone'"} <= set(found)
    assert found["placement 'good'"]["reason"].endswith("; version 1 is used")
    assert len(listed(client, placement="good", k=3)) == 3
    refused = client.post("/v1/recommendations", json={"placement": "bad"})
    assert (refused.status_code, refused.json()["remedy"]) == (400, "PUT /v1/placements/bad")
    works(client, "fresh")
    assert client.put("/v1/placements/bad", json={"k": 2}).status_code == 200
    assert "placement 'bad'" not in set_aside(client)
    assert client.get("/v1/placements").status_code == client.get("/v1/placements/good/versions").status_code == 200


def test_types_that_are_none_do_not_count(start: Open, tmp_path: Path) -> None:
    start()
    statement = "INSERT INTO catalogue_schema (id, version, columns, received) VALUES (?, ?, ?, 1)"
    rows(tmp_path, (statement, ("items/declared", 1, '{"price": "money", "size": "int", "title": 3}')),
         (statement, ("items/odd", 1, "[]")), (statement, ("what", 1, '{"a": "b"}')))  # fmt: skip
    client = start()
    assert {"type of items.price", "type of items.title"} == set(set_aside(client))
    works(client, "fresh")
    assert client.put("/v1/items/a", json={"size": 2.5}).status_code == 400


# -- random JSON to every route that stores something -----------------------------------------------------------------


def value(draw: random.Random, depth: int = 0) -> Any:
    """A JSON value of any kind; often one of a likely kind."""
    kinds = ["text", "int", "float", "bool", "null", "texts", "numbers", "odd"] + (
        ["list", "object"] if depth < 2 else []
    )
    kind = draw.choice(kinds)
    texts = ["", "a", "a|b", "true", "2024-01-01", "5", "x" * 300, "\u0000", "é", "'; --", "NaN", "[1]"]
    if kind == "list":
        return [value(draw, depth + 1) for _ in range(draw.randrange(4))]
    if kind == "object":
        return {draw.choice(NAMES): value(draw, depth + 1) for _ in range(draw.randrange(3))}
    return {
        "text": draw.choice(texts), "int": draw.choice([0, 1, -1, 7, 2**53, 2**63, -(10**30)]),
        "float": draw.choice([0.5, -0.0, 1e308, 5e-324, 3.0]), "bool": draw.random() < 0.5, "null": None,
        "texts": [draw.choice(texts) for _ in range(draw.randrange(3))],
        "numbers": [draw.choice([0, 1, 2.5]) for _ in range(draw.randrange(3))],
        "odd": draw.choice([[], {}, [[]], [None]]),
    }[kind]  # fmt: skip


NAMES = ["price", "title", "genre", "tags", "x", "y", "hidden", "id", "age", "email", "k", "filter", "boosts", "pins",
         "exclude", "diversity", "balance", "explore", "budget", "user", "item", "time", "kind", "value", "events",
         "items",         "name", "scopes", "version", "é", "", "a.b", "user.age"]  # fmt: skip
# Names that stand for nothing of the service itself: its own keys stay.
PLACES = ["i1", "i2", "n1", "n2", "u1", "home", "default", "é", "1"]


def storing_routes(client: Any) -> list[tuple[str, str, list[str]]]:
    """Every route that stores something, and the names its body may have, from the description of the service."""
    described = client.get("/openapi.json").json()
    routes = []
    for path, known in sorted(described["paths"].items()):
        for method in sorted({"post", "put", "patch", "delete"} & known.keys()):
            content = known[method].get("requestBody", {}).get("content", {}).get("application/json", {})
            name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
            own = list(described["components"]["schemas"].get(name, {}).get("properties", {}))
            routes.append((method.upper(), path, own))
    return routes


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_random_json_to_every_storing_route_never_stops_a_start(
    start: Open, kind: str, request: pytest.FixtureRequest
) -> None:
    """Every storing route of the description, whatever it is sent: no answer of 500, and after a restart lists answer
    and good writes count."""
    address = own_schema(request.getfixturevalue("postgres")) if kind == "postgres" else ""
    draw, client = random.Random(f"{kind} store"), start(address=address)
    routes = storing_routes(client)
    assert {path.split("/")[2] for _, path, _ in routes} >= {
        "items", "users", "events", "impressions", "placements", "schema", "keys", "tokens", "recommendations"
    }  # fmt: skip
    accepted: set[tuple[str, str]] = set()
    for round_ in range(2):
        for method, path, own in 8 * routes:
            for name in re.findall(r"{\w+}", path):
                path = path.replace(name, draw.choice(PLACES))
            names = draw.choices(own + draw.sample(NAMES, 6), k=draw.randrange(4))
            body = value(draw) if draw.random() < 0.2 else {name: value(draw) for name in names}
            if path in ("/v1/items", "/v1/users"):
                lines = [json.dumps({"id": draw.choice(["i3", "n3", "n4"]), "columns": body}) for _ in range(2)]
                sent: dict[str, Any] = {
                    "content": "\n".join(lines),
                    "headers": {"content-type": "application/x-ndjson"},
                }
            elif path == "/v1/events" and draw.random() < 0.5:
                more = body if isinstance(body, dict) and draw.random() < 0.5 else {}
                sent = {"json": {"events": [{"user": "u9", "item": "i1", **more} if draw.random() < 0.9 else body]}}
            else:
                sent = {"json": body} if method != "DELETE" else {}
            answer = client.request(method, path, **sent)
            assert answer.status_code < 500, (method, path, body, answer.text)
            if answer.status_code < 300:
                accepted.add((method, path.split("/")[2]))
        client = start(address=address)
        assert client.get("/ready").status_code == 200
        for placement in client.get("/v1/placements").json()["placements"]:
            client.delete(f"/v1/placements/{placement['name']}")  # what it filters is no fault of the start
        works(client, f"fresh{round_}")
    assert accepted >= {("PUT", "items"), ("PATCH", "users"), ("POST", "events"), ("PUT", "placements"),
                        ("DELETE", "users")}  # fmt: skip


def test_doctor_names_what_is_set_aside_with_ids(start: Open, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from zhiyin.cli.main import app

    start()
    rows(
        tmp_path, (ITEM, ("odd-item", 1, '{"price": "cheap"}')), (ITEM, ("i1", 1, "no json")),
        (PLACEMENT, ("bad", 1, '{"settings": 3}')), ("INSERT INTO users (id, version, columns, received) VALUES "
        "('someone', 1, '[]', 1)", ()),
    )  # fmt: skip
    client = start()
    assert sum(what.startswith("change ") for what in set_aside(client)) == 1
    assert "someone" not in json.dumps(set_aside(client))
    (tmp_path / "models").mkdir()
    shutil.copytree(tmp_path / "bundles", tmp_path / "models" / "bundles")
    (tmp_path / "zhiyin.toml").write_text('[rules]\nfilter = "colour = 1"\n')
    asked = ["doctor", "--json", "--config", str(tmp_path / "zhiyin.toml")]
    told = CliRunner().invoke(app, asked, catch_exceptions=False)
    found = {entry["what"]: entry for entry in json.loads(told.stdout)["set aside"]}
    assert found["items.price"]["reason"].endswith(": odd-item")
    assert {"[rules] filter", "placement 'bad'"} <= set(found)
    changes = [entry["reason"] for what, entry in found.items() if what.startswith("change ")]
    assert sorted(changes) == ["it is no JSON object: i1", "it is no JSON object: someone"]
    assert client.put("/v1/items/i1", json={"title": "again"}).status_code == 200
    assert client.put("/v1/users/someone", json={"age": 3}).status_code == 200
    assert not any(what.startswith("change ") for what in set_aside(client))


def test_a_long_compilation_is_logged_and_a_long_start_without_one_is_not(
    start: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    from numba.core import event

    from zhiyin.service import warm_up

    logged, allowed = threading.Event(), threading.Event()
    allow = warm_up._CompilationNotice.allow

    def allow_and_tell(notice: warm_up._CompilationNotice) -> None:
        allow(notice)
        allowed.set()

    def compile_at_last(view: object) -> None:
        assert allowed.wait(60)
        assert not logged.is_set()
        with event.trigger_event("numba:compile"):
            assert logged.wait(60)

    monkeypatch.setattr(warm_up, "NOTICE_SECONDS", 0.0)
    monkeypatch.setattr(warm_up._CompilationNotice, "allow", allow_and_tell)
    monkeypatch.setattr(warm_up, "_warm_up", compile_at_last)
    monkeypatch.setattr(warm_up.log, "info", lambda text, *rest: logged.set() if text == warm_up.COMPILING else None)
    start()
    assert logged.is_set()
