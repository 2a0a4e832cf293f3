"""LoadedVersion: a trained version read from disk, with what of the store's log it has learned."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.binary_search import first_not_before
from zhiyin.core.errors import ConfigError, DataError
from zhiyin.core.parallel import kernel, read_only
from zhiyin.core.run import log
from zhiyin.data.catalogue import Catalogue
from zhiyin.data.event_schema import EventSchema, parse_weights, schema_of_weights
from zhiyin.data.time_policy import wall_clock
from zhiyin.features.review_values import ReviewValues
from zhiyin.pipeline.model_versions import Bundle
from zhiyin.pipeline.row_alignment import align_rows
from zhiyin.pipeline.rules import Rules
from zhiyin.ranking.live_index import live_index_of
from zhiyin.store.records import Event
from zhiyin.store.store import Store

_time, _seq = attrgetter("time"), attrgetter("seq")


class NoVersionError(DataError):
    """No version can answer."""


class UnknownVersionError(ConfigError):
    """A version of the models that does not exist."""


class LoadedVersion:
    """A version from disk.

    Parameters
    ----------
    options: rules, variety and context, as `Answers` takes them.
        unreadable: rules of the settings that cannot be read, with the reason, by name.
    weights: weights of kinds of events, as in `zhiyin.toml`. They apply to a version that was saved without its schema;
        any other has its own, and the weights of the file apply from the next training on.
    store: the store whose events are served in addition to the version.

    Attributes
    ----------
    context: training context of the model.
    schema: meaning of events as it was learned: kinds, weights, times.
    types: types of the catalogue's columns as they were learned.
    trained_until: time of the last event that was learned, microseconds UTC.
    created: when the version was made, microseconds UTC.
    learned_seq: sequence number in the store; events up to it were learned, later ones were not. 0: unknown, since the
        version was trained without a store or with another one.
    digest: of the version's manifest, which has the checksums of all its files.
    settings_digest: digest of what lists depend on besides the version: a list can be replayed while it is the same.
    index: the live feature index; None where no ranker reads one.
    links: between users, as they were learned; None: there were none.
    reviews: how texts of reviews become values, as was learned; None: nothing was learned of it.
    """

    def __init__(
        self, bundle: Bundle, options: dict[str, Any], weights: dict[str, float], store: Store | None = None
    ) -> None:
        self.version, self.model = bundle.version, bundle.load()
        self.options = {"rules": Rules(), **options}
        self.unreadable = dict(self.options.pop("unreadable", {}))
        self.context = self.model._context()
        catalogue = Catalogue.load(bundle.folder) or Catalogue(pl.DataFrame(), pl.DataFrame())
        ids = pl.DataFrame({"id": self.context.item_ids.values})
        self.types = catalogue.types
        self.reviews = None if catalogue.reviews is None else ReviewValues.from_state(catalogue.reviews)
        self.items = align_rows(catalogue.items, ids["id"]) if "id" in catalogue.items.columns else ids
        self.users = catalogue.users if "id" in catalogue.users.columns else None
        self.links = catalogue.learned_links
        self.schema = self.context.schema or schema_of_weights(catalogue.kinds, weights)
        self.kinds = list(self.schema.kinds)
        self.trained_until = int(self.context.window[1])
        self.created = bundle.made_at
        self.clock = wall_clock if store is None else store.clock
        position = self.context.position
        same_store = store is not None and position is not None and position.store == store.identity
        self.learned_seq = position.seq if same_store and position.seq <= store.highest_seq else 0  # type: ignore[union-attr]
        if self.context.schema is not None and weights and not _has_same_rules(self.schema, weights):
            log.warning("service: [weights] has changed since version %d was trained; it counts from the next training "
                        "on", self.version)  # fmt: skip
        text = repr((self.options["rules"], sorted((k, str(v)) for k, v in options.items()), sorted(weights.items())))
        self.settings_digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.digest = hashlib.sha256(json.dumps(bundle.manifest, sort_keys=True).encode()).hexdigest()
        self.index = live_index_of(self.model, self.learned_seq)

    def learned_user_code(self, user: str | None, forgotten: int) -> int:
        """Code of a user that the version has learned; -1 for others, and for one forgotten since it was made.

        Parameters
        ----------
        forgotten: when the user was forgotten, microseconds UTC; 0: never.
        """
        if user is None or forgotten >= self.created:
            return -1
        return int(self.context.user_ids.encode([user])[0])

    def new_events(self, code: int, events: Sequence[Event], items: np.ndarray) -> np.ndarray:
        """int64: positions of those of a user's events in the store that the version has not learned.

        Their times do not matter: late events are new, too. An event that is in the training files as well was learned,
        and counts once. Where `learned_seq` is unknown, an event equal to one of the learned history was learned.

        Parameters
        ----------
        code: code of the user, as `learned_user_code` gives it.
        items: codes of the events' items; below 0, or new: the version does not know them.
        """
        n, after = len(events), self.learned_seq
        times = np.fromiter(map(_time, events), np.int64, n)
        accepted = (times >= self.schema.times.earliest) & (times <= self.schema.times.latest(self.clock()))
        if code < 0:
            return np.flatnonzero(accepted)
        seqs = np.fromiter(map(_seq, events), np.int64, n)
        new = np.flatnonzero(accepted & ((seqs > after) | (seqs == 0)))
        offsets = self.context.histories.offsets
        if not len(new) or offsets[code] == offsets[code + 1]:
            return new
        items = items[new]
        learned = self.mark_learned(
            np.full(len(new), code, dtype=np.int32),
            np.where(items < len(self.context.item_ids), items, np.int32(-1)),
            self.schema.codes([events[row].kind for row in new.tolist()]),
            times[new],
            seqs[new] > 0,
        )
        return new[~learned]

    def new_event_rows(self, events: pl.DataFrame) -> pl.DataFrame:
        """As `new_events`, of rows of the store's log (`user, item, time, kind`) after `learned_seq`, of any users."""
        times = self.schema.times
        events = events.filter(pl.col("time").is_between(times.earliest, times.latest(self.clock())))
        learned = self.mark_learned(
            self.context.user_ids.encode(events["user"]),
            self.context.item_ids.encode(events["item"]),
            self.schema.codes(events["kind"]),
            events["time"].to_numpy(),
            np.ones(len(events), dtype=bool),
        )
        return events.filter(~learned) if learned.any() else events

    def mark_learned(
        self, users: np.ndarray, items: np.ndarray, kinds: np.ndarray, times: np.ndarray, numbered: np.ndarray
    ) -> np.ndarray:
        """bool[n]: whether the learned history of the user holds an equal event.

        Parameters
        ----------
        users, items, kinds, times: the events, in codes and microseconds UTC.
        numbered: bool[n], whether an event has a number in the store after `learned_seq`. An equal one that was learned
            from the same store is then another event.
        """
        histories, out = self.context.histories, np.zeros(len(users), dtype=np.bool_)
        stored = self.context.stored if self.learned_seq else None
        parts = (histories.offsets, histories.items, histories.kinds, histories.times)
        _mark_learned(
            *(read_only(part) for part in parts), read_only(np.zeros(0, np.bool_) if stored is None else stored),
            read_only(users), read_only(items), read_only(kinds), read_only(times), read_only(numbered), out,
        )  # fmt: skip
        return out


@kernel
def _mark_learned(offsets, items, kinds, times, stored, users, event_items, event_kinds, event_times, numbered, out):
    for row in range(len(users)):
        user, time = users[row], event_times[row]
        if user < 0:
            continue
        end = offsets[user + 1]
        at = first_not_before(times, offsets[user], end, time)
        while at < end and times[at] == time:
            if items[at] == event_items[row] and kinds[at] == event_kinds[row]:
                out[row] |= not (numbered[row] and len(stored) and stored[at])
            at += 1


def _has_same_rules(schema: EventSchema, weights: dict[str, float]) -> bool:
    rules = parse_weights(weights, schema.kinds, schema.value, has_log=False)
    return not schema.usual and [dataclasses.replace(rule, text="") for rule in schema.rules] == [
        dataclasses.replace(rule, text="") for rule in rules
    ]
