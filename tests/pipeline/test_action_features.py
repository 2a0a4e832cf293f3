"""Features of actions that a caller brings: deterministic, bounded, and able to tell apart what differs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.api.feature_values import MAX_FEATURES, named_numbers
from zhiyin.pipeline.action_features import FEATURES, LAYOUT, NAMES, ActionFeatures

_LEAVES = st.none() | st.booleans() | st.floats(-1e15, 1e15) | st.integers(-(10**15), 10**15) | st.text(max_size=9)
_NAMES = st.text(min_size=1, max_size=6).filter(lambda name: name.isprintable())
_OBJECTS = st.dictionaries(
    _NAMES, _LEAVES | st.lists(_LEAVES, max_size=3) | st.dictionaries(_NAMES, _LEAVES), max_size=5
)


def test_named_numbers_of_every_kind_of_value() -> None:
    numbers = named_numbers(
        [{"a": "x", "n": {"b": True, "c": {"d": 2}}}, {"a": ["x", "y", 7], "gone": None, "off": False}]
    )
    assert numbers == {"a.2": 7.0, "a=x": 2.0, "a=y": 1.0, "n.b=true": 1.0, "n.c.d": 2.0, "off=false": 1.0}
    assert list(numbers) == sorted(numbers)


@given(_OBJECTS)
def test_named_numbers_are_features_that_read_as_themselves(features: dict[str, object]) -> None:
    numbers = named_numbers(features)
    assert named_numbers(numbers) == numbers


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (5, "is an object of features"), ([1], "is an object of features"), ({"": 1}, "a name of a feature"),
        ({"a" * 129: 1}, "a name of a feature"), ({"a": "x" * 513}, "at most 512"), ({"a": 1e16}, "a number is from"),
        ({"a": float("nan")}, "a number is from"), ({"a": [[1]]}, "a list holds"), ({"a": [1] * 101}, "101 values"),
        ({"a": {"b": {"c": {"d": {"e": 1}}}}}, "4 deep"), ({f"a{i}": 1 for i in range(101)}, "101 names"),
        ([{f"{n}a{i}": 1 for i in range(67)} for n in range(3)], "more than 200"),
        ({"a": "\ud800"}, "half a character"), ([{}] * 21, "21 objects"),
    ],
)  # fmt: skip
def test_what_is_no_feature_is_refused_with_its_reason(features: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        named_numbers(features)


def test_the_vector_is_made_of_its_blocks_and_is_the_same_in_every_process() -> None:
    made = ActionFeatures(
        ["a", "b"], [{"price": 3.0}, {}], {"device=phone": 1.0}, [("top", {"width": 2.0}), ("side", {})]
    )
    first, second = made.of_slot(0), made.of_slot(1)
    assert first.shape == second.shape == (2, FEATURES) == (2, len(NAMES)) == (2, 128)
    assert (first[:, 0] == 1).all()
    assert (first[:, 1:49] == second[:, 1:49]).all()  # the action does not depend on the slot
    assert (first[0, 49:64] == first[1, 49:64]).all()  # nor the context on the action
    assert not np.allclose(first[:, 49:64], second[:, 49:64])
    # Once worked out: a hash, an order or a scale that changes makes what was learned before worthless.
    assert LAYOUT == LAYOUT_THEN
    expected = [SUM_THEN, FIRST_THEN]
    assert [float(first.sum()), float(first[0, 1])] == pytest.approx(expected, abs=1e-12)


LAYOUT_THEN, SUM_THEN, FIRST_THEN = "441607ef67ac260e", 4.8381268725851525, -0.10851198735557929


def test_the_order_of_actions_changes_the_order_of_rows_alone() -> None:
    ids, numbers = ["a", "b", "c"], [{"x": 1.0}, {"y": 2.0, "x": -1.0}, {}]
    rows = ActionFeatures(ids, numbers, {"z": 1.0}).of_slot(0)
    turned = ActionFeatures(ids[::-1], numbers[::-1], {"z": 1.0}).of_slot(0)
    np.testing.assert_allclose(turned[::-1], rows, rtol=0, atol=1e-12)


def test_pairs_of_action_and_context_are_linearly_independent() -> None:
    """8 actions in 6 contexts: any reward of the 48 pairs is a linear function of φ."""
    rows = np.concatenate([
        ActionFeatures([f"a{i}" for i in range(8)], [{}] * 8, {f"context={c}": 1.0}).of_slot(0) for c in range(6)
    ])  # fmt: skip
    assert np.linalg.matrix_rank(rows) == 48


def test_features_are_bounded_whatever_their_number_and_size() -> None:
    many = {f"f{i}": 1e15 for i in range(MAX_FEATURES)}
    few = {"x=1": 1.0}
    norms = [np.linalg.norm(ActionFeatures(["a"], [n], c).of_slot(0)) for n, c in [(few, few), (few, {}), ({}, few)]]
    assert all(1.0 < norm < 2.6 for norm in norms)
    assert np.isfinite(ActionFeatures(["a"], [many], many).of_slot(0)).all()
