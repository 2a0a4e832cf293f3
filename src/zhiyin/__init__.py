"""Zhiyin: from an event log and a catalogue to trained, honestly evaluated recommendations.

>>> import zhiyin as zy
>>> zy.microseconds("1s")
1000000
"""

from __future__ import annotations

import importlib
from collections import ChainMap
from typing import Any

from zhiyin.models import MODELS

__version__ = "0.1.0"

# The module of each public name that is no model; models stand in `zhiyin.models.MODELS`. Names resolve when they are
# first used: `import zhiyin` loads nothing heavy.
_MODULES = {
    "Run": "core.run",
    "microseconds": "core.durations",
    "ZhiyinError": "core.errors",
    "DataError": "core.errors",
    "ConfigError": "core.errors",
    "read": "data.reading",
    "Dataset": "data.dataset",
    "Histories": "data.histories",
    "split": "data.splits",
    "folds": "data.splits",
    "examine": "data.doctor",
    "Features": "features.feature_table",
    "Recommender": "models.recommender",
    "load": "models.loading",
    "export_onnx": "models.sequence.onnx_export",
    "TensorBoard": "models.sequence.callbacks",
    "MLflow": "models.sequence.callbacks",
    "Answers": "pipeline.answers",
    "Request": "pipeline.answers",
    "Rules": "pipeline.rules",
    "evaluate": "evaluation.protocol",
    "tune": "evaluation.tuning",
    "FilmShop": "policies.simulator",
}
_PUBLIC = ChainMap(_MODULES, MODELS)
__all__ = ["__version__", *_MODULES, *MODELS]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'zhiyin' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"zhiyin.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
