"""Training curves show what was reported: planted logs, in a figure, in a page, from models and from folders."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("plotly")

import zhiyin as zy
from zhiyin.core.errors import DataError, MissingExtraError
from zhiyin.evaluation.search_figures import search_figures, search_section
from zhiyin.evaluation.training_curves import curve_figures, curves_section
from zhiyin.evaluation.training_logs import training_logs
from zhiyin.testing.recommender import shop

ROWS = [
    {"model": "Net", "epoch": n, "of": 4, "loss": 8.0 / n, "valid_loss": 9.0 / n, "ndcg@10": 0.1 * n, "seconds": 1.0,
     "learning_rate": 0.01 / n, "best_epoch": min(n, 3)}
    for n in (1, 2, 3, 4)
]  # fmt: skip


def panels(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return {figure["title"]: figure["data"] for figure in curve_figures({"net": rows})["net"]}


def test_losses_metrics_and_the_rate() -> None:
    found = panels(ROWS)
    assert list(found) == ["loss", "ndcg@10", "learning rate"]
    loss, valid, dot = found["loss"]
    assert (loss["x"], loss["y"], loss["line"]["dash"]) == ([1, 2, 3, 4], [8.0, 4.0, 8 / 3, 2.0], "solid")
    assert (valid["y"][0], valid["line"]["dash"]) == (9.0, "dash")
    assert (dot["x"], dot["y"]) == ([3], [3.0])  # the best epoch, on the validation loss
    assert found["ndcg@10"][1]["y"] == [pytest.approx(0.3)]


def test_losses_of_other_scales_have_panels_of_their_own() -> None:
    rows = [row | {"valid_loss": row["valid_loss"] / 20} for row in ROWS]
    assert list(panels(rows)) == ["loss", "validation loss", "ndcg@10", "learning rate"]


def test_what_has_no_epochs_has_no_curve() -> None:
    assert curve_figures({"slim": ROWS[:1], "ease": []}) == {}
    assert curves_section({}, {}) == ""


def test_several_trainings_in_one_log_are_lines_of_their_own() -> None:
    rows = [*ROWS, *({"model": "Base", "epoch": n, "of": 2, "loss": 1.0 * n} for n in (1, 2))]
    lines = [trace for trace in panels(rows)["loss"] if trace["mode"] == "lines"]
    assert [trace["name"] for trace in lines] == ["Net loss", "Net valid loss", "Base loss"]
    assert lines[0]["line"]["color"] != lines[2]["line"]["color"]


def test_a_page_names_what_it_draws() -> None:
    logs = {"<net>": [*ROWS[:3], ROWS[3] | {"stopped": "no better for 1 epochs"}]}
    figures = curve_figures(logs)
    html = curves_section(figures, logs)
    for figure in figures["<net>"]:
        assert f'id="{figure["id"]}"' in html
    assert "&lt;net&gt;" in html
    assert "Net: stopped at epoch 4: no better for 1 epochs, best 3 (ndcg@10 0.3)" in html


def test_plot_of_models_and_of_folders(tmp_path: Path) -> None:
    data = shop(users=30)
    als, bpr = zy.ALS(factors=4, epochs=3).fit(data), zy.BPR(factors=4, epochs=3).fit(data)
    figure = zy.plot_training([als, bpr, zy.EASE().fit(data)])
    assert [list(trace.y) for trace in figure.data] == [
        [row[name] for row in model.training_log_]
        for model, name in ((als, "loss"), (bpr, "loss"), (bpr, "learning_rate"))
    ]
    als.save(tmp_path / "models" / "als")
    bpr.save(tmp_path / "models" / "bpr")
    assert len(zy.plot_training(tmp_path / "models").data) == 3
    again = zy.load(tmp_path / "models" / "als")
    assert list(again.training_log_) == list(als.training_log_)
    assert list(training_logs({"first": als, "second": again})) == ["first", "second"]


def test_a_model_of_before_has_no_log(tmp_path: Path) -> None:
    zy.ALS(factors=4, epochs=3).fit(shop(users=30)).save(tmp_path / "als")
    (tmp_path / "als" / "training_log.json").unlink()
    assert list(zy.load(tmp_path / "als").training_log_) == []
    with pytest.raises(DataError, match="nothing here was trained in epochs"):
        zy.plot_training(tmp_path / "als")


def test_what_cannot_be_plotted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no model here"):
        zy.plot_training(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        zy.plot_training(tmp_path)


def test_without_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def missing(name: str, *given: Any, **more: Any) -> Any:
        if name.startswith("plotly"):
            raise ImportError(name)
        return original(name, *given, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtraError, match=r"zhiyin\[report\]"):
        zy.plot_training(zy.ALS())


def test_an_evaluation_shows_the_curves(tmp_path: Path) -> None:
    result = zy.evaluate({"als": zy.ALS(factors=4, epochs=3)}, split=zy.split(shop(users=60)), rounds=0)
    assert [row["epoch"] for row in result["als"].training_log] == [1, 2, 3]
    page = result.report(tmp_path / "report.html").read_text()
    assert "<h2>Training</h2>" in page
    assert "ALS: all 3 epochs, no validation part: the last one counts" in page
    assert result.to_json()["models"][-1].keys() >= {"training_log"}


def test_searches() -> None:
    trials = [
        {"trial": n, "state": "complete", "value": value, "seconds": 1.0, "settings": {"reg": 0.5 * n}}
        for n, value in enumerate([0.1, 0.3, None, 0.2])
    ]
    search = {"metric": "ndcg@10", "trials": trials, "importance": {"reg": 0.75, "factors": 0.25}}
    values, bars = search_figures("als", search)
    assert values["data"][0]["x"] == [1, 2, 4]
    assert values["data"][1]["y"] == [0.1, 0.3, 0.3]
    assert dict(zip(bars["data"][0]["y"], bars["data"][0]["x"])) == {"factors": 0.25, "reg": 0.75}
    html = search_section("als", "4 trials", [values, bars])
    assert 'id="als-trials"' in html
    assert 'id="als-importance"' in html
    assert search_figures("none", {"trials": []}) == []
