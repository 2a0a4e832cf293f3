"""GRU4Rec: a recurrent network over the history."""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

from zhiyin.core.params import param
from zhiyin.models.neural.batches import Sequences
from zhiyin.models.neural.layers import Dropout
from zhiyin.models.sequence.next_item import SequenceRecommender

_CELLS: dict[str, type[nn.RNN] | type[nn.GRU] | type[nn.LSTM]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


@dataclasses.dataclass
class GRU4Rec(SequenceRecommender):
    """Recurrent networks for recommendation (Hidasi et al., ICLR 2016; losses of Hidasi & Karatzoglou, CIKM 2018).

    | difference from the paper | why |
    |---|---|
    | items read and items scored share their vectors | "constrained embedding" of the official code |
    | whole sequences, not sessions side by side | the gradient goes through all of a history |
    | cross-entropy over all items by default | the paper's losses are there: sampled_softmax, bpr_max |
    | sampled cross-entropy is corrected by log q | it estimates the full one; `logq` of the official code |
    | no bias of items, no activation of scores | lists are inner products, as of every model here |
    | AdamW, not Adagrad with momentum | one optimizer for all networks |
    """

    cell: str = param("gru", "recurrent unit", choices=("rnn", "gru", "lstm"))
    layers: int = param(1, "recurrent layers", at_least=1, at_most=16, tune=(1, 3))
    units: int = param(0, "length of the hidden state; 0: factors", at_least=0, at_most=8192)

    def _encoder(self) -> nn.Module:
        return Recurrence(self.factors, self.cell, self.layers, self.units or self.factors, self.dropout)


class Recurrence(nn.Module):
    """Recurrent layers, each followed by dropout, and a linear layer back to d where the state is of another length.

    Dropout of the input vectors is applied before the encoder, in `NextItem`.
    """

    def __init__(self, d: int, cell: str, layers: int, units: int, dropout: float) -> None:
        super().__init__()
        cell_class = _CELLS[cell]
        self.cells = nn.ModuleList(cell_class(units if n else d, units, batch_first=True) for n in range(layers))
        self.dropout = Dropout(dropout)
        self.out = nn.Linear(units, d) if units != d else nn.Identity()
        for n, unit in enumerate(self.cells):
            for name, weight in unit.named_parameters():
                if name.startswith("weight_hh"):
                    for gate in weight.data.split(units):
                        nn.init.orthogonal_(gate)
                elif name.startswith("weight_ih"):
                    # Item vectors have length 1; the default initialisation of torch is too small for that.
                    nn.init.normal_(weight, std=units**-0.5 if n else 1.0)
                else:
                    nn.init.zeros_(weight)

    def forward(self, x: Tensor, batch: Sequences) -> Tensor:
        """[b, t, d] to [b, t, d]. Padding is on the right, after all targets, so sequences need no packing."""
        for cell in self.cells:
            x = self.dropout(cell(x)[0])
        return self.out(x)
