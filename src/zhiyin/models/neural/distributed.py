"""Several processes training one network: `torchrun --nproc-per-node 2 train.py` and nothing else.

Each process takes its share of the rows of every batch, or the rows that it holds where the data set is in shards;
gradients are summed, so that the step is that of the whole batch. One process is the same code with nothing to sum.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from zhiyin.core.errors import ZhiyinError
from zhiyin.data.process_group import ALONE, ProcessGroup
from zhiyin.models.neural.rowwise_adam import dense_and_sparse


@dataclasses.dataclass(frozen=True)
class Processes:
    """Rank and number of the processes, and the device of their messages."""

    rank: int = 0
    world: int = 1
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    @contextlib.contextmanager
    def joined(cls, device: torch.device) -> Iterator[Processes]:
        """The processes that torchrun started, or this one alone."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not dist.is_available():
            yield cls()
            return
        if device.type == "cuda":
            torch.cuda.set_device(device)
        _join()
        yield cls(dist.get_rank(), dist.get_world_size(), device)

    def total(self, loss: Tensor, targets: int, stops: bool = False) -> tuple[Tensor, int, bool]:
        """The loss of this process, which its gradient flows from, the number of targets of all, and whether any of
        them is asked to stop."""
        n, asked = self._sum(torch.tensor([targets, int(stops)], device=self.device)).tolist()
        return loss, int(n), asked > 0

    def number(self, loss: Tensor) -> float:
        """The summed loss of all processes."""
        return float(self._sum(loss.detach().double().clone()))

    def sum_gradients(self, network: nn.Module) -> None:
        """Sum the gradients of all processes: one message for the dense ones, and the rows touched of sparse tables."""
        if self.world == 1:
            return
        dense, tables = dense_and_sparse(network)
        for table in tables:
            table.grad = self._sum_rows(table)
        if dense:
            # A parameter that this share of the batch did not touch still takes part, with zeros.
            flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in dense])
            for p, part in zip(dense, self._sum(flat).split([p.numel() for p in dense])):
                p.grad = part.view_as(p)

    def first(self, value: float) -> float:
        """The value of the first process, broadcast to all."""
        if self.world == 1:
            return value
        box = torch.tensor(value, dtype=torch.float64, device=self.device)
        with _peers(self.rank):
            dist.broadcast(box, 0)
        return float(box)

    def wait(self) -> None:
        """Barrier: wait for all processes."""
        float(self._sum(torch.zeros((), device=self.device)))

    def _sum(self, values: Tensor) -> Tensor:
        """Summed in place over all processes."""
        if self.world > 1:
            with _peers(self.rank):
                dist.all_reduce(values)
        return values

    def _sum_rows(self, table: Tensor) -> Tensor:
        """The sum of sparse gradients. All send as many rows as the one with most, the rest of them zeros of row 0."""
        if table.grad is None:
            rows, values = torch.zeros(0, dtype=torch.int64, device=table.device), table.new_zeros(0, *table.shape[1:])
        else:
            gradient = table.grad.coalesce()
            rows, values = gradient.indices()[0], gradient.values()
        sizes = torch.zeros(self.world, dtype=torch.int64, device=table.device)
        sizes[self.rank] = len(rows)
        max_rows = int(self._sum(sizes).max())
        sent_rows, sent_values = rows.new_zeros(max_rows), values.new_zeros(max_rows, *values.shape[1:])
        sent_rows[: len(rows)], sent_values[: len(rows)] = rows, values
        all_rows = [torch.empty_like(sent_rows) for _ in range(self.world)]
        all_values = [torch.empty_like(sent_values) for _ in range(self.world)]
        with _peers(self.rank):
            dist.all_gather(all_rows, sent_rows)
            dist.all_gather(all_values, sent_values)
        rows, values = torch.cat(all_rows)[None], torch.cat(all_values)
        return torch.sparse_coo_tensor(rows, values, table.shape, check_invariants=False).coalesce()


class TorchGroup(ProcessGroup):
    """The processes that torchrun started, and arrays exchanged between them in their main memory."""

    def __init__(self) -> None:
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def sum(self, array: np.ndarray) -> np.ndarray:
        kind = np.int64 if array.dtype == bool else array.dtype
        total = torch.from_numpy(np.array(array, dtype=kind))  # a copy, which is summed in place
        with _peers(self.rank):
            dist.all_reduce(total)
        return total.numpy()

    def gather(self, array: np.ndarray) -> list[np.ndarray]:
        sizes, sent = self._padded(array)
        received = [torch.empty_like(sent) for _ in sizes]
        with _peers(self.rank):
            dist.all_gather(received, sent)
        return _unpadded(received, sizes, array.dtype)

    def gather_first(self, array: np.ndarray) -> list[np.ndarray]:
        sizes, sent = self._padded(array)
        received = [torch.empty_like(sent) for _ in sizes] if self.rank == 0 else []
        with _peers(self.rank):
            dist.gather(sent, received if self.rank == 0 else None, dst=0)
        return _unpadded(received, sizes, array.dtype)

    def _padded(self, array: np.ndarray) -> tuple[list[int], Tensor]:
        """The number of bytes of each process, and this one's padded to the most of any."""
        data = np.frombuffer(np.ascontiguousarray(array).tobytes(), dtype=np.uint8)
        sizes = np.zeros(self.world, dtype=np.int64)
        sizes[self.rank] = len(data)
        sizes = self.sum(sizes)
        padded = np.zeros(max(1, int(sizes.max())), dtype=np.uint8)
        padded[: len(data)] = data
        return sizes.tolist(), torch.from_numpy(padded)


def _unpadded(received: list[Tensor], sizes: list[int], dtype: Any) -> list[np.ndarray]:
    return [tensor.numpy()[:size].view(dtype) for tensor, size in zip(received, sizes)]


def process_group() -> ProcessGroup:
    """The group of the processes that torchrun started; of one process, that alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not dist.is_available():
        return ALONE
    _join()
    return TorchGroup()


def _join() -> None:
    """Join the other processes; once, for all trainings of the process: joining again can block forever."""
    if dist.is_initialized():
        return
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    except (RuntimeError, ValueError) as error:
        raise ZhiyinError(
            f"the processes of the training do not find each other ({(str(error).splitlines() or [''])[0][:200]})",
            remedy="start them by torchrun, on every machine with the same --rdzv-endpoint",
        ) from None
    atexit.register(_leave)


@contextlib.contextmanager
def _peers(rank: int) -> Iterator[None]:
    """Raise a ZhiyinError where a message fails, which it does when another process ends."""
    try:
        yield
    except RuntimeError as error:
        lost = ZhiyinError(
            "another process of the training has ended", remedy="its own message, or torchrun's, says why"
        )
        lost.silent = rank > 0
        raise lost from error


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
