"""Evaluation of expressions: walks the tree, column by column, and counts the work before it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zhiyin.core.work_limits import spend
from zhiyin.pipeline.expression_nodes import Node
from zhiyin.pipeline.expression_operators import OPERATORS, logical_and, logical_or
from zhiyin.pipeline.expression_values import Value, literal_value


def evaluate(node: Node, lookup: Callable[[Node], Value | None], computed: dict[str, Value] | None = None) -> Value:
    """The values of an expression. Each step's work is counted before it is done; see `core.work_limits`.

    Parameters
    ----------
    lookup: called first at every node; gives columns, NOW() and cached values. None: compute the node.
    computed: values of nodes computed before, by `Node.key`: a part that occurs more than once is computed once.
    """
    stored = lookup(node)
    if stored is not None:
        return stored
    if node.op == "constant":
        return node.value
    if node.op == "literal":
        return literal_value(node)
    computed = {} if computed is None else computed
    if node.key in computed:
        return computed[node.key]
    if node.op in ("and", "or"):
        result = evaluate(node.args[0], lookup, computed)
        for arg in node.args[1:]:
            other = evaluate(arg, lookup, computed)
            spend(_NS_ROW * max(len(result), len(other)))
            result = (logical_and if node.op == "and" else logical_or)(result, other)
    else:
        args = [evaluate(arg, lookup, computed) for arg in node.args]
        spend(step_cost(node, args))
        result = OPERATORS[node.op](node, *args)
    computed[node.key] = result
    return result


# Nanoseconds, measured on 50,000 titles and rounded up: for a row; for a distinct text that is read, that is looked up
# in a dictionary, and that is created; for one byte of a text.
_NS_ROW, _NS_TEXT, _NS_LOOKUP, _NS_NEW_TEXT, _NS_BYTE = 5.0, 50.0, 300.0, 1_000.0, 4.0


def step_cost(node: Node, args: Sequence[Value]) -> float:
    """Nanoseconds that a step will take, estimated."""
    rows = _NS_ROW * sum(len(arg.data) for arg in args)
    dictionaries = [arg.dictionary for arg in args if arg.dictionary is not None]
    texts = sum(map(len, dictionaries))
    if node.op in ("like", "lower", "upper", "length") and texts:  # few rows read their own texts only
        read = min(texts, 4 * len(args[0].data))
        if node.op == "like":
            return rows + read * (_NS_TEXT + _NS_BYTE * dictionaries[0].estimated_size() / texts)
        return rows + read * (_NS_TEXT if node.op == "length" else _NS_NEW_TEXT)
    if node.op == "in":
        return rows + _NS_LOOKUP * len(node.value[0])
    if node.op == "overlap" and len(args) == 2 and min(map(len, args)) > 1:
        longest = [max(1.0, len(arg.data) / len(arg)) for arg in args]
        return rows * longest[0] * longest[1] + _NS_LOOKUP * texts
    if len(dictionaries) > 1 and any(entry is not dictionaries[0] for entry in dictionaries):
        return rows + _NS_LOOKUP * texts * (2 if node.op not in ("eq", "lt", "le") else 1)
    if len(dictionaries) > 1 and node.op not in ("eq", "lt", "le"):
        return rows + _NS_LOOKUP * texts
    return rows
