"""Printing: Rich tables on a terminal, tab-separated lines in a pipe, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import typer

_ID_COLUMNS = {"user", "item", "similar", "id"}  # columns whose numbers are names, not amounts
COLOURS = {"error": "bold red", "warning": "yellow", "info": "cyan"}


def say(text: str = "") -> None:
    """Print a line for people on standard error, apart from the output for programs."""
    typer.echo(text, err=True)


def print_json(value: Any) -> None:
    """Print a value as JSON; NaN becomes null, and dates become texts."""
    typer.echo(json.dumps(json_safe(value), ensure_ascii=False, indent=1, default=str))


def json_safe(value: Any) -> Any:
    """The value with null in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {str(key): json_safe(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(part) for part in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value.item() if hasattr(value, "item") else value


def print_table(headers: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """Print rows under headers."""
    if not sys.stdout.isatty():
        for row in [list(headers), *rows]:
            typer.echo("\t".join(_plain(value).replace("\t", " ").replace("\n", " ") for value in row))
        return
    ids = [header in _ID_COLUMNS for header in headers]
    texts = [[_plain(value) if is_id else _cell(value) for value, is_id in zip(row, ids)] for row in rows]
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    grid = Table(title=escape(title) or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        grid.add_column(header, overflow="fold")  # a long name goes on in the next line; none is cut
    for row in texts:
        grid.add_row(*(escape(cell) for cell in row), style=COLOURS.get(row[0], ""))
    print_rich(grid)


def print_rich(renderable: Any) -> None:
    """Print a renderable of Rich; in a pipe without colours and wide enough that nothing wraps."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(renderable)


def duration(seconds: float) -> str:
    """A duration for people."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _plain(value: Any) -> str:
    """A cell for a program: whole numbers in full, so that ids stay as they are."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(value: Any) -> str:
    """A cell for people."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) and value > 9999 else str(value)
