"""Saved models on the workers: each process loads one once."""

from __future__ import annotations

import functools
from pathlib import Path

from zhiyin.models.loading import load
from zhiyin.models.recommender import Recommender


@functools.lru_cache(maxsize=2)
def loaded_model(folder: str) -> Recommender:
    """The model of a folder of the engine, mapped into memory; such a folder is written once."""
    return load(Path(folder))
