"""The streamed state: what streaming jobs have computed, merged, for the service to read.

    state = open_stream_state("redis://127.0.0.1:6379/0", state_name(store.address))
    state.apply("trending", "part-0", rows)        # False: the file was applied before
    state.trending(10)                             # item, log_score

A file of results is applied once: its name and its effect are one transaction. Results are merged by sums, minima,
maxima and unions (see `stream_definitions`), so files may be applied in any order; log scores, which are sums of
floating-point numbers, may then differ in their last digits. Beyond its bounds (items of trending, others of an item)
a state drops the lowest scores.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import polars as pl

from zhiyin.core.errors import ConfigError, DataError, ZhiyinError
from zhiyin.store.event_log import EventLog
from zhiyin.store.records import EVENT_FIELDS, Event, events_from_rows
from zhiyin.store.stream_definitions import (
    HISTORY_EVENT,
    MAX_COVISITS,
    MAX_HISTORY_EVENTS,
    OUTPUTS,
    STATE_OUTPUTS,
    merge_sessions,
    polars_schema,
)

# Columns of rows that may be null.
_NULLABLE = {"value", "list_id"}
# The highest sequence number there can be.
MAX_SEQ = 2**63 - 1
TRENDING_FRAME = {"item": pl.String, "log_score": pl.Float64}
COVISITS_FRAME = {"item": pl.String, "other": pl.String, "log_score": pl.Float64}
CLICK_THROUGH_FRAME = {"item": pl.String, "shown": pl.Int64, "clicked": pl.Int64}
BUCKETS_FRAME = dict.fromkeys(("bucket", "first", "last", "n"), pl.Int64)


class StreamStateAwayError(ZhiyinError):
    """The streamed state cannot be reached at the moment."""


class StreamState(ABC):
    """Merged results of streams. Any number of threads may read one; a file is applied by one at a time.

    Every method raises StreamStateAwayError where the database cannot be reached; the same object works again when it
    can.
    """

    def apply(self, job: str, file: str, rows: pl.DataFrame) -> bool:
        """Merge the rows of a file into the state, once. Returns whether it was done now; False: it was before.

        Parameters
        ----------
        job: an output of `stream_definitions.STATE_OUTPUTS`.
        file: its name, which tells it from all other files of the output.
        rows: with the columns of `stream_definitions.OUTPUTS`.

        Raises DataError for rows that are not those of the output; nothing is applied then. A large file may be applied
        in parts: after a failure the next `apply` of it goes on where the last one ended.
        """
        if job not in STATE_OUTPUTS:
            raise ConfigError(f"the streamed state holds no {job!r}", remedy=f"one of {', '.join(STATE_OUTPUTS)}")
        return self._apply(job, file, valid_rows(job, rows))

    @abstractmethod
    def _apply(self, job: str, file: str, rows: pl.DataFrame) -> bool:
        """As `apply`, of valid rows; those of histories have a row for each event: user and HISTORY_EVENT."""

    @abstractmethod
    def applied_files(self, job: str) -> set[str]:
        """Names of the files of an output that were applied and whose marks were not removed."""

    @abstractmethod
    def remove_marks(self, job: str, files: Sequence[str]) -> None:
        """Drop the names of files that do not exist any more, and so cannot be applied again."""

    @abstractmethod
    def trending(self, n: int) -> pl.DataFrame:
        """The n items of the highest scores, best first: item, log_score (of TRENDING_HALF_LIFE)."""

    def covisits(self, items: Sequence[str], n: int) -> pl.DataFrame:
        """The n others of the highest scores of each item, best first, items in this order.

        Frame item, other, log_score (of COVISIT_HALF_LIFE). n: at most MAX_COVISITS.
        """
        distinct = list(dict.fromkeys(items))
        scores = self._covisits(distinct, min(n, MAX_COVISITS))
        order = pl.DataFrame({"item": distinct}, schema={"item": pl.String}).with_row_index("place")
        ordered = scores.join(order, on="item").sort("place", -pl.col("log_score"), "other")
        return ordered.select(*COVISITS_FRAME)

    @abstractmethod
    def _covisits(self, items: list[str], n: int) -> pl.DataFrame:
        """As `covisits`, in any order."""

    @abstractmethod
    def history(self, user: str, limit: int = MAX_HISTORY_EVENTS) -> tuple[list[Event], int]:
        """The events of a user of the highest sequence numbers, sorted by (time, number), and `mark` as of then.

        The mark is 0 where it is not known that the history is complete.
        """

    def sessions(self, user: str, limit: int = 50) -> pl.DataFrame:
        """The last sessions of a user, oldest first: first, last (microseconds UTC) and n, the number of events."""
        return merge_sessions(self._session_buckets(user)).tail(limit)

    @abstractmethod
    def _session_buckets(self, user: str) -> pl.DataFrame:
        """Merged buckets of a user's sessions: bucket, first, last, n."""

    @abstractmethod
    def click_through(self, placement: str) -> pl.DataFrame:
        """How often each item of a placement's lists was shown and clicked: item, shown, clicked; sorted by item."""

    @abstractmethod
    def version(self, job: str) -> int:
        """A number that grows whenever something of a job is applied or dropped; cheap to ask for.

        It is lower than before only where the database was emptied or put back to an earlier state.
        """

    @abstractmethod
    def set_segments(self, names: Iterable[str]) -> None:
        """Tell which segments of events there are, before rows of them are applied; see `segment_files`."""

    @property
    @abstractmethod
    def mark(self) -> int:
        """The last sequence number of the longest run of segments, from number 1 on, whose rows are all in `history`.

        All events of the store up to it are in the histories; 0: of no event that is known.
        """

    @property
    @abstractmethod
    def is_incomplete(self) -> bool:
        """Whether results are missing that cannot be loaded again: it was emptied after their files were deleted."""

    @abstractmethod
    def set_incomplete(self) -> None:
        """Note that results are missing. Only `clear` takes that back."""

    @abstractmethod
    def forget(self, user: str, seq: int) -> None:
        """Drop a user; rows of events up to this sequence number are refused from now on."""

    @abstractmethod
    def has_forgotten(self, user: str) -> bool:
        """Whether a user was ever forgotten here, so that rows of before are refused."""

    @abstractmethod
    def clear(self) -> None:
        """Drop everything but who was forgotten."""

    @abstractmethod
    def maintain(self) -> None:
        """Drop what is held longer than it needs to be. To be called now and then."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections."""


def open_stream_state(address: str, name: str) -> StreamState:
    """The streamed state behind an address: redis://, postgresql:// or sqlite:///path.

    name: of the store; states of several may share an address. See `live_state.state_name`.

    Raises ConfigError for another address, or where a password is refused, and MissingExtraError without its driver.
    """
    scheme = address.partition("://")[0]
    if scheme in ("redis", "rediss", "unix"):
        from zhiyin.store.redis_stream_state import RedisStreamState

        return RedisStreamState(address, name)
    if scheme in ("postgresql", "sqlite"):
        from zhiyin.store.sql_stream_state import SqlStreamState

        return SqlStreamState(address, name)
    raise ConfigError(
        "there is no streamed state behind this address", remedy="redis://, postgresql:// or sqlite:///path"
    )


def checked_name(name: str) -> str:
    """A valid name of a state. Raises ConfigError for another."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
        raise ConfigError(f"{name[:80]!r} is no name for a state", remedy="1 to 64 letters, digits, _ . and -")
    return name


def forget_streamed(store: EventLog, state: StreamState, user: str) -> None:
    """Drop a user whom the store has just forgotten; what the user has done since then stays."""
    highest, first = store.highest_seq, store.first_seq_of(user)
    state.forget(user, highest if first == 0 else min(highest, first - 1))


def needless_upto(state: StreamState) -> int:
    """The sequence number up to which no segment of events has to be kept for the histories of a state.

    All that is in them; where results are missing for good, all events: histories cannot become complete any more.
    """
    return MAX_SEQ if state.is_incomplete else state.mark


def valid_rows(output: str, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of an output in their types; those of histories with a row for each event.

    Raises DataError where columns are missing, of another type, null, negative or not finite.
    """
    schema = polars_schema(OUTPUTS[output])
    try:
        rows = rows.select(pl.col(name).cast(kind) for name, kind in schema.items())
        if output == "histories":
            events = rows.filter(pl.col("events").list.len() > 0).explode("events")
            rows = events.select("user", *(pl.col("events").struct.field(name) for name in HISTORY_EVENT))
    except pl.exceptions.PolarsError as error:
        reason = (str(error).splitlines() or ["?"])[0][:200]
        raise DataError(f"the rows are not those of {output}: {reason}", remedy=_REMEDY) from None
    required = [name for name in rows.columns if name not in _NULLABLE]
    wrong = [pl.col(name).is_null().any().alias(f"{name} is null") for name in required]
    for name, kind in rows.schema.items():
        if kind.is_integer():
            wrong.append((pl.col(name) < 0).any().alias(f"{name} is negative"))
        if kind.is_float():
            wrong.append((~pl.col(name).is_finite()).any().alias(f"{name} is not finite"))
    reasons = [reason for reason, is_so in rows.select(wrong).row(0, named=True).items() if is_so] if len(rows) else []
    if reasons:
        raise DataError(f"the rows are not those of {output}: {reasons[0]}", remedy=_REMEDY)
    return rows


_REMEDY = "see zhiyin stream sql: another program wrote them, or another version of it"


def history_of_rows(user: str, rows: Iterable[Sequence[object]]) -> list[Event]:
    """Events of rows (HISTORY_EVENT) of a user, sorted by (time, seq)."""
    names = list(HISTORY_EVENT)
    places = [names.index(name) if name in names else -1 for name in EVENT_FIELDS]
    events = events_from_rows(tuple(user if place < 0 else row[place] for place in places) for row in rows)
    return sorted(events, key=lambda event: (event.time, event.seq))
