"""FM: factorization machine, with an inner product for each pair of fields."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from zhiyin.core.params import param
from zhiyin.ranking.example_tensors import ExampleBatch
from zhiyin.ranking.network_ranker import Fields, Network, NetworkRanker, Shape


@dataclasses.dataclass
class FM(NetworkRanker):
    """Factorization machine (Rendle, ICDM 2010).

        logit = w0 + Σ_i w_i x_i + Σ_{i<j} <v_i, v_j> x_i x_j          (eq. 1)
        Σ_{i<j} <v_i, v_j> x_i x_j = ½ Σ_f ((Σ_i v_if x_i)² - Σ_i (v_if x_i)²)     (lemma 3.1: linear in the fields)

    | difference from the paper | why |
    |---|---|
    | the mean of the items had is one field more (`max_len`) | users never met are served (as in FISM, KDD 2013) |
    | an unknown number has a weight and a vector of its own | 0 would be a statement |
    | Adam and not SGD | one learning rate does for rare and frequent categories |
    """

    learning_rate: float = param(3e-3, "learning rate of Adam", at_least=0, tune=(1e-4, 1e-1), log=True)

    def _build(self, shape: Shape) -> Network:
        return Pairs(shape, self.factors, self.reg)


class Pairs(Network):
    """Linear and pairwise part. The last column of the table is the linear weight: one look-up gives both."""

    def __init__(self, shape: Shape, factors: int, reg: float) -> None:
        super().__init__()
        self.fields, self.reg = linear_and_factors(shape, factors), reg

    def forward(self, batch: ExampleBatch) -> Tensor:
        return self.offset + pairs(self.vectors(batch))[:, None]


def linear_and_factors(shape: Shape, factors: int, std: float = 0.05) -> Fields:
    """Fields of factors + 1 columns, of which the last, the linear weight, begins at 0."""
    fields = Fields(shape, factors + 1, std)
    fields.table.weight.data[:, -1] = 0
    fields.numbers.data[:, -1] = 0
    return fields


def pairs(vectors: Tensor) -> Tensor:
    """[b]: linear and pairwise part, of [b, fields, factors + 1]."""
    total = vectors.sum(dim=1)
    v = vectors[..., :-1]
    return total[:, -1] + 0.5 * (total[:, :-1].square().sum(dim=1) - v.square().sum(dim=(1, 2)))
