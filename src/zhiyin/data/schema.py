"""Roles of columns, kinds of events and what each is worth."""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Mapping

import numpy as np
import polars as pl

from zhiyin.core.errors import ConfigError, nearest

ROLES = ("user", "item", "time", "rating", "kind")

# What a kind of event is worth unless the caller says otherwise; a kind not listed is worth 1.
KIND_WEIGHTS = {
    "cart": 3.0, "addtocart": 3.0, "add_to_cart": 3.0, "basket": 3.0,
    "like": 3.0, "favorite": 3.0, "favourite": 3.0,
    "buy": 5.0, "purchase": 5.0, "transaction": 5.0, "order": 5.0,
    "dislike": -1.0, "unlike": -1.0, "hide": -1.0, "skip": -1.0, "return": -1.0, "remove_from_cart": -1.0,
}  # fmt: skip

_COMPARE = {"<=": operator.le, ">=": operator.ge, "==": operator.eq, "<": operator.lt, ">": operator.gt}
_RULE = re.compile(r"\s*(?P<name>[^<>=]+?)\s*(?:(?P<compare><=|>=|==|<|>)\s*(?P<number>-?\d+(?:\.\d+)?))?\s*")


@dataclasses.dataclass(frozen=True)
class Roles:
    """Which column of the log plays which role. `item_columns`, `user_columns` describe items and users."""

    user: str
    item: str
    time: str | None = None
    rating: str | None = None
    kind: str | None = None
    item_columns: tuple[str, ...] = ()
    user_columns: tuple[str, ...] = ()

    def sentence(self) -> str:
        """The roles in one line, to be shown."""
        said = [f"{role} = {getattr(self, role)}" for role in ROLES if getattr(self, role)]
        lists = [role for role in ("item_columns", "user_columns") if getattr(self, role)]
        said += [f"{role} = {', '.join(getattr(self, role))}" for role in lists]
        return "; ".join(said)


@dataclasses.dataclass(frozen=True)
class WeightRule:
    """Events of a kind, or whose rating compares so, are worth `weight`. The first match decides."""

    text: str
    kind: str | None
    compare: str | None
    number: float
    weight: float


def parse_weights(weights: Mapping[str, float], kinds: list[str], rating: str | None) -> list[WeightRule]:
    """Rules such as {"view": 1, "purchase": 5, "rating >= 4": 1, "play > 30": 2} in the order written.

    Before a comparison stands a kind, or "rating" (or the rating column's own name) for events of any kind.
    Raises ConfigError for a rule that names neither.
    """
    rules = []
    for text, weight in weights.items():
        match = _RULE.fullmatch(text)
        if match is None or not isinstance(weight, int | float) or weight != weight:
            raise ConfigError(
                f"cannot read the weight {text!r} = {weight!r}",
                remedy='write "view" = 1, "rating >= 4" = 1 or "dislike" = -1',
            )
        name, compare = match["name"], match["compare"]
        if compare is not None and rating is None:
            raise ConfigError(
                f"weight {text!r} compares ratings, and the log has none",
                remedy='name the column: columns={"rating": "..."}, or weigh by kind alone',
            )
        any_kind = compare is not None and name.lower() in {"rating", "value", (rating or "").lower()}
        if not any_kind and name not in kinds:
            raise ConfigError(
                f"weight {text!r} names no kind of event in the log",
                remedy=nearest(name, [*kinds, "rating"]),
            )
        number = float(match["number"]) if compare else 0.0
        rules.append(WeightRule(text, None if any_kind else name, compare, number, float(weight)))
    return rules


def default_weights(kinds: list[str], has_negative: bool) -> dict[str, float]:
    """Weights when none are given: 1, the usual ones for kinds known by name, -1 for negative values."""
    rules = {"rating < 0": -1.0} if has_negative else {}
    return rules | {kind: KIND_WEIGHTS.get(kind.lower(), 1.0) for kind in kinds}


def weigh(rules: list[WeightRule], kinds: pl.Series | None, value: pl.Series | None, n: int) -> np.ndarray:
    """Weights of n events, float32: the first rule that matches, 0 where none does."""
    weight = np.zeros(n, dtype=np.float32)
    free = np.ones(n, dtype=bool)
    numbers = value.to_numpy() if value is not None else np.full(n, np.nan, dtype=np.float32)
    for rule in rules:
        hit = free.copy()
        if rule.kind is not None and kinds is not None:
            hit &= (kinds == rule.kind).to_numpy()
        if rule.compare is not None:
            hit &= _COMPARE[rule.compare](numbers, rule.number)
        weight[hit] = rule.weight
        free &= ~hit
    return weight
