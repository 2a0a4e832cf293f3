"""MultVAE: the conformance suite; its likelihood is that of the whole matrix, exact or estimated; β is annealed."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from scipy import sparse

from tests.models.planted import assert_checkerboard
from zhiyin.core.run import Run
from zhiyin.models.multvae import (
    Autoencoder,
    HistoryBatch,
    HistoryBatches,
    MultVAE,
    Negatives,
    likelihood_loss,
    logits,
    sampled_likelihood_loss,
)
from zhiyin.models.neural import losses
from zhiyin.testing.recommender import RecommenderConformance, shop


class TestMultVAE(RecommenderConformance):
    exact_across_threads = False

    def make(self) -> MultVAE:
        return MultVAE(factors=4, hidden=8, epochs=3, batch_size=16, anneal=5)


class TestSmallSampledMultVAE(RecommenderConformance):
    exact_across_threads = False

    def make(self) -> MultVAE:
        return MultVAE(factors=4, hidden=0, epochs=3, batch_size=16, negatives=12)


@pytest.mark.parametrize(("hidden", "negatives"), [(32, 0), (0, 0), (0, 8)])
def test_checkerboard(hidden: int, negatives: int) -> None:
    assert_checkerboard(
        MultVAE(
            factors=8, hidden=hidden, negatives=negatives, epochs=100, batch_size=20, learning_rate=0.01, beta=0.01,
            validation="none",
        )
    )  # fmt: skip


def test_overfits() -> None:
    data = shop(users=30)
    model = MultVAE(factors=32, epochs=150, dropout=0.0, beta=0.0, learning_rate=0.01, batch_size=30, validation="none")
    model.fit(data, Run(threads=1))
    counts = np.diff(data.matrix("binary").indptr)
    least = float((counts * np.log(np.maximum(counts, 1))).sum() / (counts > 0).sum())  # all of π on what a user had
    assert model.training_log_[-1]["loss"] < least + 0.5


def test_likelihood_is_that_of_the_whole_matrix() -> None:
    states, table, bias, batch, counts = tiny()
    wanted = losses.multinomial(states @ table.T + bias, counts)
    found = likelihood_loss(states, table, bias, batch)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
    leaves = (states, table, bias)
    for ours, theirs in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(wanted, leaves)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_estimated_likelihood_is_exact_when_every_item_is_drawn_once() -> None:
    states, table, bias, batch, counts = tiny()
    every = torch.arange(len(table))
    near, far = logits(states, table, bias, batch, every, torch.zeros(len(table)))
    found = sampled_likelihood_loss(near, far, batch)
    wanted = losses.multinomial(states @ table.T + bias, counts)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
    leaves = (states, table, bias)
    for ours, theirs in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(wanted, leaves)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_estimate_of_the_other_items_is_unbiased() -> None:
    states, table, bias, batch, counts = tiny()
    negatives = Negatives(sparse.csr_matrix(counts.numpy()), 6)
    draw, sums = torch.Generator().manual_seed(1), []
    with torch.inference_mode():
        for _ in range(3000):
            _, far = logits(states, table, bias, batch, *negatives.draw(draw, states.device))
            sums.append(far.exp())
        wanted = ((states @ table.T + bias).exp() * (counts == 0)).sum(dim=1)
    torch.testing.assert_close(torch.stack(sums).mean(dim=0), wanted, rtol=0.1, atol=0.1)


def test_annealing() -> None:
    network = Autoencoder(MultVAE(factors=2, hidden=3, beta=0.4, anneal=100), 5)
    assert [network.weight(step) for step in (0, 50, 100, 1000)] == [0, 0.2, 0.4, 0.4]
    assert Autoencoder(MultVAE(factors=2, hidden=3, beta=0.4, anneal=0), 5).weight(0) == 0.4


def test_batches_are_all_histories_that_are_not_empty_and_count_their_steps() -> None:
    counts = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], dtype=np.float32)
    batches = HistoryBatches(sparse.csr_matrix(counts), batch_size=2, seed=0)
    epoch = list(batches.epoch(3))
    assert [batch.step for batch in epoch] == [6, 7]
    assert sorted(torch.cat([batch.rows for batch in epoch]).tolist()) == [0, 2, 3]
    for batch in epoch:
        for rank in (0, 1):
            part = batch.share(rank, 2)
            for at, row in enumerate(part.rows.tolist()):
                items = part.items[part.offsets[at] : part.offsets[at] + int(part.counts[at])]
                np.testing.assert_array_equal(items, np.flatnonzero(counts[row]))


def tiny() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, HistoryBatch, torch.Tensor]:
    """States [6, 4], table [9, 4], bias [9], and the histories as a batch and as counts [6, 9]."""
    draw = torch.Generator().manual_seed(0)
    states, table, bias = (torch.randn(*shape, generator=draw) for shape in ((6, 4), (9, 4), (9,)))
    counts = (torch.rand(6, 9, generator=draw) < 0.4).float()
    counts[:, 0] = 1
    batch = HistoryBatch.of(sparse.csr_matrix(counts.numpy()))
    return states.requires_grad_(), table.requires_grad_(), bias.requires_grad_(), batch, counts
