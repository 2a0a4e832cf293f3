"""LiveIndex: the feature index of the served version, which new events are added to while requests read it.

There are two copies of the recent events (left-right concurrency). Requests read the active copy; new events are added
to the other one, which then becomes the active one, and to the first copy once its readers have left. Readers never
wait and see a consistent state, identified by a sequence number of the log, from which features can be computed again.
What the version learned from its data is shared by both copies and never changes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator

import polars as pl

from zhiyin.ranking.asof import AsOf

# Events as an index takes them: items in codes, times in microseconds UTC.
NO_EVENTS = pl.DataFrame(
    schema={"item": pl.Int32, "time": pl.Int64, "kind": pl.String, "value": pl.Float64, "weight": pl.Float32}
)


@dataclasses.dataclass(frozen=True)
class IndexState:
    """A whole state of an index.

    Parameters
    ----------
    index: the index.
    seq: sequence number of the last event of the store's log that is in it.
    events: number of events of the log after the training data of the version, up to `seq`. Where the log has fewer
        now, some have been deleted, and the state cannot be computed again.
    """

    index: AsOf
    seq: int
    events: int


class LiveIndex:
    """See the module. One thread appends; any number of threads read.

    Parameters
    ----------
    index: the index of the version; it is not changed.
    seq: sequence number of the last event of the store's log that the version has learned from.
    """

    def __init__(self, index: AsOf, seq: int) -> None:
        self.learned, self.learned_seq = index, seq
        self._sides = [IndexState(index.branch(), seq, 0) for _ in range(2)]
        self._active = 0
        self._readers = [0, 0]
        self._left = threading.Condition()
        self._appending = threading.Lock()

    @property
    def seq(self) -> int:
        """Sequence number of the last event in the active copy."""
        return self._sides[self._active].seq

    @property
    def events(self) -> int:
        """Number of events of the log in the active copy after the training data of the version."""
        return self._sides[self._active].events

    @property
    def nbytes(self) -> int:
        """Bytes of both copies of the recent events."""
        return sum(side.index.recent.nbytes for side in self._sides)

    @contextlib.contextmanager
    def reading(self) -> Iterator[IndexState]:
        """The state of this moment, which stays as it is until the block is left."""
        with self._left:
            side = self._active
            self._readers[side] += 1
            state = self._sides[side]
        try:
            yield state
        finally:
            with self._left:
                self._readers[side] -= 1
                if not self._readers[side]:
                    self._left.notify_all()

    def append(self, events: pl.DataFrame, seq: int, count: int) -> None:
        """Hear of events, as `AsOf.append` takes them; `seq` is that of the last of them, and `count` their number in
        the log, events of unknown items included. Waits for requests that read the copy before last."""
        with self._appending:
            first = 1 - self._active
            self._append_to(first, events, seq, count)
            with self._left:
                self._active = first
            self._append_to(1 - first, events, seq, count)

    def _append_to(self, side: int, events: pl.DataFrame, seq: int, count: int) -> None:
        """Append to the copy that no new reader takes, once the last of its readers has left."""
        with self._left:
            self._left.wait_for(lambda: not self._readers[side])
        old = self._sides[side]
        old.index.append(events)
        self._sides[side] = IndexState(old.index, seq, old.events + count)

    def replace(self, events: pl.DataFrame, seq: int, count: int) -> None:
        """Know these events of the log and no others: after some were deleted."""
        rebuilt = self.learned.with_events(events)
        self.replace_by((rebuilt, rebuilt.branch()), seq, count)

    def replace_by(self, copies: tuple[AsOf, AsOf], seq: int, count: int) -> None:
        """Know the events of an index and no others; both copies hold the same, in memory of their own."""
        with self._appending:
            for number, index in enumerate(copies):
                with self._left:
                    side = 1 - self._active
                    self._left.wait_for(lambda: not self._readers[side])  # noqa: B023
                    self._sides[side] = IndexState(index, seq, count)
                    self._active = side if not number else self._active


def live_index_of(model: object, seq: int) -> LiveIndex | None:
    """The live index of a fitted model; None where no ranker reads one, or the log has no times.

    Parameters
    ----------
    seq: sequence number of the last event of the store's log that the model has learned.
    """
    builder = getattr(model, "builder_", None)
    if builder is None or not builder.index.has_times:
        return None
    return LiveIndex(builder.index, seq)
