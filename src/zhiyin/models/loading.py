"""Models from disk: the folders that `zhiyin.models.saving` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
from safetensors import SafetensorError

from zhiyin.core.errors import DataError
from zhiyin.models.recommender import Recommender
from zhiyin.models.registry import make
from zhiyin.models.saving import FORMAT
from zhiyin.models.state_files import read_learned, read_manifest
from zhiyin.models.training_context import TrainingContext


def load(path: Any, *, mmap: bool = True, parent: TrainingContext | None = None) -> Recommender:
    """Read a model that `Recommender.save` wrote.

    Parameters
    ----------
    mmap: map arrays into memory instead of reading them.
    parent: training context of the model that this one was written as a part of, used where the folder has none.

    Raises DataError when the folder is no model, is damaged or of another format.
    """
    source = Path(path)
    manifest = read_manifest(source, "model", FORMAT)
    try:
        model = make(manifest["model"], manifest["settings"])
        read_learned(model, source, manifest["state"], mmap)
        if parent is None or (source / "items.arrow").exists():
            parent = TrainingContext.read(source, manifest, mmap)
        model.context_ = parent  # type: ignore[misc]
        model._read_parts(source, mmap)
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        SafetensorError,
        pl.exceptions.PolarsError,
    ) as error:
        raise DataError(
            f"a part of the model is missing or damaged ({error})", file=source, remedy="train and save it again"
        ) from None
    return model
