"""The results of an experiment as one HTML page: a picture of the differences with their intervals."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from zhiyin.evaluation.report import write_page
from zhiyin.evaluation.report_figures import COLOURS
from zhiyin.pipeline.experiment_results import ExperimentResults
from zhiyin.policies.experiments.comparisons import Difference

# Height of a row of the picture, and of what stands around the rows, in pixels.
_ROW, _FRAME = 34, 110


def write_experiment_plot(results: ExperimentResults, path: str | Path) -> Path:
    """Write the page and return its path. Raises MissingExtraError without the extra "report"."""
    figures = [_preference(results)] if results.interleaving is not None else [_differences(results)]
    drawn = [figure for figure in figures if figure["data"]]
    chart = "".join(
        f'<div class="chart" id="{figure["id"]}" style="height:{figure["layout"]["height"]}px"></div>'
        for figure in drawn
    )
    note = "no arm has units enough yet" if not drawn else _NOTES[results.kind]
    tiles = "".join(
        f'<div class="tile"><b>{escape(arm.name)}</b><span>{arm.units:,} units, {arm.lists:,} lists'
        f"{', stopped: ' + escape(arm.stopped) if arm.stopped else ''}</span></div>"
        for arm in results.arms
    )
    alarm = "" if results.sample_ratio_ok else (
        '<ul class="warnings"><li>The numbers of units do not fit the weights of the arms '
        f"(p = {results.sample_ratio_p_value:.1g}): the assignment or the log is broken.</li></ul>"
    )  # fmt: skip
    body = (
        f'<header><p class="kicker">Zhiyin · experiment</p><h1>{escape(results.name)}</h1>'
        f'<p class="lead">lists of {_day(results.started)} to {_day(results.until)}</p></header>'
        f'<div class="tiles">{tiles}</div>{alarm}<section><h2>Differences</h2><p class="note">{note}.</p>{chart}'
        "</section>"
    )
    return write_page(path, f"Experiment {results.name}", body, drawn)


_NOTES = {
    "ab": "relative to the control; the thick line holds at a planned end, the thin one however often one looks",
    "interleaving": "of the units whose clicks decided, how many more preferred the second placement",
}


def _differences(results: ExperimentResults) -> dict[str, Any]:
    """Lifts in percent of the control with both intervals, a row for each metric and arm."""
    rows = [one for one in results.comparisons if one.fixed.control and one.fixed.standard_error]
    arms = list(dict.fromkeys(one.arm for one in rows))
    labels = [f"{one.metric} · {one.arm}" for one in rows]
    data: list[dict[str, Any]] = []
    for place, one in enumerate(rows):
        colour = COLOURS[arms.index(one.arm) % len(COLOURS)]
        for difference, width in ((one.anytime, 2), (one.fixed, 7)):
            low, lift, high = _lifts(difference)
            hover = f"{escape(labels[place])}<br>{lift:+.2f} % ({low:+.2f} to {high:+.2f})<br>{difference.method}"
            data.append({
                "type": "scatter", "mode": "markers", "x": [lift], "y": [place],
                "hovertemplate": hover + "<extra></extra>",
                "marker": {"size": 9, "color": colour},
                "error_x": {"type": "data", "array": [high - lift], "arrayminus": [lift - low], "thickness": width,
                            "width": 0, "color": colour},
            })  # fmt: skip
    layout = _layout(labels, "difference to the control, %")
    return {"id": "differences", "data": data, "layout": layout}


def _preference(results: ExperimentResults) -> dict[str, Any]:
    summary = results.interleaving
    assert summary is not None
    one = summary.preference
    label = f"{escape(summary.first)} ← → {escape(summary.second)}"
    mark = {
        "type": "scatter", "mode": "markers", "x": [one.preference], "y": [0],
        "marker": {"size": 9, "color": COLOURS[0]},
        "error_x": {"type": "data", "array": [one.high - one.preference], "arrayminus": [one.preference - one.low],
                    "thickness": 5, "width": 0, "color": COLOURS[0]},
        "hovertemplate": f"{one.first_wins:,} against {one.second_wins:,}<extra></extra>",
    }  # fmt: skip
    decided = one.first_wins + one.second_wins
    layout = _layout([label], "preference, from -1 to 1")
    layout["xaxis"]["range"] = [-1.05, 1.05]
    return {"id": "preference", "data": [mark] if decided else [], "layout": layout}


def _layout(labels: list[str], title: str) -> dict[str, Any]:
    return {
        "height": _FRAME + _ROW * len(labels),
        "margin": {"l": 200, "r": 16, "t": 8, "b": 48},
        "xaxis": {"title": {"text": title}, "zeroline": True, "zerolinewidth": 2},
        "yaxis": {"tickvals": list(range(len(labels))), "ticktext": list(map(escape, labels)),
                  "range": [len(labels) - 0.5, -0.5], "showgrid": False, "zeroline": False},
    }  # fmt: skip


def _lifts(difference: Difference) -> tuple[float, float, float]:
    """Interval and estimate in percent of the control."""
    scale = 100 / abs(difference.control) if difference.control else math.nan
    return difference.low * scale, difference.estimate * scale, difference.high * scale


def _day(time: int) -> str:
    return datetime.fromtimestamp(max(time, 0) / 1e6, UTC).strftime("%Y-%m-%d %H:%M UTC")
