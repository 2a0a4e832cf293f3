"""The vector of one history, as a request asks for it: what the whole network, a batch and other threads give."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("torch")

import torch

from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models import registry
from zhiyin.models.neural.batches import positive, request_sequences, serving_sequences
from zhiyin.models.neural.neural_recommender import NeuralRecommender
from zhiyin.testing.recommender import shop

ONE = Run(threads=1)
MAX_LEN = 9
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "SASRec": ("SASRec", {"heads": 2, "blocks": 2}),
    "SASRec, relative": ("SASRec", {"heads": 2, "blocks": 1, "positions": "relative", "temperature": 0.5}),
    "NARM": ("NARM", {}),
    "GRU4Rec": ("GRU4Rec", {}),
    "Caser": ("Caser", {"window": 4, "horizontal": 3}),
    "HSTU": ("HSTU", {"blocks": 1}),
}


def histories(lengths: list[int], n_items: int) -> Histories:
    """Random ones with some events that count for nothing."""
    rng = np.random.default_rng(len(lengths))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = rng.integers(0, n_items, offsets[-1]).astype(np.int32)
    times = np.concatenate([np.cumsum(rng.integers(0, 10**12, n)) for n in lengths])
    weights = rng.choice(np.array([1, 1, 1, 0, -1], dtype=np.float32), offsets[-1])
    return Histories.of(offsets, items, times=times, weights=weights)


@pytest.mark.parametrize("name", list(SETTINGS))
def test_one_history_has_the_vector_of_the_whole_network(name: str) -> None:
    kind, settings = SETTINGS[name]
    fixed = {"factors": 8, "epochs": 1, "max_len": MAX_LEN, "validation": "none"}
    model: NeuralRecommender = registry.make(kind, fixed | settings).fit(shop(), ONE)
    asked = histories([1, 5, 30, 0, 2, 9, 12], len(shop().item_ids))
    vectors = model.encode(asked, ONE)
    alone = np.concatenate([model.encode(asked.rows(row, row + 1), ONE) for row in range(len(asked))])
    np.testing.assert_allclose(alone, vectors, rtol=0, atol=1e-5)
    expected = np.zeros_like(vectors)
    network: Any = model._net()
    with torch.inference_mode():
        for batch in serving_sequences(positive(asked), model._reach()):
            states = network.states(batch)
            expected[batch.rows.numpy()] = states[torch.arange(len(batch.rows)), batch.lengths - 1].numpy()
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-5)
    assert np.abs(expected).max() > 0
    assert (vectors[positive(asked).lengths == 0] == 0).all()
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda row: model.encode(asked.rows(row, row + 1), ONE)[0], [*range(len(asked))] * 4))
    assert np.array_equal(np.array(again), np.tile(alone, (4, 1)))


def test_one_sequence_is_that_of_a_batch() -> None:
    for lengths in ([1], [30], [0], [6]):
        asked = histories(lengths, 7)
        alone, many = list(request_sequences(asked, 4)), list(serving_sequences(positive(asked), 4))
        assert len(alone) == len(many) <= 1
        for one, other in zip(alone, many):
            for field in ("items", "lengths", "times", "rows"):
                part, expected = getattr(one, field), getattr(other, field)
                assert part.dtype == expected.dtype
                assert torch.equal(part, expected)


def test_codes_of_a_users_columns_are_kept_and_forgotten_with_the_model() -> None:
    log = shop()
    users = log.users.with_columns(city=pl.Series([f"town {n % 3}" for n in range(len(log.users))]))

    def built(users: pl.DataFrame) -> Dataset:
        events = log.events.with_columns(
            user=log.user_ids.decode(log.events["user"].to_numpy()),
            item=log.item_ids.decode(log.events["item"].to_numpy()),
        )
        return Dataset.build(events, items=log.items, users=users)

    data = built(users)
    settings = {"factors": 8, "epochs": 1, "validation": "none", "min_count": 1}
    model: Any = registry.make("TwoTower", settings).fit(data, ONE)
    some = data.histories.take(np.flatnonzero(data.histories.positives > 0)[:6])
    assert some.features is not None
    first = np.concatenate([model.encode(some.rows(row, row + 1), ONE) for row in range(len(some))])
    np.testing.assert_allclose(first, model.encode(some, ONE), rtol=0, atol=1e-5)
    again = np.concatenate([model.encode(some.rows(row, row + 1), ONE) for row in range(len(some))])
    assert np.array_equal(first, again)
    bare = dataclasses.replace(some, features=None)
    assert not np.allclose(model.encode(bare, ONE), first)
    other = built(users.with_columns(city=pl.Series([f"place {n % 2}" for n in range(len(users))])))
    model.fit(other, ONE)
    asked = other.histories.take(np.flatnonzero(other.histories.positives > 0)[:6])
    refitted = np.concatenate([model.encode(asked.rows(row, row + 1), ONE) for row in range(len(asked))])
    np.testing.assert_allclose(refitted, model.encode(asked, ONE), rtol=0, atol=1e-5)
