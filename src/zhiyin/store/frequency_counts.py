"""Showings: how often each user was shown each item lately, counted in this process."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from zhiyin.store.bounded_cache import BoundedCache
from zhiyin.store.records import hash_of

# Showings counted of one user, the newest; and of all users in one process, some 0.1 KB each.
MAX_SHOWINGS_PER_USER, MAX_SHOWINGS = 5_000, 1_000_000
# Users whose showings are counted in one process.
MAX_USERS_WITH_SHOWINGS = 100_000
# Seconds within which showings count where nothing else is asked for.
DAY_SECONDS = 86_400.0


class SharedShowings(Protocol):
    """Counts of showings; see `Showings`."""

    def add(self, user: str, items: Sequence[str], window: float = DAY_SECONDS) -> None: ...
    def counts(self, user: str, window: float = DAY_SECONDS) -> dict[str, int]: ...
    def drop(self, user: str) -> None: ...
    def drop_hashes(self, forgotten: Collection[str]) -> None: ...
    def clear(self) -> None: ...
    def close(self) -> None: ...


class Showings:
    """Showings of this process. Any number of threads may use one.

    Parameters
    ----------
    users: users at most; who was shown nothing for the longest time goes first.
    clock: seconds.
    showings: of all users, at most.
    """

    def __init__(
        self,
        users: int = MAX_USERS_WITH_SHOWINGS,
        clock: Callable[[], float] = time.time,
        showings: int = MAX_SHOWINGS,
    ) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._by_user: BoundedCache[str, deque[tuple[float, str]]] = BoundedCache(users, showings, size_of=len)

    def add(self, user: str, items: Sequence[str], window: float = DAY_SECONDS) -> None:
        """Count items that a user is shown now; showings of the user from before `window` seconds are dropped."""
        if not items:
            return
        now = self._clock()
        with self._lock:
            entries = self._by_user.peek(user) or deque(maxlen=MAX_SHOWINGS_PER_USER)
            entries.extend((now, sys.intern(item)) for item in items)
            while entries and entries[0][0] <= now - window:
                entries.popleft()
            self._by_user[user] = entries

    def counts(self, user: str, window: float = DAY_SECONDS) -> dict[str, int]:
        """How often each item was shown to a user within the last `window` seconds."""
        now = self._clock()
        with self._lock:  # what a clock that ran ahead dated into the future does not count
            entries = self._by_user.peek(user) or ()
            return dict(Counter(item for shown_at, item in entries if now - window < shown_at <= now))

    def drop(self, user: str) -> None:
        """Forget a user."""
        with self._lock:
            self._by_user.pop(user, None)

    def drop_hashes(self, forgotten: Collection[str]) -> None:
        """Forget users by `hash_of` their ids."""
        with self._lock:
            users = list(self._by_user)
        for user in users:
            if hash_of(user) in forgotten:
                self.drop(user)

    def clear(self) -> None:
        """Forget all users."""
        with self._lock:
            self._by_user.clear()

    def close(self) -> None:
        """As `clear`."""
        self.clear()
