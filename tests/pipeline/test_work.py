"""Work of expressions is counted before it is done, and stops where nobody waits for it any more."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import polars as pl
import pytest

from zhiyin.core.work_limits import Meter, StoppedError, WorkError, check, metered, spend
from zhiyin.pipeline.expression_evaluation import evaluate
from zhiyin.pipeline.expression_values import Value
from zhiyin.pipeline.filters import Filters, RequestValues

N = 5_000
ITEMS = pl.DataFrame({
    "id": [f"i{n}" for n in range(N)], "title": [f"Film number {n * 7 % N}" for n in range(N)],
    "other": [f"Book number {n * 3 % N}" for n in range(N)], "price": np.arange(N) / 10,
    "tags": [["a", f"t{n % 100}"] for n in range(N)], "more": [[f"t{n % 90}", "b"] for n in range(N)],
})  # fmt: skip


def spent(expression: str, filters: Filters | None = None) -> float:
    """Units that an expression takes."""
    filters = filters or Filters(ITEMS)
    with metered(Meter(1e12, 1e6)) as meter:
        filters.mask(expression, RequestValues())
    return meter.units - meter.left


@pytest.mark.parametrize("expression", [
    "price > 3", "price * 2 + 1 > 3", "title LIKE '%1%'", "title ILIKE '%FILM%9'", "LOWER(title) = 'a'",
    "LOWER(UPPER(LOWER(title))) > 'b'", "GREATEST(title, other) > 'F'", "COALESCE(title, other, 'x') > 'F'",
    "title < other", "title IN ('a', 'b', 'c')", "CASE WHEN price > 3 THEN title ELSE other END > 'F'",
    "LENGTH(title) > 14", "tags IN more", "NOT (price > 3 OR title LIKE 'F%')",
])  # fmt: skip
def test_what_is_counted_is_no_less_than_what_it_takes(expression: str) -> None:
    """Within a factor that leaves room for a slow machine: it takes no ten times longer than was counted."""
    filters = Filters(ITEMS)
    spent(expression, filters)  # columns are made ready
    least = float("inf")
    for n in range(3):
        again = f"({expression}) AND price > -{n + 1}"
        begun = time.process_time()
        units = spent(again, filters)
        least = min(least, (time.process_time() - begun) * 1e9 - 20_000 * len(again))
    assert least < 10 * units + 5e6


def test_what_is_too_much_is_not_begun() -> None:
    filters = Filters(ITEMS)
    bomb = " OR ".join(f"LOWER(title) LIKE '%{n}%'" for n in range(80))
    with metered(Meter(1e7, 60)), pytest.raises(WorkError, match="too much work"):
        filters.mask(bomb)
    filters.mask(bomb)  # outside of a request nothing is counted
    with metered(Meter(1e7, 60)):
        filters.mask(bomb)  # and what is kept costs nothing


def test_what_stands_there_twice_is_computed_once() -> None:
    once, often = spent("LOWER(title) > 'a'"), spent(" AND ".join(f"LOWER(title) > '{c}'" for c in "abcdefgh"))
    assert often < 4 * once
    seen: list[str] = []
    filters = Filters(ITEMS)
    node = filters.parse("GREATEST(" + ", ".join(["LOWER(title)"] * 20) + ") > 'a'", "bool").node

    def source(step: Any) -> Value | None:
        seen.append(step.op)
        return filters._column("title") if step.op == "column" else None

    evaluate(node, source)
    assert seen.count("column") == 1


def test_many_conditions_cost_as_many_times_as_much() -> None:
    one = spent("title LIKE '%1%'")
    ten = spent(" AND ".join(f"title LIKE '%{n}%'" for n in range(10)))
    assert 8 * one < ten < 14 * one


def test_work_ends_when_nobody_waits() -> None:
    begun, ended = threading.Event(), threading.Event()
    meter = Meter(1e18, 60)

    def work() -> None:
        filters = Filters(ITEMS)
        try:
            with metered(meter):
                for n in range(1_000_000):
                    filters.mask(f"LOWER(title) LIKE '%{n}%'")
                    begun.set()
        except StoppedError:
            ended.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert begun.wait(20)
    meter.stop()
    assert ended.wait(20)
    thread.join()


def test_time_is_up_and_outside_nothing_is_counted() -> None:
    check()
    spend(1e30)
    with metered(Meter(10, -1)), pytest.raises(StoppedError):
        check()
    with metered(Meter(10, 60)):
        spend(9)
        with pytest.raises(WorkError):
            spend(2)
    check()
