"""The training loop of all networks, of models and of rankers.

A network is a `torch.nn.Module` with one more method, `loss(batch, draw)`, which returns the sum of the loss over the
targets of the batch, and their number. Batches come prepared as tensors. The loop needs nothing else of them.

All randomness of a step descends from (seed, step): nothing but counters is needed to go on exactly where training
was interrupted, and several processes draw the same negatives.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from zhiyin.core.errors import ZhiyinError
from zhiyin.core.interrupts import Interrupted, StopRequest, deferred_interrupts
from zhiyin.core.run import Run, log
from zhiyin.models.neural import devices
from zhiyin.models.neural.checkpoints import Checkpoints, Identity, Progress
from zhiyin.models.neural.distributed import Processes
from zhiyin.models.neural.optimization import clip_gradients, make_optimizers, pace


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


@dataclasses.dataclass(frozen=True)
class Validated:
    """The result of a validation.

    Parameters
    ----------
    metric: decides which weights are the best; higher is better.
    loss: of the held-out part, as `loss` of the network counts it, a target; NaN where it is not known.
    shown: what is reported as the metric; None: `metric` itself.
    """

    metric: float
    loss: float = math.nan
    shown: float | None = None


def train(
    network: nn.Module,
    batches: Batches,
    plan: Plan,
    run: Run,
    *,
    label: str,
    validate: Callable[[], float | Validated] | None = None,
    metric: str = "metric",
    identity: Identity | None = None,
    sharded: bool = False,
) -> Progress:
    """Train `network` in place; it ends with its best weights, on the CPU, in eval mode.

    Where the run keeps checkpoints, the first Ctrl-C or SIGTERM ends the training after the step that it is at, with a
    checkpoint, and raises Interrupted; the second one ends it at once.

    Parameters
    ----------
    network: has `loss(batch, draw) -> (sum of the loss, number of targets)`.
    validate: judges the held-out part, with the network in eval mode; without it all epochs run and the last weights
        stay.
    metric: name that the metric is reported by; empty: it is not.
    identity: what distinguishes this training (settings, data); a checkpoint of another one is not continued.
    sharded: whether each of several processes holds rows of its own: `batches` then yields those of the batch alone,
        maybe none, and all processes call `validate`. Else each takes its share, and the first one validates.

    Raises ZhiyinError when the loss is no longer a number.
    """
    device = devices.device_of(run)
    with contextlib.ExitStack() as stack:
        request = StopRequest()
        if run.checkpoint is not None:
            notice = "ending after this step, with a checkpoint; once more ends at once"
            request = stack.enter_context(deferred_interrupts(lambda: run.notice(f"{label}: {notice}")))
        stack.enter_context(devices.threads(run))
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        processes = stack.enter_context(Processes.joined(device))
        network.to(device)
        loss_of: Callable[..., tuple[Tensor, int]] = network.loss  # type: ignore[assignment]
        if hasattr(network, "encoder") and devices.compiles(run, device):
            stack.enter_context(devices.compiled(network.encoder))  # type: ignore[arg-type]
        optimizers = make_optimizers(network, plan)
        validation = None if validate is None else _Validation(network, validate, metric, processes, sharded)
        progress, best = Progress(), {} if validation is None else copy_of(network)
        checkpoints = Checkpoints.of(run, identity or Identity(""), processes.rank)
        if checkpoints is not None:
            restored = checkpoints.restore(network, optimizers, best, label, batches.n_batches)
            processes.wait()  # all have read before the first may write or remove
            if restored is not None:
                progress, is_newer = restored
                if is_newer and validation is not None and progress.best_epoch:
                    progress.best = validation.of_weights(best).metric  # on the held-out part of the newer data
                run.record(*progress.log)
            if progress.step != processes.first(progress.step):
                raise ZhiyinError("not every process sees the checkpoint", remedy="a folder that all machines share")
        total = plan.epochs * batches.n_batches
        draw = torch.Generator()  # on the CPU whatever the device: the same negatives everywhere
        # Batches are bucketed by length: over its own number of targets, a batch of short sequences would weigh each of
        # its targets more than a batch of long ones. Every target weighs the same.
        mean_targets = getattr(batches, "mean_targets", None)
        clock = _Clock(progress)
        quiet = dataclasses.replace(run, progress=False)
        advance = stack.enter_context((run if processes.rank == 0 else quiet).bar(label, total))
        advance(progress.step)

        def stop_here() -> None:
            assert checkpoints is not None
            progress.seconds = clock.seconds
            checkpoints.write(network, optimizers, progress, best)
            at = f"epoch {min(progress.epoch + 1, plan.epochs)} of {plan.epochs}, step {progress.step:,}"
            raise Interrupted(
                f"{label}: ended in {at}; what it has learned is kept in {checkpoints.folder}", request.number or 2
            )

        while progress.epoch < plan.epochs and not _patience_is_out(progress, plan, validate is not None):
            network.train()
            clock.begin_epoch()
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
                loss, count, stops = processes.total(loss, targets, request.number is not None)
                if count:
                    progress.loss, progress.targets = progress.loss + processes.number(loss), progress.targets + count
                    _stop_unless(math.isfinite(progress.loss), label, progress, plan)
                    if n_events:
                        (loss / (mean_targets or count)).backward()
                    processes.sum_gradients(network)
                    if plan.clip:
                        clip_gradients(network, plan.clip)
                    progress.rate = plan.learning_rate * pace(progress.step, total, plan)
                    for optimizer in optimizers:
                        for group in optimizer.param_groups:
                            group["lr"] = progress.rate
                        optimizer.step()
                        optimizer.zero_grad(set_to_none=True)
                progress.index, progress.step = index + 1, progress.step + 1
                clock.seen += count if sharded else whole.events
                advance(1, _note(progress, clock.pace))
                if stops or (processes.world == 1 and request.number is not None):
                    stop_here()
                if checkpoints is not None and checkpoints.due():
                    progress.seconds = clock.seconds
                    checkpoints.write(network, optimizers, progress, best)
            _end_epoch(network, progress, plan, run, validation, processes, best, label, clock)
            if processes.world == 1 and request.number is not None:
                stop_here()
            if checkpoints is not None and checkpoints.due():
                checkpoints.write(network, optimizers, progress, best)
        if validate is not None:
            network.load_state_dict(best)
        if checkpoints is not None:
            checkpoints.remove()
    network.to("cpu").eval()
    return progress


@dataclasses.dataclass
class _Clock:
    """Seconds of the training, those before an interruption counted, and the pace of the present epoch."""

    progress: Progress
    seen: int = 0  # targets or events of this epoch

    def __post_init__(self) -> None:
        self._before, self._begun = self.progress.seconds, time.perf_counter()
        self.begin_epoch()

    def begin_epoch(self) -> None:
        self.seen, self._epoch = 0, time.perf_counter()

    @property
    def seconds(self) -> float:
        return self._before + time.perf_counter() - self._begun

    @property
    def pace(self) -> float:
        """Events a second in this epoch."""
        return self.seen / max(time.perf_counter() - self._epoch, 1e-9)


@dataclasses.dataclass(frozen=True)
class _Validation:
    """The validation of a network, the same figures in all processes."""

    network: nn.Module
    validate: Callable[[], float | Validated]
    name: str
    processes: Processes
    sharded: bool

    def __call__(self) -> Validated:
        self.network.eval()
        found: float | Validated = 0.0
        if self.sharded or self.processes.rank == 0:
            found = self.validate()
        result = found if isinstance(found, Validated) else Validated(found)
        shown = result.metric if result.shown is None else result.shown
        return Validated(*(self.processes.first(value) for value in (result.metric, result.loss, shown)))

    def of_weights(self, weights: dict[str, Tensor]) -> Validated:
        """The validation of other weights than those of the network, which it keeps."""
        own = copy_of(self.network)
        self.network.load_state_dict(weights)
        try:
            return self()
        finally:
            self.network.load_state_dict(own)


def _end_epoch(
    network: nn.Module,
    progress: Progress,
    plan: Plan,
    run: Run,
    validation: _Validation | None,
    processes: Processes,
    best: dict[str, Tensor],
    label: str,
    clock: _Clock,
) -> None:
    """End an epoch: validate, keep the weights if they are the best so far, and report."""
    network.eval()
    events_per_second = clock.pace
    # Checked here too: weights that become NaN in a step show in the loss of the next one only.
    _stop_unless(all(bool(p.isfinite().all()) for p in network.parameters()), label, progress, plan)
    news: dict[str, Any] = {"model": label, "epoch": progress.epoch + 1, "of": plan.epochs}
    news["loss"] = progress.loss / max(progress.targets, 1)
    if validation is not None:
        result = validation()
        if math.isfinite(result.loss):
            news["valid_loss"] = result.loss
        if validation.name:
            news[validation.name] = result.shown
        if result.metric > progress.best:
            progress.best, progress.best_epoch = result.metric, progress.epoch + 1
            for name, tensor in network.state_dict().items():
                best[name].copy_(tensor)
        news["best_epoch"] = progress.best_epoch
    progress.epoch, progress.index, progress.loss, progress.targets = progress.epoch + 1, 0, 0.0, 0.0
    progress.seconds = clock.seconds
    news |= {"learning_rate": progress.rate, "seconds": progress.seconds, "events_per_second": events_per_second}
    if progress.epoch < plan.epochs and _patience_is_out(progress, plan, validation is not None):
        news["stopped"] = f"no better for {plan.patience} epochs"
    progress.log.append(news)
    log.debug("%s: epoch %d %s", label, progress.epoch, news)
    if processes.rank == 0:
        run.report(**news)
    else:
        run.record(news)


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


__all__: list[str] = ["Batch", "Batches", "Plan", "Progress", "Validated", "train"]
