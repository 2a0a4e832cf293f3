"""How good probabilities are: log-loss, AUC, GAUC, ECE with intervals over users, and a reliability diagram."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from zhiyin.core.run import Run
from zhiyin.evaluation.pointwise_metrics import auc, gauc, log_loss
from zhiyin.evaluation.significance import bootstrap_interval
from zhiyin.ranking.calibration import expected_calibration_error

# Bins of equally many rows in a reliability diagram, as in the ECE.
BINS = 15
ROUNDS = 1_000


@dataclasses.dataclass(frozen=True)
class ProbabilityFigures:
    """Figures of predicted probabilities; AUC and GAUC are NaN where a class is missing.

    Parameters
    ----------
    low, high: 95 % interval of the log-loss, of users drawn with all of their rows.
    """

    log_loss: float
    low: float
    high: float
    auc: float
    gauc: float
    ece: float

    def to_dict(self) -> dict[str, float]:
        return dataclasses.asdict(self)


def row_losses(labels: np.ndarray, p: np.ndarray) -> np.ndarray:
    """float64[m]: -y ln p - (1 - y) ln(1 - p), with p kept off 0 and 1 as `log_loss` does."""
    epsilon = np.finfo(np.float64).eps
    p = np.clip(np.asarray(p, dtype=np.float64), epsilon, 1 - epsilon)
    return np.where(np.asarray(labels) > 0, -np.log(p), -np.log1p(-p))


def probability_figures(labels: np.ndarray, p: np.ndarray, users: np.ndarray, run: Run) -> ProbabilityFigures:
    """Figures of p float[m] for labels bool[m], of the users int[m]."""
    low, high = bootstrap_interval(row_losses(labels, p)[:, None], run, ROUNDS, groups=users)
    return ProbabilityFigures(
        log_loss(labels, p),
        float(low[0]),
        float(high[0]),
        auc(labels, p),
        gauc(labels, p, users),
        expected_calibration_error(labels, p, BINS),
    )


def reliability(labels: np.ndarray, p: np.ndarray, bins: int = BINS) -> list[dict[str, float]]:
    """A reliability diagram: of bins of equally many rows, in order of p, mean probability, share of positives, rows.

    The share has a 95 % Wilson interval (Wilson, 1927): `low` and `high`.
    """
    order = np.argsort(p, kind="stable")
    diagram = []
    for rows in np.array_split(order, min(bins, len(order))):
        n, k, z2 = len(rows), float(np.asarray(labels)[rows].sum()), 1.959964**2
        middle, half = (k + z2 / 2) / (n + z2), np.sqrt(z2) / (n + z2) * np.sqrt(k * (n - k) / n + z2 / 4)
        diagram.append({
            "predicted": float(np.asarray(p, np.float64)[rows].mean()), "observed": k / n,
            "low": float(middle - half), "high": float(middle + half), "rows": n,
        })  # fmt: skip
    return diagram


def figures_table(figures: Mapping[str, ProbabilityFigures]) -> tuple[list[str], list[list[Any]]]:
    """Heads and rows of a table, a row for each model."""
    heads = ["model", "log-loss", "95 % low", "high", "AUC", "GAUC", "ECE"]
    rows = [[name, one.log_loss, one.low, one.high, one.auc, one.gauc, one.ece] for name, one in figures.items()]
    return heads, rows
