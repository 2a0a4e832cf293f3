"""`zhiyin train --callbacks tensorboard,mlflow`: where training curves go besides the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from zhiyin.core.errors import ConfigError, suggest
from zhiyin.data.project_config.training_sections import CALLBACKS

# Folder of TensorBoard's files, in the project, and name of MLflow's experiment, where none is named.
TENSORBOARD_FOLDER, MLFLOW_EXPERIMENT = "runs", "zhiyin"


def training_callbacks(texts: Sequence[str], home: Path) -> tuple[Callable[[dict[str, Any]], None], ...]:
    """Callbacks by their names: "tensorboard", "tensorboard=FOLDER", "mlflow", "mlflow=EXPERIMENT".

    Raises ConfigError for another name, MissingExtraError where the package is not installed.

    Parameters
    ----------
    home: folder of the project, which a relative folder is in. Each training gets a folder of its own there.
    """
    made: list[Callable[[dict[str, Any]], None]] = []
    for text in texts:
        name, _, option = (part.strip() for part in text.partition("="))
        if name not in CALLBACKS:
            raise ConfigError(f"there is no callback {name!r}", remedy=suggest(name, list(CALLBACKS)))
        from zhiyin.models.neural.callbacks import MLflow, TensorBoard

        if name == "tensorboard":
            folder = home / (option or TENSORBOARD_FOLDER)
            made.append(TensorBoard(folder / datetime.now().strftime("%Y%m%d-%H%M%S")))
        else:
            made.append(MLflow(option or MLFLOW_EXPERIMENT))
    return tuple(made)
