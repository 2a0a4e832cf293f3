"""The ledger of ads: displays, clicks and what campaigns spend, in whole micros (millionths of a unit of money).

A display is written before it is answered, with its trace and what it is expected to cost. A click is an event of the
log that names the list; it is charged in the order of the log, in the transaction that moves the mark of the last event
that was looked at. So each is charged once, whoever is killed when, and by however many processes: whoever comes second
finds the mark moved. A charge that a budget cannot bear is not made: the click is counted as unpaid.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from zhiyin.core.durations import SECOND
from zhiyin.store.event_log import EventLog
from zhiyin.store.records import hash_of
from zhiyin.store.tables import LISTS
from zhiyin.store.traces import MAX_TRACES_PER_TRANSACTION, Trace, TraceTables, trace_row

# The row of `ad_totals` that sums all days.
ALL_DAYS = -1
# Microseconds of a minute, an hour and a day.
MINUTE, HOUR, DAY = 60 * SECOND, 3_600 * SECOND, 86_400 * SECOND
# Events that are looked at in one transaction; hours of traffic that are kept.
EVENTS_PER_TRANSACTION, TRAFFIC_HOURS = 1_000, 14 * 24
# Key of `meta`: the number of the last event that was looked at.
_MARK = "ads_charged"
_LIST_COLUMNS = tuple(column.name for column in LISTS.c)


@dataclasses.dataclass(frozen=True, slots=True)
class AdDisplay:
    """An ad that a list shows.

    Parameters
    ----------
    expected: micros that it is expected to cost. probability: of what is paid for, in millionths.
    """

    campaign: str
    item: str
    expected: int
    probability: int


@dataclasses.dataclass(frozen=True, slots=True)
class AdAction:
    """A click or a purchase that names the list of an ad.

    Parameters
    ----------
    price: micros; 0 where the ad is paid for by another action. expected: as of its display, which was at `shown`.
    """

    list_id: str
    item: str
    action: str
    campaign: str
    price: int
    expected: int
    shown: int


@dataclasses.dataclass(frozen=True, slots=True)
class AdTotals:
    """Sums of a campaign over a day, or all days; money in micros."""

    displays: int = 0
    reserved: int = 0
    clicks: int = 0
    purchases: int = 0
    paid: int = 0
    unpaid: int = 0
    spend: int = 0


_TOTALS = tuple(field.name for field in dataclasses.fields(AdTotals))


def _upsert(table: str, keys: Sequence[str], sums: Sequence[str]) -> str:
    """A statement that adds to sums of a row, which it makes where it is missing."""
    names = (*keys, *sums)
    added = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in sums)
    return (
        f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) "
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {added}"
    )


_ADD_DISPLAYS = _upsert("ad_totals", ("campaign", "day"), ("displays", "reserved"))
_ADD_ACTIONS = _upsert("ad_totals", ("campaign", "day"), ("clicks", "purchases", "paid", "unpaid", "spend"))
_ADD_AD_DISPLAYS = _upsert("ad_items", ("campaign", "item"), ("displays", "expected"))
_ADD_AD_EVENTS = _upsert("ad_items", ("campaign", "item"), ("events",))
_RESERVE = _upsert("ad_reservations", ("campaign", "minute"), ("micros",))
_ADD_TRAFFIC = _upsert("ad_traffic", ("hour",), ("requests",))
_RELEASE = (
    "UPDATE ad_reservations SET micros = CASE WHEN micros > ? THEN micros - ? ELSE 0 END "
    "WHERE campaign = ? AND minute = ?"
)
_INSERT_LIST = (
    f"INSERT INTO lists ({', '.join(json.dumps(name) for name in _LIST_COLUMNS)}) "
    f"VALUES ({', '.join('?' * len(_LIST_COLUMNS))}) ON CONFLICT DO NOTHING"
)
_INSERT_CHARGE = (
    "INSERT INTO ad_charges (list_id, item, action, campaign, event, time, micros) VALUES (?, ?, ?, ?, ?, ?, 0) "
    "ON CONFLICT DO NOTHING RETURNING seq"
)
_SET_MARK = "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
_BEGIN_MARK = (
    "INSERT INTO meta (key, value) VALUES (?, (SELECT CAST(coalesce(max(seq), 0) AS VARCHAR) FROM events)) "
    "ON CONFLICT DO NOTHING"
)
_LAST_EVENT = "SELECT coalesce(max(seq), 0) FROM events"
_NEWEST_CAMPAIGN = "SELECT columns FROM campaigns WHERE id = ? ORDER BY version DESC LIMIT 1"


class _Connection(Protocol):
    """Runs statements whose parameters are written as ?."""

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]: ...
    def many(self, sql: str, parameters: Iterable[Sequence[Any]]) -> None: ...


class _FileConnection:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        return list(self._connection.execute(sql, tuple(parameters)).fetchall())

    def many(self, sql: str, parameters: Iterable[Sequence[Any]]) -> None:
        self._connection.executemany(sql, list(parameters))


class _ServerConnection:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        result = self._connection.exec_driver_sql(sql.replace("?", "%s"), tuple(parameters))
        return list(result) if result.returns_rows else []

    def many(self, sql: str, parameters: Iterable[Sequence[Any]]) -> None:
        rows = list(map(tuple, parameters))
        if rows:
            self._connection.exec_driver_sql(sql.replace("?", "%s"), rows)


class AdLedger(TraceTables, EventLog):
    """Displays, charges and sums of ads in a database."""

    # The last event that this process has read; up to it there is none behind the mark that may have to be charged.
    _ad_events_read = 0

    # -- displays ------------------------------------------------------------------------------------------------------

    def append_ad_lists(self, lists: Sequence[tuple[Trace, Sequence[AdDisplay]]]) -> None:
        """Store lists of ads with their displays in one transaction; a killed process loses none.

        Not counted are lists of before their user was forgotten. Raises DataError for a trace that cannot be stored;
        none is stored then.
        """
        for start in range(0, len(lists), MAX_TRACES_PER_TRANSACTION):
            part = lists[start : start + MAX_TRACES_PER_TRANSACTION]
            rows = [trace_row(trace) for trace, _ in part]
            with self._ledger(durable=False) as connection:
                kept = [number for number, row in enumerate(rows) if not _is_forgotten(connection, row)]
                connection.rows(_BEGIN_MARK, (_MARK,))
                connection.many(_INSERT_LIST, ([rows[number][name] for name in _LIST_COLUMNS] for number in kept))
                number_list = "INSERT INTO list_numbers (list_id) VALUES (?) ON CONFLICT DO NOTHING"
                connection.many(number_list, ([rows[number]["list_id"]] for number in kept))
                _add_displays(connection, [part[number] for number in kept])

    # -- charges -------------------------------------------------------------------------------------------------------

    def charge_ads(self, kinds: Mapping[str, str], window: int, reservation: int) -> int:
        """Charge the clicks and purchases that came since the last call, of any process. Returns how many were new.

        An event counts that names a list of ads and one of its items, comes from whom the list was made for, where it
        names somebody, and arrives within the window after the display. Of one list, item and action only the first
        counts. The day that it is charged to is that of its arrival, UTC. Budgets are those of this moment: columns
        `daily_budget` and `total_budget` of the campaign; nothing is charged to one that was deleted.

        Parameters
        ----------
        kinds: "click" or "purchase" by kind of event.
        window: microseconds after a display in which its events count.
        reservation: microseconds after a display in which what it is expected to cost is reserved.
        """
        n_new, more = 0, True
        while more:
            if not self._has_new_ad_events(kinds):
                return n_new
            with self._ledger(durable=True) as connection:
                events, mark, more = _events_to_charge(connection, kinds)
                if mark is None:
                    return n_new
                actions = [(event, action) for event in events
                           if (action := _action_of(connection, event, kinds, window)) is not None]  # fmt: skip
                n_new += _charge(connection, actions)
                connection.rows(_SET_MARK, (_MARK, str(mark)))
                oldest = (self.clock() - reservation) // MINUTE
                connection.rows("DELETE FROM ad_reservations WHERE minute < ?", (oldest,))
        return n_new

    def _has_new_ad_events(self, kinds: Collection[str]) -> bool:
        """Whether an event after the mark may have to be charged; takes no lock of writers."""
        with self._ledger_reading() as connection:
            mark = _mark(connection)
            if mark is None:
                return False
            last = int(connection.rows(_LAST_EVENT)[0][0])  # first: an event that is committed meanwhile is behind it
            query = f"SELECT 1 FROM events WHERE seq > ? AND {_of_lists(kinds)} LIMIT 1"
            if connection.rows(query, (max(mark, self._ad_events_read), *kinds)):
                return True
            self._ad_events_read = max(mark, last)
            return False

    # -- sums ----------------------------------------------------------------------------------------------------------

    def ad_totals(self, days: Sequence[int], campaign: str | None = None) -> dict[tuple[str, int], AdTotals]:
        """Sums by campaign and day, of these days (since 1970, UTC; ALL_DAYS: of all), and of one campaign or all."""
        query = f"SELECT campaign, day, {', '.join(_TOTALS)} FROM ad_totals WHERE day IN ({', '.join('?' * len(days))})"
        parameters: list[Any] = list(days)
        if campaign is not None:
            query, parameters = query + " AND campaign = ?", [*parameters, campaign]
        with self._ledger_reading() as connection:
            return {(row[0], int(row[1])): AdTotals(*map(int, row[2:])) for row in connection.rows(query, parameters)}

    def ad_reservations(self, since: int) -> dict[str, int]:
        """Micros that displays since a time, microseconds UTC, are still expected to cost, by campaign."""
        query = "SELECT campaign, sum(micros) FROM ad_reservations WHERE minute >= ? GROUP BY campaign"
        with self._ledger_reading() as connection:
            return {name: int(micros) for name, micros in connection.rows(query, (since // MINUTE,))}

    def ad_items(self, campaign: str | None = None) -> dict[tuple[str, str], tuple[int, int, int]]:
        """Displays, expected events in millionths, and events by campaign and item, of one campaign or all."""
        query = "SELECT campaign, item, displays, expected, events FROM ad_items"
        parameters: tuple[str, ...] = ()
        if campaign is not None:
            query, parameters = query + " WHERE campaign = ?", (campaign,)
        with self._ledger_reading() as connection:
            return {(row[0], row[1]): (int(row[2]), int(row[3]), int(row[4]))
                    for row in connection.rows(query, parameters)}  # fmt: skip

    def ad_traffic(self) -> dict[int, int]:
        """Requests for ads by hour since 1970, of the last TRAFFIC_HOURS."""
        oldest = self.clock() // HOUR - TRAFFIC_HOURS
        with self._ledger_reading() as connection:
            rows = connection.rows("SELECT hour, requests FROM ad_traffic WHERE hour >= ?", (oldest,))
            return {int(hour): int(requests) for hour, requests in rows}

    # -- inside --------------------------------------------------------------------------------------------------------

    @contextmanager
    def _ledger(self, durable: bool) -> Iterator[_Connection]:
        """A transaction that writes."""
        if self._fast_path is not None:
            with self._fast_path.writing(durable) as raw:
                yield _FileConnection(raw)
            return
        with self.writing(durable) as connection:
            yield _ServerConnection(connection)

    @contextmanager
    def _ledger_reading(self) -> Iterator[_Connection]:
        if self._fast_path is not None:
            with self._fast_path.reading() as raw:
                yield _FileConnection(raw)
            return
        with self.reading() as connection:
            yield _ServerConnection(connection)


def _is_forgotten(connection: _Connection, row: Mapping[str, Any]) -> bool:
    """Whether the user of a row of `lists` was forgotten after the list was made."""
    if row["user"] is None:
        return False
    forgotten = connection.rows("SELECT received FROM forgotten WHERE hash = ?", (hash_of(row["user"]),))
    return bool(forgotten) and int(forgotten[0][0] or 0) >= row["time"]


def _add_displays(connection: _Connection, lists: Sequence[tuple[Trace, Sequence[AdDisplay]]]) -> None:
    """Add the displays of lists to all sums, each row of a sum once and in one order, so that writers never wait for
    each other in a circle."""
    totals, ads, reserved, traffic = Counter[Any](), Counter[Any](), Counter[Any](), Counter[int]()
    displays, ad_displays = Counter[Any](), Counter[Any]()
    for trace, shown in lists:
        traffic[trace.time // HOUR] += 1
        for one in shown:
            for day in (ALL_DAYS, trace.time // DAY):
                displays[one.campaign, day] += 1
                totals[one.campaign, day] += one.expected
            ad_displays[one.campaign, one.item] += 1
            ads[one.campaign, one.item] += one.probability
            reserved[one.campaign, trace.time // MINUTE] += one.expected
    connection.many(_ADD_DISPLAYS, [(*key, displays[key], totals[key]) for key in sorted(displays)])
    connection.many(_ADD_AD_DISPLAYS, [(*key, ad_displays[key], ads[key]) for key in sorted(ad_displays)])
    connection.many(_RESERVE, [(*key, reserved[key]) for key in sorted(reserved)])
    connection.many(_ADD_TRAFFIC, sorted(traffic.items()))


def _of_lists(kinds: Collection[str]) -> str:
    return f"list_id IS NOT NULL AND kind IN ({', '.join('?' * len(kinds))})"


def _mark(connection: _Connection) -> int | None:
    """The number of the last event that was looked at; None before the first list of ads."""
    rows = connection.rows("SELECT value FROM meta WHERE key = ?", (_MARK,))
    return int(rows[0][0]) if rows else None


def _events_to_charge(connection: _Connection, kinds: Collection[str]) -> tuple[list[Any], int | None, bool]:
    """Events after the mark that may have to be charged; the next mark; whether there may be more of them."""
    mark = _mark(connection)
    if mark is None:
        return [], None, False
    last = int(connection.rows(_LAST_EVENT)[0][0])
    query = (
        'SELECT seq, "user", item, kind, list_id, received FROM events '
        f"WHERE seq > ? AND {_of_lists(kinds)} ORDER BY seq LIMIT ?"
    )
    events = connection.rows(query, (mark, *kinds, EVENTS_PER_TRANSACTION))
    more = len(events) == EVENTS_PER_TRANSACTION
    return events, int(events[-1][0]) if more else max(mark, last), more


def _action_of(connection: _Connection, event: Any, kinds: Mapping[str, str], window: int) -> AdAction | None:
    """What an event is to an ad of its list; None where it is nothing."""
    _, user, item, kind, list_id, received = event
    rows = connection.rows('SELECT "user", time, head FROM lists WHERE list_id = ?', (list_id,))
    if not rows or '"auction":{' not in rows[0][2]:
        return None
    owner, shown, head = rows[0][0], int(rows[0][1]), json.loads(rows[0][2])
    if head.get("origin") != "ads" or (owner is not None and owner != user) or received - shown > window:
        return None
    try:
        slot = head["items"].index(item)
    except ValueError:
        return None
    ad = head["auction"]["ads"][slot]
    if ad["campaign"] is None:
        return None
    action = kinds[kind]
    pays = ad["pay"] == action
    return AdAction(
        list_id, item, action, ad["campaign"], ad["price"] if pays else 0, ad["expected"] if pays else 0, shown
    )


def _charge(connection: _Connection, actions: Sequence[tuple[Any, AdAction]]) -> int:
    """Charge actions in the order of the log, as far as budgets bear it. Returns how many were new."""
    n_new, budgets = 0, dict[str, tuple[int | None, int | None] | None]()
    for event, action in actions:
        number, received = event[0], event[5]
        if action.campaign not in budgets:
            budgets[action.campaign] = _budgets(connection, action.campaign)
        budget = budgets[action.campaign]
        if budget is None:
            continue
        day = received // DAY
        row = (action.list_id, action.item, action.action, action.campaign, number, received)
        charge = connection.rows(_INSERT_CHARGE, row)
        if not charge:
            continue
        n_new += 1
        pays, amount = action.price > 0, 0
        if pays and _can_bear(connection, action.campaign, day, action.price, budget):
            amount = action.price
            connection.rows("UPDATE ad_charges SET micros = ? WHERE seq = ?", (amount, charge[0][0]))
        is_click = action.action == "click"
        sums = (int(is_click), int(not is_click), int(amount > 0), int(pays and amount == 0), amount)
        connection.many(_ADD_ACTIONS, [(action.campaign, one, *sums) for one in (ALL_DAYS, day)])
        if pays:
            connection.rows(_ADD_AD_EVENTS, (action.campaign, action.item, 1))
            release = (action.expected, action.expected, action.campaign, action.shown // MINUTE)
            connection.rows(_RELEASE, release)
    return n_new


def _budgets(connection: _Connection, campaign: str) -> tuple[int | None, int | None] | None:
    """Micros of a day and in total, None for no limit; None where there is no such campaign any more."""
    rows = connection.rows(_NEWEST_CAMPAIGN, (campaign,))
    if not rows or rows[0][0] is None:
        return None
    columns = json.loads(rows[0][0])
    return columns.get("daily_budget"), columns.get("total_budget")


def _can_bear(
    connection: _Connection, campaign: str, day: int, price: int, budget: tuple[int | None, int | None]
) -> bool:
    """Whether the budgets of a campaign, of a day and in total, can bear a price on top of what is spent."""
    query = "SELECT day, spend FROM ad_totals WHERE campaign = ? AND day IN (?, ?)"
    spent = {int(one): int(spend) for one, spend in connection.rows(query, (campaign, day, ALL_DAYS))}
    return all(
        limit is None or spent.get(one, 0) + price <= limit for one, limit in zip((day, ALL_DAYS), budget, strict=True)
    )
