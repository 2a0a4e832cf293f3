"""The content of a store as training data: events, newest columns of items and users, links, and who was forgotten."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.run import Run
from zhiyin.data.catalogue_values import is_hidden
from zhiyin.data.event_schema import StorePosition
from zhiyin.data.quarantine import QUARANTINE
from zhiyin.data.store_snapshot import JsonColumns, StoreSnapshot
from zhiyin.store.column_types import stored_types
from zhiyin.store.event_log import EVENT_FRAME
from zhiyin.store.records import TIME_POLICY, hash_of
from zhiyin.store.sqlalchemy_import import sa
from zhiyin.store.store import Store
from zhiyin.store.tables import EVENTS, VERSIONED_TABLES

# Events of one page: a longer reading transaction would keep SQLite's journal from being written back.
EVENTS_PER_PAGE = 200_000
# Items or users of one fetch.
ROWS_PER_FETCH = 50_000
_EVENT_FRAME: Any = {name: EVENT_FRAME[name] for name in ("seq", "user", "item", "time", "kind", "value")}


def read_snapshot(store: Store, run: Run | None = None) -> StoreSnapshot:
    """The content of the store, as `zhiyin.read` takes it. Events that arrive meanwhile are left out.

    Who was forgotten is read last, so that nobody is learned from who was forgotten while the events were read.
    """
    before, last = store.forgotten_by_hash(), store.last_seq
    events, quarantine = _events(store, last, run or Run())
    catalogue, links = read_catalogue(store), store.all_links()
    forgotten_at = store.forgotten_by_hash()

    def forgotten(ids: pl.Series) -> np.ndarray:
        # One hash a user: it is all that the store still knows of them.
        return np.array([forgotten_at.get(hash_of(user), 0) for user in ids], dtype=np.int64)

    def late(ids: pl.Series) -> np.ndarray:
        return np.array([forgotten_at.get(one) != before.get(one) for one in map(hash_of, ids)], dtype=bool)

    return dataclasses.replace(
        catalogue,
        events=events,
        forgotten=forgotten if forgotten_at else None,
        late=late,
        position=StorePosition(store.identity, last),
        quarantine=quarantine,
        links=links,
    )


def read_catalogue(store: Store) -> StoreSnapshot:
    """The items and users of the store and the types of their columns, without events."""
    items, hidden = _newest_columns(store, "items")
    users, _ = _newest_columns(store, "users")
    types = stored_types(store)
    no_events = pl.DataFrame(schema={name: EVENT_FRAME[name] for name in ("user", "item", "time", "kind", "value")})
    return StoreSnapshot(no_events, items, users, hidden, first=types.first, declared=types.declared)


def _events(store: Store, last: int, run: Run) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events up to a sequence number, and those set aside: stores of older formats took any time.

    Ids and kinds are categories: a hundred million events hold each text once.
    """
    now, quarantined = store.clock(), [pl.DataFrame(schema=QUARANTINE)]
    kinds = {name: pl.Categorical(pl.Categories.random("zhiyin")) for name in ("user", "item")}
    types: Any = {**kinds, "time": pl.Int64, "kind": pl.Categorical, "value": pl.Float32}
    columns = [EVENTS.c[name] for name in _EVENT_FRAME]
    pages = [pl.DataFrame(schema=types)]
    after = 0
    with run.bar("Reading the store", last) as advance, store.reading() as connection:
        while True:
            page = sa.select(*columns).where(EVENTS.c.seq > after, EVENTS.c.seq <= last).order_by(EVENTS.c.seq)
            rows = connection.execute(page.limit(EVENTS_PER_PAGE)).all()
            connection.rollback()
            if not rows:
                return pl.concat(pages, rechunk=True), pl.concat(quarantined)
            frame = pl.DataFrame(rows, schema=_EVENT_FRAME, orient="row")
            is_valid = frame["time"].is_between(TIME_POLICY.earliest, TIME_POLICY.latest(now))
            if not is_valid.all():
                quarantined.append(_set_aside(frame.filter(~is_valid), store.address, now))
                frame = frame.filter(is_valid)
            pages.append(frame.drop("seq").cast(types))
            advance(rows[-1].seq - after)
            after = rows[-1].seq


def _set_aside(frame: pl.DataFrame, address: str, now: int) -> pl.DataFrame:
    reasons = [TIME_POLICY.refusal(moment, now)[0] for moment in frame["time"]]
    raw = frame.select(pl.concat_str(pl.col("user", "item", "time", "kind").cast(pl.String), separator=","))
    return pl.DataFrame(
        {"file": [address] * len(frame), "line": frame["seq"], "reason": reasons, "raw": raw.to_series()},
        schema=QUARANTINE,
    )


def _newest_columns(store: Store, name: str) -> tuple[JsonColumns, pl.Series]:
    """Newest columns of items or users, and the ids of those that are deleted or hidden."""
    table = VERSIONED_TABLES[name]
    newest = sa.select(sa.func.max(table.c.seq)).group_by(table.c.id)
    parts = [pl.DataFrame(schema={"id": pl.String, "text": pl.String})]
    with store.reading() as connection:
        result = connection.execution_options(stream_results=True).execute(
            sa.select(table.c.id, table.c.columns).where(table.c.seq.in_(newest)).order_by(table.c.seq)
        )
        parts += [
            pl.DataFrame(rows, schema=parts[0].schema, orient="row") for rows in result.partitions(ROWS_PER_FETCH)
        ]
    frame = pl.concat(parts)
    present = frame.filter(pl.col("text").is_not_null())
    rows = JsonColumns(present["id"], present["text"])
    marked = present["text"].str.contains('"hidden"', literal=True)  # only the columns of these are parsed
    hidden = marked.clone()
    if marked.any():
        indices = np.flatnonzero(marked.to_numpy())
        columns = (row for _, part in rows.filter(marked).parts() for row in part)
        hidden = hidden.scatter(indices, [is_hidden(row) for row in columns])
    return rows, pl.concat([frame.filter(pl.col("text").is_null())["id"], rows.ids.filter(hidden)])
