"""LightGCN: light graph convolution on the user-item graph."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models.multvae import HistoryBatch, HistoryBatches, Negatives, logits
from zhiyin.models.neural import losses
from zhiyin.models.neural.checkpoints import Progress
from zhiyin.models.neural.neural_recommender import NeuralRecommender


@dataclasses.dataclass
class LightGCN(NeuralRecommender):
    """Light graph convolution (He et al., SIGIR 2020).

    Layer l + 1 of a user is the sum of layer l of the items they had over sqrt(d_u d_i), and of an item likewise
    (eq. 3); what is scored is the mean of all layers (eq. 4). Layer 0 is learned.

    | difference from the paper | why |
    |---|---|
    | layers from 1 on of a user are made from the history; layer 0 by a linear map of them | one path for known users \
and strangers; on Gowalla validation Recall@20 .196, with the learned layer 0 .191, without any .170 |
    | `loss` = "softmax": sampled softmax on cosine / temperature (Wu et al.) | the loss that the figures are of |
    | negatives come by popularity^0.75 without a correction; `popularity` of its log is added when serving | cosine \
has no room for popularity |
    | a step holds all pairs of its users | they share the user's product with the negatives, and one propagation |
    | layer 0 starts from the truncated SVD of the graph | training starts where smoothing would have led |
    """

    epochs: int = param(60, "largest number of passes over the data", at_least=1)
    validation: str = param(
        "ratio",
        "validation events of early stopping: a random tenth of each user's, each user's last, "
        "the last tenth of the time, those of some held-out users, or none",
        choices=("last", "ratio", "time", "users", "none"),
    )
    batch_size: int = param(4096, "users in each step", at_least=1, tune=(512, 8192), log=True)
    learning_rate: float = param(0.03, "learning rate of Adam", at_least=0, tune=(1e-3, 1e-1), log=True)
    dropout: float = param(0.0, "not used", at_least=0, at_most=0)
    layers: int = param(3, "layers of propagation along the graph", at_least=1, at_most=16)
    loss: str = param("softmax", "loss", choices=("softmax", "bpr"))
    negatives: int = param(
        1024, "sampled negatives in each step, shared by its users; bpr: one for each pair", at_least=1
    )
    temperature: float = param(0.1, "softmax: scores are cosine / temperature; 0: inner products", at_least=0)
    popularity: float = param(0.75, "softmax: weight of the log popularity added to the cosine", at_least=0, at_most=2)
    ridge: float = param(
        1e-3,
        "penalty of the fold-in map to layer 0, relative to its mean square",
        at_least=1e-9,
        tune=(1e-4, 1.0),
        log=True,
    )
    start: str = param("svd", "initial values of layer 0", choices=("svd", "normal"))
    reg: float = param(
        1e-4, "bpr: L2 penalty on the layer-0 vectors of a pair", at_least=0, tune=(1e-6, 1e-2), log=True
    )

    table_: ClassVar[np.ndarray]
    _learns_users = True

    def _prepare(self, data: Dataset, run: Run) -> None:
        self._graph = data.matrix("binary")

    def _build(self, n_items: int) -> nn.Module:
        return Convolution(self, self._graph)

    def _batches(self, data: Dataset, run: Run) -> HistoryBatches:
        return HistoryBatches(self._graph, self.batch_size, run.seed)

    def _held_out(self, queries: Histories, relevant: Histories, data: Dataset) -> Iterator[HistoryBatch]:
        """All items of users that the graph knows, with those held out."""
        known = np.flatnonzero(np.diff(self._graph.indptr)[queries.users] > 0)
        if len(known):
            rows = torch.from_numpy(queries.users[known].astype(np.int64))
            wanted = relevant.take(known).matrix(data.n_items, "binary")
            whole = ((self._graph[queries.users[known]] + wanted) > 0).astype(np.float32)
            yield dataclasses.replace(HistoryBatch.of(whole), rows=rows, wanted=HistoryBatch.of(wanted))

    def _learned(self, network: nn.Module, progress: Progress) -> None:
        """Store item tables only: users are encoded from them, without the graph."""
        self.item_vectors_ = self._item_vectors()  # type: ignore[misc]
        self.weights_ = {}  # type: ignore[misc]
        for name in ("_network", "_graph"):
            delattr(self, name)

    def _item_vectors(self) -> np.ndarray:
        with torch.inference_mode():
            table, items = self._network.serving()  # type: ignore[operator]
        self.table_ = table.cpu().numpy()  # type: ignore[misc]
        return np.ascontiguousarray(items.cpu().numpy())

    def encode(self, histories: Histories, run: Run | None = None) -> np.ndarray:
        """Vectors of histories, one sparse product: float32[n, factors], and with cosines a 1 after them."""
        matrix = histories.matrix(len(self.table_), "binary")
        size = np.diff(matrix.indptr)[:, None]
        x = np.asarray(matrix @ self.table_, dtype=np.float32)
        if not self.cosine:
            return x / np.sqrt(np.maximum(size, 1)).astype(np.float32)
        x /= self.temperature * np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        return np.concatenate([x, (size > 0).astype(np.float32)], axis=1)

    def _similar(self, items: np.ndarray, run: Run) -> np.ndarray:
        """Cosine of the items' vectors without popularity."""
        vectors = self.item_vectors_[:, : self.factors]
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return unit[items] @ unit.T

    @property
    def cosine(self) -> bool:
        """Whether scores are cosine / temperature + popularity, and not inner products."""
        return self.loss == "softmax" and self.temperature > 0


class Convolution(nn.Module):
    """Layer 0 of users and items, the graph, and the loss."""

    def __init__(self, settings: LightGCN, matrix: sparse.csr_matrix) -> None:
        super().__init__()
        n_users, n_items = matrix.shape
        self.settings, self.graph = settings, Graph(matrix, settings.layers)
        self.users = nn.Parameter(0.1 * torch.randn(n_users, settings.factors))
        self.items = nn.Parameter(0.1 * torch.randn(n_items, settings.factors))
        if settings.start == "svd":
            with torch.no_grad():
                self.graph.spectral(self.users, self.items)
        self.drawn = Negatives(matrix, settings.negatives)

    def item_vectors(self) -> Tensor:
        return self.serving()[1]

    def layers(self) -> tuple[Tensor, Tensor]:
        """The mean of all layers: users [n_users, d], items [n, d]."""
        return _Propagated.apply(self.users, self.items, self.graph)

    def serving(self) -> tuple[Tensor, Tensor]:
        """Input vectors of items, [n, d], whose sum encodes a history, and the item vectors, [n, d] or [n, d + 1].

        Of a user with the items N, layer l + 1 is the sum over N of (layer l of the item) / sqrt(|N| d_i). Layer 0 is
        a linear map of the layers 1..L, by ridge regression over the users learned from. So the mean of all is one
        sum of rows over sqrt(|N|).
        """
        s, graph = self.settings, self.graph
        users, items = graph.layers_of(self.users.detach(), self.items.detach())
        above, below = torch.cat(users[1:], dim=1), torch.cat(items[:-1], dim=1)
        gram = (above.T @ above).double()
        ridge = s.ridge * gram.diagonal().mean().clamp(min=1e-12) * torch.eye(len(gram)).to(gram)
        to_first = torch.linalg.solve(gram + ridge, (above.T @ users[0]).double()).float()
        mean = torch.stack(items).mean(dim=0)
        table = graph.item_scale[:, None] * (torch.stack(items[:-1]).sum(dim=0) + below @ to_first) / (s.layers + 1)
        if not s.cosine:
            return table, mean
        return table, torch.cat(
            [functional.normalize(mean, dim=1), s.popularity * graph.log_popularity[:, None]], dim=1
        )

    def loss(self, batch: HistoryBatch, draw: torch.Generator) -> tuple[Tensor, int]:
        """Sum over the pairs of the batch's users, and their number; of `batch.wanted` alone where it is given."""
        s, owner = self.settings, batch.owner
        users, items = self.layers()
        x = users[batch.rows]
        if s.loss == "softmax":
            negatives, log_q = self.drawn.draw(draw, x.device)
            if s.cosine:
                x, items = functional.normalize(x, dim=1) / s.temperature, functional.normalize(items, dim=1)
                log_q = self.drawn.uncorrected(log_q, negatives)
            near, far = logits(x, items, None, batch, negatives, log_q)
            lost = functional.softplus(far[owner] - near)
            if batch.wanted is None:
                return lost.sum(), batch.events
            pairs, wanted = (part.owner * len(items) + part.items for part in (batch, batch.wanted))
            return lost[torch.isin(pairs, wanted)].sum(), batch.wanted.events
        if batch.wanted is not None:
            batch = dataclasses.replace(batch.wanted, rows=batch.rows)
            owner = batch.owner
        others = torch.randint(len(items), (batch.events,), generator=draw).to(x.device)
        near, far = ((x[owner] * items[of]).sum(dim=1) for of in (batch.items, others))
        touched = (self.users[batch.rows[owner]], self.items[batch.items], self.items[others])
        return losses.bpr(near, far) + 0.5 * s.reg * sum(v.square().sum() for v in touched), batch.events


class Graph(nn.Module):
    """The symmetrically normalised graph of users and items, as two sparse matrices: memory is linear in events."""

    item_scale: Tensor
    log_popularity: Tensor
    to_users: Tensor
    to_items: Tensor

    def __init__(self, matrix: sparse.csr_matrix, layers: int) -> None:
        super().__init__()
        self.layers = layers
        user_scale = 1 / np.sqrt(np.maximum(np.diff(matrix.indptr), 1))
        item_scale = 1 / np.sqrt(np.maximum(np.bincount(matrix.indices, minlength=matrix.shape[1]), 1))
        scaled = sparse.csr_matrix(sparse.diags(user_scale) @ matrix @ sparse.diags(item_scale), dtype=np.float32)
        scale = torch.from_numpy(item_scale.astype(np.float32))
        parts = (scale, -2 * torch.log(scale), _tensor(scaled), _tensor(scaled.T.tocsr()))
        for name, part in zip(("item_scale", "log_popularity", "to_users", "to_items"), parts):
            self.register_buffer(name, part, persistent=False)  # follows the network's device; not saved

    def smooth(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of layers 0..L of both sides."""
        sums = [users.clone(), items.clone()]
        for _ in range(self.layers):
            users, items = self.to_users @ items, self.to_items @ users
            sums[0] += users
            sums[1] += items
        return sums[0] / (self.layers + 1), sums[1] / (self.layers + 1)

    def layers_of(self, users: Tensor, items: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Layers 0..L of both sides."""
        layers = [users], [items]
        for _ in range(self.layers):
            users, items = self.to_users @ items, self.to_items @ users
            layers[0].append(users)
            layers[1].append(items)
        return layers

    def spectral(self, users: Tensor, items: Tensor) -> None:
        """Set the vectors to the largest singular vectors of the graph, each times its singular value.

        Randomised subspace iteration (Halko et al., 2011, alg. 4.4). Columns beyond the rank stay as they are.
        """
        d, n = users.shape[1], len(items)
        basis = torch.linalg.qr(torch.randn(n, min(d + 16, n)))[0]
        for _ in range(6):
            basis = torch.linalg.qr(self.to_items @ (self.to_users @ basis))[0]
        left, values, right = torch.linalg.svd(self.to_users @ basis, full_matrices=False)
        k = int((values[:d] > 1e-3).sum())
        scale = 0.1 * n**0.5 * values[:k]  # about as long as random starts of deviation 0.1
        users[:, :k], items[:, :k] = left[:, :k] * scale, (basis @ right.T)[:, :k] * scale


class _Propagated(torch.autograd.Function):
    """Autograd function of Graph.smooth: a symmetric matrix, so the backward pass is the same product."""

    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        ctx.graph = graph
        with torch.autocast(users.device.type, enabled=False):
            return graph.smooth(users, items)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, users: Tensor, items: Tensor):  # type: ignore[no-untyped-def]
        return (*ctx.graph.smooth(users, items), None)


def _tensor(matrix: sparse.csr_matrix) -> Tensor:
    offsets, columns, values = (
        torch.from_numpy(part.astype(kind))
        for part, kind in ((matrix.indptr, np.int64), (matrix.indices, np.int64), (matrix.data, np.float32))
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Ss]parse")  # that the layout is new, and that nothing is checked
        return torch.sparse_csr_tensor(offsets, columns, values, size=matrix.shape)
