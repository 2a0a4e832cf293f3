"""Changes at the same time: two patches, a patch while a version is made, somebody forgotten while it is made."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import polars as pl
import pytest

pytest.importorskip("starlette")

import zhiyin.store.training_export as training

from .conftest import click, eventually, listed
from .learning_shop import ALWAYS, DAY, ITEMS, NOW, Shop, a_shop, frame, learned, served

SECOND = 1_000_000
LOG = [*ALWAYS, *(("u1", f"i{n}", NOW - n * DAY, "view", None) for n in (2, 3))]


@pytest.fixture
def shop() -> Iterator[Shop]:
    """Items and users with columns of the files; `u2` has no event."""
    with a_shop(frame(LOG)) as made:
        made.items = pl.DataFrame({"id": ITEMS, "genre": ["a", "b"] * 3, "price": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]})
        made.users = pl.DataFrame({"id": ["u0", "u1", "u2"], "city": ["x", "y", "z"], "age": [1, 2, 3]})
        made.train()
        yield made


def at_once(*works: Callable[[], Any]) -> None:
    """All of them in threads that begin together."""
    barrier, failed = threading.Barrier(len(works)), []

    def work(do: Callable[[], Any]) -> None:
        barrier.wait(20)
        try:
            do()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(do,)) for do in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed


@contextmanager
def training_held_at(shop: Shop, monkeypatch: pytest.MonkeyPatch, moment: str) -> Iterator[None]:
    """A version is made in a thread that stops at a moment for as long as the block takes, and is in use after it."""
    reached, go = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        assert go.wait(60)

    if moment == "before the items are read":
        things = training._newest_columns
        monkeypatch.setattr(training, "_newest_columns", lambda store, name: (hold() if name == "items" else None,
                                                                      things(store, name))[1])  # fmt: skip
    elif moment == "before who was forgotten is read":
        gone = shop.store.forgotten_by_hash
        monkeypatch.setattr(shop.store, "forgotten_by_hash", lambda: (hold(), gone())[1])
    else:
        whole = shop.read
        monkeypatch.setattr(shop, "read", lambda: (whole(), hold())[0])
    thread = threading.Thread(target=shop.train)
    thread.start()
    try:
        assert reached.wait(60)
        yield
    finally:
        go.set()
        thread.join(60)
    monkeypatch.undo()


MOMENTS = ["before the items are read", "before who was forgotten is read", "after everything is read"]


@pytest.mark.parametrize("table", ["items", "users"])
def test_of_patches_at_once_all_count(shop: Shop, table: str) -> None:
    with shop.serving() as client:
        key = "i4" if table == "items" else "u1"

        def patch(columns: dict[str, Any]) -> Callable[[], Any]:
            return lambda: client.patch(f"/v1/{table}/{key}", json=columns).raise_for_status()

        for step in range(5):
            at_once(*(patch({f"c{n}": 10 * step + n}) for n in range(4)), patch({"price": 7.0 + step}))
        columns, version = client.store.get(table, key)
        assert columns == {f"c{n}": 40 + n for n in range(4)} | {"price": 11.0}
        assert version == 25


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_patch_beside_training_changes_what_it_names_and_no_more(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    with shop.serving() as client:
        client.patch("/v1/items/i2", json={"price": 9.0}).raise_for_status()
        shop.items = shop.items.with_columns(genre=pl.Series(["new"] * 6))  # the file is written again
        shop.users = shop.users.with_columns(city=pl.Series(["w"] * 3))  # type: ignore[union-attr]
        with training_held_at(shop, monkeypatch, moment):
            at_once(
                lambda: client.patch("/v1/items/i3", json={"price": 8.0, "genre": None}).raise_for_status(),
                lambda: client.patch("/v1/items/i2", json={"stock": 4}).raise_for_status(),
                lambda: client.patch("/v1/users/u1", json={"age": 9}).raise_for_status(),
            )
            assert client.get("/v1/items/i2").json()["columns"] == {"genre": "a", "price": 9.0, "stock": 4}
        eventually(lambda: client.live.now.version == 2)
        expected = {
            "i1": {"genre": "new", "price": 2.0}, "i2": {"genre": "new", "price": 9.0, "stock": 4},
            "i3": {"price": 8.0},
        }  # fmt: skip
        for item, columns in expected.items():
            assert client.get(f"/v1/items/{item}").json()["columns"] == columns, item
            eventually(lambda item=item, columns=columns: client.live.now.columns_of(item) == columns)
        assert client.get("/v1/users/u1").json()["columns"] == {"city": "w", "age": 9}
        assert listed(client, k=6, filter="price = 8") == ["i3"]
        assert set(listed(client, k=6, filter="genre = 'new'", exclude_seen=False)) == {"i0", "i1", "i2", "i4", "i5"}
        third = shop.train()  # the store's columns and the file's are one catalogue
        rows = {row.pop("id"): row for row in third.items.iter_rows(named=True)}
        assert rows["i2"] == {"genre": "new", "price": 9.0, "stock": 4}
        assert rows["i3"] == {"genre": None, "price": 8.0, "stock": None}


@pytest.mark.slow
def test_put_leaves_nothing_of_the_file(shop: Shop) -> None:
    with shop.serving() as client:
        client.put("/v1/items/i2", json={"price": 9.0}).raise_for_status()
        client.put("/v1/items/new", json={"price": 1.0, "genre": "c"}).raise_for_status()
        client.patch("/v1/items/new", json={"stock": 2}).raise_for_status()
        client.put("/v1/items/new", json={"stock": 3}).raise_for_status()
        for version in (1, 2):
            assert client.get("/v1/items/i2").json()["columns"] == {"price": 9.0}
            assert client.get("/v1/items/new").json()["columns"] == {"stock": 3}
            eventually(lambda: client.live.now.columns_of("i2") == {"price": 9.0})
            eventually(lambda: client.live.now.columns_of("new") == {"stock": 3})
            if version == 1:
                shop.train()
                eventually(lambda: client.live.now.version == 2)
        client.delete("/v1/items/i2").raise_for_status()
        assert client.get("/v1/items/i2").status_code == 404
        client.patch("/v1/items/i2", json={"stock": 1}).raise_for_status()
        assert client.get("/v1/items/i2").json()["columns"]["stock"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_who_is_forgotten_beside_training_is_a_stranger_to_the_new_version(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    with shop.serving() as client:
        click(client, {"user": "u1", "item": "i4", "kind": "purchase"}, {"user": "u0", "item": "i4"})
        assert len(served(client, "u1")) == 3
        shop.now += SECOND
        with training_held_at(shop, monkeypatch, moment):
            shop.now += 5 * SECOND
            at_once(
                lambda: client.delete("/v1/users/u1").raise_for_status(),
                lambda: click(client, {"user": "u0", "item": "i5"}).raise_for_status(),
            )
            assert served(client, "u1") == []
        eventually(lambda: client.live.now.version == 2)
        assert served(client, "u1") == []
        assert client.get("/v1/users/u1/history").json()["events"] == []
        assert client.get("/v1/users/u1").status_code == 404
        assert listed(client, user="u1", k=6, filter="user.city = 'y'", exclude_seen=False) == []
        assert len(listed(client, user="u0", k=6, filter="user.city = 'x'", exclude_seen=False)) == 6
        assert listed(client, user="u1", k=6) == listed(client, user="nobody", k=6)
        assert [row[0] for row in served(client, "u0")] == ["i0", "i1", "i4", "i5"]
        shop.now += 5 * SECOND
        click(client, {"user": "u1", "item": "i0", "time": NOW - 300 * DAY})  # who comes back is somebody new
        assert [row[0] for row in served(client, "u1")] == ["i0"]
        third = shop.train()
        eventually(lambda: client.live.now.version == 3)
        assert [row[0] for row in learned(third, "u1")] == ["i0"]
        assert served(client, "u1") == learned(third, "u1")


def test_columns_read_before_a_change_are_not_held_after_it(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change, or a forgetting, is committed between the reading of a user's columns and their being held."""
    for change, expected in (
        (lambda: service.put("/v1/users/ann", json={"city": "y"}), {"city": "y"}),
        (lambda: service.delete("/v1/users/ann"), {}),
    ):
        service.put("/v1/users/ann", json={"city": "x"}).raise_for_status()
        read = service.store.get

        def get(table: str, key: str, read: Any = read, change: Any = change) -> Any:
            found = read(table, key)
            monkeypatch.undo()
            change().raise_for_status()
            return found

        monkeypatch.setattr(service.store, "get", get)
        assert service.live.user_columns("ann") == {"city": "x"}
        assert service.live.user_columns("ann") == expected


def test_a_history_made_before_a_forgetting_is_not_held_after_it(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from zhiyin.service.version_view import View

    live, make = service.live, View.user_history

    def past(self: Any, *args: Any) -> Any:
        found = make(self, *args)
        monkeypatch.undo()
        service.delete("/v1/users/u1").raise_for_status()
        return found

    monkeypatch.setattr(View, "user_history", past)
    assert len(live.user_history(live.now, "u1").history.items)
    assert not len(live.user_history(live.now, "u1").history.items)
