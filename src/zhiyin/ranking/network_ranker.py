"""Base of the ranking networks: field vectors, hyperparameters of training, early stopping, scoring.

A ranker builds its network (`_build`), which computes log odds (`forward`). It is trained by the loop of all networks,
`zhiyin.models.neural.training_loop.train`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from typing import ClassVar

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from zhiyin.core.errors import ConfigError
from zhiyin.core.params import param, settings_of
from zhiyin.core.run import Run
from zhiyin.models.network_weights import network_with, weight_arrays
from zhiyin.models.neural.checkpoints import Identity
from zhiyin.models.neural.devices import threads
from zhiyin.models.neural.layers import Dropout
from zhiyin.models.neural.training_loop import Validated, train
from zhiyin.models.sequence.next_item import SPARSE_ROWS
from zhiyin.ranking.example_tensors import Encoding, ExampleBatch, ExampleRows
from zhiyin.ranking.examples import Examples
from zhiyin.ranking.ranker import Ranker, Valid, clipped

# Number of rows scored at once.
ROWS_PER_CHUNK = 8192


@dataclasses.dataclass
class NetworkRanker(Ranker):
    """Base of the ranking networks. See the module docstring.

    Learned state: `weights_` of the network, `encoding_` of the columns.
    """

    factors: int = param(16, "length of the embedding of a category", at_least=1, at_most=1024, tune=(4, 64), log=True)
    max_len: int = param(50, "last events of a history that are read; 0: none", at_least=0)
    epochs: int = param(20, "largest number of passes over the rows", at_least=1)
    patience: int = param(2, "epochs without a better validation log-loss before training stops; 0: never", at_least=0)
    batch_size: int = param(1024, "rows in each step", at_least=1, tune=(256, 8192), log=True)
    learning_rate: float = param(1e-3, "learning rate of Adam", at_least=0, tune=(1e-4, 1e-2), log=True)
    beta2: float = param(0.999, "Adam's decay rate of squared gradients (β₂)", at_least=0.5, at_most=0.9999)
    warmup: int = param(0, "steps until the full learning rate", at_least=0)
    schedule: str = param("constant", "learning rate after warm-up", choices=("constant", "cosine"))
    weight_decay: float = param(0.0, "decoupled L2 decay of all weights", at_least=0, tune=(1e-6, 1e-1), log=True)
    reg: float = param(0.0, "L2 penalty on the embeddings that a row reads", at_least=0, tune=(1e-6, 1e-1), log=True)
    masked: float = param(0.0, "share of categories replaced by the unknown one in training", at_least=0, at_most=0.9)
    min_count: int = param(1, "fewest rows of a category with an embedding of its own", at_least=1)
    scaling: str = param(
        "quantile", "scaling of numbers: by quantile, or by mean and standard deviation",
        choices=("quantile", "standard"),
    )  # fmt: skip
    clip: float = param(10.0, "largest norm of the gradient; 0: no limit", at_least=0)

    weights_: ClassVar[dict[str, np.ndarray]]
    encoding_: ClassVar[dict[str, np.ndarray]]
    shape_: ClassVar[list[int]]

    # -- to be written by a network -------------------------------------------------------------------------------

    def _build(self, shape: Shape) -> Network:
        """The network, from the hyperparameters; also after loading."""
        raise NotImplementedError

    # -- the contract of a ranker -----------------------------------------------------------------------------------

    def _fit(
        self, examples: Examples, labels: np.ndarray, weights: np.ndarray | None, valid: Valid | None, run: Run
    ) -> None:
        encoding = Encoding.learn(examples, self.min_count, run.rng(70))
        self.encoding_ = encoding.arrays()  # type: ignore[misc]
        self.shape_ = Shape.of(examples, encoding, self.max_len > 0).to_list()  # type: ignore[misc]
        batches = ExampleRows(
            examples, encoding, max_len=self.max_len, scaling=self.scaling, batch_size=self.batch_size,
            labels=clipped(labels), weights=weights, masked=self.masked, seed=run.seed,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]), threads(run):
            torch.manual_seed(run.seed)
            network = self._network_of(encoding.unknown)
            network.start_at(clipped(labels), weights)
            valid_rows = None
            if valid is not None and self.patience:
                valid_rows = self._rows_of(valid[0], encoding), clipped(valid[1])
            train(
                network,
                batches,
                self,
                run,
                label=type(self).__name__,
                validate=None if valid_rows is None else lambda: self._validated(network, *valid_rows),
                metric="auc",
                identity=self._identity(examples, labels, run),
            )
        self._network = network
        self.weights_ = weight_arrays(network)  # type: ignore[misc]

    def _network_of(self, unknown: np.ndarray) -> Network:
        network = self._build(Shape(*self.shape_))
        with torch.no_grad():
            network.fields.table.weight[torch.from_numpy(unknown)] = 0  # the vectors of unknown categories are zero
        return network

    def _rows_of(self, examples: Examples, encoding: Encoding) -> ExampleRows:
        return ExampleRows(examples, encoding, max_len=self.max_len, scaling=self.scaling)

    def _validated(self, network: Network, rows: ExampleRows, labels: np.ndarray) -> Validated:
        """The log-loss of validation rows, the mean over the labels, which decides, and the AUC of the first label."""
        logits = _logits(network, rows)
        loss = float(np.mean(log_losses(logits, labels)))
        return Validated(-loss, loss, auc(logits[:, 0], labels[:, 0]))

    def _raw(self, examples: Examples, run: Run) -> np.ndarray:
        encoding = vars(self).get("_encoding")
        if encoding is None:
            encoding = self._encoding = Encoding.of(self.encoding_)
        with threads(run):
            logits = _logits(self._net(), self._rows_of(examples, encoding))
        return logits[:, 0] if self._n_tasks == 1 else logits

    def representation(self, examples: Examples, run: Run | None = None) -> np.ndarray:
        """float32[m, w]: what the last layers of the network read, the log odds of each task, and a constant 1.

        A linear model of them can learn all that the last layers can (neural-linear bandits; Riquelme, Tucker & Snoek,
        ICLR 2018). Raises ConfigError for a network without a last layer, such as FM's.
        """
        self.check(examples)
        network, run = self._net(), run or Run()
        if not network.last_layers:
            raise ConfigError(f"{type(self).__name__} has no last layer", remedy="a network with hidden layers: DCNv2")
        inputs: list[list[Tensor]] = [[] for _ in network.last_layers]
        hooks = [
            layer.register_forward_pre_hook(lambda _, given, part=part: part.append(given[0].float().cpu()))
            for layer, part in zip(network.last_layers, inputs)
        ]
        try:
            with threads(run):
                logits = _logits(network, self._rows_of(examples, Encoding.of(self.encoding_)))
        finally:
            for hook in hooks:
                hook.remove()
        columns = [torch.cat(part).numpy() for part in inputs if part]
        return np.hstack([*columns, logits, np.ones((len(logits), 1), np.float32)])

    def _net(self) -> Network:
        """The network in eval mode: the one just trained, or built from the weights that were loaded."""
        if "_network" not in vars(self):
            self._network = network_with(self.weights_, lambda: self._build(Shape(*self.shape_)))
        return self._network

    def _identity(self, examples: Examples, labels: np.ndarray, run: Run) -> Identity:
        """What distinguishes this training from another one; only a checkpoint asks."""
        if run.checkpoint is None:
            return Identity("")
        settings = json.dumps([type(self).__name__, settings_of(self), run.seed])
        digest = hashlib.blake2b(digest_size=16)
        histories = examples.histories
        for array in (
            examples.offsets,
            examples.items,
            examples.numbers,
            examples.codes,
            histories.offsets,
            histories.items,
            labels,
        ):
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
        return Identity(hashlib.blake2b(settings.encode(), digest_size=16).hexdigest(), digest.hexdigest())


@dataclasses.dataclass
class DeepRanker(NetworkRanker):
    """Base of the ranking networks that have a perceptron."""

    hidden: int = param(128, "units of a hidden layer", at_least=1, at_most=65_536, tune=(32, 512), log=True)
    layers: int = param(2, "hidden layers", at_least=0, at_most=16, tune=(1, 4))
    dropout: float = param(0.0, "dropout rate of hidden units", at_least=0, at_most=0.95, tune=(0.0, 0.5))


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a network is built for: rows of the table, single categories a row (the item first), bags, numbers, and
    whether histories are read."""

    rows: int
    places: int
    bags: int
    numbers: int
    history: int

    @classmethod
    def of(cls, examples: Examples, encoding: Encoding, history: bool) -> Shape:
        return cls(
            encoding.n_rows, 1 + len(examples.cards), len(examples.bags), len(examples.number_names), int(history)
        )

    def to_list(self) -> list[int]:
        return [self.rows, self.places, self.bags, self.numbers, self.history]

    @property
    def fields(self) -> int:
        """Vectors a row has in all."""
        return self.places + self.bags + self.numbers + self.history


class Fields(nn.Module):
    """The vectors of a row's fields, [b, fields, width], from one table for all categories.

    The item, each code, the mean of each bag, the mean of the history, and for a number its value times a vector of its
    own; an unknown number has another vector.
    """

    def __init__(self, shape: Shape, width: int, std: float) -> None:
        super().__init__()
        self.shape = shape
        self.table = nn.Embedding(shape.rows, width, sparse=shape.rows > SPARSE_ROWS)
        nn.init.normal_(self.table.weight, std=std)
        self.numbers = nn.Parameter(torch.randn(shape.numbers, width) * std)
        self.missing = nn.Parameter(torch.zeros(shape.numbers, width))

    def forward(self, batch: ExampleBatch, history: bool = True) -> Tensor:
        """`history`: whether the mean of the history is one of the fields."""
        b, width = len(batch.places), self.table.embedding_dim
        parts = [self.table(batch.places)]
        if self.shape.bags:
            parts.append(self._means(batch.members, batch.ends).view(self.shape.bags, b, width).transpose(0, 1))
        if self.shape.history and history:
            parts.append(self._means(batch.history, batch.starts)[:, None])
        if self.shape.numbers:
            numbers, missing = batch.numbers[:, :, None], batch.missing[:, :, None]
            parts.append(torch.addcmul(missing * self.missing, numbers, self.numbers))
        return torch.cat(parts, dim=1)

    def _means(self, places: Tensor, starts: Tensor) -> Tensor:
        if not len(places):
            return self.table.weight.new_zeros(len(starts), self.table.embedding_dim)
        return nn.functional.embedding_bag(places, self.table.weight, starts, mode="mean", sparse=self.table.sparse)


class Network(nn.Module):
    """A ranking network: `forward(batch) -> [b, tasks]` log odds, and the loss of a batch."""

    fields: Fields
    reg: float = 0.0
    # Linear maps from the last hidden units to log odds; none: the log odds are no linear map of hidden units.
    last_layers: tuple[nn.Module, ...] = ()

    def __init__(self, tasks: int = 1) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(tasks))

    def vectors(self, batch: ExampleBatch, history: bool = True) -> Tensor:
        """The fields of rows, and in training their penalty, which `loss` adds."""
        vectors = self.fields(batch, history)
        if self.reg and self.training:
            self.penalty = self.reg * vectors.square().sum()
        return vectors

    def start_at(self, labels: np.ndarray, weights: np.ndarray | None) -> None:
        """Initialise `offset` with the log odds of the share of positives of each task."""
        mass = (np.ones(len(labels)) if weights is None else weights)[:, None] * ~np.isnan(labels)
        shares = ((mass * np.nan_to_num(labels)).sum(axis=0) + 0.5) / (mass.sum(axis=0) + 1)
        p = torch.from_numpy(shares).float().clamp(1e-6, 1 - 1e-6)
        with torch.no_grad():
            self.offset.copy_(torch.log(p / (1 - p)))

    def loss(self, batch: ExampleBatch, draw: torch.Generator) -> tuple[Tensor, int]:
        """Summed cross-entropy of the labels that are known, over the rows of the batch."""
        self.penalty = torch.zeros(())
        logits = self(batch).float()
        is_known = ~batch.labels.isnan()
        target = torch.where(is_known, batch.labels, 0.0)
        losses = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return (losses * is_known * batch.weights[:, None]).sum() + self.penalty, len(batch.labels)


class Perceptron(nn.Module):
    """`layers` times a linear map, ReLU and dropout; with `out`, a linear map at the end."""

    def __init__(self, width: int, hidden: int, layers: int, dropout: float, out: int = 0) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for _ in range(layers):
            steps += [linear(width, hidden), nn.ReLU(), *([Dropout(dropout)] if dropout else [])]
            width = hidden
        self.width = out or width
        self.steps = nn.Sequential(*steps, *([linear(width, out)] if out else []))

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(x)


def linear(width: int, out: int) -> nn.Linear:
    """He's initialisation (He et al., ICCV 2015), bias 0."""
    layer = nn.Linear(width, out)
    nn.init.normal_(layer.weight, std=math.sqrt(2 / max(1, width)) if out > 1 else 1 / math.sqrt(max(1, width)))
    nn.init.zeros_(layer.bias)
    return layer


def log_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float64[tasks]: mean cross-entropy of the labels that are known. logits, labels: float[m, tasks]."""
    z, is_known = logits.astype(np.float64), ~np.isnan(labels)
    losses = np.where(is_known, np.logaddexp(0, z) - np.nan_to_num(labels) * z, 0.0)
    return losses.sum(axis=0) / np.maximum(is_known.sum(axis=0), 1)


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of the pairs of a positive and a negative row that are in the right order, ties counting half; NaN where
    there is no such pair. Rows without a label are left out."""
    known = ~np.isnan(labels)
    is_positive = labels[known] > 0
    n, n_negative = int(is_positive.sum()), int((~is_positive).sum())
    if not n or not n_negative:
        return math.nan
    ranks = rankdata(scores[known])
    return float((ranks[is_positive].sum() - n * (n + 1) / 2) / (n * n_negative))


def _logits(network: Network, rows: ExampleRows) -> np.ndarray:
    """float32[m, tasks]: what a network in eval mode says of all rows."""
    device = next(network.parameters()).device
    m = len(rows.examples)
    logits = np.empty((m, len(network.offset)), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, m, ROWS_PER_CHUNK):
            chosen = np.arange(start, min(start + ROWS_PER_CHUNK, m))
            logits[chosen] = network(rows.rows(chosen).to(device)).float().cpu().numpy()
    return logits
