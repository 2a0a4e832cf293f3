"""Filters inside retrieval: which items an expression lets through, kept as masks, and the best k among them.

    filters = Filters(items, user={"age": int}, context={"device": str})
    mask = filters.mask("price < 50 AND NOT adult AND user.age >= min_age", Moment({"age": 17}))
    top_k_where(item_vectors, queries, mask, k=100)

The filter works before the best k are chosen, so k items come back whenever k items qualify.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.errors import ConfigError, DataError, nearest
from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.run import Run
from zhiyin.models.topk import _sift_down, _worse
from zhiyin.pipeline.expressions import Columns, Expression, Node, conjunction
from zhiyin.pipeline.values import Value, column_value, evaluate, given_value, numbers, truth

__all__ = ["Columns", "Compact", "Expression", "Filters", "Mask", "Moment", "top_k_where"]

# Below this share of passing items a mask is kept as their codes alone.
FEW = 1 / 32
# Expressions kept as trees.
PARSED = 4_096
_NEVER = 2**63 - 1


@dataclasses.dataclass(frozen=True, eq=False)
class Mask:
    """Items that pass a filter, out of n. Make one with `Mask.of`."""

    n: int
    count: int
    _bits: np.ndarray | None
    _rows: np.ndarray | None

    @classmethod
    def of(cls, bits: np.ndarray) -> Mask:
        """From bool[n]."""
        count = int(np.count_nonzero(bits))
        if count <= FEW * len(bits):
            return cls(len(bits), count, None, np.flatnonzero(bits).astype(np.int32))
        return cls(len(bits), count, np.ascontiguousarray(bits), None)

    @classmethod
    def of_rows(cls, rows: np.ndarray, n: int) -> Mask:
        """From the codes of passing items, each once; `rows` is sorted here."""
        return cls(n, len(rows), None, np.sort(rows).astype(np.int32))

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """int32[count]: codes of passing items, ascending."""
        if self._rows is not None:
            return self._rows
        assert self._bits is not None
        return np.flatnonzero(self._bits).astype(np.int32)

    @property
    def bits(self) -> np.ndarray:
        """bool[n]: whether each item passes."""
        if self._bits is not None:
            return self._bits
        bits = np.zeros(self.n, dtype=bool)
        bits[self._rows] = True
        return bits

    def holds(self, items: np.ndarray) -> np.ndarray:
        """bool[m]: whether each of some items passes."""
        if self._bits is not None:
            return self._bits[items]
        rows = self.rows
        if not len(rows):
            return np.zeros(len(items), dtype=bool)
        at = np.minimum(np.searchsorted(rows, items), len(rows) - 1)
        return rows[at] == items

    def __and__(self, other: Mask) -> Mask:
        few, many = (self, other) if self.count <= other.count else (other, self)
        if few._bits is None:
            rows = few.rows
            kept = rows[many.holds(rows)]
            return Mask(self.n, len(kept), None, kept)
        return Mask.of(self.bits & other.bits)

    @property
    def nbytes(self) -> int:
        """Bytes held, with the codes that may still be made."""
        return (self.n if self._bits is not None else 0) + 4 * self.count


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
    multi: text columns that hold several values as "a|b"; None finds them by their contents.
    max_bytes: what kept masks may hold in all.
    """

    def __init__(
        self,
        items: pl.DataFrame,
        user: Any = None,
        context: Any = None,
        *,
        multi: tuple[str, ...] = (),
        max_bytes: int = 256 << 20,
    ) -> None:
        self.items, self.version, self.max_bytes = items, 0, max_bytes
        self._given = (user, context, multi)
        self.columns = Columns.of(items, user, context, multi=multi)
        self.hits = self.misses = 0
        self._values: dict[tuple[str, str], Value] = {}
        self._masks: OrderedDict[str, _Kept] = OrderedDict()
        self._parsed: OrderedDict[tuple[str, str | None], Expression] = OrderedDict()
        self._held, self._lock = 0, threading.RLock()

    def __len__(self) -> int:
        return len(self.items)

    @property
    def held(self) -> int:
        """Bytes of the masks that are kept."""
        return self._held

    def replace(self, items: pl.DataFrame) -> int:
        """Take a new catalogue. What is kept of columns that did not change stays. Returns the new version.

        A frame of another length has other item codes: everything is forgotten.
        """
        with self._lock:
            old, same = self.items, len(items) == len(self.items)
            columns = Columns.of(items, *self._given[:2], multi=self._given[2])
            changed = {
                name
                for name in {*old.columns, *items.columns}
                if not same
                or name not in old.columns
                or name not in items.columns
                or columns.kinds["item"].get(name) != self.columns.kinds["item"].get(name)
                or not old[name].equals(items[name], check_dtypes=True, null_equal=True)
            }
            self.items, self.columns, self.version = items, columns, self.version + 1
            self._parsed.clear()
            self._values = {key: value for key, value in self._values.items() if key[1] not in changed}
            for key in [key for key, kept in self._masks.items() if {name for _, name in kept.columns} & changed]:
                self._held -= self._masks.pop(key).mask.nbytes
            if not same:
                self._masks.clear()
                self._held = 0
            return self.version

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
            raise ConfigError(f"items have no column {name!r}", remedy=nearest(name, list(self.items.columns)))
        return self._column(found)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _column(self, name: str) -> Value:
        key = ("item", name)
        found = self._values.get(key)
        if found is None:
            version, kind = self.version, self.columns.kinds["item"][name]
            found = column_value(self.items[name], kind)
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


# -- the best k among those that pass ---------------------------------------------------------------------------------

# Passing rows gathered and multiplied at once when there are several queries.
BLOCK = 4_096
# Passing rows from which on a first look at compact vectors pays.
WORTH = 16_384


@dataclasses.dataclass(frozen=True, eq=False)
class Compact:
    """Item vectors in one byte a number, for a first look that reads a quarter of the memory.

    A byte is off by at most half a step of its row, so the true score lies within a known distance of the first look's:
    whatever may be among the best k is scored again in full, and the answer is exact.

    Parameters
    ----------
    codes: int8[n, d]. steps: float32[n]; vector r is about codes[r] * steps[r]. NaN where it holds no finite numbers.
    """

    codes: np.ndarray
    steps: np.ndarray

    @classmethod
    def of(cls, item_vectors: np.ndarray) -> Compact:
        """From float32[n, d]."""
        codes = np.zeros(item_vectors.shape, dtype=np.int8)
        steps = np.zeros(len(item_vectors), dtype=np.float32)
        for start in range(0, len(codes), 65_536):
            part = np.asarray(item_vectors[start : start + 65_536], dtype=np.float32)
            largest = np.abs(part).max(axis=1, initial=0.0)
            sane = np.isfinite(largest)
            step = np.where(sane, largest / 127, np.nan).astype(np.float32)
            steps[start : start + len(part)] = step
            with np.errstate(all="ignore"):
                scaled = np.rint(part / np.where(step > 0, step, 1)[:, None]).clip(-127, 127)
            codes[start : start + len(part)] = np.where(sane[:, None], scaled, 0)
        return cls(codes, steps)

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.steps.nbytes


def top_k_where(
    item_vectors: np.ndarray,
    queries: np.ndarray,
    mask: Mask | np.ndarray,
    k: int,
    *,
    priority: np.ndarray | None = None,
    exclude: tuple[np.ndarray, np.ndarray] | None = None,
    compact: Compact | None = None,
    run: Run | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k items of largest inner product among those that pass; exact.

    Only vectors of passing items are read. Of equal scores the item of higher `priority` comes first, without one the
    lower code.

    Parameters
    ----------
    item_vectors: float32[n, d]. queries: float32[b, d].
    mask: a `Mask` or bool[n].
    exclude: offsets int64[b + 1] and item codes: what each query must not get.
    compact: `Compact.of(item_vectors)`; makes single queries over many passing items faster.

    Returns
    -------
    items int32[b, k] and scores float32[b, k], best first; -1 and minus infinity once nothing is left.
    """
    run = run or Run(threads=1)
    vectors = np.ascontiguousarray(item_vectors, dtype=np.float32)
    queries = np.ascontiguousarray(np.atleast_2d(queries), dtype=np.float32)
    mask = mask if isinstance(mask, Mask) else Mask.of(np.asarray(mask, dtype=bool))
    if mask.n != len(vectors) or queries.shape[1] != vectors.shape[1]:
        raise DataError(
            f"mask of {mask.n}, vectors {vectors.shape} and queries {queries.shape} do not belong together",
            remedy="make the filter of the catalogue that the vectors were trained on",
        )
    b = len(queries)
    items = np.full((b, max(k, 0)), -1, dtype=np.int32)
    scores = np.full((b, max(k, 0)), -np.inf, dtype=np.float32)
    rows = mask.rows
    if k < 1 or not len(rows) or not b:
        return items, scores
    if priority is None:
        priority = _by_code(len(vectors))
    offsets, codes = _sorted_within(exclude, b)

    def each(start: int, stop: int) -> None:
        if compact is not None and len(rows) >= WORTH:
            _search_compact(compact.codes, compact.steps, vectors, queries, start, stop, rows, priority, offsets, codes,
                            items, scores)  # fmt: skip
            return
        _search(vectors, queries, start, stop, rows, priority, offsets, codes, items, scores)

    def blocks(start: int, stop: int) -> None:
        size = np.zeros(stop - start, dtype=np.int64)
        place = offsets[start:stop].copy()
        for first in range(0, len(rows), BLOCK):
            part = rows[first : first + BLOCK]
            found = queries[start:stop] @ vectors[part].T
            _merge(found, start, stop, part, priority, offsets, codes, place, items, scores, size)
        _order(start, stop, priority, items, scores, size)

    for_chunks(each if b < 4 else blocks, b, run, chunk=1 if b < 4 else max(16, min(256, -(-b // run.n_threads))))
    return items, scores


@functools.lru_cache(maxsize=4)
def _by_code(n: int) -> np.ndarray:
    return np.arange(n, 0, -1, dtype=np.int32)


def _sorted_within(exclude: tuple[np.ndarray, np.ndarray] | None, b: int) -> tuple[np.ndarray, np.ndarray]:
    """Excluded codes sorted within each query."""
    if exclude is None:
        return np.zeros(b + 1, np.int64), np.zeros(0, np.int32)
    offsets, codes = exclude
    owner = np.repeat(np.arange(b), np.diff(offsets))
    return np.asarray(offsets, np.int64), np.asarray(codes)[np.lexsort((codes, owner))].astype(np.int32)


@kernel
def _push(score, item, size, heap_score, heap_item, priority):
    """Into the heap of the k best, whose root is the worst of them. Returns its size."""
    k = len(heap_item)
    if size < k:
        at = size
        while at > 0:
            up = (at - 1) >> 1
            if _worse(score, item, heap_score[up], heap_item[up], priority):
                heap_score[at], heap_item[at] = heap_score[up], heap_item[up]
                at = up
            else:
                break
        heap_score[at], heap_item[at] = score, item
        return size + 1
    if _worse(heap_score[0], heap_item[0], score, item, priority):
        _sift_down(heap_score, heap_item, k, score, item, priority)
    return size


@kernel
def _search(vectors, queries, start, stop, rows, priority, offsets, codes, items, scores):
    """One query at a time over the passing rows: bound by the reading of their vectors."""
    d, k = vectors.shape[1], items.shape[1]
    for q in range(start, stop):
        query, heap_item, heap_score = queries[q], items[q], scores[q]
        size, out, end = 0, offsets[q], offsets[q + 1]
        bar = np.float32(-np.inf)
        for at in range(len(rows)):
            item = rows[at]
            score = np.float32(0)
            vector = vectors[item]
            for j in range(d):
                score += vector[j] * query[j]
            if not score >= bar or score == -np.inf:
                continue
            while out < end and codes[out] < item:
                out += 1
            if out < end and codes[out] == item:
                continue
            size = _push(score, item, size, heap_score, heap_item, priority)
            if size == k:
                bar = heap_score[0]
        _finish(heap_score, heap_item, size, priority)


@kernel
def _search_compact(small, steps, vectors, queries, start, stop, rows, priority, offsets, codes, items, scores):
    """As `_search`. `bar` is the k-th best of what scores are at least; what may reach it is scored in full."""
    d, k = vectors.shape[1], items.shape[1]
    least = np.empty(k, dtype=np.float32)
    may, most = np.empty(len(rows), dtype=np.int32), np.empty(len(rows), dtype=np.float32)
    for q in range(start, stop):
        query, heap_item, heap_score = queries[q], items[q], scores[q]
        length = np.float32(0)
        for j in range(d):
            length += abs(query[j])
        # Half a step for the byte; the rest for the rounding of 32-bit sums, here and in the full score.
        off = length * np.float32(0.5 + 127e-6 * (4 + d / 8))
        found, n, out, end = 0, 0, offsets[q], offsets[q + 1]
        bar = np.float32(-np.inf)
        for at in range(len(rows)):
            item = rows[at]
            score = np.float32(0)
            vector = small[item]
            for j in range(d):
                score += np.float32(vector[j]) * query[j]
            step = steps[item]
            high = step * (score + off)
            if high < bar:
                continue
            while out < end and codes[out] < item:
                out += 1
            if out < end and codes[out] == item:
                continue
            may[n], most[n] = item, high
            n += 1
            low = step * (score - off)
            if not low > bar:  # NaN too
                continue
            if found < k:
                place = found
                found += 1
                while place > 0 and low < least[(place - 1) >> 1]:
                    least[place] = least[(place - 1) >> 1]
                    place = (place - 1) >> 1
                least[place] = low
            else:
                _sink(least, low)
            if found == k:
                bar = least[0]
        size = 0
        for at in range(n):
            if most[at] < bar:
                continue
            item = may[at]
            score = np.float32(0)
            vector = vectors[item]
            for j in range(d):
                score += vector[j] * query[j]
            if score > -np.inf:
                size = _push(score, item, size, heap_score, heap_item, priority)
        _finish(heap_score, heap_item, size, priority)


@kernel
def _sink(least, value):
    """Replace the smallest of a heap."""
    at, size = 0, len(least)
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and least[child + 1] < least[child]:
            child += 1
        if not least[child] < value:
            break
        least[at] = least[child]
        at = child
    least[at] = value


@kernel
def _merge(found, start, stop, part, priority, offsets, codes, place, items, scores, size):
    """A block of scores [stop - start, len(part)] into the heaps."""
    k = items.shape[1]
    for q in range(start, stop):
        line, heap_item, heap_score = found[q - start], items[q], scores[q]
        n, out, end = size[q - start], place[q - start], offsets[q + 1]
        bar = heap_score[0] if n == k else np.float32(-np.inf)
        for at in range(len(part)):
            score = line[at]
            if not score >= bar or score == -np.inf:
                continue
            item = part[at]
            while out < end and codes[out] < item:
                out += 1
            if out < end and codes[out] == item:
                continue
            n = _push(score, item, n, heap_score, heap_item, priority)
            if n == k:
                bar = heap_score[0]
        size[q - start], place[q - start] = n, out


@kernel
def _order(start, stop, priority, items, scores, size):
    for q in range(start, stop):
        _finish(scores[q], items[q], size[q - start], priority)


@kernel
def _finish(heap_score, heap_item, size, priority):
    """From a heap to the best first: the worst goes last, again and again."""
    for end in range(size - 1, 0, -1):
        score, item = heap_score[end], heap_item[end]
        heap_score[end], heap_item[end] = heap_score[0], heap_item[0]
        _sift_down(heap_score, heap_item, end, score, item, priority)
