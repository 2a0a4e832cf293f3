"""Caches of users: their columns, and their histories as arrays."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any

from cachetools import LRUCache

from zhiyin.service.user_history import UserHistory
from zhiyin.service.version_view import View
from zhiyin.store.live_state import Recent
from zhiyin.store.store import Store

# Users whose columns, and users whose histories, are cached.
MAX_USER_COLUMNS, MAX_HISTORIES = 100_000, 20_000


class UserCache:
    """Columns and histories of users, read once. Any number of threads may use it."""

    def __init__(self, store: Store) -> None:
        self._lock = threading.Lock()
        self._columns: LRUCache[str, dict[str, Any]] = LRUCache(MAX_USER_COLUMNS)
        self._histories: LRUCache[tuple[str, str], tuple[Any, int, list[Any], UserHistory]] = LRUCache(MAX_HISTORIES)
        # Grows whenever columns may have changed: what was read before is not cached.
        self._column_changes = 0
        self._forget_count = store.forget_count()

    def columns(self, user: str, read: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
        """Columns of a user, read where they are not cached."""
        with self._lock:
            columns, changes = self._columns.get(user), self._column_changes
        if columns is None:
            columns = read(user)
            with self._lock:
                if changes == self._column_changes:
                    self._columns[user] = columns
        return columns

    def history(self, view: View, user: str | None, session: str | None, recent: list[Recent]) -> UserHistory:
        """The history of a user, of a session, or of both; computed anew where events, items or the version changed.

        Parameters
        ----------
        recent: of the user and the session, those of them that are given, in this order.
        """
        events: Sequence[Any] = [one.events for one in recent]
        forgotten = recent[0].forgotten if user is not None else 0
        key = (user or "", session or "")
        with self._lock:
            entry = self._histories.get(key)
        if entry is not None:
            ids, cached_forgotten, cached_events, history = entry
            same_state = ids is view.ids and cached_forgotten == forgotten and len(cached_events) == len(events)
            if same_state and all(map(operator.is_, cached_events, events)):
                return history
        user_events = events[0] if user is not None else ()
        history = view.user_history(user, user_events, forgotten, events[-1] if session is not None else ())
        with self._lock:
            self._histories[key] = (view.ids, forgotten, list(events), history)
        return history

    def drop_columns(self, users: Collection[str] | None = None) -> None:
        """Forget columns of users, which have changed; None: of all."""
        with self._lock:
            self._column_changes += 1
            if users is None:
                self._columns.clear()
            else:
                for user in users:
                    self._columns.pop(user, None)

    def drop_histories(self) -> None:
        """Forget all histories: codes of items have changed."""
        with self._lock:
            self._histories.clear()

    def forget(self, user: str, forget_count: int) -> None:
        """Drop a user whom the store has just forgotten, as of a number of forgettings."""
        with self._lock:
            if forget_count == self._forget_count + 1:  # this user, and no other one that is still to be noticed
                self._forget_count = forget_count
            self._column_changes += 1
            self._columns.pop(user, None)
            for key in [key for key in self._histories if user in key]:
                del self._histories[key]

    def has_forgotten_since(self, forget_count: int) -> bool:
        """Whether another program has forgotten users since this cache was last told."""
        return forget_count != self._forget_count

    def forget_all(self, forget_count: int) -> None:
        """Drop all users, as of a number of forgettings."""
        with self._lock:
            self._forget_count = forget_count
            self._column_changes += 1
            self._columns.clear()
            self._histories.clear()
