"""Zhiyin: from an event log and a catalogue to trained, honestly evaluated recommendations.

>>> import zhiyin as zy
>>> zy.microseconds("1s")
1000000
"""

from __future__ import annotations

import importlib
from collections import ChainMap
from typing import TYPE_CHECKING, Any

from zhiyin.core.version import __version__
from zhiyin.models import MODELS

if TYPE_CHECKING:
    # The names below, for type checkers and editors.
    from zhiyin.core.durations import microseconds as microseconds
    from zhiyin.core.errors import ConfigError as ConfigError
    from zhiyin.core.errors import DataError as DataError
    from zhiyin.core.errors import ZhiyinError as ZhiyinError
    from zhiyin.core.run import Run as Run
    from zhiyin.data.checks import examine as examine
    from zhiyin.data.dataset import Dataset as Dataset
    from zhiyin.data.histories import Histories as Histories
    from zhiyin.data.reading import read as read
    from zhiyin.data.shard_files import write_shards as write_shards
    from zhiyin.data.splits import folds as folds
    from zhiyin.data.splits import split as split
    from zhiyin.evaluation.protocol import evaluate as evaluate
    from zhiyin.evaluation.training_curves import plot_training as plot_training
    from zhiyin.evaluation.tuning import tune as tune
    from zhiyin.features.feature_table import Features as Features
    from zhiyin.models.als import ALS as ALS
    from zhiyin.models.bpr import BPR as BPR
    from zhiyin.models.content import Content as Content
    from zhiyin.models.content import PopularInCategory as PopularInCategory
    from zhiyin.models.hybrid import Hybrid as Hybrid
    from zhiyin.models.lightgcn import LightGCN as LightGCN
    from zhiyin.models.linear import EASE as EASE
    from zhiyin.models.loading import load as load
    from zhiyin.models.multvae import MultVAE as MultVAE
    from zhiyin.models.neighbors import ItemKNN as ItemKNN
    from zhiyin.models.neighbors import UserKNN as UserKNN
    from zhiyin.models.neumf import NeuMF as NeuMF
    from zhiyin.models.neural.callbacks import MLflow as MLflow
    from zhiyin.models.neural.callbacks import TensorBoard as TensorBoard
    from zhiyin.models.popularity import Popular as Popular
    from zhiyin.models.random import Random as Random
    from zhiyin.models.random_walk import RP3beta as RP3beta
    from zhiyin.models.ratings.bayesian_fm import BayesianFM as BayesianFM
    from zhiyin.models.ratings.biased_mf import BiasedMF as BiasedMF
    from zhiyin.models.ratings.rating_baselines import GlobalMean as GlobalMean
    from zhiyin.models.ratings.rating_baselines import UserItemBias as UserItemBias
    from zhiyin.models.ratings.rating_blend import RatingBlend as RatingBlend
    from zhiyin.models.ratings.svdpp import SVDpp as SVDpp
    from zhiyin.models.ratings.timesvdpp import TimeSVDpp as TimeSVDpp
    from zhiyin.models.recommender import Recommender as Recommender
    from zhiyin.models.segment_popular import SegmentPopular as SegmentPopular
    from zhiyin.models.sequence.caser import Caser as Caser
    from zhiyin.models.sequence.gru4rec import GRU4Rec as GRU4Rec
    from zhiyin.models.sequence.hstu import HSTU as HSTU
    from zhiyin.models.sequence.narm import NARM as NARM
    from zhiyin.models.sequence.onnx_export import export_onnx as export_onnx
    from zhiyin.models.sequence.sasrec import SASRec as SASRec
    from zhiyin.models.shards import read_shards as read_shards
    from zhiyin.models.slim import SLIM as SLIM
    from zhiyin.models.social import Friends as Friends
    from zhiyin.models.spectral import GraphFilter as GraphFilter
    from zhiyin.models.svd import PureSVD as PureSVD
    from zhiyin.models.transitions import Transitions as Transitions
    from zhiyin.models.two_tower import TwoTower as TwoTower
    from zhiyin.models.ultragcn import UltraGCN as UltraGCN
    from zhiyin.pipeline.answers import Answers as Answers
    from zhiyin.pipeline.answers import Request as Request
    from zhiyin.pipeline.pipeline import Pipeline as Pipeline
    from zhiyin.pipeline.rules import Rules as Rules
    from zhiyin.policies.simulators.film_shop import FilmShop as FilmShop
    from zhiyin.service.whatif import whatif as whatif

# The module of each public name that is no model; those of models are in `zhiyin.models.MODELS`. A name is imported
# when it is first used: `import zhiyin` loads nothing heavy.
_MODULES = {
    "Run": "core.run",
    "microseconds": "core.durations",
    "ZhiyinError": "core.errors",
    "DataError": "core.errors",
    "ConfigError": "core.errors",
    "read": "data.reading",
    "read_shards": "models.shards",
    "write_shards": "data.shard_files",
    "Dataset": "data.dataset",
    "Histories": "data.histories",
    "split": "data.splits",
    "folds": "data.splits",
    "examine": "data.checks",
    "Features": "features.feature_table",
    "Recommender": "models.recommender",
    "load": "models.loading",
    "export_onnx": "models.sequence.onnx_export",
    "TensorBoard": "models.neural.callbacks",
    "MLflow": "models.neural.callbacks",
    "Answers": "pipeline.answers",
    "Request": "pipeline.answers",
    "Rules": "pipeline.rules",
    "evaluate": "evaluation.protocol",
    "tune": "evaluation.tuning",
    "plot_training": "evaluation.training_curves",
    "FilmShop": "policies.simulators.film_shop",
    "whatif": "service.whatif",
}
_PUBLIC = ChainMap(_MODULES, MODELS)
__all__ = ["__version__", *_MODULES, *MODELS]

if not TYPE_CHECKING:  # to a type checker, a module with `__getattr__` has every name

    def __getattr__(name: str) -> Any:
        if name not in _PUBLIC:
            raise AttributeError(f"module 'zhiyin' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"zhiyin.{_PUBLIC[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
