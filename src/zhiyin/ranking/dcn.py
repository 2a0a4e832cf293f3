"""DCNv2: explicit feature crosses of bounded degree, one more degree per layer."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from zhiyin.core.params import param
from zhiyin.ranking.example_tensors import ExampleBatch
from zhiyin.ranking.network_ranker import DeepRanker, Fields, Network, Perceptron, Shape


@dataclasses.dataclass
class DCNv2(DeepRanker):
    """Deep & Cross Network, version 2 (Wang et al., DCN V2, WWW 2021).

        x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l                                              (eq. 1)
        W x + b -> Σ_k g_k(x) (U_k σ(C_k σ(V_kᵀ x)) + b)       low rank, a mixture of experts  (eq. 3, 4, 6)

    Stacked, the perceptron reads the last cross layer; parallel, it reads x_0 and both are joined at the end (fig. 1).

    | difference from the paper | why |
    |---|---|
    | the mean of the items had is one field more (`max_len`) | users never met are served |
    | a number becomes a vector, as a category does | crosses are then of fields, all of one length |
    | all categories have vectors of one length | one table, one look-up |
    """

    crosses: int = param(
        2, "cross layers: the highest degree of feature crosses minus 1", at_least=1, at_most=8, tune=(1, 4)
    )
    rank: int = param(0, "rank of the matrices of cross layers; 0: full rank", at_least=0, tune=(0, 64))
    experts: int = param(4, "low-rank experts a cross layer", at_least=1, at_most=64, tune=(1, 8))
    structure: str = param(
        "parallel", "combination of the cross network and the perceptron", choices=("parallel", "stacked")
    )

    def _build(self, shape: Shape) -> Network:
        return _DCN(shape, self)


class _DCN(Network):
    def __init__(self, shape: Shape, settings: DCNv2) -> None:
        super().__init__()
        s = settings
        self.fields, self.reg = Fields(shape, s.factors, std=0.05), s.reg
        width = shape.fields * s.factors
        layer = (lambda: LowRankCross(width, s.rank, s.experts)) if s.rank else (lambda: Cross(width))
        self.crosses = nn.ModuleList([layer() for _ in range(s.crosses)])
        self.deep = Perceptron(width, s.hidden, s.layers, s.dropout)
        self.stacked = s.structure == "stacked"
        self.out = nn.Linear(self.deep.width + (0 if self.stacked else width), 1)
        nn.init.normal_(self.out.weight, std=1 / math.sqrt(self.out.in_features))
        nn.init.zeros_(self.out.bias)
        self.last_layers = (self.out,)

    def forward(self, batch: ExampleBatch) -> Tensor:
        first = x = self.vectors(batch).flatten(1)
        for cross in self.crosses:
            x = cross(first, x)
        x = self.deep(x) if self.stacked else torch.cat([x, self.deep(first)], dim=1)
        return self.offset + self.out(x)


class Cross(nn.Module):
    """x_0 ⊙ (W x + b) + x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, width)
        nn.init.normal_(self.map.weight, std=1 / math.sqrt(width))
        nn.init.zeros_(self.map.bias)

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        return torch.addcmul(x, first, self.map(x))


class LowRankCross(nn.Module):
    """Σ_k g_k(x) x_0 ⊙ (U_k σ(C_k σ(V_kᵀ x)) + b) + x, σ = tanh, g a softmax."""

    def __init__(self, width: int, rank: int, experts: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(experts, width, rank) / math.sqrt(width))
        self.within = nn.Parameter(torch.randn(experts, rank, rank) / math.sqrt(rank))
        self.up = nn.Parameter(torch.randn(experts, rank, width) / math.sqrt(rank))
        self.bias = nn.Parameter(torch.zeros(width))
        self.gate = nn.Linear(width, experts)

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        inner = torch.tanh(torch.einsum("bw,ewr->ebr", x, self.down))
        inner = torch.tanh(torch.einsum("ebr,ers->ebs", inner, self.within))
        gate = self.gate(x).softmax(dim=1)  # [b, e]; the gates of a row sum to 1, so the bias counts once
        # Σ_k g_k U_k h_k as one product: the gated h side by side, and all U_k one below the other.
        gated = (inner * gate.T[:, :, None]).permute(1, 0, 2).flatten(1)
        return torch.addcmul(x, first, gated @ self.up.flatten(0, 1) + self.bias)
