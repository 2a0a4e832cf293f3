"""Lists that experiments took part in, with the events that name them, as frames; read in pages."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import polars as pl

from zhiyin.store.sqlalchemy_import import sa
from zhiyin.store.store import Store
from zhiyin.store.tables import DECISIONS, EVENTS, LISTS, OPEN_DECISIONS

LISTS_PER_PAGE = 50_000
# `assignments`: JSON of a trace's head; `items`: JSON, the ids of the list; `teams`: JSON, of an interleaved list;
# `rewards`: JSON, of the slots of a closed decision of a policy.
LIST_FRAME: Any = {
    "list_id": pl.String, "user": pl.String, "time": pl.Int64,
    "assignments": pl.String, "items": pl.String, "teams": pl.String, "rewards": pl.String,
}  # fmt: skip
EVENT_FRAME: Any = {
    "list_id": pl.String, "user": pl.String, "item": pl.String, "kind": pl.String, "value": pl.Float64,
    "received": pl.Int64,
}  # fmt: skip
COUNT_FRAME: Any = {"user": pl.String, "kind": pl.String, "count": pl.Int64, "value": pl.Float64}


def experiment_lists(store: Store, after: int, until: int) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Lists of any experiment that were made in (after, until], microseconds UTC, in pages in the order of time.

    Yields pairs of frames: lists (LIST_FRAME) and the events that name them (EVENT_FRAME).
    """
    parts = (_part_of_head(store, name) for name in ("assignments", "items", "teams"))
    # The head is JSON without spaces, and quotes inside its texts are escaped.
    has_part = LISTS.c.head.like('%"assignments":{%') & (LISTS.c.time <= until)
    query = sa.select(LISTS.c.list_id, LISTS.c.user, LISTS.c.time, *parts, DECISIONS.c.rewards).where(has_part)
    query = query.outerjoin(DECISIONS, DECISIONS.c.list_id == LISTS.c.list_id)
    query = query.order_by(LISTS.c.time, LISTS.c.list_id).limit(LISTS_PER_PAGE)
    where = LISTS.c.time > after
    while True:
        with store.reading() as connection:
            rows = connection.execute(query.where(where)).all()
            if not rows:
                return
            last = rows[-1]
            list_ids = [row.list_id for row in rows]
            event_rows = store.select_events(connection, tuple(EVENT_FRAME), "list_id", list_ids)
        lists = pl.DataFrame(rows, schema=LIST_FRAME, orient="row")
        yield lists, pl.DataFrame(event_rows, schema=EVENT_FRAME, orient="row")
        where = sa.tuple_(LISTS.c.time, LISTS.c.list_id) > sa.tuple_(sa.literal(last.time), sa.literal(last.list_id))


def oldest_open_decision(store: Store, placements: Collection[str], after: int) -> int | None:
    """Time of the oldest list of some placements whose policy's window is still open; None where none is.

    Parameters
    ----------
    after: older ones are not looked at, microseconds UTC.
    """
    open_ones = OPEN_DECISIONS.c.placement.in_(list(placements)) & (OPEN_DECISIONS.c.time > after)
    with store.reading() as connection:
        time = connection.execute(sa.select(sa.func.min(OPEN_DECISIONS.c.time)).where(open_ones)).scalar()
    return None if time is None else int(time)


def event_counts(store: Store, since: int, before: int) -> pl.DataFrame:
    """COUNT_FRAME: how many events of each kind each user had in [since, before), and the sum of their values."""
    query = sa.select(EVENTS.c.user, EVENTS.c.kind, sa.func.count(), sa.func.coalesce(sa.func.sum(EVENTS.c.value), 0.0))
    query = query.where(EVENTS.c.time >= since, EVENTS.c.time < before).group_by(EVENTS.c.user, EVENTS.c.kind)
    with store.reading() as connection:
        return pl.DataFrame(connection.execute(query).all(), schema=COUNT_FRAME, orient="row")


def _part_of_head(store: Store, name: str) -> Any:
    """The JSON text of a part of a trace's head; NULL where it has none."""
    if store.dialect == "postgresql":
        return sa.cast(sa.cast(LISTS.c.head, sa.JSON)[name], sa.Text).label(name)
    return sa.func.json_extract(LISTS.c.head, f"$.{name}").label(name)
