"""Filters inside retrieval: which items pass an expression, as masks cached from request to request.

    filters = Filters(items, user={"age": int}, context={"device": str})
    mask = filters.mask("price < 50 AND NOT adult AND user.age >= min_age", RequestValues({"age": 17}))
    top_k_masked(item_vectors, queries, mask, k=100)    # see `models.masked_search`

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

from zhiyin.core.errors import ConfigError, suggest
from zhiyin.core.work_limits import spend
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.models.masked_search import Mask
from zhiyin.pipeline.column_kinds import ColumnKinds
from zhiyin.pipeline.expression_evaluation import evaluate
from zhiyin.pipeline.expression_nodes import Node, conjunction
from zhiyin.pipeline.expression_values import (
    Value,
    column_value,
    null_value,
    number_values,
    request_value,
    truth_values,
)
from zhiyin.pipeline.expressions import Expression

__all__ = ["ColumnKinds", "Expression", "Filters", "Mask", "RequestValues"]

# Parsed expressions cached; nanoseconds that parsing takes for each character.
MAX_PARSED, PARSE_NS_PER_CHARACTER = 4_096, 20_000.0
_NEVER = 2**63 - 1


@dataclasses.dataclass(frozen=True, eq=False)
class RequestValues:
    """The columns of user and context, and the time, that a request gives to expressions.

    Parameters
    ----------
    user, context: values by column; a column that is not given is NULL.
    now: microseconds UTC.
    """

    user: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    context: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    now: int = 0

    def value(self, scope: str, name: str, kind: str) -> Value:
        value = (self.user if scope == "user" else self.context).get(name)
        return value if isinstance(value, Value) else request_value(value, kind, f"{scope}.{name}")

    @classmethod
    def rows(
        cls,
        owners: np.ndarray,
        columns: ColumnKinds,
        *,
        user: pl.DataFrame | None = None,
        context: pl.DataFrame | None = None,
        now: np.ndarray | int = 0,
    ) -> _BatchValues:
        """Many requests at once: row r of an expression belongs to request owners[r].

        user, context: frames of one row a request. now: int64[n].
        """
        return _BatchValues(owners, columns, {"user": user, "context": context}, now)


class _BatchValues(RequestValues):
    """Values of many requests: each row of an expression has those of its request."""

    def __init__(
        self, owners: np.ndarray, columns: ColumnKinds, frames: dict[str, pl.DataFrame | None], now: Any
    ) -> None:
        object.__setattr__(self, "now", np.asarray(now)[owners] if np.ndim(now) else now)
        object.__setattr__(self, "_owners", owners)
        object.__setattr__(self, "_frames", frames)

    def value(self, scope: str, name: str, kind: str) -> Value:
        frame: pl.DataFrame | None = self._frames[scope]  # type: ignore[attr-defined]
        if frame is None or name not in frame.columns:
            return request_value(None, kind, name)
        values = column_value(frame[name], kind)
        if len(values) != len(frame):
            return values
        return values.take(self._owners)  # type: ignore[attr-defined]


@dataclasses.dataclass
class _CachedMask:
    """A mask in the cache, the columns it is computed from, and when it is valid (microseconds UTC)."""

    mask: Mask
    columns: frozenset[tuple[str, str]]
    since: int = -_NEVER
    until: int = _NEVER


class Filters:
    """Expressions over one catalogue, with masks cached from request to request.

    The key of a mask is the normal form of its expression (`Node.key`); the least recently used one is evicted first.
    The part that reads only columns of items is cached even where the rest depends on the user; a mask with NOW() is
    cached until the next time at which it changes. Any number of threads may use one.

    Parameters
    ----------
    items: one row an item, row = item code.
    user, context: types of the columns that requests bring: a Polars schema or frame, or {"age": int}.
    multi: text columns that hold several values as "a|b", besides those that are inferred from their contents.
    schema: types of the columns of items and users; with it nothing is inferred from contents, and a column that no
        item has yet is NULL.
    max_bytes: size of all cached masks.
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
        # Of columns of items: groups by item, and where those of each item begin, where they are several.
        self._groups: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._masks: OrderedDict[str, _CachedMask] = OrderedDict()
        self._parsed: OrderedDict[tuple[str, str | None], Expression] = OrderedDict()
        self._cached_bytes, self._lock = 0, threading.RLock()

    def __len__(self) -> int:
        return len(self.items)

    @functools.cached_property
    def everything(self) -> Mask:
        """The mask that all items pass."""
        return Mask.of(np.ones(len(self), dtype=bool))

    @property
    def cached_bytes(self) -> int:
        """Bytes of the cached masks."""
        return self._cached_bytes

    def replace(self, items: pl.DataFrame, schema: CatalogueSchema | None = None) -> int:
        """Take a new catalogue. Cached values and masks of columns that did not change stay. Returns the new version.

        A frame of another length has other item codes: all caches are cleared. schema: the schema from now on.
        """
        with self._lock:
            old, same_length = self.items, len(items) == len(self.items)
            columns = self._columns(items, schema)
            kinds, before = columns.kinds["item"], self.columns.kinds["item"]
            changed = {
                name
                for name in {*old.columns, *items.columns, *kinds}
                if not same_length
                or kinds.get(name) != before.get(name)
                or (name in old.columns) != (name in items.columns)
                or (name in old.columns and not old[name].equals(items[name], check_dtypes=True, null_equal=True))
            }
            self.items, self.columns, self.version = items, columns, self.version + 1
            self.__dict__.pop("everything", None)
            self._parsed.clear()
            self._values = {key: value for key, value in self._values.items() if key[1] not in changed}
            self._groups = {name: groups for name, groups in self._groups.items() if name not in changed}
            for key in [key for key, cached in self._masks.items() if {name for _, name in cached.columns} & changed]:
                self._cached_bytes -= self._masks.pop(key).mask.nbytes
            if not same_length:
                self._masks.clear()
                self._cached_bytes = 0
            return self.version

    def _columns(self, items: pl.DataFrame, schema: CatalogueSchema | None) -> ColumnKinds:
        user, context, multi = self._given
        if schema is not None:
            return ColumnKinds.of_schema(schema, items, user, context)
        return ColumnKinds.of(items, user, context, multi=multi)

    def with_catalogue(self, items: pl.DataFrame, schema: CatalogueSchema | None = None) -> Filters:
        """Filters of a new catalogue of the same length that start with copies of the caches of this one."""
        with self._lock:
            copied = copy.copy(self)
            copied._lock = threading.RLock()
            copied._values, copied._masks, copied._parsed = dict(self._values), OrderedDict(self._masks), OrderedDict()
            copied._groups = dict(self._groups)
        copied.replace(items, schema)
        return copied

    def parse(self, text: str | Expression, want: str | None = None) -> Expression:
        """The expression of a text, parsed once. See `Expression.parse`."""
        if isinstance(text, Expression):
            return text
        key = (text, want)
        with self._lock:
            expression = self._parsed.get(key)
            if expression is not None:
                self._parsed.move_to_end(key)
                return expression
            version, columns = self.version, self.columns
        spend(PARSE_NS_PER_CHARACTER * len(text))
        expression = Expression.parse(text, columns, want)
        with self._lock:
            if version == self.version:
                self._parsed[key] = expression
                if len(self._parsed) > MAX_PARSED:
                    self._parsed.popitem(last=False)
        return expression

    def mask(self, filter: str | Expression, request: RequestValues | None = None) -> Mask:
        """Items that pass a filter, for one request. An item for which the filter is NULL does not pass."""
        node, request = self.parse(filter, "bool").node, request or RequestValues()
        if isinstance(request, _BatchValues):
            raise ConfigError("a mask belongs to one request", remedy="ask `where` for many requests at once")
        bound = self._bind(node, request)
        mask = self._cached_mask(bound, request.now)
        if mask is not None:
            return mask
        parts = node.args if node.op == "and" else (node,)
        fixed = [part for part in parts if part.scopes <= {"item"}]
        dynamic = [part for part in parts if not part.scopes <= {"item"}]
        if fixed and dynamic:
            # The part that reads only items is cached; the rest is evaluated for the items that pass it.
            first = self._mask_of(conjunction(fixed), request)
            rest = self._bind(conjunction(dynamic), request)
            if first.count <= len(self) // 4:
                rows = first.rows
                passed = truth_values(self._evaluate(rest, request, rows), len(rows))
                mask = Mask(len(self), int(passed.sum()), None, rows[passed])
                self._cache_mask(bound, mask, request)
                return mask
            mask = first & self._mask_of(rest, request)
            if node.scopes <= {"item", "now"}:
                self._cache_mask(bound, mask, request)
            return mask
        return self._mask_of(bound, request)

    def where(self, filter: str | Expression, items: np.ndarray, request: RequestValues | None = None) -> np.ndarray:
        """bool[m]: which of some items (int32[m] codes) pass a filter."""
        node, request = self.parse(filter, "bool").node, request or RequestValues()
        if not isinstance(request, _BatchValues):
            mask = self._cached_mask(node, request.now) if node.scopes <= {"item", "now"} else None
            if mask is not None:
                return mask.contains(items)
        return truth_values(self._evaluate(node, request, items), len(items))

    def numbers(
        self, expression: str | Expression, items: np.ndarray | None = None, request: RequestValues | None = None
    ) -> np.ndarray:
        """float64[m]: a number for each of some items, or of all (None); NaN where NULL."""
        node, request = self.parse(expression, "number").node, request or RequestValues()
        return number_values(self._evaluate(node, request, items), len(self) if items is None else len(items))

    def column(self, name: str) -> Value:
        """A column of items as arrays; see `Value`. Raises ConfigError for an unknown one."""
        return self._column(self._column_name(name))

    def groups(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Items by their values in a column, equal values one group: int32 groups from 0, and int64 starts.

        Item i has groups[i], -1 where NULL, and the starts are empty; where items may have several values, it has
        groups[starts[i]:starts[i + 1]]. Raises ConfigError for an unknown column.
        """
        column = self._column_name(name)
        groups = self._groups.get(column)
        if groups is None:
            version = self.version
            groups = _groups_of(self._column(column), len(self))
            with self._lock:
                if version == self.version:
                    self._groups[column] = groups
        return groups

    # -- inside -----------------------------------------------------------------------------------------------------

    def _column_name(self, name: str) -> str:
        column = self.columns.find("item", name)
        if column is None:
            raise ConfigError(
                f"items have no column {name!r}", remedy=suggest(name, list(self.columns.kinds["item"]) or ["none"])
            )
        return column

    def _column(self, name: str) -> Value:
        key = ("item", name)
        value = self._values.get(key)
        if value is None:
            version, kind = self.version, self.columns.kinds["item"][name]
            value = column_value(self.items[name], kind) if name in self.items.columns else null_value(kind)
            with self._lock:
                if version == self.version:
                    self._values[key] = value
        return value

    def _evaluate(self, node: Node, request: RequestValues, rows: np.ndarray | None) -> Value:
        values: dict[str, Value] = {}

        def source(step: Node) -> Value | None:
            if step.op == "column":
                scope, name = step.value
                if step.key not in values:
                    if scope == "item":
                        value = self._column(name)
                        values[step.key] = value if rows is None else value.take(rows)
                    else:
                        values[step.key] = request.value(scope, name, step.kind)
                return values[step.key]
            if step.op == "now":
                return Value(np.atleast_1d(np.asarray(request.now, dtype=np.int64)))
            return None

        return evaluate(node, source)

    def _bind(self, node: Node, request: RequestValues) -> Node:
        """The expression with the values of the request as constants; what depends on constants alone is computed."""
        if node.scopes <= {"item", "now"}:
            return node
        if node.op == "column":
            return _constant(request.value(node.value[0], node.value[1], node.kind), node.kind)
        args = tuple(self._bind(arg, request) for arg in node.args)
        if node.op in ("and", "or"):
            return _simplify(node.op, args)
        bound = Node(node.op, node.kind, args, node.value)
        if not bound.scopes and node.kind not in ("texts", "numbers"):
            return _constant(evaluate(bound, lambda step: None), node.kind)
        return bound

    def _mask_of(self, node: Node, request: RequestValues) -> Mask:
        mask = self._cached_mask(node, request.now)
        if mask is None:
            mask = Mask.of(truth_values(self._evaluate(node, request, None), len(self)))
            self._cache_mask(node, mask, request)
        return mask

    def count_hits(self, n: int) -> None:
        """Count conditions whose mask a caller had at hand."""
        with self._lock:
            self.hits += n

    def _cached_mask(self, node: Node, now: int) -> Mask | None:
        with self._lock:
            cached = self._masks.get(node.key)
            if cached is None or not cached.since <= now < cached.until:
                self.misses += 1
                return None
            self.hits += 1
            self._masks.move_to_end(node.key)
            return cached.mask

    def _cache_mask(self, node: Node, mask: Mask, request: RequestValues) -> None:
        version, until, since = self.version, _NEVER, -_NEVER
        if "now" in node.scopes:
            since, until = request.now, self._until(node, request)
            if until <= since:
                return
        if mask.nbytes > self.max_bytes:
            return
        with self._lock:
            if version != self.version:
                return
            old = self._masks.pop(node.key, None)
            self._cached_bytes += mask.nbytes - (old.mask.nbytes if old else 0)
            self._masks[node.key] = _CachedMask(mask, node.columns, since, until)
            while self._cached_bytes > self.max_bytes:
                self._cached_bytes -= self._masks.popitem(last=False)[1].mask.nbytes

    def _until(self, node: Node, request: RequestValues) -> int:
        """The first time after now at which a condition with NOW() may change; now where that is not known.

        `time < NOW() + constant` changes for an item when NOW() + constant passes its time.
        """
        if "now" not in node.scopes:
            return _NEVER
        if node.op in ("lt", "le", "eq"):
            dynamic, fixed = node.args if "now" in node.args[0].scopes else (node.args[1], node.args[0])
            shift = _shift(dynamic)
            if shift is not None and fixed.kind == "time" and fixed.scopes <= {"item"}:
                times = self._evaluate(fixed, request, None)
                changes = (
                    times.data if times.valid is None else times.data[np.broadcast_to(times.valid, len(times.data))]
                )
                changes = changes[changes >= request.now + shift]
                if not len(changes):
                    return _NEVER
                return max(int(changes.min()) - shift, request.now + 1)
            return request.now
        if node.op in ("and", "or", "not", "isnull", "coalesce", "case"):
            return min((self._until(arg, request) for arg in node.args), default=_NEVER)
        return request.now


def _groups_of(value: Value, n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """See `Filters.groups`."""
    if len(value) != n_items:
        value = value.repeat(n_items)
    groups = value.data
    if value.dictionary is None and groups.dtype != np.bool_:
        groups = np.unique(groups, return_inverse=True)[1]
    if value.offsets is not None:
        return np.ascontiguousarray(groups, np.int32), value.offsets
    if value.valid is not None:
        groups = np.where(value.valid, groups, -1)
    return np.ascontiguousarray(groups, np.int32), np.zeros(0, np.int64)


def _shift(node: Node) -> int | None:
    """Microseconds that are added to NOW(); None for any other expression."""
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
    """A list of values from a request, as a constant: its entries are part of the key of a node."""

    def __repr__(self) -> str:
        entries = np.unique(self.data)
        return repr(self.dictionary.gather(entries).to_list() if self.dictionary is not None else entries.tolist())


def _constant(value: Value, kind: str) -> Node:
    """A value of one row as a literal."""
    if value.valid is not None and not value.valid[0]:
        return Node("literal", kind)
    if kind in ("texts", "numbers"):
        return Node("constant", kind, value=_Constant(value.data, value.valid, value.dictionary, value.offsets))
    if kind == "text":
        assert value.dictionary is not None
        return Node("literal", kind, value=value.dictionary[int(value.data[0])])
    return Node("literal", kind, value=value.data[0].item())


def _simplify(op: str, args: tuple[Node, ...]) -> Node:
    """AND or OR without neutral constants; a constant that decides the result replaces all."""
    ends = op == "or"
    remaining = []
    for arg in args:
        if arg.op == "literal" and arg.value is not None:
            if arg.value is ends:
                return Node("literal", "bool", value=ends)
            continue
        remaining.append(arg)
    if not remaining:
        return Node("literal", "bool", value=not ends)
    if len(remaining) == 1:
        return remaining[0]
    return conjunction(remaining) if op == "and" else Node(op, "bool", tuple(remaining))
