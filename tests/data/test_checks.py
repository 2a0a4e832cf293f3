"""Every disease planted and found by name; a healthy log gives no warning."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from zhiyin.data.checks import CHECKS, Facts, Finding, examine
from zhiyin.data.dataset import Dataset
from zhiyin.data.reading import read

DAY = 86_400_000_000
START = 1_600_000_000_000_000  # 2020-09-13


def healthy(**columns: object) -> pl.DataFrame:
    """300 users with 20 events each on 200 items over 300 days; any column may be replaced."""
    rng = np.random.default_rng(7)
    n = 6000
    log = {
        "user": np.repeat(np.arange(300), 20),
        "item": np.concatenate([rng.choice(200, 20, replace=False) for _ in range(300)]),
        "time": START + np.sort(rng.integers(0, 300 * DAY // 1_000_000, n)) * 1_000_000,
    }
    log["time"] = rng.permutation(log["time"])
    return pl.DataFrame(log | columns)


def catalogue(n: int = 200) -> pl.DataFrame:
    rng = np.random.default_rng(8)
    names = [f"film {i}" for i in range(n)]
    return pl.DataFrame({"id": np.arange(n), "title": names, "year": rng.integers(1980, 2020, n)})


def found(data: Dataset, test: str | float | None = None) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(data, test)}


def test_a_healthy_log_gives_no_warning() -> None:
    findings = examine(Dataset.build(healthy(), items=catalogue()))
    assert [finding for finding in findings if finding.severity != "info"] == []


def test_findings_come_worst_first_and_each_has_a_remedy() -> None:
    log = pl.DataFrame({"user": [1, 1, 2], "item": [1, 1, 2], "weight": [0.0, 0.0, 0.0]})
    findings = examine(Dataset.build(log))
    ranks = [("error", "warning", "info").index(finding.severity) for finding in findings]
    assert ranks == sorted(ranks)
    assert ranks[0] == 0
    assert all(finding.remedy and finding.message for finding in findings)
    assert "What to do" in str(findings[0])


def test_there_are_many_checks_and_each_can_be_empty() -> None:
    facts = Facts(Dataset.build(healthy()), now=START + 400 * DAY)
    assert len(CHECKS) >= 14
    assert [check.__name__ for check in CHECKS if check(facts) is not None] == []


def test_bad_rows_and_missing_times(tmp_path: Path) -> None:
    lines = ["user,item,time", *(f"u{i % 9},i{i % 7},{1_600_000_000 + i}" for i in range(95))]
    (tmp_path / "log.csv").write_text("\n".join([*lines, "u1,i1,", "u1,i1,", ",i2,1600000001"]) + "\n")
    names = found(read(tmp_path / "log.csv"))
    assert (names["bad-rows"].count, names["missing-times"].count) == (3, 2)
    assert names["bad-rows"].severity == "warning"
    assert "user is missing" in names["bad-rows"].message


def test_no_times_says_which_split() -> None:
    finding = found(Dataset.build(healthy().drop("time")))["no-times"]
    assert finding.severity == "warning"
    assert "split by ratio" in finding.message


def test_impossible_times() -> None:
    time = healthy()["time"].to_numpy().copy()
    time[:7] = 400_000_000_000_000
    finding = found(Dataset.build(healthy(time=time)))["impossible-times"]
    assert finding.count == 7
    assert "1990" in finding.message


def test_times_ahead_of_the_clock_are_set_aside_and_named() -> None:
    time = healthy()["time"].to_numpy().copy()
    time[:7] = 4_000_000_000_000_000
    data = Dataset.build(healthy(time=time))
    assert data.n_events == len(time) - 7
    assert data.window[1] < 4_000_000_000_000_000
    assert data.quarantine["reason"].str.contains("more than a day ahead of the clock").all()
    finding = found(data)["future-times"]
    assert (finding.count, finding.severity) == (7, "warning")
    assert "end of the log" in finding.message


def test_one_moment_is_an_import_not_the_events() -> None:
    time = healthy()["time"].to_numpy().copy()
    time[:900] = START + 5 * DAY
    finding = found(Dataset.build(healthy(time=time)))["one-moment"]
    assert (finding.count, finding.severity) == (900, "warning")
    assert "2020-09-18" in finding.message


def test_coarse_times_keep_the_order_of_the_rows() -> None:
    days = healthy()["time"].to_numpy() // DAY * DAY
    names = found(Dataset.build(healthy(time=days)))
    assert "whole days" in names["coarse-times"].message
    assert "one-moment" not in names
    batches = np.repeat(healthy()["time"].to_numpy()[::2], 2)
    assert found(Dataset.build(healthy(time=batches)))["coarse-times"].count == 6000


def test_time_gaps_are_dated() -> None:
    time = healthy()["time"].to_numpy().copy()
    time[time > START + 150 * DAY] += 100 * DAY
    finding = found(Dataset.build(healthy(time=time)))["time-gaps"]
    assert finding.count == 1
    assert "100 days" in finding.message
    assert "2021-02-10" in finding.message


def test_duplicates_with_times_are_the_same_act() -> None:
    log = healthy()
    names = found(Dataset.build(pl.concat([log, log.head(30), log.head(10)])))
    assert names["duplicate-events"].count == 40
    later = log.head(30).with_columns(time=pl.col("time") + 1_000_000)
    assert "duplicate-events" not in found(Dataset.build(pl.concat([log, later])))


def test_the_same_moment_with_another_kind_is_no_duplicate() -> None:
    log = pl.concat([healthy().with_columns(kind=pl.lit(kind)) for kind in ("view", "buy")])
    assert "duplicate-events" not in found(Dataset.build(log))


def test_duplicates_without_times_are_repeated_pairs() -> None:
    log = healthy().drop("time")
    assert found(Dataset.build(pl.concat([log, log.tail(5)])))["duplicate-events"].count == 5


def test_weightless_events() -> None:
    data = read(healthy(rating=np.arange(6000) % 5 + 1), weights={"rating >= 4": 1})
    finding = found(data)["weightless-events"]
    assert (finding.count, finding.severity) == (3600, "warning")


def test_low_and_negative_ratings_that_count_as_positive() -> None:
    stars = np.arange(6000) % 5 + 1
    finding = found(read(healthy(rating=stars)))["low-ratings-as-positive"]
    assert (finding.count, finding.severity) == (2400, "info")
    assert '"rating >= 4"' in finding.remedy
    signed = Dataset.build(healthy(value=np.where(stars > 2, 1.0, -1.0)))
    assert found(signed)["low-ratings-as-positive"].severity == "warning"
    assert "low-ratings-as-positive" not in found(read(healthy(plays=stars)))


def test_unknown_kinds_are_named() -> None:
    kinds = np.array(["view", "zap", "purchase"])[np.arange(6000) % 3]
    finding = found(read(healthy(event=kinds)))["unknown-kinds"]
    assert finding.count == 2000
    assert "zap" in finding.message
    assert "unknown-kinds" not in found(read(healthy(event=kinds), weights={"zap": 2, "view": 1, "purchase": 5}))


def test_one_event_users() -> None:
    visitors = pl.DataFrame({"user": range(1000, 1400), "item": [i % 200 for i in range(400)]})
    visitors = visitors.with_columns(time=START + pl.int_range(400) * 60_000_000)
    finding = found(Dataset.build(pl.concat([healthy(), visitors], how="vertical_relaxed")))["one-event-users"]
    assert (finding.count, finding.severity) == (400, "warning")


def test_bots_by_number_and_by_pace() -> None:
    rng = np.random.default_rng(9)

    def bot(seconds: int) -> Dataset:
        time = START + np.sort(rng.integers(0, seconds, 1500)) * 1_000_000
        visits = pl.DataFrame({"user": np.full(1500, 999), "item": rng.integers(0, 200, 1500), "time": time})
        return Dataset.build(pl.concat([healthy(), visits]))

    slow, fast = (found(bot(seconds))["bot-like-users"] for seconds in (200 * 86_400, 1800))
    assert slow.count == fast.count == 1
    assert "999" in slow.message
    assert "within an hour" in fast.message
    assert "within an hour" not in slow.message


def test_a_user_who_fills_the_last_part_is_named() -> None:
    assert "crowding-users" not in found(Dataset.build(healthy()))
    end = START + 300 * DAY
    monitor = pl.DataFrame({"user": [999] * 900, "item": [1] * 900, "time": end + np.arange(900) * 60_000_000})
    finding = found(Dataset.build(pl.concat([healthy(), monitor])))["crowding-users"]
    assert (finding.count, finding.severity) == (1, "warning")
    assert finding.message.startswith("999 made 900 of the ")


def test_placeholder_ids() -> None:
    users = healthy()["user"].cast(pl.String).to_numpy().copy()
    users[:1000] = "Guest"
    finding = found(Dataset.build(healthy(user=users)))["placeholder-ids"]
    assert "'Guest' with 1,000 events" in finding.message


def test_items_without_events_and_without_metadata() -> None:
    names = found(Dataset.build(healthy(), items=catalogue(250).tail(230)))
    assert names["items-without-events"].count == 50
    assert names["items-without-metadata"].count == 20
    assert names["items-without-metadata"].severity == "warning"


def test_id_mismatch_shows_how_both_write() -> None:
    written = pl.format("film-{}", pl.col("id")).alias("id")
    log = healthy().with_columns(pl.col("item").cast(pl.String))
    names = found(Dataset.build(log, items=catalogue().with_columns(written)))
    assert names["id-mismatch"].severity == "error"
    assert "'film-0'" in names["id-mismatch"].message
    assert "items-without-metadata" not in names


def test_popularity_concentration() -> None:
    items = healthy()["item"].to_numpy().copy()
    items[::3] = 5
    finding = found(Dataset.build(healthy(item=items)))["popularity-concentration"]
    assert "Gini" in finding.message


def test_leaking_columns_by_name_and_by_what_they_follow() -> None:
    log = healthy(value=np.arange(6000) % 5 + 1.0)
    events = np.bincount(log["item"].to_numpy(), minlength=200)
    mean = np.bincount(log["item"].to_numpy(), log["value"].to_numpy(), minlength=200) / events
    items = catalogue().with_columns(
        ratings_1=pl.lit(3),
        votes_total=pl.int_range(200),
        hidden=pl.Series(events**2),
        worth=pl.Series(-mean),
    )
    finding = found(Dataset.build(log, items=items))["leaking-columns"]
    assert finding.count == 4
    for name in (
        "ratings_1 (by name)",
        "hidden (it follows the number",
        "worth (it follows the mean rating)",
    ):
        assert name in finding.message
    assert "year" not in finding.message


def test_mixed_encodings_in_files_and_in_texts(tmp_path: Path) -> None:
    titles = ["AmÃ©lie", "It\ufffds", "Château", "SÃO"] + [f"film {i}" for i in range(196)]
    finding = found(Dataset.build(healthy(), items=catalogue().with_columns(title=pl.Series(titles))))[
        "mixed-encodings"
    ]
    assert finding.count == 2
    rows = ["user,item,title", *(f"u{i % 30},i{i % 20},Caf\xe9" for i in range(100))]
    (tmp_path / "log.csv").write_bytes("\n".join(rows).encode("latin-1"))
    assert "not UTF-8" in found(read(tmp_path / "log.csv"))["mixed-encodings"].message


def test_too_little_data_for_a_split_by_time() -> None:
    data = Dataset.build(healthy(), items=catalogue())
    assert found(data, "30d").get("too-little-data") is None
    assert found(data, "2h")["too-little-data"].severity == "warning"
    assert found(data, "900d")["too-little-data"].severity == "error"
    assert found(data, "soon")["too-little-data"].severity == "error"
    assert found(Dataset.build(healthy().head(500)))["too-little-data"].count == 500


def test_constant_columns() -> None:
    items = catalogue().with_columns(shop=pl.lit("main"), empty=pl.lit(None, dtype=pl.String))
    finding = found(Dataset.build(healthy(), items=items))["constant-columns"]
    assert "items.shop, items.empty" in finding.message


def test_drift_counts_new_users_and_items() -> None:
    time = START + np.sort(healthy()["time"].to_numpy() - START)  # users come one after the other
    names = found(Dataset.build(healthy(time=time)))
    assert names["drift"].severity == "info"
    assert "of users have no earlier event" in names["drift"].message


@pytest.mark.slow
def test_goodbooks_has_no_times_and_columns_that_leak() -> None:
    folder = Path(os.environ.get("ZHIYIN_DATA", "")) / "goodbooks"
    if not os.environ.get("ZHIYIN_DATA") or not folder.is_dir():
        pytest.skip("needs ZHIYIN_DATA/goodbooks")
    names = found(read(folder))
    leaks = names["leaking-columns"].message
    for column in (
        "average_rating",
        "ratings_count",
        "work_ratings_count",
        *(f"ratings_{n}" for n in range(1, 6)),
    ):
        assert f"{column} (" in leaks
    assert "year" not in leaks
    assert names["duplicate-events"].count == 2278
    assert "no-times" in names
