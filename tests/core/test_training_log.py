"""What a training reports of each epoch is kept as JSON, and said in a sentence."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from zhiyin.core.run import Run
from zhiyin.core.training_log import MAX_ROWS, TrainingLog, how_it_ended, metric_names


def row(epoch: int, **more: Any) -> dict[str, Any]:
    return {"model": "Net", "epoch": epoch, "of": 9, **more}


def test_a_run_records_what_it_reports() -> None:
    told: list[dict[str, Any]] = []
    run, kept = Run(callbacks=(told.append,)).recorded()
    run.report(**row(1, loss=np.float32(0.5), valid_loss=float("nan"), learning_rate=1e-3))
    run.record(row(0, loss=2.0))
    run.record_end(stopped="enough")
    assert len(told) == 1
    assert kept.rows[0] == row(1, loss=0.5, valid_loss=None, learning_rate=1e-3)
    assert kept.rows[1] == row(0, loss=2.0, stopped="enough")
    assert json.loads(json.dumps(kept.rows)) == kept.rows


def test_many_epochs_are_thinned() -> None:
    kept = TrainingLog([row(n + 1) for n in range(3 * MAX_ROWS)])
    epochs = [one["epoch"] for one in kept.kept()]
    assert len(epochs) == MAX_ROWS
    assert (epochs[0], epochs[-1]) == (1, 3 * MAX_ROWS)
    assert epochs == sorted(set(epochs))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], []),
        ([row(1, loss=1.0), row(9, loss=0.5)], ["Net: all 9 epochs, no validation part: the last one counts"]),
        (
            [row(1, **{"ndcg@10": 0.25}), row(4, stopped="no better for 3 epochs", best_epoch=1, **{"ndcg@10": 0.125})],
            ["Net: stopped at epoch 4: no better for 3 epochs, best 1 (ndcg@10 0.25)"],
        ),
        ([row(9, valid_loss=0.5, best_epoch=9)], ["Net: all 9 epochs, best 9 (valid loss 0.5)"]),
        ([{"model": "SLIM", "epoch": 1, "of": 1, "loss": 2.0}], []),
    ],
)
def test_how_it_ended(rows: list[dict[str, Any]], said: list[str]) -> None:
    assert how_it_ended(rows) == said


def test_metrics_are_what_is_no_loss() -> None:
    rows = [row(1, loss=1.0, seconds=2.0, events_per_second=5.0), row(2, auc=0.5, learning_rate=1.0, best_epoch=2)]
    assert metric_names(rows) == ["auc"]
