"""NARM: a recurrent network that looks back with attention, for short sessions."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from zhiyin.core.params import param
from zhiyin.models.neural.batches import Sequences
from zhiyin.models.neural.layers import Dropout
from zhiyin.models.sequence.next_item import SequenceRecommender


@dataclasses.dataclass
class NARM(SequenceRecommender):
    """Neural attentive session-based recommendation (Li et al., CIKM 2017).

    The state at a place joins what a GRU remembers (the global encoder, eq. 4) with a weighted sum of the items so far,
    weighted by how well they go with where the session stands (the local encoder, eqs. 6-8).

    | difference from the paper | why |
    |---|---|
    | every place of a session is trained in one pass | the paper trains a row a prefix |
    | the sum is of item vectors and not of hidden states | sessions repeat items: a fifth of Diginetica's clicks |
    | weights know the distance between two places; the last item joins the state | recency |
    | cosine with a temperature, vectors tied | popular items no longer win by length (NISER, Gupta et al., 2019) |
    """

    factors: int = param(128, "length of the vectors", at_least=1, at_most=4096, tune=(32, 256), log=True)
    epochs: int = param(12, "largest number of passes over the data", at_least=1)
    patience: int = param(3, "epochs without a better validation NDCG@10 before training stops; 0: never", at_least=0)
    max_len: int = param(20, "last events of a history that are read", at_least=1, at_most=1024)
    windows: bool = param(True, "learn from all of a longer history, in pieces; else from its last events alone")
    batch_size: int = param(512, "histories in each step", at_least=1, tune=(64, 1024), log=True)
    learning_rate: float = param(2e-3, "learning rate of Adam", at_least=0, tune=(1e-4, 1e-2), log=True)
    warmup: int = param(100, "steps until the full learning rate", at_least=0)
    schedule: str = param("cosine", "learning rate after warm-up", choices=("constant", "cosine"))
    dropout: float = param(0.4, "dropout rate", at_least=0, at_most=0.95, tune=(0.0, 0.6))
    temperature: float = param(0.083, "scores are cosine / temperature; 0: plain inner products", at_least=0)

    # Sessions repeat items: validation for early stopping must include the items of the history.
    _excludes_seen = False

    def _encoder(self) -> nn.Module:
        return AttentiveGRU(self.factors, self.max_len, self.dropout)


class AttentiveGRU(nn.Module):
    """Vectors [b, t, d] of items to states: B [attended items; GRU state; last item]."""

    def __init__(self, d: int, max_len: int, dropout: float) -> None:
        super().__init__()
        self.gru = nn.GRU(d, d, batch_first=True)
        self.asking, self.asked = nn.Linear(d, d, bias=False), nn.Linear(d, d)
        self.distance = nn.Embedding(max_len, d)
        self.weight = nn.Linear(d, 1, bias=False)
        self.joined = nn.Linear(3 * d, d, bias=False)
        self.dropout = Dropout(dropout)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(d**-0.5), d**-0.5)

    def forward(self, x: Tensor, batch: Sequences) -> Tensor:
        t = x.shape[1]
        h, _ = self.gru(x)
        place = torch.arange(t, device=x.device)
        apart = place[:, None] - place
        near = self.asking(h)[:, :, None] + self.asked(h)[:, None] + self.distance(apart.clamp(min=0))  # [b, t, t, d]
        # No softmax: how much of the session matters is part of the answer.
        weights = self.weight(torch.sigmoid(near))[..., 0].masked_fill(apart < 0, 0.0)
        return self.joined(torch.cat([weights @ x, h, x], dim=-1))

    def last(self, x: Tensor, batch: Sequences) -> Tensor:
        """[b, d]: the state after the last item alone, in [b, t, d] of memory and not [b, t, t, d]."""
        h, _ = self.gru(x)
        rows, places = torch.arange(x.shape[0], device=x.device), batch.lengths - 1
        apart = places[:, None] - torch.arange(x.shape[1], device=x.device)
        near = self.asking(h[rows, places])[:, None] + self.asked(h) + self.distance(apart.clamp(min=0))
        weights = self.weight(torch.sigmoid(near))[..., 0].masked_fill(apart < 0, 0.0)
        attended = (weights[:, None] @ x).squeeze(1)
        return self.joined(torch.cat([attended, h[rows, places], x[rows, places]], dim=-1))
