"""Training curves: losses, metrics and the learning rate over the epochs, in the reports and by `plot_training`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from zhiyin.core.errors import DataError, MissingExtraError
from zhiyin.core.training_log import how_it_ended, metric_names
from zhiyin.evaluation.report_figures import COLOURS
from zhiyin.evaluation.training_logs import training_logs

# Losses whose middle values are further apart than this are drawn on scales of their own.
SAME_SCALE = 3.0
NOTE = "Solid: training. Dashed: the part held back for validation. The dot is the epoch whose weights were kept."


def plot_training(what: Any) -> Any:
    """The training curves as a figure of Plotly: a row a training; losses, metrics and the learning rate beside each
    other.

    Parameters
    ----------
    what: a fitted model or ranker, a list or a mapping of them by name, or a folder: of a saved model, of several, or
        of a version, such as "models/bundles/0003".

    Raises MissingExtraError without the extra "report", DataError where nothing was trained in epochs.
    """
    try:
        from plotly.subplots import make_subplots
    except ImportError:
        raise MissingExtraError("plotly", "report", "plot_training") from None
    panels = {name: _panels(rows) for name, rows in training_logs(what).items()}
    if not panels:
        raise DataError("nothing here was trained in epochs", remedy="fit a network, ALS, BPR or trees; or fit it anew")
    columns = max(map(len, panels.values()))
    titles = [
        f"{escape(name)}: {panel['title']}" if panel else ""
        for name, row in panels.items()
        for panel in [*row, *[None] * (columns - len(row))]
    ]
    figure = make_subplots(rows=len(panels), cols=columns, subplot_titles=titles)
    for at, row in enumerate(panels.values(), 1):
        for place, panel in enumerate(row, 1):
            for trace in panel["traces"]:
                figure.add_trace(trace, row=at, col=place)
            figure.update_yaxes(panel["yaxis"], row=at, col=place)
    figure.update_xaxes(title_text="epoch", row=len(panels))
    figure.update_layout(height=120 + 280 * len(panels), showlegend=False, template="plotly_white", hovermode="x")
    return figure


def curve_figures(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Figures for `report.write_page`, those of each training: "id", "title", "data" and "layout" each.

    Trainings have the colours of COLOURS in their order, as the models of a report.
    """
    figures: dict[str, list[dict[str, Any]]] = {}
    for number, (name, rows) in enumerate(logs.items()):
        figures[name] = [
            {
                "id": f"training-{number}-{place}",
                "title": panel["title"],
                "data": panel["traces"],
                "layout": {
                    "margin": {"l": 52, "r": 10, "t": 8, "b": 40},
                    "xaxis": {"title": {"text": "epoch"}, "zeroline": False},
                    "yaxis": {"zeroline": False, **panel["yaxis"]},
                    "hovermode": "x",
                },
            }
            for place, panel in enumerate(_panels(rows, number))
        ]
    return {name: panels for name, panels in figures.items() if panels}


def curves_section(
    figures: Mapping[str, Sequence[Mapping[str, Any]]], logs: Mapping[str, Sequence[Mapping[str, Any]]]
) -> str:
    """The HTML of `curve_figures`; empty where there are none."""
    if not figures:
        return ""
    parts = []
    for name, panels in figures.items():
        charts = "".join(
            f'<div><h4>{escape(panel["title"])}</h4><div class="chart small" id="{panel["id"]}"></div></div>'
            for panel in panels
        )
        ended = escape(". ".join(how_it_ended(logs[name])))
        parts.append(f'<h3>{escape(name)}</h3><p class="note">{ended}</p><div class="trio">{charts}</div>')
    return f'<section><h2>Training</h2><p class="note">{NOTE}</p>{"".join(parts)}</section>'


def _panels(rows: Sequence[Mapping[str, Any]], colour: int = 0) -> list[dict[str, Any]]:
    """What is drawn of one log: "title", "traces" and "yaxis" of each panel; none for a training without a curve.

    colour: place in COLOURS of the first line.
    """
    if len(rows) < 2:
        return []
    trainings = list(dict.fromkeys(str(row.get("model", "model")) for row in rows))
    panels = []
    for title, names in _plan(rows):
        traces = []
        for place, training in enumerate(trainings):
            own = [row for row in rows if str(row.get("model", "model")) == training]
            for name in names:
                part = len(trainings) * names.index(name) if name not in ("loss", "valid_loss") else 0
                traces += _traces(own, name, COLOURS[(colour + place + part) % len(COLOURS)])
        axis: dict[str, Any] = {}
        if title == "learning rate":
            axis |= {"exponentformat": "e", "rangemode": "tozero"}
        panels.append({"title": title, "traces": traces, "yaxis": axis})
    return panels


def _plan(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Titles of the panels and the figures in each."""
    middle = {
        name: statistics.median(values)
        for name in ("loss", "valid_loss")
        if (values := [abs(row[name]) for row in rows if row.get(name) is not None])
    }
    plan: list[tuple[str, list[str]]] = []
    low, high = min(middle.values(), default=0.0), max(middle.values(), default=0.0)
    if len(middle) == 2 and high > SAME_SCALE * low:
        plan += [("loss", ["loss"]), ("validation loss", ["valid_loss"])]
    elif middle:
        plan.append(("loss", list(middle)))
    plan += [(name.replace("_", " "), [name]) for name in metric_names(rows)]
    if any(row.get("learning_rate") is not None for row in rows):
        plan.append(("learning rate", ["learning_rate"]))
    return plan


def _traces(rows: Sequence[Mapping[str, Any]], name: str, colour: str) -> list[dict[str, Any]]:
    """A figure of one training over its epochs as a line, and a dot where its best epoch is."""
    points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
    if not points:
        return []
    dash = "dash" if name == "valid_loss" else "solid"
    words = f"{rows[0].get('model', 'model')} {name.replace('_', ' ')}"
    line = {
        "type": "scatter", "mode": "lines", "name": escape(words), "x": [x for x, _ in points],
        "y": [y for _, y in points], "line": {"color": colour, "width": 2, "dash": dash},
        "hovertemplate": f"{escape(words)} %{{y:.5g}}<extra></extra>",
    }  # fmt: skip
    best = rows[-1].get("best_epoch")
    at = [(x, y) for x, y in points if x == best]
    if not at or name in ("loss", "learning_rate"):
        return [line]
    dot = {
        "type": "scatter", "mode": "markers", "x": [best], "y": [at[0][1]], "marker": {"size": 9, "color": colour},
        "hoverinfo": "skip",
    }  # fmt: skip
    return [line, dot]
