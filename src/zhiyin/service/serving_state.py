"""What is true now: the version in use, what users have just done, what may be shown at this moment.

A user's history is what the version in use learned of them, and with it, in order of time, what the store holds of them
and the version has not learned.
Two threads keep a view at hand: one lays changed items over the version, one looks which version is in use.
"""

from __future__ import annotations

import dataclasses
import gc
import operator
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from zhiyin.core.errors import DataError
from zhiyin.core.run import log
from zhiyin.data.catalogue_schema import CatalogueSchema, describe
from zhiyin.data.type_names import TABLES
from zhiyin.pipeline.bundles import Bundle, Bundles
from zhiyin.service.feature_index_updater import FeatureIndexUpdater
from zhiyin.service.health_issues import HealthIssue, one_line_reason
from zhiyin.service.live_schema import LiveSchema, Rows
from zhiyin.service.trending import Trending
from zhiyin.service.version_selector import RULES_REMEDY, VersionSelector
from zhiyin.service.version_view import Columns, Loaded, NoVersionError, Past, View
from zhiyin.store.database import ChangeMarks, Store
from zhiyin.store.live_state import MAX_EVENTS_PER_USER, LiveState, Recent
from zhiyin.store.memory_state import MemoryState
from zhiyin.store.records import Event, columns

# Users whose columns, and whose histories as arrays, are held.
USERS, PASTS = 100_000, 20_000
# Seconds between two looks at which version is in use, and at what other processes changed.
LOOK = 0.5
# A view is made anew at most so often: this many times what the last one took. The rest of the time is for answers.
REST = 4.0


class ServingState:
    """The state of one shop; any number of threads may use it.

    Parameters
    ----------
    options: rules, variety and context, as `Loaded` takes them. weights: of kinds of events, as in `zhiyin.toml`.
    state: what users did lately; by default in this process's memory.
    several: other processes write to the store too: whether items changed is asked for each request.
    types: of columns, as the settings declare them. watch: follow what changes, by threads.

    Where no version can be used, `view` raises NoVersionError until one can; everything else works.
    """

    def __init__(
        self,
        bundles: Bundles,
        store: Store,
        options: dict[str, Any] | None = None,
        weights: dict[str, float] | None = None,
        *,
        state: LiveState | None = None,
        several: bool = False,
        types: CatalogueSchema | None = None,
        watch: bool = True,
    ) -> None:
        self.bundles, self.store, self.several = bundles, store, several
        self.options, self.weights = dict(options or {}), dict(weights or {})
        self.state = state or MemoryState()
        self.trending = Trending(store)
        # What else is to be looked at now and then.
        self.also: list[Callable[[View], None]] = []
        # Who hears, within the request that finds it out, that another process changed a table.
        self.noticed: dict[str, Callable[[], None]] = {}
        self._marks: ChangeMarks | None = None
        self._noticing = threading.RLock()
        self._users: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._user_changes = 0  # grows whenever columns of users may have changed: what was read before is not held
        self._pasts: OrderedDict[tuple[str, str], tuple[Any, int, Any, Past]] = OrderedDict()
        self._lock, self._taking, self._typing = threading.Lock(), threading.RLock(), threading.Lock()
        self._wake, self._stop = threading.Condition(), threading.Event()
        self._seq = {"items": 0, "users": 0}
        # Changes of items that no view has yet.
        self._pending: dict[str, Columns | None] = {}
        self._unreadable: dict[str, list[int]] = {"items": [], "users": []}
        self.versions = VersionSelector(bundles, lambda bundle: self.view_of(self.load(bundle)))
        self.serving: View | None = None
        self.index_updater: FeatureIndexUpdater | None = None
        self.loaded_at = time.time()
        self._seq["users"] = store.last_change("users")
        self._forgettings = store.forget_count()
        self.schemas = LiveSchema(store, types)
        self._begin()
        self._threads = [
            threading.Thread(target=self._lay, name="zhiyin-items", daemon=True),
            threading.Thread(target=self._watch, name="zhiyin-watch", daemon=True),
        ]
        for thread in self._threads if watch else ():
            thread.start()

    def close(self) -> None:
        self._stop.set()
        with self._wake:
            self._wake.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    # -- what users did ---------------------------------------------------------------------------------------------

    @property
    def now(self) -> View:
        """The view of this moment. Raises NoVersionError where there is none."""
        if self.serving is None:
            raise NoVersionError("no version can answer", file=self.bundles.folder, remedy="zhiyin train --budget 10m")
        return self.serving

    def view(self) -> View:
        """The view to answer by, with whatever other processes have hidden by now. Raises NoVersionError."""
        if self.several:
            self.catch_up()
        return self.now

    def catch_up(self) -> None:
        """Take in what other processes have committed by now: items, columns of users, types, who was forgotten, and
        what else `noticed` is told of, by table."""
        marks = self.store.change_marks()
        if marks == self._marks:
            return
        with self._noticing:
            if marks.items > self._seq["items"]:
                self.take_items()
            # Not by the version of `schemas`: whoever checks columns has it look, and makes no view.
            if self._marks is None or marks.catalogue_schema != self._marks.catalogue_schema:
                self.look_at_types()
            if marks.users > self._seq["users"]:
                self._take_users()
            if marks.forgettings != self._forgettings:
                self._forget_others()
            for table, notice in self.noticed.items():
                if self._marks is None or getattr(marks, table) != getattr(self._marks, table):
                    notice()
            self._marks = marks

    def _take_users(self) -> None:
        users, self._seq["users"] = self.store.changes_since(
            "users", self._seq["users"], unreadable=self._unreadable["users"]
        )
        self.changed("users", users)

    def load(self, bundle: Bundle) -> Loaded:
        """A version, to be served beside the store. Raises DataError where its files are not what was written."""
        bundle.verify()
        return Loaded(bundle, self.options, self.weights, self.store)

    def view_of(self, loaded: Loaded, until: int | None = None) -> tuple[View, int]:
        """A version under all changes of items, and the last of them. until: as of that change."""
        unreadable: list[int] = []
        changes, seq = self.store.changes_since("items", until=until, unreadable=unreadable)
        if until is None:
            self._unreadable["items"] = unreadable
        return View.of(loaded, changes, seq, self.types(loaded)), seq

    def types(self, loaded: Loaded | None = None) -> CatalogueSchema:
        """Types of all columns beside a version; None: the one in use."""
        return self.schemas.effective_types(
            self.learned_types if loaded is None else loaded.types, self.schemas.refresh()
        )

    @property
    def made(self) -> int:
        """When the version in use was made, microseconds UTC; 0 without one."""
        return 0 if self.serving is None else self.serving.loaded.made

    @property
    def learned_types(self) -> CatalogueSchema:
        """Types that the version in use has learned."""
        return CatalogueSchema() if self.serving is None else self.serving.loaded.types

    def accept(self, table: str, rows: Rows) -> tuple[dict[str, dict[str, Any] | None], dict[str, DataError]]:
        """Columns that are to be written as their types have them; see `LiveSchema.accept`."""
        before = self.schemas.refresh().version
        fit: dict[str, Columns | None] = {}
        wrong: dict[str, DataError] = {}
        for key, row in rows.items():
            try:
                fit[key] = None if row is None else columns(row)
            except DataError as error:
                wrong[key] = error
        right, unfit = self.schemas.accept(table, fit, self.learned_types)
        if self.schemas.stored.version != before:
            self.look_at_types()
        return right, wrong | unfit

    def past(self, view: View, user: str | None, session: str | None = None) -> Past:
        """What a user or a session, or both, did until now."""
        return self.lately(view, user, session)[0]

    def lately(
        self, view: View, user: str | None, session: str | None = None, window: float | None = None
    ) -> tuple[Past, dict[str, int]]:
        """`past`, and how often the user, or the session without one, was shown each item within so many seconds; {}
        where none are named."""
        session = None if session == user else session
        named = [name for name in (user, session) if name is not None]
        if window is None:
            found, shown = self.state.recent_and_showings(named, self._load)
        else:
            found, shown = self.state.recent_and_showings(named, self._load, named[0], window)
        return self._past(view, user, session, found), shown

    def _past(self, view: View, user: str | None, session: str | None, found: list[Recent]) -> Past:
        parts = [recent.events for recent in found]
        forgotten = found[0].forgotten if user is not None else 0
        key = (user or "", session or "")
        with self._lock:
            kept = self._pasts.get(key)
        if (
            kept is not None
            and kept[0] is view.ids
            and kept[1] == forgotten
            and len(kept[2]) == len(parts)
            and all(map(operator.is_, kept[2], parts))
        ):
            return kept[3]
        own = parts[0] if user is not None else ()
        past = view.past(user, own, forgotten, parts[-1] if session is not None else ())
        with self._lock:
            self._pasts[key] = (view.ids, forgotten, parts, past)
            self._pasts.move_to_end(key)
            while len(self._pasts) > PASTS:
                self._pasts.popitem(last=False)
        return past

    def _load(self, user: str) -> Recent:
        events, forgotten = self.store.recent_events(user, MAX_EVENTS_PER_USER)
        return Recent(tuple(events), forgotten)

    def heard(self, events: Sequence[Event]) -> None:
        """Events that the store has committed: they count in the very next answer."""
        self.state.add_events(events)

    def forget(self, user: str) -> None:
        """A user that the store has forgotten."""
        moment, number = self.store.forgotten_at(user), self.store.forget_count()
        self.state.forget(user, moment)
        with self._lock:
            if number == self._forgettings + 1:  # this one, and no other that is still to be noticed
                self._forgettings = number
            self._user_changes += 1
            self._users.pop(user, None)
            for key in [key for key in self._pasts if user in key]:
                del self._pasts[key]

    def _forget_others(self) -> None:
        """Whom another program has forgotten, `zhiyin forget` for one, is held no longer either."""
        number = self.store.forget_count()
        if number == self._forgettings:
            return
        self.state.forget_all(self.store.forgotten_by_hash().keys())
        with self._lock:
            self._forgettings = number
            self._user_changes += 1
            self._users.clear()
            self._pasts.clear()

    def not_forgotten(self, users: Sequence[str]) -> list[bool]:
        """Of users of the version, whether each may still be named."""
        return [moment < self.made or not moment for moment in self.store.forgotten_at_each(users)]

    def user_columns(self, user: str) -> dict[str, Any]:
        """Columns that the store knows of a user."""
        if not self._seq["users"]:
            return {}
        with self._lock:
            found, changes = self._users.get(user), self._user_changes
        if found is None:
            said = self.store.get("users", user)
            found = {} if said is None else self.types().fitting("users", said[0])[0]
            with self._lock:
                if changes == self._user_changes:
                    self._users[user] = found
                while len(self._users) > USERS:
                    self._users.popitem(last=False)
        return found

    # -- what may be shown ------------------------------------------------------------------------------------------

    def changed(self, table: str, things: Mapping[str, Columns | None]) -> None:
        """Items or users that this process has just committed."""
        if table == "users":
            with self._lock:
                self._seq["users"] = max(1, self._seq["users"]) if things else self._seq["users"]
                self._user_changes += 1
                for key in things:
                    self._users.pop(key, None)
        else:
            self.take_items()

    def take_items(self) -> None:
        """Changes of items since the last look: what is hidden is gone at once, what changed stays away until a view
        knows its new columns, a moment later."""
        with self._taking:
            if self.serving is None:
                return
            changes, seq = self.store.changes_since("items", self._seq["items"], unreadable=self._unreadable["items"])
            if not changes:
                self._seq["items"] = seq
                return
            self._seq["items"] = seq
            self._pending.update(changes)
            self.now.show(dict.fromkeys(changes, False))
        with self._wake:
            self._wake.notify_all()

    def _lay(self) -> None:
        """Lay changed items over the version, as soon as there are some and not all the time."""
        rest = 0.0
        while not self._stop.is_set():
            with self._wake:
                while not self._pending and not self._stop.is_set():
                    self._wake.wait(5.0)
            if self._stop.wait(rest):
                return
            try:
                begun = time.perf_counter()
                with self._taking:
                    changes, seq, view = dict(self._pending), self._seq["items"], self.now
                types = self.types(view.loaded)
                if types != view.schema and (view.unruled or _retyped(view.schema, types)):
                    fresh, seq = self.view_of(view.loaded)
                else:
                    fresh = view.after(changes, seq, types)
                with self._taking:
                    if self.serving is view:
                        self._take_up(fresh, changes)
                rest = min(LOOK, REST * (time.perf_counter() - begun))
            except Exception as error:  # what answers goes on answering, without the items that changed
                log.warning("service: items could not be taken up: %s", one_line_reason(error))
                rest = 5.0

    def _take_up(self, view: View, done: Mapping[str, Columns | None]) -> None:
        """The view from now on, but for what changed while it was made."""
        for key, said in done.items():
            if key in self._pending and self._pending[key] is said:
                del self._pending[key]
        view.show(dict.fromkeys(self._pending, False))
        if self.serving is None or view.ids is not self.serving.ids:
            with self._lock:
                self._pasts.clear()
        self.serving = view

    # -- which version ----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Other processes change the version in use, items and users: look now and then."""
        begun = False
        while not self._stop.wait(LOOK if begun else 0.0):
            begun = True
            try:
                if self.serving is None:
                    self._begin()
                if self.serving is None:
                    continue
                self.trending.look(self.now)
                self.take_items()
                self._forget_others()
                with self._noticing:
                    self._take_users()
                self.look_at_types()
                self._look_at_version()
                self.trending.look(self.now)
                if self.index_updater is not None:
                    self.index_updater.look(self.now)
                for look in self.also:
                    look(self.now)
            except Exception as error:  # what answers goes on answering
                log.warning("service: %s", error)

    def broken_by(self, declared: CatalogueSchema) -> dict[str, str]:
        """Rules of the house that can be used now and could not under other declared types, and why not, by name."""
        view = self.serving
        if view is None:
            return {}
        stored = dataclasses.replace(self.schemas.refresh(), declared=declared)
        changed = View.of(view.loaded, {}, 0, self.schemas.effective_types(view.loaded.types, stored), warm=False)
        return {name: why for name, why in changed.unruled.items() if name not in view.unruled}

    def _begin(self) -> None:
        """Answer by the version in use, or by another one that can; by none where none can."""
        chosen = self.versions.first(self.schemas.refresh().version)
        if chosen is not None:
            self._use(*chosen)

    def _use(self, view: View, seq: int) -> None:
        feed = FeatureIndexUpdater(self.store, view.loaded)
        feed.look(view)  # who is answered by the version finds it current
        self.index_updater = feed
        with self._taking:
            if seq >= self._seq["items"]:
                self._pending.clear()
                self._seq["items"] = seq
            self._take_up(view, {})
        self.loaded_at = time.time()

    def unfit_users(self) -> dict[str, list[str]]:
        """By column the users whose value of the store does not fit its type. Looks at all of them: it takes long."""
        rows, _ = self.store.changes_since("users", unreadable=self._unreadable["users"])
        found: dict[str, list[str]] = {}
        types = self.types()
        for key, row in rows.items():
            for column in types.fitting("users", row or {})[1]:
                found.setdefault(column, []).append(key)
        return found

    def unfit_column(self, table: str, column: str, keys: Collection[str]) -> HealthIssue:
        type, seq = self.types().type_of(table, column) or "text", self.store.last_change_of(table, min(keys))
        reason = f"of {len(keys):,} {table} the value is not {describe(type)}, first in change {seq}: it is null"
        remedy = f'send it again, or PUT /v1/schema {{"{table}": {{"{column}": "..."}}}}; ids: zhiyin doctor'
        return HealthIssue(f"{table}.{column}", reason, remedy)

    def unreadable(self, table: str) -> list[int]:
        """`seq` of the newest versions of items or users that are no columns and were not written again since."""
        seqs = self._unreadable[table]
        return [seq for seq in seqs if self.store.last_change_of(table, self.store.id_of_change(table, seq)) == seq]

    def health_issues(self) -> list[HealthIssue]:
        """All that is not used, and how it is mended."""
        view = self.serving
        found = self.versions.rejected
        if view is None:
            remedy = "zhiyin promote VERSION" if self.bundles.versions() and not found else "zhiyin train --budget 10m"
            found.append(HealthIssue("all lists", "no version can answer", remedy))
        else:
            shut = "nothing is shown until then" if view.closed else "lists are made without it"
            found += [HealthIssue(name if name.startswith("[") else f"[rules] {name}", f"{reason}: {shut}",
                                  RULES_REMEDY)
                      for name, reason in view.unruled.items() if name not in view.loaded.unreadable]  # fmt: skip
            found += [self.unfit_column("items", column, keys) for column, keys in sorted(view.unfit.items())]
        found += [
            HealthIssue(f"change {seq} of {table}", "it is no JSON object",
                     f"write it again: PUT /v1/{table}/ID; ids: zhiyin doctor")
            for table in TABLES for seq in self.unreadable(table)
        ]  # fmt: skip
        return found + [
            HealthIssue(f"type of {table}.{column}", "there is no such type",
                     f'PUT /v1/schema {{"{table}": {{"{column}": null}}}}')
            for table, column in self.schemas.stored.unusable
        ]  # fmt: skip

    def _look_at_version(self) -> None:
        """Take up the version that is named now. Where it cannot be used the one that serves goes on."""
        chosen = self.versions.replacement(self.now, self.schemas.stored.version)
        if chosen is None:
            return
        self._use(*chosen)
        gc.unfreeze()
        gc.collect()  # the version before, now and not in the middle of a request
        gc.freeze()
        log.info("service: version %d is in use", chosen[0].version)

    def look_at_types(self) -> None:
        """Other types of columns make another view."""
        with self._typing:
            if self.serving is not None:
                self._retype(self.serving)

    def _retype(self, view: View) -> None:
        types = self.types(view.loaded)
        if types == view.schema:
            return
        if view.unruled or _retyped(view.schema, types):
            fresh = self.view_of(view.loaded)[0]
        else:
            fresh = view.after({}, view.seq, types)
        if not fresh.unruled:
            self.versions.clear()
        with self._lock:
            self._user_changes += 1
            self._users.clear()
        with self._taking:
            if self.serving is view:
                self._take_up(fresh, {})

    @property
    def waiting_items(self) -> int:
        """Items that changed and are in no view yet."""
        return len(self._pending)


def _retyped(before: CatalogueSchema, after: CatalogueSchema) -> bool:
    """Whether a column has another type than before, or none: a view has to be made from the start."""
    return any(after.type_of(table, name) != type
               for table in TABLES for name, type in before.of_table(table).items())  # fmt: skip
