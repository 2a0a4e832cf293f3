"""NeuMF: neural matrix factorization of pooled histories."""

from __future__ import annotations

import dataclasses
import itertools

import torch
from torch import Tensor, nn

from zhiyin.core.params import param
from zhiyin.models.neural.batches import Sequences
from zhiyin.models.neural.layers import Dropout
from zhiyin.models.sequence.next_item import SequenceRecommender


@dataclasses.dataclass
class NeuMF(SequenceRecommender):
    """Neural collaborative filtering (He et al., WWW 2017), made inductive.

    | difference from the paper | why |
    |---|---|
    | the user is a pooled history, not an id | new users and new events are served without learning anew |
    | the perceptron reads the user alone | scores stay inner products, which an index can search |
    | the item vector is cut in two and pooled too | two tables as in the paper, but of items only |
    | cross-entropy after every prefix | better lists than pairs; prefix sums train all in one pass |
    | no pretraining of the two parts | Adam trains them together |
    """

    layers: int = param(
        2, "hidden layers of the perceptron, each half as wide as the previous one", at_least=0, at_most=6
    )
    half_life: float = param(5.0, "half-life of an item in the recency mean, in events", at_least=0.1)

    def _encoder(self) -> nn.Module:
        return PooledHistory(self.factors, self.layers, self.half_life, self.dropout)


class PooledHistory(nn.Module):
    """[h ⊙ mean g ; perceptron(mean m, recency mean m)] of the items read so far, x = [g ; m] (eqs. 8-12).

    Against an item's [g ; m] the inner product is the sum of the factorization and of the perceptron.
    """

    def __init__(self, d: int, layers: int, half_life: float, dropout: float) -> None:
        super().__init__()
        self.cut, self.keep = d // 2, 0.5 ** (1 / half_life)
        width = d - self.cut
        widths = [2 * width, *(width * 2**n for n in range(layers, 0, -1))]
        self.h = nn.Parameter(torch.ones(self.cut))
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.out = nn.Linear(widths[-1], width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, batch: Sequences) -> Tensor:
        """[b, t, d] to [b, t, d]."""
        mean, recent = decayed_mean(x, 1.0), decayed_mean(x[..., self.cut :], self.keep)
        hidden = torch.cat([mean[..., self.cut :], recent], dim=2)
        for layer in self.hidden:
            hidden = self.dropout(nn.functional.relu(layer(hidden)))
        return torch.cat([self.h * mean[..., : self.cut], self.out(hidden)], dim=2)


def decayed_mean(x: Tensor, keep: float) -> Tensor:
    """[b, t, d]: mean of x[:, : place + 1] with weights keep ** (places ago).

    The sums grow by doubling (Hillis & Steele, CACM 1986): log t steps, and no power of 1 / keep that overflows.
    """
    t = x.shape[1]
    weight = torch.full((t,), keep, dtype=torch.float64, device=x.device).pow(torch.arange(t, device=x.device))
    total = x.cumsum(dim=1) if keep == 1 else x
    reach = 1
    while keep < 1 and reach < t:
        total = total + keep**reach * nn.functional.pad(total[:, :-reach], (0, 0, reach, 0))
        reach *= 2
    return total / weight.cumsum(0).to(x.dtype)[:, None]
