"""Items the model has never seen: they are in lists where they belong, and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from zhiyin.data.dataset import Dataset
from zhiyin.data.ids import Ids
from zhiyin.models.content import Content
from zhiyin.models.neighbors import ItemKNN
from zhiyin.pipeline.answers import Answers
from zhiyin.pipeline.cold_start import MoreIds
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.pipeline.request import Request
from zhiyin.pipeline.rules import Rules

WORDS = {0: "rocket planet orbit star", 1: "garden rose tulip soil"}


def shop() -> Dataset:
    """Even users take even items, which speak of space; odd ones garden."""
    rng = np.random.default_rng(3)
    users = np.repeat(np.arange(60), 8)
    items = 2 * rng.integers(0, 20, len(users)) + users % 2
    catalogue = pl.DataFrame({
        "id": [f"i{i}" for i in range(40)], "text": [f"{WORDS[i % 2]} word{i}" for i in range(40)],
        "price": [float(i) for i in range(40)],
    })  # fmt: skip
    log = pl.DataFrame({"user": [f"u{u}" for u in users], "item": [f"i{i}" for i in items],
                        "time": np.arange(len(users)) * 1_000_000})  # fmt: skip
    return Dataset.build(log, items=catalogue)


@pytest.fixture(scope="module")
def fitted() -> tuple[Dataset, Pipeline]:
    data = shop()
    pipeline = Pipeline.wrapping(ItemKNN().fit(data))
    pipeline.sources_ = {"itemknn": next(iter(pipeline.sources_.values())), "content": Content().fit(data)}  # type: ignore[misc]
    pipeline.choices_ = dict.fromkeys(pipeline.choices_, "rrf")  # type: ignore[misc]
    return data, pipeline


NEW = pl.DataFrame({"id": ["rocket", "rose"], "text": ["rocket planet orbit star", "garden rose tulip soil"],
                    "price": [100, 200]})  # fmt: skip


def answers(fitted: Any, new: pl.DataFrame | None = NEW, **options: Any) -> Answers:
    data, pipeline = fitted
    return Answers(pipeline, data.items, new=new, **options)


def test_a_new_item_goes_to_whom_it_suits(fitted: Any) -> None:
    house = answers(fitted)
    space = house.ask(Request(user="u0", k=20)).items
    garden = house.ask(Request(user="u1", k=20)).items
    assert space.index("rocket") < 10
    assert garden.index("rose") < 10
    assert "rose" not in space[:10]
    assert "rocket" not in garden[:10]
    assert len(set(space)) == 20


def test_filters_lists_and_history_hold_for_new_items(fitted: Any) -> None:
    house = answers(fitted)
    assert house.ask(Request(user="u0", k=5, filter="price > 99")).items == ["rocket", "rose"]
    assert house.ask(Request(user="u0", k=5, filter="price > 150")).items == ["rose"]
    assert "rocket" not in house.ask(Request(user="u0", k=40, exclude=["rocket"])).items
    assert house.ask(Request(user="u0", k=3, pins={2: "rose"})).items[1] == "rose"
    assert "rocket" not in house.ask(Request(history=["i2", "rocket"], k=40)).items
    assert "rocket" in house.ask(Request(history=["i2", "rocket"], k=40, exclude_seen=False)).items
    shown = np.ones(42, dtype=bool)
    shown[house.ids.encode(["rocket"])] = False
    assert "rocket" not in house.ask(Request(user="u0", k=40), shown).items
    with_rule = answers(fitted, rules=Rules.from_dict({"filter": "price < 150"}))
    assert "rose" not in with_rule.ask(Request(user="u1", k=40)).items


def test_a_click_on_a_new_item_speaks_for_its_likeness(fitted: Any) -> None:
    house = answers(fitted)
    by_new = house.ask(Request(history=["rocket"], k=8)).items
    assert sum(int(item[1:]) % 2 == 0 for item in by_new if item[0] == "i") == len([i for i in by_new if i[0] == "i"])
    assert house.nearest_known_items(np.array([3, 40, 41]))[0] == 3


def test_new_items_are_explained_and_varied(fitted: Any) -> None:
    house = answers(fitted)
    found = house.ask(Request(user="u0", k=20, explain=True, diversity="mmr", balance=0.5))
    why = found.reasons[found.items.index("rocket")]
    assert why.item == "rocket"
    assert why.sentence("en").startswith("New")
    assert len(found.reasons) == len(found.items)


def test_without_descriptions_new_items_stand_behind(fitted: Any) -> None:
    data, _ = fitted
    house = Answers(Pipeline.wrapping(ItemKNN().fit(data)), data.items, new=NEW)
    found = house.ask(Request(user="u0", k=42, exclude_seen=False)).items
    assert set(found) == set(data.item_ids.values) | {"rocket", "rose"}
    assert house.ask(Request(user="u0", k=5, filter="price > 99")).items == ["rose", "rocket"]
    plain = Answers(Pipeline.wrapping(ItemKNN().fit(data)), data.items)
    wanted = plain.ask(Request(user="u0", k=10)).items
    assert house.ask(Request(user="u0", k=10)).items == wanted


def test_columns_that_do_not_fit_are_unknown(fitted: Any) -> None:
    odd = pl.DataFrame({"id": ["x"], "price": ["cheap"], "colour": ["red"]})
    house = answers(fitted, new=odd)
    assert house.ask(Request(k=5, filter="colour = 'red'")).items == ["x"]
    assert "x" not in house.ask(Request(k=50, filter="price >= 0")).items


def test_more_ids() -> None:
    ids = MoreIds(Ids.of(pl.Series([10, 20])), ["x", "30"])
    assert ids.encode([20, "x", 30, "40", "10"]).tolist() == [1, 2, 3, -1, 0]
    assert ids.raw(np.array([0, 3, 2])) == [10, "30", "x"]
    assert ids.decode(np.array([1, 2])).to_list() == ["20", "x"]
    assert len(ids) == 4


def test_stages_are_left_out_in_their_order(fitted: Any) -> None:
    house = answers(fitted)
    quick = house.ask(Request(user="u0", k=5, diversity="mmr", explain=True, budget=1e-9))
    assert quick.degraded == ["variety", "reasons"]
    assert len(quick.items) == 5
    assert house.ask(Request(user="u0", k=5, diversity="mmr", explain=True, budget=60.0)).degraded == []
