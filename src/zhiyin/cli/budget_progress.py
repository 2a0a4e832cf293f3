"""The progress of a training with a budget: on a terminal one line that moves, in a pipe a line a stage."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zhiyin.cli.output import say
from zhiyin.pipeline.time_budget import minutes

if TYPE_CHECKING:
    from zhiyin.pipeline.time_budget import TimeBudget


class BudgetProgress:
    """Shows the stage, what of it is being done, and the time left, within a `with` block; `on_stage` tells it."""

    def __init__(self) -> None:
        self.budget: TimeBudget | None = None
        self.stage = self.what = ""
        self._live: Any = None
        self.moves = sys.stderr.isatty()

    def on_stage(self, budget: TimeBudget, stage: str, what: str) -> None:
        """The callback of `TimeBudget`."""
        is_new = stage != self.stage
        self.budget, self.stage, self.what = budget, stage, what
        if is_new and not self.moves:
            say(self.line())

    def line(self) -> str:
        """The line, such as "fits in the budget: window 2 of 8, to learn from: als; 2:10 left"."""
        if self.budget is None:
            return ""
        left = self.budget.left
        time = f"{minutes(left)} left" if left >= 0 else f"{minutes(-left)} over"
        what = f": {self.what}" if self.what else ""
        return f"{'fits in' if left >= 0 else 'is over'} the budget: {self.stage}{what}; {time}"

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the line away while something else is printed."""
        self._stop()
        try:
            yield
        finally:
            self._start()

    def __enter__(self) -> BudgetProgress:
        self._start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def __rich__(self) -> Any:
        from rich.text import Text

        return Text(self.line(), no_wrap=True, overflow="ellipsis")

    def _start(self) -> None:
        if not self.moves:
            return
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        self._live = Live(self, console=console, refresh_per_second=4, transient=True, redirect_stdout=False)
        self._live.start()

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
