"""What is known as of a moment: equal to a slow count over rows, and blind to all that comes later."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from zhiyin.core.errors import DataError
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.ranking.asof import AsOf
from zhiyin.ranking.examples import Candidates
from zhiyin.ranking.feature_builder import FeatureBuilder, labels, training_requests

HOUR, DAY = 3_600_000_000, 86_400_000_000
BEGIN = 19_000 * DAY
ITEMS = 9


def log(seed: int, n: int = 120) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame({
        "user": rng.integers(0, 6, n), "item": np.concatenate([np.arange(ITEMS), rng.integers(0, ITEMS, n - ITEMS)]),
        "time": BEGIN + rng.integers(0, 40 * 24, n) * HOUR,
    })  # fmt: skip


def every_item(n: int) -> Candidates:
    return Candidates(
        np.arange(n + 1, dtype=np.int64) * ITEMS, np.tile(np.arange(ITEMS, dtype=np.int32), n), (),
        np.zeros((n * ITEMS, 0), np.float32), np.zeros((n * ITEMS, 0), np.int32),
    )  # fmt: skip


@settings(max_examples=examples(25))
@given(seed=st.integers(0, 1000), hour=st.integers(0, 41 * 24))
def test_counts_equal_a_loop_over_rows(seed: int, hour: int) -> None:
    frame = log(seed)
    data, moment = Dataset.build(frame), BEGIN + hour * HOUR
    index = AsOf.learn(data)
    before = frame.filter(pl.col("time") < moment)
    users = data.user_ids.values.to_list()
    rows = []
    for user in users:  # histories in the codes of `data`
        own = before.filter(pl.col("user") == user).sort("time", maintain_order=True)
        rows.append((data.item_ids.encode(own["item"]), own["time"].to_numpy()))
    offsets = np.concatenate([[0], np.cumsum([len(items) for items, _ in rows])])
    had = Histories.of(offsets, np.concatenate([items for items, _ in rows]),
                       times=np.concatenate([times for _, times in rows]).astype(np.int64),
                       now=np.full(len(users), moment))  # fmt: skip
    found = index.numbers(had, every_item(len(users)))
    column = {name: found[:, at] for at, name in enumerate(index.names)}
    raw = data.item_ids.values.to_list()
    for row in range(len(found)):
        user, item = users[row // ITEMS], raw[row % ITEMS]
        of_item = before.filter(pl.col("item") == item)["time"].to_numpy()
        of_user = before.filter(pl.col("user") == user)
        pair = of_user.filter(pl.col("item") == item)
        for days in (1, 7, 30):
            recent = int((of_item >= moment - days * DAY).sum())
            assert column[f"item events {days}d"][row] == pytest.approx(np.log1p(recent), abs=1e-6)
            recent = int((of_user["time"].to_numpy() >= moment - days * DAY).sum())
            assert column[f"user events {days}d"][row] == pytest.approx(np.log1p(recent), abs=1e-6)
        assert column["item events"][row] == pytest.approx(np.log1p(len(of_item)), abs=1e-6)
        assert column["user events"][row] == pytest.approx(np.log1p(len(of_user)), abs=1e-6)
        assert column["pair events"][row] == pytest.approx(np.log1p(len(pair)), abs=1e-6)
        if len(of_item):
            idle = (moment - of_item.max()) / DAY
            assert column["item idle days"][row] == pytest.approx(np.log1p(idle), rel=1e-4)
        assert column["hour"][row] == hour % 24


@settings(max_examples=examples(15))
@given(seed=st.integers(0, 1000))
def test_a_future_that_gives_the_answer_away_changes_nothing(seed: int) -> None:
    """Planted leak: after each request's moment the items that it took are taken by everyone, thousands of times."""
    frame = log(seed, 200)
    data = Dataset.build(frame)
    requests = training_requests(data, cut=0.7)
    asked, had = every_item(len(requests)), requests.histories()
    right = labels(asked, requests).values > 0
    clean = FeatureBuilder.learn(data)
    moment = int(requests.now.max())
    taken = data.item_ids.decode(np.unique(asked.items[right])).to_list()
    leak = pl.DataFrame({"user": np.tile(np.arange(6), 300), "item": (taken * 1800)[:1800],
                         "time": np.full(1800, moment + 1) + np.arange(1800)})  # fmt: skip
    leaky = Dataset.build(pl.concat([frame, leak]))
    assert leaky.item_ids.values.equals(data.item_ids.values)
    with_future = FeatureBuilder.learn(leaky, like=clean)
    one, other = clean.build(had, asked), with_future.build(had, asked)
    assert one.number_names == other.number_names
    assert np.array_equal(one.numbers, other.numbers, equal_nan=True)
    assert np.array_equal(one.codes, other.codes)


def test_histories_of_requests_end_before_the_moment() -> None:
    data = Dataset.build(log(3, 300))
    requests = training_requests(data, cut=0.5)
    had = requests.histories()
    owner = np.repeat(np.arange(len(requests)), had.lengths)
    assert (had.times < requests.now[owner]).all()
    # Nothing before the moment is missing.
    frame = data.events
    for row in range(0, len(requests), 7):
        count = frame.filter((pl.col("user") == int(requests.users[row])) & (pl.col("time") < int(requests.now[row])))
        assert len(count) == had.lengths[row]


@pytest.mark.slow
def test_what_is_appended_counts_as_if_it_had_been_there() -> None:
    frame = log(5, 200).sort("time")
    whole = Dataset.build(frame)
    first = frame.filter(pl.col("time") < BEGIN + 25 * DAY)
    items = pl.DataFrame({"id": whole.item_ids.values})
    part = Dataset.build(first, items=items)
    index, growing = AsOf.learn(whole), AsOf.learn(part)
    rest = frame.filter(pl.col("time") >= BEGIN + 25 * DAY)
    growing.append(
        pl.DataFrame({
            "user": np.zeros(len(rest), np.int32), "item": part.item_ids.encode(rest["item"]), "time": rest["time"],
        })
    )  # fmt: skip
    nobody = Histories.of(np.zeros(4, np.int64), np.zeros(0, np.int32), now=np.array([30, 36, 41]) * DAY + BEGIN)
    codes = part.item_ids.encode(whole.item_ids.values)
    asked = every_item(3)
    moved = Candidates(asked.offsets, codes[asked.items].astype(np.int32), (), asked.scores, asked.ranks)
    assert np.allclose(index.numbers(nobody, asked), growing.numbers(nobody, moved), equal_nan=True)


def test_labels_are_what_was_had_at_the_moment() -> None:
    data = Dataset.build(log(8, 250))
    requests = training_requests(data, cut=0.6)
    marks = labels(every_item(len(requests)), requests).values.reshape(len(requests), ITEMS)
    for row in range(len(requests)):
        now = data.events.filter(
            (pl.col("user") == int(requests.users[row])) & (pl.col("time") == int(requests.now[row]))
        )
        assert set(np.flatnonzero(marks[row])) >= set(now["item"].to_list())


def test_an_index_like_another_counts_the_same_kinds_whatever_the_log_has_since() -> None:
    """A kind that comes first by name moves the codes of all others; one that nobody does any more is counted 0."""
    frame = log(3).with_columns(pl.Series("kind", np.resize(["purchase", "view", "view"], 120)))
    old = AsOf.learn(Dataset.build(frame))
    later = frame.with_columns(pl.col("kind").replace("purchase", "view").alias("kind"))
    later = pl.concat([later, frame.head(5).with_columns(pl.lit("add").alias("kind"))])
    data = Dataset.build(later)
    index = AsOf.learn(data, like=old)
    assert index.names == old.names
    request = Histories.of(np.array([0, 0]), np.zeros(0, np.int32), now=np.array([BEGIN + 50 * DAY]))
    found = dict(zip(index.names, index.numbers(request, every_item(1)).T))
    assert not found["item purchase"].any()
    codes = data.item_ids.encode(later.filter(kind="view")["item"])
    assert np.allclose(found["item view"], np.log1p(np.bincount(codes, minlength=ITEMS)))
    again = AsOf.from_state(index.state())
    assert np.array_equal(again.numbers(request, every_item(1)), index.numbers(request, every_item(1)), equal_nan=True)


@pytest.mark.parametrize("gone", [("price",), ("genre",), ("title",), ("price", "genre", "title", "maker")])
def test_a_builder_like_another_has_its_columns_though_the_catalogue_lost_some(gone: tuple[str, ...]) -> None:
    words = ["red rocket", "blue rocket", "red garden", "blue garden"]
    items = pl.DataFrame({
        "id": np.arange(ITEMS), "price": np.arange(1.0, ITEMS + 1), "genre": ["even", "odd", "odd"] * 3,
        "maker": ["a", "b", "c"] * 3, "title": [f"{words[n % 4]} of the {n}th kind" for n in range(ITEMS)],
    })  # fmt: skip
    old = FeatureBuilder.learn(Dataset.build(log(4), items=items))
    later = FeatureBuilder.learn(Dataset.build(log(4), items=items.drop(*gone)), like=old)
    assert (later.number_names, later.code_names) == (old.number_names, old.code_names)
    request = Histories.of(np.array([0, 2]), np.array([1, 2], np.int32), now=np.array([BEGIN + 50 * DAY]))
    before, now = old.build(request, every_item(1)), later.build(request, every_item(1))
    assert now.numbers.shape == before.numbers.shape
    kept = [at for at, name in enumerate(old.number_names) if name.startswith(("item ", "user ", "pair "))]
    same = [at for at in kept if not any(word in old.number_names[at] for word in gone)]
    assert np.allclose(now.numbers[:, same], before.numbers[:, same], equal_nan=True)


def test_a_column_of_another_type_is_named() -> None:
    items = pl.DataFrame(
        {"id": np.arange(ITEMS), "price": np.arange(1.0, ITEMS + 1), "genre": ["even", "odd", "odd"] * 3}
    )
    old = FeatureBuilder.learn(Dataset.build(log(4), items=items))
    for name in ("price", "genre"):
        other = items.with_columns(pl.Series(name, [["a", "b"]] * ITEMS))
        with pytest.raises(DataError, match=name):
            FeatureBuilder.learn(Dataset.build(log(4), items=other), like=old)
