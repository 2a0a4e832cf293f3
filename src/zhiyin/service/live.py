"""What is true now: the version in use, what users have just done, what may be shown at this moment.

A user's history is what the version in use learned of them, and after its last moment what the store has heard since.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.errors import DataError
from zhiyin.core.run import Run, log
from zhiyin.data.catalogue import Catalogue
from zhiyin.data.histories import Histories
from zhiyin.data.schema import default_weights, parse_weights, weigh
from zhiyin.pipeline.answers import Answers
from zhiyin.pipeline.bundles import Bundle, Bundles
from zhiyin.pipeline.rules import Rules
from zhiyin.store.database import Store
from zhiyin.store.records import Event

# Users whose new events are held in memory, and events of each.
USERS, EVENTS = 100_000, 500
# Seconds between two looks at which version is in use, and at the items of the store.
LOOK = 0.5


class InUse:
    """A version, ready to answer."""

    def __init__(self, bundle: Bundle, answers: dict[str, Any], weights: dict[str, float]) -> None:
        self.version, model = bundle.version, bundle.load()
        self.catalogue = Catalogue.load(bundle.folder) or Catalogue(pl.DataFrame(), pl.DataFrame())
        known = model._known()
        ids = pl.DataFrame({"id": known.item_ids.values})
        items = self.catalogue.items if "id" in self.catalogue.items.columns else ids
        users = self.catalogue.users if "id" in self.catalogue.users.columns else None
        self.answers = Answers(model, items, users, kinds=self.catalogue.kinds, run=Run(threads=1), **answers)
        self.known, self.until = known, int(known.window[1])
        self.made = int(datetime.fromisoformat(bundle.manifest["made"]).timestamp() * 1e6)
        self.shown = np.ones(len(known.item_ids), dtype=bool)
        self.kinds = list(self.catalogue.kinds)
        self.weights = parse_weights(weights or default_weights(self.kinds, False), self.kinds, "value")
        self._texts = known.item_ids.values.dtype == pl.String
        self._user_texts = known.user_ids.values.dtype == pl.String

    def item(self, raw: str) -> Any:
        """An id as the model knows it: a whole number where its ids are numbers."""
        return raw if self._texts else _number(raw)

    def user(self, raw: str) -> Any:
        return raw if self._user_texts else _number(raw)

    def show(self, things: Mapping[str, bool]) -> None:
        """Whether items may be shown from now on."""
        codes = self.known.item_ids.encode([self.item(key) for key in things])
        there = np.array(list(things.values()), dtype=bool)
        shown = self.shown.copy()  # who is reading goes on with the old one
        shown[codes[codes >= 0]] = there[codes >= 0]
        self.shown = shown

    def history(self, user: str | None, events: Sequence[Event], forgotten: int = 0) -> Histories:
        """What was learned of the user, and these events where they are later; one row. Of one forgotten since the
        version was made, the events alone."""
        code = self.known.user_ids.encode([self.user(user)])[0] if user is not None and forgotten < self.made else -1
        old = self.known.histories.take(np.array([code]))
        new = [event for event in events if event.time > self.until or code < 0]
        items = self.known.item_ids.encode([self.item(event.item) for event in new]) if new else np.zeros(0, np.int32)
        there = items >= 0
        if not there.any():
            return old
        kept = [event for event, known in zip(new, there) if known]
        kinds = pl.Series([event.kind for event in kept], dtype=pl.String)
        values = pl.Series([event.value for event in kept], dtype=pl.Float32)
        codes = {name: at for at, name in enumerate(self.kinds)}
        return Histories(
            np.array([0, len(old.items) + len(kept)], dtype=np.int64),
            np.concatenate([old.items, items[there].astype(np.int32)]),
            np.concatenate([old.weights, weigh(self.weights, kinds, values, len(kept))]),
            np.concatenate([old.times, np.array([event.time for event in kept], dtype=np.int64)]),
            np.concatenate([old.kinds, np.array([codes.get(event.kind, 0) for event in kept], dtype=np.uint8)]),
            np.concatenate([old.values, values.fill_null(float("nan")).to_numpy()]),
            np.array([max(time.time_ns() // 1000, self.until + 1)], dtype=np.int64),
            old.users,
            old.features,
        )


class Live:
    """The service's state; any number of threads may use it.

    Parameters
    ----------
    answers: rules, variety and context, as `Answers` takes them. weights: of kinds of events, as in `zhiyin.toml`.

    Raises DataError where no version is in use.
    """

    def __init__(
        self,
        bundles: Bundles,
        store: Store,
        answers: dict[str, Any] | None = None,
        weights: dict[str, float] | None = None,
    ) -> None:
        self.bundles, self.store = bundles, store
        self._answers, self._weights = dict(answers or {}), dict(weights or {})
        self._answers.setdefault("rules", Rules())
        # New events of users, and when each was forgotten last.
        self._recent: OrderedDict[str, tuple[list[Event], int]] = OrderedDict()
        self._lock, self._stop = threading.Lock(), threading.Event()
        # Of items only whether each may be shown, of users their columns: what a request asks for.
        self._shown: dict[str, bool] = {}
        self.users: dict[str, dict[str, Any] | None] = {}
        self._seen = {"items": 0, "users": 0}
        bundle = bundles.current
        if bundle is None:
            raise DataError("no version is in use", file=bundles.folder, remedy="zhiyin train --budget 10m")
        self.now = InUse(bundle, self._answers, self._weights)
        self._take_changes()
        self._thread = threading.Thread(target=self._watch, name="zhiyin-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    # -- what users did ---------------------------------------------------------------------------------------------

    def history(self, user: str) -> Histories:
        """Of a user by id, as of now."""
        return self.now.history(user, *self._events(user))

    def heard(self, events: Sequence[Event]) -> None:
        """Events that the store has committed: they count in the very next answer."""
        with self._lock:
            touched = {}
            for event in events:
                found = self._recent.get(event.user)
                if found is not None:
                    found[0].append(event)
                    touched[event.user] = found[0]
            for known in touched.values():
                known.sort(key=lambda e: e.time)
                del known[:-EVENTS]

    def forget(self, user: str) -> None:
        """A user that the store has forgotten."""
        with self._lock:
            self._recent.pop(user, None)
            self.users.pop(user, None)

    def _events(self, user: str) -> tuple[list[Event], int]:
        with self._lock:
            found = self._recent.get(user)
            if found is not None:
                self._recent.move_to_end(user)
                return list(found[0]), found[1]
        loaded = self.store.history(user, EVENTS), self.store.forgotten(user)
        with self._lock:
            known = self._recent.setdefault(user, loaded)
            while len(self._recent) > USERS:
                self._recent.popitem(last=False)
            return list(known[0]), known[1]

    # -- what may be shown ------------------------------------------------------------------------------------------

    def changed(self, table: str, things: Mapping[str, dict[str, Any] | None]) -> None:
        """Items or users that the store has committed: deleted items, and those with `hidden` true, are not shown."""
        with self._lock:
            if table == "users":
                self.users.update(things)
                return
            shown = {key: said is not None and said.get("hidden") is not True for key, said in things.items()}
            self._shown.update(shown)
            self.now.show(shown)

    def _take_changes(self) -> None:
        for table in ("items", "users"):
            found, self._seen[table] = self.store.all(table, self._seen[table])
            if found:
                self.changed(table, found)

    def _watch(self) -> None:
        """Other processes change the version in use and the items: look now and then."""
        while not self._stop.wait(LOOK):
            try:
                self._take_changes()
                bundle = self.bundles.current
                if bundle is not None and bundle.version != self.now.version:
                    fresh = InUse(bundle, self._answers, self._weights)
                    with self._lock:
                        fresh.show(self._shown)
                        self.now = fresh
                    log.info("service: version %d is in use", bundle.version)
            except Exception as error:  # what answers goes on answering
                log.warning("service: %s", error)


def _number(raw: str) -> Any:
    return int(raw) if raw.lstrip("-").isdecimal() and len(raw) < 19 else -(2**62)
