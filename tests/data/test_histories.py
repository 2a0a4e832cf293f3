"""Histories against a naive reference of Python lists."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.core.errors import DataError
from zhiyin.data.histories import Histories
from zhiyin.data.ids import Ids

N_ITEMS = 5
_LISTS = st.lists(
    st.lists(st.tuples(st.integers(0, N_ITEMS - 1), st.sampled_from([-1.0, 0.0, 1.0, 2.0])), max_size=6),
    max_size=6,
)


def of(lists: list[list[tuple[int, float]]]) -> Histories:
    flat = [event for row in lists for event in row]
    return Histories.of(
        np.concatenate([[0], np.cumsum([len(row) for row in lists])]).astype(int),
        np.array([item for item, _ in flat], dtype=int),
        weights=np.array([weight for _, weight in flat], dtype=np.float32),
        times=np.arange(len(flat), dtype=np.int64) * 10,
        users=np.arange(len(lists), dtype=np.int32),
    )


def lists_of(histories: Histories) -> list[list[tuple[int, float]]]:
    cuts = zip(histories.offsets[:-1], histories.offsets[1:])
    return [list(zip(histories.items[a:b].tolist(), histories.weights[a:b].tolist())) for a, b in cuts]


@given(_LISTS, st.data())
def test_take_and_rows(lists: list, data: st.DataObject) -> None:
    histories = of(lists)
    assert lists_of(histories) == lists
    rows = data.draw(st.lists(st.integers(-1, len(lists) - 1), max_size=8))
    taken = histories.take(np.array(rows, dtype=int))
    assert lists_of(taken) == [lists[row] if row >= 0 else [] for row in rows]
    assert taken.users.tolist() == (rows if lists else [-1] * len(rows))
    start = data.draw(st.integers(0, len(lists)))
    stop = data.draw(st.integers(start, len(lists)))
    part = histories.rows(start, stop)
    assert lists_of(part) == lists[start:stop]
    assert part.now.tolist() == histories.now[start:stop].tolist()
    chunks = list(histories.chunks(2))
    assert [event for _, chunk in chunks for event in lists_of(chunk)] == lists
    assert [begin for begin, _ in chunks] == list(range(0, len(lists), 2))


def naive(lists: list[list[tuple[int, float]]], how: str) -> np.ndarray:
    """The contract of `Histories.matrix`, one event after the other."""
    made = np.zeros((len(lists), N_ITEMS))
    for row, history in enumerate(lists):
        total, likes, last = [0.0] * N_ITEMS, [0] * N_ITEMS, [0.0] * N_ITEMS
        for item, weight in history:
            total[item] += weight
            likes[item] += weight > 0
            last[item] = weight or last[item]
        for item in range(N_ITEMS):
            value = {"weight": total[item], "count": likes[item], "binary": 1}[how]
            made[row, item] = max(value, 0) if how == "weight" or last[item] > 0 else 0
    return made


@given(_LISTS)
def test_matrix(lists: list) -> None:
    histories = of(lists)
    for how in ("weight", "binary", "count"):
        matrix = histories.matrix(N_ITEMS, how)
        assert (matrix.toarray() == naive(lists, how)).all(), how
        assert matrix.dtype == np.float32
        assert matrix.has_sorted_indices
        assert matrix.has_canonical_format
        assert (matrix.data > 0).all()
        for row in range(len(lists)):  # one history takes a way of its own
            one = histories.rows(row, row + 1)
            assert (one.matrix(N_ITEMS, how).toarray() == naive(lists[row : row + 1], how)).all(), how


@pytest.mark.parametrize(
    ("weights", "binary", "count", "weight"),
    [
        ([1, 1, -1], 0, 0, 1),  # view, view, dislike
        ([-1, 1], 1, 1, 0),  # dislike, then view
        ([1, -1, 1], 1, 2, 1),
        ([1, -1, 0], 0, 0, 0),  # what is worth nothing says nothing
        ([0, 0], 0, 0, 0),
        ([-1], 0, 0, 0),
        ([2, 0, 3], 1, 2, 5),
    ],
)
def test_the_last_word_on_an_item_decides(weights: list[float], binary: int, count: int, weight: int) -> None:
    for histories in (of([[(4, w) for w in weights]]), of([[(4, w) for w in weights], [(4, 1.0)]])):
        found = {how: histories.matrix(6, how).toarray()[0, 4] for how in ("binary", "count", "weight")}
        assert found == {"binary": binary, "count": count, "weight": weight}


def test_neutral_values() -> None:
    histories = Histories.of(np.array([0, 2, 2]), np.array([1, 3]), times=np.array([5, 9]))
    assert histories.now.tolist() == [9, 0]
    assert histories.users.tolist() == [-1, -1]
    assert histories.weights.tolist() == [1, 1]
    assert np.isnan(histories.values).all()
    assert len(histories) == 2
    assert histories.take(np.array([1, 0]), now=77).now.tolist() == [77, 77]


def test_strangers_from_raw_items() -> None:
    ids = Ids.of(pl.Series(["a", "b", "c"]))
    histories = Histories.from_items({"x": ["c", "?", "a"], "y": [], "z": "b"}, ids)
    assert lists_of(histories) == [[(2, 1.0), (0, 1.0)], [], [(1, 1.0)]]
    assert len(Histories.from_items([], ids)) == 0


def test_features_of_strangers_are_null() -> None:
    plain = Histories.of(np.array([0, 1, 2]), np.array([0, 1]))
    known = Histories(**{**plain.__dict__, "features": pl.DataFrame({"age": [30, 40]})})
    assert known.take(np.array([1, -1, 0])).features["age"].to_list() == [40, None, 30]
    assert known.rows(1, 2).features["age"].to_list() == [40]


def test_an_unknown_matrix_is_refused() -> None:
    with pytest.raises(DataError, match="one of binary, weight, count"):
        Histories.of(np.array([0]), np.array([], dtype=int)).matrix(1, "weights")


@pytest.mark.parametrize("described", [False, True])
def test_a_row_is_what_take_gives(described: bool) -> None:
    users = np.arange(3, dtype=np.int32)
    histories = Histories.of(np.array([0, 2, 2, 5]), np.arange(5), times=np.arange(5) * 7, users=users)
    if described:
        histories = dataclasses.replace(histories, features=pl.DataFrame({"city": ["a", "b", "c"]}))
    for at in (-1, 0, 1, 2):
        one, expected = histories.row(at), histories.take(np.array([at]))
        for field in dataclasses.fields(Histories):
            part, other = getattr(one, field.name), getattr(expected, field.name)
            if isinstance(other, np.ndarray):
                assert part.dtype == other.dtype
                assert np.array_equal(part, other, equal_nan=field.name == "values")
            else:
                assert (part is None) == (other is None)
                assert part is None or part.equals(other)
    assert histories.at(99).now.tolist() == [99, 99, 99]
    assert histories.at(99).items is histories.items
