"""A version with the items as they are now: what one request is answered by, from its beginning to its end.

`Loaded` is a version from disk. A `View` lays the items of the store over it: changed columns, new items, what is
hidden. A view is never changed but for what it shows; a new one takes its place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.errors import ConfigError, DataError, ZhiyinError
from zhiyin.core.parallel import kernel, read_only
from zhiyin.core.run import Run, log
from zhiyin.data.catalogue import Catalogue, title_column
from zhiyin.data.catalogue_schema import CatalogueSchema, is_hidden
from zhiyin.data.event_schema import EventSchema, parse_weights
from zhiyin.data.histories import Histories
from zhiyin.data.time_policy import wall_clock
from zhiyin.pipeline.answers import Answers
from zhiyin.pipeline.bundles import Bundle
from zhiyin.pipeline.request import DIVERSITY_METHODS, Request
from zhiyin.pipeline.row_alignment import align_rows
from zhiyin.pipeline.rulebook import Rulebook
from zhiyin.pipeline.rules import Rules
from zhiyin.pipeline.rules_config import MATCHES_NOTHING, hides_everything, usable_rules
from zhiyin.service.feature_index_updater import NO_EVENTS, live_index
from zhiyin.store.database import Store
from zhiyin.store.records import Event

# Models whose kernels this process has compiled.
_WARMED: set[str] = set()
Columns = Mapping[str, Any]


class NoVersionError(DataError):
    """There is no version that could answer."""


class Loaded:
    """A version from disk.

    Parameters
    ----------
    options: rules, variety and context, as `Answers` takes them; unreadable: rules of the settings that cannot be
        read, and why, by name.
    weights: of kinds of events, as in `zhiyin.toml`. They count for a version that was saved without its schema; any
        other has its own, and what the file says counts from the next training on.
    store: whose events are served beside the version.

    Attributes
    ----------
    schema: what events mean, as they were learned: kinds, weights, times.
    learned_seq: events of the store up to this sequence number were learned, those after it were not. 0: it is not
        known which, since the version has learned of no store, or of another one.
    """

    def __init__(
        self, bundle: Bundle, options: dict[str, Any], weights: dict[str, float], store: Store | None = None
    ) -> None:
        self.version, self.model = bundle.version, bundle.load()
        self.options = {"rules": Rules(), **options}
        self.unreadable = dict(self.options.pop("unreadable", {}))
        self.known = self.model._context()
        catalogue = Catalogue.load(bundle.folder) or Catalogue(pl.DataFrame(), pl.DataFrame())
        ids = pl.DataFrame({"id": self.known.item_ids.values})
        # Types of the columns as they were learned, and the frames as they are read.
        self.types = catalogue.types
        self.items = align_rows(catalogue.items, ids["id"]) if "id" in catalogue.items.columns else ids
        self.users = catalogue.users if "id" in catalogue.users.columns else None
        self.schema = self.known.schema or _schema_of(catalogue.kinds, weights)
        self.kinds = list(self.schema.kinds)
        self.until = int(self.known.window[1])
        self.made = bundle.made_at
        self.clock = wall_clock if store is None else store.clock
        position = self.known.position
        known = store is not None and position is not None and position.store == store.identity
        self.learned_seq = position.seq if known and position.seq <= store.highest_seq else 0  # type: ignore[union-attr]
        if self.known.schema is not None and weights and not _same_rules(self.schema, weights):
            log.warning("service: [weights] has changed since version %d was trained; it counts from the next training "
                        "on", self.version)  # fmt: skip
        # What lists depend on besides the version: a list can be replayed while this is the same.
        said = repr((self.options["rules"], sorted((k, str(v)) for k, v in options.items()), sorted(weights.items())))
        self.house = hashlib.sha256(said.encode()).hexdigest()[:16]
        self.index = live_index(self.model, self.learned_seq)

    def learned(self, user: str | None, forgotten: int) -> int:
        """Code of a user of whom the version has learned and may know; -1: none."""
        if user is None or forgotten >= self.made:
            return -1
        return int(self.known.user_ids.encode([user])[0])

    def unlearned(self, code: int, events: Sequence[Event]) -> list[Event]:
        """Of the events of a user that the store has, those that the version has not learned; `code` as of `learned`.

        Their times do not matter: what came late counts as well. An event that stands in the files too is learned, and
        counts once. Where it is not known how much of the store was learned, what stands in the history is.
        """
        now, times, after = self.clock(), self.schema.times, self.learned_seq
        new = [event for event in events if times.accepts(event.time, now)]
        if code < 0:
            return new
        new = [event for event in new if event.seq > after or not event.seq]
        if not new:
            return new
        learned = self.stands(
            np.full(len(new), code, dtype=np.int32),
            self.known.item_ids.encode([event.item for event in new]),
            self.schema.codes([event.kind for event in new]),
            np.array([event.time for event in new], dtype=np.int64),
            np.array([event.seq > 0 for event in new]),
        )
        return [event for event, known in zip(new, learned.tolist()) if not known]

    def unlearned_rows(self, events: pl.DataFrame) -> pl.DataFrame:
        """As `unlearned`, of events of the store's log (`user, item, time, kind`) after `learned_seq`, of any users."""
        times = self.schema.times
        events = events.filter(pl.col("time").is_between(times.earliest, times.latest(self.clock())))
        learned = self.stands(
            self.known.user_ids.encode(events["user"]),
            self.known.item_ids.encode(events["item"]),
            self.schema.codes(events["kind"]),
            events["time"].to_numpy(),
            np.ones(len(events), dtype=bool),
        )
        return events.filter(~learned) if learned.any() else events

    def stands(
        self, users: np.ndarray, items: np.ndarray, kinds: np.ndarray, times: np.ndarray, numbered: np.ndarray
    ) -> np.ndarray:
        """bool[n]: whether an event equal to each stands in the user's history as it was learned.

        numbered: whether it is known to be an event of the store that was not learned: then one that was learned of the
        same store was another event.
        """
        histories, out = self.known.histories, np.zeros(len(users), dtype=np.bool_)
        stored = self.known.stored if self.learned_seq else None
        parts = (histories.offsets, histories.items, histories.kinds, histories.times)
        _stands(
            *(read_only(part) for part in parts), read_only(np.zeros(0, np.bool_) if stored is None else stored),
            read_only(users), read_only(items), read_only(kinds), read_only(times), read_only(numbered), out,
        )  # fmt: skip
        return out


@kernel
def _stands(offsets, items, kinds, times, stored, users, which, what, moments, numbered, out):
    for row in range(len(users)):
        user, moment = users[row], moments[row]
        if user < 0:
            continue
        low, high = offsets[user], offsets[user + 1]
        stop = high
        while low < high:
            middle = (low + high) >> 1
            if times[middle] < moment:
                low = middle + 1
            else:
                high = middle
        while low < stop and times[low] == moment:
            if items[low] == which[row] and kinds[low] == what[row]:
                out[row] |= not (numbered[row] and len(stored) and stored[low])
            low += 1


def _schema_of(kinds: Sequence[str], weights: dict[str, float]) -> EventSchema:
    """The schema of a version that was saved without one."""
    if not weights:
        return EventSchema.of(kinds)
    rules = parse_weights(weights, kinds, None, known=False)
    return EventSchema(tuple(kinds), tuple(rules), unlisted=0.0)


def _same_rules(schema: EventSchema, weights: dict[str, float]) -> bool:
    rules = parse_weights(weights, schema.kinds, schema.value, known=False)
    return not schema.usual and [dataclasses.replace(rule, text="") for rule in schema.rules] == [
        dataclasses.replace(rule, text="") for rule in rules
    ]


@dataclasses.dataclass(frozen=True)
class Past:
    """What one request knows of what was done.

    Parameters
    ----------
    history: one row, in codes of the model. code: of the user in the version; -1: not in it.
    tail: events that the version has not learned, by time, as arrays: items, weights, times, kinds, values.
    seen: codes of new items among them. seqs: int64, numbers of the events in the store's log, 0 where not known; of
    unknown items too.
    """

    history: Histories
    code: int
    tail: dict[str, np.ndarray]
    seen: np.ndarray
    seqs: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))


class View:
    """See the module.

    seq: the last change of the store's items that is in it. unfit: by column the items whose value of the store does
    not fit the type of the column; it is null here. unruled: rules of the house that cannot be read or that this
    catalogue does not allow, and why, by name; see `pipeline.rules_config.usable_rules`.
    """

    def __init__(
        self,
        loaded: Loaded,
        answers: Answers,
        hidden: frozenset[str],
        seq: int,
        unfit: Mapping[str, frozenset[str]] | None = None,
        unruled: Mapping[str, str] | None = None,
    ) -> None:
        self.loaded, self.answers, self.hidden, self.seq = loaded, answers, hidden, seq
        self.unfit, self.unruled = dict(unfit or {}), dict(unruled or {})
        self.version, self.known, self.ids = loaded.version, loaded.known, answers.ids
        self.shown = np.ones(len(self.ids), dtype=bool)
        self._away = (self.shown, np.zeros(0, dtype=np.int32))
        self.show(dict.fromkeys(hidden, False))
        self.title = title_column(answers.items)
        self._titles: pl.Series | None = None

    @classmethod
    def of(
        cls,
        loaded: Loaded,
        changes: Mapping[str, Columns | None],
        seq: int,
        schema: CatalogueSchema | None = None,
        *,
        warm: bool = True,
    ) -> View:
        """A version under changes of items, in the order they came. schema: types of all columns; None: as learned.
        warm: what is compiled when it is needed first is compiled now."""
        answers, wrong = _ruled(loaded, schema or loaded.types)
        view = cls(loaded, answers, frozenset(), 0, unruled=wrong).after(changes, seq)
        if warm:
            view.warm()
        return view

    def warm(self) -> None:
        """Have compiled and read what is only when it is needed first, before someone waits for it: lists of a stranger
        and of a known user, with events since and without, by every variety, with filters and reasons; similar items.

        What is compiled is compiled once a process, for all versions of the same models.
        """
        models = self.loaded.model
        shape = f"{type(models).__name__} {getattr(models, 'sources', '')} {getattr(models, 'ranker', '')}"
        first, asked = shape not in _WARMED, [Request(k=10)]
        if first:
            _WARMED.add(shape)
            asked = [
                Request(k=10, diversity=word, filter=self._some_filter(), explain=True) for word in DIVERSITY_METHODS
            ] + self._some_arranged()
        with contextlib.nullcontext() if self.loaded.index is None else self.loaded.index.reading() as state:
            for past in self._some_pasts():
                for request in asked:
                    with contextlib.suppress(ZhiyinError):
                        request = dataclasses.replace(request, history=past.history)
                        self.answers.ask(request, self.shown, None if state is None else state.index)
            if first and state is not None and state.index.has_times:  # on a copy that nobody reads
                two = pl.DataFrame({"item": [0, 0], "time": [self.loaded.until + 2, self.loaded.until + 1]})
                two = pl.concat([NO_EVENTS, two.cast({"item": pl.Int32})], how="diagonal")
                two = two.with_columns(weight=pl.lit(1.0, pl.Float32))
                state.index.with_events(two).append(two)
            item = self.ids.raw(np.zeros(1, dtype=np.int64))[0]
            with contextlib.suppress(ZhiyinError):
                self.answers.similar(item, asked[0], self.shown)
        if first:
            self.search("a", 1)
            known = self._some_pasts()[-1].history
            with contextlib.suppress(ZhiyinError):
                self.answers.model.similar_users(k=2, histories=known, run=Run(threads=1))

    def _some_arranged(self) -> list[Request]:
        """The first items as `/v1/rank` asks for them, one of them pinned, and a list that explores."""
        items = [str(item) for item in self.ids.raw(np.arange(min(3, len(self.loaded.items)), dtype=np.int64))]
        return [Request(k=len(items), include=items, closed=True, explain=True), Request(k=10, pins={1: items[0]}),
                Request(k=10, explore=1.0)]  # fmt: skip

    def _some_pasts(self) -> list[Past]:
        """What is known of a stranger and of a user, with an event of this moment and without."""
        known = np.flatnonzero(np.diff(self.known.histories.offsets))
        users = [None] if not len(known) else [None, str(self.known.user_ids.values[int(known[0])])]
        item, now = str(self.ids.raw(np.zeros(1, dtype=np.int64))[0]), self.loaded.clock()
        event = Event("", item, now, next(iter(self.loaded.kinds), "event"), seq=2**62)
        return [self.past(user, events) for user in users for events in ((), (event,))]

    def _some_filter(self) -> str:
        """A condition on a number and a text, where items have such columns, that hardly leaves anything out."""
        kinds = self.answers.filters.columns.kinds["item"]
        names = {kind: name for name, kind in kinds.items() if kind in ("number", "text") and name.isidentifier()}
        tests = {"number": ">= -1e300", "text": "LIKE '%'"}
        return " AND ".join(f'("{name}" {tests[kind]} OR "{name}" IS NULL)' for kind, name in names.items())

    def after(self, changes: Mapping[str, Columns | None], seq: int, schema: CatalogueSchema | None = None) -> View:
        """The view after more changes. schema: with types of columns that no view before had; None: as it is."""
        hidden = set(self.hidden)
        for key, said in changes.items():
            if said is None or is_hidden(said):
                hidden.add(key)
            else:
                hidden.discard(key)
        if not changes:
            if schema is None or schema == self.schema:
                return self if seq == self.seq else self._next(self.answers, hidden, seq, self.unfit)
            return self._next(self.answers.with_catalogue(self.answers.items, schema), hidden, seq, self.unfit)
        schema = schema or self.schema
        items, wrong = _overlaid(self.answers.items, self.ids, self.loaded, changes, schema)
        unfit = {name: kept for name, keys in self.unfit.items() if (kept := keys - changes.keys())}
        for name, keys in wrong.items():
            unfit[name] = unfit.get(name, frozenset()).union(keys)
        return self._next(self.answers.with_catalogue(items, schema), hidden, seq, unfit)

    def _next(self, answers: Answers, hidden: Iterable[str], seq: int, unfit: Mapping[str, frozenset[str]]) -> View:
        return View(self.loaded, answers, frozenset(hidden), seq, unfit, self.unruled)

    @property
    def closed(self) -> bool:
        """Whether nothing is shown, since a rule that says what may be shown cannot be used."""
        return hides_everything(self.unruled)

    @property
    def schema(self) -> CatalogueSchema:
        """Types of the columns, as filters and rows have them."""
        return self.answers.schema

    def encode(self, raw: Sequence[str] | pl.Series) -> np.ndarray:
        """Codes of items by id as requests write it, new ones among them; see `Ids.encode`."""
        return self.ids.encode(raw if isinstance(raw, pl.Series) else list(raw))

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

    def past(
        self, user: str | None, events: Sequence[Event], forgotten: int = 0, session: Sequence[Event] = ()
    ) -> Past:
        """What was learned of the user, and what was not yet: of these events of theirs, and all those of a session.

        Of one forgotten since the version was made, the events alone. Both kinds of events are sorted as `Recent` has
        them.
        """
        loaded = self.loaded
        code = loaded.learned(user, forgotten)
        new = loaded.unlearned(code, events)
        if session:
            new = sorted([*new, *loaded.unlearned(-1, session)], key=attrgetter("time", "seq"))
        rows = [(event.item, event.time, event.kind, event.value) for event in new]
        items, moments, names, values = zip(*rows) if rows else ((), (), (), ())
        past = self.remembered(
            code,
            self.encode(items) if rows else np.zeros(0, np.int32),
            np.array(moments, dtype=np.int64),
            loaded.schema.weights(names, values),
            loaded.schema.codes(names),
            np.array([np.nan if value is None else value for value in values], dtype=np.float32),
        )
        return dataclasses.replace(past, seqs=np.array([event.seq for event in new], dtype=np.int64))

    def remembered(
        self,
        code: int,
        codes: np.ndarray,
        times: np.ndarray,
        weights: np.ndarray,
        kinds: np.ndarray,
        values: np.ndarray,
    ) -> Past:
        """What was learned of a user, and events that were not, sorted by time and arrival; `codes`: of their items."""
        seen = codes[codes >= len(self.known.item_ids)]
        codes = self.answers.nearest_known_items(codes)
        known = codes >= 0
        tail = {
            "items": codes[known].astype(np.int32),
            "weights": weights[known],
            "times": times[known],
            "kinds": kinds[known],
            "values": values[known],
        }
        return self.recalled(code, tail, seen)

    def recalled(self, code: int, tail: dict[str, np.ndarray], seen: np.ndarray) -> Past:
        """As `past`, from its parts: one history by time, of one moment what was learned first, as training has it."""
        old = self.known.histories.take(np.array([code]))
        if not len(tail["items"]):
            return Past(old, code, tail, seen)
        parts = {name: np.concatenate([getattr(old, name), tail[name]]) for name in tail}
        if len(old.times) and tail["times"][0] < old.times[-1]:
            order = np.argsort(parts["times"], kind="stable")
            parts = {name: part[order] for name, part in parts.items()}
        now = self.loaded.clock()
        until = min(self.loaded.until, self.loaded.schema.times.latest(now))
        history = Histories(
            np.array([0, len(parts["items"])], dtype=np.int64),
            **parts,
            now=np.array([max(now, until + 1)], dtype=np.int64),
            users=old.users,
            features=old.features,
        )
        return Past(history, code, tail, seen)

    def columns_of(self, raw: str) -> dict[str, Any] | None:
        """What is known of an item, NULLs left out; None for one unknown."""
        code = int(self.encode([raw])[0])
        return None if code < 0 else self.row(code)

    def row(self, code: int, fields: Sequence[str] | None = None) -> dict[str, Any]:
        """Columns of an item by code, NULLs left out, in types of JSON."""
        items = self.answers.items
        names = items.columns if fields is None else [n for n in dict.fromkeys(fields) if n in items.columns]
        found = items.select(names).row(code, named=True) if names else {}
        return {name: plain(value) for name, value in found.items() if value is not None and name != "id"}

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


def _ruled(loaded: Loaded, schema: CatalogueSchema) -> tuple[Answers, dict[str, str]]:
    """Answers under those rules of the house that can be read and that the catalogue allows, and why not the others."""

    def answers(**options: Any) -> Answers:
        return Answers(loaded.model, loaded.items, loaded.users, kinds=tuple(loaded.kinds), run=Run(threads=1),
                       schema=schema, **{**loaded.options, **options})  # fmt: skip

    rules, wrong = loaded.options["rules"], dict(loaded.unreadable)
    if hides_everything(wrong):
        rules = dataclasses.replace(rules, filter=MATCHES_NOTHING)
    try:
        made = answers(rules=rules)
    except ConfigError:
        plain = answers(rules=Rules())
        rules, more = usable_rules(
            rules, lambda some: Rulebook(some, plain.filters, kinds=tuple(loaded.kinds), item_ids=plain.ids)
        )
        if not more:  # it was something else
            raise
        wrong |= more
        made = answers(rules=rules)
    try:
        made.check_diversity()
    except ConfigError as error:
        wrong["[answers] categories" if made.by else "[answers] variety"] = error.message.splitlines()[0]
        made = answers(rules=rules, variety="none", by="")
    return made, wrong


def _overlaid(
    items: pl.DataFrame, ids: Any, loaded: Loaded, changes: Mapping[str, Columns | None], schema: CatalogueSchema
) -> tuple[pl.DataFrame, dict[str, list[str]]]:
    """The items with changed rows in their places and new ones behind, in the order they came; and by column the items
    whose values do not fit its type: they are null there.

    A column that a change does not name is as the version has it; one that it names as null is null.
    """
    keys = list(changes)
    rows: list[Columns] = [value or {} for value in changes.values()]
    frame, wrong = schema.frame("items", rows)
    frame = pl.DataFrame({"id": pl.Series(keys, dtype=pl.String)}).hstack(frame)
    codes = ids.encode(keys)
    base = items.with_columns(pl.col("id").cast(pl.String))
    frame = _completed(frame, rows, codes, loaded.items)
    place = np.arange(len(items) + int((codes < 0).sum()))
    # Of what was deleted the columns stay; it is not shown.
    known = (codes >= 0) & np.array([value is not None for value in changes.values()])
    place[codes[known]] = len(items) + np.flatnonzero(known)
    # Behind in the order they came, whatever became of them: codes must come out the same for whoever reads the store.
    place[len(items) :] = len(items) + np.flatnonzero(codes < 0)
    both = pl.concat([base, frame], how="diagonal_relaxed")[place]
    return both, {name: [keys[row] for row in bad] for name, bad in wrong.items()}


def _completed(
    frame: pl.DataFrame, rows: Sequence[Columns], codes: np.ndarray, catalogue: pl.DataFrame
) -> pl.DataFrame:
    """Changed rows, with what they do not name as the catalogue of the version has it. `codes`: of the rows, of new
    items beyond the catalogue or -1."""
    there = (codes >= 0) & (codes < len(catalogue))
    if not there.any():
        return frame
    below = catalogue[np.where(there, codes, 0)].drop("id")
    columns = []
    for old in below:
        if old.name not in frame.columns:
            columns.append(old.set(~pl.Series(there), None) if not there.all() else old)
            continue
        top = frame[old.name]
        mine = pl.Series([old.name in row for row in rows]) | ~pl.Series(there)
        both = pl.DataFrame([top.alias("top"), old.alias("old"), mine.alias("mine")])
        columns.append(both.select(pl.when("mine").then("top").otherwise("old").alias(old.name)).to_series())
    return frame.with_columns(columns)


def plain(value: Any) -> Any:
    """A value of a catalogue in types of JSON."""
    if isinstance(value, str | bool | int | float):
        return value if not isinstance(value, float) or np.isfinite(value) else None
    if isinstance(value, list):
        return [plain(part) for part in value]
    return str(value)
