"""The values of expressions: whole columns at a time, with the three-valued logic of SQL.

A column is kept as arrays: numbers and times as they are, a text as its place in the sorted list of the column's
different texts, so that a question about texts is asked once a different text and not once a row. A value of one row
stands for all rows: what a request brings (user.age, NOW()) costs nothing per item.

Where this differs from what some databases do: sums and products are made of 64-bit floats; what is not a finite number
(x / 0, LN(-1), NaN in a column) is NULL; GREATEST and LEAST pass over NULL; missing entries within a list do not count.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.errors import ConfigError
from zhiyin.core.metering import spend
from zhiyin.core.parallel import kernel
from zhiyin.data.times import to_microseconds
from zhiyin.pipeline.expressions import Node, time_of


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """Values of n rows, or of one that stands for all.

    Parameters
    ----------
    data: bool, float64 or int64 (numbers), int64 microseconds (times), float64 microseconds (spans), int32 places in
        `words` (texts); of lists the entries of all rows.
    valid: bool[n], False where NULL; None where nothing is. Booleans that are NULL have False in `data`.
    words: of texts, the different ones, sorted.
    offsets: of lists, int64[n + 1]: row r has data[offsets[r]:offsets[r + 1]].
    """

    data: np.ndarray
    valid: np.ndarray | None = None
    words: pl.Series | None = None
    offsets: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.valid is not None and len(self.valid) != len(self):
            object.__setattr__(self, "valid", np.broadcast_to(self.valid, len(self)))

    def __len__(self) -> int:
        return len(self.data) if self.offsets is None else len(self.offsets) - 1

    @property
    def nbytes(self) -> int:
        parts = (self.data, self.valid, self.offsets)
        return sum(part.nbytes for part in parts if part is not None)

    def take(self, rows: np.ndarray) -> Value:
        """The values of some rows; one that stands for all still does."""
        if len(self) == 1:
            return self
        valid = None if self.valid is None else self.valid[rows]
        if self.offsets is None:
            return Value(self.data[rows], valid, self.words)
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        at = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Value(self.data[at], valid, self.words, offsets)


def null(kind: str) -> Value:
    """NULL of a kind."""
    none = np.zeros(1, dtype=bool)
    if kind in ("text", "texts"):
        offsets = np.zeros(2, np.int64) if kind == "texts" else None
        return Value(np.zeros(0 if kind == "texts" else 1, np.int32), none, pl.Series([""]), offsets)
    if kind == "numbers":
        return Value(np.zeros(0), none, None, np.zeros(2, np.int64))
    return Value(np.zeros(1, {"bool": np.bool_, "time": np.int64, "null": np.bool_}.get(kind, np.float64)), none)


def column_value(column: pl.Series, kind: str) -> Value:
    """A column of a frame. "a|b" is split where the kind is texts and the column is text."""
    dtype = column.dtype
    if dtype == pl.Null:
        return null(kind)
    if kind in ("texts", "numbers"):
        if not isinstance(dtype, pl.List | pl.Array):
            column = column.cast(pl.String).str.split("|")
        column = column.cast(pl.List(pl.String if kind == "texts" else pl.Float64))
        valid = column.is_not_null().to_numpy() if column.null_count() else None
        inner = column.list.drop_nulls()
        offsets = np.concatenate([[0], np.cumsum(inner.list.len().fill_null(0).to_numpy().astype(np.int64))])
        flat = inner.filter(inner.list.len() > 0).explode()
        if kind == "numbers":
            return Value(flat.to_numpy().astype(np.float64), valid, None, offsets)
        flat = flat.str.strip_chars()
        words, codes = _coded(flat)
        return Value(codes, valid, words, offsets)
    if kind == "time":
        times = to_microseconds(column)
        return Value(times.fill_null(0).to_numpy(), _known(times))
    if kind == "text":
        words, codes = _coded(column)
        return Value(codes, _known(column), words)
    if kind == "bool":
        return Value(column.fill_null(False).to_numpy().astype(np.bool_), _known(column))
    if dtype.is_integer() and dtype not in (pl.UInt64, pl.Int128):
        return Value(column.fill_null(0).cast(pl.Int64).to_numpy(), _known(column))
    numbers = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
    return finite(numbers, None)


def _known(column: pl.Series) -> np.ndarray | None:
    return column.is_not_null().to_numpy() if column.null_count() else None


def _coded(column: pl.Series) -> tuple[pl.Series, np.ndarray]:
    """Different texts, sorted, and each row's place among them; NULL has place 0."""
    text = column.cast(pl.String)
    words = text.drop_nulls().unique().sort()
    if not len(words):
        return pl.Series([""]), np.zeros(len(text), np.int32)
    codes = text.cast(pl.Enum(words)).to_physical() if len(words) < 2**31 else words.search_sorted(text)
    return words, codes.fill_null(0).to_numpy().astype(np.int32)


def given_value(value: Any, kind: str, name: str) -> Value:
    """What a request brings for a column of its user or context. Raises ConfigError when it is of another kind."""
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return null(kind)
    try:
        if kind == "text" and isinstance(value, str):
            return Value(np.zeros(1, np.int32), None, pl.Series([value]))
        if kind == "bool" and isinstance(value, bool | np.bool_):
            return Value(np.array([bool(value)]))
        if kind == "number" and isinstance(value, int | float | np.number) and not isinstance(value, bool):
            whole = isinstance(value, int | np.integer) and abs(int(value)) < 2**62
            return Value(np.array([value], dtype=np.int64 if whole else np.float64))
        if kind == "time":
            if isinstance(value, str):
                value = time_of(value)
            elif isinstance(value, datetime.date):
                value = to_microseconds(pl.Series([value]))[0]
            if isinstance(value, int | np.integer) and not isinstance(value, bool):
                return Value(np.array([int(value)], dtype=np.int64))
        if kind in ("texts", "numbers") and isinstance(value, Iterable):
            if isinstance(value, str):
                value = value.split("|")
            inner = pl.String if kind == "texts" else pl.Float64
            return column_value(pl.Series([list(value)], dtype=pl.List(inner)), kind)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        pass
    raise ConfigError(
        f"{name} = {value!r} is not of the kind that was declared ({kind})", remedy="send a value of that kind, or none"
    )


def finite(numbers: np.ndarray, valid: np.ndarray | None) -> Value:
    """Numbers, with NULL for what is not finite."""
    good = np.isfinite(numbers)
    if good.all():
        return Value(numbers, valid)
    return Value(np.where(good, numbers, 0.0), good if valid is None else good & valid)


# -- evaluation -------------------------------------------------------------------------------------------------------


def evaluate(node: Node, source: Callable[[Node], Value | None], known: dict[str, Value] | None = None) -> Value:
    """The values of an expression. Each step's work is counted before it is done; see `core.metering`.

    `source` is asked first at every step and answers columns, NOW(), and whatever is kept from before; None means
    "compute it". `known`: values of steps that were computed already, by what they say: what stands in an expression
    more than once is computed once.
    """
    found = source(node)
    if found is not None:
        return found
    if node.op == "constant":
        return node.value
    if node.op == "literal":
        return _literal(node)
    known = {} if known is None else known
    if node.text in known:
        return known[node.text]
    if node.op in ("and", "or"):
        total = evaluate(node.args[0], source, known)
        for arg in node.args[1:]:
            more = evaluate(arg, source, known)
            spend(_ROW * max(len(total), len(more)))
            total = (both if node.op == "and" else either)(total, more)
    else:
        args = [evaluate(arg, source, known) for arg in node.args]
        spend(cost(node, args))
        total = _OPS[node.op](node, *args)
    known[node.text] = total
    return total


# Nanoseconds, as measured on 50,000 titles and rounded up: of a value of a row; of a different text that is looked at,
# that is found among others, and that is made anew; of one of its bytes.
_ROW, _TEXT, _FIND, _MAKE, _BYTE = 5.0, 50.0, 300.0, 1_000.0, 4.0


def cost(node: Node, args: Sequence[Value]) -> float:
    """About how many nanoseconds a step takes, before it is done."""
    rows = _ROW * sum(len(arg.data) for arg in args)
    words = [arg.words for arg in args if arg.words is not None]
    texts = sum(map(len, words))
    if node.op == "like":
        return rows + _TEXT * texts + _BYTE * sum(word.estimated_size() for word in words)
    if node.op in ("lower", "upper"):
        return rows + _MAKE * texts
    if node.op == "length":
        return rows + _TEXT * texts
    if node.op == "in":
        return rows + _FIND * len(node.value[0])
    if node.op == "overlap" and len(args) == 2 and min(map(len, args)) > 1:
        longest = [max(1.0, len(arg.data) / len(arg)) for arg in args]
        return rows * longest[0] * longest[1] + _FIND * texts
    if len(words) > 1 and any(word is not words[0] for word in words):
        return rows + _FIND * texts * (2 if node.op not in ("eq", "lt", "le") else 1)
    if len(words) > 1 and node.op not in ("eq", "lt", "le"):
        return rows + _FIND * texts
    return rows


def truth(value: Value, n: int) -> np.ndarray:
    """bool[n]: where a condition holds; NULL does not."""
    return np.broadcast_to(value.data, n) if len(value) != n else value.data


def numbers(value: Value, n: int) -> np.ndarray:
    """float64[n], NaN where NULL."""
    data = value.data.astype(np.float64)
    if value.valid is not None:
        data = np.where(value.valid, data, np.nan)
    return np.broadcast_to(data, n)


def both(a: Value, b: Value) -> Value:
    """AND: false as soon as one side is false, whatever the other."""
    data = a.data & b.data
    if a.valid is None and b.valid is None:
        return Value(data)
    known_a, known_b = _valid(a), _valid(b)
    return Value(data, (known_a & known_b) | (known_a & ~a.data) | (known_b & ~b.data))


def either(a: Value, b: Value) -> Value:
    """OR: true as soon as one side is true."""
    data = a.data | b.data
    if a.valid is None and b.valid is None:
        return Value(data)
    return Value(data, (_valid(a) & _valid(b)) | data)


def _valid(value: Value) -> np.ndarray:
    return np.ones(1, dtype=bool) if value.valid is None else value.valid


def _joint(*values: Value) -> np.ndarray | None:
    """Where none is NULL."""
    masks = [value.valid for value in values if value.valid is not None]
    if not masks:
        return None
    total = masks[0]
    for mask in masks[1:]:
        total = total & mask
    return total


def _said(data: np.ndarray, valid: np.ndarray | None) -> Value:
    """A boolean; false where it is NULL."""
    return Value(data, None) if valid is None else Value(data & valid, np.broadcast_to(valid, np.shape(data & valid)))


def _literal(node: Node) -> Value:
    if node.value is None:
        return null(node.kind)
    if node.kind == "text":
        return Value(np.zeros(1, np.int32), None, pl.Series([node.value]))
    if node.kind == "time":
        return Value(np.array([node.value], dtype=np.int64))
    return Value(np.array([node.value]))


def _not(node: Node, a: Value) -> Value:
    return Value(~a.data if a.valid is None else a.valid & ~a.data, a.valid)


def _isnull(node: Node, a: Value) -> Value:
    return Value(np.zeros(1, dtype=bool) if a.valid is None else ~a.valid)


def _places(words: pl.Series, asked: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Where texts stand, or would stand, among sorted words, and whether they do."""
    at = words.search_sorted(asked).to_numpy().astype(np.int64)
    inside = np.minimum(at, len(words) - 1)
    return at, (at < len(words)) & (words.gather(inside) == asked).to_numpy()


def _compare(node: Node, a: Value, b: Value) -> Value:
    op = node.op
    if a.words is None or b.words is None or a.words is b.words:
        x, y = a.data, b.data
        if x.dtype != y.dtype and np.bool_ not in (x.dtype, y.dtype):
            x, y = _same_numbers(x, y)
        data = x == y if op == "eq" else x < y if op == "lt" else x <= y
    elif len(b.words) <= len(a.words):
        at, exact = (part[b.data] for part in _places(a.words, b.words))
        data = (a.data == at) & exact if op == "eq" else a.data < (at + exact if op == "le" else at)
    else:  # the shorter list of words is looked up in the longer
        at, exact = (part[a.data] for part in _places(b.words, a.words))
        if op == "eq":
            data = (b.data == at) & exact
        elif op == "lt":  # a < b is not b <= a
            data = b.data >= at + exact
        else:
            data = b.data >= at
    return _said(data, _joint(a, b))


def _same_numbers(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers beside others. One whole float among whole numbers is made one, so that they compare exactly."""
    for this, other in ((x, y), (y, x)):
        if other.dtype == np.int64 and len(this) == 1 and float(this[0]).is_integer() and abs(this[0]) < 2**62:
            whole = this.astype(np.int64)
            return (whole, other) if this is x else (other, whole)
    return x.astype(np.float64), y.astype(np.float64)


def _in(node: Node, a: Value) -> Value:
    """Whether a value, or one of several, is among constants."""
    members, has_null = node.value
    if a.words is not None:
        hit = np.zeros(len(a.words), dtype=bool)
        if members:
            at, exact = _places(a.words, pl.Series(list(members)))
            hit[at[exact]] = True
        flat = hit[a.data]
    elif a.data.dtype == np.bool_:
        flat = np.isin(a.data, np.array(members, dtype=bool))
    else:
        flat = np.zeros(len(a.data), dtype=bool)
        if len(members) <= 8:
            for member in members:
                flat |= a.data == member
        elif a.data.dtype == np.int64:
            whole = [int(member) for member in members if float(member).is_integer()]
            flat = np.isin(a.data, np.array(whole, dtype=np.int64))
        else:
            flat = np.isin(a.data, np.array(members, dtype=np.float64))
    data = flat if a.offsets is None else _any(flat, a.offsets)
    valid = a.valid
    if has_null:  # not found among values of which one is not known
        valid = data if valid is None else data & valid
    return _said(data, valid)


def _any(flat: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    total = np.concatenate([[0], np.cumsum(flat)])
    return total[offsets[1:]] > total[offsets[:-1]]


def _overlap(node: Node, a: Value, b: Value) -> Value:
    """Whether two values, each single or several, share one."""
    for this, other in ((a, b), (b, a)):
        if len(this) == 1:  # constants after all
            members: Any = this.words.gather(np.unique(this.data)).to_list() if this.words is not None else this.data
            if this.valid is not None and not this.valid[0]:
                return Value(np.zeros(1, dtype=bool), np.zeros(1, dtype=bool))
            return _in(Node("in", "bool", (), (tuple(members), False)), other)
    x, y = a.data, b.data
    if a.words is not None and b.words is not None:
        at, exact = _places(a.words, b.words) if a.words is not b.words else (np.arange(len(a.words)), True)
        y = np.where(exact, at, -1)[b.data]
    n = len(a)
    out = np.zeros(n, dtype=bool)
    every = np.arange(n + 1)
    _overlaps(a.offsets if a.offsets is not None else every, x.astype(np.float64),
              b.offsets if b.offsets is not None else every, y.astype(np.float64), out)  # fmt: skip
    return _said(out, _joint(a, b))


@kernel
def _overlaps(first, x, second, y, out):
    for row in range(len(out)):
        for i in range(first[row], first[row + 1]):
            for j in range(second[row], second[row + 1]):
                if x[i] == y[j]:
                    out[row] = True
                    break
            if out[row]:
                break


def _like(node: Node, a: Value) -> Value:
    """Asked once a different text; the pattern cannot go back and forth (Rust's regex), so it is linear."""
    assert a.words is not None
    hit = a.words.str.contains(node.value).to_numpy()
    return _said(hit[a.data], a.valid)


def _sum(node: Node, a: Value, b: Value) -> Value:
    x, y = a.data, b.data
    valid = _joint(a, b)
    if node.kind == "time" or (node.op == "sub" and node.args[0].kind == "time"):
        if node.kind == "span":
            return Value((x - y).astype(np.float64), valid)
        moment = x.astype(np.float64) + (y if node.op == "add" else -y)
        whole = np.rint(y if node.args[0].kind == "time" else x).clip(-(2.0**61), 2.0**61).astype(np.int64)
        base = x if node.args[0].kind == "time" else y
        moved = base + whole if node.op == "add" else base - whole
        sane = np.abs(moment) < 2.0**62
        return Value(moved, valid if sane.all() else sane if valid is None else sane & valid)
    x, y = x.astype(np.float64), y.astype(np.float64)
    with np.errstate(all="ignore"):
        if node.op == "add":
            data = x + y
        elif node.op == "sub":
            data = x - y
        elif node.op == "mul":
            data = x * y
        elif node.op == "div":
            data = x / y
        else:
            data = np.fmod(x, y)  # the sign of the dividend, as in SQL
    return finite(data, valid)


def _math(function: Callable[..., np.ndarray]) -> Callable[..., Value]:
    def apply(node: Node, *args: Value) -> Value:
        with np.errstate(all="ignore"):
            data = function(*(arg.data.astype(np.float64) for arg in args))
        return finite(data, _joint(*args))

    return apply


def _neg(node: Node, a: Value) -> Value:
    return Value(-a.data.astype(np.float64), a.valid)


def _round(node: Node, a: Value) -> Value:
    """Halves go away from zero, as in SQL."""
    scale = 10.0**node.value
    with np.errstate(all="ignore"):
        scaled = a.data.astype(np.float64) * scale
        data = np.copysign(np.floor(np.abs(scaled) + 0.5), scaled) / scale
    return finite(data, a.valid)


def _case_of(a: Value, change: Callable[[pl.Series], pl.Series]) -> Value:
    """A text made of each different text."""
    assert a.words is not None
    made = change(a.words)
    words, codes = _coded(made)
    return Value(codes[a.data], a.valid, words)


def _length(node: Node, a: Value) -> Value:
    if a.offsets is not None:
        return Value(np.diff(a.offsets), a.valid)
    assert a.words is not None
    return Value(a.words.str.len_chars().to_numpy().astype(np.int64)[a.data], a.valid)


def _one_list(values: list[Value]) -> tuple[list[np.ndarray], pl.Series | None]:
    """Values on one scale: texts get one list of words, numbers one type."""
    if values[0].words is not None:
        lists = [value.words for value in values if value.words is not None]
        words = pl.concat(lists).unique().sort()
        return [_places(words, own)[0].astype(np.int32)[value.data] for own, value in zip(lists, values)], words
    dtype = np.result_type(*(value.data.dtype for value in values))
    return [value.data.astype(dtype) for value in values], None


def _case(node: Node, *args: Value) -> Value:
    conditions, values = args[:-1:2], [*args[1:-1:2], args[-1]]
    data, words = _one_list(values)
    chosen, valid = data[-1], _valid(values[-1])
    for condition, part, value in zip(reversed(conditions), reversed(data[:-1]), reversed(values[:-1])):
        chosen = np.where(condition.data, part, chosen)
        valid = np.where(condition.data, _valid(value), valid)
    return _valued(chosen, valid, words)


def _coalesce(node: Node, *args: Value) -> Value:
    data, words = _one_list(list(args))
    chosen, valid = data[-1], _valid(args[-1])
    for part, value in zip(reversed(data[:-1]), reversed(args[:-1])):
        known = _valid(value)
        chosen, valid = np.where(known, part, chosen), known | valid
    return _valued(chosen, valid, words)


def _extreme(node: Node, *args: Value) -> Value:
    data, words = _one_list(list(args))
    best, valid = data[0], _valid(args[0])
    for part, value in zip(data[1:], args[1:]):
        known = _valid(value)
        better = part > best if node.op == "greatest" else part < best
        best = np.where(known & (better | ~valid), part, best)
        valid = known | valid
    return _valued(best, valid, words)


def _valued(data: np.ndarray, valid: np.ndarray, words: pl.Series | None) -> Value:
    """A value whose NULLs are given by a mask that may be one row's."""
    valid = np.broadcast_to(valid, data.shape) if len(valid) <= len(data) else valid
    data = np.broadcast_to(data, valid.shape)
    if data.dtype == np.bool_:
        data = data & valid
    return Value(data, None if valid.all() else valid, words)


_OPS: dict[str, Callable[..., Value]] = {
    "not": _not,
    "isnull": _isnull,
    "eq": _compare,
    "lt": _compare,
    "le": _compare,
    "in": _in,
    "overlap": _overlap,
    "like": _like,
    "add": _sum,
    "sub": _sum,
    "mul": _sum,
    "div": _sum,
    "mod": _sum,
    "neg": _neg,
    "abs": _math(np.abs),
    "ceil": _math(np.ceil),
    "floor": _math(np.floor),
    "exp": _math(np.exp),
    "ln": _math(np.log),
    "sqrt": _math(np.sqrt),
    "pow": _math(np.power),
    "round": _round,
    "lower": lambda node, a: _case_of(a, lambda words: words.str.to_lowercase()),
    "upper": lambda node, a: _case_of(a, lambda words: words.str.to_uppercase()),
    "length": _length,
    "case": _case,
    "coalesce": _coalesce,
    "greatest": _extreme,
    "least": _extreme,
}
