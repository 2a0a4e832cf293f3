"""DeepFM: a factorization machine and a perceptron on shared field vectors."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from zhiyin.ranking.example_tensors import ExampleBatch
from zhiyin.ranking.fm import linear_and_factors, pairs
from zhiyin.ranking.network_ranker import DeepRanker, Network, Perceptron, Shape


@dataclasses.dataclass
class DeepFM(DeepRanker):
    """DeepFM (Guo et al., IJCAI 2017): logit = FM(x) + MLP(vectors of all fields) (eq. 1 to 4).

    | difference from the paper | why |
    |---|---|
    | the mean of the items had is one field more (`max_len`) | users never met are served |
    | a number has a vector, scaled by its value, as a category has | it takes part in the pairs |
    | the L2 penalty `reg` is of the vectors a row reads | frequent categories need it no less than rare ones |
    """

    def _build(self, shape: Shape) -> Network:
        return _DeepFM(shape, self)


class _DeepFM(Network):
    def __init__(self, shape: Shape, settings: DeepFM) -> None:
        super().__init__()
        s = settings
        self.fields, self.reg = linear_and_factors(shape, s.factors), s.reg
        self.deep = Perceptron(shape.fields * s.factors, s.hidden, s.layers, s.dropout, out=1)
        self.last_layers = (self.deep.steps[-1],)

    def forward(self, batch: ExampleBatch) -> Tensor:
        vectors = self.vectors(batch)
        return self.offset + pairs(vectors)[:, None] + self.deep(vectors[..., :-1].flatten(1))
