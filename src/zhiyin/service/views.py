"""A version with the items as they are now: what one request is answered by, from its beginning to its end.

`Loaded` is a version from disk. A `View` lays the items of the store over it: changed columns, new items, what is
hidden. A view is never changed but for what it shows; a new one takes its place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.errors import ZhiyinError
from zhiyin.core.run import Run
from zhiyin.data.catalogue import Catalogue, title_column
from zhiyin.data.histories import Histories
from zhiyin.data.schema import KIND_WEIGHTS, parse_weights, weigh
from zhiyin.pipeline.answers import Answers
from zhiyin.pipeline.bundles import Bundle
from zhiyin.pipeline.frames import aligned, fitting
from zhiyin.pipeline.request import Request
from zhiyin.pipeline.rules import Rules
from zhiyin.service.index_feed import live_index
from zhiyin.store.records import Event

HIDDEN = "hidden"
# Columns of a new item at most; names beyond are not looked at.
Columns = Mapping[str, Any]


class Loaded:
    """A version from disk.

    Parameters
    ----------
    options: rules, variety and context, as `Answers` takes them. weights: of kinds of events, as in `zhiyin.toml`.
    """

    def __init__(self, bundle: Bundle, options: dict[str, Any], weights: dict[str, float]) -> None:
        self.version, self.model = bundle.version, bundle.load()
        self.options = {"rules": Rules(), **options}
        self.known = self.model._known()
        catalogue = Catalogue.load(bundle.folder) or Catalogue(pl.DataFrame(), pl.DataFrame())
        ids = pl.DataFrame({"id": self.known.item_ids.values})
        self.items = aligned(catalogue.items, ids["id"]) if "id" in catalogue.items.columns else ids
        self.users = catalogue.users if "id" in catalogue.users.columns else None
        self.kinds = list(catalogue.kinds)
        self.until = int(self.known.window[1])
        self.made = int(datetime.fromisoformat(bundle.manifest["made"]).timestamp() * 1e6)
        named = [*self.kinds, *(text for text in weights if text not in self.kinds)]
        self._weights = parse_weights(weights, named, "value") if weights else None
        self._codes = {name: at for at, name in enumerate(self.kinds)}
        # What lists depend on besides the version: a list can be replayed while this is the same.
        said = repr((self.options["rules"], sorted((k, str(v)) for k, v in options.items()), sorted(weights.items())))
        self.house = hashlib.sha256(said.encode()).hexdigest()[:16]
        self.index = live_index(self.model, int(bundle.manifest["data"].get("seq", 0)))
        self.item_texts = self.known.item_ids.dtype == pl.String
        self.user_texts = self.known.user_ids.dtype == pl.String

    def item(self, raw: str) -> Any:
        """An id as the model knows it: a whole number where its ids are numbers."""
        return raw if self.item_texts else _number(raw)

    def user(self, raw: str) -> Any:
        return raw if self.user_texts else _number(raw)

    def learned(self, user: str | None, forgotten: int) -> int:
        """Code of a user of whom the version has learned and may know; -1: none."""
        if user is None or forgotten >= self.made:
            return -1
        return int(self.known.user_ids.encode([self.user(user)])[0])

    def weights(self, kinds: pl.Series, values: pl.Series) -> np.ndarray:
        """float32: what events are worth, as in training."""
        if self._weights is None:
            usual = kinds.str.to_lowercase().replace_strict(KIND_WEIGHTS, default=1.0, return_dtype=pl.Float32)
            return usual.to_numpy()
        return weigh(self._weights, kinds, values.cast(pl.Float32), len(kinds))

    def worth(self, events: Sequence[Event]) -> np.ndarray:
        """float32: what events are worth, as in training; of a kind that training never saw, what is usual."""
        if self._weights is None:
            found = [KIND_WEIGHTS.get(event.kind.lower(), 1.0) for event in events]
            return np.array(found, dtype=np.float32)
        kinds = pl.Series([event.kind for event in events], dtype=pl.String)
        return weigh(self._weights, kinds, pl.Series([e.value for e in events], dtype=pl.Float32), len(events))

    def kind_codes(self, names: Sequence[str]) -> np.ndarray:
        return np.array([self._codes.get(name, 0) for name in names], dtype=np.uint8)


@dataclasses.dataclass(frozen=True)
class Past:
    """What one request knows of what was done.

    Parameters
    ----------
    history: one row, in codes of the model. code: of the user in the version; -1: not in it.
    tail: events after the version's, as arrays: items, weights, times, kinds, values.
    seen: codes of new items among them.
    """

    history: Histories
    code: int
    tail: dict[str, np.ndarray]
    seen: np.ndarray


class View:
    """See the module. `seq`: the last change of the store's items that is in it."""

    def __init__(self, loaded: Loaded, answers: Answers, hidden: frozenset[str], seq: int) -> None:
        self.loaded, self.answers, self.hidden, self.seq = loaded, answers, hidden, seq
        self.version, self.known, self.ids = loaded.version, loaded.known, answers.ids
        self.shown = np.ones(len(self.ids), dtype=bool)
        self._away = (self.shown, np.zeros(0, dtype=np.int32))
        self.show(dict.fromkeys(hidden, False))
        self.title = title_column(answers.items)
        self._titles: pl.Series | None = None

    @classmethod
    def of(cls, loaded: Loaded, changes: Mapping[str, Columns | None], seq: int) -> View:
        """A version under changes of items, in the order they came."""
        answers = Answers(loaded.model, loaded.items, loaded.users, kinds=tuple(loaded.kinds), run=Run(threads=1),
                          **loaded.options)  # fmt: skip
        view = cls(loaded, answers, frozenset(), 0).after(changes, seq)
        view.warm()
        return view

    def warm(self, explain: bool = False) -> None:
        """Have compiled and read what is only when it is needed first, before someone waits for it."""
        for variety in ("none", "mmr"):
            with contextlib.suppress(ZhiyinError):
                self.answers.ask(Request(k=10, diversity=variety, explain=explain))

    def after(self, changes: Mapping[str, Columns | None], seq: int) -> View:
        """The view after more changes."""
        hidden = set(self.hidden)
        for key, said in changes.items():
            if said is None or said.get(HIDDEN) is True:
                hidden.add(key)
            else:
                hidden.discard(key)
        if not changes:
            return self if seq == self.seq else View(self.loaded, self.answers, frozenset(hidden), seq)
        items = _overlaid(self.answers.items, self.ids, self.loaded, changes)
        return View(self.loaded, self.answers.replaced(items), frozenset(hidden), seq)

    def item(self, raw: str) -> Any:
        return self.loaded.item(raw)

    def user(self, raw: str) -> Any:
        return self.loaded.user(raw)

    def encode(self, raw: Sequence[str]) -> np.ndarray:
        """Codes of items by id, new ones among them."""
        return self.ids.encode([self.item(key) for key in raw] if self.loaded.item_texts else self._numbers(raw))

    def encode_many(self, raw: pl.Series) -> np.ndarray:
        """As `encode`, for any number of ids as texts."""
        if self.loaded.item_texts:
            return self.ids.encode(raw)
        numbers = pl.when(raw.str.contains(_NUMBER)).then(raw).cast(pl.Int64, strict=False)
        codes = self.known.item_ids.encode(pl.select(numbers).to_series())
        new = np.flatnonzero(codes < 0)
        if len(new) and len(self.ids) > len(self.known.item_ids):
            codes[new] = self.ids.encode(raw.gather(new))
        return codes

    def _numbers(self, raw: Sequence[str]) -> list[Any]:
        found = []
        for key in raw:
            number = _number(key)
            found.append(key if number == _NONE else number)
        return found

    def show(self, things: Mapping[str, bool]) -> None:
        """Whether items may be shown from now on."""
        if not things:
            return
        codes = self.encode(list(things))
        there = np.array(list(things.values()), dtype=bool)
        shown = self.shown.copy()  # who is reading goes on with the old one
        shown[codes[codes >= 0]] = there[codes >= 0]
        self.shown = shown

    def away(self, shown: np.ndarray) -> np.ndarray:
        """int32: codes of what was not shown when `shown` was what this view showed."""
        kept = self._away
        if kept[0] is not shown:
            kept = self._away = (shown, np.flatnonzero(~shown).astype(np.int32))
        return kept[1]

    def past(self, user: str | None, events: Sequence[Event], forgotten: int = 0) -> Past:
        """What was learned of the user, and these events where they are later. Of one forgotten since the version was
        made, the events alone."""
        loaded = self.loaded
        code = loaded.learned(user, forgotten)
        new = [event for event in events if event.time > loaded.until or code < 0]
        codes = self.encode([event.item for event in new]) if new else np.zeros(0, np.int32)
        seen = codes[codes >= len(self.known.item_ids)]
        codes = self.answers.stand_ins(codes)
        kept = [event for event, known in zip(new, codes >= 0) if known]
        tail = {
            "items": codes[codes >= 0].astype(np.int32),
            "weights": loaded.worth(kept),
            "times": np.array([event.time for event in kept], dtype=np.int64),
            "kinds": loaded.kind_codes([event.kind for event in kept]),
            "values": np.array([np.nan if event.value is None else event.value for event in kept], dtype=np.float32),
        }
        return self.recalled(code, tail, seen)

    def recalled(self, code: int, tail: dict[str, np.ndarray], seen: np.ndarray) -> Past:
        """As `past`, from its parts."""
        old = self.known.histories.take(np.array([code]))
        if not len(tail["items"]):
            return Past(old, code, tail, seen)
        history = Histories(
            np.array([0, len(old.items) + len(tail["items"])], dtype=np.int64),
            np.concatenate([old.items, tail["items"]]),
            np.concatenate([old.weights, tail["weights"]]),
            np.concatenate([old.times, tail["times"]]),
            np.concatenate([old.kinds, tail["kinds"]]),
            np.concatenate([old.values, tail["values"]]),
            np.array([max(time.time_ns() // 1000, self.loaded.until + 1)], dtype=np.int64),
            old.users,
            old.features,
        )
        return Past(history, code, tail, seen)

    def columns_of(self, raw: str) -> dict[str, Any] | None:
        """What is known of an item, NULLs left out; None for one unknown."""
        code = int(self.encode([raw])[0])
        return None if code < 0 else self.row(code)

    def row(self, code: int, fields: Sequence[str] | None = None) -> dict[str, Any]:
        """Columns of an item by code, NULLs left out, in types of JSON."""
        items = self.answers.items
        names = items.columns if fields is None else [name for name in fields if name in items.columns]
        found = items.select(names).row(code, named=True) if names else {}
        return {name: _plain(value) for name, value in found.items() if value is not None and name != "id"}

    def search(self, words: str, k: int) -> np.ndarray:
        """Codes of the items shown whose title or id holds all words, the most popular first."""
        items = self.answers.items
        if self._titles is None:
            text = items["id"].cast(pl.String)
            if self.title is not None:
                text = (items[self.title].fill_null("") + "\n" + text).rename("text")
            self._titles = text.str.to_lowercase()
        found = self.shown.copy()
        for word in words.lower().split()[:10]:
            found &= self._titles.str.contains(word, literal=True).to_numpy()
        rows = np.flatnonzero(found)
        return rows[np.argsort(-self.answers.priority[rows], kind="stable")][:k]


def _overlaid(items: pl.DataFrame, ids: Any, loaded: Loaded, changes: Mapping[str, Columns | None]) -> pl.DataFrame:
    """The items with changed rows in their places and new ones behind, in the order they came."""
    said = {key: value for key, value in changes.items() if value is not None}
    gone = [key for key, value in changes.items() if value is None]
    rows = [{"id": key, **{n: v for n, v in value.items() if n != HIDDEN}} for key, value in said.items()]
    rows += [{"id": key} for key in gone]
    frame = pl.DataFrame(rows, infer_schema_length=None, strict=False)
    frame = frame.with_columns(pl.col("id").cast(pl.String))
    keys = frame["id"].to_list()
    codes = ids.encode(keys if loaded.item_texts else [k if _number(k) == _NONE else _number(k) for k in keys])
    place = np.arange(len(items) + int((codes < 0).sum()))
    known = codes >= 0
    known[len(said) :] = False  # of what was deleted the columns stay; it is not shown
    place[codes[known]] = len(items) + np.flatnonzero(known)
    new = np.flatnonzero(codes < 0)
    # Behind in the order they came, whatever became of them: codes must come out the same for whoever reads the store.
    order = {key: at for at, key in enumerate(changes)}
    new = np.array(sorted(new.tolist(), key=lambda at: order[keys[at]]), dtype=np.int64)
    place[len(items) :] = len(items) + new
    base = items.with_columns(pl.col("id").cast(pl.String))
    return pl.concat([base, fitting(frame, base.schema)], how="diagonal")[place]


_NONE, _NUMBER = -(2**62), r"^-?\d{1,18}$"


def _number(raw: str) -> Any:
    if len(raw) >= 19:
        return _NONE
    return int(raw) if raw.isdecimal() or (raw.startswith("-") and raw[1:].isdecimal()) else _NONE


def _plain(value: Any) -> Any:
    if isinstance(value, str | bool | int | float):
        return value if not isinstance(value, float) or np.isfinite(value) else None
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return str(value)
