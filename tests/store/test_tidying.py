"""What is too old is removed in a time that depends on what goes, not on what stays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.examples import examples

pytest.importorskip("sqlalchemy")

import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import own_schema
from zhiyin.store.records import Event
from zhiyin.store.store import Store
from zhiyin.store.tables import EVENTS, EVENTS_OF_TIME, ROWS_PER_STATEMENT
from zhiyin.store.traces import Trace

T0 = 1_700_000_000_000_000


@contextmanager
def statements(store: Store) -> Iterator[list[tuple[str, Any]]]:
    """What a store asks its database, with the values."""
    asked: list[tuple[str, Any]] = []

    def hear(_: Any, __: Any, statement: str, values: Any, *___: Any) -> None:
        asked.append((statement, values))

    sa.event.listen(store._engine, "before_cursor_execute", hear)
    try:
        yield asked
    finally:
        sa.event.remove(store._engine, "before_cursor_execute", hear)


def filled(address: str | Path, n: int = 3_000) -> Store:
    """Events, lists and impressions; the times of half of the events are out of order."""
    store = Store(address)
    times = [T0 + (at if at % 2 else n - at) for at in range(n)]
    for start in range(0, n, 1_000):
        store.append([Event(f"u{at % 50}", f"i{at % 7}", times[at], id=f"e{at}") for at in range(start, start + 1_000)])
    store.append_traces([Trace(f"l{at}", "u1", T0 + at, 1, "home", {}) for at in range(1_000)])
    for at in range(50):
        store.append_impression(f"l{at}", T0 + at, ["i1"])
        store.append_impression(f"lost{at}", T0 + at, ["i1"])
    return store


def tidied(store: Store, moment: int) -> list[tuple[str, Any]]:
    """What is asked while everything before a moment is removed."""
    with statements(store) as asked:
        for _ in store.drop_lists_in_batches(moment):
            pass
        store.drop_events_before(moment)
    verbs = ("SELECT", "DELETE")
    return [one for one in asked if one[0].lstrip().upper().startswith(verbs) and "pg_advisory" not in one[0]]


def test_sqlite_reads_no_table_from_end_to_end(tmp_path: Path) -> None:
    store = filled(tmp_path / "store.db")
    asked = tidied(store, T0 + 20)
    assert len(asked) >= 6
    with store._engine.connect() as link:
        for statement, values in asked:
            plan = link.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
            steps = [row[-1] for row in plan]
            assert any(step.startswith("SEARCH") for step in steps), (statement, steps)
            assert not [step for step in steps if step.startswith("SCAN") or "TEMP B-TREE" in step], (statement, steps)
    store.close()


def test_postgres_reads_no_table_from_end_to_end(postgres: str) -> None:
    """With tables large enough that the planner has a choice."""
    store = filled(own_schema(postgres), 20_000)
    with store._engine.connect() as link:
        link.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("ANALYZE")
    asked, of_events = tidied(store, T0 + 20), 0
    with store._engine.connect() as link:
        for statement, values in asked:
            (plan,) = link.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", values).one()
            said = json.dumps(plan)
            if '"Relation Name": "events"' in said:  # the other tables are small: reading them whole is cheaper
                assert '"Seq Scan"' not in said, (statement, said)
                of_events += 1
    assert of_events >= 3
    store.close()


def test_what_is_asked_does_not_grow_with_what_stays(tmp_path: Path) -> None:
    few, many = filled(tmp_path / "few.db", 1_000), filled(tmp_path / "many.db", 6_000)
    # The same number of old events in both.
    counts = {}
    for store, n in ((few, 1_000), (many, 6_000)):
        old = [Event("old", "i1", T0 - 10 - at, id=f"old{at}") for at in range(ROWS_PER_STATEMENT + 1)]
        store.append(old)
        with statements(store) as asked:
            assert store.drop_events_before(T0 - 5) == ROWS_PER_STATEMENT + 1
        counts[n] = len(asked)
        assert store.count() == n
        store.close()
    assert counts[1_000] == counts[6_000]


@settings(max_examples=examples(25), deadline=None)
@given(times=st.lists(st.integers(0, 30), max_size=40), moment=st.integers(0, 31))
def test_what_is_old_goes_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, times: list[int], moment: int
) -> None:
    store = Store(tmp_path_factory.mktemp("tidy") / "store.db")
    store.append([Event("u", "i", T0 + time, id=f"e{at}") for at, time in enumerate(times)])
    assert store.drop_events_before(T0 + moment) == sum(time < moment for time in times)
    assert sorted(store.events()["time"].to_list()) == sorted(T0 + time for time in times if time >= moment)
    assert store.drop_events_before(T0 + moment) == 0
    store.close()


def test_more_than_one_part_and_events_that_come_meanwhile(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    store.append([Event("u", "i", T0 + at, id=f"e{at}") for at in range(2 * ROWS_PER_STATEMENT + 1)])
    parts = store.drop_events_in_batches(T0 + 2 * ROWS_PER_STATEMENT)
    assert next(parts) == ROWS_PER_STATEMENT
    store.append(
        [Event("u", "i", T0 - 1, id="late"), Event("u", "i", T0 + 9 * ROWS_PER_STATEMENT, id="new")]
    )  # no lock is held
    assert list(parts) == [ROWS_PER_STATEMENT, 1]
    assert store.events()["id"].to_list() == [f"e{2 * ROWS_PER_STATEMENT}", "new"]
    store.close()


def test_a_store_from_before_the_index_gets_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    store.append([Event("u", "i", T0, id="e")])
    with store._engine.begin() as link:
        link.exec_driver_sql(f"DROP INDEX {EVENTS_OF_TIME.name}")
    store.close()
    again = Store(tmp_path / "store.db")
    with again._engine.connect() as link:
        assert EVENTS_OF_TIME.name in {index["name"] for index in sa.inspect(link).get_indexes(EVENTS.name)}
    assert again.drop_events_before(T0 + 1) == 1
    again.close()
