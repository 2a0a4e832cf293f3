"""Ids: raw ids to codes and back, whatever their type and however many."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhiyin.data.ids import Ids

_RAW = st.one_of(st.lists(st.integers(-(2**62), 2**62), min_size=1), st.lists(st.text(), min_size=1))


@given(_RAW)
def test_encode_and_decode_are_inverse(raw: list) -> None:
    ids = Ids.of(pl.Series(raw))
    codes = ids.encode(raw)
    assert ids.decode(codes).to_list() == raw
    assert ids.raw(codes) == raw
    assert ids.raw(codes[:2]) == raw[:2]
    assert ids.values.is_sorted()
    assert len(ids) == len(set(raw))
    assert ids.encode(ids.values).tolist() == list(range(len(ids)))


@settings(max_examples=15)
@given(st.lists(st.integers(-50, 50), min_size=1), st.lists(st.integers(-60, 60), min_size=1))
def test_one_answer_for_few_and_for_many(known: list[int], asked: list[int]) -> None:
    """More than 50,000 ids are looked up in a table or a join; the answer must be that of the search."""
    for dtype in (pl.Int64, pl.String, pl.Int8):
        ids = Ids.of(pl.Series(known, dtype=pl.Int64).cast(dtype))
        series = pl.Series([*asked, None], dtype=pl.Int64).cast(dtype)
        few = ids.encode(series)
        repeats = 50_001 // len(series) + 1
        many = ids.encode(pl.concat([series] * repeats))
        assert many.reshape(repeats, -1).tolist() == [few.tolist()] * repeats
        assert few[-1] == -1
        naive = {raw: code for code, raw in enumerate(ids.values.to_list())}
        assert few.tolist() == [naive.get(raw, -1) for raw in series.to_list()]


def test_ids_far_from_zero_and_far_apart() -> None:
    for raw in ([10**12, 10**12 + 5], [-(2**62), 2**62], [-3, 0, 4]):
        ids = Ids.of(pl.Series(raw))
        asked = pl.Series([*raw, raw[0] + 1, None] * 20_000)
        assert ids.encode(asked)[: len(raw) + 2].tolist() == [*range(len(raw)), -1, -1]


def test_text_finds_numbers_and_numbers_find_text() -> None:
    numbers, texts = Ids.of(pl.Series([7, 42])), Ids.of(pl.Series(["42", "7", "x"]))
    assert numbers.encode(["42", "7", "x", None]).tolist() == [1, 0, -1, -1]
    assert texts.encode([42, 7, 8]).tolist() == [0, 1, -1]
    assert texts.encode([42, "x", None]).tolist() == [0, 2, -1]
    assert numbers.encode([42.0, 42.5, float("nan")]).tolist() == [1, -1, -1]
    assert texts.encode(np.array([42.0, 7.5])).tolist() == [0, -1]
    assert numbers.encode(np.array([42, 7], dtype=np.uint8)).tolist() == [1, 0]


@pytest.mark.parametrize("ids", [Ids.of(pl.Series([1, 2])), Ids.of(pl.Series(["a"])), Ids.of(), Ids.of(pl.Series([]))])
def test_nothing_and_strangers(ids: Ids) -> None:
    assert ids.encode([]).tolist() == []
    assert ids.encode([None]).tolist() == [-1]
    assert ids.encode(["?"]).tolist() == [-1]
    assert ids.encode([]).dtype == np.int32


def test_ids_of_several_files() -> None:
    assert Ids.of(pl.Series([3, 1], dtype=pl.Int32), pl.Series([2])).values.to_list() == [1, 2, 3]
    assert Ids.of(pl.Series([3, 1]), pl.Series(["b", None])).values.to_list() == ["1", "3", "b"]


@given(known=st.lists(st.integers(-9, 9), min_size=1), asked=st.integers(-12, 12))
def test_one_id_is_found_as_many_are(known: list[int], asked: int) -> None:
    for ids, one in ((Ids.of(pl.Series(known)), asked), (Ids.of(pl.Series([str(k) for k in known])), str(asked))):
        expected = ids.encode([one, one])[0]
        assert ids.encode([one]).tolist() == [expected]
        assert (expected >= 0) == (asked in known)
