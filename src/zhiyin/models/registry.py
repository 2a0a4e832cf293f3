"""Models by name: the registry of the classes of `zhiyin.models.MODELS` and of those the caller registers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zhiyin.core.registry import Registry
from zhiyin.models import MODELS

if TYPE_CHECKING:
    from zhiyin.models.recommender import Recommender

MODEL_REGISTRY: Registry[Recommender] = Registry("model", MODELS, example="als:factors=128")

register, names, model_class = MODEL_REGISTRY.register, MODEL_REGISTRY.names, MODEL_REGISTRY.class_of
make, parse, hyperparameters = MODEL_REGISTRY.make, MODEL_REGISTRY.parse, MODEL_REGISTRY.hyperparameters
