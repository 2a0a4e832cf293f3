"""Reads the text of an expression into a typed tree: SQLGlot parses, what is allowed is taken over node by node.

Everything else is refused with its place in the text. Nothing of the text is ever run. See `expressions` for the
language.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

from zhiyin.core.durations import UNITS
from zhiyin.core.errors import ConfigError, MissingExtraError, suggest
from zhiyin.pipeline.column_kinds import SCOPES, ColumnKinds
from zhiyin.pipeline.expression_nodes import Node, combine, conjunction, null_as, parse_time

# Characters: of two filters of 4,000 that hold both.
MAX_CHARACTERS, MAX_DEPTH = 8_100, 50
FUNCTIONS = ("ABS", "CEIL", "COALESCE", "CONTAINS", "EXP", "FLOOR", "GREATEST", "LEAST", "LENGTH", "LN", "LOWER", "NOW",
             "NULLIF", "POWER", "ROUND", "SQRT", "UPPER")  # fmt: skip
ALLOWED = (
    "AND OR NOT, = != < <= > >=, IN, BETWEEN, LIKE, ILIKE, IS NULL, + - * / %, CASE, DATE '...', INTERVAL '7' DAY, "
    "and the functions " + ", ".join(FUNCTIONS)
)
PHRASES = {
    "bool": "true or false",
    "number": "a number",
    "text": "a text",
    "time": "a time",
    "span": "a length of time",
    "texts": "a list of texts",
    "numbers": "a list of numbers",
    "null": "NULL",
}


def quoted_excerpt(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


class ExpressionReader:
    """From text to a typed tree."""

    def __init__(self, text: str, columns: ColumnKinds) -> None:
        self.text, self.columns = text, columns

    def read(self) -> Node:
        if not isinstance(self.text, str) or not self.text.strip():
            raise ConfigError("the expression is empty", remedy="write a condition such as price < 50")
        if len(self.text) > MAX_CHARACTERS:
            raise ConfigError(
                f"the expression has {len(self.text):,} characters", remedy=f"at most {MAX_CHARACTERS:,}; split it up"
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
                f"{quoted_excerpt(self.text)} cannot be read: {str(error).splitlines()[0]}",
                remedy="close every quote; write a quote inside of a text twice",
            ) from None
        self._check(tokens)
        try:
            trees = dialect.parser().parse(tokens, self.text)
        except sqlglot.errors.ParseError as error:
            details = (error.errors or [{}])[0]
            line, column = details.get("line", 1), details.get("col", 1)
            start = sum(len(row) + 1 for row in self.text.split("\n")[: line - 1]) + column - 1
            description = str(details.get("description") or error).split(" for <class")[0]
            self.fail(f"this cannot be read ({description})", start)
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

    def fail(self, message: str, place: Any, remedy: str = "allowed: " + ALLOWED) -> NoReturn:
        """Raise a ConfigError that points at a character: an offset, or where a SQLGlot node starts."""
        start = place if isinstance(place, int) else self.position_of(place)
        start = max(0, min(start, len(self.text)))
        first = max(0, start - 40)
        excerpt = self.text[first : start + 40].replace("\n", " ")
        raise ConfigError(
            f"expression, character {start + 1}: {message}\n    {excerpt}\n    {' ' * (start - first)}^", remedy=remedy
        )

    def position_of(self, tree: Any) -> int:
        """Where a node stands in the text, as well as it is known."""
        starts = [inner.meta["start"] for inner in tree.walk() if "start" in inner.meta]
        if starts:
            return min(starts)
        fragment = tree.name or tree.sql()
        match = re.search(re.escape(fragment), self.text, re.IGNORECASE) if fragment else None
        return match.start() if match else 0

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
            if kind not in _ALLOWED_TOKENS and not called:
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
            if depth + run > MAX_DEPTH:
                self.fail(f"this is nested deeper than {MAX_DEPTH}", token.start, "say it with fewer parentheses")

    # -- nodes ----------------------------------------------------------------------------------------------------

    def node(self, tree: Any) -> Node:
        """The tree of a SQLGlot tree. Long chains such as a + b + c + ... lean to the left and are walked."""
        chain = []
        while type(tree).__name__ in _BINARY_NODES:
            chain.append(tree)
            tree = tree.this
        result = self._single(tree)
        pending: list[Node] = []
        for at, tree in enumerate(reversed(chain)):
            name = type(tree).__name__
            self._only_args(tree, "this", "expression", "typed", "safe")
            right = self.node(tree.expression)
            if name in ("And", "Or"):
                pending = pending or [self._require(result, "bool", tree.this)]
                pending.append(self._require(right, "bool", tree.expression))
                above = chain[len(chain) - 2 - at] if at + 1 < len(chain) else None
                if type(above) is type(tree):
                    continue  # one long AND is one node
                result = conjunction(pending) if name == "And" else combine("or", self._flat_or(pending))
                pending = []
            else:
                result = self._binary(name, result, right, tree)
            if result.depth > 2 * MAX_DEPTH:
                self.fail(
                    f"this has more than {2 * MAX_DEPTH} steps inside one another",
                    tree,
                    "split it up",
                )
        return result

    @staticmethod
    def _flat_or(nodes: list[Node]) -> list[Node]:
        return [inner for node in nodes for inner in (node.args if node.op == "or" else (node,))]

    def _single(self, tree: Any) -> Node:
        name = type(tree).__name__
        reader: Callable[[Any], Node] | None = getattr(self, "_read_" + name.lower(), None)
        if reader is not None:
            return reader(tree)
        if name in _FUNCTION_NODES:
            op, *kinds, result = _FUNCTION_NODES[name]
            self._only_args(tree, "this", "expression")
            args = [tree.this, *([tree.expression] if len(kinds) > 1 else [])]
            return Node(op, result, tuple(self._require(self.node(arg), kind, arg) for arg, kind in zip(args, kinds)))
        function_name = (tree.name if name == "Anonymous" else "") or getattr(tree, "key", name)
        if name == "Anonymous" or hasattr(tree, "sql_names"):
            hint = suggest(function_name.upper(), list(FUNCTIONS))
            self.fail(f"function {function_name.upper()} is not allowed", tree, hint + "; allowed: " + ALLOWED)
        self.fail(f"{function_name.upper()} is not allowed", tree)

    def _only_args(self, tree: Any, *names: str) -> None:
        """Refuse what a node carries beyond what is read of it."""
        more = [name for name, value in tree.args.items() if value and name not in names]
        if more:
            self.fail(f"{more[0].upper()} is not allowed here", tree)

    def _require(self, node: Node, kind: str, tree: Any) -> Node:
        node = null_as(node, kind)
        if node.kind != kind:
            hint = ALLOWED
            if kind == "bool" and node.kind == "number":
                hint = "compare it: write column = 1 for a column of 0 and 1"
            self.fail(f"this is {PHRASES[node.kind]}, where {PHRASES[kind]} is needed", tree, hint)
        return node

    def _same_kind(self, left: Node, right: Node, tree: Any) -> tuple[Node, Node]:
        """Two values of one kind: NULL is of any kind, and a text beside a time is read as one."""
        left, right = null_as(left, right.kind), null_as(right, left.kind)
        left, right = self._as_time(left, right.kind, tree), self._as_time(right, left.kind, tree)
        if left.kind != right.kind:
            if {left.kind, right.kind} & {"texts", "numbers"}:
                self.fail(
                    f"{PHRASES[left.kind]} cannot be compared with {PHRASES[right.kind]}", tree,
                    "a multi-valued column is asked with 'drama' IN genres, or genres IN ('drama', 'comedy')",
                )  # fmt: skip
            self.fail(
                f"{PHRASES[left.kind]} cannot be compared with {PHRASES[right.kind]}", tree,
                "texts are written in single quotes, numbers without quotes",
            )  # fmt: skip
        return left, right

    def _as_time(self, node: Node, kind: str, tree: Any) -> Node:
        if kind != "time" or node.kind != "text" or node.op != "literal" or node.value is None:
            return node
        moment = parse_time(node.value)
        if moment is None:
            self.fail(
                f"{node.value!r} is no date or time",
                tree,
                "write '2024-12-31' or '2024-12-31T18:00:00'",
            )
        return Node("literal", "time", value=moment)

    def _binary(self, name: str, left: Node, right: Node, tree: Any) -> Node:
        if name in ("EQ", "NEQ", "LT", "LTE", "GT", "GTE"):
            texts = "texts" in (left.kind, right.kind) and name in ("EQ", "NEQ")
            if texts and "text" in (left.kind, right.kind):  # category = 'drama' where the column is "a|b"
                self._same_kind(left, right, tree)
            left, right = self._same_kind(left, right, tree)
            if left.kind in ("texts", "numbers"):
                self.fail("lists cannot be compared", tree, "ask 'drama' IN genres")
            if left.kind == "bool" and name not in ("EQ", "NEQ"):
                self.fail("true and false have no order", tree)
            if name in ("GT", "GTE"):
                left, right = right, left
            op = {"EQ": "eq", "NEQ": "eq", "LT": "lt", "GT": "lt", "LTE": "le", "GTE": "le"}[name]
            if op == "eq" and right.key < left.key:
                left, right = right, left
            comparison = Node(op, "bool", (left, right))
            return Node("not", "bool", (comparison,)) if name == "NEQ" else comparison
        op = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Mod": "mod"}[name]
        left, right = self._as_time(left, right.kind, tree), self._as_time(right, left.kind, tree)
        if left.kind == "null" or right.kind == "null":
            other = right.kind if left.kind == "null" else left.kind
            plain = "number" if other in ("null", "number", "span") else other
            left, right = null_as(left, plain), null_as(right, "span" if plain == "time" else plain)
        kind = _ARITHMETIC_KINDS.get((op, left.kind, right.kind))
        if kind is None:
            sign = {"add": "+", "sub": "-", "mul": "*", "div": "/", "mod": "%"}[op]
            self.fail(f"{PHRASES[left.kind]} {sign} {PHRASES[right.kind]} has no meaning", tree)
        return Node(op, kind, (left, right))

    # -- one reader a class of SQLGlot's -----------------------------------------------------------------------------

    def _read_column(self, tree: Any) -> Node:
        self._only_args(tree, "this", "table")
        name, scope = tree.name, (tree.table or "item").lower()
        if type(tree.this).__name__ != "Identifier" or scope not in SCOPES:
            self.fail(
                f"{tree.sql()} is no column", tree, "columns of items stand alone, others after user. or context."
            )
        column = self.columns.find(scope, name)
        if column is None:
            names = self.columns.names()
            spelled = name if scope == "item" else f"{scope}.{name}"
            hint = suggest(spelled, names or ["none"])[:300]
            if tree.this.args.get("quoted"):
                hint += "; texts are written in single quotes"
            self.fail(f"there is no column {spelled!r}", tree, hint)
        kind = self.columns.kinds[scope][column]
        if kind == "null":  # a column without a single value
            return Node("literal", "null")
        return Node("column", kind, value=(scope, column))

    def _read_literal(self, tree: Any) -> Node:
        if tree.is_string:
            return Node("literal", "text", value=tree.this)
        try:
            number: float = int(tree.this) if re.fullmatch(r"\d{1,18}", tree.this) else float(tree.this)
        except ValueError:
            number = math.inf
        if not math.isfinite(number):
            self.fail(f"{tree.this!r} is no number that can be used", tree)
        return Node("literal", "number", value=number)

    def _read_boolean(self, tree: Any) -> Node:
        return Node("literal", "bool", value=bool(tree.this))

    def _read_null(self, tree: Any) -> Node:
        return Node("literal", "null")

    def _read_paren(self, tree: Any) -> Node:
        return self.node(tree.this)

    def _read_not(self, tree: Any) -> Node:
        return Node("not", "bool", (self._require(self.node(tree.this), "bool", tree.this),))

    def _read_neg(self, tree: Any) -> Node:
        inner = null_as(self.node(tree.this), "number")
        if inner.kind not in ("number", "span"):
            self.fail(f"{PHRASES[inner.kind]} has no sign", tree)
        if inner.op == "literal" and inner.value is not None:
            return Node("literal", inner.kind, value=-inner.value)
        return Node("neg", inner.kind, (inner,))

    def _read_between(self, tree: Any) -> Node:
        self._only_args(tree, "this", "low", "high")
        value, low, high = (self.node(tree.args[name]) for name in ("this", "low", "high"))
        bounds = [self._binary("LTE", low, value, tree), self._binary("LTE", value, high, tree)]
        return conjunction(bounds)

    def _read_is(self, tree: Any) -> Node:
        value, right = self.node(tree.this), type(tree.expression).__name__
        if right == "Null":
            return Node("isnull", "bool", (null_as(value, "bool"),))
        if right == "Boolean":  # IS TRUE is never NULL
            truth = Node("literal", "bool", value=False)
            value = self._require(value, "bool", tree.this)
            if not tree.expression.this:
                value = Node("not", "bool", (value,))
            return Node("coalesce", "bool", (value, truth))
        self.fail("IS is followed by NULL, TRUE or FALSE", tree)

    def _read_like(self, tree: Any, anycase: bool = False) -> Node:
        self._only_args(tree, "this", "expression", "negate")
        value, pattern = self._require(self.node(tree.this), "text", tree.this), self.node(tree.expression)
        if pattern.op != "literal" or pattern.kind not in ("text", "null"):
            self.fail("a pattern is a text in single quotes", tree.expression)
        if pattern.kind == "null" or pattern.value is None:
            return Node("literal", "bool")
        parts = (".*" if c == "%" else "." if c == "_" else re.escape(c) for c in pattern.value)
        like = Node("like", "bool", (value,), ("(?is)" if anycase else "(?s)") + "^" + "".join(parts) + "$")
        return Node("not", "bool", (like,)) if tree.args.get("negate") else like

    def _read_ilike(self, tree: Any) -> Node:
        return self._read_like(tree, anycase=True)

    def _read_in(self, tree: Any) -> Node:
        self._only_args(tree, "this", "field", "expressions")
        value = self.node(tree.this)
        if tree.args.get("field") is not None:
            return self._membership(value, self.node(tree.args["field"]), tree)
        members = [self.node(inner) for inner in tree.expressions]
        if not members:
            self.fail("IN () names nothing", tree, "write IN ('drama', 'comedy')")
        single = {"texts": "text", "numbers": "number"}.get(value.kind, value.kind)
        if value.kind == "null":
            return Node("literal", "bool")
        fixed, parts = [], []
        for member, inner in zip(members, tree.expressions):
            member = self._as_time(null_as(member, single), single, tree)
            if member.kind in ("texts", "numbers"):
                parts.append(self._membership(value, member, tree))
            elif member.kind != single:
                self.fail(f"{PHRASES[member.kind]} is among values that are each {PHRASES[single]}", inner,
                          "texts are written in single quotes, numbers without quotes")  # fmt: skip
            elif member.op == "literal":
                fixed.append(member.value)
            elif value.kind == single:
                parts.append(self._binary("EQ", value, member, tree))
            else:
                parts.append(self._membership(value, member, tree))
        if fixed:
            constants = sorted({member for member in fixed if member is not None})
            parts.insert(0, Node("in", "bool", (value,), (tuple(constants), None in fixed)))
        return parts[0] if len(parts) == 1 else combine("or", self._flat_or(parts))

    def _membership(self, value: Node, container: Node, tree: Any) -> Node:
        """`value IN column`: whether they share a value; either may hold several."""
        single = {"texts": "text", "numbers": "number"}
        of = single.get(container.kind, container.kind)
        value = null_as(value, of)
        container = null_as(container, single.get(value.kind, value.kind))
        if single.get(value.kind, value.kind) != single.get(container.kind, container.kind):
            self.fail(f"{PHRASES[value.kind]} cannot be among {PHRASES[container.kind]}", tree,
                      "texts are written in single quotes, numbers without quotes")  # fmt: skip
        if value.kind not in single and container.kind not in single:
            return self._binary("EQ", value, container, tree)
        if value.op == "literal" and value.kind not in single:
            if value.value is None:
                return Node("literal", "bool")
            return Node("in", "bool", (container,), ((value.value,), False))
        return Node("overlap", "bool", (value, container))

    def _read_contains(self, tree: Any) -> Node:
        self._only_args(tree, "this", "expression")
        container, value = self.node(tree.this), self.node(tree.expression)
        if container.kind != "text":
            return self._membership(value, container, tree)
        if value.op != "literal" or value.kind not in ("text", "null"):
            self.fail("what a text contains is a text in single quotes", tree.expression)
        if value.value is None:
            return Node("literal", "bool")
        return Node("like", "bool", (container,), "(?s)" + re.escape(value.value))

    def _read_arraycontains(self, tree: Any) -> Node:
        return self._read_contains(tree)

    def _read_case(self, tree: Any) -> Node:
        self._only_args(tree, "this", "ifs", "default")
        subject = self.node(tree.this) if tree.this is not None else None
        conditions, values = [], []
        for branch in tree.args["ifs"]:
            when = self.node(branch.this)
            conditions.append(
                self._require(when, "bool", branch.this)
                if subject is None
                else self._binary("EQ", subject, when, branch)
            )
            values.append(self.node(branch.args["true"]))
        default = tree.args.get("default")
        values.append(self.node(default) if default is not None else Node("literal", "null"))
        values = self._common_kind(values, tree)
        if values[0].kind == "null":
            return values[0]
        args = [arg for pair in zip(conditions, values) for arg in pair]
        return Node("case", values[0].kind, (*args, values[-1]))

    def _common_kind(self, values: list[Node], tree: Any) -> list[Node]:
        kinds = {value.kind for value in values} - {"null"}
        if "time" in kinds:
            values = [self._as_time(value, "time", tree) for value in values]
            kinds = {value.kind for value in values} - {"null"}
        if len(kinds) > 1 or kinds & {"texts", "numbers"}:
            self.fail(
                "these are of different kinds: " + ", ".join(sorted(PHRASES[kind] for kind in kinds)),
                tree,
            )
        kind = next(iter(kinds), "null")
        return [null_as(value, kind) for value in values]

    def _variadic(self, tree: Any, op: str) -> Node:
        values = self._common_kind([self.node(arg) for arg in (tree.this, *tree.expressions)], tree)
        if values[0].kind == "null":
            return values[0]
        if op != "coalesce" and values[0].kind == "bool":
            self.fail("true and false have no order", tree)
        return Node(op, values[0].kind, tuple(values))

    def _read_coalesce(self, tree: Any) -> Node:
        self._only_args(tree, "this", "expressions")
        return self._variadic(tree, "coalesce")

    def _read_greatest(self, tree: Any) -> Node:
        return self._variadic(tree, "greatest")

    def _read_least(self, tree: Any) -> Node:
        return self._variadic(tree, "least")

    def _read_nullif(self, tree: Any) -> Node:
        value = self.node(tree.this)
        if value.kind == "null":
            return value
        same = self._binary("EQ", value, self.node(tree.expression), tree)
        return Node("case", value.kind, (same, Node("literal", value.kind), value))

    def _read_round(self, tree: Any) -> Node:
        self._only_args(tree, "this", "decimals")
        value, decimals = self._require(self.node(tree.this), "number", tree.this), tree.args.get("decimals")
        places = self.node(decimals).value if decimals is not None else 0
        if not isinstance(places, int) or not -15 <= places <= 15:
            self.fail("ROUND takes a whole number of decimals from -15 to 15", tree)
        return Node("round", "number", (value,), places)

    def _read_length(self, tree: Any) -> Node:
        self._only_args(tree, "this")
        value = null_as(self.node(tree.this), "text")
        if value.kind not in ("text", "texts", "numbers"):
            self.fail(f"{PHRASES[value.kind]} has no length", tree)
        return Node("length", "number", (value,))

    def _read_currenttimestamp(self, tree: Any) -> Node:
        self._only_args(tree)
        return Node("now", "time")

    def _read_anonymous(self, tree: Any) -> Node:
        if tree.name.upper() == "NOW" and not tree.expressions:
            return Node("now", "time")
        hint = suggest(tree.name.upper(), list(FUNCTIONS))
        if tree.name.upper() in FUNCTIONS:
            hint = "without arguments here"
        self.fail(f"function {tree.name.upper()} is not allowed", tree, hint + "; allowed: " + ALLOWED)

    def _read_cast(self, tree: Any) -> Node:
        """DATE '...' and TIMESTAMP '...'; other casts are not needed."""
        self._only_args(tree, "this", "to")
        to = tree.args["to"].sql().upper()
        if to not in ("DATE", "TIMESTAMP", "TIMESTAMPTZ", "DATETIME") or not getattr(tree.this, "is_string", False):
            self.fail("CAST is not allowed", tree)
        return self._as_time(self.node(tree.this), "time", tree)

    def _read_interval(self, tree: Any) -> Node:
        self._only_args(tree, "this", "unit")
        unit = (tree.args["unit"].name if tree.args.get("unit") is not None else "").upper().rstrip("S")
        amount = tree.this.this if type(tree.this).__name__ == "Literal" else ""
        if unit not in _INTERVAL_UNITS or not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", str(amount)):
            self.fail(
                "this is no length of time",
                tree,
                "write INTERVAL '7' DAY; units: " + ", ".join(_INTERVAL_UNITS),
            )
        return Node("literal", "span", value=float(amount) * UNITS[_INTERVAL_UNITS[unit]])


_INTERVAL_UNITS = {"SECOND": "s", "MINUTE": "m", "HOUR": "h", "DAY": "d", "WEEK": "w", "YEAR": "y"}
_BINARY_NODES = ("And", "Or", "EQ", "NEQ", "LT", "LTE", "GT", "GTE", "Add", "Sub", "Mul", "Div", "Mod")
_FUNCTION_NODES = {
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
_ARITHMETIC_KINDS = {(op, "number", "number"): "number" for op in ("add", "sub", "mul", "div", "mod")} | {
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
_ALLOWED_TOKENS = frozenset(
    re.findall(
        r"\w+",
        "L_PAREN R_PAREN COMMA DOT DASH PLUS STAR SLASH MOD EQ NEQ LT LTE GT GTE AND OR NOT IN BETWEEN LIKE ILIKE IS "
        "NULL TRUE FALSE CASE WHEN THEN ELSE END NUMBER STRING IDENTIFIER VAR INTERVAL DATE TIMESTAMP "
        "CURRENT_TIMESTAMP SEMICOLON",
    )
)
