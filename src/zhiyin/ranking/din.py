"""DIN: attention over the history by similarity to the candidate."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn

from zhiyin.core.params import param
from zhiyin.models.neural.layers import Dropout
from zhiyin.ranking.example_tensors import ExampleBatch
from zhiyin.ranking.network_ranker import DeepRanker, Fields, Network, Shape, linear


@dataclasses.dataclass
class DIN(DeepRanker):
    """Deep interest network (Zhou et al., KDD 2018).

        user(candidate) = Σ_j a(e_j, v) e_j          over the items had, oldest first, no softmax (eq. 3)
        a(e, v) = w · f(W_v v + W_e e + W_p (e ⊙ v) + b)
        Dice: f(s) = p s + (1 - p) α s,  p = sigmoid((s - E[s]) / √(Var[s] + ε))                 (eq. 6)

    | difference from the paper | why |
    |---|---|
    | the unit reads e, v and e ⊙ v, not their outer product | as the authors' own code; a - b is linear in both |
    | only W_p (e ⊙ v) is computed for each pair, W_v v once a row | the same function, a quarter of the work |
    | ragged histories without padding | the cost is proportional to the length |
    | mini-batch aware regularisation is `reg`, over the vectors a row reads | one penalty for all networks |
    """

    max_len: int = param(50, "last events of a history that are read", at_least=1, tune=(10, 200), log=True)
    attention: int = param(36, "hidden units of the attention", at_least=1, at_most=1024, tune=(16, 64))
    activation: str = param("dice", "activation function", choices=("dice", "prelu", "relu"))

    def _build(self, shape: Shape) -> Network:
        return _DIN(shape, self)


class _DIN(Network):
    def __init__(self, shape: Shape, settings: DIN) -> None:
        super().__init__()
        s = settings
        self.fields, self.reg = Fields(shape, s.factors, std=0.05), s.reg
        self.attention = Attention(s.factors, s.attention, s.activation)
        steps: list[nn.Module] = []
        width = shape.fields * s.factors
        for _ in range(s.layers):
            steps += [linear(width, s.hidden), activation(s.activation, s.hidden), Dropout(s.dropout)]
            width = s.hidden
        self.deep = nn.Sequential(*steps, linear(width, 1))
        self.last_layers = (self.deep[-1],)

    def forward(self, batch: ExampleBatch) -> Tensor:
        vectors = self.vectors(batch, history=False)
        keys = self.fields.table(batch.history)
        user = self.attention(vectors[:, 0], keys, batch.owners, batch.starts)
        return self.offset + self.deep(torch.cat([vectors.flatten(1), user], dim=1))


class Attention(nn.Module):
    """The activation unit: attention weights of the history for the candidate, and the weighted sum."""

    def __init__(self, width: int, hidden: int, kind: str) -> None:
        super().__init__()
        self.of_candidate, self.of_item = linear(width, hidden), nn.Linear(width, hidden, bias=False)
        self.of_both = nn.Linear(width, hidden, bias=False)
        for part in (self.of_item, self.of_both):
            nn.init.normal_(part.weight, std=math.sqrt(2 / (3 * width)))
        self.active, self.out = activation(kind, hidden), nn.Linear(hidden, 1)
        nn.init.normal_(self.out.weight, std=1 / math.sqrt(hidden))
        # Equal weights for all items before training.
        nn.init.constant_(self.out.bias, 0.1)

    def forward(self, candidates: Tensor, keys: Tensor, owners: Tensor, starts: Tensor) -> Tensor:
        """[b, d]. candidates: [b, d]; keys: [p, d], items had, ragged; owners, starts: whose they are."""
        if not len(keys):
            return torch.zeros_like(candidates)
        both = keys * candidates[owners]
        hidden = self.of_candidate(candidates)[owners] + self.of_item(keys) + self.of_both(both)
        weights = self.out(self.active(hidden)).squeeze(1)
        return WeightedSum.apply(keys, weights, owners, starts)


class WeightedSum(torch.autograd.Function):
    """Σ over the keys of each owner of weight · key: [b, d]."""

    @staticmethod
    def forward(ctx: Any, keys: Tensor, weights: Tensor, owners: Tensor, starts: Tensor) -> Tensor:
        ctx.save_for_backward(keys, weights, owners)
        places = torch.arange(len(keys), device=keys.device)
        weights = weights.to(keys.dtype)
        return nn.functional.embedding_bag(places, keys, starts, mode="sum", per_sample_weights=weights)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        keys, weights, owners = ctx.saved_tensors
        each = gradient[owners]
        return each * weights[:, None], (each * keys).sum(dim=1), None, None


class Dice(nn.Module):
    """Data adaptive activation: a PReLU whose rectification point follows the batch statistics."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, eps=1e-8, affine=False)
        self.slope = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        # A single row has no variance: the running statistics are used.
        p = torch.sigmoid(self.norm(x) if len(x) > 1 or not self.training else _as_usual(self.norm, x))
        return x * torch.lerp(self.slope.to(p.dtype).expand_as(p), torch.ones_like(p), p)


def _as_usual(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
    return nn.functional.batch_norm(x, norm.running_mean, norm.running_var, eps=norm.eps)


def activation(kind: str, width: int) -> nn.Module:
    """Dice, PReLU or ReLU of the last dimension."""
    if kind == "dice":
        return Dice(width)
    return nn.PReLU(width) if kind == "prelu" else nn.ReLU()
