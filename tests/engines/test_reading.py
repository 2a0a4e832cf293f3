"""Reading in parts on Spark gives the data set of a single process: codes, order, weights, quarantine and notes."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.data.checks import examine
from zhiyin.data.dataset import Dataset
from zhiyin.data.reading import read

if TYPE_CHECKING:
    from zhiyin.engines.spark.engine import SparkEngine

NOW = 1_700_000_000_000_000
ROWS_PER_PART = 400


def table(n: int, seed: int, **columns: Any) -> pl.DataFrame:
    """Events with repeats, ties in time, rows without a user or item, impossible and future times."""
    rng = np.random.default_rng(seed)
    user = pl.Series("user_id", [f"u{u}" if u else None for u in rng.integers(0, 40, n)])
    item = pl.Series("item_id", rng.integers(0, 30, n)).set(pl.Series(rng.random(n) < 0.02), None)
    seconds = NOW // 1_000_000 - rng.integers(0, 200, n) * 3_600
    seconds[rng.random(n) < 0.01] = NOW // 1_000_000 + 3_600
    seconds[rng.random(n) < 0.01] = NOW // 1_000_000 + 10 * 86_400
    seconds[rng.random(n) < 0.01] = 5
    return pl.DataFrame({"user_id": user, "item_id": item, "timestamp": seconds}).with_columns(
        pl.Series(name, rng.choice(values, n)) for name, values in columns.items()
    )


def assert_same(spark: SparkEngine, source: Any, *, ordered: bool = True, **options: Any) -> Dataset:
    """The data set that Spark reads, which must be that of a single process.

    ordered: False where rows that are set aside may have other lines and another order.
    """
    from zhiyin.engines.spark.event_log import block_name, read_histories
    from zhiyin.engines.spark.reading import read_log

    wanted = read(source, now=NOW, **options)
    log = read_log(spark, source, now=NOW, rows_per_part=ROWS_PER_PART, **options)
    data = log.data
    for name in ("events", "users", "items"):
        assert_frame_equal(getattr(data, name), getattr(wanted, name), check_exact=True)
    columns = ["file", "line", "reason", "raw"] if ordered else ["file", "reason", "raw"]
    aside = [one.quarantine.select(columns) for one in (data, wanted)]
    assert_frame_equal(*aside, check_exact=True, check_row_order=ordered)
    assert (data.links is None) == (wanted.links is None)
    assert data.fingerprint == wanted.fingerprint
    assert (data.schema, data.roles, data.has_times) == (wanted.schema, wanted.roles, wanted.has_times)
    assert sorted(data.notes) == sorted(wanted.notes)
    assert data.assumed == wanted.assumed
    assert examine(data) == examine(wanted)
    assert (log.blocks.folder / f"{block_name(0)}.arrow").exists()
    first = read_histories(log.blocks.folder, 0, 0, int(log.blocks.bounds[1]), data.window[1])
    np.testing.assert_array_equal(first.items, wanted.histories.rows(0, len(first)).items)
    return data


def mapped_files() -> list[str]:
    """Files of columns that this process has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line.split()[-1] for line in lines if "/columns-" in line]


def was_read_by_driver(notes: pytest.LogCaptureFixture) -> bool:
    return any("the log is read by this process" in record.getMessage() for record in notes.records)


def test_kinds_weights_values_and_quarantine(
    spark: SparkEngine, tmp_path: Path, notes: pytest.LogCaptureFixture
) -> None:
    events = table(1_500, 1, event=["view", "purchase", "share"], rating=[-1.0, 2.0, np.nan])
    events.write_parquet(tmp_path / "events.parquet")
    data = assert_same(spark, tmp_path / "events.parquet")
    assert len(data.quarantine) > 20
    # Columns are mapped, not read: what is not touched is not in memory.
    assert {Path(file).name for file in mapped_files()} >= {"user.npy", "item.npy", "time.npy", "weight.npy"}
    address = data.events["time"].to_numpy().__array_interface__["data"][0]
    ranges = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if "/columns-" in line]
    bounds = [[int(part, 16) for part in text.split("-")] for text in ranges]
    assert any(low <= address < high for low, high in bounds)
    weights = {"purchase": 3, "rating >= 2": 1}
    assert_same(spark, tmp_path / "events.parquet", weights=weights)
    assert not was_read_by_driver(notes)


def test_a_folder_with_a_catalogue_partitioned_by_day(
    spark: SparkEngine, tmp_path: Path, notes: pytest.LogCaptureFixture
) -> None:
    for day in (1, 2, 3):
        folder = tmp_path / "log" / f"day=2023-11-{day:02}"
        folder.mkdir(parents=True)
        table(500, day).write_parquet(folder / "part-0.parquet")
    items = pl.DataFrame({"item_id": range(40), "title": [f"item {item}" for item in range(40)]})
    items.write_parquet(tmp_path / "items.parquet")
    data = assert_same(spark, tmp_path / "log", items=tmp_path / "items.parquet")
    assert data.n_items == 40
    assert not was_read_by_driver(notes)


def test_moments_files_by_kind_and_logs_without_times(
    spark: SparkEngine, tmp_path: Path, notes: pytest.LogCaptureFixture
) -> None:
    start = dt.datetime(2023, 1, 1)
    moments = [start + dt.timedelta(hours=hour % 50) for hour in range(900)]
    frame = pl.DataFrame({"user": np.arange(900) % 17, "item": np.arange(900) % 23, "time": moments})
    frame.write_parquet(tmp_path / "views.parquet")
    frame[:300].write_parquet(tmp_path / "buys.parquet")
    assert_same(spark, {"view": tmp_path / "views.parquet", "buy": tmp_path / "buys.parquet"})
    frame.select("user", "item").write_parquet(tmp_path / "pairs.parquet")
    assert not assert_same(spark, tmp_path / "pairs.parquet").has_times
    assert not was_read_by_driver(notes)


def test_the_export_of_a_store(spark: SparkEngine, tmp_path: Path, notes: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("sqlalchemy")
    from zhiyin.store.records import Event
    from zhiyin.store.store import Store

    store = Store(tmp_path / "store.db")
    times = NOW - np.arange(900) * 1_000_000
    store.append(
        [Event(f"u{n % 13}", f"i{n % 19}", kind=("view", "buy")[n % 2], time=int(time)) for n, time in enumerate(times)]
    )
    store.export(tmp_path / "export")
    store.close()
    data = assert_same(spark, tmp_path / "export" / "events")
    assert data.kinds == ["buy", "view"]
    assert not was_read_by_driver(notes)


def test_what_a_whole_column_decides_is_read_by_the_driver(
    spark: SparkEngine, tmp_path: Path, notes: pytest.LogCaptureFixture
) -> None:
    # Seconds in the first part, milliseconds in the others: one unit holds for all of a column.
    seconds = np.where(np.arange(1_200) < 400, 1, 1_000) * (NOW // 1_000_000 - np.arange(1_200))
    frame = pl.DataFrame({"user": np.arange(1_200) % 7, "item": np.arange(1_200) % 11, "time": seconds})
    frame.write_parquet(tmp_path / "events.parquet")
    assert_same(spark, tmp_path / "events.parquet")
    assert was_read_by_driver(notes)
    notes.clear()
    frame.with_columns(pl.col("time").cast(pl.String)).write_csv(tmp_path / "events.csv")
    assert_same(spark, tmp_path / "events.csv")
    assert was_read_by_driver(notes)


def test_errors_are_those_of_a_single_process(spark: SparkEngine, tmp_path: Path) -> None:
    from zhiyin.engines.spark.reading import read_log

    table(900, 4, event=["view"]).write_parquet(tmp_path / "events.parquet")
    cases: list[tuple[type[Exception], dict[str, Any]]] = [
        (DataError, {"strict": True}),
        (ConfigError, {"weights": {"sold": 1}}),
    ]
    for kind, options in cases:
        with pytest.raises(kind) as expected:
            read(tmp_path / "events.parquet", now=NOW, **options)
        with pytest.raises(kind) as raised:
            read_log(spark, tmp_path / "events.parquet", now=NOW, rows_per_part=ROWS_PER_PART, **options)
        assert str(raised.value) == str(expected.value)
