"""View: a version with the items of the store as they are now, which answers one request from beginning to end.

It lays changed columns, new items and hidden items of the store over a `LoadedVersion`. A view never changes but for
the mask of visible items; a new view replaces it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from zhiyin.data.catalogue import title_column
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.catalogue_values import is_hidden
from zhiyin.data.histories import Histories
from zhiyin.pipeline.answer_settings import hides_everything
from zhiyin.pipeline.answers import Answers
from zhiyin.service.catalogue_overlay import Columns, json_value, overlay_items
from zhiyin.service.loaded_version import LoadedVersion
from zhiyin.service.usable_answers import build_answers
from zhiyin.service.user_history import UserHistory
from zhiyin.service.warm_up import warm_up
from zhiyin.store.records import Event

# Words of a search that are used.
MAX_SEARCH_WORDS = 10


class View:
    """See the module.

    Parameters
    ----------
    hidden: ids of hidden and deleted items.
    seq: number of the last change of the store's items that the view holds.
    invalid_values: by column the items whose value in the store does not fit its type; it is null here.
    unusable_rules: rules of the settings that cannot be read or that this catalogue does not allow, with the reason, by
        name; see `pipeline.answer_settings.usable_rules`.

    Attributes
    ----------
    visible: bool[items], which items may be listed.
    context: training context of the model.
    title: column of the items' titles; None where there is none.
    """

    def __init__(
        self,
        loaded: LoadedVersion,
        answers: Answers,
        hidden: frozenset[str],
        seq: int,
        invalid_values: Mapping[str, frozenset[str]] | None = None,
        unusable_rules: Mapping[str, str] | None = None,
    ) -> None:
        self.loaded, self.answers, self.hidden, self.seq = loaded, answers, hidden, seq
        self.invalid_values, self.unusable_rules = dict(invalid_values or {}), dict(unusable_rules or {})
        self.version, self.context, self.ids = loaded.version, loaded.context, answers.ids
        self.visible = np.ones(len(self.ids), dtype=bool)
        self._hidden_codes = (self.visible, np.zeros(0, dtype=np.int32))
        self.set_visible(dict.fromkeys(hidden, False))
        self.title = title_column(answers.items)
        self._search_texts: pl.Series | None = None

    @classmethod
    def of(
        cls,
        loaded: LoadedVersion,
        changes: Mapping[str, Columns | None],
        seq: int,
        schema: CatalogueSchema | None = None,
        warm: bool = True,
    ) -> View:
        """The view of a version under all changes of items.

        Parameters
        ----------
        changes: columns by id; None: deleted.
        schema: types of the columns; None: as the version has learned them.
        warm: compile and read everything before the first request.
        """
        answers, unusable_rules = build_answers(loaded, schema or loaded.types)
        view = cls(loaded, answers, frozenset(), 0, unusable_rules=unusable_rules).with_changes(changes, seq)
        if warm:
            warm_up(view)
        return view

    def with_changes(
        self, changes: Mapping[str, Columns | None], seq: int, schema: CatalogueSchema | None = None
    ) -> View:
        """The view after more changes.

        Parameters
        ----------
        schema: with types of columns that no view had before; None: unchanged.
        """
        hidden = set(self.hidden)
        for key, columns in changes.items():
            if columns is None or is_hidden(columns):
                hidden.add(key)
            else:
                hidden.discard(key)
        if not changes:
            if schema is None or schema == self.schema:
                return self if seq == self.seq else self._copy(self.answers, hidden, seq, self.invalid_values)
            answers = self.answers.with_catalogue(self.answers.items, schema)
            return self._copy(answers, hidden, seq, self.invalid_values)
        schema = schema or self.schema
        items, new_invalid = overlay_items(self.answers.items, self.ids, self.loaded.items, changes, schema)
        invalid = {name: rest for name, keys in self.invalid_values.items() if (rest := keys - changes.keys())}
        for name, keys in new_invalid.items():
            invalid[name] = invalid.get(name, frozenset()).union(keys)
        return self._copy(self.answers.with_catalogue(items, schema), hidden, seq, invalid)

    def _copy(self, answers: Answers, hidden: Iterable[str], seq: int, invalid: Mapping[str, frozenset[str]]) -> View:
        return View(self.loaded, answers, frozenset(hidden), seq, invalid, self.unusable_rules)

    @property
    def shows_nothing(self) -> bool:
        """Whether nothing is listed, since a rule that says what may be listed cannot be used."""
        return hides_everything(self.unusable_rules)

    @property
    def schema(self) -> CatalogueSchema:
        """Types of the columns, as filters and rows have them."""
        return self.answers.schema

    # -- items --------------------------------------------------------------------------------------------------------

    def encode(self, raw: Sequence[str] | pl.Series) -> np.ndarray:
        """Codes of items by id as requests write it, new items among them; see `Ids.encode`."""
        return self.ids.encode(raw if isinstance(raw, pl.Series) else list(raw))

    def set_visible(self, items: Mapping[str, bool]) -> None:
        """Set whether items may be listed from now on."""
        if not items:
            return
        codes = self.encode(list(items))
        values = np.array(list(items.values()), dtype=bool)
        visible = self.visible.copy()  # a request that is under way keeps the old mask
        visible[codes[codes >= 0]] = values[codes >= 0]
        self.visible = visible

    def hidden_codes(self, visible: np.ndarray) -> np.ndarray:
        """int32: codes of the items that a mask of visible items excludes."""
        mask, codes = self._hidden_codes
        if mask is not visible:
            codes = np.flatnonzero(~visible).astype(np.int32)
            self._hidden_codes = (visible, codes)
        return codes

    def columns_of(self, raw: str) -> dict[str, Any] | None:
        """Columns of an item, NULLs left out; None for an unknown one."""
        code = int(self.encode([raw])[0])
        return None if code < 0 else self.row(code)

    def row(self, code: int, fields: Sequence[str] | None = None) -> dict[str, Any]:
        """Columns of an item by code, NULLs left out, in types of JSON."""
        items = self.answers.items
        names = items.columns if fields is None else [n for n in dict.fromkeys(fields) if n in items.columns]
        values = items.select(names).row(code, named=True) if names else {}
        return {name: json_value(value) for name, value in values.items() if value is not None and name != "id"}

    def search(self, words: str, k: int) -> np.ndarray:
        """Codes of the visible items whose title or id contains all words, the most popular first."""
        items = self.answers.items
        if self._search_texts is None:
            text = items["id"].cast(pl.String)
            if self.title is not None:
                text = (items[self.title].fill_null("") + "\n" + text).rename("text")
            self._search_texts = text.str.to_lowercase()
        mask = self.visible.copy()
        for word in words.lower().split()[:MAX_SEARCH_WORDS]:
            mask &= self._search_texts.str.contains(word, literal=True).to_numpy()
        rows = np.flatnonzero(mask)
        return rows[np.argsort(-self.answers.priority[rows], kind="stable")][:k]

    # -- histories ----------------------------------------------------------------------------------------------------

    def user_history(
        self, user: str | None, events: Sequence[Event], forgotten: int = 0, session: Sequence[Event] = ()
    ) -> UserHistory:
        """The learned history of a user with their new events, and with all events of a session.

        Parameters
        ----------
        events, session: events of the store, sorted as `Recent` has them.
        forgotten: when the user was forgotten, microseconds UTC. The learned history is left out if that was after the
            version was made.
        """
        loaded = self.loaded
        code = loaded.learned_user_code(user, forgotten)
        new, items = self.new_events(code, events)
        if session:
            others, other_items = self.new_events(-1, session)
            new, items = [*new, *others], np.concatenate([items, other_items])
            order = sorted(range(len(new)), key=lambda row: (new[row].time, new[row].seq))
            new, items = [new[row] for row in order], items[order]
        kinds, values = [event.kind for event in new], [event.value for event in new]
        history = self.history_with_events(
            code,
            items,
            np.array([event.time for event in new], dtype=np.int64),
            loaded.schema.weights(kinds, values),
            loaded.schema.codes(kinds),
            np.array([np.nan if value is None else value for value in values], dtype=np.float32),
        )
        return dataclasses.replace(history, seqs=np.array([event.seq for event in new], dtype=np.int64))

    def new_events(self, code: int, events: Sequence[Event]) -> tuple[list[Event], np.ndarray]:
        """Events that the version has not learned, and the codes of their items; see `LoadedVersion.new_events`."""
        if not events:
            return [], np.zeros(0, np.int32)
        items = self.ids.encode([event.item for event in events])
        new = self.loaded.new_events(code, events, items)
        return [events[row] for row in new.tolist()], items[new]

    def history_with_events(
        self,
        code: int,
        items: np.ndarray,
        times: np.ndarray,
        weights: np.ndarray,
        kinds: np.ndarray,
        values: np.ndarray,
    ) -> UserHistory:
        """The learned history of a user with new events.

        Parameters
        ----------
        code: code of the user; -1: unknown to the version.
        items: codes of the items, new items among them; -1: unknown.
        times, weights, kinds, values: of the events, sorted by time and arrival.
        """
        new_items = items[items >= len(self.context.item_ids)]
        items = self.answers.nearest_known_items(items)
        is_known = items >= 0
        tail = {
            "items": items[is_known].astype(np.int32),
            "weights": weights[is_known],
            "times": times[is_known],
            "kinds": kinds[is_known],
            "values": values[is_known],
        }
        return self.history_with_tail(code, tail, new_items)

    def history_with_tail(self, code: int, tail: dict[str, np.ndarray], new_items: np.ndarray) -> UserHistory:
        """The learned history of a user merged by time with a tail of new events; see `UserHistory`.

        At equal times the learned events come first, as in training.
        """
        learned = self.context.histories.take(np.array([code]))
        if not len(tail["items"]):
            return UserHistory(learned, code, tail, new_items)
        parts = {name: np.concatenate([getattr(learned, name), tail[name]]) for name in tail}
        if len(learned.times) and tail["times"][0] < learned.times[-1]:
            order = np.argsort(parts["times"], kind="stable")
            parts = {name: part[order] for name, part in parts.items()}
        now = self.loaded.clock()
        until = min(self.loaded.trained_until, self.loaded.schema.times.latest(now))
        history = Histories(
            np.array([0, len(parts["items"])], dtype=np.int64),
            **parts,
            now=np.array([max(now, until + 1)], dtype=np.int64),
            users=learned.users,
            features=learned.features,
        )
        return UserHistory(history, code, tail, new_items)
