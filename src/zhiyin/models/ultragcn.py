"""UltraGCN: the limit of infinite graph convolution layers, as loss weights without propagation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import svds
from torch import Tensor, nn
from torch.nn import functional

from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models.neural.devices import threads
from zhiyin.models.neural.neural_recommender import NeuralRecommender


@dataclasses.dataclass
class UltraGCN(NeuralRecommender):
    """Ultra simplification of graph convolutional networks (Mao et al., CIKM 2021).

    For every pair of a user u and an item i they had, with β_ui = sqrt((d_u + 1) / (d_i + 1)) / d_u (eq. 5):

        -(w + β_ui) log σ(x_u·v_i) - negative_weight · mean over negatives j of (w + β_uj) log σ(-x_u·v_j)

    A user at serving time is folded in: x_u minimises the same loss over the history, item vectors fixed.

    The published figure on Gowalla has not been reached by this implementation: see docs/benchmarks.md. Short histories
    are folded in less surely than long ones; LightGCN is the graph model to use.

    | difference from the paper | why |
    |---|---|
    | negatives are drawn once a step and shared by its pairs | the same expectation, as one matrix product |
    | no item-item term | not built |
    | vectors begin at singular vectors of the graph, not at random | the same place in a tenth of the epochs |
    | users are folded in, not looked up | one path for known users and strangers |
    """

    epochs: int = param(40, "largest number of passes over the data", at_least=1)
    validation: str = param(
        "ratio",
        "validation events of early stopping: a random tenth of each user's, each user's last, "
        "the last tenth of the time, or none",
        choices=("last", "ratio", "time", "users", "none"),
    )
    batch_size: int = param(2048, "pairs in each step", at_least=1, tune=(256, 4096), log=True)
    dropout: float = param(0.0, "not used", at_least=0, at_most=0)
    negatives: int = param(1024, "sampled negatives in each step, shared by its users", at_least=1)
    negative_weight: float = param(300.0, "weight of all negatives of a pair, in sum", at_least=0, tune=(10, 1000))
    pair_weight: float = param(1e-6, "weight of every pair, added to that by degrees", at_least=0)
    reg: float = param(1e-4, "L2 penalty on the vectors of a pair", at_least=0, tune=(1e-6, 1e-2), log=True)
    fold_in_steps: int = param(80, "optimisation steps of the fold-in of a history", at_least=1)

    degrees_: ClassVar[np.ndarray]
    contrast_: ClassVar[np.ndarray]
    _learns_users = True

    def _prepare(self, data: Dataset, run: Run) -> None:
        matrix = data.matrix("binary")
        self.degrees_ = np.bincount(matrix.indices, minlength=data.n_items).astype(np.float32)  # type: ignore[misc]
        # Negative items for folding in, drawn once, so that folding in is deterministic.
        size = min(data.n_items, 4096)
        self.contrast_ = np.sort(run.rng(23).choice(data.n_items, size, replace=False))  # type: ignore[misc]
        self._pairs = matrix

    def _build(self, n_items: int) -> nn.Module:
        return Pairs(self, n_items)

    def _batches(self, data: Dataset, run: Run) -> PairBatches:
        matrix = self._pairs
        counts = np.diff(matrix.indptr)
        self._network.begin(*spectral(matrix, self.factors, self.negative_weight, run), counts)  # type: ignore[operator]
        users = np.repeat(np.arange(len(counts)), counts)
        return PairBatches(users, matrix.indices.astype(np.int64), self.batch_size, run.seed)

    def _held_out(self, queries: Histories, relevant: Histories, data: Dataset) -> Iterator[PairBatch]:
        """The held-out pairs of users that have a vector of their own."""
        known = np.flatnonzero(np.diff(self._pairs.indptr)[queries.users] > 0)
        if len(known):
            wanted = relevant.take(known).matrix(data.n_items, "binary")
            users = np.repeat(queries.users[known].astype(np.int64), np.diff(wanted.indptr))
            yield PairBatch(torch.from_numpy(users), torch.from_numpy(wanted.indices.astype(np.int64)))

    def encode(self, histories: Histories, run: Run | None = None) -> np.ndarray:
        """Vectors of histories, float32[n, factors]: the minimum of the loss over each, found by Adam."""
        run = run or Run()
        matrix = histories.matrix(len(self.item_vectors_), "binary")
        vectors = np.zeros((matrix.shape[0], self.factors), dtype=np.float32)
        with torch.inference_mode(), threads(run):
            table, degree = torch.tensor(self.item_vectors_), torch.tensor(self.degrees_)
            for start in range(0, len(vectors), 1024):
                part = matrix[start : start + 1024]
                vectors[start : start + 1024] = self._folded(part, table, degree).numpy()
        return vectors

    def _folded(self, rows, table: Tensor, degree: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        counts = torch.from_numpy(np.diff(rows.indptr).astype(np.float32))
        items = torch.from_numpy(rows.indices.astype(np.int64))
        owner = torch.repeat_interleave(torch.arange(len(counts)), counts.long())
        own = table[items]
        weight = self.pair_weight + beta(counts[owner], degree[items])
        contrast = torch.tensor(self.contrast_)
        others, far = table[contrast], degree[contrast]
        # A user has `counts` pairs, each with its share of the negatives.
        push = self.negative_weight * (self.pair_weight + beta(counts[:, None], far)) * counts[:, None] / len(far)
        x = torch.zeros(len(counts), self.factors)
        # Start at the mean of the history, with the users' mean component along the common direction.
        x = x.index_add(0, owner, own) / counts.clamp(min=1)[:, None]
        x[:, -1] *= -1
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        for step in range(1, self.fold_in_steps + 1):
            gradient = (push * torch.sigmoid(x @ others.T)) @ others + self.reg * counts[:, None] * x
            miss = weight * torch.sigmoid(-(x[owner] * own).sum(dim=1))
            gradient.index_add_(0, owner, own * -miss[:, None])
            # Adam with decreasing steps: gradients of rows differ by orders of magnitude.
            first.lerp_(gradient, 0.2)
            second.lerp_(gradient.square().mean(dim=1, keepdim=True).expand_as(second), 0.05)
            rate = 0.08 * (1 - step / (self.fold_in_steps + 1))
            x = x - rate * (first / (1 - 0.8**step)) / ((second / (1 - 0.95**step)).sqrt() + 1e-12)
        return x * (counts > 0)[:, None]


class Pairs(nn.Module):
    """Vectors of users and items, and the loss over pairs of them."""

    degree: Tensor

    def __init__(self, settings: UltraGCN, n_items: int) -> None:
        super().__init__()
        self.settings = settings
        self.items = nn.Embedding(n_items, settings.factors)
        self.register_buffer("degree", torch.from_numpy(np.array(settings.degrees_)), persistent=False)

    def begin(self, users: np.ndarray, items: np.ndarray, counts: np.ndarray) -> None:
        """Set the initial vectors. User vectors are not stored after training: serving folds histories in."""
        self.users = nn.Embedding.from_pretrained(torch.from_numpy(users), freeze=False)
        self.counts = torch.from_numpy(counts.astype(np.float32))
        with torch.no_grad():
            self.items.weight.copy_(torch.from_numpy(items))

    def item_vectors(self) -> Tensor:
        return self.items.weight

    def loss(self, batch: PairBatch, draw: torch.Generator) -> tuple[Tensor, int]:
        s = self.settings
        negatives = torch.randint(len(self.degree), (s.negatives,), generator=draw).to(self.degree.device)
        x = self.users(batch.users)
        # One gather, so that the gradient of the table is made once.
        v, far = self.items(torch.cat([batch.items, negatives])).split([len(x), s.negatives])
        count = self.counts.to(x.device)[batch.users]
        near = (s.pair_weight + beta(count, self.degree[batch.items])) * functional.softplus(-(x * v).sum(dim=1))
        # β is a product of a user and an item factor: no matrix of weights is needed.
        apart = functional.softplus(x @ far.T)
        part_item = (self.degree[negatives] + 1).rsqrt()
        pushed = s.pair_weight * apart.mean(dim=1) + (count + 1).sqrt() / count * (apart @ part_item) / s.negatives
        penalty = 0.5 * s.reg * (x.square().sum() + v.square().sum())
        return near.sum() + s.negative_weight * pushed.sum() + penalty, len(batch.users)


@dataclasses.dataclass(frozen=True)
class PairBatch:
    """users, items: int64[b], one pair each."""

    users: Tensor
    items: Tensor

    @property
    def events(self) -> int:
        return len(self.users)

    def share(self, rank: int, world: int) -> PairBatch:
        return PairBatch(self.users[rank::world], self.items[rank::world])

    def to(self, device: torch.device) -> PairBatch:
        return PairBatch(self.users.to(device), self.items.to(device))


class PairBatches:
    """All pairs in a new order each epoch."""

    def __init__(self, users: np.ndarray, items: np.ndarray, batch_size: int, seed: int) -> None:
        self.users, self.items = torch.from_numpy(users), torch.from_numpy(items)
        self.batch_size, self.seed = batch_size, seed
        self.n_batches = -(-len(users) // batch_size)

    def epoch(self, number: int) -> Iterator[PairBatch]:
        order = torch.from_numpy(np.random.default_rng([self.seed, 21, number]).permutation(len(self.users)))
        for chosen in order.split(self.batch_size):
            yield PairBatch(self.users[chosen], self.items[chosen])


def spectral(matrix: sparse.csr_matrix, d: int, odds: float, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Initial vectors of users and items, close to what random ones become after tens of epochs.

    The loss first finds one direction that gives every pair the score of a random one, -log(odds), and then amplifies
    the leading singular vectors of the normalised adjacency D_u^-1/2 A D_i^-1/2. Both are put there at once.
    """
    rng, (n, m) = run.rng(24), matrix.shape
    left, right = (1 / np.sqrt(np.maximum(1, matrix.sum(axis=axis))) for axis in (1, 0))
    k = min(d - 1, min(n, m) - 1)
    x, v = (rng.normal(0, 1e-2, (rows, d)).astype(np.float32) for rows in (n, m))
    if k > 0 and matrix.nnz:
        normal = sparse.diags(np.asarray(left).ravel()) @ matrix @ sparse.diags(np.asarray(right).ravel())
        u, s, vt = svds(normal.astype(np.float32), k=k, v0=rng.normal(size=min(n, m)).astype(np.float32))
        for vectors, factors in ((x, u), (v, vt.T)):
            factors = factors * np.sqrt(s)
            vectors[:, :k] += factors / np.sqrt(np.square(factors).sum(axis=1).mean())
    common = np.sqrt(np.log(max(odds, 2.0)))
    x[:, -1], v[:, -1] = common, -common
    return x, v


def beta(users: Tensor, items: Tensor) -> Tensor:
    """β of pairs, from the degrees of their users and items (eq. 5)."""
    return ((users + 1) / (items + 1)).sqrt() / users.clamp(min=1)
