"""MultVAE: variational autoencoder over the items of a history."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.data.process_group import ALONE, ProcessGroup
from zhiyin.models.neural import losses
from zhiyin.models.neural.devices import threads
from zhiyin.models.neural.layers import Dropout
from zhiyin.models.neural.neural_recommender import NeuralRecommender
from zhiyin.models.sequence.next_item import SPARSE_ROWS

# Number of histories encoded at once when serving.
HISTORIES_PER_BATCH = 4096


@dataclasses.dataclass
class MultVAE(NeuralRecommender):
    """Variational autoencoder with a multinomial likelihood (Liang et al., WWW 2018).

    A user u with the items x_u, N_u of them, loses (eq. 7), with π = softmax(W f(z) + b) and z ~ q(z | x_u):

        - sum over the items i of x_u of log π_i  +  β_t KL(q(z | x_u) ‖ N(0, I))

    The score is an inner product: the history is [f(mean of z), 1], an item is [W_i, b_i].

    | difference from the paper | why |
    |---|---|
    | the users × items log-likelihood is never held: N log Z by tiles, the logits of events by one bag | memory |
    | `hidden` = 0: no hidden layers, z is what items are scored against | cheaper where items are many |
    | `negatives` > 0: Z is the sum over the user's items and an estimate from sampled others | the cost of a large n |
    """

    factors: int = param(200, "length of the latent vectors", at_least=1, at_most=4096, tune=(32, 256), log=True)
    hidden: int = param(600, "width of the hidden layers before and after; 0: none", at_least=0, at_most=8192)
    epochs: int = param(100, "largest number of passes over the data", at_least=1)
    validation: str = param(
        "ratio",
        "validation events of early stopping: a random tenth of each user's, each user's last, "
        "the last tenth of the time, those of some held-out users, or none",
        choices=("last", "ratio", "time", "users", "none"),
    )
    batch_size: int = param(500, "histories in each step", at_least=1, tune=(100, 2000), log=True)
    dropout: float = param(0.5, "dropout rate of the events of a history", at_least=0, at_most=0.95)
    clip: float = param(0.0, "largest norm of the gradient; 0: no limit", at_least=0)
    beta: float = param(0.2, "weight of the KL divergence at the end of annealing", at_least=0, tune=(0.01, 1.0))
    anneal: int = param(2000, "steps in which the KL weight grows from 0", at_least=0)
    negatives: int = param(
        0, "items in each step that the softmax denominator is estimated from; 0: all items", at_least=0
    )

    trains_from_shards = True

    def _build(self, n_items: int) -> nn.Module:
        return Autoencoder(self, n_items)

    def _batches(self, data: Dataset, run: Run) -> HistoryBatches:
        matrix = data.matrix("binary")
        if self.negatives:
            self._network.negatives = Negatives(matrix, self.negatives, data.group)  # type: ignore[assignment]
        return HistoryBatches(matrix, self.batch_size, run.seed, data.group)

    def _held_out(self, queries: Histories, relevant: Histories, data: Dataset) -> Iterator[HistoryBatch]:
        seen, wanted = (histories.matrix(data.n_items, "binary") for histories in (queries, relevant))
        for start in range(0, len(queries), HISTORIES_PER_BATCH):
            part = slice(start, start + HISTORIES_PER_BATCH)
            yield dataclasses.replace(HistoryBatch.of(seen[part]), wanted=HistoryBatch.of(wanted[part]))

    def encode(self, histories: Histories, run: Run | None = None) -> np.ndarray:
        """Vectors of histories, float32[n, d + 1], the last element 1; zeros where there is no positive event."""
        network, run = self._net(), run or Run()
        matrix = histories.matrix(len(self.item_vectors_), "binary")
        vectors = np.zeros((matrix.shape[0], self._width()), dtype=np.float32)
        device = next(network.parameters()).device
        with torch.inference_mode(), threads(run):
            for start in range(0, len(vectors), HISTORIES_PER_BATCH):
                bag = HistoryBatch.of(matrix[start : start + HISTORIES_PER_BATCH])
                vectors[start : start + HISTORIES_PER_BATCH, :-1] = network(bag.to(device)).float().cpu().numpy()
        vectors[:, -1] = 1
        vectors[np.diff(matrix.indptr) == 0] = 0
        return vectors

    def _similar(self, items: np.ndarray, run: Run) -> np.ndarray:
        """Cosine of the item vectors without the bias, which stands for popularity."""
        vectors = self.item_vectors_[:, :-1]
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return unit[items] @ unit.T


class Autoencoder(nn.Module):
    """The network: encoder from items to a Gaussian, decoder from a latent vector to item scores."""

    def __init__(self, settings: MultVAE, n_items: int) -> None:
        super().__init__()
        d, latent = settings.hidden, settings.factors
        self.small = d == 0
        self.beta, self.anneal = settings.beta, settings.anneal
        first = d or 2 * latent
        self.encoder = nn.Embedding(n_items, first, sparse=n_items > SPARSE_ROWS)
        self.encoder_bias = nn.Parameter(torch.zeros(first))
        nn.init.xavier_normal_(self.encoder.weight)
        self.to_latent = nn.Identity() if self.small else nn.Linear(d, 2 * latent)
        self.from_latent = nn.Identity() if self.small else nn.Linear(latent, d)
        self.decoder = nn.Parameter(torch.empty(n_items, d or latent))
        self.decoder_bias = nn.Parameter(torch.zeros(n_items))
        nn.init.xavier_normal_(self.decoder)
        for layer in (self.to_latent, self.from_latent):
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
        self.drop = Dropout(settings.dropout)
        self.negatives: Negatives | None = None

    def item_vectors(self) -> Tensor:
        """[n, d + 1]: W and b."""
        return torch.cat([self.decoder, self.decoder_bias[:, None]], dim=1)

    def forward(self, batch: HistoryBatch) -> Tensor:
        """[b, d]: what items are scored against, from the mean of z."""
        return self.unpacked(self.gaussian(batch)[0])

    def gaussian(self, batch: HistoryBatch) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of z, [b, latent] each."""
        counts = batch.counts
        weights = self.drop(counts.clamp(min=1).rsqrt().repeat_interleave(counts.long()))
        packed = self.encoder_bias + functional.embedding_bag(
            batch.items, self.encoder.weight, batch.offsets, mode="sum", sparse=self.encoder.sparse,
            per_sample_weights=weights.to(self.encoder.weight.dtype),
        )  # fmt: skip
        mean, log_variance = self.to_latent(packed if self.small else torch.tanh(packed)).chunk(2, dim=1)
        return mean, log_variance

    def unpacked(self, z: Tensor) -> Tensor:
        return z if self.small else torch.tanh(self.from_latent(z))

    def held_out_loss(self, batch: HistoryBatch, draw: torch.Generator) -> tuple[Tensor, int]:
        """Minus the log-likelihood of `batch.wanted`, from the mean of z, summed over users, and their number."""
        assert batch.wanted is not None
        loss = likelihood_loss(self(batch), self.decoder, self.decoder_bias, batch.wanted)
        return loss, len(batch.counts)

    def loss(self, batch: HistoryBatch, draw: torch.Generator) -> tuple[Tensor, int]:
        """Negative ELBO with the KL divergence annealed, summed over users, and their number."""
        mean, log_variance = self.gaussian(batch)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        states = self.unpacked(z)
        if self.negatives is None:
            fit = likelihood_loss(states, self.decoder, self.decoder_bias, batch)
        else:
            near, far = logits(
                states, self.decoder, self.decoder_bias, batch, *self.negatives.draw(draw, states.device)
            )
            fit = sampled_likelihood_loss(near, far, batch)
        return fit + self.weight(batch.step) * losses.gaussian_kl(mean, log_variance), len(batch.counts)

    def weight(self, step: int) -> float:
        """β at a step."""
        return self.beta * min(1.0, step / self.anneal) if self.anneal else self.beta


def likelihood_loss(states: Tensor, table: Tensor, bias: Tensor, batch: HistoryBatch) -> Tensor:
    """-sum over users and their items of log softmax(x·T + b): what `losses.multinomial` is on the whole matrix.

    It is sum over u of N_u log Z_u less the logits of events. full_softmax gives N_u (log Z_u - logit of any one of u's
    items), so N_u times that logit is added back. A sum of logits is one product with a sum of rows.

    Parameters
    ----------
    states : float[b, d]
    table, bias : float[n, d], float[n]
    batch : b histories, none of them empty
    """
    one = batch.items[batch.offsets]
    rest = functional.embedding_bag(batch.items, table, batch.offsets, mode="sum") - batch.counts[:, None] * table[one]
    biases = bias[batch.items].sum() - (batch.counts * bias[one]).sum()
    return losses.full_softmax(states, table, one, batch.counts, bias) - (states * rest).sum() - biases


def sampled_likelihood_loss(near: Tensor, far: Tensor, batch: HistoryBatch) -> Tensor:
    """likelihood_loss with Z_u = sum over u's items of exp(near) + exp(far_u); see `logits`."""
    owner = batch.owner
    most = far.detach().scatter_reduce(0, owner, near.detach(), "amax")
    own = torch.zeros_like(far).index_add(0, owner, torch.exp(near - most[owner]))
    return (batch.counts * (most + torch.log(own + torch.exp(far - most)))).sum() - near.sum()


def logits(
    states: Tensor, table: Tensor, bias: Tensor | None, batch: HistoryBatch, negatives: Tensor, log_q: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits of events, float[m]; and log of the estimated sum of exp(logit) over items not in a history, float[b].

    `negatives` int64[s] are distinct, `log_q` float[s] logs of how often each was to be expected over how often it was
    drawn; a negative that a history holds is none for it. Kept in float32: sums of exponentials need the digits.
    """
    owner, states = batch.owner, states.float()
    near = (states[owner] * table[batch.items]).sum(dim=1)
    with torch.autocast(states.device.type, enabled=False):
        far = torch.addmm(-log_q, states, table[negatives].T)
    if bias is not None:
        near, far = near + bias[batch.items], far + bias[negatives]
    place = torch.full((len(table),), -1, device=states.device)
    place[negatives] = torch.arange(len(negatives), device=states.device)
    column = place[batch.items]
    held = torch.zeros_like(far, dtype=torch.bool)
    held[owner[column >= 0], column[column >= 0]] = True
    # Finite instead of minus infinity: where a history has all of the negatives, the gradient would be NaN.
    return near, torch.logsumexp(far.masked_fill(held, -1e9), dim=1)


class Negatives:
    """Draws items by popularity to the power of 3/4 (Mikolov et al., 2013)."""

    def __init__(self, matrix: sparse.csr_matrix, size: int, group: ProcessGroup = ALONE) -> None:
        degrees = group.sum(np.bincount(matrix.indices, minlength=matrix.shape[1]))
        share = torch.from_numpy((degrees + 1.0) ** 0.75)
        self.share, self.size = share / share.sum(), size
        self.cumulated = self.share.cumsum(0)

    def draw(self, draw: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
        """Distinct items and logs of (expected over actual number of draws): see `logits`."""
        at = torch.rand(self.size, generator=draw, dtype=torch.float64)
        drawn = torch.searchsorted(self.cumulated, at).clamp_(max=len(self.share) - 1)
        items, times = drawn.unique(return_counts=True)
        return items.to(device), (self.share[items] * self.size / times).log().float().to(device)

    def uncorrected(self, log_q: Tensor, items: Tensor) -> Tensor:
        """`log_q` of items drawn, without their popularity: logits are then learned less 3/4 of its logarithm."""
        return log_q - self.share[items.cpu()].log().float().to(log_q.device) - math.log(self.size)


@dataclasses.dataclass(frozen=True)
class HistoryBatch:
    """b histories as bags of distinct items.

    Parameters
    ----------
    items: int64[m], one history after another; offsets: int64[b], where each begins; counts: float32[b], their sizes.
    rows: int64[b], which histories these are.
    step: the number of the step in all of training.
    wanted: held-out items of the same users; None in training.
    """

    items: Tensor
    offsets: Tensor
    counts: Tensor
    rows: Tensor
    step: int = 0
    wanted: HistoryBatch | None = None

    @classmethod
    def of(cls, matrix: sparse.csr_matrix, rows: np.ndarray | None = None, step: int = 0) -> HistoryBatch:
        rows = np.arange(matrix.shape[0]) if rows is None else rows
        chosen = matrix[rows]
        offsets = torch.from_numpy(chosen.indptr.astype(np.int64))
        items = torch.from_numpy(chosen.indices.astype(np.int64))
        return cls(items, offsets[:-1], offsets.diff().float(), torch.from_numpy(rows), step)

    @property
    def events(self) -> int:
        return len(self.items)

    @property
    def owner(self) -> Tensor:
        """int64[m]: the place in the batch of each item's history."""
        return torch.repeat_interleave(torch.arange(len(self.counts), device=self.items.device), self.counts.long())

    def share(self, rank: int, world: int) -> HistoryBatch:
        """Every world-th history."""
        if world == 1:
            return self
        counts = self.counts[rank::world]
        offsets = functional.pad(counts.long().cumsum(0), (1, 0))[:-1]
        items = self.items[self.owner % world == rank]
        return HistoryBatch(items, offsets, counts, self.rows[rank::world], self.step)

    def to(self, device: torch.device) -> HistoryBatch:
        items, offsets, counts, rows = (v.to(device) for v in (self.items, self.offsets, self.counts, self.rows))
        wanted = None if self.wanted is None else self.wanted.to(device)
        return HistoryBatch(items, offsets, counts, rows, self.step, wanted)


class HistoryBatches:
    """The histories that are not empty, in a new order each epoch.

    group: the processes that hold the rows of the matrix together: the batches are those of all, and have the rows that
        this process holds.
    """

    def __init__(self, matrix: sparse.csr_matrix, batch_size: int, seed: int, group: ProcessGroup = ALONE) -> None:
        held = np.diff(matrix.indptr) > 0
        self.matrix, self.rows = matrix, np.flatnonzero(group.sum(held))
        self.held = None if group.world == 1 else held
        self.batch_size, self.seed = batch_size, seed
        self.n_batches = -(-len(self.rows) // batch_size)

    def epoch(self, number: int) -> Iterator[HistoryBatch]:
        order = np.random.default_rng([self.seed, 21, number]).permutation(self.rows)
        for index in range(self.n_batches):
            chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
            if self.held is not None:
                chosen = chosen[self.held[chosen]]
            yield HistoryBatch.of(self.matrix, chosen, number * self.n_batches + index)
