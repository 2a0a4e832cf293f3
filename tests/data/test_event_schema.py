"""What events mean: weights by rule, kinds as codes, times that are accepted; the same after a round through JSON."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.core.errors import ConfigError
from zhiyin.data.event_schema import KIND_WEIGHTS, EventSchema, parse_weights
from zhiyin.data.time_policy import TimePolicy

NOW = 1_800_000_000_000_000
DAY = 86_400_000_000


def weights(rules: dict[str, float], kinds: list[str], values: list[float | None]) -> list[float]:
    return EventSchema.of(sorted(set(kinds)), rules, "stars").weights(kinds, values).tolist()


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


def test_usual_weights_do_not_depend_on_the_log() -> None:
    for schema in (EventSchema.of(["view"]), EventSchema.of(["Purchase", "dislike", "view"], value="quantity")):
        kinds = ["view", "Purchase", "purchase", "dislike", "share", "view", "purchase"]
        found = schema.weights(kinds, [None, None, 2.0, None, None, -1.0, -0.5])
        assert found.tolist() == [1, 5, 5, -1, 1, -1, -1]
        assert found.dtype == np.float32


def test_a_kind_of_no_code_is_no_kind_of_the_log() -> None:
    schema = EventSchema.of(["purchase", "view"])
    assert schema.codes(["view", "share", "purchase"]).tolist() == [1, 2, 0]
    assert schema.other == 2
    many = EventSchema.of([f"k{n:03}" for n in range(300)])
    assert many.codes(["k299", "share"]).tolist() == [299, 300]


_KINDS = ["view", "purchase", "Hide", "share", "play", "知"]
_RULES = ["view", "play > 30", "rating < 0", "stars >= 4", "rating == 0.1", "share"]


@given(
    events=st.lists(st.tuples(st.sampled_from(_KINDS), st.none() | st.floats(-50, 50, width=32) | st.just(0.1))),
    rules=st.none() | st.dictionaries(st.sampled_from(_RULES), st.floats(-9, 9, width=32)),
)
def test_as_one_event_at_a_time_in_columns_and_after_a_round_through_json(
    events: list[tuple[str, float | None]], rules: dict[str, float] | None
) -> None:
    schema = EventSchema.of(sorted(_KINDS), rules, "stars")
    kinds, values = [kind for kind, _ in events], [value for _, value in events]
    expected = np.array([_worth(schema, rules, kind, value) for kind, value in events], dtype=np.float32)
    again = EventSchema.from_state(json.loads(json.dumps(schema.state())))
    assert again == schema
    for one in (schema, again):
        assert np.array_equal(one.weights(kinds, values), expected)
        column = pl.Series(kinds, dtype=pl.String).cast(pl.Categorical)
        assert np.array_equal(one.weights(column, pl.Series(values, dtype=pl.Float32)), expected)
        assert one.codes(kinds).tolist() == [sorted(_KINDS).index(kind) for kind in kinds]


def _worth(schema: EventSchema, rules: dict[str, float] | None, kind: str, value: float | None) -> float:
    """Weight of one event, read off the rules as they were written."""
    number = np.float32(np.nan if value is None else value)
    if rules is None:
        return -1.0 if number < 0 else KIND_WEIGHTS.get(kind.lower(), 1.0)
    hits = {
        "view": kind == "view", "share": kind == "share", "play > 30": kind == "play" and number > 30,
        "rating < 0": number < 0, "stars >= 4": number >= 4, "rating == 0.1": number == np.float32(0.1),
    }  # fmt: skip
    return next((weight for rule, weight in rules.items() if hits[rule]), 0.0)


@pytest.mark.parametrize(
    ("moment", "says"),
    [
        (NOW // 1_000_000, "looks like seconds"),
        (NOW // 1_000, "looks like milliseconds"),
        (NOW * 1_000, "looks like nanoseconds"),
        (NOW + DAY + 1, "more than a day ahead of the clock"),
        (4_102_444_800_000_000, "more than a day ahead of the clock"),
        (0, "before 1971"),
        (-5, "before 1971"),
    ],
)
def test_times_that_are_refused_say_why(moment: int, says: str) -> None:
    policy = TimePolicy()
    assert not policy.accepts(moment, NOW)
    message, remedy = policy.refusal(moment, NOW)
    assert says in message
    assert "microseconds UTC" in remedy


def test_times_a_little_ahead_are_accepted() -> None:
    assert TimePolicy().accepts(NOW + DAY, NOW)
    assert TimePolicy().accepts(31_536_000_000_000, NOW)
