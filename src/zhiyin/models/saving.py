"""Models to disk: a folder of NumPy arrays, Arrow frames, tensors (safetensors) and one JSON manifest.

A save is whole or not at all: it is written to a draft folder, which is then renamed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Protocol

from zhiyin.core.atomic_folders import whole_folder
from zhiyin.core.errors import DataError
from zhiyin.core.params import settings_of
from zhiyin.models.finite_check import check_finite
from zhiyin.models.state_files import write_learned
from zhiyin.models.training_context import TrainingContext

FORMAT = 1


class SavableModel(Protocol):
    """What saving needs of a model: see `Recommender`."""

    _parts: ClassVar[tuple[str, ...]]

    def _context(self) -> TrainingContext: ...

    def _write_parts(self, folder: Path) -> None: ...


def save(model: SavableModel, path: Any) -> None:
    """Write a fitted model to the folder `path`; see `Recommender.save`."""
    model._context()
    check_finite(model)
    target = Path(path)
    if target.exists() and not (target / "model.json").exists() and any(target.iterdir()):
        raise DataError("the folder holds something that is no model", file=target, remedy="save to another folder")
    with whole_folder(target) as draft:
        write(model, draft)


def write(model: SavableModel, folder: Path, parent: TrainingContext | None = None) -> None:
    """Write a fitted model into an existing folder.

    Parameters
    ----------
    parent: training context of the model that this one is a part of. Where both are of the same data, it is not written
        again.
    """
    from zhiyin.core.version import __version__

    context = model._context()
    state = write_learned(model, folder)
    if parent is None or parent.fingerprint != context.fingerprint:
        context.write(folder)
    model._write_parts(folder)
    manifest = {
        "format": FORMAT,
        "zhiyin": __version__,
        "model": type(model).__name__,
        "settings": settings_of(model),
        "state": state,
        **context.manifest(),
    }
    (folder / "model.json").write_text(json.dumps(manifest, indent=1) + "\n")
