"""Pictures of a search of hyperparameters: the value of each trial, and how much each hyperparameter matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from zhiyin.evaluation.comparison_table import direction
from zhiyin.evaluation.report_figures import COLOURS


def search_figures(name: str, search: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Figures for `report.write_page`: values over trials, and the importance where it is known.

    Parameters
    ----------
    name: begins the ids of the figures.
    search: `TuneResult.history`.
    """
    trials = [trial for trial in search.get("trials", []) if trial.get("value") is not None]
    if not trials:
        return []
    metric = str(search.get("metric", "value"))
    better = min if direction(metric) == "↓" else max
    best: list[float] = []
    for trial in trials:
        best.append(better(trial["value"], *best[-1:]) if best else trial["value"])
    numbers = [trial["trial"] + 1 for trial in trials]
    hover = [
        "<br>".join(escape(f"{key} = {_short(value)}") for key, value in trial["settings"].items()) for trial in trials
    ]
    values = {
        "id": f"{name}-trials",
        "title": f"{metric} of the trials",
        "data": [
            {"type": "scatter", "mode": "markers", "x": numbers, "y": [trial["value"] for trial in trials],
             "marker": {"size": 8, "color": COLOURS[0], "opacity": 0.75}, "customdata": hover,
             "hovertemplate": "trial %{x}: <b>%{y:.4f}</b><br>%{customdata}<extra></extra>"},
            {"type": "scatter", "mode": "lines", "x": numbers, "y": best, "hoverinfo": "skip",
             "line": {"color": COLOURS[1], "width": 2, "shape": "hv"}},
        ],
        "layout": {
            "margin": {"l": 56, "r": 10, "t": 8, "b": 40},
            "xaxis": {"title": {"text": "trial"}, "zeroline": False},
            "yaxis": {"title": {"text": escape(metric)}, "zeroline": False},
        },
    }  # fmt: skip
    importance = sorted(search.get("importance", {}).items(), key=lambda pair: pair[1])
    if not importance:
        return [values]
    bars = {
        "id": f"{name}-importance",
        "title": "importance",
        "data": [
            {"type": "bar", "orientation": "h", "y": [escape(key) for key, _ in importance],
             "x": [share for _, share in importance], "marker": {"color": COLOURS[2], "cornerradius": 3},
             "hovertemplate": "%{y}: %{x:.0%} of the differences<extra></extra>"},
        ],
        "layout": {
            "margin": {"l": 110, "r": 16, "t": 8, "b": 40},
            "xaxis": {"title": {"text": "share of the differences between trials"}, "tickformat": ".0%",
                      "rangemode": "tozero"},
            "yaxis": {"showgrid": False, "automargin": True},
        },
    }  # fmt: skip
    return [values, bars]


def search_section(title: str, note: str, figures: Sequence[Mapping[str, Any]]) -> str:
    """The HTML of `search_figures`."""
    charts = "".join(
        f'<div><h4>{escape(figure["title"])}</h4><div class="chart small" id="{figure["id"]}"></div></div>'
        for figure in figures
    )
    return f'<h3>{escape(title)}</h3><p class="note">{escape(note)}</p><div class="trio">{charts}</div>'


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
