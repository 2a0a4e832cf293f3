"""Dataset: codes, order, views, and nothing lost."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.core.errors import DataError
from zhiyin.data.dataset import Dataset, sort_order

LOG = pl.DataFrame(
    {
        "user": ["b", "a", "b", "a", "b"],
        "item": [30, 10, 20, 30, 30],
        "time": [5, 9, 1, 9, 5],
        "kind": ["view", "buy", "view", "view", "buy"],
        "value": [1.0, None, 2.0, 3.0, 4.0],
        "weight": [1.0, 5.0, 1.0, 1.0, 5.0],
    }
)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 3)), max_size=40), st.booleans())
def test_sort_order_is_numpys_stable_one(rows: list[tuple[int, int]], timed: bool) -> None:
    user = np.array([u for u, _ in rows], dtype=np.int32)
    time = np.array([t for _, t in rows], dtype=np.int64) if timed else None
    expected = np.lexsort((time, user)) if timed else np.argsort(user, kind="stable")
    order = sort_order(user, time, 6)
    assert (np.arange(len(rows)) if order is None else order).tolist() == expected.tolist()
    if order is None:
        assert expected.tolist() == list(range(len(rows)))


def test_codes_and_order() -> None:
    data = Dataset.build(LOG, items=pl.DataFrame({"id": [10, 40, 20, 20], "title": ["x", "w", "y", "z"]}))
    assert data.users.rows() == [("a",), ("b",)]
    assert data.items.rows() == [(10, "x"), (20, "y"), (30, None), (40, "w")]
    assert data.events.select("user", "item", "time", "value", "weight").rows() == [
        (0, 0, 9, None, 5.0), (0, 2, 9, 3.0, 1.0), (1, 1, 1, 2.0, 1.0),
        (1, 2, 5, 1.0, 1.0), (1, 2, 5, 4.0, 5.0),
    ]  # fmt: skip
    assert data.events["kind"].to_list() == ["buy", "view", "view", "view", "buy"]
    assert data.kinds == ["buy", "view"]
    assert data.window == (1, 9)
    assert (data.n_events, data.n_users, data.n_items) == (5, 2, 4)
    assert repr(data).startswith("Dataset(5 events, 2 users, 4 items, 1970-01-01")


def test_views() -> None:
    data = Dataset.build(LOG)
    histories = data.histories
    assert histories.offsets.tolist() == [0, 2, 5]
    assert histories.items.tolist() == [0, 2, 1, 2, 2]
    assert histories.now.tolist() == [9, 9]
    assert histories.kinds.tolist() == [0, 1, 1, 1, 0]
    assert np.isnan(histories.values).tolist() == [True, False, False, False, False]
    assert data.history_of(["b", "?"]).lengths.tolist() == [3, 0]
    assert data.matrix("weight").toarray().tolist() == [[5, 0, 1], [0, 1, 6]]
    assert data.matrix("count").toarray().tolist() == [[1, 0, 1], [0, 1, 2]]
    assert data.matrix() is data.matrix("binary")
    part = data.subset(np.array([True, False, False, True, True]))
    assert part.histories.items.tolist() == [0, 2, 2]
    assert (part.n_users, part.n_items) == (2, 3)


def test_a_log_without_times_keeps_its_order() -> None:
    data = Dataset.build(LOG.select("user", "item"))
    assert not data.has_times
    assert data.window == (0, 0)
    assert data.events["time"].to_list() == [0] * 5
    assert data.histories.items.tolist() == [0, 2, 2, 1, 2]
    assert data.events["weight"].to_list() == [1.0] * 5
    assert data.kinds == ["event"]


def test_fingerprint_sees_what_teaches_a_model() -> None:
    data = Dataset.build(LOG)
    assert data.fingerprint == Dataset.build(LOG.clone()).fingerprint
    for column, change in (
        ("user", "c"),
        ("item", 11),
        ("time", 8),
        ("weight", 2.0),
        ("value", 5.0),
        ("kind", "x"),
    ):
        changed = LOG.with_columns(pl.Series(column, [change, *LOG[column][1:]]))
        assert Dataset.build(changed).fingerprint != data.fingerprint, column
    assert data.subset(np.ones(5, bool), candidates=np.array([True, False, True])).fingerprint != data.fingerprint


def test_nothing_to_learn_from() -> None:
    with pytest.raises(DataError, match="no event"):
        Dataset.build(LOG.clear())


def test_notebooks_show_tables_and_columns_escaped() -> None:
    evil = "<img src=x>"
    page = Dataset.build(LOG, items=pl.DataFrame({"id": [10, 20], evil: ["x", "y"]}))._repr_html_()
    assert "<td>events</td><td>5</td>" in page
    assert "&lt;img src=x&gt; (String)" in page
    assert "<img" not in page
