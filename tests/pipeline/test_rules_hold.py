"""Every rule holds in every list that `Answers` makes, and changes some; one list is a batch of one."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.rules_kept import ALL, CONDITIONS, ITEMS, NEW, RULES, TABLES, Asked, check, new_frame, shop
from zhiyin.core.errors import ConfigError
from zhiyin.models.content import Content
from zhiyin.models.neighbors import ItemKNN
from zhiyin.models.popularity import Popular
from zhiyin.pipeline.answers import Answers
from zhiyin.pipeline.exposure import deficits
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.pipeline.request import Request
from zhiyin.pipeline.rules import Rules

DATA = shop()
DAY = 86_400_000_000


def pipeline() -> Pipeline:
    made = Pipeline.wrapping(ItemKNN().fit(DATA))
    made.sources_ = {"itemknn": next(iter(made.sources_.values())), "content": Content().fit(DATA),
                     "popular": Popular().fit(DATA)}  # type: ignore[misc]  # fmt: skip
    made.choices_ = dict.fromkeys(made.choices_, "rrf")  # type: ignore[misc]
    made.candidates = 12
    return made


PIPELINE = pipeline()
_KINDS = dict(enumerate(DATA.kinds))


def answers(table: dict[str, Any], new: bool = True) -> Answers:
    return Answers(
        PIPELINE, DATA.items, rules=Rules.from_dict(table), kinds=tuple(DATA.kinds), new=new_frame() if new else None
    )


def done(user: str) -> dict[str, set[str]]:
    """Items of a user in the log, by kind of event."""
    mine = DATA.events.filter(pl.col("user") == DATA.user_ids.encode([user])[0])
    found: dict[str, set[str]] = {}
    for kind, item in zip(mine["kind"], DATA.item_ids.decode(mine["item"].to_numpy())):
        found.setdefault(kind if isinstance(kind, str) else _KINDS[int(kind)], set()).add(item)
    return found


REQUESTS = st.fixed_dictionaries({
    "user": st.sampled_from(["u0", "u3", "u8", "u17", "nobody"]), "k": st.integers(1, 9),
    "filter": st.sampled_from(["", *sorted(CONDITIONS)]), "exclude": st.lists(st.sampled_from(sorted(ALL)), max_size=6),
    "pins": st.dictionaries(st.integers(1, 6), st.sampled_from(sorted(ALL)), max_size=2).filter(
        lambda pins: len(set(pins.values())) == len(pins)),
    "exclude_seen": st.sampled_from([None, True, False]), "diversity": st.sampled_from(["none", "mmr"]),
    "explore": st.sampled_from([0.0, 0.5, 1.0]), "seed": st.integers(0, 2**40),
    "shown": st.dictionaries(st.sampled_from(sorted(ALL)), st.integers(1, 4), max_size=6),
    "deficits": st.sampled_from([None, 2.0]),
})  # fmt: skip


def asked_of(table: dict[str, Any], request: dict[str, Any]) -> Asked:
    bought = done(request["user"]) if request["user"] != "nobody" else {}
    seen = request["exclude_seen"] if request["exclude_seen"] is not None else "bought" not in table
    return Asked(request["k"], request["filter"], request["exclude"], request["pins"],
                 seen=frozenset().union(*bought.values()) if seen and bought else frozenset(), bought=bought,
                 shown=request["shown"])  # fmt: skip


def request_of(table: dict[str, Any], request: dict[str, Any]) -> Request:
    lacks = request["deficits"] if "exposure" in table else None
    return Request(**request | {"deficits": None if lacks is None else [lacks], "now": NOW})


NOW = time.time_ns() // 1000


@pytest.mark.slow
@settings(max_examples=examples(150), deadline=None)
@given(table=TABLES, requests=st.lists(REQUESTS, min_size=1, max_size=4), new=st.booleans())
def test_every_rule_holds_in_every_list(table: dict[str, Any], requests: list[dict[str, Any]], new: bool) -> None:
    made = answers(table, new)
    there = ALL if new else ITEMS
    for request in requests:
        request = request | {"pins": {slot: item for slot, item in request["pins"].items() if item in there}}
        asked = asked_of(table, request)
        answer = made.ask(request_of(table, request))
        check(table, asked, answer.items, there)
        assert len(answer.scores) == len(answer.propensities) == len(answer.items)
        assert ((answer.propensities > 0) & (answer.propensities <= 1)).all()
        if "rotation" in table and not request["explore"] and set(table) == {"rotation"}:
            still = answers({}, new).ask(request_of({}, request))
            assert answer.items[:1] == still.items[:1]


def other_items(table: dict[str, Any], request: Request, without: Request | None = None) -> bool:
    return answers(table).ask(request).items != answers({}).ask(without or request).items


# A table and a request whose list the rule changes.
EFFECTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "filter": ({"filter": "price > 20"}, {}),
    "include": ({"include": ["i1", "i2", "i3"]}, {}),
    "exclude": ({"exclude": [f"i{n}" for n in range(1, 36, 2)]}, {}),
    "pins": ({"pins": {1: "i30"}}, {}),
    "boosts": ({"boosts": [{"when": "genre = 'even'", "add": "1"}]}, {}),
    "caps": ({"caps": [{"per": "genre", "at_most": 1, "first": 0, "strict": False}]}, {}),
    "shares": ({"shares": [{"of": "genre = 'even'", "at_least": 1.0}]}, {}),
    "dedupe": ({"dedupe": "genre"}, {}),
    "bought": ({"bought": {"purchase": "never"}}, {"exclude_seen": False}),
    "stock": ({"stock": "stock"}, {"k": 20}),
    "valid_from": ({"valid_from": "begins"}, {"k": 20}),
    "valid_to": ({"valid_to": "ends"}, {"k": 20}),
    "frequency": ({"frequency": {"at_most": 1}}, {"shown": {f"i{n}": 1 for n in range(1, 36, 2)}}),
    "rotation": ({"rotation": {"strength": 1.0}}, {}),
    "exposure": ({"exposure": [{"of": "genre = 'even'", "target": 0.9}]}, {"deficits": [5.0]}),
}


@pytest.mark.parametrize("rule", [field.name for field in dataclasses.fields(Rules)])
def test_every_rule_changes_some_list(rule: str) -> None:
    """A rule that is added without a line in `EFFECTS` and in `RULES` fails here."""
    assert rule in RULES
    table, more = EFFECTS[rule]
    assert any(other_items(table, Request(**{"user": f"u{n}", "k": 6, "now": NOW} | more)) for n in (1, 3, 5, 7))


@pytest.mark.parametrize("rule", sorted(EFFECTS))
def test_every_rule_holds_for_lists_that_are_no_ones(rule: str) -> None:
    """Popular and similar ones."""
    table, more = EFFECTS[rule]
    request = Request(**{"k": 8, "now": NOW} | more)
    worth = np.concatenate([PIPELINE.context_.popularity, np.zeros(len(NEW), np.float32)])
    asked = Asked(request.k, shown=more.get("shown", {}))
    made = answers(table)
    whole, near = made.list_by_score(worth, request), made.similar("i1", request)
    assert whole.items
    assert near.items
    check(table, asked, whole.items)
    check(table, asked, near.items, whole=False)


TARGET = {"exposure": [{"of": "genre = 'odd'", "target": 0.9}]}


@pytest.mark.slow
def test_exposure_reaches_its_target_for_users_of_another_taste() -> None:
    made, plain = answers(TARGET), answers({})
    sums = np.zeros((1, 3))
    changed = 0
    for n in range(200):
        request = Request(user=f"u{2 * (n % 15)}", k=6, now=NOW)
        answer = made.ask(dataclasses.replace(request, deficits=deficits(made.rules.exposure, sums)))
        assert len(answer.items) == 6
        changed += answer.items != plain.ask(request).items
        sums += answer.exposed
    assert sums[0, 0] / sums[0, 1] == pytest.approx(0.9, abs=0.03)
    assert changed > 150


# -- one list is a batch of one ----------------------------------------------------------------------------------------

MANY = st.fixed_dictionaries({
    "k": st.integers(1, 9), "filter": st.sampled_from(["", *sorted(CONDITIONS), "price < user.age"]),
    "exclude": st.lists(st.sampled_from(sorted(ALL)), max_size=6),
    "pins": st.dictionaries(st.integers(1, 6), st.sampled_from(sorted(ALL)), max_size=2).filter(
        lambda pins: len(set(pins.values())) == len(pins)),
    "include": st.none() | st.lists(st.sampled_from(sorted(ALL)), min_size=5, max_size=25),
    "exclude_seen": st.sampled_from([None, True, False]), "diversity": st.sampled_from(["none", "mmr", "calibrate"]),
    "explore": st.sampled_from([0.0, 0.7]), "seed": st.integers(0, 2**40),
})  # fmt: skip
PEOPLE = pl.DataFrame({"id": [f"u{n}" for n in range(30)], "age": [[10, 25, None][n % 3] for n in range(30)]})


@pytest.mark.slow
@settings(max_examples=examples(80), deadline=None)
@given(table=TABLES, asked=MANY, new=st.booleans())
def test_many_lists_are_those_of_each_alone(table: dict[str, Any], asked: dict[str, Any], new: bool) -> None:
    pins = {slot: item for slot, item in asked["pins"].items() if new or item in ITEMS}
    asked = asked | {"pins": pins} | ({"deficits": [3.0]} if "exposure" in table else {})
    people = PEOPLE[DATA.user_ids.encode(PEOPLE["id"]).argsort()]
    made = Answers(PIPELINE, DATA.items, people, rules=Rules.from_dict(table), kinds=tuple(DATA.kinds), by="genre",
                   new=new_frame() if new else None)  # fmt: skip
    users = ["u3", "nobody", "u8", "u17", "u0", "u29", "u3"]
    frame = made.ask_many(users, now=NOW, **asked)
    at = 0
    for number, user in enumerate(users):
        one = made.ask(Request(user=user, now=NOW, **asked | {"seed": asked["seed"] + number}))
        rows = frame[at : at + len(one)]
        assert rows["item"].to_list() == one.items, user
        assert rows["user"].to_list() == [user] * len(one)
        assert rows["rank"].to_list() == list(range(1, len(one) + 1))
        assert np.allclose(rows["score"], one.scores, rtol=1e-4, atol=1e-5)
        if asked["explore"]:
            assert np.allclose(rows["propensity"], one.propensities)
        at += len(one)
    assert at == len(frame)


def test_strict_caps_do_not_leave_a_batch_shorter_than_needed() -> None:
    made = answers({"caps": [{"per": "seller", "at_most": 1, "strict": True}]}, new=False)
    frame = made.ask_many(k=6, now=NOW)
    sizes = frame.group_by("user").len()["len"]
    assert len(sizes) == 30
    assert sizes.min() >= 5  # five sellers, and items of none


def test_what_a_batch_cannot_take_is_said() -> None:
    with pytest.raises(ConfigError, match="user_columns"):
        answers({}).ask_many(["u1"], user_columns={"age": 3})
    assert len(answers({}).ask_many([], k=3)) == 0
