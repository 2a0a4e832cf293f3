"""Links between users in the store: written, removed, exported, restored, forgotten, merged with those of files."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhiyin.core.errors import DataError
from zhiyin.data.reading import read
from zhiyin.store import links as links_module
from zhiyin.store.records import Event
from zhiyin.store.restore import restore
from zhiyin.store.store import Store
from zhiyin.store.training_export import read_snapshot


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "shop.db")


def test_a_link_has_one_row_and_a_removal_stays(store: Store) -> None:
    assert store.put_links({("a", "b"): 1.0, ("a", "c"): 2.5}) == 2
    assert store.put_links({("a", "b"): 1.0}) == 0
    first = store.last_link_change()
    assert store.put_links({("a", "b"): None, ("b", "a"): 1.0}) == 2
    assert store.last_link_change() > first
    assert dict(store.links_from("a")) == {"b": None, "c": 2.5}
    assert dict(store.links_to("a")) == {"b": 1.0}
    assert dict(store.links_from("nobody")) == {}
    assert store.info()["links"] == 3


PAIRS = st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")).filter(lambda pair: pair[0] != pair[1])


@given(st.lists(st.dictionaries(PAIRS, st.one_of(st.none(), st.sampled_from([0.5, 1.0, 2.0]))), max_size=8))
@settings(max_examples=25, deadline=None)
def test_what_is_written_last_counts(
    tmp_path_factory: pytest.TempPathFactory, batches: list[dict[tuple[str, str], float | None]]
) -> None:
    store, expected = Store(tmp_path_factory.mktemp("links") / "s.db"), dict[tuple[str, str], float | None]()
    for batch in batches:
        changed = {pair for pair, weight in batch.items() if expected.get(pair, "none") != weight}
        assert store.put_links(batch) == len(changed)
        expected |= batch
    rows = store.all_links().iter_rows()
    assert {(user, other): weight for user, other, weight in rows} == expected
    for user in "abcd":
        assert dict(store.links_from(user)) == {o: w for (u, o), w in expected.items() if u == user}
        assert dict(store.links_to(user)) == {u: w for (u, o), w in expected.items() if o == user}
    store.close()


@pytest.mark.parametrize(
    ("pair", "weight", "words"),
    [(("a", "a"), 1.0, "themselves"), (("a", ""), 1.0, "other"), (("a", "b"), 0.0, "weight"),
     (("a", "b"), float("nan"), "weight"), (("a", "b"), -1.0, "weight"), (("a", "b"), 1e9, "weight")],
)  # fmt: skip
def test_what_is_no_link_writes_nothing(store: Store, pair: tuple[str, str], weight: float, words: str) -> None:
    with pytest.raises(DataError, match=words):
        store.put_links({("x", "y"): 1.0, pair: weight})
    assert store.all_links().is_empty()


def test_a_user_has_so_many_links_and_no_more(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links_module, "MAX_LINKS_PER_USER", 3)
    store.put_links({("a", f"u{n}"): 1.0 for n in range(3)})
    with pytest.raises(DataError, match="would have 4 links"):
        store.put_links({("b", "c"): 1.0, ("a", "u3"): 1.0})
    assert len(store.all_links()) == 3
    assert store.put_links({("a", "u0"): None, ("a", "u3"): 1.0}) == 2


def test_links_are_forgotten_with_either_user(store: Store) -> None:
    store.put_links({("a", "b"): 1.0, ("c", "a"): 1.0, ("b", "c"): 1.0, ("a", "d"): None})
    proof = store.forget("a")
    assert (proof["links removed"], proof["links found"]) == (3, 0)
    assert store.all_links().rows() == [("b", "c", 1.0)]


def test_links_are_exported_and_loaded(store: Store, tmp_path: Path) -> None:
    store.append([Event("a", "i", 1_700_000_000_000_000)])
    store.put_links({("a", "b"): 2.0, ("b", "c"): None, ("x", "a"): 1.0})
    store.export(tmp_path / "export")
    other = Store(tmp_path / "other.db")
    other.put_links({("a", "b"): 5.0})
    other.forget("x")
    other.load(tmp_path / "export")
    assert sorted(other.all_links().rows()) == [("a", "b", 5.0), ("b", "c", None)]


def test_a_backup_does_not_bring_back_who_was_forgotten(store: Store, tmp_path: Path) -> None:
    store.put_links({("a", "b"): 1.0, ("c", "d"): 1.0})
    store.backup(tmp_path / "backup.db")
    store.forget("b")
    store.close()
    restore(tmp_path / "shop.db", tmp_path / "backup.db")
    assert Store(tmp_path / "shop.db").all_links().rows() == [("c", "d", 1.0)]


def test_training_data_has_the_links_of_files_and_store(store: Store, tmp_path: Path) -> None:
    """Those of the store replace those of the files, removed ones too; ids of files are whole numbers."""
    log = pl.DataFrame({"user": [1, 2, 3, 4], "item": [10, 11, 12, 13], "time": [1_700_000_000 + n for n in range(4)]})
    friends = pl.DataFrame({"user": [1, 1, 2], "friend": [2, 3, 1]})
    store.put_links({("1", "3"): None, ("3", "4"): 2.0, ("2", "1"): 4.0, ("4", "7"): 1.0})
    data = read(log, links=friends, snapshot=read_snapshot(store))
    assert data.links is not None
    raw = data.links.with_columns(
        pl.Series("user", data.user_ids.raw(data.links["user"].to_numpy())),
        pl.Series("other", data.user_ids.raw(data.links["other"].to_numpy())),
    )
    assert sorted(raw.rows()) == [(1, 2, 1.0), (2, 1, 4.0), (3, 4, 2.0), (4, 7, 1.0)]
    store.forget("4")
    data = read(log, links=friends, snapshot=read_snapshot(store))
    assert data.links is not None
    assert len(data.links) == 2


def test_links_of_the_store_alone_are_links(store: Store) -> None:
    store.append([Event("a", "i", 1_700_000_000_000_000), Event("b", "j", 1_700_000_000_000_001)])
    store.put_links({("a", "b"): 1.0, ("b", "a"): None})
    log = pl.DataFrame({"user": ["a"], "item": ["k"], "time": [1_700_000_000]})
    data = read(log, snapshot=read_snapshot(store))
    assert data.links is not None
    assert len(data.links) == 1
