"""Rules of weights and the sentence of roles."""

from __future__ import annotations

import polars as pl
import pytest

from zhiyin.core.errors import ConfigError
from zhiyin.data.schema import Roles, default_weights, parse_weights, weigh


def weights(rules: dict[str, float], kinds: list[str], values: list[float | None]) -> list[float]:
    parsed = parse_weights(rules, sorted(set(kinds)), "stars")
    return weigh(parsed, pl.Series(kinds), pl.Series(values, dtype=pl.Float32), len(kinds)).tolist()


def test_the_first_rule_that_matches_decides() -> None:
    rules = {"play > 30": 2, "play": 1, "stars <= 1": -1}
    assert weights(rules, ["play", "play", "skip", "skip"], [31, 30, 1, None]) == [2, 1, -1, 0]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("rating >= 4", [0, 1, 1]),
        ("rating > 4", [0, 0, 1]),
        ("rating == 4", [0, 1, 0]),
        ("value<4", [1, 0, 0]),
        ("stars <= 4.0", [1, 1, 0]),
    ],
)
def test_comparisons(rule: str, expected: list[float]) -> None:
    assert weights({rule: 1}, ["x"] * 3, [3, 4, 5]) == expected


def test_rules_that_cannot_be_read() -> None:
    for rule in ("viev", "rating >= ", "", "rating >= four"):
        with pytest.raises(ConfigError) as caught:
            parse_weights({rule: 1}, ["view"], "rating")
        assert caught.value.remedy
    with pytest.raises(ConfigError, match="the log has none"):
        parse_weights({"rating >= 4": 1}, ["view"], None)


def test_usual_weights() -> None:
    assert default_weights(["view", "Purchase", "dislike"], True) == {
        "rating < 0": -1.0, "view": 1.0, "Purchase": 5.0, "dislike": -1.0,
    }  # fmt: skip


def test_roles_are_said() -> None:
    roles = Roles("u", "i", time="t", item_columns=("title", "price"))
    assert roles.sentence() == "user = u; item = i; time = t; item_columns = title, price"
