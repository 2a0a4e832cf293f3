"""EventSchema: kinds, weights and times of events, the same for reading, training, serving, rankers and rules.

    schema = EventSchema.of(["purchase", "view"])            # usual weights: purchase 5, view 1
    schema.weights(["purchase", "purchase"], [None, -1.0])   # float32 [5, -1]: a negative value counts against
    schema.codes(["view", "share"])                          # [1, 2]: 2, `schema.other`, is no kind of the log

It is made once, by `read`, carried by the `Dataset`, saved with each model, and loaded by the service with the version.
"""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.errors import ConfigError, suggest
from zhiyin.core.limits import LARGEST_VALUE
from zhiyin.data.time_policy import TimePolicy

# The kind of an event that names none.
NO_KIND = "event"
# Default weights of kinds of events, by name in lower case; other kinds have weight 1.
KIND_WEIGHTS = {
    "cart": 3.0, "addtocart": 3.0, "add_to_cart": 3.0, "basket": 3.0,
    "like": 3.0, "favorite": 3.0, "favourite": 3.0, "fav": 3.0,
    "buy": 5.0, "purchase": 5.0, "transaction": 5.0, "order": 5.0,
    "dislike": -1.0, "unlike": -1.0, "hide": -1.0, "skip": -1.0, "return": -1.0, "remove_from_cart": -1.0,
}  # fmt: skip
# Kinds that are known by name, in lower case: those with a weight of their own, and those of weight 1.
KNOWN_KINDS = frozenset(KIND_WEIGHTS) | {
    "event", "view", "click", "play", "watch", "read", "listen", "rate", "rating", "review", "visit", "open", "pv",
    "detail", "pageview", "page_view", "search", "impression", "checkin", "check_in", "download", "save",
}  # fmt: skip

LARGEST_WEIGHT = 1e6  # squares and sums of weights stay far from the end of a float32
_COMPARE = {"<=": operator.le, ">=": operator.ge, "==": operator.eq, "<": operator.lt, ">": operator.gt}
_RULE = re.compile(r"\s*(?P<name>[^<>=]+?)\s*(?:(?P<compare><=|>=|==|<|>)\s*(?P<number>-?\d+(?:\.\d+)?))?\s*")
_VALUE_NAMES = ("rating", "value")


@dataclasses.dataclass(frozen=True)
class WeightRule:
    """The weight of events of a kind (None: of any) whose value fulfils the comparison. The first match decides."""

    text: str
    kind: str | None
    compare: str | None
    number: float
    weight: float


@dataclasses.dataclass(frozen=True)
class StorePosition:
    """How much of a store was read: all events up to `seq`, of the store whose identity is `store`."""

    store: str
    seq: int


@dataclasses.dataclass(frozen=True)
class EventSchema:
    """Kinds of events, their weights, and the times that are accepted.

    Parameters
    ----------
    kinds: names of the kinds by code.
    rules: in order; the first that matches an event decides its weight.
    usual: weight by kind, in lower case, of an event that no rule matches.
    unlisted: weight of an event that no rule matches, of a kind that `usual` does not list.
    value: the column of the source that the value of an event came from; None where there was none.
    times: which times are accepted.
    """

    kinds: tuple[str, ...] = (NO_KIND,)
    rules: tuple[WeightRule, ...] = ()
    usual: Mapping[str, float] = dataclasses.field(default_factory=dict)
    unlisted: float = 1.0
    value: str | None = None
    times: TimePolicy = dataclasses.field(default_factory=TimePolicy)

    @classmethod
    def of(
        cls, kinds: Sequence[str], weights: Mapping[str, float] | None = None, value: str | None = None
    ) -> EventSchema:
        """The schema of a log.

        Parameters
        ----------
        kinds: of the log, by code. value: the column of values, if there is one.
        weights: rules as in `[weights]`, see `parse_weights`; an event that matches none is worth 0. None: the usual
            ones, which do not depend on the log: -1 for a negative value, the usual weight of a kind known by name,
            else 1.

        Raises ConfigError for a rule that names neither a kind of the log nor its values.
        """
        if weights is not None:
            return cls(tuple(kinds), tuple(parse_weights(weights, list(kinds), value)), unlisted=0.0, value=value)
        negative = WeightRule("value < 0", None, "<", 0.0, -1.0)
        return cls(tuple(kinds), (negative,), dict(KIND_WEIGHTS), 1.0, value)

    # -- weights -------------------------------------------------------------------------------------

    def weights(
        self, kinds: pl.Series | Sequence[str] | None, values: pl.Series | Sequence[float | None] | None, n: int = -1
    ) -> np.ndarray:
        """float32[n]: the weights of n events.

        kinds: names; None: all of NO_KIND. values: null or NaN where an event has none; None: none has one.
        n: needed only where both are None.
        """
        n = n if n >= 0 else len(kinds if kinds is not None else values)  # type: ignore[arg-type]
        # Compared in the precision that values are learned in, whoever brings them.
        numbers = np.full(n, np.nan, dtype=np.float32) if values is None else _floats(values)
        out = np.empty(n, dtype=np.float32)
        for kind, rows in _by_kind(kinds, n):
            out[rows] = self._weigh(kind, numbers[rows])
        return out

    def _weigh(self, kind: str, numbers: np.ndarray) -> np.ndarray:
        """Weights of events of one kind."""
        weight = np.full(len(numbers), self.usual.get(kind.lower(), self.unlisted), dtype=np.float32)
        free = np.ones(len(numbers), dtype=bool)
        for rule in self.rules:
            if rule.kind is not None and rule.kind != kind:
                continue
            hit = free if rule.compare is None else free & _COMPARE[rule.compare](numbers, rule.number)
            weight[hit] = rule.weight
            free = free & ~hit
        return weight

    def describe(self, *, negative: bool = True) -> str:
        """The weights in one line, to be shown. negative: whether values below 0 need to be spoken of."""
        listed = [f"{r.text} = {r.weight:g}" for r in self.rules if negative or (r.compare, r.number) != ("<", 0.0)]
        if self.usual:
            listed += [f"{kind} = {self.usual.get(kind.lower(), self.unlisted):g}" for kind in self.kinds]
        return ", ".join([*listed, f"else {self.unlisted:g}"])

    # -- kinds as codes ---------------------------------------------------------------------------------------------

    @property
    def other(self) -> int:
        """The code of a kind that is none of `kinds`: no array that is indexed by kind has a place for it."""
        return len(self.kinds)

    @cached_property
    def _codes(self) -> dict[str, int]:
        return {name: code for code, name in enumerate(self.kinds)}

    def codes(self, names: Iterable[str] | pl.Series) -> np.ndarray:
        """Codes of kinds by name, uint8[n] (uint16 of more than 255 kinds); `other` for those the log has not."""
        other = self.other
        dtype = np.uint8 if other < 256 else np.uint16
        if isinstance(names, pl.Series):
            codes = names.fill_null(NO_KIND).replace_strict(self._codes, default=other, return_dtype=pl.UInt16)
            return codes.to_numpy().astype(dtype, copy=False)
        return np.array([self._codes.get(name, other) for name in names], dtype=dtype)

    # -- at rest ----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return dataclasses.asdict(dataclasses.replace(self, usual=dict(self.usual)))

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> EventSchema:
        """What `state` came from. Raises KeyError or TypeError for what is no state."""
        return cls(
            tuple(state["kinds"]),
            tuple(WeightRule(**rule) for rule in state["rules"]),
            {str(kind): float(weight) for kind, weight in state["usual"].items()},
            float(state["unlisted"]),
            state["value"],
            TimePolicy(**state["times"]),
        )


def schema_of_weights(kinds: Sequence[str], weights: Mapping[str, float]) -> EventSchema:
    """The schema of rules as in `[weights]` where no log is at hand; without rules, the usual one.

    Raises ConfigError for a rule that cannot be read.
    """
    if not weights:
        return EventSchema.of(kinds)
    rules = parse_weights(weights, list(kinds), None, has_log=False)
    return EventSchema(tuple(kinds), tuple(rules), unlisted=0.0)


def parse_weights(
    weights: Mapping[str, float], kinds: Sequence[str], value: str | None, *, has_log: bool = True
) -> list[WeightRule]:
    """Rules such as {"view": 1, "purchase": 5, "rating >= 4": 1, "play > 30": 2} in the order written.

    The name before a comparison is a kind, or "rating", "value" or the value column's own name for events of any kind.

    has_log: whether the kinds and the column of the log are known. Where not, a name alone is a kind, and a name before
    a comparison that is no kind is the column.

    Raises ConfigError for a rule that names neither.
    """
    rules = []
    columns = {*_VALUE_NAMES, (value or "").lower()}
    for text, weight in weights.items():
        match = _RULE.fullmatch(text)
        if match is None or not isinstance(weight, int | float) or not abs(weight) <= LARGEST_WEIGHT:
            raise ConfigError(
                f"cannot read the weight {text!r} = {weight!r}",
                remedy='write "view" = 1, "rating >= 4" = 1 or "dislike" = -1; a weight is a million at most',
            )
        name, compare = match["name"], match["compare"]
        if has_log and compare is not None and value is None:
            raise ConfigError(
                f"weight {text!r} compares ratings, and the log has none",
                remedy='name the column: columns={"rating": "..."}, or weigh by kind alone',
            )
        any_kind = compare is not None and (name.lower() in columns or (not has_log and name not in kinds))
        if has_log and not any_kind and name not in kinds:
            raise ConfigError(
                f"weight {text!r} names no kind of event in the log",
                remedy=suggest(name, [*kinds, "rating"]),
            )
        number = float(match["number"]) if compare else 0.0
        rules.append(WeightRule(text, None if any_kind else name, compare, number, float(weight)))
    return rules


def is_value(value: object) -> bool:
    """Whether something may be the value of an event: a number, finite, at most LARGEST_VALUE of either sign."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -LARGEST_VALUE <= value <= LARGEST_VALUE


def beyond_values(numbers: pl.Series) -> pl.Series:
    """bool[n]: numbers that `is_value` refuses, NaN too. Null, which is no value, is none of them.

    numbers: whole numbers or float64. Of float32, what is rounded to 2**53 counts as beyond.
    """
    if numbers.dtype.is_float():  # the next float64 is 2**53, and of float32 that is the first to tell
        return ~(numbers.abs() < LARGEST_VALUE + 1.0).fill_null(True)
    return ~numbers.is_between(-LARGEST_VALUE, LARGEST_VALUE).fill_null(True)


def _floats(values: pl.Series | Sequence[float | None]) -> np.ndarray:
    if isinstance(values, pl.Series):
        return values.cast(pl.Float32).fill_null(np.nan).to_numpy()
    with np.errstate(over="ignore"):
        return np.array([np.nan if value is None else value for value in values], np.float64).astype(np.float32)


def _by_kind(kinds: pl.Series | Sequence[str] | None, n: int) -> list[tuple[str, Any]]:
    """(name, its rows) of each kind there is."""
    if kinds is None:
        return [(NO_KIND, slice(None))]
    if not isinstance(kinds, pl.Series):
        rows: dict[str, list[int]] = {}
        for row, kind in enumerate(kinds):
            rows.setdefault(kind, []).append(row)
        return list(rows.items())
    kinds = kinds.fill_null(NO_KIND) if kinds.null_count() else kinds
    names = kinds.unique().cast(pl.String).to_list()
    if len(names) == 1:
        return [(names[0], slice(None))]
    return [(name, (kinds == name).to_numpy()) for name in names]
