"""`zhiyin experiment` as it is typed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from tests.cli.conftest import Command
from zhiyin.api.experiment_settings import ExperimentSettings
from zhiyin.pipeline.experiment_state import ExperimentState, ExperimentVersion
from zhiyin.service.experiment_job import ExperimentEvaluator
from zhiyin.service.experiment_versions import change_experiment, read_experiments
from zhiyin.store.records import Event
from zhiyin.store.store import Store
from zhiyin.store.traces import Trace


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with two experiments, whose windows are closed."""
    store = Store(tmp_path / "store.db")
    began = store.clock() - 3_600_000_000
    arms = {"control": {}, "b": {"placement": "other"}}
    for name, settings in (
        (
            "ranker",
            {"arms": arms, "metrics": {"clicks": {"events": {"click": 1}}}, "guardrails": [{"metric": "clicks"}]},
        ),
        ("mixed", {"arms": arms, "kind": "interleaving"}),
        ("planned", {"arms": arms, "looks": 1, "planned_units": 200}),
    ):
        version = ExperimentVersion(name, ExperimentSettings.model_validate(settings), ExperimentState(began))
        change_experiment(store, name, lambda before, version=version: version)  # type: ignore[misc]
    for n in range(240):
        arm = ("control", "b")[n % 2]
        mark = {"p": 0.5, "began": began}
        head = {
            "items": ["i1", "i2"], "teams": [0, 1],
            "assignments": {name: mark | {"arm": arm} for name in ("ranker", "planned")}
            | {"mixed": mark | {"arm": "interleaved"}},
        }  # fmt: skip
        store.append_traces([Trace(f"l{n}", f"u{n}", began + n + 1, 1, "default", head)])
        if n % 10 < (8 if arm == "control" else 1):
            item = "i2" if n % 3 else "i1"
            store.append([Event(f"u{n}", item, began + n + 2, "click", list_id=f"l{n}")])
    # As if the events had been received then.
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE events SET received = time")
    store.close()
    return tmp_path


def test_experiments_are_listed_shown_and_stopped(zhiyin: Command, folder: Path) -> None:
    lines = [line.split("\t") for line in zhiyin("experiment", "list").stdout.splitlines()]
    assert [line[:2] for line in lines] == [
        ["name", "kind"], ["mixed", "interleaving"], ["planned", "ab"], ["ranker", "ab"],
    ]  # fmt: skip
    shown = zhiyin("experiment", "status", "ranker")
    rows = [line.split("\t") for line in shown.stdout.splitlines()]
    assert ["control", "0.5", "120", "120", "control"] in rows
    (row,) = [row for row in rows if row[:2] == ["clicks", "b"]]
    assert row[-1] == "worse"
    assert "sample ratio p = 1" in shown.stderr
    page = (folder / "experiment-ranker.html").read_text()
    assert "clicks · b" in page
    assert "Plotly.react" in page
    told = zhiyin("experiment", "stop", "ranker", "--arm", "b", "--reason", "clicks fell").stderr
    assert "arm b is stopped" in told
    assert "stopped: clicks fell" in zhiyin("experiment", "status", "ranker").stdout
    zhiyin("experiment", "stop", "ranker", "--reason", "enough")
    assert "enough" in zhiyin("experiment", "list").stdout


def test_status_for_programs(zhiyin: Command, folder: Path) -> None:
    results = json.loads(zhiyin("experiment", "status", "ranker", "--json").stdout)
    (row,) = results["comparisons"]
    assert row["verdict"] == "worse"
    assert row["anytime"]["low"] < row["fixed"]["low"] < row["lift"] * row["fixed"]["control"] < row["fixed"]["high"]
    assert not (folder / "experiment-ranker.html").exists()
    zhiyin("experiment", "status", "mixed", "--json", "--plot", "mixed.html")
    assert "Plotly" in (folder / "mixed.html").read_text()
    mixed = json.loads(zhiyin("experiment", "status", "mixed", "--json").stdout)["interleaving"]["preference"]
    assert mixed["second_wins"] > mixed["first_wins"] > 0


def test_mistakes_are_told(zhiyin: Command, folder: Path) -> None:
    assert "there is no experiment 'none'" in zhiyin("experiment", "status", "none", code=1).stderr
    assert "no arm 'control'" in zhiyin("experiment", "stop", "ranker", "--arm", "control", code=1).stderr
    assert "there is no experiment 'none'" in zhiyin("experiment", "stop", "none", code=1).stderr


def test_the_job_of_a_service_stops_an_arm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zhiyin.service import experiment_job

    monkeypatch.setattr(experiment_job, "RUN_EVERY_SECONDS", 0.02)
    store = Store(folder / "store.db")
    job = experiment_job.ExperimentJob(store.address)
    try:
        end = time.monotonic() + 30
        while "b" not in read_experiments(store)[0]["ranker"].state.stopped and time.monotonic() < end:
            time.sleep(0.02)
        newest = read_experiments(store)[0]["ranker"]
    finally:
        job.close()
        store.close()
    assert newest.by == "guardrail"
    assert "guardrail clicks" in newest.state.stopped["b"].reason


def test_planned_looks_are_recorded_once_and_shown(zhiyin: Command, folder: Path) -> None:
    store = Store(folder / "store.db")
    evaluator = ExperimentEvaluator(store)
    assert "planned: look 1 of 1" in evaluator.act()
    assert "planned: look 1 of 1" not in evaluator.act()
    store.close()
    assert "look 1 of 1, 240 units: b z = -" in zhiyin("experiment", "status", "planned").stderr
