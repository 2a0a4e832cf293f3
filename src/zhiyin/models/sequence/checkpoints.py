"""Checkpoints: a folder with tensors (safetensors) and counters (JSON) from which training goes on exactly."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zhiyin.core.durations import microseconds
from zhiyin.core.errors import DataError
from zhiyin.core.run import Run, log

if TYPE_CHECKING:
    from zhiyin.models.sequence.training import Progress


class Checkpoints:
    """Writes a checkpoint every so often; only the first of several processes writes, all read."""

    def __init__(self, folder: Path, every: float, identity: str, rank: int) -> None:
        self.folder, self.every, self.identity, self.rank = folder, every, identity, rank
        self.last = time.monotonic()

    @classmethod
    def of(cls, run: Run, identity: str, rank: int) -> Checkpoints | None:
        """What the run asks for; None where it asks for nothing."""
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
        """Write the whole state, or nothing: one file, beside the old one and then in its place."""
        self.last = time.monotonic()
        if self.rank:
            return
        tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
        for n, optimizer in enumerate(optimizers):
            for row, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{n}.{row}.{name}": tensor for name, tensor in state.items()}
        counters = json.dumps({"identity": self.identity, "progress": _finite(dataclasses.asdict(progress))})
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.file.with_suffix(f".{os.getpid()}.draft")
        whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(whole, draft, metadata={"training": counters})
        draft.rename(self.file)

    def restore(
        self, network: nn.Module, optimizers: list[torch.optim.Optimizer], best: dict[str, Tensor]
    ) -> tuple[Progress, dict[str, Tensor]] | None:
        """Take network and optimizers back to the checkpoint; None where there is none of this training."""
        from zhiyin.models.sequence.training import Progress

        if not self.file.exists():
            return None
        try:
            counters = json.loads(_metadata(self.file)["training"])
            tensors = load_file(self.file)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            remedy = "delete it to train from the beginning"
            raise DataError(f"the checkpoint cannot be read ({error})", file=self.file, remedy=remedy) from None
        if counters["identity"] != self.identity:
            log.warning("%s holds a checkpoint of other settings, data or seed: training from the beginning", self.file)
            return None
        network.load_state_dict(_under(tensors, "network."))
        for name, tensor in _under(tensors, "best.").items():
            best[name].copy_(tensor)
        for n, optimizer in enumerate(optimizers):
            states: dict[int, dict[str, Tensor]] = {}
            for key, tensor in _under(tensors, f"optimizer.{n}.").items():
                row, _, name = key.partition(".")
                states.setdefault(int(row), {})[name] = tensor
            optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
        stood = counters["progress"]
        stood["best"] = -math.inf if stood["best"] is None else stood["best"]
        progress = Progress(**stood)
        log.info("going on at epoch %d, step %d", progress.epoch + 1, progress.step)
        return progress, best

    def remove(self) -> None:
        """Training is over: the checkpoint has served."""
        if self.rank == 0:
            self.file.unlink(missing_ok=True)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _metadata(file: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return opened.metadata() or {}


def _finite(progress: dict[str, Any]) -> dict[str, Any]:
    return progress | {"best": progress["best"] if math.isfinite(progress["best"]) else None}
