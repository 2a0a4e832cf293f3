"""An index that hears of events while it is read: any order of arrival gives what learning the whole log gives, and a
reader sees one whole state."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.ranking.test_asof import BEGIN, DAY, HOUR, ITEMS, every_item, log
from zhiyin.data.dataset import Dataset, _count_sort, _is_sorted, _sort_segments
from zhiyin.data.histories import Histories
from zhiyin.ranking.asof import AsOf
from zhiyin.ranking.item_event_log import ItemLog, _merge, _move
from zhiyin.ranking.live_index import LiveIndex


@settings(max_examples=examples(60))
@given(
    seed=st.integers(0, 10_000),
    cuts=st.lists(st.integers(0, 80), max_size=6),
    kinds=st.integers(0, 3),
    signs=st.booleans(),
    values=st.booleans(),
)
def test_a_log_appended_in_any_parts_and_order_equals_one_that_was_sorted(
    seed: int, cuts: list[int], kinds: int, signs: bool, values: bool
) -> None:
    rng, n = np.random.default_rng(seed), 80
    parts = (
        rng.integers(0, 5, n).astype(np.int32),
        rng.integers(0, 12, n).astype(np.int64),  # many at the same moment
        rng.integers(-1, 3, n).astype(np.float32),
        np.where(rng.random(n) < 0.3, np.nan, rng.integers(0, 9, n) / 4).astype(np.float32),
        rng.integers(0, kinds + 1, n).astype(np.int8),
    )
    told = {"signs": signs, "values": values, "n_kinds": kinds}
    whole = ItemLog.of(*parts, 5, **told)
    grown = ItemLog.empty(2, **told)
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), n]):
        grown.append(*(part[begin:end] for part in parts))
    for name, array in grown.state().items():
        expected = whole.state()[name]
        if name == "counts":  # items that nothing came of need no place
            array = np.append(array, np.zeros(5 - len(array), np.int64))
        assert np.array_equal(array, expected), name


def shop(seed: int) -> tuple[Dataset, pl.DataFrame]:
    """100 days of events with kinds, weights and values; the data of the first 60, and the frame of all."""
    rng, n = np.random.default_rng(seed), 1500
    frame = pl.DataFrame({
        "user": rng.integers(0, 30, n), "item": np.concatenate([np.arange(ITEMS), rng.integers(0, ITEMS, n - ITEMS)]),
        "time": BEGIN + np.sort(rng.integers(0, 100 * 24, n)) * HOUR,
        "kind": np.where(rng.random(n) < 0.3, "buy", "view"),
        "value": np.where(rng.random(n) < 0.5, np.nan, rng.integers(0, 9, n) / 4),
        "weight": rng.choice([-1.0, 1.0, 5.0], n).astype(np.float32),
    })  # fmt: skip
    return built(frame), frame


def built(frame: pl.DataFrame) -> Dataset:
    data = Dataset.build(frame.drop("weight").with_columns(pl.col("value").fill_nan(None)))
    # The same rows in the order of the data: by user and time.
    order = frame.with_row_index("row").sort("user", "time", maintain_order=True)["row"]
    data.events = data.events.with_columns(frame["weight"][order].alias("weight"))
    return data


def appended(data: Dataset, frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.Series("item", data.item_ids.encode(frame["item"])))


@pytest.mark.parametrize("days", [0, 1, 7, 30])
def test_counts_some_days_after_training_are_those_of_the_whole_log(days: int) -> None:
    """Without the events since, one-day counts are 0 a day later, and all windows are empty after a month."""
    _, frame = shop(days)
    trained = BEGIN + 60 * DAY
    data = built(frame.filter(pl.col("time") < trained))
    live = LiveIndex(AsOf.learn(data), 0)
    until = trained + days * DAY
    came = frame.filter(pl.col("time").is_between(trained, until, closed="left"))
    late = came.sample(fraction=1.0, shuffle=True, seed=days)  # a part comes late: days after it was done
    for part in late.iter_slices(37):
        live.append(appended(data, part), 0, len(part))
    fresh = AsOf.learn(built(frame.filter(pl.col("time") < until)), like=live.learned)
    nobody = Histories.of(np.zeros(2, np.int64), np.zeros(0, np.int32), now=np.array([until]))
    with live.reading() as state:
        found = state.index.numbers(nobody, every_item(1))
        assert state.events == len(came)
    assert np.allclose(found, fresh.numbers(nobody, every_item(1)), rtol=1e-6, atol=1e-6, equal_nan=True)
    by_sorting = live.learned.with_events(appended(data, came))
    assert np.allclose(found, by_sorting.numbers(nobody, every_item(1)), rtol=1e-6, atol=1e-6, equal_nan=True)
    if days:
        frozen = live.learned.numbers(nobody, every_item(1))
        column = live.learned.names.index("item events 1d")
        assert frozen[:, column].max() == 0 < found[:, column].max()


def test_new_items_are_counted_behind_those_that_were_learned() -> None:
    data = Dataset.build(log(1))
    live = LiveIndex(AsOf.learn(data), 0)
    new = pl.DataFrame({"item": [ITEMS + 1] * 3, "time": BEGIN + 50 * DAY + np.arange(3)})
    live.append(new, 3, 3)
    asked = every_item(1)
    asked.items[:] = ITEMS + 1
    now = Histories.of(np.zeros(2, np.int64), np.zeros(0, np.int32), now=np.array([BEGIN + 51 * DAY - 1]))
    with live.reading() as state:
        found = state.index.numbers(now, asked)
    assert np.allclose(found[:, live.learned.names.index("item events 1d")], np.log1p(3))


def test_a_reader_keeps_its_state_and_the_next_one_does_not_wait() -> None:
    data = Dataset.build(log(2))
    live = LiveIndex(AsOf.learn(data), 0)
    now = Histories.of(np.zeros(2, np.int64), np.zeros(0, np.int32), now=np.array([BEGIN + 60 * DAY]))

    def total() -> tuple[int, int]:
        with live.reading() as state:
            return state.seq, counted(state.index)

    def counted(index: AsOf) -> int:
        return int(np.rint(np.expm1(index.numbers(now, every_item(1))[:, index.names.index("item events")])).sum())

    def news(moment: int) -> pl.DataFrame:
        return pl.DataFrame({"item": np.arange(ITEMS), "time": np.full(ITEMS, moment)})

    before = counted(live.learned)
    with live.reading() as first:
        writer = threading.Thread(target=live.append, args=(news(BEGIN + 50 * DAY), 9, ITEMS))
        writer.start()
        while live.seq != 9:  # new readers know of it while the old one still reads
            pass
        assert total() == (9, before + ITEMS)
        assert (first.seq, counted(first.index)) == (0, before)
        assert writer.is_alive()
    writer.join(10)
    assert not writer.is_alive()
    live.append(news(BEGIN), 18, ITEMS)  # late: before all others
    assert total() == (18, before + 2 * ITEMS)
    live.replace(news(BEGIN + 50 * DAY), 18, ITEMS)
    assert total() == (18, before + ITEMS)
    live.append(news(BEGIN + 50 * DAY), 27, ITEMS)
    assert total() == (27, before + 2 * ITEMS)


@pytest.mark.slow
def test_readers_beside_appends_see_every_event_of_a_state_and_none_of_the_next() -> None:
    """Each part brings one event to every item, most of them late, so that half an insertion would be seen."""
    data = Dataset.build(log(3))
    live = LiveIndex(AsOf.learn(data), 0)
    now = Histories.of(np.zeros(2, np.int64), np.zeros(0, np.int32), now=np.array([BEGIN + 60 * DAY]))
    at = live.learned.names.index("item events")
    base = np.rint(np.expm1(live.learned.numbers(now, every_item(1))[:, at])).astype(int)
    rng, parts, done = np.random.default_rng(0), 300, threading.Event()
    wrong: list[str] = []

    def read() -> None:
        while not done.is_set():
            with live.reading() as state:
                found = np.rint(np.expm1(state.index.numbers(now, every_item(1))[:, at])).astype(int)
                again = np.rint(np.expm1(state.index.numbers(now, every_item(1))[:, at])).astype(int)
                if not (np.array_equal(found - base, np.full(ITEMS, state.seq)) and np.array_equal(found, again)):
                    wrong.append(f"{state.seq}: {found - base}")

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for seq in range(1, parts + 1):
        live.append(
            pl.DataFrame({"item": np.arange(ITEMS), "time": BEGIN + rng.integers(0, 50 * DAY, ITEMS)}), seq, ITEMS
        )
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong, wrong[:3]


def test_kernels_are_compiled_once_whoever_owns_the_memory() -> None:
    """A frame of one chunk lends its memory read-only, one of several does not: both take the same compiled code."""
    compiled = (_is_sorted, _count_sort, _sort_segments, _move, _merge)
    frame = pl.DataFrame({"item": [1, 0, 1], "time": [3, 2, 1], "weight": [1.0, 1.0, 1.0]})
    frame = frame.cast({"item": pl.Int32, "weight": pl.Float32})
    columns = [frame[name].to_numpy() for name in ("item", "time", "weight")]
    kind = np.zeros(3, np.int64)
    events = ItemLog.empty(2, signs=True, values=True, n_kinds=1)
    before: list[list[Any]] = []
    for copied in (False, True, False):
        item, time, weight = (np.array(part) if copied else part for part in columns)
        assert item.flags.writeable == copied
        for start in (0, 1):  # out of order and in order
            rows = slice(start, None) if not start else slice(start, start + 1)
            events.append(item[rows], time[rows], weight[rows], weight[rows], kind[rows])
        before = before or [list(one.signatures) for one in compiled]
    assert [list(one.signatures) for one in compiled] == before
