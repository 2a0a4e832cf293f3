"""The SQL of jobs as text: placeholders, quotes, sources. Without Java."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.core.errors import ConfigError
from zhiyin.engines.flink import jobs, submit
from zhiyin.store import stream_definitions as definitions

FOLDER = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\\/"), min_size=1)


def table_options(statement: str) -> dict[str, str]:
    """Options of WITH of a rendered CREATE TABLE."""
    body = statement.split("WITH (", 1)[1]
    pairs = re.findall(r"'((?:[^']|'')*)' = '((?:[^']|'')*)'", body)
    return {key.replace("''", "'"): value.replace("''", "'") for key, value in pairs}


def tables(statements: list[str]) -> dict[str, dict[str, str]]:
    creates = [s for s in statements if s.startswith("CREATE TEMPORARY TABLE")]
    return {s.split()[3]: table_options(s) for s in creates}


@pytest.mark.parametrize("job", jobs.JOBS)
def test_a_job_has_no_placeholder_left_and_nothing_but_statements(job: str, tmp_path: Path) -> None:
    statements = jobs.statements(job, jobs.JobOptions(tmp_path))
    assert all(s.split(None, 1)[0] in ("SET", "CREATE", "INSERT") for s in statements)
    assert not any("${" in s or "--" in s or s.endswith(";") for s in statements)
    assert sum(s.startswith("INSERT") for s in statements) == (2 if job == "rewards" else 1)


@pytest.mark.parametrize("job", jobs.JOBS)
def test_large_numbers_are_of_64_bits(job: str) -> None:
    # Digits that fit into 32 bits are an INT, whose sums and products wrap without a word.
    for statement in jobs.statements(job, jobs.JobOptions(Path("/x"))):
        assert not re.findall(r"(?<!CAST\()(?<!\d)\d{5,}", statement)


@pytest.mark.parametrize("job", jobs.JOBS)
def test_columns_are_those_that_segments_and_outputs_have(job: str, tmp_path: Path) -> None:
    types = {"text": "STRING", "integer": "BIGINT", "number": "DOUBLE"}
    declared = dict(definitions.SEGMENTS) | dict(definitions.OUTPUTS)
    seen = set()
    for statement in jobs.statements(job, jobs.JobOptions(tmp_path)):
        if not statement.startswith("CREATE TEMPORARY TABLE"):
            continue
        name, body = statement.split()[3], statement.split("(", 1)[1].split(") WITH (", 1)[0].replace("`", "")
        seen.add(name)
        nested = re.search(r"events ARRAY<ROW<(.*)>>", body)
        if nested:
            row = dict(column.split() for column in nested[1].split(", "))
            assert row == {column: types[kind] for column, kind in definitions.HISTORY_EVENT.items()}
            assert body.split()[:2] == ["user", "STRING,"]
            continue
        columns = dict(c.split() for c in body.strip().split(",\n") if "AS PROCTIME" not in c)
        expected = {column: types[kind] for column, kind in declared[name].items()}
        if name in definitions.OUTPUTS:
            assert list(columns.items()) == list(expected.items())  # in their order: INSERT goes by position
        else:
            assert columns.items() <= expected.items()
    assert seen >= {"events", job}


@given(FOLDER)
def test_any_folder_comes_out_as_it_went_in(name: str) -> None:
    folder = Path("/x") / name
    options = jobs.JobOptions(folder)
    for job in jobs.JOBS:
        by_name = tables(jobs.statements(job, options))
        assert by_name["events"]["path"] == f"file://{folder.absolute().as_posix()}/events"
        assert by_name[job]["path"] == f"file://{folder.absolute().as_posix()}/output/{job}"


@given(st.text(), st.text())
def test_a_literal_ends_where_it_began(one: str, other: str) -> None:
    text = f"SET {jobs.sql_text(one)} = {jobs.sql_text(other)}; INSERT INTO x SELECT {jobs.sql_text(other)}"
    setting, insert = jobs.split_statements(text)
    match = submit.SET.fullmatch(setting)
    if one:
        assert match is not None
        assert match[1].replace("''", "'") == one
        assert match[2].replace("''", "'") == other
    assert insert == f"INSERT INTO x SELECT {jobs.sql_text(other)}".strip()


@given(st.lists(st.sampled_from(["a", "'", "`", ";", "--", "\n", "-", " ", "''"]), max_size=12).map("".join))
def test_comments_and_quotes_hold_semicolons(inside: str) -> None:
    comment = inside.replace("\n", " ")
    literal = jobs.sql_text(inside)
    text = f"-- {comment}\nSELECT {literal};\n-- {comment}\nSELECT 2 -- {comment}\n;"
    assert list(jobs.split_statements(text)) == [f"SELECT {literal}", "SELECT 2"]


@pytest.mark.parametrize("name", ["back\\slash", "new\nline", "tab\t", "nul\0"])
def test_a_folder_that_flink_would_change_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="backslash or a control character"):
        jobs.JobOptions(Path("/x") / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoint": 0.0}, "checkpoint"), ({"checkpoint": float("nan")}, "checkpoint"),
        ({"state_days": 0}, "between 1 and 99"), ({"state_days": 100}, "between 1 and 99"),
        ({"parallelism": 0}, "less than one"),
        ({"source": "kafka://host"}, "no source"), ({"source": "kafka://host:9092/a b"}, "no source"),
        ({"source": "kafka://h'; DROP:9092/topic"}, "no source"), ({"source": "http://host:9092/topic"}, "no source"),
        ({"source": "kafka://host:9092/topic?x=1"}, "no source"), ({"source": ""}, "no source"),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        jobs.JobOptions(Path("/x"), **options)


def test_kafka_is_a_source_of_the_same_columns() -> None:
    options = jobs.JobOptions(Path("/x"), source="kafka://a:9092,b:9093/shop.events")
    by_name = tables(jobs.statements("rewards", options))
    assert by_name["events"] == {
        "connector": "kafka",
        "topic": "shop.events",
        "properties.bootstrap.servers": "a:9092,b:9093",
        "properties.group.id": "zhiyin-rewards",
        "properties.isolation.level": "read_committed",
        "scan.startup.mode": "earliest-offset",
        "format": "json",
    }
    assert by_name["impressions"]["topic"] == "shop.events-impressions"
    assert by_name["click_through"]["connector"] == "filesystem"
    files = jobs.statements("rewards", jobs.JobOptions(Path("/x")))
    kafka = jobs.statements("rewards", options)
    assert [s for s in files if "WITH" not in s] == [s for s in kafka if "WITH" not in s]


def test_only_a_bounded_job_does_not_look_for_new_segments() -> None:
    monitored = tables(jobs.statements("trending", jobs.JobOptions(Path("/x"))))["events"]
    bounded = tables(jobs.statements("trending", jobs.JobOptions(Path("/x"), bounded=True)))["events"]
    assert monitored == bounded | {"source.monitor-interval": "1 s"}


def test_a_restarted_job_that_runs_for_a_minute_restarts_quickly_again() -> None:
    """Otherwise each restart within an hour of the one before would come later."""
    settings = jobs.flink_settings(jobs.JobOptions(Path("/x")))
    strategy = {key.rpartition(".")[2]: value for key, value in settings.items() if key.startswith("restart-strategy")}
    assert strategy == {
        "type": "exponential-delay", "initial-backoff": "1 s", "max-backoff": "10 s", "backoff-multiplier": "1.5",
        "reset-backoff-threshold": "1 min",
    }  # fmt: skip


def test_own_options_of_flink_win() -> None:
    options = jobs.JobOptions(Path("/x"), settings={"state.backend.type": "rocksdb"})
    assert jobs.flink_settings(options)["state.backend.type"] == "rocksdb"
    assert "SET 'state.backend.type' = 'rocksdb';" in jobs.rendered_sql("covisits", options)


def test_an_unknown_job_is_named_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="'nothing'") as caught:
        jobs.statements("nothing", jobs.JobOptions(Path("/x")))
    assert "trending" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "org.apache.flink.table.api.TableException: Failed\n\tat a.b.C\nCaused by: java.io.IOException: x\n"
            "\tat d.e\nCaused by: java.net.ConnectException: Connection refused: /127.0.0.1:1\n\tat f\n\t... 9 more",
            "ConnectException: Connection refused: /127.0.0.1:1",
        ),
        (
            "ValidationException: Unable to create a source\nCaused by: org.apache.flink.table.api.ValidationException:"
            " Could not find any factory for identifier 'kafka' that implements 'DynamicTableFactory' in it.",
            "the jar of the connector 'kafka' is missing: put flink-sql-connector-kafka-*.jar into pyflink/lib",
        ),
        ("java.lang.IllegalStateException\n\tat a.b.C.d(C.java:1)", "IllegalStateException"),
        ("", "RuntimeError"),
    ],
)  # fmt: skip
def test_an_error_of_java_is_one_line(text: str, line: str) -> None:
    assert submit.first_cause(RuntimeError(text)) == line


def test_the_submitting_script_imports_nothing_but_the_standard_library_and_pyflink() -> None:
    imports = re.findall(r"^\s*(?:from|import) ([\w.]+)", Path(submit.__file__).read_text("utf-8"), re.M)
    assert set(imports) == {"__future__", "json", "re", "sys", "threading", "traceback", "typing",
                            "pyflink.common", "pyflink.table", "pyflink.java_gateway"}  # fmt: skip
