"""What the jobs write for a planted log is what polars computes from it: exact, whatever the order of arrival."""

from __future__ import annotations

import itertools

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tests.engines.flink import planted_log
from tests.engines.flink.conftest import StreamedLog
from zhiyin.store import stream_definitions as definitions

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["histories", "sessions", "rewards", "click_through"])
def test_results_are_those_of_the_whole_log(streamed_log: StreamedLog, name: str) -> None:
    expected = planted_log.expected(streamed_log.events, streamed_log.impressions)[name]
    written = planted_log.summed(name, planted_log.output(streamed_log.folder, name))
    assert len(expected) > 50
    assert_frame_equal(written, expected, check_row_order=False, check_column_order=False, check_exact=True)


def test_trending_scores_are_those_of_the_whole_log(streamed_log: StreamedLog) -> None:
    expected = planted_log.expected(streamed_log.events, streamed_log.impressions)["trending"]
    written = planted_log.summed("trending", planted_log.output(streamed_log.folder, "trending"))
    assert expected["bucket"].min() < 0  # before 1970
    assert_frame_equal(
        written,
        expected,
        check_row_order=False,
        check_column_order=False,
        check_exact=False,
        rel_tol=1e-12,
        abs_tol=0.0,
    )


def test_covisits_count_each_user_day_and_pair_once(streamed_log: StreamedLog) -> None:
    expected = planted_log.expected(streamed_log.events, streamed_log.impressions)["covisits"]
    written = planted_log.output(streamed_log.folder, "covisits").filter(~pl.col("a").str.contains("^r\\d"))
    assert_frame_equal(
        planted_log.summed("covisits", written), expected, check_row_order=False, check_column_order=False
    )
    assert (expected["a"] < expected["b"]).all()


def test_a_robot_takes_part_with_its_first_items_only(streamed_log: StreamedLog) -> None:
    robot = planted_log.output(streamed_log.folder, "covisits").filter(pl.col("a").str.contains("^r\\d"))
    items = sorted({*robot["a"], *robot["b"]})
    assert len(items) == definitions.MAX_COVISIT_ITEMS < planted_log.ROBOT_ITEMS
    assert sorted(zip(robot["a"], robot["b"])) == list(itertools.combinations(items, 2))  # each pair once


def test_files_in_progress_have_names_that_readers_leave_out(streamed_log: StreamedLog) -> None:
    for name in definitions.OUTPUTS:
        names = [file.name for file in (streamed_log.folder / "output" / name).iterdir()]
        assert all(file.startswith(("part-", ".")) for file in names)
        assert any(file.startswith("part-") for file in names)
