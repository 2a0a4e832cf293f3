"""Next-item prediction, the base of the sequence models: item table → encoder → loss over the item table.

The encoder is any causal module from item vectors [b, t, d] to states [b, t, d]; the state at a position is scored
against the vectors of all items. Input and output vectors are tied.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models.neural import losses
from zhiyin.models.neural.batches import Sequences, TrainingSequences, held_out_sequences, positive
from zhiyin.models.neural.layers import Dropout
from zhiyin.models.neural.neural_recommender import NeuralRecommender

# Item tables of more rows than this get sparse gradients with sampled negatives, so that a step costs only its rows.
SPARSE_ROWS = 100_000


class NextItem(nn.Module):
    """The network of a sequence model.

    Parameters
    ----------
    encoder: called with (item vectors [b, t, d], Sequences); gives states [b, t, d]; must be causal. Where it has a
        method `last`, that gives the states after the last item alone, [b, d], for less.
    """

    cumulated: Tensor

    def __init__(self, encoder: nn.Module, n_items: int, settings: SequenceRecommender) -> None:
        super().__init__()
        s = settings
        self.items = nn.Embedding(n_items, s.factors, sparse=s.loss != "softmax" and n_items > SPARSE_ROWS)
        nn.init.normal_(self.items.weight, std=s.factors**-0.5 if s._item_std is None else s._item_std)
        self.encoder, self.dropout = encoder, Dropout(s.dropout)
        self.kind, self.negatives, self.temperature = s.loss, s.negatives, s.temperature
        self.calibration, self.score_reg = s.calibration, s.score_reg
        self.register_buffer("cumulated", torch.linspace(0, 1, n_items + 1, dtype=torch.float64)[1:], persistent=False)

    def learn_popularity(self, counts: np.ndarray, power: float) -> None:
        """Draw negatives by counts ** power; 0 is uniform. Items without events count once."""
        mass = np.maximum(counts, 1).astype(np.float64) ** power
        self.cumulated.copy_(torch.from_numpy(np.cumsum(mass / mass.sum())))

    def states(self, batch: Sequences) -> Tensor:
        """[b, t, d]: the state after each item."""
        return self.scaled(self.encoder(self.dropout(self.vectors(batch.items)), batch))

    def scaled(self, states: Tensor) -> Tensor:
        """States of length 1 / temperature, where there is one, so that inner products are cosine / temperature."""
        if not self.temperature:
            return states
        return nn.functional.normalize(states, dim=-1) / self.temperature

    def forward(self, batch: Sequences) -> Tensor:
        """[b, d]: the state after the last item of each sequence."""
        last = getattr(self.encoder, "last", None)
        if last is not None:
            return self.scaled(last(self.dropout(self.vectors(batch.items)), batch))
        states = self.states(batch)
        return states[torch.arange(states.shape[0], device=states.device), batch.lengths - 1]

    def item_vectors(self) -> Tensor:
        """[n_items, d], what states are scored against."""
        table = self.items.weight
        return nn.functional.normalize(table, dim=-1) if self.temperature else table

    def loss(self, batch: Sequences, draw: torch.Generator) -> tuple[Tensor, int]:
        """Sum of the loss over the places that have a next item, and their number."""
        assert batch.targets is not None
        has_target = batch.targets >= 0 if batch.judged is None else (batch.targets >= 0) & batch.judged
        states, targets = self.states(batch)[has_target], batch.targets[has_target]
        if self.kind == "softmax":
            return losses.full_softmax(states, self.item_vectors(), targets), len(targets)
        negatives, log_q = self.draw(draw)
        if self.kind == "sampled_softmax":
            unit, sparse = bool(self.temperature), self.items.sparse
            table = self.items.weight
            return (
                losses.sampled_softmax(states, table, targets, negatives, None, log_q, sparse=sparse, unit=unit),
                len(targets),
            )
        target_vectors, negative_vectors = self.vectors(targets), self.vectors(negatives)
        positive = (states * target_vectors).sum(dim=1)
        negative = states @ negative_vectors.T
        negative = negative.masked_fill(targets[:, None] == negatives, -1e9)
        if self.kind == "gbce":
            return losses.gbce(positive, negative, len(self.cumulated), self.calibration), len(targets)
        if self.kind == "bpr_max":
            return losses.bpr_max(positive, negative, self.score_reg), len(targets)
        return losses.bpr(positive, negative), len(targets)

    def draw(self, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """Negatives that all places of the batch share, and the log of how often each is expected to be drawn.

        Targets need no correction: they are always among the candidates, so Σ over candidates estimates the full sum.
        """
        cumulated = self.cumulated
        share = torch.rand(self.negatives, generator=draw, dtype=torch.float64).to(cumulated.device)
        negatives = torch.searchsorted(cumulated, share).clamp_(max=len(cumulated) - 1)
        before = torch.where(negatives > 0, cumulated[(negatives - 1).clamp(min=0)], 0.0)
        return negatives, (cumulated[negatives] - before).mul(self.negatives).log().float()

    def vectors(self, items: Tensor) -> Tensor:
        """[..., d], what states are scored against, of some items; sparse gradients where the table is sparse."""
        rows = self.items(items)
        return nn.functional.normalize(rows, dim=-1) if self.temperature else rows


@dataclasses.dataclass
class SequenceRecommender(NeuralRecommender):
    """Base of the sequence models: their common hyperparameters, batches and network."""

    max_len: int = param(200, "last events of a history that are read", at_least=1, at_most=8192)
    windows: bool = param(False, "learn from all of a longer history, in pieces; else from its last events alone")
    loss: str = param("softmax", "loss", choices=("softmax", "sampled_softmax", "gbce", "bpr", "bpr_max"))
    negatives: int = param(1024, "sampled negatives in each step, shared by all its positions", at_least=1)
    popularity_power: float = param(0.5, "power of the popularity that negatives are drawn by", at_least=0, at_most=1)
    temperature: float = param(0.0, "scores are cosine / temperature; 0: plain inner products", at_least=0)
    calibration: float = param(0.75, "t of gBCE; 1: full calibration, 0: plain BCE", at_least=0, at_most=1)
    score_reg: float = param(1.0, "penalty on scores of negatives in bpr_max", at_least=0)

    trains_from_shards = True

    # Spread of the item vectors before training; None: their length is about 1.
    _item_std: ClassVar[float | None] = None

    def _encoder(self) -> nn.Module:
        """A causal module from ([b, t, d], Sequences) to [b, t, d]."""
        raise NotImplementedError

    def _build(self, n_items: int) -> nn.Module:
        return NextItem(self._encoder(), n_items, self)

    def _batches(self, data: Dataset, run: Run) -> TrainingSequences:
        self._network.learn_popularity(data.popularity(), self.popularity_power)  # type: ignore[operator]
        histories = positive(data.histories)
        return TrainingSequences(histories, self.max_len, self.batch_size, run.seed, self.windows, data.group)

    def _held_out(self, queries: Histories, relevant: Histories, data: Dataset) -> Iterable[Sequences]:
        return held_out_sequences(queries, relevant, self.max_len)
