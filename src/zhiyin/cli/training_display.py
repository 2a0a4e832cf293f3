"""What `zhiyin train` shows while it trains: a line an epoch in a pipe, a live table of the last ones on a terminal."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zhiyin.cli.output import say
from zhiyin.core.run import Advance, log
from zhiyin.core.training_log import metric_names

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

# Epochs in the table, besides the best one.
TABLE_EPOCHS = 12
# Seconds that work lasts before a bar is shown for it.
BAR_AFTER = 1.0


def training_display() -> EpochLines | EpochTable | None:
    """The display for standard error as it is; None where notes are not wanted (--quiet)."""
    if not log.isEnabledFor(logging.INFO):
        return None
    is_terminal = sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    return EpochTable() if is_terminal else EpochLines()


class _Seconds:
    """Seconds of each epoch, from reports of the seconds of training so far."""

    def __init__(self) -> None:
        self._before: dict[str, float] = {}

    def of(self, news: dict[str, Any]) -> float | None:
        total, name = news.get("seconds"), str(news.get("model"))
        if total is None:
            return None
        before = self._before.get(name, 0.0) if news.get("epoch") != 1 else 0.0
        self._before[name] = total
        return float(total - before)


class EpochLines:
    """A line an epoch; no bars."""

    def __init__(self) -> None:
        self._seconds = _Seconds()

    @contextmanager
    def model(self) -> Iterator[None]:
        """The time of one model's training."""
        yield

    @contextmanager
    def bar(self, label: str, total: int | None) -> Iterator[Advance]:
        yield lambda steps, note="": None

    def show(self, news: dict[str, Any]) -> None:
        """Print one epoch."""
        if "epoch" in news:
            say(epoch_line(news, self._seconds.of(news)))

    def notice(self, text: str) -> None:
        os.write(2, f"{text}\n".encode())  # in a signal handler: a print might be under way


def epoch_line(news: dict[str, Any], seconds: float | None) -> str:
    """An epoch in a line. seconds: how long it took."""
    cells = _cells(news, seconds)
    epoch = cells.pop("epoch")
    words = [f"{name} {text}" if name not in ("s", "events/s") else f"{text} {name}" for name, text in cells.items()]
    return "  ".join([f"{news.get('model', 'model')}: epoch {epoch}", *words])


def _cells(news: dict[str, Any], seconds: float | None) -> dict[str, str]:
    """The figures of an epoch as texts, under their names; those it lacks are left out."""
    of = news.get("of")
    cells = {"epoch": f"{news['epoch']}/{of}" if of else str(news["epoch"])}
    for name in ("loss", "valid_loss", *metric_names([news]), "learning_rate"):
        if news.get(name) is not None:
            digits = ".3g" if name == "learning_rate" else ".4f" if abs(news[name]) < 1000 else ".4g"
            cells[name.replace("_", " ")] = format(news[name], digits)
    if seconds is not None:
        cells["s"] = f"{seconds:.1f}" if seconds >= 1 else f"{seconds:.2f}"
    if news.get("events_per_second"):
        cells["events/s"] = f"{news['events_per_second']:,.0f}"
    return cells


class EpochTable:
    """A table of the last epochs that is drawn anew with each, a bar below it; the table stays at the end."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._seconds = _Seconds()
        self._rows: list[tuple[dict[str, Any], dict[str, str]]] = []
        self._live: Any = None
        self._bar: Any = None
        self._text = ""

    @contextmanager
    def model(self) -> Iterator[None]:
        """The time of one model's training."""
        try:
            yield
        finally:
            self._close()

    @contextmanager
    def bar(self, label: str, total: int | None) -> Iterator[Advance]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                       TextColumn("{task.fields[note]}"), console=self._console)  # fmt: skip
        task, begun, outer = bar.add_task(label, total=total, note=""), time.monotonic(), self._bar

        def advance(steps: int, note: str = "") -> None:
            bar.update(task, advance=steps, note=note)
            if self._bar is not bar and time.monotonic() - begun > BAR_AFTER:
                self._bar = bar
                self._open()

        try:
            yield advance
        finally:
            self._bar = outer

    def show(self, news: dict[str, Any]) -> None:
        """Add one epoch to the table; another model begins a new one."""
        if "epoch" not in news:
            return
        if self._rows and self._rows[-1][0].get("model") != news.get("model"):
            bar, self._bar = self._bar, None
            self._close()
            self._bar = bar
        self._rows.append((dict(news), _cells(news, self._seconds.of(news))))
        self._open()
        self._live.refresh()

    def notice(self, text: str) -> None:
        self._text = text  # the next drawing, a quarter of a second from now, shows it

    def __rich__(self) -> Group:
        from rich.console import Group

        return Group(*([self._table()] if self._rows else []), *([self._bar] if self._bar is not None else []),
                     *([self._text] if self._text else []))  # fmt: skip

    def _table(self) -> Table:
        from rich import box
        from rich.table import Table

        last = self._rows[-1][0]
        title = f"{last.get('model', 'model')}: epoch {last['epoch']}" + (f" of {last['of']}" if last.get("of") else "")
        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        names = list(dict.fromkeys(name for _, cells in self._rows for name in cells))
        for name in names:
            table.add_column(name, justify="right")
        best = last.get("best_epoch")
        shown = self._rows[-TABLE_EPOCHS:]
        if best is not None and shown[0][0]["epoch"] > best:
            shown = [row for row in self._rows if row[0]["epoch"] == best] + shown
        for news, cells in shown:
            is_best = best is not None and news["epoch"] == best
            texts = [cells.get(name, "") for name in names]
            texts[0] = f"best {texts[0]}" if is_best else texts[0]
            table.add_row(*texts, style="bold green" if is_best else "")
        return table

    def _open(self) -> None:
        if self._live is None:
            from rich.live import Live

            self._live = Live(self, console=self._console, refresh_per_second=4)
            self._live.start()

    def _close(self) -> None:
        """Draw the table for the last time; nothing stays where there were no epochs."""
        self._bar, self._text = None, ""
        if self._live is not None:
            self._live.transient = not self._rows
            self._live.stop()
        self._live, self._rows = None, []
