"""What every store does, whatever database is below it: inherit `StoreConformance` and give an `address`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.store.database import Store
from zhiyin.store.records import Event
from zhiyin.store.writer import StoreBusyError, StoreClosedError, Writer

NOW = 1_700_000_000_000_000


def event(n: int, user: str = "alice", **more: object) -> Event:
    return Event(user, f"film {n}", NOW + n, id=f"{user}-{n}", **more)  # type: ignore[arg-type]


class StoreConformance:
    @pytest.fixture
    def address(self, tmp_path: Path) -> str:
        raise NotImplementedError

    @pytest.fixture
    def store(self, address: str) -> Iterator[Store]:
        opened = Store(address)
        yield opened
        opened.close()

    def test_what_is_kept_comes_back(self, store: Store, address: str) -> None:
        events = [event(1, kind="view", value=2.5, list_id="l1"), event(2), event(3, user="知音 🎧")]
        assert store.append(events) == [True] * 3
        again = Store(address)
        assert again.history("alice") == events[:2]
        assert again.history("知音 🎧") == events[2:]
        assert again.history("nobody") == []
        assert (again.count(), again.last) == (3, store.last)
        again.close()

    def test_a_retry_is_no_second_click(self, store: Store) -> None:
        assert store.append([event(1), event(1), event(2)]) == [True, False, True]
        assert store.append([event(2), event(3)]) == [False, True]
        assert store.count() == 3
        changed = Event("mallory", "other", NOW, id="alice-1")
        assert store.append([changed]) == [False]
        assert store.history("alice")[0] == event(1)

    def test_one_wrong_event_keeps_none(self, store: Store) -> None:
        for wrong in (
            Event("", "a", NOW), Event("a", "x" * 300, NOW), Event("a", "b", -1), Event("a", "b", 1.5),
            Event("a", "b", NOW, value=float("nan")), Event("a\x00", "b", NOW), Event("a", "b", NOW, kind=""),
            Event("\ud800", "b", NOW),
        ):  # fmt: skip
            with pytest.raises(DataError):
                store.append([event(1), wrong])
        assert store.count() == 0

    def test_histories_are_the_newest_oldest_first(self, store: Store) -> None:
        store.append([event(n) for n in (5, 1, 4, 2, 3)])
        assert [e.item for e in store.history("alice", 3)] == ["film 3", "film 4", "film 5"]

    def test_frames_come_in_the_order_of_arrival(self, store: Store) -> None:
        store.append([event(n) for n in (5, 1, 4)])
        store.append([event(2)])
        whole = store.events()
        assert whole["item"].to_list() == ["film 5", "film 1", "film 4", "film 2"]
        assert [part["item"].to_list() for part in store.parts(int(whole["seq"][0]), 2)] == [
            ["film 1", "film 4"], ["film 2"],
        ]  # fmt: skip

    def test_items_have_versions(self, store: Store) -> None:
        assert store.put("items", {"a": {"price": 3, "tags": ["x", "y"]}, "b": {"price": None}}) == {"a": 1, "b": 1}
        assert store.put("items", {"a": {"tags": ["x", "y"], "price": 3}}) == {"a": 1}  # nothing changed
        assert store.put("items", {"a": {"price": 4}, "c": {}}) == {"a": 2, "c": 1}
        assert store.get("items", "a") == ({"price": 4}, 2)
        found, last = store.all("items")
        assert found == {"a": {"price": 4}, "b": {"price": None}, "c": {}}
        assert store.put("items", {"b": None, "never": None}) == {"b": 2, "never": 0}
        assert store.get("items", "b") is None
        assert store.all("items", last)[0] == {"b": None}
        assert store.get("users", "a") is None

    @pytest.mark.parametrize(
        "columns",
        [{"id": "x"}, {"a": {"b": 1}}, {"a": float("inf")}, {"a": 2**60}, {"": 1}, {"a": "\ud800"},
         {"a": "x" * 300_000}, {f"c{n}": 1 for n in range(300)}, [1]],
    )  # fmt: skip
    def test_columns_that_cannot_be(self, store: Store, columns: object) -> None:
        with pytest.raises(DataError):
            store.put("items", {"a": columns})  # type: ignore[dict-item]
        assert store.all("items") == ({}, 0)

    def test_many_writers_lose_nothing(self, store: Store, address: str) -> None:
        def write(name: str) -> None:
            own = Store(address)
            for start in range(0, 60, 10):
                own.append([event(n, user=name) for n in range(start, start + 10)])
                own.put("items", {f"{name}-{start}": {"price": start}})
            own.close()

        threads = [threading.Thread(target=write, args=(f"u{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.count() == 240
        assert len(store.all("items")[0]) == 24
        assert store.events()["seq"].is_sorted()

    def test_retention(self, store: Store) -> None:
        store.append([event(n) for n in range(10)])
        assert store.drop_before(NOW + 4) == 4
        assert [e.item for e in store.history("alice")] == [f"film {n}" for n in range(4, 10)]

    def test_forgotten_is_forgotten(self, store: Store) -> None:
        store.append([event(1), event(2, user="bob")])
        store.put("users", {"alice": {"age": 30}, "bob": {"age": 40}})
        proof = store.forget("alice")
        assert {name: n for name, n in proof.items() if n} == {"events removed": 1, "versions removed": 1}
        assert {f"{what} found" for what in ("events", "versions", "lists", "impressions")} <= set(proof)
        assert store.history("alice") == []
        assert store.get("users", "alice") is None
        assert store.history("bob") == [event(2, user="bob")]

    def test_exported_and_loaded(self, store: Store, tmp_path: Path) -> None:
        store.append([event(n, value=float(n)) for n in range(5)])
        store.put("items", {"a": {"title": "知音"}, "gone": {}})
        store.put("items", {"gone": None})
        store.export(tmp_path / "out")
        other = Store(tmp_path / "other.db")
        assert other.load(tmp_path / "out") == 5
        assert other.load(tmp_path / "out") == 0
        assert other.history("alice") == store.history("alice")
        assert other.all("items")[0] == {"a": {"title": "知音"}}
        with pytest.raises(DataError, match="export"):
            other.load(tmp_path)

    def test_a_writer_gathers(self, store: Store) -> None:
        writer = Writer(store)
        done = [writer.submit([event(n), event(n + 1_000)]) for n in range(200)]
        assert all(future.result(20) == [True, True] for future in done)
        assert store.count() == 400
        assert writer.submit([event(0), event(5_000)]).result(20) == [False, True]
        with pytest.raises(DataError):
            writer.submit([Event("", "a", NOW)])
        last = writer.submit([event(6_000)])
        writer.close()
        assert last.result(0) == [True]
        assert writer.waiting == 0
        with pytest.raises(StoreClosedError):
            writer.submit([event(7_000)])

    def test_a_writer_refuses_what_it_cannot_hold(self, store: Store) -> None:
        writer = Writer(store, waiting=3)
        with pytest.raises(StoreBusyError):
            writer.submit([event(n) for n in range(4)])
        assert store.count() == 0
        assert writer.submit([event(1)]).result(20) == [True]
        writer.close()

    def test_a_store_of_another_format(self, store: Store, address: str) -> None:
        import sqlalchemy as sa

        with store._engine.begin() as link:
            link.execute(sa.text("UPDATE meta SET value = '99'"))
        with pytest.raises(ConfigError, match="format 99"):
            Store(address)
