"""Run options, which are no hyperparameters: seed, threads, device, progress and callbacks. Same seed, same result."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import numpy as np

from zhiyin.core.params import whole_number
from zhiyin.core.training_log import TrainingLog

log = logging.getLogger("zhiyin")


class Advance(Protocol):
    """Advances a progress bar by some steps; `note` is shown behind it."""

    def __call__(self, steps: int, note: str = "") -> None: ...


class Display(Protocol):
    """Shows a training as it goes, in place of progress bars: see `cli/training_display.py`."""

    def bar(self, label: str, total: int | None) -> AbstractContextManager[Advance]: ...
    def show(self, news: dict[str, Any]) -> None: ...  # of one epoch, as callbacks are told
    def notice(self, text: str) -> None: ...  # called by signal handlers: it may not wait for anything


@dataclasses.dataclass(frozen=True)
class Run:
    """Options of one run, such as a training or an evaluation.

    Parameters
    ----------
    seed: every random draw descends from it; from 0 to 2**63 - 1.
    threads: worker threads; None takes all cores this process may use.
    device: "auto", "cpu" or "cuda"; only neural models look at it.
    compiled: compile the networks of sequences on a GPU; more than a minute passes before the first step.
    progress: show progress bars; None shows them on a terminal only.
    callbacks: each is called with a dict such as {"model": "ALS", "epoch": 3, "of": 15, "seconds": 1.2}.
    checkpoint: a folder where long training keeps its state; the same training begun again goes on from there.
    checkpoint_every: time between two checkpoints.
    display: what shows epochs and progress in place of bars; None: bars. Nothing is shown where `progress` is False.
    learner: given an unfitted model, what learns in place of its `_fit`, such as jobs on a cluster: a function of data
        and run that sets the same attributes; None where the model learns in this process.
    approximate: whether single requests may be answered by a search index where a large model has one, which misses
        about one of the best hundred items; None: only where requests are served, so that evaluation is exact.
    """

    seed: int = 0
    threads: int | None = None
    device: str = "auto"
    compiled: bool = False
    progress: bool | None = None
    callbacks: tuple[Callable[[dict[str, Any]], None], ...] = ()
    checkpoint: str | os.PathLike[str] | None = None
    checkpoint_every: str = "10m"
    approximate: bool | None = None
    display: Display | None = None
    learner: Callable[[Any], Callable[[Any, Run], None] | None] | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError for an invalid seed or number of threads; 0 threads are all cores."""
        object.__setattr__(self, "seed", whole_number(self.seed, "seed", at_least=0, at_most=2**63 - 1))
        if self.threads is not None:
            object.__setattr__(self, "threads", whole_number(self.threads, "threads", at_least=0, at_most=4_096))

    @property
    def n_threads(self) -> int:
        """Worker threads, at least one."""
        return max(1, self.threads or available_cores())

    def rng(self, *stream: int) -> np.random.Generator:
        """A generator of its own for each stream of draws, so that one more draw here changes nothing there."""
        return np.random.default_rng([self.seed, *stream])

    def report(self, **values: Any) -> None:
        """Show these values and call every callback with them."""
        if self.display is not None and self.progress is not False:
            self.display.show(values)
        for callback in self.callbacks:
            callback(values)

    def recorded(self) -> tuple[Run, TrainingLog]:
        """This run with a log of what it reports, and that log."""
        kept = TrainingLog()
        return dataclasses.replace(self, callbacks=(kept, *self.callbacks)), kept

    def record(self, *rows: dict[str, Any]) -> None:
        """Add reports to the logs alone: those of an earlier process, which were shown then."""
        for kept in self._logs:
            for row in rows:
                kept(row)

    def record_end(self, **values: Any) -> None:
        """Add to the last report in the logs what is known only after it, such as why training stopped."""
        for kept in self._logs:
            kept.end(**values)

    @property
    def _logs(self) -> list[TrainingLog]:
        return [callback for callback in self.callbacks if isinstance(callback, TrainingLog)]

    def notice(self, text: str) -> None:
        """Tell a person something from a signal handler."""
        if self.display is not None and self.progress is not False:
            self.display.notice(text)
        elif log.isEnabledFor(logging.INFO):
            os.write(2, f"{text}\n".encode())

    @contextmanager
    def bar(self, label: str, total: int | None) -> Iterator[Advance]:
        """A progress bar that appears only when the work outlives a second. Yields `advance(steps, note)`."""
        if self.display is not None and self.progress is not False:
            with self.display.bar(label, total) as advance:
                yield advance
            return
        show = self.progress if self.progress is not None else sys.stderr.isatty()
        if not show:
            yield lambda steps, note="": None
            return
        visible = _Bar(label, total)
        try:
            yield visible.advance
        finally:
            visible.close()


class _Bar:
    """A Rich progress bar on standard error, created a second after the work began."""

    def __init__(self, label: str, total: int | None) -> None:
        self.label, self.total, self.done, self.begun = label, total, 0, time.monotonic()
        self.progress: Any = None

    def advance(self, steps: int, note: str = "") -> None:
        self.done += steps
        if self.progress is None and time.monotonic() - self.begun > 1.0:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                       TextColumn("{task.fields[note]}"))  # fmt: skip
            self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self.progress.start()
            self.task = self.progress.add_task(self.label, total=self.total, note="")
        if self.progress is not None:
            self.progress.update(self.task, completed=self.done, note=note)

    def close(self) -> None:
        if self.progress is not None:
            self.progress.stop()


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
