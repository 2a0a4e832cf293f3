"""The report of a version as one HTML page: how it was judged, what was tried, searches and training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from zhiyin.evaluation.report import write_page
from zhiyin.evaluation.search_figures import search_figures, search_section
from zhiyin.evaluation.training_curves import curve_figures, curves_section
from zhiyin.evaluation.training_logs import training_logs
from zhiyin.pipeline.model_versions import Bundle


def write_version_report(bundle: Bundle, path: str | Path) -> Path:
    """Write the page and return its path. No model is loaded.

    Raises MissingExtraError without the extra "report", DataError where a manifest of the version is damaged.
    """
    report = bundle.report()
    pipeline = report.get("pipeline", {})
    logs = training_logs(bundle.model_folder)
    curves = curve_figures(logs)
    searches = {
        one["source"]: search_figures(f"search-{number}", one["search"])
        for number, one in enumerate(pipeline.get("tried", []))
        if one.get("search")
    }
    body = "".join(
        [
            _header(bundle),
            _verdict(report.get("judged", {})),
            _sources(pipeline),
            _searches(searches, pipeline),
            curves_section(curves, logs),
        ]
    )
    figures = [figure for group in (*searches.values(), *curves.values()) for figure in group]
    return write_page(path, f"Version {bundle.version}", body, figures)


def _header(bundle: Bundle) -> str:
    manifest = bundle.manifest
    data, figures = manifest["data"], manifest["figures"]
    made = datetime.fromisoformat(manifest["made"]).astimezone(UTC).strftime("%Y-%m-%d %H:%M")
    tiles = [(_text(value), name) for name, value in figures.items()]
    tiles += [(f"{data['events']:,}", "events"), (f"{data['users']:,}", "users"), (f"{data['items']:,}", "items")]
    body = "".join(f'<div class="tile"><b>{escape(big)}</b><span>{escape(small)}</span></div>' for big, small in tiles)
    return (
        f'<header><p class="kicker">Zhiyin · version</p><h1>Version {bundle.version}</h1>'
        f'<p class="lead">{escape(manifest["model"])}, from data read at {made} UTC</p></header>'
        f'<div class="tiles">{body}</div>'
    )


def _verdict(judged: Mapping[str, Any]) -> str:
    if not judged.get("why"):
        return ""
    return f"<section><h2>How it was judged</h2><p>{escape(str(judged['why']))}</p></section>"


def _sources(pipeline: Mapping[str, Any]) -> str:
    """What was tried and what each adds, and the method for each segment of users."""
    parts = []
    tried = [
        [one["source"], one.get("why", ""), _text(one.get("fit_seconds")), one.get("tuned") or "",
         _text(one.get("before")), _text(one.get("value")), one.get("left_out") or one.get("untuned") or ""]
        for one in pipeline.get("tried", [])
    ]  # fmt: skip
    if tried:
        heads = ["source", "why it was tried", "fit, s", "tuned to", "before", "after", "left out"]
        parts.append(_table("Sources", heads, tried))
    without = pipeline.get("without", {})
    whole = without.get("none")
    if whole is not None:
        rows = [[name, _text(value), f"{whole - value:+.4f}"] for name, value in without.items() if name != "none"]
        parts.append(_table("What each source adds", ["without", str(pipeline.get("metric", "")), "it adds"], rows))
    choices = pipeline.get("choices", {})
    if choices:
        methods = list(next(iter(choices.values()))["figures"])
        rows = [
            [name, one["method"], *(_text(one["figures"].get(method)) for method in methods), one["why"]]
            for name, one in choices.items()
        ]
        parts.append(_table("Methods by segment of users", ["users", "method", *methods, "why"], rows))
    return "".join(parts)


def _searches(searches: Mapping[str, Sequence[Mapping[str, Any]]], pipeline: Mapping[str, Any]) -> str:
    shown = {source: figures for source, figures in searches.items() if figures}
    if not shown:
        return ""
    notes = {one["source"]: _search_note(one) for one in pipeline.get("tried", [])}
    parts = "".join(search_section(source, notes.get(source, ""), figures) for source, figures in shown.items())
    note = (
        "Each dot is a trial, the line the best so far. Importance: how much of the differences between trials each "
        "hyperparameter explains (PED-ANOVA)."
    )
    return f'<section><h2>Searches</h2><p class="note">{note}</p>{parts}</section>'


def _search_note(tried: Mapping[str, Any]) -> str:
    if tried.get("value") is None:
        return ""
    before, after = _text(tried.get("before")), _text(tried["value"])
    return f"{tried.get('trials', '')} trials: {before} to begin with, {after} at the end"


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(
        f"<tr><th>{escape(str(row[0]))}</th>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    return f"<section><h2>{escape(title)}</h2>{table}</section>"


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
