"""Versions as they were at moments of the past: their views and feature indexes, moved on from list to list."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

from zhiyin.core.errors import ConfigError
from zhiyin.pipeline.rules import Rules
from zhiyin.ranking.live_index import IndexState, LiveIndex, live_index_of
from zhiyin.service.feature_index_updater import index_at, read_events
from zhiyin.service.loaded_version import LoadedVersion
from zhiyin.service.serving_state import ServingState
from zhiyin.service.version_view import View


class PastVersion:
    """A version under some settings, at moments of the past. Lists are asked for in the order of time, mostly: going
    forward costs what has changed since, going back begins anew.

    Parameters
    ----------
    live: whose store and versions are read.
    number: of the version.
    options: rules, variety and context, as `LoadedVersion` takes them; None: those of `live`.
    strict: a rule that cannot be used is an error.

    Raises DataError for a version that cannot be loaded.
    """

    def __init__(
        self, live: ServingState, number: int, options: Mapping[str, Any] | None = None, strict: bool = False
    ) -> None:
        self.live, self.number, self._strict = live, number, strict
        serving = live.serving
        loaded = serving.loaded if serving is not None and serving.version == number else None
        if loaded is None:
            loaded = live.load(live.bundles.get(number))
        self.loaded = loaded_with_options(loaded, options if options is not None else live.options)
        self._view: View | None = None
        self._index: LiveIndex | None = None
        self._index_ids: object = None

    def view_at(self, seq: int) -> View:
        """The view under the changes of items up to a sequence number. Raises ConfigError for unusable rules."""
        if self._view is not None and self._view.seq <= seq:
            if self._view.seq < seq:
                changes, _ = self.live.store.changes_since("items", self._view.seq, until=seq)
                self._view = self._view.with_changes(changes, seq)
        else:
            self._view, _ = self.live.view_of(self.loaded, until=seq, warm=False)
        view = self._view
        view.seq = seq
        if self._strict and view.unusable_rules:
            name, reason = next(iter(view.unusable_rules.items()))
            raise ConfigError(f"{name} cannot be used: {reason}", column=name, remedy="mend it in the settings")
        return view

    def index_at(self, view: View, seq: int) -> IndexState | None:
        """The feature index as of an event's sequence number; None where the version has none."""
        if self.loaded.index is None:
            return None
        if self._index is None or view.ids is not self._index_ids:  # events of items that had no code wait for it
            self._index_ids = view.ids
            self._index = LiveIndex(self.loaded.index.learned, self.loaded.index.learned_seq)
        if self._index.seq > seq:
            return index_at(self.live.store, view, seq)
        if self._index.seq < seq:
            events, count, _ = read_events(self.live.store, view, self._index.seq, seq)
            self._index.append(events, seq, count)
        with self._index.reading() as state:
            return state


def loaded_with_options(loaded: LoadedVersion, options: Mapping[str, Any]) -> LoadedVersion:
    """A loaded version under other rules, variety and context; the models are shared, the feature index is not."""
    other = copy.copy(loaded)
    options = dict(options)
    other.unreadable = dict(options.pop("unreadable", {}))
    other.options = {"rules": Rules(), **options}
    text = repr((other.options["rules"], sorted((name, str(value)) for name, value in options.items())))
    other.settings_digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    other.index = live_index_of(loaded.model, loaded.learned_seq)
    return other
