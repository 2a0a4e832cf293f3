"""Columns into arrays: exact answers, nothing learned from other rows, the same answer from what was saved."""

from __future__ import annotations

import datetime as dt
import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.features.column_encoders import hashed
from zhiyin.features.feature_inference import guess
from zhiyin.features.feature_table import Features, FeatureTable

DAY = 86_400_000_000


def learn(values: list[object], kind: str, learned: np.ndarray | None = None, **more: object) -> Features:
    return Features.learn(pl.DataFrame({"x": pl.Series(values, **more)}), {"x": kind}, learned)  # type: ignore[arg-type]


def encode(features: Features, values: list[object], now: int | None = None, **more: object) -> FeatureTable:
    return features.encode(pl.DataFrame({"x": pl.Series(values, **more)}), now)  # type: ignore[arg-type]


# -- numbers ------------------------------------------------------------------------------------------------------


def test_a_number_is_standardised_by_training_rows_and_the_missing_is_said() -> None:
    learned = np.array([True, True, True, False])
    features = learn([1.0, 3.0, None, 1e6], "number", learned)
    table = encode(features, [2.0, 3.0, None, float("nan"), float("inf"), -1e9])
    assert table.number_names == ("x", "x missing")
    assert table.numbers[:, 0].tolist() == [0.0, 1.0, 0.0, 0.0, 0.0, -10.0]
    assert table.numbers[:, 1].tolist() == [0, 0, 1, 1, 1, 0]


def test_a_price_by_its_logarithm() -> None:
    features = learn([0.0, np.expm1(2.0)], "number:log")
    np.testing.assert_allclose(
        encode(features, [0.0, np.expm1(1.0), np.expm1(2.0), -np.expm1(1.0)]).numbers[:, 0], [-1, 0, 1, -2], atol=1e-6
    )


def test_quantiles_are_even_and_ties_take_the_middle() -> None:
    values = [1.0] * 500 + list(range(2, 502))
    z = encode(learn(values, "number:quantile"), [1.0, 501.0, 1000.0, 251.5]).numbers[:, 0] / 12**0.5 + 0.5
    np.testing.assert_allclose(z, [0.25, 1.0, 1.0, 0.75], atol=0.01)
    uniform = encode(learn(np.random.default_rng(0).lognormal(size=5_000).tolist(), "number:quantile"), values).numbers
    assert np.isfinite(uniform).all()


def test_a_column_without_variance_or_values() -> None:
    assert encode(learn([5, 5, 5], "number"), [5, 6]).numbers[:, 0].tolist() == [0.0, 1.0]
    assert encode(learn([None, None], "number", dtype=pl.Float64), [1.0]).numbers[0].tolist() == [1.0, 0.0]
    assert encode(learn(["1", "x", "3"], "number"), ["2", ""]).numbers[:, 1].tolist() == [0, 1]


# -- categories and tags --------------------------------------------------------------------------------------------


def test_categories_rare_unseen_and_missing_are_0() -> None:
    learned = np.array([True] * 5 + [False] * 2)
    features = learn(["b", "a", "b", "a", "c", "d", "d"], "category", learned)
    table = encode(features, ["a", " b ", "c", "d", None, ""])
    assert table.codes[:, 0].tolist() == [1, 2, 0, 0, 0, 0]
    assert table.cards == (3,)
    n = np.log(6)
    np.testing.assert_allclose(table.rarity["x"], [1, 1 - np.log(3) / n, 1 - np.log(3) / n], rtol=1e-6)


def test_numbers_and_booleans_as_categories_mean_the_same_in_any_type() -> None:
    features = learn([1, 2, 1, 2], "category")
    for values in ([1, 2, 3], [1.0, 2.0, 2.5], ["1", "2", "x"]):
        assert encode(features, values).codes[:, 0].tolist() == [1, 2, 0]
    assert encode(learn([True, False] * 2, "category"), [False, True, None]).codes[:, 0].tolist() == [1, 2, 0]


def test_hashing_needs_no_vocabulary_and_stays_the_same() -> None:
    features = learn(["a"], "category:hash=1000")
    table = encode(features, ["a", "never seen", None, "a"])
    assert table.cards == (1001,)
    assert table.codes[2, 0] == 0
    assert table.codes[0, 0] == table.codes[3, 0] > 0
    assert table.codes[1, 0] > 0
    # Fixed for ever: models on disk depend on it.
    assert hashed(pl.Series(["", "a", "é中"])).tolist() == [
        int(v) for v in (_mix(fnv1a(b"")), _mix(fnv1a(b"a")), _mix(fnv1a("é中".encode())))
    ]


def fnv1a(text: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in text:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def _mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


@pytest.mark.parametrize(
    "values",
    [["b|a", "A, b|b", None, "c;zz"], [["b", "a"], ["a", "b", "b"], None, ["c", "zz"]]],
)
def test_tags(values: list[object]) -> None:
    features = learn(["a|b|c", "c|b|a"], "tags")
    table = encode(features, values)
    offsets, codes = table.bags["x"]
    assert offsets.tolist() == [0, 2, 4, 4, 6]
    assert codes.tolist() == [1, 2, 1, 2, 0, 3]
    assert offsets.dtype == np.int64
    assert codes.dtype == np.int32
    assert table.sizes == {"x": 4}


@given(st.lists(st.lists(st.sampled_from(list("abcdefgh")), max_size=5), min_size=1, max_size=20))
def test_tags_are_those_of_each_row(rows: list[list[str]]) -> None:
    features = learn([list("abcdef")] * 2, "tags")
    offsets, codes = encode(features, rows, dtype=pl.List(pl.String)).bags["x"]
    for row, tags in enumerate(rows):
        wanted = {"abcdef".find(tag) + 1 for tag in tags}
        assert codes[offsets[row] : offsets[row + 1]].tolist() == sorted(wanted)


# -- times and vectors ------------------------------------------------------------------------------------------------


def test_time_is_age_hour_and_weekday() -> None:
    monday = dt.datetime(2024, 1, 1, 6)
    features = learn([monday, monday - dt.timedelta(days=np.e**2 - 1)], "time")
    now = int(monday.replace(tzinfo=dt.UTC).timestamp() * 1e6)
    table = encode(features, [monday, None, monday + dt.timedelta(days=6)], now)
    by_name = dict(zip(table.number_names, table.numbers.T))
    np.testing.assert_allclose(by_name["x age"], [-1, 0, (-np.log(7) - 1) / 1], atol=1e-5)
    np.testing.assert_allclose(by_name["x hour sin"], [1, 0, 1], atol=1e-6)
    np.testing.assert_allclose(by_name["x weekday cos"][[0, 2]], [1, np.cos(2 * np.pi * 6 / 7)], rtol=1e-5)
    assert table.code_names == ("x hour", "x weekday")
    assert table.codes.tolist() == [[7, 1], [0, 0], [7, 7]]
    later = encode(features, [monday], now + 365 * DAY).numbers[0, 0]
    assert later == pytest.approx(np.log(366) - 1)


def test_times_as_numbers_and_as_text_keep_the_unit_and_order_learned() -> None:
    seconds = learn([1_700_000_000, 1_700_086_400], "time:s")
    micro = learn([1_700_000_000_000_000, 1_700_086_400_000_000], "time")
    one = encode(seconds, [3_600], 0).numbers
    np.testing.assert_array_equal(one, encode(micro, [3_600_000_000], 0).numbers)
    text = learn(["31/01/2020", "05/04/2020"], "time")
    table = encode(text, ["03/04/2020"])  # the third of April, as the training rows say
    assert table.code_names == ("x weekday",)
    assert table.codes[0, 0] == 5


def test_vectors() -> None:
    features = learn([[1.0, 2.0], [3.0, 4.0]], "vector")
    table = encode(features, [[3.0, 4.0], None, [float("nan"), 1.0]])
    assert table.vectors["x"].tolist() == [[3, 4], [0, 0], [0, 1]]
    np.testing.assert_allclose(table.matrix().toarray(), [[0.6, 0.8], [0, 0], [0, 1]])
    with pytest.raises(DataError, match="row 1 has a vector of 3"):
        encode(features, [[1.0, 2.0], [1.0, 2.0, 3.0]])
    with pytest.raises(ConfigError, match="no vectors"):
        learn(["a"], "vector")
    with pytest.raises(ConfigError, match="no sentence model"):
        learn(["a"], "vector:/nowhere/at/all")
    array = pl.DataFrame({"x": np.eye(3)})
    assert Features.learn(array).encode(array).vectors["x"].tolist() == np.eye(3).tolist()


# -- the whole -----------------------------------------------------------------------------------------------------


def shop(n: int = 60) -> pl.DataFrame:
    rng = np.random.default_rng(3)
    return pl.DataFrame(
        {
            "id": np.arange(n),
            "sku_id": [f"{v:09d}" for v in rng.integers(0, 10**9, n)],
            "title": [f"the {rng.choice(['red', 'blue', 'green'])} thing number {v} of all" for v in range(n)],
            "genres": [rng.choice(["a|b", "b|c", "d"]) for _ in range(n)],
            "price": rng.lognormal(3, 2, n),
            "stars": rng.integers(1, 6, n),
            "colour": rng.choice(["red", "blue", "green"], n),
            "added": [dt.datetime(2024, 1, 1) + dt.timedelta(hours=int(h)) for h in rng.integers(0, 9_000, n)],
            "vector": [rng.normal(size=3).tolist() for _ in range(n)],
            "cover": [f"https://x.example/{v}.jpg" for v in range(n)],
            "shop": ["one"] * n,
            "nothing": pl.Series([None] * n, dtype=pl.String),
        }
    )


def test_kinds_are_guessed_and_said() -> None:
    features = Features.learn(shop())
    kinds = {column.name: column.kind for column in features.columns}
    assert kinds == {
        "title": "text",
        "genres": "tags",
        "price": "number",
        "stars": "number",
        "colour": "category",
        "added": "time",
        "vector": "vector",
    }
    said = "; ".join(features.notes)
    for left_out in ("sku_id", "cover", "shop", "nothing"):
        assert f"{left_out}: left out" in said
    assert "price: number:log" in said
    assert "shop: left out, all its values are the same" in said


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("year", [1990, 1991, 1992, 1991] * 5, "number"),
        ("release_year", ["1990", "1991", "1992", "1991"] * 5, "number"),
        ("created_at", [1_600_000_000 + 777 * v for v in range(30)], "time:s"),
        ("day", ["2024-01-02", "2024-02-03", "2024-05-05"] * 9, "time"),
        ("user_id", list(range(500, 560)), "skip"),
        ("rank", list(range(1, 60)), "skip"),
        ("标题", [f"我来到北京清华大学第{v}次，真高兴" for v in range(30)], "text"),
        ("review", [f"good, I liked it very much, all of the {v} parts" for v in range(30)], "text"),
        ("flag", [0, 1, 0, 1], "category"),
        ("on", [True, False], "category"),
        ("tags", [["a", "b"], ["a"]], "tags"),
        ("when", [None, None], "skip"),
    ],
)
def test_guesses(name: str, values: list[object], kind: str) -> None:
    assert guess(pl.Series(name, values))[0] == kind


def test_what_is_asked_for_wins_and_mistakes_are_named() -> None:
    frame = shop()
    features = Features.learn(frame, {"price": "number:quantile", "title": "skip", "id": "category"})
    assert "title" not in features.names
    assert "id" in features.names
    for kinds, wrong in (
        ({"prise": "number"}, "prise"),
        ({"price": "numbr"}, "numbr"),
        ({"price": "number:lug"}, "lug"),
        ({"title": "text:ngrams=0"}, "ngrams"),
        ({"title": "category:hash=x"}, "hash"),
    ):
        with pytest.raises(ConfigError, match=wrong):
            Features.learn(frame, kinds)


def assert_same(one: FeatureTable, other: FeatureTable) -> None:
    np.testing.assert_array_equal(one.numbers, other.numbers)
    np.testing.assert_array_equal(one.codes, other.codes)
    assert (one.number_names, one.code_names, one.cards, one.sizes) == (
        other.number_names,
        other.code_names,
        other.cards,
        other.sizes,
    )
    for name in one.bags:
        np.testing.assert_array_equal(one.bags[name][0], other.bags[name][0])
        np.testing.assert_array_equal(one.bags[name][1], other.bags[name][1])
    for name in one.texts:
        assert (one.texts[name] != other.texts[name]).nnz == 0
    for name in one.vectors:
        np.testing.assert_array_equal(one.vectors[name], other.vectors[name])
    assert (one.matrix() != other.matrix()).nnz == 0


def test_what_is_saved_encodes_the_same_and_needs_nothing_else() -> None:
    frame = shop()
    features = Features.learn(frame)
    state = features.state()
    arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in state.items() if name not in arrays}
    back = Features.from_state(json.loads(json.dumps(plain)) | arrays)
    assert back.notes == features.notes
    assert_same(back.encode(frame), features.encode(frame))


def test_one_row_is_encoded_as_among_many() -> None:
    frame = shop()
    features = Features.learn(frame)
    whole = features.encode(frame).matrix()
    for row in (0, 17, 59):
        assert abs(features.encode(frame[row : row + 1]).matrix() - whole[row]).max() < 1e-6
    empty = features.encode(frame[:0])
    assert empty.matrix().shape == (0, whole.shape[1])


def test_rows_that_are_not_learned_from_change_nothing() -> None:
    frame = shop()
    learned = np.arange(60) < 40
    changed = pl.concat(
        [frame[:40], frame[40:].with_columns(title=pl.lit("planted planted"), price=1e9, colour=pl.lit("pink"))]
    )
    one, other = (Features.learn(each, learned=learned) for each in (frame, changed))
    a, b = one.state(), other.state()
    assert a["columns"] == b["columns"]
    for name, value in a.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, b[name])


def test_columns_that_are_missing_or_in_another_order() -> None:
    frame = shop()
    features = Features.learn(frame)
    assert_same(features.encode(frame.select(sorted(frame.columns))), features.encode(frame))
    table = features.encode(frame.select("title"))
    assert table.matrix().shape == features.encode(frame).matrix().shape
    assert table.codes.sum() == 0
    assert table.bags["genres"][0].tolist() == [0] * 61
    assert len(features.encode(pl.DataFrame({"title": [None, "red"]}))) == 2


def test_the_matrix_is_blocks_of_length_one_or_less() -> None:
    frame = shop()
    features = Features.learn(frame)
    table = features.encode(frame)
    lengths = {}
    for name in features.names:
        block = table.matrix({other: 0.0 for other in features.names if other != name})
        lengths[name] = (
            np.sqrt(block.multiply(block).sum(axis=1)).A1
            if hasattr(block, "A1")
            else np.sqrt(np.asarray(block.multiply(block).sum(axis=1)).ravel())
        )
    for name in ("price", "added", "vector"):
        np.testing.assert_allclose(lengths[name], 1, rtol=1e-5)
    for name in ("title", "genres", "colour"):
        assert (lengths[name] <= 1 + 1e-5).all()
        assert (lengths[name] > 0).all()
    twice = table.matrix({"title": 2.0}) - table.matrix()
    assert abs(abs(twice).sum() - abs(table.matrix({n: 0.0 for n in features.names if n != "title"})).sum()) < 1e-3


def test_near_numbers_are_alike_and_common_categories_say_little() -> None:
    frame = pl.DataFrame({"price": np.linspace(0, 10, 101), "kind": ["usual"] * 95 + ["rare"] * 6})
    table = Features.learn(frame, {"price": "number", "kind": "category"}).encode(frame)
    price = table.matrix({"kind": 0.0})
    near, far = (price[50] @ price[other].T for other in (53, 90))
    assert near.toarray().item() > 0.8
    assert far.nnz == 0
    kind = table.matrix({"price": 0.0})
    like = (kind @ kind.T).toarray()
    assert like[0, 1] < 0.01
    assert like[100, 99] > 0.3
    assert like[0, 100] == 0
