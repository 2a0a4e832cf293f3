"""The figures of the report, as plain dicts for Plotly's script; `report.js` adds the theme's colours."""

from __future__ import annotations

import math
from html import escape
from typing import Any

from zhiyin.evaluation.comparison_table import Comparison, ModelScores, interval, label, number, seconds

# Told apart on light and on dark, and by the common colour blindnesses where a few models are compared.
COLOURS = (
    "#4c6ef5",
    "#f08c00",
    "#12a178",
    "#e64980",
    "#7c5cdb",
    "#1c9bd1",
    "#b5892b",
    "#d9480f",
    "#6b8e23",
    "#8591a5",
)


def scatter(evaluation: Comparison, models: list[ModelScores], colours: dict[str, str], against: str) -> dict[str, Any]:
    """The main metric, with its interval, against coverage or fit time: a labelled point a model."""
    main, by_time = evaluation.main, against == "fit time"
    coverage = f"coverage@{main.partition('@')[2]}"
    points = [
        (model, max(model.fit_seconds, 1e-3) if by_time else model.metrics.get(coverage, math.nan))
        for model in models
        if not math.isnan(model.metrics.get(main, math.nan))
    ]
    points = [(model, x) for model, x in points if not math.isnan(x)]
    if not points:
        return {"id": against.replace(" ", "-"), "data": [], "layout": {}}
    across = [math.log10(x) if by_time else x for _, x in points]
    low, high = (min(across), max(across)) if by_time else (0.0, max(across))
    room = 0.16 * (high - low) or 0.5
    window = (low - room, high + room) if by_time else (-0.06 * (high or 1), high + room)
    top = max(model.intervals.get(main, (0, model.metrics[main]))[1] for model, _ in points) * 1.14 or 1.0
    spots = [(x, model.metrics[main]) for x, (model, _) in zip(across, points)]
    places = _label_places(spots, [model.name for model, _ in points], window, (-0.04 * top, top))
    data = []
    for (model, x), place in zip(points, places):
        value = model.metrics[main]
        bounds = model.intervals.get(main, (value, value))
        error: dict[str, Any] = {
            "type": "data",
            "array": [bounds[1] - value],
            "arrayminus": [value - bounds[0]],
        }
        error |= {"thickness": 1.5, "width": 0, "color": colours[model.name]}
        x_text = seconds(model.fit_seconds) if by_time else number("coverage", x)
        hover = f"<b>{escape(model.name)}</b><br>{label(main)} {number(main, value)}"
        hover += f"{escape(interval(main, model, ' · '))}<br>{against} {x_text}"
        data.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "x": [x],
                "y": [value],
                "text": [escape(model.name)],
                "textposition": place,
                "cliponaxis": False,
                "error_y": error,
                "marker": {"size": 13, "color": colours[model.name]},
                "hovertemplate": hover + "<extra></extra>",
            }
        )
    ticks = {"type": "log", "dtick": 1, "ticksuffix": " s"} if by_time else {"tickformat": ".0%"}
    layout = {
        "margin": {"l": 56, "r": 12, "t": 8, "b": 48},
        "xaxis": {"title": {"text": against}, "range": list(window), "zeroline": False, **ticks},
        "yaxis": {"title": {"text": escape(label(main))}, "range": [-0.04 * top, top]},
    }
    return {"id": against.replace(" ", "-"), "data": data, "layout": layout}


def _label_places(
    spots: list[tuple[float, float]], names: list[str], across: tuple[float, float], up: tuple[float, float]
) -> list[str]:
    """Where each label goes so that none covers another: the first free place, on 400 × 300 pixels."""
    width, height = 400, 300
    at = [
        (
            width * (x - across[0]) / (across[1] - across[0]),
            height * (y - up[0]) / (up[1] - up[0]),
        )
        for x, y in spots
    ]
    occupied = [(x - 7, y - 7, x + 7, y + 7) for x, y in at]
    places = []
    for (x, y), name in zip(at, names):
        half = 3.6 * len(name)
        options = {
            "top center": (x - half, y + 8, x + half, y + 24),
            "middle right": (x + 9, y - 8, x + 9 + 2 * half, y + 8),
            "bottom center": (x - half, y - 24, x + half, y - 8),
            "middle left": (x - 9 - 2 * half, y - 8, x - 9, y + 8),
        }

        def cost(box: tuple[float, float, float, float]) -> float:
            """Area of others covered, and of what would leave the frame."""
            covered = sum(
                max(0.0, min(box[2], b[2]) - max(box[0], b[0])) * max(0.0, min(box[3], b[3]) - max(box[1], b[1]))
                for b in occupied
            )
            outside = max(0.0, -box[0]) + max(0.0, box[2] - width) + max(0.0, -box[1]) + max(0.0, box[3] - height)
            return covered + 16 * outside

        place = min(options, key=lambda option: cost(options[option]))
        occupied.append(options[place])
        places.append(place)
    return places


def segments(evaluation: Comparison, models: list[ModelScores], colours: dict[str, str]) -> dict[str, Any]:
    """Grouped bars: segments across, a bar a model."""
    main = evaluation.main
    names = list(dict.fromkeys(name for model in models for name in model.segments))
    sizes: dict[str, str] = {}
    for model in models:
        for name, figures in model.segments.items():
            for kind in ("users", "items", "events"):
                if kind in figures:
                    sizes.setdefault(name, f"({figures[kind]:,.0f})")
    ticks = [
        "<br>".join(map(escape, name.split())) + (f"<br><i>{sizes[name]}</i>" if name in sizes else "")
        for name in names
    ]
    data = [
        {
            "type": "bar",
            "name": escape(model.name),
            "x": list(range(len(names))),
            "y": [model.segments.get(name, {}).get(main) for name in names],
            "marker": {"color": colours[model.name], "cornerradius": 3},
            "customdata": [escape(name) for name in names],
            "hovertemplate": f"<b>{escape(model.name)}</b><br>%{{customdata}}: %{{y:.4f}}<extra></extra>",
        }
        for model in models
    ]
    layout = {
        "margin": {"l": 48, "r": 8, "t": 8, "b": 64},
        "barmode": "group",
        "bargap": 0.22,
        "bargroupgap": 0.08,
        "xaxis": {
            "tickvals": list(range(len(names))),
            "ticktext": ticks,
            "tickangle": 0,
            "showgrid": False,
            "zeroline": False,
        },
        "yaxis": {"title": {"text": escape(label(main))}, "rangemode": "tozero"},
    }
    return {"id": "segments", "data": data if names else [], "layout": layout}
