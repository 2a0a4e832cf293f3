"""What `train --budget` shows while it works, and how its table fits into a terminal."""

from __future__ import annotations

import io
import re
import sys
from typing import Any

import pytest

from zhiyin.cli import budget_training
from zhiyin.cli.budget_progress import BudgetProgress
from zhiyin.cli.command_clock import _age_of_process
from zhiyin.pipeline.time_budget import TimeBudget

METHODS = ("popular", "popular:half_life=1d", "popular:half_life=30d", "itemknn:k_neighbors=220,shrink=3.1",
           "hybrid:map=image_cnn,images=[/srv/shop/pictures/of/the/items/by/id]", "ranker")  # fmt: skip


def report() -> dict[str, Any]:
    figures = {name: 0.1 + 0.01 * n for n, name in enumerate(METHODS)}
    choice = {"method": "ranker", "figures": figures, "why": "best of 6 on 812 requests"}
    return {
        "tried": [{"source": "popular", "why": "for strangers"}, {"source": "ease", "why": "few", "left_out": "slow"}],
        "not_tried": [{"source": "twotower", "why_not": "torch is not installed"}],
        "notes": [], "metric": "ndcg@10", "without": {},
        "choices": dict.fromkeys(("all", "strangers", "short", "long"), choice),
    }  # fmt: skip


def test_in_a_pipe_each_stage_is_a_line_and_fits_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    progress = BudgetProgress()
    assert not progress.moves
    budget = TimeBudget(150.0, clock=lambda: now[0], on_stage=progress.on_stage)
    with progress:
        budget.begin("window 1 of 8, to choose by")
        budget.work_on("als")
        now[0] = 20.0
        budget.begin("blends and ranker")
        now[0] = 160.0
        budget.begin("saving")
    assert capsys.readouterr().err.splitlines() == [
        "fits in the budget: window 1 of 8, to choose by; 2:30 left",
        "fits in the budget: blends and ranker; 2:10 left",
        "is over the budget: saving; 0:10 over",
    ]
    assert [stage["seconds"] for stage in budget.stages()] == [20.0, 140.0, 0.0]


def test_on_a_terminal_one_line_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    progress = BudgetProgress()
    budget = TimeBudget(150.0, clock=lambda: 20.0, started=0.0, on_stage=progress.on_stage)
    with progress:
        budget.begin("window 1 of 8, to choose by")
        budget.work_on("als")
        progress._live.refresh()
        with progress.paused():
            print("in between", file=sys.stderr)
    shown = screen.getvalue()
    assert "fits in the budget: window 1 of 8, to choose by: als; 2:10 left" in shown
    assert "in between" in shown


def test_no_method_is_cut_in_a_terminal_of_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    budget_training.print_report(report())
    table, said = capsys.readouterr()
    lines = re.sub(r"\x1b\[[0-9;]*m", "", table).splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in table
    # A name that is longer than its column goes on in the next line.
    names = "".join(line[: line.find("  ") if "  " in line.strip() else None].strip() for line in lines)
    assert all(name in names.replace(" ", "") for name in METHODS)
    assert "not tried: twotower (torch is not installed)" in said
    assert "source ease (few): left out, slow" in said
    assert "strangers: ranker, best of 6 on 812 requests" in said


def test_the_age_of_the_process_counts_imports() -> None:
    assert _age_of_process() >= 0
