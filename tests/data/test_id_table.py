"""The hash table of ids: one answer for values looked up in it and for columns that are joined or searched."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.examples import examples

from zhiyin.data.id_table import IdTable
from zhiyin.data.ids import Ids, id_series
from zhiyin.pipeline.cold_start import MoreIds

_NUMBERS = st.one_of(
    st.integers(-12, 12), st.integers(-(2**63) + 1, 2**63 - 1), st.sampled_from([2**53, 2**62, 2**63 - 1, -(2**62)])
)
_DECIMALS = st.one_of(
    _NUMBERS.map(str), st.sampled_from(["007", "+7", "-0", "7.0", "７", "-", "", "9223372036854775808", "7" * 40, " 7"])
)
_TEXTS = st.one_of(st.text(max_size=6), st.text(alphabet="ab\0é", max_size=6), _DECIMALS)
_ASKED = st.one_of(
    _TEXTS, _NUMBERS, _NUMBERS.map(float), st.sampled_from([2.5, float("nan"), float("inf"), True, False, None, 2**70]),
    st.integers(0, 12).map(np.int16), st.just("\ud800"),
)  # fmt: skip


def searched(ids: Ids, value: Any) -> int:
    """The code of one id by a search through the column."""
    if value == "\ud800":  # no column holds it
        return -1
    return int(ids._encode_series(id_series([value]))[0])


@settings(max_examples=examples(100))
@given(
    known=st.one_of(st.lists(_NUMBERS, min_size=1), st.lists(_TEXTS, min_size=1)),
    asked=st.lists(_ASKED, max_size=8),
    data=st.data(),
)
def test_values_find_what_columns_find(known: list[Any], asked: list[Any], data: st.DataObject) -> None:
    ids = Ids.of(pl.Series(known, strict=True))
    asked = [*asked, *data.draw(st.lists(st.sampled_from(known), max_size=4))]
    assert ids.encode(asked).tolist() == [searched(ids, value) for value in asked]
    columns = [pl.Series([value for value in asked if type(value) is kind] + [None]) for kind in (int, str, float, bool)
               if all(value != "\ud800" and abs(value if kind is int else 0) < 2**63
                      for value in asked if type(value) is kind)]  # fmt: skip
    for column in columns:
        assert ids.encode(column).tolist() == ids._encode_series(column).tolist()
    codes = np.array(data.draw(st.lists(st.integers(0, len(ids) - 1), max_size=8)), dtype=np.int32)
    assert ids.raw(codes) == ids.decode(codes).to_list()


@settings(max_examples=examples(100))
@given(
    known=st.one_of(st.lists(_NUMBERS, min_size=1), st.lists(_TEXTS, min_size=1)),
    more=st.lists(_TEXTS, max_size=5, unique=True),
    asked=st.lists(_ASKED, max_size=8),
)
def test_new_ids_come_behind_those_of_the_model(known: list[Any], more: list[str], asked: list[Any]) -> None:
    trained = Ids.of(pl.Series(known, strict=True))
    more = [text for text in more if trained.encode([text])[0] < 0]
    ids = MoreIds(trained, more)
    for value in [*asked, *more]:
        code = int(ids.encode([value])[0])
        known_code = int(trained.encode([value])[0])
        plain = Ids.of(pl.Series(more, dtype=pl.String)).encode([value])[0] >= 0
        assert (code >= 0) == (known_code >= 0 or plain)
        assert code == known_code if known_code >= 0 else code < 0 or code >= len(trained)
    assert ids.encode([*asked, *more]).tolist() == [int(ids.encode([value])[0]) for value in [*asked, *more]]
    assert ids.encode(more).tolist() == list(range(len(trained), len(ids)))
    assert ids.raw(np.arange(len(ids))) == [*trained.raw(np.arange(len(trained))), *more]


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("kind", [pl.Int64, pl.String, pl.Int32, pl.UInt64])
def test_a_large_table_finds_all_its_ids_and_no_others(kind: Any, step: int) -> None:
    numbers = pl.Series(np.arange(-1000 if kind != pl.UInt64 else 0, 30_000, step))
    ids = Ids(numbers.cast(kind).sort())
    raw = ids.values.to_list()
    assert ids.encode(raw).tolist() == list(range(len(raw)))
    assert ids.raw(np.arange(len(raw))) == raw
    known = set(numbers.to_list())
    strangers = [str(number) for number in range(-1000, 40_000) if number not in known]
    assert (ids.encode(strangers) == -1).all()
    table = ids.table
    if table is not None:
        held = sum(array.nbytes for array in table._table._arrays.values())
        texts = ids.values.str.len_bytes().sum() if kind == pl.String else 8 * len(ids)
        assert held - texts <= 12 * len(ids)


def test_ids_of_one_hash_are_told_apart() -> None:
    """More ids than the bits of a hash in a slot tell apart, in the slots of few."""
    ids = Ids.of(pl.Series([f"{n:07}" for n in range(0, 200_000, 2)]))
    asked = [f"{n:07}" for n in range(0, 200_000, 7)]
    assert ids.encode(asked).tolist() == [n // 2 if n % 2 == 0 else -1 for n in range(0, 200_000, 7)]


def test_codes_out_of_range_are_refused() -> None:
    ids = Ids.of(pl.Series(["a", "b"]))
    for wrong in ([2], [-1], [0, 5]):
        with pytest.raises(IndexError, match="from 0 to 1"):
            ids.raw(np.array(wrong))


def test_what_has_no_table() -> None:
    for values in (pl.Series([], dtype=pl.String), pl.Series(["a", None]), pl.Series([2**63], dtype=pl.UInt64)):
        assert IdTable.of(values) is None
    assert Ids(pl.Series([3, 2**63], dtype=pl.UInt64)).encode([2**63, "3", -1, 4.5]).tolist() == [1, 0, -1, -1]


def test_threads_that_need_the_table_at_once_get_one() -> None:
    ids = Ids.of(pl.Series([f"i{n}" for n in range(5_000)]))
    with ThreadPoolExecutor(8) as pool:
        tables = list(pool.map(lambda _: ids.table, range(8)))
    assert len({id(table) for table in tables}) == 1
