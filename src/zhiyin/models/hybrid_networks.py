"""Networks from item features to the collaborative item vector, for `Hybrid`: an MLP over columns, a TextCNN over words
or a CNN over pictures. Trained by `neural.training_loop`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from zhiyin.core.run import Run
from zhiyin.features.image_cnn import ImageCNN
from zhiyin.features.images import Images
from zhiyin.features.text_cnn import TextCNN
from zhiyin.models.neural.checkpoints import Identity
from zhiyin.models.neural.devices import threads
from zhiyin.models.neural.layers import Dropout
from zhiyin.models.neural.training_loop import Validated, train
from zhiyin.models.two_tower import Bag

# Number of items mapped at once; fewer with pictures.
ITEMS_PER_BATCH, PICTURES_PER_BATCH = 1 << 14, 256


@dataclasses.dataclass
class TrainingPlan:
    """The plan of training; see `neural.training_loop.Plan`."""

    epochs: int
    patience: int
    learning_rate: float
    weight_decay: float
    beta2: float = 0.999
    warmup: int = 0
    schedule: str = "constant"
    clip: float = 5.0


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Features of n items.

    Parameters
    ----------
    columns: CSR float32[n, v], their columns; those that are read as words or pictures left out.
    words: int32[n, max_len] of `text_cnn.Words`, for a TextCNN.
    pictures: for an image CNN.
    """

    columns: sparse.csr_matrix
    words: np.ndarray | None = None
    pictures: Images | None = None

    def __len__(self) -> int:
        return self.columns.shape[0]

    def take(self, rows: np.ndarray, run: Run) -> tuple[Bag, Tensor]:
        """The columns of some items, and their words or pictures (empty where the map reads none)."""
        bag = Bag.of(sparse.csr_matrix(self.columns[rows]))
        if self.words is not None:
            return bag, torch.from_numpy(self.words[rows])
        if self.pictures is not None:
            return bag, torch.from_numpy(self.pictures.read(rows, run)[0])
        return bag, torch.zeros(len(rows), 0)


@dataclasses.dataclass(frozen=True)
class MapBatch:
    """A batch of items: features, target vectors float32[b, d] and weights float32[b]."""

    bag: Bag
    other: Tensor
    targets: Tensor
    weights: Tensor

    @property
    def events(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device) -> MapBatch:
        codes, weights, offsets = (part.to(device) for part in (self.bag.codes, self.bag.weights, self.bag.offsets))
        bag = Bag(codes, weights, offsets, self.bag.n_codes)
        return MapBatch(bag, *(part.to(device) for part in (self.other, self.targets, self.weights)))

    def share(self, rank: int, world: int) -> MapBatch:
        """Every `world`-th item, from the `rank`-th on."""
        if world == 1:
            return self
        rows = torch.arange(rank, self.events, world)
        return MapBatch(self.bag.take(rows), self.other[rows], self.targets[rows], self.weights[rows])


@dataclasses.dataclass
class MapBatches:
    """Batches of the items `rows` (int64), in a new order each epoch; targets and weights are of all n items."""

    inputs: Inputs
    targets: np.ndarray
    weights: np.ndarray
    rows: np.ndarray
    batch_size: int
    run: Run

    def __post_init__(self) -> None:
        self.n_batches = max(1, -(-len(self.rows) // self.batch_size))

    def epoch(self, number: int) -> Iterator[MapBatch]:
        order = self.run.rng(61, number).permutation(self.rows)
        for start in range(0, len(order), self.batch_size):
            yield self.batch(order[start : start + self.batch_size])

    def batch(self, rows: np.ndarray) -> MapBatch:
        """The batch of some items."""
        bag, other = self.inputs.take(rows, self.run)
        return MapBatch(bag, other, torch.from_numpy(self.targets[rows]), torch.from_numpy(self.weights[rows]))


class Mapping(nn.Module):
    """Columns, and words or pictures, to a vector.

    Without words and pictures: one hidden layer over the columns. With them: the output of the CNN plus a linear map of
    the columns.
    """

    def __init__(self, n_codes: int, out: int, other: nn.Module | None, hidden: int, dropout: float) -> None:
        super().__init__()
        self.other = other
        width = out if other is not None else hidden
        self.table = nn.Embedding(max(1, n_codes), width)
        nn.init.normal_(self.table.weight, std=0.0 if other is not None else hidden**-0.5)
        self.bias = nn.Parameter(torch.zeros(width))
        self.dropout, self.whole = Dropout(dropout), nn.Dropout(dropout)
        self.out = nn.Identity() if other is not None else nn.Linear(hidden, out)

    def forward(self, bag: Bag, other: Tensor) -> Tensor:
        x = bag.sum(self.table, self.dropout) + self.bias
        if self.other is not None:
            return x + self.other(other)
        return self.out(self.whole(nn.functional.gelu(x)))

    def loss(self, batch: MapBatch, draw: torch.Generator) -> tuple[Tensor, int]:
        """Weighted squared error, summed over the items and averaged over the dimensions of a vector."""
        miss = (self(batch.bag, batch.other) - batch.targets).square().mean(dim=1)
        return (miss * batch.weights).sum(), batch.events


def build(kind: str, n_codes: int, n_words: int, out: int, *, hidden: int, dropout: float) -> Mapping:
    """The network of `kind`: "mlp", "text_cnn" or "image_cnn"."""
    other: nn.Module | None = None
    if kind == "text_cnn":
        other = TextCNN(n_words, out, width=hidden, maps=hidden, dropout=dropout)
    elif kind == "image_cnn":
        other = ImageCNN(out, dropout=dropout)
    return Mapping(n_codes, out, other, hidden, dropout)


def learn(
    network: Mapping,
    batches: MapBatches,
    held_out: np.ndarray,
    plan: TrainingPlan,
    run: Run,
    *,
    label: str,
    identity: Identity,
) -> None:
    """Train in place, with early stopping on the items `held_out`."""

    def validate() -> Validated:
        device = next(network.parameters()).device
        total = 0.0
        with torch.inference_mode():
            for start in range(0, len(held_out), PICTURES_PER_BATCH):
                batch = batches.batch(held_out[start : start + PICTURES_PER_BATCH]).to(device)
                total += float(network.loss(batch, torch.Generator())[0])
        loss = total / max(float(batches.weights[held_out].sum()), 1e-12)
        return Validated(-loss, loss)

    validate_or_none = validate if len(held_out) else None
    train(network, batches, plan, run, label=label, validate=validate_or_none, metric="", identity=identity)


def mapped(network: Mapping, inputs: Inputs, out: int, run: Run) -> np.ndarray:
    """float32[n, out]: the output of the network, in eval mode, for all items."""
    vectors = np.zeros((len(inputs), out), dtype=np.float32)
    size = PICTURES_PER_BATCH if inputs.pictures is not None else ITEMS_PER_BATCH
    with torch.inference_mode(), threads(run):
        for start in range(0, len(inputs), size):
            rows = np.arange(start, min(start + size, len(inputs)))
            vectors[rows] = network(*inputs.take(rows, run)).float().numpy()
    return vectors
