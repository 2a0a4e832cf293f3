"""Checkpoints of training: tensors (safetensors) and counters (JSON), from which training resumes exactly."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zhiyin.core.atomic_files import whole_file
from zhiyin.core.durations import microseconds
from zhiyin.core.errors import DataError
from zhiyin.core.run import Run, log


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
    curve: list[dict[str, float]] = dataclasses.field(default_factory=list)  # one entry per epoch


class Checkpoints:
    """Writes checkpoints at intervals of `every` seconds. Of several processes the first one writes, all read."""

    def __init__(self, folder: Path, every: float, identity: str, rank: int) -> None:
        self.folder, self.every, self.identity, self.rank = folder, every, identity, rank
        self.last = time.monotonic()

    @classmethod
    def of(cls, run: Run, identity: str, rank: int) -> Checkpoints | None:
        """The checkpoints that a run asks for, or None."""
        if run.checkpoint is None:
            return None
        return cls(Path(run.checkpoint), microseconds(run.checkpoint_every) / 1e6, identity, rank)

    @property
    def file(self) -> Path:
        return self.folder / "training.safetensors"

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
        counters = json.dumps({"identity": self.identity, "progress": dataclasses.asdict(progress)})
        self.folder.mkdir(parents=True, exist_ok=True)
        whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        with whole_file(self.file) as draft:
            save_file(whole, draft, metadata={"training": counters})

    def restore(
        self, network: nn.Module, optimizers: list[torch.optim.Optimizer], best: dict[str, Tensor]
    ) -> tuple[Progress, dict[str, Tensor]] | None:
        """Restore network and optimizers from the checkpoint; None where there is none of this training."""
        if not self.file.exists():
            return None
        try:
            counters = json.loads(_metadata(self.file)["training"])
            if counters["identity"] != self.identity:
                log.warning("%s holds a checkpoint of other settings, data or seed: beginning anew", self.file)
                return None
            tensors = load_file(self.file)
            progress = Progress(**counters["progress"])
            network.load_state_dict(_under(tensors, "network."))
            for name, tensor in best.items():
                tensor.copy_(tensors[f"best.{name}"])
            for n, optimizer in enumerate(optimizers):
                state = _by_parameter(_under(tensors, f"optimizer.{n}."))
                optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            remedy = "delete it to train from the beginning"
            raise DataError(f"the checkpoint cannot be read ({error})", file=self.file, remedy=remedy) from None
        log.info("going on at epoch %d, step %d", progress.epoch + 1, progress.step)
        return progress, best

    def remove(self) -> None:
        """Delete the checkpoint after training."""
        if self.rank == 0:
            self.file.unlink(missing_ok=True)


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
