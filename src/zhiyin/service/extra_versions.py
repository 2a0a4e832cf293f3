"""Versions of the models that are served beside the one in use, since arms of experiments name them."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

from zhiyin.core.run import log
from zhiyin.service.feature_index_updater import FeatureIndexUpdater
from zhiyin.service.health_issues import HealthIssue, one_line_reason
from zhiyin.service.serving_state import CATCH_UP_SECONDS, ServingState
from zhiyin.service.version_view import View

# Each takes as much memory as the version in use.
MAX_EXTRA_VERSIONS = 2


@dataclasses.dataclass(eq=False)
class _Extra:
    """A loaded version. seq: changes of items up to it are in the view or in `pending`, whose items are hidden."""

    view: View
    seq: int
    index_updater: FeatureIndexUpdater
    pending: dict[str, Any] = dataclasses.field(default_factory=dict)


class ExtraVersions:
    """Loads versions in the background, and keeps their items as those of the version in use are.

    Parameters
    ----------
    wanted: the versions that are to be served; of more than MAX_EXTRA_VERSIONS the first.
    """

    def __init__(self, live: ServingState, wanted: Callable[[], list[int]]) -> None:
        self.live, self._wanted = live, wanted
        self._loaded: dict[int, _Extra] = {}
        self._failed: dict[int, HealthIssue] = {}
        self._lock = threading.RLock()
        self._loading: threading.Thread | None = None

    def ready(self, version: int) -> bool:
        """Whether lists can be made by a version now."""
        serving = self.live.serving
        return version in self._loaded or (serving is not None and serving.version == version)

    def view(self, version: int) -> View | None:
        """The present view of a version, in which changed items are hidden until their columns are in it; None: it is
        not loaded."""
        serving = self.live.serving
        if serving is not None and serving.version == version:
            return serving
        with self._lock:
            extra = self._loaded.get(version)
            if extra is None:
                return None
            if extra.seq < self.live.items_seq:
                self._read_changes(extra)
            return extra.view

    def update(self, serving: View | None = None) -> None:
        """Load what is wanted, drop what is not, lay changed items over the views, and keep their indexes current."""
        wanted = [version for version in self._wanted() if serving is None or version != serving.version]
        for version in wanted[MAX_EXTRA_VERSIONS:]:
            what = f"version {version} of an experiment"
            reason = f"at most {MAX_EXTRA_VERSIONS} versions are served beside the one in use"
            self._failed[version] = HealthIssue(what, reason, "end another experiment")
        wanted = wanted[:MAX_EXTRA_VERSIONS]
        with self._lock:
            for version in [version for version in self._loaded if version not in wanted]:
                del self._loaded[version]
            for version in [version for version in self._failed if version not in self._wanted()]:
                del self._failed[version]
            extras = list(self._loaded.values())
        for extra in extras:
            self._lay_items(extra)
            extra.index_updater.update(extra.view, CATCH_UP_SECONDS, beside=True)
        missing = [version for version in wanted if version not in self._loaded and version not in self._failed]
        if missing and (self._loading is None or not self._loading.is_alive()):
            self._loading = threading.Thread(target=self.load, args=(missing[0],), name="zhiyin-version", daemon=True)
            self._loading.start()

    def load(self, version: int) -> None:
        """Load a version; one that cannot be loaded is a health issue until it is no longer wanted."""
        try:
            loaded = self.live.load(self.live.bundles.get(version))
            view, seq = self.live.view_of(loaded)
            extra = _Extra(view, seq, FeatureIndexUpdater(self.live.store, loaded, self.live.snapshots))
            extra.index_updater.update(view, beside=True)
        except Exception as error:  # whatever is wrong with it, the version in use goes on
            entry = HealthIssue(f"version {version} of an experiment", one_line_reason(error), "zhiyin versions")
            self._failed[version] = entry
            log.warning("experiments: version %d is not served: %s", version, entry.reason)
            return
        with self._lock:
            self._loaded[version] = extra
        log.info("experiments: version %d is served beside the one in use", version)

    def health_issues(self) -> list[HealthIssue]:
        """Versions that experiments name and that are not served."""
        return list(self._failed.copy().values())

    def close(self) -> None:
        if self._loading is not None:
            self._loading.join()

    def _read_changes(self, extra: _Extra) -> None:
        """Hide items that have changed; the caller holds the lock."""
        changes, extra.seq = self.live.store.changes_since("items", extra.seq)
        extra.pending.update(changes)
        extra.view.set_visible(dict.fromkeys(changes, False))

    def _lay_items(self, extra: _Extra) -> None:
        """Make a view with the changed items and the present types."""
        with self._lock:
            self._read_changes(extra)
            changes, seq, view = dict(extra.pending), extra.seq, extra.view
        types = self.live.types(view.loaded)
        if types != view.schema:
            new_view, seq = self.live.view_of(view.loaded)
        elif changes:
            new_view = view.with_changes(changes, seq, types)
        else:
            return
        with self._lock:
            done = {key: row for key, row in changes.items() if extra.pending.get(key) is row}
            extra.pending = {key: row for key, row in extra.pending.items() if key not in done}
            new_view.set_visible(dict.fromkeys(extra.pending, False))
            extra.view = new_view
