"""The comparison of models as one HTML file that needs nothing else: offline, on a phone, light or dark."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from zhiyin.core.atomic_files import write_whole
from zhiyin.core.errors import MissingExtraError
from zhiyin.evaluation.beyond_accuracy import BEYOND_ACCURACY
from zhiyin.evaluation.comparison_table import (
    WORDS,
    Comparison,
    ModelScores,
    direction,
    indistinct,
    interval,
    label,
    number,
    p_value,
    ranked,
    seconds,
)
from zhiyin.evaluation.rating_metric_names import RATING, is_rating_metric
from zhiyin.evaluation.report_figures import COLOURS, scatter, segments
from zhiyin.evaluation.report_ratings import calibration_figure, calibration_section
from zhiyin.evaluation.training_curves import curve_figures, curves_section


def write_report(evaluation: Comparison, path: str | Path) -> Path:
    """Write the report and return its path; see `write_page`."""
    models = ranked(evaluation)
    colours = {model.name: COLOURS[place % len(COLOURS)] for place, model in enumerate(models)}
    figures = [
        scatter(evaluation, models, colours, "coverage"),
        scatter(evaluation, models, colours, "fit time"),
        segments(evaluation, models, colours),
        calibration_figure(models, colours),
    ]
    drawn = [figure for figure in figures if figure["data"]]
    logs = {model.name: model.training_log for model in models}
    curves = curve_figures(logs)
    body = "".join(
        [
            _header(evaluation, models),
            _protocol(evaluation),
            _tables(evaluation, models, colours),
            _calibration(models),
            _charts(evaluation, models, colours, {figure["id"] for figure in drawn}),
            curves_section(curves, logs),
            _settings(models, colours),
            _versions(evaluation),
        ]
    )
    return write_page(
        path, evaluation.title, body, [*drawn, *(panel for panels in curves.values() for panel in panels)]
    )


def write_page(path: str | Path, title: str, body: str, figures: list[dict[str, Any]]) -> Path:
    """Write an HTML page that needs nothing else, and return its path. Plotly's script (4.8 MB) is inlined.

    Parameters
    ----------
    body: HTML, with an element of class "chart" for the id of each figure.
    figures: of Plotly: "id", "data" and "layout" each.

    Raises MissingExtraError without the extra "report".
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise MissingExtraError("plotly", "report", "the HTML report") from None
    page = "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{_file('report.css')}</style></head><body><main>",
            body,
            "<footer>Made by Zhiyin. This file is complete: it opens without a network.</footer></main>",
            f"<script>{get_plotlyjs()}</script>",
            f'<script type="application/json" id="figures">{_json(figures)}</script>',
            f"<script>{_file('report.js')}</script></body></html>",
        ]
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)
    return path


def _calibration(models: list[ModelScores]) -> str:
    """The section on ratings, with the place of its figure."""
    section = calibration_section(models)
    return section.replace("</section>", '<div class="chart" id="calibration"></div></section>') if section else ""


def _header(evaluation: Comparison, models: list[ModelScores]) -> str:
    main = evaluation.main
    first = next((model for model in models if model.name == evaluation.best), models[0])
    at, score = main.partition("@")[2], number(main, first.metrics.get(main))
    between = interval(main, first)
    tiles = [
        (evaluation.best, f"best of {len(models)}: {label(main)} {score}" + (f" ({between})" if between else "")),
        _lead(evaluation, models),
        (
            seconds(first.fit_seconds),
            f"its fit time; {1000 * first.score_seconds_per_1000:,.0f} ms per 1,000 users",
        ),
    ]
    if f"coverage@{at}" in first.metrics:
        covered = number("coverage", first.metrics[f"coverage@{at}"])
        tiles.insert(2, (covered, "of the catalogue reaches someone's list"))
    body = "".join(f'<div class="tile"><b>{escape(big)}</b><span>{escape(small)}</span></div>' for big, small in tiles)
    name, _, shape = evaluation.title.partition(": ")
    lead = f'<p class="lead">{escape(shape)}</p>' if shape else ""
    return (
        f'<header><p class="kicker">Zhiyin · evaluation</p><h1>{escape(name)}</h1>{lead}</header>'
        f'<div class="tiles">{body}</div>'
    )


def _lead(evaluation: Comparison, models: list[ModelScores]) -> tuple[str, str]:
    """A sentence on which models do not differ significantly from the best."""
    others = [model for model in models if model.name != evaluation.best]
    if not others or any(evaluation.main not in model.p_values for model in others):
        return "–", "no test against the best"
    same = [model.name for model in others if indistinct(evaluation, model)]
    if same:
        return ", ".join(same), "cannot be told from the best (p\u00a0≥\u00a00.05)"
    return "Clear lead", "every other model is below the best at p < 0.05"


def _protocol(evaluation: Comparison) -> str:
    steps = "".join(f"<li>{escape(sentence)}</li>" for sentence in evaluation.protocol)
    warnings = "".join(f"<li>{escape(sentence)}</li>" for sentence in evaluation.warnings)
    alarm = f'<ul class="warnings">{warnings}</ul>' if warnings else ""
    return f"<section><h2>How it was measured</h2><ol>{steps}</ol>{alarm}</section>"


def _tables(evaluation: Comparison, models: list[ModelScores], colours: dict[str, str]) -> str:
    """The main table, a folded one for each other k, and what the metrics mean."""
    names = list(dict.fromkeys(name for model in models for name in model.metrics))
    if is_rating_metric(evaluation.main):
        names = [*(name for name in RATING if name in names), *(name for name in names if name not in RATING)]
    ks = {name: name.partition("@")[2] for name in names}
    own = ks.get(evaluation.main, "")
    others = [name for name in names if ks[name] in ("", own) and name != evaluation.main]
    accuracy = [name for name in others if name.partition("@")[0] not in BEYOND_ACCURACY]
    beyond = [name for name in others if name not in accuracy]
    wider = f"<h3>Beyond accuracy</h3>{_plain_table(beyond, models, colours)}" if beyond else ""
    folded = "".join(
        f"<details><summary>At k = {escape(k)}</summary>"
        f"{_plain_table([name for name in names if ks[name] == k], models, colours)}</details>"
        for k in dict.fromkeys(ks.values())
        if k not in ("", own)
    )
    kinds = dict.fromkeys(name.partition("@")[0] for name in names)
    words = "".join(
        f"<dt>{escape(WORDS[kind][0])} {WORDS[kind][1]}</dt><dd>{escape(WORDS[kind][2])}</dd>"
        for kind in kinds
        if kind in WORDS
    )
    return (
        f'<section><h2>Models</h2><p class="note">Sorted by {escape(label(evaluation.main))}, with 95 % '
        "bootstrap intervals over users; p against the best by paired t-tests over users with Holm's correction.</p>"
        f"{_main_table(evaluation, accuracy, models, colours)}{wider}{folded}"
        f"<details><summary>What the metrics mean</summary><dl>{words}</dl></details></section>"
    )


def _main_table(evaluation: Comparison, others: list[str], models: list[ModelScores], colours: dict[str, str]) -> str:
    main = evaluation.main
    highs = [model.intervals.get(main, (0.0, model.metrics.get(main, 0.0)))[1] for model in models]
    scale = max((high for high in highs if not math.isnan(high)), default=0.0) or 1.0
    best = _column_best(others, models)
    heads = [
        "Model",
        f"{label(main)} {direction(main)}",
        "",
        "p",
        *(f"{label(m)} {direction(m)}" for m in others),
    ]
    rows = []
    for model in models:
        cells = [
            f'<td class="score">{number(main, model.metrics.get(main))}<small>{interval(main, model)}</small></td>',
            f'<td class="range">{_track(main, model, scale, colours[model.name])}</td>',
            f"<td>{_verdict(evaluation, model)}</td>",
            *(_cell(name, model, best) for name in others),
            f"<td>{seconds(model.fit_seconds)}</td>",
            f"<td>{1000 * model.score_seconds_per_1000:,.0f}</td>",
            f"<td>{model.peak_mb:,.0f}</td>",
        ]
        kind = ' class="best"' if model.name == evaluation.best else ""
        rows.append(f"<tr{kind}>{_name(model, colours)}{''.join(cells)}</tr>")
    return _html_table([*heads, "Fit", "ms per\n1,000 users", "Peak\nMB"], rows)


def _plain_table(names: list[str], models: list[ModelScores], colours: dict[str, str]) -> str:
    best = _column_best(names, models)
    rows = [f"<tr>{_name(m, colours)}{''.join(_cell(name, m, best) for name in names)}</tr>" for m in models]
    return _html_table(["Model", *(f"{label(name)} {direction(name)}" for name in names)], rows)


def _html_table(heads: Iterable[str], rows: list[str]) -> str:
    # The k goes below the metric: columns stay as narrow as their figures.
    lines = [escape(text).replace("@", "\n@").replace("\n", "<br>") for text in heads]
    head = "".join(f"<th>{line}</th>" for line in lines)
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll"><table>{body}</table></div>'


def _name(model: ModelScores, colours: dict[str, str]) -> str:
    return f'<th title="{escape(model.name)}">{_dot(colours[model.name])}{escape(model.name)}</th>'


def _dot(colour: str) -> str:
    return f'<span class="dot" style="background:{colour}"></span>'


def _cell(name: str, model: ModelScores, best: dict[str, str]) -> str:
    """A figure, its interval on hovering; bold where it is the best of its column as printed."""
    text = number(name, model.metrics.get(name))
    shown = f"<b>{text}</b>" if best.get(name) == text else text
    hint = interval(name, model, "95 % ")
    return f'<td title="{hint}">{shown}</td>' if hint else f"<td>{shown}</td>"


def _column_best(names: list[str], models: list[ModelScores]) -> dict[str, str]:
    """The best figure of each column, as printed, where one way is better."""
    best = {}
    for name in names:
        values = [model.metrics[name] for model in models if not math.isnan(model.metrics.get(name, math.nan))]
        if values and direction(name):
            best[name] = number(name, max(values) if direction(name) == "↑" else min(values))
    return best


def _track(metric: str, model: ModelScores, scale: float, colour: str) -> str:
    """The value as a dot and its interval as a bar, on a line from 0 to the highest bound of all models."""
    value = model.metrics.get(metric, math.nan)
    if math.isnan(value):
        return ""
    low, high = model.intervals.get(metric, (value, value))
    left, width = 100 * low / scale, 100 * (high - low) / scale
    return (
        f'<div class="track"><i style="left:{left:.2f}%;width:{width:.2f}%;background:{colour}"></i>'
        f'<u style="left:{100 * value / scale:.2f}%;background:{colour}"></u></div>'
    )


def _verdict(evaluation: Comparison, model: ModelScores) -> str:
    if model.name == evaluation.best:
        return '<span class="tag">best</span>'
    p = escape(p_value(model.p_values.get(evaluation.main)))
    if indistinct(evaluation, model):
        hint = "not distinguishable from the best"
        return f'<span class="tag same" title="{hint}">≈ best</span><small>{p}</small>'
    return p


def _charts(evaluation: Comparison, models: list[ModelScores], colours: dict[str, str], shown: set[str]) -> str:
    main = escape(label(evaluation.main))
    pair = [
        (
            "coverage",
            "Accuracy and coverage",
            f"{main} against the share of the catalogue that is recommended",
        ),
        ("fit-time", "Accuracy and time", f"{main} against fit time, on a logarithmic scale"),
    ]
    parts = [
        f'<section><h2>{title}</h2><p class="note">{note}.</p><div class="chart" id="{name}"></div></section>'
        for name, title, note in pair
        if name in shown
    ]
    page = f'<div class="pair">{"".join(parts)}</div>' if parts else ""
    if "segments" in shown:
        legend = "".join(f"<span>{_dot(colours[model.name])}{escape(model.name)}</span>" for model in models)
        page += (
            f'<section><h2>For whom it works</h2><p class="note">{main} by segment of users and of items; '
            "their number in brackets.</p>"
            f'<div class="legend">{legend}</div><div class="chart" id="segments"></div></section>'
        )
    return page


def _settings(models: list[ModelScores], colours: dict[str, str]) -> str:
    cards = []
    for model in models:
        chips = "".join(f"<li>{escape(str(name))} = {escape(str(v))}</li>" for name, v in model.settings.items())
        body = f'<ul class="chips">{chips}</ul>' if chips else '<p class="note">nothing to set</p>'
        cards.append(f'<div class="model"><h3>{_dot(colours[model.name])}{escape(model.name)}</h3>{body}</div>')
    return f'<section><h2>Settings</h2><div class="models">{"".join(cards)}</div></section>'


def _versions(evaluation: Comparison) -> str:
    chips = "".join(f"<li>{escape(name)} {escape(version)}</li>" for name, version in evaluation.versions.items())
    return f'<section><h2>Versions</h2><ul class="chips">{chips}</ul></section>'


def _json(value: Any) -> str:
    """JSON that a script element can hold: no NaN, and nothing that closes the element."""

    def clean(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: clean(inner) for key, inner in part.items()}
        if isinstance(part, list | tuple):
            return [clean(inner) for inner in part]
        if isinstance(part, float) and not math.isfinite(part):
            return None
        return part.item() if hasattr(part, "item") else part

    return json.dumps(clean(value), ensure_ascii=False).replace("<", "\\u003c")


def _file(name: str) -> str:
    return resources.files("zhiyin.evaluation").joinpath(name).read_text(encoding="utf-8")
