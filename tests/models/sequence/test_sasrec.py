"""SASRec: the conformance suite; and what is asked of every sequence network, here and in the tests of the others."""

import dataclasses

import numpy as np
import polars as pl
import pytest

pytest.importorskip("torch")

import torch

from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models.neural.batches import Sequences
from zhiyin.models.sequence.next_item import NextItem, SequenceRecommender
from zhiyin.models.sequence.sasrec import SASRec
from zhiyin.testing.recommender import RecommenderConformance

SEQUENCES, LENGTH, ITEMS = 20, 8, 40


class TestSASRec(RecommenderConformance):
    exact_across_threads = False

    def make(self) -> SASRec:
        return SASRec(factors=8, epochs=3, max_len=10, heads=2, dropout=0.2)


def test_overfits() -> None:
    assert_overfits(SASRec(factors=32, max_len=LENGTH))


def test_causal() -> None:
    assert_causal(SASRec(factors=8, heads=2))


def test_padding_changes_nothing() -> None:
    assert_padding_changes_nothing(SASRec(factors=8, heads=2))


def planted() -> np.ndarray:
    """[SEQUENCES, LENGTH] items: random ones, but no two sequences start alike, so every prefix has one next item."""
    rng = np.random.default_rng(3)
    followed = np.stack([rng.permutation(ITEMS) for _ in range(SEQUENCES)])
    first = np.arange(SEQUENCES)[:, None]
    rest = np.stack([row[row != start][: LENGTH - 1] for row, start in zip(followed, first)])
    return np.concatenate([first, rest], axis=1)


def assert_overfits(model: SequenceRecommender) -> None:
    """Without dropout, planted sequences are learned by heart: nothing in the network stands in the way of the data."""
    items = planted()
    log = pl.DataFrame({"user": np.repeat(np.arange(SEQUENCES), LENGTH), "item": items.ravel()})
    data = Dataset.build(log)
    model = dataclasses.replace(
        model, epochs=100, batch_size=SEQUENCES, learning_rate=0.01, dropout=0.0, validation="none"
    )
    model.fit(data, Run(threads=1))
    assert model.training_log_[-1]["loss"] < 0.05
    codes = data.item_ids.encode(pl.Series(items.ravel())).reshape(items.shape)
    known, wanted = codes[:, :-1], codes[:, 1:]
    with torch.inference_mode():
        states = model._net().states(batch_of(list(torch.from_numpy(known.astype(np.int64)))))  # type: ignore[operator]
    np.testing.assert_array_equal((states.numpy() @ model.item_vectors_.T).argmax(axis=2), wanted)
    served = model.score(Histories.of(np.arange(SEQUENCES + 1) * (LENGTH - 1), known.ravel()))
    np.testing.assert_array_equal(served.argmax(axis=1), wanted[:, -1])


def assert_causal(model: SequenceRecommender) -> None:
    """Other items from a place on: every state before it is the same, and that of the place itself is not."""
    network, draw = fresh(model), torch.Generator().manual_seed(1)
    items = torch.randint(ITEMS, (4, 12), generator=draw)
    for place in (1, 6, 11):
        other = items.clone()
        other[:, place:] = (items[:, place:] + torch.randint(1, ITEMS, (4, 12 - place), generator=draw)) % ITEMS
        with torch.inference_mode():
            before, after = (network.states(batch_of(list(rows))) for rows in (items, other))
        torch.testing.assert_close(before[:, :place], after[:, :place], rtol=0, atol=1e-6)
        assert ((before[:, place] - after[:, place]).abs().amax(dim=1) > 1e-5).all()


def assert_padding_changes_nothing(model: SequenceRecommender) -> None:
    """A batch of unequal lengths has the states that each of its sequences has alone."""
    network, draw = fresh(model), torch.Generator().manual_seed(2)
    rows = [torch.randint(ITEMS, (n,), generator=draw) for n in (3, 12, 1, 7, 5)]
    with torch.inference_mode():
        together, last = network.states(batch_of(rows)), network(batch_of(rows))
        for r, row in enumerate(rows):
            alone = network.states(batch_of([row]))[0]
            torch.testing.assert_close(together[r, : len(row)], alone, rtol=0, atol=1e-5)
            torch.testing.assert_close(last[r], alone[-1], rtol=0, atol=1e-5)


def fresh(model: SequenceRecommender) -> NextItem:
    """The network of a model before training, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = model._build(ITEMS)
    assert isinstance(network, NextItem)
    return network.eval()


def batch_of(rows: list[torch.Tensor]) -> Sequences:
    """Sequences of item codes, an event a second, padded on the right."""
    lengths = torch.tensor([len(row) for row in rows])
    items = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    times = torch.arange(items.shape[1]).clamp(max=lengths[:, None] - 1) * 1_000_000
    return Sequences(items, lengths, times, torch.arange(len(rows)))
