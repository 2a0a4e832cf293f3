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
import datetime
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import polars as pl

from zhiyin.core.durations import UNITS
from zhiyin.core.errors import ConfigError, MissingExtraError, nearest
from zhiyin.data.catalogue_schema import CatalogueSchema, holds_several

# Characters: of two filters of 4,000 that hold both.
LONGEST, DEEPEST = 8_100, 50
FUNCTIONS = ("ABS", "CEIL", "COALESCE", "CONTAINS", "EXP", "FLOOR", "GREATEST", "LEAST", "LENGTH", "LN", "LOWER", "NOW",
             "NULLIF", "POWER", "ROUND", "SQRT", "UPPER")  # fmt: skip
ALLOWED = (
    "AND OR NOT, = != < <= > >=, IN, BETWEEN, LIKE, ILIKE, IS NULL, + - * / %, CASE, DATE '...', INTERVAL '7' DAY, "
    "and the functions " + ", ".join(FUNCTIONS)
)
SCOPES = ("item", "user", "context")
_A = {"bool": "true or false", "number": "a number", "text": "a text", "time": "a time", "span": "a length of time",
      "texts": "a list of texts", "numbers": "a list of numbers", "null": "NULL"}  # fmt: skip
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


@dataclasses.dataclass(frozen=True)
class Columns:
    """What an expression may speak of: kinds of columns by scope and name.

    A kind is one of bool, number, text, time, texts, numbers; the last two are multi-valued.
    """

    kinds: Mapping[str, Mapping[str, str]]

    @classmethod
    def of(cls, items: Any, user: Any = None, context: Any = None, *, multi: tuple[str, ...] = ()) -> Columns:
        """Columns of a frame, of a Polars schema, or of a mapping from name to a Polars or Python type.

        multi: item columns of text that hold several values as "a|b"; in a frame they are found by their contents as
        `CatalogueSchema` finds them.
        """
        return cls(
            {scope: _kinds(given, scope, multi) for scope, given in zip(SCOPES, (items, user, context), strict=True)}
        )

    @classmethod
    def of_schema(cls, schema: CatalogueSchema, items: Any, user: Any = None, context: Any = None) -> Columns:
        """Columns of items and users as a schema has them, whatever any row holds; of the frames' own schemas the ids
        and columns without values."""
        kinds = {"context": _kinds(context, "context")}
        for scope, table, given in (("item", "items", items), ("user", "users", user)):
            dtypes = given.schema if isinstance(given, pl.DataFrame) else given or {}
            plain = {name: dtype for name, dtype in dtypes.items() if name == "id" or dtype == pl.Null}
            kinds[scope] = _kinds(plain, scope) | schema.kinds(table)
        return cls(kinds)

    def find(self, scope: str, name: str) -> str | None:
        """The column as it is spelled: exactly, or the only one that differs in case alone."""
        known = self.kinds[scope]
        if name in known:
            return name
        close = [column for column in known if column.lower() == name.lower()]
        return close[0] if len(close) == 1 else None

    def names(self) -> list[str]:
        """All columns as an expression writes them."""
        return [name if scope == "item" else f"{scope}.{name}" for scope in SCOPES for name in self.kinds[scope]]


def _kinds(given: Any, scope: str, multi: tuple[str, ...] = ()) -> dict[str, str]:
    if given is None:
        return {}
    schema = given.schema if isinstance(given, pl.DataFrame) else given
    kinds = {}
    for name, dtype in schema.items():
        kind = kind_of(dtype)
        if kind is None:
            continue  # columns of a type that no expression can speak of, such as structs
        if kind == "text" and scope == "item":
            piped = isinstance(given, pl.DataFrame) and holds_several(given[name])
            kind = "texts" if piped or name in multi else "text"
        kinds[name] = kind
    return kinds


def kind_of(dtype: Any) -> str | None:
    """The kind of a column of a Polars or Python type; None for types that expressions do not speak of."""
    python = {bool: "bool", int: "number", float: "number", str: "text", datetime.datetime: "time",
              datetime.date: "time", list: "texts", tuple: "texts", set: "texts"}  # fmt: skip
    if isinstance(dtype, type) and dtype in python:
        return python[dtype]
    if dtype == pl.Boolean:
        return "bool"
    if isinstance(dtype, pl.List | pl.Array):
        inner = kind_of(dtype.inner)
        return {"text": "texts", "number": "numbers", "null": "texts"}.get(inner or "")
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return "text"
    if isinstance(dtype, pl.Datetime | pl.Date) or dtype in (pl.Datetime, pl.Date):
        return "time"
    if dtype == pl.Null:
        return "null"
    return "number" if hasattr(dtype, "is_numeric") and dtype.is_numeric() else None


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One step of an expression: what it does, the kind of its value, what it works on, and a constant."""

    op: str
    kind: str
    args: tuple[Node, ...] = ()
    value: Any = None

    # Made at once and from the parts' own, so that no chain of parts is ever dived into.
    text: str = dataclasses.field(init=False)
    columns: frozenset[tuple[str, str]] = dataclasses.field(init=False)
    scopes: frozenset[str] = dataclasses.field(init=False)
    depth: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        inner = "".join(" " + arg.text for arg in self.args)
        own = {self.value} if self.op == "column" else {("now", "")} if self.op == "now" else set()
        columns = frozenset(own).union(*(arg.columns for arg in self.args))
        # `text` is equal for expressions that mean the same by their form: the key of caches. `columns` are the
        # (scope, name) of each column, and ("now", "") where the moment of the request counts.
        text = f"({self.op}:{self.kind}{'' if self.value is None else repr(self.value)}{inner})"
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "scopes", frozenset(scope for scope, _ in columns))
        object.__setattr__(self, "depth", 1 + max((arg.depth for arg in self.args), default=0))


@dataclasses.dataclass(frozen=True, eq=False)
class Expression:
    """A checked expression. `kind` is "bool" for a filter, "number" for a boost."""

    source: str
    node: Node

    @property
    def kind(self) -> str:
        return self.node.kind

    @property
    def normalised(self) -> str:
        return self.node.text

    @classmethod
    def parse(cls, text: str, columns: Columns | pl.DataFrame, want: str | None = None) -> Expression:
        """Read an expression.

        Parameters
        ----------
        columns: what it may speak of; a frame means the items' columns.
        want: "bool" for a filter, "number" for a boost; None takes either.

        Raises ConfigError that shows the place for whatever is not allowed, unknown columns (with the nearest name),
        comparisons between unlike types, texts longer than LONGEST and nesting deeper than 50.
        """
        known = columns if isinstance(columns, Columns) else Columns.of(columns)
        node = _Reader(text, known).read()
        if node.kind == "null":
            node = _as(node, want or "bool")
        if node.kind not in ((want,) if want else ("bool", "number")):
            wanted = {"bool": "a condition", "number": "a number", None: "a condition or a number"}[want]
            raise ConfigError(
                f"{_short(text)} is {_A[node.kind]}, where {wanted} is needed",
                remedy="a condition looks like price < 50, a number like 1 + 0.2 * margin",
            )
        return cls(text, node)


def conjunction(nodes: list[Node]) -> Node:
    """All of them, in normal order: what speaks of items only is one part of its own, which caches can keep."""
    flat = [inner for node in nodes for inner in (node.args if node.op == "and" else (node,))]
    fixed = [node for node in flat if node.scopes <= {"item"}]
    moving = [node for node in flat if not node.scopes <= {"item"}]
    if fixed and moving and len(fixed) > 1:
        return Node("and", "bool", (_joined("and", fixed), *_sorted(moving)))
    return _joined("and", flat)


def _joined(op: str, nodes: list[Node]) -> Node:
    different = _sorted(nodes)
    return different[0] if len(different) == 1 else Node(op, "bool", tuple(different))


def _sorted(nodes: list[Node]) -> list[Node]:
    return sorted({node.text: node for node in nodes}.values(), key=lambda node: (len(node.columns), node.text))


def _as(node: Node, kind: str) -> Node:
    """NULL as a value of a kind; anything else as it is."""
    return Node("literal", kind) if node.kind == "null" and node.op == "literal" else node


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def time_of(text: str) -> int | None:
    """Microseconds UTC of an ISO 8601 date or time; None when the text is none. Without a zone it is UTC."""
    try:
        moment = datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return (moment - _EPOCH) // datetime.timedelta(microseconds=1)


class _Reader:
    """From text to a typed tree."""

    def __init__(self, text: str, columns: Columns) -> None:
        self.text, self.columns = text, columns

    def read(self) -> Node:
        if not isinstance(self.text, str) or not self.text.strip():
            raise ConfigError("the expression is empty", remedy="write a condition such as price < 50")
        if len(self.text) > LONGEST:
            raise ConfigError(
                f"the expression has {len(self.text):,} characters", remedy=f"at most {LONGEST:,}; split it up"
            )
        try:
            import sqlglot
        except ModuleNotFoundError:
            raise MissingExtraError("sqlglot", "rules", "an expression") from None
        dialect = sqlglot.Dialect.get_or_raise(None)
        try:
            tokens = dialect.tokenize(self.text)
        except sqlglot.errors.SqlglotError as error:
            raise ConfigError(
                f"{_short(self.text)} cannot be read: {str(error).splitlines()[0]}",
                remedy="close every quote; write a quote inside of a text twice",
            ) from None
        self._check(tokens)
        try:
            trees = dialect.parser().parse(tokens, self.text)
        except sqlglot.errors.ParseError as error:
            told = (error.errors or [{}])[0]
            line, column = told.get("line", 1), told.get("col", 1)
            start = sum(len(row) + 1 for row in self.text.split("\n")[: line - 1]) + column - 1
            what = str(told.get("description") or error).split(" for <class")[0]
            self.fail(f"this cannot be read ({what})", start)
        except RecursionError:
            self.fail("this is nested too deeply", 0, "say it with fewer parentheses")
        except (sqlglot.errors.SqlglotError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
            self.fail(f"this cannot be read ({type(error).__name__})", 0)
        if len(trees) != 1 or trees[0] is None:
            self.fail("one expression is needed", 0)
        try:
            return self.node(trees[0])
        except RecursionError:
            self.fail("this is nested too deeply", 0, "say it with fewer parentheses")

    def fail(self, what: str, start: int, remedy: str = "allowed: " + ALLOWED) -> NoReturn:
        """Raise a ConfigError that points at a character."""
        start = max(0, min(start, len(self.text)))
        first = max(0, start - 40)
        shown = self.text[first : start + 40].replace("\n", " ")
        raise ConfigError(
            f"expression, character {start + 1}: {what}\n    {shown}\n    {' ' * (start - first)}^", remedy=remedy
        )

    def at(self, tree: Any) -> int:
        """Where a node stands in the text, as well as it is known."""
        starts = [inner.meta["start"] for inner in tree.walk() if "start" in inner.meta]
        if starts:
            return min(starts)
        shown = tree.name or tree.sql()
        found = re.search(re.escape(shown), self.text, re.IGNORECASE) if shown else None
        return found.start() if found else 0

    def _check(self, tokens: list[Any]) -> None:
        """What can be said before parsing: comments, statements, odd characters, nesting."""
        from sqlglot.tokens import TokenType

        names = {name.lower() for kinds in self.columns.kinds.values() for name in kinds}
        depth = run = 0
        for at, token in enumerate(tokens):
            kind = token.token_type.name
            if token.comments:
                self.fail("comments are not allowed", self.text.find(token.comments[0], token.start))
            if kind == "SEMICOLON":
                self.fail("; is not allowed: an expression is not a statement", token.start)
            called = at + 1 < len(tokens) and tokens[at + 1].token_type.name == "L_PAREN"
            if kind not in _TOKENS and not called:
                if token.text.lower() in names or token.text.lower() in SCOPES:
                    token.token_type = TokenType.VAR  # a column called "order" or "date"
                else:
                    self.fail(f"{token.text!r} is not allowed here", token.start)
            elif (
                kind == "DATE" and not called and (at + 1 == len(tokens) or tokens[at + 1].token_type.name != "STRING")
            ):
                token.token_type = TokenType.VAR
            depth += (kind in ("L_PAREN", "CASE")) - (kind in ("R_PAREN", "END"))
            run = run + 1 if kind in ("NOT", "DASH", "PLUS", "INTERVAL") else 0
            if depth + run > DEEPEST:
                self.fail(f"this is nested deeper than {DEEPEST}", token.start, "say it with fewer parentheses")

    # -- nodes ----------------------------------------------------------------------------------------------------

    def node(self, tree: Any) -> Node:
        """The tree of a SQLGlot tree. Long chains such as a + b + c + ... lean to the left and are walked."""
        chain = []
        while type(tree).__name__ in _LEFT:
            chain.append(tree)
            tree = tree.this
        made = self._single(tree)
        pending: list[Node] = []
        for at, tree in enumerate(reversed(chain)):
            name = type(tree).__name__
            self._only(tree, "this", "expression", "typed", "safe")
            right = self.node(tree.expression)
            if name in ("And", "Or"):
                pending = pending or [self._need(made, "bool", tree.this)]
                pending.append(self._need(right, "bool", tree.expression))
                above = chain[len(chain) - 2 - at] if at + 1 < len(chain) else None
                if type(above) is type(tree):
                    continue  # one long AND is one node
                made = conjunction(pending) if name == "And" else _joined("or", self._flat_or(pending))
                pending = []
            else:
                made = self._binary(name, made, right, tree)
            if made.depth > 2 * DEEPEST:
                self.fail(f"this has more than {2 * DEEPEST} steps inside one another", self.at(tree), "split it up")
        return made

    @staticmethod
    def _flat_or(nodes: list[Node]) -> list[Node]:
        return [inner for node in nodes for inner in (node.args if node.op == "or" else (node,))]

    def _single(self, tree: Any) -> Node:
        name = type(tree).__name__
        reader: Callable[[Any], Node] | None = getattr(self, "_read_" + name.lower(), None)
        if reader is not None:
            return reader(tree)
        if name in _SIMPLE:
            op, *kinds, result = _SIMPLE[name]
            self._only(tree, "this", "expression")
            args = [tree.this, *([tree.expression] if len(kinds) > 1 else [])]
            return Node(op, result, tuple(self._need(self.node(arg), kind, arg) for arg, kind in zip(args, kinds)))
        shown = (tree.name if name == "Anonymous" else "") or getattr(tree, "key", name)
        if name == "Anonymous" or hasattr(tree, "sql_names"):
            near = nearest(shown.upper(), list(FUNCTIONS))
            self.fail(f"function {shown.upper()} is not allowed", self.at(tree), near + "; allowed: " + ALLOWED)
        self.fail(f"{shown.upper()} is not allowed", self.at(tree))

    def _only(self, tree: Any, *names: str) -> None:
        """Refuse what a node carries beyond what is read of it."""
        more = [name for name, value in tree.args.items() if value and name not in names]
        if more:
            self.fail(f"{more[0].upper()} is not allowed here", self.at(tree))

    def _need(self, node: Node, kind: str, tree: Any) -> Node:
        node = _as(node, kind)
        if node.kind != kind:
            hint = ALLOWED
            if kind == "bool" and node.kind == "number":
                hint = "compare it: write column = 1 for a column of 0 and 1"
            self.fail(f"this is {_A[node.kind]}, where {_A[kind]} is needed", self.at(tree), hint)
        return node

    def _alike(self, left: Node, right: Node, tree: Any) -> tuple[Node, Node]:
        """Two values of one kind: NULL is of any kind, and a text beside a time is read as one."""
        left, right = _as(left, right.kind), _as(right, left.kind)
        left, right = self._timed(left, right.kind, tree), self._timed(right, left.kind, tree)
        if left.kind != right.kind:
            if {left.kind, right.kind} & {"texts", "numbers"}:
                self.fail(
                    f"{_A[left.kind]} cannot be compared with {_A[right.kind]}", self.at(tree),
                    "a multi-valued column is asked with 'drama' IN genres, or genres IN ('drama', 'comedy')",
                )  # fmt: skip
            self.fail(
                f"{_A[left.kind]} cannot be compared with {_A[right.kind]}", self.at(tree),
                "texts are written in single quotes, numbers without quotes",
            )  # fmt: skip
        return left, right

    def _timed(self, node: Node, kind: str, tree: Any) -> Node:
        if kind != "time" or node.kind != "text" or node.op != "literal" or node.value is None:
            return node
        moment = time_of(node.value)
        if moment is None:
            self.fail(
                f"{node.value!r} is no date or time", self.at(tree), "write '2024-12-31' or '2024-12-31T18:00:00'"
            )
        return Node("literal", "time", value=moment)

    def _binary(self, name: str, left: Node, right: Node, tree: Any) -> Node:
        if name in ("EQ", "NEQ", "LT", "LTE", "GT", "GTE"):
            texts = "texts" in (left.kind, right.kind) and name in ("EQ", "NEQ")
            if texts and "text" in (left.kind, right.kind):  # category = 'drama' where the column is "a|b"
                self._alike(left, right, tree)
            left, right = self._alike(left, right, tree)
            if left.kind in ("texts", "numbers"):
                self.fail("lists cannot be compared", self.at(tree), "ask 'drama' IN genres")
            if left.kind == "bool" and name not in ("EQ", "NEQ"):
                self.fail("true and false have no order", self.at(tree))
            if name in ("GT", "GTE"):
                left, right = right, left
            op = {"EQ": "eq", "NEQ": "eq", "LT": "lt", "GT": "lt", "LTE": "le", "GTE": "le"}[name]
            if op == "eq" and right.text < left.text:
                left, right = right, left
            made = Node(op, "bool", (left, right))
            return Node("not", "bool", (made,)) if name == "NEQ" else made
        op = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Mod": "mod"}[name]
        left, right = self._timed(left, right.kind, tree), self._timed(right, left.kind, tree)
        if left.kind == "null" or right.kind == "null":
            other = right.kind if left.kind == "null" else left.kind
            plain = "number" if other in ("null", "number", "span") else other
            left, right = _as(left, plain), _as(right, "span" if plain == "time" else plain)
        kind = _SUMS.get((op, left.kind, right.kind))
        if kind is None:
            sign = {"add": "+", "sub": "-", "mul": "*", "div": "/", "mod": "%"}[op]
            self.fail(f"{_A[left.kind]} {sign} {_A[right.kind]} has no meaning", self.at(tree))
        return Node(op, kind, (left, right))

    # -- one reader a class of SQLGlot's -----------------------------------------------------------------------------

    def _read_column(self, tree: Any) -> Node:
        self._only(tree, "this", "table")
        name, scope = tree.name, (tree.table or "item").lower()
        start = self.at(tree)
        if type(tree.this).__name__ != "Identifier" or scope not in SCOPES:
            self.fail(
                f"{tree.sql()} is no column", start, "columns of items stand alone, others after user. or context."
            )
        found = self.columns.find(scope, name)
        if found is None:
            known = self.columns.names()
            spelled = name if scope == "item" else f"{scope}.{name}"
            hint = nearest(spelled, known or ["none"])[:300]
            if tree.this.args.get("quoted"):
                hint += "; texts are written in single quotes"
            self.fail(f"there is no column {spelled!r}", start, hint)
        kind = self.columns.kinds[scope][found]
        if kind == "null":  # a column without a single value
            return Node("literal", "null")
        return Node("column", kind, value=(scope, found))

    def _read_literal(self, tree: Any) -> Node:
        if tree.is_string:
            return Node("literal", "text", value=tree.this)
        try:
            number: float = int(tree.this) if re.fullmatch(r"\d{1,18}", tree.this) else float(tree.this)
        except ValueError:
            number = math.inf
        if not math.isfinite(number):
            self.fail(f"{tree.this!r} is no number that can be used", self.at(tree))
        return Node("literal", "number", value=number)

    def _read_boolean(self, tree: Any) -> Node:
        return Node("literal", "bool", value=bool(tree.this))

    def _read_null(self, tree: Any) -> Node:
        return Node("literal", "null")

    def _read_paren(self, tree: Any) -> Node:
        return self.node(tree.this)

    def _read_not(self, tree: Any) -> Node:
        return Node("not", "bool", (self._need(self.node(tree.this), "bool", tree.this),))

    def _read_neg(self, tree: Any) -> Node:
        inner = _as(self.node(tree.this), "number")
        if inner.kind not in ("number", "span"):
            self.fail(f"{_A[inner.kind]} has no sign", self.at(tree))
        if inner.op == "literal" and inner.value is not None:
            return Node("literal", inner.kind, value=-inner.value)
        return Node("neg", inner.kind, (inner,))

    def _read_between(self, tree: Any) -> Node:
        self._only(tree, "this", "low", "high")
        value, low, high = (self.node(tree.args[name]) for name in ("this", "low", "high"))
        bounds = [self._binary("LTE", low, value, tree), self._binary("LTE", value, high, tree)]
        return conjunction(bounds)

    def _read_is(self, tree: Any) -> Node:
        value, right = self.node(tree.this), type(tree.expression).__name__
        if right == "Null":
            return Node("isnull", "bool", (_as(value, "bool"),))
        if right == "Boolean":  # IS TRUE is never NULL
            truth = Node("literal", "bool", value=False)
            value = self._need(value, "bool", tree.this)
            if not tree.expression.this:
                value = Node("not", "bool", (value,))
            return Node("coalesce", "bool", (value, truth))
        self.fail("IS is followed by NULL, TRUE or FALSE", self.at(tree))

    def _read_like(self, tree: Any, anycase: bool = False) -> Node:
        self._only(tree, "this", "expression", "negate")
        value, pattern = self._need(self.node(tree.this), "text", tree.this), self.node(tree.expression)
        if pattern.op != "literal" or pattern.kind not in ("text", "null"):
            self.fail("a pattern is a text in single quotes", self.at(tree.expression))
        if pattern.kind == "null" or pattern.value is None:
            return Node("literal", "bool")
        parts = (".*" if c == "%" else "." if c == "_" else re.escape(c) for c in pattern.value)
        made = Node("like", "bool", (value,), ("(?is)" if anycase else "(?s)") + "^" + "".join(parts) + "$")
        return Node("not", "bool", (made,)) if tree.args.get("negate") else made

    def _read_ilike(self, tree: Any) -> Node:
        return self._read_like(tree, anycase=True)

    def _read_in(self, tree: Any) -> Node:
        self._only(tree, "this", "field", "expressions")
        value = self.node(tree.this)
        if tree.args.get("field") is not None:
            return self._member(value, self.node(tree.args["field"]), tree)
        members = [self.node(inner) for inner in tree.expressions]
        if not members:
            self.fail("IN () names nothing", self.at(tree), "write IN ('drama', 'comedy')")
        single = {"texts": "text", "numbers": "number"}.get(value.kind, value.kind)
        if value.kind == "null":
            return Node("literal", "bool")
        fixed, parts = [], []
        for member, inner in zip(members, tree.expressions):
            member = self._timed(_as(member, single), single, tree)
            if member.kind in ("texts", "numbers"):
                parts.append(self._member(value, member, tree))
            elif member.kind != single:
                self.fail(f"{_A[member.kind]} is among values that are each {_A[single]}", self.at(inner),
                          "texts are written in single quotes, numbers without quotes")  # fmt: skip
            elif member.op == "literal":
                fixed.append(member.value)
            elif value.kind == single:
                parts.append(self._binary("EQ", value, member, tree))
            else:
                parts.append(self._member(value, member, tree))
        if fixed:
            known = sorted({member for member in fixed if member is not None})
            parts.insert(0, Node("in", "bool", (value,), (tuple(known), None in fixed)))
        return parts[0] if len(parts) == 1 else _joined("or", self._flat_or(parts))

    def _member(self, value: Node, container: Node, tree: Any) -> Node:
        """`value IN column`: whether they share a value; either may hold several."""
        single = {"texts": "text", "numbers": "number"}
        of = single.get(container.kind, container.kind)
        value = _as(value, of)
        container = _as(container, single.get(value.kind, value.kind))
        if single.get(value.kind, value.kind) != single.get(container.kind, container.kind):
            self.fail(f"{_A[value.kind]} cannot be among {_A[container.kind]}", self.at(tree),
                      "texts are written in single quotes, numbers without quotes")  # fmt: skip
        if value.kind not in single and container.kind not in single:
            return self._binary("EQ", value, container, tree)
        if value.op == "literal" and value.kind not in single:
            if value.value is None:
                return Node("literal", "bool")
            return Node("in", "bool", (container,), ((value.value,), False))
        return Node("overlap", "bool", (value, container))

    def _read_contains(self, tree: Any) -> Node:
        self._only(tree, "this", "expression")
        container, value = self.node(tree.this), self.node(tree.expression)
        if container.kind != "text":
            return self._member(value, container, tree)
        if value.op != "literal" or value.kind not in ("text", "null"):
            self.fail("what a text contains is a text in single quotes", self.at(tree.expression))
        if value.value is None:
            return Node("literal", "bool")
        return Node("like", "bool", (container,), "(?s)" + re.escape(value.value))

    def _read_arraycontains(self, tree: Any) -> Node:
        return self._read_contains(tree)

    def _read_case(self, tree: Any) -> Node:
        self._only(tree, "this", "ifs", "default")
        subject = self.node(tree.this) if tree.this is not None else None
        conditions, values = [], []
        for branch in tree.args["ifs"]:
            when = self.node(branch.this)
            conditions.append(
                self._need(when, "bool", branch.this) if subject is None else self._binary("EQ", subject, when, branch)
            )
            values.append(self.node(branch.args["true"]))
        default = tree.args.get("default")
        values.append(self.node(default) if default is not None else Node("literal", "null"))
        values = self._one_kind(values, tree)
        if values[0].kind == "null":
            return values[0]
        args = [arg for pair in zip(conditions, values) for arg in pair]
        return Node("case", values[0].kind, (*args, values[-1]))

    def _one_kind(self, values: list[Node], tree: Any) -> list[Node]:
        kinds = {value.kind for value in values} - {"null"}
        if "time" in kinds:
            values = [self._timed(value, "time", tree) for value in values]
            kinds = {value.kind for value in values} - {"null"}
        if len(kinds) > 1 or kinds & {"texts", "numbers"}:
            self.fail("these are of different kinds: " + ", ".join(sorted(_A[kind] for kind in kinds)), self.at(tree))
        kind = next(iter(kinds), "null")
        return [_as(value, kind) for value in values]

    def _several(self, tree: Any, op: str) -> Node:
        values = self._one_kind([self.node(arg) for arg in (tree.this, *tree.expressions)], tree)
        if values[0].kind == "null":
            return values[0]
        if op != "coalesce" and values[0].kind == "bool":
            self.fail("true and false have no order", self.at(tree))
        return Node(op, values[0].kind, tuple(values))

    def _read_coalesce(self, tree: Any) -> Node:
        self._only(tree, "this", "expressions")
        return self._several(tree, "coalesce")

    def _read_greatest(self, tree: Any) -> Node:
        return self._several(tree, "greatest")

    def _read_least(self, tree: Any) -> Node:
        return self._several(tree, "least")

    def _read_nullif(self, tree: Any) -> Node:
        value = self.node(tree.this)
        if value.kind == "null":
            return value
        same = self._binary("EQ", value, self.node(tree.expression), tree)
        return Node("case", value.kind, (same, Node("literal", value.kind), value))

    def _read_round(self, tree: Any) -> Node:
        self._only(tree, "this", "decimals")
        value, decimals = self._need(self.node(tree.this), "number", tree.this), tree.args.get("decimals")
        places = self.node(decimals).value if decimals is not None else 0
        if not isinstance(places, int) or not -15 <= places <= 15:
            self.fail("ROUND takes a whole number of decimals from -15 to 15", self.at(tree))
        return Node("round", "number", (value,), places)

    def _read_length(self, tree: Any) -> Node:
        self._only(tree, "this")
        value = _as(self.node(tree.this), "text")
        if value.kind not in ("text", "texts", "numbers"):
            self.fail(f"{_A[value.kind]} has no length", self.at(tree))
        return Node("length", "number", (value,))

    def _read_currenttimestamp(self, tree: Any) -> Node:
        self._only(tree)
        return Node("now", "time")

    def _read_anonymous(self, tree: Any) -> Node:
        if tree.name.upper() == "NOW" and not tree.expressions:
            return Node("now", "time")
        near = nearest(tree.name.upper(), list(FUNCTIONS))
        if tree.name.upper() in FUNCTIONS:
            near = "without arguments here"
        self.fail(f"function {tree.name.upper()} is not allowed", self.at(tree), near + "; allowed: " + ALLOWED)

    def _read_cast(self, tree: Any) -> Node:
        """DATE '...' and TIMESTAMP '...'; other casts are not needed."""
        self._only(tree, "this", "to")
        to = tree.args["to"].sql().upper()
        if to not in ("DATE", "TIMESTAMP", "TIMESTAMPTZ", "DATETIME") or not getattr(tree.this, "is_string", False):
            self.fail("CAST is not allowed", self.at(tree))
        return self._timed(self.node(tree.this), "time", tree)

    def _read_interval(self, tree: Any) -> Node:
        self._only(tree, "this", "unit")
        unit = (tree.args["unit"].name if tree.args.get("unit") is not None else "").upper().rstrip("S")
        given = tree.this.this if type(tree.this).__name__ == "Literal" else ""
        if unit not in _SPANS or not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", str(given)):
            self.fail("this is no length of time", self.at(tree), "write INTERVAL '7' DAY; units: " + ", ".join(_SPANS))
        return Node("literal", "span", value=float(given) * UNITS[_SPANS[unit]])


_SPANS = {"SECOND": "s", "MINUTE": "m", "HOUR": "h", "DAY": "d", "WEEK": "w", "YEAR": "y"}
_LEFT = ("And", "Or", "EQ", "NEQ", "LT", "LTE", "GT", "GTE", "Add", "Sub", "Mul", "Div", "Mod")
_SIMPLE = {
    "Abs": ("abs", "number", "number"),
    "Ceil": ("ceil", "number", "number"),
    "Floor": ("floor", "number", "number"),
    "Exp": ("exp", "number", "number"),
    "Ln": ("ln", "number", "number"),
    "Sqrt": ("sqrt", "number", "number"),
    "Lower": ("lower", "text", "text"),
    "Upper": ("upper", "text", "text"),
    "Pow": ("pow", "number", "number", "number"),
}
# Kind of a sum or product; what is not here has no meaning.
_SUMS = {(op, "number", "number"): "number" for op in ("add", "sub", "mul", "div", "mod")} | {
    ("add", "time", "span"): "time",
    ("add", "span", "time"): "time",
    ("sub", "time", "span"): "time",
    ("sub", "time", "time"): "span",
    ("add", "span", "span"): "span",
    ("sub", "span", "span"): "span",
    ("mul", "span", "number"): "span",
    ("mul", "number", "span"): "span",
    ("div", "span", "number"): "span",
    ("div", "span", "span"): "number",
}
_TOKENS = frozenset(
    re.findall(
        r"\w+",
        "L_PAREN R_PAREN COMMA DOT DASH PLUS STAR SLASH MOD EQ NEQ LT LTE GT GTE AND OR NOT IN BETWEEN LIKE ILIKE IS "
        "NULL TRUE FALSE CASE WHEN THEN ELSE END NUMBER STRING IDENTIFIER VAR INTERVAL DATE TIMESTAMP "
        "CURRENT_TIMESTAMP SEMICOLON",
    )
)
