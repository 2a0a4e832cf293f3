"""Rankers by name: the registry of the classes of `zhiyin.ranking.RANKERS` and of those the caller registers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zhiyin.core.registry import Registry
from zhiyin.ranking import RANKERS

if TYPE_CHECKING:
    from zhiyin.ranking.ranker import Ranker

RANKER_REGISTRY: Registry[Ranker] = Registry("ranker", RANKERS, example="trees:leaves=63")

register, names, ranker_class = RANKER_REGISTRY.register, RANKER_REGISTRY.names, RANKER_REGISTRY.class_of
make, parse, hyperparameters = RANKER_REGISTRY.make, RANKER_REGISTRY.parse, RANKER_REGISTRY.hyperparameters
