"""Line charts as SVG texts, without a plotting library: for pictures that commands write beside their tables."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from zhiyin.core.atomic_files import whole_file
from zhiyin.core.errors import ConfigError

# Of people with any colour vision (Okabe and Ito), on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
WIDTH, HEIGHT = 760, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 150, 44, 48
_INK, _GRID = "#333333", "#e3e3e3"


@dataclasses.dataclass(frozen=True, eq=False)
class Line:
    """A line of a chart.

    Parameters
    ----------
    name: written at its end.
    x, y: float64[n], x ascending.
    low, high: float64[n], a band around it; None: there is none.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def line_chart_svg(
    lines: Sequence[Line],
    title: str,
    x_label: str,
    y_label: str,
    marks: Sequence[tuple[float, str]] = (),
    *,
    from_zero: bool = True,
) -> str:
    """A chart of lines.

    Parameters
    ----------
    marks: (x, text) of vertical lines.
    from_zero: whether the axis of y begins at 0 where all values are positive.
    """
    if not lines:
        raise ConfigError("a chart of no lines", remedy="at least one")
    every_x = np.concatenate([line.x for line in lines])
    every_y = np.concatenate([part for line in lines for part in (line.y, line.low, line.high) if part is not None])
    every_y = every_y[np.isfinite(every_y)]
    x_low, x_high = float(every_x.min()), float(every_x.max())
    y_low, y_high = float(every_y.min(initial=0.0 if from_zero else np.inf)), float(every_y.max(initial=-np.inf))
    y_ticks = [value for value in _ticks(y_low, y_high) if y_low <= value <= y_high]
    y_high += 0.03 * (y_high - y_low)

    def at_x(value: float) -> float:
        return _LEFT + (value - x_low) / ((x_high - x_low) or 1.0) * (WIDTH - _LEFT - _RIGHT)

    def at_y(value: float) -> float:
        return HEIGHT - _BOTTOM - (value - y_low) / ((y_high - y_low) or 1.0) * (HEIGHT - _TOP - _BOTTOM)

    def path(x: np.ndarray, y: np.ndarray) -> str:
        return " ".join(f"{at_x(a):.1f},{at_y(b):.1f}" for a, b in zip(x.tolist(), y.tolist()) if math.isfinite(b))

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{_INK}" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(_LEFT, 24, title, size=15, weight="600"),
    ]
    for value in y_ticks:
        y = at_y(value)
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{WIDTH - _RIGHT}" y2="{y:.1f}" stroke="{_GRID}"/>')
        parts.append(_text(_LEFT - 8, y + 4, _number(value), anchor="end"))
    x_ticks = [value for value in _ticks(x_low, x_high) if x_low <= value <= x_high]
    parts += [_text(at_x(value), HEIGHT - _BOTTOM + 18, _number(value), anchor="middle") for value in x_ticks]
    for value, text in marks:
        x = at_x(value)
        parts.append(
            f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{HEIGHT - _BOTTOM}" stroke="#999999" '
            'stroke-dasharray="4 3"/>'
        )
        parts.append(_text(x + 5, _TOP + 12, text, colour="#666666"))
    for line, colour in zip(lines, _colours(len(lines))):
        if line.low is not None and line.high is not None:
            back = f"{path(line.x, line.low)} {path(line.x[::-1], line.high[::-1])}"
            parts.append(f'<polygon points="{back}" fill="{colour}" opacity="0.16"/>')
        parts.append(f'<polyline points="{path(line.x, line.y)}" fill="none" stroke="{colour}" stroke-width="2.2"/>')
    ends = _apart([at_y(float(line.y[-1])) for line in lines], 15.0)
    for line, colour, y in zip(lines, _colours(len(lines)), ends):
        parts.append(_text(WIDTH - _RIGHT + 8, y + 4, line.name, colour=colour, weight="600"))
    parts.append(_text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 10, x_label, anchor="middle"))
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text x="16" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 16 {middle:.1f})">'
        f"{escape(y_label)}</text>"
    )
    return "\n".join([*parts, "</svg>", ""])


def write_line_chart(path: Path, svg: str) -> None:
    """Write a chart. Raises ConfigError for a name that does not end in .svg."""
    if path.suffix.lower() != ".svg":
        raise ConfigError(f"a picture {path.name!r} cannot be written", file=path, remedy="a name that ends in .svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as draft:
        Path(draft).write_text(svg, encoding="utf-8")


def _colours(n: int) -> list[str]:
    return [COLOURS[at % len(COLOURS)] for at in range(n)]


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, weight: str = "400", colour: str = _INK
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
        f'fill="{colour}">{escape(text)}</text>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers that include the range."""
    span = (high - low) or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 5)
    return [step * at for at in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:g}"


def _apart(positions: list[float], least: float) -> list[float]:
    """Positions moved down so that labels do not cover each other; their order stays."""
    result, last = list(positions), -math.inf
    for at in sorted(range(len(positions)), key=lambda row: positions[row]):
        result[at] = last = max(positions[at], last + least)
    return result
