"""Processes of a group, played by threads: the exchange between them in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from zhiyin.data.process_group import ProcessGroup

T = TypeVar("T")
TIMEOUT = 60.0


class ThreadGroup(ProcessGroup):
    """One of several threads that exchange arrays."""

    def __init__(self, rank: int, world: int, barrier: threading.Barrier, box: list[Any]) -> None:
        self.rank, self.world, self.barrier, self.box = rank, world, barrier, box

    def gather(self, array: np.ndarray) -> list[np.ndarray]:
        self.box[self.rank] = np.array(array)
        self.barrier.wait(TIMEOUT)
        arrays = [np.array(one) for one in self.box]
        self.barrier.wait(TIMEOUT)
        assert len({one.dtype for one in arrays}) == 1
        return arrays

    def gather_first(self, array: np.ndarray) -> list[np.ndarray]:
        arrays = self.gather(array)
        return arrays if self.rank == 0 else []

    def sum(self, array: np.ndarray) -> np.ndarray:
        arrays = self.gather(array.astype(np.int64) if array.dtype == bool else array)
        assert len({one.shape for one in arrays}) == 1
        return np.sum(arrays, axis=0)


def in_threads(world: int, function: Callable[[ProcessGroup], T]) -> list[T]:
    """What each of the processes returns, by rank. Raises the first error of any."""
    barrier, box = threading.Barrier(world), [None] * world
    results: list[Any] = [None] * world
    errors: list[BaseException] = []

    def call(rank: int) -> None:
        try:
            results[rank] = function(ThreadGroup(rank, world, barrier, box))
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=call, args=(rank,), daemon=True) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * TIMEOUT)
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    return results
