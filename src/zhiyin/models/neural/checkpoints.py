"""Checkpoints of training: tensors (safetensors) and counters (JSON), from which training resumes exactly.

With data that are only newer, such as those of a store that has heard something since, it goes on too: tables of items
and users are carried over by id (`checkpoint_rows`), and the epoch that was interrupted begins again.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zhiyin.core.atomic_files import whole_file
from zhiyin.core.durations import microseconds
from zhiyin.core.errors import DataError
from zhiyin.core.run import Run, log
from zhiyin.data.dataset import Dataset
from zhiyin.models.neural.checkpoint_rows import DataOutline, NotContinuedError, carried_over, held_again

# The file in the folder of checkpoints.
FILE = "training.safetensors"


@dataclasses.dataclass
class Progress:
    """The counters of training: what a checkpoint holds besides tensors."""

    epoch: int = 0  # finished epochs
    index: int = 0  # finished batches of the current epoch
    step: int = 0  # finished steps in total
    loss: float = 0.0  # summed over the current epoch
    targets: float = 0.0
    best: float = -math.inf
    best_epoch: int = 0
    rate: float = 0.0  # learning rate of the last step
    seconds: float = 0.0  # of training, all processes one after the other
    log: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # what each epoch reported


@dataclasses.dataclass(frozen=True)
class Identity:
    """What distinguishes a training from others.

    Parameters
    ----------
    settings: digest of the model, its settings and the seed.
    data: digest of the data.
    outline: what tells whether other data are these and newer ones; a text says why it goes on with the same data only.
    """

    settings: str
    data: str = ""
    outline: DataOutline | str = "it goes on with the same data only"


class Checkpoints:
    """Writes checkpoints at intervals of `every` seconds. Of several processes the first one writes, all read."""

    def __init__(self, folder: Path, every: float, identity: Identity, rank: int) -> None:
        self.folder, self.every, self.identity, self.rank = folder, every, identity, rank
        self.last = time.monotonic()

    @classmethod
    def of(cls, run: Run, identity: Identity, rank: int) -> Checkpoints | None:
        """The checkpoints that a run asks for, or None."""
        if run.checkpoint is None:
            return None
        return cls(Path(run.checkpoint), microseconds(run.checkpoint_every) / 1e6, identity, rank)

    @property
    def file(self) -> Path:
        return self.folder / FILE

    def due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() - self.last >= self.every

    def write(
        self, network: nn.Module, optimizers: list[torch.optim.Optimizer], progress: Progress, best: dict[str, Tensor]
    ) -> None:
        """Write the whole state atomically, to one file that replaces the old one."""
        self.last = time.monotonic()
        if self.rank:
            return
        tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
        for n, optimizer in enumerate(optimizers):
            for number, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{n}.{number}.{name}": tensor for name, tensor in state.items()}
        known: dict[str, Any] = {"settings": self.identity.settings, "data": self.identity.data}
        if isinstance(self.identity.outline, DataOutline):
            known["outline"] = self.identity.outline.facts
            tensors |= {name: torch.from_numpy(array) for name, array in self.identity.outline.arrays.items()}
        counters = json.dumps({"identity": known, "progress": dataclasses.asdict(progress)})
        self.folder.mkdir(parents=True, exist_ok=True)
        whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        with whole_file(self.file) as draft:
            save_file(whole, draft, metadata={"training": counters})

    def restore(
        self,
        network: nn.Module,
        optimizers: list[torch.optim.Optimizer],
        best: dict[str, Tensor],
        label: str,
        n_batches: int,
    ) -> tuple[Progress, bool] | None:
        """Restore network, optimizers and `best` from the checkpoint. None where there is none of this training.

        Parameters
        ----------
        n_batches: of an epoch of the present data.

        Returns the progress, and whether the present data are newer than those of the checkpoint.
        """
        if not self.file.exists():
            return None
        try:
            counters = json.loads(_metadata(self.file)["training"])
            known = counters["identity"]
            if not isinstance(known, dict) or known["settings"] != self.identity.settings:
                log.warning("%s holds a checkpoint of other settings or seed: beginning anew", self.file)
                return None
            tensors = load_file(self.file)
            progress = Progress(**counters["progress"])
            said = ""
            is_newer = known["data"] != self.identity.data
            if is_newer:
                try:
                    tensors, said = self._of_newer_data(known, tensors, network, optimizers)
                except NotContinuedError as why:
                    log.warning("%s holds a checkpoint of other data (%s): beginning anew", self.file, why)
                    return None
                # Batches are others now: the epoch begins again, and the schedule goes on where it is by epochs.
                progress.index, progress.step, progress.loss, progress.targets = 0, progress.epoch * n_batches, 0.0, 0.0
            network.load_state_dict(_under(tensors, "network."))
            for name, tensor in best.items():
                tensor.copy_(tensors[f"best.{name}"])
            for n, optimizer in enumerate(optimizers):
                state = _by_parameter(_under(tensors, f"optimizer.{n}."))
                optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            remedy = "delete it to train from the beginning"
            raise DataError(f"the checkpoint cannot be read ({error})", file=self.file, remedy=remedy) from None
        log.info("%s: continues from epoch %d, step %d%s", label, progress.epoch + 1, progress.step, said)
        return progress, is_newer

    def _of_newer_data(
        self,
        known: dict[str, Any],
        tensors: dict[str, Tensor],
        network: nn.Module,
        optimizers: list[torch.optim.Optimizer],
    ) -> tuple[dict[str, Tensor], str]:
        """The tensors for the present data, and what to say of it. Raises NotContinuedError with the reason."""
        outline = self.identity.outline
        if isinstance(outline, str):
            raise NotContinuedError(outline)
        if "outline" not in known:
            raise NotContinuedError("it does not say which")
        arrays = {name: tensor.numpy() for name, tensor in tensors.items() if name.startswith("data.")}
        moves = outline.moves(known["outline"], arrays)
        fresh = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
        fresh |= {f"best.{name}": tensor for name, tensor in network.state_dict().items()}
        for n, optimizer in enumerate(optimizers):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            for key, tensor in _under(tensors, f"optimizer.{n}.").items():
                number = int(key.partition(".")[0])
                if number >= len(parameters):
                    raise NotContinuedError("its tables have grown into another kind")
                length = len(parameters[number]) if tensor.ndim else 0
                shape = (length, *tensor.shape[1:]) if tensor.ndim else ()
                fresh[f"optimizer.{n}.{key}"] = torch.zeros(shape, dtype=tensor.dtype)
        newer = outline.facts["events"] - known["outline"]["events"]
        said = f"; {newer:,} events newer are learned from now on"
        if moves:
            said += ", " + " and ".join(f"{move.new - move.old:,} new {move.what}" for move in moves) + " among them"
        return carried_over({n: t for n, t in tensors.items() if not n.startswith("data.")}, fresh, moves), said

    def remove(self) -> None:
        """Delete the checkpoint after training."""
        if self.rank == 0:
            self.file.unlink(missing_ok=True)


def held_out_before(run: Run, settings: str, data: Dataset) -> np.ndarray | None:
    """bool[n_events]: the events that the checkpoint of a training on older data held back for validation.

    None where there is no such checkpoint: what is held back is drawn then. settings: of `Identity`.
    """
    if run.checkpoint is None or data.group.world > 1:
        return None
    file = Path(run.checkpoint) / FILE
    try:
        known = json.loads(_metadata(file)["training"])["identity"]
        if known["settings"] != settings or known["data"] == data.fingerprint:
            return None
        arrays = {name: array for name, array in load_arrays(file).items() if name.startswith("data.")}
        return held_again(data, arrays)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, NotContinuedError):
        return None  # it is not gone on from, or `restore` says what is wrong with it


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _by_parameter(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """The state of an optimizer, by number of the parameter, as it was before it was written as "3.exp_avg"."""
    states: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        states.setdefault(int(number), {})[name] = tensor
    return states


def _metadata(file: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return opened.metadata() or {}
