"""`zhiyin stream sql`."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Command
from zhiyin.engines.flink import jobs


def test_sql_of_all_jobs_without_a_settings_file(zhiyin: Command, tmp_path: Path) -> None:
    printed = zhiyin("stream", "sql").stdout
    assert printed.count("INSERT INTO ") == len(jobs.JOBS) + 1
    assert f"'path' = 'file://{tmp_path.as_posix()}/streams/output/click_through'" in printed


def test_sql_of_one_job_is_what_is_submitted(zhiyin: Command, tmp_path: Path) -> None:
    Path("zhiyin.toml").write_text(
        '[streams]\nfolder = "it\'s here"\ncheckpoint = "10s"\nsource = "kafka://a:9092/shop"\n'
    )
    printed = zhiyin("stream", "sql", "trending").stdout
    options = jobs.JobOptions(tmp_path / "it's here", "kafka://a:9092/shop", checkpoint=10.0)
    settings = [
        f"SET '{key}' = '{value.replace(chr(39), chr(39) * 2)}'" for key, value in jobs.flink_settings(options).items()
    ]
    assert list(jobs.split_statements(printed)) == settings + jobs.statements("trending", options)
    assert "'topic' = 'shop'" in printed
    assert "it''s here/output/trending" in printed


def test_an_unknown_job_is_one_line(zhiyin: Command) -> None:
    assert "there is no job 'trend'" in zhiyin("stream", "sql", "trend", code=1).stderr
