"""What is learned: the files and the store as one log, exactly; nobody who was forgotten, nothing twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

pytest.importorskip("sqlalchemy")

from hypothesis import given
from hypothesis import strategies as st

from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.catalogue_values import convert
from zhiyin.data.dataset import Dataset
from zhiyin.data.reading import read
from zhiyin.data.store_snapshot import JsonColumns
from zhiyin.store import training_export
from zhiyin.store.records import Event
from zhiyin.store.store import Store
from zhiyin.store.training_export import read_snapshot

T0 = 1_600_000_000_000_000
DAY = 86_400_000_000


@pytest.fixture
def store(tmp_path: Path) -> Any:
    made = Store(tmp_path / "store.db")
    yield made
    made.close()


def log(*rows: tuple[Any, ...], names: tuple[str, ...] = ("user", "item", "time", "kind", "rating")) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema=list(names), orient="row")
    return frame.with_columns(pl.from_epoch("time", "us").alias("time")) if "time" in names else frame


def learned(data: Dataset) -> set[tuple[Any, ...]]:
    """Events as (user, item, time, kind, value, weight) in raw ids."""
    users, items = data.users["id"], data.items["id"]
    return {
        (users[row[0]], items[row[1]], *row[2:])
        for row in data.events.select(
            "user", "item", "time", pl.col("kind").cast(pl.String), "value", "weight"
        ).iter_rows()
    }


def test_union_is_exact(store: Store) -> None:
    files = log(("a", "x", T0, "view", None), ("b", "y", T0 + 1, "buy", 2.0), ("b", "y", T0 + 1, "buy", 2.0))
    store.append(
        [
            Event("b", "y", T0 + 1, "buy", 2.0),  # stands in the file
            Event("b", "y", T0 + 1, "view"),  # another kind: does not
            Event("c", "z", T0 + 5, "cart", 1.0),
            Event("c", "z", T0 + 5, "cart", 1.0),  # twice, and it happened twice
            Event("a", "x", T0 - 7, "view"),  # heard late
        ]
    )
    data = read(files, snapshot=read_snapshot(store), weights={"view": 1, "buy": 5, "cart": 3})
    assert learned(data) == {
        ("a", "x", T0, "view", None, 1.0),
        ("b", "y", T0 + 1, "buy", 2.0, 5.0),
        ("b", "y", T0 + 1, "view", None, 1.0),
        ("c", "z", T0 + 5, "cart", 1.0, 3.0),
        ("a", "x", T0 - 7, "view", None, 1.0),
    }
    assert data.n_events == 7
    assert data.histories.items[: int(data.histories.offsets[1])].tolist() == [0, 0]
    assert data.events.filter(pl.col("user") == 0)["time"].to_list() == [T0 - 7, T0]
    assert any("1 events were heard and stand in the files too" in note for note in data.notes)


def test_pages_miss_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_export, "EVENTS_PER_PAGE", 7)
    store.append([Event(f"u{n % 5}", f"i{n % 3}", T0 + n) for n in range(50)])
    events = read_snapshot(store).events
    assert events["time"].to_list() == [T0 + n for n in range(50)]
    assert events["user"].cast(pl.String).to_list() == [f"u{n % 5}" for n in range(50)]


def test_a_store_without_files(store: Store) -> None:
    store.append([Event("a", "x", T0), Event("42", "y", T0 + 1, "purchase")])
    store.put("items", {"x": {"title": "X"}, "new": {"title": "N"}})
    data = read(None, snapshot=read_snapshot(store))
    assert learned(data) == {("a", "x", T0, "event", None, 1.0), ("42", "y", T0 + 1, "purchase", None, 5.0)}
    assert data.has_times
    assert data.items["id"].to_list() == ["new", "x", "y"]
    assert data.items["title"].to_list() == ["N", "X", None]


@pytest.mark.parametrize(
    ("user", "dtype", "there"),
    [("42", pl.Int64, [7, 42]), ("-3", pl.Int64, [-3, 7]), ("4 2", pl.String, ["4 2", "7"]), ("1e3", pl.String, None)],
)
def test_numbers_are_numbers_while_all_can_be(store: Store, user: str, dtype: Any, there: list[Any] | None) -> None:
    files = log((7, "x", T0, "view", None))
    store.append([Event(user, "x", T0 + 1, "view"), Event("7", "x", T0 + 2, "view")])
    data = read(files, snapshot=read_snapshot(store))
    assert data.users["id"].dtype == dtype
    assert there is None or data.users["id"].to_list() == there
    assert data.n_users == 2
    assert data.user_ids.encode([user])[0] >= 0


def test_numbers_larger_than_signed_are_texts(store: Store) -> None:
    big = 2**63 + 5
    files = pl.DataFrame(
        {"user": pl.Series([big, 3], dtype=pl.UInt64), "item": ["x", "y"], "time": [T0 // 1_000_000, T0 // 1_000_000]}
    )
    store.append([Event("3", "x", T0 + 1)])
    data = read(files, snapshot=read_snapshot(store))
    assert data.users["id"].to_list() == ["3", str(big)]  # one column, one type; exact
    assert data.n_events == 3


def test_files_without_times_come_first(store: Store) -> None:
    store.append([Event("a", "q", T0 + 9), Event("a", "p", T0 + 1)])
    data = read(log(("a", "x"), ("a", "y"), names=("user", "item")), snapshot=read_snapshot(store))
    assert not data.has_times
    assert data.items["id"].gather(data.events["item"]).to_list() == ["x", "y", "p", "q"]


def test_weights_speak_of_values_that_only_the_store_has(store: Store) -> None:
    store.append([Event("a", "x", T0 + 1, "rate", 5.0), Event("a", "y", T0 + 2, "rate", 1.0)])
    files = log(("a", "z", T0), names=("user", "item", "time"))
    data = read(files, snapshot=read_snapshot(store), weights={"rating >= 4": 1, "rating < 3": -1, "event": 2})
    weights = dict(zip(data.items["id"].gather(data.events["item"]), data.events["weight"]))
    assert weights == {"x": 1.0, "y": -1.0, "z": 2.0}


def test_who_was_forgotten_is_not_learned(store: Store) -> None:
    later = 4_000_000_000_000_000  # after any moment at which this test runs
    now = later + 1
    files = log(*((user, item, T0, "view", None) for user in ("a", "b", "c") for item in ("x", "y")),
                ("b", "x", later, "view", None))  # fmt: skip
    users = pl.DataFrame({"user": ["a", "b", "c"], "age": [1, 2, 3]})
    links = pl.DataFrame({"user": ["a", "b"], "friend": ["c", "a"]})
    store.append([Event("a", "x", T0 + 1)])
    store.put("users", {"a": {"age": 10}, "d": {"age": 4}})
    for user in ("a", "b", "d", "nobody"):
        store.forget(user)
    store.append([Event("d", "x", T0 + 3)])  # came back
    data = read(files, users=users, links=links, snapshot=read_snapshot(store), now=now)
    assert learned(data) == {
        ("c", "x", T0, "view", None, 1.0),
        ("c", "y", T0, "view", None, 1.0),
        ("b", "x", later, "view", None, 1.0),
        ("d", "x", T0 + 3, "event", None, 1.0),
    }
    assert data.users["id"].to_list() == ["b", "c", "d"]
    assert data.users["age"].to_list() == [None, 3, None]
    assert data.links is not None
    assert data.links.is_empty()


def test_number_ids_are_forgotten_too(store: Store) -> None:
    store.forget("7")
    data = read(log((7, "x", T0, "view", None), (8, "x", T0, "view", None)), snapshot=read_snapshot(store))
    assert data.users["id"].to_list() == [8]


def test_who_is_forgotten_while_the_store_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.append([Event("a", "x", T0), Event("b", "x", T0)])
    store.put("users", {"a": {"age": 1}, "b": {"age": 2}})
    read_before = training_export._newest_columns

    def forget_then(of: Store, name: str) -> Any:
        found = read_before(of, name)
        if name == "users":
            store.forget("a")
        return found

    monkeypatch.setattr(training_export, "_newest_columns", forget_then)
    data = read(None, snapshot=read_snapshot(store))
    assert data.users["id"].to_list() == ["b"]


@pytest.mark.parametrize("set_back", [0, 3650 * DAY])
def test_who_is_forgotten_is_told_by_no_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_back: int) -> None:
    """The clock stands still, or was set back ten years, before somebody is forgotten while the store is read: for the
    first time, and again. Somebody who was forgotten before that, and came back, is learned."""
    now = [T0 + 3650 * DAY]
    store = Store(tmp_path / "clock.db", clock=lambda: now[0])
    for user in ("again", "back"):
        store.append([Event(user, "x", T0)])
        store.forget(user, at_least=T0 + 4000 * DAY)  # as where the clock is behind the version's
    now[0] -= set_back
    store.append([Event(user, "y", T0 - DAY + n) for n, user in enumerate(("first", "again", "back", "other"))])
    events = training_export._events

    def read_and_forget(*args: Any) -> Any:
        found = events(*args)
        for user in ("first", "again"):
            store.forget(user, at_least=T0 + 4000 * DAY)
        return found

    monkeypatch.setattr(training_export, "_events", read_and_forget)
    data = read(log(("old", "z", T0, "view", None)), snapshot=read_snapshot(store), now=now[0])
    assert set(data.users["id"]) == {"back", "old", "other"}
    store.close()


def test_newest_columns_lie_over_those_of_the_files(store: Store) -> None:
    files = log(("a", "x", T0, "view", None), ("a", "y", T0, "view", None), ("a", "z", T0, "view", None))
    items = pl.DataFrame({
        "id": ["x", "y", "z"], "title": ["X", "Y", "Z"], "price": [1, 2, 3], "tags": ["a|b", "b", "c"],
    })  # fmt: skip
    store.put("items", {"x": {"title": "old"}, "y": {"price": 1.5, "tags": ["p", "q"], "colour": "red"}})
    store.put("items", {"x": {"title": "new", "price": None}, "w": {"title": "W", "stock": True}})
    data = read(files, items=items, snapshot=read_snapshot(store))
    assert data.items.select("id", "title", "price", "tags", "colour", "stock").rows() == [
        ("w", "W", None, None, None, True),
        ("x", "new", None, "a|b", None, None),
        ("y", "Y", 1.5, "p|q", "red", None),
        ("z", "Z", 3.0, "c", None, None),
    ]


def test_hidden_and_deleted_items_are_no_candidates(store: Store) -> None:
    files = log(*(("a", item, T0, "view", None) for item in ("x", "y", "z")))
    store.put("items", {name: {"title": name} for name in ("x", "y", "v", "w")})
    store.put("items", {"x": {"title": "x", "hidden": True}, "y": None, "w": None, "v": {"hidden": False}})
    data = read(files, snapshot=read_snapshot(store))
    assert dict(zip(data.items["id"], data.candidates.tolist())) == {"v": True, "x": False, "y": False, "z": True}
    assert "hidden" not in data.items.columns
    assert data.n_events == 3


def test_an_item_shown_again_is_a_candidate(store: Store) -> None:
    store.append([Event("a", "x", T0)])
    store.put("items", {"x": None})
    store.put("items", {"x": {"hidden": True, "note": '"hidden": true'}})
    store.put("items", {"x": {"note": '{"hidden": true}, "hidden": true'}})
    assert read(None, snapshot=read_snapshot(store)).candidates.all()


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
values = st.none() | texts | st.booleans() | numbers | st.lists(texts, max_size=3) | st.lists(numbers, max_size=3)
mixed = st.lists(st.none() | texts | st.booleans() | numbers, max_size=3)
names = st.sampled_from(["a", 'b"', "c.d", "ü (x)", "e, ", "hidden"])


@given(st.lists(st.dictionaries(names, values | mixed, max_size=5), max_size=6))
def test_any_columns_that_the_store_holds_can_be_learned(rows: list[dict[str, Any]]) -> None:
    texts = [json.dumps(row, ensure_ascii=False, sort_keys=True) for row in rows]
    ids = [str(at) for at in range(len(rows))]
    stored = JsonColumns(pl.Series("id", ids, dtype=pl.String), pl.Series(texts, dtype=pl.String))
    types = stored.types("items", CatalogueSchema())
    found = stored.columns("items", CatalogueSchema(types))
    assert found.values["id"].to_list() == ids
    assert set(found.present.columns) == set(types) == set(found.values.columns) - {"id"}
    for name, type in types.items():
        for at, row in enumerate(rows):
            value = row.get(name)
            try:
                wanted = convert(value, type)
            except ValueError:  # of another type than the first: it is passed over
                assert not found.present[name][at]
                wanted = None
            else:
                assert found.present[name][at] == (name in row)
            made = found.values[name][at]
            assert (made.to_list() if isinstance(made, pl.Series) else made) == wanted


def test_nothing_at_all(store: Store) -> None:
    empty = read_snapshot(store)
    assert empty.events.is_empty()
    assert isinstance(empty.items, JsonColumns)
    assert not len(empty.items)
    data = read(log(("a", "x", T0, "view", 3.0)), snapshot=empty)
    assert learned(data) == {("a", "x", T0, "view", 3.0, 1.0)}
