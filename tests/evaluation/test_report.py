"""The report is one complete file that says everything, safely; the terminal table says the same."""

from __future__ import annotations

import builtins
import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from zhiyin.core.errors import MissingExtraError
from zhiyin.evaluation.comparison_table import label, number, p_value, ranked, rich_table, seconds
from zhiyin.evaluation.report import write_report
from zhiyin.evaluation.report_figures import _label_places


@dataclasses.dataclass
class Model:
    name: str
    settings: dict[str, Any]
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    p_values: dict[str, float]
    segments: dict[str, dict[str, float]]
    fit_seconds: float
    score_seconds_per_1000: float
    peak_mb: float
    calibration: list[dict[str, float]] = dataclasses.field(default_factory=list)
    training_log: list[dict[str, Any]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Evaluation:
    title: str
    protocol: list[str]
    warnings: list[str]
    k: list[int]
    main: str
    best: str
    versions: dict[str, str]
    models: list[Model]


def model(name: str, score: float, p: float | None = None, seconds: float = 1.0, **settings: Any) -> Model:
    metrics, intervals = {}, {}
    for k, factor in ((10, 1.0), (20, 1.15)):
        for kind, times in (("ndcg", 1.0), ("recall", 0.9), ("hit_rate", 2.1), ("map", 0.6), ("mrr", 1.2)):
            metrics[f"{kind}@{k}"] = score * factor * times
            intervals[f"{kind}@{k}"] = (score * factor * times * 0.94, score * factor * times * 1.05)
        metrics |= {
            f"coverage@{k}": 0.9 / (1 + 20 * score),
            f"gini@{k}": 0.5 + score,
            f"novelty@{k}": 9 - 12 * score,
        }
        metrics |= {
            f"diversity@{k}": 0.8,
            f"serendipity@{k}": score / 3,
            f"popularity_lift@{k}": 5 * score - 0.2,
        }
        metrics |= {f"calibration@{k}": 0.7 - score}
    segments = {
        "new users": {"ndcg@10": score * 0.7, "users": 1204},
        "light users": {"ndcg@10": score, "users": 3310},
        "heavy users": {"ndcg@10": score * 1.2, "users": 890},
        "head items": {"ndcg@10": score * 1.5},
        "tail items": {"ndcg@10": score * 0.2},
    }
    p_values = {} if p is None else {"ndcg@10": p}
    return Model(name, settings, metrics, intervals, p_values, segments, seconds, 0.02 * seconds, 90 + 8 * seconds)


def sample() -> Evaluation:
    return Evaluation(
        title="MovieLens-1M: 1,000,209 events, 6,040 users, 3,706 items",
        protocol=[
            "Split by global time: train before 2000-12-02 14:52 UTC, test the 817 days from then.",
            "All 3,662 candidates are ranked for each user with a test event, seen items left out.",
            "Ties go to the item that comes first in the catalogue.",
            "Intervals: 95 % percentile bootstrap over users; paired t-tests, Holm's correction.",
        ],
        warnings=["44 items of the test part are unknown to every model; their events count as misses"],
        k=[10, 20],
        main="ndcg@10",
        best="EASE",
        versions={
            "zhiyin": "0.1.0",
            "python": "3.11.2",
            "numpy": "2.4.6",
            "platform": "Linux x86_64, 2 cores",
        },
        models=[
            model("Random", 0.008, 1e-9, 0.002),
            model("Popular", 0.061, 1e-8, 0.05, half_life=None),
            model("EASE", 0.1234, None, 4.1, reg=250.0),
            model("ItemKNN", 0.104, 4e-4, 1.9, similarity="cosine", k_neighbors=100, shrink=0.0),
            model("ALS", 0.1207, 0.21, 12.6, factors=64, reg=0.01, alpha=40.0, epochs=15),
            model("Transitions", 0.092, 1e-5, 0.8, window=10, half_life="30d"),
        ],
    )


class Page(HTMLParser):
    """Text, tags and attributes of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text.append(data)


def written(evaluation: Evaluation, path: Path) -> tuple[str, Page, list[Any]]:
    html = write_report(evaluation, path / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    data = re.search(r'<script type="application/json" id="figures">(.*?)</script>', html, re.DOTALL)
    assert data
    return html, page, json.loads(data[1])


def test_the_report_is_one_file_that_loads_nothing(tmp_path: Path) -> None:
    html, page, _ = written(sample(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert not [tag for tag, attributes in page.tags if "src" in attributes or "href" in attributes or tag == "link"]
    assert "plotly.js v" in html
    assert "@import" not in html.split("</style>")[0]
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html


def test_the_report_says_everything(tmp_path: Path) -> None:
    evaluation = sample()
    _, page, figures = written(evaluation, tmp_path)
    text = "\n".join(page.text)
    for said in (
        *evaluation.title.split(": "),
        *evaluation.protocol,
        *evaluation.warnings,
        "NDCG@10",
        "@20 ↑",
        "Miscalibration",
    ):
        assert said in text
    for m in evaluation.models:
        assert m.name in text
        assert number("ndcg@10", m.metrics["ndcg@10"]) in text
        assert all(f"{name} = {value}" in text for name, value in m.settings.items())
    assert all(f"{name} {version}" in text for name, version in evaluation.versions.items())
    assert "0.1160 – 0.1296" in text
    assert "≈ best" in text
    assert [figure["id"] for figure in figures] == ["coverage", "fit-time", "segments"]
    assert {tag[1].get("id") for tag in page.tags} >= {"coverage", "fit-time", "segments"}
    assert [len(figure["data"]) for figure in figures] == [6, 6, 6]
    assert figures[2]["layout"]["xaxis"]["ticktext"][0] == "new<br>users<br><i>(1,204)</i>"


def test_a_clear_lead_is_claimed_only_when_tested(tmp_path: Path) -> None:
    evaluation = sample()
    evaluation.models[4].p_values = {"ndcg@10": 0.03}
    assert "Clear lead" in written(evaluation, tmp_path)[1].text
    evaluation.models[4].p_values = {}
    text = written(evaluation, tmp_path)[1].text
    assert "Clear lead" not in text
    assert "no test against the best" in text


def test_text_from_data_is_escaped(tmp_path: Path) -> None:
    evil = '</script><img src=x onerror="alert(1)">'
    evaluation = sample()
    evaluation.title = evaluation.best = evaluation.models[2].name = evil
    evaluation.protocol = evaluation.warnings = [evil]
    evaluation.versions = {evil: evil}
    evaluation.models[0].settings = {evil: evil}
    evaluation.models[0].segments = {evil: {"ndcg@10": 0.1}}
    evaluation.models[0].metrics[evil] = 1.0
    html, page, figures = written(evaluation, tmp_path)
    assert "<img" not in html.replace("'<img", "").split("plotly.js v")[0]
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert "<img" not in json.dumps(figures)  # Plotly reads tags in its texts
    assert evil in "\n".join(page.text)


def test_missing_figures_are_dashes_and_gaps(tmp_path: Path) -> None:
    evaluation = sample()
    broken = evaluation.models[0]
    broken.metrics, broken.intervals, broken.segments = (
        {"ndcg@10": float("nan")},
        {},
        {"new users": {"ndcg@10": np.nan}},
    )
    _, page, figures = written(evaluation, tmp_path)
    assert "–" in page.text
    assert len(figures[0]["data"]) == 5
    assert figures[2]["data"][-1]["y"] == [None] * 5
    for m in evaluation.models:
        m.segments, m.metrics = {}, {"auc": 0.5}
    evaluation.main = "auc"
    _, page, figures = written(evaluation, tmp_path)
    assert [figure["id"] for figure in figures] == ["fit-time"]
    assert not {"segments", "coverage"} & {tag[1].get("id") for tag in page.tags}


def test_without_plotly_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("plotly"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"plotly") as caught:
        write_report(sample(), tmp_path / "report.html")
    assert "zhiyin[report]" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_labels_of_neighbours_do_not_share_a_place() -> None:
    places = _label_places([(0.5, 0.5), (0.51, 0.5)], ["first model", "second model"], (0, 1), (0, 1))
    assert len(set(places)) == 2
    assert _label_places([(0.99, 0.5)], ["a long name"], (0, 1), (0, 1)) == ["middle left"]


def printed(evaluation: Evaluation, **options: Any) -> list[str]:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(rich_table(evaluation, **options))
    return console.export_text().splitlines()


def test_the_terminal_table_is_sorted_and_marked() -> None:
    lines = printed(sample())
    rows = [line for line in lines if line.split()[:1] and line.split()[0] in [m.name for m in sample().models]]
    assert [row.split()[0] for row in rows] == ["EASE", "ALS", "ItemKNN", "Transitions", "Popular", "Random"]
    assert "0.1234 ± 0.0068" in rows[0]
    assert "best" in rows[0]
    assert "0.210 n.s." in rows[1]
    assert "n.s." not in rows[2]
    assert "< 0.001" in rows[2]
    assert "12.6 s" in rows[1]
    header = "\n".join(lines[: lines.index(rows[0])])
    for name in ("NDCG", "@10", "Recall", "Coverage", "Popularity", "fit", "1,000", "peak"):
        assert name in header
    assert "Novelty" in "\n".join(printed(sample(), metrics=["novelty@20", "unknown"]))


def test_the_best_is_bold_and_markup_in_names_is_text() -> None:
    evaluation = sample()
    evaluation.models[0].name = "[red]x"
    table = rich_table(evaluation)
    assert [row.style for row in table.rows] == ["bold", "", "", "", "", ""]
    assert any("[red]x" in line for line in printed(evaluation))


def test_models_without_a_value_come_last_and_losses_ascend() -> None:
    evaluation = sample()
    evaluation.models[2].metrics = {}
    assert ranked(evaluation)[-1].name == "EASE"
    evaluation.main = "rmse"
    for m, value in zip(evaluation.models, (3, 1, 2, 4, 5, 6)):
        m.metrics = {"rmse": value}
    assert [m.name for m in ranked(evaluation)][:3] == ["Popular", "EASE", "Random"]


def test_numbers_as_they_are_printed() -> None:
    assert [label(name) for name in ("ndcg@10", "hit_rate@5", "auc", "own_metric@3")] == [
        "NDCG@10",
        "Hit rate@5",
        "AUC",
        "own metric@3",
    ]
    assert [number("coverage@5", 0.1234), number("popularity_lift", 0.5), number("novelty", 8.127)] == [
        "12.3%",
        "+50%",
        "8.13",
    ]
    assert [number("ndcg", None), number("ndcg", float("nan"))] == ["–", "–"]
    assert [p_value(None), p_value(0.0001), p_value(0.0312)] == ["–", "< 0.001", "0.031"]
    assert [seconds(0.0123), seconds(2.34), seconds(150), seconds(float("nan"))] == [
        "12 ms",
        "2.3 s",
        "2.5 min",
        "–",
    ]
