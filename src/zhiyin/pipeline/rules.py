"""Rules of the house: what may be shown, what is pushed, and who gets which slot.

    [rules]
    filter = "price < 50 AND NOT adult"
    stock = "in_stock"
    dedupe = "variant_of"
    pins = { 1 = "sku-7" }
    bought = { purchase = "never", view = "7d" }
    boosts = [{ when = "margin > 0.3", multiply = 1.2 }]
    caps = [{ per = "seller", at_most = 2, first = 10 }]
    shares = [{ of = "is_new", at_least = 0.2 }]

`Rules` is what is written; `Rules.bind` checks it against a catalogue and gives a `Rulebook`, which does, in order:

1. `qualify`: exclude, include, filter, stock, dates, bought, frequency; of these pins heed exclude, filter, stock and
   dates alone;
2. `adjust`: boosts, then exposure targets, then the order by score anew;
3. whatever re-ranks for variety (see `diversity`), if anything does;
4. `rotate`: another order at another visit;
5. `arrange`: pins, duplicates, caps, shares, and a policy of exploration that chooses among what keeps them all; see
   `slot_allocation` for what yields to what.

`mask` and `removed` say the first step ahead of retrieval, so that k items come back whenever k items qualify; `groups`
says what candidates a list needs for shares and exposure.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.durations import microseconds
from zhiyin.core.errors import ConfigError, nearest
from zhiyin.core.hashing import GOLDEN, mix
from zhiyin.core.parallel import kernel
from zhiyin.core.params import list_length, param, params_of, shortened
from zhiyin.core.run import Run
from zhiyin.data.ids import Ids
from zhiyin.pipeline import slot_allocation
from zhiyin.pipeline.exploration import TAIL, Openings, Policy, drawn
from zhiyin.pipeline.exposure import weights_of
from zhiyin.pipeline.expression_values import Value
from zhiyin.pipeline.expressions import Expression
from zhiyin.pipeline.filters import Filters, Mask, RequestValues
from zhiyin.pipeline.slate import Ragged, RequestBatch, Slates

# Most items of a list, so the last slot there is.
MAX_ITEMS = 1_000
# Seconds of the longest window of a frequency cap.
LONGEST_WINDOW = 90 * 86_400.0
Step = Callable[[Slates], Slates]


@dataclasses.dataclass(frozen=True)
class Boost:
    """More or less score for some items. A factor above 1 always helps, also where scores are negative."""

    when: str = param("", "for which items; empty: for all")
    multiply: str = param("1", "factor above 0: a number or an expression; where it is NULL the score stays")
    add: str = param("0", "added after that: a number or an expression")


@dataclasses.dataclass(frozen=True)
class CapRule:
    """At most so many items of one group."""

    per: str = param("", "column of the group; an item counts for each value of a multi-valued one, for none if NULL")
    at_most: int = param(2, "items of one group", at_least=1)
    first: int = param(0, "look at the first so many slots only; 0: at all", at_least=0)
    strict: bool = param(False, "rather a short list than one more")


@dataclasses.dataclass(frozen=True)
class Share:
    """A part of the slots for some items."""

    of: str = param("", "condition, such as seller = 'small'")
    at_least: float = param(0.2, "share of the slots, rounded up", at_least=0, at_most=1)


@dataclasses.dataclass(frozen=True)
class Frequency:
    """How often an item is shown to the same user."""

    at_most: int = param(3, "times", at_least=1)
    window: str = param("7d", "within this time, from 1s to 90d")

    @property
    def seconds(self) -> float:
        """The window. Raises ConfigError where it is none."""
        seconds = microseconds(self.window) / 1e6
        if not 1 <= seconds <= LONGEST_WINDOW:
            raise ConfigError(f"window = {self.window!r} is out of range", remedy="a time from 1s to 90d, such as 7d")
        return seconds


@dataclasses.dataclass(frozen=True)
class Rotation:
    """Another order at another visit, the same within one."""

    strength: float = param(0.2, "0: none; place r comes first with weight r^(-1/strength)", at_least=0, at_most=10)
    keep: int = param(0, "first places that stay", at_least=0)
    every: str = param("1d", "a visit, where requests do not number them")


@dataclasses.dataclass(frozen=True)
class Exposure:
    """A part of the exposure for a group, over many lists; see `exposure`."""

    of: str = param("", "condition that tells the group")
    target: float = param(0.1, "share of exposure, at least", at_least=0, at_most=1)
    gain: float = param(1.0, "how hard a deficit pushes, in spreads of score a missing list", at_least=0)
    half_life: str = param("7d", "after this time a list counts half, from 1m to 365d")

    @property
    def seconds(self) -> float:
        """The half-life. Raises ConfigError where it is none."""
        seconds = microseconds(self.half_life) / 1e6
        if not 60 <= seconds <= 365 * 86_400:
            raise ConfigError(f"half_life = {self.half_life!r} is out of range", remedy="from 1m to 365d, such as 7d")
        return seconds


_LISTS = {"boosts": Boost, "caps": CapRule, "shares": Share, "exposure": Exposure}
_TABLES = {"frequency": Frequency, "rotation": Rotation}


@dataclasses.dataclass(frozen=True)
class Rules:
    """Rules as they are written, with raw ids. Make one with `from_dict`.

    Parameters
    ----------
    filter: condition that every item must meet. include: where given, nothing else is shown. exclude: never shown.
    pins: raw item id by slot, from 1.
    dedupe: column of the variant; of equal ones the best stays. NULL equals nothing.
    bought: by kind of event: "never" again, or not within a time such as "7d"; "always" or no word: again at once.
    stock: column; items with more than 0, or true, are in stock. NULL is not.
    valid_from, valid_to: columns of dates or times; NULL is open. A date as the end includes the day.
    """

    filter: str = ""
    include: tuple[Any, ...] | None = None
    exclude: tuple[Any, ...] = ()
    pins: Mapping[int, Any] = dataclasses.field(default_factory=dict)
    boosts: tuple[Boost, ...] = ()
    caps: tuple[CapRule, ...] = ()
    shares: tuple[Share, ...] = ()
    dedupe: str = ""
    bought: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stock: str = ""
    valid_from: str = ""
    valid_to: str = ""
    frequency: Frequency | None = None
    rotation: Rotation | None = None
    exposure: tuple[Exposure, ...] = ()

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Rules:
        """Rules of a table, such as `[rules]` of a TOML file.

        Raises ConfigError for an unknown key (with the nearest known one) and for a value that cannot be.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        made: dict[str, Any] = {}
        for key, value in table.items():
            place = f"rules.{key}"
            if key not in known:
                raise ConfigError(f"rules has no key {key!r}", remedy=nearest(key, known))
            if key in _LISTS:
                if not isinstance(value, list | tuple):
                    raise ConfigError(f"{place} is no list", remedy=f"write [[{place}]], or {key} = [{{ ... }}]")
                made[key] = tuple(_settings(_LISTS[key], part, f"{place}[{at}]") for at, part in enumerate(value))
                if key == "exposure":
                    _ = [target.seconds for target in made[key]]
            elif key in _TABLES:
                made[key] = _settings(_TABLES[key], value, place)
                if key == "frequency":
                    _ = made[key].seconds
            elif key in ("include", "exclude"):
                if isinstance(value, str) or not isinstance(value, list | tuple):
                    raise ConfigError(f"{place} is no list", remedy='a list of item ids such as ["a", "b"]')
                made[key] = tuple(value)
            elif key == "pins":
                made[key] = _pins(value, place)
            elif key == "bought":
                made[key] = _policy(value, place)
            elif isinstance(value, str):
                made[key] = value
            else:
                raise ConfigError(f"{place} = {value!r} is no text", remedy="write it in quotes")
        return cls(**made)

    def bind(
        self,
        filters: Filters,
        *,
        kinds: Sequence[str] = (),
        item_ids: Ids | None = None,
        seed: int = 0,
    ) -> Rulebook:
        """Check the rules against a catalogue.

        Parameters
        ----------
        filters: of the catalogue; its columns are what expressions may speak of.
        kinds: kinds of events by code (`Dataset.kinds`), for `bought`.
        item_ids: raw ids to codes; None: the rules hold codes.
        """
        return Rulebook(self, filters, tuple(kinds), item_ids, seed)


def _settings(owner: type, table: Any, place: str) -> Any:
    """One small table, checked."""
    known = params_of(owner)
    if not isinstance(table, Mapping):
        raise ConfigError(f"{place} is no table", remedy="keys: " + ", ".join(known))
    for key in table:
        if key not in known:
            raise ConfigError(f"{place} has no key {key!r}", remedy=nearest(str(key), list(known)))
    made = owner(**{key: known[key].check(value, place) for key, value in table.items()})
    first = next(iter(known))
    if owner in (CapRule, Share, Exposure) and not getattr(made, first):
        raise ConfigError(f"{place} needs {first!r}", remedy=known[first].describe())
    return made


def _pins(value: Any, place: str) -> dict[int, Any]:
    try:
        pins = {int(slot): item for slot, item in value.items()}
    except (AttributeError, TypeError, ValueError):
        pins = {0: None}
    if any(not 1 <= slot <= MAX_ITEMS for slot in pins):
        remedy = f'an item by slot, from 1 to {MAX_ITEMS:,}: {{ 1 = "sku-7" }}'
        raise ConfigError(f"{place} = {shortened(value)} cannot be", remedy=remedy)
    if len({repr(item) for item in pins.values()}) < len(pins):
        raise ConfigError(f"{place} pins an item to two slots", remedy="name each item once")
    return pins


def _policy(value: Any, place: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{place} is no table", remedy='write { purchase = "never", view = "7d" }')
    for kind, word in value.items():
        if word not in ("never", "always"):
            try:
                microseconds(str(word))
            except ConfigError:
                raise ConfigError(
                    f"{place}.{kind} = {word!r} cannot be", remedy='"never", "always", or a duration such as "7d"'
                ) from None
    return {str(kind): str(word) for kind, word in value.items()}


class Rulebook:
    """Rules that fit a catalogue. Holds no state of requests; any number of threads may use one. See the module."""

    def __init__(self, rules: Rules, filters: Filters, kinds: tuple[str, ...], item_ids: Ids | None, seed: int) -> None:
        self.rules, self.filters, self.seed = rules, filters, seed
        self.conditions = self._conditions()
        self.boosts = [self._boost(boost) for boost in rules.boosts]
        self.shares = [(share, filters.parse(share.of, "bool")) for share in rules.shares]
        self.exposure = [(target, filters.parse(target.of, "bool")) for target in rules.exposure]
        for name in filter(None, [rules.dedupe, *(cap.per for cap in rules.caps)]):
            filters.column(name)
        asked = [condition for _, condition in (*self.conditions, *self.shares, *self.exposure)]
        # ColumnKinds of the user and the context that say which items qualify and which belong to a group.
        self.asks = frozenset(column for condition in asked for column in condition.node.columns if column[0] != "item")
        self.include = None if rules.include is None else _codes(rules.include, item_ids, filters, "rules.include")
        self.exclude = _codes(rules.exclude, item_ids, filters, "rules.exclude")
        slots = sorted(rules.pins)
        self.pins = (
            _codes([rules.pins[slot] for slot in slots], item_ids, filters, "rules.pins", strict=True),
            np.array(slots, dtype=np.int64) - 1,
        )
        # How long after an event of each kind its item stays away, microseconds; -1: not at all.
        self.away = np.full(max(1, len(kinds)), -1, dtype=np.int64)
        for kind, word in rules.bought.items():
            if kind not in kinds:
                raise ConfigError(
                    f"rules.bought: there are no events of kind {kind!r}", remedy=nearest(kind, list(kinds) or ["none"])
                )
            if word != "always":
                self.away[list(kinds).index(kind)] = 2**62 if word == "never" else microseconds(word)

    def _conditions(self) -> list[tuple[str, Expression]]:
        """What an item must meet, by the name of the step."""
        rules, found = self.rules, []
        if rules.filter:
            found.append(("filter", self.filters.parse(rules.filter, "bool")))
        if rules.stock:
            kind = self._kind(rules.stock, ("number", "bool"), "stock")
            name = quoted(rules.stock)
            found.append(("stock", self.filters.parse(name if kind == "bool" else f"{name} > 0", "bool")))
        dates = []
        if rules.valid_from:
            self._kind(rules.valid_from, ("time",), "valid_from")
            name = quoted(rules.valid_from)
            dates.append(f"({name} IS NULL OR {name} <= NOW())")
        if rules.valid_to:
            self._kind(rules.valid_to, ("time",), "valid_to")
            name = quoted(rules.valid_to)
            column = self.filters.columns.find("item", rules.valid_to) or ""
            whole = self.filters.items.schema.get(column) == pl.Date
            last = f"{name} > NOW() - INTERVAL '1' DAY" if whole else f"{name} >= NOW()"
            dates.append(f"({name} IS NULL OR {last})")
        if dates:
            found.append(("dates", self.filters.parse(" AND ".join(dates), "bool")))
        return found

    def _kind(self, name: str, kinds: tuple[str, ...], key: str) -> str:
        found = self.filters.columns.find("item", name)
        if found is None:
            known = list(self.filters.columns.kinds["item"])
            raise ConfigError(f"rules.{key}: items have no column {name!r}", remedy=nearest(name, known or ["none"]))
        kind = self.filters.columns.kinds["item"][found]
        if kind not in (*kinds, "null"):
            raise ConfigError(f"rules.{key}: column {name!r} is of kind {kind}", remedy=f"needed: {' or '.join(kinds)}")
        return kind

    def _boost(self, boost: Boost) -> tuple[Boost, Expression | None, Expression, Expression]:
        when = self.filters.parse(boost.when, "bool") if boost.when else None
        return boost, when, self.filters.parse(boost.multiply, "number"), self.filters.parse(boost.add, "number")

    # -- ahead of retrieval -----------------------------------------------------------------------------------------

    def mask(self, requests: RequestBatch | None = None) -> Mask:
        """Items that may be shown by the lists, the filter, stock and dates of one request."""
        requests = requests or RequestBatch()
        moment = self._moment(requests)
        assert isinstance(moment, RequestValues)
        n = len(self.filters)
        total: Mask | None = None
        for _, condition in self.conditions:
            mask = self.filters.mask(condition, moment)
            total = mask if total is None else total & mask
        for include in (self.include, None if requests.include is None else requests.include.values):
            if include is not None:
                mask = Mask.of_rows(np.unique(include[(include >= 0) & (include < n)]), n)
                total = mask if total is None else total & mask
        return self.filters.everything if total is None else total

    def removed(self, requests: RequestBatch) -> tuple[np.ndarray, np.ndarray]:
        """Items that each request must not get: excluded, bought, shown too often.

        offsets int64[n + 1] and item codes int32, as `top_k_where` and `top_k` take them.
        """
        keys = [_keys(requests.exclude, len(self.filters)), self._bought(requests), self._shown(requests)]
        if len(self.exclude):
            every = np.arange(requests.n)[:, None] * len(self.filters) + self.exclude[None, :]
            keys.append(every.ravel())
        if not any(map(len, keys)):
            return np.zeros(requests.n + 1, dtype=np.int64), np.zeros(0, dtype=np.int32)
        unique = np.unique(np.concatenate(keys))
        owners, items = np.divmod(unique, max(1, len(self.filters)))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=requests.n))]).astype(np.int64)
        return offsets, items.astype(np.int32)

    # -- the steps --------------------------------------------------------------------------------------------------

    def rerank(
        self,
        slates: Slates,
        requests: RequestBatch,
        k: int,
        *,
        between: Step | None = None,
        policy: Policy | None = None,
        run: Run | None = None,
    ) -> Slates:
        """All steps in order; `between` re-ranks for variety. Slates of at most k items."""
        return self.finish(self.qualify(slates, requests), requests, k, between=between, policy=policy, run=run)

    def finish(
        self,
        slates: Slates,
        requests: RequestBatch,
        k: int,
        *,
        between: Step | None = None,
        policy: Policy | None = None,
        run: Run | None = None,
    ) -> Slates:
        """All steps but the first, for slates of what `mask` and `removed` let through."""
        slates = self.adjust(slates, requests)
        if between is not None:
            slates = between(slates)
        return self.arrange(self.rotate(slates, requests), requests, k, policy=policy, run=run)

    def qualify(self, slates: Slates, requests: RequestBatch) -> Slates:
        """Without items that may not be shown; the trace says which rule each failed first."""
        n, owners, items = len(self.filters), slates.owners, slates.items
        keys = owners * n + items
        kept = np.ones(len(items), dtype=bool)
        events: list[tuple[str, np.ndarray]] = []

        def drop(step: str, bad: np.ndarray) -> None:
            gone = kept & bad
            if gone.any():
                events.append((step, gone))
                np.logical_and(kept, ~gone, out=kept)

        if len(self.exclude):
            drop("exclude", np.isin(items, self.exclude))
        if requests.exclude is not None:
            drop("exclude", np.isin(keys, _keys(requests.exclude, n)))
        if self.include is not None:
            drop("include", ~np.isin(items, self.include))
        if requests.include is not None:
            drop("include", ~np.isin(keys, _keys(requests.include, n)))
        if self.conditions:
            moment = self._moment(requests, owners)
            for step, condition in self.conditions:
                drop(step, ~self.filters.where(condition, items, moment))
        if self.rules.bought:
            drop("bought", np.isin(keys, self._bought(requests)))
        if self.rules.frequency is not None:
            drop("frequency", np.isin(keys, self._shown(requests)))
        if not events:
            return slates
        left = slates.keep(kept)
        for step, gone in events:
            left = left.with_trace_event(step, owners[gone], items=items[gone])
        return left

    def groups(self, requests: RequestBatch, k: int) -> list[tuple[Expression, int]]:
        """Groups that lists of k items need candidates of, and how many: those of shares, and those whose exposure
        lacks something."""
        # Where caps keep some of them out, others are there.
        more = 4 if self.rules.caps or self.rules.dedupe else 1
        wanted = [(of, more * math.ceil(share.at_least * k - 1e-9)) for share, of in self.shares]
        if requests.deficits is not None:
            wanted += [(of, more * k) for (_, of), lacks in zip(self.exposure, requests.deficits) if lacks > 0]
        return [(of, count) for of, count in wanted if count]

    def exposed(self, slates: Slates, requests: RequestBatch) -> np.ndarray:
        """float64[groups, 3]: exposure of each group of `exposure` in lists, all exposure in them, and lists."""
        weights = weights_of(slates.places)
        sums = np.zeros((len(self.exposure), 3))
        sums[:, 1], sums[:, 2] = weights.sum(), np.count_nonzero(np.diff(slates.offsets))
        moment = self._moment(requests, slates.owners) if self.exposure else None
        for at, (_, of) in enumerate(self.exposure):
            sums[at, 0] = weights[self.filters.where(of, slates.items, moment)].sum()
        return sums

    def adjust(self, slates: Slates, requests: RequestBatch) -> Slates:
        """Boosts and exposure targets; best first anew."""
        deficits = requests.deficits
        pushes = deficits is not None and bool(self.exposure) and bool((deficits > 0).any())
        if not self.boosts and not pushes:
            return slates
        owners, items = slates.owners, slates.items
        scores = slates.scores.astype(np.float64)
        moment = self._moment(requests, owners)
        events: list[tuple[str, dict[str, Any], np.ndarray, np.ndarray]] = []
        for boost, when, multiply, add in self.boosts:
            who = np.ones(len(items), bool) if when is None else self.filters.where(when, items, moment)
            factor = np.nan_to_num(self.filters.numbers(multiply, items, moment), nan=1.0)
            factor = np.clip(factor, 1e-6, 1e6)
            more = np.nan_to_num(self.filters.numbers(add, items, moment), nan=0.0)
            after = np.where(scores >= 0, scores * factor, scores / factor) + more
            events.append(("boost", {"when": boost.when}, who & (after != scores), after - scores))
            scores = np.where(who, after, scores)
        if pushes:
            assert deficits is not None
            spread = spreads(scores, slates.offsets)[owners]
            for (target, of), deficit in zip(self.exposure, deficits):
                if deficit > 0:
                    push = target.gain * deficit * spread * self.filters.where(of, items, moment)
                    events.append(("exposure", {"of": target.of, "deficit": round(float(deficit), 6)}, push > 0, push))
                    scores = scores + push
        after = slates.scored(scores)
        for step, facts, who, change in events:
            after = after.with_trace_event(step, owners[who], facts, items=items[who], change=change[who])
        return after

    def rotate(self, slates: Slates, requests: RequestBatch) -> Slates:
        """Another order at another visit.

        Place r (from 1, after those kept) gets the key -ln r + strength · G, G of the Gumbel distribution: lists are
        drawn with weights r^(-1/strength) without replacement (Plackett-Luce), whatever the scale of the scores.
        """
        rotation = self.rules.rotation
        if rotation is None or rotation.strength == 0 or not len(slates.items):
            return slates
        owners, places = slates.owners, slates.places
        visits = requests.visits
        if visits is None:
            visits = np.broadcast_to(np.asarray(requests.now, np.int64), requests.n) // microseconds(rotation.every)
        users = requests.users if requests.users is not None else np.full(requests.n, -1, np.int64)
        noise = np.empty(len(owners))
        _gumbel(np.uint64(self.seed), np.asarray(users, np.int64), np.asarray(visits, np.int64), owners,
                slates.items.astype(np.int64), noise)  # fmt: skip
        moving = places >= rotation.keep
        key = -np.log(np.maximum(places - rotation.keep, 0) + 1.0) + rotation.strength * noise
        key = np.where(moving, key, np.inf)
        order = np.lexsort((-key, owners))
        moved = order != np.arange(len(order))
        after = slates.take(order)
        return after.with_trace_event(
            "rotate",
            owners[moved],
            {"strength": rotation.strength},
            items=after.items[moved],
            place=places[moved] + 1,
            came_from=places[order][moved] + 1,
        )

    def arrange(
        self, slates: Slates, requests: RequestBatch, k: int, *, policy: Policy | None = None, run: Run | None = None
    ) -> Slates:
        """Pins, duplicates, caps and shares, and what a policy explores; at most k items a request."""
        k = list_length(k)
        slates, pins = self._pinned(slates, requests, k)
        rules, items, owners = self.rules, slates.items, slates.owners
        caps: list[slot_allocation.Cap] = []
        told: list[tuple[str, dict[str, Any]]] = []
        if rules.dedupe:
            caps.append(self._cap(rules.dedupe, items, 1, k, True))
            told.append(("dedupe", {"by": rules.dedupe}))
        for cap in rules.caps:
            caps.append(self._cap(cap.per, items, cap.at_most, cap.first or k, cap.strict))
            told.append(("cap", {"per": cap.per, "at_most": cap.at_most, "first": cap.first or k}))
        moment = self._moment(requests, owners) if self.shares else None
        members = [(self.filters.where(of, items, moment), share.at_least) for share, of in self.shares]
        if not caps and not members and pins is None and policy is None:
            return _first(slates, k)
        constraints = slot_allocation.Constraints.of(slates.offsets, caps, members)
        found = slot_allocation.arrange(slates.offsets, k, pins=pins, constraints=constraints, run=run)
        explored = None
        if policy is not None:
            explored = _explored(slates, found, constraints, policy, requests)
        real = found.rows >= 0
        rows = found.rows[real]
        lengths = real.sum(axis=1)
        after = slates.take(rows, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
        if explored is not None:
            after = dataclasses.replace(after, propensities=explored.propensities)
        shown = np.zeros(len(items), dtype=bool)
        shown[rows] = True
        why, which, request = found.why[real], found.which[real], np.nonzero(real)[0]
        slot = np.nonzero(real)[1] + 1
        is_pin = why == slot_allocation.BY_PIN
        after = after.with_trace_event("pin", request[is_pin], items=after.items[is_pin], slot=slot[is_pin])
        for at, (step, said) in enumerate(told):
            held = (found.held == at) & ~shown
            after = after.with_trace_event(step, owners[held], said, items=items[held])
            late = (found.held == at) & shown
            after = after.with_trace_event(step + " moved down", owners[late], said, items=items[late])
            over = (why == slot_allocation.BY_YIELDING) & (which == at)
            after = after.with_trace_event(
                step + " yielded", request[over], said, items=after.items[over], slot=slot[over]
            )
        for at, (share, _) in enumerate(self.shares):
            facts: dict[str, Any] = {"of": share.of, "at_least": share.at_least}
            forced = (why == slot_allocation.BY_SHARE) & (which == at)
            after = after.with_trace_event(
                "share", request[forced], facts, items=after.items[forced], slot=slot[forced]
            )
            lacks = np.flatnonzero(found.missing[:, at])
            after = after.with_trace_event("share missed", lacks, facts, missing=found.missing[lacks, at])
        if explored is not None:
            there = explored.places
            after = after.with_trace_event("explore", request[there], items=after.items[there], slot=slot[there],
                               instead_of=explored.displaced)  # fmt: skip
        short = np.flatnonzero(lengths < np.minimum(k, np.diff(slates.offsets)))
        return after.with_trace_event("short", short, {"asked": k}, given=lengths[short])

    # -- inside -----------------------------------------------------------------------------------------------------

    def _moment(self, requests: RequestBatch, owners: np.ndarray | None = None) -> RequestValues:
        now = np.broadcast_to(np.asarray(requests.now, np.int64), requests.n)
        user, context = requests.user, requests.context
        if requests.n == 1 and not isinstance(user, pl.DataFrame) and not isinstance(context, pl.DataFrame):
            return RequestValues(user or {}, context or {}, int(now[0]))
        if requests.n == 1:
            user, context = (part.row(0, named=True) if isinstance(part, pl.DataFrame) else part or {}
                             for part in (user, context))  # fmt: skip
            return RequestValues(user, context, int(now[0]))
        if owners is None:
            raise ConfigError("a mask belongs to one request", remedy="ask for one request at a time")
        for part in (user, context):
            if part is not None and not isinstance(part, pl.DataFrame):
                raise ConfigError("many requests bring frames", remedy="a frame of one row a request")
        return RequestValues.rows(owners, self.filters.columns, user=user, context=context, now=now)  # type: ignore[arg-type]

    def _bought(self, requests: RequestBatch) -> np.ndarray:
        """request · n_items + item of what must stay away for what was done with it."""
        histories = requests.histories
        if histories is None or not self.rules.bought or not len(histories.items):
            return np.zeros(0, np.int64)
        owners = np.repeat(np.arange(len(histories)), histories.lengths)
        away = np.where(histories.kinds < len(self.away), self.away[histories.kinds % len(self.away)], -1)
        now = np.broadcast_to(np.asarray(requests.now, np.int64), requests.n)[owners]
        # An event of the future is as fresh as can be.
        stays = (away >= 0) & ((away == 2**62) | (now - histories.times < away))
        return owners[stays] * len(self.filters) + histories.items[stays]

    def _shown(self, requests: RequestBatch) -> np.ndarray:
        frequency, shown = self.rules.frequency, requests.shown
        if frequency is None or shown is None or shown.paired is None:
            return np.zeros(0, np.int64)
        often = shown.paired >= frequency.at_most
        return shown.owners[often] * len(self.filters) + shown.values[often]

    def _cap(self, name: str, items: np.ndarray, at_most: int, first: int, strict: bool) -> slot_allocation.Cap:
        value = self.filters.column(name)
        taken = value.take(items) if len(value) > 1 else _spread(value, len(items))
        known = np.ones(len(items), bool) if taken.valid is None else taken.valid
        if taken.dictionary is not None or taken.data.dtype == np.bool_:
            groups = taken.data.astype(np.int64)
        else:
            groups = np.unique(taken.data, return_inverse=True)[1].astype(np.int64)
        if taken.offsets is not None:
            return slot_allocation.Cap(taken.offsets, groups, at_most, first, strict)
        offsets = np.concatenate([[0], np.cumsum(known)]).astype(np.int64)
        return slot_allocation.Cap(offsets, groups[known], at_most, first, strict)

    def _pinned(self, slates: Slates, requests: RequestBatch, k: int) -> tuple[Slates, np.ndarray | None]:
        """Slates with pinned items in them, and each row's slot from 0, or -1; None without pins.

        A request's own pin of a slot replaces the house's. A pinned item that is excluded, or fails the filter, stock
        or dates, is not shown.
        """
        n = len(self.filters)
        own, slots = self.pins
        if not len(own) and requests.pins is None:
            return slates, None
        owner = np.repeat(np.arange(requests.n), len(own))
        item, slot = np.tile(own, requests.n), np.tile(slots, requests.n)
        if requests.pins is not None and requests.pins.paired is not None:
            owner = np.concatenate([requests.pins.owners, owner])
            item = np.concatenate([requests.pins.values, item])
            slot = np.concatenate([requests.pins.paired - 1, slot])
        if not len(item):
            return slates, None
        right = (item >= 0) & (item < n) & (slot >= 0) & (slot < k)
        owner, item, slot = owner[right], item[right], slot[right]
        # A slot has one item and an item one slot; what the request says stands first.
        for of_item in (False, True):
            by = item if of_item else slot
            first = np.sort(np.unique(owner * 2**31 + by, return_index=True)[1])
            owner, item, slot = owner[first], item[first], slot[first]
        good = ~np.isin(item, self.exclude)
        if requests.allowed is not None:
            good &= requests.allowed[item]
        if requests.closed:
            good &= np.isin(owner * n + item, _keys(requests.include, n))
        if requests.exclude is not None:
            good &= ~np.isin(owner * n + item, _keys(requests.exclude, n))
        moment = self._moment(requests, owner)
        for _, condition in self.conditions:
            good &= self.filters.where(condition, item, moment)
        dropped = (owner[~good], item[~good])
        owner, item, slot = owner[good], item[good], slot[good]
        keys = slates.owners * n + slates.items
        new = ~np.isin(owner * n + item, keys)
        if new.any():
            by = np.argsort(owner[new], kind="stable")
            to = owner[new][by]
            slates = slates.with_rows(to, item[new][by], slates.lowest()[to])
            keys = slates.owners * n + slates.items
        pins = np.full(len(keys), -1, np.int64)
        order = np.argsort(keys, kind="stable")
        pins[order[np.searchsorted(keys[order], owner * n + item)]] = slot
        return slates.with_trace_event("pin dropped", dropped[0], items=dropped[1]), pins


@dataclasses.dataclass(frozen=True, eq=False)
class _Explored:
    """What a policy changed of lists. propensities: float64 of all places. places: those that another item has now,
    among the places of all lists. displaced: int32, who had them."""

    propensities: np.ndarray
    places: np.ndarray
    displaced: np.ndarray


def _explored(
    slates: Slates,
    found: slot_allocation.Arranged,
    constraints: slot_allocation.Constraints,
    policy: Policy,
    requests: RequestBatch,
) -> _Explored:
    """Have a policy choose among what keeps every rule, and write what was drawn into `found`."""
    counts, rows = slot_allocation.openings(slates.offsets, found, constraints, TAIL)
    owners, slots = np.divmod(np.repeat(np.arange(counts.size), counts.ravel()), counts.shape[1])
    present = slates.items[found.rows[owners, slots]]
    openings = Openings(len(slates), owners, slots, rows, slates.items[rows], slates.scores[rows], present)
    seeds = np.zeros(len(slates), np.uint64) if requests.seeds is None else requests.seeds
    at, chances = drawn(openings, policy, seeds)
    stays = np.ones(counts.shape)
    np.subtract.at(stays, (owners, slots), chances)
    stays = np.maximum(stays, 0.0)
    stays[owners[at], slots[at]] = chances[at]
    real = found.rows >= 0
    place = np.cumsum(real.ravel()).reshape(real.shape) - 1
    found.rows[owners[at], slots[at]] = rows[at]
    found.why[owners[at], slots[at]] = slot_allocation.BY_POLICY
    return _Explored(stays[real], place[owners[at], slots[at]], present[at])


def _spread(value: Value, m: int) -> Value:
    """A value of one row, m times."""
    if value.offsets is not None:
        return Value(np.tile(value.data, m), None, value.dictionary, np.arange(m + 1) * len(value.data))
    return Value(np.broadcast_to(value.data, m), None if value.valid is None else np.broadcast_to(value.valid, m),
                 value.dictionary)  # fmt: skip


def _first(slates: Slates, k: int) -> Slates:
    """The first k of each."""
    lengths = np.diff(slates.offsets)
    if (lengths <= k).all():
        return slates
    if len(slates) == 1:
        return Slates(np.array([0, k], dtype=np.int64), slates.items[:k], slates.scores[:k], slates.events)
    return slates.keep(slates.places < k)


def _keys(ragged: Ragged | None, n: int) -> np.ndarray:
    return np.zeros(0, np.int64) if ragged is None else ragged.owners * n + ragged.values


def _codes(raw: Any, ids: Ids | None, filters: Filters, place: str, strict: bool = False) -> np.ndarray:
    """Item codes of a rule; unknown items are left out, or an error where each counts."""
    raw = list(raw)
    if not raw:
        return np.zeros(0, np.int64)
    codes = np.asarray(ids.encode(raw) if ids is not None else raw, dtype=np.int64)
    known = (codes >= 0) & (codes < len(filters))
    if strict and not known.all():
        raise ConfigError(f"{place}: item {raw[int(np.argmin(known))]!r} is not known", remedy="name a known item id")
    return np.unique(codes[known]) if not strict else codes


def quoted(name: str) -> str:
    """A column's name as an expression writes it."""
    return '"' + name.replace('"', '""') + '"'


def spreads(scores: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """float64[n]: standard deviation of each request's scores; 1 where they do not differ."""
    sizes = np.maximum(np.diff(offsets), 1)

    def total(values: np.ndarray) -> np.ndarray:
        sums = np.concatenate([[0.0], np.cumsum(values)])
        return sums[offsets[1:]] - sums[offsets[:-1]]

    mean = total(scores) / sizes
    deviation = np.sqrt(total((scores - np.repeat(mean, np.diff(offsets))) ** 2) / sizes)
    return np.where(deviation > 0, deviation, 1.0)


@kernel
def _gumbel(seed, users, visits, owners, items, out):
    """A draw of its own for each (seed, user, visit, item), whoever asks and in whatever order."""
    for row in range(len(owners)):
        request = owners[row]
        state = mix(seed + GOLDEN)
        state = mix(state ^ (np.uint64(users[request]) + GOLDEN))
        state = mix(state ^ (np.uint64(visits[request]) + GOLDEN))
        state = mix(state ^ (np.uint64(items[row]) + GOLDEN))
        uniform = (np.float64(state >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)
        out[row] = -np.log(-np.log(uniform))
