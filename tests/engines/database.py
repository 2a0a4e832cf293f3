"""A PostgreSQL with events, which listens on 127.0.0.1 and wants a password."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from urllib.parse import quote

from tests.conftest import postgres_programs, postgres_server
from tests.engines.clusters import free_port
from zhiyin.engines.spark.jdbc_driver import DEBIAN_JAR

PASSWORD = "s3cret%20wörd/@"


def missing_for_postgres() -> str:
    """What is not installed of what Spark needs to read such a database; "" where all is."""
    if not DEBIAN_JAR.exists():
        return "libpostgresql-jdbc-java"
    if find_spec("psycopg") is None:
        return "psycopg"
    return "" if postgres_programs() is not None else "postgresql"


@contextmanager
def database_of_events() -> Iterator[str]:
    """The address of a database whose events have all types that are read in parts, bad rows and ties in time."""
    import psycopg

    port = free_port()
    with postgres_server(port, PASSWORD):
        url = f"postgresql://zhiyin:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/postgres"
        with psycopg.connect(url, autocommit=True) as server:
            server.execute(
                "CREATE TABLE events (seq int8 PRIMARY KEY, user_id varchar(20), item_id int4, kind char(8),"
                " stars float4, at timestamp, zoned timestamptz, day date, ok bool, code uuid, n int2)"
            )
            server.execute(
                "INSERT INTO events SELECT s, CASE WHEN s % 97 > 0 THEN 'u' || s * 7919 % 41 END, s * 31 % 30,"
                " CASE s % 3 WHEN 0 THEN 'buy' WHEN 1 THEN 'view' END, CASE WHEN s % 5 > 0 THEN s % 50 / 10.0 END,"
                " t, t AT TIME ZONE 'UTC', t::date, s % 2 = 0, md5(s::text)::uuid, s % 100 FROM (SELECT s,"
                " CASE WHEN s % 89 = 0 THEN timestamp '1960-01-01' ELSE timestamp '2023-01-01 00:00:00.123457'"
                " + s * 104729 % 50 * interval '1 hour' END AS t FROM generate_series(1, 1500) AS s) AS rows"
            )
        yield url
