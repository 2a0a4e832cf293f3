"""Export of the store as segments: each event, and each item of each list, exactly once, in the order of commits.

    with SegmentExporter(store, folder, lambda: schema) as exporter:
        exporter.export()                      # all that is new
        exporter.run(stop, every=1.0)          # again and again, until `stop` is set

Writers of the store commit one after another, so whoever sees a sequence number sees all lower ones: an export goes on
from the last number that the names of segments cover, whatever clocks say. Users who were forgotten have no rows in
the store; if somebody is forgotten while a segment is written, it is written again without them.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl

from zhiyin.core.atomic_files import read_json, write_json
from zhiyin.core.errors import ConfigError, ZhiyinError, in_one_line
from zhiyin.core.file_locks import exclusive_lock
from zhiyin.core.run import Advance, log
from zhiyin.data.event_schema import EventSchema
from zhiyin.store.records import TIME_POLICY
from zhiyin.store.segment_files import (
    Segment,
    SegmentDraft,
    SegmentWriter,
    folder_errors,
    listed_segments,
    make_streams_folder,
)
from zhiyin.store.store import Store
from zhiyin.store.stream_definitions import EVENT_SEGMENT, IMPRESSION_SEGMENT, MAX_SEGMENT_ROWS

# Events, and lists, whose heads take kilobytes each, that are read at once.
EVENTS_PER_PAGE, LISTS_PER_PAGE = 100_000, 2_000
# Seconds between two looks for segments that can be deleted.
REMOVAL_SECONDS = 60.0
# Names of the files in the folder of streams that belong to the export.
LOCK_FILE, STORE_FILE = ".export.lock", "store.json"
KINDS = ("events", "impressions")
# Rows of a segment at most after somebody was forgotten while it was written, and after that again.
_SMALLER = 8
_EVENT_COLUMNS = tuple(name for name in EVENT_SEGMENT if name != "weight")


class SegmentExporter:
    """Exports a store to the folder of streams. One exporter a folder; it holds a lock until it is closed.

    Parameters
    ----------
    folder: of streams.
    schema: what events mean at the moment: asked once for each segment.
    keep: seconds after which segments are deleted that `applied` covers; None: they stay.
    applied: the last sequence number of events whose results are in the streamed state; None: all are taken to be.

    Raises LockHeldError where another exporter writes to the folder, and ConfigError where it belongs to another store
    or cannot be used, as `export` does.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        schema: Callable[[], EventSchema],
        keep: float | None = None,
        applied: Callable[[], int] | None = None,
        segment_rows: int = MAX_SEGMENT_ROWS,
    ) -> None:
        self._store, self._schema, self._keep = store, schema, keep
        self._applied = applied
        self._removal_due = float("-inf")
        self._segment_rows = segment_rows
        make_streams_folder(folder)
        with ExitStack() as held:
            held.enter_context(
                exclusive_lock(
                    folder / LOCK_FILE, "another exporter writes to this folder", "one is enough, as in zhiyin serve"
                )
            )
            self._record = folder / STORE_FILE
            written = _check_store(store, folder)
            self._events, self._lists = (SegmentWriter(folder, kind, written[kind]) for kind in KINDS)
            _warn_of_missing(folder, written)
            self._held = held.pop_all()
        # How far events and lists were looked at: some leave no rows.
        self._seen_events, self._seen_lists = self._events.last, self._lists.last
        self._is_failing = False

    def __enter__(self) -> SegmentExporter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock of the folder up."""
        self._held.close()

    @property
    def exported(self) -> int:
        """The last sequence number of events that segments cover."""
        return self._events.last

    def export(self, advance: Advance | None = None, stop: threading.Event | None = None) -> int:
        """Write all that is new to segments, and delete old ones. Returns the number of rows written.

        Parameters
        ----------
        advance: called with the rows of each segment.
        stop: once it is set no further segment is begun.
        """
        n_rows = 0
        for write in (self._next_events, self._next_impressions):
            while (stop is None or not stop.is_set()) and (segment := self._write(write)) is not None:
                n_rows += segment.rows
                if advance is not None:
                    advance(segment.rows, segment.kind)
        self._remove_old()
        return n_rows

    def run(self, stop: threading.Event, every: float, advance: Advance | None = None) -> None:
        """Export again and again until `stop` is set, with a pause of `every` seconds.

        A store that cannot be reached, a full disk, or a version that cannot be read is waited for; the first failure
        is logged.
        """
        while not stop.is_set():
            try:
                self.export(advance, stop)
                self._is_failing = False
            except (ZhiyinError, OSError) as error:
                if not self._is_failing:
                    log.warning("streams: nothing is exported for the moment: %s", in_one_line(error))
                self._is_failing = True
            stop.wait(every)

    def _write(self, write: Callable[[SegmentDraft, int], tuple[int, int]]) -> Segment | None:
        """Write the next segment; None where there is nothing new."""
        rows = self._segment_rows
        writer = self._events if write == self._next_events else self._lists
        while True:
            forget_count = self._store.forget_count()
            with writer.draft() as draft:
                last, n_rows = write(draft, rows)
                if n_rows == 0:
                    return None
                if self._store.forget_count() == forget_count:
                    segment = draft.commit(last, n_rows)
                    self._note_written()
                    return segment
            rows = max(1_000, rows // _SMALLER)  # is written again, sooner than somebody else is forgotten

    def _note_written(self) -> None:
        """Note up to where segments were written, for the case that they are removed."""
        numbers = {writer.kind: writer.last for writer in (self._events, self._lists)}
        with folder_errors(self._record.parent):
            write_json(self._record, {"identity": self._store.identity, **numbers})

    def _next_events(self, draft: SegmentDraft, max_rows: int) -> tuple[int, int]:
        """Write at most so many events. Returns the last sequence number that was looked at, and the number of rows."""
        after, n_rows = max(self._seen_events, self._events.last), 0
        schema: EventSchema | None = None
        while n_rows < max_rows:
            page = self._store.events(after, min(EVENTS_PER_PAGE, max_rows - n_rows), _EVENT_COLUMNS)
            if page.is_empty():
                break
            after = int(page["seq"][-1])
            page = page.filter(pl.col("time") >= TIME_POLICY.earliest)  # stores of older formats took any time
            schema = schema or self._schema()
            weights = pl.Series("weight", schema.weights(page["kind"], page["value"])).cast(pl.Float64)
            page.with_columns(weights).select(*EVENT_SEGMENT).write_ndjson(draft.file)
            n_rows += len(page)
        if n_rows == 0:
            self._seen_events = after
        return after, n_rows

    def _next_impressions(self, draft: SegmentDraft, max_rows: int) -> tuple[int, int]:
        """As `_next_events`, of the items of lists, by the numbers of lists; a list is never divided."""
        after, n_rows = max(self._seen_lists, self._lists.last), 0
        while n_rows < max_rows:
            page = self._store.numbered_lists(after, LISTS_PER_PAGE)
            if page.is_empty():
                break
            lists = page.drop("head").with_columns(items=_items_of_heads(page))
            ends = n_rows + lists["items"].list.len().cum_sum()
            fits = (ends <= max_rows) | ((n_rows == 0) & (ends == ends[0]))  # a first list always does
            lists = lists.filter(fits)
            if lists.is_empty():
                break
            rows = lists.filter(pl.col("items").list.len() > 0).explode("items")
            rows = rows.with_columns(slot=pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over("number"), item="items")
            rows = rows.with_columns(id=pl.concat_str("list_id", pl.lit(":"), "slot"))
            rows.select(*IMPRESSION_SEGMENT).write_ndjson(draft.file)
            n_rows += len(rows)
            after = int(lists["number"][-1])
            if not fits.all():
                break
        if n_rows == 0:
            self._seen_lists = after
        return after, n_rows

    def _remove_old(self) -> None:
        if self._keep is None or time.monotonic() < self._removal_due:
            return
        self._removal_due = time.monotonic() + REMOVAL_SECONDS
        n_removed = self._lists.remove_older(self._keep, self._lists.last)
        if self._events.has_older(self._keep):
            try:
                applied = self.exported if self._applied is None else self._applied()
                if self._events.oldest > applied + 1:  # histories cannot become complete: nothing is waited for
                    applied = self.exported
                n_removed += self._events.remove_older(self._keep, applied)
            except ZhiyinError as error:  # nothing is deleted before it is known to be applied
                log.debug("streams: no segment of events is deleted: %s", error)
        if n_removed:
            log.debug("streams: %d old segments were removed", n_removed)


def _items_of_heads(lists: pl.DataFrame) -> pl.Series:
    """The items of lists, in the order in which they were shown, by the heads of their traces."""
    head = pl.Struct({"items": pl.List(pl.String)})
    try:
        items = lists["head"].str.json_decode(head).struct.field("items")
    except pl.exceptions.PolarsError:  # of a head that is damaged nothing can be exported
        items = pl.Series(map(_items_of_head, lists["list_id"], lists["head"]), dtype=pl.List(pl.String))
    return items.fill_null([])


def _items_of_head(list_id: str, head: str) -> list[str]:
    try:
        return [str(item) for item in json.loads(head)["items"]]
    except (ValueError, KeyError, TypeError):
        log.warning("streams: the trace of list %s is damaged and is not exported", list_id)
        return []


def _check_store(store: Store, folder: Path) -> dict[str, int]:
    """Note whose segments a folder holds, under the lock. Returns by kind up to which number they were written.

    Raises ConfigError where they are those of another store.
    """
    path = folder / STORE_FILE
    remedy = (
        "name another folder under [streams], or empty this one and start the jobs anew: zhiyin stream start --fresh"
    )
    try:
        record: dict[str, Any] = read_json(path, remedy, names=("identity",))
    except FileNotFoundError:
        with folder_errors(folder):
            write_json(path, {"identity": store.identity})
        return dict.fromkeys(KINDS, 0)
    if record["identity"] != store.identity:
        raise ConfigError(
            "this folder holds the events of another store, or of an older one", file=folder, remedy=remedy
        )
    return {kind: number if isinstance(number := record.get(kind), int) else 0 for kind in KINDS}


def _warn_of_missing(folder: Path, written: dict[str, int]) -> None:
    """Warn where the newest segments that were written are not there any more."""
    for kind, last in written.items():
        if last > max((segment.last for segment in listed_segments(folder, kind)), default=0):
            log.warning(
                "streams: segments of %s up to number %d were removed, and are not written again since jobs may have "
                "read them; to compute all anew: zhiyin stream start --fresh", kind, last,
            )  # fmt: skip
