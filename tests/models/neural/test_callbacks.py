"""Training curves in TensorBoard and MLflow."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

from zhiyin.core.errors import MissingExtraError
from zhiyin.core.run import Run
from zhiyin.models.als import ALS
from zhiyin.models.neural.callbacks import MLflow, TensorBoard
from zhiyin.models.sequence.sasrec import SASRec
from zhiyin.testing.recommender import shop

FIGURES = ("loss", "valid_loss", "ndcg@10", "learning_rate", "seconds", "events_per_second")
NAMES = {f"SASRec/{name}" for name in FIGURES}


def fit(callback: Any) -> SASRec:
    model = SASRec(factors=8, epochs=3, max_len=6)
    return model.fit(shop(users=30), Run(threads=1, callbacks=(callback,)))


@pytest.mark.slow
def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = fit(TensorBoard(tmp_path / "runs"))
    found = EventAccumulator(str(tmp_path / "runs")).Reload()  # the writer is still open: each report is flushed
    assert set(found.Tags()["scalars"]) == NAMES
    for name in ("loss", "valid_loss", "ndcg@10"):
        events = found.Scalars(f"SASRec/{name}")
        assert [event.step for event in events] == [1, 2, 3]
        assert [event.value for event in events] == pytest.approx([entry[name] for entry in model.training_log_])


@pytest.mark.parametrize("already", [False, True])
def test_mlflow(already: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, Any]] = []
    active = [already]

    def start_run(run_name: str) -> None:
        active[0] = True
        told.append(("start", run_name))

    fake = SimpleNamespace(
        set_experiment=lambda name: told.append(("experiment", name)),
        active_run=lambda: object() if active[0] else None,
        start_run=start_run,
        log_metrics=lambda metrics, step: told.append(("metrics", (step, metrics))),
    )
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    model = fit(MLflow(experiment="shop"))
    assert told[0] == ("experiment", "shop")
    assert [what for what in told if what[0] == "start"] == ([] if already else [("start", "SASRec")])
    logged = [what for kind, what in told if kind == "metrics"]
    assert [step for step, _ in logged] == [1, 2, 3]
    assert all(set(metrics) == NAMES for _, metrics in logged)
    assert [metrics["SASRec/loss"] for _, metrics in logged] == [entry["loss"] for entry in model.training_log_]
    MLflow()
    assert [what for kind, what in told if kind == "experiment"] == ["shop"]


def test_other_models_report_too(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    ALS(factors=4, epochs=2).fit(shop(), Run(callbacks=(TensorBoard(tmp_path),)))
    assert EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"] == ["ALS/loss", "ALS/seconds"]


@pytest.mark.parametrize("package", ["tensorboard", "mlflow"])
def test_without_the_package(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"tensorboard": "torch.utils.tensorboard", "mlflow": "mlflow"}[package]
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=package) as raised:
        TensorBoard(tmp_path) if package == "tensorboard" else MLflow()
    assert "pip install" in str(raised.value)
