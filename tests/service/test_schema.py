"""Types of catalogue columns over HTTP: what does not fit is refused, and nothing that was accepted stops anything."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("starlette")

from .conftest import client_of, eventually, listed

FEED = (
    ({"tags": ["new", "sale"]}, {"tags": "new"}), ({"x": 1}, {"x": 2.5}),
    ({"d": None}, {"d": 3}), ({"e": []}, {"e": [1]}), ({"price": 3}, {"price": None}),
)  # fmt: skip
REFUSED = (
    ({"tags": "new"}, {"tags": ["new", "sale"]}),
    ({"x": 1}, {"x": [1]}), ({"y": "b"}, {"y": ["a", "b"]}), ({"t": ["a"]}, {"t": [True]}), ({"b": True}, {"b": "x"}),
    ({"x": 1}, {"x": "a"}), ({"n": [1]}, {"n": ["a"]}),
)  # fmt: skip


def reopened(open_shop: Any, client: Any, **how: Any) -> Any:
    """Another process, or a restart, over the same store."""
    shop = open_shop(**how)
    shop.shown = client.keys
    return client_of(shop)


def columns(client: Any, item: str) -> Any:
    return client.get(f"/v1/items/{item}").json()["columns"]


def taken_up(client: Any, item: str, title: str) -> None:
    """A later change of any item is in lists."""
    assert client.put(f"/v1/items/{item}", json={"title": title, "price": 1.0}).status_code == 200
    eventually(lambda: item in listed(client, k=100))
    assert client.get("/v1/items", params={"search": title}).json()["items"][0]["item"] == item


@pytest.mark.parametrize("feed", FEED, ids=str)
def test_what_fits_is_kept_and_later_items_are_listed(service: Any, feed: tuple[dict[str, Any], ...]) -> None:
    for number, row in enumerate(feed):
        assert service.put(f"/v1/items/n{number}", json=row).status_code == 200
    taken_up(service, "later", "canary")
    assert {f"n{number}" for number in range(len(feed))} <= set(listed(service, k=100))


@pytest.mark.parametrize("feed", REFUSED, ids=str)
def test_what_does_not_fit_is_refused_with_column_value_and_type(
    service: Any, feed: tuple[dict[str, Any], ...]
) -> None:
    assert service.put("/v1/items/n0", json=feed[0]).status_code == 200
    answer = service.put("/v1/items/n1", json=feed[1])
    (name, value), said = next(iter(feed[1].items())), answer.json()
    assert (answer.status_code, said["field"]) == (400, name)
    assert repr(name) in said["error"]
    assert str(value) in said["error"]
    assert "PUT /v1/schema" in said["remedy"]
    lines = "\n".join(f'{{"id": "m{n}", "columns": {json.dumps(row)}}}' for n, row in enumerate(feed))
    bulk = service.post("/v1/items", content=lines, headers={"content-type": "application/x-ndjson"}).json()
    assert (bulk["accepted"], [line["line"] for line in bulk["rejected"]]) == (1, [2])
    taken_up(service, "later", "canary")


def test_a_column_of_the_catalogue_keeps_its_type(service: Any) -> None:
    for value in ([1, 2], "12", True):
        answer = service.patch("/v1/items/i1", json={"price": value})
        assert answer.status_code == 400
        assert "column 'price' holds a number" in answer.json()["error"]
    assert service.patch("/v1/items/i1", json={"price": 7, "genre": 5}).status_code == 200
    assert columns(service, "i1") | {"price": 7, "genre": "5"} == columns(service, "i1")


def test_a_bar_in_a_title_changes_nothing(opened: Any) -> None:
    from zhiyin.pipeline.rules import Rules

    rules = Rules(filter="title != 'x' AND genre = 'even'")
    client = client_of(opened(options={"rules": rules}))
    asked = {"filter": "title LIKE '%rocket%' AND genre = 'even'", "k": 100}
    before = listed(client, **asked)
    assert before
    for item in ("i1", "n1"):
        body = {"title": "Alien | Aliens", "genre": "even|odd"}
        assert client.put(f"/v1/items/{item}", json=body).status_code == 200
    assert client.put("/v1/items/n2", json={"title": "rocket | planet", "genre": "even"}).status_code == 200
    eventually(lambda: "n2" in listed(client, **asked))
    assert listed(client, filter="title = 'rocket | planet'") == ["n2"]
    assert set(before) <= set(listed(client, **asked))
    again = reopened(opened, client, options={"rules": rules})
    assert "n2" in listed(again, **asked)


@pytest.mark.parametrize(
    ("mark", "hides"), [("true", True), ("Yes", True), (1, True), (True, True), ("false", False), (0, False)]
)
def test_marks_of_hidden_items_are_booleans(service: Any, mark: Any, hides: bool) -> None:
    assert service.put("/v1/items/i2", json={"title": "six", "hidden": mark}).status_code == 200
    eventually(lambda: service.live.waiting_items == 0)
    assert ("i2" not in listed(service, k=100)) == hides
    assert columns(service, "i2")["hidden"] is hides
    assert service.put("/v1/items/i2", json={"hidden": "perhaps"}).status_code == 400


def test_of_two_processes_one_decides_the_type(opened: Any) -> None:
    one = client_of(opened(several=True))
    other = reopened(opened, one, several=True)
    assert one.put("/v1/items/a", json={"colour": "red"}).status_code == 200
    assert other.put("/v1/items/b", json={"colour": [1, 2]}).status_code == 400
    assert other.put("/v1/items/b", json={"colour": 5}).status_code == 200
    eventually(lambda: listed(one, filter="colour = '5'") == ["b"] == listed(other, filter="colour = '5'"))


def test_columns_of_users_have_types(service: Any) -> None:
    assert service.put("/v1/users/u1", json={"age": 30, "vip": True}).status_code == 200
    assert service.put("/v1/users/u2", json={"age": "old"}).status_code == 400
    assert service.put("/v1/users/u2", json={"vip": "true"}).status_code == 200
    assert service.get("/v1/users/u2").json()["columns"] == {"vip": True}
    assert listed(service, user="u1", k=3, filter="user.age = 30 AND user.vip")
    assert not listed(service, user="u2", k=3, filter="user.age = 30")


def test_types_are_told_with_their_source_and_declared(opened: Any) -> None:
    from zhiyin.pipeline.rules import Rules

    shop = opened(options={"rules": Rules(filter="price >= 0")})
    client = client_of(shop)
    assert client.put("/v1/items/n1", json={"colour": "red", "size": "7"}).status_code == 200
    said = client.get("/v1/schema").json()
    assert said["items"]["price"] == {"type": "number", "source": "catalogue"}
    assert said["items"]["colour"] == {"type": "text", "source": "first write"}
    assert said["users"] == {}
    assert client.put("/v1/items/n2", json={"size": [1]}).status_code == 200
    assert client.put("/v1/items/n3", json={"size": [1, 2]}).status_code == 400
    eventually(lambda: shop.live.view().seq == shop.store.last_change("items"))
    changed = client.put("/v1/schema", json={"items": {"size": "number"}, "users": {"born": "date"}})
    assert changed.status_code == 200, changed.text
    assert changed.json()["items"]["size"] == {"type": "number", "source": "declared"}
    assert changed.json()["users"] == {"born": {"type": "date", "source": "declared"}}
    assert changed.json()["version"] > said["version"]
    assert [entry["what"] for entry in changed.json()["set_aside"]] == ["items.size"]  # "7" and "1" are texts
    assert client.put("/v1/items/n1", json={"price": 1, "size": 7}).status_code == 200
    eventually(lambda: listed(client, filter="size = 7") == ["n1"])
    assert client.put("/v1/users/u1", json={"born": "yesterday"}).status_code == 400
    back = client.put("/v1/schema", json={"items": {"size": None}}).json()
    assert back["items"]["size"] == {"type": "text", "source": "first write"}
    assert "set_aside" in back
    assert not back["set_aside"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"items": {"price": "money"}}, 422), ({"items": {"price": "texts"}}, 409), ({"items": {"id": "int"}}, 422),
        ({"items": {"hidden": "text"}}, 422), ({"things": {}}, 422), ({"items": {"x": 3}}, 422), ({"items": []}, 422),
        ({"items": {"v": "vector(3)"}}, 200), ({}, 200),
    ],
)  # fmt: skip
def test_declarations_that_cannot_be(opened: Any, body: Any, status: int) -> None:
    from zhiyin.pipeline.rules import Rules

    client = client_of(opened(options={"rules": Rules(filter="price >= 0")}))
    before = client.get("/v1/schema").json()
    answer = client.put("/v1/schema", json=body)
    assert answer.status_code == status, answer.text
    if status != 200:
        assert client.get("/v1/schema").json() == before
    assert listed(client, k=3)


def test_another_process_has_the_types_at_once(opened: Any) -> None:
    one = client_of(opened(several=True))
    other = reopened(opened, one, several=True)
    assert one.put("/v1/schema", json={"items": {"size": "int"}}).status_code == 200
    assert listed(other, filter="size = 3") == []
    assert other.put("/v1/items/n1", json={"size": "3"}).status_code == 400
    assert other.get("/v1/schema").json() == one.get("/v1/schema").json()


@pytest.mark.parametrize("column", ["price", "genre"])
@pytest.mark.parametrize("type", ["texts", "numbers", "vector", "vector(3)", "bool", "date", "time", "piped"])
def test_a_column_of_the_catalogue_can_be_declared_to_be_of_any_type(opened: Any, column: str, type: str) -> None:
    """Items that were changed before are as the catalogue has them in their other columns, in the new type too."""
    client = client_of(opened())
    assert client.patch("/v1/items/i1", json={"hidden": False}).status_code == 200
    taken_up(client, "before", "canary")
    assert client.put("/v1/schema", json={"items": {column: type}}).status_code == 200
    assert client.patch("/v1/items/i2", json={"title": "zebra"}).status_code == 200
    eventually(lambda: client.get("/v1/items", params={"search": "zebra"}).json()["items"])
    again = reopened(opened, client)
    assert again.get("/ready").json()["status"] == "ok"
    assert listed(again, k=5)
    if (column, type) == ("genre", "texts"):
        assert listed(again, k=100, filter="genre IS NOT NULL")
