"""HSTU: the conformance suite, causality, padding, time, and the attention of a CPU against the plain one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from zhiyin.core.errors import ConfigError
from zhiyin.core.run import Run
from zhiyin.data.histories import Histories
from zhiyin.models.neural.batches import Sequences, TrainingSequences, serving_sequences
from zhiyin.models.neural.training_loop import train
from zhiyin.models.sequence import hstu
from zhiyin.models.sequence.hstu import HSTU
from zhiyin.testing.recommender import RecommenderConformance

SECOND = 1_000_000


class TestHSTU(RecommenderConformance):
    exact_across_threads = False

    def make(self) -> HSTU:
        return HSTU(factors=8, epochs=3, max_len=10, heads=2, dropout=0.2)


def network(n_items: int = 30, **settings: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return dataclasses.replace(HSTU(factors=16, heads=2, max_len=12), **settings)._build(n_items).eval()


def sequences(lengths: list[int], n_items: int = 30, seed: int = 0) -> Sequences:
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = rng.integers(0, n_items, offsets[-1]).astype(np.int32)
    times = np.concatenate([np.cumsum(rng.integers(0, 10**6, n)) * SECOND for n in lengths])
    (batch,) = serving_sequences(Histories.of(offsets, items, times=times), 100)
    return batch


def test_twenty_planted_sequences_are_learned() -> None:
    rng = np.random.default_rng(0)
    items = np.concatenate([rng.permutation(40)[:8] for _ in range(20)]).astype(np.int32)
    items[::8] = np.arange(20)  # the first item tells the sequence
    times = np.tile(np.arange(8) * 3600 * SECOND, 20)
    histories = Histories.of(np.arange(0, 161, 8), items, times=times)
    plan = HSTU(factors=32, blocks=2, heads=2, max_len=8, dropout=0.0, epochs=150, batch_size=20, learning_rate=5e-3)
    torch.manual_seed(0)
    progress = train(plan._build(40), TrainingSequences(histories, 8, 20, 0), plan, Run(threads=1), label="HSTU")
    assert progress.log[-1]["loss"] < 0.05


def test_later_items_change_no_earlier_state() -> None:
    net, batch = network(), sequences([12, 12, 12])
    later = batch.items.clone(), batch.times.clone()
    later[0][:, 7:] = (later[0][:, 7:] + 5) % 30
    later[1][:, 7:] += 10**5 * SECOND
    with torch.inference_mode():
        before, after = net.states(batch), net.states(dataclasses.replace(batch, items=later[0], times=later[1]))
    torch.testing.assert_close(before[:, :7], after[:, :7], rtol=0, atol=0)
    assert (before[:, 7:] - after[:, 7:]).abs().amax(dim=(0, 2)).min() > 1e-3


def test_a_padded_batch_equals_each_alone() -> None:
    net, batch = network(), sequences([1, 3, 7, 12])
    with torch.inference_mode():
        together = net(batch)
        for row, length in enumerate(batch.lengths.tolist()):
            one = slice(row, row + 1)
            alone = Sequences(batch.items[one, :length], batch.lengths[one], batch.times[one, :length], batch.rows[one])
            torch.testing.assert_close(net(alone), together[one], rtol=0, atol=1e-5)


def test_time_between_events_counts_and_the_date_does_not() -> None:
    net, batch = network(), sequences([10, 10])
    with torch.inference_mode():
        vectors = net(batch)
        shifted = net(dataclasses.replace(batch, times=batch.times + 10**9 * SECOND))
        slower = net(dataclasses.replace(batch, times=batch.times * 50))
        untimed = net(dataclasses.replace(batch, times=torch.zeros_like(batch.times)))
    torch.testing.assert_close(shifted, vectors, rtol=0, atol=0)
    assert (slower - vectors).abs().max() > 1e-3
    assert torch.isfinite(untimed).all()


def test_without_time_bias_times_do_not_count() -> None:
    net, batch = network(time_bias=False), sequences([10, 10])
    with torch.inference_mode():
        slower = net(dataclasses.replace(batch, times=batch.times * 50))
        torch.testing.assert_close(slower, net(batch), rtol=0, atol=0)


def test_buckets() -> None:
    edges = network().encoder.edges
    ago = torch.tensor([0, 999_999, 1_000_000, 1_351_209, 1_351_210, 60 * SECOND, 10**17])
    spans = hstu.buckets_of(torch.cat([torch.zeros(1, dtype=torch.int64), ago])[None], edges)
    assert spans[0, 1:, 0].tolist() == [0, 0, 1, 1, 2, 14, hstu.N_TIME_EDGES]


@pytest.mark.parametrize("cells", [1, 1 << 20])
@pytest.mark.parametrize("timed", [True, False])
def test_attention_in_pieces_is_the_plain_one(monkeypatch: pytest.MonkeyPatch, cells: int, timed: bool) -> None:
    monkeypatch.setattr(hstu, "MAX_ATTENTION_CELLS", cells)
    draw = torch.Generator().manual_seed(0)
    b, h, t, d = 2, 3, 37, 4

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    inputs = [made(b, h, t, d) for _ in range(3)] + [made(40), made(hstu.N_TIME_EDGES + 1)]
    spans = torch.randint(0, hstu.N_TIME_EDGES + 1, (b, t, t), generator=draw).to(torch.uint8) if timed else None
    weights = made(b, h, t, d)
    found = []
    for how in (hstu.attend, hstu._Attend.apply):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        mixed = how(*leaves, spans)
        (mixed * weights).sum().backward()
        found.append([mixed.detach(), *(torch.zeros(()) if x.grad is None else x.grad for x in leaves)])
    for plain, pieces in zip(*found):
        torch.testing.assert_close(pieces.sum() if plain.ndim == 0 else pieces, plain, check_dtype=False)


def test_heads_must_divide_factors() -> None:
    with pytest.raises(ConfigError, match="heads = 3"):
        HSTU(factors=8, heads=3)._build(5)
