"""NeuMF: the conformance suite; it overfits, is causal, ignores padding, and pools as it says."""

import pytest

pytest.importorskip("torch")

import torch

from tests.models.sequence.test_sasrec import (
    LENGTH,
    assert_causal,
    assert_overfits,
    assert_padding_changes_nothing,
    batch_of,
)
from zhiyin.models.neumf import NeuMF, PooledHistory, decayed_mean
from zhiyin.testing.recommender import RecommenderConformance


class TestNeuMF(RecommenderConformance):
    exact_across_threads = False

    def make(self) -> NeuMF:
        return NeuMF(factors=8, epochs=3, max_len=10, dropout=0.2)


def test_overfits() -> None:
    assert_overfits(NeuMF(factors=64, max_len=LENGTH))


@pytest.mark.parametrize("factors", [1, 7, 8])
def test_causal(factors: int) -> None:
    assert_causal(NeuMF(factors=factors, layers=0 if factors == 1 else 2))


def test_padding_changes_nothing() -> None:
    assert_padding_changes_nothing(NeuMF(factors=8))


@pytest.mark.parametrize("keep", [1.0, 0.9, 0.001])
@pytest.mark.parametrize("t", [1, 2, 13, 64])
def test_decayed_mean_is_the_weighted_mean_of_every_prefix(keep: float, t: int) -> None:
    x = torch.randn(2, t, 3, generator=torch.Generator().manual_seed(t))
    for place, mean in enumerate(decayed_mean(x, keep).unbind(1)):
        weights = keep ** torch.arange(place, -1, -1.0)
        wanted = (x[:, : place + 1] * weights[:, None]).sum(dim=1) / weights.sum()
        torch.testing.assert_close(mean, wanted, rtol=0, atol=1e-5)


def test_long_histories_do_not_overflow() -> None:
    assert torch.isfinite(decayed_mean(torch.ones(1, 5000, 1), 0.5)).all()


def test_one_item_read_once_is_the_generalised_matrix_factorization_of_itself() -> None:
    network = PooledHistory(d=6, layers=1, half_life=5.0, dropout=0.0)
    x = torch.randn(1, 1, 6)
    with torch.inference_mode():
        network.h.copy_(torch.tensor([1.0, 2.0, 3.0]))
        state = network(x, batch_of([torch.zeros(1, dtype=torch.long)]))
    torch.testing.assert_close(state[..., :3], x[..., :3] * torch.tensor([1.0, 2.0, 3.0]))
