"""SQL expressions over items, users and context, read into small typed trees.

    price < 50 AND category IN ('drama') AND NOT adult          a filter: which items may be shown
    1 + 0.2 * margin                                            a number: how much to boost them

SQLGlot reads the text; what stands on the list below is taken over, node by node and with its type, and everything
else is refused with its place. Nothing of the text is ever run. Items' columns stand alone or after `item.`, those of
the request after `user.` and `context.`.

Allowed: AND OR NOT, = != <> < <= > >=, IN, NOT IN, BETWEEN, LIKE, ILIKE, IS [NOT] NULL, + - * / %, CASE, texts,
numbers, TRUE, FALSE, NULL, DATE '...', TIMESTAMP '...', INTERVAL '7' DAY, and the functions of `FUNCTIONS`.
"""

from __future__ import annotations

import dataclasses

import polars as pl

from zhiyin.core.errors import ConfigError
from zhiyin.pipeline.column_kinds import ColumnKinds
from zhiyin.pipeline.expression_nodes import Node, null_as
from zhiyin.pipeline.expression_reader import PHRASES, ExpressionReader, quoted_excerpt


@dataclasses.dataclass(frozen=True, eq=False)
class Expression:
    """A checked expression. `kind` is "bool" for a filter, "number" for a boost."""

    source: str
    node: Node

    @property
    def kind(self) -> str:
        return self.node.kind

    @property
    def cache_key(self) -> str:
        return self.node.key

    @classmethod
    def parse(cls, text: str, columns: ColumnKinds | pl.DataFrame, want: str | None = None) -> Expression:
        """Read an expression.

        Parameters
        ----------
        columns: what it may speak of; a frame means the items' columns.
        want: "bool" for a filter, "number" for a boost; None takes either.

        Raises ConfigError that shows the place for whatever is not allowed, unknown columns (with the nearest name),
        comparisons between unlike types, texts longer than MAX_CHARACTERS and nesting deeper than 50.
        """
        kinds = columns if isinstance(columns, ColumnKinds) else ColumnKinds.of(columns)
        node = ExpressionReader(text, kinds).read()
        if node.kind == "null":
            node = null_as(node, want or "bool")
        if node.kind not in ((want,) if want else ("bool", "number")):
            expected = {"bool": "a condition", "number": "a number", None: "a condition or a number"}[want]
            raise ConfigError(
                f"{quoted_excerpt(text)} is {PHRASES[node.kind]}, where {expected} is needed",
                remedy="a condition looks like price < 50, a number like 1 + 0.2 * margin",
            )
        return cls(text, node)
