"""HSTU: gated attention without softmax, with a bias by the time between events."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from zhiyin.core.errors import ConfigError
from zhiyin.core.params import param
from zhiyin.models.neural.batches import Sequences
from zhiyin.models.neural.layers import Dropout
from zhiyin.models.sequence.next_item import SequenceRecommender

# Time differences fall into buckets whose edges are LOG_EDGE_RATIO apart in the logarithm, from one second to
# centuries.
LOG_EDGE_RATIO, N_TIME_EDGES = 0.301, 80
# Number of attention weights held at once on a CPU, so that they stay in cache.
MAX_ATTENTION_CELLS = 1 << 20


@dataclasses.dataclass
class HSTU(SequenceRecommender):
    """Hierarchical Sequential Transduction Unit (Zhai et al., ICML 2024, section 3).

    | difference from the paper | why |
    |---|---|
    | time differences t_i - t_j, of input events | the code's t_(i+1) - t_j leaks the time of the target event |
    | sums divided by the events read, not by max_len | a norm follows, and short histories stay clear of its epsilon |
    | queries scaled by 1 / sqrt(width of a head) | as in the authors' later code; scores do not grow with the width |
    | no absolute position vectors, as in the paper; its code adds them | the relative bias encodes positions |
    | a last LayerNorm; cosine only with `temperature` | one output for all networks here |
    | cross-entropy over all items by default | no negatives to choose; sampled_softmax is the paper's |
    """

    blocks: int = param(2, "layers of attention", at_least=1, at_most=48, tune=(1, 8))
    heads: int = param(1, "attention heads; factors is a multiple of it", at_least=1)
    time_bias: bool = param(True, "attention depends on the time between two events, besides their order")

    def _encoder(self) -> nn.Module:
        if self.factors % self.heads:
            raise ConfigError(
                f"HSTU: factors = {self.factors} is no multiple of heads = {self.heads}",
                remedy="choose heads that divide factors",
            )
        return Transduction(self.factors, self.blocks, self.heads, self.max_len, self.time_bias, self.dropout)


class Transduction(nn.Module):
    """`blocks` of gated attention and a last norm."""

    edges: Tensor

    def __init__(self, d: int, blocks: int, heads: int, max_len: int, time_bias: bool, dropout: float) -> None:
        super().__init__()
        self.time_bias = time_bias
        self.blocks = nn.ModuleList(Block(d, heads, max_len, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(d)
        # Whole microseconds: compared as integers, the same everywhere.
        edges = torch.tensor([math.ceil(math.exp(LOG_EDGE_RATIO * n) * 1e6) for n in range(N_TIME_EDGES)])
        self.register_buffer("edges", edges, persistent=False)

    def forward(self, x: Tensor, batch: Sequences) -> Tensor:
        """[b, t, d] to [b, t, d]. The buckets, one byte for each pair of events, serve all blocks."""
        spans = buckets_of(batch.times, self.edges) if self.time_bias else None
        for block in self.blocks:
            x = block(x, spans)
        return self.norm(x)


class Block(nn.Module):
    """x + f(norm(attention) · U), with U, V, Q, K = silu(projection of norm x) (eqs. 1-3).

    The bias of the attention is one number for each distance in places and one for each bucket of time, the same for
    all heads.
    """

    def __init__(self, d: int, heads: int, max_len: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.mixed_norm = nn.LayerNorm(d), nn.LayerNorm(d, eps=1e-6, elementwise_affine=False)
        self.uvqk, self.out = nn.Linear(d, 4 * d), nn.Linear(d, d)
        self.by_place = nn.Parameter(torch.randn(max_len) * 0.02)
        self.by_time = nn.Parameter(torch.randn(N_TIME_EDGES + 1) * 0.02)
        self.dropout = Dropout(dropout)
        for layer in (self.uvqk, self.out):
            nn.init.normal_(layer.weight, std=d**-0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, spans: Tensor | None) -> Tensor:
        b, t, d = x.shape
        projected = nn.functional.silu(self.uvqk(self.norm(x)))
        u, heads = projected[..., :d], projected[..., d:]
        v, q, k = heads.view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        q = q * (d // self.heads) ** -0.5
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            mixed = _Attend.apply(q, k, v, self.by_place, self.by_time, spans)
        else:
            mixed = attend(q, k, v, self.by_place, self.by_time, spans)
        mixed = mixed.transpose(1, 2).reshape(b, t, d)
        return x + self.out(self.dropout(self.mixed_norm(mixed) * u))


def attend(q: Tensor, k: Tensor, v: Tensor, by_place: Tensor, by_time: Tensor, spans: Tensor | None) -> Tensor:
    """Causal mean of the values, weighted by silu(q k + bias) (eq. 2), [b, h, t, d / h].

    Parameters
    ----------
    q, k, v: [b, h, t, d / h].
    by_place: [max_len], by_time: [N_TIME_EDGES + 1], the two parts of the bias.
    spans: uint8[b, t, t], the bucket of the time from event j to event i; None: without bias by time.
    """
    place = torch.arange(q.shape[2], device=q.device)
    distance = place[:, None] - place
    scores = q @ k.transpose(2, 3) + by_place[distance.clamp(min=0)]
    if spans is not None:
        scores = scores + by_time[spans.long()][:, None]
    weights = nn.functional.silu(scores) * (distance >= 0)
    return weights @ v / (place[:, None] + 1)


def buckets_of(times: Tensor, edges: Tensor) -> Tensor:
    """uint8[b, t, t]: the bucket of times[i] - times[j]; 0 for less than a second and for later events."""
    if times.device.type != "cpu" or torch.compiler.is_compiling():
        return torch.bucketize(times[:, :, None] - times[:, None, :], edges, right=True).to(torch.uint8)
    b, t = times.shape
    spans = torch.zeros(b, t, t, dtype=torch.uint8)
    for start, stop in _rows(b, t):
        past = times[:, start:stop, None] - times[:, None, :stop]
        spans[:, start:stop, :stop] = torch.bucketize(past, edges, out_int32=True, right=True)
    return spans


class _Attend(torch.autograd.Function):
    """`attend` for a CPU: a few rows of weights at a time, up to the diagonal; recomputed in the backward pass."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        q, k, v, by_place, by_time, spans = inputs
        ctx.save_for_backward(q, k, v, by_place, by_time, spans)
        b, h, t, _ = q.shape
        mixed = torch.empty(q.shape, dtype=q.dtype)
        for start, stop in _rows(b * h, t):
            scores, _, _ = _scores(q, k, by_place, by_time, spans, start, stop)
            weights = nn.functional.silu(scores, inplace=True)
            _cut(weights, start)
            count = torch.arange(start + 1, stop + 1, dtype=q.dtype)[:, None]
            mixed[:, :, start:stop] = (weights @ v[:, :, :stop]).div_(count)
        return mixed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        q, k, v, by_place, by_time, spans = ctx.saved_tensors
        b, h, t, _ = q.shape
        to_q, to_k, to_v = (torch.zeros(part.shape, dtype=part.dtype) for part in (q, k, v))
        to_place, to_time = torch.zeros_like(by_place), torch.zeros_like(by_time)
        for start, stop in _rows(b * h, t):
            scores, distance, bucket = _scores(q, k, by_place, by_time, spans, start, stop)
            mean = gradient[:, :, start:stop] / torch.arange(start + 1, stop + 1, dtype=q.dtype)[:, None]
            weights = nn.functional.silu(scores)
            _cut(weights, start)
            to_v[:, :, :stop] += weights.transpose(2, 3) @ mean
            change = torch.ops.aten.silu_backward(mean @ v[:, :, :stop].transpose(2, 3), scores)
            _cut(change, start)
            to_q[:, :, start:stop] = change @ k[:, :, :stop]
            to_k[:, :, :stop] += change.transpose(2, 3) @ q[:, :, start:stop]
            over_heads = change.sum(dim=1) if h > 1 else change[:, 0]
            to_place.index_add_(0, distance.flatten(), over_heads.sum(dim=0).flatten())
            if bucket is not None:
                to_time += torch.bincount(bucket.flatten(), over_heads.flatten(), len(by_time))
        return to_q, to_k, to_v, to_place, to_time, None


def _rows(many: int, t: int) -> Iterator[tuple[int, int]]:
    """Pieces of t rows, so that many · rows · t stays about within MAX_ATTENTION_CELLS."""
    size = max(16, MAX_ATTENTION_CELLS // (many * t))
    return ((start, min(start + size, t)) for start in range(0, t, size))


def _scores(
    q: Tensor, k: Tensor, by_place: Tensor, by_time: Tensor, spans: Tensor | None, start: int, stop: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """q k + bias of the rows from start to stop, [b, h, rows, stop]; their distances; their buckets."""
    scores = q[:, :, start:stop] @ k[:, :, :stop].transpose(2, 3)
    distance = (torch.arange(start, stop)[:, None] - torch.arange(stop)).clamp_(min=0)
    bias = by_place[distance]
    if spans is None:
        return scores.add_(bias), distance, None
    bucket = spans[:, start:stop, :stop].long()
    by_both = by_time.index_select(0, bucket.flatten()).view(bucket.shape).add_(bias)
    return scores.add_(by_both[:, None]), distance, bucket


def _cut(weights: Tensor, start: int) -> None:
    """Set to zero, in place, the entries above the diagonal, of rows from `start` on."""
    rows = weights.shape[2]
    weights[..., start:].mul_(torch.ones(rows, rows, dtype=weights.dtype).tril_())
