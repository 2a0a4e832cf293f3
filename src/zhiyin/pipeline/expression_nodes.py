"""Typed trees of expressions, as the reader makes them and the evaluation walks them."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One step of an expression: what it does, the kind of its value, what it works on, and a constant."""

    op: str
    kind: str
    args: tuple[Node, ...] = ()
    value: Any = None

    # Computed here from those of `args`, so that no deep tree is ever walked recursively.
    key: str = dataclasses.field(init=False)
    columns: frozenset[tuple[str, str]] = dataclasses.field(init=False)
    scopes: frozenset[str] = dataclasses.field(init=False)
    depth: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        inner = "".join(" " + arg.key for arg in self.args)
        own = {self.value} if self.op == "column" else {("now", "")} if self.op == "now" else set()
        columns = frozenset(own).union(*(arg.columns for arg in self.args))
        # `key` is equal for expressions of the same normal form: the key of caches. `columns` are the (scope, name) of
        # each column, and ("now", "") where the time of the request counts.
        key = f"({self.op}:{self.kind}{'' if self.value is None else repr(self.value)}{inner})"
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "scopes", frozenset(scope for scope, _ in columns))
        object.__setattr__(self, "depth", 1 + max((arg.depth for arg in self.args), default=0))


def conjunction(nodes: list[Node]) -> Node:
    """All of them, in normal order: what speaks of items only is one part of its own, which caches can keep."""
    flat = [inner for node in nodes for inner in (node.args if node.op == "and" else (node,))]
    fixed = [node for node in flat if node.scopes <= {"item"}]
    moving = [node for node in flat if not node.scopes <= {"item"}]
    if fixed and moving and len(fixed) > 1:
        return Node("and", "bool", (combine("and", fixed), *_unique_sorted(moving)))
    return combine("and", flat)


def combine(op: str, nodes: list[Node]) -> Node:
    unique = _unique_sorted(nodes)
    return unique[0] if len(unique) == 1 else Node(op, "bool", tuple(unique))


def _unique_sorted(nodes: list[Node]) -> list[Node]:
    return sorted({node.key: node for node in nodes}.values(), key=lambda node: (len(node.columns), node.key))


def null_as(node: Node, kind: str) -> Node:
    """NULL as a value of a kind; anything else as it is."""
    return Node("literal", kind) if node.kind == "null" and node.op == "literal" else node


def parse_time(text: str) -> int | None:
    """Microseconds UTC of an ISO 8601 date or time; None when the text is none. Without a zone it is UTC."""
    try:
        moment = datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return (moment - _EPOCH) // datetime.timedelta(microseconds=1)
