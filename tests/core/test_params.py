"""Hyperparameters: declared once, read everywhere."""

from __future__ import annotations

import dataclasses
import re
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.core.durations import SECOND, UNITS, is_duration, microseconds, pattern_of, spell
from zhiyin.core.errors import ConfigError, DataError, suggest
from zhiyin.core.params import check_settings, list_length, param, params_of, settings_of, whole_number
from zhiyin.core.run import Run


@dataclasses.dataclass
class Toy:
    factors: int = param(8, "length", at_least=1, tune=(4, 64), log=True)
    reg: float = param(0.5, "penalty", at_least=0)
    kind: str = param("a", "which", choices=("a", "b"))
    half_life: str | None = param(None, "fading", tune=("1d", "7d"))
    centred: bool = param(True, "centre")


def test_kinds_are_read_from_the_annotations() -> None:
    kinds = {name: p.kind for name, p in params_of(Toy).items()}
    assert kinds == {"factors": "int", "reg": "float", "kind": "str", "half_life": "duration", "centred": "bool"}
    assert params_of(Toy)["half_life"].optional


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("factors", "16", 16), ("reg", "1e-2", 0.01), ("half_life", "7d", "7d"), ("half_life", "none", None),
     ("centred", "no", False), ("kind", "b", "b")],
)  # fmt: skip
def test_text_becomes_a_value_and_back(name: str, text: str, value: object) -> None:
    parsed = params_of(Toy)[name].parse(text, "Toy")
    assert parsed == value
    assert settings_of(Toy(**{name: parsed}))[name] == value


@pytest.mark.parametrize(
    ("name", "value"),
    [("factors", 0), ("factors", 2.5), ("factors", "many"), ("factors", True), ("reg", -1), ("reg", float("nan")),
     ("kind", "c"), ("half_life", "soon"), ("centred", 1), ("factors", None), ("factors", float("inf")),
     ("factors", -float("inf")), ("factors", 10**30), pytest.param("factors", 10**5000, id="factors-huge"),
     ("factors", 2**31), ("factors", "1e400"),
     ("factors", np.bool_(True)), ("factors", np.float64(2.5)), ("factors", [1]), ("factors", np.array([4])),
     ("reg", float("inf")), pytest.param("reg", 10**400, id="reg-huge"), ("reg", 1e39), ("reg", "nan"),
     ("reg", "1e400"), ("reg", True),
     ("reg", np.inf), ("centred", np.int64(1)), ("half_life", "0.0000001s"), ("half_life", "9" * 400 + "y")],
)  # fmt: skip
def test_what_is_out_of_range_is_refused_with_the_range(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as error:
        check_settings(Toy, {name: value})
    assert name in str(error.value)
    assert "default" in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["Infinity", "-Infinity", "NaN", "1e400", "9" * 5_000, "[" * 5_000, "1.5", "true", "1e"],
    ids=lambda text: text[:9],
)
def test_text_that_is_no_number_in_range_is_refused_with_the_range(text: str) -> None:
    for name in ("factors", "reg"):
        if (name, text) == ("reg", "1.5"):
            continue
        with pytest.raises(ConfigError, match=rf"Toy: {name} = (?s:.*)default"):
            params_of(Toy)[name].parse(text, "Toy")


def test_numbers_of_numpy_are_numbers() -> None:
    given = {"factors": np.int16(4), "reg": np.float32(0.25), "centred": np.bool_(False), "kind": np.str_("b")}
    checked = check_settings(Toy, given)
    assert checked == {"factors": 4, "reg": 0.25, "centred": False, "kind": "b"}
    assert [type(value) for value in checked.values()] == [int, float, bool, str]
    assert check_settings(Toy, {"factors": np.array(4), "reg": np.array(1)}) == {"factors": 4, "reg": 1.0}
    assert check_settings(Toy, {"factors": 64.0, "reg": "1e-3"}) == {"factors": 64, "reg": 0.001}


@pytest.mark.parametrize("value", [3, 3.0, np.int8(3), np.uint64(3), np.float32(3), np.array(3), np.array(3.0)])
def test_a_whole_number_of_any_type(value: object) -> None:
    found = whole_number(value, "k")
    assert (found, type(found)) == (3, int)


@pytest.mark.parametrize(
    "value",
    [True, np.bool_(True), 1.5, float("nan"), float("inf"), -float("inf"), "3", None, [3], np.array([3]), 3 + 0j,
     np.datetime64(3, "ns"), np.timedelta64(3, "s"), 0, -1, np.int64(-1), pytest.param(-(10**5000), id="huge")],
)  # fmt: skip
def test_what_is_no_whole_number_in_range_is_refused_by_name(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^rounds = (?s:.*)a whole number from 1 to 9"):
        whole_number(value, "rounds", at_most=9)
    with pytest.raises(ConfigError, match=r"^k = (?s:.*)a whole number of at least 1"):
        list_length(value)


def test_an_unknown_name_brings_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'factors'"):
        check_settings(Toy, {"factor": 3})
    assert suggest("eese", ["EASE", "ALS"]) == "did you mean 'EASE'?"
    assert suggest("zzz", ["EASE", "ALS"]) == "known: EASE, ALS"


def test_an_error_says_where_and_what_to_do() -> None:
    error = DataError("time is missing", file="a.csv", row=7, column="at", remedy="mend it")
    assert str(error) == "a.csv, line 7, column 'at': time is missing\n  What to do: mend it"


def test_durations() -> None:
    assert microseconds("90m") == 5_400_000_000
    assert spell(microseconds("90m")) == "1.5 h"
    for wrong in ("7", "d", "-1d", "0d", "1 fortnight", "1e3d", "infd", "nand", "", "0.0000001s", "0.0s", "1001y"):
        with pytest.raises(ConfigError):
            microseconds(wrong)
        assert not is_duration(wrong)
    for wrong in ("99999999999999y", "9" * 400 + "s"):
        with pytest.raises(ConfigError, match=r"longer than 1,000 years"):
            microseconds(wrong)
    assert (microseconds("0.000001s"), microseconds("0.0000006s")) == (1, 1)
    assert microseconds("1000y") + 7_258_118_400_000_000 < 2**63


RANGES = [(1, 100 * UNITS["y"]), (SECOND, 7 * UNITS["d"]), (500_000, UNITS["w"])]


@given(st.sampled_from(RANGES), st.sampled_from("smhdwy"), st.data())
def test_the_pattern_of_durations_is_what_lies_between_two(
    ends: tuple[int, int], unit: str, data: st.DataObject
) -> None:
    (shortest, longest), length = ends, UNITS[unit]
    pattern = pattern_of(shortest, longest)
    assert shortest <= microseconds(data.draw(st.from_regex(pattern, fullmatch=True))) <= longest
    near = data.draw(st.sampled_from([0, *(10**6 * end // length for end in ends), 10**6 * (longest // length)]))
    millionths = max(0, near + data.draw(st.integers(-3, 3) | st.integers(-(10**6), 10**12)))
    number = f"{millionths // 10**6}.{millionths % 10**6:06d}".rstrip("0").rstrip(".")
    # Of a unit of which the longest is no multiple, the last part is left out.
    inside = 10**6 * shortest <= millionths * length and millionths <= 10**6 * (longest // length)
    assert bool(re.fullmatch(pattern, number + unit)) == inside


@given(st.integers(1, 10**9), st.sampled_from("smhdwy"), st.integers(0, 3))
def test_durations_are_never_off_by_one(whole: int, unit: str, decimals: int) -> None:
    exact = Decimal(whole) / 10**decimals * UNITS[unit]
    if exact <= 1000 * UNITS["y"]:
        assert abs(microseconds(f"{Decimal(whole) / 10**decimals:f}{unit}") - exact) <= max(1, exact // 2**52)


def test_seeds_and_threads_are_whole_numbers_in_range() -> None:
    run = Run(seed=np.int64(3), threads=np.int32(2))
    assert (run.seed, type(run.seed), run.threads, run.n_threads) == (3, int, 2, 2)
    assert Run(threads=0).n_threads == Run().n_threads
    assert Run(seed=2**63 - 1).rng(1).integers(9) >= 0
    for wrong in (-1, True, 1.5, float("nan"), 2**63, "1", None):
        with pytest.raises(ConfigError, match=r"^seed = "):
            Run(seed=wrong)  # type: ignore[arg-type]
    for wrong in (-1, True, 1.5, 10**9, "1"):
        with pytest.raises(ConfigError, match=r"^threads = "):
            Run(threads=wrong)  # type: ignore[arg-type]
