"""Ids: raw ids to codes and back, whatever their type and however many."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.examples import examples

from zhiyin.core.errors import DataError
from zhiyin.data.ids import Ids, id_list, id_series

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


@pytest.mark.slow
@settings(max_examples=examples(15))
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


_ANY = st.one_of(
    st.integers(-12, 12), st.integers(-12, 12).map(str), st.integers(-12, 12).map(float), st.just(2.5), st.text(),
    st.none(), st.booleans(), st.just(2**70), st.integers(0, 12).map(np.int16), st.just(float("nan")),
    st.just(float("inf")),
)  # fmt: skip


@settings(max_examples=examples(300))
@given(known=st.lists(st.integers(-9, 9), min_size=1), asked=st.lists(_ANY, max_size=6), data=st.data())
def test_what_an_id_finds_does_not_depend_on_the_ids_beside_it(
    known: list[int], asked: list, data: st.DataObject
) -> None:
    for ids in (Ids.of(pl.Series(known)), Ids.of(pl.Series([str(k) for k in known]))):
        alone = [int(ids.encode([value])[0]) for value in asked]
        assert ids.encode(asked).tolist() == alone
        order = data.draw(st.permutations(range(len(asked))))
        assert ids.encode([asked[at] for at in order]).tolist() == [alone[at] for at in order]


def test_mixed_ids_in_any_order() -> None:
    ids = Ids.of(pl.Series(["1", "a", "b"]))
    assert ids.encode([1, "a"]).tolist() == [0, 1]
    assert ids.encode(["a", 1]).tolist() == [1, 0]
    assert ids.encode([1, "a", "b", 2.5]).tolist() == [0, 1, 2, -1]
    numbers = Ids.of(pl.Series([1, 2, 3]))
    assert numbers.encode(["zz", 1]).tolist() == [-1, 0]
    assert numbers.encode([1, "zz"]).tolist() == [0, -1]
    assert numbers.encode([True, 2]).tolist() == [-1, 1]  # True is not the number 1
    assert numbers.encode([True]).tolist() == [-1]
    assert id_series(["a", 1]).to_list() == ["a", "1"]
    assert id_series([1, "a"]).to_list() == ["1", "a"]


@pytest.mark.parametrize(
    "raw",
    [2, np.int64(2), np.array(2), [2], (2,), {2}, {2: "x"}, np.array([2]), np.array([2], dtype=object), pl.Series([2]),
     (two for two in [2]), range(2, 3), [np.int64(2)], [np.array(2)[()]], 2.0, np.float32(2), "2", ["2"],
     np.array(["2"]), np.array([2.0])],
)  # fmt: skip
def test_one_id_in_whatever_holds_it(raw: object) -> None:
    assert Ids.of(pl.Series([1, 2, 3])).encode(raw).tolist() == [1]


def test_an_array_of_two_dimensions_holds_no_ids() -> None:
    with pytest.raises(DataError, match="one dimension"):
        id_list(np.array([[1, 2]]))


@pytest.mark.parametrize(
    "other",
    ["05", "+5", " 5", "5 ", "5.0", "５", "٥", "0005", "-0", "--5", "-", "", "5e0", "7" * 40, "9223372036854775808"],
)
def test_only_the_decimal_form_of_a_number_is_its_id(other: str) -> None:
    ids = Ids.of(pl.Series([-7, 0, 5, 2**62 + 3, 2**63 - 1]))
    for known in (Ids.of(pl.Series([-7, 0, 5])), ids):
        assert known.encode([other]).tolist() == [-1]
        assert known.encode(pl.Series([other, "5"])).tolist() == [-1, 2]
        assert known.encode([other] * 40 + ["-7"]).tolist() == [-1] * 40 + [0]
    assert ids.encode(["4611686018427387907", "9223372036854775807", "0"]).tolist() == [3, 4, 1]
    assert ids.encode(pl.Series(["4611686018427387907"] * 60_000)).tolist() == [3] * 60_000


def test_texts_are_compared_code_point_by_code_point() -> None:
    ids = Ids.of(pl.Series(["caf\u00e9", "cafe\u0301"]))
    assert sorted(ids.encode(["caf\u00e9", "cafe\u0301"]).tolist()) == [0, 1]
