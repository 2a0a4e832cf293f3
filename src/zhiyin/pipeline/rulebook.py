"""Rules bound to a catalogue: the steps that turn candidates into lists.

A `Rulebook` does, in this order:

1. `qualify`: exclude, include, filter, stock, dates, bought, frequency; of these, pins obey exclude, filter, stock and
   dates only;
2. boosts, then exposure targets, then a new order by score;
3. re-ranking for diversity (see `diversity_rerankers`), if there is any;
4. rotation: another order at another visit;
5. pins, duplicates, caps and shares (see `slot_allocation` for their precedence), and a policy that chooses among the
   lists that satisfy all of them (see `choosing_stage`).

`mask` and `excluded_items` are the first step ahead of retrieval, so that k items come back whenever k items qualify;
`required_groups` gives the candidates that shares and exposure targets need. All steps but the first are one compiled
function, see `list_plan`.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.durations import microseconds
from zhiyin.core.errors import ConfigError, suggest
from zhiyin.core.params import list_length
from zhiyin.core.run import Run
from zhiyin.data.ids import Ids
from zhiyin.pipeline.choosing_stage import ListChooser
from zhiyin.pipeline.exposure import exposure_weights
from zhiyin.pipeline.expressions import Expression
from zhiyin.pipeline.filters import Filters, Mask, RequestValues
from zhiyin.pipeline.list_plan import ListInputs, ListPlan
from zhiyin.pipeline.rules import Boost, Rules
from zhiyin.pipeline.slate import RequestBatch, Slates, request_item_keys

# Stands for "never again" among the microseconds after which an item may come back.
NEVER = 2**62


class Rulebook:
    """Rules bound to a catalogue; see the module. It holds no state of requests; any number of threads may use one.

    Parameters
    ----------
    rules: the rules of the settings file.
    filters: of the catalogue; expressions may use its columns.
    kinds: names of event kinds by code (`Dataset.kinds`), for `bought`.
    item_ids: raw ids to codes; None: the rules hold codes.
    seed: of rotation.

    Raises ConfigError for a rule that does not fit the catalogue.
    """

    def __init__(
        self, rules: Rules, filters: Filters, *, kinds: Sequence[str] = (), item_ids: Ids | None = None, seed: int = 0
    ) -> None:
        self.rules, self.filters, self.seed = rules, filters, seed
        self.conditions = self._conditions()
        # Conditions that read columns of items only, and the others.
        self._fixed = [condition for _, condition in self.conditions if condition.node.scopes <= {"item"}]
        self._varying = [condition for _, condition in self.conditions if not condition.node.scopes <= {"item"}]
        self._mask: tuple[int, Mask | None] = (-1, None)
        self.boosts = [self._boost(boost) for boost in rules.boosts]
        self.shares = [(share, filters.parse(share.of, "bool")) for share in rules.shares]
        self.exposure = [(target, filters.parse(target.of, "bool")) for target in rules.exposure]
        for name in filter(None, [rules.dedupe, *(cap.per for cap in rules.caps)]):
            filters.column(name)
        expressions = [expression for _, expression in (*self.conditions, *self.shares, *self.exposure)]
        # (scope, name) of the columns of requests that decide which items qualify and which belong to a group.
        self.request_columns = frozenset(
            column for expression in expressions for column in expression.node.columns if column[0] != "item"
        )
        self.include = None if rules.include is None else _item_codes(rules.include, item_ids, filters, "rules.include")
        self.exclude = _item_codes(rules.exclude, item_ids, filters, "rules.exclude")
        slots = sorted(rules.pins)
        self.pins = (
            _item_codes([rules.pins[slot] for slot in slots], item_ids, filters, "rules.pins", strict=True),
            np.array(slots, dtype=np.int64) - 1,
        )
        # int64 by event kind: microseconds after an event before its item may be shown again; -1: at once.
        self.repeat_after = np.full(max(1, len(kinds)), -1, dtype=np.int64)
        for kind, duration in rules.bought.items():
            if kind not in kinds:
                raise ConfigError(
                    f"rules.bought: there are no events of kind {kind!r}", remedy=suggest(kind, list(kinds) or ["none"])
                )
            if duration != "always":
                self.repeat_after[list(kinds).index(kind)] = NEVER if duration == "never" else microseconds(duration)

    def _conditions(self) -> list[tuple[str, Expression]]:
        """The conditions that an item must meet, by the name of the step."""
        rules, conditions = self.rules, []
        if rules.filter:
            conditions.append(("filter", self.filters.parse(rules.filter, "bool")))
        if rules.stock:
            kind = self._column_kind(rules.stock, ("number", "bool"), "stock")
            name = quoted_column(rules.stock)
            conditions.append(("stock", self.filters.parse(name if kind == "bool" else f"{name} > 0", "bool")))
        dates = []
        if rules.valid_from:
            self._column_kind(rules.valid_from, ("time",), "valid_from")
            name = quoted_column(rules.valid_from)
            dates.append(f"({name} IS NULL OR {name} <= NOW())")
        if rules.valid_to:
            self._column_kind(rules.valid_to, ("time",), "valid_to")
            name = quoted_column(rules.valid_to)
            column = self.filters.columns.find("item", rules.valid_to) or ""
            is_date = self.filters.items.schema.get(column) == pl.Date
            last = f"{name} > NOW() - INTERVAL '1' DAY" if is_date else f"{name} >= NOW()"
            dates.append(f"({name} IS NULL OR {last})")
        if dates:
            conditions.append(("dates", self.filters.parse(" AND ".join(dates), "bool")))
        return conditions

    def _column_kind(self, name: str, kinds: tuple[str, ...], key: str) -> str:
        """The kind of a column of items. Raises ConfigError where it is none of `kinds`."""
        column = self.filters.columns.find("item", name)
        if column is None:
            names = list(self.filters.columns.kinds["item"]) or ["none"]
            raise ConfigError(f"rules.{key}: items have no column {name!r}", remedy=suggest(name, names))
        kind = self.filters.columns.kinds["item"][column]
        if kind not in (*kinds, "null"):
            raise ConfigError(f"rules.{key}: column {name!r} is of kind {kind}", remedy=f"needed: {' or '.join(kinds)}")
        return kind

    def _boost(self, boost: Boost) -> tuple[Boost, Expression | None, Expression, Expression]:
        when = self.filters.parse(boost.when, "bool") if boost.when else None
        return boost, when, self.filters.parse(boost.multiply, "number"), self.filters.parse(boost.add, "number")

    # -- ahead of retrieval -----------------------------------------------------------------------------------------

    def mask(self, requests: RequestBatch | None = None) -> Mask:
        """Items that include lists, filter, stock and dates let one request have."""
        requests = requests or RequestBatch()
        n, total = len(self.filters), self._fixed_mask()
        if self._varying:
            values = self.request_values(requests)
            for condition in self._varying:
                mask = self.filters.mask(condition, values)
                total = mask if total.count == n else total & mask
        if requests.include is not None:
            include = requests.include.values
            total = total & Mask.of_rows(np.unique(include[(include >= 0) & (include < n)]), n)
        return total

    def _fixed_mask(self) -> Mask:
        """Items that include and those conditions let through that are the same for all requests and times."""
        version, mask = self._mask
        if mask is not None and version == self.filters.version:
            self.filters.count_hits(len(self._fixed))
            return mask
        version, n, total = self.filters.version, len(self.filters), self.filters.everything
        for condition in self._fixed:
            mask = self.filters.mask(condition)
            total = mask if total.count == n else total & mask
        if self.include is not None:
            total = total & Mask.of_rows(self.include, n)
        self._mask = version, total
        return total

    def excluded_items(self, requests: RequestBatch) -> tuple[np.ndarray, np.ndarray]:
        """Items that each request must not get: excluded, bought, or shown too often.

        Returns
        -------
        offsets int64[n + 1] and item codes int32, as `top_k_masked` and `top_k` take them.
        """
        rules, n_items = self.rules, len(self.filters)
        if requests.exclude is None and not len(self.exclude) and not rules.bought and rules.frequency is None:
            return np.zeros(requests.n + 1, dtype=np.int64), np.zeros(0, dtype=np.int32)
        keys = [request_item_keys(requests.exclude, n_items), self._bought_keys(requests), self._shown_keys(requests)]
        if len(self.exclude):
            every = np.arange(requests.n)[:, None] * n_items + self.exclude[None, :]
            keys.append(every.ravel())
        if not any(map(len, keys)):
            return np.zeros(requests.n + 1, dtype=np.int64), np.zeros(0, dtype=np.int32)
        unique = np.unique(np.concatenate(keys))
        owners, items = np.divmod(unique, max(1, n_items))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=requests.n))]).astype(np.int64)
        return offsets, items.astype(np.int32)

    def required_groups(self, requests: RequestBatch, k: int) -> list[tuple[Expression, int]]:
        """Groups that lists of k items need candidates of, and how many: those of shares, and those with a deficit of
        exposure."""
        # Caps and duplicates may leave some of the candidates out: ask for more.
        factor = 4 if self.rules.caps or self.rules.dedupe else 1
        groups = [(of, factor * math.ceil(share.at_least * k - 1e-9)) for share, of in self.shares]
        if requests.deficits is not None:
            groups += [(of, factor * k) for (_, of), deficit in zip(self.exposure, requests.deficits) if deficit > 0]
        return [(of, count) for of, count in groups if count]

    @functools.cached_property
    def plan(self) -> ListPlan:
        """What makes the lists."""
        return ListPlan(self)

    def without_boosts(self) -> Rulebook:
        """The same rules but for boosts."""
        changed = copy.copy(self)
        changed.boosts = []
        vars(changed).pop("plan", None)
        return changed

    # -- the steps --------------------------------------------------------------------------------------------------

    def rerank(
        self,
        slates: Slates,
        requests: RequestBatch,
        k: int,
        *,
        chooser: ListChooser | None = None,
        run: Run | None = None,
    ) -> Slates:
        """All steps but variety, in order. Returns slates of at most k items."""
        return self.rerank_qualified(self.qualify(slates, requests), requests, k, chooser=chooser, run=run)

    def rerank_qualified(
        self,
        slates: Slates,
        requests: RequestBatch,
        k: int,
        *,
        chooser: ListChooser | None = None,
        run: Run | None = None,
    ) -> Slates:
        """As `rerank` without the first step, for slates of items that pass `mask` and `excluded_items`."""
        inputs = ListInputs(
            np.asarray(slates.offsets, np.int64),
            np.asarray(slates.items, np.int32),
            np.asarray(slates.scores, np.float32),
            requests,
            list_length(k),
            chooser=None if chooser is None else lambda _: chooser,
        )
        lists = self.plan.make(inputs, run or Run(threads=1))
        return dataclasses.replace(lists, events=slates.events) if slates.events else lists

    def qualify(self, slates: Slates, requests: RequestBatch) -> Slates:
        """Drops items that may not be shown; the trace has the first rule that each failed."""
        n_items, owners, items = len(self.filters), slates.owners, slates.items
        keys = owners * n_items + items
        qualified = np.ones(len(items), dtype=bool)
        drops: list[tuple[str, np.ndarray]] = []

        def drop(step: str, failed: np.ndarray) -> None:
            dropped = qualified & failed
            if dropped.any():
                drops.append((step, dropped))
                np.logical_and(qualified, ~dropped, out=qualified)

        if len(self.exclude):
            drop("exclude", np.isin(items, self.exclude))
        if requests.exclude is not None:
            drop("exclude", np.isin(keys, request_item_keys(requests.exclude, n_items)))
        if self.include is not None:
            drop("include", ~np.isin(items, self.include))
        if requests.include is not None:
            drop("include", ~np.isin(keys, request_item_keys(requests.include, n_items)))
        if self.conditions:
            values = self.request_values(requests, owners)
            for step, condition in self.conditions:
                drop(step, ~self.filters.where(condition, items, values))
        if self.rules.bought:
            drop("bought", np.isin(keys, self._bought_keys(requests)))
        if self.rules.frequency is not None:
            drop("frequency", np.isin(keys, self._shown_keys(requests)))
        if not drops:
            return slates
        after = slates.keep(qualified)
        for step, dropped in drops:
            after = after.with_trace_event(step, owners[dropped], items=items[dropped])
        return after

    def exposure_sums(self, slates: Slates, requests: RequestBatch) -> np.ndarray:
        """float64[groups, 3]: exposure of each group of `exposure` in lists, all exposure in them, and lists."""
        if not self.exposure:
            return np.zeros((0, 3))
        weights = exposure_weights(slates.places)
        sums = np.zeros((len(self.exposure), 3))
        sums[:, 1], sums[:, 2] = weights.sum(), np.count_nonzero(np.diff(slates.offsets))
        values = self.request_values(requests, slates.owners)
        for group, (_, of) in enumerate(self.exposure):
            sums[group, 0] = weights[self.filters.where(of, slates.items, values)].sum()
        return sums

    # -- inside -----------------------------------------------------------------------------------------------------

    def request_values(self, requests: RequestBatch, owners: np.ndarray | None = None) -> RequestValues:
        """The values that requests give to expressions.

        owners: int64[m], the request of each row that is evaluated; needed where there are several requests.
        """
        user, context = requests.user, requests.context
        if requests.n == 1 and not isinstance(user, pl.DataFrame) and not isinstance(context, pl.DataFrame):
            return RequestValues(user or {}, context or {}, int(np.asarray(requests.now).item()))
        now = np.broadcast_to(np.asarray(requests.now, np.int64), requests.n)
        if requests.n == 1:
            user, context = (part.row(0, named=True) if isinstance(part, pl.DataFrame) else part or {}
                             for part in (user, context))  # fmt: skip
            return RequestValues(user, context, int(now[0]))
        if owners is None:
            raise ConfigError("a mask belongs to one request", remedy="ask for one request at a time")
        for part in (user, context):
            if part is not None and not isinstance(part, pl.DataFrame):
                raise ConfigError("many requests bring frames", remedy="a frame of one row a request")
        columns = self.filters.columns
        return RequestValues.rows(owners, columns, user=user, context=context, now=now)  # type: ignore[arg-type]

    def _bought_keys(self, requests: RequestBatch) -> np.ndarray:
        """request · n_items + item of items that `bought` keeps out after an event of the user."""
        histories = requests.histories
        if histories is None or not self.rules.bought or not len(histories.items):
            return np.zeros(0, np.int64)
        owners = np.repeat(np.arange(len(histories)), histories.lengths)
        n_kinds = len(self.repeat_after)
        wait = np.where(histories.kinds < n_kinds, self.repeat_after[histories.kinds % n_kinds], -1)
        now = np.broadcast_to(np.asarray(requests.now, np.int64), requests.n)[owners]
        # An event of the future counts as one of this moment.
        excluded = (wait >= 0) & ((wait == NEVER) | (now - histories.times < wait))
        return owners[excluded] * len(self.filters) + histories.items[excluded]

    def _shown_keys(self, requests: RequestBatch) -> np.ndarray:
        """request · n_items + item of items that `frequency` keeps out."""
        frequency, shown = self.rules.frequency, requests.shown
        if frequency is None or shown is None or shown.paired is None:
            return np.zeros(0, np.int64)
        too_often = shown.paired >= frequency.at_most
        return shown.owners[too_often] * len(self.filters) + shown.values[too_often]

    def may_be_pinned(self, requests: RequestBatch, owners: np.ndarray, items: np.ndarray) -> np.ndarray:
        """bool[m]: whether each item, of the request in `owners`, passes the rules that pins obey."""
        n_items = len(self.filters)
        allowed = ~np.isin(items, self.exclude)
        if requests.allowed is not None:
            allowed &= requests.allowed[items]
        keys = owners * n_items + items
        if requests.closed:
            allowed &= np.isin(keys, request_item_keys(requests.include, n_items))
        if requests.exclude is not None:
            allowed &= ~np.isin(keys, request_item_keys(requests.exclude, n_items))
        values = self.request_values(requests, owners)
        for _, condition in self.conditions:
            allowed &= self.filters.where(condition, items, values)
        return allowed


def _item_codes(raw: Any, ids: Ids | None, filters: Filters, place: str, strict: bool = False) -> np.ndarray:
    """Item codes of a rule. Unknown items are left out; where `strict`, they raise ConfigError."""
    raw = list(raw)
    if not raw:
        return np.zeros(0, np.int64)
    codes = np.asarray(ids.encode(raw) if ids is not None else raw, dtype=np.int64)
    is_item = (codes >= 0) & (codes < len(filters))
    if strict and not is_item.all():
        raise ConfigError(f"{place}: item {raw[int(np.argmin(is_item))]!r} is not known", remedy="name a known item id")
    return codes if strict else np.unique(codes[is_item])


def quoted_column(name: str) -> str:
    """A column's name as an expression writes it."""
    return '"' + name.replace('"', '""') + '"'
