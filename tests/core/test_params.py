"""Hyperparameters: declared once, read everywhere."""

from __future__ import annotations

import dataclasses

import pytest

from zhiyin.core.durations import microseconds, spell
from zhiyin.core.errors import ConfigError, DataError, nearest
from zhiyin.core.params import check_settings, param, params_of, settings_of


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
     ("kind", "c"), ("half_life", "soon"), ("centred", 1), ("factors", None)],
)  # fmt: skip
def test_what_is_out_of_range_is_refused_with_the_range(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as error:
        check_settings(Toy, {name: value})
    assert name in str(error.value)
    assert "default" in str(error.value)


def test_an_unknown_name_brings_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'factors'"):
        check_settings(Toy, {"factor": 3})
    assert nearest("eese", ["EASE", "ALS"]) == "did you mean 'EASE'?"
    assert nearest("zzz", ["EASE", "ALS"]) == "known: EASE, ALS"


def test_an_error_says_where_and_what_to_do() -> None:
    error = DataError("time is missing", file="a.csv", row=7, column="at", remedy="mend it")
    assert str(error) == "a.csv, line 7, column 'at': time is missing\n  What to do: mend it"


def test_durations() -> None:
    assert microseconds("90m") == 5_400_000_000
    assert spell(microseconds("90m")) == "1.5 h"
    for wrong in ("7", "d", "-1d", "0d", "1 fortnight"):
        with pytest.raises(ConfigError):
            microseconds(wrong)
