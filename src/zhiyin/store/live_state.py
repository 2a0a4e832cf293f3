"""Live state: what users did and were shown a moment ago, ready for the very next answer. The store stays the truth.

    state = MemoryState()
    state.recent("alice", load)               # the newest events; `load` reads the store where they are not held
    state.add_events(events)                  # what the store has just committed
    state.record_showings("alice", ["film 7"]); state.showing_counts("alice")     # {"film 7": 1}

For one process: `MemoryState`. For several on one store: `RedisState`, or `DirectState`, which reads the store each
time.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

from zhiyin.store.exploration_ledger import ExplorationLedger
from zhiyin.store.frequency_counts import DAY_SECONDS
from zhiyin.store.records import Event

MAX_EVENTS_PER_USER = 500
# Names of tallies.
MAX_TALLIES = 64
# Seconds that what was loaded may be used: an import or a retention by another program is seen by then at the latest.
TTL_SECONDS = 900.0
# Seconds after a user was forgotten in which nothing of the user is held: an event that was committed before, and is
# added only after, must not come back.
GRACE_SECONDS = 60.0
_time_and_seq = attrgetter("time", "seq")


@dataclass(frozen=True, slots=True)
class Recent:
    """The events of a user that arrived last.

    Parameters
    ----------
    events: at most MAX_EVENTS_PER_USER, those with the highest sequence numbers: a late event is as new as any other.
        Sorted by time; events of one time are in the order of arrival.
    forgotten: when the user was forgotten last, microseconds UTC; 0: never.
    """

    events: tuple[Event, ...] = ()
    forgotten: int = 0

    def merged_with(self, events: Iterable[Event]) -> Recent:
        """With more events, each id once."""
        by_id = {event.id: event for event in self.events}
        for event in events:
            by_id.setdefault(event.id, event)
        if len(by_id) == len(self.events):
            return self
        merged = list(by_id.values())
        if len(merged) > MAX_EVENTS_PER_USER:
            merged = sorted(merged, key=attrgetter("seq"))[-MAX_EVENTS_PER_USER:]
        return Recent(tuple(sorted(merged, key=_time_and_seq)), self.forgotten)

    def tidy(self) -> Recent:
        """Whatever was loaded, in the order and number that the class promises."""
        order = list(map(_time_and_seq, self.events))
        if (
            type(self.events) is tuple
            and len(order) <= MAX_EVENTS_PER_USER
            and order == sorted(order)
            and len({event.id for event in self.events}) == len(order)
        ):
            return self
        return Recent((), self.forgotten).merged_with(self.events)


class LiveState(ABC):
    """Recent events, showings and tallies by user. Any number of threads may use one.

    An event is added after its commit, with its sequence number, and counts once by its id.

    Attributes
    ----------
    waits: whether `add_events` may have to wait, such as for another machine.
    ledger: where what exploring costs is counted, beside the state; None: in its tallies and showings, which all share.
    """

    waits = True
    ledger: ExplorationLedger | None = None

    @abstractmethod
    def recent(self, user: str, load: Callable[[], Recent]) -> Recent:
        """The last events of a user: as held, or by `load`, which reads the store. What `load` raises goes through.

        `load` may be called more than once: again where the user was forgotten meanwhile.
        """

    @abstractmethod
    def add_events(self, events: Sequence[Event]) -> None:
        """Add events that the store has committed: every `recent` that begins after this returns them."""

    @abstractmethod
    def forget(self, user: str, time: int) -> None:
        """Drop a user whom the store has forgotten. time: when, microseconds UTC."""

    @abstractmethod
    def forget_all(self, forgotten: Collection[str] | None = None) -> None:
        """Drop the events of all users: another program has forgotten somebody, and it is not known whom.

        forgotten: `hash_of` all who were ever forgotten: showings of others stay; None: all are dropped.
        """

    @abstractmethod
    def record_showings(self, user: str, items: Sequence[str], window: float = DAY_SECONDS) -> None:
        """Count items that a user is shown now; showings older than `window` seconds may be dropped.

        Not counted for GRACE_SECONDS after the user was forgotten, where that is known.
        """

    @abstractmethod
    def showing_counts(self, user: str, window: float = DAY_SECONDS) -> dict[str, int]:
        """How often each item was shown to a user within the last `window` seconds.

        Counts the newest MAX_SHOWINGS_PER_USER showings.
        """

    @abstractmethod
    def tally(self, name: str, added: Sequence[float], half_lives: Sequence[float]) -> list[float]:
        """Add to sums that decay and that all who share this state share. Returns them as they are now.

        Parameters
        ----------
        name: of the sums.
        added: to each sum.
        half_lives: seconds after which what was added to each counts half.
        """

    def recent_and_showings(
        self,
        users: Sequence[str],
        load: Callable[[str], Recent],
        shown_to: str | None = None,
        window: float = DAY_SECONDS,
    ) -> tuple[list[Recent], dict[str, int]]:
        """`recent` of each user, and `showing_counts` of `shown_to` ({} for None), by one request to a shared state."""
        recents = [self.recent(user, partial(load, user)) for user in users]
        return recents, {} if shown_to is None else self.showing_counts(shown_to, window)

    @property
    def away(self) -> bool:
        """Whether the shared part cannot be reached at the moment, or only slowly, and is done without."""
        return False

    @property
    @abstractmethod
    def users(self) -> int:
        """The number of users whose events are held."""

    @abstractmethod
    def close(self) -> None:
        """Free what is held."""


def state_name(store: str) -> str:
    """A name for the state of a store, by its address, the same on all machines: shops that share a Redis or a folder
    never meet."""
    return hashlib.sha256(store.encode()).hexdigest()[:24]
