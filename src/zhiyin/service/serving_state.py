"""ServingState: the version in use with the present items, users and events of one shop.

A user's history is what the version in use has learned of them and, merged by time, what the store holds of them and
the version has not learned. Two threads keep a view ready: one lays changed items over the version, one watches which
version is in use and what other processes changed.
"""

from __future__ import annotations

import dataclasses
import gc
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from zhiyin.core.errors import DataError
from zhiyin.core.run import log
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.type_names import TABLES
from zhiyin.pipeline.model_versions import Bundle, Bundles
from zhiyin.service.catalogue_overlay import Columns
from zhiyin.service.event_scores import EventScores
from zhiyin.service.feature_index_updater import FeatureIndexUpdater
from zhiyin.service.feature_snapshot import FeatureSnapshots
from zhiyin.service.health_issues import HealthIssue, one_line_reason
from zhiyin.service.kernel_compilation import KernelCompiler
from zhiyin.service.live_schema import LiveSchema, Rows
from zhiyin.service.loaded_version import LoadedVersion, NoVersionError
from zhiyin.service.serving_issues import serving_issues
from zhiyin.service.stream_reading import StreamReader
from zhiyin.service.user_cache import UserCache
from zhiyin.service.user_history import UserHistory
from zhiyin.service.user_links import UserLinks, friend_columns
from zhiyin.service.version_loader import VersionLoader
from zhiyin.service.version_view import View
from zhiyin.store.live_state import MAX_EVENTS_PER_USER, LiveState, Recent
from zhiyin.store.memory_state import MemoryState
from zhiyin.store.records import Event, columns
from zhiyin.store.store import ChangeMarks, Store

# Seconds between two checks of the version in use and of what other processes changed.
POLL_SECONDS = 0.5
# Seconds that a start waits for the feature index to know of the events since training, and that each later check
# spends on them. The index of a version that replaces another one knows of all of them before.
START_CATCH_UP_SECONDS, CATCH_UP_SECONDS = 1.0, 0.5
# Pause after a new view, as a multiple of the time it took: the rest of the time is for requests.
PAUSE_FACTOR = 4.0
# Seconds without a change after which the thread of items checks whether it should end, and after a failure.
IDLE_SECONDS = 5.0


class ServingState:
    """The state of one shop; any number of threads may use it.

    Parameters
    ----------
    options: rules, variety and context, as `LoadedVersion` takes them.
    weights: weights of kinds of events, as in `zhiyin.toml`.
    state: recent events and showings of users; by default in this process's memory.
    several: whether other processes write to the store too: then each request asks for their changes.
    types: types of columns, as the settings declare them.
    streams: reads trending items, co-visits and recent histories that streams have computed; None: they are computed
        here, of the store.
    watch: follow changes, by threads.
    warm: compile and read everything before the first request, and have the feature index know of the store's events.
    compiler: compiles what a version needs, in another process; None: this one does.

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
        streams: StreamReader | None = None,
        watch: bool = True,
        warm: bool = True,
        compiler: KernelCompiler | None = None,
    ) -> None:
        self.bundles, self.store, self.several = bundles, store, several
        self.options, self.weights = dict(options or {}), dict(weights or {})
        self.state = state or MemoryState()
        self.streams = streams
        self.event_scores = EventScores.of(store, streams)
        # Called with the view every `POLL_SECONDS`.
        self.periodic_tasks: list[Callable[[View], None]] = []
        # By table: called within the request that notices that another process has changed it.
        self.table_listeners: dict[str, Callable[[], None]] = {}
        self._marks: ChangeMarks | None = None
        self._users = UserCache(store)
        self.links = UserLinks(store, self.not_forgotten)
        self._has_stored_links = store.last_link_change() > 0
        # Locks: taking in marks of other processes, pending items and the view, types.
        self._marks_lock, self._view_lock, self._types_lock = threading.RLock(), threading.RLock(), threading.Lock()
        self._wake, self._stop = threading.Condition(), threading.Event()
        self._seq = {"items": 0, "users": 0}
        # Changes of items that no view holds yet.
        self._pending: dict[str, Columns | None] = {}
        # By table: numbers of changes that are no JSON objects.
        self.unreadable: dict[str, list[int]] = {"items": [], "users": []}
        self.versions = VersionLoader(bundles, lambda bundle: self.view_of(self.load(bundle), warm=warm))
        # Without the watching thread nobody would add the rest later.
        self._start_seconds = 0.0 if not warm else START_CATCH_UP_SECONDS if watch else None
        self.serving: View | None = None
        self.index_updater: FeatureIndexUpdater | None = None
        # Without the watching thread nobody waits for answers.
        self._compiler = compiler
        self.snapshots = FeatureSnapshots(bundles, store, self.weights) if watch else None
        self.loaded_at = time.time()
        self._seq["users"] = store.last_change("users")
        self.schemas = LiveSchema(store, types)
        self._load_first_version()
        self._threads = [
            threading.Thread(target=self._lay_items, name="zhiyin-items", daemon=True),
            threading.Thread(target=self._watch, name="zhiyin-watch", daemon=True),
        ]
        for thread in self._threads if watch else ():
            thread.start()

    def close(self) -> None:
        self._stop.set()
        for other in (self._compiler, self.snapshots):  # nobody is to wait for their processes
            if other is not None:
                other.close()
        with self._wake:
            self._wake.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        if self.streams is not None:
            self.streams.close()

    # -- views --------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> View:
        """The present view. Raises NoVersionError where there is none."""
        if self.serving is None:
            raise NoVersionError("no version can answer", file=self.bundles.folder, remedy="zhiyin train --budget 10m")
        return self.serving

    def view(self) -> View:
        """The view to answer by, with what other processes have changed by now. Raises NoVersionError."""
        if self.several:
            self.catch_up()
        return self.now

    def catch_up(self) -> None:
        """Take in what other processes have committed: items, users, types, forgotten users; call `table_listeners`."""
        marks = self.store.change_marks()
        if marks == self._marks:
            return
        with self._marks_lock:
            if marks.items > self._seq["items"]:
                self.read_items()
            # Not by the version of `schemas`: checks of columns refresh it without making a view.
            if self._marks is None or marks.catalogue_schema != self._marks.catalogue_schema:
                self.refresh_types()
            if marks.users > self._seq["users"]:
                self._read_users()
            self._has_stored_links = self._has_stored_links or marks.links > 0
            if self._users.has_forgotten_since(marks.forgettings):
                self._drop_forgotten()
            for table, listener in self.table_listeners.items():
                if self._marks is None or getattr(marks, table) != getattr(self._marks, table):
                    listener()
            self._marks = marks

    def _read_users(self) -> None:
        users, self._seq["users"] = self.store.changes_since(
            "users", self._seq["users"], unreadable=self.unreadable["users"]
        )
        self.record_changes("users", users)

    def load(self, bundle: Bundle) -> LoadedVersion:
        """Load a version, to be served with the store. Raises DataError where its files are damaged."""
        bundle.verify()
        return LoadedVersion(bundle, self.options, self.weights, self.store)

    def view_of(self, loaded: LoadedVersion, until: int | None = None, warm: bool = True) -> tuple[View, int]:
        """The view of a version under all changes of items, and the number of the last of them.

        Parameters
        ----------
        until: leave out changes after this number.
        warm: compile and read everything before the first request.
        """
        unreadable: list[int] = []
        changes, seq = self.store.changes_since("items", until=until, unreadable=unreadable)
        if until is None:
            self.unreadable["items"] = unreadable
        if warm and self._compiler is not None:
            self._compiler.compile(loaded, beside=self.serving is not None)
        return View.of(loaded, changes, seq, self.types(loaded), warm), seq

    def types(self, loaded: LoadedVersion | None = None) -> CatalogueSchema:
        """Types of all columns that apply with a version; None: the one in use."""
        return self.schemas.effective_types(
            self.learned_types if loaded is None else loaded.types, self.schemas.refresh()
        )

    @property
    def version_created(self) -> int:
        """When the version in use was made, microseconds UTC; 0 without one."""
        return 0 if self.serving is None else self.serving.loaded.created

    @property
    def learned_types(self) -> CatalogueSchema:
        """Types that the version in use has learned."""
        return CatalogueSchema() if self.serving is None else self.serving.loaded.types

    def accept(self, table: str, rows: Rows) -> tuple[dict[str, dict[str, Any] | None], dict[str, DataError]]:
        """Rows that are to be written, converted to the types of their columns; see `LiveSchema.accept`."""
        version = self.schemas.refresh().version
        checked: dict[str, Columns | None] = {}
        errors: dict[str, DataError] = {}
        for key, row in rows.items():
            try:
                checked[key] = None if row is None else columns(row)
            except DataError as error:
                errors[key] = error
        valid, type_errors = self.schemas.accept(table, checked, self.learned_types)
        if self.schemas.stored.version != version:
            self.refresh_types()
        return valid, errors | type_errors

    # -- users --------------------------------------------------------------------------------------------------------

    def user_history(self, view: View, user: str | None, session: str | None = None) -> UserHistory:
        """The history of a user, of a session, or of both, up to now."""
        return self.history_and_showings(view, user, session)[0]

    def history_and_showings(
        self, view: View, user: str | None, session: str | None = None, window: float | None = None
    ) -> tuple[UserHistory, dict[str, int]]:
        """`user_history`, and how often each item was shown to the user, or to the session where no user is given.

        Parameters
        ----------
        window: seconds up to now that showings are counted in; None: they are not counted.
        """
        session = None if session == user else session
        names = [name for name in (user, session) if name is not None]
        if window is None:
            recent, showings = self.state.recent_and_showings(names, self._read_recent)
        else:
            recent, showings = self.state.recent_and_showings(names, self._read_recent, names[0], window)
        return self._users.history(view, user, session, recent), showings

    def _read_recent(self, user: str) -> Recent:
        streamed = None if self.streams is None else self.streams.history(user, self.store.clock())
        if streamed is None:
            return Recent(*self._stored_events(user))
        events, mark = streamed
        newer, forgotten = self._stored_events(user, mark)
        if forgotten:  # what streams have computed since may hold events of before
            return Recent(*self._stored_events(user))
        return Recent(newer, forgotten).merged_with(events)

    def _stored_events(self, user: str, after: int = 0) -> tuple[tuple[Event, ...], int]:
        """Events of a user after a sequence number, as `Recent` has them, and when the user was forgotten."""
        events, forgotten = self.store.recent_events(user, MAX_EVENTS_PER_USER, after)
        return tuple(events), forgotten

    def add_events(self, events: Sequence[Event]) -> None:
        """Take in events that the store has committed: they count in the very next answer."""
        self.state.add_events(events)

    def forget(self, user: str) -> None:
        """Drop a user whom the store has forgotten."""
        moment, forget_count = self.store.forgotten_at(user), self.store.forget_count()
        if self.streams is not None:
            self.streams.forget(self.store, user)
        self.state.forget(user, moment)
        self._users.forget(user, forget_count)

    def _drop_forgotten(self) -> None:
        """Drop users whom another program has forgotten, such as `zhiyin forget`."""
        forget_count = self.store.forget_count()
        if self._users.has_forgotten_since(forget_count):
            self.state.forget_all(self.store.forgotten_by_hash().keys())
            self._users.forget_all(forget_count)

    def not_forgotten(self, users: Sequence[str]) -> list[bool]:
        """Of users of the version, whether each may still be named."""
        return [moment < self.version_created or not moment for moment in self.store.forgotten_at_each(users)]

    def user_columns(self, user: str) -> dict[str, Any]:
        """Columns of a user in the store, and the user's links where there are any; see `friend_columns`."""
        columns = self._users.columns(user, self._read_user_columns) if self._seq["users"] else {}
        view = self.serving
        if self._has_stored_links or (view is not None and view.loaded.links is not None):
            return friend_columns(self.links, view, user) | columns
        return columns

    def put_links(self, links: Mapping[tuple[str, str], float | None]) -> int:
        """Write links, None to remove one: they count in the very next answer. Returns how many were changed."""
        n_changed = self.store.put_links(links)
        self._has_stored_links = self._has_stored_links or n_changed > 0
        return n_changed

    def request_columns(self, user: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
        """Columns of a user in the store, and those that a request gives over them, in their types."""
        kept = {} if user is None else self.user_columns(user)
        return kept | self.types().fitting("users", given)[0] if given else kept

    def _read_user_columns(self, user: str) -> dict[str, Any]:
        row = self.store.get("users", user)
        return {} if row is None else self.types().fitting("users", row[0])[0]

    # -- items --------------------------------------------------------------------------------------------------------

    def record_changes(self, table: str, rows: Mapping[str, Columns | None]) -> None:
        """Take in items or users that were just committed."""
        if table == "users":
            self._seq["users"] = max(1, self._seq["users"]) if rows else self._seq["users"]
            self._users.drop_columns(rows.keys())
        else:
            self.read_items()

    def read_items(self) -> None:
        """Read changes of items since the last time. Changed items stay hidden until a view holds their new columns."""
        with self._view_lock:
            if self.serving is None:
                return
            changes, seq = self.store.changes_since("items", self._seq["items"], unreadable=self.unreadable["items"])
            self._seq["items"] = seq
            if not changes:
                return
            self._pending.update(changes)
            self.now.set_visible(dict.fromkeys(changes, False))
        with self._wake:
            self._wake.notify_all()

    def _lay_items(self) -> None:
        """Make a view with the changed items, as soon as there are some and not all the time."""
        pause = 0.0
        while not self._stop.is_set():
            with self._wake:
                while not self._pending and not self._stop.is_set():
                    self._wake.wait(IDLE_SECONDS)
            if self._stop.wait(pause):
                return
            try:
                begun = time.perf_counter()
                with self._view_lock:
                    changes, seq, view = dict(self._pending), self._seq["items"], self.now
                types = self.types(view.loaded)
                if self._needs_rebuild(view, types):
                    new_view, seq = self.view_of(view.loaded)
                else:
                    new_view = view.with_changes(changes, seq, types)
                with self._view_lock:
                    if self.serving is view:
                        self._set_view(new_view, changes)
                pause = min(POLL_SECONDS, PAUSE_FACTOR * (time.perf_counter() - begun))
            except Exception as error:  # the serving view goes on answering, without the items that changed
                log.warning("service: items could not be taken up: %s", one_line_reason(error))
                pause = IDLE_SECONDS

    @staticmethod
    def _needs_rebuild(view: View, types: CatalogueSchema) -> bool:
        """Whether other types of columns need a view that is made from the start, since old values change with them."""
        return types != view.schema and (bool(view.unusable_rules) or _changes_types(view.schema, types))

    def _set_view(self, view: View, done: Mapping[str, Columns | None]) -> None:
        """Serve a view; items that changed while it was made are hidden.

        Parameters
        ----------
        done: changes that the view holds.
        """
        for key, row in done.items():
            if key in self._pending and self._pending[key] is row:
                del self._pending[key]
        view.set_visible(dict.fromkeys(self._pending, False))
        if self.serving is None or view.ids is not self.serving.ids:
            self._users.drop_histories()
        self.serving = view

    @property
    def items_seq(self) -> int:
        """Number of the last change of items that was read."""
        return self._seq["items"]

    @property
    def waiting_items(self) -> int:
        """Changed items that no view holds yet."""
        return len(self._pending)

    # -- the version in use -------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Check now and then what other processes have changed: the version in use, items, users, types."""
        pause = 0.0
        while not self._stop.wait(pause):
            pause = POLL_SECONDS
            try:
                if self.streams is not None:
                    self.streams.poll()
                if self.serving is None:
                    self._load_first_version()
                if self.serving is None:
                    continue
                self.event_scores.update(self.now)
                self.read_items()
                self._drop_forgotten()
                with self._marks_lock:
                    self._read_users()
                self.refresh_types()
                self._replace_version()
                self.event_scores.trending.update(self.now)
                if self.index_updater is not None:
                    self.index_updater.update(self.now, CATCH_UP_SECONDS, beside=True)
                for task in self.periodic_tasks:
                    task(self.now)
            except Exception as error:  # the serving view goes on answering
                log.warning("service: %s", error)

    def rules_broken_by(self, declared: CatalogueSchema) -> dict[str, str]:
        """Rules of the settings that other declared types would make unusable, with the reason, by name."""
        view = self.serving
        if view is None:
            return {}
        stored = dataclasses.replace(self.schemas.refresh(), declared=declared)
        types = self.schemas.effective_types(view.loaded.types, stored)
        changed = View.of(view.loaded, {}, 0, types, warm=False)
        return {name: why for name, why in changed.unusable_rules.items() if name not in view.unusable_rules}

    def _load_first_version(self) -> None:
        """Serve the version in use, or another one that can answer; none where none can."""
        chosen = self.versions.first(self.schemas.refresh().version)
        if chosen is not None:
            self._serve_version(*chosen, seconds=self._start_seconds)

    def _serve_version(self, view: View, seq: int, seconds: float | None = None) -> None:
        """Serve a view of a version whose feature index knows of the store's events.

        Parameters
        ----------
        seconds: for how long events are added before; None: until all are.
        """
        index_updater = FeatureIndexUpdater(self.store, view.loaded, self.snapshots)
        index_updater.update(view, seconds, beside=self.serving is not None)
        self.index_updater = index_updater
        with self._view_lock:
            if seq >= self._seq["items"]:
                self._pending.clear()
                self._seq["items"] = seq
            self._set_view(view, {})
        self.loaded_at = time.time()

    def _replace_version(self) -> None:
        """Serve the version that is in use now; where it cannot be used, the serving one goes on."""
        chosen = self.versions.replacement(self.now, self.schemas.stored.version)
        if chosen is None:
            return
        self._serve_version(*chosen)
        gc.unfreeze()
        gc.collect()  # the version before, now and not in the middle of a request
        gc.freeze()
        log.info("service: version %d is in use", chosen[0].version)

    def refresh_types(self) -> None:
        """Make a view with the present types of columns, where they have changed."""
        with self._types_lock:
            if self.serving is not None:
                self._retype(self.serving)

    def _retype(self, view: View) -> None:
        types = self.types(view.loaded)
        if types == view.schema:
            return
        if self._needs_rebuild(view, types):
            new_view = self.view_of(view.loaded)[0]
        else:
            new_view = view.with_changes({}, view.seq, types)
        if not new_view.unusable_rules:
            self.versions.clear()
        self._users.drop_columns()
        with self._view_lock:
            if self.serving is view:
                self._set_view(new_view, {})

    def health_issues(self) -> list[HealthIssue]:
        """All that is not used, with the remedies."""
        index_issues = [] if self.index_updater is None else self.index_updater.health_issues()
        return [*serving_issues(self), *index_issues, *([] if self.streams is None else self.streams.health_issues())]


def _changes_types(before: CatalogueSchema, after: CatalogueSchema) -> bool:
    """Whether a column has another type than before, or none."""
    return any(after.type_of(table, name) != type
               for table in TABLES for name, type in before.of_table(table).items())  # fmt: skip
