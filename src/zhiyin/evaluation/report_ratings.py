"""The report's section on predicted ratings: mean prediction against mean rating, by buckets of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from zhiyin.evaluation.comparison_table import ModelScores, number


def calibration_section(models: Sequence[ModelScores]) -> str:
    """A table for each model that predicts ratings, the first one open; nothing where none does."""
    rated = [model for model in models if model.calibration]
    if not rated:
        return ""
    tables = "".join(
        f"<details{' open' if place == 0 else ''}><summary>{escape(model.name)}: calibration error "
        f"{number('calibration_error', model.metrics.get('calibration_error'))}</summary>"
        f"{_table(model.calibration)}</details>"
        for place, model in enumerate(rated)
    )
    return (
        '<section><h2>Predicted and true ratings</h2><p class="note">Test ratings in buckets of about as many, by what '
        "was predicted. A model is calibrated where both means agree; the bar is what is missing or too much.</p>"
        f"{tables}</section>"
    )


def calibration_figure(models: Sequence[ModelScores], colours: Mapping[str, str]) -> dict[str, Any]:
    """Mean rating against mean prediction, a line a model, and the line on which both are equal."""
    data: list[dict[str, Any]] = []
    ends: list[float] = []
    for model in models:
        rows = model.calibration
        if rows:
            predicted, true = [row["predicted"] for row in rows], [row["true"] for row in rows]
            ends += [*predicted, *true]
            data.append(
                {
                    "type": "scatter", "mode": "lines+markers", "name": escape(model.name), "x": predicted, "y": true,
                    "marker": {"size": 7, "color": colours[model.name]},
                    "line": {"color": colours[model.name], "width": 2},
                    "hovertemplate": f"<b>{escape(model.name)}</b><br>"
                    "predicted %{x:.3f}, true %{y:.3f}<extra></extra>",
                }
            )  # fmt: skip
    if data:
        line = [min(ends), max(ends)]
        data.insert(0, {"type": "scatter", "mode": "lines", "x": line, "y": line, "hoverinfo": "skip",
                        "line": {"dash": "dot", "width": 1, "color": "#8591a5"}})  # fmt: skip
    layout = {
        "margin": {"l": 56, "r": 12, "t": 8, "b": 48},
        "xaxis": {"title": {"text": "mean prediction"}, "zeroline": False},
        "yaxis": {"title": {"text": "mean rating"}, "zeroline": False},
        "showlegend": False,
    }
    return {"id": "calibration", "data": data, "layout": layout}


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Bounds of the predictions of each bucket, ratings, both means and their difference."""
    widest = max(abs(row["true"] - row["predicted"]) for row in rows) or 1.0
    body = "".join(
        f"<tr><th>{row['from']:.2f} – {row['to']:.2f}</th><td>{row['ratings']:,}</td><td>{row['predicted']:.3f}</td>"
        f"<td>{row['true']:.3f}</td><td>{row['true'] - row['predicted']:+.3f}</td>"
        f'<td class="range">{_bar(row["true"] - row["predicted"], widest)}</td></tr>'
        for row in rows
    )
    heads = ("Predicted", "Ratings", "Mean prediction", "Mean rating", "Difference", "")
    head = "".join(f"<th>{text}</th>" for text in heads)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _bar(difference: float, widest: float) -> str:
    """A bar from the middle to the left where predictions are too high, to the right where they are too low."""
    width = 50 * abs(difference) / widest
    left = 50 if difference >= 0 else 50 - width
    return f'<div class="track"><i style="left:{left:.2f}%;width:{width:.2f}%;background:var(--accent)"></i></div>'
