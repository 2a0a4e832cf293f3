"""Decisions of policies: lists whose window of rewards is open, those that were closed, and rewards sent as numbers.

A list that a policy has decided is an open decision from the transaction that writes its trace until it is closed; then
it is a row of `decisions`, whose sequence number is the order in which policies learn.
"""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import polars as pl

from zhiyin.core.errors import DataError
from zhiyin.core.limits import LARGEST_VALUE, MAX_ID_CHARS, MAX_KIND_CHARS
from zhiyin.core.run import log
from zhiyin.core.text_validation import text
from zhiyin.store.event_log import EventLog
from zhiyin.store.forgetting import stored_forget_count
from zhiyin.store.sqlalchemy_import import sa
from zhiyin.store.tables import (
    DECISION_USERS,
    DECISIONS,
    EVENTS,
    IMPRESSIONS,
    LISTS,
    OPEN_DECISIONS,
    REPORTED_REWARDS,
    ROWS_PER_STATEMENT,
)
from zhiyin.store.traces import Trace, TraceTables, array_views

_T = TypeVar("_T")
_TRACE_COLUMNS = tuple(LISTS.c)
# Columns of the frames of rewards.
EVENT_REWARDS = {
    "list_id": pl.String, "user": pl.String, "item": pl.String, "kind": pl.String, "value": pl.Float64,
    "time": pl.Int64, "received": pl.Int64, "seq": pl.Int64,
}  # fmt: skip
REPORTED = {
    "list_id": pl.String, "slot": pl.String, "value": pl.Float64, "time": pl.Int64, "received": pl.Int64,
    "seq": pl.Int64,
}  # fmt: skip
_CLOSED_COLUMNS = tuple(DECISIONS.c[name] for name in ("seq", "mode", "rewards", "n_events", "late", "closed"))
_CLOSED = sa.select(*_CLOSED_COLUMNS, *_TRACE_COLUMNS).join_from(
    DECISIONS, LISTS, DECISIONS.c.list_id == LISTS.c.list_id
)
_LAST_EVENT = sa.select(sa.func.coalesce(sa.func.max(EVENTS.c.seq), 0))
_LAST_REPORTED = sa.select(sa.func.coalesce(sa.func.max(REPORTED_REWARDS.c.seq), 0))
_IS_CLOSED = sa.select(DECISIONS.c.seq).where(DECISIONS.c.list_id == sa.bindparam("list_id"))


@dataclasses.dataclass(frozen=True, slots=True)
class ClosedRow:
    """A decision that is to be closed.

    Parameters
    ----------
    placement: of the list, which is the name of the policy.
    time, deadline: when the list was made, and when its window ended; microseconds UTC.
    version: of the models. mode: of the policy.
    rewards: of each slot that was decided, in the order of `decision_slots`; None: the slot was not shown, or the
        decision is not learned at all.
    n_events: events and reported rewards that came within the window. late: those that came after it.
    events_seq, rewards_seq: the last event and the last reported reward that were looked at.
    users: whose events are in the rewards, where the list names nobody.
    """

    list_id: str
    placement: str
    time: int
    version: int
    mode: str
    rewards: Sequence[float | None] | None
    n_events: int
    late: int
    deadline: int
    events_seq: int
    rewards_seq: int
    users: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class ClosedDecision:
    """A decision whose window has ended, with its trace.

    Parameters
    ----------
    seq: its place in the order in which policies learn.
    mode: of the policy.
    rewards: of each slot that was decided, None where it was not shown; None: the decision is not learned.
    n_events: events and reported rewards that came within the window. late: those that came after it.
    closed: microseconds UTC.
    """

    seq: int
    mode: str
    rewards: list[float | None] | None
    n_events: int
    late: int
    closed: int
    trace: Trace


class DecisionTables(TraceTables, EventLog):
    """Open and closed decisions, and reported rewards, in a database."""

    # -- rewards that are sent as numbers ------------------------------------------------------------------------------

    def append_reported_reward(self, list_id: str, slot: str, value: float, id: str, time: int) -> bool:
        """Store a reward of a slot of a list; committed when this returns. Returns whether it is new.

        As `append_reported_rewards`, of one.
        """
        return self.append_reported_rewards(list_id, [(slot, value, id)], time)[0]

    def append_reported_rewards(
        self, list_id: str, rows: Sequence[tuple[str, float, str]], time: int, name: str | None = None
    ) -> list[bool]:
        """Store rewards (slot, value, id) of slots of a list in one transaction. Returns whether each is new.

        Of one list and id only the first reward is stored. Raises DataError for values that cannot be stored; none is
        stored then.

        Parameters
        ----------
        rows: a slot is its position among those of the list that were decided, from "0".
        time: when they were earned, microseconds UTC. Whether they came in time is told by when they were received.
        name: what was rewarded, such as "click"; for people.
        """
        text(list_id, "list_id", MAX_ID_CHARS)
        if name is not None:
            text(name, "name", MAX_KIND_CHARS)
        common = {"list_id": list_id, "time": int(time), "received": self.clock(), "name": name}
        records = [{**common, **_reported(*row)} for row in rows]
        insert = self._insert(REPORTED_REWARDS).on_conflict_do_nothing().returning(REPORTED_REWARDS.c.seq)
        with self.writing() as connection:
            return [connection.execute(insert, record).first() is not None for record in records]

    def reported_rewards_of(self, list_ids: Sequence[str]) -> pl.DataFrame:
        """Reported rewards of lists in the order of arrival: a frame with the columns of REPORTED."""
        rows, columns = list[Any](), [REPORTED_REWARDS.c[name] for name in REPORTED]
        with self.reading() as connection:
            for start in range(0, len(list_ids), ROWS_PER_STATEMENT):
                part = list_ids[start : start + ROWS_PER_STATEMENT]
                query = sa.select(*columns).where(REPORTED_REWARDS.c.list_id.in_(part))
                rows += connection.execute(query).all()
        return pl.DataFrame(rows, schema=REPORTED, orient="row").sort("seq")

    def event_rewards_of(self, list_ids: Sequence[str], kinds: Collection[str]) -> pl.DataFrame:
        """Events of these kinds that name the lists, in the order of arrival: a frame (EVENT_REWARDS)."""
        with self.reading() as connection:
            of_kinds = EVENTS.c.kind.in_(sorted(kinds))
            rows = self.select_events(connection, tuple(EVENT_REWARDS), "list_id", list_ids, of_kinds)
        return pl.DataFrame(rows, schema=EVENT_REWARDS, orient="row")

    def shown_items_of(self, list_ids: Sequence[str]) -> dict[str, set[str]]:
        """Items that were shown of each list that has impressions."""
        shown: dict[str, set[str]] = {}
        with self.reading() as connection:
            for start in range(0, len(list_ids), ROWS_PER_STATEMENT):
                part = list_ids[start : start + ROWS_PER_STATEMENT]
                query = sa.select(IMPRESSIONS.c.list_id, IMPRESSIONS.c["items"]).where(IMPRESSIONS.c.list_id.in_(part))
                for list_id, items in connection.execute(query):
                    shown.setdefault(list_id, set()).update(json.loads(items))
        return shown

    def last_reward_seqs(self) -> tuple[int, int]:
        """The sequence numbers of the last event and of the last reported reward; 0 where there is none."""
        return int(self.fetch(_LAST_EVENT)[0][0]), int(self.fetch(_LAST_REPORTED)[0][0])

    # -- open decisions ------------------------------------------------------------------------------------------------

    def due_decisions(self, placement: str, until: int, limit: int, max_bytes: int | None = None) -> list[Trace]:
        """Traces of the open decisions of a placement that were made up to a time, microseconds UTC; oldest first.

        max_bytes: of the arrays, from which on no further traces are read.
        """
        columns = OPEN_DECISIONS.c
        oldest = (
            sa.select(*_TRACE_COLUMNS)
            .join_from(OPEN_DECISIONS, LISTS, columns.list_id == LISTS.c.list_id)
            .where(columns.placement == placement, columns.time <= until)
            .order_by(columns.time, columns.list_id)
        )
        with self.reading() as connection:
            traces = map(_readable_trace, connection.execute(oldest.limit(limit)))
            return list(traces) if max_bytes is None else _until_bytes(traces, lambda trace: trace, max_bytes)

    def open_decision_count(self, placement: str) -> int:
        """The number of decisions of a placement whose window is open."""
        count = sa.select(sa.func.count()).where(OPEN_DECISIONS.c.placement == placement)
        with self.reading() as connection:
            return int(connection.execute(count).scalar_one())

    # -- closed decisions ----------------------------------------------------------------------------------------------

    def close_decisions(self, rows: Sequence[ClosedRow], forget_count: int | None = None) -> int | None:
        """Close decisions in this order, in one transaction; returns how many were closed.

        Left out are decisions that are closed already, and those whose list is no longer stored, such as of a user who
        was forgotten meanwhile. Returns None, and closes none, where anybody was forgotten since `forget_count`.

        Parameters
        ----------
        forget_count: `Store.forget_count` before the events of the rewards were read; None: is not checked.
        """
        now, n_closed = self.clock(), 0
        with self.writing() as connection:
            if forget_count is not None and stored_forget_count(connection) != forget_count:
                return None
            for start in range(0, len(rows), ROWS_PER_STATEMENT):
                part = rows[start : start + ROWS_PER_STATEMENT]
                ids = [row.list_id for row in part]
                present = set(connection.execute(sa.select(LISTS.c.list_id).where(LISTS.c.list_id.in_(ids))).scalars())
                closed = sa.select(DECISIONS.c.list_id).where(DECISIONS.c.list_id.in_(ids))
                present -= set(connection.execute(closed).scalars())
                new = {row.list_id: _row(row, now) for row in part if row.list_id in present}
                if new:
                    connection.execute(sa.insert(DECISIONS), list(new.values()))
                users = [{"list_id": row.list_id, "user": user, "time": now}
                         for row in part if row.list_id in new for user in row.users]  # fmt: skip
                if users:
                    connection.execute(self._insert(DECISION_USERS).on_conflict_do_nothing(), users)
                connection.execute(sa.delete(OPEN_DECISIONS).where(OPEN_DECISIONS.c.list_id.in_(ids)))
                n_closed += len(new)
        return n_closed

    def decision_closed(self, list_id: str) -> bool:
        """Whether the window of a decision has been closed."""
        return bool(self.fetch(_IS_CLOSED, list_id=list_id))

    def closed_decisions(
        self, name: str, after_seq: int = 0, limit: int = 1_000, max_bytes: int | None = None
    ) -> list[ClosedDecision]:
        """Closed decisions of a policy after a sequence number, in order, with their traces.

        max_bytes: of the arrays, from which on no further decisions are read.
        """
        condition = (DECISIONS.c.placement == name) & (DECISIONS.c.seq > after_seq)
        with self.reading() as connection:
            rows = connection.execute(_CLOSED.where(condition).order_by(DECISIONS.c.seq).limit(limit))
            decisions = map(_closed_decision, rows)
            return list(decisions) if max_bytes is None else _until_bytes(decisions, lambda one: one.trace, max_bytes)

    def last_closed_seq(self, name: str, skip: int = 0) -> int:
        """The sequence number of the newest closed decision of a policy but so many newer ones; 0 for none."""
        query = sa.select(DECISIONS.c.seq).where(DECISIONS.c.placement == name)
        with self.reading() as connection:
            newest = query.order_by(DECISIONS.c.seq.desc()).offset(skip).limit(1)
            return int(connection.execute(newest).scalar() or 0)

    def closed_decision_count(self, name: str, until_seq: int) -> int:
        """The number of closed decisions of a policy up to a sequence number."""
        query = sa.select(sa.func.count()).where(DECISIONS.c.placement == name, DECISIONS.c.seq <= until_seq)
        with self.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def closed_of_lists(self, list_ids: Sequence[str]) -> dict[str, ClosedDecision]:
        """Closed decisions by list, of the lists that have one, with their traces."""
        found: dict[str, ClosedDecision] = {}
        with self.reading() as connection:
            for start in range(0, len(list_ids), ROWS_PER_STATEMENT):
                part = list_ids[start : start + ROWS_PER_STATEMENT]
                for row in connection.execute(_CLOSED.where(DECISIONS.c.list_id.in_(part))):
                    decision = _closed_decision(row)
                    found[decision.trace.list_id] = decision
        return found

    # -- rewards that come after the window ----------------------------------------------------------------------------

    def last_closed_seqs(self, placement: str) -> tuple[int, int] | None:
        """The last event and reported reward that the newest closed decision was closed with; None: there is none."""
        columns = DECISIONS.c
        query = sa.select(columns.events_seq, columns.rewards_seq).where(columns.placement == placement)
        with self.reading() as connection:
            row = connection.execute(query.order_by(columns.seq.desc()).limit(1)).first()
        return None if row is None else (int(row[0]), int(row[1]))

    def lists_with_later_rewards(
        self, placement: str, after: tuple[int, int], until: tuple[int, int], kinds: Collection[str]
    ) -> list[str]:
        """Closed lists of a placement that got events of these kinds, or reported rewards, after they were closed.

        after, until: sequence numbers of events and of reported rewards between which is searched.
        """
        lists: set[str] = set()
        with self.reading() as connection:
            for table, closed_seq, low, high in (
                (EVENTS, DECISIONS.c.events_seq, after[0], until[0]),
                (REPORTED_REWARDS, DECISIONS.c.rewards_seq, after[1], until[1]),
            ):
                query = (
                    sa.select(table.c.list_id)
                    .join_from(table, DECISIONS, table.c.list_id == DECISIONS.c.list_id)
                    .where(table.c.seq > low, table.c.seq <= high, table.c.seq > closed_seq)
                    .where(DECISIONS.c.placement == placement)
                )
                if table is EVENTS:
                    query = query.where(EVENTS.c.kind.in_(sorted(kinds)))
                lists.update(connection.execute(query.distinct()).scalars())
        return sorted(lists)

    def set_late_counts(self, counts: Mapping[str, int]) -> None:
        """Store how many rewards of each closed list came after its window."""
        if not counts:
            return
        update = (
            sa.update(DECISIONS)
            .where(DECISIONS.c.list_id == sa.bindparam("b_list"))
            .values(late=sa.bindparam("b_late"))
        )
        with self.writing() as connection:
            connection.execute(update, [{"b_list": list_id, "b_late": n} for list_id, n in counts.items()])

    def window_counts(self, placement: str, newest: int = 10_000) -> tuple[int, int]:
        """Rewards that came within their windows, and after them, of the decisions that were closed last."""
        columns = DECISIONS.c
        part = sa.select(columns.n_events, columns.late).where(columns.placement == placement)
        last = part.order_by(columns.seq.desc()).limit(newest).subquery()
        with self.reading() as connection:
            in_time, late = connection.execute(sa.select(sa.func.sum(last.c.n_events), sa.func.sum(last.c.late))).one()
        return int(in_time or 0), int(late or 0)


def _reported(slot: str, value: float, id: str) -> dict[str, Any]:
    """Columns of a reported reward. Raises DataError for values that cannot be stored."""
    text(slot, "slot", MAX_ID_CHARS)
    text(id, "id", MAX_ID_CHARS)
    if isinstance(value, bool) or not math.isfinite(value) or abs(value) > LARGEST_VALUE:
        raise DataError(
            f"value = {value!r} is no reward",
            column="value",
            remedy=f"a number from -{LARGEST_VALUE} to {LARGEST_VALUE}",
        )
    return {"slot": slot, "value": float(value), "id": id}


def _row(closed: ClosedRow, now: int) -> dict[str, Any]:
    row = {field.name: getattr(closed, field.name) for field in dataclasses.fields(closed) if field.name != "users"}
    rewards = None if closed.rewards is None else json.dumps(list(closed.rewards), allow_nan=False)
    return {**row, "rewards": rewards, "closed": now}


def _until_bytes(values: Iterable[_T], trace_of: Callable[[_T], Trace], max_bytes: int) -> list[_T]:
    """Values, up to the first with which the arrays of their traces take so many bytes."""
    result, size = [], 0
    for value in values:
        result.append(value)
        size += sum(array.nbytes for array in trace_of(value).arrays.values())
        if size >= max_bytes:
            break
    return result


def _readable_trace(row: Any) -> Trace:
    """The trace of a row of `lists`; one that is damaged has neither head nor arrays, and holds up no other."""
    list_id, user, time, version, placement, head, arrays = row
    try:
        parsed, views = json.loads(head), {} if arrays is None else array_views(arrays)
    except (zlib.error, ValueError, KeyError, TypeError) as error:
        log.warning("store: the trace of list %s is damaged (%s): what it brought is not learned", list_id, error)
        parsed, views = {}, {}
    return Trace(list_id, user, int(time), int(version), placement, parsed, views)


def _closed_decision(row: Any) -> ClosedDecision:
    """Of a row of `_CLOSED`."""
    seq, mode, rewards, n_events, late, closed = row[: len(_CLOSED_COLUMNS)]
    values = None if rewards is None else json.loads(rewards)
    trace = _readable_trace(row[len(_CLOSED_COLUMNS) :])
    return ClosedDecision(int(seq), mode, values, int(n_events), int(late), int(closed), trace)
