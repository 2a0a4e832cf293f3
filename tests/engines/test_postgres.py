"""Answers of PostgreSQL that Spark reads by JDBC give the data set of a single process; passwords are shown nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engines.database import database_of_events, missing_for_postgres
from tests.engines.test_reading import NOW, assert_same, was_read_by_driver
from zhiyin.core.errors import ConfigError, DataError, EngineError
from zhiyin.data.sql_query import QueryLimit, shown_address
from zhiyin.engines.spark.jdbc_driver import JAR, JAR_VARIABLE, PARTITION, jar_settings, jdbc_settings

if TYPE_CHECKING:
    from zhiyin.engines.spark.engine import SparkEngine


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    if missing := missing_for_postgres():
        pytest.skip(f"{missing} is not installed: Spark needs it to read PostgreSQL")
    with database_of_events() as url:
        yield url


@pytest.mark.parametrize(
    ("columns", "seq"),
    [
        ("seq, user_id, item_id, kind, stars, at, zoned, day, code, n", True),
        ("user_id, item_id, zoned AS at, stars, kind, n", False),
        ("code AS user_id, item_id, day AS at, ok AS rating", False),
    ],
)
def test_the_data_set_is_that_of_a_single_process(
    spark: SparkEngine,
    database: str,
    notes: pytest.LogCaptureFixture,
    columns: str,
    seq: bool,
) -> None:
    """By ranges of `seq` also the lines of rows that are set aside; by a hash of users all the rest."""
    query = f"SELECT {columns} FROM events ORDER BY seq;"
    data = assert_same(spark, database, query=query, ordered=seq)
    assert len(data.quarantine) > 15
    assert not was_read_by_driver(notes)
    assert not [path for path in spark.folder.iterdir() if path.name.startswith("answer-")]


def test_a_named_column_cuts_the_answer(
    spark: SparkEngine,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    notes: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(spark.settings, PARTITION, "row")
    query = "SELECT seq AS row, user_id, item_id, at FROM events ORDER BY seq"
    assert_same(spark, database, query=query)
    assert not was_read_by_driver(notes)
    with pytest.raises(ConfigError, match="'row'"):
        assert_same(spark, database, query="SELECT user_id, item_id, at FROM events")


def test_what_cannot_be_read_in_parts_is_read_by_the_driver(
    spark: SparkEngine,
    database: str,
    postgres: str,
    tmp_path: Path,
    notes: pytest.LogCaptureFixture,
) -> None:
    for query, why in (
        ("SELECT user_id, item_id, at, stars::numeric FROM events", "of the type numeric"),
        ("SELECT user_id, item_id, at FROM events; -- all", "no subquery"),
        ("SELECT user_id, item_id, at, '{\"a\": 1}'::jsonb ? 'a' AS has FROM events", "has a ?"),
    ):
        assert_same(spark, database, query=query)
        assert any(why in record.getMessage() for record in notes.records)
        notes.clear()
    query = "SELECT 'a' AS user_id, n AS item_id, 1000000000::int8 * n AS time FROM generate_series(1, 20) AS n"
    assert_same(spark, postgres, query=query)
    assert any("socket of this machine" in record.getMessage() for record in notes.records)
    assert any(spark.folder.iterdir())


def test_all_parts_are_read_as_of_one_moment_and_plans_hold_no_password(
    spark: SparkEngine, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    from zhiyin.engines.spark.engine import SparkEngine
    from zhiyin.engines.spark.reading import read_log

    plans, run = [], SparkEngine.run_partitions

    def insert_and_run(self: SparkEngine, frame: Any, *given: Any) -> list[Any]:
        plans.append(frame._jdf.queryExecution().toString())
        with psycopg.connect(database, autocommit=True) as server:
            server.execute("INSERT INTO later SELECT 7, 'new', 7, timestamp '2023-01-01'")
        return run(self, frame, *given)

    with psycopg.connect(database, autocommit=True) as server:
        server.execute("CREATE TABLE later AS SELECT seq, user_id, item_id, at FROM events")
    monkeypatch.setattr(SparkEngine, "run_partitions", insert_and_run)
    data = read_log(spark, database, query="SELECT * FROM later", now=NOW).data
    assert "new" not in data.user_ids.values
    assert len(plans) == 1
    assert "JDBCRelation" in plans[0]
    assert "s3cret" not in plans[0]


def test_errors_are_one_line_without_the_password(
    spark: SparkEngine, database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from zhiyin.data.reading import read
    from zhiyin.engines.spark import jdbc_driver, query_parts
    from zhiyin.engines.spark.reading import read_log

    good = "SELECT user_id, item_id, at, seq FROM events"
    cases: list[dict[str, Any]] = [
        {"query": "SELECT nothing FROM events"},
        {"query": f"{good} WHERE seq < 0"},
        {"query": good, "query_limit": QueryLimit(rows=700)},
    ]
    for options in cases:
        with pytest.raises(DataError) as expected:
            read(database, now=NOW, **options)
        with pytest.raises(DataError) as raised:
            read_log(spark, database, now=NOW, **options)
        assert raised.value.message.splitlines()[0] == expected.value.message.splitlines()[0]
        assert "s3cret" not in str(raised.value)
    # A failure that only the tasks have.
    late = "SELECT user_id, item_id, at, 1 / (n - 50) AS share, seq FROM events"
    monkeypatch.setattr(query_parts, "shown_address", lambda url: url)
    with pytest.raises(EngineError) as failed:
        read_log(spark, database, now=NOW, query=late)
    assert "division by zero" in str(failed.value)
    assert "s3cret" not in str(failed.value)
    assert "\n" not in failed.value.message
    monkeypatch.undo()
    monkeypatch.setattr(query_parts, "DRIVER", "org.postgresql.NoDriver")
    monkeypatch.setattr(jdbc_driver, "DRIVER", "org.postgresql.NoDriver")
    with pytest.raises(ConfigError) as missing:
        read_log(spark, database, now=NOW, query=good)
    assert "libpostgresql-jdbc-java" in str(missing.value)
    assert not any("s3cret" in record.getMessage() for record in caplog.records)


def test_addresses_are_shown_without_passwords() -> None:
    assert shown_address("postgresql://me:pw@host/shop") == "postgresql://host/shop"
    assert (
        shown_address("postgresql://host/shop?password=pw&sslmode=require") == "postgresql://host/shop?sslmode=require"
    )
    assert shown_address("postgresql://host/shop?user=me&password=pw") == "postgresql://host/shop?user=me"
    assert shown_address("sqlite:///shop.db") == "sqlite:///shop.db"


def test_the_driver_is_named_or_that_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zhiyin.engines.spark import jdbc_driver

    monkeypatch.delenv(JAR_VARIABLE, raising=False)
    monkeypatch.setattr(jdbc_driver, "DEBIAN_JAR", tmp_path / "none.jar")
    assert jar_settings("local[2]", {}) == {}
    (tmp_path / "my.jar").touch()
    monkeypatch.setenv(JAR_VARIABLE, str(tmp_path / "my.jar"))
    assert jar_settings("spark://host:1", {}) == {"spark.jars": str(tmp_path / "my.jar")}
    assert jar_settings("sc://host:1", {}) == {}
    with pytest.raises(ConfigError, match="libpostgresql-jdbc-java"):
        jar_settings("local[2]", {JAR: str(tmp_path / "none.jar")})
    assert jdbc_settings({"spark.a": "1", PARTITION: "seq"}) == {PARTITION: "seq"}
    with pytest.raises(ConfigError, match=r"zhiyin\.jdbc\.jar"):
        jdbc_settings({"zhiyin.jdbc.jars": "x"})


@given(st.integers(-(2**40), 2**40), st.integers(0, 200), st.integers(1, 9), st.data())
def test_each_value_is_in_one_range(low: int, width: int, n: int, data: st.DataObject) -> None:
    import sqlite3

    from zhiyin.engines.spark.query_parts import range_predicates

    high = low + width
    predicates = range_predicates("c", low, high, n)
    assert 1 <= len(predicates) <= n
    values = [low, high, None, *data.draw(st.lists(st.integers(low, high), max_size=10))]
    with sqlite3.connect(":memory:") as memory:
        for value in values:
            select = [f"SELECT count(*) FROM (SELECT ? AS c) WHERE {condition}" for condition in predicates]
            assert sum(memory.execute(text, [value]).fetchone()[0] for text in select) == 1
