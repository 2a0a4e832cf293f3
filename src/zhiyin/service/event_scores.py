"""EventScores: what is counted of the events of all users, for lists of trending items and of co-visits."""

from __future__ import annotations

import dataclasses

from zhiyin.service.covisits import Covisits, EmbeddedCovisits, StreamedCovisits
from zhiyin.service.stream_reading import StreamReader
from zhiyin.service.trending import EmbeddedTrending, StreamedTrending, Trending
from zhiyin.service.version_view import View
from zhiyin.store.store import Store


@dataclasses.dataclass(frozen=True)
class EventScores:
    """Scores by events. One thread calls `update`, any number of threads read them."""

    trending: Trending
    covisits: Covisits

    @classmethod
    def of(cls, store: Store, reader: StreamReader | None) -> EventScores:
        """Of a store's log, computed here; with a reader, as streams compute them."""
        if reader is None:
            return cls(EmbeddedTrending(store), EmbeddedCovisits(store))
        return cls(StreamedTrending(store, reader), StreamedCovisits(reader))

    def update(self, view: View) -> None:
        """Take in what happened since the last update."""
        self.trending.update(view)
        self.covisits.update(view)
