"""Rankers from disk: the folders that `Ranker.save` writes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.models.state_files import read_learned, read_manifest
from zhiyin.ranking.calibration import CALIBRATORS
from zhiyin.ranking.ranker import FORMAT, Ranker, Schema
from zhiyin.ranking.registry import make


def load(path: Any, *, mmap: bool = True) -> Ranker:
    """Read a ranker that `save` wrote. Raises DataError when the folder is none, damaged or of a newer format."""
    source = Path(path)
    manifest = read_manifest(source, "ranker", FORMAT)
    try:
        ranker = make(manifest["ranker"], manifest["settings"])
        read_learned(ranker, source, manifest["state"], mmap)
        ranker.calibrators_ = [  # type: ignore[misc]
            CALIBRATORS[kind](
                **{
                    field.name: np.load(source / f"calibrator-{number}.{field.name}.npy", allow_pickle=False)
                    for field in dataclasses.fields(CALIBRATORS[kind])
                }
            )
            for number, kind in enumerate(manifest["calibrators"])
        ]
        ranker._read_parts(source)
        ranker.schema_ = Schema.read(manifest["schema"])  # type: ignore[misc]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"the ranker is damaged ({error})", file=source, remedy="train and save again") from None
    return ranker
