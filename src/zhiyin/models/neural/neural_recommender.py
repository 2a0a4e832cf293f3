"""Base of the neural recommenders: hyperparameters of training, validation, state and serving.

A model is loss × network × data: it builds its network (`_build`) and the batches of an epoch (`_batches`); the network
computes the loss of a batch (`loss`), the item vectors (`item_vectors`) and the vector of a history (`forward`). The
loop is `training_loop.train`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.core.params import param, settings_of
from zhiyin.core.ranking_metrics import hits_of, ndcg
from zhiyin.core.run import Run, log
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.data.splits import Split, split
from zhiyin.models.network_weights import network_with, weight_arrays
from zhiyin.models.neural.batches import request_sequences
from zhiyin.models.neural.checkpoint_rows import DataOutline
from zhiyin.models.neural.checkpoints import Identity, Progress, held_out_before
from zhiyin.models.neural.devices import threads
from zhiyin.models.neural.training_loop import Batch, Batches, Validated, train
from zhiyin.models.recommender import VectorRecommender
from zhiyin.models.training_context import TrainingContext

# Number of users in the validation of an epoch: resolves differences of 1 % at little cost.
VALIDATION_USERS = 10_000
# Number of them whose loss is computed: the same in each epoch, so that the curve is smooth.
LOSS_USERS = 1_024


@dataclasses.dataclass
class NeuralRecommender(VectorRecommender):
    """Base of the neural recommenders. See the module docstring."""

    factors: int = param(64, "length of the vectors", at_least=1, at_most=4096, tune=(32, 256), log=True)
    epochs: int = param(100, "largest number of passes over the data", at_least=1)
    patience: int = param(10, "epochs without a better validation NDCG@10 before training stops; 0: never", at_least=0)
    validation: str = param(
        "last",
        "validation events of early stopping: each user's last, a random tenth of each user's, "
        "the last tenth of the time, or none",
        choices=("last", "ratio", "time", "users", "none"),
    )
    batch_size: int = param(128, "histories in each step", at_least=1, tune=(64, 512), log=True)
    learning_rate: float = param(1e-3, "learning rate of Adam", at_least=0, tune=(1e-4, 1e-2), log=True)
    beta2: float = param(
        0.999, "Adam's decay rate of squared gradients (β₂); lower suits rare items", at_least=0.5, at_most=0.9999
    )
    warmup: int = param(0, "steps until the full learning rate", at_least=0)
    schedule: str = param("constant", "learning rate after warm-up", choices=("constant", "cosine"))
    weight_decay: float = param(0.0, "decoupled L2 decay", at_least=0, tune=(1e-6, 1e-1), log=True)
    dropout: float = param(0.1, "dropout rate", at_least=0, at_most=0.95, tune=(0.0, 0.6))
    clip: float = param(5.0, "largest norm of the gradient; 0: no limit", at_least=0)

    weights_: ClassVar[dict[str, np.ndarray]]

    _takes_valid = True
    # Whether the network has a row for each user.
    _learns_users: ClassVar[bool] = False
    # Why a checkpoint goes on with the same data only, not with newer ones; empty: with newer ones too.
    _same_data_only: ClassVar[str] = ""

    # -- to be written by a model ---------------------------------------------------------------------------------

    def _build(self, n_items: int) -> nn.Module:
        """The network, from the hyperparameters and the state that `_prepare` set; also after loading."""
        raise NotImplementedError

    def _batches(self, data: Dataset, run: Run) -> Batches:
        """The batches of an epoch."""
        raise NotImplementedError

    def _prepare(self, data: Dataset, run: Run) -> None:
        """Set further state that the network is built from, such as the number of features."""

    def _held_out(self, queries: Histories, relevant: Histories, data: Dataset) -> Iterable[Batch]:
        """Batches of which `loss` of the network (`held_out_loss` where it has one) is the validation loss; none: it
        has no such loss.

        Parameters
        ----------
        queries, relevant: histories of n users and their held-out events, at least one positive one in each.
        data: the training part.
        """
        return ()

    # -- the contract of a recommender ----------------------------------------------------------------------------

    def _fit(self, data: Dataset, run: Run) -> None:
        training, validation, held = self._validation(data, run)
        self._prepare(training, run)
        with torch.random.fork_rng(devices=[]), threads(run):
            torch.manual_seed(run.seed)
            network = self._build(data.n_items)
            self._network = network
            try:
                progress = train(
                    network,
                    self._batches(training, run),
                    self,
                    run,
                    label=type(self).__name__,
                    validate=None if validation is None else lambda: self._validated(*validation, data, run),
                    metric="ndcg@10",
                    identity=self._identity(data, held, run),
                    sharded=data.group.world > 1,
                )
            except BaseException:
                # An interrupted model counts as not fitted.
                for name in ("context_", "_network"):
                    vars(self).pop(name, None)
                raise
        self._learned(network, progress)

    def _learned(self, network: nn.Module, progress: Progress) -> None:
        """Store the trained weights as arrays."""
        self.weights_ = weight_arrays(network)  # type: ignore[misc]
        self.item_vectors_ = self._item_vectors()  # type: ignore[misc]

    def encode(self, histories: Histories, run: Run | None = None) -> np.ndarray:
        """Vectors of histories, float32[n, d]; zeros where a history has no positive event."""
        network, run = self._net(), run or Run()
        device = next(network.parameters()).device
        vectors = np.zeros((len(histories), self._width()), dtype=np.float32)
        with torch.inference_mode(), threads(run):
            for batch in request_sequences(histories, self._reach()):
                vectors[batch.rows.numpy()] = network(batch.to(device)).float().cpu().numpy()
        return vectors

    def _reach(self) -> int:
        """How many of the last events of a history the network reads."""
        return int(getattr(self, "max_len", 1 << 30))

    def _width(self) -> int:
        return int(self.item_vectors_.shape[1])

    def _item_vectors(self) -> np.ndarray:
        with torch.inference_mode():
            return np.ascontiguousarray(self._network.item_vectors().float().cpu().numpy())  # type: ignore[operator]

    def _net(self) -> nn.Module:
        """The network in eval mode: the one just trained, or built from the weights that were loaded."""
        if "_network" not in vars(self):
            self._network = network_with(self.weights_, lambda: self._build(len(self._context().item_ids)))
        return self._network

    # -- validation -----------------------------------------------------------------------------------------------

    def _validation(
        self, data: Dataset, run: Run
    ) -> tuple[Dataset, tuple[Histories, Histories] | None, Dataset | None]:
        """The training part, the query histories and relevant events of the validation part, and that part; None for
        both where there is none."""
        parts = self._given_validation(data)
        if parts is None and self.validation == "none":
            return data, None, None
        if parts is None:
            try:
                parts = self._split(data, run)
            except DataError as error:
                log.info("%s: no validation, all epochs run: %s", type(self).__name__, error.message)
                return data, None, None
        relevant = parts.test.subset(parts.test.events["weight"].to_numpy() > 0)
        own = (relevant.histories.lengths > 0) & (parts.fold_in.histories.positives > 0)
        rows = np.flatnonzero(data.group.sum(own))  # of all processes
        if not len(rows):
            log.info("%s: too few events to validate by: all epochs run", type(self).__name__)
            return data, None, None
        if len(rows) > VALIDATION_USERS:
            rows = np.sort(run.rng(22).choice(rows, VALIDATION_USERS, replace=False))
        rows = rows[own[rows]]
        self.context_ = TrainingContext.of(parts.train, run)  # type: ignore[misc]
        return parts.train, (parts.fold_in.histories.take(rows), relevant.histories.take(rows)), parts.test

    def _split(self, data: Dataset, run: Run) -> Split:
        """The part that is held back, and the rest. Raises DataError where one of them is empty."""
        by = {"users": "cold-users"}.get(self.validation, self.validation)
        test = {"last": None, "time": None}.get(self.validation, 0.1)
        before = held_out_before(run, self._settings_digest(run), data) if by == "ratio" else None
        if before is None or not before.any():
            return split(data, by, test=test, run=run)
        return Split(data.subset(~before), data.subset(before), by, "the events that an earlier training held back")

    def _given_validation(self, data: Dataset) -> Split | None:
        """The validation part that `fit` was given, beside the training part; None where it was given none."""
        valid = self._valid
        if valid is None:
            return None
        parts = valid if isinstance(valid, Split) else Split(data, valid, "given", "train and valid as given")
        if not (parts.test.items["id"].equals(data.items["id"]) and parts.test.users["id"].equals(data.users["id"])):
            raise ConfigError(
                "the validation part does not share its codes of users and items with the training part",
                remedy="take both from one split: zy.split(data, valid=0.1, test=0.2)",
            )
        return dataclasses.replace(parts, train=data)

    def _validated(self, queries: Histories, relevant: Histories, data: Dataset, run: Run) -> Validated:
        """NDCG@10 and the loss of the validation part."""
        return Validated(
            self._validation_metric(queries, relevant, data, run), self._validation_loss(queries, relevant, data, run)
        )

    def _validation_loss(self, queries: Histories, relevant: Histories, data: Dataset, run: Run) -> float:
        """The loss of the held-out events of LOSS_USERS users, a target, with the same negatives in each epoch; NaN
        where the model has no such loss."""
        n = len(queries)
        rows = np.arange(n) if n <= LOSS_USERS else np.linspace(0, n - 1, LOSS_USERS).astype(np.int64)
        network: Any = self._network
        device = next(network.parameters()).device
        loss_of = getattr(network, "held_out_loss", network.loss)
        sums, draw = np.zeros(2), torch.Generator().manual_seed(run.seed % 2**63)
        with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            for batch in self._held_out(queries.take(rows), relevant.take(rows), data):
                loss, count = loss_of(batch.to(device), draw)
                sums += float(loss), count
        total, targets = data.group.sum(sums).tolist()
        return total / targets if targets else math.nan

    def _validation_metric(self, queries: Histories, relevant: Histories, data: Dataset, run: Run) -> float:
        """NDCG@10 on the validation part, through the same path that serves; the mean over the users of all processes
        where several hold the data."""
        self.item_vectors_ = self._item_vectors()  # type: ignore[misc]
        quiet = dataclasses.replace(run, progress=False)
        lists, _ = self.rank(queries, 10, exclude=queries if self._excludes_seen else None, run=quiet)
        distinct, offsets, items = _distinct(relevant)
        values = ndcg(hits_of(lists, offsets, items, run), distinct, lists.shape[1])
        if data.group.world == 1:
            return float(values.mean())
        total, n = data.group.sum(np.array([values.sum(), len(values)])).tolist()
        return float(total / n)

    _excludes_seen: ClassVar[bool] = True

    def _identity(self, data: Dataset, held: Dataset | None, run: Run) -> Identity:
        """What identifies this training; only a checkpoint asks. held: the events held back for validation."""
        if run.checkpoint is None:
            return Identity("")
        outline: DataOutline | str = self._same_data_only
        if not outline and data.group.world > 1:
            outline = "shards go on with the same data only"
        if not outline and self._valid is None and self.validation == "users":
            outline = "the users of its validation part are drawn anew"
        if not outline:
            outline = DataOutline.of(data, self._learns_users, held if self.validation == "ratio" else None)
        return Identity(self._settings_digest(run), data.fingerprint, outline)

    def _settings_digest(self, run: Run) -> str:
        settings = json.dumps([type(self).__name__, settings_of(self), run.seed, self._valid is not None])
        return hashlib.blake2b(settings.encode(), digest_size=16).hexdigest()


def _distinct(histories: Histories) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct items of each row, ascending: their number, offsets and codes."""
    matrix = histories.matrix(int(histories.items.max(initial=0)) + 1, "binary")
    matrix.sort_indices()
    return np.diff(matrix.indptr), matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32)
