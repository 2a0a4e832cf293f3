"""Live states of one process: `MemoryState`, which holds events, and `DirectState`, which asks the store."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from zhiyin.core.errors import MissingExtraError
from zhiyin.store.bounded_cache import BoundedCache
from zhiyin.store.exploration_ledger import ExplorationLedger
from zhiyin.store.frequency_counts import DAY_SECONDS, SharedShowings, Showings
from zhiyin.store.live_state import GRACE_SECONDS, MAX_TALLIES, TTL_SECONDS, LiveState, Recent
from zhiyin.store.records import Event

try:
    import cachetools
except ImportError:
    raise MissingExtraError("cachetools", "serve", "the live state") from None


class Tallies:
    """Sums that decay, by name. Of more than MAX_TALLIES names the one not used for the longest time goes first."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock, self._lock = clock, threading.Lock()
        # When the sums were decayed last, seconds, and the sums as of then.
        self._by_name: cachetools.LRUCache[str, tuple[float, list[float]]] = cachetools.LRUCache(MAX_TALLIES)

    def add(self, name: str, added: Sequence[float], half_lives: Sequence[float]) -> list[float]:
        """See `LiveState.tally`."""
        now = self._clock()
        with self._lock:
            updated, sums = self._by_name.get(name) or (now, [0.0] * len(added))
            elapsed = max(0.0, now - updated)
            sums = [total * 0.5 ** (elapsed / half) + part for total, part, half in zip(sums, added, half_lives)]
            self._by_name[name] = max(updated, now), sums
        return list(sums)


class _ProcessState(LiveState):
    """Showings and tallies of this process, or of those that share `showings`; and of those that share `ledger`."""

    waits = False
    ledger: ExplorationLedger

    def __init__(
        self, showings: SharedShowings, clock: Callable[[], float], ledger: ExplorationLedger | None = None
    ) -> None:
        self._showings, self._tallies = showings, Tallies(clock)
        self.ledger = ledger or ExplorationLedger(clock=clock)

    @abstractmethod
    def _drop_events(self) -> None:
        """Hold no events any more."""

    def forget_all(self, forgotten: Collection[str] | None = None) -> None:
        self._drop_events()
        if forgotten is None:
            self._showings.clear()
            self.ledger.clear()
        else:
            self._showings.drop_hashes(forgotten)
            self.ledger.drop_hashes(forgotten)

    def record_showings(self, user: str, items: Sequence[str], window: float = DAY_SECONDS) -> None:
        self._showings.add(user, items, window)

    def showing_counts(self, user: str, window: float = DAY_SECONDS) -> dict[str, int]:
        return self._showings.counts(user, window)

    def tally(self, name: str, added: Sequence[float], half_lives: Sequence[float]) -> list[float]:
        return self._tallies.add(name, added, half_lives)

    def close(self) -> None:
        self._drop_events()
        self._showings.close()
        self.ledger.close()


@dataclass(slots=True)
class _Load:
    """A user whose events are being loaded: by how many threads, and what happened since the first began."""

    loaders: int = 0
    forgets: int = 0
    added: Recent = field(default_factory=Recent)


class MemoryState(_ProcessState):
    """Holds events in memory: right where this process alone writes to the store.

    Parameters
    ----------
    users, events: held at most; who was asked for longest ago goes first. An event takes some 0.4 KB.
    ttl: seconds that what was loaded may be used.
    clock: seconds; for tests.
    ledger: where what exploring costs is counted; None: in memory.
    """

    def __init__(
        self,
        users: int = 100_000,
        events: int = 2_000_000,
        ttl: float = TTL_SECONDS,
        clock: Callable[[], float] = time.time,
        ledger: ExplorationLedger | None = None,
    ) -> None:
        super().__init__(Showings(users, clock), clock, ledger)
        self._ttl, self._clock, self._lock = ttl, clock, threading.Lock()
        # Events by user, and until when they may be used.
        self._recent: BoundedCache[str, tuple[Recent, float]] = BoundedCache(
            users, events, size_of=lambda entry: len(entry[0].events)
        )
        self._loads: dict[str, _Load] = {}
        # Users who were forgotten, of whom nothing is held for a while.
        self._forgotten: cachetools.TTLCache[str, bool] = cachetools.TTLCache(users, GRACE_SECONDS, clock)

    def recent(self, user: str, load: Callable[[], Recent]) -> Recent:
        while True:
            with self._lock:
                recent, until = self._recent.get(user) or (None, 0.0)
                if recent is not None and self._clock() < until:
                    return recent
                self._recent.pop(user, None)
                running = self._loads.setdefault(user, _Load())
                running.loaders += 1
                forgets = running.forgets
            try:
                loaded = load().tidy()
            except BaseException:
                with self._lock:
                    self._end_load(user, running)
                raise
            with self._lock:
                self._end_load(user, running)
                if running.forgets == forgets:
                    return self._hold(user, loaded, running)
            # Forgotten meanwhile: what was loaded may be from before.

    def _end_load(self, user: str, running: _Load) -> None:
        running.loaders -= 1
        if not running.loaders:
            del self._loads[user]

    def _hold(self, user: str, loaded: Recent, running: _Load) -> Recent:
        """Hold what was loaded, with the events that were added since; under the lock."""
        if user in self._forgotten:
            return loaded
        loaded = loaded.merged_with(running.added.events)
        self._recent[user] = loaded, self._clock() + self._ttl
        return loaded

    def add_events(self, events: Sequence[Event]) -> None:
        by_user: dict[str, list[Event]] = {}
        for event in events:
            by_user.setdefault(event.user, []).append(event)
        with self._lock:
            for user, new in by_user.items():
                if (entry := self._recent.peek(user)) is not None:
                    self._recent[user] = entry[0].merged_with(new), entry[1]
                if user in self._loads:
                    running = self._loads[user]
                    running.added = running.added.merged_with(new)

    def forget(self, user: str, time: int) -> None:
        with self._lock:
            self._recent.pop(user, None)
            self._forgotten[user] = True
            if user in self._loads:
                running = self._loads[user]
                running.forgets += 1
                running.added = Recent()
            self._showings.drop(user)
        self.ledger.drop(user)

    def _drop_events(self) -> None:
        with self._lock:
            self._recent.clear()
            for running in self._loads.values():
                running.forgets += 1
                running.added = Recent()

    def record_showings(self, user: str, items: Sequence[str], window: float = DAY_SECONDS) -> None:
        with self._lock:
            if user not in self._forgotten:
                self._showings.add(user, items, window)

    @property
    def users(self) -> int:
        return len(self._recent)


class DirectState(_ProcessState):
    """Holds no events: each `recent` asks the store. Right for several processes on one store without Redis.

    Tallies are those of this process: where each process brings a group to a share of its own lists, the group has that
    share of all.

    Parameters
    ----------
    showings: where showings are counted; None: in this process alone, and then with n processes behind one port a cap
        of c showings may let up to n × c through. `FileShowings` counts those of one machine together; those of several
        machines need `RedisState`.
    clock: seconds; for tests.
    ledger: where what exploring costs is counted; None: in memory.
    """

    def __init__(
        self,
        showings: SharedShowings | None = None,
        clock: Callable[[], float] = time.time,
        ledger: ExplorationLedger | None = None,
    ) -> None:
        super().__init__(showings or Showings(clock=clock), clock, ledger)

    def recent(self, user: str, load: Callable[[], Recent]) -> Recent:
        return load().tidy()

    def add_events(self, events: Sequence[Event]) -> None:
        """Nothing to do: the store has them."""

    def forget(self, user: str, time: int) -> None:
        self._showings.drop(user)
        self.ledger.drop(user)

    def _drop_events(self) -> None:
        """None are held."""

    @property
    def users(self) -> int:
        return 0
