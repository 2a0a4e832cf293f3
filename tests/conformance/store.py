"""What every store does, whatever database is below it: inherit `StoreConformance` and give an `address`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.store.column_types import add_first, declare, stored_types
from zhiyin.store.group_commit import GroupCommitWriter, StoreBusyError, StoreClosedError
from zhiyin.store.records import Event
from zhiyin.store.store import Store
from zhiyin.store.tables import VERSIONED_TABLES
from zhiyin.store.trace_writer import TraceWriter
from zhiyin.store.traces import Trace

NOW = 1_700_000_000_000_000


def event(n: int, user: str = "alice", **more: object) -> Event:
    return Event(user, f"film {n}", NOW + n, id=f"{user}-{n}", **more)  # type: ignore[arg-type]


def trace(n: int, user: str | None = "alice", **more: object) -> Trace:
    scores = {"scores": np.arange(n, dtype=np.float32), "items": np.arange(6).reshape(2, 3), "one": np.float64(0.5)}
    head = {"request": {"user": user, "k": n}, "method": "知音"}
    made = {"head": head, "arrays": scores, "version": 3, "placement": "home"} | more
    return Trace(f"list {n}", user, NOW + n, **made)  # type: ignore[arg-type]


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for what another thread is about to do."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


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
        assert (again.count(), again.last_seq) == (3, store.last_seq)
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
        assert [e.item for e in store.history("alice", 3)] == ["film 2", "film 3", "film 4"]  # those that came last
        assert [e.seq for e in store.history("alice", 3)] == [4, 5, 3]

    def test_frames_come_in_the_order_of_arrival(self, store: Store) -> None:
        store.append([event(n) for n in (5, 1, 4)])
        store.append([event(2)])
        whole = store.events()
        assert whole["item"].to_list() == ["film 5", "film 1", "film 4", "film 2"]
        assert [part["item"].to_list() for part in store.event_batches(int(whole["seq"][0]), 2)] == [
            ["film 1", "film 4"], ["film 2"],
        ]  # fmt: skip

    def test_items_have_versions(self, store: Store) -> None:
        assert store.put("items", {"a": {"price": 3, "tags": ["x", "y"]}, "b": {"price": None}}) == {"a": 1, "b": 1}
        assert store.put("items", {"a": {"tags": ["x", "y"], "price": 3}}) == {"a": 1}  # nothing changed
        assert store.put("items", {"a": {"price": 4}, "c": {}}) == {"a": 2, "c": 1}
        assert store.get("items", "a") == ({"price": 4}, 2)
        found, last = store.changes_since("items")
        assert found == {"a": {"price": 4}, "b": {"price": None}, "c": {}}
        assert store.put("items", {"b": None, "never": None}) == {"b": 2, "never": 0}
        assert store.get("items", "b") is None
        assert store.changes_since("items", last)[0] == {"b": None}
        assert store.get("users", "a") is None

    def test_a_patch_keeps_what_it_does_not_name(self, store: Store) -> None:
        assert store.patch("items", {"a": {"price": 3, "hidden": True}, "b": {}}) == {"a": 1, "b": 1}
        assert store.patch("items", {"a": {"tags": ["x"]}}) == {"a": 2}
        assert store.patch("items", {"a": {"price": 3}}) == {"a": 2}  # nothing changed
        assert store.patch("items", {"a": {"price": None}}) == {"a": 3}
        assert store.get("items", "a") == ({"price": None, "hidden": True, "tags": ["x"]}, 3)
        store.put("items", {"a": None})
        assert store.is_deleted("items", "a")
        assert store.patch("items", {"a": {"price": 4}}) == {"a": 5}
        assert store.get("items", "a") == ({"price": 4}, 5)
        assert not store.is_deleted("items", "a")
        assert not store.is_deleted("items", "never")
        with pytest.raises(DataError):
            store.patch("items", {"a": {"id": "x"}})

    def test_what_replaces_columns_says_which_are_gone(self, store: Store) -> None:
        store.put("items", {"a": {"price": 3, "hidden": True}})
        assert store.replace("items", {"a": {"size": 1}, "b": {"size": 2}}, {"a": ["genre", "size"]}) == {
            "a": 2,
            "b": 1,
        }
        assert store.get("items", "a") == ({"genre": None, "price": None, "size": 1}, 2)
        assert store.get("items", "b") == ({"size": 2}, 1)
        assert store.replace("items", {"a": None}, {}) == {"a": 3}

    def test_patches_of_several_programs_all_count(self, store: Store, address: str) -> None:
        programs = [store, Store(address), Store(address)]
        for step in range(5):
            barrier = threading.Barrier(6)

            def patch(number: int, step: int = step, barrier: threading.Barrier = barrier) -> None:
                barrier.wait(20)
                programs[number % 3].patch("items", {"a": {f"c{number}": step}, f"own {number}": {"n": step}})

            with ThreadPoolExecutor(6) as pool:
                for done in [pool.submit(patch, number) for number in range(6)]:
                    done.result(60)
        assert store.get("items", "a") == ({f"c{n}": 4 for n in range(6)}, 30)
        assert [version for version, _, _ in store.versions("items", "a")] == list(range(30, 0, -1))
        for program in programs[1:]:
            program.close()

    @pytest.mark.parametrize(
        "columns",
        [{"id": "x"}, {"a": {"b": 1}}, {"a": float("inf")}, {"a": 2**60}, {"": 1}, {"a": "\ud800"},
         {"a": "x" * 300_000}, {f"c{n}": 1 for n in range(300)}, [1]],
    )  # fmt: skip
    def test_columns_that_cannot_be(self, store: Store, columns: object) -> None:
        with pytest.raises(DataError):
            store.put("items", {"a": columns})  # type: ignore[dict-item]
        assert store.changes_since("items") == ({}, 0)

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
        assert len(store.changes_since("items")[0]) == 24
        assert store.events()["seq"].is_sorted()

    def test_retention(self, store: Store) -> None:
        store.append([event(n) for n in range(10)])
        assert store.drop_events_before(NOW + 4) == 4
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
        assert other.changes_since("items")[0] == {"a": {"title": "知音"}}
        with pytest.raises(DataError, match="export"):
            other.load(tmp_path)

    def test_a_writer_gathers(self, store: Store) -> None:
        writer = GroupCommitWriter(store)
        done = [writer.submit([event(n), event(n + 1_000)]) for n in range(200)]
        assert sorted(seq for future in done for seq in future.result(20)) == list(range(1, 401))
        assert store.count() == 400
        assert writer.submit([event(0), event(5_000)]).result(20) == [0, store.last_seq]
        with pytest.raises(DataError):
            writer.submit([Event("", "a", NOW)])
        last = writer.submit([event(6_000)])
        writer.close()
        assert last.result(0) == [store.last_seq]
        assert writer.waiting == 0
        with pytest.raises(StoreClosedError):
            writer.submit([event(7_000)])

    def test_a_writer_refuses_what_it_cannot_hold(self, store: Store) -> None:
        writer = GroupCommitWriter(store, waiting=3)
        with pytest.raises(StoreBusyError):
            writer.submit([event(n) for n in range(4)])
        assert store.count() == 0
        assert writer.submit([event(1)]).result(20) == [1]
        writer.close()

    def test_a_request_that_cannot_be_kept_costs_the_others_nothing(self, store: Store) -> None:
        """What no check has found, a database may still refuse: then requests are committed apart."""
        writer, gate = GroupCommitWriter(store), threading.Event()
        keep = store.append_validated

        def slow(rows: Sequence[Event]) -> list[int]:
            assert gate.wait(20)
            return keep(rows)

        store.append_validated = slow  # type: ignore[method-assign]
        first = writer.submit([event(0)])  # holds the writer while the others gather
        bad = Event("half \ud800", "film", NOW, id="bad")
        futures = [writer.submit([bad if n == 13 else event(n)], validated=True) for n in range(1, 40)]
        gate.set()
        assert all(first.result(20))
        for n, future in enumerate(futures, 1):
            if n == 13:
                assert isinstance(future.exception(20), Exception)
            else:
                assert all(future.result(20))
        writer.close()
        assert store.count() == 39
        assert writer.waiting == 0

    def test_a_store_of_another_format(self, store: Store, address: str) -> None:
        import sqlalchemy as sa

        with store._engine.begin() as link:
            link.execute(sa.text("UPDATE meta SET value = '99'"))
        with pytest.raises(ConfigError, match="format 99"):
            Store(address)

    def test_a_value_beyond_all_floats(self, store: Store) -> None:
        with pytest.raises(DataError, match="value"):
            store.append([event(1, value=10**400)])
        for value in (2**53, 2.0**53, 2**63, 2**64 - 1, -(2**70), 1e300, float("inf")):
            with pytest.raises(DataError, match="value"):
                store.append([event(1, value=value)])
        assert all(store.append([event(9, user="bob", value=1 - 2**53)]))
        assert store.history("bob")[0].value == 1 - 2.0**53
        assert store.append([event(1, value=7), event(2, value=None), event(3, value=0.5)]) == [True] * 3
        assert [e.value for e in store.history("alice")] == [7.0, None, 0.5]

    def test_batches_of_any_size(self, store: Store) -> None:
        done = 0
        for size in (0, 1, 9, 10, 11, 99, 100, 101, 237):
            batch = [event(n) for n in range(done, done + size)]
            assert store.append_validated(batch) == store.events(store.last_seq - size)["seq"].to_list()
            assert store.append_validated(batch) == [0] * size
            done += size
        first = store.append_validated([event(done), event(3), event(done + 1), event(done)])
        assert [seq > 0 for seq in first] == [True, False, True, False]
        assert [seq for seq in first if seq] == store.events()["seq"].to_list()[-2:]
        assert store.append_validated([event(5), event(done + 2), event(done + 1)]) == [0, store.last_seq, 0]
        assert store.events()["item"].to_list() == [f"film {n}" for n in range(done + 3)]

    def test_history_and_forgetting_in_one_look(self, store: Store) -> None:
        assert store.recent_events("alice", 5) == ([], 0)
        store.append([event(n) for n in (3, 1, 2)])
        assert store.recent_events("alice", 2) == (store.history("alice", 2), 0)
        assert [e.item for e in store.recent_events("alice", 2)[0]] == ["film 1", "film 2"]  # those that came last
        after = store.events()["seq"][0]
        assert [e.item for e in store.recent_events("alice", 5, after)[0]] == ["film 1", "film 2"]
        assert store.recent_events("alice", 5, store.last_seq) == ([], 0)
        store.forget("alice")
        events, when = store.recent_events("alice", 5)
        assert events == []
        assert when == store.forgotten_at("alice") == next(iter(store.forgotten_by_hash().values())) > NOW
        store.append([event(9)])
        assert store.recent_events("alice", 5) == ([event(9)], when)

    def test_what_is_read_is_an_event(self, store: Store) -> None:
        store.append([event(1)])
        for found in (*store.history("alice"), *store.recent_events("alice")[0]):
            assert type(found) is Event
            assert hash(found) == hash(event(1))
            with pytest.raises(AttributeError):
                found.user = "bob"  # type: ignore[misc]

    def test_threads_read_while_others_write(self, store: Store) -> None:
        wrong: list[object] = []

        def read() -> None:
            seen = 0
            while seen < 100:
                found = store.recent_events("alice", 1_000)[0]
                if len(found) < seen or [e.time for e in found] != sorted(e.time for e in found):
                    wrong.append(found)
                seen = len(found)

        readers = [threading.Thread(target=read, daemon=True) for _ in range(4)]
        for thread in readers:
            thread.start()
        for n in range(100):
            store.append([event(n)])
        for thread in readers:
            thread.join(30)
            assert not thread.is_alive()
        assert not wrong

    # -- placements ----------------------------------------------------------------------------------------------------

    def test_placements_have_versions(self, store: Store) -> None:
        assert [store.last_change(name) for name in ("items", "users", "placements")] == [0, 0, 0]
        assert store.put("placements", {"home": {"settings": '{"k": 5}'}}) == {"home": 1}
        first = store.last_change("placements")
        store.put("placements", {"home": {"settings": '{"k": 7}'}, "basket": {"settings": "{}"}})
        store.put("placements", {"home": None})
        assert store.last_change("placements") > first
        assert store.last_change("items") == 0
        assert store.changes_since("placements", until=first) == ({"home": {"settings": '{"k": 5}'}}, first)
        assert store.changes_since("placements", first, store.last_change("placements") - 1)[0] == {
            "home": {"settings": '{"k": 7}'}, "basket": {"settings": "{}"},
        }  # fmt: skip
        versions = store.versions("placements", "home")
        assert [(n, said) for n, said, _ in versions] == [
            (3, None), (2, {"settings": '{"k": 7}'}), (1, {"settings": '{"k": 5}'}),
        ]  # fmt: skip
        assert all(when > NOW for _, _, when in versions)
        assert store.versions("placements", "nowhere") == []
        for wrong in (store.last_change, store.changes_since, lambda name: store.versions(name, "a")):
            with pytest.raises(ConfigError, match="no table"):
                wrong("events; drop")  # type: ignore[operator]

    def test_how_far_it_has_come_is_one_look(self, store: Store) -> None:
        before = store.change_marks()
        assert set(before) == {0}
        store.put("items", {"x": {"price": 1}})
        store.put("placements", {"home": {"settings": "{}"}})
        store.put("experiments", {"ranker": {"settings": "{}"}})
        store.forget("somebody")
        store.put_links({("a", "b"): 1.0})
        after = store.change_marks()._asdict()
        others = {"forgettings": store.forget_count(), "links": store.last_link_change()}
        assert after == {name: store.last_change(name) for name in after if name not in others} | others
        changed = {name for name, mark in after.items() if mark > 0}
        assert changed == {"items", "placements", "experiments", "forgettings", "links"}
        assert [moment > 0 for moment in store.forgotten_at_each(["nobody", "somebody"])] == [False, True]
        assert store.forgotten_at_each(["somebody"]) == [store.forgotten_at("somebody")]

    def test_of_two_first_writers_one_decides_the_type(self, store: Store, address: str) -> None:
        types, programs = ["number", "text", "bool", "texts"], [Store(address) for _ in range(4)]
        try:
            with ThreadPoolExecutor(4) as pool:
                found = list(pool.map(lambda at: add_first(programs[at], "items", {"x": types[at]}), range(4)))
        finally:
            for program in programs:
                program.close()
        assert len({one["x"] for one in found}) == 1
        assert stored_types(store).first.items == found[0]
        declare(store, {"items": {"x": "int", "y": "date"}, "users": {}})
        assert stored_types(store).declared.items == {"x": "int", "y": "date"}
        declare(store, {"items": {"x": None}})
        assert stored_types(store).declared.items == {"y": "date"}
        assert stored_types(store).version == store.last_change("catalogue_schema")
        with pytest.raises(DataError, match="columns besides those of the catalogue"):
            add_first(store, "items", {f"c{number}": "text" for number in range(1_001)})

    def test_types_are_exported_and_loaded(self, store: Store, tmp_path: Path) -> None:
        add_first(store, "items", {"x": "number"})
        declare(store, {"items": {"y": "date"}})
        store.put("items", {"a": {"x": 3}})
        other = Store(tmp_path / "other.db")
        try:
            other.load(store.export(tmp_path / "export"))
            assert (stored_types(other).first, stored_types(other).declared) == (
                stored_types(store).first, stored_types(store).declared,
            )  # fmt: skip
        finally:
            other.close()

    def test_rows_that_are_no_columns_keep_no_other_out(self, store: Store) -> None:
        store.put("items", {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 3}})
        store.put("items", {"a": {"x": 4}})
        with store.writing() as link:
            newest = sa.update(VERSIONED_TABLES["items"]).where(VERSIONED_TABLES["items"].c.version == 2)
            link.execute(newest.values(columns="no json"))
            link.execute(
                sa.update(VERSIONED_TABLES["items"]).where(VERSIONED_TABLES["items"].c.id == "b").values(columns="[1]")
            )
        seqs: list[int] = []
        found, last = store.changes_since("items", unreadable=seqs)
        assert found == {"a": {"x": 1}, "c": {"x": 3}}
        assert [store.id_of_change("items", seq) for seq in seqs] == ["b", "a"]
        assert last == store.last_change("items") == store.last_change_of("items", "a")
        assert store.get("items", "a") == ({"x": 1}, 1)
        assert store.get("items", "b") is None
        assert store.patch("items", {"a": {"y": 5}}) == {"a": 3}
        assert store.get("items", "a") == ({"x": 1, "y": 5}, 3)

    def test_no_seq_is_used_twice(self, store: Store) -> None:
        store.put("users", {"bob": {"a": 1}, "alice": {"a": 1}})
        store.append([event(1, user="bob"), event(2)])
        users, events = store.last_change("users"), store.last_seq
        store.forget("alice")
        store.put("users", {"carol": {"a": 1}})
        store.append([event(3, user="carol")])
        assert store.changes_since("users", users)[0] == {"carol": {"a": 1}}
        assert store.events(events)["user"].to_list() == ["carol"]

    # -- lists ---------------------------------------------------------------------------------------------------------

    def test_traces_come_back(self, store: Store) -> None:
        assert store.append_traces([trace(1), trace(2, user=None, arrays={}), trace(3, user="bob")]) == 3
        found = store.trace("list 1")
        assert found is not None
        assert (found.user, found.time, found.version, found.placement) == ("alice", NOW + 1, 3, "home")
        assert found.head == {"request": {"user": "alice", "k": 1}, "method": "知音"}
        for name, array in trace(1).arrays.items():
            assert found.arrays[name].dtype == np.asarray(array).dtype
            np.testing.assert_array_equal(found.arrays[name], array)
        other = store.trace("list 2")
        assert other is not None
        assert (other.user, other.arrays) == (None, {})
        assert store.trace("list 9") is None
        assert store.append_traces([trace(1, version=9)]) == 0
        assert [t.list_id for t in store.traces()] == ["list 1", "list 2", "list 3"]
        assert [t.list_id for t in store.traces(after_time=NOW + 1, limit=1)] == ["list 2"]
        assert [t.list_id for t in store.traces("bob")] == ["list 3"]

    @pytest.mark.parametrize(
        "more",
        [{"head": {"a": float("nan")}}, {"head": {"a": np.float32(1)}}, {"head": {"a": "\ud800"}},
         {"head": {"a": "x" * 5_000_000}}, {"arrays": {"a": np.array(["text"])}}, {"arrays": {"a": [object()]}},
         {"placement": ""}],
    )  # fmt: skip
    def test_traces_that_cannot_be(self, store: Store, more: dict[str, object]) -> None:
        with pytest.raises(DataError):
            store.append_traces([trace(1), trace(2, **more)])
        assert store.traces() == []

    def test_impressions_and_events_of_a_list(self, store: Store) -> None:
        store.append_impression("l1", NOW + 5, ["b", "知音"])
        store.append_impression("l1", NOW, ["a"])
        store.append_impression("l1", NOW, ["a"])  # a retry
        assert store.impressions("l1") == [(NOW, ["a"]), (NOW + 5, ["b", "知音"])]
        assert store.impressions("l2") == []
        with pytest.raises(DataError):
            store.append_impression("l1", NOW, [""])
        store.append([event(2, list_id="l1"), event(1, list_id="l1"), event(3, list_id="l2"), event(4)])
        assert store.events_of_list("l1") == [event(2, list_id="l1"), event(1, list_id="l1")]

    def test_old_lists_go(self, store: Store) -> None:
        store.append_traces([trace(n) for n in range(1, 8)])
        for n in (2, 6, 50):
            store.append_impression(f"list {n}", NOW + n, ["a"])
        store.append_impression("list 3", NOW + 100, ["a"])
        store.append_impression("never kept", NOW + 1, ["a"])
        assert store.drop_lists_before(NOW + 5) == 4
        assert [t.list_id for t in store.traces()] == ["list 5", "list 6", "list 7"]
        left = [f"list {n}" for n in range(60) if store.impressions(f"list {n}")]
        assert left == ["list 6", "list 50"]
        assert store.impressions("never kept") == []
        assert store.drop_lists_before(NOW + 5) == 0

    def test_lists_of_the_forgotten_are_gone(self, store: Store) -> None:
        named = trace(3, user=None, head={"request": {"user": "alice"}})
        item = trace(4, user="bob", head={"request": {"user": "bob"}, "items": ["alice"], "last": "alice2"})
        store.append_traces([trace(1), trace(2, user="bob"), named, item])
        for n in (1, 2, 3, 4):
            store.append_impression(f"list {n}", NOW + n, ["a"])
        store.append_impression("lost", NOW, ["a"])
        store.append([event(1, list_id="list 1"), event(2, list_id="lost"), event(3, list_id="list 2")])
        proof = store.forget("alice")
        assert proof["lists removed"] == 2
        assert proof["impressions removed"] == 3
        assert {n for name, n in proof.items() if name.endswith("found")} == {0}
        assert [t.list_id for t in store.traces()] == ["list 2", "list 4"]
        assert [bool(store.impressions(name)) for name in ("list 1", "list 2", "list 3", "list 4", "lost")] == [
            False, True, False, True, False,
        ]  # fmt: skip

    def test_a_trace_that_comes_after_its_user_was_forgotten(self, store: Store) -> None:
        store.forget("alice")
        later = Trace("later", "alice", store.forgotten_at("alice") + 1, 1, "home", {})
        assert store.append_traces([trace(1), trace(2, user="bob"), trace(3, user=None), later]) == 3
        assert store.trace("list 1") is None
        assert store.trace("later") is not None

    def test_traces_are_written_behind(self, store: Store) -> None:
        traces = TraceWriter(store)
        for n in range(1, 451):
            traces.put(trace(n))
        found = traces.find("list 450")
        assert found is not None
        assert found.head["request"]["k"] == 450
        until(lambda: traces.written == 450)
        until(lambda: traces.waiting == 0)
        assert len(store.traces()) == 450
        assert traces.find("never") is None
        traces.put(trace(500))
        traces.close()
        assert store.trace("list 500") is not None
        traces.put(trace(501))
        assert (traces.written, traces.dropped, traces.failed, traces.waiting) == (451, 1, 0, 0)

    def test_traces_that_find_no_room_are_dropped(self, store: Store) -> None:
        traces = TraceWriter(store, waiting=3)
        hold, held = threading.Event(), threading.Event()
        keep = store.append_trace_rows

        def slow(rows: object) -> int:
            held.set()
            hold.wait(20)
            return keep(rows)  # type: ignore[arg-type]

        store.append_trace_rows = slow  # type: ignore[method-assign]
        traces.put(trace(1))
        assert held.wait(20)
        begun = time.monotonic()
        for n in range(2, 10):
            traces.put(trace(n))
        assert time.monotonic() - begun < 5
        assert (traces.waiting, traces.dropped) == (3, 6)
        hold.set()
        traces.close()
        assert [t.list_id for t in store.traces()] == ["list 1", "list 2", "list 3"]

    def test_a_trace_that_fails_stops_nothing(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        logging.getLogger("zhiyin").propagate = True
        traces = TraceWriter(store)
        for n in range(1, 4):
            traces.put(trace(n, head={"bad": object()}))
            until(lambda n=n: traces.failed == n)  # type: ignore[misc]
        traces.put(trace(9))
        until(lambda: traces.written == 1)
        traces.close()
        assert (traces.failed, traces.dropped) == (3, 0)
        said = {record.created for record in caplog.records if "traces are not written" in record.message}
        assert len(said) == 1

    def test_lists_are_exported_too(self, store: Store, tmp_path: Path) -> None:
        store.append([event(1), event(2, user="bob"), event(1, user="dora")])
        store.put("users", {"bob": {"age": 1}})
        store.put("placements", {"home": {"settings": "{}"}})
        store.append_traces([trace(1), trace(2, user=None), trace(3, user="bob")])
        store.append_impression("list 1", NOW, ["a"])
        store.export(tmp_path / "out")
        other = Store(tmp_path / "other.db")
        other.forget("bob")
        store.forget("dora")
        store.export(tmp_path / "out")
        for _ in range(2):
            other.load(tmp_path / "out")
        assert [e.user for e in (*other.history("alice"), *other.history("bob"), *other.history("dora"))] == ["alice"]
        assert other.forgotten_at("dora") == store.forgotten_at("dora")
        assert [t.list_id for t in other.traces()] == ["list 1", "list 2"]
        assert other.impressions("list 1") == [(NOW, ["a"])]
        assert other.get("users", "bob") is None
        assert other.get("placements", "home") == ({"settings": "{}"}, 1)
        told = other.info()
        assert [told[name] for name in ("events", "users", "placements", "lists", "impressions", "forgotten")] == [
            1, 0, 1, 2, 1, 2,
        ]  # fmt: skip
        other.close()

    def test_a_request_given_up_harms_no_other(self, store: Store) -> None:
        """A future that was cancelled while it waited is no reason for the writer to die."""
        hold, held = threading.Event(), threading.Event()
        keep = store.append_validated

        def slow(rows: object) -> list[int]:
            held.set()
            hold.wait(20)
            return keep(rows)  # type: ignore[arg-type]

        store.append_validated = slow  # type: ignore[method-assign]
        writer = GroupCommitWriter(store)
        first = writer.submit([event(1)])
        assert held.wait(20)
        second, third = writer.submit([event(2)]), writer.submit([event(3)])
        assert second.cancel()
        assert not first.cancel()
        hold.set()
        assert first.result(20) + third.result(20) == [1, 2]
        writer.close()
        assert writer.waiting == 0
        assert [e.item for e in store.history("alice")] == ["film 1", "film 3"]
