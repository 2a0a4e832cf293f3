"""Displays and what became of them, on a log whose answers are known by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.data.dataset import Dataset
from zhiyin.data.event_schema import EventSchema
from zhiyin.pipeline.display_log import display_log, without_values

MINUTE, START = 60_000_000, 1_700_000_000_000_000
# user, item, minute, kind, value
LOG = [
    ("a", "x", 0, "impression", 1.0), ("a", "y", 0, "impression", 2.0), ("a", "x", 1, "click", None),
    ("a", "x", 2, "purchase", None), ("a", "z", 3, "click", None),  # z was not displayed
    ("a", "y", 10, "impression", 1.0), ("a", "y", 12, "click", None),  # of the second display of y
    ("b", "x", 5, "impression", None), ("b", "x", 5 + 3000, "click", None),  # after more than a day
    ("b", "y", 6000, "click", None), ("b", "y", 6001, "impression", 3.0), ("b", "y", 6001, "impression", 4.0),
]  # fmt: skip


def log_of(rows: list[tuple[str, str, int, str, float | None]], weights: dict[str, float] | None = None) -> Dataset:
    frame = pl.DataFrame(rows, schema=["user", "item", "minute", "kind", "value"], orient="row")
    kinds = frame["kind"].unique().sort().to_list()
    schema = EventSchema.of(kinds, weights or {"click": 1, "purchase": 5})
    events = frame.select(
        "user", "item", "kind", time=START + pl.col("minute") * MINUTE, value=pl.col("value").cast(pl.Float32),
        weight=pl.Series(schema.weights(frame["kind"], frame["value"])),
    )  # fmt: skip
    return Dataset.build(events, schema=schema)


def test_a_display_has_the_clicks_after_it_and_before_the_next_display() -> None:
    data = log_of(LOG)
    log = display_log(data)
    shown = [
        (data.user_ids.values[int(user)], data.item_ids.values[int(item)], (time - START) // MINUTE, click, purchase)
        for user, item, time, click, purchase in zip(log.users, log.items, log.times, log.clicks, log.purchases)
    ]
    assert shown == [
        ("a", "x", 0, True, True), ("a", "y", 0, False, False), ("a", "y", 10, True, False),
        ("b", "x", 5, False, False), ("b", "y", 6001, False, False),
    ]  # fmt: skip
    assert np.array_equal(log.positions, [1, 2, 1, np.nan, 3], equal_nan=True)
    assert log.offsets.tolist() == [0, 2, 3, 4, 5]
    assert log.requests.histories().lengths.tolist() == [0, 5, 0, 3]


def test_a_wider_window_finds_the_late_click_and_clicked_displays_are_kept_alone() -> None:
    log = display_log(log_of(LOG), window="3d")
    assert log.clicks.tolist() == [True, False, True, True, False]
    clicked = log.clicked()
    assert clicked.offsets.tolist() == [0, 1, 2, 3]
    assert clicked.purchases.tolist() == [True, False, False]
    assert clicked.users.tolist() == [0, 0, 1]


def test_moments_select_requests() -> None:
    log = display_log(log_of(LOG))
    part = log.between(START + 5 * MINUTE, START + 11 * MINUTE)
    assert part.users.tolist() == [0, 1]
    assert part.items.tolist() == [1, 0]


def test_a_log_without_displays_and_displays_of_a_weight_are_refused() -> None:
    with pytest.raises(DataError, match="no displays"):
        display_log(log_of(LOG), "shown")
    with pytest.raises(ConfigError, match="positive weight"):
        display_log(log_of(LOG, {"impression": 1, "click": 2}))


def test_positions_are_no_ratings() -> None:
    data = log_of(LOG)
    plain = without_values(data)
    assert plain.events["value"].null_count() == len(LOG)
    assert data.events["value"].null_count() < len(LOG)
    assert plain.histories.times.tolist() == data.histories.times.tolist()
