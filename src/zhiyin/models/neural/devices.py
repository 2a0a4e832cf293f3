"""The device and threads that networks are trained on, and encoders compiled for it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from zhiyin.core.errors import ConfigError
from zhiyin.core.run import Run


def device_of(run: Run) -> torch.device:
    """The torch device of a run. Raises ConfigError where it is not available."""
    if run.device == "auto":
        return torch.device("cuda", *_local()) if torch.cuda.is_available() else torch.device("cpu")
    if run.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("this machine has no CUDA device", remedy='device = "cpu" or "auto"')
    if run.device.partition(":")[0] not in ("cpu", "cuda"):
        raise ConfigError(f"there is no device {run.device!r}", remedy='"auto", "cpu" or "cuda"')
    return torch.device(run.device, *(_local() if run.device == "cuda" else ()))


def _local() -> tuple[int]:
    """The GPU index of this process. Raises ConfigError where there are more processes than GPUs."""
    rank, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if rank >= gpus:
        raise ConfigError(
            f"process {rank} has no GPU of its own: this machine has {gpus}",
            remedy=f'--nproc-per-node {gpus}, or device = "cpu"',
        )
    return (rank,)


@contextlib.contextmanager
def threads(run: Run) -> Iterator[None]:
    """Context manager: the number of torch threads that the run allows; restored afterwards."""
    before = torch.get_num_threads()
    if before == run.n_threads:
        yield
        return
    torch.set_num_threads(run.n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compiles(run: Run, device: torch.device) -> bool:
    """Whether encoders are compiled. Raises ConfigError where the tools for it are missing."""
    if not run.compiled or device.type != "cuda":
        return False
    compilers = (os.environ.get("CC"), "cc", "gcc", "clang")
    if not importlib.util.find_spec("triton") or not any(shutil.which(name) for name in compilers if name):
        raise ConfigError("to compile networks takes Triton and a C compiler", remedy="install gcc, or compiled=False")
    return True


@contextlib.contextmanager
def compiled(encoder: nn.Module) -> Iterator[None]:
    """An encoder compiled for training; for validation and afterwards it runs as it is written."""
    encoder.compile(dynamic=True)
    fast: Callable[..., Tensor] = encoder._compiled_call_impl  # type: ignore[assignment]
    written = encoder._call_impl
    # Validation has few batches: compiling for it would take longer than it saves.
    encoder._compiled_call_impl = lambda *given: (fast if encoder.training else written)(*given)
    try:
        yield
    finally:
        encoder._compiled_call_impl = None
        # Torch caches compiled code by class of network, and stops compiling after eight entries.
        torch.compiler.reset()
