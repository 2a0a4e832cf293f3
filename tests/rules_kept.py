"""What a list must be under `[rules]`, said anew and slowly: for tests through `Answers` and through HTTP."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from hypothesis import strategies as st

from zhiyin.data.dataset import Dataset

N = 36
TODAY = dt.datetime.now(dt.UTC).date()


def columns_of(number: int) -> dict[str, Any]:
    """Columns of item number `number`, also of one that the model has never seen."""
    return {
        "price": float(number), "genre": "even" if number % 2 == 0 else "odd",
        "seller": None if number % 9 == 8 else f"s{number % 5}", "variant": f"v{number // 2}" if number < 16 else None,
        "stock": number % 4, "begins": TODAY + dt.timedelta(days=30 if number % 11 == 3 else -30),
        "ends": None if number % 3 else TODAY + dt.timedelta(days=-9 if number % 6 == 3 else 9),
        "title": f"{('rocket planet orbit', 'garden rose tulip')[number % 2]} word{number}",
    }  # fmt: skip


ITEMS = {f"i{number}": columns_of(number) for number in range(N)}
# New to the model: no dates, which JSON has no words for.
NEW = {f"new{number}": columns_of(number) | {"begins": None, "ends": None} for number in (2, 5, 12, 23)}
ALL = ITEMS | NEW


def shop() -> Dataset:
    """Even users take even items; a fifth of what they did is a purchase."""
    rng = np.random.default_rng(1)
    users = np.repeat(np.arange(30), 8)
    items = 2 * rng.integers(0, N // 2, len(users)) + users % 2
    events = pl.DataFrame({
        "user": [f"u{u}" for u in users], "item": [f"i{i}" for i in items],
        "time": 1_700_000_000_000_000 - rng.permutation(len(users)) * 3_600_000_000,
        "kind": ["purchase" if i % 5 == 0 else "view" for i in range(len(users))],
    })  # fmt: skip
    catalogue = pl.DataFrame([{"id": key, **columns} for key, columns in ITEMS.items()], infer_schema_length=None)
    return Dataset.build(events, items=catalogue)


def new_frame() -> pl.DataFrame:
    return pl.DataFrame([{"id": key, **columns} for key, columns in NEW.items()], infer_schema_length=None)


CONDITIONS = {
    "price < 20": lambda row: row["price"] < 20,
    "genre = 'odd'": lambda row: row["genre"] == "odd",
    "price > 4": lambda row: row["price"] > 4,
    "price > 20": lambda row: row["price"] > 20,
    "seller <> 's1'": lambda row: row["seller"] is not None and row["seller"] != "s1",
}
GROUPS = {f"genre = '{genre}'": lambda row, genre=genre: row["genre"] == genre for genre in ("odd", "even")}
_FEW = st.lists(st.sampled_from(sorted(ITEMS)), unique=True, max_size=8)

# A strategy for each key of [rules].
RULES: dict[str, st.SearchStrategy[Any]] = {
    "filter": st.sampled_from(sorted(CONDITIONS)),
    "include": st.lists(st.sampled_from(sorted(ITEMS)), unique=True, min_size=4, max_size=20),
    "exclude": _FEW,
    "pins": st.dictionaries(st.integers(1, 4), st.sampled_from(sorted(ITEMS)), max_size=2).filter(
        lambda pins: len(set(pins.values())) == len(pins)
    ),
    "boosts": st.just([{"when": "genre = 'odd'", "multiply": "3", "add": "1"}]),
    "caps": st.lists(st.fixed_dictionaries({
        "per": st.sampled_from(["seller", "genre"]), "at_most": st.integers(1, 3), "first": st.sampled_from([0, 3]),
        "strict": st.booleans()}), min_size=1, max_size=2),
    "shares": st.just([{"of": "genre = 'odd'", "at_least": 0.5}]),
    "dedupe": st.just("variant"),
    "bought": st.sampled_from([{"purchase": "never"}, {"purchase": "never", "view": "never"}]),
    "stock": st.just("stock"),
    "valid_from": st.just("begins"),
    "valid_to": st.just("ends"),
    "frequency": st.fixed_dictionaries({"at_most": st.integers(1, 3), "window": st.just("30d")}),
    "rotation": st.just({"strength": 1.0, "keep": 1, "every": "1d"}),
    "exposure": st.just([{"of": "genre = 'odd'", "target": 0.6}]),
}  # fmt: skip
TABLES = st.lists(st.sampled_from(sorted(RULES)), unique=True, min_size=1, max_size=4).flatmap(
    lambda keys: st.fixed_dictionaries({key: RULES[key] for key in keys})
)


@dataclasses.dataclass
class Asked:
    """A request, as far as rules depend on it.

    k, filter, exclude, pins, include: of the request. seen: items left out as seen. bought: items by kind of event.
    shown: how often items were shown before.
    """

    k: int
    filter: str = ""
    exclude: Sequence[str] = ()
    pins: Mapping[int, str] = dataclasses.field(default_factory=dict)
    include: Sequence[str] | None = None
    seen: frozenset[str] = frozenset()
    bought: Mapping[str, set[str]] = dataclasses.field(default_factory=dict)
    shown: Mapping[str, int] = dataclasses.field(default_factory=dict)


def pinned_of(table: Mapping[str, Any], asked: Asked, there: Mapping[str, Any]) -> dict[int, str]:
    """Item by slot: what the request pins, then the house; what must not be shown at all is not pinned."""
    pins: dict[int, str] = {}
    for slot, item in [*asked.pins.items(), *table.get("pins", {}).items()]:
        if slot <= asked.k and slot not in pins and item not in pins.values():
            pins[slot] = item
    return {slot: item for slot, item in pins.items() if item in there and _may_be(table, asked, item)}


def _may_be(table: Mapping[str, Any], asked: Asked, item: str) -> bool:
    """By what pins heed as well: exclude, filter, stock and dates."""
    row = ALL[item]
    return (
        item not in {*table.get("exclude", ()), *asked.exclude}
        and all(CONDITIONS[text](row) for text in (table.get("filter"), asked.filter) if text)
        and ("stock" not in table or row["stock"] > 0)
        and ("valid_from" not in table or row["begins"] is None or row["begins"] <= TODAY)
        and ("valid_to" not in table or row["ends"] is None or row["ends"] >= TODAY)
    )


def qualifying(table: Mapping[str, Any], asked: Asked, there: Mapping[str, Any]) -> set[str]:
    """What a list may hold without being pinned."""
    bought = {item for kind, word in table.get("bought", {}).items() if word == "never"
              for item in asked.bought.get(kind, ())}  # fmt: skip
    most = table.get("frequency", {}).get("at_most", math.inf)
    return {
        item for item in there
        if _may_be(table, asked, item) and item not in asked.seen and item not in bought
        and asked.shown.get(item, 0) < most
        and all(item in one for one in (table.get("include"), asked.include) if one is not None)
    }  # fmt: skip


def check(
    table: Mapping[str, Any],
    asked: Asked,
    listed: Sequence[str],
    there: Mapping[str, Any] = ALL,
    *,
    whole: bool = True,
) -> None:
    """Raises AssertionError for a list that breaks a rule.

    there: the items that there are. whole: the list may choose from all of them, so that it is as long as it can be and
    has what its shares ask for; False: from some, those similar to an item say.
    """
    may, pins = qualifying(table, asked, there), pinned_of(table, asked, there)
    free = [item for item in listed if item not in pins.values()]
    assert len(set(listed)) == len(listed) <= asked.k
    assert set(free) <= may, sorted(set(free) - may)
    assert set(pins.values()) <= set(listed), (pins, listed)
    if len(listed) == asked.k:
        assert {slot: listed[slot - 1] for slot in pins} == pins
    caps = [*table.get("caps", ())]
    strict = [cap for cap in caps if cap["strict"]]
    if "dedupe" in table:
        strict.append({"per": table["dedupe"], "at_most": 1, "first": 0})
    for cap in [*caps, *([strict[-1]] if "dedupe" in table else [])]:
        counts = _groups(listed[: cap["first"] or None], cap["per"])
        by_pins = _groups(pins.values(), cap["per"])
        for group, count in counts.items():
            if count <= max(cap["at_most"], by_pins[group]):
                continue
            assert cap not in strict, (cap, group, listed)
            if not whole:
                continue
            # A cap that is not strict yields only where the list would be short.
            assert len(strict) or not _room(may, listed, caps, pins, asked.k), (cap, group, listed)
    if not strict and whole:
        assert len(listed) == min(asked.k, len(may | set(pins.values()))), (listed, sorted(may))
    if "shares" in table and whole and not caps and not strict:
        share = table["shares"][0]
        members = {item for item in may | set(pins.values()) if GROUPS[share["of"]](ALL[item])}
        wanted = math.ceil(share["at_least"] * len(listed) - 1e-9)
        room = len(listed) - sum(item not in members for item in pins.values())
        assert len(members & set(listed)) >= min(wanted, len(members), room)


def _groups(items: Any, per: str) -> Counter[Any]:
    return Counter(ALL[item][per] for item in items if ALL[item][per] is not None)


def _room(may: set[str], listed: Sequence[str], caps: Sequence[Mapping[str, Any]], pins: Any, k: int) -> bool:
    """Whether some item that is not in the list has room under every cap, however long the list is looked at."""
    counts = [(cap, _groups(listed, cap["per"])) for cap in caps]
    return any(
        all(ALL[item][cap["per"]] is None or count[ALL[item][cap["per"]]] < cap["at_most"] for cap, count in counts)
        for item in may - set(listed)
    )
