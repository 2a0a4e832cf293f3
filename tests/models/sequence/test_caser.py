"""Caser: the conformance suite; it overfits, is causal, ignores padding, and sees exactly its window."""

import pytest

pytest.importorskip("torch")

import torch

from tests.models.sequence.test_sasrec import (
    ITEMS,
    LENGTH,
    assert_causal,
    assert_overfits,
    assert_padding_changes_nothing,
    batch_of,
    fresh,
)
from zhiyin.models.sequence.caser import Caser, Convolutions
from zhiyin.testing.recommender import RecommenderConformance


class TestCaser(RecommenderConformance):
    exact_across_threads = False

    def make(self) -> Caser:
        return Caser(factors=8, epochs=3, max_len=10, window=3, horizontal=4, vertical=2, dropout=0.2)


def test_overfits() -> None:
    assert_overfits(Caser(factors=32, max_len=LENGTH))


def test_causal() -> None:
    assert_causal(Caser(factors=8))


def test_padding_changes_nothing() -> None:
    assert_padding_changes_nothing(Caser(factors=8))


def test_a_state_depends_on_the_window_alone() -> None:
    network = fresh(Caser(factors=8, window=4))
    items = torch.arange(12)[None] % ITEMS
    before, inside = items.clone(), items.clone()
    before[:, :8] += 20
    inside[:, 8] += 20
    with torch.inference_mode():
        state, same, other = (network(batch_of(list(rows))) for rows in (items, before, inside))
    torch.testing.assert_close(state, same, rtol=0, atol=1e-6)
    assert (state - other).abs().max() > 1e-5


def test_equals_the_convolutions_of_each_window_by_itself() -> None:
    torch.manual_seed(0)
    d, window, t = 6, 4, 7
    network = Convolutions(d, window, horizontal=3, vertical=2, dropout=0.0)
    x = torch.randn(1, t, d)
    with torch.inference_mode():
        states = network(x, batch_of([torch.zeros(t, dtype=torch.long)]))[0]
        for place in range(t):
            E = torch.zeros(window, d)
            seen = x[0, max(0, place - window + 1) : place + 1]
            E[window - len(seen) :] = seen
            found = []
            for height, filters in enumerate(network.horizontal, start=1):
                weight, bias = filters.get_parameter("weight"), filters.get_parameter("bias")
                slid = [(weight * E[at : at + height].T).sum(dim=(1, 2)) + bias for at in range(window - height + 1)]
                found.append(torch.stack(slid).relu().amax(dim=0))
            found.append((network.vertical.weight @ E).T.flatten())
            alone = network.out(network.hidden(torch.cat(found)).relu())
            torch.testing.assert_close(states[place], alone, rtol=0, atol=1e-5)
