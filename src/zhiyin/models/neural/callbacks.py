"""Training curves in TensorBoard and MLflow: `Run(callbacks=(TensorBoard("runs"),))`."""

from __future__ import annotations

import os
from numbers import Real
from typing import Any

from zhiyin.core.errors import MissingExtraError


class TensorBoard:
    """Writes what training reports into event files: a curve a number, such as "SASRec/loss", over the epochs.

    Raises MissingExtraError without TensorBoard.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            import torch  # noqa: F401
        except ImportError:
            raise MissingExtraError("torch", "deep", "the TensorBoard callback") from None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtraError("tensorboard", "tracking", "the TensorBoard callback") from None
        self.writer = SummaryWriter(os.fspath(folder))

    def __call__(self, news: dict[str, Any]) -> None:
        """Write one report; it can be seen at once."""
        for name, value in _curves(news).items():
            self.writer.add_scalar(name, value, news["epoch"])
        self.writer.flush()


class MLflow:
    """Logs what training reports as metrics, a step an epoch, into the active MLflow run, or into one it starts.

    Raises MissingExtraError without MLflow.

    Parameters
    ----------
    experiment: name of the experiment; None keeps the one that is set.
    """

    def __init__(self, experiment: str | None = None) -> None:
        try:
            import mlflow
        except ImportError:
            raise MissingExtraError("mlflow", "tracking", "the MLflow callback") from None
        self.mlflow = mlflow
        if experiment is not None:
            mlflow.set_experiment(experiment)

    def __call__(self, news: dict[str, Any]) -> None:
        """Log one report."""
        if self.mlflow.active_run() is None:
            self.mlflow.start_run(run_name=news["model"])
        self.mlflow.log_metrics(_curves(news), step=news["epoch"])


def _curves(news: dict[str, Any]) -> dict[str, float]:
    """The numbers of a report that make a curve over the epochs, under the model's name; none without an epoch."""
    if "epoch" not in news:
        return {}
    numbers = {
        name: value
        for name, value in news.items()
        if isinstance(value, Real) and name not in ("epoch", "of", "best_epoch")
    }
    return {f"{news.get('model', 'model')}/{name}": float(value) for name, value in numbers.items()}
