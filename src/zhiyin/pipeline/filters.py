"""Filters inside retrieval: which items an expression lets through, kept as masks from request to request.

    filters = Filters(items, user={"age": int}, context={"device": str})
    mask = filters.mask("price < 50 AND NOT adult AND user.age >= min_age", Moment({"age": 17}))
    top_k_where(item_vectors, queries, mask, k=100)    # see `models.masked_search`

The filter works before the best k are chosen, so k items come back whenever k items qualify.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.errors import ConfigError, nearest
from zhiyin.core.metering import spend
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.models.masked_search import Mask
from zhiyin.pipeline.expression_values import Value, column_value, evaluate, given_value, null, numbers, truth
from zhiyin.pipeline.expressions import Columns, Expression, Node, conjunction

__all__ = ["Columns", "Expression", "Filters", "Mask", "Moment"]

# Expressions kept as trees; nanoseconds that reading one character of one takes.
PARSED, READ = 4_096, 20_000.0
_NEVER = 2**63 - 1


@dataclasses.dataclass(frozen=True, eq=False)
class Moment:
    """What a request brings to an expression: its user's and context's columns, and its time.

    Parameters
    ----------
    user, context: values by column; a column that is not given is NULL.
    now: microseconds UTC.
    """

    user: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    context: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    now: int = 0

    def value(self, scope: str, name: str, kind: str) -> Value:
        given = (self.user if scope == "user" else self.context).get(name)
        return given if isinstance(given, Value) else given_value(given, kind, f"{scope}.{name}")

    @classmethod
    def rows(
        cls,
        owners: np.ndarray,
        columns: Columns,
        *,
        user: pl.DataFrame | None = None,
        context: pl.DataFrame | None = None,
        now: np.ndarray | int = 0,
    ) -> _Moments:
        """Many requests at once: row r of an expression belongs to request owners[r].

        user, context: frames of one row a request. now: int64[n].
        """
        return _Moments(owners, columns, {"user": user, "context": context}, now)


class _Moments(Moment):
    """A moment a row."""

    def __init__(self, owners: np.ndarray, columns: Columns, frames: dict[str, pl.DataFrame | None], now: Any) -> None:
        object.__setattr__(self, "now", np.asarray(now)[owners] if np.ndim(now) else now)
        object.__setattr__(self, "_owners", owners)
        object.__setattr__(self, "_frames", frames)

    def value(self, scope: str, name: str, kind: str) -> Value:
        frame: pl.DataFrame | None = self._frames[scope]  # type: ignore[attr-defined]
        if frame is None or name not in frame.columns:
            return given_value(None, kind, name)
        values = column_value(frame[name], kind)
        if len(values) != len(frame):
            return values
        return values.take(self._owners)  # type: ignore[attr-defined]


@dataclasses.dataclass
class _Kept:
    """A mask in the cache: the columns it is made of, and until when it holds (microseconds UTC)."""

    mask: Mask
    columns: frozenset[tuple[str, str]]
    since: int = -_NEVER
    until: int = _NEVER


class Filters:
    """Expressions over one catalogue, with masks kept from request to request.

    Masks are kept by what an expression says, not by how it is written, least recently used out first. What speaks of
    items only is kept even where the rest depends on the user; a mask with NOW() is kept until the next moment at which
    it changes. Any number of threads may ask.

    Parameters
    ----------
    items: one row an item, row = item code.
    user, context: types of the columns that requests bring: a Polars schema or frame, or {"age": int}.
    multi: text columns that hold several values as "a|b", besides those that are found by their contents.
    schema: types of the columns of items and users; with it nothing is found by contents, and a column that no item has
    yet is NULL.
    max_bytes: what kept masks may hold in all.
    """

    def __init__(
        self,
        items: pl.DataFrame,
        user: Any = None,
        context: Any = None,
        *,
        multi: tuple[str, ...] = (),
        schema: CatalogueSchema | None = None,
        max_bytes: int = 256 << 20,
    ) -> None:
        self.items, self.version, self.max_bytes = items, 0, max_bytes
        self._given = (user, context, multi)
        self.columns = self._columns(items, schema)
        self.hits = self.misses = 0
        self._values: dict[tuple[str, str], Value] = {}
        self._masks: OrderedDict[str, _Kept] = OrderedDict()
        self._parsed: OrderedDict[tuple[str, str | None], Expression] = OrderedDict()
        self._held, self._lock = 0, threading.RLock()

    def __len__(self) -> int:
        return len(self.items)

    @functools.cached_property
    def everything(self) -> Mask:
        """The mask that all items pass."""
        return Mask.of(np.ones(len(self), dtype=bool))

    @property
    def held(self) -> int:
        """Bytes of the masks that are kept."""
        return self._held

    def replace(self, items: pl.DataFrame, schema: CatalogueSchema | None = None) -> int:
        """Take a new catalogue. What is kept of columns that did not change stays. Returns the new version.

        A frame of another length has other item codes: everything is forgotten. schema: as it is from now on.
        """
        with self._lock:
            old, same = self.items, len(items) == len(self.items)
            columns = self._columns(items, schema)
            kinds, before = columns.kinds["item"], self.columns.kinds["item"]
            changed = {
                name
                for name in {*old.columns, *items.columns, *kinds}
                if not same
                or kinds.get(name) != before.get(name)
                or (name in old.columns) != (name in items.columns)
                or (name in old.columns and not old[name].equals(items[name], check_dtypes=True, null_equal=True))
            }
            self.items, self.columns, self.version = items, columns, self.version + 1
            self.__dict__.pop("everything", None)
            self._parsed.clear()
            self._values = {key: value for key, value in self._values.items() if key[1] not in changed}
            for key in [key for key, kept in self._masks.items() if {name for _, name in kept.columns} & changed]:
                self._held -= self._masks.pop(key).mask.nbytes
            if not same:
                self._masks.clear()
                self._held = 0
            return self.version

    def _columns(self, items: pl.DataFrame, schema: CatalogueSchema | None) -> Columns:
        user, context, multi = self._given
        if schema is not None:
            return Columns.of_schema(schema, items, user, context)
        return Columns.of(items, user, context, multi=multi)

    def another(self, items: pl.DataFrame, schema: CatalogueSchema | None = None) -> Filters:
        """Filters of a new catalogue of the same length, while this one goes on: what is kept is shared by now."""
        with self._lock:
            made = copy.copy(self)
            made._lock = threading.RLock()
            made._values, made._masks, made._parsed = dict(self._values), OrderedDict(self._masks), OrderedDict()
        made.replace(items, schema)
        return made

    def parse(self, text: str | Expression, want: str | None = None) -> Expression:
        """The expression of a text, read once. See `Expression.parse`."""
        if isinstance(text, Expression):
            return text
        key = (text, want)
        with self._lock:
            found = self._parsed.get(key)
            if found is not None:
                self._parsed.move_to_end(key)
                return found
            version, columns = self.version, self.columns
        spend(READ * len(text))
        made = Expression.parse(text, columns, want)
        with self._lock:
            if version == self.version:
                self._parsed[key] = made
                if len(self._parsed) > PARSED:
                    self._parsed.popitem(last=False)
        return made

    def mask(self, filter: str | Expression, moment: Moment | None = None) -> Mask:
        """Items that a filter lets through in a moment. What is NULL is not let through."""
        node, moment = self.parse(filter, "bool").node, moment or Moment()
        if isinstance(moment, _Moments):
            raise ConfigError("a mask belongs to one request", remedy="ask `where` for many requests at once")
        bound = self._bind(node, moment)
        kept = self._kept(bound, moment.now)
        if kept is not None:
            return kept
        parts = node.args if node.op == "and" else (node,)
        fixed = [part for part in parts if part.scopes <= {"item"}]
        moving = [part for part in parts if not part.scopes <= {"item"}]
        if fixed and moving:
            # What only speaks of items is looked up; the rest is asked of the items that are left.
            first = self._mask_of(conjunction(fixed), moment)
            rest = self._bind(conjunction(moving), moment)
            if first.count <= len(self) // 4:
                rows = first.rows
                good = truth(self._evaluate(rest, moment, rows), len(rows))
                kept = Mask(len(self), int(good.sum()), None, rows[good])
                self._keep(bound, kept, moment)
                return kept
            kept = first & self._mask_of(rest, moment)
            if node.scopes <= {"item", "now"}:
                self._keep(bound, kept, moment)
            return kept
        return self._mask_of(bound, moment)

    def where(self, filter: str | Expression, items: np.ndarray, moment: Moment | None = None) -> np.ndarray:
        """bool[m]: which of some items (int32[m] codes) a filter lets through."""
        node, moment = self.parse(filter, "bool").node, moment or Moment()
        if not isinstance(moment, _Moments):
            kept = self._kept(node, moment.now) if node.scopes <= {"item", "now"} else None
            if kept is not None:
                return kept.holds(items)
        return truth(self._evaluate(node, moment, items), len(items))

    def numbers(
        self, expression: str | Expression, items: np.ndarray | None = None, moment: Moment | None = None
    ) -> np.ndarray:
        """float64[m]: a number for each of some items, or of all (None); NaN where NULL."""
        node, moment = self.parse(expression, "number").node, moment or Moment()
        return numbers(self._evaluate(node, moment, items), len(self) if items is None else len(items))

    def column(self, name: str) -> Value:
        """A column of items as arrays; see `Value`. Raises ConfigError for an unknown one."""
        found = self.columns.find("item", name)
        if found is None:
            raise ConfigError(
                f"items have no column {name!r}", remedy=nearest(name, list(self.columns.kinds["item"]) or ["none"])
            )
        return self._column(found)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _column(self, name: str) -> Value:
        key = ("item", name)
        found = self._values.get(key)
        if found is None:
            version, kind = self.version, self.columns.kinds["item"][name]
            found = column_value(self.items[name], kind) if name in self.items.columns else null(kind)
            with self._lock:
                if version == self.version:
                    self._values[key] = found
        return found

    def _evaluate(self, node: Node, moment: Moment, rows: np.ndarray | None) -> Value:
        taken: dict[str, Value] = {}

        def source(step: Node) -> Value | None:
            if step.op == "column":
                scope, name = step.value
                if step.text not in taken:
                    if scope == "item":
                        value = self._column(name)
                        taken[step.text] = value if rows is None else value.take(rows)
                    else:
                        taken[step.text] = moment.value(scope, name, step.kind)
                return taken[step.text]
            if step.op == "now":
                return Value(np.atleast_1d(np.asarray(moment.now, dtype=np.int64)))
            return None

        return evaluate(node, source)

    def _bind(self, node: Node, moment: Moment) -> Node:
        """What the request brings put in as constants, and what follows from constants alone computed."""
        if node.scopes <= {"item", "now"}:
            return node
        if node.op == "column":
            return _constant(moment.value(node.value[0], node.value[1], node.kind), node.kind)
        args = tuple(self._bind(arg, moment) for arg in node.args)
        if node.op in ("and", "or"):
            return _shortened(node.op, args)
        made = Node(node.op, node.kind, args, node.value)
        if not made.scopes and node.kind not in ("texts", "numbers"):
            return _constant(evaluate(made, lambda step: None), node.kind)
        return made

    def _mask_of(self, node: Node, moment: Moment) -> Mask:
        found = self._kept(node, moment.now)
        if found is None:
            found = Mask.of(truth(self._evaluate(node, moment, None), len(self)))
            self._keep(node, found, moment)
        return found

    def _kept(self, node: Node, now: int) -> Mask | None:
        with self._lock:
            kept = self._masks.get(node.text)
            if kept is None or not kept.since <= now < kept.until:
                self.misses += 1
                return None
            self.hits += 1
            self._masks.move_to_end(node.text)
            return kept.mask

    def _keep(self, node: Node, mask: Mask, moment: Moment) -> None:
        version, until, since = self.version, _NEVER, -_NEVER
        if "now" in node.scopes:
            since, until = moment.now, self._until(node, moment)
            if until <= since:
                return
        if mask.nbytes > self.max_bytes:
            return
        with self._lock:
            if version != self.version:
                return
            old = self._masks.pop(node.text, None)
            self._held += mask.nbytes - (old.mask.nbytes if old else 0)
            self._masks[node.text] = _Kept(mask, node.columns, since, until)
            while self._held > self.max_bytes:
                self._held -= self._masks.popitem(last=False)[1].mask.nbytes

    def _until(self, node: Node, moment: Moment) -> int:
        """The first moment after this one at which a condition with NOW() may change; this one if nobody knows.

        `time < NOW() + constant` changes for an item when the moment passes its time.
        """
        if "now" not in node.scopes:
            return _NEVER
        if node.op in ("lt", "le", "eq"):
            moving, fixed = node.args if "now" in node.args[0].scopes else (node.args[1], node.args[0])
            shift = _shift(moving)
            if shift is not None and fixed.kind == "time" and fixed.scopes <= {"item"}:
                times = self._evaluate(fixed, moment, None)
                turns = times.data if times.valid is None else times.data[np.broadcast_to(times.valid, len(times.data))]
                turns = turns[turns >= moment.now + shift]
                if not len(turns):
                    return _NEVER
                return max(int(turns.min()) - shift, moment.now + 1)
            return moment.now
        if node.op in ("and", "or", "not", "isnull", "coalesce", "case"):
            return min((self._until(arg, moment) for arg in node.args), default=_NEVER)
        return moment.now


def _shift(node: Node) -> int | None:
    """NOW() plus how many microseconds; None for anything else."""
    if node.op == "now":
        return 0
    if node.op in ("add", "sub") and len(node.args) == 2:
        left, right = node.args
        if right.op == "literal" and right.value is not None and left.op == "now":
            return round(right.value) if node.op == "add" else -round(right.value)
        if left.op == "literal" and left.value is not None and right.op == "now" and node.op == "add":
            return round(left.value)
    return None


class _Constant(Value):
    """A list that a request brought, as a constant: written out where it is part of a key."""

    def __repr__(self) -> str:
        entries = np.unique(self.data)
        return repr(self.words.gather(entries).to_list() if self.words is not None else entries.tolist())


def _constant(value: Value, kind: str) -> Node:
    """A value of one row as a literal."""
    if value.valid is not None and not value.valid[0]:
        return Node("literal", kind)
    if kind in ("texts", "numbers"):
        return Node("constant", kind, value=_Constant(value.data, value.valid, value.words, value.offsets))
    if kind == "text":
        assert value.words is not None
        return Node("literal", kind, value=value.words[int(value.data[0])])
    return Node("literal", kind, value=value.data[0].item())


def _shortened(op: str, args: tuple[Node, ...]) -> Node:
    """AND or OR without the constants that decide nothing; one that decides everything stands for all."""
    ends = op == "or"
    left = []
    for arg in args:
        if arg.op == "literal" and arg.value is not None:
            if arg.value is ends:
                return Node("literal", "bool", value=ends)
            continue
        left.append(arg)
    if not left:
        return Node("literal", "bool", value=not ends)
    if len(left) == 1:
        return left[0]
    return conjunction(left) if op == "and" else Node(op, "bool", tuple(left))
