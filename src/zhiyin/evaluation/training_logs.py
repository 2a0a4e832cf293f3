"""Where training logs are found: in fitted models and rankers, and in the folders they were saved to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from zhiyin.core.errors import DataError
from zhiyin.core.registry import label
from zhiyin.models.recommender import Recommender
from zhiyin.models.state_files import TRAINING_LOG_FILE
from zhiyin.ranking.ranker import Ranker

Rows = list[dict[str, Any]]
# Folders below the one named that are looked into, and manifests read of them at most.
MAX_DEPTH, MAX_MANIFESTS = 4, 200


def training_logs(what: Any) -> dict[str, Rows]:
    """The logs of trainings by name; those without a row are left out.

    Parameters
    ----------
    what: a fitted model or ranker, a list or a mapping of them by name, or a folder: of a saved model, of several, or
        of a version. A pipeline has the logs of its sources and of its ranker.

    Raises DataError for a folder that holds no model.
    """
    if isinstance(what, str | os.PathLike):
        found = _of_folder(Path(what))
    elif isinstance(what, Recommender | Ranker):
        found = _of_model(label(what), what)
    elif isinstance(what, Mapping):
        found = _joined(_of_model(str(name), model) for name, model in what.items())
    else:
        found = _joined(training_logs(one) for one in what)
    return {name: rows for name, rows in found.items() if rows}


def _joined(parts: Iterable[dict[str, Rows]]) -> dict[str, Rows]:
    """Logs of several; of one name each gets a number."""
    whole: dict[str, Rows] = {}
    for part in parts:
        for name, rows in part.items():
            free, number = name, 2
            while free in whole:
                free, number = f"{name} #{number}", number + 1
            whole[free] = rows
    return whole


def _of_model(name: str, model: Any) -> dict[str, Rows]:
    parts: dict[str, Rows] = {name: list(model.training_log_)}
    for source, inner in getattr(model, "sources_", {}).items():
        parts |= _of_model(source, inner)
    ranker = getattr(model, "ranker_", None)
    return parts if ranker is None else parts | _of_model(f"ranker {label(ranker)}", ranker)


def _of_folder(folder: Path) -> dict[str, Rows]:
    """The logs beside the manifests below a folder, read without loading a model."""
    manifests = [
        file
        for depth in range(MAX_DEPTH + 1)
        for kind in ("model.json", "ranker.json")
        for file in sorted(folder.glob("/".join(["*"] * depth + [kind])))
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ][:MAX_MANIFESTS]
    if not manifests:
        raise DataError("there is no model here", file=folder, remedy="name a folder written by save or train")
    return _joined(_of_manifest(file) for file in manifests)


def _of_manifest(file: Path) -> dict[str, Rows]:
    try:
        manifest = json.loads(file.read_text("utf-8"))
        log = file.with_name(TRAINING_LOG_FILE)
        rows = json.loads(log.read_text("utf-8")) if log.is_file() else []
        name = manifest.get("model") or f"ranker {manifest['ranker']}"
        return {str(name): [row for row in rows if isinstance(row, dict) and "epoch" in row]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"the manifest cannot be read ({error})", file=file, remedy="train and save again") from None
