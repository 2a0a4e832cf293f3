"""Several processes training one network: `torchrun --nproc-per-node 2 train.py` and nothing else.

Each process takes its share of the rows of every batch; gradients are summed, so that the step is that of the whole
batch. One process is the same code with nothing to sum.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Processes:
    """Which of how many processes this one is."""

    rank: int = 0
    world: int = 1

    @classmethod
    @contextlib.contextmanager
    def joined(cls, device: torch.device) -> Iterator[Processes]:
        """The processes that torchrun started, or this one alone."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not dist.is_available():
            yield cls()
            return
        ours = not dist.is_initialized()
        if ours:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        try:
            yield cls(dist.get_rank(), dist.get_world_size())
        finally:
            if ours:
                dist.destroy_process_group()

    def total(self, loss: Tensor, targets: int) -> tuple[Tensor, int]:
        """The loss of this process, which its gradient flows from, and the number of targets of all."""
        if self.world == 1:
            return loss, targets
        count = torch.tensor([targets], dtype=torch.int64, device=loss.device)
        dist.all_reduce(count)
        return loss, int(count)

    def number(self, loss: Tensor) -> float:
        """The summed loss of all processes."""
        value = loss.detach().double().reshape(1).clone()
        if self.world > 1:
            dist.all_reduce(value)
        return float(value)

    def sum_gradients(self, network: nn.Module) -> None:
        """Sum the gradients of all processes, in one message."""
        if self.world == 1:
            return
        # A parameter that this share of the batch did not touch still takes part, with zeros.
        parameters = [p for p in network.parameters() if p.requires_grad]
        dense = [
            torch.zeros_like(p) if p.grad is None else p.grad.to_dense() if p.grad.is_sparse else p.grad
            for p in parameters
        ]
        flat = torch.cat([gradient.reshape(-1) for gradient in dense])
        dist.all_reduce(flat)
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters])):
            summed = part.view_as(parameter)
            sparse = parameter.grad is not None and parameter.grad.is_sparse
            parameter.grad = summed.to_sparse(1) if sparse else summed

    def first(self, value: float) -> float:
        """The value the first process has."""
        if self.world == 1:
            return value
        box = torch.tensor([value], dtype=torch.float64)
        if dist.get_backend() == "nccl":
            box = box.cuda()
        dist.broadcast(box, 0)
        return float(box)
