"""Caser: convolutions over the last items of the history."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from zhiyin.core.params import param
from zhiyin.models.neural.batches import Sequences
from zhiyin.models.neural.layers import Dropout
from zhiyin.models.sequence.next_item import SequenceRecommender


@dataclasses.dataclass
class Caser(SequenceRecommender):
    """Convolutional sequence embedding (Tang & Wang, WSDM 2018).

    | difference from the paper | why |
    |---|---|
    | no vector of the user | new users and new events are served without learning anew |
    | all places of a sequence in one pass | windows overlap: an epoch reads each event once |
    | the next item is the target, not the next three | the task of every sequence model here |
    | cross-entropy over all items, no negatives | better lists; `loss` has the sampled ones too |
    | one table of items, a linear layer after z | half the weights of the paper's E and W' |
    """

    window: int = param(5, "last items of a history that are read (L)", at_least=1, at_most=64, tune=(3, 10))
    horizontal: int = param(16, "horizontal filters of each height 1..L", at_least=1, at_most=1024)
    vertical: int = param(4, "vertical filters", at_least=1, at_most=256)

    def _encoder(self) -> nn.Module:
        return Convolutions(self.factors, self.window, self.horizontal, self.vertical, self.dropout)

    def _reach(self) -> int:
        """A state depends on the window alone, so serving reads no more."""
        return min(self.max_len, self.window)


class Convolutions(nn.Module):
    """At each place: horizontal and vertical convolution of the last L items, and two layers (section 3).

    The window of a place ends with its item; it is zero where it reaches back beyond the first one.
    """

    def __init__(self, d: int, window: int, horizontal: int, vertical: int, dropout: float) -> None:
        super().__init__()
        self.window = window
        self.horizontal = nn.ModuleList(nn.Conv1d(d, horizontal, height) for height in range(1, window + 1))
        self.vertical = nn.Linear(window, vertical, bias=False)
        self.hidden = nn.Linear(window * horizontal + vertical * d, d)
        self.out = nn.Linear(d, d)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, batch: Sequences) -> Tensor:
        """[b, t, d] to [b, t, d]."""
        padded = nn.functional.pad(x, (0, 0, self.window - 1, 0)).transpose(1, 2)  # [b, d, t + L - 1]
        features = []
        for height, filters in enumerate(self.horizontal, start=1):
            # A filter of this height fits L - height + 1 times into each place's window (eqs. 3-5).
            matched = nn.functional.relu(filters(padded))
            # In two dimensions: the exporter to ONNX takes the length of a one-dimensional pooling for a constant.
            pooled = nn.functional.max_pool2d(matched[:, :, None], (1, self.window - height + 1), stride=1)
            features.append(pooled[:, :, 0].transpose(1, 2))
        # Weighted sums of the L items, [b, d, t, L] to [b, t, d · vertical] (eqs. 6-7).
        summed = self.vertical(padded.unfold(2, self.window, 1)).transpose(1, 2).flatten(2)
        hidden = nn.functional.relu(self.hidden(self.dropout(torch.cat([*features, summed], dim=2))))  # eq. 9
        return self.out(hidden)
