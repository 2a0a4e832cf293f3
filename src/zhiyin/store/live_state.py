"""What users did and were shown a moment ago, at hand for the very next answer. The store stays the truth.

    state = MemoryState()
    state.recent("alice", load)               # the newest events; `load` asks the store where they are not at hand
    state.add_events(events)                       # what the store has just committed
    state.record_showings("alice", ["film 7"]); state.showing_counts("alice")     # {"film 7": 1}

One process: `MemoryState`. Several on one store: `RedisState`, or `DirectState`, which asks the store each time.
"""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Protocol

from zhiyin.store.records import Event, hash_of

# Events held of a user; showings counted of a user, the newest, and of all users in one process (some 0.1 KB each).
MAX_EVENTS_PER_USER, MAX_SHOWINGS_PER_USER, MAX_SHOWINGS = 500, 5_000, 1_000_000
# Seconds within which showings count where nothing else is asked for.
DAY_SECONDS = 86_400.0
# Names that sums are kept under.
MAX_TALLIES = 64
# Seconds that what was loaded may be used: then an import or a retention by another program is seen at the latest.
TTL_SECONDS = 900.0
# Seconds after a user was forgotten in which nothing of them is held: an event that was committed before and is heard
# only after must not come back to life.
GRACE_SECONDS = 60.0


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
        return Recent(tuple(sorted(merged, key=attrgetter("time", "seq"))), self.forgotten)

    def tidy(self) -> Recent:
        """Whatever was loaded, as `merged_with` would have it."""
        return Recent((), self.forgotten).merged_with(self.events)


class LiveState(ABC):
    """Any number of threads may use one. An event is heard after its commit, with its sequence number, and known by its
    id.

    waits: whether `add_events` may have to wait, for another machine say.
    """

    waits = True

    @abstractmethod
    def recent(self, user: str, load: Callable[[], Recent]) -> Recent:
        """The last events of a user: at hand, or by `load`, which reads the store. What `load` raises goes through.

        `load` may be called more than once: again where the user was forgotten meanwhile.
        """

    @abstractmethod
    def add_events(self, events: Sequence[Event]) -> None:
        """Events that the store has committed: every `recent` that begins after this knows them."""

    @abstractmethod
    def forget(self, user: str, moment: int) -> None:
        """A user that the store has forgotten at a moment, microseconds UTC: nothing of them is held any more."""

    @abstractmethod
    def forget_all(self, forgotten: Collection[str] | None = None) -> None:
        """Somebody was forgotten by another program, and it is not known who: no events are held of anyone any more.

        forgotten: `hash_of` all who were ever forgotten: showings of others stay; None: all are dropped.
        """

    @abstractmethod
    def record_showings(self, user: str, items: Sequence[str], window: float = DAY_SECONDS) -> None:
        """Items that a user is shown now; showings older than `window` seconds may be dropped.

        Not counted for GRACE_SECONDS after the user was forgotten, where that is known.
        """

    @abstractmethod
    def showing_counts(self, user: str, window: float = DAY_SECONDS) -> dict[str, int]:
        """How often each item was shown to a user within the last `window` seconds.

        Counts the newest MAX_SHOWINGS_PER_USER showings.
        """

    @abstractmethod
    def tally(self, name: str, more: Sequence[float], half_lives: Sequence[float]) -> list[float]:
        """Add to sums that all who share this state share, and give them as they are now.

        name: of the sums. more: added to each. half_lives: seconds after which what was added to each counts half.
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
        """Whether what is shared by others cannot be reached at the moment, or only slowly, and is done without."""
        return False

    @property
    @abstractmethod
    def users(self) -> int:
        """Of how many users events are at hand."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is held."""


class SharedShowings(Protocol):
    """How often users were shown items lately; see `Showings`."""

    def add(self, user: str, items: Sequence[str], window: float = DAY_SECONDS) -> None: ...
    def counts(self, user: str, window: float = DAY_SECONDS) -> dict[str, int]: ...
    def drop(self, user: str) -> None: ...
    def drop_hashes(self, forgotten: Collection[str]) -> None: ...
    def clear(self) -> None: ...
    def close(self) -> None: ...


class Showings:
    """What users were shown lately, in this process.

    Parameters
    ----------
    users, showings: held at most, of all users; who was shown nothing for the longest time goes first.
    clock: seconds.
    """

    def __init__(self, users: int, clock: Callable[[], float] = time.time, showings: int = MAX_SHOWINGS) -> None:
        self._most, self._showings, self._size = users, showings, 0
        self._clock, self._lock = clock, threading.Lock()
        self._of: OrderedDict[str, deque[tuple[float, str]]] = OrderedDict()

    def add(self, user: str, items: Sequence[str], window: float = DAY_SECONDS) -> None:
        if not items:
            return
        now = self._clock()
        with self._lock:
            held = self._of.setdefault(user, deque(maxlen=MAX_SHOWINGS_PER_USER))
            before = len(held)
            held.extend((now, sys.intern(item)) for item in items)
            while held and held[0][0] <= now - window:
                held.popleft()
            self._size += len(held) - before
            self._of.move_to_end(user)
            while len(self._of) > self._most or self._size > self._showings:
                self._drop(next(iter(self._of)))

    def counts(self, user: str, window: float = DAY_SECONDS) -> dict[str, int]:
        now = self._clock()
        with self._lock:  # what a clock that ran ahead dated into the future counts no more
            return dict(Counter(item for moment, item in self._of.get(user, ()) if now - window < moment <= now))

    def _drop(self, user: str) -> None:
        self._size -= len(self._of.pop(user, ()))

    def drop(self, user: str) -> None:
        with self._lock:
            self._drop(user)

    def drop_hashes(self, forgotten: Collection[str]) -> None:
        """Forget users by `hash_of` their ids."""
        with self._lock:
            users = list(self._of)
        for user in users:
            if hash_of(user) in forgotten:
                self.drop(user)

    def clear(self) -> None:
        with self._lock:
            self._of.clear()
            self._size = 0

    def close(self) -> None:
        self.clear()


class Tallies:
    """Sums that decay, in this process. Of at most MAX_TALLIES names; the one not asked for longest goes first."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._of: OrderedDict[str, tuple[float, list[float]]] = OrderedDict()

    def add(self, name: str, more: Sequence[float], half_lives: Sequence[float]) -> list[float]:
        now = self._clock()
        with self._lock:
            at, sums = self._of.pop(name, (now, [0.0] * len(more)))
            passed = max(0.0, now - at)
            sums = [total * 0.5 ** (passed / half) + part for total, part, half in zip(sums, more, half_lives)]
            self._of[name] = max(at, now), sums
            while len(self._of) > MAX_TALLIES:
                self._of.popitem(last=False)
        return list(sums)


@dataclass(slots=True)
class _Loading:
    """A user whose events are being loaded, by how many threads, and what happened since the first began."""

    loaders: int = 0
    forgets: int = 0
    heard: Recent = field(default_factory=Recent)


class MemoryState(LiveState):
    """In this process's memory: right where it alone writes to the store.

    Parameters
    ----------
    users, events: held at most; who was asked for longest ago goes first. An event takes some 0.4 KB.
    ttl: seconds that what was loaded may be used. clock: seconds; for tests.
    """

    waits = False

    def __init__(
        self,
        users: int = 100_000,
        events: int = 2_000_000,
        ttl: float = TTL_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._most, self._events, self._size, self._ttl = users, events, 0, ttl
        self._clock, self._lock = clock, threading.Lock()
        self._held: OrderedDict[str, tuple[Recent, float]] = OrderedDict()
        self._loading: dict[str, _Loading] = {}
        self._gone: OrderedDict[str, float] = OrderedDict()  # until when nothing is held of one forgotten
        self._showings, self._tallies = Showings(users, clock), Tallies(clock)

    def recent(self, user: str, load: Callable[[], Recent]) -> Recent:
        while True:
            with self._lock:
                held, until = self._held.get(user, (None, 0.0))
                if held is not None and self._clock() < until:
                    self._held.move_to_end(user)
                    return held
                self._drop(user)
                loading = self._loading.setdefault(user, _Loading())
                loading.loaders += 1
                before = loading.forgets
            try:
                loaded = load().tidy()
            except BaseException:
                with self._lock:
                    self._leave(user, loading)
                raise
            with self._lock:
                self._leave(user, loading)
                if loading.forgets == before:
                    return self._keep(user, loaded, loading)
            # Forgotten meanwhile: what was loaded may be from before.

    def _leave(self, user: str, loading: _Loading) -> None:
        loading.loaders -= 1
        if not loading.loaders:
            del self._loading[user]

    def _keep(self, user: str, loaded: Recent, loading: _Loading) -> Recent:
        """What was loaded and what was heard since; under the lock."""
        if self._is_gone(user):
            return loaded
        loaded = loaded.merged_with(loading.heard.events)
        self._drop(user)  # another thread may have been faster
        self._held[user] = loaded, self._clock() + self._ttl
        self._size += len(loaded.events)
        self._make_room()
        return loaded

    def _make_room(self) -> None:
        while len(self._held) > self._most or self._size > self._events:
            self._drop(next(iter(self._held)))

    def _drop(self, user: str) -> None:
        held, _ = self._held.pop(user, (Recent(), 0.0))
        self._size -= len(held.events)

    def add_events(self, events: Sequence[Event]) -> None:
        of: dict[str, list[Event]] = {}
        for event in events:
            of.setdefault(event.user, []).append(event)
        with self._lock:
            for user, new in of.items():
                if user in self._held:
                    held, until = self._held[user]
                    self._held[user] = more, _ = held.merged_with(new), until
                    self._size += len(more.events) - len(held.events)
                if user in self._loading:
                    loading = self._loading[user]
                    loading.heard = loading.heard.merged_with(new)
            self._make_room()

    def forget(self, user: str, moment: int) -> None:
        now = self._clock()
        with self._lock:
            self._drop(user)
            self._gone[user] = now + GRACE_SECONDS
            self._gone.move_to_end(user)
            while len(self._gone) > self._most or next(iter(self._gone.values())) <= now:
                self._gone.popitem(last=False)
            if user in self._loading:
                loading = self._loading[user]
                loading.forgets += 1
                loading.heard = Recent()
            self._showings.drop(user)

    def forget_all(self, forgotten: Collection[str] | None = None) -> None:
        with self._lock:
            self._held.clear()
            self._size = 0
            for loading in self._loading.values():
                loading.forgets += 1
                loading.heard = Recent()
            if forgotten is None:
                self._showings.clear()
        if forgotten is not None:
            self._showings.drop_hashes(forgotten)

    def _is_gone(self, user: str) -> bool:
        return self._gone.get(user, 0.0) > self._clock()

    def record_showings(self, user: str, items: Sequence[str], window: float = DAY_SECONDS) -> None:
        with self._lock:
            if not self._is_gone(user):
                self._showings.add(user, items, window)

    def showing_counts(self, user: str, window: float = DAY_SECONDS) -> dict[str, int]:
        return self._showings.counts(user, window)

    def tally(self, name: str, more: Sequence[float], half_lives: Sequence[float]) -> list[float]:
        return self._tallies.add(name, more, half_lives)

    @property
    def users(self) -> int:
        return len(self._held)

    def close(self) -> None:
        with self._lock:
            self._held.clear()
            self._size = 0
        self._showings.clear()


def state_name(store: str) -> str:
    """A name for the state of one store, the same on all machines: shops that share a Redis or a folder never meet."""
    return hashlib.sha256(store.encode()).hexdigest()[:24]


class DirectState(LiveState):
    """Holds no events: each `recent` asks the store. Right for several processes on one store without Redis.

    Sums are those of this process: where each process brings a group to a share of its own lists, the group has that
    share of all.

    Parameters
    ----------
    showings: where what users were shown is counted; None: in this process alone, and then with n processes behind one
        port a cap of c showings may let up to n × c through. `FileShowings` counts those of one machine together;
        those of several machines need `RedisState`.
    clock: seconds; for tests.
    """

    waits = False

    def __init__(self, showings: SharedShowings | None = None, clock: Callable[[], float] = time.time) -> None:
        self._showings = showings or Showings(100_000, clock)
        self._tallies = Tallies(clock)

    def recent(self, user: str, load: Callable[[], Recent]) -> Recent:
        return load().tidy()

    def add_events(self, events: Sequence[Event]) -> None:
        """Nothing to do: the store has them."""

    def forget(self, user: str, moment: int) -> None:
        self._showings.drop(user)

    def forget_all(self, forgotten: Collection[str] | None = None) -> None:
        if forgotten is None:
            self._showings.clear()
        else:
            self._showings.drop_hashes(forgotten)

    def record_showings(self, user: str, items: Sequence[str], window: float = DAY_SECONDS) -> None:
        self._showings.add(user, items, window)

    def showing_counts(self, user: str, window: float = DAY_SECONDS) -> dict[str, int]:
        return self._showings.counts(user, window)

    def tally(self, name: str, more: Sequence[float], half_lives: Sequence[float]) -> list[float]:
        return self._tallies.add(name, more, half_lives)

    @property
    def users(self) -> int:
        return 0

    def close(self) -> None:
        self._showings.close()
