"""Zhiyin: from an event log and a catalogue to trained, honestly evaluated recommendations.

>>> import zhiyin as zy
>>> zy.microseconds("1s")
1000000
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Names resolve when they are first used: `import zhiyin` loads nothing heavy.
_WHERE = {
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
    "load": "models.serialization",
    "Random": "models.random",
    "Popular": "models.popularity",
    "ItemKNN": "models.neighbors",
    "UserKNN": "models.neighbors",
    "RP3beta": "models.random_walk",
    "Transitions": "models.transitions",
    "EASE": "models.linear",
    "SLIM": "models.slim",
    "GraphFilter": "models.spectral",
    "ALS": "models.factorization",
    "BPR": "models.bpr",
    "BiasedMF": "models.ratings.biased_mf",
    "SVDpp": "models.ratings.svdpp",
    "TimeSVDpp": "models.ratings.timesvdpp",
    "BayesianFM": "models.ratings.bayesian_fm",
    "PureSVD": "models.svd",
    "Content": "models.content",
    "PopularInCategory": "models.content",
    "Hybrid": "models.hybrid",
    "Friends": "models.social",
    "SASRec": "models.sequence.sasrec",
    "HSTU": "models.sequence.hstu",
    "GRU4Rec": "models.sequence.gru4rec",
    "NARM": "models.sequence.narm",
    "Caser": "models.sequence.caser",
    "NeuMF": "models.neumf",
    "MultVAE": "models.autoencoder",
    "LightGCN": "models.graph",
    "UltraGCN": "models.ultragcn",
    "TwoTower": "models.two_tower",
    "export_onnx": "models.sequence.onnx_export",
    "TensorBoard": "models.sequence.callbacks",
    "MLflow": "models.sequence.callbacks",
    "Pipeline": "pipeline.pipeline",
    "Answers": "pipeline.answers",
    "Request": "pipeline.answers",
    "Rules": "pipeline.rules",
    "evaluate": "evaluation.protocol",
    "tune": "evaluation.tuning",
    "FilmShop": "policies.simulator",
}
__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'zhiyin' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"zhiyin.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
