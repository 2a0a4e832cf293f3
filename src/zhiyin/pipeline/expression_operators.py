"""The operators and functions of expressions, over whole columns, with the three-valued logic of SQL.

Where this differs from some databases: sums and products are 64-bit floats; a number that is not finite (x / 0, LN(-1),
NaN in a column) is NULL; GREATEST and LEAST skip NULL; missing entries within a list do not count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.parallel import kernel
from zhiyin.pipeline.expression_nodes import Node
from zhiyin.pipeline.expression_values import Value, dictionary_encoded, finite_numbers


def logical_and(a: Value, b: Value) -> Value:
    """AND: false as soon as one side is false, whatever the other."""
    data = a.data & b.data
    if a.valid is None and b.valid is None:
        return Value(data)
    valid_a, valid_b = _validity(a), _validity(b)
    return Value(data, (valid_a & valid_b) | (valid_a & ~a.data) | (valid_b & ~b.data))


def logical_or(a: Value, b: Value) -> Value:
    """OR: true as soon as one side is true."""
    data = a.data | b.data
    if a.valid is None and b.valid is None:
        return Value(data)
    return Value(data, (_validity(a) & _validity(b)) | data)


def _validity(value: Value) -> np.ndarray:
    return np.ones(1, dtype=bool) if value.valid is None else value.valid


def _all_valid(*values: Value) -> np.ndarray | None:
    """bool[n]: rows in which no value is NULL; None where no value has a NULL."""
    masks = [value.valid for value in values if value.valid is not None]
    if not masks:
        return None
    total = masks[0]
    for mask in masks[1:]:
        total = total & mask
    return total


def _boolean_value(data: np.ndarray, valid: np.ndarray | None) -> Value:
    """A boolean value; its data is False where it is NULL."""
    return Value(data, None) if valid is None else Value(data & valid, np.broadcast_to(valid, np.shape(data & valid)))


def _not(node: Node, a: Value) -> Value:
    return Value(~a.data if a.valid is None else a.valid & ~a.data, a.valid)


def _isnull(node: Node, a: Value) -> Value:
    return Value(np.zeros(1, dtype=bool) if a.valid is None else ~a.valid)


def _dictionary_positions(dictionary: pl.Series, texts: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Positions of texts in a sorted dictionary (where they would be inserted), and whether they are in it."""
    positions = dictionary.search_sorted(texts).to_numpy().astype(np.int64)
    clipped = np.minimum(positions, len(dictionary) - 1)
    return positions, (positions < len(dictionary)) & (dictionary.gather(clipped) == texts).to_numpy()


def _compare(node: Node, a: Value, b: Value) -> Value:
    op = node.op
    if a.dictionary is None or b.dictionary is None or a.dictionary is b.dictionary:
        x, y = a.data, b.data
        if x.dtype != y.dtype and np.bool_ not in (x.dtype, y.dtype):
            x, y = _same_numbers(x, y)
        data = x == y if op == "eq" else x < y if op == "lt" else x <= y
    elif len(b.dictionary) <= len(a.dictionary):
        at, exact = (part[b.data] for part in _dictionary_positions(a.dictionary, b.dictionary))
        data = (a.data == at) & exact if op == "eq" else a.data < (at + exact if op == "le" else at)
    else:  # the shorter dictionary is looked up in the longer
        at, exact = (part[a.data] for part in _dictionary_positions(b.dictionary, a.dictionary))
        if op == "eq":
            data = (b.data == at) & exact
        elif op == "lt":  # a < b is not b <= a
            data = b.data >= at + exact
        else:
            data = b.data >= at
    return _boolean_value(data, _all_valid(a, b))


def _same_numbers(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays of numbers as one type. A single whole float against integers becomes an integer: exact comparison."""
    for this, other in ((x, y), (y, x)):
        if other.dtype == np.int64 and len(this) == 1 and float(this[0]).is_integer() and abs(this[0]) < 2**62:
            whole = this.astype(np.int64)
            return (whole, other) if this is x else (other, whole)
    return x.astype(np.float64), y.astype(np.float64)


def _in(node: Node, a: Value) -> Value:
    """Whether a value, or one of several, is among constants."""
    members, has_null = node.value
    if a.dictionary is not None:
        hit = np.zeros(len(a.dictionary), dtype=bool)
        if members:
            at, exact = _dictionary_positions(a.dictionary, pl.Series(list(members)))
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
    data = flat if a.offsets is None else _any_per_row(flat, a.offsets)
    valid = a.valid
    if has_null:  # not among values of which one is NULL
        valid = data if valid is None else data & valid
    return _boolean_value(data, valid)


def _any_per_row(flat: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    total = np.concatenate([[0], np.cumsum(flat)])
    return total[offsets[1:]] > total[offsets[:-1]]


def _overlap(node: Node, a: Value, b: Value) -> Value:
    """Whether two values, each single or several, share one."""
    for this, other in ((a, b), (b, a)):
        if len(this) == 1:  # one value for all rows: a constant
            members: Any = this.data
            if this.dictionary is not None:
                members = this.dictionary.gather(np.unique(this.data)).to_list()
            if this.valid is not None and not this.valid[0]:
                return Value(np.zeros(1, dtype=bool), np.zeros(1, dtype=bool))
            return _in(Node("in", "bool", (), (tuple(members), False)), other)
    x, y = a.data, b.data
    if a.dictionary is not None and b.dictionary is not None:
        if a.dictionary is b.dictionary:
            at, exact = np.arange(len(a.dictionary)), np.ones(len(a.dictionary), dtype=bool)
        else:
            at, exact = _dictionary_positions(a.dictionary, b.dictionary)
        y = np.where(exact, at, -1)[b.data]
    n = len(a)
    out = np.zeros(n, dtype=bool)
    every = np.arange(n + 1)
    _overlap_rows(a.offsets if a.offsets is not None else every, x.astype(np.float64),
              b.offsets if b.offsets is not None else every, y.astype(np.float64), out)  # fmt: skip
    return _boolean_value(out, _all_valid(a, b))


@kernel
def _overlap_rows(first, x, second, y, out):
    for row in range(len(out)):
        for i in range(first[row], first[row + 1]):
            for j in range(second[row], second[row + 1]):
                if x[i] == y[j]:
                    out[row] = True
                    break
            if out[row]:
                break


def _distinct_texts(a: Value) -> tuple[pl.Series, np.ndarray]:
    """Distinct texts that include those of all rows, and the position of each row's; few rows do not need them all."""
    assert a.dictionary is not None
    if 4 * len(a.data) >= len(a.dictionary):
        return a.dictionary, a.data
    used, positions = np.unique(a.data, return_inverse=True)
    return a.dictionary.gather(used), positions


def _like(node: Node, a: Value) -> Value:
    """Matched once for each distinct text; Rust's regex does not backtrack, so matching is linear."""
    texts, positions = _distinct_texts(a)
    hit = texts.str.contains(node.value).to_numpy()
    return _boolean_value(hit[positions], a.valid)


def _arithmetic(node: Node, a: Value, b: Value) -> Value:
    x, y = a.data, b.data
    valid = _all_valid(a, b)
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
    return finite_numbers(data, valid)


def _math(function: Callable[..., np.ndarray]) -> Callable[..., Value]:
    def apply(node: Node, *args: Value) -> Value:
        with np.errstate(all="ignore"):
            data = function(*(arg.data.astype(np.float64) for arg in args))
        return finite_numbers(data, _all_valid(*args))

    return apply


def _neg(node: Node, a: Value) -> Value:
    return Value(-a.data.astype(np.float64), a.valid)


def _round(node: Node, a: Value) -> Value:
    """Halves go away from zero, as in SQL."""
    scale = 10.0**node.value
    with np.errstate(all="ignore"):
        scaled = a.data.astype(np.float64) * scale
        data = np.copysign(np.floor(np.abs(scaled) + 0.5), scaled) / scale
    return finite_numbers(data, a.valid)


def _map_texts(a: Value, change: Callable[[pl.Series], pl.Series]) -> Value:
    """Texts changed by a function, which runs once for each distinct text."""
    texts, positions = _distinct_texts(a)
    dictionary, codes = dictionary_encoded(change(texts))
    return Value(codes[positions], a.valid, dictionary)


def _length(node: Node, a: Value) -> Value:
    if a.offsets is not None:
        return Value(np.diff(a.offsets), a.valid)
    texts, positions = _distinct_texts(a)
    return Value(texts.str.len_chars().to_numpy().astype(np.int64)[positions], a.valid)


def _common_encoding(values: list[Value]) -> tuple[list[np.ndarray], pl.Series | None]:
    """The data of several values in one encoding: texts with one dictionary, numbers of one type."""
    if values[0].dictionary is not None:
        lists = [value.dictionary for value in values if value.dictionary is not None]
        dictionary = pl.concat(lists).unique().sort()
        codes = [_dictionary_positions(dictionary, own)[0].astype(np.int32)[value.data]
                 for own, value in zip(lists, values)]  # fmt: skip
        return codes, dictionary
    dtype = np.result_type(*(value.data.dtype for value in values))
    return [value.data.astype(dtype) for value in values], None


def _case(node: Node, *args: Value) -> Value:
    conditions, values = args[:-1:2], [*args[1:-1:2], args[-1]]
    data, dictionary = _common_encoding(values)
    chosen, valid = data[-1], _validity(values[-1])
    for condition, part, value in zip(reversed(conditions), reversed(data[:-1]), reversed(values[:-1])):
        chosen = np.where(condition.data, part, chosen)
        valid = np.where(condition.data, _validity(value), valid)
    return _masked_value(chosen, valid, dictionary)


def _coalesce(node: Node, *args: Value) -> Value:
    data, dictionary = _common_encoding(list(args))
    chosen, valid = data[-1], _validity(args[-1])
    for part, value in zip(reversed(data[:-1]), reversed(args[:-1])):
        is_valid = _validity(value)
        chosen, valid = np.where(is_valid, part, chosen), is_valid | valid
    return _masked_value(chosen, valid, dictionary)


def _greatest_or_least(node: Node, *args: Value) -> Value:
    data, dictionary = _common_encoding(list(args))
    best, valid = data[0], _validity(args[0])
    for part, value in zip(data[1:], args[1:]):
        is_valid = _validity(value)
        better = part > best if node.op == "greatest" else part < best
        best = np.where(is_valid & (better | ~valid), part, best)
        valid = is_valid | valid
    return _masked_value(best, valid, dictionary)


def _masked_value(data: np.ndarray, valid: np.ndarray, dictionary: pl.Series | None) -> Value:
    """A value with a validity mask, which may be of one row for all."""
    valid = np.broadcast_to(valid, data.shape) if len(valid) <= len(data) else valid
    data = np.broadcast_to(data, valid.shape)
    if data.dtype == np.bool_:
        data = data & valid
    return Value(data, None if valid.all() else valid, dictionary)


OPERATORS: dict[str, Callable[..., Value]] = {
    "not": _not,
    "isnull": _isnull,
    "eq": _compare,
    "lt": _compare,
    "le": _compare,
    "in": _in,
    "overlap": _overlap,
    "like": _like,
    "add": _arithmetic,
    "sub": _arithmetic,
    "mul": _arithmetic,
    "div": _arithmetic,
    "mod": _arithmetic,
    "neg": _neg,
    "abs": _math(np.abs),
    "ceil": _math(np.ceil),
    "floor": _math(np.floor),
    "exp": _math(np.exp),
    "ln": _math(np.log),
    "sqrt": _math(np.sqrt),
    "pow": _math(np.power),
    "round": _round,
    "lower": lambda node, a: _map_texts(a, lambda words: words.str.to_lowercase()),
    "upper": lambda node, a: _map_texts(a, lambda words: words.str.to_uppercase()),
    "length": _length,
    "case": _case,
    "coalesce": _coalesce,
    "greatest": _greatest_or_least,
    "least": _greatest_or_least,
}
