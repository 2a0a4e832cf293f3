"""The training loop of all networks, of models and of rankers.

A network is a `torch.nn.Module` with one more method, `loss(batch, draw)`, which returns the sum of the loss over the
targets of the batch, and their number. Batches come prepared as tensors. The loop needs nothing else of them.

All randomness of a step descends from (seed, step): nothing but counters is needed to go on exactly where training
was interrupted, and several processes draw the same negatives.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from zhiyin.core.errors import ConfigError, ZhiyinError
from zhiyin.core.run import Run, log
from zhiyin.models.neural.checkpoints import Checkpoints, Progress
from zhiyin.models.neural.distributed import Processes
from zhiyin.models.neural.rowwise_adam import RowwiseAdam, dense_and_sparse


class Batch(Protocol):
    """Tensors of one step; `events` counts the targets in it."""

    @property
    def events(self) -> int: ...
    def share(self, rank: int, world: int) -> Batch: ...  # the rows of one of several processes
    def to(self, device: torch.device) -> Batch: ...


class Batches(Protocol):
    """The batches of an epoch. `epoch(n)` is deterministic: the same batches in the same order at each call."""

    n_batches: int

    def epoch(self, number: int) -> Iterator[Batch]: ...


class Plan(Protocol):
    """The hyperparameters of training: models declare them once, as fields of `NeuralRecommender`."""

    epochs: int
    patience: int
    learning_rate: float
    weight_decay: float
    beta2: float
    warmup: int
    schedule: str
    clip: float


def train(
    network: nn.Module,
    batches: Batches,
    plan: Plan,
    run: Run,
    *,
    label: str,
    validate: Callable[[], float] | None = None,
    identity: str = "",
    sharded: bool = False,
) -> Progress:
    """Train `network` in place; it ends with its best weights, on the CPU, in eval mode.

    Parameters
    ----------
    network: has `loss(batch, draw) -> (sum of the loss, number of targets)`.
    validate: gives the validation metric, higher is better, with the network in eval mode; without it all epochs run
        and the last weights stay.
    identity: what distinguishes this training (settings, data); a checkpoint of another one is not continued.
    sharded: whether each of several processes holds rows of its own: `batches` then yields those of the batch alone,
        maybe none, and all processes call `validate`. Else each takes its share, and the first one validates.

    Raises ZhiyinError when the loss is no longer a number.
    """
    device = device_of(run)
    with contextlib.ExitStack() as stack:
        stack.enter_context(threads(run))
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        processes = stack.enter_context(Processes.joined(device))
        network.to(device)
        loss_of: Callable[..., tuple[Tensor, int]] = network.loss  # type: ignore[assignment]
        if hasattr(network, "encoder") and _compiles(run, device):
            stack.enter_context(_compiled(network.encoder))  # type: ignore[arg-type]
        optimizers = make_optimizers(network, plan)
        progress, best = Progress(), {} if validate is None else copy_of(network)
        checkpoints = Checkpoints.of(run, identity, processes.rank)
        if checkpoints is not None:
            progress, best = checkpoints.restore(network, optimizers, best) or (progress, best)
            processes.wait()  # all have read before the first may write or remove
            if progress.step != processes.first(progress.step):
                raise ZhiyinError("not every process sees the checkpoint", remedy="a folder that all machines share")
        total = plan.epochs * batches.n_batches
        draw = torch.Generator()  # on the CPU whatever the device: the same negatives everywhere
        # Batches are bucketed by length: over its own number of targets, a batch of short sequences would weigh each of
        # its targets more than a batch of long ones. Every target weighs the same.
        mean_targets = getattr(batches, "mean_targets", None)
        started, seen = time.perf_counter(), 0
        quiet = dataclasses.replace(run, progress=False)
        advance = stack.enter_context((run if processes.rank == 0 else quiet).bar(label, total))
        advance(progress.step)
        while progress.epoch < plan.epochs and not _patience_is_out(progress, plan, validate is not None):
            network.train()
            for index, whole in enumerate(batches.epoch(progress.epoch)):
                if index < progress.index:
                    continue  # done before the interruption
                own = whole if sharded else whole.share(processes.rank, processes.world)
                n_events, batch = own.events, own.to(device)  # counted on the CPU: a GPU would be waited for
                torch.manual_seed(_mixed(run.seed, progress.step, processes.rank))
                draw.manual_seed(_mixed(run.seed, progress.step, -1))
                loss, targets = torch.zeros((), device=device), 0
                if n_events:  # a process may have no row of a batch
                    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
                        loss, targets = loss_of(batch, draw)
                loss, count = processes.total(loss, targets)
                if count:
                    progress.loss, progress.targets = progress.loss + processes.number(loss), progress.targets + count
                    _stop_unless(math.isfinite(progress.loss), label, progress, plan)
                    if n_events:
                        (loss / (mean_targets or count)).backward()
                    processes.sum_gradients(network)
                    if plan.clip:
                        clip_gradients(network, plan.clip)
                    rate = plan.learning_rate * pace(progress.step, total, plan)
                    for optimizer in optimizers:
                        for group in optimizer.param_groups:
                            group["lr"] = rate
                        optimizer.step()
                        optimizer.zero_grad(set_to_none=True)
                progress.index, progress.step, seen = (
                    index + 1,
                    progress.step + 1,
                    seen + (count if sharded else whole.events),
                )
                advance(1, _note(progress, seen / max(time.perf_counter() - started, 1e-9)))
                if checkpoints is not None and checkpoints.due():
                    checkpoints.write(network, optimizers, progress, best)
            _end_epoch(
                network, progress, plan, run, validate, processes, best, label, time.perf_counter() - started, seen,
                sharded,
            )  # fmt: skip
            if checkpoints is not None and checkpoints.due():
                checkpoints.write(network, optimizers, progress, best)
        if validate is not None:
            network.load_state_dict(best)
        if checkpoints is not None:
            checkpoints.remove()
    network.to("cpu").eval()
    return progress


def _end_epoch(
    network: nn.Module,
    progress: Progress,
    plan: Plan,
    run: Run,
    validate: Callable[[], float] | None,
    processes: Processes,
    best: dict[str, Tensor],
    label: str,
    seconds: float,
    seen: int,
    sharded: bool,
) -> None:
    """End an epoch: validate, keep the weights if they are the best so far, and report to the callbacks."""
    network.eval()
    # Checked here too: weights that become NaN in a step show in the loss of the next one only.
    _stop_unless(all(bool(p.isfinite().all()) for p in network.parameters()), label, progress, plan)
    mean = progress.loss / max(progress.targets, 1)
    news: dict[str, float] = {"loss": mean}
    if validate is not None:
        metric = processes.first(validate() if sharded or processes.rank == 0 else 0.0)
        news["metric"] = metric
        if metric > progress.best:
            progress.best, progress.best_epoch = metric, progress.epoch + 1
            for name, tensor in network.state_dict().items():
                best[name].copy_(tensor)
    progress.curve.append(news)
    progress.epoch, progress.index, progress.loss, progress.targets = progress.epoch + 1, 0, 0.0, 0.0
    log.debug("%s: epoch %d %s", label, progress.epoch, news)
    if processes.rank == 0:
        pace = seen / max(seconds, 1e-9)
        run.report(model=label, epoch=progress.epoch, of=plan.epochs, seconds=seconds, events_per_second=pace, **news)


def make_optimizers(network: nn.Module, plan: Plan) -> list[torch.optim.Optimizer]:
    """AdamW, whose decay spares vectors such as biases and norms; tables with sparse gradients get row-wise Adam."""
    dense, tables = dense_and_sparse(network)
    groups = [
        {"params": [p for p in dense if p.ndim > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in dense if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if dense:
        nonempty = [g for g in groups if g["params"]]
        optimizers.append(torch.optim.AdamW(nonempty, lr=plan.learning_rate, betas=(0.9, plan.beta2), fused=True))
    if tables:
        optimizers.append(RowwiseAdam(tables, plan.learning_rate, (0.9, plan.beta2), weight_decay=plan.weight_decay))
    return optimizers


def pace(step: int, total: int, plan: Plan) -> float:
    """Share of the learning rate at a step: linear warm-up over `warmup` steps, then constant or cosine to zero.

    Loshchilov & Hutter, SGDR, ICLR 2017, eq. 5 without restarts.
    """
    if step < plan.warmup:
        return (step + 1) / plan.warmup
    if plan.schedule == "constant":
        return 1.0
    done = (step - plan.warmup) / max(1, total - plan.warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def clip_gradients(network: nn.Module, max_norm: float) -> None:
    """Scale all gradients down together where their norm exceeds `max_norm` (Pascanu et al., ICML 2013)."""
    gradients = []
    for p in network.parameters():
        if p.grad is not None:
            p.grad = p.grad.coalesce() if p.grad.is_sparse else p.grad  # stored, as the optimizer uses it too
            gradients.append(p.grad.values() if p.grad.is_sparse else p.grad)
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    if scale < 1:
        for gradient in gradients:
            gradient.mul_(scale)


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


def _compiles(run: Run, device: torch.device) -> bool:
    """Whether encoders are compiled. Raises ConfigError where the tools for it are missing."""
    if not run.compiled or device.type != "cuda":
        return False
    compilers = (os.environ.get("CC"), "cc", "gcc", "clang")
    if not importlib.util.find_spec("triton") or not any(shutil.which(name) for name in compilers if name):
        raise ConfigError("to compile networks takes Triton and a C compiler", remedy="install gcc, or compiled=False")
    return True


@contextlib.contextmanager
def _compiled(encoder: nn.Module) -> Iterator[None]:
    """An encoder compiled for training; for validation and afterwards it runs as it is written."""
    encoder.compile(dynamic=True)
    compiled: Callable[..., Tensor] = encoder._compiled_call_impl  # type: ignore[assignment]
    written = encoder._call_impl
    # Validation has few batches: compiling for it would take longer than it saves.
    encoder._compiled_call_impl = lambda *given: (compiled if encoder.training else written)(*given)
    try:
        yield
    finally:
        encoder._compiled_call_impl = None
        # Torch caches compiled code by class of network, and stops compiling after eight entries.
        torch.compiler.reset()


def copy_of(network: nn.Module) -> dict[str, Tensor]:
    """The weights of a network, copied."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _stop_unless(sound: bool, label: str, progress: Progress, plan: Plan) -> None:
    """Raise ZhiyinError where loss or weights are no longer numbers."""
    if not sound:
        clip = f"a smaller clip than {plan.clip:g}" if plan.clip else "a clip such as 5"
        raise ZhiyinError(
            f"{label}: the loss is no longer a number (epoch {progress.epoch + 1}, step {progress.step})",
            remedy=f"a lower learning_rate than {plan.learning_rate:g}, or {clip}",
        )


def _patience_is_out(progress: Progress, plan: Plan, validated: bool) -> bool:
    return validated and plan.patience > 0 and progress.epoch - progress.best_epoch >= plan.patience


def _mixed(seed: int, step: int, stream: int) -> int:
    """One 63-bit seed out of three numbers."""
    value = (seed * 0x9E3779B97F4A7C15 + (step + 1) * 0xBF58476D1CE4E5B9 + (stream + 2) * 0x94D049BB133111EB) % 2**64
    return (value ^ (value >> 29)) % 2**63


def _note(progress: Progress, pace: float) -> str:
    note = f"loss {progress.loss / max(progress.targets, 1):.3f}"
    if progress.best > -math.inf:
        note += f", best {progress.best:.4f} (epoch {progress.best_epoch})"
    return f"{note}, {pace:,.0f} events/s"


__all__: list[str] = ["Batch", "Batches", "Plan", "Progress", "device_of", "threads", "train"]
